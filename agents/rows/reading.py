"""Opens one provider's data: a file, a table or a SELECT, and nothing else. There is no
other way to rows, for statistics, training and inference alike.

The connection is in memory, may spill to a private folder, and can open no file but the
one it was given. It has the needed columns only: numbers of their type, or text. A
parquet file is read where it lies, all else is copied in once: what is asked later sees
the same rows.

To read next: `agents.rows.requested_data`, what a policy lets a user ask of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import duckdb

from agents.rows.allowed_sql import CheckedQuery
from agents.rows.canonical_text import has_value_sql, stripped_sql
from agents.rows.database_rows import read_query
from agents.rows.dataset import Dataset
from agents.rows.faults import safe_reading
from agents.rows.files import no_column
from agents.rows.relation import (
    IDENTIFIED,
    UNIQUE_ID,
    Cell,
    Identity,
    NamedCell,
    count_rows,
    create_empty,
    insert_texts,
    needed_place,
    quoted,
)
from agents.rows.requested_data import (
    DataRequest,
    Room,
    RowFacts,
    described_query,
    populations_of,
)
from agents.rows.snapshot import (
    SnapshotFacts,
    select_snapshot,
    snapshot_facts,
    write_snapshot,
)
from agents.site.settings import SiteSettings
from agents.site.vault import damaged
from protocol.errors import BadRequest, Refused, TooLarge
from protocol.policy import Policy

MAX_COLUMNS = 4_096
_ALL_ROWS = "all_rows"


@contextmanager
def open_query(
    settings: SiteSettings,
    query: CheckedQuery,
    *,
    unique_id: str,
    columns: Sequence[str] | None,
    complete_on: Sequence[str] = (),
    min_rows: int = 0,
) -> Iterator[Dataset]:
    """Opens the rows of a checked query, of which `unique_id` says whose each is.

    columns: those that are needed, each in the result once; None for all that have a
    form. complete_on: columns without whose value a row is none of the data. min_rows:
    smaller counts are told to nobody.

    Raises as `agents.rows.database_rows.read_query`, and BadRequest (missing_column); of
    a cohort Refused (cohort_definition, cohort_rows).

    Disclosure: as `Dataset`; errors name columns and, not below min_rows, counts.
    """
    with ExitStack() as stack:
        room = Room(settings, stack)
        source, described = described_query(settings, query, room)
        needed_columns = columns
        if columns is not None:
            needed_columns = list(dict.fromkeys([*columns, *complete_on]))
        id_place = needed_place(unique_id, described.names)
        rows = read_query(
            source,
            described,
            columns=needed_columns,
            unique_id=described.names[id_place],
            connect=room.of_database,
        )
        yield _dataset(
            rows.connection,
            RowFacts(
                name=query.sql,
                populations=populations_of(query),
                is_whole_row=False,
                numbers=rows.numbers,
                id_is_number=rows.id_is_number,
            ),
            complete_on=complete_on,
            min_rows=min_rows,
            timeout_seconds=float(settings.statement_timeout_seconds),
        )


@contextmanager
def open_values(
    settings: SiteSettings,
    rows: Sequence[Mapping[str, Any]],
    *,
    unique_id: str,
    columns: Sequence[str],
) -> Iterator[Dataset]:
    """Opens rows that came with a request and stand in no database.

    A column of numbers and booleans only is one of numbers, any other one of texts. A
    row without `unique_id` is called by its place, from 1. columns: those that are
    needed; a row may lack some.

    Raises BadRequest (missing_column, unknown_column).

    Disclosure: as `Dataset`; the rows are whatever who asks has written.
    """
    present = dict.fromkeys(column for row in rows for column in row)
    unknown = [column for column in present if column not in (*columns, unique_id)]
    if unknown:
        raise BadRequest(
            f"The model uses no column {', '.join(unknown)}.",
            remedy=f"Give {', '.join(columns)}, and {unique_id} where the rows have names.",
            code="unknown_column",
        )
    missing = [column for column in columns if column not in present]
    if missing:
        raise no_column(", ".join(missing), [*present])
    numbers = frozenset(column for column in columns if _holds_numbers(rows, column))
    named_cells = []
    for place, column in enumerate(columns):
        text = f"c{place}"
        cell = Cell(stripped_sql(text), "VARCHAR")
        if column in numbers:
            cell = Cell(f"CAST({text} AS DOUBLE)", "DOUBLE")
        named_cells.append(NamedCell(column, cell))
    identity = Identity(Cell(f"c{len(columns)}", "VARCHAR"))
    with ExitStack() as stack:
        connection = Room(settings, stack).connection()
        create_empty(connection, len(columns) + 1, named_cells, identity)
        text_rows = []
        for place, row in enumerate(rows, start=1):
            row_values = [_written(row.get(column)) for column in columns]
            text_rows.append([*row_values, _written(row.get(unique_id, place))])
        insert_texts(connection, text_rows, named_cells, identity)
        row_facts = RowFacts(
            name="values", populations=(), is_whole_row=False, numbers=numbers
        )
        yield _dataset(
            connection,
            row_facts,
            complete_on=(),
            min_rows=0,
            timeout_seconds=float(settings.statement_timeout_seconds),
        )


def _holds_numbers(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    cell_values = [row[name] for row in rows if row.get(name) is not None]
    return all(isinstance(cell_value, int | float) for cell_value in cell_values)


def _written(value: Any) -> str | None:
    """A value of JSON as text: true is 1."""
    if value is None or isinstance(value, str):
        return value
    return repr(int(value) if isinstance(value, bool) else value)


@contextmanager
def open_dataset(
    settings: SiteSettings,
    policy: Policy,
    *,
    data_path: str,
    data_type: str,
    requester: int,
    columns: Sequence[str] | None = None,
    and_numbers: bool = False,
    complete_on: Sequence[str] = (),
    snapshot: Path | None = None,
) -> Iterator[Dataset]:
    """Opens a provider's data, for a user and within the policy of its hospital.

    data_type csv, parquet and json (one object a line): a file below
    settings.data_folder that statistics.files opens; table: `schema.table` of the
    site's database; sql: a SELECT that `check_sql` lets the requester run. columns:
    those that are needed, each in the data once; None for all. and_numbers: all columns
    that the database holds as numbers too, and all of a file. complete_on: columns
    among them without whose value a row is none of the data. snapshot: a parquet file
    in the vault. The first call writes it, whole or not at all and for the owner only;
    every later call reads it and nothing else, so that all rounds of an order see the
    same rows even after a crash.

    Raises Refused (data_path, files, data_type, statistics and the codes of
    `check_sql`), BadRequest (missing_file, missing_column, duplicate_column, no_rows,
    empty_file, no_header, delimiter, encoding, csv, json, parquet, changed, and those
    of `agents.rows.database_rows.read_query`), TooLarge (max_rows, statement_timeout, memory), Unavailable.

    Disclosure: as `Dataset`; errors name columns, lines and, not below min_rows,
    counts.
    """
    if policy.statistics is None:
        raise Refused(
            "This hospital takes no part in joint statistics.",
            remedy="Ask it to add a section [statistics] to its policy.toml.",
            code="statistics",
        )
    if columns is not None and len(columns) > MAX_COLUMNS:
        raise TooLarge(
            f"More than {MAX_COLUMNS} columns are asked for.",
            remedy="Ask for fewer.",
            code="columns",
        )
    with ExitStack() as stack:
        room = Room(settings, stack, writes=snapshot)
        opened = DataRequest(settings, policy, requester, columns, and_numbers, room)

        def dataset(connection: Any, facts: RowFacts) -> Dataset:
            rows = _dataset(
                connection,
                facts,
                complete_on=complete_on,
                min_rows=opened.min_rows,
                timeout_seconds=opened.timeout_seconds,
            )
            if rows.n_rows == 0:
                raise _no_rows(complete_on)
            return rows

        if snapshot is None:
            yield dataset(*opened.read(data_path, data_type))
            return
        if not snapshot.exists():
            _keep(dataset(*opened.read(data_path, data_type)), snapshot)
        # From the snapshot the first time, too: rows and types are then the same before
        # and after a crash.
        data_name = opened.canonical_name(data_path, data_type)
        yield dataset(*_from_snapshot(room, snapshot, data_name))


def _no_rows(complete_on: Sequence[str]) -> BadRequest:
    if complete_on:
        return BadRequest(
            "The data hold no row with a value in each column of complete_on.",
            remedy="Fill the file or table, widen WHERE, or shorten complete_on.",
            code="no_rows",
        )
    return BadRequest(
        "The data hold no rows.",
        remedy="Fill the file or table below the names of its columns, or widen WHERE.",
        code="no_rows",
    )


# --- from a relation to a dataset -------------------------------------------------------


def _dataset(
    connection: Any,
    facts: RowFacts,
    *,
    complete_on: Sequence[str],
    min_rows: int,
    timeout_seconds: float,
) -> Dataset:
    with safe_reading(timeout_seconds):
        n_read = count_rows(connection, IDENTIFIED)
        if complete_on:
            _keep_complete(connection, complete_on)
        connection.execute(
            f"CREATE VIEW rows AS SELECT * EXCLUDE ({quoted(UNIQUE_ID)}) FROM {IDENTIFIED}"  # noqa: S608
        )
        n_rows = count_rows(connection, "rows")
        columns = _types(connection)
        id_type = columns.pop(UNIQUE_ID)
    return Dataset(
        name=facts.name,
        columns=columns,
        n_rows=n_rows,
        n_left_out=n_read - n_rows,
        min_rows=min_rows,
        timeout_seconds=timeout_seconds,
        connection=connection,
        file=facts.file,
        version=facts.version,
        populations=facts.populations,
        id_type=id_type,
        is_whole_row=facts.is_whole_row,
        numbers=facts.numbers,
        id_is_number=facts.id_is_number,
    )


def _types(connection: Any) -> dict[str, str]:
    """The columns of IDENTIFIED with their types."""
    described = connection.execute(f"DESCRIBE {IDENTIFIED}").fetchall()
    return {str(row[0]): str(row[1]) for row in described}


def _keep_complete(connection: Any, complete_on: Sequence[str]) -> None:
    """Leaves rows without a value in a column of `complete_on` out of the data.

    What was read stays beside them, as that is what a snapshot keeps: a second reading
    must find as many rows left out as the first.
    """
    types = _types(connection)
    present = [column for column in types if column != UNIQUE_ID]
    conditions = []
    for column in complete_on:
        if column not in present:
            raise no_column(column, present)
        conditions.append(has_value_sql(quoted(column), types[column]))
    relation_kinds = connection.execute(
        "SELECT table_type FROM information_schema.tables WHERE table_name = ?",
        [IDENTIFIED],
    ).fetchall()
    ((relation_kind,),) = relation_kinds
    relation = "VIEW" if relation_kind == "VIEW" else "TABLE"
    complete = " AND ".join(conditions)
    connection.execute(f"ALTER {relation} {IDENTIFIED} RENAME TO {_ALL_ROWS}")
    connection.execute(
        f"CREATE VIEW {IDENTIFIED} AS SELECT * FROM {_ALL_ROWS} WHERE {complete}"  # noqa: S608
    )


# --- snapshots --------------------------------------------------------------------------


def _keep(dataset: Dataset, path: Path) -> None:
    """Writes the snapshot of all rows that were read."""
    columns = {**dataset.columns, UNIQUE_ID: dataset.id_type}
    write_snapshot(
        path,
        _ALL_ROWS if dataset.n_left_out else IDENTIFIED,
        columns,
        SnapshotFacts(
            tuple(columns.values()),
            dataset.populations,
            dataset.is_whole_row,
            tuple(sorted(dataset.numbers)),
            dataset.id_is_number,
        ),
        dataset.query,
    )


def _from_snapshot(room: Room, path: Path, name: str) -> tuple[Any, RowFacts]:
    connection = room.connection(str(path))
    try:
        written = snapshot_facts(connection, path)
        selected = select_snapshot(connection, path, written)
        connection.execute(f"CREATE VIEW {IDENTIFIED} AS {selected}")
    except duckdb.Error:
        raise damaged(path) from None
    row_facts = RowFacts(
        name=name,
        populations=written.populations or (name,),
        is_whole_row=written.is_whole_row,
        numbers=frozenset(written.numbers),
        id_is_number=written.id_is_number,
    )
    return connection, row_facts
