"""Which thresholds this hospital's people were compared with; and what an earlier version
has kept of its answers: sketches of rows.

In SQLite in the vault, beside the memory (`memory.py`), which has the sets of people of
all answers of today. Sketches are compared for KEEPS_SKETCHES after the upgrade
(`agents/statistics/earlier_sketches.py`, decision 38).
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agents.gate.disclosure import Sketch
from agents.rows.row_sketches import SKETCH_CELLS
from agents.site.vault_database import KeyedDatabase
from protocol.errors import Refused
from protocol.messages import canonical
from protocol.shares.matching import keyed_hashes

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sketches (hash BLOB PRIMARY KEY, cells BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS orders (
    number INTEGER PRIMARY KEY, requester INTEGER NOT NULL, dataset TEXT NOT NULL, order_id INTEGER NOT NULL,
    hash BLOB NOT NULL REFERENCES sketches (hash), UNIQUE (requester, dataset, order_id, hash)
);
CREATE TABLE IF NOT EXISTS sketches_end (one INTEGER PRIMARY KEY CHECK (one = 1), at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS thresholds (
    dataset TEXT NOT NULL, columns TEXT NOT NULL, keys_digest BLOB NOT NULL, threshold TEXT NOT NULL,
    at REAL NOT NULL, PRIMARY KEY (dataset, columns, keys_digest, threshold)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS comparisons (
    dataset TEXT NOT NULL, columns TEXT NOT NULL, keys_digest BLOB NOT NULL, question TEXT NOT NULL,
    order_id INTEGER NOT NULL, at REAL NOT NULL, PRIMARY KEY (dataset, columns, keys_digest, question)
) WITHOUT ROWID;
"""


KEEPS_SKETCHES = timedelta(days=30)

Hashes = NDArray[np.uint64]
"""(n, 2), sorted: 128-bit keyed hashes of people's keys."""


@dataclass(frozen=True)
class Comparison:
    """People whose columns an order compares."""

    dataset: str
    columns: frozenset[str]
    # Of the common keys (`digest_of`).
    keys_digest: bytes
    # All that the request says of what is computed, as one canonical text.
    question: str
    order_id: int


class StatisticsLedger(KeyedDatabase):
    """What this hospital's rows were asked, and by whom.

    Each call opens and closes the file; one that has returned is on disk (fsync). The
    file has mode 0600. Conflict (code vault_damaged) where it cannot be read: what was
    asked before must not be forgotten.

    dataset: what names the data that were read, the same for every order that reads
    them (kind, path or table, and column: rows of other columns have other sketches, so
    each column that is asked for is remembered by itself).
    """

    def __init__(self, folder: Path, *, is_copy: bool = False) -> None:
        super().__init__(folder / "statistics.sqlite", _SCHEMA, is_copy=is_copy)

    def earlier(self, readers: Collection[int], dataset: str) -> Iterator[Sketch]:
        """The different sketches of what any of these hospitals had an answer of, the
        latest last; one at a time in memory.

        An order that starts again after a crash finds its own first reading here, which
        differs from it in no cell.
        """
        query = (
            "SELECT requester, hash FROM orders WHERE dataset = ? ORDER BY number DESC"
        )
        with self._open() as database:
            rows = database.execute(query, (dataset,)).fetchall()
        # The latest first, so that a sketch which is there twice stands at its latest
        # place; then turned round.
        hashes = dict.fromkeys(
            content_hash for requester, content_hash in rows if requester in readers
        )
        for content_hash in reversed(hashes):
            with self._open() as database:
                query = "SELECT cells FROM sketches WHERE hash = ?"
                (cells,) = database.execute(query, (content_hash,)).fetchone()
            yield np.frombuffer(zlib.decompress(cells), dtype="<u8").astype(np.uint64)

    def keeps_sketches(self, *, now: datetime) -> bool:
        """Whether there are sketches of an earlier version's answers; they are forgotten
        KEEPS_SKETCHES after the first call. `now` is aware of its zone.
        """
        with self._open() as database:
            database.execute("BEGIN IMMEDIATE")
            if database.execute("SELECT 1 FROM orders LIMIT 1").fetchone() is None:
                return False
            sketches_end = (now + KEEPS_SKETCHES).timestamp()
            database.execute(
                "INSERT OR IGNORE INTO sketches_end VALUES (1, ?)", (sketches_end,)
            )
            (kept_until,) = database.execute("SELECT at FROM sketches_end").fetchone()
            if now.timestamp() < kept_until:
                return True
            database.execute("DELETE FROM orders")
            database.execute("DELETE FROM sketches")
            return False

    def hash_keys(self, keys: Iterable[str]) -> Hashes:
        """uint64 (n, 2), sorted: keyed hashes of canonical key texts, the same in every
        order and only here.
        """
        words = np.frombuffer(keyed_hashes(self.key, keys), dtype="<u8").astype(
            np.uint64
        )
        hashes = words.reshape(-1, 2)
        first, second = hashes[:, 0], hashes[:, 1]
        return hashes[np.lexsort((second, first))]

    def earlier_comparison(
        self, comparison: Comparison, *, now: datetime, days: int
    ) -> int | None:
        """The order that has asked the very same of the same people in `days` days.

        Refused (code threshold) where any of these columns of the same people was in
        another question in that time.
        """
        with self._open() as database:
            return _earlier_comparison(database, comparison, now=now, days=days)

    def remember_comparison(
        self, comparison: Comparison, *, now: datetime, days: int
    ) -> None:
        """Writes it down; Refused (code threshold) where any of these columns of the
        same people was compared in another order in `days` days, be it by the same
        question. One step, before anything leaves: of two orders at once, one is
        refused. `now` is aware of its zone.
        """
        with self._open() as database:
            # Nobody else writes from here on (decision 55): the comparison is still
            # true when the threshold is written.
            database.execute("BEGIN IMMEDIATE")
            if (
                _earlier_comparison(database, comparison, now=now, days=days)
                is not None
            ):
                raise _compared_before(days)
            row = (
                comparison.dataset,
                canonical(sorted(comparison.columns)),
                comparison.keys_digest,
                comparison.question,
                comparison.order_id,
                now.timestamp(),
            )
            database.execute(
                "INSERT OR REPLACE INTO comparisons VALUES (?, ?, ?, ?, ?, ?)", row
            )


def sketch_of(hashes: Hashes) -> Sketch:
    """A sketch of a set of people, as `agents.rows.row_sketches.sketch` makes one of
    rows.
    """
    sketch = np.zeros(SKETCH_CELLS, dtype=np.uint64)
    first_words = hashes[:, 0]
    # Sums modulo 2^64: in no order, and one person more or fewer changes one cell.
    cells = first_words % np.uint64(SKETCH_CELLS)
    # Not `sketch[cells] +=`, with which NumPy adds one number to a cell however many
    # meet there.
    np.add.at(sketch, cells, first_words)
    return sketch


def digest_of(hashes: Hashes) -> bytes:
    """32 bytes for a set of people, whatever their order."""
    return hashlib.blake2b(hashes.astype("<u8").tobytes(), digest_size=32).digest()


def _earlier_comparison(
    database: sqlite3.Connection, comparison: Comparison, *, now: datetime, days: int
) -> int | None:
    since = (now - timedelta(days=days)).timestamp()
    # An earlier version has kept thresholds without the question: none is the same.
    query = (
        "SELECT columns, question, order_id FROM comparisons WHERE dataset = ? AND keys_digest = ? AND at > ?"
        " UNION ALL SELECT columns, NULL, 0 FROM thresholds WHERE dataset = ? AND keys_digest = ? AND at > ?"
    )
    of_people = (comparison.dataset, comparison.keys_digest, since)
    same_order: int | None = None
    for columns, question, order_id in database.execute(query, of_people * 2):
        # An order that begins again after a crash finds itself.
        if (
            order_id == comparison.order_id
            or not set(json.loads(columns)) & comparison.columns
        ):
            continue
        if question != comparison.question:
            raise _compared_before(days)
        same_order = int(order_id)
    return same_order


def _compared_before(days: int) -> Refused:
    return Refused(
        f"In the last {days} days these columns of the same people were compared with another threshold or other"
        " columns; many comparisons would tell every sum.",
        remedy="Ask the same question again, or ask the hospital to lower threshold_days in its policy.toml.",
        code="threshold",
        threshold=days,
    )
