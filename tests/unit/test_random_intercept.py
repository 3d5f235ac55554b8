"""REML of a random intercept from sums, beside lme4's golden values and statsmodels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from analytics.arrays import Floats, Ints
from analytics.training.random_intercept import Sums, fit

DYESTUFF = [
    [1545, 1440, 1440, 1520, 1580],
    [1540, 1555, 1490, 1560, 1495],
    [1595, 1550, 1605, 1510, 1560],
    [1445, 1440, 1595, 1465, 1545],
    [1595, 1630, 1515, 1635, 1625],
    [1520, 1455, 1450, 1480, 1445],
]


def sums_of(X: Floats, y: Floats, hospital: Ints) -> Sums:
    groups = [hospital == one for one in np.unique(hospital)]
    return Sums(
        XX=X.T @ X,
        Xy=X.T @ y,
        yy=float(y @ y),
        n_rows=[int(group.sum()) for group in groups],
        own_X=np.array([X[group].sum(axis=0) for group in groups]),
        own_y=np.array([y[group].sum() for group in groups]),
    )


def test_dyestuff() -> None:
    """lme4's own example: REML criterion, variances, the mean and its error."""
    y = np.ravel(DYESTUFF).astype(float)
    found = fit(sums_of(np.ones((30, 1)), y, np.repeat(np.arange(6), 5)))
    assert found.criterion == pytest.approx(319.6543, abs=5e-5)
    assert found.between == pytest.approx(1764.05, abs=5e-3)
    assert found.residual == pytest.approx(2451.25, abs=5e-3)
    assert found.coef[0] == pytest.approx(1527.5)
    assert np.sqrt(found.covariance[0, 0]) == pytest.approx(19.38, abs=5e-3)


@pytest.mark.parametrize("spread", [0.8, 3.0])
def test_as_statsmodels(spread: float) -> None:
    rng = np.random.default_rng(4)
    hospital = np.repeat(np.arange(7), [20, 35, 50, 15, 80, 44, 31])
    age = rng.normal(60, 9, len(hospital))
    dose = rng.gamma(2, 1, len(hospital))
    y = 5 + 0.1 * age - dose + spread * rng.normal(size=7)[hospital]
    y = y + rng.normal(0, 2, len(hospital))
    X = np.column_stack([np.ones(len(y)), age, dose])
    found = fit(sums_of(X, y, hospital))
    rows = pd.DataFrame({"y": y, "age": age, "dose": dose, "hospital": hospital})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = smf.mixedlm("y ~ age + dose", rows, groups="hospital").fit(
            reml=True, gtol=1e-10
        )
    assert found.coef == pytest.approx(expected.fe_params.to_numpy(), rel=1e-5)
    errors = np.sqrt(np.diag(found.covariance))
    assert errors == pytest.approx(expected.bse_fe.to_numpy(), rel=1e-3)
    assert found.residual == pytest.approx(expected.scale, rel=1e-4)
    assert found.between == pytest.approx(float(expected.cov_re.iloc[0, 0]), rel=1e-2)


def test_hospitals_that_differ_no_more_than_their_rows() -> None:
    rng = np.random.default_rng(1)
    hospital = np.repeat(np.arange(5), 40)
    y = rng.normal(size=200)
    # Means that are nearer to each other than chance would have them.
    for one in range(5):
        y[hospital == one] -= y[hospital == one].mean()
    found = fit(sums_of(np.ones((200, 1)), y, hospital))
    assert found.between == 0
    assert found.residual == pytest.approx(float(np.var(y, ddof=1)))


@pytest.mark.parametrize("n_hospitals", [5, 12])
def test_sums_at_a_few_ratios_are_every_hospital_s_own(n_hospitals: int) -> None:
    """Why own sums are told openly, where policies say so, and no sum over hospitals at
    a grid of variance ratios l is opened instead: with the numbers of rows known, as many
    such sums as hospitals are solved for each hospital's own.
    """
    rng = np.random.default_rng(n_hospitals)
    n_rows = [int(n) for n in rng.choice(np.arange(20, 400), n_hospitals, False)]
    own = rng.normal(60, 9, n_hospitals) * n_rows
    ratios = [Fraction(place, 2 * n_hospitals) for place in range(1, n_hospitals + 1)]
    shares = [[ratio / (1 + n * ratio) for n in n_rows] for ratio in ratios]
    opened = []
    for row in shares:
        total = sum(s * Fraction(x) for s, x in zip(row, own.tolist(), strict=True))
        # As every sum of a study is, once.
        opened.append(Fraction(round(total * 2**100), 2**100))
    found = solved(shares, opened)
    assert [float(one) for one in found] == pytest.approx(own.tolist(), rel=1e-9)


def solved(
    matrix: Sequence[Sequence[Fraction]], right: Sequence[Fraction]
) -> list[Fraction]:
    """By Gauss and Jordan, in fractions."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for place, pivot in enumerate(rows):
        scale = pivot[place]
        pivot[:] = [value / scale for value in pivot]
        for row in rows:
            if row is not pivot:
                factor = row[place]
                row[:] = [a - factor * b for a, b in zip(row, pivot, strict=True)]
    return [row[-1] for row in rows]
