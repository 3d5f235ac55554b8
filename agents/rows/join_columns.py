"""A provider's rows as joined statistics need them: keys to match by, and columns as exact integers of a known type."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.rows.column_text import DOUBLES, Number, label_sql, number_of
from agents.rows.dataset import Dataset
from analytics.statistics.rowwise import Column, Fixed
from protocol.errors import BadRequest
from protocol.statistics_request import DIGITS

_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)
_INTEGER_BITS = {"TINYINT": 8, "SMALLINT": 16, "INTEGER": 32, "BIGINT": 64, "HUGEINT": 128}
_DOUBLE = Fixed(128, 0, 192)
_WORD_BITS, _WORD_DIGITS = 63, 18


@dataclass(frozen=True, eq=False)
class JoinKeys:
    """keys: canonical texts, all different; places: intp, the rows of the data that they stand in.

    Disclosure: identities of patients; they leave as tags, or sealed to receivers of a row-level result.
    """

    keys: list[str]
    places: NDArray[np.intp]


def join_keys(dataset: Dataset, column: str, normalisation: str) -> JoinKeys:
    """The keys of a column by a declared normalisation; rows without one are left out.

    text: NFC, without blanks around, whole numbers as their digits; casefold: the same without regard to case;
    integer: whole numbers, without leading zeros or plus sign.

    Raises BadRequest with code missing_column, no_keys, not_integer, or repeated_keys, which says how many repeat.
    """
    frames = dataset.frames(f"SELECT {label_sql(dataset, column)} AS label FROM rows")  # noqa: S608
    texts = [text for frame in frames for text in frame["label"].tolist()]
    places = np.array([place for place, text in enumerate(texts) if isinstance(text, str)], dtype=np.intp)
    keys = [_normalised(text, normalisation) for text in texts if isinstance(text, str)]
    if not keys:
        raise BadRequest(
            f"No row has a key in {column}.",
            remedy="Name the column that identifies a person.",
            code="no_keys",
        )
    if n_bad := sum(1 for key in keys if not key):
        raise BadRequest(
            f"{_number_of(dataset, n_bad)} of {column} are no whole numbers.",
            remedy='Use key_normalisation "text", or correct them.',
            code="not_integer",
        )
    if len(set(keys)) < len(keys):
        n_repeated = sum(1 for n in Counter(keys).values() if n > 1)
        raise BadRequest(
            f"{_number_of(dataset, n_repeated)} of {column} stand in more than one row.",
            remedy="Give one row per key, or use another key_column.",
            code="repeated_keys",
        )
    return JoinKeys(keys, places)


def _normalised(text: str, normalisation: str) -> str:
    if normalisation == "integer":
        return str(int(text)) if _INTEGER.fullmatch(text) and len(text) < 1000 else ""
    return text.casefold() if normalisation == "casefold" else text


def _number_of(dataset: Dataset, n: int) -> str:
    """How many keys, without telling a small number of another hospital's patients."""
    if n < dataset.min_rows:
        return f"Fewer than {dataset.min_rows} keys"
    return f"{n} key{'' if n == 1 else 's'}"


def is_numeric(dataset: Dataset, column: str) -> bool:
    """Whether all of a column's values are numbers; a text of digits is one in a csv or json file."""
    try:
        number_of(dataset, column)
    except BadRequest:
        return False
    return True


def type_of(dataset: Dataset, column: str, digits: tuple[int, int] | None) -> Fixed:
    """The declared type of a column: what the request says, else its own, else DIGITS for numbers written as text.

    Disclosure: the type and whether a value is missing; it says nothing of a value's size.
    """
    kind, number = dataset.check_column(column), number_of(dataset, column)
    ((n_null,),) = dataset.query(f"SELECT count(*) FILTER ({number.cell} IS NULL) FROM rows")  # noqa: S608
    is_nullable = bool(n_null)
    if digits is not None:
        return Fixed.decimal(*digits, nullable=is_nullable)
    if kind in DOUBLES:
        return Fixed(_DOUBLE.two, _DOUBLE.five, _DOUBLE.bits, is_nullable)
    if kind == "BOOLEAN":
        return Fixed(0, 0, 1, is_nullable)
    if found := re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", kind):
        return Fixed.decimal(int(found[1]), int(found[2]), nullable=is_nullable)
    if kind.removeprefix("U") in _INTEGER_BITS:
        return Fixed(0, 0, _INTEGER_BITS[kind.removeprefix("U")], is_nullable)
    return Fixed.decimal(*DIGITS, nullable=is_nullable)


def read_column(dataset: Dataset, column: str, fixed: Fixed, places: NDArray[np.intp]) -> Column:
    """The column's rows at `places`, in their order, as integers of its type.

    BadRequest (code digits) for numbers that the type does not hold: nothing is rounded or cut.

    Disclosure: patients' rows; they leave as shares only.
    """
    number = number_of(dataset, column)
    values, valid = _read(dataset, number, fixed)
    return Column(values[places], valid[places])


def _read(dataset: Dataset, number: Number, fixed: Fixed) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """All rows of a column. DuckDB turns short decimals into words; the rest is taken number by number."""
    is_short, word = _word_sql(dataset, number, fixed)
    sql = (
        f"SELECT coalesce(CASE WHEN {is_short} THEN {word} END, 0) AS word,"  # noqa: S608
        f" CASE WHEN NOT ({is_short}) THEN {number.exact} END AS other, {number.cell} IS NOT NULL AS valid FROM rows"
    )
    values, valid, n_bad = [], [], 0
    for frame in dataset.frames(sql):
        is_valid, others = frame["valid"].to_numpy(dtype=bool), frame["other"]
        whole: NDArray[Any] = frame["word"].to_numpy(dtype=np.int64).astype(_dtype(fixed))
        for row in np.flatnonzero(others.notna().to_numpy() & is_valid).tolist():
            found = _whole(others.iloc[row], fixed)
            n_bad += found is None
            whole[row] = found or 0
        n_bad += int(np.count_nonzero(np.abs(whole) >= 2**fixed.bits)) if fixed.bits < _WORD_BITS else 0
        values.append(whole)
        valid.append(is_valid)
    if n_bad:
        raise BadRequest(
            f"{_capital(dataset.told(n_bad))} of {number.name} have more digits than its declared type.",
            remedy="Declare digits, [in all, after the point], for this provider, or round the column in a view.",
            code="digits",
        )
    return np.concatenate(values), np.concatenate(valid)


def _word_sql(dataset: Dataset, number: Number, fixed: Fixed) -> tuple[str, str]:
    """Which rows are decimals of at most 18 digits at the type's scale, and these as BIGINT."""
    is_decimal = dataset.columns[number.name] not in DOUBLES and fixed.two == fixed.five <= _WORD_DIGITS
    if not is_decimal:
        return "false", "CAST(0 AS BIGINT)"
    digits = fixed.five
    pattern = rf"[+-]?0*[0-9]{{1,{max(1, _WORD_DIGITS - digits)}}}(\.[0-9]{{0,{digits}}}0*)?"
    scaled = f"replace(CAST(CAST({number.exact} AS DECIMAL(38, {digits})) AS VARCHAR), '.', '')"
    return f"coalesce(regexp_full_match({number.exact}, '{pattern}'), false)", f"CAST({scaled} AS BIGINT)"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _dtype(fixed: Fixed) -> type:
    return np.int64 if fixed.bits < _WORD_BITS else object


def _whole(value: str | float, fixed: Fixed) -> int | None:
    """value / scale where that is a whole number within the type."""
    if isinstance(value, str) and fixed.two == fixed.five:
        whole = _decimal(value, fixed.two)
    else:
        exact = Fraction(value) / fixed.scale
        whole = exact.numerator if exact.denominator == 1 else None
    return whole if whole is not None and abs(whole) >> fixed.bits == 0 else None


def _decimal(text: str, digits: int) -> int | None:
    """A decimal times 10^digits where that is whole."""
    if not text.isascii() or not set("eE").isdisjoint(text):
        exact = Fraction(text) * 10**digits
        return exact.numerator if exact.denominator == 1 else None
    whole, _, rest = text.partition(".")
    rest = rest.rstrip("0")
    if whole in ("", "+", "-"):
        whole += "0"
    return int(whole + rest.ljust(digits, "0")) if len(rest) <= digits else None
