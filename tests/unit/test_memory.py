"""What has left a hospital before: persons and members keep their numbers, reservations
belong to their orders, and sets that an earlier version kept are still known.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.gate.kept_sets import (
    IDS_ALONE,
    ColumnName,
    OpenedSet,
    Terms,
    written_parts,
)
from agents.gate.members import Digests, told_apart
from agents.gate.memory import Memory
from agents.site.vault_database import open_keyed
from tests.examples import few

AGE = ColumnName("public.patients", "age", "1, persons")
AT = datetime(2026, 11, 26, tzinfo=UTC)


def digests(numbers: Sequence[int]) -> Digests:
    return np.array(numbers, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def keep(
    memory: Memory,
    ids: Sequence[int],
    *,
    order_id: int,
    values: Sequence[int] | None = None,
    receivers: Sequence[str] = ("2",),
    name: str = "all",
    column: ColumnName = AGE,
) -> list[int]:
    """The members' numbers."""
    read = digests(values or [0] * len(ids))
    with memory.opened() as transaction:
        members = transaction.number_members(column, digests(ids), read)
        parts = {3: Fraction(1), 4: Fraction(-1, 3)}
        kept = OpenedSet(column, members, name, order_id, parts, 3)
        transaction.keep(receivers, [kept], at=AT)
    return [int(number) for number in members]


def sets_of(memory: Memory, receiver: str = "2") -> list[tuple[int, bool, list[int]]]:
    with memory.opened() as transaction:
        return [
            (one.order_id, one.has_left, one.members.tolist())
            for one in transaction.sets_of(receiver, AGE)
        ]


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path)


def test_a_member_keeps_its_number(memory: Memory, tmp_path: Path) -> None:
    first = keep(memory, [5, 6, 7], order_id=1)
    assert first == [0, 1, 2]
    again = keep(Memory(tmp_path), [7, 9, 5], order_id=2)
    assert len(set(again) & set(first)) == 2
    assert max(again) == 3


PAIRS = st.tuples(st.integers(0, 5), st.integers(0, 3))
READINGS = st.lists(
    st.lists(PAIRS, min_size=1, max_size=12, unique=True), min_size=1, max_size=4
)


@few
@given(readings=READINGS, is_kept=st.booleans())
def test_each_person_with_a_value_has_one_number(
    readings: list[list[tuple[int, int]]], is_kept: bool
) -> None:
    """Whatever the order of the rows, with several rows of a person, within an order
    and from the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        memory = Memory(Path(folder))
        number_of: dict[tuple[int, int], int] = {}
        person_of: dict[int, int] = {}
        for order_id, pairs in enumerate(readings):
            ids, values = (digests(side) for side in zip(*pairs, strict=True))
            with memory.opened() as transaction:
                # The second reading of one order, or its only one.
                if is_kept:
                    transaction.number_rows(AGE, ids[::-1], values[::-1])
                numbers = transaction.number_rows(AGE, ids, values)
                persons = transaction.persons_of(AGE)
                kept = OpenedSet(AGE, np.unique(numbers), "all", order_id, {}, 3)
                transaction.keep(["2"], [kept], at=AT)
            for pair, number in zip(pairs, numbers.tolist(), strict=True):
                assert number_of.setdefault(pair, number) == number
                person = int(persons[number])
                assert person_of.setdefault(pair[0], person) == person
        assert sorted(number_of.values()) == list(range(len(number_of)))
        assert len(set(person_of.values())) == len(person_of)


def test_columns_of_one_reading_have_equal_sets(memory: Memory) -> None:
    """In the order of their rows, so that they are audited once."""
    with memory.opened() as transaction:
        found = []
        for name in ("age", "bmi"):
            column = ColumnName(AGE.population, name, AGE.form)
            values = digests(range(100)) + np.uint64(len(name))
            found.append(
                transaction.number_rows(column, digests(range(100, 0, -1)), values)
            )
    assert found[0].tolist() == found[1].tolist() == list(range(100))


def test_a_corrected_value_is_another_member_of_the_same_person(memory: Memory) -> None:
    before = keep(memory, [5, 6], values=[30, 40], order_id=1)
    after = keep(memory, [5, 6], values=[30, 41], order_id=2)
    with memory.opened() as transaction:
        persons = transaction.persons_of(AGE)
    (gone,) = set(before) - set(after)
    (come,) = set(after) - set(before)
    assert persons[gone] == persons[come]
    assert len(persons) == 3


def test_a_refused_order_gives_nobody_a_number(memory: Memory) -> None:
    with memory.opened() as transaction:
        transaction.number_members(AGE, digests([1, 2]), digests([0, 0]))
    with memory.opened() as transaction:
        assert transaction.persons_of(AGE).size == 0


def test_equal_rows_of_one_person_are_members_of_their_own() -> None:
    ids, values = digests([1, 2, 1, 1, 2]), digests([7, 7, 7, 8, 9])
    apart = told_apart(ids, values)
    assert len(set(zip(ids.tolist(), apart.tolist(), strict=True))) == 5
    # The same rows in another order are the same members.
    turned = told_apart(ids[::-1], values[::-1])
    assert set(zip(ids[::-1].tolist(), turned.tolist(), strict=True)) == set(
        zip(ids.tolist(), apart.tolist(), strict=True)
    )


def test_what_is_reserved_leaves_with_the_commit(
    memory: Memory, tmp_path: Path
) -> None:
    keep(memory, [1, 2], order_id=7, receivers=["2", "coordinator"])
    assert sets_of(memory) == [(7, False, [0, 1])]
    memory.commit(7)
    memory.commit(7)
    memory.drop(7)
    assert sets_of(Memory(tmp_path), "coordinator") == [(7, True, [0, 1])]
    assert sets_of(Memory(tmp_path), "3") == []


def test_what_is_dropped_is_not_there(memory: Memory) -> None:
    keep(memory, [1, 2], order_id=7)
    keep(memory, [1, 2, 3], order_id=8)
    memory.drop(7)
    assert sets_of(memory) == [(8, False, [0, 1, 2])]
    with sqlite3.connect(memory.path) as database:
        assert database.execute("SELECT count(*) FROM sets").fetchone() == (1,)


def test_only_what_is_shown_leaves(memory: Memory) -> None:
    """Which groups an answer shows is known after those of all hospitals are."""
    keep(memory, [1, 2], order_id=7, name='["a"]')
    keep(memory, [3, 4], order_id=7, name='["b"]')
    keep(memory, [5], order_id=8, name='["b"]')
    memory.commit(7, shown=['["b"]', '["c"]'])
    assert sets_of(memory) == [(7, True, [2, 3]), (8, False, [4])]
    memory.commit(7)
    assert sets_of(memory) == [(7, True, [2, 3]), (8, False, [4])]


def test_equal_sets_are_kept_once(memory: Memory) -> None:
    for order_id in range(20):
        keep(memory, range(100), order_id=order_id, receivers=["2", "3"])
    with sqlite3.connect(memory.path) as database:
        assert database.execute("SELECT count(*) FROM sets").fetchone() == (1,)
        assert database.execute("SELECT count(*) FROM opened").fetchone() == (40,)


def test_coefficients_are_kept_exactly(memory: Memory) -> None:
    keep(memory, [1], order_id=1)
    with memory.opened() as transaction:
        (found,) = transaction.sets_of("2", AGE)
    assert found.parts == {3: Fraction(1), 4: Fraction(-1, 3)}
    assert found.least_hospitals == 3


def test_what_the_parties_said_is_kept_with_their_order(
    memory: Memory, tmp_path: Path
) -> None:
    keep(memory, [1, 2], order_id=7, receivers=["2", "3"])
    keep(memory, [1, 2], order_id=8)

    def said() -> list[tuple[int, int, frozenset[int] | None, bool]]:
        with Memory(tmp_path).opened() as transaction:
            return [
                (one.order_id, one.least_hospitals, one.willing, one.is_agreed)
                for one in transaction.sets_of("2", AGE)
            ]

    assert said() == [(7, 3, None, False), (8, 3, None, False)]
    with memory.opened() as transaction:
        assert transaction.places_of(7) == [("2", AGE), ("3", AGE)]
        transaction.agree(7, Terms(5, frozenset({4, 3})))
    assert said() == [(7, 5, frozenset({3, 4}), True), (8, 3, None, False)]
    memory.commit(7)
    with memory.opened() as transaction:
        assert transaction.places_of(7) == []
        transaction.agree(7, Terms(1, frozenset()))
    assert said()[0] == (7, 5, frozenset({3, 4}), True)


PARTS_IN_EACH_ROW = (
    "CREATE TABLE opened (receiver TEXT NOT NULL, in_set INTEGER NOT NULL REFERENCES sets (number),"
    " order_id INTEGER NOT NULL, name TEXT NOT NULL, parts TEXT NOT NULL, least_hospitals INTEGER NOT NULL,"
    " at REAL NOT NULL, has_left INTEGER NOT NULL, willing TEXT,"
    " PRIMARY KEY (receiver, in_set, order_id, name)) WITHOUT ROWID"
)


def as_an_earlier_version(memory: Memory, *, willing: str | None) -> None:
    """Its `opened` named every hospital in every row."""
    parts = written_parts({3: Fraction(1), 4: Fraction(-1, 3)})
    with sqlite3.connect(memory.path) as database:
        query = "SELECT receiver, in_set, order_id, name, least_hospitals, at, has_left FROM opened"
        rows = database.execute(query).fetchall()
        database.execute("DROP TABLE opened")
        database.execute("DROP TABLE hospital_lists")
        database.execute(PARTS_IN_EACH_ROW)
        for row in rows:
            database.execute(
                "INSERT INTO opened VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*row[:4], parts, *row[4:], willing),
            )


@pytest.mark.parametrize("is_copy", [False, True])
def test_rows_that_named_every_hospital_are_taken_over(
    memory: Memory, tmp_path: Path, *, is_copy: bool
) -> None:
    keep(memory, [1, 2], order_id=7, receivers=["2", "3"])
    memory.commit(7)
    keep(memory, [1, 2, 3], order_id=8)
    before = memory.list_opened()
    as_an_earlier_version(memory, willing="[3, 4]")
    now = Memory(tmp_path, is_copy=is_copy)
    assert now.list_opened() == before
    with now.opened() as transaction:
        found = transaction.sets_of("2", AGE)
    assert [(one.order_id, one.has_left) for one in found] == [(7, True), (8, False)]
    for one in found:
        assert one.parts == {3: Fraction(1), 4: Fraction(-1, 3)}
        assert one.willing == {3, 4}
        assert one.least_hospitals == 3
    # The same list is known again.
    keep(now, [1], order_id=9)
    with now.opened() as transaction:
        assert len(transaction.sets_of("2", AGE)) == 3


def test_sets_of_a_version_that_asked_no_hospital_are_still_known(
    memory: Memory, tmp_path: Path
) -> None:
    keep(memory, [1, 2], order_id=7)
    memory.commit(7)
    as_an_earlier_version(memory, willing=None)
    with sqlite3.connect(memory.path) as database:
        database.execute("ALTER TABLE opened DROP COLUMN willing")
    with Memory(tmp_path).opened() as transaction:
        (found,) = transaction.sets_of("2", AGE)
    assert (found.order_id, found.willing, found.is_agreed) == (7, None, True)
    keep(Memory(tmp_path), [3], order_id=8)
    assert [one[0] for one in sets_of(memory)] == [7, 8]


def test_room_of_an_earlier_version_is_given_back(
    memory: Memory, tmp_path: Path
) -> None:
    receivers = [str(number) for number in range(2000)]
    keep(memory, [1, 2], order_id=7, receivers=receivers)
    as_an_earlier_version(memory, willing=json.dumps(list(range(300))))
    before = memory.path.stat().st_size
    Memory(tmp_path)
    assert memory.path.stat().st_size < before / 5


def test_an_order_of_many_hospitals_names_them_once(memory: Memory) -> None:
    n_hospitals, n_columns = 300, 30
    hospitals = range(1, n_hospitals + 1)
    ids = digests(range(1, 501))
    with memory.opened() as transaction:
        sets = []
        for number in range(n_columns):
            column = ColumnName(AGE.population, f"x{number}", AGE.form)
            members = transaction.number_members(column, ids, ids)
            parts = {(user, column.name): Fraction(1) for user in hospitals}
            sets.append(OpenedSet(column, members, "all", 1, parts, 3))
        transaction.keep([str(user) for user in hospitals], sets, at=AT)
        transaction.agree(1, Terms(3, frozenset(hospitals)))
    assert memory.path.stat().st_size < 5e6
    with memory.opened() as transaction:
        for one in sets:
            (found,) = transaction.sets_of("300", one.column)
            assert found.parts == one.parts
            assert found.willing == frozenset(hospitals)


def test_a_list_of_hospitals_goes_with_the_last_that_names_it(memory: Memory) -> None:
    def n_lists() -> int:
        with sqlite3.connect(memory.path) as database:
            query = "SELECT count(*) FROM hospital_lists"
            return int(database.execute(query).fetchone()[0])

    keep(memory, [1], order_id=1)
    keep(memory, [1], order_id=2)
    with memory.opened() as transaction:
        transaction.agree(2, Terms(3, frozenset({2, 3})))
    assert n_lists() == 2
    memory.drop(1)
    assert n_lists() == 2
    memory.drop(2)
    assert n_lists() == 0


def test_a_number_that_is_given_again_is_another_list(memory: Memory) -> None:
    members = np.array([0])
    other = {5: Fraction(1)}
    keep(memory, [1], order_id=1)
    with memory.opened() as transaction:
        assert transaction.sets_of("2", AGE)
        transaction.drop(1)
        transaction.keep(["2"], [OpenedSet(AGE, members, "all", 2, other, 3)], at=AT)
        (found,) = transaction.sets_of("2", AGE)
    assert found.parts == other


def test_the_list_and_what_is_forgotten_of_it(memory: Memory) -> None:
    other = ColumnName("public.visits", "age", "1")
    keep(memory, [1, 2], order_id=1, receivers=["2", "3"])
    keep(memory, [1, 2], order_id=2, column=other)
    keep(memory, [1, 2, 3], order_id=3)
    memory.commit(1)
    memory.commit(2)
    listed = [
        (one.receiver, one.population, one.order_id, one.n_members, one.has_left)
        for one in memory.list_opened()
    ]
    assert listed == [
        ("2", "public.patients", 1, 2, True),
        ("2", "public.patients", 3, 3, False),
        ("2", "public.visits", 2, 2, True),
        ("3", "public.patients", 1, 2, True),
    ]
    assert memory.forget("2", "public.patients") == 1
    assert [(one.receiver, one.order_id) for one in memory.list_opened()] == [
        ("2", 3),  # of an order under way
        ("2", 2),
        ("3", 1),
    ]
    assert memory.list_opened()[0].at == AT


def test_cohorts_of_an_earlier_version_are_taken_over(tmp_path: Path) -> None:
    """Under the key that they were digested with, which also draws folds."""
    old = (
        "CREATE TABLE IF NOT EXISTS id_sets (hash BLOB PRIMARY KEY, digests BLOB NOT NULL) WITHOUT ROWID;"
        "CREATE TABLE IF NOT EXISTS cohorts (requester INTEGER NOT NULL, table_name TEXT NOT NULL,"
        " order_id TEXT NOT NULL,"
        " part TEXT NOT NULL, hash BLOB NOT NULL REFERENCES id_sets (hash),"
        " PRIMARY KEY (requester, table_name, order_id, part, hash)) WITHOUT ROWID;"
    )
    key = open_keyed(tmp_path / "cohorts.sqlite", old)
    with sqlite3.connect(tmp_path / "cohorts.sqlite") as database:
        for name, ids in {"whole": [1, 2, 3], "less": [1, 2]}.items():
            stored = digests(ids).astype("<u8").tobytes()
            database.execute("INSERT INTO id_sets VALUES (?, ?)", (name, stored))
            database.execute(
                "INSERT INTO cohorts VALUES (4, 'public.patients', '9', ?, ?)",
                (name, name),
            )
    assert Memory(tmp_path).key == key
    memory = Memory(tmp_path)
    with memory.opened() as transaction:
        found = transaction.sets_of("4", ColumnName("public.patients", "", IDS_ALONE))
    assert sorted(one.members.size for one in found) == [2, 3]
    assert all(one.has_left for one in found)
    assert found[0].order_id == 9


def test_ids_alone_are_dropped_some_days_after_the_upgrade(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    alone = ColumnName("public.patients", "", IDS_ALONE)
    keep(memory, [1, 2], order_id=1, column=alone)
    keep(memory, [1, 2], order_id=2)
    memory.commit(1)
    for days, is_kept in [(0, True), (29, True), (30, False)]:
        now = AT + timedelta(days=days)
        with memory.opened() as transaction:
            transaction.drop_old_forms(than=AGE.form, now=now, days=30)
        assert memory.has_column(alone) is is_kept
    assert sets_of(memory) == [(2, False, [0, 1])]
    with sqlite3.connect(memory.path) as database:
        assert database.execute("SELECT count(*) FROM column_members").fetchone() == (
            1,
        )


def test_what_an_order_under_way_has_reserved_in_an_old_form_stays(
    memory: Memory,
) -> None:
    keep(memory, [1, 2], order_id=1)
    for days in (0, 30):
        with memory.opened() as transaction:
            transaction.drop_old_forms(
                than="2, persons", now=AT + timedelta(days=days), days=30
            )
    memory.commit(1)
    assert sets_of(memory) == [(1, True, [0, 1])]


@pytest.mark.parametrize(("n_values", "most_bytes"), [(60_000, 9), (256, 3), (2, 1)])
def test_a_column_of_few_values_takes_less_room(
    memory: Memory, n_values: int, most_bytes: int
) -> None:
    """A table of images has a hundred columns and more."""
    n_people, n_columns = 60_000, 10
    ids = digests(range(1, n_people + 1))
    values = digests([number % n_values for number in range(n_people)])
    values = np.random.default_rng(3).permutation(values)
    with memory.opened() as transaction:
        sets = []
        for number in range(n_columns):
            column = ColumnName(AGE.population, f"x{number}", AGE.form)
            members = transaction.number_members(column, ids, values)
            sets.append(OpenedSet(column, members, "all", 1, {}, 3))
        transaction.keep(["2"], sets, at=AT)
    n_bytes = memory.path.stat().st_size - 9 * n_people
    assert n_bytes < most_bytes * n_people * n_columns


@pytest.mark.thorough
def test_a_million_people_are_numbered_and_kept_in_seconds(memory: Memory) -> None:
    """Each is a few bytes: 8 for the id, 8 for its value, and one bit in each set."""
    n_people = 1_000_000
    rng = np.random.default_rng(3)
    ids = rng.integers(2**64, size=n_people, dtype=np.uint64)
    values = rng.integers(2**64, size=n_people, dtype=np.uint64)
    for order_id in (1, 2):
        with memory.opened() as transaction:
            members = transaction.number_members(AGE, ids[order_id:], values[order_id:])
            kept = OpenedSet(AGE, members, "all", order_id, {}, 3)
            transaction.keep(["2"], [kept], at=AT)
    assert memory.path.stat().st_size < 18 * n_people
