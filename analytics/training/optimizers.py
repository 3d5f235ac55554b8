"""The step that every party takes with the aggregate gradient, and when training has
converged.

Replicated state: all hospitals apply these functions to the same decoded integers and
must hold the same bits afterwards, whatever their processor. So only elementwise + - *
/ and sqrt (IEEE 754 rounds each correctly), exact comparisons, `math.fsum` (correctly
rounded whatever the order) and Python floats are used; dot, norm, exp, log and power
differ in the last bit between processors and libraries (decision 13). `step` and
`converged` are called by every hospital in each round, in `agents/training/fold.py`.
Weights are added up few at a time (decision 150).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from analytics.arrays import Bools, Floats, check_at_least, check_name, check_result
from analytics.training import Convergence, GradientOptimizer, GradientPenalty

OPTIMIZERS = get_args(GradientOptimizer)
PENALTIES = (*get_args(GradientPenalty), None)
CONVERGENCE_METHODS = get_args(Convergence)
_CHUNK = 1 << 14


@dataclass(frozen=True, eq=False)
class OptimizerState:
    """What an optimizer remembers between rounds.

    A vector that it has no use for is zeros.
    """

    step: int  # the steps taken
    first: Floats  # (n_weights,): nesterov's velocity, adam's mean
    # (n_weights,): the mean of squares of adam and rmsprop, the sum of adagrad
    second: Floats

    def then(
        self,
        *,
        first: Floats | None = None,
        second: Floats | None = None,
    ) -> OptimizerState:
        """The state one step later; a vector that is not given stays."""
        if first is None:
            first = self.first
        if second is None:
            second = self.second
        return OptimizerState(
            step=self.step + 1,
            first=first,
            second=second,
        )


Moved = tuple[Floats, OptimizerState]
"""What is added to the weights, and the state after it."""
Move = Callable[[Floats, OptimizerState, float], Moved]
"""Of the gradient, the state and the rate of the round."""


def initial_state(n_weights: int) -> OptimizerState:
    """The state before the first step: zeros."""
    return OptimizerState(
        step=0,
        first=np.zeros(n_weights),
        second=np.zeros(n_weights),
    )


def decayed_rate(
    learning_rate: float,
    *,
    decay: float,
    decay_sqrt: bool,
    round: int,
) -> float:
    """The learning rate of round t = 0, 1, ...: lr / (1 + decay t).

    With `decay_sqrt` lr / sqrt(1 + decay t).

    Raises ValueError if learning_rate is not above 0, or decay or round is negative.

    >>> decayed_rate(0.15, decay=1, decay_sqrt=True, round=3)
    0.075
    """
    _check_rate(learning_rate)
    check_at_least("decay", decay, 0)
    check_at_least("round", round, 0)
    divisor = 1.0 + decay * round
    if decay_sqrt:
        divisor = math.sqrt(divisor)
    return learning_rate / divisor


def step(
    name: str,
    weights: Floats,
    gradient: Floats,
    state: OptimizerState,
    *,
    learning_rate: float,
    penalty: str | None,
    alpha: float,
    penalised: Bools,
) -> tuple[Floats, OptimizerState]:
    """One step from `weights` (n_weights,) with the aggregate gradient; the new weights
    and the new state.

    g = gradient, plus alpha w on the `penalised` coordinates for L2; then, with lr the
    rate of the round, sgd: w - lr g; nesterov_momentum_sgd: v' = 0.9 v - lr g, w - 0.9
    v + 1.9 v'; adam (Kingma and Ba 2015, algorithm 1; 0.9, 0.999, 1e-8): w - lr m /
    (sqrt(s) + 1e-8), both bias-corrected; rmsprop: s' = 0.99 s + 0.01 g^2, w - lr g /
    sqrt(s' + 1e-6); adagrad (Duchi et al. 2011): s' = s + g^2, w - lr g / (sqrt(s') +
    1e-7). L1 is the proximal step (Parikh and Boyd 2014, section 6.5.2): afterwards
    each penalised weight moves alpha lr towards 0 and stops there. The arguments are
    left as they are.

    Raises ValueError for an unknown name or penalty, a negative alpha, a rate that is
    not above 0, vectors of different lengths, and a step that leaves float64's range.
    """
    check_name("optimizer", name, OPTIMIZERS)
    check_name("penalty", penalty, PENALTIES)
    check_at_least("alpha", alpha, 0)
    _check_rate(learning_rate)
    _check_lengths(
        weights,
        gradient,
        state.first,
        state.second,
        penalised,
    )
    with np.errstate(over="ignore", invalid="ignore"):
        if penalty == "L2":
            with_penalty = gradient + alpha * weights
            gradient = np.where(penalised, with_penalty, gradient)
        move_by = _MOVES[name]
        move, next_state = move_by(gradient, state, learning_rate)
        weights = weights + move
    if penalty == "L1":
        threshold = alpha * learning_rate
        shrunk = _soft_threshold(weights, threshold)
        weights = np.where(penalised, shrunk, weights)
    check_result(
        "The step",
        weights,
        next_state.first,
        next_state.second,
    )
    return weights, next_state


def penalty_value(
    weights: Floats,
    *,
    penalty: str | None,
    alpha: float,
    penalised: Bools,
) -> float:
    """What the penalty adds to the loss: alpha / 2 * sum w^2 (L2), alpha * sum |w| (L1)
    or 0, over penalised w.

    Raises ValueError for an unknown penalty, a negative alpha or vectors of different
    lengths.

    >>> weights = np.array([3.0, -4.0, 9.0])
    >>> is_coefficient = np.array([True, True, False])
    >>> penalty_value(weights, penalty="L2", alpha=0.1, penalised=is_coefficient)
    1.25
    """
    check_name("penalty", penalty, PENALTIES)
    check_at_least("alpha", alpha, 0)
    _check_lengths(weights, penalised)
    if penalty is None:
        return 0.0
    coef = weights[penalised]
    if penalty == "L2":
        squares = coef * coef
        return alpha / 2 * _sum(squares)
    return alpha * _sum(np.abs(coef))


def converged(
    method: str,
    *,
    eps: float,
    losses: Sequence[float],
    before: Floats,
    after: Floats,
) -> bool:
    """Whether training stops after a round; `losses` are those of all rounds so far,
    penalty included.

    diff: |losses[-2] - losses[-1]| < eps, never in the first round; abs: losses[-1] <=
    eps; weight_diff: ||before - after||_2 < eps * max(||after||_2, 1), before and after
    the round's step.

    Raises ValueError for an unknown method, a negative eps, no loss or vectors of
    different lengths.
    """
    check_name("converge_func", method, CONVERGENCE_METHODS)
    check_at_least("eps", eps, 0)
    _check_lengths(before, after)
    if not losses:
        raise ValueError("losses is empty; convergence is tested after a round.")
    last_loss = losses[-1]
    if method == "diff":
        if len(losses) == 1:
            return False
        change = abs(losses[-2] - last_loss)
        return change < eps
    if method == "abs":
        return last_loss <= eps
    moved = _length(before - after)
    length = max(_length(after), 1.0)
    return moved < eps * length


def _sgd(
    gradient: Floats,
    state: OptimizerState,
    rate: float,
) -> Moved:
    move = -rate * gradient
    return move, state.then()


def _nesterov(
    gradient: Floats,
    state: OptimizerState,
    rate: float,
) -> Moved:
    velocity = 0.9 * state.first - rate * gradient
    move = 1.9 * velocity - 0.9 * state.first
    return move, state.then(first=velocity)


def _adam(
    gradient: Floats,
    state: OptimizerState,
    rate: float,
) -> Moved:
    squares = gradient * gradient
    next_state = state.then(
        # 1 - 0.9 has other bits than 0.1: with that no run would repeat an earlier one.
        first=0.9 * state.first + (1 - 0.9) * gradient,
        second=0.999 * state.second + (1 - 0.999) * squares,
    )
    # Both began at zero, which is corrected for (Kingma and Ba 2015, section 3).
    mean = next_state.first / (1.0 - _product(0.9, next_state.step))
    square = next_state.second / (1.0 - _product(0.999, next_state.step))
    divisor = np.sqrt(square) + 1e-8
    move = -rate * (mean / divisor)
    return move, next_state


def _rmsprop(
    gradient: Floats,
    state: OptimizerState,
    rate: float,
) -> Moved:
    squares = gradient * gradient
    square = 0.99 * state.second + (1 - 0.99) * squares
    divisor = np.sqrt(square + 1e-6)
    move = -rate * (gradient / divisor)
    return move, state.then(second=square)


def _adagrad(
    gradient: Floats,
    state: OptimizerState,
    rate: float,
) -> Moved:
    squares = gradient * gradient
    square = state.second + squares
    divisor = np.sqrt(square) + 1e-7
    move = -rate * (gradient / divisor)
    return move, state.then(second=square)


_MOVES: dict[str, Move] = {
    "sgd": _sgd,
    "nesterov_momentum_sgd": _nesterov,
    "adam": _adam,
    "rmsprop": _rmsprop,
    "adagrad": _adagrad,
}


def _product(factor: float, n_times: int) -> float:
    """factor ** n_times, whose last bit differs between C libraries."""
    power = 1.0
    for _ in range(n_times):
        power *= factor
    return power


def _soft_threshold(weights: Floats, threshold: float) -> Floats:
    """sign(w) max(|w| - threshold, 0)."""
    # By comparisons: maximum(-0.0, 0.0) may be either zero, depending on the processor.
    is_above = weights > threshold
    lowered = np.where(is_above, weights - threshold, 0.0)
    is_below = weights < -threshold
    return np.where(is_below, weights + threshold, lowered)


def _length(vector: Floats) -> float:
    squares = vector * vector
    return math.sqrt(_sum(squares))


def _sum(vector: Floats) -> float:
    """Correctly rounded, whatever the order."""
    return math.fsum(_numbers(vector))


def _numbers(vector: Floats) -> Iterator[float]:
    """The values as Python's own, few at a time: of all they take five times as much."""
    for start in range(0, vector.size, _CHUNK):
        stop = start + _CHUNK
        yield from vector[start:stop].tolist()


def _check_rate(learning_rate: float) -> None:
    is_rate = math.isfinite(learning_rate) and learning_rate > 0
    if not is_rate:
        raise ValueError(
            f"learning_rate is {learning_rate}; a finite number above 0 is allowed."
        )


def _check_lengths(*vectors: Floats | Bools) -> None:
    shapes = {vector.shape for vector in vectors}
    if len(shapes) > 1 or vectors[0].ndim != 1:
        raise ValueError(
            "weights, gradient, state and penalised are vectors of one length."
        )
