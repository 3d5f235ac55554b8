"""The steps of a hospital in a training order, each visible in Prefect under the name
that users know.

What each does is in `agents.training.fold`, and for scores in
`agents.training.shown_gradients`.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

from agents.order import key_agreement
from agents.order import party as orders
from agents.order.party import Party
from agents.training import (
    agreed_design,
    agreed_levels,
    agreed_model,
    cohorts,
    comparison,
    evaluation,
    fixed_effect,
    fold_end,
    inference,
    made_columns,
    own_metrics,
    shown_gradients,
    varying,
)
from agents.training import fold as folds
from agents.training import party as parties
from agents.training.fold import Fold
from agents.training.party import AgreedTraining, VerifiedTraining
from agents.training.row_sets import OrderRows
from agents.training.trainer import Trainer
from analytics.arrays import Floats
from analytics.training.outcome import WARNINGS
from protocol.varying_plan import Levels
from tasks.steps import step

log = logging.getLogger("consilium.rounds")


@step("verify order")
def verify_order(party: Party) -> VerifiedTraining:
    """The order's signature, its SQL commitment and this hospital's policy."""
    return parties.verify_order(party)


@step("data SQL extraction")
def extract_data(order: VerifiedTraining) -> OrderRows:
    """Cohorts by SQL, through the cohort gate, into the vault."""
    return cohorts.extract_data(order)


@step("key agreement")
def agree_on_keys(order: VerifiedTraining, rows: OrderRows) -> Trainer:
    """Acceptances, the order secret, the model's columns, classes and initial weights."""
    agreed = _agree(order, rows)
    coding = agreed_levels.agree_on_levels(agreed, rows)
    rows = agreed_design.code_rows(agreed, rows, coding)
    made_columns.check_features(agreed, rows, coding)
    joint = agreed_model.agree_on_model(agreed, rows, coding)
    limits = own_metrics.agree_on_limits(agreed, rows)
    shown_gradients.check_scored(agreed, joint.model, limits)
    _begin(agreed, rows, coding.levels)
    trainer = Trainer(
        agreed,
        rows,
        joint.model,
        joint.start,
        limits,
        joint.class_warnings,
    )
    design_fixed = agreed_design.fix_design(trainer, coding)
    trainer = fixed_effect.with_hospitals(design_fixed)
    if order.request.compare is not None:
        comparison.check_nested(
            order.vault,
            order.request,
            trainer.features,
        )
    return trainer


@step("key agreement")
def agree_on_evaluation(order: VerifiedTraining, rows: OrderRows) -> Trainer:
    """Acceptances and the order secret; the model and its columns are the kept ones."""
    agreed = _agree(order, rows)
    trainer = evaluation.agree_on_evaluation(agreed, rows)
    _begin(agreed, rows, {})
    return trainer


def _agree(order: VerifiedTraining, rows: OrderRows) -> AgreedTraining:
    policy = order.policy
    agreed = key_agreement.agree_on_keys(
        order,
        AgreedTraining,
        n_rows=rows.train.n_rows,
        regroup=policy.cohort.regroup,
        least_hospitals=policy.orders.min_hospitals,
        n_test_rows=rows.n_test_rows,
        public_key=lambda: parties.public_key(order),
        pooled=cohorts.own_thresholds(order),
        sparse_masks=policy.orders.sparse_masks,
    )
    cohorts.pass_gate_of_party(agreed, rows)
    cohorts.check_hospitals(agreed)
    cohorts.commit_rounds(agreed, now=datetime.now(UTC))
    cohorts.commit_meta(agreed, now=datetime.now(UTC))
    cohorts.commit_clustering(agreed, now=datetime.now(UTC))
    parties.note_totals(agreed)
    return agreed


def _begin(
    agreed: AgreedTraining,
    rows: OrderRows,
    levels: Levels,
) -> None:
    # All have accepted, and nothing that adds up to a total has been sent.
    cohorts.commit(agreed)
    varying.check_columns(agreed, rows, levels)
    # The order is running only when the hospitals have found that their rows can be
    # trained on together.
    orders.begin(agreed)


@step("standardization")
def open_fold(trainer: Trainer, number: int) -> Fold:
    """A fold's rows, in joint units where the order asks for them."""
    return folds.open_fold(trainer, number)


def _round(
    trainer: Trainer,
    fold: Fold,
    *_: Any,
) -> str:
    """Where in the order a step of a round is, as Prefect names it."""
    round_ = fold.checkpoint.round
    return f"round {round_}{_of_fold(fold)}"


def _of_fold(fold: Fold) -> str:
    # Fold 0 is the final model: an order without cross-validation has no other.
    if fold.number == 0:
        return ""
    return f" of fold {fold.number}"


Report = dict[str, Any]
"""What this hospital says of its rows in a round: counts and metrics."""


@step("local gradient", _round)
def local_gradient(trainer: Trainer, fold: Fold) -> Report:
    """This hospital's pseudo-gradient, and its metrics at the round's starting model."""
    return folds.local_gradient(trainer, fold)


@step("scoring", _round)
def show_gradient(trainer: Trainer, fold: Fold) -> None:
    """The rotated gradient, through the release door, to the coordinator.

    Only where the order has rounds scored.
    """
    if trainer.order.request.is_scored:
        shown_gradients.show_gradient(trainer, fold)
    fold.members = shown_gradients.receive_choice(trainer, fold)


@step("encryption", _round)
def encrypt_contribution(
    trainer: Trainer,
    fold: Fold,
    report: Report,
) -> None:
    """Sealed by the order's method, through the release door, to the coordinator."""
    folds.encrypt_contribution(trainer, fold, report)


def contribute(trainer: Trainer, fold: Fold) -> None:
    """All that this hospital does for a round's sum.

    Prefect shows it as one step, or where the setting `round_steps` says so as its
    three steps: each task run costs a hospital, the coordinator and Prefect together as
    much as several calls (decision 151).
    """
    if trainer.order.settings.round_steps:
        _contribute(trainer, fold)
    else:
        _contribute_in_one_step(trainer, fold)


@step("local training", _round, covers=True)
def _contribute_in_one_step(trainer: Trainer, fold: Fold) -> None:
    _contribute(trainer, fold)


def _contribute(trainer: Trainer, fold: Fold) -> None:
    report = local_gradient(trainer, fold)
    show_gradient(trainer, fold)
    encrypt_contribution(trainer, fold, report)


def apply_aggregate(trainer: Trainer, fold: Fold) -> None:
    """The step that all hospitals take, and its checkpoint.

    No task of its own: it mostly waits for the others.
    """
    request = trainer.order.request
    is_scored = shown_gradients.is_scored(trainer)
    # The median and the trimmed mean are no sums: the hospitals step by what the
    # coordinator made of open gradients.
    is_sum = request.aggregation == "mean" or request.chooses
    robust = None
    if is_scored and not is_sum:
        robust = shown_gradients.receive_check(trainer, fold)

    def settle(aggregate: Floats) -> Report:
        if is_scored:
            shown_mean = robust
            if shown_mean is None:
                shown_mean = shown_gradients.receive_check(trainer, fold)
            # A coordinator that answers one mean and sums another is found here, before
            # the step is taken.
            shown_gradients.check_aggregate(
                trainer,
                fold,
                aggregate,
                shown_mean,
            )
        return shown_gradients.leave_one_out(trainer, fold, aggregate)

    # The coordinator puts it before the sum or with it: who reads what was opened has it
    # in the same call.
    along = "check" if is_scored and is_sum else None
    folds.apply_aggregate(
        trainer,
        fold,
        robust=robust,
        settle=settle,
        along=along,
    )
    _log_round(trainer, fold)


def _log_round(trainer: Trainer, fold: Fold) -> None:
    """A line for who watches this agent: round and loss as the coordinator shows them.

    That is the loss without the penalty.
    """
    point = fold.checkpoint
    loss = fold.label_scale.own_loss(point.mean_loss)
    log.info(
        "Order %s: round %s of %s%s, loss %.4g",
        trainer.order.order_id,
        point.round - 1,
        trainer.params.max_iter,
        _of_fold(fold),
        loss,
    )


def _log_end(trainer: Trainer, fold: Fold) -> None:
    """How training ended, for who watches this agent, and what speaks against the
    model.
    """
    order_id = trainer.order.order_id
    point = fold.checkpoint
    log.info(
        "Order %s: ended by %s after %s rounds",
        order_id,
        point.stopped_by,
        point.round,
    )
    for code in fold.warnings:
        warning = WARNINGS[code]
        log.info("Order %s: warning: %s", order_id, warning)


@step("final metrics", _round)
def finish_fold(trainer: Trainer, fold: Fold) -> None:
    """Metrics of the trained model and the joint score histogram."""
    if trainer.order.request.is_scored:
        shown_gradients.show_nothing(trainer, fold)
    fold_end.finish_fold(trainer, fold)


@step("save model")
def save_model(trainer: Trainer, fold: Fold) -> None:
    """The model, into this hospital's vault; keys and snapshot are forgotten."""
    fold_end.save_model(trainer, fold)
    fold_end.end_order(trainer.order)
    _log_end(trainer, fold)


@step("final metrics", lambda trainer: "round 0")
def evaluate(trainer: Trainer) -> None:
    """The kept model on all hospitals' rows; the report, into this hospital's vault."""
    evaluation.evaluate(trainer)


@step("inference")
def answer_request(
    party: Party,
    document: str,
    box: bytes,
) -> None:
    """The hospital's model on its own rows; the answer leaves sealed to who asked."""
    inference.answer_request(party, document, box)
