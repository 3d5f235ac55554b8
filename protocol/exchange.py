"""The exchange: bytes addressed to somebody, put once, read when they are there.

A message is named by (run, topic, fold, round, attempt, sender, recipient). Putting the
same bytes again is fine, other bytes under the same name are a Conflict. Reading waits
at the coordinator (long polling) and wakes at once. The transport is an argument: HTTP
to the coordinator's API, or memory within one process.

`Exchange` is what agents and tasks call; `Transport` is what it needs, and
HttpTransport is one of them, `memory_transport` has another. `api/routes/exchange.py`
is the other side of HTTP.
"""

from __future__ import annotations

import contextlib
import secrets
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import httpx

from protocol.errors import (
    ConsiliumError,
    ProtocolViolation,
    TooManyRequests,
    Unavailable,
)
from protocol.machine import outage as outages
from protocol.machine.outage import outage
from protocol.tls import obstacle

LONGEST_WAIT_SECONDS = 25.0
"""Of one call; shorter than proxies cut a connection on which nothing is heard."""

LONGEST_PAUSE_SECONDS = 5.0
"""Between two attempts while the coordinator is away."""

T = TypeVar("T")
_RANDOM = secrets.SystemRandom()
_FRAME = struct.Struct(">IQ")  # sender, length


@dataclass(frozen=True)
class Address:
    """Names a set of messages: one per sender and recipient."""

    # The order's number.
    run: int
    # An envelope's kind, or what the coordinator gives: document, total, common.
    topic: str
    fold: int = 0
    round: int = 0
    attempt: int = 0

    @property
    def path(self) -> str:
        return (
            f"/exchange/{self.run}/{self.topic}/{self.fold}/{self.round}/{self.attempt}"
        )


def encode_frames(messages: Mapping[int, bytes]) -> bytes:
    """Several senders' messages in one body: (sender u32, length u64, bytes)*."""
    frames = []
    for sender, body in messages.items():
        head = _FRAME.pack(sender, len(body))
        frames.append(head + body)
    return b"".join(frames)


def decode_frames(data: bytes) -> dict[int, bytes]:
    """Inverse of `encode_frames`.

    A cut body raises Unavailable, so that it is asked for again. A sender that stands
    there twice is a ProtocolViolation: nobody may choose which of the two is read.
    """
    messages: dict[int, bytes] = {}
    start = 0
    while start < len(data):
        body_start = start + _FRAME.size
        if len(data) < body_start:
            raise _cut()
        sender, length = _FRAME.unpack_from(data, start)
        end = body_start + length
        if len(data) < end:
            raise _cut()
        if sender in messages:
            raise _other_senders()
        messages[sender] = data[body_start:end]
        start = end
    return messages


def _cut() -> Unavailable:
    return Unavailable(
        "The coordinator's answer was cut short.", remedy="It is asked again."
    )


def _other_senders() -> ProtocolViolation:
    return ProtocolViolation(
        "The coordinator answered with messages of other senders than those that were asked for.",
        remedy="Nothing of it was used; if this repeats, the coordinator leaves hospitals out.",
        code="other_senders",
    )


class Transport(Protocol):
    """How messages travel.

    Every method raises a ConsiliumError; Unavailable and TooManyRequests are retried.
    """

    def put(
        self, address: Address, sender: int, recipient: int, body: bytes
    ) -> None: ...

    def gather(
        self,
        address: Address,
        senders: Iterable[int],
        recipient: int,
        *,
        wait_seconds: float,
    ) -> dict[int, bytes] | None:
        """The messages of all senders.

        None when they are not all there after `wait_seconds`.
        """

    def discard(self, address: Address, recipient: int) -> None:
        """Deletes what was for this recipient.

        The coordinator uses it for what it alone reads.
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
        # Seconds, for the report of where an order's time went.
        self.spent = {"sending": 0.0, "waiting": 0.0}

    def put(self, address: Address, recipient: int, body: bytes) -> None:
        """Idempotent: the same bytes may be put again.

        Conflict if other bytes stand there.
        """
        with self._timed("sending"):
            self.insist(lambda: self.transport.put(address, self.me, recipient, body))

    def gather(
        self, address: Address, senders: Iterable[int], recipient: int | None = None
    ) -> dict[int, bytes]:
        """Waits until every sender's message for `recipient` is there.

        The recipient is oneself by default. Raises OrderStopped, and ProtocolViolation
        when the answer has more or fewer senders: a coordinator that could leave a
        hospital out would choose whose sum is opened.
        """
        wanted = tuple(senders)
        reader = self.me if recipient is None else recipient

        def ask() -> dict[int, bytes] | None:
            return self.transport.gather(
                address, wanted, reader, wait_seconds=LONGEST_WAIT_SECONDS
            )

        with self._timed("waiting"):
            found = None
            while found is None:
                found = self.insist(ask)
        if set(found) != set(wanted):
            raise _other_senders()
        return found

    def get(self, address: Address, sender: int, recipient: int | None = None) -> bytes:
        return self.gather(address, (sender,), recipient)[sender]

    def discard(self, address: Address, recipient: int | None = None) -> None:
        """Drops what was for `recipient` when nobody will read it again.

        The recipient is oneself by default.
        """
        reader = self.me if recipient is None else recipient
        self.insist(lambda: self.transport.discard(address, reader))

    def refuse(self, run: int, error: ConsiliumError) -> None:
        self.insist(lambda: self.transport.refuse(run, error))

    def record(self, run: int, **facts: Any) -> None:
        self.insist(lambda: self.transport.record(run, facts))

    def keep_round(self, run: int, round: int, file: bytes) -> None:
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

    @contextlib.contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.spent[what] += time.perf_counter() - began

    def insist(self, call: Callable[[], T]) -> T:
        """Calls until it is answered. Only what may pass by itself is tried again."""
        pause = 0.1
        while True:
            asked = time.monotonic()
            try:
                answer = call()
            except (Unavailable, TooManyRequests) as trouble:
                outage.missed(outages.COORDINATOR, trouble, asked=asked)
                # Not all agents at one moment, when a coordinator is back that all of
                # them miss.
                share = _RANDOM.uniform(0.7, 1.0)
                self._sleep(pause * share)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
            else:
                outage.answered(outages.COORDINATOR)
                return answer


class HttpTransport:
    """The exchange over the coordinator's REST API, with a bearer token.

    `client` is an httpx.Client with base_url and whatever proxy, private CA or
    certificate the site needs. `takes_place` is false for a process that works on an
    order before the order has places: all others hear OrderWaits when it has none.
    """

    def __init__(
        self, client: httpx.Client, token: str, *, takes_place: bool = True
    ) -> None:
        self._client = client
        self._takes_place = takes_place
        self._headers = {"Authorization": f"Bearer {token}"}

    def put(self, address: Address, sender: int, recipient: int, body: bytes) -> None:
        path = f"{address.path}/{sender}/{recipient}"
        self.request("PUT", path, params=self._place(), content=body)

    def gather(
        self,
        address: Address,
        senders: Iterable[int],
        recipient: int,
        *,
        wait_seconds: float,
    ) -> dict[int, bytes] | None:
        wanted = ",".join(str(sender) for sender in senders)
        query = {
            "senders": wanted,
            "recipient": recipient,
            "wait": wait_seconds,
            **self._place(),
        }
        # The coordinator answers when its wait is over; only a broken connection takes
        # longer.
        timeout = wait_seconds + 15
        answer = self.request("GET", address.path, params=query, timeout=timeout)
        if answer.status_code == 204:
            return None
        return decode_frames(answer.content)

    def _place(self) -> dict[str, bool]:
        if self._takes_place:
            return {}
        return {"takes_place": False}

    def discard(self, address: Address, recipient: int) -> None:
        self.request("DELETE", address.path, params={"recipient": recipient})

    def refuse(self, run: int, error: ConsiliumError) -> None:
        self.request("POST", f"/orders/{run}/refuse", json=error.to_json())

    def record(self, run: int, facts: dict[str, Any]) -> None:
        self.request("POST", f"/orders/{run}/progress", json=facts)

    def keep_round(self, run: int, round: int, file: bytes) -> None:
        path = f"/orders/{run}/rounds/{round}"
        headers = {"Content-Type": "application/octet-stream"}
        self.request("PUT", path, content=file, headers=headers)

    def recorded(self, run: int) -> list[dict[str, Any]]:
        answer = self.request("GET", f"/orders/{run}/progress")
        rounds: list[dict[str, Any]] = _data_of(answer)
        return rounds

    def inference_request(self, run: int) -> tuple[str, bytes]:
        answer = self.request("GET", f"/orders/{run}/request")
        data = _data_of(answer)
        return str(data["document"]), bytes.fromhex(data["box"])

    def ask_first(self, run: int) -> None:
        if self._takes_place:
            self.request("POST", f"/orders/{run}/ask")

    def decided(self, run: int) -> None:
        self.request("POST", f"/orders/{run}/decided")

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One call; an error answer becomes the ConsiliumError that was raised."""
        headers = {**self._headers, **options.pop("headers", {})}
        try:
            answer = self._client.request(method, path, headers=headers, **options)
        except httpx.HTTPError as error:
            raise self._not_reached(error) from None
        # A redirection, such as a proxy's page to sign in at, delivered nothing.
        if answer.is_success:
            return answer
        raise error_of(answer)

    def _not_reached(self, error: httpx.HTTPError) -> Unavailable:
        between = obstacle(error)
        if between is not None:
            return Unavailable(between.sentence, remedy=between.remedy)
        return Unavailable(
            f"The coordinator at {self._client.base_url} does not answer ({type(error).__name__}).",
            remedy="Check the address, the network and the coordinator's /health.",
        )


def _data_of(answer: httpx.Response) -> Any:
    """`data` of an answer's envelope.

    A page of something that stands between is Unavailable.
    """
    try:
        return answer.json()["data"]
    except (ValueError, KeyError, TypeError):
        raise Unavailable(
            "The coordinator's answer is not in its own form.",
            remedy="Check what stands between (proxy, TLS); it is asked again.",
        ) from None


def error_of(answer: httpx.Response) -> ConsiliumError:
    """The ConsiliumError in an error answer's envelope.

    Anything else, such as a proxy's page, is Unavailable.
    """
    try:
        error = answer.json()["data"]["error"]
        if 400 <= answer.status_code < 500 and isinstance(error, dict):
            return ConsiliumError.from_json(error)
    except (ValueError, KeyError, TypeError):
        pass
    return Unavailable(
        f"The coordinator answered with HTTP status {answer.status_code}.",
        remedy="Check the coordinator's log and what stands between (proxy, TLS).",
    )
