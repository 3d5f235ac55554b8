"""Exact sums of columns of doubles, and of their products, by group.

A double is written in the base 2^20, as 1234 is in the base ten: with digits, each
with the exponent of its place. A sum of numbers is then a sum of digits on each place,
and a sum of products is a sum of products of two digits, as in long multiplication. A
digit is a whole number of at most 2^19 in size, and a block has 2^14 rows, so that all
that is added up in doubles are whole numbers of at most 2^53. A double holds each of
them: numpy makes no error, in whatever order it adds.

Where the places lie is free, as long as they are 20 powers of two apart: on a grid that
fits the first rows of a column, its numbers often have one digit less.

After the error-free matrix products of Ozaki, Ogita, Oishi and Rump (2012). To read
next: what receivers make of the sums, `analytics.statistics.exact`.

Decision 65.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import frexp, isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analytics.arrays import Bools, Floats, Ints

DIGIT_BITS = 20
SIZE_BITS = DIGIT_BITS - 1  # of a digit without its sign
# A grid leaves so many free, for numbers larger than those of the first rows.
SPARE_BITS = 2
LEAST_EXPONENT = -1_100
"""No digit of a double counts less than 2^-1100: the smallest double is 2^-1074."""

# An array of 128 kB: memory for larger ones is given back after each step, and to ask
# for it again takes as long as all of the arithmetic.
BLOCK_ROWS = 2**14
# The numbers of a part of a block have seven digits at most: they reach over 64 + 53
# bits.
SPREAD_BITS = 64
# So many blocks add up to less than 2^63: at most 7 x 2^53 on a place in each.
CARRY_BLOCKS = 2**7


class ExactSums:
    """By group, sum x_i of each column and sum x_i x_j of each pair of columns,
    whatever the batches of rows.

    >>> sums = ExactSums(n_columns=1)
    >>> sums.add([np.array([1e300, 3.0, -1e300])], np.zeros(3, dtype=np.int64))
    >>> [total >> 1100 for total in sums.totals(0)]
    [3]

    Disclosure: as much as the sums say of the rows.
    """

    def __init__(
        self,
        n_columns: int,
        n_groups: int = 1,
    ) -> None:
        self._n_groups = n_groups
        self._n_blocks = 0
        # By column, from its first rows on: with one grid for all of them a column has
        # as few places as it can, and a place takes memory for every group.
        self._grids: dict[int, int] = {}
        self._totals: list[_DigitSums] = []
        for _ in range(n_columns):
            column_totals = _DigitSums(n_groups, LEAST_EXPONENT)
            self._totals.append(column_totals)
        self._products: dict[tuple[int, int], _DigitSums] = {}
        for pair in combinations_with_replacement(range(n_columns), 2):
            product = _DigitSums(n_groups, 2 * LEAST_EXPONENT)
            self._products[pair] = product

    def add(
        self,
        columns: Sequence[Floats],
        groups: Ints,
    ) -> None:
        """Add rows: columns float64 (n_rows,), finite; groups int64 (n_rows,), 0 to
        n_groups - 1.

        ValueError for a number that is not finite.
        """
        rows = _Rows(list(columns), groups)
        # In blocks: their digits stay in the processor's cache, and their sums within
        # 2^53.
        for start in range(0, len(groups), BLOCK_ROWS):
            stop = start + BLOCK_ROWS
            block = rows.at(slice(start, stop))
            for part in _similar(block):
                self._add_part(part)
            # An int64 holds the sums of so many blocks and no more.
            self._n_blocks += 1
            if self._n_blocks % CARRY_BLOCKS == 0:
                self._carry()

    def totals(self, column: int) -> list[int]:
        """By group, sum x in units of 2^-1100."""
        return self._totals[column].whole()

    def products(
        self,
        a: int,
        b: int,
    ) -> list[int]:
        """By group, sum x_a x_b in units of 2^-2200, for a <= b."""
        pair = (a, b)
        return self._products[pair].whole()

    def _add_part(self, part: _Rows) -> None:
        groups = part.groups
        digits: list[list[Digit]] = []
        for column, numbers in enumerate(part.columns):
            if column not in self._grids:
                self._grids[column] = fitting_grid(numbers)
            grid = self._grids[column]
            digits.append(digits_of(numbers, grid))
        for column, column_totals in enumerate(self._totals):
            for digit in digits[column]:
                by_group = self._sum(digit.values, groups)
                column_totals.add(digit.exponent, by_group)
        for (left_column, right_column), products in self._products.items():
            if left_column == right_column:
                self._add_squares(products, digits[left_column], groups)
            else:
                self._add_products(
                    products,
                    left=digits[left_column],
                    right=digits[right_column],
                    groups=groups,
                )

    def _add_products(
        self,
        products: _DigitSums,
        left: list[Digit],
        right: list[Digit],
        groups: Ints,
    ) -> None:
        """Long multiplication: every digit by every digit."""
        for a in left:
            for b in right:
                exponent = a.exponent + b.exponent
                by_group = self._sum_of_products(a.values, b.values, groups)
                products.add(exponent, by_group)

    def _add_squares(
        self,
        squares: _DigitSums,
        digits: list[Digit],
        groups: Ints,
    ) -> None:
        """The same of a column with itself, where a b and b a are one product."""
        for i, a in enumerate(digits):
            by_group = self._sum_of_products(a.values, a.values, groups)
            squares.add(2 * a.exponent, by_group)
            for b in digits[i + 1 :]:
                exponent = a.exponent + b.exponent
                by_group = self._sum_of_products(a.values, b.values, groups)
                by_group *= 2
                squares.add(exponent, by_group)

    def _sum(
        self,
        values: Floats,
        groups: Ints,
    ) -> int | Ints:
        """By group, a sum of whole numbers; a plain number where there is one group."""
        if self._n_groups == 1:
            return int(values.sum())
        by_group = np.bincount(groups, weights=values, minlength=self._n_groups)
        return by_group.astype(np.int64)

    def _sum_of_products(
        self,
        left: Floats,
        right: Floats,
        groups: Ints,
    ) -> int | Ints:
        if self._n_groups == 1:
            # In one pass and on this thread, which a product by BLAS would not be.
            return int(np.einsum("i,i->", left, right))
        return self._sum(left * right, groups)

    def _carry(self) -> None:
        for column_totals in self._totals:
            column_totals.carry()
        for products in self._products.values():
            products.carry()


@dataclass(frozen=True)
class _Rows:
    """Columns of doubles, and the group of each row."""

    columns: list[Floats]
    groups: Ints

    def at(self, where: slice | Bools) -> _Rows:
        columns = [column[where] for column in self.columns]
        groups = self.groups[where]
        return _Rows(columns, groups)


def _similar(
    rows: _Rows,
    column: int = 0,
) -> Iterator[_Rows]:
    """The rows in parts: within each, the numbers of a column are zero or within 2^64
    of its largest.

    A part so has few digits, though doubles reach from 2^-1074 to 2^1024: nearly always
    it is all rows.
    """
    if column == len(rows.columns):
        yield rows
        return
    while len(rows.groups):
        magnitudes = np.abs(rows.columns[column])
        largest = magnitudes.max()
        if not isfinite(largest):
            raise ValueError("A number is not finite.")
        bound = largest * 2.0**-SPREAD_BITS
        # The smallest number nearly always answers it, in less time than all of them.
        if magnitudes.min() >= bound:
            yield from _similar(rows, column + 1)
            return
        is_far = (magnitudes < bound) & (magnitudes > 0)
        if not is_far.any():
            yield from _similar(rows, column + 1)
            return
        yield from _similar(rows.at(~is_far), column + 1)
        rows = rows.at(is_far)


@dataclass(frozen=True)
class Digit:
    """One digit of many numbers: values[row] 2^exponent is a part of the row's number."""

    exponent: int
    values: Floats


def fitting_grid(numbers: Floats) -> int:
    """The grid on which the first digit of numbers like these is nearly full."""
    above = _exponent_above(numbers) + SPARE_BITS
    first_exponent = above - SIZE_BITS
    return first_exponent % DIGIT_BITS


def digits_of(
    numbers: Floats,
    grid: int = 0,
) -> list[Digit]:
    """Finite doubles in the base 2^20, from the first digit down to the last.

    Modulo 20, the exponents of all digits are `grid`.

    >>> numbers = np.array([2.0**20 + 5, -3.0])
    >>> [(digit.exponent, digit.values.tolist()) for digit in digits_of(numbers)]
    [(20, [1.0, -0.0]), (0, [5.0, -3.0])]
    """
    # With this exponent or a larger one, the first digit of every number is below 2^19.
    least_exponent = _exponent_above(numbers) - SIZE_BITS
    to_grid = (grid - least_exponent) % DIGIT_BITS
    exponent = least_exponent + to_grid
    # To scale by a power of two is exact, and so is every step that follows: bits move,
    # and none is lost.
    rest = np.ldexp(numbers, -exponent)
    digits: list[Digit] = []
    while rest.any():
        # To the nearest whole number, which leaves at most a half: a next digit of at
        # most 2^19.
        digit_values = np.rint(rest)
        digits.append(Digit(exponent, digit_values))
        rest -= digit_values
        rest *= 2.0**DIGIT_BITS
        exponent -= DIGIT_BITS
    return digits


def _exponent_above(numbers: Floats) -> int:
    """The least e for which every |number| is below 2^e."""
    highest = numbers.max(initial=0.0)
    lowest = numbers.min(initial=0.0)
    largest = max(highest, -lowest)
    _, exponent = frexp(largest)
    return exponent


class _DigitSums:
    """A whole number for each group, in units of 2^least_exponent, as sums of digits
    that are not carried yet: they may exceed a digit.
    """

    def __init__(self, n_groups: int, least_exponent: int) -> None:
        self._least_exponent = least_exponent
        # By the digit's exponent: of all groups, or a plain number of a single one
        self._sums: dict[int, int | Ints] = {}
        # Python's whole numbers, of any size
        self._carried: NDArray[Any] = np.zeros(n_groups, dtype=object)

    def add(
        self,
        exponent: int,
        by_group: int | Ints,
    ) -> None:
        if exponent in self._sums:
            self._sums[exponent] += by_group
        else:
            self._sums[exponent] = by_group

    def carry(self) -> None:
        for exponent, sums in self._sums.items():
            exact_sums = np.array(sums, dtype=object)
            n_bits = exponent - self._least_exponent
            self._carried += exact_sums << n_bits
        self._sums.clear()

    def whole(self) -> list[int]:
        self.carry()
        totals: list[int] = self._carried.tolist()
        return totals
