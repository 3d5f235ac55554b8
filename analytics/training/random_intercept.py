"""A linear model with a random intercept for each hospital, by restricted maximum
likelihood (REML).

    y = X b + u_h + e    u_h ~ N(0, t^2)    e ~ N(0, s^2)    l = t^2 / s^2

With V_h = I + l 11', V_h^-1 = I - k_h 11' and k_h = l / (1 + n_h l): so from the sums
X'X, X'y, y'y over all hospitals and each hospital's own 1'X_h and 1'y_h follow, for every
l,

    M = X'X - sum k_h (1'X_h)'(1'X_h)      v = X'y - sum k_h (1'X_h)' 1'y_h
    b = M^-1 v                             R = y'y - sum k_h (1'y_h)^2 - b'v
    -2 log REML = (N - p) (1 + log(2 pi R / (N - p))) + sum log(1 + n_h l) + log |M|

(Harville 1977, Journal of the American Statistical Association 72). Its slope in l is a
rational function, so that l is found by arithmetic alone, the same bits everywhere.

Pure. Decision 112.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from analytics.arrays import Floats
from analytics.training import normal_equations
from analytics.training.normal_equations import Opened

_BITS = 200
_SMALLEST, _LARGEST = 2.0**-40, 2.0**40
"""Of l times the mean number of rows, within which its best value is looked for."""
_STEPS = 110


@dataclass(frozen=True, eq=False)
class Sums:
    """What the hospitals have added up, and each hospital's own sums."""

    XX: Floats  # (p, p)
    Xy: Floats  # (p,)
    yy: float
    n_rows: Sequence[int]  # by hospital
    own_X: Floats  # (hospitals, p)
    own_y: Floats  # (hospitals,)

    def by_hospital(self) -> Iterable[tuple[int, Floats, float]]:
        """Each hospital's number of rows and its own sums, X's (p,) and y's."""
        return zip(self.n_rows, self.own_X, self.own_y.tolist(), strict=True)


@dataclass(frozen=True, eq=False)
class Fit:
    coef: Floats  # (p,)
    covariance: Floats  # (p, p)
    # s^2 and t^2; t^2 is 0 where hospitals differ no more than their rows do.
    residual: float
    between: float
    criterion: float  # -2 log REML


@dataclass(frozen=True, eq=False)
class _At:
    """The criterion's parts at one l."""

    coef: Floats
    inverse: Floats
    rest: float  # R
    slope: float


def fit(sums: Sums) -> Fit:
    """Raises Collinear of `newton`, and ValueError without a degree of freedom."""
    n = sum(sums.n_rows)
    p = len(sums.Xy)
    if n <= p:
        raise ValueError("as many coefficients as rows")
    ratio = _best_ratio(sums)
    solution = _at(sums, ratio)
    residual = solution.rest / (n - p)
    return Fit(
        coef=solution.coef,
        covariance=solution.inverse * residual,
        residual=residual,
        between=ratio * residual,
        criterion=_criterion(sums, solution, ratio),
    )


def _best_ratio(sums: Sums) -> float:
    """The l of the smallest criterion; 0 where the criterion rises from there on.

    Between two powers of two where the slope changes its sign from below, by halves; of
    several such places the one of the smallest criterion.
    """
    n_hospitals = len(sums.n_rows)
    mean = sum(sums.n_rows) / n_hospitals
    grid = [0.0]
    size = _SMALLEST
    while size <= _LARGEST:
        grid.append(size / mean)
        size *= 2
    slopes = [_at(sums, ratio).slope for ratio in grid]
    candidates = [0.0]
    for grid_place in range(1, len(grid)):
        before = grid_place - 1
        if slopes[before] < 0 <= slopes[grid_place]:
            lower_ratio = grid[before]
            upper_ratio = grid[grid_place]
            root = _root(sums, lower_ratio, upper_ratio)
            candidates.append(root)

    def criterion(ratio: float) -> float:
        solution = _at(sums, ratio)
        return _criterion(sums, solution, ratio)

    return min(candidates, key=criterion)


def _root(
    sums: Sums,
    low: float,
    high: float,
) -> float:
    for _ in range(_STEPS):
        middle = (low + high) / 2
        solution = _at(sums, middle)
        if solution.slope < 0:
            low = middle
        else:
            high = middle
    return high


def _at(sums: Sums, ratio: float) -> _At:
    M = sums.XX.copy()
    v = sums.Xy.copy()
    rest = sums.yy
    for n_h, own_X, own_y in sums.by_hospital():
        k = ratio / (1 + n_h * ratio)
        M = M - k * own_X[:, None] * own_X[None, :]
        v = v - k * own_y * own_X
        rest -= k * own_y * own_y
    opened = Opened(
        A=normal_equations.integers(M, _BITS),
        c=normal_equations.integers(v[None], _BITS)[0],
        deviance=0.0,
        bits=_BITS,
        is_valid=True,
    )
    coef = normal_equations.solve(opened)
    inverse = normal_equations.inverse(opened)
    for coefficient, of_column in zip(coef.tolist(), v.tolist(), strict=True):
        rest -= coefficient * of_column
    slope = _slope(
        sums,
        ratio,
        coef=coef,
        inverse=inverse,
        rest=rest,
    )
    return _At(
        coef=coef,
        inverse=inverse,
        rest=rest,
        slope=slope,
    )


def _slope(
    sums: Sums,
    ratio: float,
    *,
    coef: Floats,
    inverse: Floats,
    rest: float,
) -> float:
    """Of the criterion in l."""
    n = sum(sums.n_rows)
    p = len(sums.Xy)
    slope = 0.0
    for n_h, own_X, own_y in sums.by_hospital():
        growth = 1 + n_h * ratio
        k_slope = 1 / growth**2
        residual_sum = own_y - _product(own_X, coef)
        spread = 0.0
        for inverse_row, own_value in zip(inverse, own_X.tolist(), strict=True):
            spread += _product(own_X, inverse_row) * own_value
        squares = (n - p) * residual_sum * residual_sum
        slope += n_h / growth
        slope -= k_slope * (spread + squares / rest)
    return slope


def _criterion(
    sums: Sums,
    solution: _At,
    ratio: float,
) -> float:
    n = sum(sums.n_rows)
    p = len(sums.Xy)
    of_rest = math.log(2 * math.pi * solution.rest / (n - p))
    criterion = (n - p) * (1 + of_rest)
    for n_h in sums.n_rows:
        growth = 1 + n_h * ratio
        criterion += math.log(growth)
    _, log_determinant = np.linalg.slogdet(solution.inverse)
    return float(criterion - log_determinant)


def _product(left: Floats, right: Floats) -> float:
    total = 0.0
    for left_value, right_value in zip(left.tolist(), right.tolist(), strict=True):
        total += left_value * right_value
    return total
