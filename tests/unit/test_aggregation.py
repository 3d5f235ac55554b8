"""Robust aggregates: their bounds at n - 1, n, n + 1, numpy's and scipy's answers, and
attackers left out.
"""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform
from scipy.stats import trim_mean

from analytics.scores import AGGREGATIONS, most_attackers
from analytics.scores.aggregation import (
    median,
    select_minimum_diameter,
    select_multi_krum,
    trimmed_mean,
)
from analytics.scores.geometry import triangular_factor

SELECTIONS = {
    "multi_krum": select_multi_krum,
    "minimum_diameter": select_minimum_diameter,
}


def gaussian(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


@pytest.mark.parametrize("name", AGGREGATIONS)
@pytest.mark.parametrize("n", range(1, 12))
def test_most_attackers_is_the_largest_that_the_rule_bears(name, n):
    bears = {"mean": lambda f: f == 0, "multi_krum": lambda f: 2 * f + 3 <= n}.get(
        name, lambda f: 2 * f < n
    )
    assert most_attackers(name, n) == max([f for f in range(n) if bears(f)], default=0)


def test_most_attackers_refuses():
    with pytest.raises(
        ValueError, match="aggregation is 'best'; allowed are mean, multi_krum"
    ):
        most_attackers("best", 3)
    with pytest.raises(ValueError, match="n is 0"):
        most_attackers("median", 0)


@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 10])
def test_a_selection_leaves_out_as_many_as_it_bears(name, n):
    points, most = gaussian(n, 3), most_attackers(name, n)
    for f in range(most + 1):
        chosen = SELECTIONS[name](points, n_attackers=f)
        assert chosen == sorted(set(chosen))
        assert len(chosen) == n - f
        assert all(type(i) is int for i in chosen)
    for bad in (most + 1, -1, 0.5):
        with pytest.raises(
            ValueError,
            match=f"n_attackers is {bad}; with {n} clients 0 to {most} is allowed",
        ):
            SELECTIONS[name](points, n_attackers=bad)


@pytest.mark.parametrize("name", SELECTIONS)
def test_far_attackers_are_left_out_whatever_they_agree_on(name):
    points = np.vstack([gaussian(7, 5), 50 + gaussian(3, 5, 1)])
    assert SELECTIONS[name](points, n_attackers=3) == list(range(7))
    assert SELECTIONS[name](triangular_factor([points], 10).T, n_attackers=3) == list(
        range(7)
    )
    points[7:] = 50
    assert SELECTIONS[name](points, n_attackers=3) == list(range(7))


@given(st.integers(2, 9), st.integers(1, 4), st.integers(0, 10**6), st.data())
def test_minimum_diameter_is_the_smallest_of_all_subsets(n, d, seed, data):
    points, f = gaussian(n, d, seed), data.draw(st.integers(0, (n - 1) // 2))
    between = squareform(pdist(points))
    least = min(
        between[np.ix_(c, c)].max() for c in itertools.combinations(range(n), n - f)
    )
    chosen = select_minimum_diameter(points, n_attackers=f)
    assert between[np.ix_(chosen, chosen)].max() == pytest.approx(least, rel=1e-9)


def test_minimum_diameter_keeps_all_that_are_as_near():
    assert select_minimum_diameter(
        np.array([[0.0], [0.0], [0.0], [9.0]]), n_attackers=1
    ) == [0, 1, 2]
    assert select_minimum_diameter(np.ones((5, 2)), n_attackers=2) == [0, 1, 2, 3, 4]


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 10**6), st.data())
def test_median_and_trimmed_mean_are_numpys_and_scipys_in_any_order(n, d, seed, data):
    vectors, f = gaussian(n, d, seed), data.draw(st.integers(0, (n - 1) // 2))
    np.testing.assert_allclose(median(vectors), np.median(vectors, axis=0), rtol=1e-14)
    found = trimmed_mean(vectors, n_attackers=f)
    np.testing.assert_allclose(
        found, trim_mean(vectors, (f + 0.5) / n, axis=0), rtol=1e-12, atol=1e-15
    )
    shuffled = np.random.default_rng(seed).permutation(vectors)
    assert trimmed_mean(shuffled, n_attackers=f).tobytes() == found.tobytes()
    assert found.dtype == np.float64


@given(st.integers(3, 9), st.integers(0, 10**6))
def test_the_trimmed_mean_stays_among_the_honest_values(n, seed):
    f = (n - 1) // 2
    honest = gaussian(n - f, 3, seed)
    vectors = np.vstack([honest, 1e9 * gaussian(f, 3, seed + 1)])
    for found in (trimmed_mean(vectors, n_attackers=f), median(vectors)):
        assert (honest.min(axis=0) <= found).all()
        assert (found <= honest.max(axis=0)).all()


def test_median_and_trimmed_mean_refuse():
    for bad in (np.zeros((0, 3)), np.zeros(3), np.array([[np.nan]])):
        with pytest.raises(ValueError, match="vectors"):
            median(bad)
    with pytest.raises(ValueError, match="n_attackers is 2; with 4 clients 0 to 1"):
        trimmed_mean(np.zeros((4, 1)), n_attackers=2)
    with pytest.raises(ValueError, match="range of numbers"):
        trimmed_mean(np.full((4, 1), 1.7e308), n_attackers=0)
