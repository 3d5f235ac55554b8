"""Sketches of sets of rows, by which two orders' sets are compared without a list of them.

To read next: `agents.gate.earlier_questions`, which compares them.

Decision 38.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from agents.rows.dataset import Dataset
from agents.rows.relation import quoted
from agents.rows.row_groups import Label, aliases, labels_sql

Cells = np.ndarray[Any, np.dtype[np.uint64]]
SKETCH_CELLS = 65_536
GROUP_CELLS = 256


def sketch(
    dataset: Dataset,
    columns: Sequence[str],
    *,
    complete: Sequence[str] = (),
) -> tuple[Cells, int]:
    """uint64 (65536,) of the rows that have a value in every one of `complete`, and how
    many rows these are.

    A row's hash h adds h to the cell h % 65536, modulo 2^64. So two sets of rows that
    differ in d rows differ in at most d cells. h is DuckDB's hash of the values in the
    order of `columns`: sketches of two versions are compared, and a test holds that the
    hash has not changed.

    Disclosure: which rows two orders share, to who has both sketches; they stay in the
    vault.
    """
    row_hash = _hash(dataset, columns)
    present = _present(dataset, complete)
    hashes = f"SELECT {row_hash} AS h FROM rows WHERE {present}"  # noqa: S608
    sums = "sum(CAST(h AS HUGEINT)), count(*)"
    sql = f"SELECT h % {SKETCH_CELLS}, {sums} FROM ({hashes}) GROUP BY 1"  # noqa: S608
    cells = np.zeros(SKETCH_CELLS, dtype=np.uint64)
    n_rows = 0
    for cell, hash_sum, n in dataset.query(sql):
        cells[cell] = int(hash_sum) % 2**64
        n_rows += int(n)
    return cells, n_rows


def group_sketches(
    dataset: Dataset,
    columns: Sequence[str],
    *,
    complete: Sequence[str],
    group_by: Sequence[str],
) -> dict[Label, Cells]:
    """By group, uint64 (1 + 256,): how many rows it has, and a sketch of them as of
    `sketch`, in 256 cells.

    Disclosure: as `sketch`.
    """
    labels = labels_sql(dataset, group_by)
    row_hash = _hash(dataset, columns)
    present = _present(dataset, complete)
    selected = ", ".join([*labels, f"{row_hash} AS h"])
    hashes = f"SELECT {selected} FROM rows WHERE {present}"  # noqa: S608
    group_aliases = aliases("g", len(group_by))
    keys = ", ".join([*group_aliases, f"h % {GROUP_CELLS}"])
    sums = "sum(CAST(h AS HUGEINT)), count(*)"
    sql = f"SELECT {keys}, {sums} FROM ({hashes}) GROUP BY {keys}"  # noqa: S608
    sketches: dict[Label, Cells] = {}
    for *label, cell, hash_sum, n in dataset.query(sql):
        empty = np.zeros(1 + GROUP_CELLS, dtype=np.uint64)
        group_cells = sketches.setdefault(tuple(label), empty)
        group_cells[0] += np.uint64(n)
        group_cells[1 + cell] = int(hash_sum) % 2**64
    return sketches


def _hash(dataset: Dataset, columns: Sequence[str]) -> str:
    # The constant makes a hash of no column possible, and is part of all sketches that
    # are kept.
    hashed_cells = ["''"]
    for column in columns:
        dataset.check_column(column)
        hashed_cells.append(quoted(column))
    return f"hash({', '.join(hashed_cells)})"


def _present(dataset: Dataset, columns: Sequence[str]) -> str:
    conditions: list[str] = []
    for column in columns:
        dataset.check_column(column)
        conditions.append(f"{quoted(column)} IS NOT NULL")
    return " AND ".join(conditions) or "true"
