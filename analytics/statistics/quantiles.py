"""Order statistics of numbers that lie at several hospitals, found by joint counts
alone.

Doubles in their order are the integers from `key_of(-max)` to `key_of(max)`. Whole
numbers of 64 bits, signed or not, are keys themselves, so that none is taken for the
double beside it. For each wanted rank the search keeps a bracket of keys; a round asks
how many rows lie below some pivots in each bracket, and keeps the part that the rank is
in. 63 pivots to a bracket find any of both kinds in 11 rounds, and after so many a
search ends in any case.

Whoever has the counts makes the same brackets and pivots of them. So every hospital
whose rows are counted can search itself, and need not learn from another one what to
count (decision 43; among whole numbers decision 60).

`Search` is the search; `agents/statistics/quantile_rounds.py` counts and sends.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isinf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analytics.arrays import Floats, Ints, check_finite
from analytics.statistics.exact import LARGEST_WHOLE, Number, nearest, told

SECTIONS = 64
"""Of a bracket in one round: as many pivots and one more."""
MOST_ROUNDS = 11
"""Of pivots: 64^11 is more than there are doubles, and more than there are whole
numbers of 64 bits, signed or not.
"""
LEAST_WHOLE = -(2**63)
MOST_WHOLE = 2**64 - 1
Pivots = NDArray[Any]
"""float64, or Python's integers (object), of which some are beyond int64 and others
beyond uint64.
"""
_SIGN = np.int64(-(2**63))


def keys_of(values: Floats) -> Ints:
    """int64 keys in the order of finite doubles; both zeros have the key 0.

    >>> keys_of(np.array([-5e-324, -0.0, 0.0, 5e-324])).tolist()
    [-1, 0, 0, 1]
    """
    check_finite("values", values)
    doubles = np.ascontiguousarray(values, dtype=np.float64)
    bits = doubles.view(np.int64)
    is_negative = bits < 0
    return np.where(is_negative, _SIGN - bits, bits)


def values_of(keys: Ints) -> Floats:
    """Inverse of `keys_of`."""
    keys = np.asarray(keys, dtype=np.int64)
    is_negative = keys < 0
    bits = np.where(is_negative, _SIGN - keys, keys)
    return bits.view(np.float64)


_LARGEST_DOUBLE = np.finfo(np.float64).max
_LEAST_KEY, _MOST_KEY = keys_of(np.array([-_LARGEST_DOUBLE, _LARGEST_DOUBLE])).tolist()


@dataclass(frozen=True)
class Bracket:
    """The value of one rank lies at a key in low..high - 1."""

    low: int  # a key
    high: int  # a key, not in the bracket
    n_below: int  # so many rows lie below low
    n_within: int  # and so many between


@dataclass(frozen=True)
class Found:
    """A value for one rank; `is_exact` unless the search was stopped.

    Then low <= true value <= high. An exact value of a search among whole numbers is an
    int.
    """

    value: float | int
    is_exact: bool
    low: float | int
    high: float | int


class Search:
    """Finds the values of some ranks from rounds of joint counts.

    ranks are 0-based, of n_rows rows in rising order.

    whole: all rows are known to be whole numbers of LEAST_WHOLE..MOST_WHOLE, and the
    search is among these.

    min_rows: a bracket is never narrowed to fewer rows than this (1: down to the exact
    value). A bracket of one key holds equal values; it is narrowed to that key only
    where min_rows rows or more have it. With more than one, a round that does not halve
    a bracket is its last; the last of all is the one of number MOST_ROUNDS.

    Disclosure: pivots and counts show the joint distribution as finely as the search
    went, and nothing finer.
    """

    def __init__(
        self,
        ranks: Sequence[int],
        *,
        n_rows: int,
        min_rows: int = 1,
        whole: bool = False,
    ) -> None:
        are_in_range = all(0 <= rank < n_rows for rank in ranks)
        if not are_in_range:
            raise ValueError("A rank lies outside the rows.")
        if min_rows < 1:
            raise ValueError("min_rows is 1 or more.")
        self.min_rows = min_rows
        self.whole = whole
        self._n_rounds = 0
        if whole:
            least_key, most_key = LEAST_WHOLE, MOST_WHOLE
        else:
            least_key, most_key = _LEAST_KEY, _MOST_KEY
        everything = Bracket(
            least_key,
            most_key + 1,
            n_below=0,
            n_within=n_rows,
        )
        self.brackets = dict.fromkeys(ranks, everything)
        self._stopped: set[int] = set()
        # Too few rows to say anything of: no rank is searched for.
        if n_rows < min_rows:
            self._stopped.update(ranks)

    def pivots(self) -> Pivots:
        """Rising: count the rows below each, then call `narrow`.

        Empty once no bracket can be narrowed further.
        """
        return self._values(self._pivot_keys())

    def narrow(self, counts: Sequence[int]) -> None:
        """Takes how many rows of all hospitals lie below each of `pivots`.

        ValueError for counts that cannot be.
        """
        pivot_keys = self._pivot_keys()
        if len(counts) != len(pivot_keys):
            raise ValueError("There is not one count for each pivot.")
        known_counts: dict[int, int] = {}
        for pivot_key, n_below in zip(pivot_keys, counts, strict=True):
            known_counts[pivot_key] = int(n_below)
        for bracket in self.brackets.values():
            known_counts[bracket.low] = bracket.n_below
            known_counts[bracket.high] = bracket.n_below + bracket.n_within
        in_order_of_keys = [known_counts[key] for key in sorted(known_counts)]
        if in_order_of_keys != sorted(in_order_of_keys):
            raise ValueError("The counts do not rise with the pivots.")
        going_on = set(self.brackets) - self._stopped
        for rank in going_on:
            self._narrow_one(rank, known_counts)
        self._n_rounds += 1

    def found(self, rank: int) -> Found:
        """The value of a rank: exact, or by the rank's place within its bracket."""
        bracket = self.brackets[rank]
        last_key = bracket.high - 1
        ends = self._values([bracket.low, last_key])
        low, high = ends.tolist()
        if bracket.low == last_key:
            return Found(
                value=low,
                is_exact=True,
                low=low,
                high=high,
            )
        # Its rows as if they lay evenly, each in the middle of its part.
        rank_place = rank - bracket.n_below
        share = (2 * rank_place + 1) / (2 * bracket.n_within)
        middle = interpolated(low, high, share)
        return Found(
            value=middle,
            is_exact=False,
            low=low,
            high=high,
        )

    def _values(self, keys: Sequence[int]) -> Pivots:
        if self.whole:
            return np.array(keys, dtype=object)
        return values_of(np.array(keys, dtype=np.int64))

    def _pivot_keys(self) -> list[int]:
        if self._n_rounds == MOST_ROUNDS:
            return []
        pivot_keys: set[int] = set()
        for rank, bracket in self.brackets.items():
            if rank in self._stopped:
                continue
            width = bracket.high - bracket.low
            for section in range(1, SECTIONS):
                offset = width * section // SECTIONS
                pivot_keys.add(bracket.low + offset)
            # Their counts are known; a narrow bracket has sections without a key.
            pivot_keys -= {bracket.low, bracket.high}
        return sorted(pivot_keys)

    def _narrow_one(
        self,
        rank: int,
        known_counts: dict[int, int],
    ) -> None:
        """The smallest run of sections around the rank that holds min_rows rows."""
        old = self.brackets[rank]
        keys = [key for key in sorted(known_counts) if old.low <= key <= old.high]
        counts = [known_counts[key] for key in keys]
        # The section that the rank is in: between the last pivot with at most so many
        # rows below it and the first with more.
        right = bisect_right(counts, rank)
        left = right - 1
        # Fewer than min_rows rows are not singled out: the section takes in the
        # neighbour of more rows.
        while counts[right] - counts[left] < self.min_rows:
            before = left - 1
            behind = right + 1
            gain_left = -1
            if before >= 0:
                gain_left = counts[left] - counts[before]
            gain_right = -1
            if behind < len(keys):
                gain_right = counts[behind] - counts[right]
            # A bracket has min_rows rows or more, so that one side has a neighbour.
            if gain_left >= gain_right:
                left = before
            else:
                right = behind
        new = Bracket(
            low=keys[left],
            high=keys[right],
            n_below=counts[left],
            n_within=counts[right] - counts[left],
        )
        self.brackets[rank] = new
        old_width = old.high - old.low
        width = new.high - new.low
        is_halved = 2 * width <= old_width
        if width == 1 or not is_halved:
            self._stopped.add(rank)


def quantile_ranks(
    q: float,
    n_rows: int,
) -> tuple[int, int, float]:
    """The two ranks between which the q-quantile lies, and its place between them.

    It is numpy's method "linear". In doubles, as numpy computes them, so that the
    answers are the same to the last bit.

    >>> quantile_ranks(0.25, 11)
    (2, 3, 0.5)

    ValueError for q outside 0..1 or without rows.
    """
    if not 0 <= q <= 1 or n_rows < 1:
        raise ValueError("A quantile needs rows, and q between 0 and 1.")
    fractional_rank = (n_rows - 1) * float(q)
    low_rank = int(fractional_rank)
    share = fractional_rank - low_rank
    high_rank = low_rank
    if share > 0:
        high_rank = low_rank + 1
    return low_rank, high_rank, share


def interpolated(
    low: float,
    high: float,
    share: float,
) -> float:
    """low + share (high - low) from the nearer end, as numpy does.

    Rounded once where the difference overflows.
    """
    difference = high - low
    if isinf(difference):
        exact_low = Fraction(low)
        exact_difference = Fraction(high) - exact_low
        exact = exact_low + Fraction(share) * exact_difference
        return nearest(exact)
    if share < 0.5:
        return low + difference * share
    rest = 1 - share
    return high - difference * rest


def interpolated_whole(
    low: int,
    high: int,
    q: float,
    n_rows: int,
) -> Number:
    """The q-quantile between two whole numbers, with all its digits.

    They are those at the ranks of `quantile_ranks`. Up to 2^53 both are doubles, and
    the answer is the one of `interpolated`, to the last bit. Beyond it is low + (q
    (n_rows - 1) - rank of low) (high - low) in rational arithmetic, q being the decimal
    that is written.

    >>> interpolated_whole(3, 4, 0.5, 2), interpolated_whole(2**60 + 1, 2**60 + 4, 0.1, 2)
    (3.5, Decimal('1152921504606846977.3'))

    ValueError as `quantile_ranks`.
    """
    rank, _, share = quantile_ranks(q, n_rows)
    largest = max(abs(low), abs(high))
    if largest <= LARGEST_WHOLE:
        return interpolated(float(low), float(high), share)
    written_q = Fraction(repr(float(q)))
    exact_share = written_q * (n_rows - 1) - rank
    # The rank was found in doubles, which may have rounded the place over a neighbour.
    at_least_0 = max(exact_share, Fraction(0))
    within = min(at_least_0, Fraction(1))
    return told(low + within * (high - low))
