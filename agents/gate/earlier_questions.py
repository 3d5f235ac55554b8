"""What was asked of this hospital's data by joint statistics before: sketches of rows, and thresholds.

In SQLite in the vault, beside the cohorts (`cohort_gate.py`). A file's rows may change between two orders; a sketch
shows whether only a few have, who could be found by comparing the answers (decision 38). `disclosure.check_sketch` is
the rule; `agents/statistics/repeats.py` says which rows of an order are compared.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agents.gate.disclosure import Sketch
from agents.rows.exact_totals import SKETCH_CELLS
from agents.site.vault_database import KeyedDatabase, open_database
from protocol.errors import Refused
from protocol.messages import canonical
from protocol.shares.matching import keyed_hashes

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sketches (hash BLOB PRIMARY KEY, cells BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS orders (
    number INTEGER PRIMARY KEY, requester INTEGER NOT NULL, dataset TEXT NOT NULL, order_id INTEGER NOT NULL,
    hash BLOB NOT NULL REFERENCES sketches (hash), UNIQUE (requester, dataset, order_id, hash)
);
CREATE TABLE IF NOT EXISTS thresholds (
    dataset TEXT NOT NULL, columns TEXT NOT NULL, keys_digest BLOB NOT NULL, threshold TEXT NOT NULL,
    at REAL NOT NULL, PRIMARY KEY (dataset, columns, keys_digest, threshold)
) WITHOUT ROWID;
"""


Hashes = NDArray[np.uint64]
"""(n, 2), sorted: 128-bit keyed hashes of people's keys."""


class StatisticsLedger(KeyedDatabase):
    """What this hospital's rows were asked, and by whom.

    Each call opens and closes the file; one that has returned is on disk (fsync). The file has mode 0600. Conflict
    (code vault_damaged) where it cannot be read: what was asked before must not be forgotten.

    dataset: what names the data that were read, the same for every order that reads them (kind, path or table, and
    column: rows of other columns have other sketches, so each column that is asked for is remembered by itself).
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "statistics.sqlite", _SCHEMA)

    def earlier(self, readers: Collection[int], dataset: str) -> Iterator[Sketch]:
        """The different sketches of what any of these hospitals had an answer of, the latest last; one at a time in
        memory.

        An order that starts again after a crash finds its own first reading here, which differs from it in no cell.
        """
        query = "SELECT requester, hash FROM orders WHERE dataset = ? ORDER BY number DESC"
        with open_database(self.path) as database:
            rows = database.execute(query, (dataset,)).fetchall()
        # The latest first, so that a sketch which is there twice stands at its latest place; then turned round.
        hashes = dict.fromkeys(content_hash for requester, content_hash in rows if requester in readers)
        for content_hash in reversed(hashes):
            with open_database(self.path) as database:
                query = "SELECT cells FROM sketches WHERE hash = ?"
                (cells,) = database.execute(query, (content_hash,)).fetchone()
            yield np.frombuffer(zlib.decompress(cells), dtype="<u8").astype(np.uint64)

    def remember(self, readers: Collection[int], sketches: Mapping[str, Sketch], *, order_id: int) -> None:
        """Write down by dataset what these hospitals are going to have an answer of, all or none, before anything of
        the rows leaves. Idempotent: the same again changes nothing.

        Disclosure: sums of hashes of rows, which show who guesses all rows of a cell that the guess is right. They stay
        in the vault.
        """
        with open_database(self.path) as database:
            for dataset, sketch in sketches.items():
                cells = sketch.astype("<u8").tobytes()
                content_hash = hashlib.blake2b(cells, digest_size=32).digest()
                compressed = zlib.compress(cells, 1)
                database.execute("INSERT OR IGNORE INTO sketches VALUES (?, ?)", (content_hash, compressed))
                insert = (
                    "INSERT OR IGNORE INTO orders (requester, dataset, order_id, hash) VALUES (?, ?, ?, ?)"
                )
                rows = [(user, dataset, order_id, content_hash) for user in sorted(readers)]
                database.executemany(insert, rows)

    def hash_keys(self, keys: Iterable[str]) -> Hashes:
        """uint64 (n, 2), sorted: keyed hashes of canonical key texts, the same in every order and only here."""
        words = np.frombuffer(keyed_hashes(self.key, keys), dtype="<u8").astype(np.uint64)
        hashes = words.reshape(-1, 2)
        first, second = hashes[:, 0], hashes[:, 1]
        return hashes[np.lexsort((second, first))]

    def remember_threshold(
        self,
        dataset: str,
        columns: Sequence[str],
        *,
        keys_digest: bytes,
        threshold: str,
        now: datetime,
        days: int,
    ) -> None:
        """Write a threshold down; Refused (code threshold) for a second one for the same people, and any of the same
        columns, in `days` days. One step, before anything leaves: of two orders at once, one is refused.

        `threshold` is comparison and number as one canonical text, `keys_digest` that of the common keys
        (`digest_of`), `now` is aware of its zone.
        """
        with open_database(self.path) as database:
            # Nobody else writes from here on (decision 55): the comparison is still true when the threshold is written.
            database.execute("BEGIN IMMEDIATE")
            _check_threshold(database, dataset, columns, keys_digest, threshold, now=now, days=days)
            row = (dataset, canonical(sorted(columns)), keys_digest, threshold, now.timestamp())
            database.execute("INSERT OR REPLACE INTO thresholds VALUES (?, ?, ?, ?, ?)", row)


def sketch_of(hashes: Hashes) -> Sketch:
    """A sketch of a set of people, as `agents.rows.exact_totals.sketch` makes one of rows."""
    sketch = np.zeros(SKETCH_CELLS, dtype=np.uint64)
    first_words = hashes[:, 0]
    # Sums modulo 2^64: in no order, and one person more or fewer changes one cell.
    cells = first_words % np.uint64(SKETCH_CELLS)
    np.add.at(sketch, cells, first_words)
    return sketch


def digest_of(hashes: Hashes) -> bytes:
    """32 bytes for a set of people, whatever their order."""
    return hashlib.blake2b(hashes.astype("<u8").tobytes(), digest_size=32).digest()


def _check_threshold(
    database: sqlite3.Connection,
    dataset: str,
    columns: Sequence[str],
    keys_digest: bytes,
    threshold: str,
    *,
    now: datetime,
    days: int,
) -> None:
    since = (now - timedelta(days=days)).timestamp()
    query = (
        "SELECT columns FROM thresholds WHERE dataset = ? AND keys_digest = ? AND threshold <> ? AND at > ?"
    )
    rows = database.execute(query, (dataset, keys_digest, threshold, since)).fetchall()
    compared_before: set[str] = set()
    for (written_columns,) in rows:
        compared_before |= set(json.loads(written_columns))
    if compared_before & set(columns):
        raise Refused(
            f"In the last {days} days these columns of the same people were compared with another threshold; many"
            " thresholds would tell every sum.",
            remedy="Use that threshold again, or ask the hospital to lower threshold_days in its policy.toml.",
            code="threshold",
            threshold=days,
        )
