"""The order of events at a hospital: approval, a training order, joint statistics.

What happens in each step stands in tasks/hospital. Nothing here needs Prefect: a federation in one process runs the
same events.
"""

from __future__ import annotations

from protocol.training_request import folds
from tasks.hospital import order, statistics, training
from tasks.hospital.order import Party
from tasks.hospital.statistics import StatisticsParty
from tasks.hospital.training import TrainingParty


def approve_locally(party: Party) -> None:
    """Verify, ask a person where one is needed, and tell the coordinator that nobody has to decide any longer.

    No row is read. A refusal ends the order for all.
    """
    order.verify_order(party)
    order.await_approval(party)
    order.tell_decided(party)


def train_locally(party: TrainingParty) -> None:
    """Verify, ask a person, count, agree on keys; for each fold the rounds; keep the model."""
    order.verify_order(party)
    order.await_approval(party)
    training.extract_data(party)
    trainer = training.agree_on_keys(party)
    for number in folds(party.request):
        fold = training.open_fold(trainer, number)
        while not fold.checkpoint.stopped:
            report = training.local_gradient(trainer, fold)
            training.show_gradient(trainer, fold)
            training.encrypt_contribution(trainer, fold, report)
            training.apply_aggregate(trainer, fold)
        training.finish_fold(trainer, fold)
    training.save_model(trainer, fold)
    order.log_times(party)


def answer_locally(party: StatisticsParty) -> None:
    """Verify, ask a person, read, agree on keys; add or join; a receiver keeps the result."""
    order.verify_order(party)
    order.await_approval(party)
    reading = statistics.read_data(party)
    statistics.agree_on_keys(party, reading)
    answered = statistics.answer(party, reading)
    statistics.keep_result(party, answered)
    order.log_times(party)
