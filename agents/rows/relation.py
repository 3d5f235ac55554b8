"""The relation that a provider's rows become: a connection of DuckDB that can open
nothing else, and the SELECT that writes each column in its form.

A relation has the needed columns and, under a name that no order can use, whose each
row is: its unique id, or the digest of the whole row.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from agents.rows.canonical_text import canonical_sql, row_sql
from agents.rows.database import attach_read_only
from agents.rows.faults import MEMORY_LIMIT
from agents.rows.files import no_column
from protocol.errors import BadRequest
from protocol.machine.disk import make_private_folder

THREADS = 2
BATCH_ROWS = 10_000
UNIQUE_ID = "consilium unique id"
"""The column that says whose a row is. No data may have a column of this name."""
IDENTIFIED = "identified_rows"
"""The relation of the rows with that column; `rows` is the same without it."""
ATTACHED = "attached_site"
"""The site's DuckDB file, while its rows are read."""

_CONFIGURATION: dict[str, Any] = {
    "threads": THREADS,
    "memory_limit": MEMORY_LIMIT,
    "autoload_known_extensions": False,
    "autoinstall_known_extensions": False,
}


# --- names ------------------------------------------------------------------------------


def quoted(name: str) -> str:
    """A column's name in DuckDB's SQL."""
    return marked(name, '"')


def marked(name: str, mark: str) -> str:
    """A name between a database's quotation marks."""
    return mark + name.replace(mark, mark * 2) + mark


def literal(text: str) -> str:
    """A text as a constant of DuckDB's SQL."""
    return "'" + text.replace("'", "''") + "'"


def found_column(name: str, present: Sequence[str]) -> str | None:
    """The one column of this name, or else the one that differs by case alone."""
    exact = [column for column in present if column == name]
    alike = exact or [column for column in present if column.lower() == name.lower()]
    return alike[0] if len(alike) == 1 else None


def is_missing(name: str, present: Sequence[str]) -> bool:
    """Whether no column has this name, in whatever case."""
    lower = name.lower()
    return not any(column.lower() == lower for column in present)


def needed_place(name: str, present: Sequence[str]) -> int:
    """Where a needed column stands.

    BadRequest: missing_column, which lists those that there are; duplicate_column.
    """
    check_name(name)
    if present.count(name) > 1:
        raise BadRequest(
            f"The data have more than one column {name}.",
            remedy="Rename one of them, by AS in SQL.",
            code="duplicate_column",
        )
    column = found_column(name, present)
    if column is None:
        raise no_column(name, present)
    return present.index(column)


def check_name(name: str) -> None:
    """Refuses the name that stands for whose a row is."""
    if name.lower() == UNIQUE_ID:
        raise BadRequest(
            f"The data have a column {name}, a name that stands for whose rows they are.",
            remedy="Rename it.",
            code="duplicate_column",
        )


# --- a connection -----------------------------------------------------------------------


def open_connection(
    stack: ExitStack,
    spill_parent: Path,
    *,
    paths: Sequence[str] = (),
    attach: str | None = None,
) -> Any:
    """DuckDB in memory, spilling to a private folder; it ends with the stack.

    Nothing can be opened but `paths`, and nothing be set any more. attach: a DuckDB
    file that it has beside them as ATTACHED, read-only, whose tables need no prefix.
    """
    spill = _spill_folder(spill_parent)
    # Before the connection's own end, and so called behind it: the last one goes first.
    stack.callback(shutil.rmtree, spill, ignore_errors=True)
    connection = duckdb.connect(config=_CONFIGURATION)
    stack.callback(connection.close)
    if attach is not None:
        attach_read_only(connection, attach, name=ATTACHED)
        connection.execute(f"USE {ATTACHED}")
    allowed = ", ".join(literal(path) for path in paths)
    # In this order: DuckDB takes no allowed_paths once external access is off, and
    # nothing behind the lock. What is attached has been opened before.
    for setting in (
        f"allowed_paths = [{allowed}]",
        f"temp_directory = {literal(str(spill))}",
        "preserve_insertion_order = true",
        "enable_external_access = false",
        "python_enable_replacements = false",
        "enable_progress_bar = false",
        "lock_configuration = true",
    ):
        connection.execute(f"SET {setting}")
    return connection


def _spill_folder(parent: Path) -> Path:
    """A private folder of this process; what processes that are gone have left is
    removed first.
    """
    for leftover in make_private_folder(parent).iterdir():
        if not Path("/proc", leftover.name.partition("-")[0]).exists():
            shutil.rmtree(leftover, ignore_errors=True)
    return make_private_folder(parent / f"{os.getpid()}-{secrets.token_hex(8)}")


def count_rows(connection: Any, relation: str) -> int:
    """How many rows a relation has."""
    ((n_rows,),) = connection.execute(f"SELECT count(*) FROM {relation}").fetchall()  # noqa: S608
    return int(n_rows)


# --- columns ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A column as SQL over its source, and its type as DuckDB writes it."""

    sql: str
    kind: str


@dataclass(frozen=True)
class NamedCell:
    """A column of the relation: the name under which it is asked for."""

    name: str
    cell: Cell


@dataclass(frozen=True)
class Identity:
    """Whose a row is: a column of the source, or the digest of all of them."""

    cell: Cell | None
    # All columns of the source, for the digest; of several with one name each.
    whole_row: tuple[NamedCell, ...] = ()


def select_identified(
    source: str, named_cells: Sequence[NamedCell], identity: Identity
) -> str:
    """The rows of IDENTIFIED, as a SELECT from a relation.

    A digest is computed by DuckDB, row by row; the columns that it is of are in no
    result.
    """
    selected = [f"{column.cell.sql} AS {quoted(column.name)}" for column in named_cells]
    if identity.cell is not None:
        selected.append(f"{identity.cell.sql} AS {quoted(UNIQUE_ID)}")
        return f"SELECT {', '.join(selected)} FROM {source}"  # noqa: S608
    typed: list[str] = []
    texts: list[str] = []
    of_row: dict[str, str] = {}
    for place, row_column in enumerate(identity.whole_row):
        typed.append(f"{row_column.cell.sql} AS w{place}")
        # Each text is used twice, and so written in a SELECT of its own.
        texts.append(f"{canonical_sql(f'w{place}', row_column.cell.kind)} AS t{place}")
        unique_name = (
            f"{row_column.name} {place}"
            if row_column.name in of_row
            else row_column.name
        )
        of_row[unique_name] = f"t{place}"
    rows = f"SELECT {', '.join([*_numbered(named_cells), *typed])} FROM {source}"  # noqa: S608
    rows = f"SELECT *, {', '.join(texts)} FROM ({rows})"  # noqa: S608
    selected = [
        f"n{i} AS {quoted(column.name)}" for i, column in enumerate(named_cells)
    ]
    selected.append(f"{row_sql(of_row)} AS {quoted(UNIQUE_ID)}")
    return f"SELECT {', '.join(selected)} FROM ({rows})"  # noqa: S608


def _numbered(named_cells: Sequence[NamedCell]) -> list[str]:
    return [f"{column.cell.sql} AS n{i}" for i, column in enumerate(named_cells)]


def insert_texts(
    connection: Any,
    rows: Sequence[Sequence[str | None]],
    named_cells: Sequence[NamedCell],
    identity: Identity,
) -> None:
    """Adds rows of texts c0, c1, ... to IDENTIFIED."""
    if not rows:
        return
    columns = zip(*rows, strict=True)
    frame = pd.DataFrame(
        {f"c{i}": pd.Series(values, dtype=object) for i, values in enumerate(columns)}
    )
    connection.register("batch", frame)
    # A column without any value has no type.
    texts = ", ".join(f"CAST({name} AS VARCHAR) AS {name}" for name in frame.columns)
    source = f"(SELECT {texts} FROM batch)"  # noqa: S608
    selected = select_identified(source, named_cells, identity)
    connection.execute(f"INSERT INTO {IDENTIFIED} {selected}")
    connection.unregister("batch")


def create_empty(
    connection: Any, n_texts: int, named_cells: Sequence[NamedCell], identity: Identity
) -> None:
    """IDENTIFIED without rows, for `insert_texts` of so many texts a row."""
    empty = ", ".join(f"NULL::VARCHAR AS c{i}" for i in range(n_texts))
    selected = select_identified(f"(SELECT {empty})", named_cells, identity)
    connection.execute(f"CREATE TABLE {IDENTIFIED} AS {selected} LIMIT 0")
