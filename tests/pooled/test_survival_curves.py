"""Survival curves over 1, 2, 3 and 5 hospitals: those of one table, counted between the
same times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lifelines import KaplanMeierFitter

from analytics.statistics.kaplan_meier import curve
from protocol.errors import BadRequest
from tests.made_statistics import Answered, Hospitals, make_hospitals
from tests.pairwise import quick

EVERYBODY = (2, 3, 4, 5, 6)
DEALS = [[*EVERYBODY], [4], [2, 4], [2, 3, 4]]
EDGES = [10, 20, 40, 80]
FIELDS: dict[str, Any] = {
    "key": "days",
    "event_name": "died",
    "group_by": ["arm"],
    "bins": EDGES,
}


def made_frames() -> dict[int, pd.DataFrame]:
    """Hospital 3 lacks an arm and has no event; of 4 nobody leaves before 40 days."""
    rng = np.random.default_rng(29)
    frames = {}
    for user, n in {2: 240, 3: 60, 4: 300, 5: 210, 6: 180}.items():
        arms = np.array(["a"] if user == 3 else ["a", "b"])
        arm = arms[np.arange(n) % len(arms)]
        days = np.ceil(rng.exponential(30 + 10 * (arm == "b"), n))
        died = (rng.random(n) < (0 if user == 3 else 0.7)).astype(int)
        if user == 4:
            days = np.where(died == 0, days + 40, days)
        frame = pd.DataFrame({"days": days, "died": died, "arm": arm})
        if user != 3:
            frame.loc[::17, "arm"] = None
            frame.loc[5::13, "days"] = np.nan
        frames[user] = frame
    return frames


FRAMES = made_frames()


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Hospitals:
    made = make_hospitals(tmp_path_factory.mktemp("sites"), EVERYBODY)
    made.allow(min_rows=1)
    for user, frame in FRAMES.items():
        made.write(user, "visits.csv", frame)
    return made


@pytest.fixture(autouse=True)
def without_a_past(hospitals: Hospitals) -> None:
    hospitals.forget()


def ask(hospitals: Hospitals, users: Sequence[int], **changes: Any) -> Answered:
    paths = dict.fromkeys(users, "visits.csv")
    return hospitals.ask("kaplan_meier", paths, **{**FIELDS, **changes})


def points_of(answer: Answered, **group: str) -> list[dict[str, str]]:
    return [row for row in answer.rows if row["time"] and group.items() <= row.items()]


def of_one_table(table: pd.DataFrame) -> list[Any]:
    places = np.searchsorted(EDGES, table.days, side="left")
    counts = []
    for died in (1, 0):
        of_these = places[(table.died == died).to_numpy()]
        counts.append(np.bincount(of_these, minlength=len(EDGES) + 1).tolist())
    return curve([float(edge) for edge in EDGES], *counts)


@pytest.mark.parametrize("users", quick(DEALS, 1))
def test_the_curves_are_those_of_one_table(
    hospitals: Hospitals, users: Sequence[int]
) -> None:
    answer = ask(hospitals, users)
    table = pd.concat([FRAMES[user] for user in users], ignore_index=True).dropna()
    for arm, of_arm in table.groupby("arm"):
        expected = of_one_table(of_arm)
        found = points_of(answer, arm=str(arm))
        assert [float(row["time"]) for row in found] == [0, *EDGES]
        for row, point in zip(found, expected, strict=True):
            assert float(row["survival"]) == point.survival
            assert row["kind"] == point.kind
            assert int(row["at_risk"]) == point.at_risk
        fitter = KaplanMeierFitter().fit(of_arm.days, of_arm.died)
        of_rows = fitter.survival_function_at_times(EDGES)
        for row, exact in zip(found[1:], of_rows, strict=True):
            rounding = 1e-12
            assert float(row["lower_bound"]) - rounding <= exact
            assert exact <= float(row["upper_bound"]) + rounding
    kinds = {row["kind"] for row in answer.rows}
    assert {"median", "restricted_mean"} <= kinds


def test_where_nobody_leaves_between_the_events_it_is_exact(
    hospitals: Hospitals,
) -> None:
    answer = ask(hospitals, [4])
    table = FRAMES[4].dropna()
    for arm, of_arm in table.groupby("arm"):
        fitter = KaplanMeierFitter().fit(of_arm.days, of_arm.died)
        found = points_of(answer, arm=str(arm))
        for row in found[:4]:
            assert row["kind"] == "exact"
            exact = fitter.survival_function_at_times(float(row["time"])).iloc[0]
            assert float(row["survival"]) == pytest.approx(exact, rel=1e-12)
    assert any("life_table" in note for note in answer.notes["notes"])


def test_a_curve_of_all_and_no_times_of_single_people(hospitals: Hospitals) -> None:
    answer = ask(hospitals, [2, 4, 5], group_by=None)
    assert "arm" not in answer.rows[0]
    assert len(points_of(answer)) == len(EDGES) + 1
    opened = answer.summary["opened"]
    assert any("for each bin" in line for line in opened)
    assert hospitals.ledger(4, answer.order_id, "opens")


@pytest.mark.parametrize("n_events", quick([9, 10], 1))
def test_few_events_in_an_interval_end_the_order(
    hospitals: Hospitals, n_events: int
) -> None:
    """With min_rows 10 of each hospital's own cells."""
    hospitals.allow(min_rows=10)
    rows = []
    for died, days, n in (
        (1, 5, 60),
        (1, 15, n_events),
        (1, 30, 40),
        (0, 35, 40),
        (0, 90, 50),
    ):
        rows += [{"days": days + 0.01 * k, "died": died} for k in range(n)]
    frame = pd.DataFrame(rows)
    users = dict.fromkeys((2, 4, 5), "few.csv")
    for user in users:
        hospitals.write(user, "few.csv", frame)
    fields = {**FIELDS, "group_by": None, "bins": [10, 20, 40, 80]}
    try:
        if n_events < 10:
            error = hospitals.refused("kaplan_meier", users, **fields)
            assert error.code == "min_rows"
            assert "bins" in error.remedy
        else:
            assert hospitals.ask("kaplan_meier", users, **fields).rows
    finally:
        hospitals.allow(min_rows=1)


@pytest.mark.parametrize(
    ("column", "value", "code"),
    quick([("died", 2, "event_values"), ("days", 0, "event_times")], 1),
)
def test_what_is_no_event_and_no_time(
    hospitals: Hospitals, column: str, value: int, code: str
) -> None:
    wrong = FRAMES[4].copy()
    wrong.loc[7, column] = value
    hospitals.write(4, "wrong.csv", wrong)
    users = {2: "visits.csv", 4: "wrong.csv", 5: "visits.csv"}
    assert hospitals.refused("kaplan_meier", users, **FIELDS).code == code


def test_no_event_at_all(hospitals: Hospitals) -> None:
    error = hospitals.refused("kaplan_meier", {3: "visits.csv"}, **FIELDS)
    assert error.code == "test_groups"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"bins": None}, "bins"),
        ({"bins": [0, 10]}, "bins"),
        ({"event_name": None}, "event_name"),
        ({"group_by": ["arm", "x"]}, "group_by"),
        ({"columns": ["days", "died"]}, "columns"),
    ],
)
def test_a_request_that_does_not_fit(
    hospitals: Hospitals, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        ask(hospitals, [4], **changes)
    assert caught.value.code == field
