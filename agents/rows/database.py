"""The hospital's database: read-only connections with a time limit and a row limit, and
errors without values.

A connection lives for one read, so that a DuckDB file is locked no longer than that.
The text of a driver's error may hold values of rows; agents/rows/faults.py drops it.

Decision 42.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import duckdb
import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from agents.rows.allowed_sql import CheckedQuery
from agents.rows.canonical_text import text_of_bytes
from agents.rows.faults import is_locked, safe_errors
from agents.rows.source_types import (
    PostgresType,
    SourceColumn,
    duckdb_column,
    mysql_columns,
    postgres_columns,
)
from protocol.errors import BadRequest, TooLarge

DIALECT_OF_BACKEND = {
    "duckdb": "duckdb",
    "postgresql": "postgres",
    "mysql": "mysql",
    "mariadb": "mysql",
}
CONNECT_TIMEOUT_SECONDS = 10
LOCK_WAIT_SECONDS = 5.0

_NO_PARAMETERS: dict[str, Any] = {"no_parameters": True}
"""Of an execution: a % is only a %."""
_AFTER = "; \n\t"
"""What may stand behind a checked text."""

_COLUMNS = (
    "SELECT table_schema, table_name, column_name FROM information_schema.columns WHERE table_schema NOT IN"
    " ('information_schema', 'pg_catalog', 'mysql', 'performance_schema', 'sys')"
    " ORDER BY table_schema, table_name, ordinal_position"
)


@dataclass(frozen=True)
class TableDescription:
    """A table or view of the database: its name with schema, and its columns in order."""

    name: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class DescribedQuery:
    """A checked query, and the columns that it gives, in order."""

    query: CheckedQuery
    columns: tuple[SourceColumn, ...]

    @property
    def names(self) -> list[str]:
        """The names of the columns, as the database writes them."""
        return [column.name for column in self.columns]

    @property
    def relation(self) -> str:
        """The query as what a SELECT is from.

        Two columns may have one name, so they are numbered; MariaDB has no names for
        the columns of a subquery, and refuses two of one name itself.
        """
        text = self.query.sql.rstrip(_AFTER)
        if self.query.dialect == "mysql":
            return f"(\n{text}\n) AS t"
        numbers = ", ".join(f"c{i}" for i in range(len(self.columns)))
        return f"(\n{text}\n) AS t ({numbers})"

    def selected(self, place: int) -> str:
        """A column in a SELECT from `relation`, under its number."""
        column = self.columns[place]
        cell = f"c{place}"
        if self.query.dialect == "mysql":
            cell = "`" + column.name.replace("`", "``") + "`"
        return f"{column.selected(cell)} AS c{place}"


@dataclass(frozen=True)
class Source:
    """One hospital's database.

    Made by `open_source`; holds no open connection between reads.
    """

    dialect: str
    engine: sa.Engine
    statement_timeout_seconds: float
    max_rows: int

    def described(self, query: CheckedQuery) -> DescribedQuery:
        """A checked query with the columns that it gives; no row is read.

        Raises BadRequest (code missing_table, missing_column, duplicate_column, dialect
        or sql) when the database does not accept it, TooLarge (statement_timeout),
        Unavailable (code database or database_locked) when the database does not
        answer.
        """
        self._check_dialect(query)
        text = query.sql.rstrip(_AFTER)
        sql = f"SELECT * FROM ({text}) AS t LIMIT 0"  # noqa: S608
        with (
            safe_errors(self.statement_timeout_seconds),
            self._connection() as connection,
        ):
            if self.dialect == "duckdb":
                raw: Any = connection.connection.driver_connection
                found = raw.execute(f"DESCRIBE {query.sql}").fetchall()
                columns = [duckdb_column(str(row[0]), str(row[1])) for row in found]
                return DescribedQuery(query, tuple(columns))
            with connection.exec_driver_sql(
                sql, execution_options=_NO_PARAMETERS
            ) as result:
                described: Any = result.cursor.description
            if self.dialect == "mysql":
                columns = mysql_columns(described)
            else:
                columns = postgres_columns(
                    described, lambda oids: _postgres_types(connection, oids)
                )
            return DescribedQuery(query, tuple(columns))

    def most_rows(self, query: CheckedQuery) -> int:
        """How many rows a query may give: what the site and the policy allow."""
        return min(self.max_rows, query.max_rows)

    def stream(
        self, described: DescribedQuery, places: Sequence[int], *, batch_rows: int
    ) -> Iterator[list[list[str | None]]]:
        """The rows of a query of PostgreSQL or MySQL, the columns at these places, as
        texts that lose nothing, batch by batch.

        Raises as `described`, and TooLarge (code max_rows).

        Disclosure: patients' rows; only agents.rows may take them. Errors hold names
        only.
        """
        query = described.query
        most = self.most_rows(query)
        taken = ", ".join(described.selected(place) for place in places) or "1"
        sql = f"SELECT {taken} FROM {described.relation}"  # noqa: S608
        with (
            safe_errors(self.statement_timeout_seconds),
            self._connection() as connection,
        ):
            if self.dialect == "mysql":
                connection.exec_driver_sql(f"SET SESSION sql_select_limit = {most + 1}")
            options = {"stream_results": True, **_NO_PARAMETERS}
            n_rows = 0
            with connection.exec_driver_sql(sql, execution_options=options) as result:
                while rows := result.fetchmany(batch_rows):
                    n_rows += len(rows)
                    check_row_limit(n_rows, most)
                    yield [[_as_text(value) for value in row] for row in rows]

    def fails(self, described: DescribedQuery, places: Sequence[int]) -> bool:
        """Whether these columns cannot be read; of none, whether the rows cannot."""
        try:
            for _ in self.stream(described, places, batch_rows=1_000):
                pass
        except BadRequest:
            return True
        return False

    def _check_dialect(self, query: CheckedQuery) -> None:
        if query.dialect != self.dialect:
            raise BadRequest(
                f"The SQL was checked for {query.dialect}, but the database is {self.dialect}.",
                remedy="Check it again with the dialect of the site's database.",
                code="dialect",
            )

    def describe(self) -> list[TableDescription]:
        """Every table and view that this connection sees, with its columns.

        Errors as `read`.
        """
        tables: dict[str, list[str]] = {}
        with (
            safe_errors(self.statement_timeout_seconds),
            self._connection() as connection,
        ):
            found = connection.exec_driver_sql(_COLUMNS).fetchall()
        for schema, table, column in found:
            tables.setdefault(f"{schema}.{table}", []).append(str(column))
        return [
            TableDescription(name=name, columns=tuple(columns))
            for name, columns in tables.items()
        ]

    @contextmanager
    def _connection(self) -> Iterator[sa.Connection]:
        connection = _connect(self.engine)
        try:
            for statement in _preparation(
                connection, self.dialect, self.statement_timeout_seconds
            ):
                connection.exec_driver_sql(statement)
            yield connection
        finally:
            connection.close()


def open_source(
    url: str, *, statement_timeout_seconds: float = 60.0, max_rows: int = 1_000_000
) -> Source:
    """The database behind a SQLAlchemy URL (duckdb, postgresql+psycopg, mysql+pymysql);
    nothing is connected yet.

    Raises BadRequest (code database_url) when the URL cannot be read or names another
    kind of database. The URL, which may hold a password, is in no message.
    """
    try:
        parsed = sa.make_url(url)
        dialect = DIALECT_OF_BACKEND[parsed.get_backend_name()]
        engine = sa.create_engine(
            parsed,
            poolclass=sa.pool.NullPool,
            connect_args=_connect_arguments(parsed, dialect),
        )
    except (ArgumentError, KeyError, NoSuchModuleError, ImportError):
        raise BadRequest(
            "The site's database URL cannot be used.",
            remedy="Write duckdb:///path/hospital.duckdb, postgresql+psycopg://... or mysql+pymysql://...",
            code="database_url",
        ) from None
    return Source(
        dialect=dialect,
        engine=engine,
        statement_timeout_seconds=statement_timeout_seconds,
        max_rows=max_rows,
    )


# To make an engine, which nothing connects, takes longer than to check an SQL text.
@functools.lru_cache(maxsize=4)
def dialect_of(url: str) -> str:
    """The dialect that `check_sql` needs for this URL: duckdb, postgres or mysql.
    Errors as `open_source`.
    """
    return open_source(url).dialect


def driver_modules(url: str) -> list[str]:
    """The modules that the first query of this URL's database would import.

    Errors as `open_source`.
    """
    source = open_source(url)
    driver = {"duckdb": "duckdb_engine", "postgres": "psycopg", "mysql": "pymysql"}[
        source.dialect
    ]
    return [
        driver,
        type(source.engine.dialect).__module__,
        f"sqlglot.dialects.{source.dialect}",
    ]


def _connect_arguments(url: sa.URL, dialect: str) -> dict[str, Any]:
    if dialect != "duckdb":
        return {"connect_timeout": CONNECT_TIMEOUT_SECONDS}
    in_memory = url.database in (None, "", ":memory:")
    # Not by SET behind it: connections of one process to a file share its
    # configuration, which the first one would have locked for the second.
    config = {
        "enable_external_access": False,
        "python_enable_replacements": False,
        "lock_configuration": True,
    }
    return {"read_only": not in_memory, "config": config}


def _connect(engine: sa.Engine) -> sa.Connection:
    """A connection; while another process writes to a DuckDB file, tried again for a
    few seconds.
    """
    give_up = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        try:
            return engine.connect()
        except SQLAlchemyError as error:
            if not is_locked(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.1)


def attach_read_only(connection: Any, path: str, *, name: str) -> None:
    """Attaches a DuckDB file to a DuckDB connection; while another process writes to
    it, tried again for a while.
    """
    quoted = path.replace("'", "''")
    give_up = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        try:
            connection.execute(f"ATTACH '{quoted}' AS {name} (READ_ONLY)")
            return
        except duckdb.Error as error:
            if not is_locked(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.1)


def _preparation(
    connection: sa.Connection, dialect: str, timeout_seconds: float
) -> list[str]:
    """What makes a fresh connection read-only, limited, and parse texts as the checker
    did.
    """
    milliseconds = max(1, round(timeout_seconds * 1000))
    if dialect == "duckdb":
        return []  # `_connect_arguments` has said it all
    if dialect == "postgres":
        return [
            "SET TRANSACTION READ ONLY",
            f"SET LOCAL statement_timeout = {milliseconds}",
            "SET LOCAL standard_conforming_strings = on",
            # How values are written, not how they are read: the order of day and month
            # stays the server's.
            "SET LOCAL datestyle = 'ISO'",
            "SET LOCAL extra_float_digits = 1",
        ]
    is_mariadb = bool(getattr(connection.dialect, "is_mariadb", False))
    limit = (
        f"max_statement_time = {timeout_seconds:f}"
        if is_mariadb
        else f"max_execution_time = {milliseconds}"
    )
    return [
        f"SET SESSION {limit}",
        "SET SESSION sql_mode = 'ONLY_FULL_GROUP_BY'",
        "SET SESSION TRANSACTION READ ONLY",
        "START TRANSACTION READ ONLY",
    ]


@contextmanager
def interrupted_after(seconds: float, raw: Any) -> Iterator[None]:
    """Interrupts a DuckDB connection from a thread, again and again: between two of its
    steps one is lost.
    """
    done = threading.Event()

    def interrupt() -> None:
        wait = seconds
        while not done.wait(wait):
            raw.interrupt()
            wait = 0.1

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _postgres_types(
    connection: sa.Connection, oids: Sequence[int]
) -> dict[int, PostgresType]:
    listed = ", ".join(str(int(oid)) for oid in oids)
    sql = f"SELECT oid, typname, typcategory FROM pg_catalog.pg_type WHERE oid IN ({listed})"  # noqa: S608
    found = connection.exec_driver_sql(sql).fetchall()
    return {int(oid): PostgresType(str(name), str(kind)) for oid, name, kind in found}


def _as_text(value: Any) -> str | None:
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, bytes | bytearray | memoryview):
        return text_of_bytes(bytes(value))
    return value if value is None or isinstance(value, str) else str(value)


def check_row_limit(n_rows: int, max_rows: int) -> None:
    """TooLarge (code max_rows) for more rows than may be read."""
    if n_rows > max_rows:
        raise TooLarge(
            f"The data SQL gives more than {max_rows} rows.",
            remedy="Narrow it by WHERE, or raise cohort.max_rows in the hospital's policy.toml.",
            code="max_rows",
        )
