"""Order statistics of numbers that lie at several hospitals, found by joint counts alone.

Doubles in their order are the integers from `key_of(-max)` to `key_of(max)`. Whole numbers of 64 bits, signed or not,
are keys themselves, so that none is taken for the double beside it. For each wanted rank the search keeps a bracket of
keys; a round asks how many rows lie below some pivots in each bracket, and keeps the part that the rank is in. 63
pivots to a bracket find any of both kinds in 11 rounds, and after so many a search ends in any case.

Whoever has the counts makes the same brackets and pivots of them. So every hospital whose rows are counted can search
itself, and need not be told by another one what to count.
"""

from __future__ import annotations

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
"""Of pivots: 64^11 is more than there are doubles, and more than there are whole numbers of 64 bits, signed or not."""
LEAST_WHOLE, MOST_WHOLE = -(2**63), 2**64 - 1
Pivots = NDArray[Any]
"""float64, or Python's integers (object), of which some are beyond int64 and others beyond uint64."""
_SIGN = np.int64(-(2**63))


def keys_of(values: Floats) -> Ints:
    """int64 keys in the order of finite doubles; both zeros have the key 0.

    >>> keys_of(np.array([-5e-324, -0.0, 0.0, 5e-324])).tolist()
    [-1, 0, 0, 1]
    """
    check_finite("values", values)
    bits = np.ascontiguousarray(values, dtype=np.float64).view(np.int64)
    return np.where(bits < 0, _SIGN - bits, bits)


def values_of(keys: Ints) -> Floats:
    """Inverse of `keys_of`."""
    keys = np.asarray(keys, dtype=np.int64)
    return np.where(keys < 0, _SIGN - keys, keys).view(np.float64)


_LEAST, _MOST = (int(keys_of(np.array([sign * np.finfo(np.float64).max]))[0]) for sign in (-1, 1))


@dataclass(frozen=True)
class Bracket:
    """The value of one rank lies at a key in low..high - 1; n_below rows lie below low, n_within between."""

    low: int
    high: int
    n_below: int
    n_within: int


@dataclass(frozen=True)
class Found:
    """A value for one rank; `is_exact` unless the search was stopped, then low <= true value <= high.

    An exact value of a search among whole numbers is an int.
    """

    value: float | int
    is_exact: bool
    low: float | int
    high: float | int


class Search:
    """Finds the values of some ranks (0-based, of n_rows rows in rising order) from rounds of joint counts.

    whole: all rows are known to be whole numbers of LEAST_WHOLE..MOST_WHOLE, and the search is among these.

    min_rows: a bracket is never narrowed to fewer rows than this (1: down to the exact value). A bracket of one key
    holds equal values; it is narrowed to that key only where min_rows rows or more have it. With more than one, a
    round that does not halve a bracket is its last; the last of all is the one of number MOST_ROUNDS.

    Disclosure: pivots and counts show the joint distribution as finely as the search went, and nothing finer.
    """

    def __init__(self, ranks: Sequence[int], *, n_rows: int, min_rows: int = 1, whole: bool = False) -> None:
        if not all(0 <= rank < n_rows for rank in ranks):
            raise ValueError("A rank lies outside the rows.")
        if min_rows < 1:
            raise ValueError("min_rows is 1 or more.")
        self.min_rows = min_rows
        self.whole = whole
        self._n_rounds = 0
        least, most = (LEAST_WHOLE, MOST_WHOLE) if whole else (_LEAST, _MOST)
        self.brackets = {rank: Bracket(least, most + 1, 0, n_rows) for rank in ranks}
        self._stopped = {rank for rank in ranks if n_rows < min_rows}

    def pivots(self) -> Pivots:
        """Rising: count the rows below each, then call `narrow`. Empty once no bracket can be narrowed further."""
        return self._values(self._pivot_keys())

    def narrow(self, counts: Sequence[int]) -> None:
        """Takes how many rows of all hospitals lie below each of `pivots`. ValueError for counts that cannot be."""
        keys = self._pivot_keys()
        if len(counts) != len(keys):
            raise ValueError("There is not one count for each pivot.")
        known = dict(zip(keys, map(int, counts), strict=True))
        for bracket in self.brackets.values():
            known |= {bracket.low: bracket.n_below, bracket.high: bracket.n_below + bracket.n_within}
        if sorted(known.values()) != [known[key] for key in sorted(known)]:
            raise ValueError("The counts do not rise with the pivots.")
        for rank in set(self.brackets) - self._stopped:
            self._narrow_one(rank, known)
        self._n_rounds += 1

    def found(self, rank: int) -> Found:
        """The value of a rank: exact at the end of a search, else by the rank's place within its bracket."""
        bracket = self.brackets[rank]
        low, high = self._values([bracket.low, bracket.high - 1]).tolist()
        if bracket.high - bracket.low == 1:
            return Found(low, True, low, high)
        share = (2 * (rank - bracket.n_below) + 1) / (2 * bracket.n_within)
        return Found(interpolated(low, high, share), False, low, high)

    def _values(self, keys: Sequence[int]) -> Pivots:
        return np.array(keys, dtype=object) if self.whole else values_of(np.array(keys, dtype=np.int64))

    def _pivot_keys(self) -> list[int]:
        keys: set[int] = set()
        if self._n_rounds == MOST_ROUNDS:
            return []
        for rank, bracket in self.brackets.items():
            if rank not in self._stopped:
                width = bracket.high - bracket.low
                keys |= {bracket.low + width * i // SECTIONS for i in range(1, SECTIONS)}
                keys -= {bracket.low, bracket.high}
        return sorted(keys)

    def _narrow_one(self, rank: int, known: dict[int, int]) -> None:
        """The smallest run of neighbouring sections around the rank that holds min_rows rows."""
        old = self.brackets[rank]
        keys = [key for key in sorted(known) if old.low <= key <= old.high]
        right = next(i for i, key in enumerate(keys) if known[key] > rank)
        left = right - 1
        while known[keys[right]] - known[keys[left]] < self.min_rows:
            gains = {
                left - 1: known[keys[left]] - known[keys[left - 1]] if left else -1,
                right + 1: known[keys[right + 1]] - known[keys[right]] if right + 1 < len(keys) else -1,
            }
            chosen = max(gains, key=lambda place: gains[place])
            left, right = min(left, chosen), max(right, chosen)
        new = Bracket(keys[left], keys[right], known[keys[left]], known[keys[right]] - known[keys[left]])
        self.brackets[rank] = new
        if new.high - new.low == 1 or 2 * (new.high - new.low) > old.high - old.low:
            self._stopped.add(rank)


def quantile_ranks(q: float, n_rows: int) -> tuple[int, int, float]:
    """The two ranks between which the q-quantile lies, and its place between them: numpy's method "linear".

    In doubles, as numpy computes them, so that the answers are the same to the last bit.

    >>> quantile_ranks(0.25, 11)
    (2, 3, 0.5)

    ValueError for q outside 0..1 or without rows.
    """
    if not 0 <= q <= 1 or n_rows < 1:
        raise ValueError("A quantile needs rows, and q between 0 and 1.")
    place = (n_rows - 1) * float(q)
    low = int(place)
    return low, low + (place > low), place - low


def interpolated(low: float, high: float, share: float) -> float:
    """low + share (high - low) from the nearer end, as numpy does; rounded once where the difference overflows."""
    difference = high - low
    if isinf(difference):
        return nearest(Fraction(low) + Fraction(share) * (Fraction(high) - Fraction(low)))
    return low + difference * share if share < 0.5 else high - difference * (1 - share)


def interpolated_whole(low: int, high: int, q: float, n_rows: int) -> Number:
    """The q-quantile between the two whole numbers at the ranks of `quantile_ranks`, told with all its digits.

    Up to 2^53 both are doubles, and the answer is the one of `interpolated`, to the last bit. Beyond it is
    low + (q (n_rows - 1) - rank of low) (high - low) in rational arithmetic, q being the decimal that is written.

    >>> interpolated_whole(3, 4, 0.5, 2), interpolated_whole(2**60 + 1, 2**60 + 4, 0.1, 2)
    (3.5, Decimal('1152921504606846977.3'))

    ValueError as `quantile_ranks`.
    """
    rank, _, share = quantile_ranks(q, n_rows)
    if max(abs(low), abs(high)) <= LARGEST_WHOLE:
        return interpolated(float(low), float(high), share)
    exact_share = Fraction(repr(float(q))) * (n_rows - 1) - rank
    # the rank was found in doubles, which may have rounded the place over a neighbour
    return told(low + min(max(exact_share, Fraction(0)), Fraction(1)) * (high - low))
