"""Orders that start with who is there, whose time is over at a known moment: not when so
many seconds have passed on a loaded machine, but when the hospitals that shall be in time
have accepted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from agents.order import starting
from protocol.exchange import Address
from protocol.memory_transport import MemoryTransport

WINDOW = {"start_within_seconds": 60, "at_least": 3}
LONGEST_SECONDS = 30.0
"""That a test waits for what must come."""


class Moments:
    """What of an order has been sent: an event for each message."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: dict[tuple[int, str, int], threading.Event] = {}

    def event(self, order_id: int, topic: str, sender: int) -> threading.Event:
        with self._lock:
            key = (order_id, topic, sender)
            return self._events.setdefault(key, threading.Event())

    def wait_for(self, order_id: int, topic: str, senders: Iterable[int]) -> None:
        for sender in senders:
            event = self.event(order_id, topic, sender)
            assert event.wait(LONGEST_SECONDS), (topic, sender)


@contextmanager
def over_when_accepted(
    in_time: Iterable[int],
    *,
    waits: Callable[[Moments, Address, int], None] | None = None,
) -> Iterator[Moments]:
    """The time of every order is over when these hospitals have accepted.

    waits: called before a message is put, with its address and sender.
    """
    moments, put = Moments(), MemoryTransport.put
    hospitals = list(in_time)

    def put_and_tell(
        self: MemoryTransport, address: Address, sender: int, *rest: Any
    ) -> None:
        if waits is not None:
            waits(moments, address, sender)
        put(self, address, sender, *rest)
        moments.event(address.run, address.topic, sender).set()

    def seconds_left(order: Any) -> Callable[[], float]:
        def left() -> float:
            moments.wait_for(order.order_id, "acceptance", hospitals)
            return 0.0

        return left

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryTransport, "put", put_and_tell)
        patch.setattr(starting, "_seconds_left", seconds_left)
        yield moments


@contextmanager
def late_at(
    user: int, *, moment: str, initiator: int, in_time: Iterable[int]
) -> Iterator[None]:
    """A hospital that accepts only when the party has been named, or that only then
    begins; moment: "accepts", "begins".
    """
    opens = starting.open_window

    def accept_late(moments: Moments, address: Address, sender: int) -> None:
        if address.topic == "acceptance" and sender == user:
            moments.wait_for(address.run, "party", [initiator])

    with over_when_accepted(in_time, waits=accept_late) as moments:

        def open_late(order: Any) -> None:
            if moment == "begins" and order.me == user:
                moments.wait_for(order.order_id, "party", [initiator])
            opens(order)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(starting, "open_window", open_late)
            yield
