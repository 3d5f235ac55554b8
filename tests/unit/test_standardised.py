"""Standardised mean differences against other ways to compute them."""

from __future__ import annotations

import itertools
from math import sqrt

import numpy as np
import pytest

from analytics.statistics.standardised import of_means, of_shares


def test_a_difference_of_means_is_in_standard_deviations() -> None:
    assert of_means((63.0, 60.0), (36.0, 36.0)) == pytest.approx(0.5)
    assert of_means((60.0, 63.0), (36.0, 36.0)) == pytest.approx(0.5)
    assert of_means((1.0, 1.0), (4.0, 9.0)) == 0
    assert of_means((1.0, 2.0), (0.0, 0.0)) is None


def test_two_levels_are_a_mean_of_zeros_and_ones() -> None:
    for p, q in [(0.3, 0.5), (0.9, 0.2), (0.0, 0.4)]:
        spread = sqrt((p * (1 - p) + q * (1 - q)) / 2)
        found = of_shares([p, 1 - p], [q, 1 - q])
        assert found == pytest.approx(abs(p - q) / spread, rel=1e-12)


def test_no_order_of_levels_matters() -> None:
    p, q = [0.2, 0.5, 0.1, 0.2], [0.4, 0.3, 0.25, 0.05]
    found = set()
    for order in itertools.permutations(range(4)):
        one = of_shares([p[place] for place in order], [q[place] for place in order])
        assert one is not None
        found.add(round(one, 12))
    assert len(found) == 1


@pytest.mark.parametrize("seed", range(5))
def test_it_is_that_of_dummies_without_a_reference(seed: int) -> None:
    """With the pseudo-inverse of the covariances of all levels."""
    rng = np.random.default_rng(seed)
    p, q = rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(5))
    covariance = (np.diag(p) - np.outer(p, p) + np.diag(q) - np.outer(q, q)) / 2
    expected = sqrt((p - q) @ np.linalg.pinv(covariance) @ (p - q))
    assert of_shares(p.tolist(), q.tolist()) == pytest.approx(expected, rel=1e-9)


def test_what_has_no_bound_has_no_value() -> None:
    assert of_shares([1.0, 0.0], [0.0, 1.0]) is None
    assert of_shares([1.0, 0.0], [1.0, 0.0]) == 0
    # A level that neither group has says nothing.
    with_empty = of_shares([0.5, 0.0, 0.5], [0.25, 0.0, 0.75])
    assert with_empty == of_shares([0.5, 0.5], [0.25, 0.75])
