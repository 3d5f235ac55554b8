"""The moments of numbers as they are defined, one by one: what every faster way has to
give.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from analytics.statistics.exact import JointMoments, Moments, scaled

Value = int | float | Fraction | str


def moments_of(values: Iterable[Value]) -> Moments:
    n = total = squares = 0
    for value in values:
        number = scaled(value)
        n, total, squares = n + 1, total + number, squares + number * number
    return Moments(n, total, squares)


def joint_moments_of(pairs: Iterable[tuple[Value, Value]]) -> JointMoments:
    sums = [0] * 6
    for left, right in pairs:
        x, y = scaled(left), scaled(right)
        sums = [
            a + b for a, b in zip(sums, (1, x, y, x * x, y * y, x * y), strict=True)
        ]
    return JointMoments(*sums)
