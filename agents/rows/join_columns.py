"""A provider's rows for joined statistics: keys to match by, and exact columns.

A column is whole numbers of a known type.
"""

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
from analytics.statistics.kinds import Fixed
from analytics.statistics.rowwise import Column
from protocol.errors import BadRequest
from protocol.statistics_request import DIGITS

_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)
_INTEGER_BITS = {
    "TINYINT": 8,
    "SMALLINT": 16,
    "INTEGER": 32,
    "BIGINT": 64,
    "HUGEINT": 128,
}
_DOUBLE = Fixed(128, 0, 192)
# What a signed word of 64 bits holds: that many bits, or decimal digits.
_WORD_BITS = 63
_WORD_DIGITS = 18


@dataclass(frozen=True, eq=False)
class JoinKeys:
    """The keys of a provider's rows.

    Disclosure: identities of patients; they leave as tags, or sealed to receivers of a
    row-level result.
    """

    # Canonical texts, all different.
    keys: list[str]
    # The rows of the data that they stand in.
    places: NDArray[np.intp]


def join_keys(dataset: Dataset, column: str, normalisation: str) -> JoinKeys:
    """The keys of a column by a declared normalisation; rows without one are left out.

    text: NFC, without blanks around, whole numbers as their digits; casefold: the same
    without regard to case; integer: whole numbers, without leading zeros or plus sign.

    Raises BadRequest with code missing_column, no_keys, not_integer, or repeated_keys,
    which says how many repeat.
    """
    label = label_sql(dataset, column)
    label_texts: list[Any] = []
    for frame in dataset.frames(f"SELECT {label} AS label FROM rows"):  # noqa: S608
        label_texts += frame["label"].tolist()
    keys = []
    row_places = []
    for row_place, label_text in enumerate(label_texts):
        # A row without a key is joined with none.
        if isinstance(label_text, str):
            keys.append(_normalised(label_text, normalisation))
            row_places.append(row_place)
    if not keys:
        raise BadRequest(
            f"No row has a key in {column}.",
            remedy="Name the column that identifies a person.",
            code="no_keys",
        )
    n_bad = keys.count("")
    if n_bad:
        raise BadRequest(
            f"{_number_of(dataset, n_bad)} of {column} are no whole numbers.",
            remedy='Use key_normalisation "text", or correct them.',
            code="not_integer",
        )
    if len(set(keys)) < len(keys):
        n_rows_of = Counter(keys)
        n_repeated = sum(1 for n_rows in n_rows_of.values() if n_rows > 1)
        raise BadRequest(
            f"{_number_of(dataset, n_repeated)} of {column} stand in more than one row.",
            remedy="Give one row per key, or use another key_column.",
            code="repeated_keys",
        )
    return JoinKeys(keys, np.array(row_places, dtype=np.intp))


def _normalised(text: str, normalisation: str) -> str:
    """A key as it is compared; empty where it is not of the declared kind."""
    if normalisation == "casefold":
        return text.casefold()
    if normalisation != "integer":
        return text
    # Python reads no number of thousands of digits.
    if len(text) >= 1000 or not _INTEGER.fullmatch(text):
        return ""
    return str(int(text))


def _number_of(dataset: Dataset, n_keys: int) -> str:
    """How many keys, without telling a small number of another hospital's patients."""
    if n_keys < dataset.min_rows:
        return f"Fewer than {dataset.min_rows} keys"
    if n_keys == 1:
        return "1 key"
    return f"{n_keys} keys"


def is_numeric(dataset: Dataset, column: str) -> bool:
    """Whether all of a column's values are numbers.

    A text of digits is one in a csv or json file.
    """
    try:
        number_of(dataset, column)
    except BadRequest:
        return False
    return True


def type_of(dataset: Dataset, column: str, digits: tuple[int, int] | None) -> Fixed:
    """The declared type of a column: what the request says, else its own.

    DIGITS for numbers that are written as text.

    Disclosure: the type and whether a value is missing; it says nothing of a value's
    size.
    """
    kind = dataset.check_column(column)
    number = number_of(dataset, column)
    ((n_null,),) = dataset.query(
        f"SELECT count(*) FILTER ({number.cell} IS NULL) FROM rows"  # noqa: S608
    )
    is_nullable = bool(n_null)
    if digits is not None:
        return Fixed.decimal(*digits, nullable=is_nullable)
    if kind in DOUBLES:
        return Fixed(_DOUBLE.two, _DOUBLE.five, _DOUBLE.bits, is_nullable)
    if kind == "BOOLEAN":
        return Fixed(0, 0, 1, is_nullable)
    decimal = re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", kind)
    if decimal:
        return Fixed.decimal(int(decimal[1]), int(decimal[2]), nullable=is_nullable)
    signed_kind = kind.removeprefix("U")
    if signed_kind in _INTEGER_BITS:
        return Fixed(0, 0, _INTEGER_BITS[signed_kind], is_nullable)
    return Fixed.decimal(*DIGITS, nullable=is_nullable)


def read_column(
    dataset: Dataset, column: str, fixed: Fixed, places: NDArray[np.intp]
) -> Column:
    """The column's rows at `places`, in their order, as integers of its type.

    BadRequest (code digits) for numbers that the type does not hold: nothing is rounded
    or cut.

    Disclosure: patients' rows; they leave as shares only.
    """
    number = number_of(dataset, column)
    values, valid = _read(dataset, number, fixed)
    return Column(values[places], valid[places])


def _read(
    dataset: Dataset, number: Number, fixed: Fixed
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """All rows of a column.

    DuckDB turns short decimals into words; the rest is taken number by number.
    """
    is_short, word = _word_sql(dataset, number, fixed)
    sql = (
        f"SELECT coalesce(CASE WHEN {is_short} THEN {word} END, 0) AS word,"  # noqa: S608
        f" CASE WHEN NOT ({is_short}) THEN {number.exact} END AS other, {number.cell} IS NOT NULL AS valid FROM rows"
    )
    values = []
    valid = []
    n_bad = 0
    for frame in dataset.frames(sql):
        is_valid = frame["valid"].to_numpy(dtype=bool)
        words = frame["word"].to_numpy(dtype=np.int64)
        whole_numbers: NDArray[Any] = words.astype(_dtype(fixed))
        other_numbers = frame["other"]
        is_other = other_numbers.notna().to_numpy() & is_valid
        for row_place in np.flatnonzero(is_other).tolist():
            whole_number = _whole(other_numbers.iloc[row_place], fixed)
            if whole_number is None:
                n_bad += 1
                whole_numbers[row_place] = 0
            else:
                whole_numbers[row_place] = whole_number
        # A wider type holds every word.
        if fixed.bits < _WORD_BITS:
            is_too_large = np.abs(whole_numbers) >= 2**fixed.bits
            n_bad += int(np.count_nonzero(is_too_large))
        values.append(whole_numbers)
        valid.append(is_valid)
    if n_bad:
        raise BadRequest(
            f"{_capital(dataset.told(n_bad))} of {number.name} have more digits than its declared type.",
            remedy="Declare digits, [in all, after the point], for this provider, or round the column in a view.",
            code="digits",
        )
    return np.concatenate(values), np.concatenate(valid)


def _word_sql(dataset: Dataset, number: Number, fixed: Fixed) -> tuple[str, str]:
    """Which rows are decimals of at most 18 digits at the type's scale.

    And these as BIGINT.
    """
    is_double = dataset.columns[number.name] in DOUBLES
    is_decimal = fixed.two == fixed.five <= _WORD_DIGITS
    if is_double or not is_decimal:
        return "false", "CAST(0 AS BIGINT)"
    digits = fixed.five
    n_before_point = max(1, _WORD_DIGITS - digits)
    pattern = rf"[+-]?0*[0-9]{{1,{n_before_point}}}(\.[0-9]{{0,{digits}}}0*)?"
    is_short = f"coalesce(regexp_full_match({number.exact}, '{pattern}'), false)"
    # The decimal's text without its point.
    decimal = f"CAST({number.exact} AS DECIMAL(38, {digits}))"
    scaled = f"replace(CAST({decimal} AS VARCHAR), '.', '')"
    return is_short, f"CAST({scaled} AS BIGINT)"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _dtype(fixed: Fixed) -> type:
    return np.int64 if fixed.bits < _WORD_BITS else object


def _whole(value: str | float, fixed: Fixed) -> int | None:
    """value / scale where that is a whole number within the type."""
    if isinstance(value, str) and fixed.two == fixed.five:
        whole_number = _decimal(value, fixed.two)
    else:
        whole_number = _numerator(Fraction(value) / fixed.scale)
    if whole_number is None or abs(whole_number) >> fixed.bits:
        return None
    return whole_number


def _numerator(exact: Fraction) -> int | None:
    return exact.numerator if exact.denominator == 1 else None


def _decimal(text: str, digits: int) -> int | None:
    """A decimal times 10^digits where that is whole."""
    if not text.isascii() or not set("eE").isdisjoint(text):
        return _numerator(Fraction(text) * 10**digits)
    # The digits as they stand: a Fraction for each cell takes ten times as long.
    before, _, after = text.partition(".")
    after = after.rstrip("0")
    if len(after) > digits:
        return None
    if before in ("", "+", "-"):
        before += "0"
    return int(before + after.ljust(digits, "0"))
