"""The exchange within one process, for simulations and tests.

The rules are those of `exchange`, and of `api/routes/exchange.py` behind HTTP.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any

from protocol.errors import Conflict, ConsiliumError, OrderStopped
from protocol.exchange import Address, Sent, Used, is_worth_reading, read_at_once


class MemoryTransport:
    """Messages in a dict, with the same rules as over HTTP."""

    def __init__(self) -> None:
        # By address, sender and recipient.
        self._messages: dict[tuple[Address, int, int], bytes] = {}
        # Held to read or change the rest, and notified when it changes.
        self._changed = threading.Condition()
        self._stopped: dict[int, OrderStopped] = {}
        # By run, what was recorded.
        self.facts: dict[int, list[dict[str, Any]]] = {}
        # By run and round, the files that were kept.
        self.rounds: dict[int, dict[int, bytes]] = {}
        # All that was put, for tests to search.
        self.traffic: list[bytes] = []

    def stop(self, run: int, reason: OrderStopped) -> None:
        with self._changed:
            self._stopped.setdefault(run, reason)
            self._changed.notify_all()

    def put(
        self,
        address: Address,
        sender: int,
        recipient: int,
        body: bytes,
    ) -> None:
        with self._changed:
            self._check_open(address.run)
            self._check_new(address, sender, recipient, body)
            self._messages[address, sender, recipient] = body
            self.traffic.append(body)
            self._changed.notify_all()

    def put_together(self, run: int, sender: int, messages: Sequence[Sent]) -> None:
        with self._changed:
            # All before the first: none is kept beside one that cannot be.
            for message in messages:
                self._check_new(
                    message.address, sender, message.recipient, message.body
                )
            for message in messages:
                self.put(message.address, sender, message.recipient, message.body)

    def _check_new(
        self, address: Address, sender: int, recipient: int, body: bytes
    ) -> None:
        standing = self._messages.get((address, sender, recipient), body)
        if standing != body:
            raise Conflict(
                f"Another message {address.topic} of round {address.round} stands there already.",
                remedy="A message is put once.",
                code="put_twice",
            )

    def gather(
        self,
        address: Address,
        senders: Iterable[int],
        recipient: int,
        *,
        wait_seconds: float,
        along: str | None = None,
    ) -> dict[int, bytes] | None:
        # Nothing is read along: within a process a second call costs nothing.
        sender_ids = list(senders)
        messages = self.gather_present(
            address,
            sender_ids,
            recipient,
            wait_seconds=wait_seconds,
        )
        if len(messages) < len(sender_ids):
            return None
        return messages

    def gather_some(
        self,
        address: Address,
        senders: Iterable[int],
        recipient: int,
        *,
        wait_seconds: float,
    ) -> dict[int, bytes] | None:
        sender_ids = list(senders)

        def sizes() -> dict[int, int]:
            messages = self._there(address, sender_ids, recipient)
            lengths = {}
            for sender, body in messages.items():
                lengths[sender] = len(body)
            return lengths

        def is_enough() -> bool:
            return is_worth_reading(sizes(), len(sender_ids))

        with self._changed:
            is_there = self._changed.wait_for(is_enough, timeout=wait_seconds)
            if not is_there:
                return None
            senders_now = read_at_once(sizes())
            return self._there(address, senders_now, recipient)

    def gather_present(
        self,
        address: Address,
        senders: Iterable[int],
        recipient: int,
        *,
        wait_seconds: float,
    ) -> dict[int, bytes]:
        sender_ids = list(senders)

        def are_there() -> bool:
            messages = self._there(address, sender_ids, recipient)
            return len(messages) == len(sender_ids)

        with self._changed:
            self._changed.wait_for(are_there, timeout=wait_seconds)
            return self._there(address, sender_ids, recipient)

    def _there(
        self,
        address: Address,
        senders: Iterable[int],
        recipient: int,
    ) -> dict[int, bytes]:
        """Those of the senders' messages that are there; raises where the order has ended."""
        self._check_open(address.run)
        messages = {}
        for sender in senders:
            message_key = (address, sender, recipient)
            if message_key in self._messages:
                messages[sender] = self._messages[message_key]
        return messages

    def discard(self, run: int, used: Sequence[Used]) -> None:
        with self._changed:
            for message_key in list(self._messages):
                address, _, recipient = message_key
                if Used(address, recipient) in used:
                    del self._messages[message_key]

    def refuse(self, run: int, error: ConsiliumError) -> None:
        reason = OrderStopped(
            error.sentence,
            remedy=error.remedy,
            code="failed",
            cause=error.to_json(),
        )
        self.stop(run, reason)

    def record(self, run: int, facts: dict[str, Any]) -> None:
        with self._changed:
            recorded = self.facts.setdefault(run, [])
            recorded.append(facts)

    def keep_round(
        self,
        run: int,
        round: int,
        file: bytes,
    ) -> None:
        with self._changed:
            files = self.rounds.setdefault(run, {})
            files.setdefault(round, file)  # idempotent: the first stays

    def recorded(self, run: int) -> list[dict[str, Any]]:
        recorded = self.facts.get(run, [])
        rounds = []
        for facts in recorded:
            if "round" in facts:
                rounds.append(facts["round"])
        return rounds

    def inference_request(self, run: int) -> tuple[str, bytes]:
        raise Conflict(
            "This exchange carries training orders only.",
            remedy="Use a coordinator.",
        )

    def ask_first(self, run: int) -> None:
        """Within one process nobody holds places."""

    def decided(self, run: int) -> None:
        """Nobody waits for it: within one process the order goes on by itself."""

    def _check_open(self, run: int) -> None:
        if run in self._stopped:
            raise self._stopped[run]
