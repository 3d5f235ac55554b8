"""A snapshot of a provider's rows in the vault: written once, whole or not at all, and
read with the types that the rows had.

Decision 59.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agents.rows.relation import (
    UNIQUE_ID,
    Cell,
    Identity,
    NamedCell,
    literal,
    quoted,
    select_identified,
)
from protocol.machine.disk import make_private_folder, put_in_place

_FACTS = "consilium"  # under this name a snapshot holds its facts, as JSON
_TYPES = "types"  # a snapshot of an earlier version: the types of its columns
_NOT_IN_PARQUET = ("HUGEINT", "UHUGEINT")


@dataclass(frozen=True)
class SnapshotFacts:
    """What a parquet file does not say of the rows that it was written from."""

    types: tuple[str, ...]  # of its columns, in their order, the unique id's last
    populations: tuple[str, ...] = ()
    is_whole_row: bool = True
    numbers: tuple[str, ...] = ()  # columns of texts that the source holds as numbers
    id_is_number: bool = False


def temporary_of(path: Path) -> Path:
    """Where a snapshot is written before it is put in place."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def write_snapshot(
    path: Path,
    relation: str,
    columns: Mapping[str, str],
    facts: SnapshotFacts,
    execute: Callable[[str], object],
) -> None:
    """The rows as parquet: a temporary file of mode 0600, fsync, rename, fsync of the
    folder.

    columns: of the relation, with their types.
    """
    make_private_folder(path.parent)
    temporary = temporary_of(path)
    descriptor = os.open(temporary, os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o600)
    try:
        noted = literal(json.dumps(asdict(facts)))
        # Into this very file: one of DuckDB's own would take its place, with the mode
        # that any new file has.
        options = (
            f"FORMAT parquet, USE_TMP_FILE false, KV_METADATA {{{_FACTS}: {noted}}}"
        )
        rows = _written(columns, relation)
        execute(f"COPY ({rows}) TO {literal(str(temporary))} ({options})")
        put_in_place(temporary, path)
    finally:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)


def _written(columns: Mapping[str, str], relation: str) -> str:
    """The rows as a snapshot holds them. Parquet has no wider whole numbers than 64
    bits, and DuckDB would write doubles instead, which makes one person of several:
    those columns are text there.
    """
    written = []
    for column, kind in columns.items():
        cell = quoted(column)
        if kind in _NOT_IN_PARQUET:
            cell = f"CAST({cell} AS VARCHAR) AS {cell}"
        written.append(cell)
    return f"SELECT {', '.join(written)} FROM {relation}"  # noqa: S608


def snapshot_facts(connection: Any, path: Path) -> SnapshotFacts:
    """What is noted in a snapshot; of one of an earlier version only the types."""
    quoted_path = literal(str(path))
    sql = f"SELECT key, value FROM parquet_kv_metadata({quoted_path})"  # noqa: S608
    metadata: dict[str, bytes] = {}
    for key, value in connection.execute(sql).fetchall():
        metadata[str(key, "utf-8")] = value
    if _FACTS in metadata:
        noted = json.loads(metadata[_FACTS])
        return SnapshotFacts(
            tuple(noted["types"]),
            tuple(noted["populations"]),
            noted["is_whole_row"],
            tuple(noted.get("numbers", ())),
            noted.get("id_is_number", False),
        )
    # an order that began under an earlier version goes on with the types that it began
    # with
    types = metadata[_TYPES].decode().split(";") if _TYPES in metadata else []
    return SnapshotFacts(tuple(types))


def select_snapshot(connection: Any, path: Path, facts: SnapshotFacts) -> str:
    """A snapshot's rows with the types that they were written from, as a SELECT.

    One of an earlier version, without whose its rows are, is known by whole rows.
    """
    source = f"read_parquet({literal(str(path))})"
    described = connection.execute(f"DESCRIBE FROM {source}").fetchall()
    column_kinds = facts.types or tuple(str(row[1]) for row in described)
    column_names = [str(row[0]) for row in described]
    cells: dict[str, Cell] = {}
    for column_name, kind in zip(column_names, column_kinds, strict=True):
        cells[column_name] = Cell(f"CAST({quoted(column_name)} AS {kind})", kind)
    id_cell = cells.pop(UNIQUE_ID, None)
    named_cells = [NamedCell(column_name, cell) for column_name, cell in cells.items()]
    return select_identified(source, named_cells, Identity(id_cell, tuple(named_cells)))
