"""What is compared with what has left before, and kept beside it, in one step of `memory`.

Decision 147.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import numpy as np

from agents.gate.kept_sets import (
    ColumnName,
    OpenedSet,
    Terms,
    read_hospitals,
    read_parts,
    written_hospitals,
    written_parts,
)
from agents.gate.members import (
    NUMBER,
    Digests,
    Members,
    Numbers,
    Register,
    distinct_numbers,
    packed_persons,
    packed_set,
    packed_values,
    unpacked_persons,
    unpacked_set,
    unpacked_values,
)
from analytics.arrays import let_go
from analytics.statistics.hospital_audit import Part

_NOBODY = np.zeros(0, dtype=NUMBER)
_NO_DIGESTS: Digests = np.zeros(0, dtype=np.uint64)
_WRITTEN_MEMBERS = 2**20
"""SQLite has at most 1 GB in one value, and a value is in memory twice."""


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
        self._numbered: dict[str, tuple[Digests, Numbers]] = {}
        # By number of a set: most receivers have the same.
        self._unpacked: dict[int, Numbers] = {}
        # By number of a list, likewise.
        self._parts: dict[int, Mapping[Part, Fraction]] = {}
        self._willing: dict[int, frozenset[int]] = {}

    # Numbers

    def number_rows(self, column: ColumnName, ids: Digests, values: Digests) -> Numbers:
        """(n,): the number of the member that each of these rows is.

        ids, values: (n,), of each row; equal ones are told apart before (`told_apart`).
        """
        members = self._load_members(column)
        persons = self._number_persons(column.population, ids)
        return members.numbers(persons, values)

    def number_members(
        self, column: ColumnName, ids: Digests, values: Digests
    ) -> Numbers:
        """Sorted numbers of the members that these rows are, each once."""
        return np.unique(self.number_rows(column, ids, values))

    def _number_persons(self, population: str, ids: Digests) -> Numbers:
        """(n,): the number of each person; the columns of a reading have the same."""
        numbered = self._numbered.get(population)
        # The very same array, which is kept so that no later one can be taken for it;
        # to compare the ids of millions of rows would cost what this saves.
        if numbered is None or numbered[0] is not ids:
            numbered = ids, self._load_persons(population).numbers(ids)
            self._numbered[population] = numbered
        return numbered[1]

    def persons_of(self, column: ColumnName) -> Numbers:
        """(n_members,): the person that each member of a column is, by number."""
        if column == column.by_persons:
            n_persons = self._load_persons(column.population).digests.size
            return np.arange(n_persons, dtype=NUMBER)
        return self._load_members(column).persons

    # Sets

    def sets_of(
        self, receiver: str, column: ColumnName, *, with_members: bool = True
    ) -> list[OpenedSet]:
        """What a receiver has of a column's members, or may have of an order under way,
        the earliest first.

        Without members, which take most of the time, it says what they are made of.
        """
        opened_query = (
            "SELECT sets.number, hash, opened.name, order_id, of_parts, least_hospitals, has_left, of_willing"
            " FROM opened JOIN sets ON sets.number = in_set JOIN columns ON columns.number = in_column"
            " WHERE receiver = ? AND population = ? AND columns.name = ? AND form = ? ORDER BY at, order_id"
        )
        of_column = (receiver, column.population, column.name, column.form)
        opened_sets = []
        for row in self._database.execute(opened_query, of_column):
            number, digest, total_name, order_id, of_parts, least_hospitals = row[:6]
            has_left, of_willing = row[6:]
            opened_sets.append(
                OpenedSet(
                    column,
                    self._members_of_set(number) if with_members else _NOBODY,
                    total_name,
                    order_id,
                    self._parts_of_list(of_parts),
                    least_hospitals,
                    bool(has_left),
                    self._willing_of_list(of_willing),
                    kept_digest=digest,
                )
            )
        return opened_sets

    def sets_by_persons(self, receiver: str, column: ColumnName) -> list[OpenedSet]:
        """The sets of persons that a receiver has of a column in any form; none where
        it has none of another form than this one.
        """
        person_sets = self.sets_of_other_forms(receiver, column)
        if not person_sets:
            return []
        person_sets += [
            self.of_persons(opened_set) for opened_set in self.sets_of(receiver, column)
        ]
        return person_sets

    def sets_of_other_forms(self, receiver: str, column: ColumnName) -> list[OpenedSet]:
        """The sets of persons that a receiver has of a column in other forms."""
        query = "SELECT form FROM columns WHERE population = ? AND name = ?"
        forms = self._database.execute(query, (column.population, column.name))
        other_forms = [form for (form,) in forms if column.has_persons_of(form)]
        opened_sets = []
        for form in other_forms:
            in_form = ColumnName(column.population, column.name, form)
            opened_sets += self.sets_of(receiver, in_form)
        return [self.of_persons(opened_set) for opened_set in opened_sets]

    def of_persons(self, opened_set: OpenedSet) -> OpenedSet:
        """A set of the persons whose members are in a set."""
        column = opened_set.column.by_persons
        persons = self.persons_of(opened_set.column)[opened_set.members]
        members = distinct_numbers(persons, self.persons_of(column).size)
        return replace(opened_set, column=column, members=members, kept_digest=b"")

    def _members_of_set(self, number: int) -> Numbers:
        if number not in self._unpacked:
            query = "SELECT bitmap FROM sets WHERE number = ?"
            (bitmap,) = self._database.execute(query, (number,)).fetchone()
            self._unpacked[number] = unpacked_set(bitmap)
        return self._unpacked[number]

    def _parts_of_list(self, number: int) -> Mapping[Part, Fraction]:
        if number not in self._parts:
            self._parts[number] = read_parts(self._text_of_list(number))
        return self._parts[number]

    def _willing_of_list(self, number: int | None) -> frozenset[int] | None:
        if number is None:
            return None
        if number not in self._willing:
            self._willing[number] = read_hospitals(self._text_of_list(number))
        return self._willing[number]

    def _text_of_list(self, number: int) -> str:
        query = "SELECT text FROM hospital_lists WHERE number = ?"
        return str(self._database.execute(query, (number,)).fetchone()[0])

    def _number_of_list(self, text: str) -> int:
        digest = list_hash(text)
        self._database.execute(
            "INSERT OR IGNORE INTO hospital_lists (hash, text) VALUES (?, ?)",
            (digest, text),
        )
        query = "SELECT number FROM hospital_lists WHERE hash = ?"
        return int(self._database.execute(query, (digest,)).fetchone()[0])

    def places_of(self, order_id: int) -> list[tuple[str, ColumnName]]:
        """Where the order has sets that have not left: receivers and columns."""
        places_query = (
            "SELECT DISTINCT receiver, population, columns.name, form FROM opened"
            " JOIN sets ON sets.number = in_set JOIN columns ON columns.number = in_column"
            " WHERE order_id = ? AND NOT has_left ORDER BY receiver, population, columns.name, form"
        )
        rows = self._database.execute(places_query, (order_id,)).fetchall()
        return [(row[0], ColumnName(*row[1:])) for row in rows]

    def agree(self, order_id: int, terms: Terms) -> None:
        """Writes what the parties have said to what the order has reserved."""
        willing = self._number_of_list(written_hospitals(terms.willing))
        self._database.execute(
            # What has left stays under the terms under which it left.
            "UPDATE opened SET least_hospitals = ?, of_willing = ? WHERE order_id = ? AND NOT has_left",
            (terms.least_hospitals, willing, order_id),
        )

    def note_absent(self, order_id: int, hospitals: Collection[int]) -> None:
        """Writes without which of the hospitals that were asked an order has started."""
        rows = [(order_id, hospital) for hospital in sorted(hospitals)]
        self._database.executemany("INSERT OR IGNORE INTO absent VALUES (?, ?)", rows)

    def absent_by_order(self) -> dict[int, frozenset[int]]:
        """The hospitals without which orders have started that left something here, or
        may.
        """
        self._database.execute(
            "DELETE FROM absent WHERE order_id NOT IN (SELECT order_id FROM opened)"
        )
        absent: dict[int, frozenset[int]] = {}
        for order_id, hospital in self._database.execute("SELECT * FROM absent"):
            absent[order_id] = absent.get(order_id, frozenset()) | {hospital}
        return absent

    def orders_under_way(self) -> set[int]:
        """Those that have reserved something."""
        query = "SELECT DISTINCT order_id FROM opened WHERE NOT has_left"
        return {row[0] for row in self._database.execute(query)}

    def drop(self, order_id: int) -> None:
        """Takes out what an order has reserved and not committed."""
        self._database.execute(
            # What has left stays: its receivers have it, however the order ended.
            "DELETE FROM opened WHERE order_id = ? AND NOT has_left",
            (order_id,),
        )
        self._forget_unused()

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
        self._forget_unused()
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

    def _forget_unused(self) -> None:
        forget_unused(self._database)
        # A number may become another's.
        self._unpacked.clear()
        self._parts.clear()
        self._willing.clear()

    def keep(
        self, receivers: Collection[str], sets: Collection[OpenedSet], *, at: datetime
    ) -> None:
        """Reserves sets for who can open their totals, and keeps the numbers in them."""
        for column in {opened_set.column for opened_set in sets}:
            self._write_members(column)
        # An order that starts again after a crash keeps the same rows once more, and of
        # those that have left already nothing is taken back.
        insert = "INSERT OR IGNORE INTO opened VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)"
        for opened_set in sets:
            number = self._write_set(opened_set)
            of_parts = self._number_of_list(written_parts(opened_set.parts))
            for receiver in sorted(receivers):
                opened_row = (
                    receiver,
                    number,
                    opened_set.order_id,
                    opened_set.name,
                    of_parts,
                    opened_set.least_hospitals,
                    at.timestamp(),
                    opened_set.has_left,
                )
                self._database.execute(insert, opened_row)

    def let_go(self, column: ColumnName) -> None:
        """Takes the members of a column out of memory, and unpacked sets; what was kept of
        them stays in the file.
        """
        self._members.pop(column, None)
        self._unpacked.clear()

    # What is in the file

    def _load_persons(self, population: str) -> Register:
        if population not in self._persons:
            query = "SELECT digests FROM persons WHERE population = ? ORDER BY first"
            known_digests = [_NO_DIGESTS]
            for (digests,) in self._database.execute(query, (population,)):
                known_digests.append(np.frombuffer(digests, dtype="<u8"))
            self._persons[population] = Register(np.concatenate(known_digests))
        return self._persons[population]

    def _load_members(self, column: ColumnName) -> Members:
        if column not in self._members:
            members_query = "SELECT persons, read FROM column_members WHERE in_column = ? ORDER BY first"
            number = self.column_number(column)
            persons: list[Numbers] = [_NOBODY]
            values = [_NO_DIGESTS]
            for packed_persons, packed_values in self._database.execute(
                members_query, (number,)
            ):
                persons.append(unpacked_persons(packed_persons))
                values.append(unpacked_values(packed_values))
            all_persons = np.concatenate(persons)
            # Both are as large as what they are made of.
            persons.clear()
            self._members[column] = Members(all_persons, np.concatenate(values))
        return self._members[column]

    def column_number(self, column: ColumnName) -> int | None:
        """None where nobody has a set of its members."""
        column_row = self._database.execute(
            "SELECT number FROM columns WHERE population = ? AND name = ? AND form = ?",
            (column.population, column.name, column.form),
        ).fetchone()
        return None if column_row is None else int(column_row[0])

    def _write_members(self, column: ColumnName) -> None:
        persons = self._load_persons(column.population)
        for written_part in _written_parts(persons.n_kept, persons.digests.size):
            written = persons.digests[written_part].astype("<u8").tobytes()
            self._database.execute(
                "INSERT INTO persons VALUES (?, ?, ?)",
                (column.population, written_part.start, written),
            )
            let_go(persons.digests)
        # The register goes on with the next column of this step: none is written twice.
        persons.n_kept = persons.digests.size

        self._database.execute(
            "INSERT OR IGNORE INTO columns (population, name, form) VALUES (?, ?, ?)",
            (column.population, column.name, column.form),
        )
        members = self._load_members(column)
        number = self.column_number(column)
        for written_part in _written_parts(members.n_kept, members.persons.size):
            self._database.execute(
                "INSERT INTO column_members VALUES (?, ?, ?, ?)",
                (
                    number,
                    written_part.start,
                    packed_persons(members.persons[written_part]),
                    packed_values(members.values[written_part]),
                ),
            )
            let_go(members.values)
        members.n_kept = members.persons.size

    def _write_set(self, opened_set: OpenedSet) -> int:
        in_column = self.column_number(opened_set.column)
        # A hundred orders over the same people keep one bitmap.
        self._database.execute(
            "INSERT OR IGNORE INTO sets (in_column, hash, n_members, bitmap) VALUES (?, ?, ?, ?)",
            (
                in_column,
                opened_set.digest,
                opened_set.members.size,
                packed_set(opened_set.members),
            ),
        )
        set_row = self._database.execute(
            "SELECT number FROM sets WHERE in_column = ? AND hash = ?",
            (in_column, opened_set.digest),
        ).fetchone()
        return int(set_row[0])


def _written_parts(first: int, end: int) -> Iterator[slice]:
    """The members from `first` to `end`, so many at a time as one value of the file has."""
    for start in range(first, end, _WRITTEN_MEMBERS):
        yield slice(start, min(start + _WRITTEN_MEMBERS, end))


def _form_number(form: str) -> int:
    """0 of ids alone."""
    number = form.partition(",")[0]
    return int(number) if number.isdecimal() else 0


def list_hash(text: str | None) -> bytes | None:
    """What a list of hospitals is known again by; None of none."""
    if text is None:
        return None
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def forget_unused(database: sqlite3.Connection) -> None:
    """Sets that nobody has, and lists that no total names."""
    database.execute("DELETE FROM sets WHERE number NOT IN (SELECT in_set FROM opened)")
    database.execute(
        "DELETE FROM hospital_lists WHERE number NOT IN (SELECT of_parts FROM opened)"
        " AND number NOT IN (SELECT of_willing FROM opened WHERE of_willing IS NOT NULL)"
    )
