"""HTTP to the coordinator: answers as plain values, everything else as one of
protocol.errors.

`Connection` sends, `error_of` reads errors. What is built on it: `federation` (start
there), `orders`, `schedules`.
"""

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
from protocol.tls import VARIABLES, obstacle

Json = dict[str, Any]

CONNECT_SECONDS = 10.0
# Seconds between the tries of one call; there is one try more than there are pauses.
PAUSES = (0.5, 1.0)
LARGEST_PAGE = 100  # entries that the API gives at once

KINDS: tuple[type[ConsiliumError], ...] = (
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
# The short form of an error (status, result, msg) has no type; the HTTP status stands
# for it.
BY_STATUS = {kind.status: kind for kind in KINDS}


@dataclass(frozen=True)
class ApiAnswer:
    """An answer of the coordinator."""

    body: Any  # the JSON that was sent
    status: int  # of HTTP
    order_id: int | None  # the order it is about, where a header names one

    @property
    def data(self) -> Any:
        return self.body["data"]


class Connection:
    """Calls of one token. A call that found no connection is made again, up to three
    times; each call that makes something carries a key of its own, so that it makes one
    thing only.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        timeout_seconds: float,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._url = url
        self._http = httpx.Client(
            base_url=url,
            headers=headers,
            timeout=httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS),
            transport=transport,
        )

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, **query: Any) -> ApiAnswer:
        """Query arguments that are None are left out."""
        arguments = {name: value for name, value in query.items() if value is not None}
        return self._call("GET", path, params=arguments)

    def make(self, path: str, body: Json | None = None) -> ApiAnswer:
        """POST of what makes an order or a schedule."""
        # All tries of this call have one key: if an answer got lost, the next try is
        # not a second order.
        headers = {"Idempotency-Key": secrets.token_hex(16)}
        return self._call("POST", path, json=body, headers=headers)

    def change(self, method: str, path: str, body: Json | None = None) -> ApiAnswer:
        """POST, PATCH, PUT or DELETE that comes to the same if it is made twice."""
        return self._call(method, path, json=body)

    def pages(self, path: str, key: str, *, limit: int, **query: Any) -> list[Json]:
        """Up to `limit` entries of a list that comes in pages."""
        rows: list[Json] = []
        before: int | None = None
        while len(rows) < limit:
            n_wanted = min(limit - len(rows), LARGEST_PAGE)
            page = self.get(path, limit=n_wanted, before=before, **query).data
            rows += page[key]
            before = page["next"]
            if before is None:
                break
        return rows

    def lines(self, path: str, *, silence_seconds: float) -> Iterator[str]:
        """The lines of an answer as they come.

        Raises Unavailable when none comes for so many seconds.
        """
        connect_seconds = min(silence_seconds, CONNECT_SECONDS)
        timeout = httpx.Timeout(silence_seconds, connect=connect_seconds)
        try:
            with self._http.stream("GET", path, timeout=timeout) as response:
                if response.is_error:
                    # httpx reads a stream's body only when asked; error_of needs it.
                    response.read()
                    raise error_of(response)
                yield from response.iter_lines()
        except httpx.TransportError as error:
            raise self._away(error) from None

    def _call(self, method: str, path: str, **options: Any) -> ApiAnswer:
        response = self._send(method, path, **options)
        if response.is_error:
            raise error_of(response)
        try:
            body = response.json()
        except ValueError:
            raise _not_ours(response) from None
        return ApiAnswer(body, response.status_code, _order_id(response))

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        for pause in (*PAUSES, None):
            try:
                return self._http.request(method, path, **options)
            except httpx.TransportError as error:
                # A coordinator that took the request and is slow would only get more to
                # do.
                is_slow = isinstance(error, httpx.ReadTimeout)
                if pause is None or is_slow:
                    raise self._away(error) from None
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _away(self, error: httpx.TransportError) -> Unavailable:
        between = obstacle(error, VARIABLES)
        if between is not None:
            return Unavailable(between.sentence, remedy=between.remedy)
        reason = str(error).rstrip(".") or type(error).__name__
        return Unavailable(
            f"{self._url} does not answer: {reason}.",
            remedy="Check the address, and whether the coordinator runs.",
        )


def error_of(response: httpx.Response) -> ConsiliumError:
    """The error that an answer carries, in either form of the API; Unavailable where
    something else than Consilium answered, such as a proxy.

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
        carried_error = body["msg"] if "msg" in body else body["data"]["error"]
    except (ValueError, KeyError, TypeError):
        return _not_ours(response)
    if not isinstance(carried_error, dict):
        # The short form: sentence and remedy in one text.
        sentence, _, remedy = str(carried_error).partition(". ")
        error_class = BY_STATUS.get(response.status_code, ConsiliumError)
        carried_error = {
            "sentence": f"{sentence.rstrip('.')}.",
            "remedy": remedy,
            "type": error_class.__name__,
        }
    error = ConsiliumError.from_json(carried_error)
    order_id = _order_id(response)
    if not order_id:
        data = body.get("data") or {}
        order_id = data.get("order_id")
    if order_id is not None:
        error.detail["order_id"] = order_id
    return error


def _order_id(response: httpx.Response) -> int | None:
    id_text = response.headers.get("X-Order-Id", "")
    return int(id_text) if id_text.isdecimal() else None


def _not_ours(response: httpx.Response) -> Unavailable:
    return Unavailable(
        f"{response.url} answered {response.status_code}, and not in Consilium's words.",
        remedy="Check the address, and what stands between it and this machine.",
    )
