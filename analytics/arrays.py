"""What the numeric modules demand of their arguments, and the names of the array types.

Every check raises ValueError with one sentence that names the field; no sentence holds
a value from a row.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Places = NDArray[np.intp]  # indices
Labels = NDArray[Any]  # float64 for lr and linear, else an integer class index


def check_finite(field: str, values: NDArray[Any]) -> None:
    """Raise ValueError unless every value is a finite number."""
    if not np.isfinite(values).all():
        raise ValueError(f"{field} holds a value that is not a finite number.")


def check_name(field: str, name: str | None, allowed: Collection[str | None]) -> None:
    """Raise ValueError unless `name` is one of `allowed`."""
    if name not in allowed:
        names = ", ".join(str(one) for one in allowed)
        raise ValueError(f"{field} is {name!r}; allowed are {names}.")


def check_same_rows(field: str, values: NDArray[Any], n_rows: int) -> None:
    """Raise ValueError unless `values` is one-dimensional, one value for each of at
    least one row.
    """
    if n_rows < 1:
        raise ValueError(f"{field}: there are no rows.")
    if values.shape != (n_rows,):
        raise ValueError(
            f"{field} has the shape {values.shape}; one value for each of {n_rows} rows is expected."
        )


def check_class_index(y: Labels, n_classes: int) -> None:
    """Raise ValueError unless y holds integers from 0 to n_classes - 1."""
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError("y of a model of classes holds integer class indices.")
    if y.min() < 0 or y.max() >= n_classes:
        raise ValueError(f"y holds a class index outside 0 to {n_classes - 1}.")


def check_at_least(field: str, value: float, least: float) -> None:
    """Raise ValueError unless `value` is a finite number, `least` or more."""
    # NaN is not below anything, so that it has to be asked for.
    is_allowed = np.isfinite(value) and value >= least
    if not is_allowed:
        raise ValueError(f"{field} is {value}; {least} or more is allowed.")


def check_result(field: str, *values: NDArray[Any] | np.floating[Any]) -> None:
    """Raise ValueError if a result left the range of float64: training has diverged."""
    for result in values:
        if not np.isfinite(result).all():
            raise ValueError(
                f"{field} left the range of numbers: standardise the columns or lower learning_rate."
            )
