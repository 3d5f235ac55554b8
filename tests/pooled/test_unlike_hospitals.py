"""Studies of hospitals that are unlike each other: one is tiny, one lacks a level of a
category, at one nobody has the event. The fit is that of one table of all rows, under
each method.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from statsmodels.duration.hazard_regression import PHReg

from agents.training.report_text import as_csv
from analytics.arrays import Floats
from tests.made_newton import columns_of, run
from tests.pairwise import pairwise

Frames = dict[int, pd.DataFrame]
FAMILIES = {
    "binomial": sm.families.Binomial(),
    "poisson": sm.families.Poisson(),
}
# Hospital 3 lacks level c, hospital 4 is tiny, at the last one nobody has the event.
DEALS = {
    1: {2: 260},
    2: {2: 190, 3: 120},
    3: {2: 190, 3: 120, 4: 14},
    5: {2: 120, 3: 90, 4: 12, 5: 80, 6: 60},
}


def made_rows(n_of: dict[int, int]) -> Frames:
    frames = {}
    for user, n_rows in n_of.items():
        rng = np.random.default_rng(50 + user)
        levels = ["a", "b"] if user == 3 else ["a", "b", "c"]
        stage = np.array(levels)[np.arange(n_rows) % len(levels)]
        age = rng.normal(60 + user, 9, n_rows)
        eta = 0.03 * (age - 63) + 0.5 * (stage == "b") - 0.4 * (stage == "c")
        has_events = len(n_of) == 1 or user != max(n_of)
        died = (rng.uniform(size=n_rows) < 1 / (1 + np.exp(-eta))) & has_events
        columns = {
            "id": np.arange(n_rows),
            "age": age,
            "stage": stage,
            "died": died.astype(int),
            "visits": rng.poisson(np.exp(0.5 + eta)) * has_events,
            "days": np.ceil(rng.exponential(40 * user * np.exp(-eta))),
        }
        frames[user] = pd.DataFrame(columns)
    return frames


def pooled(frames: Frames) -> pd.DataFrame:
    rows = pd.concat([frame.assign(site=user) for user, frame in frames.items()])
    dummies = {f"stage[{level}]": (rows["stage"] == level) * 1.0 for level in "bc"}
    return rows.assign(**dummies).reset_index(drop=True)


TERMS = ["age", "stage[b]", "stage[c]"]
STUDY: dict[str, Any] = {
    "attributes": ["age", "stage"],
    "categorical": {"stage": {"reference": "a"}},
}


def check(outcome: Any, estimate: Floats, se: Floats) -> None:
    found = columns_of(outcome, "estimate")
    assert (np.abs(found - estimate) <= 1e-9 * se).all()
    assert columns_of(outcome, "se") == pytest.approx(se, rel=1e-9)
    report = outcome.models[2]["report"]
    assert report["converged"]
    assert "stage[c]" in as_csv(report)


@pairwise(
    n_quick=1,
    family=["binomial", "poisson"],
    n_hospitals=sorted(DEALS, reverse=True),
    method=["Paillier", "Mask", "None"],
)
def test_a_glm_is_that_of_one_table(
    tmp_path: Path, family: str, n_hospitals: int, method: str
) -> None:
    frames = made_rows(DEALS[n_hospitals])
    label = "died" if family == "binomial" else "visits"
    outcome = run(
        tmp_path,
        frames,
        min_hospitals=1,
        model_type="glm",
        label_name=label,
        model_params={"family": family, "encrypt_param": {"method": method}},
        **STUDY,
    )
    rows = pooled(frames)
    X = sm.add_constant(rows[TERMS])
    model = sm.GLM(rows[label], X, family=FAMILIES[family])
    fit = model.fit(maxiter=100, tol=1e-12, tol_criterion="params")
    check(outcome, fit.params.to_numpy(), fit.bse.to_numpy())


@pairwise(
    n_quick=1,
    n_hospitals=sorted(DEALS, reverse=True),
    method=["Paillier", "Mask", "None"],
)
def test_a_cox_is_that_of_one_table(
    tmp_path: Path, n_hospitals: int, method: str
) -> None:
    frames = made_rows(DEALS[n_hospitals])
    outcome = run(
        tmp_path,
        frames,
        min_hospitals=1,
        model_type="cox",
        label_name="days",
        event_name="died",
        model_params={"encrypt_param": {"method": method}},
        **STUDY,
    )
    rows = pooled(frames)
    X = rows[TERMS].to_numpy(float)
    spread = X.std(axis=0)
    # lifelines ends 1e-8 standard errors before the maximum of one hospital's rows.
    model = PHReg(
        rows["days"],
        (X - X.mean(axis=0)) / spread,
        status=rows["died"],
        strata=rows["site"],
        ties="efron",
    )
    fit = model.fit(method="newton", tol=1e-14)
    check(outcome, fit.params / spread, fit.bse / spread)
