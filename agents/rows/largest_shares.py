"""What the largest rows of a group make of its sums: what the rule of dominance looks at.

A sum of which one or two rows make nearly all tells these rows. Shares are never less
than the truth, and the truth (to 12 digits) where they are of interest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from agents.rows.column_text import Number
from agents.rows.dataset import Dataset
from agents.rows.row_groups import Groups, rows_sql
from analytics.statistics.exact import UNIT, Moments

SHARE_OF_INTEREST = Fraction(1, 10)


@dataclass(frozen=True)
class LargestShares:
    """What the two largest rows of a group make."""

    sizes: Fraction  # of sum |x|
    squares: Fraction  # of sum x^2


def largest_shares(
    dataset: Dataset,
    number: Number,
    groups: Groups,
    moments: Sequence[Moments],
    *,
    where: str,
) -> list[LargestShares]:
    """By group, what the two largest |x| make of sum |x| and of sum x^2."""
    if len(moments) == 1:
        # A bound of the squares' share is one of the other.
        bound = _share_bound(number, moments[0])
        if bound <= SHARE_OF_INTEREST:
            return [LargestShares(bound, bound)]
    # Of sizes of at most 1 no sum overflows.
    scale = 2.0 ** -max(number.top, -1_000)
    size = f"abs({number.double}) * CAST('{scale!r}' AS DOUBLE)"
    size_rows = rows_sql(groups.cells, [size], where)
    aggregates = "max(c0, 2), sum(c0), sum(c0 * c0)"
    if groups.cells:
        sql = f"SELECT code, {aggregates} FROM ({size_rows}) GROUP BY code"  # noqa: S608
    else:
        sql = f"SELECT 0, {aggregates} FROM ({size_rows})"  # noqa: S608
    nothing = Fraction(0)
    shares = [LargestShares(nothing, nothing)] * len(moments)
    for code, two_largest, total, squares in dataset.query(sql):
        largest_squares = [size**2 for size in two_largest or ()]
        has_values = bool(moments[code].squares)
        shares[code] = LargestShares(
            _share(two_largest, total, has_values=has_values),
            _share(largest_squares, squares, has_values=has_values),
        )
    return shares


def _share(
    largest: Sequence[float] | None, total: float | None, *, has_values: bool
) -> Fraction:
    if largest and total:
        share = round(sum(largest) / total, 12)
        return min(Fraction(1), Fraction(str(share)))
    # So much smaller than other groups that nothing is known: the rule has to withhold
    # them.
    return Fraction(1) if has_values else Fraction(0)


def _share_bound(number: Number, moments: Moments) -> Fraction:
    """2 max^2 / sum x^2, without a look at the rows: no less than the share, as sum |x|
    >= sum x^2 / max.
    """
    largest = Fraction(2) ** number.top
    squares = Fraction(moments.squares, UNIT**2)
    return 2 * largest**2 / squares if squares else Fraction(1)
