"""The one computation on shares that an order has, and how its messages travel.

Masks, triples and the numbers of messages are those of the order: a second computation
would use them again, and two openings under one mask show a difference of inputs. After
a crash the same one may be run again, which makes the same bytes.

`protocol/shares/shared_expression.py` computes. Decision 73.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from agents.order.party import AgreedOrder, receive_all, send
from analytics.statistics.circuit import Plan
from analytics.statistics.rowwise import Column
from protocol.errors import ProtocolViolation
from protocol.exchange import Address
from protocol.messages import COORDINATOR, EVERYONE
from protocol.shares import shared_expression


def evaluate_once(
    party: AgreedOrder,
    plan: Plan,
    columns: Mapping[str, Column],
    *,
    n_rows: int,
) -> bytes:
    """This provider's share of the result, as `shared_expression.evaluate` makes it.

    ProtocolViolation (code evaluated_twice) where this order has computed something
    else before, be it before a crash.
    """
    digest = _digest(plan, columns, n_rows)
    if party.store.once("evaluation", lambda: digest) != digest:
        raise ProtocolViolation(
            "This order has computed something else on shares before.",
            remedy="Nothing was sent. Send the order again.",
            code="evaluated_twice",
        )
    return shared_expression.evaluate(
        plan,
        columns,
        keys=party.session,
        channel=_Channel(party, plan.providers),
        n_rows=n_rows,
    )


def _digest(
    plan: Plan,
    columns: Mapping[str, Column],
    n_rows: int,
) -> bytes:
    """Of everything that the messages of a computation follow from, but for the keys."""
    computed = (plan.steps, plan.providers, n_rows)
    hasher = hashlib.sha256(repr(computed).encode())
    for column_name in sorted(columns):
        column = columns[column_name]
        hasher.update(column_name.encode())
        # Python writes each float with the digits that tell it from all others: texts
        # are equal where the values are.
        values_text = repr(column.values.tolist())
        hasher.update(values_text.encode())
        hasher.update(column.valid.tobytes())
    return hasher.digest()


class _Channel:
    """Messages leave through the release door, and come from the exchange."""

    def __init__(self, party: AgreedOrder, providers: Sequence[int]) -> None:
        self._party = party
        self._providers = providers

    def open(
        self,
        number: int,
        data: bytes,
    ) -> Mapping[int, bytes]:
        party = self._party
        other_providers = [
            provider for provider in self._providers if provider != party.me
        ]
        send(
            party,
            "opened",
            lambda: data,
            recipient=EVERYONE,
            round=number,
        )
        opened = {party.me: data}
        opened |= receive_all(
            party,
            "opened",
            other_providers,
            EVERYONE,
            round=number,
        )
        return opened

    def dealt(self, number: int) -> bytes:
        address = Address(
            self._party.order_id,
            "dealt",
            round=number,
        )
        return self._party.exchange.get(address, COORDINATOR)
