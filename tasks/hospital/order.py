"""The steps that a hospital takes in every kind of order: verify it, have it approved, say where its time went."""

from __future__ import annotations

import json
import logging

from agents.order import approval
from agents.order import party as parties
from agents.order.party import Party
from agents.statistics import party as statistics
from agents.statistics.party import StatisticsParty
from agents.training import cohorts
from agents.training.party import TrainingParty
from tasks.steps import spent, step

__all__ = ["Party"]

log = logging.getLogger("consilium.times")


@step("verify order")
def verify_order(party: Party) -> None:
    """The order's signature, its SQL commitment and this hospital's policy."""
    parties.read_order(party)


def await_approval(party: Party) -> None:
    """A person's word, where one is needed; whoever looks at Prefect sees that it is waited for."""
    if approval.is_needed(party):
        _approval(party)


@step("approval")
def _approval(party: Party) -> None:
    if isinstance(party, TrainingParty):
        cohorts.check_queries(party)
    if isinstance(party, StatisticsParty):
        statistics.check_data(party)
    approval.await_decision(party, party.signed.digest, party.terms())


def tell_decided(party: Party) -> None:
    """The order may take its places, as far as this hospital is concerned."""
    party.exchange.decided(party.order_id)


def log_times(party: Party) -> None:
    """One line in this site's log: where the order's time went here. Sending and waiting are parts of the steps."""
    times = {**spent, **party.exchange.spent}
    log.info("Times of order %s: %s", party.order_id, json.dumps({k: round(v, 4) for k, v in times.items()}))
