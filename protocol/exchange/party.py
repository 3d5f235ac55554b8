"""One party's end of the exchange: it asks until it is answered.

Decisions 144 and 153.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from protocol.errors import ConsiliumError, TooManyRequests, Unavailable
from protocol.exchange.frames import (
    MOST_TOGETHER,
    TOGETHER_BYTES,
    Address,
    Sent,
    Used,
    other_senders,
)
from protocol.exchange.transport import Transport
from protocol.machine import outage as outages
from protocol.machine.outage import outage
from protocol.messages import COORDINATOR, EVERYONE

LONGEST_WAIT_SECONDS = 25.0
"""Of one call; shorter than proxies cut a connection on which nothing is heard."""

LONGEST_PAUSE_SECONDS = 5.0
"""Between two attempts while the coordinator is away."""

T = TypeVar("T")
# Of pauses between attempts.
_RANDOM = secrets.SystemRandom()


class Exchange:
    """One party's end of the exchange.

    Waits with backoff, for ever, while the coordinator is away.
    """

    def __init__(
        self,
        transport: Transport,
        me: int,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.transport = transport
        self.me = me
        self._sleep = sleep
        # What goes with the next message.
        self._held: list[Sent] = []
        # What came along with other messages, until it is asked for.
        self._came_along: dict[Address, bytes] = {}
        # Seconds, for the report of where an order's time went.
        self.spent = {
            "sending": 0.0,
            "waiting": 0.0,
        }

    def put(
        self,
        address: Address,
        recipient: int,
        body: bytes,
    ) -> None:
        """Idempotent: the same bytes may be put again.

        Conflict if other bytes stand there. What is held goes with it, or before it.
        """
        self.hold(address, recipient, body)
        self._send_held()

    def hold(
        self,
        address: Address,
        recipient: int,
        body: bytes,
    ) -> None:
        """As `put`, with the next message in one call: for what nobody waits for before
        that. A process that dies before has not sent it, and makes its step again.
        """
        self._held.append(Sent(address, recipient, body))

    def _send_held(self) -> None:
        """All that is held; together where that is small, for each call costs the
        coordinator a commit (decision 153).
        """
        held = self._held
        if not held:
            return
        self._held = []
        run = held[0].address.run
        n_bytes = sum(len(message.body) for message in held)
        is_few = 1 < len(held) <= MOST_TOGETHER
        with self._timed("sending"):
            if is_few and n_bytes <= TOGETHER_BYTES:
                self.insist(lambda: self.transport.put_together(run, self.me, held))
                return
            for message in held:
                self.insist(
                    functools.partial(
                        self.transport.put,
                        message.address,
                        self.me,
                        message.recipient,
                        message.body,
                    )
                )

    def gather(
        self,
        address: Address,
        senders: Iterable[int],
        recipient: int | None = None,
        *,
        along: str | None = None,
    ) -> dict[int, bytes]:
        """Waits until every sender's message for `recipient` is there.

        The recipient is oneself by default. `along` is a topic of the coordinator's to
        everyone that is asked for next: its message is brought along where it is there.
        Raises OrderStopped, and ProtocolViolation when the answer has more or fewer
        senders: a coordinator that could leave a hospital out would choose whose sum is
        opened.
        """
        sender_ids = tuple(senders)
        reader = self._reader(recipient)
        if (sender_ids, reader) == ((COORDINATOR,), EVERYONE):
            message = self._came_along.pop(address, None)
            if message is not None:
                return {COORDINATOR: message}
        # Nobody can answer what has not been sent.
        self._send_held()

        def ask() -> dict[int, bytes] | None:
            return self.transport.gather(
                address,
                sender_ids,
                reader,
                wait_seconds=LONGEST_WAIT_SECONDS,
                along=along,
            )

        with self._timed("waiting"):
            messages = None
            while messages is None:
                messages = self.insist(ask)
        if along is not None and COORDINATOR in messages:
            self._came_along[replace(address, topic=along)] = messages.pop(COORDINATOR)
        if set(messages) != set(sender_ids):
            raise other_senders()
        return messages

    def gather_within(
        self,
        address: Address,
        senders: Iterable[int],
        recipient: int,
        *,
        seconds_left: Callable[[], float],
    ) -> dict[int, bytes]:
        """Every sender's message for `recipient`, or those that are there when no
        seconds are left. Raises as `gather`.
        """
        sender_ids = tuple(senders)
        messages: dict[int, bytes] = {}
        is_over = False
        self._send_held()
        with self._timed("waiting"):
            n_senders = len(sender_ids)
            while len(messages) < n_senders and not is_over:
                time_left = seconds_left()
                # The last question is asked when the time is over, however long the
                # coordinator was away before.
                is_over = time_left <= 0
                wait = min(max(time_left, 0.0), LONGEST_WAIT_SECONDS)
                ask = functools.partial(
                    self.transport.gather_present,
                    address,
                    sender_ids,
                    recipient,
                    wait_seconds=wait,
                )
                messages = self.insist(ask)
        if not set(messages) <= set(sender_ids):
            raise other_senders()
        return messages

    def each(
        self,
        address: Address,
        senders: Iterable[int],
        recipient: int | None = None,
    ) -> Iterator[tuple[int, bytes]]:
        """(sender, message) of every sender, each once, as they come.

        Of large ones no more than one is in memory, if the caller lets go of it before
        it takes the next. The recipient is oneself by default. Raises as `gather`.
        """
        remaining = set(senders)
        reader = self._reader(recipient)

        def ask() -> dict[int, bytes] | None:
            return self.transport.gather_some(
                address,
                sorted(remaining),
                reader,
                wait_seconds=LONGEST_WAIT_SECONDS,
            )

        self._send_held()
        while remaining:
            with self._timed("waiting"):
                messages = self.insist(ask)
            if messages is None:
                continue
            if not messages or not set(messages) <= remaining:
                raise other_senders()
            remaining -= set(messages)
            while messages:
                yield messages.popitem()

    def get(
        self,
        address: Address,
        sender: int,
        recipient: int | None = None,
    ) -> bytes:
        messages = self.gather(address, (sender,), recipient)
        return messages[sender]

    def discard(self, run: int, *used: Used) -> None:
        """Drops an order's messages that nobody will read again, in one call."""
        self.insist(lambda: self.transport.discard(run, used))

    def refuse(self, run: int, error: ConsiliumError) -> None:
        self.insist(lambda: self.transport.refuse(run, error))

    def record(self, run: int, **facts: Any) -> None:
        self.insist(lambda: self.transport.record(run, facts))

    def keep_round(
        self,
        run: int,
        round: int,
        file: bytes,
    ) -> None:
        self.insist(lambda: self.transport.keep_round(run, round, file))

    def recorded(self, run: int) -> list[dict[str, Any]]:
        return self.insist(lambda: self.transport.recorded(run))

    def inference_request(self, run: int) -> tuple[str, bytes]:
        """An inference order's document, and its SQL sealed to this hospital."""
        return self.insist(lambda: self.transport.inference_request(run))

    def ask_first(self, run: int) -> None:
        """Gives the order's places back, where this process holds some.

        For a person has to decide first.
        """
        self.insist(lambda: self.transport.ask_first(run))

    def decided(self, run: int) -> None:
        """Reports to the coordinator that nobody here has to decide any longer."""
        self.insist(lambda: self.transport.decided(run))

    def _reader(self, recipient: int | None) -> int:
        """Oneself by default."""
        if recipient is None:
            return self.me
        return recipient

    @contextlib.contextmanager
    def _timed(self, activity: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            ended = time.perf_counter()
            self.spent[activity] += ended - began

    def insist(self, call: Callable[[], T]) -> T:
        """Calls until it is answered. Only what may pass by itself is tried again."""
        pause = 0.1
        while True:
            asked_at = time.monotonic()
            try:
                answer = call()
            except (Unavailable, TooManyRequests) as trouble:
                outage.missed(outages.COORDINATOR, trouble, asked=asked_at)
                # Not all agents at one moment, when a coordinator is back that all of
                # them miss.
                share = _RANDOM.uniform(0.7, 1.0)
                self._sleep(pause * share)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
            else:
                outage.answered(outages.COORDINATOR)
                return answer
