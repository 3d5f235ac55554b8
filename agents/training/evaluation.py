"""How good a kept model is on new rows of all its hospitals together: a training order's
end, without its rounds.

Rows, agreement, keys and gate are those of training (`agents.training.cohorts`); the
model is the one in the vault. All that is added up is in `evaluated_sums`.

Decision 87.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np

from agents.gate import probes
from agents.order.party import send
from agents.rows.cohort import Cohort
from agents.training.agreed_design import check_levels
from agents.training.agreed_levels import places_of
from agents.training.agreed_model import classes_by_hospital, joint_classes
from agents.training.evaluated_sums import (
    histogram_of,
    local_sums,
    opened,
    report_of,
)
from agents.training.final_sums import Rows
from agents.training.fold_end import end_order
from agents.training.inference import model_of, weights_of
from agents.training.kept_design import design_of
from agents.training.moments import joint_scales
from agents.training.own_metrics import agree_on_limits
from agents.training.party import AgreedTraining
from agents.training.row_gate import rules_of
from agents.training.row_sets import OrderRows
from agents.training.trainer import (
    Trainer,
    contribute,
    receive_opening,
    sentences,
    sum_info,
)
from analytics.arrays import Floats
from analytics.training import standardization
from analytics.training.design import UNKNOWN, Design, Levels, design_matrix
from analytics.training.models import Model, row_weights
from protocol.errors import BadRequest, Refused
from protocol.messages import COORDINATOR, canonical
from protocol.sums import secure_sum
from protocol.training_request import EvaluationRequest

log = logging.getLogger("consilium.rounds")

OF_THE_FIT = ("log_loss", "loss", "mse", "rmse", "r2")
"""On the rows that newton trained a model on, its deviance."""
NOT_POOLED = ("threshold", "auc_low", "auc_high", "n_negative", "n_positive")
"""What the order says itself, or follows from what the coordinator is told."""


def agree_on_evaluation(order: AgreedTraining, rows: OrderRows) -> Trainer:
    """The kept model, and the rows as it sees them; the same model at every hospital, or
    the tags of the sum differ.

    Raises BadRequest (code classes, one_class) for classes that the model does not
    know, or one class at all hospitals; Refused (code levels) for rows of a level that
    it does not know, (code min_varying) for a level of few.

    Disclosure: which classes a hospital has, to the other parties, sealed to the group;
    nothing to the coordinator.
    """
    stored = _stored(order)
    model = model_of(stored)
    for rules in rules_of(order, "train"):
        # A level that one row has shows that row's score.
        check_levels(
            order.request.study,
            rows.train.levels,
            rows.train,
            min_varying=rules.min_varying,
        )
    train = _applied(rows.train, design_of(stored, order.request.study), stored)
    if not model.is_number:
        _check_classes(model, joint_classes(classes_by_hospital(order, rows)))
    limits = agree_on_limits(order, rows)
    return Trainer(order, replace(rows, train=train), model, weights_of(stored), limits)


def _stored(order: AgreedTraining) -> dict[str, Any]:
    model_id = order.request.evaluates
    assert model_id is not None
    return order.vault.model(model_id)


def _applied(cohort: Cohort, design: Design, stored: dict[str, Any]) -> Cohort:
    """The rows in the kept model's columns and units."""
    columns: dict[str, Any] = {}
    for name, values in zip(cohort.attributes, cohort.X.T, strict=True):
        columns[name] = values
    for term in design.terms:
        if not isinstance(term, Levels):
            continue
        known = np.array(term.places(cohort.levels[term.name]), dtype=np.int64)
        places = known[places_of(cohort, term.name)]
        if (places == UNKNOWN).any():
            raise Refused(
                f"Some rows have a level of {term.name} that the model does not know.",
                remedy="Leave them out by WHERE.",
                code="levels",
            )
        columns[term.name] = places
    X = design_matrix(design, columns)
    if stored["standardize"]:
        mean, deviation = stored["standardize"]
        X = standardization.standardize(X, np.asarray(mean), np.asarray(deviation))
    return replace(cohort, attributes=design.features, X=X, levels={})


def _check_classes(model: Model, classes: list[Any]) -> None:
    # lr has no classes of its own: its labels are 0 and 1.
    unknown = set(classes) - set(model.classes or (0, 1))
    if unknown:
        raise BadRequest(
            f"{len(unknown)} classes of the rows are none of the model's.",
            remedy="Leave their rows out by WHERE, or train a model that knows them.",
            code="classes",
        )


def evaluate(trainer: Trainer) -> None:
    """Adds up what the model makes of all rows, keeps the report and ends the order.

    Disclosure: to the order's hospitals the sums of `evaluated_sums`; to the coordinator
    the metrics made of them, no curves. Of a model that newton has trained also not what
    would tell the deviance.
    """
    order = trainer.order
    request = _request(order)
    with sentences():
        X, y, *_ = trainer.fold_rows(0)
        scales = joint_scales(trainer, X, y, 0)
    keys = trainer.keys(0)
    flow = trainer.rows.train.flow
    assert flow is not None, "made by this version"

    def part() -> bytes:
        sums = local_sums(
            trainer.model,
            trainer.start,
            Rows(X, y),
            n_left_out=flow.n_left_out,
        )
        return secure_sum.seal_counts(keys, sums, info=sum_info("gradient", 0, 0))

    with sentences():
        _check_probe(trainer, X, y)
        contribute(
            trainer,
            "gradient",
            part,
            fold=0,
            round=0,
            state=trainer.start,
            report=_own_report(trainer),
        )
        opening = receive_opening(trainer, "gradient", fold=0, round=0)
    sums = opened(trainer.model, opening.sums, keys.n_rows_total)
    report = report_of(
        trainer.model,
        sums,
        threshold=request.threshold,
        label_variance=scales.label_variance,
        # The largest of all hospitals.
        min_rows=trainer.limits.withheld.test,
    )
    stored = _stored(order)
    if order.is_initiator:
        pooled = _pooled(report, told_by_newton="report" in stored)
        send(
            order,
            "pooled",
            lambda: canonical(pooled).encode(),
            recipient=COORDINATOR,
        )
    counts = histogram_of(trainer.model, sums)
    entry = {
        "evaluation_id": order.order_id,
        "model_id": request.model_id,
        "model_type": request.model_type,
        "label_name": request.label_name,
        "classes": list(trainer.model.classes),
        "hospitals": request.hospitals,
        "initiator": request.user_id,
        "report": report,
        "counts": None if counts is None else counts.tolist(),
    }
    order.vault.save_evaluation(order.order_id, entry)
    end_order(order)
    log.info(
        "Order %s: model %s is evaluated on %s rows",
        order.order_id,
        request.model_id,
        report["n"],
    )


def _request(order: AgreedTraining) -> EvaluationRequest:
    assert isinstance(order.request, EvaluationRequest)
    return order.request


def _check_probe(trainer: Trainer, X: Floats, y: Any) -> None:
    """A model that is as steep on these rows as none may be that is trained: counts of its
    scores would be counts of one side of a plane.
    """
    model = trainer.model
    if model.hidden or model.is_number:
        return
    found = row_weights(model, trainer.start, X, y, batch_size=-1, learning_rate=1.0)
    limit = trainer.order.policy.cohort.max_linear_predictor
    probes.check_predictors(found.predictors, limit=limit)


def _own_report(trainer: Trainer) -> dict[str, Any]:
    """Of its own rows a hospital tells the coordinator nothing but their number."""
    quality = "mse" if trainer.model.is_number else "accuracy"
    return {
        "n_rows": trainer.rows.train.n_rows,
        "train": {"loss": None, quality: None},
        "withheld": {"train": {"rule": "evaluation", "threshold": 0}},
        "final": True,
    }


def _pooled(report: dict[str, Any], *, told_by_newton: bool) -> dict[str, Any]:
    """What the coordinator is told of all hospitals' rows."""
    hidden = {*NOT_POOLED, *(OF_THE_FIT if told_by_newton else ())}
    metrics: dict[str, Any] = {}
    for name, value in report["metrics"].items():
        if name not in hidden:
            metrics[name] = value
    return {"metrics": metrics, "withheld": report.get("withheld")}
