"""Survival over 1, 2, 3 and 5 hospitals: the log-rank test stratified by hospital, as
statsmodels and lifelines compute it on one table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lifelines.datasets import load_lung
from statsmodels.duration.survfunc import survdiff

from protocol.errors import BadRequest
from tests.made_statistics import Answered, Hospitals, make_hospitals
from tests.pairwise import quick

EVERYBODY = (2, 3, 4, 5, 6)
DEALS = [[*EVERYBODY], [4], [2, 4], [2, 3, 4]]
PATHS = {
    2: "visits.csv",
    3: "visits.parquet",
    4: "visits.json",
    5: "visits.csv",
    6: "visits.parquet",
}


def made_frames() -> dict[int, pd.DataFrame]:
    """Hospital 3 is tiny, lacks an arm, and has no event; times are tied."""
    rng = np.random.default_rng(23)
    frames = {}
    for user, n in {2: 160, 3: 12, 4: 200, 5: 140, 6: 120}.items():
        place = np.arange(n)
        arms = np.array(["a", "b"] if user == 3 else ["a", "b", "c"])
        arm = arms[place % len(arms)]
        days = np.ceil(rng.exponential(30 + 10 * (arm == "b"), n))
        died = rng.random(n) < (0 if user == 3 else 0.7)
        frame = pd.DataFrame(
            {"days": days, "died": died.astype(int), "arm": arm, "hospital": user}
        )
        if user != 3:
            frame.loc[::17, "arm"] = None
            frame.loc[5::13, "days"] = np.nan
        frames[user] = frame
    return frames


FRAMES = made_frames()


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Hospitals:
    made = make_hospitals(tmp_path_factory.mktemp("sites"), (*EVERYBODY, 7))
    made.allow(min_rows=2)
    for user, frame in FRAMES.items():
        made.write(user, PATHS[user], frame)
    return made


@pytest.fixture(autouse=True)
def without_a_past(hospitals: Hospitals) -> None:
    hospitals.forget()


FIELDS: dict[str, Any] = {"key": "days", "event_name": "died", "group_by": ["arm"]}


def quantities(answer: Answered) -> dict[str, float]:
    return {row["quantity"]: float(row["logrank"]) for row in answer.rows}


def stratified(table: pd.DataFrame) -> tuple[float, float]:
    """chi2 and p on one table with a column that says the hospital."""
    statistic, p = survdiff(
        table.days, table.died, table.arm, strata=table.hospital.to_numpy()
    )
    return float(statistic), float(p)


@pytest.mark.parametrize(
    ("weights", "theirs"),
    quick(
        [
            ({"weights": "wilcoxon"}, {"weight_type": "gb"}),
            ({"weights": "fleming_harrington"}, {"weight_type": "fh", "fh_p": 1}),
            ({"weights": "logrank"}, {}),
        ],
        1,
    ),
)
def test_weighted_times_are_those_of_one_table_stratified_by_hospital(
    hospitals: Hospitals, weights: dict[str, Any], theirs: dict[str, Any]
) -> None:
    data = {user: PATHS[user] for user in (2, 3, 4)}
    answer = hospitals.ask("logrank", data, **FIELDS, **weights)
    found = quantities(answer)
    table = survivors((2, 3, 4))
    strata = table.hospital.to_numpy()
    # It takes the logarithm of survival, also where nobody has survived.
    with np.errstate(divide="ignore"):
        statistic, p = survdiff(
            table.days, table.died, table.arm, strata=strata, **theirs
        )
    assert found["chi2"] == pytest.approx(statistic, rel=1e-10)
    assert found["p"] == pytest.approx(p, rel=1e-9)
    if weights["weights"] == "logrank":
        assert "expected[a]" in found
        return
    scores = [found[f"score[{arm}]"] for arm in "abc"]
    assert sum(scores) == pytest.approx(0, abs=1e-9)
    assert "expected[a]" not in found
    opened = " ".join(answer.summary["opened"])
    assert ("each time by the" in opened) == (weights["weights"] != "logrank")


@pytest.mark.thorough
@pytest.mark.parametrize(("p", "q"), [(0, 1), (1, 1)])
def test_late_differences_weigh_more(hospitals: Hospitals, p: int, q: int) -> None:
    data = {user: PATHS[user] for user in (2, 4, 5)}
    fields = {"weights": "fleming_harrington", "p": p, "q": q}
    found = quantities(hospitals.ask("logrank", data, **FIELDS, **fields))
    scores, covariances = np.zeros(2), np.zeros((2, 2))
    for user in (2, 4, 5):
        table = FRAMES[user].dropna()
        survival = 1.0
        for day in sorted(table.days[table.died == 1].unique()):
            there, died = table.days >= day, (table.days == day) & (table.died == 1)
            n, d = there.sum(), died.sum()
            of_arm = np.array([(there & (table.arm == arm)).sum() for arm in "ab"]) / n
            events = np.array([(died & (table.arm == arm)).sum() for arm in "ab"])
            weight = survival**p * (1 - survival) ** q
            scores += weight * (events - d * of_arm)
            spread = np.diag(of_arm) - np.outer(of_arm, of_arm)
            covariances += weight**2 * d * (n - d) / max(n - 1, 1) * spread
            survival *= 1 - d / n
    expected = scores @ np.linalg.solve(covariances, scores)
    assert found["chi2"] == pytest.approx(expected, rel=1e-9)


def survivors(users: Sequence[int]) -> pd.DataFrame:
    table = pd.concat([FRAMES[user] for user in users], ignore_index=True)
    return table.dropna()


@pytest.mark.parametrize("users", quick(DEALS, 1))
def test_the_log_rank_test_is_that_of_one_table_stratified_by_hospital(
    hospitals: Hospitals, users: Sequence[int]
) -> None:
    """Rows without a time or an arm are in no test."""
    answer = hospitals.ask("logrank", {user: PATHS[user] for user in users}, **FIELDS)
    found = quantities(answer)
    table = survivors(users)
    statistic, p = stratified(table)
    assert found["chi2"] == pytest.approx(statistic, rel=1e-10)
    assert found["p"] == pytest.approx(p, rel=1e-9)
    assert found["df"] == 2
    for arm, of_arm in table.groupby("arm"):
        assert found[f"n[{arm}]"] == len(of_arm)
        assert found[f"observed[{arm}]"] == of_arm.died.sum()
    sum_expected = sum(found[f"expected[{arm}]"] for arm in "abc")
    assert sum_expected == pytest.approx(table.died.sum(), rel=1e-13)


def test_what_is_opened_is_said(hospitals: Hospitals) -> None:
    answer = hospitals.ask(
        "logrank", {user: PATHS[user] for user in (2, 4, 5)}, **FIELDS
    )
    opened = answer.summary["opened"]
    assert any("for each group of arm and died" in line for line in opened)
    assert any("observed minus expected events" in line for line in opened)
    assert hospitals.ledger(4, answer.order_id, "opens")


@pytest.mark.thorough
def test_lung_by_sex_within_institutions(tmp_path: Path) -> None:
    """227 patients of 18 institutions, each a hospital: 8.524467, p .003504."""
    lung = load_lung().dropna(subset=["inst"])
    assert len(lung) == 227
    users = {inst: 2 + place for place, inst in enumerate(sorted(lung.inst.unique()))}
    made = make_hospitals(tmp_path, users.values())
    made.allow(min_rows=1)
    for inst, user in users.items():
        of_inst = lung.loc[lung.inst == inst, ["time", "status", "sex"]].copy()
        # As R has it: 1 is censored, 2 is dead.
        of_inst["status"] += 1
        made.write(user, "lung.csv", of_inst)
    data = dict.fromkeys(users.values(), "lung.csv")
    answer = made.ask(
        "logrank",
        data,
        key="time",
        event_name="died",
        group_by=["sex"],
        derive={"died": "status == 2"},
        receivers=[2],
    )
    found = quantities(answer)
    assert found["chi2"] == pytest.approx(8.524467, abs=5e-7)
    assert found["p"] == pytest.approx(0.003504, abs=5e-7)
    assert found["n[1]"] + found["n[2]"] == 227


@pytest.mark.thorough
def test_thresholds_on_the_sum(hospitals: Hospitals, tmp_path: Path) -> None:
    """A hospital with few events of an arm takes part where cells are compared jointly."""
    made = make_hospitals(tmp_path, (2, 3, 4, 7))
    data = {}
    for user in (2, 3, 4):
        frame = FRAMES[2].dropna().assign(hospital=user)
        if user == 3:
            frame.loc[frame.index[30:], "died"] = 0
        made.write(user, "visits.csv", frame)
        data[user] = "visits.csv"
    error = made.refused("logrank", data, receivers=[7], **FIELDS)
    assert error.code in ("min_rows", "complement")
    made.forget()
    made.allow(cells="pooled")
    answer = made.ask("logrank", data, receivers=[7], **FIELDS)
    frames = [pd.read_csv(made.sites[user].data_folder / "visits.csv") for user in data]
    statistic, _ = stratified(pd.concat(frames, ignore_index=True))
    assert quantities(answer)["chi2"] == pytest.approx(statistic, rel=1e-10)


# --- what is refused ------------------------------------------------------------------


def survival_rows(n: int, **columns: Any) -> pd.DataFrame:
    place = np.arange(n)
    made = {
        "days": place % 19 + 1,
        "died": place % 2,
        "arm": np.where(place // 2 % 2, "a", "b"),
    }
    return pd.DataFrame(made | columns)


@pytest.mark.parametrize(
    ("columns", "code", "word"),
    quick(
        [
            ({"died": np.arange(80) % 3}, "event_values", "other than 0 and 1"),
            ({"days": np.arange(80) % 5}, "event_times", "0 or below"),
            ({"died": 0}, "test_groups", "no row has one"),
            ({"arm": "a"}, "test_groups", "rows have fewer"),
            ({"arm": np.arange(80) // 2 % 21}, "test_groups", "up to 20"),
            ({"days": ["soon"] * 80}, "not_numeric", "days"),
        ],
        2,
    ),
)
def test_rows_of_which_there_is_no_test(
    hospitals: Hospitals, columns: dict[str, Any], code: str, word: str
) -> None:
    for user in (2, 3, 4):
        hospitals.write(user, "bad.csv", survival_rows(80, **columns))
    data = dict.fromkeys((2, 3, 4), "bad.csv")
    error = hospitals.refused("logrank", data, **FIELDS)
    assert error.code == code
    assert word in error.sentence
    assert "soon" not in error.sentence


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"event_name": None}, "event_name"),
        ({"event_name": "arm"}, "event_name"),
        ({"event_name": "days"}, "event_name"),
        ({"group_by": None}, "group_by"),
        ({"group_by": ["arm", "hospital"]}, "group_by"),
        ({"categorical": {"died": {}}}, "categorical"),
        ({"missing": "mean"}, "missing"),
        ({"weights": "wilcoxon", "p": 1}, "weights"),
        ({"weights": "fleming_harrington", "p": 2}, "invalid_input"),
        ({"weights": "fleming_harrington", "q": 0.5}, "invalid_input"),
    ],
)
def test_fields_that_do_not_fit(
    hospitals: Hospitals, fields: dict[str, Any], code: str
) -> None:
    asked = {name: value for name, value in (FIELDS | fields).items() if value}
    with pytest.raises(BadRequest) as refused:
        hospitals.ask("logrank", {2: PATHS[2], 4: PATHS[4]}, **asked)
    assert refused.value.code == code
    assert refused.value.remedy


def test_an_event_means_nothing_for_a_mean(hospitals: Hospitals) -> None:
    with pytest.raises(BadRequest) as refused:
        hospitals.ask("avg", {2: PATHS[2]}, key="days", event_name="died")
    assert refused.value.code == "event_name"


@pytest.mark.parametrize("n_events", quick([9, 10], 1))
def test_few_events_of_a_hospital(tmp_path: Path, n_events: int) -> None:
    """Nine events in one arm of one hospital, and nothing is opened; ten are enough."""
    made = make_hospitals(tmp_path, (2, 3, 4))
    made.allow(min_providers=3, own_totals=False)
    for user in (2, 3, 4):
        frame = survival_rows(160)
        of_arm = frame.index[(frame.arm == "a") & (frame.died == 1)]
        if user == 3:
            frame.loc[of_arm[n_events:], "died"] = 0
        made.write(user, "visits.csv", frame)
    data = dict.fromkeys((2, 3, 4), "visits.csv")
    if n_events == 10:
        assert quantities(made.ask("logrank", data, **FIELDS))["df"] == 1
        return
    error = made.refused("logrank", data, **FIELDS)
    assert error.code in ("min_rows", "complement")
    assert "needs all groups" in error.sentence
    assert not made.ledger(2, made.last, "opens")


def test_two_hospitals_are_too_few_unless_their_policies_say_so(
    tmp_path: Path,
) -> None:
    made = make_hospitals(tmp_path, (2, 3, 7))
    made.allow(min_providers=3)
    for user in (2, 3):
        made.write(user, "visits.csv", survival_rows(160))
    data = dict.fromkeys((2, 3), "visits.csv")
    error = made.refused("logrank", data, receivers=[7], **FIELDS)
    assert error.code == "min_providers"
    made.allow(min_providers=2, own_totals=False)
    assert made.ask("logrank", data, receivers=[7], **FIELDS).rows


def test_three_people_less_than_an_earlier_answer(tmp_path: Path) -> None:
    made = make_hospitals(tmp_path, (2, 3, 4))
    data = {}
    for user in (2, 3, 4):
        frame = survival_rows(160).assign(id=np.arange(160), extra=1.0)
        if user == 4:
            frame.loc[:2, "extra"] = np.nan
        made.write(user, "data.pooled", frame)
        data[user] = "data.pooled"
    assert made.ask("logrank", data, **FIELDS).rows
    error = made.refused("logrank", data, complete_on=["extra"], **FIELDS)
    assert error.code == "earlier_cohort"
