"""A checked query's rows in a relation of DuckDB: the columns that are needed, and whose
each row is.

The query is described first; what is read is a SELECT of the needed columns from it, so
that the database sends no other. DuckDB reads its own file; from PostgreSQL and MariaDB
the rows are streamed in batches.

Decision 42.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from agents.rows.canonical_text import stripped_sql
from agents.rows.database import (
    Connect,
    DescribedQuery,
    Source,
    check_row_limit,
    interrupted_after,
)
from agents.rows.faults import safe_errors, safe_reading
from agents.rows.files import no_column
from agents.rows.relation import (
    ATTACHED,
    BATCH_ROWS,
    IDENTIFIED,
    UNIQUE_ID,
    Cell,
    Identity,
    NamedCell,
    count_rows,
    create_empty,
    insert_texts,
    is_missing,
    needed_place,
    select_identified,
)
from agents.rows.source_types import SourceColumn
from protocol.errors import BadRequest, ConsiliumError


@dataclass(frozen=True)
class QueryRows:
    """The connection that holds IDENTIFIED, and what its types do not say."""

    connection: Any
    numbers: frozenset[str]
    """Needed columns of texts that the database holds as numbers."""
    id_is_number: bool


@dataclass(frozen=True)
class _Needed:
    """A needed column: the name it is asked for, and its place in the query."""

    name: str
    place: int


def read_query(
    source: Source,
    described: DescribedQuery,
    *,
    columns: Sequence[str] | None,
    unique_id: str | None,
    connect: Connect,
) -> QueryRows:
    """Reads the needed columns of a checked query into IDENTIFIED.

    columns: by name, as `found_column` finds them; None for all that have a form.
    unique_id: the column that says whose a row is; None for the digest of all columns.

    Raises BadRequest (missing_column, duplicate_column, column_type, and sql, which
    names the needed columns that the database cannot give), and as `Source.stream`.

    Disclosure: patients' rows, in the connection only.
    """
    query = _Query(source, described, columns, unique_id)
    try:
        if source.dialect == "duckdb":
            connection = query.read_duckdb(connect)
        else:
            connection = query.stream(connect)
    except BadRequest as error:
        if error.code != "sql":
            raise
        raise query.named(error, connect) from None
    return QueryRows(connection, query.numbers, query.id_is_number)


class _Query:
    """The reading of one query."""

    def __init__(
        self,
        source: Source,
        described: DescribedQuery,
        columns: Sequence[str] | None,
        unique_id: str | None,
    ) -> None:
        self.source, self.described = source, described
        self.unique_id: int | None = None
        if unique_id is not None:
            self.unique_id = described.names.index(unique_id)
            described.columns[self.unique_id].check_form(unique_id)
        self.needed = self._needed(columns)

    def _needed(self, columns: Sequence[str] | None) -> list[_Needed]:
        names = self.described.names
        asked_columns = self._readable() if columns is None else columns
        missing = [name for name in asked_columns if is_missing(name, names)]
        if missing:
            raise no_column(", ".join(missing), names)
        needed_columns = []
        for column_name in asked_columns:
            column_place = needed_place(column_name, names)
            self.described.columns[column_place].check_form(column_name)
            needed_columns.append(_Needed(column_name, column_place))
        return needed_columns

    def _readable(self) -> list[str]:
        """All columns that have a form and that an order can ask for, each name once."""
        readable: dict[str, None] = {}
        for column in self.described.columns:
            if not column.no_form and column.name != UNIQUE_ID:
                readable[column.name] = None
        return list(readable)

    @property
    def numbers(self) -> frozenset[str]:
        columns = self.described.columns
        return frozenset(
            column.name for column in self.needed if columns[column.place].is_number
        )

    @property
    def id_is_number(self) -> bool:
        if self.unique_id is None:
            return False
        return self.described.columns[self.unique_id].is_number

    @property
    def _places(self) -> list[int]:
        """The columns that are read: those of a whole row are all of them."""
        if self.unique_id is None:
            return list(range(len(self.described.columns)))
        column_places = [column.place for column in self.needed]
        return list(dict.fromkeys([*column_places, self.unique_id]))

    def _relation(
        self, cell: Callable[[int], Cell]
    ) -> tuple[list[NamedCell], Identity]:
        """The columns of IDENTIFIED, of cells by their places in the query."""
        named_cells = [
            NamedCell(column.name, cell(column.place)) for column in self.needed
        ]
        if self.unique_id is not None:
            return named_cells, Identity(cell(self.unique_id))
        names = self.described.names
        whole_row = [NamedCell(names[place], cell(place)) for place in self._places]
        return named_cells, Identity(None, tuple(whole_row))

    # DuckDB

    def read_duckdb(self, connect: Connect) -> Any:
        timeout_seconds = self.source.statement_timeout_seconds
        most_rows = self.source.most_rows(self.described.query)
        named_cells, identity = self._relation(self._duckdb_cell)
        selected = select_identified(self.described.relation, named_cells, identity)
        with safe_errors(timeout_seconds):
            connection = connect(str(self.source.engine.url.database))
            with interrupted_after(timeout_seconds, connection):
                connection.execute(
                    f"CREATE TABLE memory.main.{IDENTIFIED} AS {selected} LIMIT {most_rows + 1}"
                )
            connection.execute("USE memory.main")
            # While it is attached nobody else can write to the file.
            connection.execute(f"DETACH {ATTACHED}")
        check_row_limit(count_rows(connection, IDENTIFIED), most_rows)
        return connection

    def _duckdb_cell(self, place: int) -> Cell:
        column = self.described.columns[place]
        return Cell(column.selected(f"c{place}"), column.kind)

    # PostgreSQL, MariaDB and MySQL

    def stream(self, connect: Connect) -> Any:
        column_places = self._places
        streamed = {place: i for i, place in enumerate(column_places)}

        def cell(place: int) -> Cell:
            return _typed_text(self.described.columns[place], f"c{streamed[place]}")

        named_cells, identity = self._relation(cell)
        connection = connect(None)
        with safe_reading(self.source.statement_timeout_seconds):
            create_empty(connection, len(column_places), named_cells, identity)
            for batch in self.source.stream(
                self.described, column_places, batch_rows=BATCH_ROWS
            ):
                insert_texts(connection, batch, named_cells, identity)
        return connection

    # errors

    def named(self, error: BadRequest, connect: Connect) -> BadRequest:
        """The same error with the needed columns that alone cannot be read."""
        # Where not even the rows can be read, no column is to blame.
        if self._fails([], connect):
            return error
        failing_columns = []
        for column_place in self._places:
            if self._fails([column_place], connect):
                failing_columns.append(self.described.names[column_place])
        if not failing_columns:
            return error
        return BadRequest(
            f"The database cannot give every value of {', '.join(failing_columns)}.",
            remedy="Try it at the hospital; correct the values, or convert them in a view.",
            code="sql",
        )

    def _fails(self, places: list[int], connect: Connect) -> bool:
        if self.source.dialect != "duckdb":
            return self.source.fails(self.described, places)
        counted = [f"count({self._duckdb_cell(place).sql})" for place in places]
        sql = (
            f"SELECT {', '.join(counted) or 'count(*)'} FROM {self.described.relation}"  # noqa: S608
        )
        try:
            with safe_errors(self.source.statement_timeout_seconds):
                connection = connect(str(self.source.engine.url.database))
                with interrupted_after(
                    self.source.statement_timeout_seconds, connection
                ):
                    connection.execute(sql)
        except ConsiliumError:
            return True
        return False


def _typed_text(column: SourceColumn, text: str) -> Cell:
    """A text that a driver gave, as its type."""
    stripped = stripped_sql(text)
    if column.kind == "VARCHAR":
        return Cell(stripped, column.kind)
    return Cell(f"CAST({stripped} AS {column.kind})", column.kind)
