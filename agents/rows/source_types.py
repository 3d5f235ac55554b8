"""The types of PostgreSQL, MariaDB, MySQL and DuckDB: which column becomes which type of
a dataset, and how it is asked for so that no driver changes it.

Whole numbers come with every digit, doubles as the shortest decimal that reads as them,
decimals, moments and texts as texts. A value is written by its database, never by a
driver's object: a date beyond the years of Python is none of our errors. What has no
one text (arrays, json, intervals, geometry) is known by its type and refused by the
name of the column, where it is needed.

To read next: `agents.rows.server_types`, the same of SQL Server and Oracle, and
`agents.rows.canonical_text`, the one text of each value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from agents.rows.canonical_text import stripped_sql
from protocol.errors import BadRequest

_DUCKDB_NUMBERS = re.compile(
    r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|BOOLEAN|FLOAT|DOUBLE|DECIMAL\(\d+,\d+\)"
)
_DUCKDB_TEXTS = re.compile(
    r"\"NULL\"|VARCHAR|BLOB|UUID|BIT|ENUM\(.*\)|DATE|TIME(_NS)?|TIME WITH TIME ZONE"
    r"|TIMESTAMP(_S|_MS|_NS)?|TIMESTAMP WITH TIME ZONE",
    re.DOTALL,
)
_MOST_DIGITS = 38
"""Of a decimal of DuckDB."""
_DUCKDB_DAYS = ("DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE")


@dataclass(frozen=True)
class SourceColumn:
    """A column that a query gives, as its database describes it.

    kind: the type that a dataset has for it: HUGEINT, BOOLEAN, FLOAT, DOUBLE, a type of
    numbers of DuckDB, or VARCHAR for all else; select: how it is asked for, a column's
    name in its place {}; is_number: its texts are numbers; no_form: the database's name
    of a type whose values have no one text, else empty.
    """

    name: str
    kind: str = "VARCHAR"
    select: str = "{}"
    is_number: bool = False
    no_form: str = ""

    def selected(self, cell: str) -> str:
        """The column as SQL of its database."""
        return self.select.replace("{}", cell)

    def check_form(self, name: str) -> None:
        """BadRequest (code column_type) for a type whose values have no one text, by
        the name that the column is asked for.
        """
        if self.no_form:
            raise BadRequest(
                f"Column {name} holds values of type {self.no_form}, which are neither numbers nor texts.",
                remedy="Select a number, a text or a date of it in a view.",
                code="column_type",
            )


# --- DuckDB -----------------------------------------------------------------------------


def duckdb_column(name: str, kind: str) -> SourceColumn:
    """A column of DuckDB, of a database or of a parquet file."""
    if _DUCKDB_NUMBERS.fullmatch(kind):
        is_number = True
        return SourceColumn(name, kind, is_number=is_number)
    text = "CAST({} AS VARCHAR)"
    if kind in _DUCKDB_DAYS:
        # As PostgreSQL writes a day before the year 1
        text = rf"regexp_replace({text}, '^(\S+) \(BC\)(.*)$', '\1\2 BC')"
    is_long_number = kind == "BIGNUM"
    has_form = is_long_number or _DUCKDB_TEXTS.fullmatch(kind) is not None
    return SourceColumn(
        name,
        select=stripped_sql(text),
        is_number=is_long_number,
        no_form="" if has_form else _plain_type(kind),
    )


def _plain_type(kind: str) -> str:
    """A nested type without the names within it."""
    if kind.endswith("]"):
        return "ARRAY"
    return kind.partition("(")[0]


# --- PostgreSQL -------------------------------------------------------------------------

# Object ids of pg_type.dat, which are the same in every version.
_POSTGRES: dict[int, SourceColumn] = {
    16: SourceColumn("", "BOOLEAN", "CAST({} AS text)", is_number=True),
    20: SourceColumn("", "HUGEINT", "CAST({} AS text)", is_number=True),
    21: SourceColumn("", "HUGEINT", "CAST({} AS text)", is_number=True),
    23: SourceColumn("", "HUGEINT", "CAST({} AS text)", is_number=True),
    700: SourceColumn("", "FLOAT", "CAST({} AS text)", is_number=True),
    701: SourceColumn("", "DOUBLE", "CAST({} AS text)", is_number=True),
    # money, which is otherwise written in the words of a country
    790: SourceColumn("", select="CAST(CAST({} AS numeric) AS text)", is_number=True),
    # bytea, whose bytes the driver gives as they are
    17: SourceColumn(""),
    # inet, to whose text a cast would add /32
    869: SourceColumn("", select="abbrev({})"),
}
_POSTGRES_NUMERIC = 1700
_POSTGRES_BIT = 1560
# By pg_type.typcategory: strings, enumerations, dates and times, networks, bits, numbers.
_POSTGRES_CATEGORIES = "SEDIVN"
_POSTGRES_NAMES = ("uuid", "macaddr", "macaddr8", "char")


@dataclass(frozen=True)
class PostgresType:
    """A row of pg_type."""

    name: str
    category: str


def postgres_columns(
    description: Sequence[Any], look_up: Callable[[Sequence[int]], dict[int, Any]]
) -> list[SourceColumn]:
    """The columns of a cursor's description; look_up gives types by their object ids."""
    unknown = {column.type_code for column in description} - set(_POSTGRES)
    unknown.discard(_POSTGRES_NUMERIC)
    types = look_up(sorted(unknown)) if unknown else {}
    columns = []
    for column in description:
        source_column = _POSTGRES.get(column.type_code)
        if column.type_code == _POSTGRES_NUMERIC:
            # NaN is no value
            text = "NULLIF(CAST({} AS text), 'NaN')"
            source_column = decimal_column(column.precision, column.scale, text)
        elif source_column is None:
            source_column = _postgres_text(column, types.get(column.type_code))
        columns.append(named_column(source_column, column.name))
    return columns


def _postgres_text(column: Any, postgres_type: PostgresType | None) -> SourceColumn:
    is_bit = column.type_code == _POSTGRES_BIT and column.display_size == 1
    text = "CAST({} AS text)"
    if postgres_type is None:
        return SourceColumn("", select=text, no_form="unknown")
    has_form = (
        postgres_type.category in _POSTGRES_CATEGORIES
        or postgres_type.name in _POSTGRES_NAMES
    )
    return SourceColumn(
        "",
        select=text,
        is_number=is_bit,
        no_form="" if has_form else _postgres_type(postgres_type),
    )


def _postgres_type(postgres_type: PostgresType) -> str:
    if postgres_type.category == "A":
        return f"array of {postgres_type.name.lstrip('_')}"
    return postgres_type.name


def decimal_column(
    digits: int | None, after_point: int | None, select: str
) -> SourceColumn:
    """A column of decimals: of its own type, where DuckDB has so many digits, else of
    texts.
    """
    if digits is None or after_point is None or digits > _MOST_DIGITS:
        return SourceColumn("", select=select, is_number=True)
    # PostgreSQL has decimals of more digits after the point than in all.
    digits = max(digits, after_point)
    kind = f"DECIMAL({digits},{max(0, after_point)})"
    if digits > _MOST_DIGITS or after_point < 0:
        kind = "VARCHAR"
    return SourceColumn("", kind, select, is_number=True)


# --- MariaDB and MySQL ------------------------------------------------------------------

_WHOLE = SourceColumn("", "HUGEINT", is_number=True)
_MOMENT = SourceColumn("", select="CAST({} AS CHAR)")
# The field types of the protocol.
_MYSQL: dict[int, SourceColumn] = {
    1: _WHOLE,
    2: _WHOLE,
    3: _WHOLE,
    # A FLOAT would be written with six digits, which may be another one.
    4: SourceColumn("", "FLOAT", "{} + 0e0", is_number=True),
    5: SourceColumn("", "DOUBLE", is_number=True),
    # NULL of no type
    6: SourceColumn(""),
    # TIMESTAMP is a moment of time, shown in the zone of the session: here in UTC, as
    # PostgreSQL's timestamptz.
    7: SourceColumn(
        "",
        select="IF(UNIX_TIMESTAMP({}) = 0, '0000-00-00',"
        " CONCAT('1970-01-01' + INTERVAL UNIX_TIMESTAMP({}) SECOND, '+00'))",
    ),
    8: _WHOLE,
    9: _WHOLE,
    10: _MOMENT,
    11: _MOMENT,
    12: _MOMENT,
    13: _WHOLE,
    14: _MOMENT,
    15: SourceColumn(""),
    245: SourceColumn("", no_form="json"),
    247: SourceColumn(""),
    248: SourceColumn(""),
    249: SourceColumn(""),
    250: SourceColumn(""),
    251: SourceColumn(""),
    252: SourceColumn(""),
    253: SourceColumn(""),
    254: SourceColumn(""),
    255: SourceColumn("", no_form="geometry"),
}
_MYSQL_DECIMALS = (0, 246)
_MYSQL_BIT = 16


def mysql_columns(description: Sequence[Any]) -> list[SourceColumn]:
    """The columns of a cursor's description: name, field type, at place 3 how wide it
    is, at place 5 how many digits stand after the point.
    """
    columns = []
    for column_name, code, _, width, _, after_point, _ in description:
        source_column = _MYSQL.get(code, SourceColumn("", no_form="unknown"))
        if code == _MYSQL_BIT:
            bits = f"LPAD(BIN({{}} + 0), {int(width)}, '0')"
            source_column = SourceColumn("", select=bits, is_number=width == 1)
        if code in _MYSQL_DECIMALS:
            # The width has a place for the sign, unless the column is unsigned: one
            # digit more than there is does no harm.
            digits = width - (1 if after_point else 0)
            source_column = decimal_column(digits, after_point, "{}")
        columns.append(named_column(source_column, str(column_name)))
    return columns


def named_column(column: SourceColumn, name: str) -> SourceColumn:
    return SourceColumn(
        name, column.kind, column.select, column.is_number, column.no_form
    )
