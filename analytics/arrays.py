"""What the numeric modules demand of their arguments, and the names of the array types.

Every check raises ValueError with one sentence that names the field; no sentence holds
a value from a row.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Places = NDArray[np.intp]  # indices
Labels = NDArray[Any]  # float64 for lr and linear, else an integer class index


CHUNK_ROWS = 65_536
"""So many rows are computed with at once. Sums over chunks are added in the order of the
rows, so that they have the same bits each time; a table of one chunk has one sum (decision 138).
"""


def row_chunks(n_rows: int) -> Iterator[slice]:
    """The rows of a table, in order, CHUNK_ROWS at a time."""
    for start in range(0, n_rows, CHUNK_ROWS):
        stop = min(start + CHUNK_ROWS, n_rows)
        yield slice(start, stop)


def table_chunks(table: NDArray[Any]) -> Iterator[tuple[slice, NDArray[Any]]]:
    """The same with the rows themselves; of a table on disk one chunk is in memory."""
    for chunk in row_chunks(len(table)):
        yield chunk, np.asarray(table[chunk])
        let_go(table)


def let_go(table: NDArray[Any]) -> None:
    """Takes what was read or written of a table on disk out of this process's memory.

    What was written is in the file. Of other arrays nothing happens.
    """
    mapped = getattr(table, "_mmap", None)
    if mapped is not None:
        # Only of tables that are shared with their file: of a private copy (mode c)
        # the kernel would drop what was written, too.
        mapped.madvise(mmap.MADV_DONTNEED)


def check_finite(field: str, values: NDArray[Any]) -> None:
    """Raise ValueError unless every value is a finite number."""
    if not is_finite(values):
        raise ValueError(f"{field} holds a value that is not a finite number.")


def is_finite(values: NDArray[Any]) -> bool:
    """Whether all values are finite numbers."""
    if not np.ndim(values):
        return bool(np.isfinite(values))
    return all(np.isfinite(rows).all() for _, rows in table_chunks(values))


def check_name(
    field: str,
    name: str | None,
    allowed: Collection[str | None],
) -> None:
    """Raise ValueError unless `name` is one of `allowed`."""
    if name not in allowed:
        allowed_names = ", ".join(str(allowed_name) for allowed_name in allowed)
        raise ValueError(f"{field} is {name!r}; allowed are {allowed_names}.")


def check_same_rows(
    field: str,
    values: NDArray[Any],
    n_rows: int,
) -> None:
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


def check_at_least(
    field: str,
    value: float,
    least: float,
) -> None:
    """Raise ValueError unless `value` is a finite number, `least` or more."""
    # NaN is not below anything, so that it has to be asked for.
    is_allowed = np.isfinite(value) and value >= least
    if not is_allowed:
        raise ValueError(f"{field} is {value}; {least} or more is allowed.")


def check_result(field: str, *values: NDArray[Any] | np.floating[Any]) -> None:
    """Raise ValueError if a result left the range of float64: training has diverged."""
    for result in values:
        if not is_finite(np.asarray(result)):
            raise ValueError(
                f"{field} left the range of numbers: standardise the columns or lower learning_rate."
            )
