"""Newton's steps of models without an intercept: of all families and links those of
statsmodels without a constant.
"""

from __future__ import annotations

import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
import statsmodels.api as sm
from statsmodels.tools.sm_exceptions import DomainWarning

from analytics.arrays import Floats
from analytics.training import families, newton, normal_equations, pairs
from analytics.training.inflation import generalised_inflation
from analytics.training.newton import NewtonState
from analytics.training.newton_report import Fit, Units, own_units, report
from analytics.training.pairs import Pair
from tests.unit.test_families import PAIRS, reference

BITS = 100
NEGATIVE_BINOMIAL = Pair("negative_binomial", "log", 1.7)


def made_rows(pair: Pair) -> tuple[Floats, Floats]:
    """Columns far from 0, (200, 3), and labels of the family."""
    rng = np.random.default_rng(5)
    X = np.column_stack(
        [rng.normal(6, 1, 200), rng.uniform(1, 2, 200), np.arange(200) % 2]
    )
    slopes = np.array([0.1, 0.4, 0.3])
    if pair.is_binary:
        slopes = np.array([0.1, -0.5, 0.4])
        if pair.link == "log":
            slopes = np.array([-0.1, -0.3, -0.2])
    at = families.means(pair, X @ slopes)
    if pair.is_binary:
        return X, (rng.uniform(size=200) < at.mu).astype(float)
    if pair.family == "poisson":
        return X, rng.poisson(at.mu).astype(float)
    return X, rng.gamma(9, at.mu / 9)


def own_fit(pair: Pair, X: Floats, y: Floats) -> tuple[Floats, Floats, float]:
    """Estimates, A^-1 and deviance, from sums of two hospitals."""
    p = X.shape[1]
    state = NewtonState(coef=np.zeros(p), base=np.zeros(p))
    while not state.is_done:
        assert state.round < 60
        totals = [0] * newton.n_sums(p)
        for rows in (slice(0, 70), slice(70, None)):
            numbers = newton.row_numbers(
                pair,
                X[rows],
                y[rows],
                state.coef,
                is_start=state.is_start,
                has_intercept=False,
            )
            sums = newton.local_sums(X[rows], numbers, has_intercept=False)
            for place, value in enumerate(sums.tolist()):
                totals[place] += round(Fraction(value) * 2**BITS)
        opened = newton.read_sums(totals, p, bits=BITS)
        state = newton.stepped(
            state, opened, pair=pair, eps=1e-8, diagonal=np.zeros(p), n_rows=len(y)
        )
    return state.coef, normal_equations.inverse(opened), opened.deviance


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_a_pair_is_statsmodels_without_a_constant(pair: Pair) -> None:
    X, y = made_rows(pair)
    coef, covariance, deviance = own_fit(pair, X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DomainWarning)
        model = sm.GLM(y, X, family=reference(pair))
    result = model.fit(maxiter=200, tol=1e-13, tol_criterion="params")
    se = np.asarray(result.bse) / math.sqrt(result.scale)
    assert (np.abs(coef - np.asarray(result.params)) <= 1e-9 * se).all()
    assert np.sqrt(np.diag(covariance)) == pytest.approx(se, rel=1e-8)
    assert deviance == pytest.approx(result.deviance, rel=1e-9)


@pytest.mark.parametrize("pair", [*PAIRS, NEGATIVE_BINOMIAL], ids=str)
def test_the_null_model_without_an_intercept_has_predictors_of_0(pair: Pair) -> None:
    counts = pair.has_theta or pair.family == "poisson"
    _, y = made_rows(Pair("poisson", "log") if counts else pair)
    m = np.arange(200.0) % 4
    terms = families.null_terms(pair, y, m, center=float(y.mean()))
    sums = families.NullTerms(*(float(np.sum(term)) for term in terms))
    found = families.zero_deviance(pair, sums, center=float(y.mean()))
    at = families.means(pair, np.zeros(200))
    if not families.is_valid(pair, at):
        assert found is None
        return
    expected = float(np.sum(m * families.unit_deviances(pair, y, at)))
    assert found == pytest.approx(expected, rel=1e-12)
    if not pair.has_theta:
        of_reference = reference(pair).deviance(y, at.mu, freq_weights=m)
        assert found == pytest.approx(of_reference, rel=1e-12)


@pytest.mark.parametrize(
    "pair", [Pair("poisson", "log"), Pair("gamma", "log"), pairs.LEAST_SQUARES]
)
def test_with_an_offset_the_null_model_is_the_offset(pair: Pair) -> None:
    _, y = made_rows(pair)
    offset = np.linspace(-1, 2, 200)
    ones = np.ones(200)
    terms = families.null_terms(pair, y, ones, center=1.5, offset=offset)
    sums = families.NullTerms(*(float(np.sum(term)) for term in terms))
    at = families.means(pair, offset)
    expected = float(np.sum(families.unit_deviances(pair, y, at)))
    found = families.zero_deviance(pair, sums, center=1.5)
    assert found == pytest.approx(expected, rel=1e-12)


def test_binomial_with_log_has_no_null_model() -> None:
    """Its mean is 1 at a predictor of 0, which no row of a 0 has."""
    sums = families.NullTerms(10.0, 4.0, 0.0)
    assert families.zero_deviance(Pair("binomial", "log"), sums, center=0.0) is None


def test_units_are_divided_by_and_nothing_is_moved() -> None:
    units = Units(np.zeros(2), np.array([2.0, 5.0]), shift=0.0, factor=10.0)
    coef, covariance = own_units(
        np.array([1.0, 3.0]), np.array([[4.0, 1.0], [1.0, 9.0]]), units
    )
    assert coef.tolist() == [5.0, 6.0]
    assert covariance.tolist() == [[100.0, 10.0], [10.0, 36.0]]


def test_terms_are_the_columns_alone() -> None:
    """n - p counts them, and so do events for each coefficient."""
    fit = Fit(29, 29.0, 20.0, None, 19, 20.0, 0.0)
    found = report(
        Pair("binomial", "logit"),
        ["age", "sex"],
        np.array([0.1, 0.2]),
        np.eye(2),
        fit,
        confidence=0.95,
        is_penalised=False,
        estimates_dispersion=False,
        has_intercept=False,
    )
    assert [term["term"] for term in found["terms"]] == ["age", "sex"]
    assert found["df_residual"] == 27
    assert found["null_deviance"] is None
    assert "fewer than 10 rows" in found["notes"][0]


def test_inflation_is_that_of_columns_about_0() -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(3, 1, (80, 2))
    found = generalised_inflation(np.linalg.inv(X.T @ X), {"a": [0], "b": [1]})
    uncentred = sm.OLS(X[:, 0], X[:, 1]).fit().rsquared
    assert found[0]["gvif"] == pytest.approx(1 / (1 - uncentred))
