"""The steps of a hospital in a training order, each visible in Prefect under the name that users know."""

from __future__ import annotations

import logging
from typing import Any

from agents.order import party as parties
from agents.training import cohorts, inference, shown_gradients
from agents.training import trainer as trainers
from agents.training.party import TrainingParty
from agents.training.trainer import Fold, Trainer
from analytics.arrays import Floats
from tasks.steps import step

__all__ = ["Trainer", "TrainingParty"]

log = logging.getLogger("consilium.rounds")


@step("data SQL extraction")
def extract_data(party: TrainingParty) -> None:
    """Cohorts by SQL, through the cohort gate, into the vault."""
    cohorts.extract(party)


@step("key agreement")
def agree_on_keys(party: TrainingParty) -> Trainer:
    """Acceptances, the order secret, the model's classes and initial weights."""
    parties.accept(party, party.cohort.n_rows, party.test_cohort.n_rows if party.test_cohort else 0)
    party.paillier_key = parties.agree(party)
    trainer = Trainer(party)
    trainers.agree_on_model(trainer)
    parties.begin(party, party.paillier_key)
    return trainer


@step("standardization")
def open_fold(trainer: Trainer, number: int) -> Fold:
    """A fold's rows, in joint units where the order asks for them."""
    return trainers.open_fold(trainer, number)


def _round(trainer: Trainer, fold: Fold, *_: Any) -> str:
    point = fold.checkpoint
    return f"round {point.round}" + (f" of fold {point.fold}" if point.fold else "")


@step("local gradient", _round)
def local_gradient(trainer: Trainer, fold: Fold) -> dict[str, Any]:
    """This hospital's pseudo-gradient, and its metrics at the round's starting model."""
    return trainers.local_round(trainer, fold)


@step("scoring", _round)
def show_gradient(trainer: Trainer, fold: Fold) -> None:
    """The rotated gradient, through the release door, to the coordinator, where the order has rounds scored."""
    if trainer.party.request.is_scored:
        shown_gradients.send_vectors(trainer, fold)
    fold.members = shown_gradients.receive_choice(trainer, fold)


@step("encryption", _round)
def encrypt_contribution(trainer: Trainer, fold: Fold, report: dict[str, Any]) -> None:
    """Sealed by the order's method, through the release door, to the coordinator."""
    trainers.encrypt_round(trainer, fold, report)


def apply_aggregate(trainer: Trainer, fold: Fold) -> None:
    """The step that all hospitals take, and its checkpoint. No task of its own: it mostly waits for the others."""
    request = trainer.party.request
    told = shown_gradients.receive_check(trainer, fold) if shown_gradients.is_scored(trainer) else None

    def settle(aggregate: Floats) -> dict[str, Any]:
        if told is not None:
            shown_gradients.check_aggregate(trainer, fold, aggregate, told)
        return shown_gradients.leave_one_out(trainer, fold, aggregate)

    is_sum = request.aggregation == "mean" or request.chooses
    trainers.apply_round(trainer, fold, told=None if is_sum else told, settle=settle)
    _tell_round(trainer, fold)


def _tell_round(trainer: Trainer, fold: Fold) -> None:
    """A line for who watches this agent: round and loss as the coordinator shows them, which is without the penalty."""
    point, order_id = fold.checkpoint, trainer.party.order_id
    where = f" of fold {point.fold}" if point.fold else ""
    n_rounds = trainer.params.max_iter
    log.info(
        "Order %s: round %s of %s%s, loss %.4g", order_id, point.round - 1, n_rounds, where, point.mean_loss
    )


@step("final metrics", _round)
def finish_fold(trainer: Trainer, fold: Fold) -> None:
    """Metrics of the trained model and the joint score histogram."""
    if trainer.party.request.is_scored:
        shown_gradients.send_nothing(trainer, fold)
    trainers.finish_fold(trainer, fold)


@step("save model")
def save_model(trainer: Trainer, fold: Fold) -> None:
    """The model, into this hospital's vault; keys and snapshot are forgotten."""
    trainers.save_model(trainer, fold)
    trainers.finish(trainer.party)


@step("inference")
def predict(party: TrainingParty, document: str, box: bytes) -> None:
    """The hospital's model on its own rows; the answer leaves sealed to who asked."""
    inference.answer_request(party, document, box)
