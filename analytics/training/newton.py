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

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from analytics.arrays import Floats, table_chunks
from analytics.training import families
from analytics.training.elementary import exponential
from analytics.training.normal_equations import (
    Opened,
    inverse,
    penalised,
    solve,
)
from analytics.training.pairs import Pair

MOST_HALVINGS = 10
SEPARATED_STEP = 0.01
"""Of a standardized coefficient, after the deviance has come to rest."""
_GROWING_STEP = 1e-3
"""Of a standard error, then: what a step may be that is as long as the one before."""
LAST_STEP = 1e-9
"""Of a standard error. Standard errors are those where the last step begins, and off by
about as much; of the way to the maximum its square is left.
"""
SMALL_STEP = 1e-10
"""Of a standard error: as much is left of the way where steps shrink by half."""
_NEARLY = 1 + 1e-11
"""What sums of equal numbers are to their product."""
_ROUNDING = 1e-13
"""Of the largest coefficient: no sum of float64 says a smaller step."""


class NoMean(ValueError):
    """The first weights give a row a mean that the family does not know."""


def n_sums(n_weights: int) -> int:
    """Of a round: A's upper triangle, c, the deviance, and how many are invalid."""
    n_upper = n_weights * (n_weights + 1) // 2
    return n_upper + n_weights + 2


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
    has_intercept: bool = True,
) -> RowNumbers:
    """X (n, d) without the column of the intercept, coef (d + 1,), or (d,) where there is
    none; offset: what each row's predictor has besides, (n,); row_weights: m of each row,
    (n,), by which W and the deviance are multiplied.

    Disclosure: one number per row; they stay in the hospital.
    """
    n_rows = len(y)
    n_numbers = len(RowNumbers._fields) - 1
    numbers = np.empty((n_numbers, n_rows))
    is_valid = True
    for chunk, rows in table_chunks(X):
        labels = np.asarray(y[chunk], dtype=np.float64)
        of_chunk = _row_numbers(
            pair,
            rows,
            labels,
            coef,
            is_start=is_start,
            offset=_part_of(offset, chunk),
            row_weights=_part_of(row_weights, chunk),
            has_intercept=has_intercept,
        )
        for row_values, of_rows in zip(numbers, of_chunk[:-1], strict=True):
            row_values[chunk] = of_rows
        is_valid = is_valid and of_chunk.is_valid
    if not is_valid:
        numbers[1:] = 0.0
    predictors, weights, working, scores, deviances = numbers
    return RowNumbers(
        predictors=predictors,
        weights=weights,
        working=working,
        scores=scores,
        deviances=deviances,
        is_valid=is_valid,
    )


def _part_of(
    values: Floats | float,
    chunk: slice,
) -> Floats | float:
    if isinstance(values, np.ndarray):
        return values[chunk]
    return values


def _row_numbers(
    pair: Pair,
    X: Floats,
    y: Floats,
    coef: Floats,
    *,
    is_start: bool,
    offset: Floats | float,
    row_weights: Floats | float,
    has_intercept: bool,
) -> RowNumbers:
    # Least squares may start anywhere.
    if is_start and not pair.is_least_squares:
        row_means = families.start_means(pair, y, row_weights)
        predictors = families.predictor_of(pair, row_means.mu)
    else:
        slopes = coef
        intercept = 0.0
        if has_intercept:
            slopes = coef[:-1]
            intercept = coef[-1]
        predictors = X @ slopes + intercept + offset
        row_means = families.means(pair, predictors)
    if not families.is_valid(pair, row_means):
        nothing = np.zeros(len(y))
        return RowNumbers(
            predictors=predictors,
            weights=nothing,
            working=nothing,
            scores=nothing,
            deviances=nothing,
            is_valid=False,
        )
    V = families.variances(pair, row_means)
    ratio = row_weights * row_means.slope / V
    weights = row_means.slope * ratio
    scores = families.residuals(pair, y, row_means) * ratio
    working = weights * (predictors - offset) + scores
    deviances = row_weights * families.unit_deviances(pair, y, row_means)
    if pair.has_theta:
        # What must fall is -2 log-likelihood, since theta moves, too.
        remainders = families.row_remainders(
            pair,
            y,
            np.ones(len(y)),
            are_counts=False,
        )
        deviances = deviances - 2 * row_weights * remainders
    return RowNumbers(
        predictors=predictors,
        weights=weights,
        working=working,
        scores=scores,
        deviances=deviances,
        is_valid=True,
    )


def columns_of(X: Floats, *, has_intercept: bool) -> Floats:
    """X (n, d) with the intercept's ones behind, (n, p), where there is one."""
    if not has_intercept:
        return X
    ones = np.ones(len(X))
    return np.column_stack([X, ones])


def local_sums(
    X: Floats,
    rows: RowNumbers,
    *,
    has_intercept: bool = True,
) -> Floats:
    """One hospital's part of a round, float64 (n_sums(p),).

    Disclosure: weighted sums of squares and products of columns. They leave through the
    release door only, sealed so that nothing but the sum over hospitals can be read.
    """
    n_columns = X.shape[1] + (1 if has_intercept else 0)
    A = np.zeros((n_columns, n_columns))
    c = np.zeros(n_columns)
    for chunk, of_chunk in table_chunks(X):
        columns = columns_of(of_chunk, has_intercept=has_intercept)
        A += columns.T @ (columns * rows.weights[chunk, None])
        c += columns.T @ rows.working[chunk]
    upper = A[np.triu_indices(len(c))]
    is_invalid = 0.0 if rows.is_valid else 1.0
    return np.concatenate([upper, c, [np.sum(rows.deviances), is_invalid]])


def read_sums(
    totals: Sequence[int],
    n_weights: int,
    *,
    bits: int,
) -> Opened:
    """totals: n_sums(n_weights) integers, in the order of `local_sums`."""
    if len(totals) != n_sums(n_weights):
        raise ValueError("the sums are of another number of weights")
    remaining = iter(totals)
    A = [[0] * n_weights for _ in range(n_weights)]
    for row in range(n_weights):
        for column in range(row, n_weights):
            value = next(remaining)
            A[row][column] = value
            A[column][row] = value
    c = [next(remaining) for _ in range(n_weights)]
    deviance = next(remaining) / 2**bits
    n_invalid = next(remaining)
    return Opened(
        A=A,
        c=c,
        deviance=deviance,
        bits=bits,
        is_valid=n_invalid == 0,
    )


def is_without_counts(
    pair: Pair,
    opened: Opened,
    *,
    n_rows: int | None,
    has_intercept: bool,
) -> bool:
    """Whether all labels of poisson or negative_binomial are 0, by the sums of the start,
    whose means are made of labels; n_rows: None where rows have weights, whose sum nobody
    knows.

    A row of 0 has a weight w and a deviance d. Of poisson any other has less than d for
    each w of its own; of negative_binomial, whose link is log, all others weigh more.
    False where the sums do not tell: where total weights are unknown, as of
    negative_binomial without an intercept.
    """
    if pair.family not in ("poisson", "negative_binomial"):
        return False
    row = row_numbers(
        pair,
        np.zeros((1, 0)),
        np.zeros(1),
        np.zeros(1),
        is_start=True,
    )
    weight, deviance = float(row.weights[0]), float(row.deviances[0])
    total: float | None = n_rows
    if has_intercept:
        # The last sum of squares is that of the weights alone.
        total = opened.A[-1][-1] / 2**opened.bits / weight
    if total is None:
        return False
    if pair.has_theta:
        if n_rows is None or not has_intercept:
            return False
        return total <= n_rows * _NEARLY
    return opened.deviance >= total * deviance / _NEARLY


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
    # Whether that one was nearly as long as the step before (see `is_growing`).
    is_growing: bool = False
    # Of Firth's penalty: whether the next message is of scores, at `coef`.
    is_scoring: bool = False
    n_scored: int = 0  # such messages so far
    # Of negative_binomial, beside coef and base; infinite before it is known.
    log_theta: float = math.inf
    base_log_theta: float = math.inf

    @property
    def theta(self) -> float:
        if math.isinf(self.log_theta):
            return math.inf
        return exponential(self.log_theta)

    @property
    def is_start(self) -> bool:
        return self.round == 0

    @property
    def is_separating(self) -> bool:
        """Whether a coefficient still grows where the deviance does not fall any more."""
        return self.is_still and (self.last_step > SEPARATED_STEP or self.is_growing)


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
        first_coef = solve(penalised(opened, diagonal))
        return replace(
            state,
            coef=first_coef,
            base=first_coef,
            round=1,
        )
    next_state = advanced(
        state,
        opened,
        eps=eps,
        diagonal=diagonal,
    )
    if next_state.n_halvings:
        return next_state
    if pair.is_canonical:
        next_state = with_growth(state, next_state, penalised(opened, diagonal))
    # The equations of linear do not depend on where they are made.
    is_done = pair.is_least_squares
    assert next_state.deviance is not None, "it was taken"
    if next_state.is_still and not is_done:
        is_done = is_small(
            next_state.coef - state.coef,
            next_state.coef,
            penalised(opened, diagonal),
            limit=LAST_STEP if pair.is_canonical else SMALL_STEP,
            # A standard error has the dispersion's root beside A's.
            dispersion=next_state.deviance / n_rows if pair.has_dispersion else 1.0,
        )
    return replace(next_state, is_done=is_done)


def advanced(
    state: NewtonState,
    opened: Opened,
    *,
    eps: float,
    diagonal: Floats,
) -> NewtonState:
    """`stepped` from weights whose deviance counts: the step, or half of the last; done
    with the step after which the deviance rests.
    """
    penalty = _sum_in_order(diagonal * state.coef * state.coef)
    deviance = opened.deviance + penalty
    before = state.deviance
    margin = eps * (abs(deviance) + 0.1)
    if before is None and not opened.is_valid:
        raise NoMean("the first weights give a mean that the family does not know")
    has_risen = before is not None and deviance > before + margin
    if has_risen or not opened.is_valid:
        return halved(state)
    is_still = before is not None and abs(deviance - before) < margin
    next_coef = solve(penalised(opened, diagonal))
    step = np.abs(next_coef - state.coef)
    return NewtonState(
        coef=next_coef,
        base=state.coef,
        deviance=deviance,
        round=state.round + 1,
        is_still=is_still,
        is_done=is_still,
        last_step=float(np.max(step)),
    )


def with_growth(
    state: NewtonState,
    after: NewtonState,
    equations: Opened,
) -> NewtonState:
    """`after` with `is_growing`, of Newton's own steps: a coefficient of separated rows moves
    by as much each time, whereas steps to a maximum are soon squares of each other.

    Among very many rows a rare level's coefficient, standardized, moves less than
    SEPARATED_STEP all the while.
    """
    if not after.is_still:
        return after
    step = np.abs(after.coef - state.coef)
    before = np.abs(state.coef - state.base)
    errors = np.sqrt(np.diag(inverse(equations)))
    is_long = step > before / 2
    is_felt = step > _GROWING_STEP * errors
    is_growing = (is_long & is_felt).any()
    return replace(after, is_growing=bool(is_growing))


def halved(state: NewtonState) -> NewtonState:
    """Half the way back to `base`. ValueError after MOST_HALVINGS."""
    if state.n_halvings == MOST_HALVINGS:
        raise ValueError(
            f"The deviance does not fall, after {MOST_HALVINGS} halvings of a step."
        )
    half_step = (state.coef - state.base) / 2
    return replace(
        state,
        coef=state.base + half_step,
        n_halvings=state.n_halvings + 1,
        round=state.round + 1,
    )


def is_small(
    step: Floats,
    coef: Floats,
    equations: Opened,
    *,
    dispersion: float,
    limit: float = SMALL_STEP,
) -> bool:
    """Whether a step moves no coefficient by more than `limit` of its standard error, or
    than rounding does.
    """
    variances = np.diag(inverse(equations)) * dispersion
    errors = np.sqrt(variances)
    rounding = _ROUNDING * np.max(np.abs(coef))
    largest_steps = np.maximum(limit * errors, rounding)
    is_within = np.abs(step) <= largest_steps
    return bool(is_within.all())


def _sum_in_order(values: Floats) -> float:
    total = 0.0
    for value in values.tolist():
        total += value
    return total
