"""Quantiles from joint counts against numpy on the pooled rows."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.arrays import Floats
from analytics.statistics.exact import LARGEST_WHOLE
from analytics.statistics.quantiles import (
    LEAST_WHOLE,
    MOST_ROUNDS,
    MOST_WHOLE,
    Found,
    Search,
    interpolated,
    interpolated_whole,
    keys_of,
    quantile_ranks,
    values_of,
)

finite = st.floats(allow_nan=False, allow_infinity=False)
wholes = st.one_of(
    st.integers(LEAST_WHOLE, MOST_WHOLE),
    st.integers(-3, 3),
    st.integers(LEAST_WHOLE, LEAST_WHOLE + 3),
    st.integers(MOST_WHOLE - 3, MOST_WHOLE),
    st.integers(2**63 - 3, 2**63 + 3),
    st.integers(10**17, 10**17 + 40),  # as near as no doubles are there
)


@given(st.lists(finite, min_size=1))
def test_keys_have_the_order_of_the_numbers(values: list[float]) -> None:
    numbers = np.array(values)
    keys = keys_of(numbers)
    assert (np.diff(numbers[np.argsort(keys, kind="stable")]) >= 0).all()
    assert values_of(keys).tolist() == numbers.tolist()


def test_neighbouring_doubles_have_neighbouring_keys() -> None:
    for value in (0.0, 1.0, -1.0, 5e-324, -5e-324, 1e308):
        pair = keys_of(np.array([value, np.nextafter(value, np.inf)]))
        assert pair[1] - pair[0] == 1


@given(st.lists(wholes, min_size=1, max_size=30), st.data())
def test_every_whole_number_is_found_to_its_last_digit(
    values: list[int], data: st.DataObject
) -> None:
    """As few rounds, of as few pivots, as among doubles."""
    ranks = data.draw(
        st.lists(st.integers(0, len(values) - 1), min_size=1, max_size=4, unique=True)
    )
    search, n_rounds = Search(ranks, n_rows=len(values), whole=True), 0
    while pivots := search.pivots().tolist():
        assert all(type(pivot) is int for pivot in pivots)
        assert pivots == sorted(set(pivots))
        assert len(pivots) <= 63 * len(ranks)
        search.narrow([sum(value < pivot for value in values) for pivot in pivots])
        n_rounds += 1
    assert n_rounds <= MOST_ROUNDS
    for rank in ranks:
        found = search.found(rank)
        assert (found.value, found.is_exact, type(found.value)) == (
            sorted(values)[rank],
            True,
            int,
        )


@pytest.mark.parametrize("low", [LEAST_WHOLE, MOST_WHOLE - 29, 2**63 - 15])
def test_a_stopped_search_among_whole_numbers_keeps_min_rows_in_its_bracket(
    low: int,
) -> None:
    values = [low + i for i in range(30)]
    search = Search([0, 29], n_rows=30, min_rows=10, whole=True)
    while len(pivots := search.pivots()):
        search.narrow([sum(value < pivot for value in values) for pivot in pivots])
    for rank in (0, 29):
        found = search.found(rank)
        assert found.low <= values[rank] <= found.high
        assert sum(found.low <= value <= found.high for value in values) >= 10


def test_infinite_numbers_have_no_key() -> None:
    with pytest.raises(ValueError, match="finite"):
        keys_of(np.array([np.inf]))


def searched(
    values: Floats, ranks: list[int], **options: int
) -> tuple[dict[int, Found], int]:
    search, rounds = Search(ranks, n_rows=len(values), **options), 0
    while len(pivots := search.pivots()):
        search.narrow([int((values < pivot).sum()) for pivot in pivots])
        rounds += 1
        assert rounds < 100
    return {rank: search.found(rank) for rank in ranks}, rounds


@given(st.lists(finite, min_size=1, max_size=30), st.data())
def test_every_rank_is_found_exactly(values: list[float], data: st.DataObject) -> None:
    ranks = data.draw(
        st.lists(st.integers(0, len(values) - 1), min_size=1, max_size=4, unique=True)
    )
    found, rounds = searched(np.array(values), ranks)
    assert rounds <= 12
    for rank in ranks:
        assert found[rank].is_exact
        assert found[rank].value == sorted(values)[rank]


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60),
    st.integers(1, 12),
    st.data(),
)
def test_a_stopped_search_keeps_min_rows_in_its_bracket(
    values: list[float], min_rows: int, data: st.DataObject
) -> None:
    numbers, rank = np.sort(values), data.draw(st.integers(0, len(values) - 1))
    found = searched(numbers, [rank], min_rows=min_rows)[0][rank]
    assert found.low <= numbers[rank] <= found.high
    assert found.low <= found.value <= found.high
    n_within = int(((numbers >= found.low) & (numbers <= found.high)).sum())
    assert n_within >= min(min_rows, len(values))
    if found.is_exact:
        assert found.value == numbers[rank]


def test_a_value_that_enough_rows_have_is_told() -> None:
    for n_equal, is_exact in ((9, False), (10, True), (11, True)):
        values = np.array([5.0] * n_equal + [1e9 * i for i in range(1, 30)])
        assert searched(values, [0], min_rows=10)[0][0].is_exact == is_exact


def test_stopped_quantiles_are_near() -> None:
    values = np.random.default_rng(1).normal(100, 15, 10_000)
    found, rounds = searched(values, [5_000], min_rows=10)
    assert abs(found[5_000].value - np.sort(values)[5_000]) < 0.1
    assert rounds < 12


def test_a_search_ends_after_eleven_rounds_whatever_the_rows_are() -> None:
    """Five rows on each side of zero, as near as doubles are: each round keeps the two
    sections beside zero.
    """
    for n_equal in (5, 9, 10):
        values = np.array([-5e-324] * n_equal + [0.0] * 5)
        found, rounds = searched(values, [n_equal - 1], min_rows=10)
        assert rounds <= MOST_ROUNDS
        assert found[n_equal - 1].low <= -5e-324 <= found[n_equal - 1].high
        assert found[n_equal - 1].is_exact == (n_equal == 10)


@given(st.lists(finite, min_size=1, max_size=30), st.integers(1, 5), st.data())
def test_a_round_has_63_pivots_for_each_rank_at_most(
    values: list[float], min_rows: int, data: st.DataObject
) -> None:
    ranks = data.draw(
        st.lists(st.integers(0, len(values) - 1), min_size=1, max_size=4, unique=True)
    )
    search, n_rounds = Search(ranks, n_rows=len(values), min_rows=min_rows), 0
    while len(pivots := search.pivots()):
        n_rounds += 1
        assert len(pivots) <= 63 * len(ranks)
        search.narrow([int((np.array(values) < pivot).sum()) for pivot in pivots])
    assert n_rounds <= MOST_ROUNDS


def test_fewer_rows_than_min_rows_are_not_searched() -> None:
    assert len(Search([0], n_rows=9, min_rows=10).pivots()) == 0
    assert len(Search([0], n_rows=10, min_rows=10).pivots()) > 0


@pytest.mark.parametrize(
    "counts", [[1], [3] * 62 + [2], [-1] + [0] * 62, [0] * 62 + [6]]
)
def test_counts_that_cannot_be_are_refused(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="count"):
        Search([2], n_rows=5).narrow(counts)


def test_wrong_ranks_are_refused() -> None:
    for ranks, n_rows in (([5], 5), ([-1], 5), ([0], 0)):
        with pytest.raises(ValueError, match="rank"):
            Search(ranks, n_rows=n_rows)


@given(
    st.lists(finite, min_size=1, max_size=30),
    st.one_of(st.floats(0, 1), st.integers(0, 100).map(lambda i: i / 100)),
)
def test_interpolation_is_numpy_s(values: list[float], q: float) -> None:
    low, high, share = quantile_ranks(q, len(values))
    ordered = np.sort(values)
    ours = interpolated(float(ordered[low]), float(ordered[high]), share)
    with np.errstate(over="ignore", invalid="ignore"):
        theirs = np.quantile(ordered, q)
    assert ours == theirs or not np.isfinite(theirs)
    assert ordered[low] <= ours <= ordered[high]
    assert 0 <= share < 1
    assert high - low in (0, 1)


def test_a_difference_outside_the_range_of_doubles_is_still_halved() -> None:
    assert interpolated(-1.7e308, 1.7e308, 0.5) == 0
    assert interpolated(-1.7e308, 1.7e308, 0.75) == 0.85e308


def test_the_ends_and_what_is_no_quantile() -> None:
    assert quantile_ranks(0, 7) == (0, 0, 0.0)
    assert quantile_ranks(1, 7) == (6, 6, 0.0)
    assert quantile_ranks(0.5, 4) == (1, 2, 0.5)
    for q, n in ((1.1, 3), (-0.1, 3), (0.5, 0)):
        with pytest.raises(ValueError, match="quantile"):
            quantile_ranks(q, n)


shares = st.one_of(st.floats(0, 1), st.integers(0, 100).map(lambda i: i / 100))


@given(
    st.lists(st.integers(-LARGEST_WHOLE, LARGEST_WHOLE), min_size=1, max_size=30),
    shares,
)
def test_whole_numbers_that_are_doubles_are_told_as_doubles_are(
    values: list[int], q: float
) -> None:
    low, high, share = quantile_ranks(q, len(values))
    ordered = sorted(values)
    ours = interpolated_whole(ordered[low], ordered[high], q, len(values))
    assert repr(ours) == repr(
        interpolated(float(ordered[low]), float(ordered[high]), share)
    )


@given(st.lists(wholes, min_size=1, max_size=30), st.integers(0, 1000))
def test_long_numbers_are_interpolated_in_rational_arithmetic(
    values: list[int], thousandths: int
) -> None:
    """To the last digit, q being the decimal that is written, wherever doubles are
    further apart than whole numbers.
    """
    q, ordered = thousandths / 1000, sorted(values)
    low, high, _ = quantile_ranks(q, len(values))
    ours = interpolated_whole(ordered[low], ordered[high], q, len(values))
    place = Fraction(thousandths, 1000) * (len(values) - 1)
    below = min(int(place), len(values) - 2) if len(values) > 1 else 0
    above = min(below + 1, len(values) - 1)
    exact = ordered[below] + (place - below) * (ordered[above] - ordered[below])
    if abs(exact) > LARGEST_WHOLE:
        assert Fraction(ours) == exact
    else:
        assert abs(Fraction(ours) - exact) <= Fraction(1, 2**40) * max(
            1, abs(ordered[below]), abs(ordered[above])
        )


def test_how_interpolated_whole_numbers_are_told() -> None:
    assert repr(interpolated_whole(3, 4, 0.5, 2)) == "3.5"
    assert repr(interpolated_whole(7, 7, 0.5, 2)) == "7.0"
    assert interpolated_whole(2**53, 2**53 + 1, 0.5, 2) == Decimal("9007199254740992.5")
    assert repr(interpolated_whole(2**53 + 1, 2**53 + 3, 0.5, 2)) == "9007199254740994"
    assert repr(interpolated_whole(-(2**60), 2**60, 0.5, 2)) == "0.0"
