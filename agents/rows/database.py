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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import duckdb
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from agents.rows.allowed_sql import CheckedQuery
from agents.rows.canonical_text import text_of_bytes
from agents.rows.dialect_text import (
    SERVERS_WITHOUT_LIMIT,
    quoted_names,
    text_constant,
)
from agents.rows.faults import (
    database_fault,
    does_not_answer,
    is_locked,
    safe_errors,
    tsql_fault,
)
from agents.rows.numbered_query import select_numbered
from agents.rows.server_types import oracle_columns, tsql_columns
from agents.rows.sessions import LOCK_WAIT_SECONDS, NO_PARAMETERS, prepare
from agents.rows.source_types import (
    PostgresType,
    SourceColumn,
    duckdb_column,
    mysql_columns,
    postgres_columns,
)
from agents.rows.source_url import DRIVER_MODULES, read_url
from protocol.errors import BadRequest, TooLarge

_AFTER = "; \n\t"
"""What may stand behind a checked text."""

Connect = Callable[[str | None], Any]
"""Opens a connection for rows, with a DuckDB file beside it or without."""

_COLUMNS = (
    "SELECT table_schema, table_name, column_name FROM information_schema.columns WHERE table_schema NOT IN"
    " ('information_schema', 'pg_catalog', 'mysql', 'performance_schema', 'sys')"
    " ORDER BY table_schema, table_name, ordinal_position"
)
# SQL Server may tell these names by case, and then has them in capitals alone.
_TSQL_COLUMNS = (
    "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME FROM INFORMATION_SCHEMA.COLUMNS"
    " ORDER BY TABLE_SCHEMA, TABLE_NAME, ORDINAL_POSITION"
)
_ORACLE_COLUMNS = (
    "SELECT owner, table_name, column_name FROM all_tab_columns WHERE owner NOT IN"
    " (SELECT username FROM all_users WHERE oracle_maintained = 'Y') ORDER BY owner, table_name, column_id"
)
_COLUMNS_OF = {"tsql": _TSQL_COLUMNS, "oracle": _ORACLE_COLUMNS}
_TSQL_RESULT = (
    "SELECT name, system_type_name, error_number, error_message FROM"
    " sys.dm_exec_describe_first_result_set({}, NULL, 0) ORDER BY column_ordinal"
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
        # On lines of its own below: the text may end with a comment, which would take
        # in the bracket that follows it.
        query_text = self.query.sql.rstrip(_AFTER)
        if self.query.dialect == "mysql":
            return f"(\n{query_text}\n) AS t"
        numbers = ", ".join(f"c{i}" for i in range(len(self.columns)))
        return f"(\n{query_text}\n) AS t ({numbers})"

    def select(self, places: Sequence[int], *, most_rows: int) -> str:
        """The columns at these places; of SQL Server and Oracle of so many rows at most,
        as others are told elsewhere how many they give.
        """
        selected = ", ".join(self.selected(place) for place in places) or "1"
        if self.query.dialect in SERVERS_WITHOUT_LIMIT:
            return select_numbered(
                self.query,
                n_columns=len(self.columns),
                selected=selected,
                most_rows=most_rows,
            )
        return f"SELECT {selected} FROM {self.relation}"  # noqa: S608

    def selected(self, place: int) -> str:
        """A column in a SELECT from `relation`, under its number."""
        column = self.columns[place]
        cell = f"c{place}"
        if self.query.dialect == "mysql":
            cell = quoted_names("mysql", [column.name])
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
    is_open: bool = False
    """Whether rows may travel from another machine unencrypted."""

    def described(
        self, query: CheckedQuery, *, connect: Connect | None = None
    ) -> DescribedQuery:
        """A checked query with the columns that it gives; no row is read.

        connect: of a DuckDB file, what opens the connection that will read it, so that
        not a second one is opened for this.

        Raises BadRequest (code missing_table, missing_column, duplicate_column, dialect
        or sql) when the database does not accept it, TooLarge (statement_timeout),
        Unavailable (code database or database_locked) when the database does not
        answer.
        """
        self._check_dialect(query)
        if self.dialect == "duckdb" and connect is not None:
            with safe_errors(self.statement_timeout_seconds):
                raw = connect(str(self.engine.url.database))
                return DescribedQuery(query, tuple(_duckdb_described(raw, query)))
        with (
            safe_errors(self.statement_timeout_seconds),
            self._connection() as connection,
        ):
            columns = self._described_columns(connection, query)
        return DescribedQuery(query, tuple(columns))

    def _described_columns(
        self, connection: sa.Connection, query: CheckedQuery
    ) -> list[SourceColumn]:
        raw: Any = connection.connection.driver_connection
        if self.dialect == "duckdb":
            return _duckdb_described(raw, query)
        query_text = query.sql.rstrip(_AFTER)
        if self.dialect == "tsql":
            return self._tsql_described(connection, query_text)
        if self.dialect == "oracle":
            return self._oracle_described(raw, query_text)
        sql = f"SELECT * FROM ({query_text}) AS t LIMIT 0"  # noqa: S608
        with connection.exec_driver_sql(sql, execution_options=NO_PARAMETERS) as result:
            described: Any = result.cursor.description
        if self.dialect == "mysql":
            return mysql_columns(described)
        return postgres_columns(
            described, lambda oids: _postgres_types(connection, oids)
        )

    def _oracle_described(self, raw: Any, text: str) -> list[SourceColumn]:
        """By parsing alone, for which SQLAlchemy has no word: nothing is executed."""
        driver_error = self.engine.dialect.loaded_dbapi.Error
        try:
            with raw.cursor() as cursor:
                cursor.parse(text)
                return oracle_columns(cursor.description)
        except driver_error as error:
            fault = database_fault(error, self.statement_timeout_seconds)
        # After the except, and not in it: the driver's error, whose text may hold
        # values, would hang on it as its context.
        raise fault

    def _tsql_described(
        self, connection: sa.Connection, text: str
    ) -> list[SourceColumn]:
        """By SQL Server's own description, which executes nothing and has its errors in
        a row.
        """
        sql = _TSQL_RESULT.format(_tsql_text(text))
        description = connection.exec_driver_sql(
            sql, execution_options=NO_PARAMETERS
        ).fetchall()
        for _, _, number, message in description:
            if number is not None:
                raise tsql_fault(
                    int(number), str(message), self.statement_timeout_seconds
                )
        return tsql_columns([(row[0], row[1]) for row in description])

    def most_rows(self, query: CheckedQuery) -> int:
        """How many rows a query may give: what the site and the policy allow."""
        return min(self.max_rows, query.max_rows)

    def stream(
        self, described: DescribedQuery, places: Sequence[int], *, batch_rows: int
    ) -> Iterator[list[list[str | None]]]:
        """The rows of a query of a server, the columns at these places, as texts that
        lose nothing, batch by batch.

        Raises as `described`, and TooLarge (code max_rows).

        Disclosure: patients' rows; only agents.rows may take them. Errors hold names
        only.
        """
        query = described.query
        most = self.most_rows(query)
        # One more than may come: that there are too many is said, and none is cut off
        # in silence.
        sql = described.select(places, most_rows=most + 1)
        with (
            safe_errors(self.statement_timeout_seconds),
            self._connection() as connection,
        ):
            if self.dialect == "mysql":
                connection.exec_driver_sql(f"SET SESSION sql_select_limit = {most + 1}")
            options = {"stream_results": True, **NO_PARAMETERS}
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
            sql = _COLUMNS_OF.get(self.dialect, _COLUMNS)
            column_rows = connection.exec_driver_sql(sql).fetchall()
        for schema, table, column in column_rows:
            tables.setdefault(f"{schema}.{table}", []).append(str(column))
        return [
            TableDescription(name=table_name, columns=tuple(columns))
            for table_name, columns in tables.items()
        ]

    @contextmanager
    def _connection(self) -> Iterator[sa.Connection]:
        connection = _connect(self.engine)
        try:
            prepare(
                connection,
                self.dialect,
                timeout_seconds=self.statement_timeout_seconds,
            )
            yield connection
        finally:
            connection.close()


def open_source(
    url: str | sa.URL,
    *,
    statement_timeout_seconds: float = 60.0,
    max_rows: int = 1_000_000,
) -> Source:
    """The database behind a SQLAlchemy URL (duckdb, postgresql+psycopg, mysql+pymysql,
    mssql+pymssql, oracle+oracledb); nothing is connected yet.

    Raises BadRequest (code database_url) when the URL cannot be read or names another
    kind of database, its driver is not installed, or rows would travel unencrypted. The
    URL, which may hold a password, is in no message.
    """
    parsed = read_url(url)
    return Source(
        dialect=parsed.dialect,
        engine=parsed.engine(statement_timeout_seconds),
        statement_timeout_seconds=statement_timeout_seconds,
        max_rows=max_rows,
        is_open=parsed.is_open,
    )


# To make an engine, which nothing connects, takes longer than to check an SQL text.
@functools.lru_cache(maxsize=4)
def dialect_of(url: str) -> str:
    """The dialect that `check_sql` needs for this URL, one of DIALECTS. Errors as
    `open_source`.
    """
    return open_source(url).dialect


def driver_modules(url: str) -> list[str]:
    """The modules that the first query of this URL's database would import.

    Errors as `open_source`.
    """
    source = open_source(url)
    return [
        DRIVER_MODULES[source.dialect],
        type(source.engine.dialect).__module__,
        f"sqlglot.dialects.{source.dialect}",
    ]


def _connect(engine: sa.Engine) -> sa.Connection:
    """A connection; while another process writes to a DuckDB file, tried again for a
    few seconds.
    """
    give_up = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        try:
            return engine.connect()
        except SQLAlchemyError as error:
            if is_locked(error) and time.monotonic() <= give_up:
                time.sleep(0.1)
                continue
            if engine.dialect.name in ("mssql", "oracle"):
                # Their drivers have one class for a wrong password and a wrong SELECT.
                raise does_not_answer(error) from None
            raise


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


def _duckdb_described(raw: Any, query: CheckedQuery) -> list[SourceColumn]:
    description = raw.execute(f"DESCRIBE {query.sql}").fetchall()
    return [duckdb_column(str(row[0]), str(row[1])) for row in description]


def _postgres_types(
    connection: sa.Connection, oids: Sequence[int]
) -> dict[int, PostgresType]:
    listed = ", ".join(str(int(oid)) for oid in oids)
    sql = f"SELECT oid, typname, typcategory FROM pg_catalog.pg_type WHERE oid IN ({listed})"  # noqa: S608
    type_rows = connection.exec_driver_sql(sql).fetchall()
    return {
        int(oid): PostgresType(str(type_name), str(category))
        for oid, type_name, category in type_rows
    }


def _tsql_text(text: str) -> str:
    """A statement as a constant of SQL Server, whatever letters are in it."""
    constant = text_constant("tsql", text)
    return constant if constant.startswith("N") else f"N{constant}"


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
