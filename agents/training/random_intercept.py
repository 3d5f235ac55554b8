"""A linear model with a random intercept for each hospital, at one hospital: one round of
sums, and each hospital's own sums of columns and label, which all members read.

From the numbers of rows, which all know, every hospital's own sums would follow from the
sums over all at a grid of variances: so they are told openly, only where every hospital's
policy says `hospital_sums`. The mathematics is `analytics.training.random_intercept`.
Decision 112.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from agents.order.party import receive_all, send
from agents.training import newton as newton_orders
from agents.training.checkpoint import Checkpoint
from agents.training.moments import Scales
from agents.training.newton import Rows
from agents.training.trainer import Trainer
from analytics.arrays import Floats, Ints
from analytics.training import newton
from analytics.training.newton import NewtonState
from analytics.training.newton_report import INTERCEPT, Units, own_units
from analytics.training.normal_equations import Collinear
from analytics.training.random_intercept import Fit, Sums, fit
from protocol.errors import BadRequest
from protocol.messages import EVERYONE, bad_message, canonical, read_fields
from protocol.sums import limbs

_NEAR = 1e-6
"""How far own sums may be from those of all, relative to the rows: they are rounded."""


def tell_own_sums(
    trainer: Trainer,
    fold: int,
    rows: Rows,
) -> None:
    """This hospital's sums of each column and of the label, in joint units.

    Disclosure: to the order's hospitals, sealed; the policy has allowed it.
    """
    own_sums = {
        "columns": rows.X.sum(axis=0).tolist(),
        "label": float(np.sum(rows.y)),
    }
    message_body = canonical(own_sums).encode()
    send(
        trainer.order,
        "own_sums",
        lambda: message_body,
        recipient=EVERYONE,
        fold=fold,
    )


def _own_sums(trainer: Trainer, fold: int) -> tuple[Floats, Floats]:
    """Of all hospitals in the order of their ids, (hospitals, d) and (hospitals,)."""
    order = trainer.order
    members = sorted(order.session.members)
    bodies = receive_all(
        order,
        "own_sums",
        members,
        EVERYONE,
        fold=fold,
    )
    columns = []
    labels = []
    field_types: dict[str, type] = {"columns": list, "label": float}
    for member in members:
        message_fields = read_fields(bodies[member], field_types)
        of_columns = message_fields["columns"]
        of_label = message_fields["label"]
        numbers = [*of_columns, of_label]
        is_right = len(numbers) == trainer.model.n_weights
        are_sums = all(_is_number(number) for number in numbers)
        if not is_right or not are_sums:
            raise bad_message("of kind own_sums holds other numbers than sums")
        columns.append(of_columns)
        labels.append(of_label)
    own_columns = np.array(columns, dtype=np.float64)
    own_labels = np.array(labels, dtype=np.float64)
    return own_columns, own_labels


def _is_number(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _fit(
    trainer: Trainer,
    fold: int,
    sums: Ints,
) -> Fit:
    """Raises BadRequest (code own_sums, collinear)."""
    n_weights = trainer.model.n_weights
    opened = newton.read_sums(
        limbs.whole_sums(sums),
        n_weights,
        bits=limbs.FRACTION_BITS,
    )
    scale = 2**opened.bits
    quotient_rows = []
    for whole_row in opened.A:
        quotient_rows.append([value / scale for value in whole_row])
    XX = np.array(quotient_rows)
    Xy = np.array([value / scale for value in opened.c])
    columns, labels = _own_sums(trainer, fold)
    rows_of = trainer.keys(fold).n_rows
    members = sorted(trainer.order.session.members)
    n_rows = [rows_of[member] for member in members]
    of_intercept = np.array(n_rows, dtype=np.float64)
    own_X = np.column_stack([columns, of_intercept])
    # What all have told must add up to the sums that are sealed.
    told_sums = np.append(own_X.sum(axis=0), labels.sum())
    sealed_sums = np.append(XX[-1], Xy[-1])
    distances = np.abs(told_sums - sealed_sums)
    is_near = distances <= _NEAR * sum(n_rows)
    if not is_near.all():
        raise BadRequest(
            "The hospitals' own sums do not add up to those of all rows.",
            remedy="All hospitals must run the same version; then send the order again.",
            code="own_sums",
        )
    of_all = Sums(
        XX,
        Xy,
        opened.deviance,
        n_rows,
        own_X,
        labels,
    )
    try:
        return fit(of_all)
    except Collinear as error:
        names = [*trainer.features, INTERCEPT]
        raise BadRequest(
            f"{names[error.column]} is constant over all rows, or a combination of the columns before it, so that its"
            " coefficient is any number.",
            remedy="Leave it out.",
            code="collinear",
            columns=[names[error.column]],
        ) from None


def stepped_point(
    trainer: Trainer,
    point: Checkpoint,
    sums: Ints,
) -> Checkpoint:
    """The fold's state after its one round."""
    joint_fit = _fit(trainer, point.fold, sums)
    newton_state = NewtonState(
        joint_fit.coef,
        joint_fit.coef,
        round=1,
        is_done=True,
    )
    return Checkpoint(
        point.fold,
        1,
        joint_fit.coef,
        point.state,
        newton=newton_state,
        opened=sums,
    )


def report_of(
    trainer: Trainer,
    point: Checkpoint,
    scales: Scales,
) -> dict[str, Any]:
    """What is kept with the model; variances and the criterion as lme4 has them.

    Disclosure: of all hospitals' rows together, to this hospital's people.
    """
    assert point.opened is not None
    joint_fit = _fit(trainer, point.fold, point.opened)
    label, attributes = scales.label, scales.attributes
    assert attributes is not None, "newton scales them"
    units = Units(
        attributes.mean,
        attributes.deviation,
        label.shift,
        label.factor,
    )
    coef, covariance = own_units(joint_fit.coef, joint_fit.covariance, units)
    confidence = trainer.params.confidence
    names = [*trainer.features, INTERCEPT]
    terms = _terms(names, coef, covariance, confidence)
    sum_keys = trainer.keys(point.fold)
    n, p = sum_keys.n_rows_total, len(coef)
    log_factor = math.log(label.factor)
    criterion = joint_fit.criterion + 2 * (n - p) * log_factor
    for deviation in attributes.deviation.tolist():
        criterion += 2 * math.log(deviation)
    between, residual = joint_fit.between, joint_fit.residual
    return {
        "terms": terms,
        "site_effect": "random",
        "n": n,
        "family": "gaussian",
        "link": "identity",
        "statistic": "z",
        "confidence": confidence,
        "variance_between": between * label.factor**2,
        "variance_residual": residual * label.factor**2,
        "intraclass_correlation": between / (between + residual),
        "reml_criterion": criterion,
        "hospitals": len(sum_keys.members),
        "rounds": point.round,
        "converged": point.stopped_by == "converged",
        "stopped_by": point.stopped_by,
        "equations": newton.n_sums(newton_orders.n_estimated(trainer)),
        "notes": [] if between else [NO_DIFFERENCE],
    }


def _terms(
    names: list[str], coef: Floats, covariance: Floats, confidence: float
) -> list[dict[str, Any]]:
    """Estimates with z tests and intervals, the intercept first."""
    from scipy import special

    quantile = float(special.ndtri(0.5 + confidence / 2))
    terms = []
    intercept = len(names) - 1
    for term_place in [intercept, *range(intercept)]:
        estimate = float(coef[term_place])
        error = math.sqrt(covariance[term_place, term_place])
        statistic = estimate / error
        upper_tail = float(special.ndtr(-abs(statistic)))
        term = {
            "term": names[term_place],
            "estimate": estimate,
            "se": error,
            "statistic": statistic,
            "p": 2 * upper_tail,
            "low": estimate - quantile * error,
            "high": estimate + quantile * error,
        }
        terms.append(term)
    return terms


NO_DIFFERENCE = (
    "The hospitals differ no more than their rows do: the variance between them is 0, and this is the linear model of"
    " all rows."
)
