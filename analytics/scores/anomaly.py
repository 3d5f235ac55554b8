"""Which hospital's vector of a round is unlike the others: one score for each, higher =
more anomalous.

`points` (n, m) float64 holds a row of coordinates for each of n clients: the gradients
themselves or the columns of their triangular factor (`geometry`). The scores depend on
lengths and angles only, so both give the same. Every score is float64 (n,),
deterministic and finite. A ValueError names the argument, its value and what is
allowed. docs/scores.md says which score sees which attack, measured. Scores of several
rounds, and those that need losses or the aggregate, take lengths that hospitals
computed (`zeno` here, `contribution`). `aggregation` selects by scores.

Disclosure: scores say how a hospital's gradient lies among the others. They go to the
order's parties, as policy says.
"""

from __future__ import annotations

import math

import numpy as np

from analytics.arrays import (
    Floats,
    Ints,
    check_at_least,
    check_finite,
    check_result,
    check_same_rows,
)
from analytics.scores.geometric_median import geometric_median as _geometric_median
from analytics.scores.geometry import (
    MARGIN,
    RELATIVE_ZERO,
    check_points,
    cosine_distances,
    distances,
    lengths,
    single_threads,
    to_unit_scale,
    triangular_factor,
)

_KMEANS_SEED = 0
_KMEANS_STARTS = 10
# Some seconds: a hundred clients with p of a half, or thirty with any, take a fiftieth.
_MOST_EFFORT = 2**24


def krum(points: Floats, *, k: int) -> Floats:
    """Mean Euclidean distance to the min(k, n - 1) nearest other clients; 0 for n = 1.

    A variant of the score of Blanchard et al. 2017 (`true_krum`). Raises ValueError
    unless k is whole and at least 1.

    >>> krum(np.array([[0.0], [1.0], [5.0]]), k=1).tolist()
    [1.0, 1.0, 4.0]
    """
    check_points(points)
    n_nearest = _whole("k", k)
    score = _mean_of_nearest(distances(points), n_nearest)
    return _finite(score)


def foolsgold(points: Floats, *, k: int) -> Floats:
    """Mean cosine distance, 1 - cos in [0, 2], to the min(k, n - 1) nearest other
    clients; 0 for n = 1.

    Two zero vectors are at distance 0, a zero and another vector at 1. It flags
    directions unlike the others, while the weight of Fung et al. 2020 flags equal ones
    (`foolsgold_weight`). Raises ValueError unless k is whole and >= 1.

    >>> foolsgold(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]), k=1).round(9).tolist()
    [0.0, 0.0, 1.0]
    """
    check_points(points)
    n_nearest = _whole("k", k)
    between = cosine_distances(points)
    return _mean_of_nearest(between, n_nearest)


def zeno(
    loss_before: Floats,
    loss_now: Floats,
    step: Floats,
    *,
    p: float,
) -> Floats:
    """-((loss_i(t-1) - loss_i(t)) - p |g_i(t) - g_i(t-1)|), from arrays (n,).

    It is high for a loss that fell little and a large step.

    `step` is the norm. NaN, a client without a loss in one of the rounds or missing
    from the round before, gives NaN. After the descent score of Xie et al. 2019,
    definition 2, with the client's own training loss and the change of its gradient in
    the place of the server's loss and the gradient's square. Raises ValueError unless p
    is finite and >= 0.

    >>> zeno(np.array([1.0]), np.array([0.5]), np.array([2.0]), p=0.125).tolist()
    [-0.25]
    """
    check_at_least("p", p, 0)
    n_clients = len(loss_now)
    fields = {
        "loss_before": loss_before,
        "loss_now": loss_now,
        "step": step,
    }
    is_missing = np.zeros(n_clients, dtype=bool)
    for field, client_values in fields.items():
        check_same_rows(field, client_values, n_clients)
        is_nan = np.isnan(client_values)
        check_finite(field, client_values[~is_nan])
        is_missing |= is_nan
    with np.errstate(over="ignore", invalid="ignore"):
        fall = loss_before - loss_now
        score = p * step - fall
    check_result("zeno", score[~is_missing])
    return score


def auror(points: Floats, *, k: int) -> Floats:
    """Euclidean distance of each client to the mean of its own cluster, of k clusters
    by k-means.

    After Shen et al. 2016, who cluster single features. k-means by scikit-learn:
    Lloyd's steps until nothing moves, the best of 10 greedy k-means++ starts with one
    fixed seed, on one thread. With k at or above the number of distinct vectors every
    score is 0. Raises ValueError unless 1 <= k <= n.

    >>> auror(np.array([[0.0], [2.0], [9.0]]), k=2).tolist()
    [1.0, 1.0, 0.0]
    """
    check_points(points)
    n_clusters = _whole("k", k, len(points))
    # A client at the place of an earlier one adds no distinct vector.
    is_same = distances(points) == 0
    is_same_before = np.tril(is_same, -1)
    is_repeat = is_same_before.any(axis=1)
    n_distinct = len(points) - is_repeat.sum()
    if n_clusters >= n_distinct:
        return np.zeros(len(points))
    scaled, scale = to_unit_scale(points)
    labels = _clusters(scaled, n_clusters)
    own_centres = np.empty_like(scaled)
    for label in np.unique(labels):
        members = labels == label
        centre = scaled[members].mean(axis=0)
        own_centres[members] = centre
    return _finite(scale * lengths(scaled - own_centres))


def sniper(points: Floats, *, p: float) -> Floats:
    """0 for the members of the tightest large group, 1 for the others.

    t is the smallest pairwise distance such that {d_ij <= t} has a clique of at least
    ceil(p n) clients; the largest clique at t scores 0 (`cliques`; ties: the smallest
    sum of distances, then the smallest clients). After Cao et al. 2019, section III.
    Raises ValueError unless 0 < p <= 1, and where finding the group would take too
    long: with hundreds of clients and a p far below 1.

    >>> sniper(np.array([[0.0], [1.0], [2.0], [9.0]]), p=0.75).tolist()
    [0.0, 0.0, 0.0, 1.0]
    """
    # networkx takes long to import
    from analytics.scores.cliques import tightest_clique
    from analytics.scores.covers import SearchTooLong

    check_points(points)
    if not 0 < p <= 1:
        raise ValueError(f"p is {p}; a number above 0, at most 1, is allowed.")
    # 0.55 * 100 is 55.00000000000001, and 55 clients are meant.
    least_size = math.ceil(p * len(points) - 1e-9)
    size = max(least_size, 1)
    try:
        clique = tightest_clique(distances(points), size, most_effort=_MOST_EFFORT)
    except SearchTooLong:
        raise ValueError(
            f"p is {p}; with these {len(points)} clients the search for the group takes too long, a p nearer to 1 is "
            "allowed."
        ) from None
    return _all_but(clique, len(points))


def pca(points: Floats, *, k: float) -> Floats:
    """Euclidean distance of each client to its reconstruction from the top principal
    directions.

    The reconstruction is mean + projection of (x_i - mean) on the directions. k whole
    (3 or 3.0): so many directions; 0 < k < 1: the fewest whose explained variance is at
    least k of the whole. k at or above the rank: all 0. After Tolpegin et al. 2020, who
    look at updates in their first two components. Raises ValueError for another k.

    >>> pca(np.array([[0.0, 0.0], [4.0, 0.0], [2.0, 3.0]]), k=1).round(9).tolist()
    [1.0, 1.0, 2.0]
    """
    check_points(points)
    _check_components(k)
    scaled, scale = to_unit_scale(points)
    centred = scaled - scaled.mean(axis=0)
    left_vectors, singular_values, _ = np.linalg.svd(centred, full_matrices=False)
    zero = RELATIVE_ZERO * np.linalg.norm(scaled)
    rank = int((singular_values > zero).sum())
    if k >= 1:
        n_kept = int(min(k, rank))
    else:
        n_kept = _n_explaining(k, singular_values[:rank])
    if n_kept >= rank:
        return np.zeros(len(points))
    # A client's coordinates along the directions left out are what its reconstruction
    # lacks.
    left_out = slice(n_kept, rank)
    lacking = left_vectors[:, left_out] * singular_values[left_out]
    return _finite(scale * lengths(lacking))


def true_krum(points: Floats, *, n_attackers: int) -> Floats:
    """Sum of squared distances to the n - f - 2 nearest other clients, f = n_attackers.

    Blanchard et al. 2017, section 4; the rule Krum takes the vector of the lowest
    score. Raises ValueError unless 2 f + 3 <= n or f = 0.

    >>> true_krum(np.array([[0.0], [1.0], [3.0], [9.0]]), n_attackers=0).tolist()
    [10.0, 5.0, 13.0, 100.0]
    """
    check_points(points)
    n = len(points)
    most_allowed = (n - 3) // 2
    n_far = check_attackers(n_attackers, n, most=most_allowed)
    n_nearest = max(n - n_far - 2, 0)
    with np.errstate(over="ignore"):
        squares = distances(points) ** 2
        nearest = _nearest(squares, n_nearest)
        return _finite(nearest.sum(axis=1))


def multi_krum(
    points: Floats,
    *,
    n_attackers: int,
    n_selected: int | None = None,
) -> Floats:
    """0 for the n_selected clients of the lowest `true_krum` score, 1 for the others.

    By default n - n_attackers are selected. Blanchard et al. 2017, section 4
    (Multi-Krum averages the selected ones). Scores equal within a relative 1e-9 are
    tied; of tied clients the first ones are selected. Raises ValueError as `true_krum`,
    and unless 1 <= n_selected <= n.

    >>> points = np.array([[0.0], [1.0], [3.0], [9.0]])
    >>> multi_krum(points, n_attackers=0, n_selected=3).tolist()
    [0.0, 0.0, 0.0, 1.0]
    """
    check_points(points)
    n = len(points)
    scaled, _ = to_unit_scale(points)
    score = true_krum(scaled, n_attackers=n_attackers)
    n_lowest = n - n_attackers
    if n_selected is not None:
        n_lowest = _whole("n_selected", n_selected, n)
    # Clients below the last selected score are sure; those tied with it fill what is
    # left, the first ones first.
    last_score = np.sort(score)[n_lowest - 1]
    is_sure = score < last_score * (1 - MARGIN)
    is_tied = np.abs(score - last_score) <= last_score * MARGIN
    sure = np.flatnonzero(is_sure)
    tied = np.flatnonzero(is_tied)
    selected = [*sure, *tied][:n_lowest]
    return _all_but(selected, n)


def geometric_median_distance(points: Floats) -> Floats:
    """Distance of each client to the geometric median.

    That is the point with the smallest sum of distances to all. It moves little while
    fewer than half of the clients deviate, however far (Pillutla et al. 2022, RFA).
    Where the point is not unique (clients on one line, an even number), it is the
    middle of the possible ones.

    >>> geometric_median_distance(np.array([[0.0], [1.0], [9.0]])).tolist()
    [1.0, 0.0, 8.0]
    """
    check_points(points)
    scaled, scale = to_unit_scale(points)
    n, n_coordinates = scaled.shape
    if n_coordinates > n:
        # The same distances in n coordinates
        scaled = triangular_factor([scaled], n).T
    away = scaled - _geometric_median(scaled)
    return _finite(scale * lengths(away))


def foolsgold_weight(points: Floats) -> Floats:
    """1 - weight, the weight being FoolsGold's in [0, 1].

    It is near 1 for clients that point the same way as another. Fung et al. 2020,
    algorithm 1, over this round's vectors in the place of their sums over all rounds
    and without its optional choice of features: v_i = max_j cos_ij, cos_ij is
    multiplied by v_i / v_j where v_j > v_i (pardoning), alpha_i = 1 - max_j cos_ij,
    divided by the largest alpha, weight = ln(alpha / (1 - alpha)) + 0.5 within [0, 1].
    If all point the same way every weight is 0; one client alone has the weight 1.

    >>> foolsgold_weight(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])).tolist()
    [1.0, 1.0, 0.0]
    """
    check_points(points)
    # As in the paper's code a client's own entry and the floor of each maximum are 0,
    # that is a distance of 1.
    own_entries = np.eye(len(points))
    similar = 1.0 - cosine_distances(points) - own_entries
    largest_similarity = similar.max(axis=1)  # v_j, along a row
    own = largest_similarity[:, None]  # v_i, down a column
    is_pardoned = largest_similarity > own
    pardon = np.ones_like(similar)
    np.divide(
        own,
        largest_similarity,
        out=pardon,
        where=is_pardoned,
    )
    pardoned = similar * pardon
    unlike = 1.0 - pardoned.max(axis=1)
    alpha = np.clip(unlike, 0.0, 1.0)
    largest = alpha.max() or 1.0  # zero if all point the same way
    alpha = alpha / largest
    with np.errstate(divide="ignore"):
        logit = np.log(alpha) - np.log1p(-alpha)
        moved = logit + 0.5
        weight: Floats = np.clip(moved, 0.0, 1.0)
    return 1.0 - weight


def check_attackers(
    n_attackers: int,
    n: int,
    *,
    most: int,
) -> int:
    """n_attackers as an int.

    Raise ValueError unless it is whole and 0 <= n_attackers <= max(most, 0).
    """
    allowed = max(most, 0)
    if not _is_whole(n_attackers) or not 0 <= n_attackers <= allowed:
        raise ValueError(
            f"n_attackers is {n_attackers}; with {n} clients 0 to {allowed} is allowed."
        )
    return int(n_attackers)


def _is_whole(value: float) -> bool:
    # True is 1 to Python, and no number of clients.
    if isinstance(value, bool) or not math.isfinite(value):
        return False
    return value == int(value)


def _whole(
    field: str,
    value: float,
    most: int | None = None,
) -> int:
    is_beyond = most is not None and value > most
    if not _is_whole(value) or value < 1 or is_beyond:
        allowed = "1 or more" if most is None else f"from 1 to {most}"
        raise ValueError(f"{field} is {value}; a whole number, {allowed}, is allowed.")
    return int(value)


def _finite(score: Floats) -> Floats:
    check_result("A distance", score)
    return score


def _all_but(chosen: list[int], n: int) -> Floats:
    score = np.ones(n)
    score[chosen] = 0.0
    return score


def _nearest(between: Floats, k: int) -> Floats:
    """The k smallest distances to others in each row, ascending, (n, min(k, n - 1))."""
    to_others = between.copy()
    np.fill_diagonal(to_others, np.inf)
    n_nearest = min(k, len(between) - 1)
    ascending = np.sort(to_others, axis=1)
    return ascending[:, :n_nearest]


def _mean_of_nearest(between: Floats, k: int) -> Floats:
    nearest = _nearest(between, k)
    is_alone = nearest.shape[1] == 0
    if is_alone:
        return np.zeros(len(between))
    return np.asarray(nearest.mean(axis=1))


def _clusters(points: Floats, k: int) -> Ints:
    """The cluster of each row.

    tol=0: the default stops earlier, by a variance that depends on unused coordinates.
    """
    # It takes a second, in every process of a federation, and only auror needs it.
    from sklearn.cluster import KMeans

    model = KMeans(
        k,
        n_init=_KMEANS_STARTS,
        tol=0.0,
        random_state=_KMEANS_SEED,
    )
    with single_threads():
        fitted = model.fit(points)
    return np.asarray(fitted.labels_, dtype=np.int64)


def _check_components(k: float) -> None:
    is_share = 0 < k < 1
    is_count = _is_whole(k) and k >= 1
    if not is_share and not is_count:
        raise ValueError(
            f"k is {k}; a whole number of components, or a share of the variance above 0, is allowed."
        )


def _n_explaining(share: float, sizes: Floats) -> int:
    """The fewest directions whose variance is at least that share.

    `sizes` are the singular values, falling.
    """
    variances = sizes**2
    smallest_double = 5e-324
    total_variance = float(variances.sum())
    divisor = max(total_variance, smallest_double)
    explained = np.cumsum(variances) / divisor
    least_share = share * (1 - RELATIVE_ZERO)
    last_direction = int(np.searchsorted(explained, least_share))
    return last_direction + 1
