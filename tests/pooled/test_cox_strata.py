"""`entry_name` and `strata` of a cox: the fit of one table with left truncation, its strata
the levels within each hospital, beside lifelines; and what they may not tell.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter

from deployments.local.one_process import run_evaluation, run_order
from protocol.errors import BadRequest, ConsiliumError
from protocol.training_request import (
    order_document,
    parse_training_request,
    read_order_document,
)
from tests.made_sites import make_sites
from tests.pairwise import pairwise, quick
from tests.pooled.test_cox_orders import (
    DEALS,
    TIGHT,
    check_as,
    cox_body,
    made_rows,
    report_of,
    run,
)

# lifelines calls pandas as pandas 4 will not allow.
pytestmark = pytest.mark.filterwarnings("ignore:Starting with pandas version 4.0")

FIELDS: dict[str, Any] = {"entry_name": "entry", "strata": ["ward", "arm"]}


def with_times(
    frames: dict[int, pd.DataFrame], *, latest: float = 12
) -> dict[int, pd.DataFrame]:
    """Entries at event times and between them, some at 0, and two columns of strata."""
    for user, frame in frames.items():
        rng = np.random.default_rng(50 + user)
        n_rows = len(frame)
        entry = np.floor(rng.uniform(0, latest, n_rows)) + rng.choice([0, 0.5], n_rows)
        entry[::5] = 0
        frame["entry"] = entry
        frame["t"] = frame["t"] + entry
        frame["ward"] = rng.choice(["north", "south"], n_rows)
        frame["arm"] = rng.integers(1, 3, n_rows)
    return frames


def pooled_fit(frames: dict[int, pd.DataFrame], **fields: Any) -> CoxPHFitter:
    rows = pd.concat([frame.assign(site=user) for user, frame in frames.items()])
    strata = ["site", *fields.get("strata", [])]
    entry = fields.get("entry_name")
    names = ["age", "dose", "sex", "t", "event", *strata, *([entry] if entry else [])]
    return CoxPHFitter().fit(
        rows[names], "t", "event", strata=strata, entry_col=entry, fit_options=TIGHT
    )


@pairwise(
    n_quick=1,
    n_hospitals=sorted(DEALS),
    names=["both", "entry_name", "strata"],
    method=["Mask", "Paillier", "None"],
)
def test_a_report_is_that_of_one_table(
    tmp_path: Path, n_hospitals: int, names: str, method: str
) -> None:
    fields = FIELDS if names == "both" else {names: FIELDS[names]}
    frames = with_times(made_rows(DEALS[n_hospitals]))
    params = {"encrypt_param": {"method": method}}
    outcome = run(tmp_path, frames, min_hospitals=1, model_params=params, **fields)
    report = report_of(outcome)
    check_as(report, pooled_fit(frames, **fields))
    assert report.get("strata", []) == fields.get("strata", [])
    assert report.get("entry") == fields.get("entry_name")
    within = "stratum" if "strata" in fields else "hospital"
    assert report["concordance"]["within"] == within


@pytest.mark.thorough
def test_who_has_not_come_is_in_no_pair(tmp_path: Path) -> None:
    frames = with_times(made_rows(DEALS[3]))
    report = report_of(run(tmp_path, frames, **FIELDS))
    n_pairs = 0
    for frame in frames.values():
        for _, rows in frame.groupby(["ward", "arm"]):
            t, event = rows["t"].to_numpy(), rows["event"].to_numpy()
            is_later = (t[:, None] < t) | ((t[:, None] == t) & (event == 0))
            has_come = rows["entry"].to_numpy() < t[:, None]
            n_pairs += int((is_later & has_come & (event[:, None] == 1)).sum())
    pairs = report["concordance"]
    assert pairs["agreeing"] + pairs["disagreeing"] + pairs["tied"] == n_pairs


@pytest.mark.thorough
def test_folds_and_dropped_rows(tmp_path: Path) -> None:
    """A row without a value of its entry or stratum is left out as one without a time."""
    frames = with_times(made_rows({2: 300, 3: 280, 4: 300}))
    for frame in frames.values():
        frame.loc[::11, "entry"] = np.nan
        frame.loc[::13, "ward"] = None
    outcome = run(
        tmp_path,
        frames,
        missing="drop",
        model_params={"cv_param": {"need_cv": True, "n_splits": 2}},
        **FIELDS,
    )
    kept = {user: frame.dropna() for user, frame in frames.items()}
    report = report_of(outcome)
    assert report["n"] == sum(map(len, kept.values()))
    check_as(report, pooled_fit(kept, **FIELDS))


def test_a_kept_model_is_judged_by_pairs_within_strata(tmp_path: Path) -> None:
    frames = with_times(made_rows(DEALS[3]))
    tables = {user: {"rows": frame} for user, frame in frames.items()}
    cohort = "min_rows = 1\nmin_varying = 1\nmax_parameter_share = 100\n"
    sites = make_sites(tmp_path, tables, cohort=cohort)
    trained = cox_body(sorted(frames), **FIELDS)
    report = report_of(run_order(sites, trained))
    asked = {name: trained[name] for name in ("user_id", "party_id", "data_info")}
    outcome = run_evaluation(sites, {**asked, "model_id": 1}, trained=trained)
    # On the rows that it was trained on.
    pairs = outcome.evaluations[2]["report"]["pairs"]
    assert pairs["within"] == "strata"
    names = ("agreeing", "disagreeing", "tied")
    assert {name: pairs[name] for name in names} == {
        name: report["concordance"][name] for name in names
    }


def test_a_stratum_without_an_event_is_said_to_its_own_hospital(
    tmp_path: Path,
) -> None:
    frames = with_times(made_rows({2: 130, 3: 120, 4: 125}))
    frames[3].loc[frames[3]["ward"] == "north", "event"] = 0
    report = report_of(run(tmp_path, frames, strata=["ward"]))
    kept = {**frames, 3: frames[3][frames[3]["ward"] == "south"]}
    check_as(report, pooled_fit(kept, strata=["ward"]))
    said = {}
    for user in frames:
        state = tmp_path / f"hospital-{user}" / "state"
        (ledger,) = state.rglob("ledger.jsonl")
        for line in ledger.read_text().splitlines():
            entry = json.loads(line)
            if "strata," in str(entry.get("sentence")):
                said[user] = entry["sentence"]
    assert said[3].endswith("2 strata, of which 1 have no event and add nothing.")
    assert said[2].endswith("2 strata, of which 0 have no event and add nothing.")


# What the sums may not be of


N_ROWS = {2: 240, 3: 230, 4: 250}


def codes_of(
    folder: Path, frames: dict[int, pd.DataFrame], *orders: dict[str, Any]
) -> list[str]:
    """Of each order with which code it was refused, empty where it ended well; under the
    rules as policies have them by default.
    """
    tables = {user: {"rows": frame} for user, frame in frames.items()}
    sites = make_sites(folder, tables, regroup=False)
    codes = []
    for number, order in enumerate(orders, start=1):
        body = cox_body(sorted(frames), attributes=["age", "dose"], **order)
        try:
            run_order(sites, body, order_id=number)
        except ConsiliumError as error:
            codes.append(f"{error.code}: {error.sentence}")
        else:
            codes.append("")
    return codes


def everybody() -> dict[int, pd.DataFrame]:
    """Continuous times, so that there are enough of them in each stratum."""
    frames = with_times(made_rows(N_ROWS))
    for user, frame in frames.items():
        rng = np.random.default_rng(80 + user)
        frame["t"] = frame["entry"] + rng.exponential(20, len(frame)).round(2) + 0.01
    return frames


def moved(values: Any, row: int, value: Any) -> Any:
    found = np.array(values)
    found[row] = value
    return found


@pytest.mark.parametrize(("n_rows", "code"), [(9, "min_rows"), (10, "few_event_times")])
def test_a_stratum_of_few_people(tmp_path: Path, n_rows: int, code: str) -> None:
    """Beside an order without strata the sums would tell these people's part. Of ten not
    all can have an event while ten are at risk.
    """
    frames = everybody()
    frame = frames[4]
    frame["ward"] = np.where(np.arange(len(frame)) < n_rows, "icu", frame["ward"])
    frame.loc[: n_rows - 1, "event"] = 1
    (refused,) = codes_of(tmp_path, frames, {"strata": ["ward"]})
    assert refused.startswith(f"{code}: ")
    assert "of ward" in refused
    assert "icu" not in refused


def test_few_events_in_a_stratum(tmp_path: Path) -> None:
    frames = everybody()
    is_north = frames[3]["ward"] == "north"
    frames[3].loc[is_north, "event"] = (np.arange(is_north.sum()) < 9).astype(int)
    (refused,) = codes_of(tmp_path, frames, {"strata": ["ward"]})
    assert refused.startswith("min_rows: ")
    assert "two values of event in a stratum of ward" in refused


def test_two_orders_whose_strata_differ_in_one_person(tmp_path: Path) -> None:
    """Their difference is that person moved from one risk set to another."""
    frames = everybody()
    for user, frame in frames.items():
        other = {"north": "south", "south": "north"}[frame["ward"][7]]
        frame["ward2"] = moved(frame["ward"], 7, other) if user == 4 else frame["ward"]
    first, second = codes_of(
        tmp_path, frames, {"strata": ["ward"]}, {"strata": ["ward2"]}
    )
    assert not first
    assert second.startswith("earlier_cohort: ")


@pytest.mark.parametrize(("n_late", "code"), quick([(9, "min_rows"), (10, "")], 1))
def test_few_people_who_come_late(tmp_path: Path, n_late: int, code: str) -> None:
    """Beside an order without entries the sums would tell what their coming changes."""
    frames = everybody()
    for frame in frames.values():
        # Different for all, so that the column is no category; before every event.
        frame["entry"] = np.linspace(0, 0.009, len(frame))
        frame["t"] = frame["t"] + 0.01
    late = frames[4].index[frames[4]["t"] > 5][:n_late]
    frames[4].loc[late, "entry"] = np.linspace(3, 4, n_late)
    (refused,) = codes_of(tmp_path, frames, {"entry_name": "entry"})
    assert refused.partition(":")[0] == code


def test_two_orders_whose_entries_differ_in_one_person(tmp_path: Path) -> None:
    frames = everybody()
    for user, frame in frames.items():
        early = np.linspace(0, 0.009, len(frame))
        frame["t"] = frame["t"] + 0.01
        is_late = (frame["t"] > 5).to_numpy()
        frame["entry"] = np.where(is_late, 2 + early, early)
        row = int(np.flatnonzero(is_late)[0])
        other = moved(frame["entry"], row, 0.0)
        frame["entry2"] = other if user == 4 else frame["entry"]
    first, second = codes_of(
        tmp_path, frames, {"entry_name": "entry"}, {"entry_name": "entry2"}
    )
    assert not first
    assert second.startswith("earlier_cohort: ")


def test_few_at_risk_before_others_come(tmp_path: Path) -> None:
    """Nine are there when the first nine events come; of the others all come later, and
    have no event for a long time.
    """
    frames = everybody()
    frame = frames[4]
    places = np.arange(len(frame))
    is_early = places < 9
    frame["entry"] = np.where(is_early, 0.0, 100 + places)
    frame["t"] = np.where(is_early, 1.0 + places, 30_000.0)
    frame["event"] = (places < 40).astype(int)
    (refused,) = codes_of(tmp_path, frames, {"entry_name": "entry"})
    assert refused.startswith("few_event_times: ")


def test_the_levels_of_strata_stay_where_they_are(tmp_path: Path) -> None:
    """No other hospital and no coordinator learns their names or number."""
    frames = with_times(made_rows(DEALS[3]))
    frames[4]["ward"] = np.where(frames[4]["ward"] == "north", "secretward", "south")
    outcome = run(tmp_path, frames, strata=["ward"])
    assert report_of(outcome)["strata"] == ["ward"]
    for shown in (outcome.models, outcome.facts, outcome.traffic):
        assert "secretward" not in str(shown)


# What does not go together


@pytest.mark.parametrize(
    ("value", "reason"),
    quick(
        [
            (18.0, "entry in entry that is not before t"),
            (-1, "entry in entry that is not finite and 0 or more"),
            (np.inf, "entry in entry that is not finite and 0 or more"),
        ],
        1,
    ),
)
def test_rows_that_are_never_at_risk(tmp_path: Path, value: float, reason: str) -> None:
    frames = with_times(made_rows({2: 60, 3: 60, 4: 60}))
    frames[3].loc[7, ["entry", "t"]] = [value, 18.0]
    with pytest.raises(BadRequest, match=reason) as error:
        run(tmp_path, frames, entry_name="entry")
    assert error.value.code == "label"


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("entry_name", {"model_type": "linear", "event_name": None, "entry_name": "e"}),
        ("strata", {"model_type": "lr", "event_name": None, "strata": ["ward"]}),
        ("strata", {"strata": ["ward", "ward"]}),
        ("attributes", {"strata": ["age"]}),
        ("attributes", {"entry_name": "age"}),
        ("label_name", {"entry_name": "t"}),
        ("label_name", {"strata": ["event"]}),
        ("derive", {"strata": ["old"], "derive": {"old": "age >= 65"}}),
        ("categorical", {"strata": ["ward"], "categorical": {"ward": {}}}),
    ],
)
def test_what_does_not_go_together(code: str, change: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as error:
        parse_training_request(cox_body((2, 3, 4), **change))
    assert error.value.code == code


def test_a_document_has_both_fields_only_where_they_say_something() -> None:
    commitments = dict.fromkeys((2, 3, 4), "c")
    plain = parse_training_request(cox_body((2, 3, 4)))
    assert "strata" not in order_document(1, plain, commitments)
    assert "entry_name" not in order_document(1, plain, commitments)
    request = parse_training_request(cox_body((2, 3, 4), **FIELDS))
    read, _ = read_order_document(order_document(1, request, commitments), 1)
    assert (read.entry_name, read.strata) == ("entry", ["ward", "arm"])
