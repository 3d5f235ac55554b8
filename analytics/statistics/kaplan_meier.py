"""Survival curves at given times, from counts of events and censored people between them.

Between two times a and b (a, b], of n people who are at risk after a, d have the event and
c are last seen without it. Where d or c is 0 in every interval so far, the curve at b,

    S = product of (1 - d / n)

is Kaplan and Meier's of the single times, exactly: without a censored person between them
the factors of an interval's events multiply to (n - d) / n. Else it lies between that
product and that of 1 - d / (n - c), and is estimated as by a life table, with
1 - d / (n - c / 2).

Source: Kaplan and Meier 1958; Greenwood 1926; the interval on the scale of log(-log S),
Kalbfleisch and Prentice 2002, section 1.4.

Decision 90.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

CONFIDENCE = 0.95
EXACT, LIFE_TABLE = "exact", "life_table"


class Point(NamedTuple):
    """A curve at one time, and what happened since the time before."""

    time: float
    kind: str  # EXACT or LIFE_TABLE
    survival: float
    se: float
    # The ends of the interval; None where the curve is 0.
    low: float | None
    high: float | None
    # Between which Kaplan and Meier's curve lies; equal where it is exact.
    lower_bound: float
    upper_bound: float
    at_risk: int  # who is followed beyond the time
    events: int
    censored: int


class Interval(NamedTuple):
    """In which a number lies; None where the curve does not come so far."""

    low: float | None
    high: float | None


def curve(
    edges: Sequence[float], events: Sequence[int], censored: Sequence[int]
) -> list[Point]:
    """The curve at 0 and at each edge.

    edges: times above 0, rising; events, censored: how many people until the first edge,
    between each two, and beyond the last one (len(edges) + 1). Disclosure: of joint
    counts, which receivers have opened.
    """
    n = sum(events) + sum(censored)
    survival = lower = upper = 1.0
    greenwood = 0.0
    is_exact = True
    points = [Point(0.0, EXACT, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, n, 0, 0)]
    # Who is last seen beyond the last edge counts in n only: the zip ends before.
    for edge, d, c in zip(edges, events, censored, strict=False):
        if d:
            is_exact = is_exact and c == 0
            exposed = n - c / 2
            survival *= 1 - d / exposed
            # Never by 0: those d are among the n - c.
            lower *= 1 - d / (n - c)
            upper *= 1 - d / n
            # At 0 there is no error that could be told.
            if exposed > d:
                greenwood += d / (exposed * (exposed - d))
        n -= d + c
        low, high = _interval(survival, greenwood)
        point = Point(
            time=edge,
            kind=EXACT if is_exact else LIFE_TABLE,
            survival=survival,
            se=survival * math.sqrt(greenwood),
            low=low,
            high=high,
            lower_bound=lower,
            upper_bound=upper,
            at_risk=n,
            events=d,
            censored=c,
        )
        points.append(point)
    return points


def _interval(survival: float, greenwood: float) -> tuple[float | None, float | None]:
    from scipy import special

    if survival == 1:
        return 1.0, 1.0
    if survival <= 0:
        return None, None
    z = float(special.ndtri(0.5 + CONFIDENCE / 2))
    width = z * math.sqrt(greenwood) / abs(math.log(survival))
    return survival ** math.exp(width), survival ** math.exp(-width)


def median(points: Sequence[Point]) -> Interval:
    """Between which two times the curve falls to one half, whatever it is between its
    bounds.
    """
    low_time = None
    for point in points:
        if point.lower_bound > 0.5:
            low_time = point.time
        if point.upper_bound <= 0.5:
            return Interval(low_time, point.time)
    return Interval(low_time, None)


def restricted_mean(points: Sequence[Point]) -> Interval:
    """Between which numbers the mean time until the last edge lies, of those who are
    followed so long: the area below the curve, which falls somewhere between two times.
    """
    low_area = high_area = 0.0
    for before, after in itertools.pairwise(points):
        length = after.time - before.time
        low_area += length * after.lower_bound
        high_area += length * before.upper_bound
    return Interval(low_area, high_area)
