"""The end of a fold and of the order: final metrics over all hospitals' rows, the kept
model, and that this hospital is done.

`agents.training.fold` has the steps before; what is added up here is in
`agents.training.final_sums`. Decisions 56 and 77.
"""

from __future__ import annotations

import numpy as np

from agents.order.party import end, send
from agents.training import cox, final_sums, newton
from agents.training import fold as folds
from agents.training.final_sums import Rows
from agents.training.fold import Fold
from agents.training.kept_design import kept_design
from agents.training.own_metrics import Withheld
from agents.training.party import AgreedTraining
from agents.training.trainer import (
    Trainer,
    contribute,
    receive_opening,
    sentences,
    sum_info,
)
from analytics.arrays import Ints
from analytics.training import outcome
from analytics.training.models import split_layers
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
    model = trainer.model
    point = fold.checkpoint
    keys = trainer.keys(fold.number)
    info = sum_info("gradient", fold.number, point.round)
    weights = folds.own_weights(trainer, fold, point.weights)
    training = Rows(fold.X, fold.y)
    # By the request, not by this hospital's rows: every hospital's part has the same
    # length.
    held_out = None
    if has_held_out(trainer.order.request, fold.number):
        held_out = Rows(fold.X_test, fold.y_test)

    def part() -> bytes:
        sums = final_sums.local_sums(
            model,
            weights,
            training,
            held_out,
            trainer.withheld,
            row_weights=fold.row_weights,
            are_counts=trainer.order.request.counts_weights,
            label_mean=fold.scales.label_mean,
        )
        return secure_sum.seal_counts(keys, sums, info=info)

    with sentences(point.round):
        # The last step's weights are judged as those of a round are: so it does not
        # depend on max_iter whether a model as steep as that is kept (decision
        # 77).
        folds.check_probe(trainer, fold)
        report = {**folds.evaluate(trainer, fold), "final": True}
        contribute(
            trainer,
            "gradient",
            part,
            fold=fold.number,
            round=point.round,
            state=point.weights,
            report=report,
        )
        opening = receive_opening(
            trainer, "gradient", fold=fold.number, round=point.round
        )
    of_held_out = final_sums.held_out_part(model, opening.sums)
    if fold.number:
        trainer.held_out.append(of_held_out)
    fold.warnings = _warnings(trainer, fold, opening.sums)
    if trainer.order.request.is_newton:
        fold.report = newton.report_of(trainer, point, fold.scales, opening.sums)
    if trainer.order.is_initiator:
        _report_pooled(trainer, fold, opening.sums, of_held_out)


def _warnings(trainer: Trainer, fold: Fold, sums: Ints) -> list[WarningCode]:
    """What speaks against the fold's model; every hospital opens the same sums."""
    assert fold.checkpoint.stopped_by is not None
    n_trained = trainer.keys(fold.number).n_rows_total
    of_all = final_sums.training_totals(trainer.model, sums, n_trained)
    codes = outcome.warning_codes(
        trainer.model.kind,
        stopped_by=fold.checkpoint.stopped_by,
        loss=final_sums.fitted_loss(of_all),
        constant_loss=final_sums.constant_loss(
            trainer.model, of_all, fold.scales.label_variance
        ),
        n_wrong=of_all.n_wrong,
        is_penalised=trainer.order.request.is_penalised,
    )
    # Of the order's classes, once: with the model of all rows.
    if fold.number == 0:
        codes.extend(dict.fromkeys(one.code for one in trainer.class_warnings))
    return codes


def _own_sentences(trainer: Trainer, fold: Fold) -> list[str]:
    """The warnings as this hospital's people read them: with the names of classes, which
    nobody else is told.
    """
    named = trainer.class_warnings if fold.number == 0 else ()
    of_classes = {one.code for one in named}
    found = [WARNINGS[code] for code in fold.warnings if code not in of_classes]
    return [*found, *(one.sentence for one in named)]


def _report_pooled(trainer: Trainer, fold: Fold, sums: Ints, of_held_out: Ints) -> None:
    """The initiator reports what the sums say of all hospitals' rows together."""
    model = trainer.model
    withheld = trainer.withheld
    n_trained = trainer.keys(fold.number).n_rows_total
    of_training = withheld
    if trainer.order.request.is_newton:
        # The loss of training rows is the deviance.
        of_training = Withheld()
    pooled = {
        "training": final_sums.training_metrics(model, sums, n_trained, of_training),
        "held_out": final_sums.held_out_metrics(model, of_held_out, withheld),
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
    model = trainer.model
    point = fold.checkpoint
    weights = folds.own_weights(trainer, fold, point.weights)
    losses = [fold.label_scale.own_loss(loss) for loss in point.losses]
    scale = None
    attributes = fold.scales.attributes
    if model.kind == "cox":
        assert attributes is not None, "newton scales them"
        # Its linear predictors are about the joint mean, in either units.
        weights, scale = cox.kept_model(
            weights, attributes, standardize=trainer.params.standardize
        )
    elif attributes is not None and not trainer.params.standardize:
        weights = newton.unscaled(weights, attributes)
    elif attributes is not None:
        scale = [attributes.mean.tolist(), attributes.deviation.tolist()]
    layers = split_layers(model, weights)
    entry = {
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
        "standardize": scale,
        "n_rounds": point.round,
        "losses": losses,
        "converged": point.stopped_by == "converged",
        "stopped_by": point.stopped_by,
        "warnings": _own_sentences(trainer, fold),
        "initiator": request.user_id,
        **kept_design(request, trainer.design, trainer.level_counts),
    }
    if request.event_name is not None:
        entry["event_name"] = request.event_name
    if request.family:
        entry.update(family=request.family, link=request.link)
    if fold.report is not None:
        entry["report"] = fold.report
    order.vault.save_model(order.order_id, entry)


def end_order(order: AgreedTraining) -> None:
    """Reports that this hospital holds the model; forgets the order's keys and rows."""
    send(order, "done", lambda: b"", recipient=COORDINATOR)
    end(order)
