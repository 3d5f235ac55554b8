"""A Cox order at one hospital: what differs from other Newton orders.

The mathematics is `analytics.training.cox`; the rounds, the step and the equations are
those of `agents.training.newton`. A hospital without an event adds zeros.

Decisions 89 and 130.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from agents.gate import probes
from agents.training import cox_joint, cox_sums
from agents.training.checkpoint import Checkpoint
from agents.training.moments import Scale
from agents.training.trainer import Trainer
from analytics.arrays import Floats, Ints, Labels
from analytics.training import (
    cox,
    cox_report,
    normal_equations,
    proportional_hazards,
)
from analytics.training.cox_report import Survival
from analytics.training.models import Model
from analytics.training.normal_equations import Opened
from protocol.errors import BadRequest
from protocol.sums import limbs


def check_probe(
    trainer: Trainer, point: Checkpoint, X: Floats, y: Labels, *, min_rows: int
) -> None:
    """Refuses a round whose sums would tell single rows, and the weights that the last
    one has made: as `agents.training.newton.check_probe`.

    A row's weight is how many events it could expect while it was at risk.
    """
    rules = trainer.order.policy.cohort
    sizes = np.abs(cox.predictors(X, point.weights))
    probes.check_predictors(sizes, limit=rules.max_linear_predictor)
    # After the last step too: the end has sums over the same risk sets.
    rows = cox.row_weights(
        cox.labelled_strata(X, y), point.weights, ties=trainer.model.ties
    )
    probes.check_share(rows.weights, max_share=rules.max_share)
    probes.check_dominance(rows.weights, min_rows=min_rows)
    if min_rows > 1:
        probes.check_products(
            X, rows.weights, max_share=rules.max_share, min_rows=min_rows
        )
    probes.check_share(np.abs(rows.residuals), max_share=rules.max_share)


def round_sums(trainer: Trainer, point: Checkpoint, X: Floats, y: Labels) -> Floats:
    """This hospital's part. Disclosure: as `analytics.training.cox.local_sums`, and where
    the policy allows a joint baseline as `analytics.training.cox_joint.local_sums`.
    """
    if point.joint is not None:
        return cox_joint.round_sums(trainer, point, X, y)
    strata = cox.labelled_strata(X, y)
    return cox.local_sums(strata, point.weights, ties=trainer.model.ties)


def check_events(opened: Opened) -> None:
    """Refuses the first round's sums where they are of no event. Raises BadRequest (code
    no_events).
    """
    if opened.deviance == 0 and not any(map(any, opened.A)):
        raise BadRequest(
            "No row of any hospital has an event while another one of that hospital is at risk.",
            remedy="Choose rows with events, and look whether event_name has 1 where the event was.",
            code="no_events",
        )


def monotone() -> BadRequest:
    return BadRequest(
        "The partial likelihood has come to rest and a coefficient still grows: at every event an attribute has its"
        " largest value, or its smallest, so no finite coefficient is the best.",
        remedy="Leave out that attribute, merge its levels by derive, or order penalty L2.",
        code="separated",
    )


def kept_model(
    weights: Floats, scale: Scale, *, standardize: bool
) -> tuple[Floats, list[list[float]]]:
    """Weights as the vault has them, and by what rows are standardized before: their
    joint mean, and where the order does not standardize a deviation of 1.
    """
    mean = scale.mean.tolist()
    if standardize:
        return weights, [mean, scale.deviation.tolist()]
    return weights / scale.deviation, [mean, [1.0] * len(mean)]


def n_equations_at_the_end(model: Model) -> int:
    """Sums of a fold's end: events, three counts of pairs, -2 l, and the test's."""
    if model.baseline == "joint":
        return cox_sums.N_COUNTS
    return 5 + proportional_hazards.n_sums(model.n_weights)


def report_of(
    trainer: Trainer,
    point: Checkpoint,
    scale: Scale,
    *,
    sums: Ints,
    n_rows: int,
    diagonal: Floats,
) -> dict[str, Any]:
    """What is kept with the fold's model; sums: those at the fold's end;
    diagonal: the penalty's. Disclosure: of all hospitals' rows together, to this hospital's
    people.
    """
    model = trainer.model
    is_penalised = trainer.order.request.is_penalised
    training_part = cox_sums.read_training(model, sums)
    if model.baseline == "joint":
        return cox_joint.report_of(trainer, point, scale, training_part, n_rows=n_rows)
    tested = None
    if not is_penalised:
        tested = proportional_hazards.tested(
            training_part.hazards, model.n_weights, bits=limbs.FRACTION_BITS
        )
    fit = Survival(
        n=n_rows,
        n_events=training_part.n_events,
        log_likelihood=-training_part.deviance / 2,
        # The first round's are made at 0.
        null_log_likelihood=-n_rows * point.losses[0],
        pairs=training_part.pairs,
        tested=tested,
        scale=model.time_scale,
        ties=model.ties,
    )
    A = proportional_hazards.information(training_part.hazards, model.n_weights)
    information = Opened(A, [], 0.0, limbs.FRACTION_BITS, True)
    covariance = normal_equations.inverse(
        normal_equations.penalised(information, diagonal)
    )
    coef, covariance = cox_report.own_units(point.weights, covariance, scale.deviation)
    report = cox_report.report(
        trainer.features,
        coef,
        covariance,
        fit,
        confidence=trainer.params.confidence,
        is_penalised=is_penalised,
    )
    request = trainer.order.request
    if request.entry_name is not None:
        report["entry"] = request.entry_name
    if request.strata:
        report["strata"] = list(request.strata)
        report["concordance"]["within"] = "stratum"
    return report
