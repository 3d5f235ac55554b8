"""Newton's method for generalised linear models, from sums of per-hospital statistics.

lr is binomial with logit, linear is gaussian with identity (`families.Pair`). A round
at weights b, the intercept last as in a model's layer `dense`: with eta = X b + offset,
mu = g^-1(eta), h = d mu / d eta and V = V(mu),

    W = h^2 / V    A = X' W X    c = X' (W X b + (y - mu) h / V)    D = the deviance

and whether a hospital's rows have a mean that the family does not know are added up over
all hospitals; then b+ = (A + P)^-1 c, where P is the penalty's diagonal (Fisher scoring,
which is Newton's method where the link is canonical). The first round starts from means
made of the labels instead of weights (McCullagh and Nelder 1989, section 2.5). Where D
with the penalty has risen, or a mean is none of the family's, the step is halved. When D
stands still the step is taken once more, since that round's message holds A and c
already; with a link that is not canonical, where steps shrink by a factor only, until
one moves no coefficient by more than SMALL_STEP of its standard error.

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
from analytics.training import families
from analytics.training.families import Pair

MOST_HALVINGS = 10
SMALLEST_PIVOT = 1e-9
"""Of a column's own sum of squares; what is left of a collinear column is less."""
SEPARATED_STEP = 0.01
"""Of a standardized coefficient, after the deviance has come to rest."""
SMALL_STEP = 1e-10
"""Of a standard error: as much is left of the way where steps shrink by half."""
_ROUNDING = 1e-13
"""Of the largest coefficient: no sum of float64 says a smaller step."""


class Collinear(ValueError):
    """A column is, to rounding, a combination of those before it."""

    def __init__(self, column: int) -> None:
        super().__init__(f"column {column} is a combination of others")
        self.column = column


class NoMean(ValueError):
    """The first weights give a row a mean that the family does not know."""


def n_sums(n_weights: int) -> int:
    """Of a round: A's upper triangle, c, the deviance, and how many are invalid."""
    return n_weights * (n_weights + 1) // 2 + n_weights + 2


class RowNumbers(NamedTuple):
    """Of each row, (n,): its linear predictor, its weight in A, and how it enters c."""

    predictors: Floats
    weights: Floats  # W
    working: Floats  # W (eta - offset) + scores
    scores: Floats  # (y - mu) h / V: by how much of x it enters the gradient
    deviances: Floats
    # Whether the family knows all means; where not, the rest is 0.
    is_valid: bool


def row_numbers(
    pair: Pair,
    X: Floats,
    y: Floats,
    coef: Floats,
    *,
    is_start: bool,
    offset: Floats | float = 0.0,
    row_weights: Floats | float = 1.0,
) -> RowNumbers:
    """X (n, d) without the column of the intercept, coef (d + 1,); offset: what each
    row's predictor has besides, (n,); row_weights: m of each row, (n,), by which W and the
    deviance are multiplied.

    Disclosure: one number per row; they stay in the hospital.
    """
    y = np.asarray(y, dtype=np.float64)
    # Least squares may start anywhere.
    if is_start and not pair.is_least_squares:
        at = families.start_means(pair, y, row_weights)
        predictors = families.predictor_of(pair, at.mu)
    else:
        predictors = X @ coef[:-1] + coef[-1] + offset
        at = families.means(pair, predictors)
    if not families.is_valid(pair, at):
        nothing = np.zeros(len(y))
        return RowNumbers(predictors, nothing, nothing, nothing, nothing, False)
    ratio = row_weights * at.slope / families.variances(pair, at)
    weights = at.slope * ratio
    scores = families.residuals(pair, y, at) * ratio
    working = weights * (predictors - offset) + scores
    deviances = row_weights * families.unit_deviances(pair, y, at)
    return RowNumbers(predictors, weights, working, scores, deviances, True)


def local_sums(X: Floats, rows: RowNumbers) -> Floats:
    """One hospital's part of a round, float64 (n_sums(d + 1),).

    Disclosure: weighted sums of squares and products of columns. They leave through the
    release door only, sealed so that nothing but the sum over hospitals can be read.
    """
    columns = np.column_stack([X, np.ones(len(X))])
    A = columns.T @ (columns * rows.weights[:, None])
    c = columns.T @ rows.working
    upper = A[np.triu_indices(len(c))]
    is_invalid = 0.0 if rows.is_valid else 1.0
    return np.concatenate([upper, c, [np.sum(rows.deviances), is_invalid]])


class Opened(NamedTuple):
    """A round's sums over all hospitals, exact: integers over 2**bits."""

    A: list[list[int]]  # (p, p), symmetric
    c: list[int]
    deviance: float
    bits: int
    is_valid: bool  # at every hospital


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
    is_valid = next(left) == 0
    return Opened(A, c, deviance, bits, is_valid)


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
    # Whether the deviance has come to rest, and whether that was the last step.
    is_still: bool = False
    is_done: bool = False
    # How far the last step has moved a coefficient.
    last_step: float = 0.0

    @property
    def is_start(self) -> bool:
        return self.round == 0

    @property
    def is_separating(self) -> bool:
        """Whether a coefficient still grows where the deviance does not fall any more."""
        return self.is_still and self.last_step > SEPARATED_STEP


def stepped(
    state: NewtonState,
    opened: Opened,
    *,
    pair: Pair,
    eps: float,
    diagonal: Floats,
    n_rows: int,
) -> NewtonState:
    """The state one round later.

    Raises Collinear, NoMean, and ValueError where no halved step lets the deviance
    fall.
    """
    if state.is_start:
        first = solve(penalised(opened, diagonal))
        return replace(state, coef=first, base=first, round=1)
    after = advanced(state, opened, eps=eps, diagonal=diagonal)
    if after.n_halvings:
        return after
    # The equations of linear do not depend on where they are made.
    is_done = pair.is_least_squares
    assert after.deviance is not None, "it was taken"
    if after.is_still and not is_done:
        is_done = pair.is_canonical or _is_small(
            after.coef - state.coef,
            after.coef,
            penalised(opened, diagonal),
            # A standard error has the dispersion's root beside A's.
            dispersion=after.deviance / n_rows if pair.has_dispersion else 1.0,
        )
    return replace(after, is_done=is_done)


def advanced(
    state: NewtonState, opened: Opened, *, eps: float, diagonal: Floats
) -> NewtonState:
    """`stepped` from weights whose deviance counts: the step, or half of the last; done
    with the step after which the deviance rests.
    """
    deviance = opened.deviance + _sum_in_order(diagonal * state.coef * state.coef)
    before = state.deviance
    margin = eps * (abs(deviance) + 0.1)
    if before is None and not opened.is_valid:
        raise NoMean("the first weights give a mean that the family does not know")
    has_risen = before is not None and deviance > before + margin
    if has_risen or not opened.is_valid:
        return _halved(state)
    is_still = before is not None and abs(deviance - before) < margin
    after = solve(penalised(opened, diagonal))
    return NewtonState(
        coef=after,
        base=state.coef,
        deviance=deviance,
        round=state.round + 1,
        is_still=is_still,
        is_done=is_still,
        last_step=float(np.max(np.abs(after - state.coef))),
    )


def _halved(state: NewtonState) -> NewtonState:
    if state.n_halvings == MOST_HALVINGS:
        raise ValueError(
            f"The deviance does not fall, after {MOST_HALVINGS} halvings of a step."
        )
    halved = state.base + (state.coef - state.base) / 2
    return replace(
        state, coef=halved, n_halvings=state.n_halvings + 1, round=state.round + 1
    )


def _is_small(
    step: Floats, coef: Floats, equations: Opened, *, dispersion: float
) -> bool:
    """Whether a step moves no coefficient by more than SMALL_STEP of its standard
    error, or than rounding does.
    """
    errors = np.sqrt(np.diag(inverse(equations)) * dispersion)
    least = np.maximum(SMALL_STEP * errors, _ROUNDING * np.max(np.abs(coef)))
    return bool((np.abs(step) <= least).all())


def _sum_in_order(values: Floats) -> float:
    total = 0.0
    for value in values.tolist():
        total += value
    return total
