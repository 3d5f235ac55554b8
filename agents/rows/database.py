"""The hospital's database: read-only connections with a time limit and a row limit, and errors without values.

A connection lives for one read, so that a DuckDB file is locked no longer than that. The text of a driver's error
may hold values of rows; agents/rows/faults.py drops it.

Decision 42.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from agents.rows.allowed_sql import CheckedQuery
from agents.rows.faults import is_locked, safe_errors
from protocol.errors import BadRequest, TooLarge

DIALECT_OF_BACKEND = {"duckdb": "duckdb", "postgresql": "postgres", "mysql": "mysql", "mariadb": "mysql"}
CONNECT_TIMEOUT_SECONDS = 10
LOCK_WAIT_SECONDS = 5.0

_DRIVER_TYPES: dict[str, dict[int, str]] = {
    "postgres": {16: "BOOLEAN", 20: "HUGEINT", 21: "HUGEINT", 23: "HUGEINT", 700: "FLOAT", 701: "DOUBLE"},
    "mysql": {1: "HUGEINT", 2: "HUGEINT", 3: "HUGEINT", 8: "HUGEINT", 9: "HUGEINT", 4: "FLOAT", 5: "DOUBLE"},
}
"""What the type codes of psycopg (object ids) and PyMySQL (field types) mean."""

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
class Source:
    """One hospital's database. Made by `open_source`; holds no open connection between reads."""

    dialect: str
    engine: sa.Engine
    statement_timeout_seconds: float
    max_rows: int

    def read(self, query: CheckedQuery) -> pd.DataFrame:
        """Run a checked query and return its rows, columns named and ordered as the database gives them.

        No number loses a digit: whole numbers are integers, decimals are `Decimal`; a float stands only for what the
        database itself holds as one, and at a DuckDB site for numbers of at most 15 digits, which it holds, and for
        whole numbers of a column with a NULL.

        Raises BadRequest (code missing_table, missing_column, dialect or sql) when the database does not accept it,
        TooLarge (code max_rows or statement_timeout) beyond a limit, Unavailable (code database or database_locked)
        when the database does not answer.

        Disclosure: the frame holds patients' rows; only agents.rows.cohort may take it. Errors hold names only.
        """
        if query.dialect != self.dialect:
            raise BadRequest(
                f"The SQL was checked for {query.dialect}, but the database is {self.dialect}.",
                remedy="Check it again with the dialect of the site's database.",
                code="dialect",
            )
        return self._rows(query.sql, max_rows=min(self.max_rows, query.max_rows))

    def types(self, query: CheckedQuery) -> dict[str, str]:
        """The columns that a query of PostgreSQL or MySQL gives: HUGEINT, BOOLEAN, FLOAT, DOUBLE, or VARCHAR.

        Exact decimals and all that is no number are VARCHAR: their digits stay as they are. Errors as `read`.
        """
        kinds = _DRIVER_TYPES[self.dialect]
        with safe_errors(self.statement_timeout_seconds), self._connection() as connection:
            sql = f"SELECT * FROM ({query.sql.rstrip('; ')}) AS t LIMIT 0"  # noqa: S608 - checked by agents.sql
            with connection.exec_driver_sql(sql, execution_options={"no_parameters": True}) as result:
                described: Any = result.cursor.description
        columns = [(str(column[0]), column[1]) for column in described]
        return {name: kinds.get(code, "VARCHAR") for name, code in columns}

    def stream(
        self, query: CheckedQuery, types: dict[str, str], *, batch_rows: int
    ) -> Iterator[list[list[str | None]]]:
        """The rows of a query with these `types`, as texts that lose nothing, batch by batch. Errors as `read`."""
        max_rows = min(self.max_rows, query.max_rows)
        sql = f"SELECT {', '.join(map(self._whole, types, types.values()))} FROM ({query.sql.rstrip('; ')}) AS t"  # noqa: S608
        with safe_errors(self.statement_timeout_seconds), self._connection() as connection:
            if self.dialect == "mysql":
                connection.exec_driver_sql(f"SET SESSION sql_select_limit = {max_rows + 1}")
            options = {"stream_results": True, "no_parameters": True}
            n_rows = 0
            with connection.exec_driver_sql(sql, execution_options=options) as result:
                while rows := result.fetchmany(batch_rows):
                    n_rows += len(rows)
                    _check_rows(n_rows, max_rows)
                    yield [[_as_text(value) for value in row] for row in rows]

    def _whole(self, name: str, kind: str) -> str:
        """A column in a select list; MySQL would write a FLOAT with six digits."""
        mark = "`" if self.dialect == "mysql" else '"'
        quoted = mark + name.replace(mark, mark * 2) + mark
        return f"{quoted} + 0e0 AS {quoted}" if (kind, self.dialect) == ("FLOAT", "mysql") else quoted

    def describe(self) -> list[TableDescription]:
        """Every table and view that this connection sees, with its columns. Errors as `read`."""
        tables: dict[str, list[str]] = {}
        for schema, table, column in self._rows(_COLUMNS, max_rows=1_000_000).itertuples(index=False):
            tables.setdefault(f"{schema}.{table}", []).append(str(column))
        return [TableDescription(name=name, columns=tuple(columns)) for name, columns in tables.items()]

    def _rows(self, sql: str, *, max_rows: int) -> pd.DataFrame:
        with safe_errors(self.statement_timeout_seconds), self._connection() as connection:
            if self.dialect == "duckdb":
                return self._duckdb_rows(connection, sql, max_rows=max_rows)
            return _driver_rows(connection, sql, max_rows=max_rows)

    @contextmanager
    def _connection(self) -> Iterator[sa.Connection]:
        connection = _connect(self.engine)
        try:
            for statement in _preparation(connection, self.dialect, self.statement_timeout_seconds):
                connection.exec_driver_sql(statement)
            yield connection
        finally:
            connection.close()

    def _duckdb_rows(self, connection: sa.Connection, sql: str, *, max_rows: int) -> pd.DataFrame:
        raw: Any = connection.connection.driver_connection
        with interrupted_after(self.statement_timeout_seconds, raw):
            described = raw.execute(f"DESCRIBE {sql}").fetchall()
            columns = [_DuckdbColumn(f"c{i}", str(row[0]), str(row[1])) for i, row in enumerate(described)]
            selected = ", ".join(part for column in columns for part in column.selected)
            names = ", ".join(column.place for column in columns)
            text = sql.rstrip("; \n\t")
            raw.execute(f"SELECT {selected} FROM (\n{text}\n) AS t ({names})")  # noqa: S608 - checked by agents.sql
            return _joined_chunks(raw, columns, max_rows=max_rows)


def open_source(url: str, *, statement_timeout_seconds: float = 60.0, max_rows: int = 1_000_000) -> Source:
    """The database behind a SQLAlchemy URL (duckdb, postgresql+psycopg, mysql+pymysql); nothing is connected yet.

    Raises BadRequest (code database_url) when the URL cannot be read or names another kind of database. The URL,
    which may hold a password, is in no message.
    """
    try:
        parsed = sa.make_url(url)
        dialect = DIALECT_OF_BACKEND[parsed.get_backend_name()]
        engine = sa.create_engine(
            parsed, poolclass=sa.pool.NullPool, connect_args=_connect_arguments(parsed, dialect)
        )
    except (ArgumentError, KeyError, NoSuchModuleError, ImportError):
        raise BadRequest(
            "The site's database URL cannot be used.",
            remedy="Write duckdb:///path/hospital.duckdb, postgresql+psycopg://... or mysql+pymysql://...",
            code="database_url",
        ) from None
    return Source(
        dialect=dialect, engine=engine, statement_timeout_seconds=statement_timeout_seconds, max_rows=max_rows
    )


def dialect_of(url: str) -> str:
    """The dialect that `check_sql` needs for this URL: duckdb, postgres or mysql. Errors as `open_source`."""
    return open_source(url).dialect


def driver_modules(url: str) -> list[str]:
    """The modules that the first query of this URL's database would import. Errors as `open_source`."""
    source = open_source(url)
    driver = {"duckdb": "duckdb_engine", "postgres": "psycopg", "mysql": "pymysql"}[source.dialect]
    return [driver, type(source.engine.dialect).__module__, f"sqlglot.dialects.{source.dialect}"]


def _connect_arguments(url: sa.URL, dialect: str) -> dict[str, Any]:
    if dialect != "duckdb":
        return {"connect_timeout": CONNECT_TIMEOUT_SECONDS}
    in_memory = url.database in (None, "", ":memory:")
    return {"read_only": not in_memory, "config": {"enable_external_access": False}}


def _connect(engine: sa.Engine) -> sa.Connection:
    """A connection; while another process writes to a DuckDB file, tried again for a few seconds."""
    give_up = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        try:
            return engine.connect()
        except SQLAlchemyError as error:
            if not is_locked(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.1)


def attach_read_only(connection: Any, path: str, *, name: str) -> None:
    """Attaches a DuckDB file to a DuckDB connection; while another process writes to it, tried again for a while."""
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


def _preparation(connection: sa.Connection, dialect: str, timeout_seconds: float) -> list[str]:
    """What makes a fresh connection read-only, limited, and parse texts as the checker did."""
    milliseconds = max(1, round(timeout_seconds * 1000))
    if dialect == "duckdb":
        return ["SET python_enable_replacements = false", "SET lock_configuration = true"]
    if dialect == "postgres":
        return [
            "SET TRANSACTION READ ONLY",
            f"SET LOCAL statement_timeout = {milliseconds}",
            "SET LOCAL standard_conforming_strings = on",
        ]
    is_mariadb = bool(getattr(connection.dialect, "is_mariadb", False))
    limit = (
        f"max_statement_time = {timeout_seconds:f}" if is_mariadb else f"max_execution_time = {milliseconds}"
    )
    return [
        f"SET SESSION {limit}",
        "SET SESSION sql_mode = 'ONLY_FULL_GROUP_BY'",
        "SET SESSION TRANSACTION READ ONLY",
        "START TRANSACTION READ ONLY",
    ]


@contextmanager
def interrupted_after(seconds: float, raw: Any) -> Iterator[None]:
    """Interrupts a DuckDB connection from a thread, again and again: between two of its steps one is lost."""
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


_LARGEST_WHOLE = 2**53  # up to here every whole number is a double
_DOUBLE_DIGITS = 15  # so many digits of any decimal come back from its double
_EXACT_POWER = 22  # the last power of ten that is a double: DuckDB divides by it
_DECIMAL = re.compile(r"DECIMAL\((\d+),(\d+)\)")


@dataclass(frozen=True)
class _DuckdbColumn:
    """A column of a DuckDB query, read by its place: two may have one name.

    DuckDB makes doubles of HUGEINT and DECIMAL on their way into a data frame. So numbers that a double may not hold
    are read as text beside the others; where there are none, the column costs no more than one of doubles.
    """

    place: str
    name: str
    kind: str

    @property
    def selected(self) -> list[str]:
        if self._is_small is None:
            return [self.place]
        small = f"CASE WHEN {self._is_small} THEN CAST({self.place} AS DOUBLE) END AS {self.place}"
        return [
            small,
            f"CASE WHEN NOT ({self._is_small}) THEN CAST({self.place} AS VARCHAR) END AS {self._large}",
        ]

    @property
    def _large(self) -> str:
        return f"{self.place}_large"

    @property
    def _is_small(self) -> str | None:
        """Which numbers a double surely holds, as SQL; None where the column comes as it is."""
        if self.kind == "HUGEINT":
            return f"{self.place} BETWEEN -{_LARGEST_WHOLE} AND {_LARGEST_WHOLE}"
        if self.kind == "UHUGEINT":
            return f"{self.place} <= {_LARGEST_WHOLE}"
        if self.kind == "BIGNUM":
            return f"coalesce(TRY_CAST({self.place} AS HUGEINT) BETWEEN -{_LARGEST_WHOLE} AND {_LARGEST_WHOLE}, false)"
        found = _DECIMAL.fullmatch(self.kind)
        if found is None or int(found[1]) <= _DOUBLE_DIGITS:
            return None
        if int(found[2]) > _EXACT_POWER:
            return f"{self.place} = 0"
        most = f"CAST('1e{_DOUBLE_DIGITS - int(found[2])}' AS {self.kind})"
        return f"({self.place} > -{most} AND {self.place} < {most})"

    def values(self, chunk: pd.DataFrame) -> pd.Series[Any]:
        small = chunk[self.place]
        if self._is_small is None:
            return small
        texts = chunk[self._large]
        is_large = texts.notna().to_numpy()
        if not is_large.any():
            return small
        number = Decimal if _DECIMAL.fullmatch(self.kind) else int
        values = small.astype(object)
        values[is_large] = [number(text) for text in texts[is_large]]
        return values


def _joined_chunks(raw: Any, columns: Sequence[_DuckdbColumn], *, max_rows: int) -> pd.DataFrame:
    chunks: list[pd.DataFrame] = []
    n_vectors, n_rows, n_last = 1, 0, 1
    while n_rows <= max_rows and n_last:
        chunk = raw.fetch_df_chunk(n_vectors)
        n_vectors, n_last = 64, len(chunk)
        n_rows += n_last
        if n_last or not chunks:
            chunks.append(pd.concat([column.values(chunk) for column in columns], axis=1))
    _check_rows(n_rows, max_rows)
    frame = pd.concat(chunks, ignore_index=True)
    frame.columns = pd.Index([column.name for column in columns])
    return frame


def _driver_rows(connection: sa.Connection, sql: str, *, max_rows: int) -> pd.DataFrame:
    if connection.dialect.name != "postgresql":  # streamed, a MySQL driver would read the rest on closing
        connection.exec_driver_sql(f"SET SESSION sql_select_limit = {max_rows + 1}")
    options = {
        "stream_results": connection.dialect.name == "postgresql",
        "no_parameters": True,
    }  # a % is only a %
    with connection.exec_driver_sql(sql, execution_options=options) as result:
        rows, names = result.fetchmany(max_rows + 1), list(result.keys())
    _check_rows(len(rows), max_rows)
    found = [tuple(row) for row in rows]
    frame = pd.DataFrame.from_records(found, columns=range(len(names)))
    for place in _float_places(frame):
        values = [row[place] for row in found]
        if any(isinstance(value, int) for value in values):
            frame[place] = pd.Series(values, dtype=object)
    frame.columns = pd.Index(names)
    return frame


def _float_places(frame: pd.DataFrame) -> list[int]:
    """Columns of floats in which some are missing: pandas makes those of whole numbers beside a NULL."""
    places = range(frame.shape[1])
    return [place for place in places if frame[place].dtype == np.float64 and frame[place].hasnans]


def _as_text(value: Any) -> str | None:
    if isinstance(value, Decimal):
        return format(value, "f")
    return value if value is None or isinstance(value, str) else str(value)


def _check_rows(n_rows: int, max_rows: int) -> None:
    if n_rows > max_rows:
        raise TooLarge(
            f"The data SQL gives more than {max_rows} rows.",
            remedy="Narrow it by WHERE, or raise cohort.max_rows in the hospital's policy.toml.",
            code="max_rows",
        )
