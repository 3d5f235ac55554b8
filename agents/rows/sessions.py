"""What makes a fresh connection to a hospital's database read-only and limited, and
parse texts as the checker did.

PostgreSQL, MySQL, MariaDB and Oracle have transactions that cannot write, DuckDB files
that are opened for reading. SQL Server has none: there a checked SELECT, a transaction
that is never committed, and a user who may only read are all.

Decision 126.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

LOCK_WAIT_SECONDS = 5.0

NO_PARAMETERS: dict[str, Any] = {"no_parameters": True}
"""Of an execution: a % is only a %."""

_SNAPSHOT_STATE = (
    "SELECT snapshot_isolation_state FROM sys.databases WHERE database_id = DB_ID()"
)


def prepare(connection: sa.Connection, dialect: str, *, timeout_seconds: float) -> None:
    """Runs what a fresh connection needs before it reads anything."""
    if dialect == "oracle":
        driver: Any = connection.connection.driver_connection
        driver.call_timeout = _milliseconds(timeout_seconds)
    for statement in _statements(connection, dialect, timeout_seconds):
        connection.exec_driver_sql(statement, execution_options=NO_PARAMETERS)


def _statements(
    connection: sa.Connection, dialect: str, timeout_seconds: float
) -> list[str]:
    if dialect == "duckdb":
        return []  # what it is opened with has said it all
    if dialect == "postgres":
        return _postgres(timeout_seconds)
    if dialect == "tsql":
        return _tsql(connection)
    if dialect == "oracle":
        return _ORACLE
    is_mariadb = bool(getattr(connection.dialect, "is_mariadb", False))
    return _mysql(timeout_seconds, is_mariadb=is_mariadb)


def _postgres(timeout_seconds: float) -> list[str]:
    return [
        "SET TRANSACTION READ ONLY",
        f"SET LOCAL statement_timeout = {_milliseconds(timeout_seconds)}",
        "SET LOCAL standard_conforming_strings = on",
        # How values are written, not how they are read: the order of day and month
        # stays the server's.
        "SET LOCAL datestyle = 'ISO'",
        "SET LOCAL extra_float_digits = 1",
    ]


def _mysql(timeout_seconds: float, *, is_mariadb: bool) -> list[str]:
    limit = (
        f"max_statement_time = {timeout_seconds:f}"
        if is_mariadb
        else f"max_execution_time = {_milliseconds(timeout_seconds)}"
    )
    return [
        f"SET SESSION {limit}",
        "SET SESSION sql_mode = 'ONLY_FULL_GROUP_BY'",
        "SET SESSION TRANSACTION READ ONLY",
        "START TRANSACTION READ ONLY",
    ]


def _tsql(connection: sa.Connection) -> list[str]:
    """Its time limit is the driver's, which cancels (`agents.rows.source_url`).

    Where the database keeps versions of rows, the transaction sees those of its begin
    and holds up no writer; else it sees what is committed, and waits for a writer as
    long as LOCK_TIMEOUT says.
    """
    with connection.exec_driver_sql(
        _SNAPSHOT_STATE, execution_options=NO_PARAMETERS
    ) as result:
        snapshot_state = result.scalar()
    # A transaction that has read something can be made no snapshot any more.
    connection.rollback()
    isolation = "SNAPSHOT" if snapshot_state == 1 else "READ COMMITTED"
    return [
        f"SET LOCK_TIMEOUT {_milliseconds(LOCK_WAIT_SECONDS)}",
        # Of two who wait for one another the hospital's own program goes on.
        "SET DEADLOCK_PRIORITY LOW",
        # By which a text is read as a day; the language first, as it sets the order too.
        "SET LANGUAGE us_english",
        "SET DATEFORMAT ymd",
        # FreeTDS, or its file of settings, may cut texts.
        "SET TEXTSIZE 2147483647",
        f"SET TRANSACTION ISOLATION LEVEL {isolation}",
    ]


# By these Oracle reads a text as a number or a day where it is compared with one, and
# compares texts letter by letter. A transaction that may not write reads all its
# statements as of its begin.
_ORACLE = [
    "ALTER SESSION SET NLS_NUMERIC_CHARACTERS = '.,'",
    "ALTER SESSION SET NLS_DATE_FORMAT = 'YYYY-MM-DD HH24:MI:SS'",
    "ALTER SESSION SET NLS_TIMESTAMP_FORMAT = 'YYYY-MM-DD HH24:MI:SS.FF'",
    "ALTER SESSION SET NLS_COMP = BINARY",
    "ALTER SESSION SET NLS_SORT = BINARY",
    "ALTER SESSION SET TIME_ZONE = '+00:00'",
    "SET TRANSACTION READ ONLY",
]


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
