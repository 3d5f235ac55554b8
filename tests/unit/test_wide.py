"""Sums of any magnitude: exact, whatever the split, and refused beyond their range."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import BadRequest
from protocol.sums.limbs import LIMB_BITS, N_LIMBS, from_limbs, to_limbs

VALUES = st.floats(-1e25, 1e25, allow_nan=False, allow_subnormal=False)


@given(st.lists(st.tuples(VALUES, st.integers(1, 10**6)), min_size=1, max_size=5))
def test_the_mean_over_hospitals_is_the_exact_one_rounded_once(
    parts: list[tuple[float, int]],
) -> None:
    n_rows = sum(weight for _, weight in parts)
    sums = sum(
        (to_limbs(np.array([value]), weight) for value, weight in parts),
        np.zeros(N_LIMBS, dtype=np.int64),
    )
    exact = (
        sum((Fraction(value) * weight for value, weight in parts), Fraction(0)) / n_rows
    )
    assert (
        abs(Fraction(float(from_limbs(sums, n_rows)[0])) - exact)
        <= abs(exact) * Fraction(2) ** -53 + 2**-90
    )


@given(st.lists(VALUES, min_size=1, max_size=8), st.integers(1, 10**6))
def test_no_limb_reaches_its_bound(values: list[float], weight: int) -> None:
    limbs = to_limbs(np.array(values), weight)
    assert limbs.shape == (len(values) * N_LIMBS,)
    assert int(np.abs(limbs).max()) < 1 << LIMB_BITS


@pytest.mark.parametrize("value", [2.0**110, -(2.0**110), float("inf"), float("nan")])
def test_what_does_not_fit_is_refused(value: float) -> None:
    with pytest.raises(BadRequest, match="too large"):
        to_limbs(np.array([value]), 1)


def test_the_largest_value_fits() -> None:
    value = np.nextafter(2.0**110, 0)
    assert from_limbs(to_limbs(np.array([value]), 1), 1)[0] == value
