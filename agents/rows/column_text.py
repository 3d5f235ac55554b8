"""A column of a dataset: canonical text for groups, keys and classes, exact numbers for
sums, and the doubles of models.

Decision 33.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import frexp, isfinite
from typing import Any

import numpy as np

from agents.rows.canonical_text import canonical_sql
from agents.rows.dataset import Dataset
from agents.rows.relation import literal, quoted
from analytics.arrays import Floats
from analytics.statistics.exact import UNIT
from analytics.statistics.quantiles import LEAST_WHOLE, MOST_WHOLE
from analytics.training.design import OTHER
from protocol.errors import BadRequest

DOUBLES = ("DOUBLE", "FLOAT")
_PIECE_BITS = 52
# round(double(x) * 10^s) is exact below 10^15: two roundings are off by less than a
# quarter
_EXACT_DIGITS = 15
_EXACT_POWER = 22  # the last power of ten that is a double
_NUMBER = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?"
_SHORT = r"[+-]?([0-9]{1,16}(\.[0-9]{0,22})?|\.[0-9]{1,22})"
_NOT_FINITE = r"[+-]?(nan|inf|infinity)"
_WHOLE = r"[+-]?[0-9]+(\.0*)?"


@dataclass(frozen=True)
class Piece:
    """A part of a number: a double, as SQL, in units of unit / UNIT."""

    sql: str
    unit: int


@dataclass(frozen=True)
class Number:
    """A column as numbers: x = sum of its pieces where `regular` (None: everywhere)
    holds, else what `exact` says.

    cell: NULL where there is no value; exact: what `analytics.statistics.exact.scaled`
    reads; double: the nearest double; top: |x| < 2^top; n: how many rows have a value.
    """

    name: str
    n: int
    cell: str
    exact: str
    double: str
    pieces: tuple[Piece, ...]
    top: int
    regular: str | None = None


def label_sql(dataset: Dataset, name: str) -> str:
    """The column as canonical text; of a category what is no agreed level as OTHER.

    BadRequest (code missing_column).
    """
    label = canonical_sql(quoted(name), dataset.check_column(name))
    if name not in dataset.levels:
        return label
    levels = ", ".join(literal(level) for level in dataset.levels[name])
    is_level = f"{label} IN ({levels})" if levels else "false"
    return f"CASE WHEN {is_level} THEN {label} WHEN {label} IS NOT NULL THEN {literal(OTHER)} END"


def double_sql(dataset: Dataset, name: str) -> str:
    """A column of numbers as the doubles nearest to them; NULL where there is no value.

    A number that no double holds is infinite. BadRequest (code missing_column).
    """
    kind, cell = dataset.check_column(name), quoted(name)
    double = f"CAST({cell} AS DOUBLE)"
    by_text = f"CAST(CAST({cell} AS VARCHAR) AS DOUBLE)"
    if kind == "BOOLEAN":
        return f"CAST(CAST({cell} AS TINYINT) AS DOUBLE)"
    decimal = re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", kind)
    if kind == "VARCHAR" or (decimal and int(decimal[1]) > _EXACT_DIGITS):
        return by_text
    if kind.endswith(("BIGINT", "HUGEINT")):
        # Above 2^53, DuckDB's own cast is off now and then.
        is_exact = f"{cell} BETWEEN -{2**53} AND {2**53}"
        if kind.startswith("U"):
            is_exact = f"{cell} <= {2**53}"
        return f"CASE WHEN {is_exact} THEN {double} ELSE {by_text} END"
    return double


def number_of(dataset: Dataset, name: str) -> Number:
    """A column as numbers, after a look at all of its rows.

    Raises BadRequest: missing_column; not_numeric for texts that are no decimals;
    not_finite for infinite numbers and NaN; digits for what lies outside the range of
    doubles.
    """
    kind = dataset.check_column(name)
    if kind in DOUBLES:
        return _doubles(dataset, name)
    if kind == "VARCHAR":
        return _texts(dataset, name)
    cell = f"CAST({quoted(name)} AS TINYINT)" if kind == "BOOLEAN" else quoted(name)
    n, smallest, largest = dataset.query(
        f"SELECT count({cell}), min({cell}), max({cell}) FROM rows"  # noqa: S608
    )[0]
    digits = (
        int(decimal_type[1])
        if (decimal_type := re.fullmatch(r"DECIMAL\(\d+,(\d+)\)", kind))
        else 0
    )
    size = max(_whole(smallest, digits), _whole(largest, digits))
    unit = UNIT // 10**digits
    double = _nearest_double(cell, size, digits)
    if digits == 0:
        pieces, regular = (
            _pieces(f"TRY_CAST({cell} AS HUGEINT)", size, unit, double=double),
            None,
        )
        if kind == "UHUGEINT":
            regular = f"TRY_CAST({cell} AS HUGEINT) IS NOT NULL"
    else:
        scaled = (
            f"round({double} * {_power(digits)})" if digits <= _EXACT_POWER else None
        )
        whole_number = f"CAST(replace(CAST({cell} AS VARCHAR), '.', '') AS HUGEINT)"
        pieces, regular = (
            _pieces(whole_number, size, unit, double=scaled, most=10**_EXACT_DIGITS),
            None,
        )
    top = _top(float(max(abs(smallest), abs(largest))) if largest is not None else 0.0)
    return Number(
        name, n, cell, f"CAST({cell} AS VARCHAR)", double, pieces, top, regular
    )


def is_whole(dataset: Dataset, name: str) -> bool:
    """Whether all numbers of a column are whole and within LEAST_WHOLE..MOST_WHOLE; 5.0
    of a decimal or text is 5.

    Of doubles they never are, whatever the rows: what comes as doubles may have lost
    digits before, and is told as doubles are. BadRequest (code missing_column).

    Disclosure: of texts, decimals and whole numbers, a bit that a single row may
    decide. It leaves as part of a statement, where this hospital's policy tells single
    values anyway.
    """
    if dataset.check_column(name) in DOUBLES:
        return False
    within = f"coalesce({whole_sql(dataset, name)} BETWEEN {wide(LEAST_WHOLE)} AND {wide(MOST_WHOLE)}, false)"
    n_others = dataset.query(
        f"SELECT count(*) FROM rows WHERE {quoted(name)} IS NOT NULL AND NOT {within}"  # noqa: S608
    )
    return int(n_others[0][0]) == 0


def whole_sql(dataset: Dataset, name: str) -> str:
    """The column as HUGEINT, every digit; NULL where it has no value, or one that is
    not whole or too wide.
    """
    kind, cell = dataset.check_column(name), quoted(name)
    if kind != "VARCHAR" and not kind.startswith("DECIMAL"):
        return f"TRY_CAST({cell} AS HUGEINT)"
    cell_text = f"CAST({cell} AS VARCHAR)"
    return f"CASE WHEN regexp_full_match({cell_text}, '{_WHOLE}') THEN TRY_CAST({cell_text} AS HUGEINT) END"


def wide(number: int) -> str:
    """A whole number in DuckDB's SQL, of one type whatever its size."""
    return f"CAST('{number}' AS HUGEINT)"


def _nearest_double(cell: str, size: int, digits: int) -> str:
    """Of a whole number or decimal, the double nearest to it: above 2^53, DuckDB's own
    cast is off now and then.
    """
    if size <= 2**53 and digits <= _EXACT_POWER:
        return f"CAST({cell} AS DOUBLE)"
    return f"CAST(CAST({cell} AS VARCHAR) AS DOUBLE)"


def _whole(value: int | Decimal | None, digits: int) -> int:
    return 0 if value is None else abs(int(Fraction(value) * 10**digits))


def _top(size: float) -> int:
    return frexp(size)[1]


def _pieces(
    whole_number: str, size: int, unit: int, *, double: str | None, most: int = 2**53
) -> tuple[Piece, ...]:
    """A whole number as doubles: as one, given as SQL, up to `most`, else cut into
    parts of 52 bits.
    """
    if double is not None and size <= most:
        return (Piece(double, unit),)
    n_pieces = -(-size.bit_length() // _PIECE_BITS)
    parts = [
        f"({whole_number} >> {_PIECE_BITS * i})" for i in range(n_pieces)
    ]  # rounds down; the last keeps the sign
    lower = [f"({part} & {2**_PIECE_BITS - 1})" for part in parts[:-1]]
    return tuple(
        Piece(f"CAST({part} AS DOUBLE)", unit << _PIECE_BITS * i)
        for i, part in enumerate([*lower, parts[-1]])
    )


def _power(digits: int) -> str:
    return f"CAST('1e{digits}' AS DOUBLE)"


def _doubles(dataset: Dataset, name: str) -> Number:
    cell = f"CAST({quoted(name)} AS DOUBLE)"
    sql = f"SELECT count({quoted(name)}), min({quoted(name)}), max({quoted(name)}) FROM rows"  # noqa: S608
    n, smallest, largest = dataset.query(sql)[
        0
    ]  # of a parquet file often from its statistics, which may lack NaN
    size = max(abs(float(smallest)), abs(float(largest))) if n else 0.0
    if not isfinite(size):
        raise not_finite(name)
    top = _top(size)
    return Number(name, n, cell, cell, cell, (Piece(cell, UNIT),), top)


def _texts(dataset: Dataset, name: str) -> Number:
    """Texts of at most 16 digits before the point and 22 after it add up in SQL; others
    one by one.
    """
    short = f"regexp_full_match(v, '{_SHORT}')"
    decimals = "CASE WHEN contains(v, '.') THEN length(v) - strpos(v, '.') ELSE 0 END"
    sql = f"""
        SELECT count(v),
            max(length(ltrim(v, '+-')) - d - CASE WHEN contains(v, '.') THEN 1 ELSE 0 END) FILTER (is_short),
            max(d) FILTER (is_short), max(abs(TRY_CAST(v AS DOUBLE))),
            count(*) FILTER (NOT is_short AND NOT regexp_full_match(v, '{_NUMBER}')),
            count(*) FILTER (NOT is_short AND regexp_full_match(lower(v), '{_NOT_FINITE}')),
            count(*) FILTER (NOT is_short AND NOT coalesce(isfinite(TRY_CAST(v AS DOUBLE)), false))
        FROM (SELECT v, {decimals} AS d, {short} AS is_short FROM (SELECT {quoted(name)} AS v FROM rows)
        WHERE v IS NOT NULL)"""  # noqa: S608
    n, n_whole, n_decimals, most, n_wrong, n_infinite, n_large = dataset.query(sql)[0]
    if n_wrong > n_infinite:
        raise _not_numeric(dataset, name, n_wrong - n_infinite)
    if n_infinite:
        raise not_finite(name)
    if n_large:
        raise BadRequest(
            f"Column {name} holds a number outside the range of doubles ({dataset.told(n_large)}).",
            remedy="Correct it; numbers are below 1.8e308 and have at most 400 digits after the point.",
            code="digits",
        )
    return _short_decimals(
        dataset, name, n, int(n_whole or 0), int(n_decimals or 0), _top(most or 0.0)
    )


def _short_decimals(
    dataset: Dataset, name: str, n: int, n_whole: int, n_decimals: int, top: int
) -> Number:
    cell = quoted(name)
    double = f"TRY_CAST({cell} AS DOUBLE)"
    scaled = (
        f"round({double} * {_power(n_decimals)})"
        if n_decimals <= _EXACT_POWER
        else None
    )
    decimal = f"CAST(TRY_CAST({cell} AS DECIMAL(38, {n_decimals})) AS VARCHAR)"
    whole_number = f"TRY_CAST(replace({decimal}, '.', '') AS HUGEINT)"
    size = 10 ** (n_whole + n_decimals)
    pieces = _pieces(
        whole_number,
        size,
        UNIT // 10**n_decimals,
        double=scaled,
        most=10**_EXACT_DIGITS,
    )
    return Number(
        name,
        n,
        cell,
        cell,
        double,
        pieces,
        top,
        f"regexp_full_match({cell}, '{_SHORT}')",
    )


def _not_numeric(dataset: Dataset, name: str, n_rows: int) -> BadRequest:
    return BadRequest(
        f"Column {name} holds something other than a number ({dataset.told(n_rows)}).",
        remedy="Name a column of numbers such as -12.5 or 1e-3; leave a field empty where there is no value.",
        code="not_numeric",
    )


def not_finite(name: str) -> BadRequest:
    return BadRequest(
        f"Column {name} holds an infinite number or NaN.",
        remedy="Replace it, or leave the field empty where there is no value.",
        code="not_finite",
    )


def finite_doubles(values: Any, number: Number) -> Floats:
    """A column of a frame as float64. BadRequest (code not_finite) unless all are finite."""
    doubles: Floats = values.to_numpy(dtype=np.float64)
    if not np.isfinite(doubles).all():
        raise not_finite(number.name)
    return doubles
