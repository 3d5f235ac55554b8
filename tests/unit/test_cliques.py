"""The tightest clique against listing all sets, on distances with and without ties; and
its time for 100 clients.
"""

import itertools
import math
import time

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.spatial.distance import pdist, squareform

from analytics.scores.cliques import conflict_graph, tightest_clique


def listed(between, size):
    """The definition: ascending t, largest cliques first, all of them compared."""
    n = len(between)
    for t in np.unique(between[np.triu_indices(n, 1)]):
        near = between <= t * (1 + 1e-9)
        for count in range(n, size - 1, -1):
            cliques = [
                c
                for c in itertools.combinations(range(n), count)
                if near[np.ix_(c, c)].all()
            ]
            if cliques:
                return list(
                    min(
                        (round(between[np.ix_(c, c)].sum() / 2, 7), c) for c in cliques
                    )[1]
                )
    return list(range(n))


def of_integers(n, seed, most):
    return squareform(
        np.random.default_rng(seed)
        .integers(1, most + 1, n * (n - 1) // 2)
        .astype(float)
    )


def of_points(points):
    return squareform(pdist(points))


@given(st.integers(2, 9), st.integers(0, 10**6), st.integers(1, 9), st.data())
def test_the_clique_is_the_one_that_listing_finds_with_many_ties(n, seed, most, data):
    between, size = of_integers(n, seed, most), data.draw(st.integers(1, n))
    assert tightest_clique(between, size) == listed(between, size)


@given(
    st.integers(2, 9),
    st.integers(1, 5),
    st.integers(0, 10**6),
    st.booleans(),
    st.data(),
)
def test_and_on_points_some_of_them_equal(n, d, seed, lattice, data):
    points = np.random.default_rng(seed).normal(size=(n, d))
    between = of_points(points.round() if lattice else points)
    size = data.draw(st.integers(1, n))
    assert tightest_clique(between, size) == listed(between, size)


def test_one_client_and_all_equal_distances():
    assert tightest_clique(np.zeros((1, 1)), 1) == [0]
    assert tightest_clique(1 - np.eye(4), 2) == [0, 1, 2, 3]
    assert tightest_clique(np.zeros((4, 4)), 1) == [0, 1, 2, 3]


@pytest.mark.parametrize(("beyond", "expected"), [(1e-10, [0, 1, 2]), (1e-8, [0, 2])])
def test_distances_compare_with_a_margin(beyond, expected):
    """Clients 0 and 2 are nearest; the two other distances are the same only within the
    margin.
    """
    between = squareform([1 + beyond, 1.0, 1 + beyond])
    assert tightest_clique(between, 2) == expected


def test_a_million_equally_good_cliques_are_not_listed():
    """20 pairs of opposite points: each of 2^20 choices has 80 of 100 clients and the
    same sum.
    """
    axes = np.eye(20)
    points = np.vstack([axes, -axes, np.zeros((60, 20))])
    assert tightest_clique(of_points(points), 80) == [*range(20), *range(40, 100)]


def test_conflicts_without_a_common_client_are_solved_one_by_one():
    """Twenty cycles of five clients: networkx alone does not end; of each cycle two
    clients fit together.
    """
    conflicts = nx.disjoint_union_all([nx.cycle_graph(5) for _ in range(20)])
    between = 1 - np.eye(100) + nx.to_numpy_array(conflicts)
    assert tightest_clique(between, 40) == [v for v in range(100) if v % 5 in (0, 2)]


@pytest.mark.parametrize(
    "kind", ["gaussian", "flat", "clustered", "two clusters", "signs"]
)
def test_networkx_finds_no_larger_clique(kind):
    between = of_points(round_of(kind, 60, 2))
    clique = tightest_clique(between, 30)
    conflicts = conflict_graph(between, between[np.ix_(clique, clique)].max())
    _, largest = nx.max_weight_clique(nx.complement(conflicts), weight=None)
    assert len(clique) == largest


def round_of(kind, n, seed):
    rng = np.random.default_rng(seed)
    if kind == "gaussian":
        return rng.normal(size=(n, 3000))
    if kind == "flat":
        return rng.normal(size=(n, 2))
    if kind == "clustered":
        return rng.normal(size=(5, 100))[np.arange(n) % 5] + 0.5 * rng.normal(
            size=(n, 100)
        )
    if kind == "two clusters":
        return 9 * (rng.random((n, 1)) < 0.4) + rng.normal(size=(n, 50))
    return rng.choice([-1.0, 1.0], size=(n, 50))


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
@pytest.mark.parametrize(
    "kind", ["gaussian", "flat", "clustered", "two clusters", "signs"]
)
def test_a_hundred_clients_take_seconds_at_most(kind, share):
    between = of_points(round_of(kind, 100, 1))
    size = math.ceil(share * 100 - 1e-9)
    start = time.perf_counter()
    clique = tightest_clique(between, size)
    assert time.perf_counter() - start < 5
    assert len(clique) >= size
    if share >= 0.8:
        at_it, below = largest_by_milp(between, clique)
        assert below < size <= at_it == len(clique)


def largest_by_milp(between, clique):
    """By HiGHS: how many clients the largest clique has at the given clique's diameter,
    and at the distance below.
    """
    diameter = between[np.ix_(clique, clique)].max()
    below = between[between < diameter * (1 - 1e-8)].max()
    return [
        largest_clique_by_milp(between <= t * (1 + 1e-9)) for t in (diameter, below)
    ]


def largest_clique_by_milp(near):
    n, pairs = len(near), np.argwhere(np.triu(~near, 1))
    rows = np.zeros((len(pairs), n))
    rows[np.arange(len(pairs))[:, None], pairs] = 1
    found = milp(
        -np.ones(n),
        constraints=LinearConstraint(rows, ub=1),
        bounds=Bounds(0, 1),
        integrality=np.ones(n),
    )
    return round(-found.fun)
