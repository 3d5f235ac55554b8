"""Rotations keep lengths and angles, hide coordinates, and are the same at every
hospital.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from protocol.errors import ProtocolViolation
from protocol.sums.frames import BLOCK, HAAR_LIMIT, rotate

KEY = bytes(range(32))
SIZES = [1, 2, 3, 31, 63, 64, 65, 500, HAAR_LIMIT, HAAR_LIMIT + 1, 20_000]


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


@pytest.mark.parametrize("size", SIZES)
def test_inner_products_and_near_distances_are_kept(size: int) -> None:
    rng = np.random.default_rng(size)
    a, b = rng.standard_normal((2, size))
    near = a + 1e-9 * b
    turned = [rotate(KEY, vector) for vector in (a, b, near)]
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    assert abs(turned[0] @ turned[1] - a @ b) <= 1e-13 * scale
    assert abs(turned[0] @ turned[0] - a @ a) <= 1e-13 * (a @ a)
    distance = np.linalg.norm(a - near)
    assert abs(
        np.linalg.norm(turned[0] - turned[2]) - distance
    ) <= 1e-14 * np.linalg.norm(a)


@pytest.mark.parametrize("size", [1, 31, HAAR_LIMIT + 1])
def test_equal_vectors_stay_equal_to_the_bit_and_zero_stays_zero(size: int) -> None:
    vector = np.random.default_rng(1).standard_normal(size)
    assert np.array_equal(rotate(KEY, vector), rotate(KEY, vector.copy()))
    assert not rotate(KEY, np.zeros(size)).any()


@pytest.mark.parametrize("size", [31, HAAR_LIMIT + 1])
def test_another_key_is_another_frame(size: int) -> None:
    vector = np.random.default_rng(2).standard_normal(size)
    ours, theirs = rotate(key(1), vector), rotate(key(2), vector)
    assert abs(ours @ theirs) < 0.9 * (vector @ vector)


def test_the_matrix_is_haar_distributed() -> None:
    """Of a Haar matrix each entry's square is Beta(1/2, (n - 1)/2), and trace and
    determinant have mean zero.
    """
    n, matrices = (
        6,
        [np.column_stack([rotate(key(i), e) for e in np.eye(6)]) for i in range(600)],
    )
    entries = np.array(matrices)
    for row, column in [(0, 0), (0, 5), (5, 0), (5, 5), (3, 2)]:
        squares = entries[:, row, column] ** 2
        assert stats.kstest(squares, stats.beta(0.5, (n - 1) / 2).cdf).pvalue > 1e-4
        assert abs(np.mean(np.sign(entries[:, row, column]))) < 5 / np.sqrt(600)
    assert abs(np.mean([np.trace(m) for m in matrices])) < 5 / np.sqrt(600)
    assert abs(np.mean([np.linalg.det(m) for m in matrices])) < 5 / np.sqrt(600)


@pytest.mark.parametrize("position", [0, HAAR_LIMIT // 2, HAAR_LIMIT])
def test_one_large_value_is_spread_over_all(position: int) -> None:
    """Above the limit no value of the answer shows where the vector was large."""
    vector = np.zeros(HAAR_LIMIT + 1)
    vector[position] = 1.0
    turned = rotate(KEY, vector)
    assert turned.size == 2 * HAAR_LIMIT
    assert np.abs(turned).max() < 12 / np.sqrt(turned.size)
    blocks = (turned.reshape(-1, BLOCK) ** 2).sum(axis=1)
    assert blocks.max() < 4 * blocks.mean()


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(ProtocolViolation):
        rotate(bytes(16), np.ones(3))
