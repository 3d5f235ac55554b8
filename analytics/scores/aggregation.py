"""Aggregates that bear some attackers: which vectors a round averages, or medians in
the place of the average.

A round averages with one of AGGREGATIONS. The coordinator chooses members before
anything is sealed (decision 30), so rules that select see rotated vectors; medians need
the vectors themselves, which method None shows.
"""

from __future__ import annotations

import numpy as np

from analytics.arrays import Floats, check_result
from analytics.scores import most_attackers
from analytics.scores.anomaly import check_attackers, multi_krum
from analytics.scores.geometry import check_points, distances


def select_multi_krum(
    points: Floats,
    *,
    n_attackers: int,
) -> list[int]:
    """The n - n_attackers clients with the lowest Krum score, ascending.

    Blanchard et al. 2017, section 4; points (n, m) and ties as in `anomaly.multi_krum`.
    Raises ValueError unless n_attackers <= most_attackers("multi_krum", n).

    >>> select_multi_krum(np.array([[0.0], [1.0], [9.0], [2.0], [1.5]]), n_attackers=1)
    [0, 1, 3, 4]
    """
    score = multi_krum(points, n_attackers=n_attackers)
    selected = np.flatnonzero(score == 0)
    return [int(client) for client in selected]


def select_minimum_diameter(
    points: Floats,
    *,
    n_attackers: int,
) -> list[int]:
    """n - n_attackers clients or more whose largest distance is smallest, ascending.

    El Mhamdi et al. 2018, section 2 (Brute). Where several sets have that diameter: the
    largest set, of these the one of the smallest sum of distances, then the smallest
    clients, as in `anomaly.sniper`. Raises ValueError unless n_attackers <=
    most_attackers("minimum_diameter", n).

    >>> select_minimum_diameter(np.array([[0.0], [1.0], [9.0]]), n_attackers=1)
    [0, 1]
    """
    # networkx takes long to import
    from analytics.scores.cliques import tightest_clique

    check_points(points)
    n = len(points)
    most_allowed = most_attackers("minimum_diameter", n)
    n_left_out = check_attackers(n_attackers, n, most=most_allowed)
    n_kept = n - n_left_out
    between = distances(points)
    return tightest_clique(between, n_kept)


def median(vectors: Floats) -> Floats:
    """The median of every coordinate of vectors (n, d): float64 (d,).

    For even n it is the mean of the middle two. Yin et al. 2018, definition 1. Raises
    ValueError for no vectors or a number that is not finite.

    >>> median(np.array([[1.0, 0.0], [2.0, 5.0], [90.0, 1.0]])).tolist()
    [2.0, 1.0]
    """
    n = len(vectors)
    # Without vectors `trimmed_mean` says what is wrong. Else one or two values of each
    # coordinate are left.
    n_trimmed = 0
    if n:
        n_trimmed = most_attackers("median", n)
    return trimmed_mean(vectors, n_attackers=n_trimmed)


def trimmed_mean(vectors: Floats, *, n_attackers: int) -> Floats:
    """The mean of every coordinate without its n_attackers largest and smallest.

    Vectors (n, d) give float64 (d,). Yin et al. 2018, definition 2. Independent of the
    vectors' order, to the last bit. Raises ValueError unless 2 n_attackers < n.

    >>> trimmed_mean(np.array([[1.0], [2.0], [3.0], [90.0]]), n_attackers=1).tolist()
    [2.5]
    """
    check_points(vectors, field="vectors")
    n = len(vectors)
    most_allowed = most_attackers("trimmed_mean", n)
    n_trimmed = check_attackers(n_attackers, n, most=most_allowed)
    with np.errstate(over="ignore"):
        # Sorted, so that the sum is formed in an order that does not depend on the
        # hospitals'.
        ascending = np.sort(vectors, axis=0)
        kept_values = ascending[n_trimmed : n - n_trimmed]
        mean: Floats = kept_values.mean(axis=0)
    check_result("The mean", mean)
    return mean
