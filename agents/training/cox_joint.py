"""A Cox order with one baseline hazard for all hospitals, at one hospital: the rounds
behind those that every cox has.

When these have come to rest there is one round of counts, of events and others in each of
the order's intervals, of which all make the same merged ones; then the rounds of
`analytics.training.cox_joint`. They are rounds as all others: messages, checkpoints and
crashes do not know the difference.

Decision 111.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from agents.training import cox_sums
from agents.training.checkpoint import Checkpoint
from agents.training.moments import Scale
from agents.training.row_gate import least_rows
from agents.training.trainer import Trainer
from analytics.arrays import Floats, Ints, Labels
from analytics.training import cox_joint, cox_report, newton, normal_equations
from analytics.training.cox_joint import Counts, Intervals, JointState
from analytics.training.cox_report import Survival
from analytics.training.normal_equations import Collinear, Opened
from protocol.errors import BadRequest, Refused
from protocol.sums import limbs


def begun(trainer: Trainer, point: Checkpoint) -> Checkpoint:
    """The state after a round of the others: where it was the last of them, the joint
    rounds begin. Raises BadRequest (code joint_baseline) where max_iter leaves none.
    """
    newton_state = point.newton
    assert newton_state is not None
    n_left = trainer.params.max_iter - point.round
    if newton_state.is_done and n_left > cox_joint.ROUNDS:
        point.newton = replace(newton_state, is_done=False)
        point.joint = JointState()
        return point
    if newton_state.is_done or n_left <= 0:
        raise BadRequest(
            f"max_iter {trainer.params.max_iter} has come before the rounds of a joint baseline were through.",
            remedy="Order a larger max_iter.",
            code="joint_baseline",
        )
    return point


def round_sums(trainer: Trainer, point: Checkpoint, X: Floats, y: Labels) -> Floats:
    """This hospital's part: counts, then sums over risk sets. Raises Refused (code
    equations) for intervals of too few people.

    Disclosure: as `analytics.training.cox_joint`; the policy has said `risk_sets`.
    """
    assert point.joint is not None
    edges = trainer.order.request.edges
    is_strict = _own_least(trainer) > 1
    if point.joint.counts is None:
        counts = cox_joint.local_counts(y, edges)
        return np.concatenate([*counts, [float(is_strict)]])
    if is_strict and point.joint.n_strict < 1:
        # The word that says so is a sum with others' words.
        raise _too_few(trainer)
    intervals = _intervals(trainer, point.joint)
    return cox_joint.local_sums(X, y, intervals, point.weights, ties=trainer.model.ties)


def _own_least(trainer: Trainer) -> int:
    """How many people this hospital asks for in an interval; 1 switches it off."""
    if least_rows(trainer.order, "train") == 1:
        return 1
    return _least(trainer)


def _least(trainer: Trainer) -> int:
    """So many unknown rows do joint rounds not tell: each opens p + 3 numbers of each
    row's kind.
    """
    return cox_joint.ROUNDS * (trainer.model.n_weights + 3)


def _intervals(trainer: Trainer, state: JointState) -> Intervals:
    """The merged ones."""
    assert state.counts is not None
    intervals = cox_joint.merged(
        state.counts,
        trainer.order.request.edges,
        least=_least(trainer) if state.n_strict else 1,
        ties=trainer.model.ties,
    )
    if intervals is None:
        raise _too_few(trainer)
    return intervals


def _too_few(trainer: Trainer) -> Refused:
    least = _least(trainer)
    return Refused(
        f"A joint baseline needs {least} people who leave in each interval, with efron {least} events and 0 or {least}"
        " others, and all rows together are fewer.",
        remedy="Order baseline hospital, fewer attributes or ties breslow, or add rows.",
        code="equations",
        threshold=least,
    )


def stepped_point(trainer: Trainer, point: Checkpoint, sums: Ints) -> Checkpoint:
    """The state one joint round later."""
    assert point.joint is not None
    assert point.newton is not None
    opened_totals = limbs.whole_sums(sums)
    if point.joint.counts is None:
        counts = [total >> limbs.FRACTION_BITS for total in opened_totals]
        events, censored = np.array(counts[:-1], dtype=np.int64).reshape(2, -1)
        counted = JointState(Counts(events, censored), n_strict=counts[-1])
        # Whether there are enough people is found before the next sums are made.
        _intervals(trainer, counted)
        return _after(point, counted, point.weights)
    intervals = _intervals(trainer, point.joint)
    try:
        newton_step = cox_joint.stepped(
            opened_totals,
            intervals,
            point.weights,
            ties=trainer.model.ties,
            bits=limbs.FRACTION_BITS,
        )
    except Collinear as error:
        column_name = trainer.features[error.column]
        raise BadRequest(
            f"With one baseline for all hospitals {column_name} is a combination of the columns before it.",
            remedy="Leave it out, or order baseline hospital.",
            code="collinear",
            columns=[column_name],
        ) from None
    joint_state = replace(
        point.joint,
        n_rounds=point.joint.n_rounds + 1,
        log_likelihood=newton_step.log_likelihood,
        information=newton_step.information,
    )
    return _after(point, joint_state, newton_step.coef)


def _after(point: Checkpoint, state: JointState, weights: Floats) -> Checkpoint:
    assert point.newton is not None
    newton_state = replace(
        point.newton, coef=weights, base=point.weights, is_done=state.is_done
    )
    # The joint likelihood is no continuation of the other one.
    return replace(
        point,
        round=point.round + 1,
        weights=weights,
        losses=[*point.losses, point.losses[-1]],
        newton=replace(newton_state, round=point.newton.round + 1),
        joint=state,
    )


def n_further_equations(trainer: Trainer, point: Checkpoint) -> int:
    """How many more sums the joint rounds have opened than as many of the others."""
    if point.joint is None or point.joint.counts is None:
        return 0
    n_weights = trainer.model.n_weights
    n_counts = 2 * len(point.joint.counts.events) + 1
    n_intervals = len(_intervals(trainer, point.joint).starts)
    n_joint = cox_joint.n_sums(n_weights, n_intervals, ties=trainer.model.ties)
    n_opened = n_counts + cox_joint.ROUNDS * n_joint
    return n_opened - (1 + cox_joint.ROUNDS) * newton.n_sums(n_weights)


def report_of(
    trainer: Trainer,
    point: Checkpoint,
    scale: Scale,
    training_part: cox_sums.TrainingPart,
    *,
    n_rows: int,
) -> dict[str, Any]:
    """As `agents.training.cox.report_of`. Proportional hazards are not tested: the test's
    sums are of baselines for each hospital.
    """
    model = trainer.model
    joint_state = point.joint
    assert joint_state is not None
    assert joint_state.information is not None
    intervals = _intervals(trainer, joint_state)
    bits = limbs.FRACTION_BITS
    information = Opened(
        normal_equations.integers(joint_state.information, bits), [], 0.0, bits, True
    )
    coef, covariance = cox_report.own_units(
        point.weights, normal_equations.inverse(information), scale.deviation
    )
    fit = Survival(
        n=n_rows,
        n_events=training_part.n_events,
        log_likelihood=joint_state.log_likelihood,
        null_log_likelihood=cox_joint.null_log_likelihood(intervals, ties=model.ties),
        pairs=training_part.pairs,
        tested=None,
        scale=model.time_scale,
        ties=model.ties,
    )
    report = cox_report.report(
        trainer.features,
        coef,
        covariance,
        fit,
        confidence=trainer.params.confidence,
        is_penalised=False,
    )
    report["baseline"] = "joint"
    ends = [end if np.isfinite(end) else None for end in intervals.ends.tolist()]
    report["intervals"] = {
        "n": len(ends),
        "starts": intervals.starts.tolist(),
        "ends": ends,
        "events": intervals.n_events.tolist(),
        "at_risk": intervals.n_at_risk.tolist(),
    }
    report["notes"].append(
        f"One baseline for all hospitals, by sums at {len(ends)} intervals of time: between two edges events count as"
        " at one time."
    )
    return report
