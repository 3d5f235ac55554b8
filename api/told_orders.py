"""What the streams of orders tell, read once for all the streams of an order.

A browser and a notebook may each have one, and a crowd hundreds: read by each of them,
every round of a long order would be read again as often as there are streams.

Decision 83.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import time
from collections.abc import Iterator
from typing import Any

from api.live import Bell, rang
from api.store import Store
from api.store.engine import in_thread
from api.store.rows import OrderRow

LOOK_AGAIN_SECONDS = 15.0
"""How often an order is read though no bell has rung: another process may change it."""


class ToldOrder:
    """What the streams of one order tell, as far as it has been read."""

    def __init__(self, order_id: int) -> None:
        self.order_id = order_id
        self.rounds: list[str] = []  # the events of its rounds, written out
        self.order: OrderRow | None = None  # None before the first reading
        self.n_streams = 0
        self.reading: asyncio.Task[None] | None = None

    @property
    def key(self) -> tuple[str, int]:
        """Of the bell that rings when something new has been read."""
        return ("told", self.order_id)

    @property
    def has_been_read(self) -> bool:
        """To its end, or until it failed."""
        return self.reading is not None and self.reading.done()

    def check(self) -> None:
        """Raises what the reading has failed by."""
        reading = self.reading
        if reading is None or not reading.done():
            return
        if not reading.cancelled():
            reading.result()


class ToldOrders:
    """The orders that have streams at this moment."""

    def __init__(self, store: Store, bell: Bell) -> None:
        self._store = store
        self._bell = bell
        self._told: dict[int, ToldOrder] = {}

    @contextlib.contextmanager
    def one(self, order_id: int) -> Iterator[ToldOrder]:
        """While a stream lasts; the last one of an order ends its reading."""
        told_order = self._told.get(order_id)
        if told_order is None or told_order.has_been_read:
            told_order = ToldOrder(order_id)
            reading = asyncio.create_task(self._read(told_order))
            told_order.reading = reading
            has_ended = functools.partial(self._has_ended, told_order)
            reading.add_done_callback(has_ended)
            self._told[order_id] = told_order
        told_order.n_streams += 1
        try:
            yield told_order
        finally:
            told_order.n_streams -= 1
            if not told_order.n_streams:
                self._forget(told_order)

    def _has_ended(
        self,
        told_order: ToldOrder,
        reading: asyncio.Task[None],
    ) -> None:
        # What it failed by ends each stream, as if it had read by itself; where no
        # stream is left, asyncio would complain that nobody asked for it.
        if not reading.cancelled():
            reading.exception()
        self._bell.ring_here(told_order.key)

    def _forget(self, told_order: ToldOrder) -> None:
        assert told_order.reading is not None
        told_order.reading.cancel()
        # Another reading may stand in its place.
        newest = self._told.get(told_order.order_id)
        if newest is told_order:
            del self._told[told_order.order_id]

    async def _read(self, told_order: ToldOrder) -> None:
        """Until the order has ended, or this process does."""
        order_id = told_order.order_id
        with self._bell.listening(("order", order_id)) as event:
            while not event.over:
                event.clear()
                await self._read_news(told_order)
                self._bell.ring_here(told_order.key)
                order = told_order.order
                if order is not None and order.has_ended:
                    return
                deadline = time.monotonic() + LOOK_AGAIN_SECONDS
                await rang(event, deadline)

    async def _read_news(self, told_order: ToldOrder) -> None:
        # The order first: an order that has ended has all of its rounds.
        order = await in_thread(self._store.orders.get, told_order.order_id)
        recorded = await in_thread(
            self._store.rounds.of_order,
            told_order.order_id,
            skip=len(told_order.rounds),
        )
        for recorded_round in recorded:
            round_fields = {
                "fold": recorded_round.fold,
                "round": recorded_round.round,
                "loss": recorded_round.loss,
            }
            event = event_text("round", round_fields)
            told_order.rounds.append(event)
        told_order.order = order


def event_text(name: str, data: Any) -> str:
    """One server-sent event."""
    content = json.dumps(data)
    return f"event: {name}\ndata: {content}\n\n"
