"""How much of the exchange an order's hospitals may hold: the messages of its plan
(`protocol.message_plan`), and no more bytes than these have.

What is held is counted in this process, from what stands in the store when it first
asks; so a restart forgets nothing. Where other processes take messages too, it is read
from the store for each message, before its body is read, and counted once more by the
transaction that stores it: what came in at the others meanwhile counts.

Decisions 83 and 149.
"""

from __future__ import annotations

import contextlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator

from fastapi import Request

from api.store import Store
from api.store.bodies import Body, Writer
from api.store.engine import in_thread
from api.store.messages import too_much
from protocol.errors import Forbidden, TooLarge
from protocol.exchange import Address
from protocol.message_plan import MessagePlan, inference_plan, plan_of
from protocol.messages import COORDINATOR

MOST_ORDERS = 1_000
"""Whose counts are kept at one time; others are counted anew."""


class _Order:
    """One order's plan, and the bytes of each sender that lie in the store."""

    def __init__(
        self,
        plan: MessagePlan,
        held: dict[int, int],
    ) -> None:
        self.plan = plan
        self.held = held
        # By sender, what is being stored by this process.
        self.coming: Counter[int] = Counter()

    def most(self) -> int:
        """That each hospital's messages may have together."""
        dealt = self.held.get(COORDINATOR, 0)
        for_dealt = self.plan.held_by_dealt * dealt
        return self.plan.held_bytes + for_dealt

    def left(self, sender: int) -> int:
        held = self.held.get(sender, 0)
        coming = self.coming[sender]
        return self.most() - held - coming


class Budgets:
    """The orders whose messages come in."""

    def __init__(self, store: Store, most_bytes: int) -> None:
        self._store = store
        self._most_bytes = most_bytes
        self._orders: OrderedDict[int, _Order] = OrderedDict()

    async def most_bytes(
        self,
        address: Address,
        sender: int,
        recipient: int,
    ) -> int:
        """That this message may have.

        Forbidden (code no_such_message) where the order has no such message; TooLarge
        (code budget) where the sender has no room left: nothing is read then.
        """
        order = await self._order(address.run)
        room = order.plan.room_for(address, sender, recipient)
        if order.left(sender) <= 0:
            raise too_much(address.run, sender)
        return room.most_bytes

    @contextlib.contextmanager
    def reserving(
        self,
        run: int,
        sender: int,
    ) -> Iterator[Callable[[int], None]]:
        """While a message comes in and is stored, and from then on unless that fails.

        What is given reserves so many bytes more, before they are kept: TooLarge (code
        budget) where the sender then holds too much.
        """
        order = self._orders.get(run)
        reserved = 0

        def reserve(n_bytes: int) -> None:
            nonlocal reserved
            if order is None:
                return
            # What the coordinator deals makes the others' room larger, and is not
            # bounded here.
            is_hospital = sender != COORDINATOR
            if is_hospital and n_bytes > order.left(sender):
                raise too_much(run, sender)
            order.coming[sender] += n_bytes
            reserved += n_bytes

        try:
            yield reserve
            if order is not None:
                held = order.held.get(sender, 0)
                order.held[sender] = held + reserved
        finally:
            if order is not None:
                # Also where it broke off: a line that breaks again and again would use
                # the room up.
                order.coming[sender] -= reserved

    def most_held(self, run: int, sender: int) -> int | None:
        """What the transaction that stores a message has to count; None where this
        process takes all of them, and has counted it.
        """
        order = self._orders.get(run)
        if order is None or sender == COORDINATOR:
            return None
        takes_all = self._store.conninfo is None
        if takes_all:
            return None
        return order.most()

    def freed(
        self,
        run: int,
        n_bytes: dict[int, int],
    ) -> None:
        """By sender, what was dropped or did not have to be stored."""
        order = self._orders.get(run)
        if order is None:
            return
        for sender, n_freed in n_bytes.items():
            held = order.held.get(sender, 0)
            order.held[sender] = max(0, held - n_freed)

    async def _order(self, run: int) -> _Order:
        known_order = self._orders.get(run)
        if known_order is None:
            plan = await in_thread(self._plan, run)
            held = await in_thread(self._store.messages.held, run)
            order = _Order(plan, held)
            # Another call may have been first: its counts stand.
            known_order = self._orders.setdefault(run, order)
        elif self._store.conninfo is not None:
            known_order.held = await in_thread(self._store.messages.held, run)
        self._orders.move_to_end(run)
        while len(self._orders) > MOST_ORDERS:
            self._orders.popitem(last=False)
        return known_order

    def _plan(self, run: int) -> MessagePlan:
        order = self._store.orders.get(run)
        if order.kind == "infer":
            return inference_plan(order.initiator, most_bytes=self._most_bytes)
        plan = plan_of(
            order.kind,
            run,
            order.document,
            most_bytes=self._most_bytes,
        )
        if plan is None:
            raise Forbidden(
                f"Order {run} has no messages.",
                remedy="Nothing is to be sent here.",
                code="no_such_message",
            )
        return plan


async def body_within(
    request: Request,
    most_bytes: int,
    writer: Writer,
    reserve: Callable[[int], None],
) -> Body:
    """A body of so many bytes, reserved and written piece by piece as it comes.

    TooLarge before more than that is held, or read where it says itself that it has
    more; what `reserve` raises.
    """
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > most_bytes:
        raise message_too_large(most_bytes)
    n_bytes = 0
    async for piece in request.stream():
        n_bytes += len(piece)
        if n_bytes > most_bytes:
            raise message_too_large(most_bytes)
        # Before it is kept: several bodies that come at one time stay within the room
        # together.
        reserve(len(piece))
        if writer.take(piece):
            await in_thread(writer.flush)
    if writer.is_small:
        # Nothing is written: it needs no thread.
        return writer.finish()
    return await in_thread(writer.finish)


def message_too_large(most_bytes: int) -> TooLarge:
    return TooLarge(
        f"The message has more than {most_bytes} bytes, which is more than one of its kind has in this order.",
        remedy="Update the agent; an order of this kind and size needs less.",
        code="message_size",
    )
