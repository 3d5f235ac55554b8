"""The steps that a hospital takes in every kind of order: have it approved, report where its time went.

The steps of one kind are in `tasks.hospital.training` and `tasks.hospital.statistics`.
"""

from __future__ import annotations

import json
import logging

from agents.order import approval
from agents.order.party import Party, VerifiedOrder
from agents.statistics import party as statistics
from agents.statistics.party import VerifiedStatistics
from agents.training import cohorts
from agents.training.party import VerifiedTraining
from tasks.steps import spent, step

__all__ = ["Party", "VerifiedOrder"]

log = logging.getLogger("consilium.times")


def await_decision(order: VerifiedOrder) -> None:
    """A person's decision, where one is needed; whoever looks at Prefect sees that it is waited for."""
    if approval.is_needed(order):
        _await_decision(order)


@step("approval")
def _await_decision(order: VerifiedOrder) -> None:
    # Nobody is asked about an order that the policy refuses anyway.
    if isinstance(order, VerifiedTraining):
        cohorts.check_queries(order)
    if isinstance(order, VerifiedStatistics):
        statistics.check_data(order)
    approval.await_decision(order, order.signed.digest, order.terms())


def report_decided(order: VerifiedOrder) -> None:
    """The order may take its places, as far as this hospital is concerned."""
    order.exchange.decided(order.order_id)


def log_times(order: VerifiedOrder) -> None:
    """One line in this site's log: where the order's time went here. Sending and waiting are parts of the steps."""
    seconds = {**spent, **order.exchange.spent}
    rounded = {name: round(duration, 4) for name, duration in seconds.items()}
    log.info("Times of order %s: %s", order.order_id, json.dumps(rounded))
