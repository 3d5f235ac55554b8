"""An order's server-sent events, each one once, also where the connection breaks in
between.

`follow` is what `Order.events` calls; `parse_events` reads the text of a stream.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from api.client.connection import Connection, Json
from protocol.errors import Unavailable

ENDED = frozenset({"success", "failed", "cancelled"})
# The coordinator sends a line every 15 seconds at least; after three that did not come
# the connection is dead.
SILENCE_SECONDS = 45.0
RECONNECT_SECONDS = 1.0


class Event(NamedTuple):
    """`round` {fold, round, loss}, `stage` {what, done, of} or `state` {order_id,
    state}.
    """

    name: str
    data: Json

    @property
    def is_last(self) -> bool:
        return self.name == "state" and self.data["state"] in ENDED


def parse_events(lines: Iterable[str]) -> Iterator[Event]:
    """The events in the lines of a stream; its comments, which only keep it open, are
    left out.

    >>> list(parse_events(["event: state", 'data: {"state": "running"}', "", ": still here", ""]))
    [Event(name='state', data={'state': 'running'})]
    """
    event_name, event_data = "message", ""
    for line in lines:
        field, _, value = line.partition(":")
        if field == "event":
            event_name = value.strip()
        elif field == "data":
            event_data += value
        elif not line and event_data:
            # An empty line ends an event.
            yield Event(event_name, json.loads(event_data))
            event_name, event_data = "message", ""


def follow(
    connection: Connection,
    order_id: int,
    *,
    timeout_seconds: float | None,
    patience_seconds: float,
) -> Iterator[Event]:
    """An order's events from its beginning to its end.

    A stream that breaks is opened again, and what it sends again is left out. Raises
    Unavailable when nothing has come for `patience_seconds`, TimeoutError when the
    order has not ended after `timeout_seconds`.
    """
    began = time.monotonic()
    deadline = math.inf if timeout_seconds is None else began + timeout_seconds
    last_event = began
    seen_events = _Known()
    while True:
        try:
            for event in parse_events(_lines(connection, order_id, deadline)):
                last_event = time.monotonic()
                if seen_events.is_new(event):
                    yield event
                if event.is_last:
                    return
        except Unavailable:
            # Past the deadline the answer is TimeoutError, below: the order may well go
            # on.
            now = time.monotonic()
            is_patience_over = now > last_event + patience_seconds
            if is_patience_over and now < deadline:
                raise
        seconds_left = deadline - time.monotonic()
        if seconds_left <= 0:
            raise TimeoutError(
                f"Order {order_id} has not ended after {timeout_seconds:g} seconds; it goes on."
            )
        time.sleep(min(RECONNECT_SECONDS, seconds_left))


class _Known:
    """The events that have come already: each round once, of stage and state the last."""

    def __init__(self) -> None:
        self._last: dict[object, Json] = {}

    def is_new(self, event: Event) -> bool:
        event_key: object = event.name
        if event.name == "round":
            event_key = (event.data["fold"], event.data["round"])
        is_new = self._last.get(event_key) != event.data
        self._last[event_key] = event.data
        return is_new


def _lines(connection: Connection, order_id: int, deadline: float) -> Iterator[str]:
    """The lines of a stream until the deadline."""
    seconds_left = max(deadline - time.monotonic(), 0.01)
    silence_seconds = min(SILENCE_SECONDS, seconds_left)
    for line in connection.lines(
        f"/orders/{order_id}/events", silence_seconds=silence_seconds
    ):
        yield line
        # A line that only keeps the stream open restarts the silence: without this
        # look a quiet order would be followed beyond the deadline.
        if time.monotonic() >= deadline:
            return
