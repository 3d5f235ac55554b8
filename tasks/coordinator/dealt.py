"""What the coordinator has dealt in an order, and deals again after a restart."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

from analytics.statistics.circuit import Plan
from protocol.exchange import Address
from protocol.sealing import KEY_BYTES
from protocol.shares.channel import SEED
from tasks.coordinator import dealing
from tasks.coordinator.order import CoordinatedOrder


def send_dealt(order: CoordinatedOrder, plan: Plan, *, n_rows: int) -> Iterator[int]:
    """Sends the random numbers of a plan to those who compute it; the number of each
    message that is sent.
    """
    seeds = {}
    for provider in plan.providers:
        seeds[provider] = _seed(order, provider)
    # A restart deals from the beginning: the same seeds give the same bytes, which the
    # exchange takes twice.
    for message in dealing.deal(plan, n_rows=n_rows, seeds=seeds):
        address = Address(order.order_id, "dealt", round=message.number)
        order.exchange.put(address, message.provider, message.data)
        yield message.number


def _seed(order: CoordinatedOrder, provider: int) -> bytes:
    """Drawn once for an order: after a restart, the one that was dealt is dealt again."""
    address = Address(order.order_id, "dealt", round=SEED)
    dealt = order.sent_before(address, provider)
    if dealt is not None:
        return dealt
    return secrets.token_bytes(KEY_BYTES)
