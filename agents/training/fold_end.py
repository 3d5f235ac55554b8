"""The end of a fold and of the order: final metrics over all hospitals' rows, the kept
model, and that this hospital is done.

`agents.training.fold` has the steps before; what is added up here is in
`agents.training.final_sums`. Decisions 56 and 77.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from agents.order.answers import send_answer_of_ended
from agents.order.party import end, send
from agents.training import (
    cox,
    final_sums,
    fixed_effect,
    meta,
    newton,
    newton_report,
    random_intercept,
)
from agents.training import fold as folds
from agents.training.cohorts import training_snapshot
from agents.training.comparison import digests_of, tested
from agents.training.final_sums import Rows
from agents.training.fold import Fold
from agents.training.kept_design import kept_design
from agents.training.own_metrics import Withheld
from agents.training.party import AgreedTraining
from agents.training.report_text import readable_report
from agents.training.trainer import (
    Trainer,
    contribute,
    receive_opening,
    sentences,
    sum_info,
)
from analytics.arrays import Floats, Ints
from analytics.training import outcome
from analytics.training.models import Model, split_layers
from analytics.training.outcome import WARNINGS, WarningCode
from protocol.messages import COORDINATOR, canonical
from protocol.sums import secure_sum
from protocol.training_request import has_held_out


def finish_fold(trainer: Trainer, fold: Fold) -> None:
    """Sends the final metrics, and adds up what no hospital knows of all rows.

    The initiator reports what these sums give.
    After the last fold of cross-validation also what all folds' held-out rows are
    together (decision 56).

    Disclosure: pooled metrics, to the coordinator; the sums that they are made of
    (`agents.training.final_sums`), to the order's hospitals.
    """
    model = newton.fitted_model(trainer, fold.checkpoint)
    sum_keys = trainer.keys(fold.number)
    info = sum_info("gradient", fold.number, fold.checkpoint.round)

    def part() -> bytes:
        own_sums = _own_sums(trainer, fold, model)
        return secure_sum.seal_counts(sum_keys, own_sums, info=info)

    sums = _open_final(trainer, fold, part)
    of_errors = np.zeros(0, dtype=np.int64)
    if trainer.order.request.is_newton:
        sums, of_errors = newton.parts_at_the_end(trainer, sums)
    of_held_out = final_sums.held_out_part(model, sums)
    if fold.number:
        trainer.held_out.append(of_held_out)
    fold.warnings = _warnings(trainer, fold, sums)
    fold.report = _estimates(trainer, fold, sums, of_errors)
    if trainer.order.is_initiator:
        _report_pooled(trainer, fold, sums, of_held_out)


def _own_sums(trainer: Trainer, fold: Fold, model: Model) -> Ints:
    """This hospital's part of the final sums, before it is sealed; behind it what a Newton
    order adds up for standard errors.
    """
    request = trainer.order.request
    weights = folds.own_weights(trainer, fold, fold.checkpoint.weights)
    # By the request, not by this hospital's rows: every hospital's part has the same
    # length.
    held_out = None
    if has_held_out(request, fold.number):
        held_out = Rows(fold.X_test, fold.y_test)
    offset = newton.null_offset(trainer, fold.X, fold.y, weights)
    sums = final_sums.local_sums(
        model,
        weights,
        Rows(fold.X, fold.y),
        held_out,
        trainer.withheld,
        row_weights=fold.row_weights,
        are_counts=request.counts_weights,
        label_mean=fold.scales.label_mean,
        offset=offset,
    )
    if not request.is_newton:
        return sums
    rows = folds.newton_rows(fold)
    end_words = newton.words_at_the_end(trainer, fold.checkpoint, rows)
    return np.append(sums, end_words)


def _open_final(
    trainer: Trainer,
    fold: Fold,
    make_part: Callable[[], bytes],
) -> Ints:
    """Sends this hospital's part of the final sums with its last report, and reads what
    all hospitals' parts add up to.
    """
    point = fold.checkpoint
    with sentences(point.round):
        # The last step's weights are judged as those of a round are: so it does not
        # depend on max_iter whether a model as steep as that is kept (decision
        # 77).
        folds.check_probe(trainer, fold)
        report = {**folds.evaluate(trainer, fold), "final": True}
        contribute(
            trainer,
            "gradient",
            make_part,
            fold=fold.number,
            round=point.round,
            state=point.weights,
            report=report,
        )
        opening = receive_opening(
            trainer,
            "gradient",
            fold=fold.number,
            round=point.round,
        )
    return opening.sums


def _estimates(
    trainer: Trainer,
    fold: Fold,
    sums: Ints,
    of_errors: Ints,
) -> dict[str, Any] | None:
    """Estimates with standard errors, of an order that has them."""
    request = trainer.order.request
    point = fold.checkpoint
    if request.is_meta:
        return meta.report_of(trainer, point, fold.scales)
    if request.has_random_intercept:
        return random_intercept.report_of(trainer, point, fold.scales)
    if request.is_newton:
        return newton_report.report_of(
            trainer,
            point,
            fold.scales,
            sums,
            of_errors,
        )
    return None


def _warnings(
    trainer: Trainer,
    fold: Fold,
    sums: Ints,
) -> list[WarningCode]:
    """What speaks against the fold's model; every hospital opens the same sums."""
    assert fold.checkpoint.stopped_by is not None
    n_trained = trainer.keys(fold.number).n_rows_total
    model = newton.fitted_model(trainer, fold.checkpoint)
    of_all = final_sums.training_totals(model, sums, n_trained)
    constant_loss = final_sums.constant_loss(
        model,
        of_all,
        fold.scales.label_variance,
    )
    request = trainer.order.request
    is_penalised = request.is_penalised or request.is_firth
    codes = outcome.warning_codes(
        trainer.model.kind,
        stopped_by=fold.checkpoint.stopped_by,
        loss=final_sums.fitted_loss(of_all),
        constant_loss=constant_loss,
        n_wrong=of_all.n_wrong,
        is_penalised=is_penalised,
    )
    # Of the order's classes, once: with the model of all rows.
    if fold.number == 0:
        of_classes = dict.fromkeys(warning.code for warning in trainer.class_warnings)
        codes.extend(of_classes)
    return codes


def _own_sentences(trainer: Trainer, fold: Fold) -> list[str]:
    """The warnings as this hospital's people read them: with the names of classes, which
    nobody else is told.
    """
    class_warnings = trainer.class_warnings if fold.number == 0 else ()
    of_classes = {warning.code for warning in class_warnings}
    own_sentences = [WARNINGS[code] for code in fold.warnings if code not in of_classes]
    if trainer.order.request.is_meta:
        own_sentences.append(meta.NOTE)
    own_sentences += [warning.sentence for warning in class_warnings]
    return own_sentences


def _report_pooled(
    trainer: Trainer,
    fold: Fold,
    sums: Ints,
    of_held_out: Ints,
) -> None:
    """The initiator reports what the sums say of all hospitals' rows together."""
    model = trainer.model
    withheld = trainer.withheld
    n_trained = trainer.keys(fold.number).n_rows_total
    of_training = withheld
    if trainer.order.request.is_newton:
        # The loss of training rows is the deviance.
        of_training = Withheld()
    in_training = final_sums.training_metrics(
        model,
        sums,
        n_trained,
        of_training,
    )
    in_held_out = final_sums.held_out_metrics(
        model,
        of_held_out,
        withheld,
    )
    pooled = {
        "training": in_training,
        "held_out": in_held_out,
        "stopped_by": fold.checkpoint.stopped_by,
        "warnings": fold.warnings,
    }
    # Fold 0, the model of all rows, comes after those of cross-validation.
    if fold.number == 0 and trainer.held_out:
        of_all_folds = np.sum(trainer.held_out, axis=0)
        pooled["all_folds"] = final_sums.held_out_metrics(model, of_all_folds, withheld)
    send(
        trainer.order,
        "pooled",
        lambda: canonical(pooled).encode(),
        recipient=COORDINATOR,
        fold=fold.number,
    )


def save_model(trainer: Trainer, fold: Fold) -> None:
    """Keeps the model in this hospital's vault, at full precision.

    A standardized one is kept with its mean and deviation.
    """
    order = trainer.order
    request = order.request
    point = fold.checkpoint
    kept_weights = _kept_weights(trainer, fold)
    model = kept_weights.model
    losses = [fold.label_scale.own_loss(loss) for loss in point.losses]
    layers = split_layers(model, kept_weights.weights)
    vault_entry = {
        "model_id": order.order_id,
        "model_type": model.kind,
        "attributes": list(request.attributes),
        "unique_id": request.unique_id,
        "label_name": request.label_name,
        "fit_intercept": model.fit_intercept,
        "classes": list(model.classes),
        "hidden": list(model.hidden),
        "shape": list(model.shape),
        "layers": {name: values.tolist() for name, values in layers.items()},
        "standardize": kept_weights.scale,
        "n_rounds": point.round,
        "losses": losses,
        "converged": point.stopped_by == "converged",
        "stopped_by": point.stopped_by,
        "warnings": _own_sentences(trainer, fold),
        "initiator": request.user_id,
        "hospitals": request.hospitals,
        **kept_design(request, trainer.design, trainer.level_counts),
        **_of_its_kind(trainer, fold),
    }
    if fold.report is not None:
        vault_entry["report"] = fold.report
        vault_entry["rows_digests"] = digests_of(training_snapshot(order))
        if request.compare is not None:
            vault_entry["report"]["comparison"] = tested(
                order.vault,
                request,
                fold.report,
                features=trainer.features,
            )
    order.vault.save_model(order.order_id, vault_entry)
    if request.reader is not None and order.is_initiator:
        send_answer_of_ended(
            order,
            "report",
            lambda: readable_report(vault_entry),
            reader=request.reader,
        )


@dataclass(frozen=True, eq=False)
class _KeptWeights:
    """A model as the vault has it."""

    model: Model  # without the hospitals' own columns
    weights: Floats
    # By what rows are standardized before: means and deviations; None: by nothing.
    scale: list[list[float]] | None


def _kept_weights(trainer: Trainer, fold: Fold) -> _KeptWeights:
    """The fold's model with this hospital's own intercept, in the units of its rows, or
    with the scale that they are brought to.
    """
    model = trainer.model
    weights = folds.own_weights(trainer, fold, fold.checkpoint.weights)
    attributes = fold.scales.attributes
    standardizes = trainer.params.standardize
    if model.kind == "cox":
        assert attributes is not None, "newton scales them"
        # Its linear predictors are about the joint mean, in either units.
        weights, scale = cox.kept_model(
            weights,
            attributes,
            standardize=standardizes,
        )
        return _KeptWeights(model, weights, scale)
    if attributes is None:
        return _KeptWeights(model, weights, None)
    if not standardizes:
        weights = newton_report.unscaled(
            weights,
            attributes,
            has_intercept=model.fit_intercept,
        )
        model, weights = fixed_effect.own_model(trainer, weights, None)
        return _KeptWeights(model, weights, None)
    model, weights = fixed_effect.own_model(trainer, weights, attributes)
    n_columns = model.n_features
    mean = attributes.mean[:n_columns].tolist()
    deviation = attributes.deviation[:n_columns].tolist()
    return _KeptWeights(model, weights, [mean, deviation])


def _of_its_kind(trainer: Trainer, fold: Fold) -> dict[str, Any]:
    """The fields of a vault entry that models of one kind alone have."""
    request = trainer.order.request
    fields: dict[str, Any] = {}
    if request.event_name is not None:
        fields["event_name"] = request.event_name
    if request.entry_name is not None:
        fields["entry_name"] = request.entry_name
    if request.site_features:
        fields["site_effect"] = "fixed"
    if request.strata:
        fields["strata"] = list(request.strata)
    if request.family:
        fields["family"] = request.family
        fields["link"] = request.link
        fitted = newton.fitted_model(trainer, fold.checkpoint)
        if math.isfinite(fitted.theta):
            fields["theta"] = fitted.theta
    return fields


def end_order(order: AgreedTraining) -> None:
    """Reports that this hospital holds the model; forgets the order's keys and rows."""
    send(
        order,
        "done",
        lambda: b"",
        recipient=COORDINATOR,
    )
    # Last: what a crash lets be told once more stands in the outbox, which goes with
    # the order.
    end(order)
