"""The one way from the gateway to Prefect: REST, and the stream of events.

Only here stands the string by which Prefect lets anybody in. What Prefect's own client
tries again at an agent decides which status says that Prefect is away or in trouble:
503, after which it waits 2, 4, 8, 16 and 32 seconds, as it would without a gateway. A
`Retry-After` would make these waits shorter, and have it give up sooner; 500 and 504 it
takes for an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from protocol.errors import ConsiliumError, InvalidInput, NotFound, Unavailable
from protocol.exchange import LONGEST_PAUSE_SECONDS
from protocol.tls import authorities

T = TypeVar("T")
log = logging.getLogger("consilium.api")

ANSWER_SECONDS = 50.0
"""Prefect on SQLite may wait for a lock; the agent's own client gives up after 60."""
IDLE_SECONDS = 2.0
"""Before Prefect's server closes a connection that nobody uses, which is after 5."""
MOST_WAITING = 2000
"""Events on their way to Prefect. When there are more, their senders wait."""
CONFIRM_EVERY = 100
CONFIRM_SECONDS = 5.0


class Away(Unavailable):
    """Prefect does not answer, or has trouble of its own: the agent tries again."""


class Relay:
    """Calls to Prefect in the coordinator's name."""

    def __init__(
        self,
        url: str,
        auth: str | None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        user_name, _, password = (auth or "").partition(":")
        self.client = httpx.AsyncClient(
            base_url=url,
            auth=httpx.BasicAuth(user_name, password) if auth else None,
            verify=authorities(url),
            timeout=ANSWER_SECONDS,
            limits=httpx.Limits(max_connections=50, keepalive_expiry=IDLE_SECONDS),
            transport=transport,
            trust_env=False,
        )

    async def close(self) -> None:
        await self.client.aclose()

    async def send(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> httpx.Response:
        """Prefect's answer of a status below 300.

        Away where there is none. NotFound and InvalidInput for what Prefect refuses, in
        words of ours: its own may name what is not the caller's.
        """
        try:
            answer = await self.client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise _away(type(error).__name__) from None
        status = answer.status_code
        if status < 300:
            return answer
        if status == 404:
            raise NotFound("Prefect does not have this.", remedy="Look again.")
        if status >= 500 or status in (401, 403, 408, 429):
            # A refused string is the coordinator's trouble, not the agent's.
            raise _away(f"HTTP status {status}")
        raise InvalidInput(
            f"Prefect refuses this (HTTP status {status}).",
            remedy="Send what a worker of this version sends.",
        )

    async def read(self, path: str) -> dict[str, Any] | None:
        """What stands at an address; None where nothing does."""
        try:
            answer = await self.send("GET", path)
        except NotFound:
            return None
        return _parsed(answer, dict)

    async def find(self, path: str, filters: dict[str, Any]) -> list[Any]:
        """What fits a filter."""
        return _parsed(await self.send("POST", path, filters), list)


def _away(why: str) -> Away:
    return Away(
        f"Prefect does not answer ({why}).",
        remedy="Try again; the operator looks at the Prefect server.",
    )


def _parsed(answer: httpx.Response, form: type[T]) -> T:
    try:
        parsed = answer.json()
    except ValueError:
        raise _away("no JSON") from None
    if not isinstance(parsed, form):
        raise _away("another form")
    return parsed


class EventStream:
    """One socket to Prefect for the events of all agents.

    It outlasts a Prefect that is away: what was not confirmed is sent again, and Prefect
    takes an event once, by its id.
    """

    def __init__(self, url: str, auth: str | None) -> None:
        self._url = f"{url.rstrip('/').replace('http', 'ws', 1)}/events/in"
        self._auth = auth
        self._waiting: asyncio.Queue[str] = asyncio.Queue(MOST_WAITING)
        self._unconfirmed: deque[str] = deque()

    async def publish(self, event: dict[str, Any]) -> None:
        """Returns when the event is on its way; waits while too many are."""
        await self._waiting.put(json.dumps(event))

    async def run(self) -> None:
        """For ever."""
        pause = 0.2
        while True:
            began = time.monotonic()
            try:
                async with self._connected() as prefect:
                    await self._pass_on(prefect)
            except (OSError, WebSocketException, TimeoutError, ConsiliumError) as error:
                log.debug("Events wait for Prefect: %s", type(error).__name__)
            # The socket has stood for a while: this is a new outage, and may be a short
            # one.
            if time.monotonic() - began > LONGEST_PAUSE_SECONDS:
                pause = 0.2
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[ClientConnection]:
        """Not before there is something to send."""
        if not self._unconfirmed:
            self._unconfirmed.append(await self._waiting.get())
        async with connect(
            # None of the environment's: it could read the string that opens all of
            # Prefect.
            self._url,
            subprotocols=[Subprotocol("prefect")],
            proxy=None,
        ) as prefect:
            await prefect.send(json.dumps({"type": "auth", "token": self._auth}))
            answer = json.loads(await asyncio.wait_for(prefect.recv(), ANSWER_SECONDS))
            if answer.get("type") != "auth_success":
                raise _away("the string is refused")
            yield prefect

    async def _pass_on(self, prefect: ClientConnection) -> None:
        for event in self._unconfirmed:
            await prefect.send(event)
        await self._confirm(prefect)
        while True:
            try:
                async with asyncio.timeout(CONFIRM_SECONDS):
                    event = await self._waiting.get()
            except TimeoutError:
                await self._confirm(prefect)
                continue
            # Kept before it is sent: a send that fails has not lost it.
            self._unconfirmed.append(event)
            await prefect.send(event)
            if len(self._unconfirmed) >= CONFIRM_EVERY:
                await self._confirm(prefect)

    async def _confirm(self, prefect: ClientConnection) -> None:
        """A pong comes behind everything that was sent before its ping."""
        pong = await prefect.ping()
        await asyncio.wait_for(pong, ANSWER_SECONDS)
        self._unconfirmed.clear()
