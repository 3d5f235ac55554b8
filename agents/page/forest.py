"""A model's estimates as a picture: a row for each term, a point and its interval. Pure:
numbers to places, the template draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from analytics.training.newton_report import INTERCEPT, RATIOS

# In units of the drawing's box.
LABEL_WIDTH = 180
PLOT_WIDTH = 420
NUMBERS_WIDTH = 190
LETTER_WIDTH = 7
"""At the most, of the digits of a row's numbers."""

ROW_HEIGHT = 24
TOP = 12
AXIS_HEIGHT = 30
MARGIN_SHARE = 0.05
FEWEST_STEPS = 4
"""Between ticks of an axis that is not of ratios, about."""
LARGEST_RATIO = 1e4
"""What is farther from 1 ends at the picture's edge; the table has the numbers."""


class Row(NamedTuple):
    """One term: where its line begins and ends, where its point is, and the numbers."""

    name: str
    y: float
    low: float
    x: float
    high: float
    numbers: str


class Tick(NamedTuple):
    x: float
    text: str


@dataclass(frozen=True)
class Forest:
    """Places in units of the drawing's own box, width by height."""

    width: int
    height: int
    rows: list[Row]
    ticks: list[Tick]
    # Where a term has no effect: a difference of 0, a ratio of 1.
    nothing: float
    axis: int
    # The field that the axis is of, as odds_ratio; estimate where there are no ratios.
    quantity: str


def ratio_name(terms: Sequence[Mapping[str, Any]]) -> str | None:
    """The field of a report's terms that is exp(estimate), if they have one."""
    for ratio in RATIOS:
        if any(ratio in term for term in terms):
            return ratio
    return None


def draw(report: Mapping[str, Any]) -> Forest | None:
    """The picture of all terms that have an interval, but for the intercept; None where
    none has.

    Ratios stand on an axis of logarithms.
    """
    ratio = ratio_name(report["terms"])
    drawn_terms = []
    for term in report["terms"]:
        is_intercept = term["term"] == INTERCEPT
        if not is_intercept and term["low"] is not None:
            drawn_terms.append(term)
    if not drawn_terms:
        return None
    bound = math.inf
    if ratio:
        bound = math.log(LARGEST_RATIO)
    ends = [0.0]
    for term in drawn_terms:
        ends.append(_within(term["low"], bound))
        ends.append(_within(term["high"], bound))
    first = min(ends)
    last = max(ends)
    margin = (last - first) * MARGIN_SHARE or 1.0
    axis = _Axis(first - margin, last + margin)
    rows = []
    for row_place, term in enumerate(drawn_terms):
        low = _within(term["low"], bound)
        estimate = _within(term["estimate"], bound)
        high = _within(term["high"], bound)
        row = Row(
            name=term["term"],
            y=TOP + ROW_HEIGHT * (row_place + 0.5),
            low=axis.place(low),
            x=axis.place(estimate),
            high=axis.place(high),
            numbers=_numbers(term, ratio),
        )
        rows.append(row)
    bottom = TOP + ROW_HEIGHT * len(rows)
    longest = max(len(row.numbers) for row in rows)
    width_of_longest = 2 * TOP + LETTER_WIDTH * longest
    numbers_width = max(NUMBERS_WIDTH, width_of_longest)
    return Forest(
        width=LABEL_WIDTH + PLOT_WIDTH + numbers_width,
        height=bottom + AXIS_HEIGHT,
        rows=rows,
        ticks=_ticks(axis, is_ratio=ratio is not None),
        nothing=axis.place(0.0),
        axis=bottom,
        quantity=ratio or "estimate",
    )


class _Axis(NamedTuple):
    first: float
    last: float

    def place(self, value: float) -> float:
        length = self.last - self.first
        share = (value - self.first) / length
        return round(LABEL_WIDTH + PLOT_WIDTH * share, 1)


def _within(value: float, bound: float) -> float:
    return max(-bound, min(bound, value))


def _numbers(term: Mapping[str, Any], ratio: str | None) -> str:
    """As a paper prints them: 1.35 (1.02 to 1.79)."""
    field_names = ("estimate", "low", "high")
    if ratio is not None:
        field_names = (ratio, f"{ratio}_low", f"{ratio}_high")
    field_texts = []
    for field_name in field_names:
        field_value = term[field_name]
        field_text = "∞" if field_value is None else f"{field_value:.3g}"
        field_texts.append(field_text)
    estimate, low, high = field_texts
    return f"{estimate} ({low} to {high})"


def _ticks(axis: _Axis, *, is_ratio: bool) -> list[Tick]:
    tick_values = _ratios(axis) if is_ratio else _steps(axis)
    ticks = []
    for tick_value in tick_values:
        along = math.log(tick_value) if is_ratio else tick_value
        tick = Tick(axis.place(along), f"{tick_value:.6g}")
        ticks.append(tick)
    return ticks


def _ratios(axis: _Axis) -> list[float]:
    """1, 2, 5 and their multiples by powers of ten; of a wide axis the powers alone."""
    decade = math.log(10)
    n_decades = (axis.last - axis.first) / decade
    leading = [1]
    if n_decades < 3:
        leading = [1, 2, 5]
    lowest = math.floor(axis.first / decade)
    highest = math.ceil(axis.last / decade)
    ratios = []
    for power in range(lowest, highest + 1):
        for digit in leading:
            ratio = digit * 10.0**power
            if axis.first <= math.log(ratio) <= axis.last:
                ratios.append(ratio)
    return ratios


def _steps(axis: _Axis) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    length = axis.last - axis.first
    exponent = math.floor(math.log10(length / FEWEST_STEPS))
    power = 10.0**exponent
    step = power
    for digit in (2, 5):
        larger = digit * power
        if length / larger >= FEWEST_STEPS:
            step = larger
    multiples = []
    number = math.ceil(axis.first / step)
    while number * step <= axis.last:
        multiples.append(number * step)
        number += 1
    return multiples
