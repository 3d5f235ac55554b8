"""The steps of a hospital in a training order, each visible in Prefect under the name that users know.

What each does is in `agents.training.trainer`, and for scores in `agents.training.shown_gradients`.
"""

from __future__ import annotations

import logging
from typing import Any

from agents.order import party as orders
from agents.order.party import Party
from agents.training import agreed_model, cohorts, inference, shown_gradients
from agents.training import party as parties
from agents.training import trainer as trainers
from agents.training.cohorts import OrderRows
from agents.training.party import AgreedTraining, VerifiedTraining
from agents.training.trainer import Fold, Trainer
from analytics.arrays import Floats
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
    """Acceptances, the order secret, the model's classes and initial weights."""
    agreed = orders.agree_on_keys(
        order,
        AgreedTraining,
        n_rows=rows.train.n_rows,
        n_test_rows=rows.n_test_rows,
        public_key=lambda: parties.public_key(order),
    )
    joint = agreed_model.agree_on_model(agreed, rows)
    # The order is running only when the hospitals have found that their rows can be trained on together.
    orders.begin(agreed)
    return Trainer(agreed, rows, joint.model, joint.start)


@step("standardization")
def open_fold(trainer: Trainer, number: int) -> Fold:
    """A fold's rows, in joint units where the order asks for them."""
    return trainers.open_fold(trainer, number)


def _round(trainer: Trainer, fold: Fold, *_: Any) -> str:
    """Where in the order a step of a round is, as Prefect names it."""
    point = fold.checkpoint
    return f"round {point.round}" + _of_fold(fold)


def _of_fold(fold: Fold) -> str:
    return f" of fold {fold.number}" if fold.number else ""


@step("local gradient", _round)
def local_gradient(trainer: Trainer, fold: Fold) -> dict[str, Any]:
    """This hospital's pseudo-gradient, and its metrics at the round's starting model."""
    return trainers.local_gradient(trainer, fold)


@step("scoring", _round)
def show_gradient(trainer: Trainer, fold: Fold) -> None:
    """The rotated gradient, through the release door, to the coordinator, where the order has rounds scored."""
    if trainer.order.request.is_scored:
        shown_gradients.show_gradient(trainer, fold)
    fold.members = shown_gradients.receive_choice(trainer, fold)


@step("encryption", _round)
def encrypt_contribution(trainer: Trainer, fold: Fold, report: dict[str, Any]) -> None:
    """Sealed by the order's method, through the release door, to the coordinator."""
    trainers.encrypt_contribution(trainer, fold, report)


def apply_aggregate(trainer: Trainer, fold: Fold) -> None:
    """The step that all hospitals take, and its checkpoint. No task of its own: it mostly waits for the others."""
    request = trainer.order.request
    shown_mean = None
    if shown_gradients.is_scored(trainer):
        shown_mean = shown_gradients.receive_check(trainer, fold)

    def settle(aggregate: Floats) -> dict[str, Any]:
        if shown_mean is not None:
            shown_gradients.check_aggregate(trainer, fold, aggregate, shown_mean)
        return shown_gradients.leave_one_out(trainer, fold, aggregate)

    # The median and the trimmed mean are no sums: the hospitals step by what the coordinator made of open gradients.
    is_sum = request.aggregation == "mean" or request.chooses
    trainers.apply_aggregate(trainer, fold, robust=None if is_sum else shown_mean, settle=settle)
    _log_round(trainer, fold)


def _log_round(trainer: Trainer, fold: Fold) -> None:
    """A line for who watches this agent: round and loss as the coordinator shows them, which is without the penalty."""
    point = fold.checkpoint
    log.info(
        "Order %s: round %s of %s%s, loss %.4g",
        trainer.order.order_id,
        point.round - 1,
        trainer.params.max_iter,
        _of_fold(fold),
        point.mean_loss,
    )


@step("final metrics", _round)
def finish_fold(trainer: Trainer, fold: Fold) -> None:
    """Metrics of the trained model and the joint score histogram."""
    if trainer.order.request.is_scored:
        shown_gradients.show_nothing(trainer, fold)
    trainers.finish_fold(trainer, fold)


@step("save model")
def save_model(trainer: Trainer, fold: Fold) -> None:
    """The model, into this hospital's vault; keys and snapshot are forgotten."""
    trainers.save_model(trainer, fold)
    trainers.end_order(trainer.order)


@step("inference")
def answer_request(party: Party, document: str, box: bytes) -> None:
    """The hospital's model on its own rows; the answer leaves sealed to who asked."""
    inference.answer_request(party, document, box)
