"""How far a fold's training is, kept in the order's vault after each step, so that a restart goes on from there."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.site.vault import OrderVault
from analytics.arrays import Floats
from analytics.training import optimizers
from analytics.training.optimizers import OptimizerState
from protocol.messages import canonical


@dataclass
class Checkpoint:
    """The replicated state after `round` steps of a fold: the same bits at every hospital (decision 13)."""

    fold: int
    round: int
    weights: Floats
    state: OptimizerState
    losses: list[float] = field(default_factory=list)  # pooled, of each round so far, penalty included
    stopped: bool = False
    # Where rounds are scored: this hospital's own gradient and the aggregate of the round before, and what the metrics
    # of that round would have been without single hospitals.
    gradient: Floats | None = None
    aggregate: Floats | None = None
    left_out: dict[str, Any] = field(default_factory=dict)
    # The last round's pooled loss without the penalty, for people to see; it is not kept.
    mean_loss: float = math.nan


def first_checkpoint(fold: int, start: Floats) -> Checkpoint:
    """Before the first step of a fold."""
    return Checkpoint(fold, 0, start, optimizers.initial_state(len(start)))


def save_checkpoint(store: OrderVault, point: Checkpoint) -> None:
    """Keeps it, and drops the messages of the round before, which all hospitals have used."""
    arrays: dict[str, NDArray[Any]] = {
        "round": np.array([point.round, point.state.step, point.stopped]),
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
    store.save_arrays(_name(point.fold), **arrays)
    for kind in ("vectors", "gradient", "opening-gradient"):
        store.forget_outbox(f"{kind}-{point.fold}-{point.round - 1}-")


def load_checkpoint(store: OrderVault, fold: int) -> Checkpoint | None:
    """The fold's last one; None before its first step."""
    stored = store.load_arrays(_name(fold))
    if stored is None:
        return None
    round_, n_steps, stopped = (int(number) for number in stored["round"])
    return Checkpoint(
        fold,
        round_,
        stored["weights"],
        OptimizerState(n_steps, stored["first"], stored["second"]),
        losses=stored["losses"].tolist(),
        stopped=bool(stopped),
        gradient=stored.get("gradient"),
        aggregate=stored.get("aggregate"),
        left_out=json.loads(str(stored["left_out"])),
    )


def _name(fold: int) -> str:
    return f"checkpoint-{fold}.npz"
