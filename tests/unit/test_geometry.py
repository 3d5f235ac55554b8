"""The triangular factor: the same inner products, and distances that keep their digits
where squares lose them.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform

from analytics.scores.geometry import (
    RELATIVE_ZERO,
    combine_factors,
    cosine_distances,
    distances,
    lengths,
    triangular_factor,
)

WIDE = 5_000  # 60 vectors of it take the way over the Gram matrix


def gaussian(n, d, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(dtype)


def factor_of(vectors, n_blocks=3):
    return triangular_factor(np.array_split(vectors, n_blocks, axis=1), len(vectors))


def exact(vectors):
    return squareform(pdist(vectors.astype(np.float64)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("n", "d"), [(1, 1), (1, 7), (5, 1), (5, 3), (5, 5), (5, 40), (60, WIDE)]
)
def test_the_factor_has_the_inner_products_and_is_triangular(n, d, dtype):
    vectors = gaussian(n, d, dtype=dtype)
    factor, gram = (
        factor_of(vectors, min(d, 3)),
        vectors.astype(float) @ vectors.astype(float).T,
    )
    assert factor.shape == (n, n)
    assert (np.tril(factor, -1) == 0).all()
    assert (factor.diagonal() >= 0).all()
    np.testing.assert_allclose(factor.T @ factor, gram, rtol=0, atol=1e-13 * gram.max())


@given(st.integers(2, 6), st.integers(1, 12), st.integers(0, 99))
def test_where_the_columns_are_cut_does_not_matter(n, d, seed):
    vectors = gaussian(n, d, seed)
    cut = int(np.random.default_rng(seed).integers(0, d + 1))
    parts = [block for block in (vectors[:, :cut], vectors[:, cut:]) if block.size]
    one, two = triangular_factor([vectors], n), triangular_factor(parts, n)
    np.testing.assert_allclose(distances(one.T), distances(two.T), atol=1e-13)
    if n <= d:
        np.testing.assert_allclose(one, two, atol=1e-9)


@pytest.mark.parametrize("n_columns", [30, WIDE])
def test_lists_of_rows_iterators_and_callables_give_the_same(n_columns):
    vectors = gaussian(60, n_columns)
    expected = triangular_factor([vectors], 60)
    for blocks in ([list(vectors)], lambda: iter([vectors]), iter([vectors])):
        np.testing.assert_allclose(triangular_factor(blocks, 60), expected, atol=1e-11)


def test_the_same_input_gives_the_same_bits():
    vectors = gaussian(40, 200_000, dtype=np.float32)
    assert factor_of(vectors).tobytes() == factor_of(vectors).tobytes()


@pytest.mark.parametrize("n_columns", [40, WIDE])
def test_identical_clients_are_at_distance_zero(n_columns):
    vectors = gaussian(60, n_columns)
    vectors[7] = vectors[33] = vectors[2]
    found = distances(factor_of(vectors).T)
    assert found[2, 7] == found[2, 33] == found[7, 33] == 0
    np.testing.assert_allclose(found, exact(vectors), atol=1e-12)


@pytest.mark.parametrize("n_columns", [40, WIDE])
@pytest.mark.parametrize("nearness", [1e-2, 1e-4, 1e-6, 1e-8, 1e-10])
def test_near_vectors_keep_their_distance(n_columns, nearness):
    vectors = gaussian(60, n_columns)
    vectors[9] = vectors[4] + nearness * gaussian(1, n_columns, 1)[0]
    found, expected = distances(factor_of(vectors).T)[4, 9], exact(vectors)[4, 9]
    length = np.linalg.norm(vectors[4])
    limit = 1e-14 * length
    if nearness > 1e-3:
        # Squares are taken where they lose little, and how little depends on the order
        # in which a processor adds.
        limit = max(limit, 1e-15 * length**2 / expected)
    assert abs(found - expected) <= limit
    # A Gram matrix alone: 1e-8 of the length is the least it can tell from 0.
    gram = vectors @ vectors.T
    alone = np.sqrt(np.abs(gram[4, 4] + gram[9, 9] - 2 * gram[4, 9]))
    assert nearness > 1e-8 or abs(alone - expected) > 10 * abs(found - expected)


def test_one_huge_layer_costs_the_digits_it_must_and_no_more():
    small, huge = gaussian(6, 30), gaussian(6, 20, 1) * 1e9
    together = combine_factors([factor_of(small), factor_of(huge)])
    whole = np.hstack([small, huge])
    np.testing.assert_allclose(distances(together.T), exact(whole), rtol=1e-14)
    huge[1] = huge[0]
    together = combine_factors([factor_of(small), factor_of(huge)])
    np.testing.assert_allclose(
        distances(together.T), exact(np.hstack([small, huge])), atol=1e-14 * 1e10
    )


def test_one_huge_client_leaves_the_others_their_digits():
    vectors = gaussian(60, WIDE)
    vectors[3] *= 1e9
    kept = np.delete(np.arange(60), 3)
    found = distances(factor_of(vectors).T)[np.ix_(kept, kept)]
    np.testing.assert_allclose(found, exact(vectors[kept]), rtol=1e-12)


def test_layers_combine_to_the_factor_of_all_columns():
    layers = [gaussian(5, d, d) for d in (1, 4, 30)]
    together = combine_factors([factor_of(layer, 1) for layer in layers])
    np.testing.assert_allclose(together, factor_of(np.hstack(layers), 1), atol=1e-13)
    np.testing.assert_array_equal(
        combine_factors(factor_of(layer, 1) for layer in layers), together
    )
    only = factor_of(layers[0], 1)
    assert combine_factors([only]) is only


@pytest.mark.thorough
def test_hundreds_of_layers_lose_no_digits():
    layers = [gaussian(6, 9, seed) for seed in range(500)]
    for layer in layers:
        layer[1] = layer[0]
    together = combine_factors(factor_of(layer, 1) for layer in layers)
    whole = np.hstack(layers)
    np.testing.assert_allclose(distances(together.T), exact(whole), rtol=1e-13)


@pytest.mark.parametrize("scale", [1e-200, 1e-150, 1e150, 1e200])
def test_lengths_far_from_one(scale):
    vectors = gaussian(5, 8)
    found = triangular_factor([scale * vectors], 5)
    np.testing.assert_allclose(
        found / scale, triangular_factor([vectors], 5), atol=1e-12
    )
    np.testing.assert_allclose(
        distances(scale * vectors) / scale, exact(vectors), rtol=1e-12
    )
    np.testing.assert_allclose(
        cosine_distances(scale * vectors), cosine_distances(vectors), atol=1e-15
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("n_columns", [3, WIDE])
def test_a_number_that_is_not_finite_is_refused(bad, n_columns):
    vectors = gaussian(60, n_columns, dtype=np.float32)
    vectors[1, 2] = bad
    with pytest.raises(ValueError, match="not a finite number"):
        triangular_factor([vectors], 60)


def test_other_shapes_are_refused():
    for blocks in (
        [np.zeros((3, 4))],
        [np.zeros(2)],
        [[np.zeros(2), np.zeros(3)]],
        [np.zeros((2, 3, 4))],
    ):
        with pytest.raises(ValueError, match="2 of one length"):
            triangular_factor(blocks, 2)
    with pytest.raises(ValueError, match="n is 0"):
        triangular_factor([], 0)
    with pytest.raises(ValueError, match="range of numbers"):
        triangular_factor([np.full((2, 4), 1.7e308)], 2)
    for factors in ([], [np.eye(2), np.eye(3)], [np.zeros((2, 3))]):
        with pytest.raises(ValueError, match="square shape"):
            combine_factors(factors)


def test_distances_below_the_rounding_of_the_vectors_are_zero():
    base = np.array([3.0, 4.0])
    for nearness, is_zero in ((RELATIVE_ZERO, True), (4 * RELATIVE_ZERO, False)):
        found = distances(np.array([base, base + np.array([5 * nearness, 0.0])]))
        assert (found[0, 1] == 0) == is_zero


def test_cosine_distances_of_zero_vectors_and_of_all_angles():
    vectors = np.array(
        [[0.0, 0.0], [0.0, 0.0], [2.0, 0.0], [7.0, 0.0], [0.0, 1.0], [-3.0, 0.0]]
    )
    found = cosine_distances(vectors)
    expected = np.ones((6, 6))
    expected[0, 1] = expected[1, 0] = 0
    expected[np.ix_([2, 3], [2, 3])] = 0
    expected[5, 2:4] = expected[2:4, 5] = 2
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(found, expected, atol=1e-15)
    assert found.max() <= 2


def test_lengths():
    np.testing.assert_allclose(
        lengths(np.array([[3e200, 4e200], [0.0, 0.0]])), [5e200, 0], rtol=1e-15
    )
