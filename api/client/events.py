"""An order's server-sent events, each one once, also where the connection breaks in between."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from api.client.connection import Connection, Json
from protocol.errors import Unavailable

ENDED = frozenset({"success", "failed", "cancelled"})
SILENCE_SECONDS = 45.0
RECONNECT_SECONDS = 1.0


class Event(NamedTuple):
    """`round` {fold, round, loss}, `stage` {what, done, of} or `state` {order_id, state}."""

    name: str
    data: Json

    @property
    def is_last(self) -> bool:
        return self.name == "state" and self.data["state"] in ENDED


def parse_events(lines: Iterable[str]) -> Iterator[Event]:
    """The events that stand in the lines of a stream; its comments, which only keep it open, are left out.

    >>> list(parse_events(["event: state", 'data: {"state": "running"}', "", ": still here", ""]))
    [Event(name='state', data={'state': 'running'})]
    """
    name, data = "message", ""
    for line in lines:
        field, _, value = line.partition(":")
        if field == "event":
            name = value.strip()
        elif field == "data":
            data += value
        elif not line and data:
            yield Event(name, json.loads(data))
            name, data = "message", ""


def follow(
    connection: Connection, order_id: int, *, timeout_seconds: float | None, patience_seconds: float
) -> Iterator[Event]:
    """An order's events from its beginning to its end.

    A stream that breaks is opened again, and what it tells again is left out. Raises Unavailable when nothing was
    heard for `patience_seconds`, TimeoutError when the order has not ended after `timeout_seconds`.
    """
    deadline = math.inf if timeout_seconds is None else time.monotonic() + timeout_seconds
    heard, told = time.monotonic(), _Told()
    while True:
        try:
            for event in parse_events(_lines(connection, order_id, deadline)):
                heard = time.monotonic()
                if told.is_new(event):
                    yield event
                if event.is_last:
                    return
        except Unavailable:
            if deadline > time.monotonic() > heard + patience_seconds:
                raise
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(
                f"Order {order_id} has not ended after {timeout_seconds:g} seconds; it goes on."
            )
        time.sleep(min(RECONNECT_SECONDS, left))


class _Told:
    """What was told already: each round once, of stage and state the last."""

    def __init__(self) -> None:
        self._known: dict[object, Json] = {}

    def is_new(self, event: Event) -> bool:
        name, data = event
        key = (data["fold"], data["round"]) if name == "round" else name
        is_new = self._known.get(key) != data
        self._known[key] = data
        return is_new


def _lines(connection: Connection, order_id: int, deadline: float) -> Iterator[str]:
    """The lines of a stream until the deadline; the coordinator sends one every 15 seconds at least."""
    left = max(deadline - time.monotonic(), 0.01)
    for line in connection.lines(f"/orders/{order_id}/events", silence_seconds=min(SILENCE_SECONDS, left)):
        yield line
        if time.monotonic() >= deadline:
            return
