"""Exact sums of columns of doubles, and of their products, by group.

A double is written in the base 2^20, as 1234 is in the base ten: with digits, each on a place. A sum of
numbers is then a sum of digits on each place, and a sum of products is a sum of products of two digits on
each place, as in long multiplication. A digit is a whole number of at most 2^19 in size, and a block has 2^14
rows, so that all that is added up in doubles are whole numbers of at most 2^53. A double holds each of them:
numpy makes no error, in whatever order it adds.

After the error-free matrix products of Ozaki, Ogita, Oishi and Rump (2012). To read next: what receivers make
of the sums, `analytics.statistics.exact`.

Decision 65.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import frexp, isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analytics.arrays import Bools, Floats, Ints

DIGIT_BITS = 20
LEAST_EXPONENT = -1_080
"""A digit on place 0 counts 2^-1080: the first multiple of the base below the smallest double, 2^-1074."""

# An array of 128 kB: memory for larger ones is given back after each step, and to ask for it again takes as
# long as all of the arithmetic.
BLOCK_ROWS = 2**14
SPREAD_BITS = 64  # the numbers of a part of a block have seven digits at most: they reach over 64 + 53 bits
CARRY_BLOCKS = 2**7  # so many blocks add up to less than 2^63, at most 7 x 2^53 on a place in each


class ExactSums:
    """By group, sum x_i of each column and sum x_i x_j of each pair of columns, whatever the batches of rows.

    >>> sums = ExactSums(n_columns=1)
    >>> sums.add([np.array([1e300, 3.0, -1e300])], np.zeros(3, dtype=np.int64))
    >>> [total >> 1080 for total in sums.totals(0)]
    [3]

    Disclosure: as much as the sums say of the rows.
    """

    def __init__(self, n_columns: int, n_groups: int = 1) -> None:
        self._n_groups = n_groups
        self._n_blocks = 0
        self._totals = [_PlaceSums(n_groups) for _ in range(n_columns)]
        pairs = combinations_with_replacement(range(n_columns), 2)
        self._products = {pair: _PlaceSums(n_groups) for pair in pairs}

    def add(self, columns: Sequence[Floats], groups: Ints) -> None:
        """Add rows: columns float64 (n_rows,), finite; groups int64 (n_rows,), 0 to n_groups - 1.

        ValueError for a number that is not finite.
        """
        rows = _Rows(list(columns), groups)
        # In blocks: their digits stay in the processor's cache, and their sums within 2^53.
        for start in range(0, len(groups), BLOCK_ROWS):
            block = rows.at(slice(start, start + BLOCK_ROWS))
            for part in _similar(block):
                self._add_part(part)
            # An int64 holds the sums of so many blocks and no more.
            self._n_blocks += 1
            if self._n_blocks % CARRY_BLOCKS == 0:
                self._carry()

    def totals(self, column: int) -> list[int]:
        """By group, sum x in units of 2^-1080."""
        return self._totals[column].whole()

    def products(self, a: int, b: int) -> list[int]:
        """By group, sum x_a x_b in units of 2^-2160, for a <= b."""
        return self._products[a, b].whole()

    def _add_part(self, part: _Rows) -> None:
        digits = [digits_of(column) for column in part.columns]
        for column, sums in enumerate(self._totals):
            self._add_digits(sums, digits[column], part.groups)
        for (a, b), sums in self._products.items():
            products = _squares(digits[a]) if a == b else _products(digits[a], digits[b])
            self._add_digits(sums, products, part.groups)

    def _add_digits(
        self,
        sums: _PlaceSums,
        digits: Iterable[Digit],
        groups: Ints,
    ) -> None:
        for digit in digits:
            by_group = self._sum(digit.values, groups)
            sums.add(digit.place, by_group)

    def _sum(self, values: Floats, groups: Ints) -> Floats:
        if self._n_groups == 1:
            return np.array([values.sum()])
        by_group = np.bincount(groups, weights=values, minlength=self._n_groups)
        return np.asarray(by_group, dtype=np.float64)

    def _carry(self) -> None:
        for totals in self._totals:
            totals.carry()
        for products in self._products.values():
            products.carry()


@dataclass(frozen=True)
class _Rows:
    """Columns of doubles, and the group of each row."""

    columns: list[Floats]
    groups: Ints

    def at(self, where: slice | Bools) -> _Rows:
        columns = [column[where] for column in self.columns]
        return _Rows(columns, self.groups[where])


def _similar(rows: _Rows, column: int = 0) -> Iterator[_Rows]:
    """The rows in parts: within each, the numbers of a column are zero or within 2^64 of its largest.

    A part so has few digits, though doubles reach from 2^-1074 to 2^1024: nearly always it is all rows.
    """
    if column == len(rows.columns):
        yield rows
        return
    while len(rows.groups):
        sizes = np.abs(rows.columns[column])
        largest = sizes.max()
        if not isfinite(largest):
            raise ValueError("A number is not finite.")
        bound = largest * 2.0**-SPREAD_BITS
        is_far = (sizes < bound) & (sizes > 0)
        if not is_far.any():
            yield from _similar(rows, column + 1)
            return
        yield from _similar(rows.at(~is_far), column + 1)
        rows = rows.at(is_far)


@dataclass(frozen=True)
class Digit:
    """One digit of many numbers: values[row] 2^(20 place - 1080) is a part of the row's number."""

    place: int
    values: Floats


def digits_of(numbers: Floats) -> list[Digit]:
    """Finite doubles in the base 2^20, from the first place on which one has a digit down to the last.

    >>> [(digit.place, digit.values.tolist()) for digit in digits_of(np.array([2.0**20 + 5, -3.0]))]
    [(55, [1.0, -0.0]), (54, [5.0, -3.0])]
    """
    largest = np.abs(numbers).max(initial=0.0)
    _, exponent = frexp(largest)
    # Every number is below 2^exponent, and so below 2^18 on this place.
    place = (exponent + 1 - LEAST_EXPONENT) // DIGIT_BITS
    unit_exponent = DIGIT_BITS * place + LEAST_EXPONENT
    # To scale by a power of two is exact, and so is every step that follows: bits move, and none is lost.
    rest = np.ldexp(numbers, -unit_exponent)
    digits: list[Digit] = []
    while rest.any():
        # To the nearest whole number, which leaves at most a half: a next digit of at most 2^19.
        values = np.rint(rest)
        digits.append(Digit(place, values))
        rest -= values
        rest *= 2.0**DIGIT_BITS
        place -= 1
    return digits


def _products(left: list[Digit], right: list[Digit]) -> Iterator[Digit]:
    """The products of two columns, as sums of digits up to 2^38: long multiplication."""
    for a in left:
        for b in right:
            yield Digit(a.place + b.place, a.values * b.values)


def _squares(digits: list[Digit]) -> Iterator[Digit]:
    """The same of a column with itself, up to 2^39: a b and b a are added at once."""
    for i, a in enumerate(digits):
        yield Digit(2 * a.place, a.values * a.values)
        twice = 2 * a.values
        for b in digits[i + 1 :]:
            yield Digit(a.place + b.place, twice * b.values)


class _PlaceSums:
    """A whole number for each group, as sums on places that are not carried yet: they may exceed a digit."""

    def __init__(self, n_groups: int) -> None:
        self._n_groups = n_groups
        self._places: dict[int, Ints] = {}
        # Python's whole numbers, of any size
        self._carried: NDArray[Any] = np.zeros(n_groups, dtype=object)

    def add(self, place: int, by_group: Floats) -> None:
        if place not in self._places:
            self._places[place] = np.zeros(self._n_groups, dtype=np.int64)
        self._places[place] += by_group.astype(np.int64)

    def carry(self) -> None:
        for place, sums in self._places.items():
            self._carried += sums.astype(object) << DIGIT_BITS * place
        self._places.clear()

    def whole(self) -> list[int]:
        self.carry()
        found: list[int] = self._carried.tolist()
        return found
