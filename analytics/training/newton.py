"""Newton's method for lr and linear, from sums of per-hospital statistics.

A round at weights b, the intercept last as in a model's layer `dense`: with
eta = X b, mu = eta (linear) or 1 / (1 + exp(-eta)) (lr), V = 1 or mu (1 - mu),

    A = X' V X    c = X' (V eta + y - mu)    D = the deviance

are added up over all hospitals; then b+ = (A + P)^-1 c, where P is the penalty's
diagonal. lr starts from mu = (y + 1/2) / 2 instead of weights (McCullagh and Nelder
1989, section 2.5). Where D with the penalty has risen the step is halved. When it stands
still the step is taken once more, since that round's message holds A and c already.

What all hospitals compute alike (`solve`, `stepped`) is made of the opened integers by
elementwise float64 arithmetic alone (decision 13).

Decision 84.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from analytics.arrays import Floats

MOST_HALVINGS = 10
SMALLEST_PIVOT = 1e-9
"""Of a column's own sum of squares; what is left of a collinear column is less."""
SEPARATED_STEP = 0.01
"""Of a standardized coefficient, after the deviance has come to rest."""


class Collinear(ValueError):
    """A column is, to rounding, a combination of those before it."""

    def __init__(self, column: int) -> None:
        super().__init__(f"column {column} is a combination of others")
        self.column = column


def n_sums(n_weights: int) -> int:
    """Of a round: A's upper triangle, c, and the deviance."""
    return n_weights * (n_weights + 1) // 2 + n_weights + 1


class RowNumbers(NamedTuple):
    """Of each row, (n,): its linear predictor, its weight in A, and how it enters c."""

    predictors: Floats
    weights: Floats
    working: Floats  # V eta + y - mu
    residuals: Floats  # y - mu


def row_numbers(
    kind: str, X: Floats, y: Floats, coef: Floats, *, is_start: bool
) -> RowNumbers:
    """kind: lr or linear; X (n, d) without the column of the intercept, coef (d + 1,).

    Disclosure: one number per row; they stay in the hospital.
    """
    y = np.asarray(y, dtype=np.float64)
    predictors = X @ coef[:-1] + coef[-1]
    if kind == "linear":
        residuals = y - predictors
        return RowNumbers(predictors, np.ones(len(y)), y, residuals)
    if is_start:
        mu = (y + 0.5) / 2
        predictors = np.log(mu / (1 - mu))
    else:
        held = np.clip(predictors, -700, 700)
        mu = 1 / (1 + np.exp(-held))
    weights = mu * (1 - mu)
    residuals = y - mu
    return RowNumbers(predictors, weights, weights * predictors + residuals, residuals)


def local_sums(kind: str, X: Floats, y: Floats, rows: RowNumbers) -> Floats:
    """One hospital's part of a round, float64 (n_sums(d + 1),).

    Disclosure: weighted sums of squares and products of columns. They leave through the
    release door only, sealed so that nothing but the sum over hospitals can be read.
    """
    columns = np.column_stack([X, np.ones(len(X))])
    A = columns.T @ (columns * rows.weights[:, None])
    c = columns.T @ rows.working
    upper = A[np.triu_indices(len(c))]
    return np.concatenate([upper, c, [_deviance(kind, y, rows)]])


def _deviance(kind: str, y: Floats, rows: RowNumbers) -> float:
    """sum (y - mu)^2, or 2 sum log(1 + exp(-(2 y - 1) eta))."""
    if kind == "linear":
        return float(np.sum(rows.residuals**2))
    signed = np.where(np.asarray(y) > 0, -rows.predictors, rows.predictors)
    return float(2 * np.sum(np.logaddexp(0, signed)))


class Opened(NamedTuple):
    """A round's sums over all hospitals, exact: integers over 2**bits."""

    A: list[list[int]]  # (p, p), symmetric
    c: list[int]
    deviance: float
    bits: int


def read_sums(totals: Sequence[int], n_weights: int, *, bits: int) -> Opened:
    """totals: n_sums(n_weights) integers, in the order of `local_sums`."""
    if len(totals) != n_sums(n_weights):
        raise ValueError("the sums are of another number of weights")
    left = iter(totals)
    A = [[0] * n_weights for _ in range(n_weights)]
    for row in range(n_weights):
        for column in range(row, n_weights):
            A[row][column] = A[column][row] = next(left)
    c = [next(left) for _ in range(n_weights)]
    deviance = next(left) / 2**bits
    return Opened(A, c, deviance, bits)


def penalised(opened: Opened, diagonal: Floats) -> Opened:
    """The same with a penalty's diagonal, float64 (p,), added to A."""
    A = [list(row) for row in opened.A]
    for place, value in enumerate(diagonal.tolist()):
        A[place][place] += round(Fraction(value) * 2**opened.bits)
    return opened._replace(A=A)


# The equations


def factor(A: Sequence[Sequence[int]], *, bits: int) -> Floats:
    """L of A = L L', float64 (p, p), column by column, the right of it elementwise.

    Python's quotient of two integers is rounded once.

    Collinear where a pivot is below SMALLEST_PIVOT of the column's own sum of squares.
    """
    scale = 2**bits
    rest = np.array([[value / scale for value in row] for row in A])
    own = np.diag(rest).copy()
    L = np.zeros_like(rest)
    for k in range(len(own)):
        pivot = rest[k, k]
        if not pivot > SMALLEST_PIVOT * own[k]:
            raise Collinear(k)
        L[k:, k] = rest[k:, k] / np.sqrt(pivot)
        column = L[k + 1 :, k]
        rest[k + 1 :, k + 1 :] -= column[:, None] * column[None, :]
    return L


def solve(opened: Opened) -> Floats:
    """A^-1 c, float64 (p,), refined twice by the exact residual of the integers."""
    L = factor(opened.A, bits=opened.bits)
    scale = 2**opened.bits
    right = np.array([value / scale for value in opened.c])
    found = _back(L, right)
    for _ in range(2):
        found = found + _back(L, _residual(opened, found))
    return found


def inverse(opened: Opened) -> Floats:
    """A^-1, float64 (p, p)."""
    L = factor(opened.A, bits=opened.bits)
    columns = [_back(L, unit) for unit in np.eye(len(L))]
    return np.column_stack(columns)


def _back(L: Floats, right: Floats) -> Floats:
    """x of L L' x = right."""
    x = right.copy()
    p = len(x)
    for k in range(p):
        x[k] = x[k] / L[k, k]
        x[k + 1 :] -= L[k + 1 :, k] * x[k]
    for k in range(p - 1, -1, -1):
        x[k] = x[k] / L[k, k]
        x[:k] -= L[k, :k] * x[k]
    return x


def _residual(opened: Opened, x: Floats) -> Floats:
    """c - A x, each rounded once."""
    ratios = [value.as_integer_ratio() for value in x.tolist()]
    common = max(below for _, below in ratios)
    whole = [above * (common // below) for above, below in ratios]
    scale = common * 2**opened.bits
    found = []
    for row, right in zip(opened.A, opened.c, strict=True):
        left = right * common
        for value, number in zip(row, whole, strict=True):
            left -= value * number
        found.append(left / scale)
    return np.array(found)


# The rounds


@dataclass(frozen=True, eq=False)
class NewtonState:
    """Where the rounds are, the same bits at every hospital."""

    coef: Floats  # (p,): where the next round's sums are made
    base: Floats  # (p,): the last weights whose deviance was taken
    deviance: float | None = None  # with the penalty, at `base`; None before
    n_halvings: int = 0
    round: int = 0
    is_done: bool = False
    # How far the last step has moved a coefficient.
    last_step: float = 0.0

    @property
    def is_start(self) -> bool:
        return self.round == 0


def stepped(
    state: NewtonState, opened: Opened, *, kind: str, eps: float, diagonal: Floats
) -> NewtonState:
    """The state one round later. Raises Collinear, and ValueError where no halved step
    lets the deviance fall.
    """
    if state.is_start:
        first = solve(penalised(opened, diagonal))
        return replace(state, coef=first, base=first, round=1)
    after = advanced(state, opened, eps=eps, diagonal=diagonal)
    # The equations of linear do not depend on where they are made.
    return replace(after, is_done=after.is_done or kind == "linear")


def advanced(
    state: NewtonState, opened: Opened, *, eps: float, diagonal: Floats
) -> NewtonState:
    """`stepped` from weights whose deviance counts: the step, or half of the last."""
    deviance = opened.deviance + _sum_in_order(diagonal * state.coef * state.coef)
    before = state.deviance
    margin = eps * (abs(deviance) + 0.1)
    if before is not None and deviance > before + margin:
        if state.n_halvings == MOST_HALVINGS:
            raise ValueError(
                f"The deviance does not fall, after {MOST_HALVINGS} halvings of a step."
            )
        halved = state.base + (state.coef - state.base) / 2
        return replace(
            state, coef=halved, n_halvings=state.n_halvings + 1, round=state.round + 1
        )
    is_still = before is not None and abs(deviance - before) < margin
    after = solve(penalised(opened, diagonal))
    return NewtonState(
        coef=after,
        base=state.coef,
        deviance=deviance,
        round=state.round + 1,
        is_done=is_still,
        last_step=float(np.max(np.abs(after - state.coef))),
    )


def _sum_in_order(values: Floats) -> float:
    total = 0.0
    for value in values.tolist():
        total += value
    return total
