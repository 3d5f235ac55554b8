"""The memory of an audit: it grows with the people, and not with sets times people; and
what it leaves out of a table decides nothing.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from agents.gate import connected_sets, memory_transaction
from agents.gate.cohort_gate import holds_0_and_1, varies_in_few
from agents.gate.connected_sets import connected, n_different, table_of
from agents.gate.kept_sets import ColumnName, OpenedSet
from agents.gate.members import told_apart
from agents.gate.memory import Memory
from analytics import arrays
from analytics.arrays import Floats, Ints
from analytics.statistics.audit import Verdict, audit_people

COLUMN = ColumnName("data.patients", "x1", "1, persons")


def peak_bytes(action: Callable[[], object]) -> int:
    """The most that an action has in memory beside what was there before."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def some_sets(generator: np.random.Generator, n_members: int) -> list[Ints]:
    """Everybody, everybody but a few, and groups."""
    everybody = np.arange(n_members)
    sets = [everybody, everybody[: generator.integers(1, n_members + 1)]]
    for _ in range(generator.integers(0, 4)):
        gone = generator.integers(0, n_members, generator.integers(1, 4))
        sets.append(np.setdiff1d(everybody, gone))
        sets.append(np.flatnonzero(generator.random(n_members) < generator.random()))
    return [one for one in sets if one.size]


@pytest.mark.parametrize("n_members", [20_000, 80_000])
def test_a_table_takes_some_numbers_for_each_member(n_members: int) -> None:
    generator = np.random.default_rng(0)
    groups = np.array_split(generator.permutation(n_members), 400)
    sets = [np.arange(n_members), *[np.sort(one) for one in groups]]
    persons = np.arange(n_members)
    peak = peak_bytes(lambda: table_of(sets, persons=persons, most=10))
    # 401 sets of bytes would be 401 of each.
    assert peak < 40 * n_members + 3_000_000
    assert peak_bytes(lambda: connected(sets)) < 60 * n_members + 3_000_000


@pytest.mark.parametrize("chunk_rows", [arrays.CHUNK_ROWS, 3])
def test_few_people_of_each_cell_decide_as_all_do(
    monkeypatch: pytest.MonkeyPatch, chunk_rows: int
) -> None:
    monkeypatch.setattr(arrays, "CHUNK_ROWS", chunk_rows)
    monkeypatch.setattr(connected_sets, "CHUNK_ROWS", chunk_rows)
    generator = np.random.default_rng(1)
    verdicts = set()
    for _ in range(200):
        n_members = int(generator.integers(5, 50))
        sets = some_sets(generator, n_members)
        persons = generator.permutation(n_members)
        least = int(generator.integers(1, 8))
        findings = []
        for most in (n_members, least):
            primes = iter([2147483629, 2147483587])
            members, table = table_of(sets, persons=persons, most=most)
            finding = audit_people(
                table,
                persons[members],
                n_new=1,
                min_rows=least,
                prime=lambda primes=primes: next(primes),
            )
            findings.append(finding)
        assert findings[0] == findings[1]
        verdicts.add(findings[0].verdict)
    assert verdicts >= {Verdict.PASSES, Verdict.TELLS_FEW}


def test_who_has_several_rows_in_a_set_is_counted_once() -> None:
    sets = [np.array([0, 1, 2, 3]), np.array([1, 2])]
    persons = np.array([0, 0, 0, 1])
    members, table = table_of(sets, persons=persons, most=9)
    # The first row of person 0, the first that alone tells the sets apart, and person 1.
    assert members.tolist() == [0, 1, 3]
    assert np.unpackbits(table, axis=1)[:, :3].tolist() == [[1, 1, 1], [0, 1, 0]]


@pytest.mark.parametrize("chunk_rows", [arrays.CHUNK_ROWS, 2])
def test_sets_are_connected_by_way_of_others(
    monkeypatch: pytest.MonkeyPatch, chunk_rows: int
) -> None:
    monkeypatch.setattr(connected_sets, "CHUNK_ROWS", chunk_rows)
    sets = [[5, 6], [1], [6, 7, 8], [2, 3, 4], [1, 9], [4]]
    found = connected([np.array(one) for one in sets])
    assert found.tolist() == [0, 1, 0, 3, 1, 3]


def test_different_numbers_are_counted() -> None:
    assert n_different(np.array([3, 0, 3, 7])) == 3
    assert n_different(np.zeros(0, dtype=np.int64)) == 0


def test_members_that_are_written_in_parts_are_found_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory_transaction, "_WRITTEN_MEMBERS", 4)
    memory = Memory(tmp_path)
    generator = np.random.default_rng(2)
    ids = generator.permutation(23).astype(np.uint64) + np.uint64(1)
    values = told_apart(ids, generator.integers(1, 9, 23).astype(np.uint64))
    with memory.alone(), memory.opened() as transaction:
        numbers = transaction.number_members(COLUMN, ids, values)
        kept = OpenedSet(COLUMN, numbers, "all", 1, {}, 3)
        transaction.keep(["3"], [kept], at=datetime(2026, 11, 26, tzinfo=UTC))
    with memory.alone(), memory.opened() as transaction:
        again = transaction.number_rows(COLUMN, ids, values)
        assert again.tolist() == list(range(23))
        fewer = transaction.number_rows(COLUMN, ids[::-1], values[::-1])
        assert fewer.tolist() == again[::-1].tolist()


def varies_by_counting(column: Floats, min_varying: int) -> bool:
    if not column.size:
        return False
    _, n_of_value = np.unique(column, return_counts=True)
    n_commonest = int(n_of_value.max())
    return n_commonest > 1 and 0 < column.size - n_commonest < min_varying


@pytest.mark.parametrize("chunk_rows", [arrays.CHUNK_ROWS, 3])
def test_the_commonest_value_is_found_without_counting_all(
    monkeypatch: pytest.MonkeyPatch, chunk_rows: int
) -> None:
    monkeypatch.setattr(arrays, "CHUNK_ROWS", chunk_rows)
    generator = np.random.default_rng(3)
    found = set()
    for _ in range(2_000):
        n_rows = int(generator.integers(0, 30))
        is_common = generator.random(n_rows) < generator.random()
        others = generator.integers(0, 4, n_rows)
        column = np.where(is_common, 1.0, others)
        column[generator.random(n_rows) < generator.choice([0, 0.9])] = np.nan
        min_varying = int(generator.integers(1, 20))
        varies = varies_in_few(column, min_varying)
        assert varies == varies_by_counting(column, min_varying)
        assert holds_0_and_1(column) == np.isin(column, (0, 1)).all()
        found.add(varies)
    assert found == {True, False}
