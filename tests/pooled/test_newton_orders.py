"""`optimizer: newton`: estimates, standard errors and the rest of a report are those of one
table of all hospitals' rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analytics.arrays import Floats
from deployments.local.one_process import OrderOutcome, run_order
from protocol.errors import BadRequest, ConsiliumError
from tests.made_sites import make_sites, order_body

ATTRIBUTES = ["age", "dose", "sex"]


def made_rows(n_of: dict[int, int]) -> dict[int, pd.DataFrame]:
    """Attributes of far different sizes, a 0/1 column, a class and a number."""
    frames = {}
    for user, n_rows in n_of.items():
        rng = np.random.default_rng(user)
        age = rng.normal(60 + user, 9, n_rows)
        dose = rng.gamma(2, 3e-4, n_rows)
        sex = np.arange(n_rows) % 2
        eta = -6 + 0.08 * age + 700 * dose + 0.5 * sex
        y = (rng.uniform(size=n_rows) < 1 / (1 + np.exp(-eta))).astype(int)
        value = 1e5 + 300 * eta + rng.normal(0, 900, n_rows)
        columns = {"age": age, "dose": dose, "sex": sex, "y": y, "value": value}
        frames[user] = pd.DataFrame({"id": np.arange(n_rows), **columns})
    return frames


SMALL = (
    "min_rows = 1\nmin_varying = 1\nmax_parameter_share = 100\nregroup = true\n"
)


def run(
    folder: Path, frames: dict[int, pd.DataFrame], *, min_hospitals: int = 3, **order: Any
) -> OrderOutcome:
    params = {"optimizer": "newton", "eps": None, "max_iter": None, "penalty": None}
    params.update(order.pop("model_params", {}))
    sites = make_sites(
        folder,
        {user: {"rows": frame} for user, frame in frames.items()},
        min_hospitals=min_hospitals,
    )
    _open_policies(folder)
    body = order_body(
        sorted(frames), **{"attributes": ATTRIBUTES, "model_params": params, **order}
    )
    return run_order(sites, body)


def _open_policies(folder: Path) -> None:
    for path in folder.rglob("policy.toml"):
        text = path.read_text()
        path.write_text(text + "min_rows = 1\nmin_varying = 1\nmax_parameter_share = 100\n")


def pooled_fit(frames: dict[int, pd.DataFrame], kind: str) -> tuple[Floats, Floats, float]:
    """Estimates, standard errors, deviance of one table, the intercept first: Newton in
    long doubles.
    """
    rows = pd.concat([frames[user] for user in sorted(frames)])
    X = np.column_stack([np.ones(len(rows)), rows[ATTRIBUTES]])
    middle, spread = X.mean(axis=0), X.std(axis=0)
    middle[0], spread[0] = 0, 1
    Z = (X - middle) / spread
    y = rows["y" if kind == "lr" else "value"].to_numpy(float)
    b = np.zeros(Z.shape[1])
    for _ in range(30):
        mu = Z @ b if kind == "linear" else 1 / (1 + np.exp(-Z @ b))
        W = np.ones(len(y)) if kind == "linear" else mu * (1 - mu)
        b = b + np.linalg.solve(Z.T @ (Z * W[:, None]), Z.T @ (y - mu))
    A = Z.T @ (Z * W[:, None])
    T = np.diag(1 / spread)
    T[0] -= middle / spread
    covariance = T @ np.linalg.inv(A) @ T.T
    if kind == "linear":
        deviance = float(np.sum((y - Z @ b) ** 2))
        covariance = covariance * deviance / (len(y) - len(b))
    else:
        deviance = float(2 * np.sum(np.logaddexp(0, -(2 * y - 1) * (Z @ b))))
    return T @ b, np.sqrt(np.diag(covariance)), deviance


def columns_of(outcome: OrderOutcome, name: str) -> Floats:
    reports = [model["report"] for model in outcome.models.values()]
    # Every hospital has the same bits.
    assert all(report == reports[0] for report in reports)
    return np.array([term[name] for term in reports[0]["terms"]])


DEALS = {
    1: {2: 300},
    2: {2: 150, 3: 170},
    3: {2: 130, 3: 20, 4: 160},
    5: {2: 80, 3: 70, 4: 12, 5: 90, 6: 75},
}


@pytest.mark.parametrize("kind", ["lr", "linear"])
@pytest.mark.parametrize("n_hospitals", sorted(DEALS))
@pytest.mark.parametrize("method", ["Mask", "None"])
def test_estimates_and_errors_are_those_of_one_table(
    tmp_path: Path, kind: str, n_hospitals: int, method: str
) -> None:
    if method == "None" and n_hospitals != 3:
        pytest.skip("one is enough")
    frames = made_rows(DEALS[n_hospitals])
    outcome = run(
        tmp_path,
        frames,
        min_hospitals=1,
        model_type=kind,
        label_name="y" if kind == "lr" else "value",
        model_params={"encrypt_param": {"method": method}},
    )
    b, se, deviance = pooled_fit(frames, kind)
    assert (np.abs(columns_of(outcome, "estimate") - b) <= 1e-9 * se).all()
    assert columns_of(outcome, "se") == pytest.approx(se, rel=1e-9)
    report = outcome.models[2]["report"]
    assert report["deviance"] == pytest.approx(deviance, rel=1e-9)
    assert report["converged"]
    assert [term["term"] for term in report["terms"]] == ["(Intercept)", *ATTRIBUTES]
    wald = b / se
    if kind == "lr":
        expected = 2 * stats.norm.sf(np.abs(wald))
    else:
        expected = 2 * stats.t.sf(np.abs(wald), report["df_residual"])
    assert columns_of(outcome, "p") == pytest.approx(expected, rel=1e-6)
