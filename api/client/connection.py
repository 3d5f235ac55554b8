"""HTTP to the coordinator: answers as plain values, everything else as one of protocol.errors."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from protocol.errors import (
    BadRequest,
    Conflict,
    ConsiliumError,
    Forbidden,
    NotFound,
    OrderStopped,
    TooLarge,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
)

Json = dict[str, Any]

CONNECT_SECONDS = 10.0
PAUSES = (0.5, 1.0)
BY_STATUS: dict[int, type[ConsiliumError]] = {
    kind.status: kind
    for kind in (
        BadRequest,
        Unauthenticated,
        Forbidden,
        NotFound,
        Conflict,
        OrderStopped,
        TooLarge,
        TooManyRequests,
        Unavailable,
    )
}


@dataclass(frozen=True)
class Answer:
    """What the coordinator said: its JSON, the HTTP status, and the order it is about, where a header names one."""

    body: Any
    status: int
    order_id: int | None

    @property
    def data(self) -> Any:
        return self.body["data"]


class Connection:
    """Calls of one token. A call that found no connection is made again, up to three times; each call that makes
    something carries a key of its own, so that it makes one thing only."""

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        timeout_seconds: float,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._url = url
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS),
            transport=transport,
        )

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, **query: Any) -> Answer:
        """Query arguments that are None are left out."""
        return self._call(
            "GET", path, params={name: value for name, value in query.items() if value is not None}
        )

    def make(self, path: str, body: Json | None = None) -> Answer:
        """POST of what makes an order or a schedule."""
        return self._call("POST", path, json=body, headers={"Idempotency-Key": secrets.token_hex(16)})

    def change(self, method: str, path: str, body: Json | None = None) -> Answer:
        """POST, PATCH, PUT or DELETE that comes to the same if it is made twice."""
        return self._call(method, path, json=body)

    def pages(self, path: str, key: str, *, limit: int, **query: Any) -> list[Json]:
        """Up to `limit` entries of a list that comes in pages."""
        rows: list[Json] = []
        before: int | None = None
        while len(rows) < limit:
            page = self.get(path, limit=min(limit - len(rows), 100), before=before, **query).data
            rows += page[key]
            before = page["next"]
            if before is None:
                break
        return rows

    def lines(self, path: str, *, silence_seconds: float) -> Iterator[str]:
        """The lines of an answer as they come. Raises Unavailable when none comes for so many seconds."""
        timeout = httpx.Timeout(silence_seconds, connect=min(silence_seconds, CONNECT_SECONDS))
        try:
            with self._http.stream("GET", path, timeout=timeout) as response:
                if response.is_error:
                    response.read()
                    raise error_of(response)
                yield from response.iter_lines()
        except httpx.TransportError as error:
            raise self._away(error) from None

    def _call(self, method: str, path: str, **options: Any) -> Answer:
        response = self._send(method, path, **options)
        if response.is_error:
            raise error_of(response)
        try:
            return Answer(response.json(), response.status_code, _order_id(response))
        except ValueError:
            raise _stranger(response) from None

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        for pause in (*PAUSES, None):
            try:
                return self._http.request(method, path, **options)
            except httpx.TransportError as error:
                if pause is None or isinstance(error, httpx.ReadTimeout):
                    raise self._away(error) from None
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _away(self, error: httpx.TransportError) -> Unavailable:
        reason = str(error).rstrip(".") or type(error).__name__
        return Unavailable(
            f"{self._url} does not answer: {reason}.",
            remedy="Check the address, and whether the coordinator runs.",
        )


def error_of(response: httpx.Response) -> ConsiliumError:
    """The error that an answer carries, in either form of the API; Unavailable for words of somebody else's.

    >>> error = {"type": "NotFound", "code": "not_found", "sentence": "There is no order 9.", "remedy": "See /orders."}
    >>> error_of(httpx.Response(404, json={"code": 404, "data": {"error": error}, "message": "..."}))
    NotFound('There is no order 9. See /orders.')
    >>> error_of(httpx.Response(403, json={"status": 403, "result": None, "msg": "No such rule. Ask the hospital."}))
    Forbidden('No such rule. Ask the hospital.')
    >>> bad_gateway = httpx.Response(502, request=httpx.Request("GET", "https://consilium.example/orders"))
    >>> print(error_of(bad_gateway).sentence)
    https://consilium.example/orders answered 502, and not in Consilium's words.
    """
    try:
        body = response.json()
        told = body["msg"] if "msg" in body else body["data"]["error"]
    except (ValueError, KeyError, TypeError):
        return _stranger(response)
    if not isinstance(told, dict):
        sentence, _, remedy = str(told).partition(". ")
        told = {"sentence": f"{sentence.rstrip('.')}.", "remedy": remedy}
        told["type"] = BY_STATUS.get(response.status_code, ConsiliumError).__name__
    error = ConsiliumError.from_json(told)
    order_id = _order_id(response) or (body.get("data") or {}).get("order_id")
    if order_id is not None:
        error.detail["order_id"] = order_id
    return error


def _order_id(response: httpx.Response) -> int | None:
    text = response.headers.get("X-Order-Id", "")
    return int(text) if text.isdecimal() else None


def _stranger(response: httpx.Response) -> Unavailable:
    return Unavailable(
        f"{response.url} answered {response.status_code}, and not in Consilium's words.",
        remedy="Check the address, and what stands between it and this machine.",
    )
