"""Fixed point: the sum never overflows, the mean is as exact as promised, nothing is
clipped.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import BadRequest
from protocol.sums.fixed_point import MIN_FRACTION_BITS, FixedPoint

ROWS = st.lists(st.integers(1, 100_000), min_size=1, max_size=5)


@given(ROWS, st.sampled_from([0.25, 1.0, 3.0, 2.0**20]), st.data())
def test_mean_error_is_below_hospitals_times_bound_over_2_to_62(
    rows: list[int], bound: float, data: st.DataObject
) -> None:
    values = data.draw(
        st.lists(st.floats(-bound, bound), min_size=len(rows), max_size=len(rows))
    )
    point = FixedPoint(sum(rows), bound)
    words = [
        point.encode(np.array([v]), n)[0] for v, n in zip(values, rows, strict=True)
    ]
    total = sum(int(word) for word in words)
    exact = sum(
        (Fraction(v) * n for v, n in zip(values, rows, strict=True)), Fraction(0)
    ) / sum(rows)
    mean = Fraction(total) / sum(rows) / Fraction(2) ** point.fraction_bits
    allowed = len(rows) * Fraction(bound) / 2**62
    assert abs(mean - exact) < allowed * (1 + Fraction(1, 2**20))
    decoded = Fraction(float(point.decode(np.array([total]))[0]))
    assert abs(decoded - mean) <= abs(mean) / 2**52


@given(ROWS, st.sampled_from([0.25, 1.0, 3.0, 1000.0, 2.0**20]))
def test_extreme_sums_stay_within_2_to_62(rows: list[int], bound: float) -> None:
    point = FixedPoint(sum(rows), bound)
    for sign in (-1, 1):
        words = [int(point.encode(np.array([sign * bound]), n)[0]) for n in rows]
        assert [abs(word) for word in words] == [point.offset(n) for n in rows]
        assert abs(sum(words)) <= 2**62
        assert 2 * point.offset(sum(rows)) <= 2**63


@pytest.mark.parametrize(
    ("n_rows", "bound", "bits"),
    [(1, 1.0, 62), (3, 1.0, 60), (4, 1.0, 60), (5, 1.0, 59)],
)
def test_fraction_bits_round_the_logarithm_up(
    n_rows: int, bound: float, bits: int
) -> None:
    assert FixedPoint(n_rows, bound).fraction_bits == bits


def test_fraction_bits_are_exact_where_a_float_logarithm_is_not() -> None:
    assert FixedPoint(2**46, 1.0).fraction_bits == MIN_FRACTION_BITS
    with pytest.raises(BadRequest, match="Order a smaller bound") as caught:
        FixedPoint(2**46 + 1, 1.0)
    assert caught.value.code == "headroom"


@pytest.mark.parametrize("n_rows", [1, 7, 99_991])
def test_bound_is_met_just_below_at_and_just_above(n_rows: int) -> None:
    point = FixedPoint(n_rows, 8.0)
    below, above = np.nextafter(8.0, 0.0), np.nextafter(8.0, 9.0)
    assert int(point.encode(np.array([below]), n_rows)[0]) <= point.offset(n_rows)
    assert int(point.encode(np.array([-8.0]), n_rows)[0]) == -point.offset(n_rows)
    for outside in (above, -above, np.inf, -np.inf, np.nan):
        with pytest.raises(BadRequest) as caught:
            point.encode(np.array([0.0, outside]), n_rows)
        assert caught.value.code == "bound_exceeded"
        assert caught.value.detail == {"position": 1, "bound": 8.0}


def test_refusal_names_the_position_and_not_the_value() -> None:
    with pytest.raises(BadRequest) as caught:
        FixedPoint(10, 1.0).encode(np.array([0.0, 0.0, 123.456]), 5)
    assert "Coordinate 2 of 3" in str(caught.value)
    assert "123" not in str(caught.value.to_json())


@pytest.mark.parametrize("weight", [-1, 11])
def test_weight_outside_all_rows_is_refused(weight: int) -> None:
    with pytest.raises(BadRequest, match="weight"):
        FixedPoint(10).encode(np.zeros(1), weight)


def test_weight_of_zero_gives_zero() -> None:
    assert FixedPoint(10).encode(np.array([3.0]), 0).tolist() == [0]


@pytest.mark.parametrize("bound", [0.0, -1.0, np.inf, np.nan, 0.1])
def test_unusable_bound_is_refused(bound: float) -> None:
    with pytest.raises(BadRequest):
        FixedPoint(2**40, bound)


def test_no_rows_and_matrices_are_refused() -> None:
    with pytest.raises(BadRequest, match="no row"):
        FixedPoint(0)
    with pytest.raises(BadRequest, match="flat"):
        FixedPoint(1).encode(np.zeros((2, 2)), 1)
