"""`model_type: "cox"`: estimates, standard errors and the rest of a report are those of one
table of all hospitals' rows, stratified by hospital.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from lifelines.datasets import load_rossi
from statsmodels.duration.hazard_regression import PHReg

from agents.order.party import open_party
from agents.site.settings import load_settings
from agents.training.inference import predict
from agents.training.report_text import as_csv, as_latex
from analytics.arrays import Floats
from deployments.local.one_process import OrderOutcome, run_order
from protocol.errors import BadRequest, Refused
from protocol.memory_transport import MemoryTransport
from protocol.training_request import parse_training_request
from tests.made_sites import make_sites, order_body
from tests.pairwise import pairwise, quick

# lifelines calls pandas as pandas 4 will not allow.
pytestmark = pytest.mark.filterwarnings("ignore:Starting with pandas version 4.0")

ATTRIBUTES = ["age", "dose", "sex"]
TIGHT = {"precision": 1e-14, "r_precision": 1e-16, "max_steps": 100}


def made_rows(n_of: dict[int, int]) -> dict[int, pd.DataFrame]:
    """Attributes of far different sizes, many events at one time, a baseline of each
    hospital's own.
    """
    frames = {}
    for user, n_rows in n_of.items():
        rng = np.random.default_rng(user)
        age = rng.normal(60 + user, 9, n_rows)
        dose = rng.gamma(2, 300, n_rows)
        sex = np.arange(n_rows) % 2
        risk = np.exp(0.05 * (age - 60) + 5e-4 * dose - 0.6 * sex)
        times = np.ceil(rng.exponential(40 * user / risk))
        event = (rng.uniform(size=n_rows) < 0.7).astype(int)
        columns = {"age": age, "dose": dose, "sex": sex, "t": times, "event": event}
        frames[user] = pd.DataFrame({"id": np.arange(n_rows), **columns})
    return frames


def run(
    folder: Path,
    frames: dict[int, pd.DataFrame],
    *,
    min_hospitals: int = 3,
    is_open: bool = True,
    **order: Any,
) -> OrderOutcome:
    sites = make_sites(
        folder,
        {user: {"rows": frame} for user, frame in frames.items()},
        min_hospitals=min_hospitals,
        filter_columns=["event"],
    )
    if is_open:
        for path in folder.rglob("policy.toml"):
            text = path.read_text()
            path.write_text(
                text + "min_rows = 1\nmin_varying = 1\nmax_parameter_share = 100\n"
            )
    return run_order(sites, cox_body(sorted(frames), **order))


def cox_body(hospitals: Any, **order: Any) -> dict[str, Any]:
    body = order_body(
        hospitals,
        **{
            "model_type": "cox",
            "attributes": ATTRIBUTES,
            "label_name": "t",
            "event_name": "event",
            **order,
        },
    )
    body["model_params"] = order.get("model_params", {})
    return body


def pooled_fit(frames: dict[int, pd.DataFrame]) -> CoxPHFitter:
    """lifelines on one table, the hospital as stratum."""
    rows = pd.concat(
        [frame.drop(columns="id").assign(site=user) for user, frame in frames.items()]
    )
    return CoxPHFitter().fit(rows, "t", "event", strata=["site"], fit_options=TIGHT)


def report_of(outcome: OrderOutcome) -> dict[str, Any]:
    reports = [model["report"] for model in outcome.models.values()]
    # Every hospital has the same bits.
    assert all(report == reports[0] for report in reports)
    found: dict[str, Any] = reports[0]
    return found


def column_of(report: dict[str, Any], name: str) -> Floats:
    return np.array([term[name] for term in report["terms"]])


def check_as(report: dict[str, Any], fit: CoxPHFitter) -> None:
    errors = fit.standard_errors_.to_numpy()
    found = column_of(report, "estimate")
    assert (np.abs(found - fit.params_.to_numpy()) <= 1e-9 * errors).all()
    assert column_of(report, "se") == pytest.approx(errors, rel=1e-9)
    likelihood = report["log_likelihood"]
    assert likelihood == pytest.approx(fit.log_likelihood_, rel=1e-12)
    assert report["converged"]


DEALS = {
    1: {2: 300},
    2: {2: 150, 3: 170},
    3: {2: 130, 3: 20, 4: 160},
    5: {2: 80, 3: 70, 4: 12, 5: 90, 6: 75},
}


@pairwise(
    n_quick=1,
    n_hospitals=sorted(DEALS),
    method=["Mask", "Paillier", "None"],
)
def test_a_report_is_that_of_one_table(
    tmp_path: Path, n_hospitals: int, method: str
) -> None:
    frames = made_rows(DEALS[n_hospitals])
    outcome = run(
        tmp_path,
        frames,
        min_hospitals=1,
        model_params={"encrypt_param": {"method": method}},
    )
    report = report_of(outcome)
    fit = pooled_fit(frames)
    check_as(report, fit)
    assert report["rounds"] <= 8
    assert column_of(report, "p") == pytest.approx(fit.summary["p"].to_numpy())
    ratios = column_of(report, "hazard_ratio")
    assert ratios == pytest.approx(np.exp(fit.params_.to_numpy()))
    assert column_of(report, "hazard_ratio_low") == pytest.approx(
        fit.summary["exp(coef) lower 95%"].to_numpy()
    )
    theirs = fit.log_likelihood_ratio_test()
    assert report["likelihood_ratio"]["chi2"] == pytest.approx(theirs.test_statistic)
    assert report["aic"] == pytest.approx(fit.AIC_partial_)
    n_events = sum(int(frame["event"].sum()) for frame in frames.values())
    assert (report["n"], report["events"]) == (sum(map(len, frames.values())), n_events)
    agreeing, n_pairs = counted_pairs(frames, fit)
    pairs = report["concordance"]
    assert pairs["agreeing"] + pairs["tied"] / 2 == agreeing
    assert pairs["agreeing"] + pairs["disagreeing"] + pairs["tied"] == n_pairs


def counted_pairs(
    frames: dict[int, pd.DataFrame], fit: CoxPHFitter
) -> tuple[float, int]:
    agreeing, n_pairs = 0.0, 0
    for frame in frames.values():
        eta = frame[ATTRIBUTES].to_numpy() @ fit.params_.to_numpy()
        t, event = frame["t"].to_numpy(), frame["event"].to_numpy()
        is_first = (t[:, None] < t) | ((t[:, None] == t) & (event == 0))
        is_pair = is_first & (event[:, None] == 1)
        n_pairs += int(is_pair.sum())
        agreeing += float((is_pair & (eta[:, None] > eta)).sum())
    return agreeing, n_pairs


def rossi() -> dict[int, pd.DataFrame]:
    table = load_rossi()
    frames = {}
    for place in range(3):
        rows = table.iloc[place::3].rename(columns={"week": "t", "arrest": "event"})
        frames[place + 2] = rows.assign(id=np.arange(len(rows)))
    return frames


def test_rossi_dealt_to_three_hospitals(tmp_path: Path) -> None:
    attributes = ["fin", "age", "race", "wexp", "mar", "paro", "prio"]
    outcome = run(tmp_path, rossi(), attributes=attributes)
    report = report_of(outcome)
    assert column_of(report, "estimate") == pytest.approx(
        [-0.369532, -0.057589, 0.300164, -0.143544, -0.436218, -0.079673, 0.090101],
        abs=5e-7,
    )
    hazards = report["proportional_hazards"]
    assert hazards["time"] == "log"
    assert hazards["joint"]["chi2"] == pytest.approx(18.6239, abs=5e-5)
    assert hazards["joint"]["df"] == 7
    (age,) = [term for term in hazards["terms"] if term["term"] == "age"]
    assert age["chi2"] == pytest.approx(8.3338, abs=5e-5)
    header, first = as_csv(report).splitlines()[:2]
    assert header.endswith("low,high,hazard_ratio,hazard_ratio_low,hazard_ratio_high")
    assert first.startswith("fin,-0.3695")
    assert "fin & -0.3695" in as_latex(report)
    # 37 sums a round: 28 of I, 7 of I b + U, -2 l and 0; at the end 3 * 28 + 7 and 5.
    assert report["equations"] == report["rounds"] * 37 + 96


@pytest.mark.thorough
def test_proportional_hazards_against_the_time_itself(tmp_path: Path) -> None:
    attributes = ["fin", "age", "race", "wexp", "mar", "paro", "prio"]
    params = {"hazards_time": "identity"}
    outcome = run(tmp_path, rossi(), attributes=attributes, model_params=params)
    hazards = report_of(outcome)["proportional_hazards"]
    assert hazards["time"] == "identity"
    assert hazards["joint"]["chi2"] == pytest.approx(18.3500, abs=5e-5)
    (age,) = [term for term in hazards["terms"] if term["term"] == "age"]
    assert age["chi2"] == pytest.approx(6.7043, abs=5e-5)


@pytest.mark.thorough
def test_breslow(tmp_path: Path) -> None:
    frames = made_rows(DEALS[3])
    found = report_of(run(tmp_path, frames, model_params={"ties": "breslow"}))
    assert found["ties"] == "breslow"
    rows = pd.concat([frame.assign(site=user) for user, frame in frames.items()])
    X = rows[ATTRIBUTES].to_numpy()
    spread = X.std(axis=0)
    model = PHReg(
        rows["t"],
        (X - X.mean(axis=0)) / spread,
        status=rows["event"],
        strata=rows["site"],
        ties="breslow",
    )
    theirs = model.fit(method="newton", tol=1e-14)
    away = column_of(found, "estimate") * spread - theirs.params
    assert (np.abs(away) <= 1e-9 * theirs.bse).all()
    assert column_of(found, "se") * spread == pytest.approx(theirs.bse, rel=1e-9)


@pytest.mark.parametrize("method", quick(["Mask", "Paillier"], 1))
def test_a_hospital_without_an_event_adds_nothing(tmp_path: Path, method: str) -> None:
    frames = made_rows({2: 90, 3: 80, 4: 70})
    frames[3]["event"] = 0
    params = {"encrypt_param": {"method": method}}
    report = report_of(run(tmp_path, frames, model_params=params))
    check_as(report, pooled_fit({2: frames[2], 4: frames[4]}))
    assert report["n"] == 240


def test_no_event_at_all(tmp_path: Path) -> None:
    frames = made_rows({2: 30, 3: 30, 4: 30})
    for frame in frames.values():
        frame["event"] = 0
    with pytest.raises(
        BadRequest, match="No row of any hospital has an event"
    ) as error:
        run(tmp_path, frames)
    assert error.value.code == "no_events"


@pytest.mark.thorough
def test_categories_and_dropped_rows(tmp_path: Path) -> None:
    """The rows that lack an event's value are left out as well."""
    frames = made_rows({2: 120, 3: 110, 4: 100})
    for frame in frames.values():
        frame["arm"] = np.array(["a", "b", "c"])[np.arange(len(frame)) % 3]
        frame["event"] = frame["event"].astype(float)
        frame.loc[::10, "event"] = np.nan
    outcome = run(
        tmp_path,
        frames,
        attributes=["age", "arm"],
        categorical={"arm": {"reference": "a"}},
        missing="drop",
    )
    report = report_of(outcome)
    kept = {}
    for user, frame in frames.items():
        rows = frame.dropna()[["id", "age", "t", "event"]]
        for level in ("b", "c"):
            rows[f"arm[{level}]"] = (frame["arm"] == level).astype(int)
        kept[user] = rows
    assert [term["term"] for term in report["terms"]] == ["age", "arm[b]", "arm[c]"]
    fit = pooled_fit(
        {
            user: rows.loc[:, ["id", "t", "event", *_features(report)]]
            for user, rows in kept.items()
        }
    )
    check_as(report, fit)


def _features(report: dict[str, Any]) -> list[str]:
    return [term["term"] for term in report["terms"]]


@pytest.mark.parametrize("standardize", quick([False, True], 1))
def test_the_kept_model_answers_partial_hazards(
    tmp_path: Path, standardize: bool
) -> None:
    frames = made_rows(DEALS[3])
    run(tmp_path, frames, model_params={"standardize": standardize})
    fit = pooled_fit(frames)
    X = pd.concat(frames.values())[ATTRIBUTES].to_numpy()
    b = fit.params_.to_numpy()
    expected = (frames[2][ATTRIBUTES].to_numpy() - X.mean(axis=0)) @ b
    party = open_party(load_settings(tmp_path / "hospital-2"), 900, MemoryTransport())
    entries = predict(party, 1, "SELECT * FROM data.rows")
    assert [one["label"] for one in entries] == pytest.approx(expected, abs=1e-9)
    hazards = [one["partial_hazard"] for one in entries]
    assert hazards == pytest.approx(np.exp(expected))


@pytest.mark.thorough
def test_a_penalty_leaves_no_standard_errors(tmp_path: Path) -> None:
    frames = made_rows(DEALS[3])
    n_rows = sum(map(len, frames.values()))
    params = {"penalty": "L2", "alpha": 0.05}
    report = report_of(run(tmp_path, frames, model_params=params))
    rows = pd.concat(
        [frame.drop(columns="id").assign(site=user) for user, frame in frames.items()]
    )
    spread = rows[ATTRIBUTES].std(ddof=0)
    # In the columns' own units, as every order without standardize has its penalty.
    scaled = rows.assign(**{name: rows[name] / spread[name] for name in ATTRIBUTES})
    assert report["proportional_hazards"] is None
    assert list(column_of(report, "se")) == [None] * 3
    assert "penalty" in report["notes"][0]
    b = column_of(report, "estimate")
    assert gradient_at(b, scaled, spread.to_numpy(), n_rows * 0.05) == pytest.approx(
        0, abs=1e-6
    )


def gradient_at(b: Floats, scaled: pd.DataFrame, spread: Floats, weight: float) -> Any:
    """Of l - weight |b|^2 / 2 at b, times each column's spread."""
    model = PHReg(
        scaled["t"],
        scaled[ATTRIBUTES].to_numpy(),
        status=scaled["event"],
        strata=scaled["site"],
        ties="efron",
    )
    return model.score(b * spread) * spread - weight * b


@pytest.mark.thorough
def test_cross_validation_counts_pairs_of_held_out_rows(tmp_path: Path) -> None:
    outcome = run(
        tmp_path,
        made_rows({2: 110, 3: 90, 4: 110}),
        model_params={"cv_param": {"need_cv": True, "n_splits": 2}},
    )
    (summary,) = [facts["summary"] for facts in outcome.facts if "summary" in facts]
    assert summary["held_out"]["n_rows"] == 310
    assert 0.5 < summary["held_out"]["concordance"] < 1
    # The coordinator does not learn how well the model fits.
    assert summary["0"]["loss"] is None
    assert report_of(outcome)["n"] == 310


# What is refused


def test_few_rows_with_an_event(tmp_path: Path) -> None:
    frames = made_rows({2: 200, 3: 200, 4: 200})
    frames[3]["event"] = (np.arange(200) < 9).astype(int)
    order = {"attributes": ["age", "dose"], "is_open": False}
    with pytest.raises(Refused, match="one of the two values of event") as refused:
        run(tmp_path / "few", frames, **order)
    assert refused.value.code == "min_rows"
    frames[3]["event"] = (np.arange(200) < 40).astype(int)
    assert report_of(run(tmp_path / "more", frames, **order))["n"] == 600


def test_a_table_with_the_event_has_no_cell_of_few_people(tmp_path: Path) -> None:
    frames = made_rows({2: 200, 3: 200, 4: 200})
    frames[3]["event"] = (np.arange(200) % 2 == 0).astype(int)
    frames[3].loc[:5, "event"] = 1
    frames[3]["sex"] = frames[3]["event"]
    frames[3].loc[:4, "sex"] = 0
    with pytest.raises(Refused, match="table of sex and event has a cell"):
        run(tmp_path, frames, is_open=False)


def test_the_end_s_sums_count_beside_the_rounds(tmp_path: Path) -> None:
    """The first round and the end are as four rounds of 3 + 3 numbers."""
    frames = made_rows({2: 300, 3: 11, 4: 12})
    with pytest.raises(Refused, match=r"After 4 rounds .* need 24 rows") as refused:
        run(tmp_path, frames)
    assert refused.value.code == "equations"


def test_two_rows_do_not_make_up_a_round(tmp_path: Path) -> None:
    frames = made_rows({2: 80, 3: 80, 4: 80})
    frame = frames[3]
    # Two rows alone are at risk when the events come.
    frame["event"] = (np.arange(80) < 2).astype(int)
    frame["t"] = np.where(np.arange(80) < 2, 500.0 + np.arange(80), 1.0)
    with pytest.raises(Refused, match="Two rows make up more than"):
        run(tmp_path, frames)


def test_few_rows_do_not_carry_a_round(tmp_path: Path) -> None:
    """Of twelve at risk each expects more than the one before, and the sums over the last
    times are of few people.
    """
    frames = made_rows({2: 200, 3: 200, 4: 200})
    frame = frames[3]
    is_late = np.arange(200) < 12
    frame["event"] = is_late.astype(int)
    frame["t"] = np.where(is_late, 500.0 + np.arange(200), 1.0)
    with pytest.raises(Refused, match="fewer than 10 different times") as refused:
        run(tmp_path, frames, attributes=["age", "dose"], is_open=False)
    assert refused.value.code == "few_event_times"


@pytest.mark.thorough
def test_a_coefficient_that_grows_without_end(tmp_path: Path) -> None:
    frames = made_rows({2: 80, 3: 80, 4: 80})
    for frame in frames.values():
        frame["late"] = np.where(frame["event"] == 1, 0, np.arange(80) % 2)
        frame["t"] = np.where(frame["late"] == 1, 1e4, frame["t"])
    with pytest.raises((BadRequest, Refused)) as error:
        run(tmp_path, frames, attributes=["age", "late"])
    assert error.value.code in ("separated", "linear_predictor")


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    quick(
        [
            ("event", 2, "event other than 0 and 1 in event"),
            ("t", 0, "time in t that is not finite and above 0"),
            ("t", -3, "time in t that is not finite and above 0"),
        ],
        2,
    ),
)
def test_rows_that_are_no_survival_times(
    tmp_path: Path, column: str, value: int, reason: str
) -> None:
    frames = made_rows({2: 60, 3: 60, 4: 60})
    frames[3].loc[7, column] = value
    with pytest.raises(BadRequest, match=reason) as error:
        run(tmp_path, frames)
    assert error.value.code == "label"


def test_both_columns_of_the_outcome_are_named_at_once(tmp_path: Path) -> None:
    frames = made_rows({2: 60, 3: 60, 4: 60})
    frames[3].loc[7, "t"] = -1
    frames[3].loc[8, "event"] = 5
    with pytest.raises(BadRequest, match=r"time in t .*event other than 0 and 1"):
        run(tmp_path, frames)


def test_another_hospital_s_user_does_not_filter_by_the_event(tmp_path: Path) -> None:
    frames = made_rows({2: 60, 3: 60, 4: 60})
    sql = dict.fromkeys(frames, "SELECT * FROM data.rows")
    sql[3] += " WHERE event = 1"
    with pytest.raises(Refused, match="WHERE may not use event"):
        run(tmp_path, frames, data_info=sql)


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("event_name", {"event_name": None}),
        ("event_name", {"model_type": "linear"}),
        ("ties", {"model_type": "linear", "event_name": None, "ties": "efron"}),
        (
            "hazards_time",
            {"model_type": "lr", "event_name": None, "hazards_time": "log"},
        ),
        ("hazards_time", {"penalty": "L2", "hazards_time": "log"}),
        ("optimizer", {"optimizer": "sgd"}),
        ("optimizer", {"penalty": "L1"}),
        ("optimizer", {"learning_rate": 0.3}),
        ("label_name", {"event_name": "t"}),
        ("attributes", {"event_name": "age"}),
    ],
)
def test_what_does_not_go_together(code: str, change: dict[str, Any]) -> None:
    params = {}
    fields = dict(change)
    for name in ("ties", "hazards_time", "optimizer", "penalty", "learning_rate"):
        if name in fields:
            params[name] = fields.pop(name)
    body = cox_body((2, 3, 4), **fields, model_params=params)
    with pytest.raises(BadRequest) as error:
        parse_training_request(body)
    assert error.value.code == code


def test_a_cox_has_its_own_defaults() -> None:
    request = parse_training_request(cox_body((2, 3, 4)))
    params = request.model_params
    assert (params.optimizer, params.penalty, params.max_iter) == ("newton", None, 25)
    assert request.ties == "efron"
    assert math.isclose(params.tolerance, 1e-8)
