"""Joint standardisation in two passes against the pooled table and scikit-learn."""

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from analytics.training.standardization import (
    deviation,
    local_mean,
    local_variance,
    standardize,
)


def joint(parts):
    """Mean and deviation as a federation forms them: row-weighted means of the
    hospitals' values.
    """
    n_rows = [len(X) for X in parts]
    mean = np.average([local_mean(X) for X in parts], axis=0, weights=n_rows)
    variance = np.average(
        [local_variance(X, mean) for X in parts], axis=0, weights=n_rows
    )
    return mean, deviation(variance, mean=mean)


@pytest.mark.parametrize("cuts", [[], [50], [1, 50], [1, 2, 30, 99]])
def test_joint_standardisation_is_the_pooled_one(cuts):
    X = np.random.default_rng(0).normal(size=(100, 3)) * [1.0, 1e6, 1e-6] + [
        5.0,
        1e6,
        0.0,
    ]
    mean, scale = joint(np.split(X, cuts))
    np.testing.assert_allclose(mean, X.mean(axis=0), rtol=1e-12, atol=1e-20)
    np.testing.assert_allclose(scale, X.std(axis=0), rtol=1e-12)
    np.testing.assert_allclose(
        standardize(X, mean, scale),
        StandardScaler().fit_transform(X),
        rtol=1e-9,
        atol=1e-12,
    )


def test_a_large_offset_costs_no_digits():
    mean, scale = joint([1e9 + np.array([[1.0], [2.0]]), 1e9 + np.array([[3.0]])])
    assert mean == 1e9 + 2
    assert scale == pytest.approx((2 / 3) ** 0.5, rel=1e-15)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e9 / 3, 1e-300])
def test_a_constant_column_stays_at_zero(value):
    parts = [np.full((n, 1), value) for n in (7, 1, 23)]
    mean, scale = joint(parts)
    assert scale == 1.0
    np.testing.assert_allclose(
        standardize(parts[0], mean, scale), 0.0, atol=1e-14 * max(1, abs(value))
    )


def test_a_local_constant_is_exact():
    assert local_mean(np.full((7, 1), 0.1)) == 0.1
    assert local_variance(np.full((7, 1), 0.1), np.array([0.1])) == 0.0


def test_a_small_spread_is_not_taken_for_a_constant():
    X = 1.0 + np.array([[0.0], [1e-12]])
    _, scale = joint([X])
    assert scale == pytest.approx(5e-13, rel=1e-3)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: local_mean(np.zeros((0, 2))), "X"),
        (lambda: local_mean(np.zeros(2)), "X"),
        (lambda: local_mean(np.array([[np.nan]])), "X"),
        (lambda: local_mean(np.array([[1.7e308], [-1.7e308]])), "mean"),
        (lambda: local_variance(np.ones((2, 2)), np.ones(1)), "mean"),
        (lambda: local_variance(np.array([[1e200]]), np.zeros(1)), "variance"),
        (lambda: deviation(np.array([-1.0])), "variance"),
        (lambda: deviation(np.array([np.nan])), "variance"),
        (lambda: standardize(np.ones((2, 1)), np.zeros(1), np.zeros(1)), "deviation"),
    ],
)
def test_standardisation_refuses(call, field):
    with pytest.raises(ValueError, match=field):
        call()
