"""Contribution scores: golden values, zero vectors, every refusal."""

import math

import numpy as np
import pytest

from analytics.scores.contribution import grad_diff, perf_diff
from analytics.scores.geometry import triangular_factor

GOLDEN = np.array(
    [
        [1, 2, 3, 4, 0],
        [1, 2, 3, 5, 0],
        [2, 2, 3, 4, 1],
        [1, 3, 3, 4, 0],
        [0, 2, 2, 4, 1],
        [-9, 8, -7, 6, -5],
    ],
    dtype=float,
)
EXPECTED = {
    "eu": [0.52915, 0.938083, 1.216553, 0.938083, 1.442221, 16.188885],
    "cos": [0.004266, 0.006816, 0.021878, 0.011851, 0.030425, 0.863833],
}


def scalars(gradients, average):
    """What a hospital computes between two rounds: norm, drift, dot, norm_before."""
    norms = np.linalg.norm(gradients, axis=1)
    drift = np.linalg.norm(gradients - average, axis=1)
    return (
        norms,
        drift,
        gradients @ average,
        np.full(len(gradients), np.linalg.norm(average)),
    )


@pytest.mark.parametrize("metric", ["eu", "cos"])
def test_golden_values(metric):
    average = GOLDEN[:5].mean(axis=0)
    np.testing.assert_allclose(
        grad_diff(*scalars(GOLDEN, average), metric=metric), EXPECTED[metric], atol=5e-7
    )
    turned = triangular_factor([np.vstack([GOLDEN, average])], 7).T
    np.testing.assert_allclose(
        grad_diff(*scalars(turned[:6], turned[6]), metric=metric),
        EXPECTED[metric],
        atol=5e-7,
    )


def test_cosine_of_zero_vectors():
    zero, other = np.zeros((1, 3)), np.ones((1, 3))
    for gradient, average, expected in (
        (zero, zero, 0),
        (zero, other, 1),
        (other, zero, 1),
        (other, -other, 2),
    ):
        found = grad_diff(*scalars(gradient, average[0]), metric="cos")
        np.testing.assert_allclose(found, expected, atol=1e-15)
    assert grad_diff(*scalars(3e-9 * other, 1e9 * other[0]), metric="cos")[0] <= 1e-15


def test_cosine_stays_within_its_range_and_float64():
    one = np.ones(1)
    assert grad_diff(one, one, one * (1 + 1e-9), one, metric="cos").tolist() == [0.0]
    assert grad_diff(one, one, -one * (1 + 1e-9), one, metric="cos").tolist() == [2.0]
    assert grad_diff(
        1e200 * one, one, 1e300 * one, 1e200 * one, metric="cos"
    ).tolist() == [1.0]


def test_grad_diff_refuses():
    one = np.ones(1)
    with pytest.raises(ValueError, match="metric is 'l1'; allowed are eu, cos"):
        grad_diff(one, one, one, one, metric="l1")
    for place, field in enumerate(("norm", "drift", "dot", "norm_before")):
        for bad in (np.array([math.nan]), np.array([math.inf]), np.ones((1, 1)), -one):
            arguments = [one] * 4
            arguments[place] = bad
            if not (
                field == "dot"
                and bad is not None
                and bad.shape == (1,)
                and bad[0] == -1
            ):
                with pytest.raises(ValueError, match=field):
                    grad_diff(*arguments, metric="eu")


def test_perf_diff():
    all_, without = np.array([0.9, 0.9]), np.array([0.8, 0.95])
    np.testing.assert_allclose(
        perf_diff(all_, without, metric="accuracy"), [0.1, -0.05]
    )
    np.testing.assert_allclose(perf_diff(all_, without, metric="loss"), [-0.1, 0.05])


def test_perf_diff_refuses():
    one = np.ones(1)
    with pytest.raises(ValueError, match="metric is 'auc'; allowed are accuracy, loss"):
        perf_diff(one, one, metric="auc")
    for arguments in ((one, np.ones(2)), (one * np.nan, one), (one, one * np.inf)):
        with pytest.raises(ValueError, match=r"all|without"):
            perf_diff(*arguments, metric="loss")
    with pytest.raises(ValueError, match="range of numbers"):
        perf_diff(-1.7e308 * one, 1.7e308 * one, metric="loss")
