"""How far a fold's training is, kept in the order's vault after each step.

A restart goes on from there.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from agents.site.vault import OrderVault
from analytics.arrays import Floats, Ints
from analytics.training import optimizers
from analytics.training.newton import NewtonState
from analytics.training.optimizers import OptimizerState
from analytics.training.outcome import StoppedBy
from protocol.messages import canonical


@dataclass
class Checkpoint:
    """The state after `round` steps, the same bits at every hospital (decision 13)."""

    fold: int
    round: int
    weights: Floats
    state: OptimizerState
    # Pooled, of each round so far, penalty included.
    losses: list[float] = field(default_factory=list)
    stopped_by: StoppedBy | None = None  # None while it goes on
    # Where rounds are scored: this hospital's own gradient and the aggregate of the
    # round before.
    gradient: Floats | None = None
    aggregate: Floats | None = None
    # What the metrics of that round would have been without single hospitals.
    left_out: dict[str, Any] = field(default_factory=dict)
    # Of a Newton order, with the sums (words of limbs) that were opened at `base`.
    newton: NewtonState | None = None
    opened: Ints | None = None
    # The last round's pooled loss without the penalty, for people to see; it is not
    # kept.
    mean_loss: float = math.nan

    @property
    def stopped(self) -> bool:
        return self.stopped_by is not None


def first_checkpoint(fold: int, start: Floats) -> Checkpoint:
    """Before the first step of a fold."""
    return Checkpoint(fold, 0, start, optimizers.initial_state(len(start)))


def save_checkpoint(store: OrderVault, point: Checkpoint) -> None:
    """Keeps it, and drops the messages of the round before, which all have used."""
    arrays: dict[str, NDArray[Any]] = {
        "round": np.array([point.round, point.state.step]),
        "stopped_by": np.array(point.stopped_by or ""),
        "weights": point.weights,
        "first": point.state.first,
        "second": point.state.second,
        "losses": np.array(point.losses, dtype=np.float64),
        "left_out": np.array(canonical(point.left_out)),
    }
    if point.gradient is not None:
        arrays["gradient"] = point.gradient
    if point.aggregate is not None:
        arrays["aggregate"] = point.aggregate
    if point.newton is not None and point.opened is not None:
        arrays.update(_newton_arrays(point.newton))
        arrays["opened"] = point.opened
    store.save_arrays(_name(point.fold), **arrays)
    last_round = point.round - 1
    for kind in ("vectors", "gradient", "opening-gradient"):
        store.forget_outbox(f"{kind}-{point.fold}-{last_round}-")


def load_checkpoint(store: OrderVault, fold: int) -> Checkpoint | None:
    """The fold's last one; None before its first step."""
    stored = store.load_arrays(_name(fold))
    if stored is None:
        return None
    round_, n_steps = (int(number) for number in stored["round"])
    stopped_by = str(stored["stopped_by"])
    state = OptimizerState(n_steps, stored["first"], stored["second"])
    left_out = json.loads(str(stored["left_out"]))
    return Checkpoint(
        fold,
        round_,
        stored["weights"],
        state,
        losses=stored["losses"].tolist(),
        stopped_by=cast(StoppedBy, stopped_by) if stopped_by else None,
        gradient=stored.get("gradient"),
        aggregate=stored.get("aggregate"),
        left_out=left_out,
        newton=_newton_of(stored) if "opened" in stored else None,
        opened=stored.get("opened"),
    )


def _newton_arrays(state: NewtonState) -> dict[str, NDArray[Any]]:
    deviance = math.nan if state.deviance is None else state.deviance
    return {
        "newton_coef": state.coef,
        "newton_base": state.base,
        "newton_numbers": np.array([deviance, state.last_step]),
        "newton_counts": np.array([state.n_halvings, state.round]),
        "newton_end": np.array([state.is_still, state.is_done]),
    }


def _newton_of(stored: dict[str, NDArray[Any]]) -> NewtonState:
    deviance, last_step = stored["newton_numbers"].tolist()
    n_halvings, round_ = stored["newton_counts"].tolist()
    is_still, is_done = stored["newton_end"].tolist()
    return NewtonState(
        coef=stored["newton_coef"],
        base=stored["newton_base"],
        deviance=None if math.isnan(deviance) else deviance,
        n_halvings=n_halvings,
        round=round_,
        is_still=is_still,
        is_done=is_done,
        last_step=last_step,
    )


def _name(fold: int) -> str:
    return f"checkpoint-{fold}.npz"
