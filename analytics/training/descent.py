"""Federated gradient descent in one process.

It is what the flows do, without walls, keys or fixed point. With one part it is the
pooled run that tests and demos compare with; with one full batch per round every split
of the same rows gives the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from analytics.arrays import Floats, Labels, check_at_least
from analytics.training.gradients import local_gradient, local_loss
from analytics.training.initial_weights import initial_weights
from analytics.training.models import Model
from analytics.training.optimizers import (
    converged,
    decayed_rate,
    initial_state,
    penalty_value,
    step,
)

Part = tuple[Floats, Labels]  # the rows X (n, d) and labels y (n,) of one hospital


class Trained(NamedTuple):
    """What training ends with."""

    weights: Floats  # (n_weights,)
    losses: list[float]  # of each round, at its starting model
    n_rounds: int


def train(
    model: Model,
    parts: Sequence[Part],
    *,
    learning_rate: float,
    max_iter: int,
    optimizer: str = "sgd",
    decay: float = 0.0,
    decay_sqrt: bool = False,
    penalty: str | None = None,
    alpha: float = 0.0,
    batch_size: int = -1,
    eps: float = 1e-4,
    converge_func: str = "diff",
    init_method: str = "zeros",
    init_const: float = 0.0,
    random_seed: int = 1,
) -> Trained:
    """Train on the rows of several hospitals by the order of events of a federated
    order.

    Round t = 0, 1, ...: the joint loss, penalty included, at the round's starting
    model; each part's `local_gradient` at the round's rate; their mean weighted by row
    counts; one optimizer step with the penalty; then the test of convergence. At most
    max_iter rounds. `joint_loss` of the result is the final loss.

    Raises ValueError as the functions it calls, for no parts, and for a max_iter below
    1.

    Disclosure: takes the rows of all parts in one process; for tests, simulation and
    one owner's pooled table only.
    """
    if not parts:
        raise ValueError("parts is empty; one or more hospitals are needed.")
    check_at_least("max_iter", max_iter, 1)
    weights = initial_weights(
        model, method=init_method, const=init_const, seed=random_seed
    )
    optimizer_state = initial_state(model.n_weights)
    losses: list[float] = []
    for round_number in range(max_iter):
        rate = decayed_rate(
            learning_rate, decay=decay, decay_sqrt=decay_sqrt, round=round_number
        )
        loss = joint_loss(model, weights, parts, penalty=penalty, alpha=alpha)
        losses.append(loss)
        gradient = joint_gradient(
            model, weights, parts, batch_size=batch_size, learning_rate=rate
        )
        before = weights
        # Every hospital takes the same step, and so has the same weights after it.
        weights, optimizer_state = step(
            optimizer,
            before,
            gradient,
            optimizer_state,
            learning_rate=rate,
            penalty=penalty,
            alpha=alpha,
            penalised=model.penalised,
        )
        is_end = converged(
            converge_func,
            eps=eps,
            losses=losses,
            before=before,
            after=weights,
        )
        if is_end:
            break
    return Trained(weights, losses, len(losses))


def joint_loss(
    model: Model,
    weights: Floats,
    parts: Sequence[Part],
    *,
    penalty: str | None,
    alpha: float,
) -> float:
    """sum_i n_i loss_i / sum_i n_i plus the penalty once: the loss of a round.

    Disclosure: as `train`; a federation adds the n_i loss_i sealed and the penalty at
    the hospitals.
    """
    losses = [len(y) * local_loss(model, weights, X, y) for X, y in parts]
    # Rounded once, so that the order of the hospitals does not matter.
    mean = math.fsum(losses) / _n_rows(parts)
    added = penalty_value(
        weights, penalty=penalty, alpha=alpha, penalised=model.penalised
    )
    return mean + added


def joint_gradient(
    model: Model,
    weights: Floats,
    parts: Sequence[Part],
    *,
    batch_size: int,
    learning_rate: float,
) -> Floats:
    """sum_i n_i g_i / sum_i n_i, (n_weights,): the aggregate of a round, without
    penalty.

    Disclosure: as `train`; a federation adds the n_i g_i under masks.
    """
    gradient_sum = np.zeros(model.n_weights)
    for X, y in parts:
        gradient = local_gradient(
            model, weights, X, y, batch_size=batch_size, learning_rate=learning_rate
        )
        gradient_sum = gradient_sum + len(y) * gradient
    return gradient_sum / _n_rows(parts)


def _n_rows(parts: Sequence[Part]) -> int:
    return sum(len(y) for _, y in parts)
