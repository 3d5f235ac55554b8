"""The steps of a fold, from this hospital's rows to a trained model.

Everything replicated (weights, optimizer state) is a function of the opened integers
only, so all hospitals hold the same bits (decision 13). A checkpoint is written after
each step.

The functions stand in the order in which `flows.hospital.train_locally` calls them;
those of its end are in `agents.training.fold_end`. How a sum is sealed and opened is in
`agents.training.trainer`, what is shown of a gradient for scores in
`agents.training.shown_gradients`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.gate import probes
from agents.training import bounds, meta, newton, random_intercept
from agents.training.checkpoint import (
    Checkpoint,
    first_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from agents.training.moments import Scales, joint_scales, scaled
from agents.training.trainer import (
    Trainer,
    contribute,
    receive_opening,
    sentences,
    sum_info,
)
from analytics.arrays import Floats, Ints, Labels
from analytics.training import gradients, optimizers
from analytics.training import metrics as measures
from analytics.training.optimizers import OptimizerState
from analytics.training.outcome import StoppedBy, WarningCode
from analytics.training.standardization import LabelScale
from protocol.errors import ProtocolViolation
from protocol.sums import secure_sum

_OBFUSCATORS_AHEAD = 40
"""A final histogram takes 33, a round of 31 values 2; so many pay for their power
table.
"""


@dataclass
class Fold:
    """The rows of one fold as the model sees them, and how far its training is.

    Labels stand in their own units. Where the model is trained in others
    (`label_scale`), so are the checkpoint's weights, gradients and losses; whatever is
    reported, kept or shown is in the label's own units.
    """

    number: int
    X: Floats
    y: Labels
    X_test: Floats
    y_test: Labels
    scales: Scales
    y_trained: Labels  # y in the units that are trained in
    checkpoint: Checkpoint
    row_weights: Floats | None = None  # (n,); None: all weigh the same
    clusters: NDArray[np.object_] | None = None  # (n,); None without clusters
    # The rest is of the round under way: this hospital's own gradient, and the members
    # of the sum.
    gradient: Floats = field(default_factory=lambda: np.zeros(0))
    members: tuple[int, ...] = ()
    # At its end, what speaks against its model.
    warnings: list[WarningCode] = field(default_factory=list)
    # Of a Newton order, estimates with standard errors.
    report: dict[str, Any] | None = None

    @property
    def label_scale(self) -> LabelScale:
        return self.scales.label


# A fold


def open_fold(trainer: Trainer, number: int) -> Fold:
    """The fold's rows, standardized where the order asks for it, and how far it is."""
    with sentences():
        rows = trainer.fold_rows(number)
        y = rows.y
        scales = joint_scales(trainer, rows.X, y, number)
        X = scaled(rows.X, scales.attributes)
        X_test = scaled(rows.X_test, scales.attributes)
        y_trained = scales.label.trained(y)
    checkpoint = load_checkpoint(trainer.order.store, number)
    if checkpoint is None:
        checkpoint = first_checkpoint(number, trainer.start)
    return Fold(
        number,
        X,
        y,
        X_test,
        rows.y_test,
        scales,
        y_trained,
        checkpoint,
        rows.row_weights,
        rows.clusters,
    )


def local_gradient(trainer: Trainer, fold: Fold) -> dict[str, Any]:
    """Keeps the local pseudo-gradient in the fold; returns the starting model's metrics.

    Disclosure: the gradient leaves only as a sealed part of a sum, and for scores by
    `agents.training.shown_gradients`; the metrics leave rounded to 6 digits.
    """
    point = fold.checkpoint
    with sentences(point.round):
        check_probe(trainer, fold)
        if trainer.order.request.is_newton:
            return evaluate(trainer, fold)
        fold.gradient = gradients.local_gradient(
            trainer.model,
            point.weights,
            fold.X,
            fold.y_trained,
            batch_size=trainer.params.batch_size,
            learning_rate=_learning_rate(trainer, point.round),
        )
        return evaluate(trainer, fold)


def check_probe(trainer: Trainer, fold: Fold) -> None:
    """Refuses a round whose gradient would tell single rows, and the weights that the
    last one has made (decisions 71 and 77).

    Before anything of it leaves, in the units that the order trains in. Networks
    are not judged: their rows have no weight of one number.
    """
    if trainer.model.hidden:
        return
    point = fold.checkpoint
    if trainer.order.request.is_meta:
        meta.check_probe(trainer, point, newton_rows(fold))
        return
    if trainer.order.request.is_newton:
        newton.check_probe(trainer, point, newton_rows(fold))
        return
    gradient_weights = gradients.row_weights(
        trainer.model,
        point.weights,
        fold.X,
        fold.y_trained,
        # What the last step has made walks through no batches, and sends no gradient.
        batch_size=-1 if point.stopped else trainer.params.batch_size,
        learning_rate=_learning_rate(trainer, point.round),
    )
    rules = trainer.order.policy.cohort
    if not trainer.model.is_number:
        probes.check_predictors(
            gradient_weights.predictors, limit=rules.max_linear_predictor
        )
    if not point.stopped:
        probes.check_share(gradient_weights.weights, max_share=rules.max_share)


def newton_rows(fold: Fold) -> newton.Rows:
    return newton.Rows(
        fold.X,
        fold.y_trained,
        fold.row_weights,
        fold.scales,
        fold.clusters,
    )


def evaluate(trainer: Trainer, fold: Fold) -> dict[str, Any]:
    """Metrics of the fold's present model on this hospital's rows, rounded.

    Null, with the rule, where the hospitals show them together only (decision 71).
    """
    point = fold.checkpoint
    withheld = trainer.withheld
    weights = own_weights(trainer, fold, point.weights)
    report: dict[str, Any] = {"n_rows": len(fold.y)}
    report["train"] = _own_metrics(trainer, weights, fold.X, fold.y)
    if len(fold.y_test):
        report["test"] = _own_metrics(trainer, weights, fold.X_test, fold.y_test)
        report["n_test_rows"] = len(fold.y_test)
    if point.left_out:
        report["leave_one_out"] = point.left_out
    rules = {}
    for section, min_rows in withheld._asdict().items():
        if min_rows and section in report:
            # The names stay, so that a table of all rounds has its columns.
            report[section] = dict.fromkeys(report[section])
            rules[section] = {"rule": "min_rows", "threshold": min_rows}
            if not getattr(trainer.limits.withheld, section):
                rules[section] = {"rule": "newton", "threshold": 0}
    if _is_too_small(trainer):
        rules["scores"] = {
            "rule": "min_scored_coefficients",
            "threshold": trainer.limits.min_scored,
        }
    if rules:
        report["withheld"] = rules
    return report


def _own_metrics(
    trainer: Trainer,
    weights: Floats,
    X: Floats,
    y: Labels,
) -> Any:
    """As `metrics_of`; of a Newton order, which shows none, their names.

    A glm's first weights may have no means.
    """
    if not trainer.order.request.is_newton:
        return metrics_of(trainer, weights, X, y)
    is_binary = trainer.model.is_binary
    return dict.fromkeys(measures.OF_BINARY if is_binary else measures.OF_NUMBERS)


def _is_too_small(trainer: Trainer) -> bool:
    """Whether scores were ordered of a model that is trained without."""
    request = trainer.order.request
    if request.is_open or not request.is_scored:
        return False
    return trainer.model.n_weights < trainer.limits.min_scored


def own_weights(
    trainer: Trainer,
    fold: Fold,
    weights: Floats,
) -> Floats:
    """Weights of the fold's training as those of a model that answers in the label's
    own units.
    """
    has_intercept = trainer.model.fit_intercept
    return fold.label_scale.own_weights(weights, has_intercept=has_intercept)


def metrics_of(
    trainer: Trainer,
    weights: Floats,
    X: Floats,
    y: Labels,
) -> Any:
    """Metrics of a model on rows, rounded as they may leave."""
    exact = measures.metrics(trainer.model, weights, X, y)
    return measures.round_metrics(exact)


def encrypt_contribution(
    trainer: Trainer,
    fold: Fold,
    report: dict[str, Any],
) -> None:
    """Seals this hospital's part of the round's sum by the order's method, and sends it.

    The part holds the gradient with the local loss behind it. Who is left out of the
    sum reports its metrics only.
    """
    point = fold.checkpoint

    def part() -> bytes:
        # Who is left out of the sum sends a part of no length.
        if trainer.order.me not in fold.members:
            return b""
        if trainer.order.request.is_meta:
            return meta.sealed_part(trainer, point, newton_rows(fold))
        if trainer.order.request.is_newton:
            return newton.sealed_part(trainer, point, newton_rows(fold))
        loss = gradients.local_loss(
            trainer.model, point.weights, fold.X, fold.y_trained
        )
        vector = np.append(fold.gradient, loss) / _sealed_units(trainer, fold)
        sum_keys = trainer.keys(fold.number, fold.members)
        feature_names = trainer.features
        bounds.check_bound(sum_keys, vector, trainer.model, feature_names)
        info = sum_info("gradient", fold.number, point.round)
        return secure_sum.seal(
            sum_keys,
            vector,
            info=info,
        )

    with sentences(point.round):
        contribute(
            trainer,
            "gradient",
            part,
            fold=fold.number,
            round=point.round,
            state=point.weights,
            report=report,
        )
    if trainer.order.request.has_random_intercept:
        random_intercept.tell_own_sums(trainer, fold.number, newton_rows(fold))


def _sealed_units(trainer: Trainer, fold: Fold) -> Floats:
    """By what each value of a round's sum is divided before it is sealed.

    (n_weights + 1,), powers of two: the gradient's, and behind them the loss's.
    """
    sealed = fold.label_scale.sealed
    units = np.full(trainer.model.n_weights + 1, sealed)
    units[-1] = sealed * sealed
    return units


def apply_aggregate(
    trainer: Trainer,
    fold: Fold,
    *,
    robust: Floats | None,
    settle: Callable[[Floats], dict[str, Any]],
    along: str | None = None,
) -> None:
    """Waits for the opened sum, takes every hospital's step, and writes the checkpoint.

    `robust` is the aggregate itself where the order's rule is no sum. `settle` is given
    the aggregate before the step: it may refuse it, and answers what is to be reported
    of the round with the next. `along` is the topic that it reads then.
    """
    point = fold.checkpoint

    if robust is not None:
        # It was made of gradients as they were shown.
        robust = fold.label_scale.trained_gradient(robust)

    def decide(sums: Ints) -> bool:
        next_point = _stepped(trainer, fold, sums, robust)
        return _stops(trainer, next_point, point) is not None

    _prepare_ahead(trainer)
    with sentences(point.round):
        opening = receive_opening(
            trainer,
            "gradient",
            fold=fold.number,
            round=point.round,
            members=fold.members,
            decide=decide,
            along=along,
        )
        next_point = _stepped(trainer, fold, opening.sums, robust)
        if next_point.newton is None:
            assert next_point.aggregate is not None
            next_point.left_out = settle(next_point.aggregate)
    next_point.stopped_by = _stops(trainer, next_point, point)
    if opening.stop != next_point.stopped:
        raise _wrong_end(point.round)
    save_checkpoint(trainer.order.store, next_point)
    fold.checkpoint = next_point


def _prepare_ahead(trainer: Trainer) -> None:
    """Fills the stock of obfuscators while this hospital waits for the others."""
    stock = trainer.obfuscators
    n_ahead = _OBFUSCATORS_AHEAD
    if trainer.order.request.is_newton:
        n_ahead += newton.n_plaintexts(trainer)
    if stock is None or stock.ready >= n_ahead:
        return
    filling = threading.Thread(
        target=stock.prepare,
        args=(n_ahead,),
        daemon=True,
    )
    filling.start()


def _stepped(
    trainer: Trainer,
    fold: Fold,
    sums: Ints,
    robust: Floats | None,
) -> Checkpoint:
    """The fold's state one round later; the sums' last value is the loss."""
    point = fold.checkpoint
    if trainer.order.request.is_meta:
        return meta.stepped_point(trainer, point, sums, fold.scales)
    if trainer.order.request.has_random_intercept:
        return random_intercept.stepped_point(trainer, point, sums)
    if trainer.order.request.is_newton:
        return newton.stepped_point(trainer, point, sums, fold.scales)
    sum_keys = trainer.keys(fold.number, fold.members)
    mean = secure_sum.mean(sum_keys, sums) * _sealed_units(trainer, fold)
    mean_loss = float(mean[-1])
    aggregate = mean[:-1] if robust is None else robust
    weights, optimizer_state = _step(trainer, point, aggregate)
    penalty = optimizers.penalty_value(point.weights, **_penalty(trainer))
    loss = mean_loss + penalty
    return Checkpoint(
        point.fold,
        point.round + 1,
        weights,
        optimizer_state,
        losses=[*point.losses, loss],
        gradient=fold.gradient,
        aggregate=aggregate,
        mean_loss=mean_loss,
    )


def stepped_weights(
    trainer: Trainer,
    fold: Fold,
    aggregate: Floats,
) -> Floats:
    """The weights that the round would give with this aggregate, in the label's own
    units.
    """
    weights, _ = _step(trainer, fold.checkpoint, aggregate)
    return own_weights(trainer, fold, weights)


def _step(
    trainer: Trainer,
    point: Checkpoint,
    aggregate: Floats,
) -> tuple[Floats, OptimizerState]:
    return optimizers.step(
        trainer.params.optimizer,
        point.weights,
        aggregate,
        point.state,
        learning_rate=_learning_rate(trainer, point.round),
        **_penalty(trainer),
    )


def _penalty(trainer: Trainer) -> dict[str, Any]:
    params = trainer.params
    return {
        "penalty": params.penalty,
        "alpha": params.alpha,
        "penalised": trainer.model.penalised,
    }


def _wrong_end(round_: int) -> ProtocolViolation:
    """Of an initiator that goes on for more rounds than the order has, or for fewer."""
    return ProtocolViolation(
        f"In round {round_} the initiator says otherwise than the order whether training ends.",
        remedy="All hospitals must run the same version; then send the order again.",
        code="training_end",
    )


def _stops(
    trainer: Trainer,
    after: Checkpoint,
    before: Checkpoint,
) -> StoppedBy | None:
    """By what training ends with this step, if it does.

    A last round that has converged has not ended by max_iter.
    """
    params = trainer.params
    if after.newton is not None:
        if after.newton.is_done:
            return "converged"
        return "max_iter" if after.round >= params.max_iter else None
    has_converged = optimizers.converged(
        params.convergence,
        eps=params.tolerance,
        losses=after.losses,
        before=before.weights,
        after=after.weights,
    )
    if has_converged:
        return "converged"
    if after.round >= params.max_iter:
        return "max_iter"
    return None


def _learning_rate(trainer: Trainer, round_: int) -> float:
    params = trainer.params
    return optimizers.decayed_rate(
        params.learning_rate,
        decay=params.decay,
        decay_sqrt=params.decay_sqrt,
        round=round_,
    )
