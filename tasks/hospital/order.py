"""The steps that a hospital takes in every kind of order.

It has the order approved, and reports where its time went.
The steps of one kind are in `tasks.hospital.training` and `tasks.hospital.statistics`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from agents.order import approval, starting
from agents.order.party import Party, VerifiedOrder
from protocol.exchange import Address
from protocol.messages import COORDINATOR, EVERYONE
from tasks.steps import spent, step

__all__ = ["Party", "VerifiedOrder"]

log = logging.getLogger("consilium.times")


def shown(work: Callable[[Party], None]) -> Callable[[Party], None]:
    """The same work, as Prefect shows it: step by step, or of an order of more hospitals
    than the setting `coarse_tasks_above` as one step here. What the coordinator shows
    stays as it is.

    Every step of every hospital is a row of Prefect's with two states: 300 hospitals
    and 30 rounds would have 29,000 task runs (decision 146).
    """

    def work_as_shown(party: Party) -> None:
        most_shown = party.settings.coarse_tasks_above
        if _n_hospitals(party) > most_shown:
            _work_in_one_step(party, work)
        else:
            work(party)

    return work_as_shown


@step("whole order", covers=True)
def _work_in_one_step(party: Party, work: Callable[[Party], None]) -> None:
    work(party)


def _n_hospitals(party: Party) -> int:
    """By the order's document, which nobody has checked yet: it only decides how finely
    Prefect shows the work. What is wrong with a document is said by who checks it.
    """
    address = Address(party.order_id, "document")
    document_text = party.exchange.get(address, COORDINATOR, EVERYONE)
    try:
        document = json.loads(document_text)
        sql = document.get("sql", ())
        data = document.get("data", ())
        n_sql = len(sql)
        n_data = len(data)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return 0
    return max(n_sql, n_data)


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
    terms = order.terms()
    approval.await_decision(order, digest, terms)


def open_window(order: VerifiedOrder) -> None:
    """The time of an order that starts with who is there; it ends here where that was
    without this hospital.
    """
    starting.open_window(order)


def report_decided(order: VerifiedOrder) -> None:
    """The order may take its places, as far as this hospital is concerned."""
    order.exchange.decided(order.order_id)


def log_times(order: VerifiedOrder) -> None:
    """One line in this site's log: where the order's time went here.

    Sending and waiting are parts of the steps.
    """
    seconds = {
        **spent,
        **order.exchange.spent,
    }
    rounded = {}
    for activity, duration in seconds.items():
        rounded[activity] = round(duration, 4)
    times = json.dumps(rounded)
    log.info("Times of order %s: %s", order.order_id, times)
