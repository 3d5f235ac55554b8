"""What is kept with the model of a Newton order: estimates with their errors in the units
of the columns as they came, and numbers of the fit.

The mathematics is `analytics.training.newton_report`, the rounds before it
`agents.training.newton`.

Decision 84.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from agents.training import cox, cox_joint, final_sums, newton, null_model, robust
from agents.training.checkpoint import Checkpoint
from agents.training.equations import n_counted, n_folds_before, rounds_before
from agents.training.final_sums import TrainingTotals
from agents.training.moments import Scale, Scales
from agents.training.trainer import Trainer
from analytics.arrays import Floats, Ints
from analytics.training import families, overdispersion
from analytics.training.inflation import generalised_inflation
from analytics.training.models import Model
from analytics.training.newton_report import (
    Fit,
    RobustErrors,
    Units,
    not_converged,
    own_units,
    report,
)
from analytics.training.normal_equations import inverse, penalised
from protocol.regression_request import FIRTH, FIRTH_PAIRS, HOSPITAL
from protocol.sums import limbs


def unscaled(
    weights: Floats,
    scale: Scale,
    *,
    has_intercept: bool,
) -> Floats:
    """The same model for columns as they came, the intercept last."""
    if not has_intercept:
        return weights / scale.deviation
    slopes = weights[:-1] / scale.deviation
    intercept = weights[-1] - float(np.sum(slopes * scale.mean))
    return np.append(slopes, intercept)


def report_of(
    trainer: Trainer,
    point: Checkpoint,
    scales: Scales,
    sums: Ints,
    of_errors: Ints,
) -> dict[str, Any]:
    """What is kept with the fold's model; sums: those at the fold's end, of_errors those
    behind them.

    Disclosure: of all hospitals' rows together, to this hospital's people.
    """
    n_folds = 1 + n_folds_before(trainer, point.fold)
    n_rounds = rounds_before(trainer, point.fold) + n_counted(point)
    n_equations = n_rounds * newton.n_sums(trainer)
    if trainer.model.kind == "cox":
        model_report = _cox_report(
            trainer,
            point,
            scales,
            sums,
        )
        n_equations += n_folds * cox.n_equations_at_the_end(trainer.model)
        n_equations += cox_joint.n_further_equations(trainer, point)
    else:
        model_report = _glm_report(
            trainer,
            point,
            scales,
            sums,
            of_errors,
        )
        n_equations += n_folds * len(of_errors) // limbs.N_LIMBS
    is_converged = point.stopped_by == "converged"
    if not is_converged:
        has_firth = trainer.model.pair in FIRTH_PAIRS
        model_report["notes"].append(not_converged(has_firth=has_firth))
    return {
        **model_report,
        "hospitals": len(trainer.keys(point.fold).members),
        "rounds": point.round,
        "converged": is_converged,
        "stopped_by": point.stopped_by,
        "equations": n_equations,
    }


def _cox_report(
    trainer: Trainer,
    point: Checkpoint,
    scales: Scales,
    sums: Ints,
) -> dict[str, Any]:
    assert scales.attributes is not None, "newton scales them"
    n_rows = trainer.keys(point.fold).n_rows_total
    return cox.report_of(
        trainer,
        point,
        scales.attributes,
        sums=sums,
        n_rows=n_rows,
        diagonal=newton.penalty(trainer, scales.attributes, n_rows=n_rows),
    )


def _glm_report(
    trainer: Trainer,
    point: Checkpoint,
    scales: Scales,
    sums: Ints,
    of_errors: Ints,
) -> dict[str, Any]:
    request = trainer.order.request
    n_rows = trainer.keys(point.fold).n_rows_total
    theta_se = _theta_error(trainer, point)
    of_all = final_sums.training_totals(trainer.model, sums, n_rows)
    coef, covariance = _estimates(trainer, point, scales, n_rows=n_rows)
    fit = _joint_fit(trainer, point, of_all, scales)
    robust_errors = _robust_errors(trainer, point, scales, of_errors, n=fit.n)
    model_report = report(
        newton.pair_at(trainer, point),
        newton.names_of(trainer),
        coef,
        covariance,
        fit,
        confidence=trainer.params.confidence,
        is_penalised=request.is_penalised,
        estimates_dispersion=request.estimates_dispersion,
        robust=robust_errors,
        theta_se=theta_se,
        has_intercept=trainer.model.fit_intercept,
    )
    model_report.update(_of_order(trainer))
    if not request.is_penalised:
        slopes = covariance
        if trainer.model.fit_intercept:
            slopes = covariance[:-1, :-1]
        term_places = _places_of_terms(trainer)
        model_report["inflation"] = generalised_inflation(slopes, term_places)
    return model_report


def _theta_error(trainer: Trainer, point: Checkpoint) -> float | None:
    """Of an estimated theta; None of a model without one."""
    assert point.opened is not None
    pair = newton.pair_at(trainer, point)
    if not pair.has_theta:
        return None
    _, information = newton.read_theta(trainer, point.opened)
    return overdispersion.theta_error(pair.theta, information)


def _estimates(
    trainer: Trainer, point: Checkpoint, scales: Scales, *, n_rows: int
) -> tuple[Floats, Floats]:
    """What is estimated and its covariance by the last round's sums, in the units of
    columns and label.
    """
    assert point.opened is not None
    assert scales.attributes is not None, "newton scales them"
    diagonal = newton.penalty(trainer, scales.attributes, n_rows=n_rows)
    opened = penalised(newton.read(trainer, point.opened), diagonal)
    return _own_estimates(trainer, point.weights, inverse(opened), scales)


def _of_order(trainer: Trainer) -> dict[str, Any]:
    """What the report repeats of the order: clusters, penalty, weights, offset and site
    effect; Firth's penalty takes the AIC away.
    """
    request = trainer.order.request
    order_fields = robust.about(trainer)
    if request.is_firth:
        # AIC is of a maximum of the likelihood itself.
        order_fields.update(penalty=FIRTH, aic=None)
    if request.weights is not None:
        order_fields["weights"] = request.weights
        order_fields["weights_type"] = request.model_params.weights_type or "prior"
    if newton.offset_place(trainer) is not None:
        order_fields["offset"] = trainer.params.offset
    if request.site_features:
        order_fields["site_effect"] = "fixed"
        order_fields["reference_hospital"] = min(request.hospitals)
    return order_fields


def _places_of_terms(trainer: Trainer) -> dict[str, list[int]]:
    """By attribute where its coefficients stand: a category and a spline have several."""
    names = newton.names_of(trainer)
    of_sites = trainer.order.request.site_features
    term_places = {}
    if of_sites:
        term_places[HOSPITAL] = [names.index(name) for name in of_sites]
    if trainer.design is None:
        n_attributes = len(names) - len(of_sites)
        for place, attribute in enumerate(names[:n_attributes]):
            term_places[attribute] = [place]
        return term_places
    for term in trainer.design.terms:
        if term.name != trainer.params.offset:
            term_places[term.name] = [names.index(feature) for feature in term.features]
    return term_places


def _robust_errors(
    trainer: Trainer,
    point: Checkpoint,
    scales: Scales,
    words: Ints,
    *,
    n: int,
) -> RobustErrors | None:
    """In the units of columns and label; None where none are ordered."""
    if not robust.is_ordered(trainer):
        return None
    errors = robust.errors_of(
        trainer,
        words,
        newton.n_estimated(trainer),
        n=n,
    )
    _, own_covariance = _own_estimates(
        trainer,
        point.weights,
        errors.covariance,
        scales,
    )
    # Squared residuals have the label's units already.
    return errors._replace(covariance=own_covariance * scales.label.dispersion)


def _own_estimates(
    trainer: Trainer,
    weights: Floats,
    covariance: Floats,
    scales: Scales,
) -> tuple[Floats, Floats]:
    """What is estimated, in the units of columns and label, and its covariance at a
    dispersion of 1; covariance: A^-1 in those that are trained in.
    """
    label, attributes = scales.label, scales.attributes
    assert attributes is not None, "newton scales them"
    units = Units(
        attributes.mean,
        attributes.deviation,
        label.shift,
        label.factor,
    )
    offset_column = newton.offset_place(trainer)
    if offset_column is not None:
        # Held at 1: it has no error, and its mean is in the intercept.
        covariance = np.insert(
            covariance,
            offset_column,
            0.0,
            axis=0,
        )
        covariance = np.insert(
            covariance,
            offset_column,
            0.0,
            axis=1,
        )
    coef, covariance = own_units(weights, covariance, units)
    coef = newton.estimated(trainer, coef)
    if offset_column is not None:
        for axis in (0, 1):
            covariance = np.delete(covariance, offset_column, axis=axis)
    # A is of the label in joint units, as its dispersion; the report's is the label's.
    return coef, covariance / label.dispersion


def _joint_fit(
    trainer: Trainer, point: Checkpoint, of_all: TrainingTotals, scales: Scales
) -> Fit:
    """How well the model fits all hospitals' rows; beside it the null model, which has the
    offset, too.
    """
    model = newton.fitted_model(trainer, point)
    n_rows = trainer.keys(point.fold).n_rows_total
    fit = _fit_of(trainer, model, of_all, scales, n_rows=n_rows)
    pair = newton.pair_at(trainer, point)
    has_offset = newton.offset_place(trainer) is not None
    if not has_offset or families.is_null_with_offset(pair):
        return fit
    # The null model gives rows other answers then, and is another fit.
    of_null = null_model.deviance(trainer, point, scales)
    return fit._replace(null_deviance=of_null)


def _fit_of(
    trainer: Trainer,
    model: Model,
    of_all: TrainingTotals,
    scales: Scales,
    *,
    n_rows: int,
) -> Fit:
    pair = newton.pair_of(trainer)
    loss = final_sums.fitted_loss(of_all)
    null_loss: float | None
    if model.fit_intercept:
        null_loss = final_sums.constant_loss(model, of_all, scales.label_variance)
    else:
        null_loss = final_sums.zero_loss(
            model,
            of_all,
            label_mean=scales.label_mean,
            label_variance=scales.label_variance,
        )
    deviance = 2 * n_rows * loss
    fit = Fit(
        n=n_rows,
        n_likelihood=n_rows,
        deviance=deviance,
        null_deviance=None if null_loss is None else 2 * n_rows * null_loss,
        n_events=int(of_all.n_of_class.min()) if pair.is_binary else None,
        # Of linear; lr, whose dispersion is 1, has none.
        pearson=deviance,
        remainder=0.0,
    )
    means = of_all.fit
    if means is None:
        return fit
    fit = fit._replace(
        pearson=n_rows * means.pearson, remainder=n_rows * means.remainder
    )
    n_weighted = round(n_rows * means.has_weight)
    weight = n_rows * means.weight
    if trainer.order.request.counts_weights:
        n_events = fit.n_events
        if pair.is_binary:
            n_ones = round(n_rows * means.label)
            n_events = min(n_ones, round(weight) - n_ones)
        return fit._replace(
            n=round(weight),
            n_likelihood=round(weight),
            n_events=n_events,
        )
    is_gaussian = pair.family == "gaussian"
    return fit._replace(
        n=n_weighted, n_likelihood=n_weighted if is_gaussian else weight
    )
