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

Decision 70.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np

from agents.gate.members import (
    Digests,
    Members,
    Register,
    distinct_numbers,
    packed_persons,
    packed_set,
    packed_values,
    unpacked_persons,
    unpacked_set,
    unpacked_values,
)
from agents.site.vault_database import KeyedDatabase
from analytics.arrays import Ints
from analytics.statistics.audit import Part

COORDINATOR = "coordinator"
"""Receives what leaves in clear."""

NO_SUM = 0
"""The least hospitals of what is no sum over several and hides no other's part."""

IDS_ALONE = "ids alone"
"""The form of sets that an earlier version has kept: ids, and no value."""

# The form of what is no column: a person of any form is its own member.
_PERSONS = "any form"

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
CREATE TABLE IF NOT EXISTS opened (
    receiver TEXT NOT NULL, in_set INTEGER NOT NULL REFERENCES sets (number), order_id INTEGER NOT NULL,
    name TEXT NOT NULL, parts TEXT NOT NULL, least_hospitals INTEGER NOT NULL, at REAL NOT NULL,
    has_left INTEGER NOT NULL, willing TEXT, PRIMARY KEY (receiver, in_set, order_id, name)
) WITHOUT ROWID;
"""


_NOBODY = np.zeros(0, dtype=np.int64)
_NO_DIGESTS: Digests = np.zeros(0, dtype=np.uint64)


@dataclass(frozen=True)
class ColumnName:
    """Where members are numbered: those of one column of one population."""

    population: str
    name: str
    # How values are written before they are digested, by number, and what is a person:
    # "1, persons". Members of two forms are never compared.
    form: str

    @property
    def by_persons(self) -> ColumnName:
        """The same column, of which persons themselves are the members."""
        return ColumnName(self.population, self.name, f"{_PERSONS}, {self._unit}")

    @property
    def _unit(self) -> str:
        return self.form.partition(", ")[2]

    def has_persons_of(self, form: str) -> bool:
        """Whether its persons are those of this column in another form."""
        other = ColumnName(self.population, self.name, form)
        return other.form != self.form and other._unit == self._unit


@dataclass(frozen=True)
class Terms:
    """What the parties of an order have said, in their acceptances, of hospitals that
    answers together would leave alone.
    """

    # The most that one of them asks for.
    least_hospitals: int
    # Those that let be told what they alone have.
    willing: frozenset[int]


@dataclass(frozen=True, eq=False)
class OpenedSet:
    """The members in a total that a receiver can open."""

    column: ColumnName
    members: Ints  # (n,): numbers of members, sorted, each once
    name: str  # of the total within its order
    order_id: int
    # The coefficient in the total of each other hospital, or of its column, relative to
    # that of one's own.
    parts: Mapping[Part, Fraction]
    # That may be in a sum, by the strictest of the parties; by this hospital until all
    # have accepted.
    least_hospitals: int
    has_left: bool = False
    # The hospitals that in this order let be told what they alone have; None until all
    # have accepted, and where an earlier version has not written it down.
    willing: frozenset[int] | None = None
    # `digest`, of a set that comes from the file.
    kept_digest: bytes = b""

    @cached_property
    def digest(self) -> bytes:
        """Of the members: equal sets of a column have one."""
        if self.kept_digest:
            return self.kept_digest
        members = self.members.astype("<u4").tobytes()
        return hashlib.blake2b(members, digest_size=32).digest()

    @cached_property
    def total(self) -> bytes:
        """Of the members, what the total was made of and what its parties said."""
        said = f"{self.least_hospitals} {sorted(self.willing or ())}"
        return self.digest + f"{said} {_written_parts(self.parts)}".encode()

    @property
    def is_agreed(self) -> bool:
        """Whether all have accepted its order."""
        return self.has_left or self.willing is not None


@dataclass(frozen=True)
class Listed:
    """A line for who looks at what has left."""

    receiver: str
    population: str
    column: str
    name: str
    order_id: int
    n_members: int
    at: datetime
    has_left: bool


class Memory(KeyedDatabase):
    """The sets that have left, and those that orders under way have reserved.

    Each call opens and closes the file; one that has returned is on disk (fsync). The
    file has mode 0600. Conflict (code vault_damaged) where it cannot be read: what has
    left must not be forgotten.

    Whoever compares and reserves holds it alone meanwhile (`alone`), across processes,
    and never while a message is waited for.
    """

    def __init__(self, folder: Path, *, is_copy: bool = False) -> None:
        super().__init__(folder / "cohorts.sqlite", _SCHEMA, is_copy=is_copy)
        with self._open() as database:
            is_of_this_version = _is_of_this_version(database)
        if not is_of_this_version:
            with self.alone(), self._writing() as database:
                if not _has_column(database, "opened", "willing"):
                    database.execute("ALTER TABLE opened ADD COLUMN willing TEXT")
                if _has_table(database, "id_sets"):
                    _take_over(database)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._open() as database:
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
                names = {row[0] for row in database.execute(query, (order_id,))}
                for name in names - set(shown):
                    database.execute(
                        "DELETE FROM opened WHERE order_id = ? AND name = ?",
                        (order_id, name),
                    )
                _forget_sets(database)
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
            found = database.execute(
                "DELETE FROM opened WHERE receiver = ? AND has_left AND in_set IN (SELECT sets.number FROM sets"
                " JOIN columns ON columns.number = sets.in_column WHERE population = ?)",
                (receiver, population),
            )
            _forget_sets(database)
            return found.rowcount

    def has_column(self, column: ColumnName) -> bool:
        """Whether its members have numbers."""
        with self._open() as database:
            return Transaction(database).column_number(column) is not None

    def list_opened(self) -> list[Listed]:
        """What has left or is reserved, by receiver, population and column, the
        earliest first.
        """
        query = (
            "SELECT receiver, population, columns.name, opened.name, order_id, n_members, at, has_left FROM opened"
            " JOIN sets ON sets.number = in_set JOIN columns ON columns.number = in_column"
            " ORDER BY receiver, population, columns.name, at, order_id, opened.name"
        )
        listed = []
        with self._open() as database:
            for row in database.execute(query):
                receiver, population, column, name, order_id, n_members = row[:6]
                listed.append(
                    Listed(
                        receiver=receiver,
                        population=population,
                        column=column,
                        name=name,
                        order_id=order_id,
                        n_members=n_members,
                        at=datetime.fromtimestamp(row[6], UTC),
                        has_left=bool(row[7]),
                    )
                )
        return listed


class Transaction:
    """What is compared and kept in one step.

    Numbers that it gives to new persons and members are written with the sets that hold
    them, or not at all: an order that is refused leaves nothing.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._persons: dict[str, Register] = {}
        self._members: dict[ColumnName, Members] = {}
        # By population the ids that were numbered last, and their numbers.
        self._numbered: dict[str, tuple[Digests, Ints]] = {}
        # By number of a set: most receivers have the same.
        self._unpacked: dict[int, Ints] = {}

    # Numbers

    def number_rows(self, column: ColumnName, ids: Digests, values: Digests) -> Ints:
        """(n,): the number of the member that each of these rows is.

        ids, values: (n,), of each row; equal ones are told apart before (`told_apart`).
        """
        members = self._load_members(column)
        persons = self._number_persons(column.population, ids)
        return members.numbers(persons, values)

    def number_members(self, column: ColumnName, ids: Digests, values: Digests) -> Ints:
        """Sorted numbers of the members that these rows are, each once."""
        return np.unique(self.number_rows(column, ids, values))

    def _number_persons(self, population: str, ids: Digests) -> Ints:
        """(n,): the number of each person; the columns of a reading have the same."""
        known = self._numbered.get(population)
        if known is None or known[0] is not ids:
            known = ids, self._load_persons(population).numbers(ids)
            self._numbered[population] = known
        return known[1]

    def persons_of(self, column: ColumnName) -> Ints:
        """(n_members,): the person that each member of a column is, by number."""
        if column == column.by_persons:
            return np.arange(self._load_persons(column.population).digests.size)
        return self._load_members(column).persons

    # Sets

    def sets_of(
        self, receiver: str, column: ColumnName, *, with_members: bool = True
    ) -> list[OpenedSet]:
        """What a receiver has of a column's members, or may have of an order under way,
        the earliest first.

        Without members, which take most of the time, it says what they are made of.
        """
        query = (
            "SELECT sets.number, hash, opened.name, order_id, parts, least_hospitals, has_left, willing FROM opened"
            " JOIN sets ON sets.number = in_set JOIN columns ON columns.number = in_column"
            " WHERE receiver = ? AND population = ? AND columns.name = ? AND form = ? ORDER BY at, order_id"
        )
        of_column = (receiver, column.population, column.name, column.form)
        found = []
        for row in self._database.execute(query, of_column):
            number, digest, name, order_id, parts, least_hospitals = row[:6]
            has_left, willing = row[6:]
            found.append(
                OpenedSet(
                    column,
                    self._members_of_set(number) if with_members else _NOBODY,
                    name,
                    order_id,
                    _read_parts(parts),
                    least_hospitals,
                    bool(has_left),
                    _read_hospitals(willing),
                    kept_digest=digest,
                )
            )
        return found

    def sets_by_persons(self, receiver: str, column: ColumnName) -> list[OpenedSet]:
        """The sets of persons that a receiver has of a column in any form; none where
        it has none of another form than this one.
        """
        found = self.sets_of_other_forms(receiver, column)
        if not found:
            return []
        found += [self.of_persons(one) for one in self.sets_of(receiver, column)]
        return found

    def sets_of_other_forms(self, receiver: str, column: ColumnName) -> list[OpenedSet]:
        """The sets of persons that a receiver has of a column in other forms."""
        query = "SELECT form FROM columns WHERE population = ? AND name = ?"
        forms = self._database.execute(query, (column.population, column.name))
        other_forms = [form for (form,) in forms if column.has_persons_of(form)]
        found = []
        for form in other_forms:
            in_form = ColumnName(column.population, column.name, form)
            found += self.sets_of(receiver, in_form)
        return [self.of_persons(one) for one in found]

    def of_persons(self, one: OpenedSet) -> OpenedSet:
        """A set of the persons whose members are in a set."""
        column = one.column.by_persons
        persons = self.persons_of(one.column)[one.members]
        members = distinct_numbers(persons, self.persons_of(column).size)
        return replace(one, column=column, members=members, kept_digest=b"")

    def _members_of_set(self, number: int) -> Ints:
        if number not in self._unpacked:
            query = "SELECT bitmap FROM sets WHERE number = ?"
            (bitmap,) = self._database.execute(query, (number,)).fetchone()
            self._unpacked[number] = unpacked_set(bitmap)
        return self._unpacked[number]

    def places_of(self, order_id: int) -> list[tuple[str, ColumnName]]:
        """Where the order has sets that have not left: receivers and columns."""
        query = (
            "SELECT DISTINCT receiver, population, columns.name, form FROM opened"
            " JOIN sets ON sets.number = in_set JOIN columns ON columns.number = in_column"
            " WHERE order_id = ? AND NOT has_left ORDER BY receiver, population, columns.name, form"
        )
        rows = self._database.execute(query, (order_id,)).fetchall()
        return [(row[0], ColumnName(*row[1:])) for row in rows]

    def agree(self, order_id: int, terms: Terms) -> None:
        """Writes what the parties have said to what the order has reserved."""
        self._database.execute(
            "UPDATE opened SET least_hospitals = ?, willing = ? WHERE order_id = ? AND NOT has_left",
            (terms.least_hospitals, json.dumps(sorted(terms.willing)), order_id),
        )

    def orders_under_way(self) -> set[int]:
        """Those that have reserved something."""
        query = "SELECT DISTINCT order_id FROM opened WHERE NOT has_left"
        return {row[0] for row in self._database.execute(query)}

    def drop(self, order_id: int) -> None:
        """Takes out what an order has reserved and not committed."""
        self._database.execute(
            "DELETE FROM opened WHERE order_id = ? AND NOT has_left", (order_id,)
        )
        _forget_sets(self._database)
        self._unpacked.clear()  # a number may become another set's

    def drop_old_forms(self, *, than: str, now: datetime, days: int) -> None:
        """Takes out what has left in forms that are older than one, `days` days after
        this was first asked.
        """
        forms = [row[0] for row in self._database.execute("SELECT form FROM columns")]
        for form in sorted(set(forms)):
            if _form_number(form) >= _form_number(than):
                continue
            # The clock runs from the change on: what left long before it counts, too.
            self._database.execute(
                "INSERT OR IGNORE INTO old_forms VALUES (?, ?)", (form, now.timestamp())
            )
            query = "SELECT since FROM old_forms WHERE form = ?"
            (since,) = self._database.execute(query, (form,)).fetchone()
            if now - datetime.fromtimestamp(since, UTC) >= timedelta(days=days):
                self._drop_form(form)

    def _drop_form(self, form: str) -> None:
        self._database.execute(
            "DELETE FROM opened WHERE has_left AND in_set IN (SELECT sets.number FROM sets"
            " JOIN columns ON columns.number = in_column WHERE form = ?)",
            (form,),
        )
        _forget_sets(self._database)
        # An order under way may have reserved one.
        unused = (
            "SELECT number FROM columns WHERE form = ?"
            " AND number NOT IN (SELECT in_column FROM sets)"
        )
        self._database.execute(
            f"DELETE FROM column_members WHERE in_column IN ({unused})",  # noqa: S608
            (form,),
        )
        self._database.execute(
            f"DELETE FROM columns WHERE number IN ({unused})",  # noqa: S608
            (form,),
        )
        self._unpacked.clear()

    def keep(
        self, receivers: Collection[str], sets: Collection[OpenedSet], *, at: datetime
    ) -> None:
        """Reserves sets for who can open their totals, and keeps the numbers in them."""
        for column in {one.column for one in sets}:
            self._write_members(column)
        insert = "INSERT OR IGNORE INTO opened VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)"
        for one in sets:
            number = self._write_set(one)
            parts = _written_parts(one.parts)
            for receiver in sorted(receivers):
                row = (
                    receiver,
                    number,
                    one.order_id,
                    one.name,
                    parts,
                    one.least_hospitals,
                    at.timestamp(),
                    one.has_left,
                )
                self._database.execute(insert, row)

    # What is in the file

    def _load_persons(self, population: str) -> Register:
        if population not in self._persons:
            query = "SELECT digests FROM persons WHERE population = ? ORDER BY first"
            rows = self._database.execute(query, (population,)).fetchall()
            known = np.frombuffer(b"".join(row[0] for row in rows), dtype="<u8")
            self._persons[population] = Register(known.astype(np.uint64))
        return self._persons[population]

    def _load_members(self, column: ColumnName) -> Members:
        if column not in self._members:
            query = "SELECT persons, read FROM column_members WHERE in_column = ? ORDER BY first"
            number = self.column_number(column)
            persons, values = [np.zeros(0, dtype=np.int64)], [_NO_DIGESTS]
            for packed_persons, packed_values in self._database.execute(
                query, (number,)
            ):
                persons.append(unpacked_persons(packed_persons))
                values.append(unpacked_values(packed_values))
            self._members[column] = Members(
                np.concatenate(persons), np.concatenate(values)
            )
        return self._members[column]

    def column_number(self, column: ColumnName) -> int | None:
        """None where nobody has a set of its members."""
        row = self._database.execute(
            "SELECT number FROM columns WHERE population = ? AND name = ? AND form = ?",
            (column.population, column.name, column.form),
        ).fetchone()
        return None if row is None else int(row[0])

    def _write_members(self, column: ColumnName) -> None:
        persons = self._load_persons(column.population)
        new_persons = persons.digests[persons.n_kept :]
        if new_persons.size:
            self._database.execute(
                "INSERT INTO persons VALUES (?, ?, ?)",
                (
                    column.population,
                    persons.n_kept,
                    new_persons.astype("<u8").tobytes(),
                ),
            )
            persons.n_kept = persons.digests.size

        self._database.execute(
            "INSERT OR IGNORE INTO columns (population, name, form) VALUES (?, ?, ?)",
            (column.population, column.name, column.form),
        )
        members = self._load_members(column)
        n_kept = members.n_kept
        if members.persons.size > n_kept:
            self._database.execute(
                "INSERT INTO column_members VALUES (?, ?, ?, ?)",
                (
                    self.column_number(column),
                    n_kept,
                    packed_persons(members.persons[n_kept:]),
                    packed_values(members.values[n_kept:]),
                ),
            )
            members.n_kept = members.persons.size

    def _write_set(self, one: OpenedSet) -> int:
        in_column = self.column_number(one.column)
        # A hundred orders over the same people keep one bitmap.
        self._database.execute(
            "INSERT OR IGNORE INTO sets (in_column, hash, n_members, bitmap) VALUES (?, ?, ?, ?)",
            (in_column, one.digest, one.members.size, packed_set(one.members)),
        )
        row = self._database.execute(
            "SELECT number FROM sets WHERE in_column = ? AND hash = ?",
            (in_column, one.digest),
        ).fetchone()
        return int(row[0])


def _form_number(form: str) -> int:
    """0 of ids alone."""
    number = form.partition(",")[0]
    return int(number) if number.isdecimal() else 0


def _forget_sets(database: sqlite3.Connection) -> None:
    """Sets that nobody has."""
    database.execute("DELETE FROM sets WHERE number NOT IN (SELECT in_set FROM opened)")


# Coefficients


def _written_parts(parts: Mapping[Part, Fraction]) -> str:
    """As [hospital, its column or null, coefficient], in one order for equal parts."""
    written = []
    for part, coefficient in parts.items():
        hospital, column = (part, None) if isinstance(part, int) else part
        written.append([hospital, column, str(coefficient)])
    written.sort(key=lambda entry: (entry[0], entry[1] or "", entry[2]))
    return json.dumps(written)


def _read_parts(text: str) -> dict[Part, Fraction]:
    parts: dict[Part, Fraction] = {}
    for hospital, column, coefficient in json.loads(text):
        part = hospital if column is None else (hospital, column)
        parts[part] = Fraction(coefficient)
    return parts


def _read_hospitals(text: str | None) -> frozenset[int] | None:
    return None if text is None else frozenset(json.loads(text))


# What an earlier version has kept


def _is_of_this_version(database: sqlite3.Connection) -> bool:
    is_whole = _has_column(database, "opened", "willing")
    return is_whole and not _has_table(database, "id_sets")


def _has_column(database: sqlite3.Connection, table: str, name: str) -> bool:
    query = "SELECT 1 FROM pragma_table_info(?) WHERE name = ?"
    return database.execute(query, (table, name)).fetchone() is not None


def _has_table(database: sqlite3.Connection, name: str) -> bool:
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    return database.execute(query, (name,)).fetchone() is not None


def earlier_digests(key: bytes, ids: Iterable[str]) -> Digests:
    """(n,): ids as the earlier version has digested them."""
    digests = [
        hashlib.blake2b(text.encode(), key=key, digest_size=8).digest() for text in ids
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
    database.execute("DROP TABLE cohorts")
    database.execute("DROP TABLE id_sets")
