"""Calibration's slope, intercept and in the large: those of statsmodels on one table."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm

from analytics.arrays import Floats
from analytics.training import families, recalibration
from analytics.training.pairs import LOGISTIC, Pair
from analytics.training.recalibration import Fits, first_fits

BITS = 100


def fitted(parts: list[tuple[Floats, Floats]], n_rounds: int = 12) -> Fits | None:
    """parts: of each hospital logits and outcomes."""
    fits: Fits | None = first_fits()
    for _ in range(n_rounds):
        assert fits is not None
        if fits.is_done:
            break
        totals = [0] * recalibration.n_sums()
        for logit, y in parts:
            sums = recalibration.local_sums(fits, logit, y)
            for place, value in enumerate(sums.tolist()):
                totals[place] += round(value * 2**53) << (BITS - 53)
        fits = recalibration.stepped(fits, totals, bits=BITS)
        if fits is None:
            break
    return fits


def made(n_rows: int, seed: int) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    logit = rng.normal(-1, 1.5, n_rows)
    p = 1 / (1 + np.exp(-(0.4 + 0.6 * logit)))
    return logit, (rng.uniform(size=n_rows) < p).astype(float)


@pytest.mark.parametrize("n_of", [[400], [150, 10, 300]])
def test_estimates_are_those_of_one_table(n_of: list[int]) -> None:
    parts = [made(n_rows, seed) for seed, n_rows in enumerate(n_of)]
    fits = fitted(parts)
    assert fits is not None
    found = recalibration.estimates(fits)
    assert found is not None
    logit = np.concatenate([part[0] for part in parts])
    y = np.concatenate([part[1] for part in parts])
    binomial = sm.families.Binomial()
    both = sm.GLM(y, sm.add_constant(logit), binomial).fit(
        tol=1e-13, tol_criterion="params"
    )
    large = sm.GLM(y, np.ones(len(y)), binomial, offset=logit).fit(
        tol=1e-13, tol_criterion="params"
    )
    expected = [(both, 0), (both, 1), (large, 0)]
    for (value, se), (fit, place) in zip(found, expected, strict=True):
        assert abs(value - fit.params[place]) < 1e-9 * fit.bse[place]
        assert se == pytest.approx(fit.bse[place], rel=1e-9)
    # They are two numbers.
    assert abs(found.intercept.value - found.in_the_large.value) > 0.1


def test_outcomes_that_predictions_tell_have_no_slope() -> None:
    logit = np.linspace(-2, 2, 60)
    fits = fitted([(logit, (logit > 0).astype(float))], n_rounds=10)
    assert fits is None or recalibration.estimates(fits) is None


def test_one_prediction_for_all_has_no_slope() -> None:
    _, y = made(50, 1)
    assert fitted([(np.full(50, 0.3), y)]) is None


def test_logits_are_those_of_the_link() -> None:
    predictors = np.linspace(-3, 1.2, 9)
    assert (recalibration.logits(LOGISTIC, predictors) == predictors).all()
    pair = Pair("binomial", "cloglog")
    mu = families.means(pair, predictors).mu
    found = recalibration.logits(pair, predictors)
    assert found == pytest.approx(np.log(mu / (1 - mu)), rel=1e-12)
