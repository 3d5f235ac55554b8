"""A csv, parquet or json file's rows in a relation of DuckDB: the columns that are needed,
and whose each row is.

Numbers of csv and json files stay the text that is written there, so that no digit is
lost. A parquet file is read where it lies, all else is copied in once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import duckdb

from agents.rows.canonical_text import row_text, stripped_sql
from agents.rows.csv_files import check_lines, csv_fault, csv_header
from agents.rows.files import DataFile, json_batches, no_column
from agents.rows.relation import (
    BATCH_ROWS,
    IDENTIFIED,
    Cell,
    Identity,
    NamedCell,
    check_name,
    create_empty,
    insert_texts,
    literal,
    quoted,
    select_identified,
)
from agents.rows.source_types import SourceColumn, duckdb_column
from protocol.errors import BadRequest, TooLarge

# Older programs write texts as bytes; bytes that are none are written as DuckDB does.
_BYTES = (
    "CASE WHEN contains(TRY(decode({})), chr(0)) THEN CAST({} AS VARCHAR)"
    " ELSE coalesce(TRY(decode({})), CAST({} AS VARCHAR)) END"
)

# The digest of a row is one expression over all columns, whose depth DuckDB limits.
_MOST_DIGESTED = 900

_PARQUET = (b"PAR1", b"PARE")  # plain, or with an encrypted footer
FILE_TYPES = ("csv", "parquet", "json")


def read_file(
    connection: Any,
    file: DataFile,
    data_type: str,
    *,
    columns: Sequence[str] | None,
    unique_id: str | None,
) -> frozenset[str]:
    """Makes IDENTIFIED of a file; which of its columns of texts the file holds as
    numbers.

    columns: each must be there once; None for all that have a form. unique_id: the
    column that says whose a row is; None for the digest of all columns.

    Raises BadRequest (missing_column, duplicate_column, column_type, no_rows, and those
    of `agents.rows.files` and `agents.rows.csv_files`), TooLarge (columns), and what
    DuckDB raises.
    """
    if data_type == "csv":
        _read_csv(connection, file, columns, unique_id)
        return frozenset()
    if data_type == "json":
        _read_json(connection, file, columns, unique_id)
        return frozenset()
    return _read_parquet(connection, file, columns, unique_id)


def _needed(columns: Sequence[str] | None, present: Sequence[str]) -> list[str]:
    """The columns that are asked for, each of which must be there once."""
    needed_columns = list(dict.fromkeys(present)) if columns is None else list(columns)
    for column in needed_columns:
        check_name(column)
        if column not in present:
            raise no_column(column, present)
        if present.count(column) > 1:
            raise BadRequest(
                f"The data have more than one column {column}.",
                remedy="Rename one of them.",
                code="duplicate_column",
            )
    return needed_columns


def _check_unique_id(name: str, present: Iterable[str]) -> None:
    if name not in present:
        raise BadRequest(
            f"The file has no column {name}, which this hospital's policy names as its unique id.",
            remedy="Correct statistics.unique_ids in its policy.toml, or the file.",
            code="missing_column",
        )


def _identity(cells: Sequence[NamedCell], unique_id: str | None) -> Identity:
    if unique_id is None:
        if len(cells) > _MOST_DIGESTED:
            raise TooLarge(
                f"The file has {len(cells):,} columns, and no column that says whose each row is.",
                remedy=f"Name it in statistics.unique_ids of this hospital's policy.toml, or leave {_MOST_DIGESTED}.",
                code="columns",
            )
        return Identity(None, tuple(cells))
    _check_unique_id(unique_id, [cell.name for cell in cells])
    return Identity(_named(cells, unique_id).cell)


def _named(cells: Sequence[NamedCell], name: str) -> NamedCell:
    for cell in cells:
        if cell.name == name:
            return cell
    raise AssertionError(f"{name} is there")


def _read_parquet(
    connection: Any,
    file: DataFile,
    columns: Sequence[str] | None,
    unique_id: str | None,
) -> frozenset[str]:
    _check_parquet(file)
    # DuckDB would else make columns of the parts of a path.
    source = f"read_parquet({literal(file.path)}, hive_partitioning = false)"
    described = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()  # noqa: S608
    typed: dict[str, SourceColumn] = {}
    for column_name, kind, *_ in described:
        typed[column_name] = duckdb_column(column_name, kind)
        if kind == "BLOB":
            typed[column_name] = SourceColumn(column_name, select=stripped_sql(_BYTES))
    if columns is None:
        columns = [column.name for column in typed.values() if not column.no_form]
    needed_columns = _needed(columns, list(typed))
    for column_name in [*needed_columns, *([] if unique_id is None else [unique_id])]:
        if column_name in typed:
            typed[column_name].check_form(column_name)
    cells = []
    for column_name, source_column in typed.items():
        cell = Cell(source_column.selected(quoted(column_name)), source_column.kind)
        cells.append(NamedCell(column_name, cell))
    identity = _identity(cells, unique_id)
    selected = select_identified(
        source, [_named(cells, column_name) for column_name in needed_columns], identity
    )
    connection.execute(f"CREATE VIEW {IDENTIFIED} AS {selected}")
    return frozenset(name for name in needed_columns if typed[name].is_number)


def _check_parquet(file: DataFile) -> None:
    """A parquet file begins and ends with its name."""
    size, _ = file.version
    if os.pread(file.descriptor, 4, 0) not in _PARQUET:
        raise BadRequest(
            "The file is no parquet file: it does not begin as one.",
            remedy="Name its type in data_type, or another file.",
            code="parquet",
        )
    if os.pread(file.descriptor, 4, max(0, size - 4)) not in _PARQUET or size < 12:
        raise BadRequest(
            "The parquet file is not whole: its end is missing.",
            remedy="Write it again, and order when nothing writes to it any more.",
            code="parquet",
        )


def _read_csv(
    connection: Any,
    file: DataFile,
    columns: Sequence[str] | None,
    unique_id: str | None,
) -> None:
    delimiter, header = csv_header(file, columns)
    check_lines(file)
    # Nobody can ask for a column without a name, as of a delimiter at the end of lines.
    asked_columns = [name for name in header if name] if columns is None else columns
    needed_columns = _needed(asked_columns, header)
    all_columns = ", ".join(f"'c{i}': 'VARCHAR'" for i in range(len(header)))
    cells = _text_cells(header)
    identity = _identity(cells, unique_id)
    # Nothing is detected: what DuckDB takes from the first rows would depend on them.
    source = (
        f"read_csv({literal(file.path)}, columns = {{{all_columns}}},"
        f" auto_detect = false, header = true, delim = {literal(delimiter)}, quote = '\"', escape = '\"',"
        " encoding = 'utf-8', compression = 'none', strict_mode = true, null_padding = false, nullstr = '')"
    )
    selected = select_identified(
        source, [_named(cells, column_name) for column_name in needed_columns], identity
    )
    try:
        connection.execute(f"CREATE TABLE {IDENTIFIED} AS {selected}")
    except (duckdb.InvalidInputException, duckdb.NotImplementedException):
        raise csv_fault(file, delimiter, len(header)) from None


def _read_json(
    connection: Any,
    file: DataFile,
    columns: Sequence[str] | None,
    unique_id: str | None,
) -> None:
    """Every object is read, so that a column is known to be missing; one that an object
    lacks is NULL there.
    """
    present: dict[str, None] = {}
    cells: list[NamedCell] = []
    column_names: list[str] = []
    for batch in json_batches(file, BATCH_ROWS, columns):
        batch_names: dict[str, None] = {}
        for record in batch:
            batch_names |= dict.fromkeys(record)
        if not present:
            column_names = list(batch_names) if columns is None else list(columns)
            cells = _text_cells([*column_names, ""])
            identity = Identity(cells[-1].cell)
            create_empty(connection, len(cells), cells[:-1], identity)
        present |= batch_names
        rows = []
        for record in batch:
            row_values = [record.get(column_name) for column_name in column_names]
            rows.append([*row_values, _json_id(record, unique_id)])
        insert_texts(connection, rows, cells[:-1], identity)
    _needed(columns, list(present))
    if unique_id is not None:
        _check_unique_id(unique_id, present)


def _text_cells(names: Sequence[str]) -> list[NamedCell]:
    """Columns of texts c0, c1, ..., without blanks around them."""
    cells = []
    for i, name in enumerate(names):
        cells.append(NamedCell(name, Cell(stripped_sql(f"c{i}"), "VARCHAR")))
    return cells


def _json_id(row: Mapping[str, Any], unique_id: str | None) -> Any:
    if unique_id is not None:
        return row.get(unique_id)
    return hashlib.sha256(row_text(row).encode()).hexdigest()
