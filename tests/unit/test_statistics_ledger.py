"""What joint statistics asked before: the sketches of an earlier version, one threshold for the same
people, each kept on disk.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.gate.earlier_questions import (
    Comparison,
    StatisticsLedger,
    digest_of,
    sketch_of,
)
from protocol.errors import Refused

NOW = datetime(2025, 3, 4, 5, 6, 7, tzinfo=UTC)
COMPARISON: dict[str, Any] = {
    "dataset": "a",
    "columns": frozenset(["price", "units"]),
    "keys_digest": b"k" * 32,
    "question": ">=3000000",
    "order_id": 1,
    "now": NOW,
    "days": 30,
}


def sketch(n_changed: int = 0) -> Any:
    cells = np.random.default_rng(3).integers(0, 2**64, 65536, dtype=np.uint64)
    cells[:n_changed] ^= np.uint64(1)
    return cells


def remember(
    ledger: StatisticsLedger, dataset: str, cells: Any, *, order_id: int
) -> None:
    """As an earlier version did."""
    content = cells.astype("<u8").tobytes()
    content_hash = hashlib.blake2b(content, digest_size=32).digest()
    row = (4, dataset, order_id, content_hash)
    with sqlite3.connect(ledger.path) as database:
        database.execute(
            "INSERT OR IGNORE INTO sketches VALUES (?, ?)",
            (content_hash, zlib.compress(content)),
        )
        database.execute(
            "INSERT INTO orders (requester, dataset, order_id, hash) VALUES (?, ?, ?, ?)",
            row,
        )


def test_earlier_sketches_come_by_requester_and_dataset_the_latest_last(
    tmp_path: Path,
) -> None:
    ledger = StatisticsLedger(tmp_path)
    for order_id, n_changed in enumerate((0, 20, 0, 40), start=1):
        remember(ledger, "csv a.csv x", sketch(n_changed), order_id=order_id)
    remember(ledger, "csv b.csv x", sketch(60), order_id=9)
    found = list(StatisticsLedger(tmp_path).earlier({4}, "csv a.csv x"))
    assert [np.count_nonzero(cells != sketch()) for cells in found] == [20, 0, 40]
    assert found[0].dtype == np.uint64
    assert list(ledger.earlier({3}, "csv a.csv x")) == []
    assert len(list(ledger.earlier({4}, "csv b.csv x"))) == 1


def test_sketches_are_forgotten_some_weeks_after_the_upgrade(tmp_path: Path) -> None:
    ledger = StatisticsLedger(tmp_path)
    assert not ledger.keeps_sketches(now=NOW)
    remember(ledger, "a", sketch(), order_id=1)
    for days, keeps in ((0, True), (29, True), (30, False), (0, False)):
        assert ledger.keeps_sketches(now=NOW + timedelta(days=days)) == keeps
    assert list(ledger.earlier({4}, "a")) == []


def test_the_file_is_its_owner_s_alone(tmp_path: Path) -> None:
    assert StatisticsLedger(tmp_path / "cohorts").path.stat().st_mode & 0o777 == 0o600


def compare(ledger: StatisticsLedger, **changes: Any) -> int | None:
    """The order that has asked the same; without one, this is written down."""
    fields = {**COMPARISON, **changes}
    when = {name: fields.pop(name) for name in ("now", "days")}
    asked = Comparison(**fields)
    earlier = ledger.earlier_comparison(asked, **when)
    if earlier is None:
        ledger.remember_comparison(asked, **when)
    return earlier


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, 1),
        ({"now": NOW + timedelta(days=29, hours=23)}, 1),
        ({"now": NOW + timedelta(days=30)}, None),
        # The order itself, after a crash
        ({"order_id": 1}, None),
        ({"question": ">=2999999"}, "threshold"),
        ({"question": ">=1", "keys_digest": b"l" * 32}, None),
        ({"question": ">=1", "dataset": "b"}, None),
        ({"question": ">=1", "columns": frozenset(["fee"])}, None),
        ({"question": ">=1", "columns": frozenset(["units"])}, "threshold"),
        (
            {"question": ">=1", "columns": frozenset(["fee", "price", "units"])},
            "threshold",
        ),
        ({"question": ">=1", "now": NOW + timedelta(days=29, hours=23)}, "threshold"),
        ({"question": ">=1", "now": NOW + timedelta(days=30)}, None),
        ({"question": ">=1", "now": NOW - timedelta(days=31)}, "threshold"),
    ],
)
def test_the_same_people_are_compared_once(
    tmp_path: Path, changes: dict[str, Any], found: int | str | None
) -> None:
    assert compare(StatisticsLedger(tmp_path)) is None
    asked = {"order_id": 2, **changes}
    if found == "threshold":
        with pytest.raises(Refused) as caught:
            compare(StatisticsLedger(tmp_path), **asked)
        assert caught.value.code == "threshold"
    else:
        assert compare(StatisticsLedger(tmp_path), **asked) == found


def test_a_threshold_of_an_earlier_version_counts_still(tmp_path: Path) -> None:
    ledger = StatisticsLedger(tmp_path)
    with sqlite3.connect(ledger.path) as database:
        row = ("a", '["price"]', b"k" * 32, ">=3000000", NOW.timestamp())
        database.execute("INSERT INTO thresholds VALUES (?, ?, ?, ?, ?)", row)
    with pytest.raises(Refused):
        compare(ledger)
    assert compare(ledger, columns=frozenset(["fee"])) is None
    assert compare(ledger, now=NOW + timedelta(days=30)) is None


@pytest.mark.parametrize("is_same_question", [False, True])
def test_of_two_comparisons_at_once_one_is_refused(
    tmp_path: Path, is_same_question: bool
) -> None:
    ledger, refused = StatisticsLedger(tmp_path), []

    def ask(number: int) -> None:
        question = ">=1" if is_same_question else f">={number}"
        fields = {**COMPARISON, "question": question, "order_id": number}
        when = {name: fields.pop(name) for name in ("now", "days")}
        try:
            ledger.remember_comparison(Comparison(**fields), **when)
        except Refused:
            refused.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 5


def test_a_digest_of_keys_is_of_the_set_and_of_this_hospital(tmp_path: Path) -> None:
    ledger = StatisticsLedger(tmp_path / "one")
    same, other = (
        StatisticsLedger(tmp_path / "one"),
        StatisticsLedger(tmp_path / "other"),
    )
    assert digest_of(ledger.hash_keys(["a", "b"])) == digest_of(
        same.hash_keys(["b", "a"])
    )
    assert digest_of(ledger.hash_keys(["a", "b"])) != digest_of(
        ledger.hash_keys(["ab"])
    )
    assert digest_of(ledger.hash_keys(["a"])) != digest_of(other.hash_keys(["a"]))


def test_a_sketch_of_people_differs_in_as_many_cells_as_people(tmp_path: Path) -> None:
    ledger = StatisticsLedger(tmp_path)
    people = [f"key-{i}" for i in range(1000)]
    everybody = sketch_of(ledger.hash_keys(people))
    assert np.array_equal(everybody, sketch_of(ledger.hash_keys(people[::-1])))
    assert (
        0 < np.count_nonzero(everybody != sketch_of(ledger.hash_keys(people[9:]))) <= 9
    )
