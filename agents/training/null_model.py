"""The null model of a glm with an offset, at one hospital: an intercept and the offset.

Of some families and links it has a formula (`families.is_null_with_offset`). The others'
is fitted beside the model, by sums of its own in each round's message, and steps as the
model does: no message more. Decision 125.
"""

from __future__ import annotations

import numpy as np

from agents.gate import probes
from agents.training.checkpoint import Checkpoint
from agents.training.moments import Scales
from agents.training.trainer import Trainer
from analytics.arrays import Floats, Ints, Labels
from analytics.training import families, newton
from analytics.training.newton import NewtonState, NoMean, RowNumbers
from analytics.training.normal_equations import Collinear
from protocol.sums import limbs

N_SUMS = newton.n_sums(1)
"""Behind those of a round."""


def n_sums(trainer: Trainer) -> int:
    """0 of orders whose null model has a formula, or none; 0 of negative_binomial, too, whose
    theta moves, and of Firth's penalty, whose deviance is no minimum.
    """
    pair = trainer.model.pair
    request = trainer.order.request
    if pair is None or request.is_meta or request.is_firth or pair.has_theta:
        return 0
    has_offset = trainer.params.offset is not None and trainer.model.fit_intercept
    has_formula = families.is_null_with_offset(pair)
    return N_SUMS if has_offset and not has_formula else 0


def _row_numbers(
    trainer: Trainer,
    point: Checkpoint,
    y: Labels,
    *,
    offset: Floats | float,
    row_weights: Floats | None,
) -> RowNumbers:
    pair = trainer.model.pair
    assert pair is not None, "it is a glm"
    null_state = point.null or _start()
    return newton.row_numbers(
        pair,
        np.zeros((len(y), 0)),
        y,
        null_state.coef,
        is_start=null_state.is_start,
        offset=offset,
        row_weights=1.0 if row_weights is None else row_weights,
    )


def _start() -> NewtonState:
    return NewtonState(coef=np.zeros(1), base=np.zeros(1))


def check_probe(
    trainer: Trainer,
    point: Checkpoint,
    y: Labels,
    *,
    offset: Floats | float,
    row_weights: Floats | None,
    min_rows: int,
) -> None:
    """As `agents.training.newton.check_probe`, of this model's own sums."""
    if not n_sums(trainer):
        return
    numbers = _row_numbers(trainer, point, y, offset=offset, row_weights=row_weights)
    # Of rows without a mean no sum is made.
    if not numbers.is_valid:
        return
    max_share = trainer.order.policy.cohort.max_share
    probes.check_share(numbers.weights, max_share=max_share)
    probes.check_dominance(numbers.weights, min_rows=min_rows)
    if point.null is not None and not point.null.is_start:
        probes.check_share(np.abs(numbers.scores), max_share=max_share)


def local_sums(
    trainer: Trainer,
    point: Checkpoint,
    y: Labels,
    *,
    offset: Floats | float,
    row_weights: Floats | None,
) -> Floats:
    """This hospital's part, float64 (n_sums,). Disclosure: as
    `analytics.training.newton.local_sums`, of the intercept alone.
    """
    if not n_sums(trainer):
        return np.zeros(0)
    numbers = _row_numbers(trainer, point, y, offset=offset, row_weights=row_weights)
    return newton.local_sums(np.zeros((len(y), 0)), numbers)


def stepped(trainer: Trainer, point: Checkpoint, sums: Ints) -> NewtonState | None:
    """The null model one round later; sums: words of all that the round has opened.

    One that cannot step stays where it is, and never comes to rest.
    """
    if not n_sums(trainer):
        return None
    pair = trainer.model.pair
    assert pair is not None, "it is a glm"
    before = point.null or _start()
    null_totals = limbs.whole_sums(sums)[-N_SUMS:]
    opened = newton.read_sums(null_totals, 1, bits=limbs.FRACTION_BITS)
    try:
        return newton.stepped(
            before,
            opened,
            pair=pair,
            eps=trainer.params.tolerance,
            diagonal=np.zeros(1),
            n_rows=trainer.keys(point.fold).n_rows_total,
        )
    except (Collinear, NoMean, ValueError):
        return before


def deviance(trainer: Trainer, point: Checkpoint, scales: Scales) -> float | None:
    """Of the null model, in the label's units; None where it has not come to rest.

    It is of the weights before the last step, which differ from the best by less than
    counts in a minimum.
    """
    null_state = point.null
    if not n_sums(trainer) or null_state is None or null_state.deviance is None:
        return None
    return scales.label.own_loss(null_state.deviance) if null_state.is_still else None
