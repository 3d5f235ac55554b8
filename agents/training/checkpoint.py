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
from analytics.training.cox_joint import Counts, JointState
from analytics.training.newton import NewtonState
from analytics.training.optimizers import OptimizerState
from analytics.training.outcome import StoppedBy
from protocol.messages import canonical

_N_END = 4  # what a NewtonState says of its end


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
    # Of a glm with an offset its null model, where that needs rounds.
    null: NewtonState | None = None
    # Of a cox with a joint baseline, from when the other rounds have come to rest.
    joint: JointState | None = None
    # The last round's pooled loss without the penalty, for people to see; it is not
    # kept.
    mean_loss: float = math.nan

    @property
    def stopped(self) -> bool:
        return self.stopped_by is not None


def first_checkpoint(fold: int, start: Floats) -> Checkpoint:
    """Before the first step of a fold."""
    return Checkpoint(
        fold,
        0,
        start,
        optimizers.initial_state(len(start)),
    )


def save_checkpoint(store: OrderVault, point: Checkpoint) -> None:
    """Keeps it, and drops the messages of the round before, which all have used."""
    arrays: dict[str, NDArray[Any]] = {
        "round": np.array([point.round, point.state.step]),
        "stopped_by": np.array(point.stopped_by or ""),
        "weights": point.weights,
        "first": point.state.first,
        "second": point.state.second,
        "losses": np.array(point.losses, dtype=np.float64),
        # As a text: arrays of objects are pickles, and the vault reads none.
        "left_out": np.array(canonical(point.left_out)),
    }
    if point.gradient is not None:
        arrays["gradient"] = point.gradient
    if point.aggregate is not None:
        arrays["aggregate"] = point.aggregate
    if point.newton is not None and point.opened is not None:
        arrays.update(_newton_arrays(point.newton, "newton"))
        arrays["opened"] = point.opened
    if point.null is not None:
        arrays.update(_newton_arrays(point.null, "null"))
    if point.joint is not None:
        arrays.update(_joint_arrays(point.joint))
    # Before the messages go: a crash between the two leaves some too many, and none
    # that the round before would still need is missing.
    store.save_arrays(_name(point.fold), **arrays)
    last_round = point.round - 1
    for message_kind in ("vectors", "gradient", "opening-gradient"):
        store.forget_outbox(f"{message_kind}-{point.fold}-{last_round}-")


def load_checkpoint(store: OrderVault, fold: int) -> Checkpoint | None:
    """The fold's last one; None before its first step."""
    stored = store.load_arrays(_name(fold))
    if stored is None:
        return None
    round_, n_steps = (int(number) for number in stored["round"])
    optimizer_state = OptimizerState(
        n_steps,
        stored["first"],
        stored["second"],
    )
    left_out = json.loads(str(stored["left_out"]))
    stopped_by = None
    word = str(stored["stopped_by"])
    if word:
        stopped_by = cast(StoppedBy, word)
    newton = None
    if "opened" in stored:
        newton = _newton_of(stored, "newton")
    null = None
    if "null_coef" in stored:
        null = _newton_of(stored, "null")
    joint = None
    if "joint_numbers" in stored:
        joint = _joint_of(stored)
    return Checkpoint(
        fold,
        round_,
        stored["weights"],
        optimizer_state,
        losses=stored["losses"].tolist(),
        stopped_by=stopped_by,
        gradient=stored.get("gradient"),
        aggregate=stored.get("aggregate"),
        left_out=left_out,
        newton=newton,
        opened=stored.get("opened"),
        null=null,
        joint=joint,
    )


def _joint_arrays(state: JointState) -> dict[str, NDArray[Any]]:
    numbers = [state.n_strict, state.n_rounds]
    arrays: dict[str, NDArray[Any]] = {
        "joint_numbers": np.array(numbers),
        "joint_log_likelihood": np.array(state.log_likelihood),
    }
    if state.counts is not None:
        arrays["joint_counts"] = np.array(state.counts, dtype=np.int64)
    if state.information is not None:
        arrays["joint_information"] = state.information
    return arrays


def _joint_of(stored: dict[str, NDArray[Any]]) -> JointState:
    n_strict, n_rounds = stored["joint_numbers"].tolist()
    kept_counts = stored.get("joint_counts")
    counts = None
    if kept_counts is not None:
        counts = Counts(*kept_counts)
    return JointState(
        counts,
        n_strict,
        n_rounds,
        float(stored["joint_log_likelihood"]),
        stored.get("joint_information"),
    )


def _newton_arrays(
    state: NewtonState,
    name: str,
) -> dict[str, NDArray[Any]]:
    deviance = math.nan if state.deviance is None else state.deviance
    numbers = [deviance, state.last_step]
    counts = [
        state.n_halvings,
        state.round,
        state.n_scored,
    ]
    thetas = [state.log_theta, state.base_log_theta]
    end_flags = [
        state.is_still,
        state.is_done,
        state.is_scoring,
        state.is_growing,
    ]
    return {
        f"{name}_coef": state.coef,
        f"{name}_base": state.base,
        f"{name}_numbers": np.array(numbers),
        f"{name}_counts": np.array(counts),
        f"{name}_theta": np.array(thetas),
        f"{name}_end": np.array(end_flags),
    }


def _newton_of(
    stored: dict[str, NDArray[Any]],
    name: str,
) -> NewtonState:
    deviance, last_step = stored[f"{name}_numbers"].tolist()
    n_halvings, round_, *scored = stored[f"{name}_counts"].tolist()
    log_theta = math.inf
    base_log_theta = math.inf
    thetas = stored.get(f"{name}_theta")
    if thetas is not None:
        log_theta, base_log_theta = thetas.tolist()
    end_flags = stored[f"{name}_end"].tolist()
    # Fewer where a version before these wrote it.
    end_flags += [False] * (_N_END - len(end_flags))
    is_still, is_done, is_scoring, is_growing = end_flags
    return NewtonState(
        coef=stored[f"{name}_coef"],
        base=stored[f"{name}_base"],
        deviance=None if math.isnan(deviance) else deviance,
        n_halvings=n_halvings,
        round=round_,
        is_still=is_still,
        is_done=is_done,
        last_step=last_step,
        is_growing=is_growing,
        is_scoring=is_scoring,
        n_scored=sum(scored),
        log_theta=log_theta,
        base_log_theta=base_log_theta,
    )


def _name(fold: int) -> str:
    return f"checkpoint-{fold}.npz"
