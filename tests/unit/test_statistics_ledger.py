"""What joint statistics asked before: sketches in order, one threshold for the same people, each kept on disk."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.gate.disclosure import check_sketch
from agents.gate.earlier_questions import StatisticsLedger, digest_of, sketch_of
from protocol.errors import Refused
from protocol.policy import StatisticsRules

NOW = datetime(2025, 3, 4, 5, 6, 7, tzinfo=UTC)
THRESHOLD: dict[str, Any] = {"keys_digest": b"k" * 32, "threshold": ">=3000000", "now": NOW, "days": 30}


def sketch(n_changed: int = 0) -> Any:
    cells = np.random.default_rng(3).integers(0, 2**64, 65536, dtype=np.uint64)
    cells[:n_changed] ^= np.uint64(1)
    return cells


def test_earlier_sketches_come_by_requester_and_dataset_the_latest_last(tmp_path: Path) -> None:
    ledger = StatisticsLedger(tmp_path)
    for order_id, n_changed in enumerate((0, 20, 0, 40), start=1):
        ledger.remember({4}, {"csv a.csv x": sketch(n_changed)}, order_id=order_id)
    ledger.remember({4}, {"csv b.csv x": sketch(60)}, order_id=9)
    found = list(StatisticsLedger(tmp_path).earlier({4}, "csv a.csv x"))
    assert [np.count_nonzero(cells != sketch()) for cells in found] == [20, 0, 40]
    assert found[0].dtype == np.uint64
    assert list(ledger.earlier({3}, "csv a.csv x")) == []
    assert len(list(ledger.earlier({4}, "csv b.csv x"))) == 1


def test_the_same_order_again_changes_nothing(tmp_path: Path) -> None:
    ledger = StatisticsLedger(tmp_path)
    for _ in range(3):
        ledger.remember({4}, {"a": sketch()}, order_id=1)
    assert len(list(ledger.earlier({4}, "a"))) == 1
    assert check_sketch(sketch(), ledger.earlier({4}, "a"), StatisticsRules(methods=("sum",)))
    with pytest.raises(Refused):
        check_sketch(sketch(9), ledger.earlier({4}, "a"), StatisticsRules(methods=("sum",)))


def test_the_file_is_its_owner_s_alone(tmp_path: Path) -> None:
    assert StatisticsLedger(tmp_path / "cohorts").path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("changes", "is_refused"),
    [
        ({}, False),
        ({"threshold": ">3000000"}, True),
        ({"threshold": ">=2999999"}, True),
        ({"threshold": ">=1", "keys_digest": b"l" * 32}, False),
        ({"threshold": ">=1", "dataset": "b"}, False),
        ({"threshold": ">=1", "columns": ["fee"]}, False),
        ({"threshold": ">=1", "columns": ["units"]}, True),
        ({"threshold": ">=1", "columns": ["units", "price"]}, True),
        ({"threshold": ">=1", "columns": ["fee", "price", "units"]}, True),
        ({"threshold": ">=1", "now": NOW + timedelta(days=29, hours=23)}, True),
        ({"threshold": ">=1", "now": NOW + timedelta(days=30)}, False),
        ({"threshold": ">=1", "now": NOW + timedelta(days=31)}, False),
        ({"threshold": ">=1", "now": NOW - timedelta(days=31)}, True),
    ],
)
def test_one_threshold_for_the_same_people(tmp_path: Path, changes: dict[str, Any], is_refused: bool) -> None:
    StatisticsLedger(tmp_path).remember_threshold("a", ["price", "units"], **THRESHOLD)
    asked = {**THRESHOLD, "dataset": "a", "columns": ["price", "units"], **changes}
    what = (asked.pop("dataset"), asked.pop("columns"))
    ledger = StatisticsLedger(tmp_path)
    if is_refused:
        with pytest.raises(Refused) as caught:
            ledger.remember_threshold(*what, **asked)
        assert caught.value.code == "threshold"
    else:
        ledger.remember_threshold(*what, **asked)


def test_of_two_thresholds_at_once_one_is_refused(tmp_path: Path) -> None:
    ledger, refused = StatisticsLedger(tmp_path), []

    def ask(number: int) -> None:
        try:
            ledger.remember_threshold("a", ["x"], **{**THRESHOLD, "threshold": f">={number}"})
        except Refused:
            refused.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 5


def test_a_digest_of_keys_is_of_the_set_and_of_this_hospital(tmp_path: Path) -> None:
    ledger = StatisticsLedger(tmp_path / "one")
    same, other = StatisticsLedger(tmp_path / "one"), StatisticsLedger(tmp_path / "other")
    assert digest_of(ledger.hash_keys(["a", "b"])) == digest_of(same.hash_keys(["b", "a"]))
    assert digest_of(ledger.hash_keys(["a", "b"])) != digest_of(ledger.hash_keys(["ab"]))
    assert digest_of(ledger.hash_keys(["a"])) != digest_of(other.hash_keys(["a"]))


def test_a_sketch_of_people_differs_in_as_many_cells_as_people(tmp_path: Path) -> None:
    ledger = StatisticsLedger(tmp_path)
    people = [f"key-{i}" for i in range(1000)]
    everybody = sketch_of(ledger.hash_keys(people))
    assert np.array_equal(everybody, sketch_of(ledger.hash_keys(people[::-1])))
    assert 0 < np.count_nonzero(everybody != sketch_of(ledger.hash_keys(people[9:]))) <= 9
