"""How good a kept model is on new rows of all its hospitals together: a training order's
end, without its rounds.

Rows, agreement, keys and gate are those of training (`agents.training.cohorts`); the
model is the one in the vault. All that is added up is in `evaluated_sums`.

Decision 87.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any

import numpy as np

from agents.gate import probes
from agents.order.answers import send_answer_of_ended
from agents.order.party import send
from agents.rows.cohort import Cohort
from agents.training import evaluated_rounds
from agents.training.agreed_levels import places_of
from agents.training.agreed_model import classes_by_hospital, joint_classes
from agents.training.evaluated_rounds import opened_round
from agents.training.evaluated_sums import (
    EvaluatedSums,
    histogram_of,
    local_sums,
    opened,
    report_of,
)
from agents.training.final_sums import Rows
from agents.training.fold_end import end_order
from agents.training.inference import model_of, weights_of
from agents.training.kept_design import design_of
from agents.training.made_columns import check_levels
from agents.training.moments import label_variance
from agents.training.own_metrics import agree_on_limits
from agents.training.party import AgreedTraining
from agents.training.report_text import readable_evaluation
from agents.training.row_gate import rules_of
from agents.training.row_sets import OrderRows
from agents.training.sealed_model import evaluated_model, state_of
from agents.training.subgroups import agree_on_groups, places_by_level
from agents.training.trainer import Trainer, sentences
from analytics.arrays import Floats, Ints
from analytics.training import cox, families, standardization
from analytics.training.design import UNKNOWN, Design, Levels, design_matrix
from analytics.training.gradients import row_weights
from analytics.training.margins import linear_predictors
from analytics.training.models import Model
from analytics.training.pairs import Pair
from protocol.errors import BadRequest, Refused
from protocol.messages import COORDINATOR, canonical
from protocol.training_request import EvaluationRequest

log = logging.getLogger("consilium.rounds")

OF_THE_FIT = ("log_loss", "loss", "mse", "rmse", "r2", "mean_deviance")
"""On the rows that newton trained a model on, its deviance."""
NOT_POOLED = (
    *("threshold", "auc_low", "auc_high"),
    *("n_negative", "n_positive", "n_events"),
)
"""What the order says itself, or follows from what the coordinator is told."""


def agree_on_evaluation(order: AgreedTraining, rows: OrderRows) -> Trainer:
    """The kept model, and the rows as it sees them; the same model at every hospital, or
    the tags of the sum differ.

    Raises BadRequest (code classes, one_class) for classes that the model does not
    know, or one class at all hospitals; Refused (code levels) for rows of a level that
    it does not know, (code min_varying) for a level of few, (code equations) for few rows of the others.

    Disclosure: which classes a hospital has, to the other parties, sealed to the group;
    nothing to the coordinator.
    """
    stored = evaluated_model(order)
    model = model_of(stored)
    for rules in rules_of(order, "train"):
        # A level that one row has shows that row's score.
        check_levels(
            order.request.study,
            rows.train.levels,
            rows.train,
            min_varying=rules.min_varying,
        )
    design = design_of(stored, order.request.study)
    train = _applied(rows.train, design, stored)
    if order.request.has_class_label:
        classes_of = classes_by_hospital(order, rows)
        _check_classes(model, joint_classes(classes_of))
    limits = agree_on_limits(order, rows)
    weights = weights_of(stored)
    groups = agree_on_groups(order, rows.train)
    tagged = None
    if order.request.seals_model_to:
        tagged = state_of(stored)
    trainer = Trainer(
        order,
        replace(rows, train=train),
        model,
        weights,
        limits,
        groups=groups,
        tagged=tagged,
    )
    if _request(order).calibration_slope:
        evaluated_rounds.check_others(trainer)
    return trainer


def _stored(order: AgreedTraining) -> dict[str, Any]:
    model_id = order.request.evaluates
    assert model_id is not None
    return order.vault.model(model_id)


def _applied(
    cohort: Cohort,
    design: Design,
    stored: dict[str, Any],
) -> Cohort:
    """The rows in the kept model's columns and units."""
    columns: dict[str, Any] = {}
    for attribute, column in zip(cohort.attributes, cohort.X.T, strict=True):
        columns[attribute] = column
    for term in design.terms:
        if not isinstance(term, Levels):
            continue
        model_places = term.places(cohort.levels[term.name])
        place_of_level = np.array(model_places, dtype=np.int64)
        own_places = places_of(cohort, term.name)
        level_places = place_of_level[own_places]
        if (level_places == UNKNOWN).any():
            raise Refused(
                f"Some rows have a level of {term.name} that the model does not know.",
                remedy="Leave them out by WHERE.",
                code="levels",
            )
        columns[term.name] = level_places
    X = design_matrix(design, columns)
    if stored["standardize"]:
        mean, deviation = stored["standardize"]
        X = standardization.standardize(
            X,
            np.asarray(mean),
            np.asarray(deviation),
        )
    return replace(
        cohort,
        attributes=design.features,
        X=X,
        levels={},
    )


def _check_classes(model: Model, classes: list[Any]) -> None:
    # Of lr and a binomial glm labels are 0 and 1, and no classes of its own.
    known_classes = model.classes or (0, 1)
    unknown = set(classes) - set(known_classes)
    if unknown:
        raise BadRequest(
            f"{len(unknown)} classes of the rows are none of the model's.",
            remedy="Leave their rows out by WHERE, or train a model that knows them.",
            code="classes",
        )


def evaluate(trainer: Trainer) -> None:
    """Adds up what the model makes of all rows, keeps the report and ends the order.

    Disclosure: to the order's hospitals the sums of `evaluated_sums` and, where the order
    asks for calibration's slope, of `evaluated_rounds`; to the coordinator
    the metrics made of them, no curves. Of a model that newton has trained also not what
    would tell the deviance.
    """
    order = trainer.order
    with sentences():
        X, y, *_ = trainer.fold_rows(0)
        variance = label_variance(trainer, X, y)
    rows = Rows(X, y)
    sums, *of_groups = _joint_sums(trainer, rows)
    report = _report(
        trainer,
        sums,
        label_variance=variance,
    )
    if trainer.groups:
        report["group_by"] = order.request.subgroups
        report["groups"] = _reports_of_groups(trainer, of_groups)
    if _request(order).calibration_slope:
        evaluated_rounds.add_calibration(trainer, rows, report)
    if order.is_initiator:
        pooled = _pooled(report, told_by_newton="report" in _stored(order))
        send(
            order,
            "pooled",
            lambda: canonical(pooled).encode(),
            recipient=COORDINATOR,
        )
    counts = histogram_of(trainer.model, sums)
    vault_entry = _entry(trainer, report, counts)
    order.vault.save_evaluation(order.order_id, vault_entry)
    reader = order.request.reader
    if reader is not None and order.is_initiator:
        send_answer_of_ended(
            order,
            "evaluation",
            lambda: readable_evaluation(vault_entry),
            reader=reader,
        )
    # Last: until here a restart finds the opened sums, and comes to the same entry.
    end_order(order)
    log.info(
        "Order %s: model %s is evaluated on %s rows",
        order.order_id,
        _request(order).model_id,
        report["n"],
    )


def _report(
    trainer: Trainer,
    sums: EvaluatedSums,
    *,
    label_variance: float,
) -> dict[str, Any]:
    request = _request(trainer.order)
    report = report_of(
        trainer.model,
        sums,
        threshold=request.threshold,
        cutoffs=request.cutoffs,
        label_variance=label_variance,
        # The largest of all hospitals.
        min_rows=trainer.limits.withheld.test,
    )
    if request.strata and "pairs" in report:
        report["pairs"]["within"] = "strata"
    return report


def _reports_of_groups(
    trainer: Trainer, of_groups: list[EvaluatedSums]
) -> list[dict[str, Any]]:
    """Each as that of all rows, but for what is known of all rows only."""
    reports = []
    for level, sums in zip(trainer.groups, of_groups, strict=True):
        report = _report(
            trainer,
            sums,
            label_variance=math.nan,
        )
        report.pop("n_left_out")
        report["metrics"].pop("r2", None)
        reports.append({"level": level, **report})
    return reports


def _joint_sums(trainer: Trainer, rows: Rows) -> list[EvaluatedSums]:
    """The sealed sum of round 0, opened: that of all rows, and of each subgroup."""
    flow = trainer.rows.train.flow
    assert flow is not None, "made by this version"

    def make() -> Ints:
        _check_probe(trainer, rows)
        of_all = local_sums(
            trainer.model,
            trainer.start,
            rows,
            n_left_out=flow.n_left_out,
        )
        own_sums = [of_all]
        for group_places in places_by_level(trainer.rows.train, trainer.groups):
            group_rows = Rows(rows.X[group_places], rows.y[group_places])
            of_group = local_sums(
                trainer.model,
                trainer.start,
                group_rows,
                n_left_out=0,
            )
            own_sums.append(of_group)
        return np.concatenate(own_sums)

    is_last = not _request(trainer.order).calibration_slope
    with sentences():
        state = trainer.start if trainer.tagged is None else trainer.tagged
        opened_words = opened_round(
            trainer,
            0,
            make,
            state=state,
            is_last=is_last,
        )
    vectors = opened_words.reshape(1 + len(trainer.groups), -1)
    return [opened(trainer.model, vector) for vector in vectors]


def _entry(
    trainer: Trainer,
    report: dict[str, Any],
    counts: Ints | None,
) -> dict[str, Any]:
    """What the vault keeps."""
    request = _request(trainer.order)
    return {
        "evaluation_id": trainer.order.order_id,
        "model_id": request.model_id,
        "model_type": request.model_type,
        "label_name": request.label_name,
        "classes": list(trainer.model.classes),
        "hospitals": request.hospitals,
        "initiator": request.user_id,
        "report": report,
        "counts": None if counts is None else counts.tolist(),
    }


def _request(order: AgreedTraining) -> EvaluationRequest:
    assert isinstance(order.request, EvaluationRequest)
    return order.request


def _check_probe(trainer: Trainer, rows: Rows) -> None:
    """A model that is as steep on these rows as none may be that is trained: counts of its
    scores would be counts of one side of a plane. Raises Refused (code
    linear_predictor), BadRequest (code mean_range).
    """
    model = trainer.model
    limit = trainer.order.policy.cohort.max_linear_predictor
    if model.kind == "cox":
        predictors = cox.predictors(rows.X, trainer.start)
        sizes = np.abs(predictors)
        probes.check_predictors(sizes, limit=limit)
    elif model.kind == "glm":
        assert model.pair is not None
        predictors = linear_predictors(model, trainer.start, rows.X)
        probes.check_steepness(
            predictors,
            link=model.pair.link,
            limit=limit,
        )
        _check_means(model.pair, predictors)
    elif not model.hidden and not model.is_number:
        gradient_weights = row_weights(
            model,
            trainer.start,
            rows.X,
            rows.y,
            batch_size=-1,
            learning_rate=1.0,
        )
        probes.check_predictors(gradient_weights.predictors, limit=limit)


def _check_means(pair: Pair, predictors: Floats) -> None:
    means = families.means(pair, predictors)
    if not families.is_valid(pair, means):
        raise BadRequest(
            f"The model gives some row a mean that {pair.family} does not know: link {pair.link} does not keep means"
            " within its range.",
            remedy="Leave out rows far from those that it was trained on, by WHERE.",
            code="mean_range",
        )


def _pooled(
    report: dict[str, Any],
    *,
    told_by_newton: bool,
) -> dict[str, Any]:
    """What the coordinator is told of all hospitals' rows."""
    hidden = {*NOT_POOLED}
    if told_by_newton:
        hidden |= {*OF_THE_FIT}
    metrics: dict[str, Any] = {}
    for metric_name, value in report["metrics"].items():
        if metric_name not in hidden:
            metrics[metric_name] = value
    return {"metrics": metrics, "withheld": report.get("withheld")}
