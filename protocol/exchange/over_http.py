"""The exchange over the coordinator's REST API, and the errors of its answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import httpx

from protocol.errors import ConsiliumError, Unavailable
from protocol.exchange.frames import (
    Address,
    Sent,
    Used,
    decode_frames,
    encode_sent,
    named,
)
from protocol.tls import obstacle


class HttpTransport:
    """The exchange over the coordinator's REST API, with a bearer token.

    `client` is an httpx.Client with base_url and whatever proxy, private CA or
    certificate the site needs. `takes_place` is false for a process that works on an
    order before the order has places: all others hear OrderWaits when it has none.
    """

    def __init__(
        self,
        client: httpx.Client,
        token: str,
        *,
        takes_place: bool = True,
    ) -> None:
        self._client = client
        self._takes_place = takes_place
        self._headers = {"Authorization": f"Bearer {token}"}

    def put(
        self,
        address: Address,
        sender: int,
        recipient: int,
        body: bytes,
    ) -> None:
        message_path = f"{address.path}/{sender}/{recipient}"
        self.request(
            "PUT",
            message_path,
            params=self._place(),
            content=body,
        )

    def put_together(self, run: int, sender: int, messages: Sequence[Sent]) -> None:
        self.request(
            "POST",
            f"/exchange/{run}/messages/{sender}",
            params=self._place(),
            content=encode_sent(messages),
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
        which: dict[str, Any] = {} if along is None else {"along": along}
        return self._read(
            address,
            senders,
            recipient,
            wait_seconds,
            which=which,
        )

    def gather_some(
        self,
        address: Address,
        senders: Iterable[int],
        recipient: int,
        *,
        wait_seconds: float,
    ) -> dict[int, bytes] | None:
        some = {"some": True}
        return self._read(
            address,
            senders,
            recipient,
            wait_seconds,
            which=some,
        )

    def gather_present(
        self,
        address: Address,
        senders: Iterable[int],
        recipient: int,
        *,
        wait_seconds: float,
    ) -> dict[int, bytes]:
        present = {"present": True}
        messages = self._read(
            address,
            senders,
            recipient,
            wait_seconds,
            which=present,
        )
        return messages or {}

    def _read(
        self,
        address: Address,
        senders: Iterable[int],
        recipient: int,
        wait_seconds: float,
        *,
        which: dict[str, Any],
    ) -> dict[int, bytes] | None:
        sender_ids = ",".join(str(sender) for sender in senders)
        query = {
            "senders": sender_ids,
            "recipient": recipient,
            "wait": wait_seconds,
            **which,
            **self._place(),
        }
        # The coordinator answers when its wait is over; only a broken connection takes
        # longer.
        timeout = wait_seconds + 15
        answer = self.request(
            "GET",
            address.path,
            params=query,
            timeout=timeout,
        )
        if answer.status_code == 204:
            return None
        return decode_frames(answer.content)

    def _place(self) -> dict[str, bool]:
        if self._takes_place:
            return {}
        return {"takes_place": False}

    def discard(self, run: int, used: Sequence[Used]) -> None:
        written = [named(messages) for messages in used]
        self.request("POST", f"/exchange/{run}/discard", json={"used": written})

    def refuse(self, run: int, error: ConsiliumError) -> None:
        reason = error.to_json()
        self.request("POST", f"/orders/{run}/refuse", json=reason)

    def record(self, run: int, facts: dict[str, Any]) -> None:
        self.request("POST", f"/orders/{run}/progress", json=facts)

    def keep_round(
        self,
        run: int,
        round: int,
        file: bytes,
    ) -> None:
        round_path = f"/orders/{run}/rounds/{round}"
        headers = {"Content-Type": "application/octet-stream"}
        self.request(
            "PUT",
            round_path,
            content=file,
            headers=headers,
        )

    def recorded(self, run: int) -> list[dict[str, Any]]:
        answer = self.request("GET", f"/orders/{run}/progress")
        rounds: list[dict[str, Any]] = _data_of(answer)
        return rounds

    def inference_request(self, run: int) -> tuple[str, bytes]:
        answer = self.request("GET", f"/orders/{run}/request")
        data = _data_of(answer)
        document = str(data["document"])
        box = bytes.fromhex(data["box"])
        return document, box

    def ask_first(self, run: int) -> None:
        if self._takes_place:
            self.request("POST", f"/orders/{run}/ask")

    def decided(self, run: int) -> None:
        self.request("POST", f"/orders/{run}/decided")

    def request(
        self,
        method: str,
        path: str,
        **options: Any,
    ) -> httpx.Response:
        """One call; an error answer becomes the ConsiliumError that was raised."""
        headers = {
            **self._headers,
            **options.pop("headers", {}),
        }
        try:
            answer = self._client.request(
                method,
                path,
                headers=headers,
                **options,
            )
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
        is_of_caller = 400 <= answer.status_code < 500
        if is_of_caller and isinstance(error, dict):
            return ConsiliumError.from_json(error)
    except (ValueError, KeyError, TypeError):
        pass
    return Unavailable(
        f"The coordinator answered with HTTP status {answer.status_code}.",
        remedy="Check the coordinator's log and what stands between (proxy, TLS).",
    )
