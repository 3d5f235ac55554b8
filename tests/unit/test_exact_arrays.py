"""Sums of arrays against rational arithmetic, number by number."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics.arrays import Floats, Ints
from analytics.statistics import exact_arrays
from analytics.statistics.exact_arrays import (
    DIGIT_BITS,
    LEAST_EXPONENT,
    ExactSums,
    digits_of,
    fitting_grid,
)

UNIT = 2**-LEAST_EXPONENT
SIZES = (0.0, 5e-324, -1e-310, 1e-160, -3.0, 0.1, 1e150, -1.7e308)


def check(
    columns: list[Floats], groups: Ints, n_groups: int, *, n_batches: int = 1
) -> None:
    """Each group's sums are those of its rows as fractions, in however many batches the
    rows come.
    """
    sums = ExactSums(len(columns), n_groups)
    for rows in np.array_split(np.arange(len(groups)), n_batches):
        sums.add([column[rows] for column in columns], groups[rows])
    for group in range(n_groups):
        own = [[Fraction(x) for x in column[groups == group]] for column in columns]
        for i, left in enumerate(own):
            assert sums.totals(i)[group] == sum(left) * UNIT
            for j in range(i, len(own)):
                products = sum(a * b for a, b in zip(left, own[j], strict=True))
                assert sums.products(i, j)[group] == products * UNIT**2


@settings(max_examples=60)
@given(
    rows=st.lists(
        st.tuples(
            st.one_of(
                st.sampled_from(SIZES), st.floats(allow_nan=False, allow_infinity=False)
            ),
            st.floats(allow_nan=False, allow_infinity=False),
            st.integers(0, 2),
        ),
        max_size=30,
    ),
    n_batches=st.integers(1, 3),
)
def test_sums_of_any_doubles(
    rows: list[tuple[float, float, int]], n_batches: int
) -> None:
    x = np.array([row[0] for row in rows], dtype=np.float64)
    y = np.array([row[1] for row in rows], dtype=np.float64)
    groups = np.array([row[2] for row in rows], dtype=np.int64)
    check([x, y], groups, 3, n_batches=n_batches)
    check([x, y], np.zeros_like(groups), 1, n_batches=n_batches)


@pytest.mark.parametrize("n_groups", [1, 2])
def test_a_full_block_of_the_largest_digits(n_groups: int) -> None:
    """2^14 times 2 x 2^38 are 2^53, the last whole number up to which doubles hold
    every one.
    """
    assert exact_arrays.BLOCK_ROWS * 2 * (2 ** (DIGIT_BITS - 1)) ** 2 <= 2**53
    largest = 2 ** (DIGIT_BITS - 1)
    x = np.full(exact_arrays.BLOCK_ROWS, largest - 0.5 - 2.0 ** (-DIGIT_BITS - 1))
    digits = [abs(digit.values[0]) for digit in digits_of(x)]
    assert digits == [largest - 1, largest, largest]
    check([x, -x], np.arange(len(x)) % n_groups, n_groups)


@pytest.mark.parametrize("power", range(-1_074, 1_024, 7))
def test_digits_are_small_whole_numbers_that_make_up_the_numbers(power: int) -> None:
    numbers = np.ldexp([1.0, -1.0, 1.5, 2 - 2.0**-52, 1 / 3, 0.0], power)
    for grid in (0, 7, fitting_grid(numbers), DIGIT_BITS - 1):
        digits = digits_of(numbers, grid)
        assert len(digits) <= 5
        for digit in digits:
            assert digit.exponent >= LEAST_EXPONENT
            assert digit.exponent % DIGIT_BITS == grid
            assert (digit.values == np.rint(digit.values)).all()
            assert np.abs(digit.values).max() <= 2 ** (DIGIT_BITS - 1)
        for row, number in enumerate(numbers):
            parts = [
                Fraction(digit.values[row]) * Fraction(2) ** digit.exponent
                for digit in digits
            ]
            assert sum(parts) == Fraction(number)


def test_a_grid_that_fits_saves_a_digit() -> None:
    x = np.array([1.0, 3.0 - 2.0**-51])
    assert len(digits_of(x, grid=0)) == 4
    assert len(digits_of(x, fitting_grid(x))) == 3
    # Later numbers that are four times as large are within the first digit still.
    assert len(digits_of(4 * x, fitting_grid(x))) == 3


def test_a_part_has_seven_digits_at_most() -> None:
    """The bound on which the sums of many blocks in an int64 rest."""
    rng = np.random.default_rng(5)
    columns = [
        np.ldexp(rng.uniform(-1, 1, 3_000), rng.integers(-1_073, 1_024, 3_000))
        for _ in range(2)
    ]
    rows = exact_arrays._Rows(columns, np.arange(3_000))
    parts = list(exact_arrays._similar(rows))
    assert sorted(np.concatenate([part.groups for part in parts])) == list(range(3_000))
    assert max(len(digits_of(column)) for part in parts for column in part.columns) <= 7
    products = exact_arrays.CARRY_BLOCKS * 7 * 2**53
    assert products < 2**63


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        ExactSums(1).add([np.array([1.0, value, 2.0])], np.zeros(3, dtype=np.int64))
