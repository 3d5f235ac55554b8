"""How many rows an order used, withheld or found empty: nothing of them is a count of a
few people, not even by subtraction.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from protocol.memory_transport import MemoryTransport
from tests.made_statistics import (
    Answered,
    Hospitals,
    make_hospitals,
    no_waiting_for_disks,
)
from tests.pairwise import pairwise, quick

USERS, RECEIVER = (2, 3, 4), 5
COUNTS = ("rows_used", "rows_suppressed", "rows_null")


@pytest.fixture
def hospitals(tmp_path: Path) -> Iterator[Hospitals]:
    made = make_hospitals(tmp_path, (*USERS, RECEIVER))
    with no_waiting_for_disks():
        yield made


def write(
    hospitals: Hospitals, n_null: dict[int, int], n_value: int = 40
) -> dict[int, str]:
    for user in USERS:
        x = np.full(n_value + n_null[user], np.nan)
        x[:n_value] = np.arange(n_value) + user
        sex = np.where(np.arange(len(x)) % 2 == 0, "F", "M")
        hospitals.write(user, "rows.parquet", pd.DataFrame({"x": x, "sex": sex}))
    return dict.fromkeys(USERS, "rows.parquet")


def told(answer: Answered) -> list[dict[str, int]]:
    return [answer.summary[name] for name in COUNTS]


@pairwise(
    n_quick=3, method=["count", "avg", "median", "histogram"], n_null=[0, 1, 9, 10]
)
def test_few_rows_without_a_value_at_one_hospital_are_counted_of_none(
    hospitals: Hospitals, n_null: int, method: str
) -> None:
    """Of the others' rows and the answer's n, those of the one would follow."""
    data = write(hospitals, {2: 0, 3: n_null, 4: 12})
    fields: dict[str, Any] = {"receivers": [RECEIVER]}
    if method == "histogram":
        fields |= {"bins": [0, 20, 60]}
    answer = hospitals.ask(method, data, **fields)
    if n_null in (1, 9):
        assert told(answer) == [{}, {}, {}]
        return
    assert answer.summary["rows_used"] == {"2": 40, "3": 40, "4": 40}
    assert answer.summary["rows_null"] == {"2": 0, "3": n_null, "4": 12}


def test_few_rows_with_a_value_are_no_question(hospitals: Hospitals) -> None:
    """All would be withheld: used 0, withheld 4, null 20."""
    data = write(hospitals, {2: 0, 3: 0, 4: 0})
    x = [*[1.0] * 4, *[np.nan] * 20]
    hospitals.write(3, "rows.parquet", pd.DataFrame({"x": x, "sex": ["F", "M"] * 12}))
    refused = hospitals.refused("avg", data, group_by=["sex"], receivers=[RECEIVER])
    assert refused.code == "earlier_cohort"


@pytest.mark.parametrize("n_rare", [3, 12])
def test_what_is_withheld_is_none_or_as_many_as_the_policy_asks(
    hospitals: Hospitals, n_rare: int
) -> None:
    """One hospital's rare group takes others with it, at every hospital."""
    rare = {2: n_rare, 3: 0, 4: 14}
    for user in USERS:
        groups = ["a"] * 30 + ["b"] * (11 + user) + ["c"] * rare[user]
        frame = pd.DataFrame({"g": groups, "x": np.arange(len(groups))})
        hospitals.write(user, "groups.csv", frame)
    data = dict.fromkeys(USERS, "groups.csv")
    hospitals.allow(min_providers=2)
    answer = hospitals.ask("frequency", data, key="g", receivers=[RECEIVER])
    for counts in told(answer):
        assert set(counts) == {"2", "3", "4"}
        assert not any(0 < count < 10 for count in counts.values())


def test_the_coordinator_hears_no_few_rows_either(hospitals: Hospitals) -> None:
    """Reports pass through its memory, before it publishes anything."""
    transport = MemoryTransport()
    data = write(hospitals, {2: 0, 3: 7, 4: 12})
    hospitals.ask("avg", data, receivers=[RECEIVER], transport=transport)
    reports = []
    for body in transport.traffic:
        begin = body.find(b'{"rows_used"')
        if begin >= 0:
            text = body[begin:].decode("latin-1")
            report, _ = json.JSONDecoder().raw_decode(text)
            reports.append(report)
    assert len(reports) >= len(USERS)
    for report in reports:
        assert {report[name] for name in COUNTS} <= {None, 0}
    # Who receives only has no rows.
    of_providers = [report for report in reports if report["rows_used"] is None]
    assert len(of_providers) >= len(USERS)


@pytest.mark.parametrize("n_few", quick([4, 0, 10], 1))
def test_joint_numbers_only_where_thresholds_are_on_the_sum(
    hospitals: Hospitals, n_few: int
) -> None:
    """Of one hospital nothing, and of all together no few rows."""
    hospitals.allow(cells="pooled", min_providers=2)
    data = write(hospitals, {2: n_few, 3: 0, 4: 0})
    answer = hospitals.ask("avg", data, group_by=["sex"], receivers=[RECEIVER])
    if n_few == 4:
        assert told(answer) == [{}, {}, {}]
        return
    assert told(answer) == [{"all": 120}, {"all": 0}, {"all": n_few}]


def test_rows_of_one_person_are_counted_alike(hospitals: Hospitals) -> None:
    """A joined question: how many are common stands in the answer, how few are not
    complete nowhere.
    """
    for user in (2, 3):
        x = np.arange(40.0)
        x[: 4 * (user - 2)] = np.nan
        frame = pd.DataFrame({"id": range(40), "x": x})
        hospitals.write(user, "joined.parquet", frame)
    answer = hospitals.ask(
        "custom",
        dict.fromkeys((2, 3), "joined.parquet"),
        key="id",
        expression="sum(a.x + b.x)",
        extra={2: {"data_alias": "a"}, 3: {"data_alias": "b"}},
        receivers=[RECEIVER],
    )
    assert told(answer) == [{}, {}, {}]
    assert "over 36 people" in answer.summary["opened"][0]
