"""The only module that sees rows: from the database's answer to the arrays of a model, and the gate before them.

Every message counts rows and names columns; none holds a value. Where `min_rows` is given (another hospital's
order), too few rows are refused before anything else is looked at, and no count below `min_rows` is told: "one row
has a NULL" would tell about one patient.

Decision 18.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from agents.site.vault import add_digest, read_checked
from protocol.errors import BadRequest, Conflict, NotFound, Refused
from protocol.machine.disk import make_private_folder, write_once

_LARGEST_WHOLE = 2**53  # up to here every whole number is a float64
_DOUBLE_DIGITS = 15  # so many digits of any decimal come back from its float64
_INTEGER = re.compile(r"-?\d+", re.ASCII)
_NUMBERS = (Decimal, Real, np.bool_)  # Decimal first: whether a thing is Real takes long to find out


@dataclass(frozen=True, eq=False)
class Cohort:
    """The rows of one hospital in one order, sorted by unique id.

    unique_ids: canonical text, n_rows of them, all different; X: float64 (n_rows, n_features), finite, columns in
    the order of `attributes`; y: float64 for lr and linear, objects (int or str) for softmax, None without label;
    labels: the classes present, sorted, for softmax and lr; rounded: features, and a label of numbers, of which a value
    is another number as float64.

    Disclosure: patients' rows. It stays in the hospital's memory and vault; what is computed from it leaves through
    agents.order.release only.
    """

    unique_ids: list[str]
    attributes: tuple[str, ...]
    X: NDArray[np.float64]
    y: NDArray[Any] | None
    labels: list[Any] = field(default_factory=list)
    rounded: tuple[str, ...] = ()

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.unique_ids)

    def __repr__(self) -> str:
        return f"Cohort(n_rows={self.n_rows}, n_features={self.X.shape[1]})"


# --- from a frame to a cohort --------------------------------------------------------------------------------------


def build_cohort(
    frame: pd.DataFrame,
    *,
    unique_id: str,
    attributes: Sequence[str],
    label_name: str | None,
    model_type: str,
    min_rows: int = 0,
) -> Cohort:
    """The cohort in a frame that `Source.read` gave.

    Features are integers, floats, decimals and booleans; ids are integers, text, decimals, dates or UUIDs; labels
    are 0 and 1 for lr, finite numbers for linear, integers or texts for softmax. `label_name` None (test rows,
    inference) gives y None. `min_rows` > 0 is for another hospital's order: fewer rows are refused first.

    Raises Refused (code min_rows) for too few rows, and BadRequest with code no_rows, attributes, missing_column,
    duplicate_column, null, not_numeric, not_finite, unique_id, duplicate_unique_id, label or model_type.

    Disclosure: takes rows; errors hold names of columns and counts of rows, with `min_rows` no count below it.
    """
    check_enough_rows(len(frame), min_rows)
    _check_columns(frame, unique_id=unique_id, attributes=attributes, label_name=label_name)
    told = _Counts(min_rows)
    ids = _canonical_ids(frame[unique_id], told)
    order = _id_order(ids)
    columns = [_feature(frame[name], told) for name in attributes]
    numbers = dict(zip(attributes, columns, strict=True))
    y, labels = _label(frame, label_name, model_type, told)
    if label_name is not None and y is not None and y.dtype == np.float64:
        numbers[label_name] = y
    return Cohort(
        unique_ids=[ids[i] for i in order],
        attributes=tuple(attributes),
        X=np.ascontiguousarray(np.column_stack(columns)[order]),
        y=None if y is None else y[order],
        labels=labels,
        rounded=tuple(name for name, values in numbers.items() if _is_rounded(frame[name], values)),
    )


@dataclass(frozen=True)
class _Counts:
    """Tells how many rows are meant, but no small number of another hospital's patients."""

    min_rows: int

    def rows(self, n: int) -> str:
        if n < self.min_rows:
            return f"Fewer than {self.min_rows} rows"
        return "1 row" if n == 1 else f"{n} rows"


def _bad(code: str, sentence: str, remedy: str) -> BadRequest:
    return BadRequest(sentence, remedy=remedy, code=code)


def check_enough_rows(n_rows: int, min_rows: int) -> None:
    if n_rows < min_rows:
        raise Refused(
            f"The data SQL gives fewer rows than this hospital's minimum of {min_rows}.",
            remedy="Widen the SQL, or ask the hospital to lower min_rows in its policy.toml.",
            code="min_rows",
        )
    if n_rows == 0:
        raise _bad("no_rows", "The data SQL gives no rows.", "Widen its WHERE, or fill the table.")


def _check_columns(
    frame: pd.DataFrame, *, unique_id: str, attributes: Sequence[str], label_name: str | None
) -> None:
    """Every needed column is there once, and none has two roles."""
    needed = [unique_id, *attributes, *([label_name] if label_name is not None else [])]
    if not attributes or len(set(needed)) < len(needed):
        raise _bad(
            "attributes",
            "attributes is empty, names a column twice, or holds the unique id or the label.",
            "List each feature once, without unique_id and label_name.",
        )
    present = [str(name) for name in frame.columns]
    if missing := [name for name in needed if name not in present]:
        raise _bad(
            "missing_column",
            f"The data SQL gives no column {', '.join(missing)}; it gives {', '.join(present)}.",
            "Select it in the data SQL, or correct attributes, unique_id or label_name (case matters).",
        )
    if doubled := sorted({name for name in needed if present.count(name) > 1}):
        raise _bad(
            "duplicate_column",
            f"The data SQL gives {', '.join(doubled)} more than once.",
            "Select each column once, or rename one by AS.",
        )


def _check_no_null(series: pd.Series[Any], told: _Counts) -> None:
    if n_null := int(series.isna().sum()):
        raise _bad(
            "null",
            f"{told.rows(n_null)} without a value (NULL) in {series.name}.",
            "Leave these rows out by WHERE ... IS NOT NULL, or fill them in a view.",
        )


def _feature(series: pd.Series[Any], told: _Counts) -> NDArray[np.float64]:
    """One column as finite float64."""
    _check_no_null(series, told)
    values = _numbers(series, told, code="not_numeric")
    if n_bad := int(np.count_nonzero(~np.isfinite(values))):
        raise _bad(
            "not_finite",
            f"{told.rows(n_bad)} with an infinite number in {series.name}.",
            "Leave these rows out, or replace the value in a view.",
        )
    return values


def _numbers(series: pd.Series[Any], told: _Counts, *, code: str) -> NDArray[np.float64]:
    """A column without NULL as float64; text and dates are refused, even if they look like numbers."""
    if pd.api.types.is_numeric_dtype(series.dtype) and not pd.api.types.is_complex_dtype(series.dtype):
        return series.to_numpy(dtype=np.float64)
    is_number = np.array([isinstance(value, _NUMBERS) for value in series], dtype=bool)
    if not is_number.all():
        raise _bad(
            code,
            f"{told.rows(int(np.count_nonzero(~is_number)))} with something other than a number in {series.name}.",
            "Use columns of numbers, or turn the text into numbers in a view.",
        )
    return np.array([_float(value) for value in series], dtype=np.float64)


def _float(value: Any) -> float:
    try:
        return float(value)
    except (OverflowError, ValueError):  # an integer beyond float64, a signalling NaN: not finite
        return math.inf


def _is_rounded(series: pd.Series[Any], values: NDArray[np.float64]) -> bool:
    """Whether a value is another number as float64. Looking for long ones first saves most of the time."""
    if pd.api.types.is_float_dtype(series.dtype) or pd.api.types.is_bool_dtype(series.dtype):
        return False
    if pd.api.types.is_integer_dtype(series.dtype):
        rows = np.flatnonzero(np.abs(values) >= _LARGEST_WHOLE).tolist()
    else:
        rows = [row for row, value in enumerate(series) if len(str(value)) > _DOUBLE_DIGITS]
    exact = series.iloc[
        rows
    ].tolist()  # Python's numbers: numpy compares a whole number with a float as floats
    return any(
        _loses_digits(value, double) for value, double in zip(exact, values[rows].tolist(), strict=True)
    )


def _loses_digits(value: Any, double: float) -> bool:
    """0.1 of a decimal loses none: 0.1 is how its double is written. A whole number must be the double itself."""
    if isinstance(value, float) or value == double:
        return False
    return _whole(value) is not None or Decimal(repr(double)) != value


def _whole(value: Any) -> int | None:
    """A number as a whole one with every digit, never by way of a float; None for what is none."""
    if not isinstance(value, _NUMBERS):
        return None
    number: Any = value
    try:
        whole = int(number)
    except (ValueError, OverflowError):  # NaN, infinite
        return None
    return whole if whole == number else None


# --- unique ids ----------------------------------------------------------------------------------------------------


def _canonical_ids(series: pd.Series[Any], told: _Counts) -> list[str]:
    _check_no_null(series, told)
    ids = [_canonical_id(value) for value in series]
    if n_bad := sum(1 for text in ids if not text):
        raise _bad(
            "unique_id",
            f"{told.rows(n_bad)} with an empty or unusable {series.name}.",
            "Use a column of integers, texts, dates or UUIDs as unique_id.",
        )
    if n_doubled := len(ids) - len(set(ids)):
        raise _bad(
            "duplicate_unique_id",
            f"{told.rows(n_doubled)} with a {series.name} that another row has too.",
            "Give one row per unique id: make it unique in the table, or use another column.",
        )
    return ids


def _canonical_id(value: Any) -> str:
    """One text per id, whatever type the database gives it: 7, 7.0 and Decimal('7.00') are "7"."""
    if isinstance(value, str | UUID):
        return str(value)
    if isinstance(value, bool | np.bool_):
        return ""
    whole = _whole(value)
    if whole is not None:
        return str(whole)
    return value.isoformat() if isinstance(value, date) else ""


def _id_order(ids: list[str]) -> list[int]:
    """Positions in order of id: as numbers when all are whole numbers, else as text."""
    if all(_INTEGER.fullmatch(text) for text in ids):
        return sorted(range(len(ids)), key=lambda i: (int(ids[i]), ids[i]))
    return sorted(range(len(ids)), key=ids.__getitem__)


# --- labels --------------------------------------------------------------------------------------------------------


def _label(
    frame: pd.DataFrame, label_name: str | None, model_type: str, told: _Counts
) -> tuple[NDArray[Any] | None, list[Any]]:
    if model_type not in _LABEL_READERS:
        raise _bad("model_type", f"No model type {model_type}.", f"Use one of {', '.join(_LABEL_READERS)}.")
    if label_name is None:
        return None, []
    _check_no_null(frame[label_name], told)
    return _LABEL_READERS[model_type](frame[label_name], told)


def _binary_label(series: pd.Series[Any], told: _Counts) -> tuple[NDArray[Any], list[Any]]:
    y = _numbers(series, told, code="label")
    if n_bad := int(np.count_nonzero((y != 0) & (y != 1))):
        raise _bad(
            "label",
            f"{told.rows(n_bad)} with a label other than 0 and 1 in {series.name}.",
            "Map the label to 0 and 1 in a view, or order model_type softmax.",
        )
    return y, [int(value) for value in np.unique(y)]


def _real_label(series: pd.Series[Any], told: _Counts) -> tuple[NDArray[Any], list[Any]]:
    y = _numbers(series, told, code="label")
    if n_bad := int(np.count_nonzero(~np.isfinite(y))):
        raise _bad(
            "label", f"{told.rows(n_bad)} with an infinite label in {series.name}.", "Leave these rows out."
        )
    return y, []


def _class_label(series: pd.Series[Any], told: _Counts) -> tuple[NDArray[Any], list[Any]]:
    """Classes as int if all are whole numbers, as str if all are text; a mixture is refused."""
    values = list(series)
    if all(isinstance(value, str) for value in values):
        classes: list[Any] = [str(value) for value in values]
    else:
        _numbers(series, told, code="label")
        classes = [_whole(value) for value in values]
        if n_bad := classes.count(None):
            raise _bad(
                "label",
                f"{told.rows(n_bad)} with a label in {series.name} that is no class (whole number or text).",
                "Use whole numbers or texts as classes, or order model_type linear.",
            )
    y = np.empty(len(classes), dtype=object)
    y[:] = classes
    return y, sorted(set(classes))


_LABEL_READERS: dict[str, Callable[[pd.Series[Any], _Counts], tuple[NDArray[Any], list[Any]]]] = {
    "lr": _binary_label,
    "linear": _real_label,
    "softmax": _class_label,
    "mlp": _class_label,
    "cnn": _class_label,
}


# --- the snapshot in the vault -------------------------------------------------------------------------------------

_SNAPSHOT_VERSION = 1


def encode_cohort(cohort: Cohort) -> bytes:
    """A cohort as bytes (npz without pickle); `decode_cohort` gives the same back, floats bit for bit.

    Disclosure: patients' rows in clear; the bytes belong into the hospital's vault only.
    """
    is_float = cohort.y is not None and cohort.y.dtype == np.float64
    head = {
        "version": _SNAPSHOT_VERSION,
        "unique_ids": cohort.unique_ids,
        "attributes": list(cohort.attributes),
        "labels": cohort.labels,
        "rounded": cohort.rounded,
        "classes": None if cohort.y is None or is_float else cohort.y.tolist(),
    }
    arrays: dict[str, NDArray[Any]] = {
        "head": np.frombuffer(json.dumps(head).encode(), dtype=np.uint8),
        "X": cohort.X,
    }
    if is_float and cohort.y is not None:
        arrays["y"] = cohort.y
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def decode_cohort(data: bytes) -> Cohort:
    """Inverse of `encode_cohort`. Raises Conflict (code snapshot) for bytes that are damaged or of another version."""
    try:
        return _decoded(data)
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile):
        raise Conflict(
            "The snapshot of the cohort in the vault is damaged or of another version.",
            remedy="Restore the vault from its backup, or cancel the order and order again.",
            code="snapshot",
        ) from None


def _decoded(data: bytes) -> Cohort:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        head = json.loads(arrays["head"].tobytes())
        X, y = arrays["X"], arrays.get("y")
    if head["version"] != _SNAPSHOT_VERSION or X.dtype != np.float64:
        raise ValueError("version or type")
    if head["classes"] is not None:
        y = np.empty(len(head["classes"]), dtype=object)
        y[:] = head["classes"]
    n_rows, n_features = X.shape
    if (
        len(head["unique_ids"]) != n_rows
        or len(head["attributes"]) != n_features
        or (y is not None and len(y) != n_rows)
    ):
        raise ValueError("shape")
    rounded = tuple(head.get("rounded", ()))  # not in a snapshot of an earlier version
    return Cohort(head["unique_ids"], tuple(head["attributes"]), X, y, head["labels"], rounded)


def save_cohort(path: Path, cohort: Cohort) -> None:
    """Write a cohort's snapshot with its digest: temporary file of mode 0600, fsync, rename, fsync of the folder.

    After a crash at any moment none or the whole one is there; one that is there stays. Disclosure: as `encode_cohort`.
    """
    make_private_folder(path.parent)
    write_once(path, add_digest(encode_cohort(cohort)))


def load_cohort(path: Path) -> Cohort:
    """The snapshot at `path`. Raises NotFound when there is none (code snapshot), Conflict when it is damaged (code
    vault_damaged) or of another version (code snapshot)."""
    try:
        return decode_cohort(read_checked(path))
    except FileNotFoundError:
        raise NotFound(
            "The vault holds no snapshot of this cohort.", remedy="Read the rows again.", code="snapshot"
        ) from None
