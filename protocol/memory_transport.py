"""The exchange within one process, for simulations and tests.

The rules are those of `exchange`, and of `api/routes/exchange.py` behind HTTP.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from protocol.errors import Conflict, ConsiliumError, OrderStopped
from protocol.exchange import Address


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

    def put(self, address: Address, sender: int, recipient: int, body: bytes) -> None:
        with self._changed:
            self._check_open(address.run)
            standing = self._messages.setdefault((address, sender, recipient), body)
            if standing != body:
                raise Conflict(
                    f"Another message {address.topic} of round {address.round} stands there already.",
                    remedy="A message is put once.",
                    code="put_twice",
                )
            self.traffic.append(body)
            self._changed.notify_all()

    def gather(
        self,
        address: Address,
        senders: Iterable[int],
        recipient: int,
        *,
        wait_seconds: float,
    ) -> dict[int, bytes] | None:
        keys = {sender: (address, sender, recipient) for sender in senders}

        def are_there() -> bool:
            self._check_open(address.run)
            return all(key in self._messages for key in keys.values())

        with self._changed:
            if not self._changed.wait_for(are_there, timeout=wait_seconds):
                return None
            return {sender: self._messages[key] for sender, key in keys.items()}

    def discard(self, address: Address, recipient: int) -> None:
        with self._changed:
            for key in list(self._messages):
                of_address, _, of_recipient = key
                if of_address == address and of_recipient == recipient:
                    del self._messages[key]

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
            self.facts.setdefault(run, []).append(facts)

    def keep_round(self, run: int, round: int, file: bytes) -> None:
        with self._changed:
            files = self.rounds.setdefault(run, {})
            files.setdefault(round, file)  # idempotent: the first stays

    def recorded(self, run: int) -> list[dict[str, Any]]:
        recorded = self.facts.get(run, [])
        return [facts["round"] for facts in recorded if "round" in facts]

    def inference_request(self, run: int) -> tuple[str, bytes]:
        raise Conflict(
            "This exchange carries training orders only.", remedy="Use a coordinator."
        )

    def ask_first(self, run: int) -> None:
        """Within one process nobody holds places."""

    def decided(self, run: int) -> None:
        """Nobody waits for it: within one process the order goes on by itself."""

    def _check_open(self, run: int) -> None:
        if run in self._stopped:
            raise self._stopped[run]
