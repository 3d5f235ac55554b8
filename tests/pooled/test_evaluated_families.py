"""A kept glm or cox on new rows of all hospitals: what is told is what one table would
give.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from lifelines.utils import concordance_index
from sklearn.metrics import log_loss, mean_absolute_error, r2_score, roc_auc_score

from agents.training.report_text import evaluation_as_csv, evaluation_as_latex
from analytics.arrays import Bools, Floats
from protocol.errors import BadRequest, ConsiliumError, Refused
from tests.pairwise import pairwise, quick
from tests.pooled.test_evaluations import (
    ATTRIBUTES,
    DEALS,
    Study,
    made_rows,
    params,
    report_at_all,
    with_events,
)

N_OF = {2: 150, 3: 140, 4: 160}
FAMILIES: dict[str, tuple[str, Any]] = {
    "binomial": ("cloglog", sm.families.Binomial(sm.families.links.CLogLog())),
    "poisson": ("log", sm.families.Poisson()),
    "gaussian": ("identity", sm.families.Gaussian()),
    "gamma": ("log", sm.families.Gamma(sm.families.links.Log())),
    "inverse_gaussian": (
        "log",
        sm.families.InverseGaussian(sm.families.links.Log()),
    ),
}


def with_outcomes(n_rows: int, seed: int) -> pd.DataFrame:
    rows = made_rows(n_rows, seed)
    rng = np.random.default_rng(seed + 7)
    mean = np.exp(0.5 + 0.02 * (rows["age"] - 60) + 0.3 * rows["dose"])
    rows["gaussian"] = mean + rng.normal(0, 1, n_rows)
    rows["binomial"] = rows["y"]
    rows["poisson"] = rng.poisson(mean)
    rows["gamma"] = rng.gamma(4, mean / 4)
    rows["inverse_gaussian"] = rng.wald(mean, 8 * mean)
    rows["days"] = np.ceil(rng.exponential(60 / mean))
    rows["died"] = (rng.uniform(size=n_rows) < 0.7).astype(int)
    # Some come later, before their time; in two wards.
    rows["came"] = np.floor(rows["days"] * rng.uniform(0, 0.5, n_rows))
    rows["ward"] = rng.integers(1, 3, n_rows)
    # Everybody is at risk from before the first time.
    rows["entry"] = rng.uniform(0, 0.9, n_rows)
    return rows


class OtherStudy(Study):
    """Trained on rows with an outcome of each family."""

    def __init__(
        self, folder: Path, order: dict[str, Any], n_of: dict[int, int] = N_OF
    ) -> None:
        later = {user: with_outcomes(n, 50 + user) for user, n in n_of.items()}
        super().__init__(
            folder, n_of, later=later, order=order, make_rows=with_outcomes
        )


def of_family(family: str, link: str) -> dict[str, Any]:
    params = {
        "family": family,
        "link": link,
        "encrypt_param": {"method": "Mask"},
    }
    return {"model_type": "glm", "label_name": family, "model_params": params}


@pytest.mark.parametrize("family", quick(list(FAMILIES), 1))
def test_a_glm_is_judged_as_on_one_table(tmp_path: Path, family: str) -> None:
    link, by_statsmodels = FAMILIES[family]
    study = OtherStudy(tmp_path, of_family(family, link))
    outcome = study.evaluate()
    report = report_at_all(outcome)
    metrics = report["metrics"]
    y = study.pooled[family].to_numpy(float)
    mu = by_statsmodels.link.inverse(study.predictors()[:, 0])
    deviance = by_statsmodels.deviance(y, mu)
    told = outcome.summary["metrics"]
    if family == "binomial":
        assert metrics["log_loss"] == pytest.approx(log_loss(y, mu), rel=1e-10)
        assert metrics["log_loss"] == pytest.approx(deviance / 2 / len(y), rel=1e-10)
        binned = np.floor(mu * 1000)
        assert metrics["auc"] == pytest.approx(roc_auc_score(y, binned), abs=1e-14)
        assert len(report["roc"]) >= 3
        assert "log_loss" not in told
        assert told["auc"] == metrics["auc"]
        return
    assert metrics["mean_deviance"] == pytest.approx(deviance / len(y), rel=1e-9)
    assert metrics["r2"] == pytest.approx(r2_score(y, mu), rel=1e-9)
    assert metrics["mae"] == pytest.approx(mean_absolute_error(y, mu), rel=1e-10)
    # Newton has trained it: no number of the fit.
    assert set(told) == {"mae"}


def test_a_cox_is_judged_within_its_strata_and_from_entries_on(tmp_path: Path) -> None:
    order = {**of_cox(), "entry_name": "came", "strata": ["ward"]}
    study = OtherStudy(tmp_path, order)
    report = report_at_all(study.evaluate())
    expected = np.zeros(2, dtype=np.int64)
    for rows in study.later.values():
        X = rows[ATTRIBUTES].to_numpy() - np.array(study.model["standardize"][0])
        risk = X @ np.array(study.model["layers"]["dense"]).ravel()
        comparable = is_pair(rows)
        comparable &= (
            rows["ward"].to_numpy()[None, :] == rows["ward"].to_numpy()[:, None]
        )
        comparable &= (
            rows["came"].to_numpy()[None, :] < rows["days"].to_numpy()[:, None]
        )
        agrees = risk[None, :] < risk[:, None]
        expected += [(comparable & agrees).sum(), (comparable & ~agrees).sum()]
    pairs = report["pairs"]
    assert [pairs["agreeing"], pairs["disagreeing"]] == expected.tolist()


def test_a_cox_is_judged_by_pairs_within_hospitals(tmp_path: Path) -> None:
    study = OtherStudy(tmp_path, of_cox())
    outcome = study.evaluate()
    report = report_at_all(outcome)
    right = np.zeros(2)
    for user, rows in study.later.items():
        X = rows[ATTRIBUTES].to_numpy() - np.array(study.model["standardize"][0])
        risk = X @ np.array(study.model["layers"]["dense"])
        index = concordance_index(rows["days"], -risk, rows["died"])
        n_pairs = pairs_of(rows)
        right += np.array([index * n_pairs, n_pairs])
        assert user in study.sites
    pairs = report["pairs"]
    assert pairs["within"] == "hospitals"
    counts = [pairs[name] for name in ("agreeing", "disagreeing", "tied")]
    assert sum(counts) == right[1]
    concordance = report["metrics"]["concordance"]
    assert concordance == pytest.approx(right[0] / right[1], rel=1e-12)
    assert report["metrics"]["n_events"] == study.pooled["died"].sum()
    # The coordinator is told no counts.
    assert outcome.summary["metrics"] == {"concordance": concordance}
    assert "metrics,,pairs_within,hospitals" in evaluation_as_csv(report)
    assert "hospitals" in evaluation_as_latex(report)


def of_cox() -> dict[str, Any]:
    return {
        "model_type": "cox",
        "label_name": "days",
        "event_name": "died",
        "model_params": {"encrypt_param": {"method": "Mask"}},
    }


def pairs_of(rows: pd.DataFrame) -> int:
    return int(is_pair(rows).sum())


def is_pair(rows: pd.DataFrame) -> Bools:
    """Of an event (n,) and who outlives it, (n, n)."""
    times, events = rows["days"].to_numpy(), rows["died"].to_numpy() == 1
    later = times[None, :] > times[:, None]
    same = (times[None, :] == times[:, None]) & ~events[None, :]
    found: Bools = (later | same) & events[:, None]
    return found


@pytest.mark.parametrize(("n_events", "code"), quick([(9, "min_rows"), (40, "")], 1))
def test_few_events_of_a_hospital_are_not_counted(
    tmp_path: Path, n_events: int, code: str
) -> None:
    later = {user: with_outcomes(90, 50 + user) for user in (2, 3, 4)}
    later[3]["died"] = (np.arange(90) < n_events).astype(int)
    study = OtherStudy(tmp_path, of_cox(), {2: 90, 3: 90, 4: 90})
    study.put_later(later)
    if not code:
        assert report_at_all(study.evaluate())["n"] == 270
        return
    with pytest.raises(ConsiliumError, match="died") as refused:
        study.evaluate()
    assert refused.value.code == code


@pytest.mark.thorough
def test_a_mean_out_of_range_ends_the_order(tmp_path: Path) -> None:
    study = OtherStudy(tmp_path, of_family("poisson", "sqrt"))
    later = {user: rows.copy() for user, rows in study.later.items()}
    later[3].loc[0, "dose"] = -20
    study.put_later(later)
    with pytest.raises(BadRequest) as refused:
        study.evaluate()
    assert refused.value.code == "mean_range"


# Calibration's slope


NAMES = ("calibration_intercept", "calibration_slope", "calibration_in_the_large")


@pairwise(n_quick=1, n_hospitals=[3, 1, 2, 5], method=["Mask", "Paillier", "None"])
def test_calibration_is_that_of_one_table(
    tmp_path: Path, n_hospitals: int, method: str
) -> None:
    study = Study(tmp_path, DEALS[n_hospitals], order={"model_params": params(method)})
    outcome = study.evaluate(calibration_slope=True)
    report = report_at_all(outcome)
    logit = study.predictors()[:, 0]
    check_calibration(report["metrics"], logit, study.pooled["y"].to_numpy(float))
    for name in NAMES:
        assert outcome.summary["metrics"][name] == report["metrics"][name]
    assert 3 <= report["calibration_rounds"] <= 8


def check_calibration(metrics: dict[str, Any], logit: Floats, y: Floats) -> None:
    """As statsmodels' on one table."""
    binomial = sm.families.Binomial()
    both = sm.GLM(y, sm.add_constant(logit), binomial).fit(
        tol=1e-13, tol_criterion="params"
    )
    large = sm.GLM(y, np.ones(len(y)), binomial, offset=logit).fit(
        tol=1e-13, tol_criterion="params"
    )
    values = [*both.params, *large.params]
    errors = [*both.bse, *large.bse]
    for name, value, error in zip(NAMES, values, errors, strict=True):
        assert abs(metrics[name] - value) < 1e-9 * error
        assert metrics[f"{name}_se"] == pytest.approx(error, rel=1e-9)


def test_calibration_of_a_glm_is_by_the_logit_of_its_mean(tmp_path: Path) -> None:
    study = OtherStudy(tmp_path, of_family("binomial", "cloglog"))
    report = report_at_all(study.evaluate(calibration_slope=True))
    mu = FAMILIES["binomial"][1].link.inverse(study.predictors()[:, 0])
    y = study.pooled["binomial"].to_numpy(float)
    check_calibration(report["metrics"], np.log(mu / (1 - mu)), y)


@pytest.mark.parametrize(("n_others", "code"), quick([(59, "equations"), (60, "")], 1))
def test_calibration_needs_rows_of_the_others(
    tmp_path: Path, n_others: int, code: str
) -> None:
    study = Study(tmp_path, {2: 90, 3: n_others})
    if not code:
        assert report_at_all(study.evaluate(calibration_slope=True))["metrics"]
        return
    with pytest.raises(Refused, match="without calibration_slope") as refused:
        study.evaluate(calibration_slope=True)
    assert refused.value.code == code
    assert report_at_all(study.evaluate())["metrics"]


def test_few_rows_of_a_class_have_no_calibration(tmp_path: Path) -> None:
    later = {2: with_events(90, 9, 42), 3: with_events(90, 0, 43)}
    study = Study(tmp_path, {2: 90, 3: 90}, later=later)
    outcome = study.evaluate(calibration_slope=True)
    report = report_at_all(outcome)
    assert report["metrics"] == {}
    # After the sum that tells so there is the round that ends the order, of zeros.
    assert "calibration_rounds" not in report


def test_outcomes_that_few_rows_decide_are_not_calibrated(tmp_path: Path) -> None:
    """Who are predicted without an error have no weight in the sums."""
    later = {user: made_rows(90, 40 + user) for user in (2, 3, 4)}
    study = Study(tmp_path, {2: 90, 3: 90, 4: 90}, later=later)
    rows = {user: one.copy() for user, one in later.items()}
    # Two people at 0, all others far from it.
    rows[3]["dose"] = np.where(np.arange(90) % 2, 25.0, -25.0) + rows[3]["dose"] / 50
    rows[3].loc[:1, "dose"] = 0.0
    rows[3]["age"] = 60 + rows[3]["dose"] / 50
    study.put_later(rows)
    assert report_at_all(study.evaluate())["metrics"]
    with pytest.raises(Refused, match="without calibration_slope") as refused:
        study.evaluate(calibration_slope=True)
    assert refused.value.code in ("max_share", "dominance")


@pytest.mark.thorough
def test_a_cox_with_entries_and_strata_is_judged_within_these(tmp_path: Path) -> None:
    order = {**of_cox(), "entry_name": "entry", "strata": ["sex"]}
    study = OtherStudy(tmp_path, order)
    report = report_at_all(study.evaluate())
    n_pairs = 0
    for rows in study.later.values():
        for _, one in rows.groupby("sex"):
            n_pairs += pairs_of(one)
    pairs = report["pairs"]
    assert sum(pairs[name] for name in ("agreeing", "disagreeing", "tied")) == n_pairs
