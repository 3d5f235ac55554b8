"""What the exchange needs of whatever carries its messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from protocol.errors import ConsiliumError
from protocol.exchange.frames import Address, Sent, Used


class Transport(Protocol):
    """How messages travel.

    Every method raises a ConsiliumError; Unavailable and TooManyRequests are retried.
    """

    def put(
        self, address: Address, sender: int, recipient: int, body: bytes
    ) -> None: ...

    def put_together(self, run: int, sender: int, messages: Sequence[Sent]) -> None:
        """Several small messages of an order, TOGETHER_BYTES at the most: all or none."""

    def gather(
        self,
        address: Address,
        senders: Iterable[int],
        recipient: int,
        *,
        wait_seconds: float,
        along: str | None = None,
    ) -> dict[int, bytes] | None:
        """The messages of all senders.

        None when they are not all there after `wait_seconds`. With `along` also what
        the coordinator has put under that topic for everyone, as COORDINATOR's, where
        it is there then and small; who asks so waits for no message of COORDINATOR's.
        """

    def gather_some(
        self,
        address: Address,
        senders: Iterable[int],
        recipient: int,
        *,
        wait_seconds: float,
    ) -> dict[int, bytes] | None:
        """Some of the senders' messages, AT_ONCE_BYTES together or a single larger one.

        It waits for all, or until there is a large one (LARGE_BYTES): small ones are
        not worth a call each. None when `wait_seconds` are over before.
        """

    def gather_present(
        self,
        address: Address,
        senders: Iterable[int],
        recipient: int,
        *,
        wait_seconds: float,
    ) -> dict[int, bytes]:
        """The messages of all senders, or those that are there after `wait_seconds`."""

    def discard(self, run: int, used: Sequence[Used]) -> None:
        """Deletes these of an order's messages, all or none. Idempotent.

        For the coordinator's flow alone.
        """

    def refuse(self, run: int, error: ConsiliumError) -> None:
        """Ends the order with this hospital's reason.

        Everybody who waits gets OrderStopped.
        """

    def record(self, run: int, facts: dict[str, Any]) -> None:
        """The coordinator's flow reports to the store how far an order is.

        Idempotent.
        """

    def recorded(self, run: int) -> list[dict[str, Any]]:
        """The rounds recorded so far: fold, round, final."""

    def keep_round(self, run: int, round: int, file: bytes) -> None:
        """The coordinator's flow has a round's file kept. Idempotent.

        It is safetensors: the round's geometry, or its gradients in clear.
        """

    def inference_request(self, run: int) -> tuple[str, bytes]:
        """An inference order's document, and its SQL sealed to the hospital that asks."""

    def ask_first(self, run: int) -> None:
        """A person at this hospital has to decide before the order takes places.

        OrderWaits where the caller's process works on an order that has places: it
        gives them back and ends. Nothing happens where none are held.
        """

    def decided(self, run: int) -> None:
        """This hospital's agent has verified the order. Idempotent.

        Whoever has to decide there has approved it.
        """
