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
        told = self._told.get(order_id)
        if told is None or told.has_been_read:
            told = ToldOrder(order_id)
            reading = asyncio.create_task(self._read(told))
            told.reading = reading
            has_ended = functools.partial(self._has_ended, told)
            reading.add_done_callback(has_ended)
            self._told[order_id] = told
        told.n_streams += 1
        try:
            yield told
        finally:
            told.n_streams -= 1
            if not told.n_streams:
                self._forget(told)

    def _has_ended(
        self,
        told: ToldOrder,
        reading: asyncio.Task[None],
    ) -> None:
        # What it failed by ends each stream, as if it had read by itself; where no
        # stream is left, asyncio would complain that nobody asked for it.
        if not reading.cancelled():
            reading.exception()
        self._bell.ring_here(told.key)

    def _forget(self, told: ToldOrder) -> None:
        assert told.reading is not None
        told.reading.cancel()
        # Another reading may stand in its place.
        newest = self._told.get(told.order_id)
        if newest is told:
            del self._told[told.order_id]

    async def _read(self, told: ToldOrder) -> None:
        """Until the order has ended, or this process does."""
        order_id = told.order_id
        with self._bell.listening(("order", order_id)) as event:
            while not event.over:
                event.clear()
                await self._read_news(told)
                self._bell.ring_here(told.key)
                order = told.order
                if order is not None and order.has_ended:
                    return
                deadline = time.monotonic() + LOOK_AGAIN_SECONDS
                await rang(event, deadline)

    async def _read_news(self, told: ToldOrder) -> None:
        # The order first: an order that has ended has all of its rounds.
        order = await in_thread(self._store.orders.get, told.order_id)
        recorded = await in_thread(
            self._store.rounds.of_order,
            told.order_id,
            skip=len(told.rounds),
        )
        for new in recorded:
            shown = {
                "fold": new.fold,
                "round": new.round,
                "loss": new.loss,
            }
            event = event_text("round", shown)
            told.rounds.append(event)
        told.order = order


def event_text(name: str, data: Any) -> str:
    """One server-sent event."""
    content = json.dumps(data)
    return f"event: {name}\ndata: {content}\n\n"
