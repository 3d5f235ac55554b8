"""What a provider adds up over its rows: exact sums of one column, of two, of several,
in bounded memory.

DuckDB reads the rows, a batch at a time, and says to which group each belongs. A column
comes from it as one or a few columns of doubles (`column_text`), which
`analytics.statistics.exact_arrays` adds without an error. Texts that no few doubles
hold come as they are written, and are added one by one.

To read next: `row_groups` for the groups and their counts, `largest_shares` for what
the rule of dominance needs; `agents.statistics.pooled`, which contributes the sums, and
`agents.gate.disclosure`, which decides what is withheld.

Decisions 32 and 65.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from agents.rows.column_text import Number, finite_doubles, not_finite, number_of
from agents.rows.dataset import Dataset
from agents.rows.largest_shares import largest_shares
from agents.rows.row_groups import (
    Groups,
    Label,
    aliases,
    groups_of,
    has_all_sql,
    rows_sql,
)
from analytics.arrays import Floats, Ints
from analytics.statistics.exact import JointMoments, MatrixMoments, Moments, scaled
from analytics.statistics.exact_arrays import LEAST_EXPONENT, ExactSums
from protocol.errors import BadRequest


@dataclass(frozen=True)
class GroupTotals:
    """One group of this provider's rows."""

    n_rows: int
    n_null: int  # so many of them have no value
    moments: Moments
    # Of sum |x|, what its two largest make: never less than the truth, and the truth
    # (to 12 digits) where it is above SHARE_OF_INTEREST.
    largest_share: Fraction
    # The same of sum x^2.
    largest_square_share: Fraction


@dataclass(frozen=True)
class JointPart:
    """The same for two columns."""

    n_rows: int
    n_null: int  # so many of them lack a value in one of the two
    moments: JointMoments
    largest_share: Fraction  # the larger one of x and of y
    largest_square_share: Fraction  # likewise, of their squares


@dataclass(frozen=True)
class MatrixPart:
    """The same for several columns."""

    moments: MatrixMoments
    largest_share: Fraction  # the largest one of any column
    largest_square_share: Fraction  # likewise, of their squares


def moments(
    dataset: Dataset,
    column: str,
    *,
    group_by: Sequence[str] = (),
) -> dict[Label, GroupTotals]:
    """n, sum x and sum x^2 of a column, exact, by group; labels are canonical texts in
    order of `group_by`.

    Ungrouped, the one label is (). A group without any value is there with n = 0.
    Raises BadRequest as `number_of`, TooLarge (code groups) above MAX_GROUPS.

    Disclosure: sums of rows; they leave through agents.gate.disclosure and the sealed
    sum only.
    """
    number = number_of(dataset, column)
    groups = groups_of(dataset, [number], group_by)
    sums = _exact_sums(dataset, [number], groups)
    of_groups = [
        sums.moments(0, code, n=group.n_complete)
        for code, group in enumerate(groups.found)
    ]
    complete = has_all_sql([number])
    shares = largest_shares(dataset, number, groups, of_groups, where=complete)
    group_totals: dict[Label, GroupTotals] = {}
    for code, group in enumerate(groups.found):
        group_totals[group.label] = GroupTotals(
            n_rows=group.n_rows,
            n_null=group.n_rows - group.n_complete,
            moments=of_groups[code],
            largest_share=shares[code].sizes,
            largest_square_share=shares[code].squares,
        )
    return group_totals


def joint_moments(
    dataset: Dataset,
    x: str,
    y: str,
    *,
    group_by: Sequence[str] = (),
) -> dict[Label, JointPart]:
    """The sums of two columns and of their products, exact, over rows with a value in
    both; as `moments`.
    """
    number_x = number_of(dataset, x)
    number_y = number_of(dataset, y)
    numbers = [number_x, number_y]
    groups = groups_of(dataset, numbers, group_by)
    sums = _exact_sums(dataset, numbers, groups)
    of_groups = [
        sums.joint_moments(code, n=group.n_complete)
        for code, group in enumerate(groups.found)
    ]
    of_x = [joint.x for joint in of_groups]
    of_y = [joint.y for joint in of_groups]
    complete = has_all_sql(numbers)
    shares_x = largest_shares(dataset, number_x, groups, of_x, where=complete)
    shares_y = largest_shares(dataset, number_y, groups, of_y, where=complete)
    joint_parts: dict[Label, JointPart] = {}
    for code, group in enumerate(groups.found):
        joint_parts[group.label] = JointPart(
            n_rows=group.n_rows,
            n_null=group.n_rows - group.n_complete,
            moments=of_groups[code],
            largest_share=max(shares_x[code].sizes, shares_y[code].sizes),
            largest_square_share=max(shares_x[code].squares, shares_y[code].squares),
        )
    return joint_parts


def matrix_moments(
    dataset: Dataset,
    columns: Sequence[str],
    *,
    group_by: Sequence[str] = (),
) -> dict[Label, MatrixPart]:
    """The sums of several columns and of the products of each two, exact, over rows with
    a value in all of them; as `moments`.
    """
    numbers = [number_of(dataset, column) for column in columns]
    groups = groups_of(dataset, numbers, group_by)
    sums = _exact_sums(dataset, numbers, groups)
    n_groups = len(groups.found)
    largest = [Fraction(0)] * n_groups
    largest_squares = [Fraction(0)] * n_groups
    complete = has_all_sql(numbers)
    for number_place, number in enumerate(numbers):
        of_column = [
            sums.moments(number_place, code, n=group.n_complete)
            for code, group in enumerate(groups.found)
        ]
        shares = largest_shares(dataset, number, groups, of_column, where=complete)
        for code, share in enumerate(shares):
            largest[code] = max(largest[code], share.sizes)
            largest_squares[code] = max(largest_squares[code], share.squares)
    matrix_parts: dict[Label, MatrixPart] = {}
    for code, group in enumerate(groups.found):
        matrix_parts[group.label] = MatrixPart(
            moments=sums.matrix_moments(code, n=group.n_complete),
            largest_share=largest[code],
            largest_square_share=largest_squares[code],
        )
    return matrix_parts


class _Sums:
    """What some numbers add up to, by the code of a group; each list has one whole
    number for every code.
    """

    def __init__(self, n_numbers: int, n_groups: int) -> None:
        pairs = combinations_with_replacement(range(n_numbers), 2)
        # UNIT sum x_i
        self.totals = [[0] * n_groups for _ in range(n_numbers)]
        # UNIT^2 sum x_i x_j, for i <= j
        self.products = {pair: [0] * n_groups for pair in pairs}

    def add_row(self, code: int, values: Sequence[int]) -> None:
        for i, value in enumerate(values):
            self.totals[i][code] += value
        for (i, j), products in self.products.items():
            products[code] += values[i] * values[j]

    def moments(self, i: int, code: int, *, n: int) -> Moments:
        return Moments(
            n=n,
            total=self.totals[i][code],
            squares=self.products[i, i][code],
        )

    def matrix_moments(self, code: int, *, n: int) -> MatrixMoments:
        return MatrixMoments(
            n=n,
            totals=tuple(column_totals[code] for column_totals in self.totals),
            products=tuple(of_pair[code] for of_pair in self.products.values()),
        )

    def joint_moments(self, code: int, *, n: int) -> JointMoments:
        return JointMoments(
            n=n,
            total_x=self.totals[0][code],
            total_y=self.totals[1][code],
            squares_x=self.products[0, 0][code],
            squares_y=self.products[1, 1][code],
            products=self.products[0, 1][code],
        )


def _exact_sums(
    dataset: Dataset,
    numbers: Sequence[Number],
    groups: Groups,
) -> _Sums:
    """Over the rows with a value in every column: what doubles hold in arrays, the rest
    one by one.
    """
    sums = _Sums(len(numbers), len(groups.found))
    complete = has_all_sql(numbers)
    conditions = [number.regular for number in numbers if number.regular]
    regular = " AND ".join(conditions) or "true"
    n_added = _add_arrays(
        dataset,
        numbers,
        groups,
        sums,
        where=f"{complete} AND ({regular})",
    )
    n_complete = sum(group.n_complete for group in groups.found)
    if n_added < n_complete:
        _add_one_by_one(
            dataset,
            numbers,
            groups,
            sums,
            where=f"{complete} AND NOT ({regular})",
        )
    return sums


@dataclass(frozen=True)
class _OwnedPiece:
    """A piece of a number: a column of doubles."""

    owner: int  # the number that it is a piece of
    sql: str
    unit: int  # it counts in units of unit / UNIT


def _add_arrays(
    dataset: Dataset,
    numbers: Sequence[Number],
    groups: Groups,
    sums: _Sums,
    *,
    where: str,
) -> int:
    """Adds the rows in which doubles hold every number; returns how many they are."""
    pieces: list[_OwnedPiece] = []
    for owner, number in enumerate(numbers):
        for piece in number.pieces:
            pieces.append(_OwnedPiece(owner, piece.sql, piece.unit))
    exact = ExactSums(len(pieces), len(groups.found))
    n_rows = 0
    piece_cells = [piece.sql for piece in pieces]
    piece_aliases = aliases("c", len(pieces))
    for frame in dataset.frames(rows_sql(groups.cells, piece_cells, where)):
        columns: list[Floats] = []
        for piece_alias, owned in zip(piece_aliases, pieces, strict=True):
            column = finite_doubles(frame[piece_alias], numbers[owned.owner])
            columns.append(column)
        exact.add(columns, _codes(frame, groups))
        n_rows += len(frame)
    _put_together(pieces, exact, sums)
    return n_rows


def _codes(frame: Any, groups: Groups) -> Ints:
    """The code of each row's group: int64 (n_rows,)."""
    if not groups.cells:
        return np.zeros(len(frame), dtype=np.int64)
    codes: Ints = frame["code"].to_numpy(dtype=np.int64)
    return codes


def _put_together(
    pieces: Sequence[_OwnedPiece],
    exact: ExactSums,
    sums: _Sums,
) -> None:
    """Sums of numbers, of those of their pieces: x = a + b gives x^2 = a^2 + 2 a b +
    b^2, x y = a y + b y.
    """
    for i, piece in enumerate(pieces):
        owner_totals = sums.totals[piece.owner]
        for code, piece_total in enumerate(exact.totals(i)):
            owner_totals[code] += _whole(piece_total * piece.unit, -LEAST_EXPONENT)
    for i, left_piece in enumerate(pieces):
        for j, right_piece in enumerate(pieces[i:], start=i):
            product_unit = left_piece.unit * right_piece.unit
            if i != j and left_piece.owner == right_piece.owner:
                product_unit *= 2
            products = sums.products[left_piece.owner, right_piece.owner]
            for code, product in enumerate(exact.products(i, j)):
                products[code] += _whole(product * product_unit, -2 * LEAST_EXPONENT)


def _whole(number: int, bits: int) -> int:
    """number / 2^bits, which is whole, as all that is summed are multiples of 1 / UNIT."""
    quotient, remainder = divmod(number, 1 << bits)
    assert remainder == 0, "a number is no multiple of 1 / UNIT"
    return quotient


def _add_one_by_one(
    dataset: Dataset,
    numbers: Sequence[Number],
    groups: Groups,
    sums: _Sums,
    *,
    where: str,
) -> None:
    """Adds the rows with a number that is read from its text, such as 1e-300 or one of
    fifty digits.
    """
    exact_cells = [number.exact for number in numbers]
    for batch in dataset.batches(rows_sql(groups.cells, exact_cells, where)):
        for row in batch:
            code = row[0] if groups.cells else 0
            cell_values = row[-len(numbers) :]
            scaled_values = [
                _scaled(cell_value, number)
                for cell_value, number in zip(cell_values, numbers, strict=True)
            ]
            sums.add_row(code, scaled_values)


def _scaled(value: float | str, number: Number) -> int:
    if isinstance(value, float) and not math.isfinite(value):
        raise not_finite(number.name)
    try:
        return scaled(value)
    except ValueError:
        raise BadRequest(
            f"Column {number.name} holds a number with more digits than can be added exactly.",
            remedy="Round it: below 1.8e308, at most 400 digits after the point.",
            code="digits",
        ) from None
