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
from typing import NamedTuple

import numpy as np

from analytics.arrays import Floats, check_name
from analytics.training import Ties, TimeScale, cox, normal_equations
from analytics.training.cox import Stratum
from analytics.training.normal_equations import Collinear, Opened

TIME_SCALES: tuple[TimeScale, ...] = ("log", "identity")


def n_sums(n_weights: int) -> int:
    """U, and the upper triangles of I2, I1 and I0."""
    return n_weights + 3 * _n_upper(n_weights)


def _n_upper(p: int) -> int:
    """How many numbers the upper triangle of a matrix (p, p) has."""
    return p * (p + 1) // 2


def local_sums(
    strata: Sequence[Stratum],
    coef: Floats,
    *,
    ties: Ties,
    scale: TimeScale,
) -> Floats:
    """One hospital's part at the estimate coef (p,), float64 (n_sums(p),).

    Raises ValueError as `cox.at_weights`. Disclosure: as `cox.local_sums`, weighted by
    the times; through the release door only, sealed.
    """
    check_name("scale", scale, TIME_SCALES)
    p = len(coef)
    U = np.zeros(p)
    I2 = np.zeros((p, p))
    I1 = np.zeros((p, p))
    I0 = np.zeros((p, p))
    for stratum in strata:
        risk_sums = cox.at_weights(stratum, coef, ties=ties)
        g = stratum.times[stratum.event_rows]
        if scale == "log":
            g = np.log(g)
        ones = np.ones(len(g))
        U += cox.score(stratum, risk_sums, g)
        I2 += cox.information(stratum, risk_sums, g * g)
        I1 += cox.information(stratum, risk_sums, g)
        I0 += cox.information(stratum, risk_sums, ones)
    upper = np.triu_indices(p)
    return np.concatenate(
        [
            U,
            I2[upper],
            I1[upper],
            I0[upper],
        ]
    )


def information(
    totals: Sequence[int],
    n_weights: int,
) -> list[list[int]]:
    """I0 of the totals, (p, p): the information at the estimate."""
    start = n_weights + 2 * _n_upper(n_weights)
    return _square(totals[start:], n_weights)


class Tested(NamedTuple):
    """chi2 of each column, float64 (p,), and of all together; None where time cannot be
    told from the columns: too few events.
    """

    columns: list[float | None]
    joint: float | None  # df p


def tested(
    totals: Sequence[int],
    n_weights: int,
    *,
    bits: int,
) -> Tested:
    """totals: n_sums(p) integers over 2**bits, in the order of `local_sums`.

    Raises Collinear where I0 is, which then is not the estimate's.
    """
    if len(totals) != n_sums(n_weights):
        raise ValueError("the sums are of another number of weights")
    scale = 2**bits
    U = np.array([value / scale for value in totals[:n_weights]])
    start_of_I1 = n_weights + _n_upper(n_weights)
    I2 = _square(totals[n_weights:], n_weights)
    I1 = _square(totals[start_of_I1:], n_weights)
    I0 = information(totals, n_weights)
    equations = Opened(
        A=I0,
        c=[],
        deviance=0.0,
        bits=bits,
        is_valid=True,
    )
    inverse = normal_equations.inverse(equations)
    second = _floats(I2, bits=bits)
    first = _floats(I1, bits=bits)
    explained = _product(_product(first, inverse), first)
    rest = second - explained

    own_spreads = np.diag(second)
    columns: list[float | None] = []
    for weight_place in range(n_weights):
        unexplained = rest[weight_place, weight_place]
        least_spread = normal_equations.SMALLEST_PIVOT * own_spreads[weight_place]
        # What rounding has left would make a large statistic of nothing.
        if unexplained > least_spread:
            chi2 = U[weight_place] ** 2 / unexplained
            columns.append(float(chi2))
        else:
            columns.append(None)
    if None in columns:
        return Tested(columns, None)
    joint = _quadratic(rest, U, bits=bits)
    return Tested(columns, joint)


def _quadratic(
    rest: Floats,
    U: Floats,
    *,
    bits: int,
) -> float | None:
    """U' rest^-1 U, the columns in units of their own spread."""
    units = np.sqrt(np.diag(rest))
    by_row = units[:, None]
    by_column = units[None, :]
    scaled = rest / by_row / by_column
    U = U / units
    (c,) = normal_equations.integers(U[None], bits)
    equations = Opened(
        A=normal_equations.integers(scaled, bits),
        c=c,
        deviance=0.0,
        bits=bits,
        is_valid=True,
    )
    try:
        solved = normal_equations.solve(equations)
    except Collinear:
        return None
    total = 0.0
    # Not by dot, whose last bit differs between processors.
    for left, right in zip(U.tolist(), solved.tolist(), strict=True):
        total += left * right
    return total


def _square(
    totals: Sequence[int],
    p: int,
) -> list[list[int]]:
    """The symmetric matrix whose upper triangle `totals` begins with."""
    matrix = [[0] * p for _ in range(p)]
    remaining = iter(totals)
    for row in range(p):
        for column in range(row, p):
            value = next(remaining)
            matrix[row][column] = value
            matrix[column][row] = value
    return matrix


def _floats(
    values: Sequence[Sequence[int]],
    *,
    bits: int,
) -> Floats:
    scale = 2**bits
    quotient_rows = []
    for row in values:
        quotients = [value / scale for value in row]
        quotient_rows.append(quotients)
    return np.array(quotient_rows)


def _product(left: Floats, right: Floats) -> Floats:
    """left @ right, elementwise, so that every hospital has the same bits."""
    n_rows = len(left)
    n_columns = right.shape[1]
    product = np.zeros((n_rows, n_columns))
    for place in range(len(right)):
        column = left[:, place, None]
        row = right[None, place, :]
        product += column * row
    return product
