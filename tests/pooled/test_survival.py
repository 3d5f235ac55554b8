"""The log-rank test over 1, 2, 3 and 5 hospitals: that of one table, stratified by
hospital, as lifelines and statsmodels compute it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lifelines.datasets import load_lung
from scipy import stats
from statsmodels.duration.survfunc import survdiff

from protocol.errors import BadRequest
from tests.made_statistics import Answered, Hospitals, make_hospitals
from tests.pairwise import quick

EVERYBODY = (2, 3, 4, 5, 6)
DEALS = [[*EVERYBODY], [4], [2, 4], [2, 3, 4]]


def made_frames() -> dict[int, pd.DataFrame]:
    """Hospital 3 is tiny and lacks one arm of three; at 6 nobody has the event."""
    rng = np.random.default_rng(5)
    frames = {}
    for user, n in {2: 160, 3: 24, 4: 200, 5: 140, 6: 120}.items():
        place = np.arange(n)
        arms = np.array(["a", "b"] if user == 3 else ["a", "b", "c"])
        arm = arms[place % len(arms)]
        days = rng.exponential(100 + 40 * (arm == "b") + 20 * user, n)
        # Ties, too.
        frame = pd.DataFrame({"days": np.ceil(days / 7), "arm": arm})
        frame["died"] = (rng.random(n) < 0.6).astype(int)
        if user == 6:
            frame["died"] = 0
        if user == 2:
            frame.loc[::17, "days"] = np.nan
            frame.loc[5::19, "died"] = np.nan
        frames[user] = frame
    return frames


FRAMES = made_frames()


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Hospitals:
    made = make_hospitals(tmp_path_factory.mktemp("sites"), EVERYBODY)
    made.allow(min_rows=2, max_share=1)
    for user, frame in FRAMES.items():
        made.write(user, "visits.csv", frame)
    return made


@pytest.fixture(autouse=True)
def without_a_past(hospitals: Hospitals) -> None:
    hospitals.forget()


def ask(
    hospitals: Hospitals, users: Sequence[int], path: str = "visits.csv"
) -> Answered:
    return hospitals.ask(
        "logrank",
        dict.fromkeys(users, path),
        columns=["days", "died"],
        group_by=["arm"],
        receivers=list(users)[:1],
    )


def quantities(answer: Answered) -> dict[str, float]:
    return {row["quantity"]: float(row["logrank"]) for row in answer.rows}


@pytest.mark.parametrize("users", quick(DEALS, 2))
def test_it_is_the_stratified_test_of_one_table(
    hospitals: Hospitals, users: Sequence[int]
) -> None:
    found = quantities(ask(hospitals, users))
    parts = [FRAMES[user].assign(hospital=user).dropna() for user in users]
    table = pd.concat(parts, ignore_index=True)
    chi2, p = survdiff(table.days, table.died, table.arm, strata=table.hospital)
    assert found["chi2"] == pytest.approx(chi2, rel=1e-9)
    assert found["p"] == pytest.approx(p, rel=1e-9)
    assert found["df"] == 2
    for arm in "abc":
        of_arm = table[table.arm == arm]
        assert found[f"n[{arm}]"] == len(of_arm)
        assert found[f"events[{arm}]"] == of_arm.died.sum()
    n_expected = sum(found[f"expected[{arm}]"] for arm in "abc")
    assert n_expected == pytest.approx(table.died.sum(), rel=1e-12)


def test_the_order_of_hospitals_and_groups_of_one_name_do_not_matter(
    hospitals: Hospitals,
) -> None:
    first = ask(hospitals, [2, 4, 5])
    hospitals.forget()
    second = ask(hospitals, [5, 2, 4])
    assert first.text == second.text


@pytest.mark.thorough
def test_lung_by_sex_stratified_by_institution(tmp_path: Path) -> None:
    """R: survdiff(Surv(time, status) ~ sex + strata(inst), lung)."""
    lung = load_lung().dropna(subset=["inst"])
    assert len(lung) == 227
    institutions = sorted(lung["inst"].unique())
    users = range(2, 2 + len(institutions))
    hospitals = make_hospitals(tmp_path, users)
    hospitals.allow(min_rows=1, max_share=1)
    for user, institution in zip(users, institutions, strict=True):
        rows = lung[lung["inst"] == institution]
        frame = pd.DataFrame({"days": rows["time"], "died": rows["status"]})
        # lifelines has 0 and 1, R 1 and 2.
        frame["died"] = (frame["died"] == frame["died"].max()).astype(int)
        frame["arm"] = rows["sex"]
        hospitals.write(user, "visits.csv", frame)
    found = quantities(ask(hospitals, users))
    assert found["chi2"] == pytest.approx(8.524467, abs=5e-7)
    assert found["p"] == pytest.approx(0.003504, abs=5e-7)
    assert found["p"] == pytest.approx(stats.chi2.sf(found["chi2"], 1), rel=1e-12)


# What is refused


@pytest.mark.parametrize(
    ("column", "value", "code"),
    [
        ("died", 2, "event_values"),
        ("days", 0, "time_values"),
        ("days", -3, "time_values"),
    ],
)
def test_what_is_no_event_and_no_time(
    hospitals: Hospitals, column: str, value: int, code: str
) -> None:
    wrong = FRAMES[4].copy()
    wrong.loc[7, column] = value
    hospitals.write(4, "wrong.csv", wrong)
    users = {2: "visits.csv", 4: "wrong.csv", 5: "visits.csv"}
    error = hospitals.refused(
        "logrank", users, columns=["days", "died"], group_by=["arm"]
    )
    assert error.code == code
    assert column in error.sentence
    assert str(value) not in error.sentence.replace("0 and 1", "").replace(
        "0 or less", ""
    )


def test_no_event_at_all_has_no_value_and_a_note(hospitals: Hospitals) -> None:
    answer = ask(hospitals, [6])
    assert answer.rows == []
    assert "No row has an event." in answer.notes["notes"]


def test_one_group_is_no_comparison(hospitals: Hospitals) -> None:
    for user in (2, 4, 5):
        hospitals.write(user, "one.csv", FRAMES[user][FRAMES[user].arm == "a"])
    users = dict.fromkeys((2, 4, 5), "one.csv")
    error = hospitals.refused(
        "logrank", users, columns=["days", "died"], group_by=["arm"]
    )
    assert error.code == "test_groups"


@pytest.mark.parametrize("n_events", [9, 10])
def test_few_events_of_a_group_at_a_hospital(
    hospitals: Hospitals, n_events: int
) -> None:
    """With min_rows 10, as a table of groups and events."""
    hospitals.allow(min_rows=10, max_share=1)
    frame = FRAMES[4].copy()
    of_a = frame.index[frame.arm == "a"]
    frame.loc[of_a, "died"] = 0
    frame.loc[of_a[:n_events], "died"] = 1
    hospitals.write(4, "few.csv", frame)
    users = {2: "visits.csv", 4: "few.csv", 5: "visits.csv"}
    fields = {"columns": ["days", "died"], "group_by": ["arm"]}
    try:
        if n_events < 10:
            assert hospitals.refused("logrank", users, **fields).code == "pair_rows"
        else:
            assert hospitals.ask("logrank", users, **fields).rows
    finally:
        hospitals.allow(min_rows=2, max_share=1)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"columns": ["days", "died"]}, "group_by"),
        ({"group_by": ["arm"]}, "columns"),
        ({"columns": ["days", "died", "x"], "group_by": ["arm"]}, "columns"),
        ({"columns": ["days", "died"], "group_by": ["arm", "x"]}, "group_by"),
    ],
)
def test_a_request_that_does_not_fit(
    hospitals: Hospitals, fields: dict[str, list[str]], field: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        hospitals.ask("logrank", {4: "visits.csv"}, **fields)
    assert caught.value.code == field
