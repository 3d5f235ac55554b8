"""How much of the exchange an order's hospitals may hold: the messages of its plan
(`protocol.message_plan`), and no more bytes than these have.

What is held is counted in this process, from what stands in the store when it first
asks; so a restart forgets nothing.

Decision 83.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator

from fastapi import Request

from api.store import Store
from api.store.engine import in_thread
from protocol.errors import Forbidden, TooLarge
from protocol.exchange import Address
from protocol.message_plan import MessagePlan, inference_plan, plan_of
from protocol.messages import COORDINATOR

MOST_ORDERS = 1_000
"""Whose counts are kept at one time; others are counted anew."""


class _Order:
    """One order's plan, and the bytes of each sender that lie in the store."""

    def __init__(self, plan: MessagePlan, held: dict[int, int]) -> None:
        self.plan = plan
        self.held = held

    def left(self, sender: int) -> int:
        dealt = self.held.get(COORDINATOR, 0)
        most = self.plan.held_bytes + self.plan.held_by_dealt * dealt
        return most - self.held.get(sender, 0)


class Budgets:
    """The orders whose messages come in."""

    def __init__(self, store: Store, most_bytes: int) -> None:
        self._store = store
        self._most_bytes = most_bytes
        self._orders: OrderedDict[int, _Order] = OrderedDict()

    async def most_bytes(self, address: Address, sender: int, recipient: int) -> int:
        """That this message may have.

        Forbidden (code no_such_message) where the order has no such message; TooLarge
        (code budget) where the sender has no room left: nothing is read then.
        """
        order = await self._order(address.run)
        room = order.plan.room_for(address, sender, recipient)
        if order.left(sender) <= 0:
            raise _too_much(address.run, sender)
        return room.most_bytes

    @contextlib.contextmanager
    def reserving(self, run: int, sender: int, n_bytes: int) -> Iterator[None]:
        """While a message is stored, and from then on unless that fails.

        TooLarge (code budget) where the sender holds too much already.
        """
        order = self._orders.get(run)
        if order is None:
            yield
            return
        is_hospital = sender != COORDINATOR
        if is_hospital and n_bytes > order.left(sender):
            raise _too_much(run, sender)
        order.held[sender] = order.held.get(sender, 0) + n_bytes
        try:
            yield
        except BaseException:
            order.held[sender] -= n_bytes
            raise

    def freed(self, run: int, n_bytes: dict[int, int]) -> None:
        """By sender, what was dropped or did not have to be stored."""
        order = self._orders.get(run)
        if order is None:
            return
        for sender, n in n_bytes.items():
            order.held[sender] = max(0, order.held.get(sender, 0) - n)

    async def _order(self, run: int) -> _Order:
        known = self._orders.get(run)
        if known is None:
            plan = await in_thread(self._plan, run)
            held = await in_thread(self._store.messages.held, run)
            # Another call may have been first: its counts stand.
            known = self._orders.setdefault(run, _Order(plan, held))
        self._orders.move_to_end(run)
        while len(self._orders) > MOST_ORDERS:
            self._orders.popitem(last=False)
        return known

    def _plan(self, run: int) -> MessagePlan:
        order = self._store.orders.get(run)
        if order.kind == "infer":
            return inference_plan(order.initiator, most_bytes=self._most_bytes)
        plan = plan_of(order.kind, run, order.document, most_bytes=self._most_bytes)
        if plan is None:
            raise Forbidden(
                f"Order {run} has no messages.",
                remedy="Nothing is to be sent here.",
                code="no_such_message",
            )
        return plan


async def body_within(request: Request, most_bytes: int) -> bytes:
    """A body of so many bytes; TooLarge before more than that is held, or read where it
    says itself that it has more.
    """
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > most_bytes:
        raise _too_large(most_bytes)
    pieces = []
    n_bytes = 0
    async for piece in request.stream():
        n_bytes += len(piece)
        if n_bytes > most_bytes:
            raise _too_large(most_bytes)
        pieces.append(piece)
    return b"".join(pieces)


def _too_much(run: int, sender: int) -> TooLarge:
    return TooLarge(
        f"Hospital {sender} has more bytes in order {run} than its messages can have.",
        remedy="Update the agent; an order of this kind and size needs less.",
        code="budget",
    )


def _too_large(most_bytes: int) -> TooLarge:
    return TooLarge(
        f"The message has more than {most_bytes} bytes, which is more than one of its kind has in this order.",
        remedy="Update the agent; an order of this kind and size needs less.",
        code="message_size",
    )
