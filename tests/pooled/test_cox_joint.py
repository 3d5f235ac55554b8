"""`baseline: "joint"` of a cox: the fit of one table without strata at given times; and
that nothing of risk sets is opened unless every policy says so.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from statsmodels.duration.hazard_regression import PHReg

from agents.training import cox_joint as joint_rounds
from analytics.training import cox_joint
from deployments.local.one_process import OrderOutcome, run_order
from protocol.errors import BadRequest, ConsiliumError, Refused
from protocol.sums import limbs
from protocol.training_request import (
    order_document,
    parse_training_request,
    read_order_document,
)
from tests.made_sites import make_sites
from tests.pairwise import pairwise
from tests.pooled.test_cox_orders import (
    ATTRIBUTES,
    DEALS,
    column_of,
    cox_body,
    made_rows,
    report_of,
    rossi,
)

OFF = "risk_sets = true\nmin_rows = 1\nmin_varying = 1\nmax_parameter_share = 100\n"
COLUMNS = ["fin", "age", "race", "wexp", "mar", "paro", "prio"]
EDGES = [5.0, 10, 20, 40, 80]
JOINT: dict[str, Any] = {"baseline": "joint", "encrypt_param": {"method": "Mask"}}


def run(
    folder: Path,
    frames: dict[int, pd.DataFrame],
    *,
    cohort: str = OFF,
    edges: Any = EDGES,
    min_hospitals: int = 3,
    params: dict[str, Any] | None = None,
    **order: Any,
) -> OrderOutcome:
    tables = {user: {"rows": frame} for user, frame in frames.items()}
    sites = make_sites(folder, tables, cohort=cohort, min_hospitals=min_hospitals)
    joint = {**JOINT, "edges": list(edges), **(params or {})}
    return run_order(sites, cox_body(sorted(frames), model_params=joint, **order))


def weeks(frames: dict[int, pd.DataFrame]) -> list[float]:
    table = pd.concat(frames.values())
    found: list[float] = sorted(table.loc[table["event"] == 1, "t"].unique().tolist())
    return found


@pytest.mark.thorough
def test_rossi_at_the_weeks_of_its_events(tmp_path: Path) -> None:
    frames = rossi()
    edges = weeks(frames)
    outcome = run(tmp_path, frames, edges=edges, attributes=COLUMNS)
    report = report_of(outcome)
    assert report["converged"]
    assert report["baseline"] == "joint"
    assert report["intervals"]["n"] == len(edges) == 49
    assert column_of(report, "estimate") == pytest.approx(
        [-0.379422, -0.057438, 0.313900, -0.149796, -0.433704, -0.084871, 0.091497],
        abs=5e-7,
    )
    assert column_of(report, "se") == pytest.approx(
        [0.191379, 0.021999, 0.307993, 0.212224, 0.381868, 0.195757, 0.028649],
        abs=5e-7,
    )
    # As R prints it.
    assert report["likelihood_ratio"]["chi2"] == pytest.approx(33.266, abs=5e-3)
    assert report["proportional_hazards"] is None
    assert report["concordance"]["within"] == "hospital"
    assert "49 intervals" in report["notes"][-1]


@pairwise(
    n_quick=1,
    n_hospitals=[1, 2, 3, 5],
    method=["Mask", "Paillier", "None"],
    ties=["efron", "breslow"],
)
def test_a_report_is_that_of_one_table(
    tmp_path: Path, n_hospitals: int, method: str, ties: str
) -> None:
    frames = made_rows(DEALS[n_hospitals])
    params = {"encrypt_param": {"method": method}, "ties": ties}
    outcome = run(tmp_path, frames, min_hospitals=1, params=params)
    report = report_of(outcome)
    rows = pd.concat(frames.values())
    X = rows[ATTRIBUTES].to_numpy()
    spread = X.std(axis=0)
    model = PHReg(
        np.searchsorted(EDGES, rows["t"], side="left") + 1,
        (X - X.mean(axis=0)) / spread,
        status=rows["event"],
        ties=ties,
    )
    theirs = model.fit(method="newton", tol=1e-14)
    away = column_of(report, "estimate") * spread - theirs.params
    # Three steps, from estimates of baselines that differ far.
    assert (np.abs(away) <= 1e-6 * theirs.bse).all()
    # Of the last message, one step before the estimate: of five hospitals 3.5e-5 away.
    assert column_of(report, "se") * spread == pytest.approx(theirs.bse, rel=1e-4)
    assert report["log_likelihood"] == pytest.approx(theirs.llf, rel=1e-9)
    assert report["n"] == len(rows)


# What the sums tell


class Opened:
    """What a member of the order can read: the opened sums of the joint rounds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: list[int] = []
        self.sums: list[tuple[Any, list[int]]] = []
        stepped = joint_rounds.stepped_point

        def reading(trainer: Any, point: Any, sums: Any) -> Any:
            totals = limbs.whole_sums(sums)
            if point.joint.counts is None:
                self.counts = totals
            else:
                # Whoever opens the sums has made the intervals too.
                self.sums.append((point, totals))
            return stepped(trainer, point, sums)

        monkeypatch.setattr(joint_rounds, "stepped_point", reading)

    def single_leavers(self, n_weights: int, *, n_kinds: int) -> list[Any]:
        """Covariates, standardised, of people who left alone between two sums."""
        n_each = 1 + n_weights + n_weights * (n_weights + 1) // 2
        point, totals = self.sums[0]
        values = np.array([value / 2**limbs.FRACTION_BITS for value in totals])
        rows = values[n_weights:].reshape(-1, n_kinds, n_each)[:, 0, : 1 + n_weights]
        left = rows[:-1] - rows[1:]
        covariates = left[:, 1:] / left[:, :1]
        # Of one person the first sum is exp of its own predictor.
        predictors = covariates @ point.weights
        is_alone = np.abs(left[:, 0] - np.exp(predictors)) < 1e-9 * left[:, 0]
        return list(covariates[is_alone])


def test_members_read_covariates_of_who_leaves_where_policies_let_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is what `risk_sets` says, with the rules of numbers switched off."""
    frames = rossi()
    seen = Opened(monkeypatch)
    edges = weeks(frames)
    run(tmp_path, frames, edges=edges, attributes=COLUMNS)
    found = seen.single_leavers(7, n_kinds=2)
    table = pd.concat(frames.values())
    X = table[COLUMNS].to_numpy(float)
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    alone = Z[((table["event"] == 1) & ~table["t"].duplicated(keep=False)).to_numpy()]
    assert len(alone) > 10
    for row in alone:
        assert min(np.abs(one - row).max() for one in found) < 1e-6


def grouped_rows() -> dict[int, pd.DataFrame]:
    frames = made_rows({2: 400, 3: 380, 4: 420})
    for user, frame in frames.items():
        rng = np.random.default_rng(70 + user)
        frame["t"] = rng.exponential(50, len(frame)).round(2) + 0.01
    return frames


def test_with_the_rules_on_no_sum_is_of_few_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Opened(monkeypatch)
    frames = grouped_rows()
    # 3 rounds times 2 + 3.
    least = 15
    outcome = run(
        tmp_path,
        frames,
        cohort="risk_sets = true\n",
        edges=[20, 40, 60],
        attributes=["age", "dose"],
    )
    intervals = report_of(outcome)["intervals"]
    assert intervals["n"] == 4
    assert not seen.single_leavers(2, n_kinds=2)
    n_left = [*intervals["at_risk"], 0]
    assert all(a - b >= least for a, b in itertools.pairwise(n_left))
    assert min(intervals["events"]) >= least


def test_without_the_policy_s_word_nothing_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Opened(monkeypatch)
    frames = rossi()
    tables = {user: {"rows": frame} for user, frame in frames.items()}
    sites = make_sites(tmp_path, tables, cohort=OFF)
    policy = sites[3].policy
    policy.write_text(policy.read_text().replace("risk_sets = true\n", ""))
    joint = {**JOINT, "edges": weeks(frames)}
    body = cox_body(sorted(frames), attributes=COLUMNS, model_params=joint)
    with pytest.raises(Refused, match="read covariates of people who leave") as refused:
        run_order(sites, body)
    assert refused.value.code == "risk_sets"
    assert not seen.counts
    assert not seen.sums
    # The default needs no such word, and opens nothing of the kind.
    params = {"encrypt_param": {"method": "Mask"}}
    body = cox_body(sorted(frames), attributes=COLUMNS, model_params=params)
    assert report_of(run_order(sites, body, order_id=2))["baseline"] == "hospital"
    assert not seen.sums


def test_few_people_between_two_edges(tmp_path: Path) -> None:
    frames = grouped_rows()
    with pytest.raises(
        Refused, match="Between two edges of t fewer than 10"
    ) as refused:
        run(
            tmp_path,
            frames,
            cohort="risk_sets = true\n",
            edges=[20, 20.5],
            attributes=["age", "dose"],
        )
    assert refused.value.code == "min_rows"


def test_two_orders_whose_edges_differ_by_few_people(tmp_path: Path) -> None:
    """Between the two edges a person leaves: the difference would be that person's."""
    frames = grouped_rows()
    tables = {user: {"rows": frame} for user, frame in frames.items()}
    sites = make_sites(tmp_path, tables, cohort="risk_sets = true\n", regroup=False)
    codes = []
    for number, edge in enumerate((40.0, 40.2), start=1):
        joint = {**JOINT, "edges": [edge]}
        body = cox_body(sorted(frames), attributes=["age", "dose"], model_params=joint)
        try:
            run_order(sites, body, order_id=number)
        except ConsiliumError as error:
            codes.append(error.code)
        else:
            codes.append("")
    assert codes == ["", "earlier_cohort"]


@pytest.mark.thorough
def test_one_hospital_that_asks_for_many_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the others have switched the rules off, and one lies about it, too."""
    frames = grouped_rows()
    tables = {user: {"rows": frame} for user, frame in frames.items()}
    sites = make_sites(tmp_path, tables, cohort=OFF)
    policy = sites[4].policy
    policy.write_text(policy.read_text().replace("min_rows = 1\n", "min_rows = 5\n"))
    joint = {**JOINT, "edges": [20, 40, 60, 80, 100]}
    body = cox_body(sorted(frames), attributes=["age", "dose"], model_params=joint)
    intervals = report_of(run_order(sites, body))["intervals"]
    assert min(intervals["events"]) >= 15
    whole = limbs.whole_sums

    def without_a_word(sums: Any) -> list[int]:
        totals = whole(sums)
        return [*totals[:-1], 0] if len(totals) == 13 else totals

    monkeypatch.setattr(limbs, "whole_sums", without_a_word)
    with pytest.raises(Refused) as refused:
        run_order(sites, body, order_id=2)
    assert refused.value.code == "equations"


def test_too_few_people_for_one_interval(tmp_path: Path) -> None:
    """Thirteen without an event at the three hospitals, of which each has 0 or more than
    its own number of them.
    """
    frames = grouped_rows()
    for user, frame in frames.items():
        frame["event"] = 1
        if user == 4:
            frame.loc[:12, "event"] = 0
    with pytest.raises(Refused, match="A joint baseline needs 15") as refused:
        run(
            tmp_path,
            frames,
            cohort="risk_sets = true\n",
            edges=[1e6],
            attributes=["age", "dose"],
        )
    assert refused.value.code == "equations"


# What does not go together


@pytest.mark.parametrize(
    "change",
    [
        {"edges": None},
        {"baseline": None},
        {"hazards_time": "log"},
        {"penalty": "L2"},
        {"max_iter": 9},
        {"cv_param": {"need_cv": True}},
        {"entry_name": "entry"},
        {"strata": ["ward"]},
        {"validation_fraction": 0.2},
        {"model_type": "linear", "event_name": None},
    ],
)
def test_what_does_not_go_together(change: dict[str, Any]) -> None:
    fields = dict(change)
    params: dict[str, Any] = {"baseline": "joint", "edges": [10]}
    for name in (
        "edges",
        "baseline",
        "hazards_time",
        "penalty",
        "max_iter",
        "cv_param",
    ):
        if name in fields:
            params[name] = fields.pop(name)
    with pytest.raises(BadRequest) as error:
        parse_training_request(cox_body((2, 3, 4), **fields, model_params=params))
    assert error.value.code in ("baseline", "optimizer")


@pytest.mark.parametrize("edges", [[0, 5], [5, 5], [-1], [float("inf")], []])
def test_edges_that_are_no_times(edges: list[float]) -> None:
    params = {"baseline": "joint", "edges": edges}
    with pytest.raises(ConsiliumError) as error:
        parse_training_request(cox_body((2, 3, 4), model_params=params))
    assert "edges" in error.value.sentence


def test_a_document_has_both_fields_only_with_a_joint_baseline() -> None:
    commitments = dict.fromkeys((2, 3, 4), "c")
    plain = order_document(1, parse_training_request(cox_body((2, 3, 4))), commitments)
    assert "edges" not in plain
    assert "baseline" not in plain
    params = {"baseline": "joint", "edges": [10, 20.5]}
    request = parse_training_request(cox_body((2, 3, 4), model_params=params))
    read, _ = read_order_document(order_document(1, request, commitments), 1)
    assert (read.baseline, read.edges) == ("joint", [10, 20.5])
    assert cox_joint.ROUNDS == 3
