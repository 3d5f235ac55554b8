"""The steps that a hospital takes in every kind of order.

It has the order approved, and reports where its time went.
The steps of one kind are in `tasks.hospital.training` and `tasks.hospital.statistics`.
"""

from __future__ import annotations

import json
import logging

from agents.order import approval
from agents.order.party import Party, VerifiedOrder
from tasks.steps import spent, step

__all__ = ["Party", "VerifiedOrder"]

log = logging.getLogger("consilium.times")


def await_decision(order: VerifiedOrder) -> None:
    """A person's decision, where one is needed.

    Whoever looks at Prefect sees that it is waited for.
    """
    if approval.is_needed(order):
        _await_decision(order)


@step("approval")
def _await_decision(order: VerifiedOrder) -> None:
    # The digest ties the decision to this document: an altered one needs another.
    digest = order.signed.digest
    approval.await_decision(order, digest, order.terms())


def report_decided(order: VerifiedOrder) -> None:
    """The order may take its places, as far as this hospital is concerned."""
    order.exchange.decided(order.order_id)


def log_times(order: VerifiedOrder) -> None:
    """One line in this site's log: where the order's time went here.

    Sending and waiting are parts of the steps.
    """
    seconds = {**spent, **order.exchange.spent}
    rounded = {}
    for name, duration in seconds.items():
        rounded[name] = round(duration, 4)
    times = json.dumps(rounded)
    log.info("Times of order %s: %s", order.order_id, times)
