"""The score test of proportional hazards in a Cox regression, from sums.

Every coefficient may change with time, b_j + theta_j g(t), and theta = 0 is tested. At
the estimate, with V the covariance of the columns over the risk set of an event at t,

    U = sum g (x - M)    I0 = sum V    I1 = sum g V    I2 = sum g^2 V

over all events are sums over hospitals. Column j is tested by

    U_j^2 / (I2_jj - I1_j' I0^-1 I1_j)

with one degree of freedom, all p columns together by U' (I2 - I1 I0^-1 I1)^-1 U with p.
A constant added to g changes neither.

Source: Grambsch and Therneau 1994, as a score test (R's survival from 3.0 on).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

import numpy as np

from analytics.arrays import Floats, check_name
from analytics.training import Ties, cox, newton
from analytics.training.cox import Stratum
from analytics.training.newton import Collinear, Opened

TimeScale = Literal["log", "identity"]
TIME_SCALES: tuple[TimeScale, ...] = ("log", "identity")


def n_sums(n_weights: int) -> int:
    """U, and the upper triangles of I2, I1 and I0."""
    return n_weights + 3 * (n_weights * (n_weights + 1) // 2)


def local_sums(
    strata: Sequence[Stratum], coef: Floats, *, ties: Ties, scale: TimeScale
) -> Floats:
    """One hospital's part at the estimate coef (p,), float64 (n_sums(p),).

    Raises ValueError as `cox.at_weights`. Disclosure: as `cox.local_sums`, weighted by
    the times; through the release door only, sealed.
    """
    check_name("scale", scale, TIME_SCALES)
    p = len(coef)
    U = np.zeros(p)
    squares = [np.zeros((p, p)) for _ in range(3)]
    for stratum in strata:
        at = cox.at_weights(stratum, coef, ties=ties)
        g = stratum.times[stratum.event_rows]
        if scale == "log":
            g = np.log(g)
        U += cox.score(stratum, at, g)
        for place, factors in enumerate((g * g, g, np.ones(len(g)))):
            squares[place] += cox.information(stratum, at, factors)
    triangles = [each[np.triu_indices(p)] for each in squares]
    return np.concatenate([U, *triangles])


def information(totals: Sequence[int], n_weights: int) -> list[list[int]]:
    """I0 of the totals, (p, p): the information at the estimate."""
    left = n_weights * (n_weights + 1) // 2
    return _square(totals[n_weights + 2 * left :], n_weights)


class Tested(NamedTuple):
    """chi2 of each column, float64 (p,), and of all together; None where time cannot be
    told from the columns: too few events.
    """

    columns: list[float | None]
    joint: float | None  # df p


def tested(totals: Sequence[int], n_weights: int, *, bits: int) -> Tested:
    """totals: n_sums(p) integers over 2**bits, in the order of `local_sums`.

    Raises Collinear where I0 is, which then is not the estimate's.
    """
    if len(totals) != n_sums(n_weights):
        raise ValueError("the sums are of another number of weights")
    scale = 2**bits
    U = np.array([value / scale for value in totals[:n_weights]])
    left = n_weights * (n_weights + 1) // 2
    I2 = _square(totals[n_weights:], n_weights)
    I1 = _square(totals[n_weights + left :], n_weights)
    I0 = information(totals, n_weights)
    inverse = newton.inverse(Opened(I0, [], 0.0, bits, True))
    second, first = _floats(I2, bits=bits), _floats(I1, bits=bits)
    rest = second - _product(_product(first, inverse), first)
    own = np.diag(second)
    columns: list[float | None] = []
    for place in range(n_weights):
        is_left = rest[place, place] > newton.SMALLEST_PIVOT * own[place]
        columns.append(float(U[place] ** 2 / rest[place, place]) if is_left else None)
    if None in columns:
        return Tested(columns, None)
    return Tested(columns, _quadratic(rest, U, bits=bits))


def _quadratic(rest: Floats, U: Floats, *, bits: int) -> float | None:
    """U' rest^-1 U, the columns in units of their own spread."""
    units = np.sqrt(np.diag(rest))
    scaled = rest / units[:, None] / units[None, :]
    U = U / units
    equations = Opened(
        _integers(scaled, bits), _integers(U[None], bits)[0], 0.0, bits, True
    )
    try:
        solved = newton.solve(equations)
    except Collinear:
        return None
    total = 0.0
    for left, right in zip(U.tolist(), solved.tolist(), strict=True):
        total += left * right
    return total


def _square(totals: Sequence[int], p: int) -> list[list[int]]:
    """The symmetric matrix whose upper triangle `totals` begins with."""
    found = [[0] * p for _ in range(p)]
    left = iter(totals)
    for row in range(p):
        for column in range(row, p):
            found[row][column] = found[column][row] = next(left)
    return found


def _integers(values: Floats, bits: int) -> list[list[int]]:
    return [
        [round(Fraction(each) * 2**bits) for each in row] for row in values.tolist()
    ]


def _floats(values: Sequence[Sequence[int]], *, bits: int) -> Floats:
    scale = 2**bits
    return np.array([[value / scale for value in row] for row in values])


def _product(left: Floats, right: Floats) -> Floats:
    """left @ right, elementwise, so that every hospital has the same bits."""
    found = np.zeros((len(left), right.shape[1]))
    for place in range(len(right)):
        found += left[:, place, None] * right[None, place, :]
    return found
