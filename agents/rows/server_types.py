"""The types of SQL Server and Oracle: which column becomes which type of a dataset, and
how it is asked for, as `agents.rows.source_types` says of the other databases.

Decision 126.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from agents.rows.source_types import SourceColumn, decimal_column, named_column

# --- SQL Server -------------------------------------------------------------------------

_WHOLE = SourceColumn("", "HUGEINT", is_number=True)
# Within a database's code page a text loses letters on its way; as nvarchar none.
_TSQL_TEXT = SourceColumn("", select="CAST({} AS nvarchar(max))")
_TSQL: dict[str, SourceColumn] = {
    "tinyint": _WHOLE,
    "smallint": _WHOLE,
    "int": _WHOLE,
    "bigint": _WHOLE,
    "bit": SourceColumn("", "BOOLEAN", "CAST({} AS tinyint)", is_number=True),
    "real": SourceColumn("", "FLOAT", is_number=True),
    "float": SourceColumn("", "DOUBLE", is_number=True),
    # Style 2 has all four digits after the point, style 0 two.
    "money": decimal_column(19, 4, "CONVERT(varchar(30), {}, 2)"),
    "smallmoney": decimal_column(10, 4, "CONVERT(varchar(30), {}, 2)"),
    # Styles 23 and 121 are ISO's, whatever the session's language.
    "date": SourceColumn("", select="CONVERT(varchar(10), {}, 23)"),
    "time": SourceColumn("", select="CONVERT(varchar(16), {}, 121)"),
    "datetime": SourceColumn("", select="CONVERT(varchar(23), {}, 121)"),
    "smalldatetime": SourceColumn("", select="CONVERT(varchar(19), {}, 120)"),
    "datetime2": SourceColumn("", select="CONVERT(varchar(27), {}, 121)"),
    "datetimeoffset": SourceColumn(
        "",
        select="CONVERT(varchar(27), CAST(SWITCHOFFSET({}, '+00:00') AS datetime2(7)), 121) + '+00'",
    ),
    "char": _TSQL_TEXT,
    "varchar": _TSQL_TEXT,
    "text": _TSQL_TEXT,
    "nchar": _TSQL_TEXT,
    "nvarchar": _TSQL_TEXT,
    "ntext": _TSQL_TEXT,
    "binary": SourceColumn(""),
    "varbinary": SourceColumn(""),
    "image": SourceColumn(""),
    "timestamp": SourceColumn(""),
    # in capitals, as no other database writes it
    "uniqueidentifier": SourceColumn("", select="LOWER(CONVERT(varchar(36), {}))"),
}
_DECIMAL = re.compile(r"(?:decimal|numeric)\((\d+),(\d+)\)")


def tsql_columns(rows: Sequence[Any]) -> list[SourceColumn]:
    """The columns that sys.dm_exec_describe_first_result_set gives: name and type, such
    as decimal(8,2), each.
    """
    columns = []
    for name, kind in rows:
        columns.append(named_column(_tsql_column(str(kind or "")), str(name or "")))
    return columns


def _tsql_column(kind: str) -> SourceColumn:
    digits = _DECIMAL.fullmatch(kind)
    if digits is not None:
        # Of 38 digits, a sign, a point and a zero before it
        text = "CONVERT(varchar(41), {})"
        return decimal_column(int(digits[1]), int(digits[2]), text)
    plain = kind.partition("(")[0]
    return _TSQL.get(plain, SourceColumn("", no_form=plain or "unknown"))


# --- Oracle -----------------------------------------------------------------------------

# Of a NUMBER of up to 64 letters all digits, of a longer one a power of ten.
_NUMBER = "TO_CHAR({}, 'TM9', 'NLS_NUMERIC_CHARACTERS=''.,''')"
_FLOAT = -127
"""What stands for the digits after the point where a NUMBER has a floating one."""


def _moment(cell: str, form: str) -> SourceColumn:
    # AD is left out, and BC stands behind, as PostgreSQL writes it.
    moment_text = f"TO_CHAR({cell}, '{form} AD', 'NLS_DATE_LANGUAGE=AMERICAN')"
    return SourceColumn("", select=f"REPLACE({moment_text}, ' AD')")


_SECONDS = "YYYY-MM-DD HH24:MI:SS"
_IN_UTC = _moment("SYS_EXTRACT_UTC({})", f'{_SECONDS}.FF9"+00"')
_ORACLE: dict[str, SourceColumn] = {
    "DB_TYPE_BINARY_FLOAT": SourceColumn("", "FLOAT", is_number=True),
    "DB_TYPE_BINARY_DOUBLE": SourceColumn("", "DOUBLE", is_number=True),
    "DB_TYPE_BINARY_INTEGER": _WHOLE,
    "DB_TYPE_BOOLEAN": SourceColumn("", "BOOLEAN", is_number=True),
    # which has a time of day
    "DB_TYPE_DATE": _moment("{}", _SECONDS),
    "DB_TYPE_TIMESTAMP": _moment("{}", f"{_SECONDS}.FF9"),
    "DB_TYPE_TIMESTAMP_TZ": _IN_UTC,
    "DB_TYPE_TIMESTAMP_LTZ": _IN_UTC,
    "DB_TYPE_VARCHAR": SourceColumn(""),
    "DB_TYPE_NVARCHAR": SourceColumn(""),
    "DB_TYPE_CHAR": SourceColumn(""),
    "DB_TYPE_NCHAR": SourceColumn(""),
    "DB_TYPE_CLOB": SourceColumn(""),
    "DB_TYPE_NCLOB": SourceColumn(""),
    "DB_TYPE_LONG": SourceColumn(""),
    "DB_TYPE_BLOB": SourceColumn(""),
    "DB_TYPE_RAW": SourceColumn(""),
    "DB_TYPE_LONG_RAW": SourceColumn(""),
}


def oracle_columns(description: Sequence[Any]) -> list[SourceColumn]:
    """The columns of a cursor's description: name, type, and at places 4 and 5 how many
    digits a number has, and how many of them after the point.
    """
    columns = []
    for column_name, kind, _, _, digits, after_point, *_ in description:
        source_column = _ORACLE.get(kind.name)
        if kind.name == "DB_TYPE_NUMBER":
            source_column = _oracle_number(digits, after_point)
        if source_column is None:
            word = kind.name.removeprefix("DB_TYPE_").lower()
            source_column = SourceColumn("", no_form=word)
        columns.append(named_column(source_column, str(column_name)))
    return columns


def _oracle_number(digits: int | None, after_point: int | None) -> SourceColumn:
    """NUMBER(8, 2), or NUMBER and FLOAT, of which nothing says how many digits."""
    if not digits or after_point == _FLOAT:
        return decimal_column(None, None, _NUMBER)
    return decimal_column(digits, after_point, _NUMBER)
