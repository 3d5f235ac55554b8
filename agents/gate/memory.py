"""What has left this hospital before: of whom every total was that somebody could open.

Per receiver there are sets of members. A member is one person with the value that was
read in one column, so that a corrected value is another member of the same person. The
sets of an order under way are reserved, and belong to what has left once it commits.
`cohort_audit.py` decides with them; what the words mean is there.

Values that an earlier version has written otherwise are not known again: its sets are
compared by the persons alone, for some days after the change, and then dropped.

All of it is in SQLite in the vault, in the file of which the key also draws folds. Ids
and values stand there as keyed digests: without the key they say nothing; with it,
whether somebody's guess is right.

Decisions 70 and 147. To read next: what is compared and kept in one step, `memory_transaction`.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from agents.gate.kept_sets import (
    IDS_ALONE,
    ColumnName,
    Listed,
    OpenedSet,
)
from agents.gate.members import (
    Digests,
)
from agents.gate.memory_transaction import Transaction, forget_unused, list_hash
from agents.site.vault_database import KeyedDatabase

# Of an order of 300 hospitals there are 300 rows for each column, and what a total is
# made of names all of them: a row has the number of that list.
_OPENED = """
CREATE TABLE IF NOT EXISTS opened (
    receiver TEXT NOT NULL, in_set INTEGER NOT NULL REFERENCES sets (number), order_id INTEGER NOT NULL,
    name TEXT NOT NULL, of_parts INTEGER NOT NULL REFERENCES hospital_lists (number),
    least_hospitals INTEGER NOT NULL, at REAL NOT NULL, has_left INTEGER NOT NULL,
    of_willing INTEGER REFERENCES hospital_lists (number), PRIMARY KEY (receiver, in_set, order_id, name)
) WITHOUT ROWID;
"""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS persons (
    population TEXT NOT NULL, first INTEGER NOT NULL, digests BLOB NOT NULL,
    PRIMARY KEY (population, first)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS columns (
    number INTEGER PRIMARY KEY, population TEXT NOT NULL, name TEXT NOT NULL, form TEXT NOT NULL,
    UNIQUE (population, name, form)
);
CREATE TABLE IF NOT EXISTS column_members (
    in_column INTEGER NOT NULL REFERENCES columns (number), first INTEGER NOT NULL,
    persons BLOB NOT NULL, read BLOB NOT NULL, PRIMARY KEY (in_column, first)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sets (
    number INTEGER PRIMARY KEY, in_column INTEGER NOT NULL REFERENCES columns (number), hash BLOB NOT NULL,
    n_members INTEGER NOT NULL, bitmap BLOB NOT NULL, UNIQUE (in_column, hash)
);
CREATE TABLE IF NOT EXISTS old_forms (form TEXT PRIMARY KEY, since REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hospital_lists (
    number INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, text TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS absent (
    order_id INTEGER NOT NULL, hospital INTEGER NOT NULL, PRIMARY KEY (order_id, hospital)
) WITHOUT ROWID;
"""


class Memory(KeyedDatabase):
    """The sets that have left, and those that orders under way have reserved.

    Each call opens and closes the file; one that has returned is on disk (fsync). The
    file has mode 0600. Conflict (code vault_damaged) where it cannot be read: what has
    left must not be forgotten.

    Whoever compares and reserves holds it alone meanwhile (`alone`), across processes,
    and never while a message is waited for.
    """

    def __init__(self, folder: Path, *, is_copy: bool = False) -> None:
        super().__init__(folder / "cohorts.sqlite", _SCHEMA + _OPENED, is_copy=is_copy)
        with self._open() as database:
            # Most processes find the file as it should be, and look without the lock:
            # they wait for nobody who compares.
            is_of_this_version = _is_of_this_version(database)
        if not is_of_this_version:
            with self.alone(), self._writing() as database:
                # Another process may have been faster.
                if not _has_column(database, "opened", "of_parts"):
                    _list_hospitals_once(database)
                if _has_table(database, "id_sets"):
                    _take_over(database)
            with self.alone(), self._open() as database:
                # In a step of its own: SQLite does not do it inside of a transaction.
                database.execute("VACUUM")

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._open() as database:
            # Python's sqlite3 begins a transaction with the first write only: what is
            # read before would not belong to it.
            database.execute("BEGIN IMMEDIATE")
            yield database

    @contextmanager
    def opened(self) -> Iterator[Transaction]:
        """One transaction: what it keeps is on disk when it is over, all or nothing.

        Whoever opens it holds the memory alone.
        """
        with self._writing() as database:
            yield Transaction(database)

    def commit(self, order_id: int, *, shown: Collection[str] | None = None) -> None:
        """What the order has reserved counts as having left; the same again changes
        nothing.

        To be called when all hospitals have accepted, before the first message from
        which, with the others', a total can be opened. `shown`: the names of those
        totals that will be opened, where some of the order's are withheld; of the
        others nothing has left, also where they were committed before this was known.
        """
        with self.alone(), self._writing() as database:
            if shown is not None:
                query = "SELECT name FROM opened WHERE order_id = ?"
                total_names = {row[0] for row in database.execute(query, (order_id,))}
                for total_name in total_names - set(shown):
                    database.execute(
                        "DELETE FROM opened WHERE order_id = ? AND name = ?",
                        (order_id, total_name),
                    )
                forget_unused(database)
            database.execute(
                "UPDATE opened SET has_left = 1 WHERE order_id = ?", (order_id,)
            )

    def drop(self, order_id: int) -> None:
        """The order ended, or asks anew: nothing of what it has only reserved will be
        opened.
        """
        with self.alone(), self.opened() as transaction:
            transaction.drop(order_id)

    def forget(self, receiver: str, population: str) -> int:
        """Takes out what a receiver has of a population; how many totals that were.

        It has the answers still: orders to come are no longer compared with them.
        """
        with self.alone(), self._writing() as database:
            deleted = database.execute(
                "DELETE FROM opened WHERE receiver = ? AND has_left AND in_set IN (SELECT sets.number FROM sets"
                " JOIN columns ON columns.number = sets.in_column WHERE population = ?)",
                (receiver, population),
            )
            forget_unused(database)
            return deleted.rowcount

    def has_column(self, column: ColumnName) -> bool:
        """Whether its members have numbers."""
        with self._open() as database:
            return Transaction(database).column_number(column) is not None

    def list_opened(self) -> list[Listed]:
        """What has left or is reserved, by receiver, population and column, the
        earliest first.
        """
        opened_query = (
            "SELECT receiver, population, columns.name, opened.name, order_id, n_members, at, has_left FROM opened"
            " JOIN sets ON sets.number = in_set JOIN columns ON columns.number = in_column"
            " ORDER BY receiver, population, columns.name, at, order_id, opened.name"
        )
        listed = []
        with self._open() as database:
            for row in database.execute(opened_query):
                receiver, population, column, total_name, order_id, n_members = row[:6]
                listed.append(
                    Listed(
                        receiver=receiver,
                        population=population,
                        column=column,
                        name=total_name,
                        order_id=order_id,
                        n_members=n_members,
                        at=datetime.fromtimestamp(row[6], UTC),
                        has_left=bool(row[7]),
                    )
                )
        return listed


def _is_of_this_version(database: sqlite3.Connection) -> bool:
    names_lists = _has_column(database, "opened", "of_parts")
    return names_lists and not _has_table(database, "id_sets")


def _has_column(database: sqlite3.Connection, table: str, name: str) -> bool:
    query = "SELECT 1 FROM pragma_table_info(?) WHERE name = ?"
    return database.execute(query, (table, name)).fetchone() is not None


def _has_table(database: sqlite3.Connection, name: str) -> bool:
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    return database.execute(query, (name,)).fetchone() is not None


def _list_hospitals_once(database: sqlite3.Connection) -> None:
    """Rows in which an earlier version has named all hospitals."""
    if not _has_column(database, "opened", "willing"):
        database.execute("ALTER TABLE opened ADD COLUMN willing TEXT")
    database.create_function("list_hash", 1, list_hash, deterministic=True)
    insert = "INSERT OR IGNORE INTO hospital_lists (hash, text) SELECT DISTINCT"
    database.execute(f"{insert} list_hash(parts), parts FROM opened")
    database.execute(
        f"{insert} list_hash(willing), willing FROM opened WHERE willing IS NOT NULL"
    )
    database.execute("ALTER TABLE opened RENAME TO earlier_opened")
    database.execute(_OPENED)
    database.execute(
        "INSERT INTO opened SELECT receiver, in_set, order_id, name, of_parts.number, least_hospitals, at, has_left,"
        " of_willing.number FROM earlier_opened"
        " JOIN hospital_lists AS of_parts ON of_parts.hash = list_hash(parts)"
        " LEFT JOIN hospital_lists AS of_willing ON of_willing.hash = list_hash(willing)"
    )
    database.execute("DROP TABLE earlier_opened")


def earlier_digests(key: bytes, ids: Iterable[str]) -> Digests:
    """(n,): ids as the earlier version has digested them."""
    digests = [
        hashlib.blake2b(id_text.encode(), key=key, digest_size=8).digest()
        for id_text in ids
    ]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def _take_over(database: sqlite3.Connection) -> None:
    """The cohorts of training orders, as sets of ids without a value."""
    transaction = Transaction(database)
    query = (
        "SELECT requester, table_name, order_id, part, digests FROM cohorts"
        " JOIN id_sets ON id_sets.hash = cohorts.hash"
    )
    for requester, table, order_id, part, stored in database.execute(query).fetchall():
        ids = np.frombuffer(stored, dtype="<u8").astype(np.uint64)
        column = ColumnName(table, "", IDS_ALONE)
        members = transaction.number_members(column, ids, np.zeros_like(ids))
        # Which hospitals took part, nobody has written down.
        earlier = OpenedSet(
            column, members, part, int(order_id), {}, least_hospitals=1, has_left=True
        )
        at = datetime.fromtimestamp(0, UTC)
        transaction.keep([str(requester)], [earlier], at=at)
    # In the same transaction: after a crash either the old tables are there or the new
    # rows.
    database.execute("DROP TABLE cohorts")
    database.execute("DROP TABLE id_sets")
