"""Each score against its golden values, scikit-learn, the papers' formulas and rotated
vectors; every edge.
"""

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import ortho_group
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity

from analytics.scores import anomaly
from analytics.scores.anomaly import (
    auror,
    foolsgold,
    foolsgold_weight,
    geometric_median_distance,
    krum,
    multi_krum,
    pca,
    sniper,
    true_krum,
    zeno,
)
from analytics.scores.geometry import triangular_factor
from tests.examples import few

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
GOLDEN_SCORES = [
    (krum, {"k": 2}, [1, 1.207107, 1.573132, 1.207107, 1.866025, 15.682313]),
    (foolsgold, {"k": 2}, [0.00923, 0.015802, 0.034096, 0.019031, 0.044923, 0.773227]),
    (auror, {"k": 1}, [2.828427, 2.828427, 3.785939, 2.581989, 2.236068, 13.490738]),
    (pca, {"k": 1}, [0.523291, 0.935632, 0.63419, 0.891979, 1.2007, 0.058923]),
    (sniper, {"p": 0.8}, [0, 0, 0, 0, 0, 1]),
]
SCORES = [
    (krum, {"k": 3}),
    (foolsgold, {"k": 3}),
    (auror, {"k": 2}),
    (sniper, {"p": 0.6}),
    (pca, {"k": 2}),
    (pca, {"k": 0.6}),
    (true_krum, {"n_attackers": 1}),
    (multi_krum, {"n_attackers": 2}),
    (geometric_median_distance, {}),
    (foolsgold_weight, {}),
]
every_score = pytest.mark.parametrize(
    ("score", "options"), SCORES, ids=lambda value: getattr(value, "__name__", "")
)


def gaussian(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def factor(points):
    return triangular_factor([points], len(points)).T


@pytest.mark.parametrize(("score", "options", "expected"), GOLDEN_SCORES)
def test_golden_values(score, options, expected):
    np.testing.assert_allclose(score(GOLDEN, **options), expected, atol=5e-7)
    np.testing.assert_allclose(score(factor(GOLDEN), **options), expected, atol=5e-7)


# A rotation changes nothing


@every_score
@few
@given(st.integers(7, 12), st.integers(4, 40), st.integers(0, 10**6), st.booleans())
def test_the_factor_gives_the_scores_of_the_vectors(score, options, n, d, seed, twins):
    points = gaussian(n, d, seed)
    if twins:
        points[n - 2] = points[1]
    expected = score(points, **options)
    np.testing.assert_allclose(score(factor(points), **options), expected, atol=1e-9)
    rotated = points @ ortho_group.rvs(d, random_state=seed)
    rotated[n - 2] = rotated[1] if twins else rotated[n - 2]
    np.testing.assert_allclose(score(factor(rotated), **options), expected, atol=1e-9)


@every_score
def test_and_for_many_long_vectors_of_which_two_are_equal(score, options):
    points = gaussian(60, 5_000) + 3 * gaussian(1, 5_000, 1)
    for _ in range(2):
        np.testing.assert_allclose(
            score(factor(points), **options), score(points, **options), atol=1e-9
        )
        points[40] = points[5]


@every_score
def test_scores_are_finite_repeatable_and_leave_their_argument(score, options):
    for points in (
        gaussian(9, 5),
        np.zeros((9, 5)),
        np.ones((9, 1)),
        np.eye(9),
        np.vstack([np.ones((8, 3)), [[0] * 3]]),
    ):
        before = points.copy()
        found = score(points, **options)
        assert found.shape == (9,)
        assert found.dtype == np.float64
        assert np.isfinite(found).all()
        assert (found >= -1e-15).all()
        assert found.tobytes() == score(points, **options).tobytes()
        assert (points == before).all()


@every_score
@pytest.mark.parametrize("scale", [1e-170, 1e100])
def test_scores_of_vectors_far_from_one(score, options, scale):
    points = gaussian(9, 5)
    scales = {
        foolsgold: 1,
        foolsgold_weight: 1,
        sniper: 1,
        multi_krum: 1,
        true_krum: scale * scale,
    }
    expected = score(points, **options) * scales.get(score, scale)
    np.testing.assert_allclose(score(scale * points, **options), expected, rtol=1e-9)


@every_score
def test_one_client_alone_is_not_anomalous(score, options):
    alone = {"k": 1, "p": 1.0, "n_attackers": 0}
    for vector in ([[3.0, 4.0]], [[0.0]]):
        assert score(
            np.array(vector), **{name: alone[name] for name in options}
        ).tolist() == [0.0]


@every_score
@pytest.mark.parametrize(
    "points",
    [np.zeros((0, 3)), np.zeros((3, 0)), np.zeros(3), np.array([[np.nan], [1.0]])],
)
def test_points_that_are_none_are_refused(score, options, points):
    with pytest.raises(ValueError, match="points"):
        score(points, **options)


@every_score
def test_the_order_of_clients_does_not_matter(score, options):
    points, order = gaussian(9, 5, 3), np.random.default_rng(1).permutation(9)
    np.testing.assert_allclose(
        score(points[order], **options), score(points, **options)[order], atol=1e-12
    )


# krum and foolsgold


@pytest.mark.parametrize("k", [5, 6, 7, 1000])
def test_k_beyond_the_others_is_all_others(k):
    assert krum(GOLDEN, k=k).tobytes() == krum(GOLDEN, k=5).tobytes()
    assert foolsgold(GOLDEN, k=k).tobytes() == foolsgold(GOLDEN, k=5).tobytes()


@pytest.mark.parametrize("score", [krum, foolsgold, auror])
@pytest.mark.parametrize("k", [0, -1, 1.5, math.nan, math.inf, True])
def test_k_is_a_whole_number_above_0(score, k):
    with pytest.raises(ValueError, match=rf"^k is {k}; a whole number"):
        score(GOLDEN, k=k)


def test_cosine_distances_of_zero_vectors():
    points = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [-2.0, 0.0]])
    np.testing.assert_allclose(foolsgold(points, k=1), [0, 0, 1, 1])
    np.testing.assert_allclose(foolsgold(points, k=3), [2 / 3, 2 / 3, 4 / 3, 4 / 3])


def test_foolsgold_is_scikit_learns_cosine_distance():
    points = gaussian(8, 6)
    apart = np.sort(1 - cosine_similarity(points), axis=1)[:, 1:4]
    np.testing.assert_allclose(foolsgold(points, k=3), apart.mean(axis=1), atol=1e-14)


# zeno


def test_zeno():
    before, now, step = (
        np.array([1.0, 2.0, np.nan, 1.0]),
        np.array([0.5, 3.0, 1.0, 1.0]),
        np.array([1, 2, 3, np.nan]),
    )
    np.testing.assert_array_equal(
        zeno(before, now, step, p=0.5), [0.0, 2.0, np.nan, np.nan]
    )
    np.testing.assert_array_equal(
        zeno(before, now, step, p=0), [-0.5, 1.0, np.nan, np.nan]
    )
    now[1] = np.nan
    np.testing.assert_array_equal(
        zeno(before, now, step, p=0.5), [0.0, np.nan, np.nan, np.nan]
    )


@pytest.mark.parametrize("p", [-1e-9, math.nan, math.inf])
def test_zeno_refuses_p(p):
    with pytest.raises(ValueError, match=r"^p is"):
        zeno(np.ones(1), np.ones(1), np.ones(1), p=p)


def test_zeno_refuses_other_numbers():
    one = np.ones(1)
    for field, arguments in {
        "loss_before": (np.ones(2), one, one),
        "step": (one, one, one * np.inf),
    }.items():
        with pytest.raises(ValueError, match=field):
            zeno(*arguments, p=1)
    with pytest.raises(ValueError, match="loss_now"):
        zeno(one, one * np.inf, one, p=1)
    with pytest.raises(ValueError, match="range of numbers"):
        zeno(one, one, one * 1e300, p=1e300)


# auror


@few
@given(st.integers(2, 30), st.integers(1, 5), st.integers(0, 999), st.data())
def test_auror_is_scikit_learns_k_means(n, d, seed, data):
    points, k = gaussian(n, d, seed), data.draw(st.integers(1, min(n, 5)))
    model = KMeans(k, n_init=10, random_state=0, tol=0).fit(points)
    expected = np.linalg.norm(points - model.cluster_centers_[model.labels_], axis=1)
    np.testing.assert_allclose(auror(points, k=k), expected, atol=1e-9)
    assert (auror(points, k=k) ** 2).sum() == pytest.approx(model.inertia_, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_auror_finds_what_another_seed_finds_in_clear_clusters(seed):
    points = 20 * gaussian(4, 6, 9)[np.arange(40) % 4] + gaussian(40, 6)
    inertia = KMeans(4, n_init=10, random_state=seed + 1).fit(points).inertia_
    assert (auror(points, k=4) ** 2).sum() == pytest.approx(inertia, rel=1e-9)


@pytest.mark.parametrize(("k", "allowed"), [(5, True), (6, True), (7, False)])
def test_auror_bears_as_many_clusters_as_clients(k, allowed):
    if allowed:
        assert (auror(GOLDEN, k=k) == 0).all() == (k == 6)
    else:
        with pytest.raises(
            ValueError, match="k is 7; a whole number, from 1 to 6, is allowed"
        ):
            auror(GOLDEN, k=k)


def test_auror_with_fewer_distinct_clients_than_clusters():
    points = gaussian(3, 4)[[0, 1, 2, 1, 0, 0]]
    assert auror(points, k=3).tolist() == [0.0] * 6
    assert auror(points, k=5).tolist() == [0.0] * 6
    assert auror(points, k=2).max() > 0


# sniper


@pytest.mark.parametrize(
    ("n", "p", "size"),
    [(5, 0.8, 4), (100, 0.55, 55), (10, 0.7, 7), (3, 1 / 3, 1), (6, 0.81, 5)],
)
def test_sniper_rounds_the_share_up_but_not_its_rounding(n, p, size):
    """Clients on a line, ever farther apart: the tightest group of s is the first s."""
    points = np.cumsum(np.arange(n, dtype=float))[:, None]
    assert (sniper(points, p=p) == 0).sum() == max(size, 2)


@pytest.mark.parametrize("p", [0, -0.1, 1.0000001, math.nan, math.inf])
def test_sniper_refuses_p(p):
    with pytest.raises(ValueError, match=r"^p is"):
        sniper(GOLDEN, p=p)


@pytest.mark.parametrize(
    "part", [100, pytest.param(1, marks=pytest.mark.thorough)], ids=["soon", "in time"]
)
def test_sniper_gives_up_a_search_without_end_and_says_what_is_allowed(
    part, monkeypatch
):
    """After a hundredth of the effort, and after all of it within a minute."""
    monkeypatch.setattr(anomaly, "_MOST_EFFORT", anomaly._MOST_EFFORT // part)
    points = gaussian(300, 10)
    start = time.perf_counter()
    with pytest.raises(
        ValueError,
        match=r"^p is 0\.3; with these 300 clients .* a p nearer to 1 is allowed",
    ):
        sniper(points, p=0.3)
    assert time.perf_counter() - start < 60
    assert (sniper(points, p=0.99) == 0).sum() >= 297


@pytest.mark.parametrize("d", [2, 30])
@pytest.mark.parametrize("p", np.arange(1, 20) / 20)
def test_sniper_takes_any_share_of_thirty_clients_far_below_its_limit(
    p, d, monkeypatch
):
    monkeypatch.setattr(anomaly, "_MOST_EFFORT", anomaly._MOST_EFFORT // 100)
    assert (sniper(gaussian(30, d), p=p) == 0).sum() >= 30 * p - 1e-9


@pytest.mark.parametrize("p", [1e-300, 1.0])
def test_sniper_at_both_ends(p):
    assert (sniper(GOLDEN, p=p) == 0).sum() == (6 if p == 1 else 2)


def test_sniper_takes_all_equal_clients_and_the_first_of_equal_groups():
    assert sniper(np.ones((5, 3)), p=0.5).tolist() == [0.0] * 5
    assert sniper(factor(np.ones((5, 3)) / 3), p=0.5).tolist() == [0.0] * 5
    assert sniper(np.array([[0.0], [9.0], [1.0], [10.0]]), p=0.5).tolist() == [
        0,
        1,
        0,
        1,
    ]


# pca


@pytest.mark.parametrize("k", [1, 2.0, 4, 0.3, 0.9])
def test_pca_is_scikit_learns_reconstruction(k):
    points = gaussian(12, 7) * np.arange(1, 8)
    model = PCA(int(k) if k >= 1 else k, svd_solver="full").fit(points)
    expected = np.linalg.norm(
        points - model.inverse_transform(model.transform(points)), axis=1
    )
    np.testing.assert_allclose(pca(points, k=k), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("k", "zero"), [(2, False), (3, True), (4, True), (1e300, True), (1 - 1e-16, True)]
)
def test_pca_at_the_rank_is_exactly_zero(k, zero):
    points = gaussian(9, 3) @ gaussian(3, 50, 1) + 7
    assert (pca(points, k=k) == 0).all() == zero
    assert (pca(factor(points), k=k) == 0).all() == zero


def test_pca_takes_the_fewest_components_that_explain_enough():
    points = np.array([[3.0, 0], [-3.0, 0], [0, 1.0], [0, -1.0]])
    for k, kept in ((0.9, 1), (0.9 + 1e-9, 2), (0.5, 1)):
        np.testing.assert_allclose(pca(points, k=k), pca(points, k=kept), atol=1e-12)


@pytest.mark.parametrize("k", [0, -1, 1.5, math.nan, math.inf, -math.inf, True])
def test_pca_refuses_k(k):
    with pytest.raises(ValueError, match=r"^k is"):
        pca(GOLDEN, k=k)


# The papers' own


def test_true_krum_is_the_formula_of_the_paper():
    points, n, f = gaussian(9, 4), 9, 3
    squares = [
        sorted(float(((x - y) ** 2).sum()) for j, y in enumerate(points) if j != i)
        for i, x in enumerate(points)
    ]
    np.testing.assert_allclose(
        true_krum(points, n_attackers=f),
        [sum(s[: n - f - 2]) for s in squares],
        rtol=1e-12,
    )


@pytest.mark.parametrize(
    ("n", "most"), [(1, 0), (2, 0), (3, 0), (4, 0), (5, 1), (8, 2), (9, 3)]
)
def test_krum_bears_so_many_attackers(n, most):
    points = gaussian(n, 3)
    assert true_krum(points, n_attackers=most).shape == (n,)
    assert (multi_krum(points, n_attackers=most) == 1).sum() == most
    for bad in (most + 1, -1, 0.5):
        with pytest.raises(
            ValueError,
            match=rf"n_attackers is {bad}; with {n} clients 0 to {most} is allowed",
        ):
            true_krum(points, n_attackers=bad)


@pytest.mark.parametrize("n_selected", [1, 2, 9])
def test_multi_krum_selects_the_lowest_scores(n_selected):
    points = gaussian(9, 4)
    chosen = np.flatnonzero(
        multi_krum(points, n_attackers=2, n_selected=n_selected) == 0
    )
    assert set(chosen) == set(np.argsort(true_krum(points, n_attackers=2))[:n_selected])
    for bad in (0, 10):
        with pytest.raises(ValueError, match=f"n_selected is {bad}"):
            multi_krum(points, n_attackers=2, n_selected=bad)


def test_multi_krum_takes_the_first_of_equal_clients():
    points = gaussian(7, 4)
    points[5:] = points[:5].mean(axis=0)
    expected = multi_krum(points, n_attackers=0, n_selected=1)
    assert expected.argmin() == 5
    assert (
        multi_krum(factor(points), n_attackers=0, n_selected=1).tolist()
        == expected.tolist()
    )
    assert multi_krum(np.zeros((7, 2)), n_attackers=2).tolist() == [0, 0, 0, 0, 0, 1, 1]


@few
@given(
    st.integers(2, 12),
    st.integers(1, 6),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 1.0, 3.0]),
)
def test_the_geometric_median_is_where_the_sum_of_distances_is_least(n, d, seed, skew):
    points = gaussian(n, d, seed) * np.exp(skew * gaussian(n, 1, seed + 1))
    found = geometric_median_distance(points)
    start = points[np.argmin(found)]
    other = minimize(
        lambda z: np.linalg.norm(points - z, axis=1).sum(),
        start,
        method="Nelder-Mead",
        tol=1e-10,
    )
    assert found.sum() <= other.fun * (1 + 1e-12)


@given(st.integers(3, 12), st.integers(2, 6), st.integers(0, 10**6))
def test_at_the_geometric_median_the_unit_vectors_cancel(n, d, seed):
    """Unless it is one of the points: then the others' pull is at most 1."""
    points = gaussian(n, d, seed)
    away = points - anomaly._geometric_median(points)
    reach = np.linalg.norm(away, axis=1)
    pull = (away[reach > 0] / reach[reach > 0, None]).sum(axis=0)
    assert np.linalg.norm(pull) <= (reach == 0).sum() + 1e-9


@pytest.mark.parametrize(
    ("line", "median"),
    [
        ([0, 4], 2),
        ([0, 1, 9], 1),
        ([0, 1, 3, 9], 2),
        ([0, 0, 0, 7, 9], 0),
        ([0, 0, 1, 1], 0.5),
        ([-5, 0, 1, 1], 0.5),
    ],
)
def test_geometric_medians_of_clients_on_a_line(line, median):
    points = np.outer(line, [3.0, 4.0, 0.0]) / 5 + [7, 0, 1]
    np.testing.assert_allclose(
        geometric_median_distance(points), np.abs(np.array(line) - median), atol=1e-9
    )
    np.testing.assert_allclose(
        geometric_median_distance(factor(points)),
        np.abs(np.array(line) - median),
        atol=1e-9,
    )


def test_the_geometric_median_bears_almost_half_of_far_attackers():
    points = np.vstack([gaussian(11, 5), np.full((9, 5), 1e9)])
    found = geometric_median_distance(points)
    assert found[:11].max() < 20 < found[11:].min()


def papers_foolsgold(points):
    """The authors' published code, with its history of one round."""
    n = len(points)
    cs = cosine_similarity(points)
    np.fill_diagonal(cs, 0)  # theirs subtracts the identity, which leaves rounding
    maxcs = np.max(cs, axis=1)
    for i in range(n):
        for j in range(n):
            if i != j and maxcs[i] < maxcs[j]:
                cs[i][j] = cs[i][j] * maxcs[i] / maxcs[j]
    wv = np.clip(1 - np.max(cs, axis=1), 0, 1)
    wv = wv / np.max(wv)
    wv[wv == 1] = 0.99
    wv = np.log(wv / (1 - wv)) + 0.5
    wv[np.isinf(wv) + wv > 1] = 1
    wv[wv < 0] = 0
    return wv


@given(st.integers(2, 12), st.integers(2, 9), st.integers(0, 10**6))
def test_foolsgold_weights_are_those_of_the_papers_code(n, d, seed):
    points = gaussian(n, d, seed)
    np.testing.assert_allclose(
        1 - foolsgold_weight(points), papers_foolsgold(points), atol=1e-9
    )


def test_foolsgold_weights_at_the_edges():
    twins = np.vstack([gaussian(4, 30), np.ones((2, 30)) * [[1.0], [3.0]]])
    assert foolsgold_weight(twins).round(6).tolist() == [0, 0, 0, 0, 1, 1]
    assert foolsgold_weight(np.ones((3, 2))).tolist() == [1, 1, 1]
    assert foolsgold_weight(np.eye(3)).tolist() == [0, 0, 0]
    assert foolsgold_weight(np.zeros((2, 2))).tolist() == [1, 1]
