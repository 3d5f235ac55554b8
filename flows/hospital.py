"""The order of events at a hospital: approval, a training order, joint statistics.

What happens in each step stands in tasks/hospital. Nothing here needs Prefect: a
federation in one process runs the same events. `flows.hospital_runs` are Prefect's
flows around them.
"""

from __future__ import annotations

from collections.abc import Callable

from protocol.training_request import folds
from tasks.hospital import order, statistics, training
from tasks.hospital.order import Party, VerifiedOrder


def approve_locally(
    party: Party, verify_order: Callable[[Party], VerifiedOrder]
) -> None:
    """Verify, ask a person where one is needed, and tell the coordinator that nobody
    has to decide any longer.

    No row is read. A refusal ends the order for all.
    """
    verified = verify_order(party)
    order.await_decision(verified)
    order.report_decided(verified)


def train_locally(party: Party) -> None:
    """Verify, ask a person, count, agree on keys; for each fold the rounds; keep the
    model. Of an evaluation one sum, and the report is kept.
    """
    verified = training.verify_order(party)
    order.await_decision(verified)
    order.open_window(verified)
    # Not before: for an order that is refused, or that a person does not want, no row
    # is read.
    rows = training.extract_data(verified)
    if verified.request.evaluates is not None:
        # A model that is kept has no rounds.
        training.evaluate(training.agree_on_evaluation(verified, rows))
        order.log_times(verified)
        return
    trainer = training.agree_on_keys(verified, rows)
    for number in folds(verified.request):
        fold = training.open_fold(trainer, number)
        while not fold.checkpoint.stopped:
            training.contribute(trainer, fold)
            training.apply_aggregate(trainer, fold)
        training.finish_fold(trainer, fold)
    # The last fold is the final model, of all rows.
    training.save_model(trainer, fold)
    order.log_times(verified)


def answer_locally(party: Party) -> None:
    """Verify, ask a person, read, agree on keys; add or join; a receiver keeps the
    result.
    """
    verified = statistics.verify_order(party)
    order.await_decision(verified)
    order.open_window(verified)
    reading = statistics.read_rows(verified)
    agreed = statistics.agree_on_keys(verified, reading)
    answered = statistics.answer(agreed, reading)
    statistics.deliver(agreed, answered)
    order.log_times(verified)


def infer_locally(party: Party) -> None:
    """Reads the request, predicts, and answers to the one-time key of who asked."""
    document, box = party.exchange.inference_request(party.order_id)
    training.answer_request(party, document, box)
