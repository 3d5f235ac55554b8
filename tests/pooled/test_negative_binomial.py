"""`family: negative_binomial`: coefficients and theta are those of one table of all
hospitals' rows.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import optimize, stats

from analytics.arrays import Floats
from analytics.training.pairs import Pair
from protocol.errors import BadRequest, Refused
from protocol.training_request import parse_training_request
from tests.made_newton import ATTRIBUTES, DEALS, columns_of
from tests.made_sites import order_body
from tests.pooled.test_glm_orders import dealt, run_glm

PAIR = Pair("negative_binomial", "log")


def made_rows(n_of: dict[int, int], *, theta: float = 1.7) -> dict[int, pd.DataFrame]:
    frames = {}
    for user, n_rows in n_of.items():
        rng = np.random.default_rng(user)
        age = rng.normal(60 + user, 9, n_rows)
        dose = rng.gamma(2, 3e-4, n_rows)
        sex = np.arange(n_rows) % 2
        mu = np.exp(1 + 0.02 * (age - 63) + 300 * (dose - 6e-4) + 0.3 * sex)
        if math.isfinite(theta):
            mu = rng.gamma(theta, mu / theta)
        columns = {"age": age, "dose": dose, "sex": sex, "y": rng.poisson(mu)}
        frames[user] = pd.DataFrame({"id": np.arange(n_rows), **columns})
    return frames


class Fit(NamedTuple):
    estimate: Floats  # the intercept first
    se: Floats
    result: Any


def pooled_fit(
    frames: dict[int, pd.DataFrame], theta: float, attributes: list[str] = ATTRIBUTES
) -> Fit:
    """By statsmodels' glm with that theta, in the columns' units."""
    rows = pd.concat([frames[user] for user in sorted(frames)])
    X = np.column_stack([np.ones(len(rows)), rows[attributes]])
    middle, spread = X.mean(axis=0), X.std(axis=0)
    middle[0], spread[0] = 0, 1
    family = sm.families.NegativeBinomial(alpha=1 / theta)
    model = sm.GLM(rows["y"].to_numpy(), (X - middle) / spread, family=family)
    result = model.fit(maxiter=100, tol=1e-13, tol_criterion="params")
    T = np.diag(1 / spread)
    T[0] -= middle / spread
    covariance = T @ np.asarray(result.cov_params()) @ T.T
    return Fit(T @ np.asarray(result.params), np.sqrt(np.diag(covariance)), result)


def profile_score(frames: dict[int, pd.DataFrame], theta: float) -> float:
    """Of the profile likelihood in log theta, by a central difference."""

    def likelihood(log_theta: float) -> float:
        at = math.exp(log_theta)
        result = pooled_fit(frames, at).result
        y = result.model.endog
        mu = result.fittedvalues
        return float(stats.nbinom.logpmf(y, at, at / (at + mu)).sum())

    found = optimize.approx_fprime([math.log(theta)], lambda t: likelihood(t[0]), 1e-5)
    return float(found[0])


@pytest.mark.parametrize(
    ("n_hospitals", "method"),
    [
        (3, "Paillier"),
        pytest.param(1, "Mask", marks=pytest.mark.thorough),
        pytest.param(2, "None", marks=pytest.mark.thorough),
        pytest.param(5, "Mask", marks=pytest.mark.thorough),
    ],
)
def test_it_is_that_of_one_table(tmp_path: Path, n_hospitals: int, method: str) -> None:
    frames = made_rows(DEALS[n_hospitals])
    outcome = run_glm(
        tmp_path, frames, PAIR, model_params={"encrypt_param": {"method": method}}
    )
    report = outcome.models[2]["report"]
    assert report["converged"]
    theta = report["theta"]
    b, se, result = pooled_fit(frames, theta)
    assert (np.abs(columns_of(outcome, "estimate") - b) <= 1e-9 * se).all()
    assert columns_of(outcome, "se") == pytest.approx(se, rel=1e-9)
    assert report["deviance"] == pytest.approx(result.deviance, rel=1e-9)
    assert report["null_deviance"] == pytest.approx(result.null_deviance, rel=1e-9)
    assert report["log_likelihood"] == pytest.approx(result.llf, rel=1e-9)
    assert report["aic"] == pytest.approx(2 * 5 - 2 * result.llf, rel=1e-9)
    # At the maximum of the profile likelihood: within 1e-4 of theta's standard error.
    information = (theta / report["theta_se"]) ** 2
    assert abs(profile_score(frames, theta)) < 1e-4 * math.sqrt(information)
    assert report["statistic"] == "z"
    assert report["terms"][1]["rate_ratio"] > 0
    assert outcome.models[2]["theta"] == theta


@pytest.mark.thorough
def test_health_insurance(tmp_path: Path) -> None:
    """Deb and Trivedi 2002: statsmodels' negative binomial finds alpha 1.29295."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = sm.datasets.randhie.load_pandas()
    rows = data.exog.assign(y=data.endog).astype(float).reset_index(drop=True)
    names = list(data.exog.columns)
    outcome = run_glm(
        tmp_path,
        dealt(rows),
        PAIR,
        attributes=names,
        model_params={"encrypt_param": {"method": "Mask"}},
    )
    report = outcome.models[2]["report"]
    assert 1 / report["theta"] == pytest.approx(1.29295, abs=5e-5)
    b, se, _ = pooled_fit(dealt(rows), report["theta"], names)
    assert (np.abs(columns_of(outcome, "estimate") - b) <= 1e-9 * se).all()
    assert report["rounds"] <= 15


def test_counts_of_poisson_have_no_theta(tmp_path: Path) -> None:
    frames = made_rows(DEALS[3], theta=math.inf)
    for frame in frames.values():
        # Less than poisson's.
        frame["y"] = 20 + np.arange(len(frame)) % 3
    with pytest.raises(BadRequest, match="family poisson") as error:
        run_glm(tmp_path, frames, PAIR)
    assert error.value.code == "no_overdispersion"


@pytest.mark.parametrize(
    ("field", "params"),
    [
        ("dispersion", {"dispersion": "estimate"}),
        ("link", {"link": "sqrt"}),
        ("optimizer", {"penalty": "L2", "alpha": 0.1}),
        ("pooling", {"pooling": "meta"}),
    ],
)
def test_what_does_not_go_with_theta(field: str, params: dict[str, Any]) -> None:
    body = order_body((2, 3, 4), model_type="glm")
    body["model_params"] = {"family": "negative_binomial", **params}
    with pytest.raises(BadRequest) as error:
        parse_training_request(body)
    assert error.value.code == field


def test_two_rows_do_not_make_up_theta(tmp_path: Path) -> None:
    """Of counts that are their means, but for one, the sum that theta starts from is that
    one's squared residual.
    """
    frames = made_rows({2: 120, 3: 120, 4: 120})
    for user, frame in frames.items():
        noise = np.random.default_rng(20 + user).poisson(9, len(frame))
        frame["y"] = 40 + (np.arange(len(frame)) % 13 if user == 2 else noise)
    frames[2].loc[7, "y"] = 400
    with pytest.raises(Refused) as error:
        run_glm(tmp_path, frames, PAIR, is_open=False)
    assert error.value.code == "max_share"
    poisson = Pair("poisson", "log")
    assert run_glm(tmp_path / "poisson", frames, poisson).models[2]["report"]


def test_sums_for_theta_are_equations(tmp_path: Path) -> None:
    outcome = run_glm(tmp_path, made_rows(DEALS[3]), PAIR)
    report = outcome.models[2]["report"]
    # Of four coefficients 10 + 4 + 2 sums, and two for theta.
    assert report["equations"] == 18 * report["rounds"]
