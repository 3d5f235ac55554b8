"""Every message that hospitals send in an order of one process is one that the
coordinator would take.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import pytest

from protocol.errors import ConsiliumError
from protocol.exchange import Address, Used
from protocol.memory_transport import MemoryTransport
from protocol.message_plan import MessagePlan, Room, plan_of
from protocol.messages import COORDINATOR

MOST_BYTES = 2**28


class Held:
    """What lies in one exchange; several threads put."""

    def __init__(self) -> None:
        self._plans: dict[int, MessagePlan | None] = {}
        self._sizes: dict[tuple[Address, int, int], int] = {}
        # By run and sender.
        self._totals: Counter[tuple[int, int]] = Counter()
        self._lock = threading.Lock()

    def put(self, address: Address, sender: int, recipient: int, body: bytes) -> None:
        with self._lock:
            key = (address, sender, recipient)
            if key in self._sizes:
                return
            if address.topic == "document":
                self._plans[address.run] = planned(address.run, body.decode())
            self._sizes[key] = len(body)
            self._totals[address.run, sender] += len(body)
            if sender != COORDINATOR:
                self._check(address, sender, recipient, len(body))

    def _check(
        self, address: Address, sender: int, recipient: int, n_bytes: int
    ) -> None:
        plan = self._plans.get(address.run)
        if plan is None:  # a test that puts single messages
            return
        try:
            room = plan.room_for(address, sender, recipient)
        except ConsiliumError as error:
            raise AssertionError(f"{error}: {address}, {sender}") from None
        assert n_bytes <= room.most_bytes, (address, n_bytes, room)
        dealt = self._totals[address.run, COORDINATOR]
        allowed = plan.held_bytes + plan.held_by_dealt * dealt
        held = self._totals[address.run, sender]
        assert held <= allowed, (address, held, allowed)
        self.note(plan, room, address, n_bytes, held / allowed)

    def note(
        self,
        plan: MessagePlan,
        room: Room,
        address: Address,
        n_bytes: int,
        share: float,
    ) -> None:
        """Nothing; for who wants to see how near the bounds are."""

    def discard(self, run: int, used: Sequence[Used]) -> None:
        with self._lock:
            for key in list(self._sizes):
                address, sender, recipient = key
                if Used(address, recipient) in used:
                    self._totals[run, sender] -= self._sizes.pop(key)


def planned(run: int, document: str) -> MessagePlan | None:
    for kind in ("train", "statistics"):
        with contextlib.suppress(ConsiliumError):
            return plan_of(kind, run, document, most_bytes=MOST_BYTES)
    return None


@contextlib.contextmanager
def held_against_the_plan() -> Iterator[None]:
    """Patches the exchange of one process."""
    # By the exchange itself: one that is gone leaves its place in memory, and so its id,
    # to the next one, whose order has another plan.
    exchanges: WeakKeyDictionary[MemoryTransport, Held] = WeakKeyDictionary()
    put, discard = MemoryTransport.put, MemoryTransport.discard

    def put_planned(self: MemoryTransport, *args: Any, **more: Any) -> None:
        exchanges.setdefault(self, Held()).put(*args, **more)
        put(self, *args, **more)

    def discard_planned(self: MemoryTransport, *args: Any, **more: Any) -> None:
        exchanges.setdefault(self, Held()).discard(*args, **more)
        discard(self, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryTransport, "put", put_planned)
        patch.setattr(MemoryTransport, "discard", discard_planned)
        yield
