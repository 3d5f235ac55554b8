"""What stands before all routes: who calls is found out before anything of the call is
read, and nobody holds more of the coordinator than a share.

In this order: the address, the page's own origin, the token, how many calls that token
has open, then the body, by its size and its time. The headers of every answer are
`api.headers`'. Connections that send no head are ended by `api.connections`.

Decision 83.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import Counter
from collections.abc import Iterator

from fastapi import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import headers
from api.answers import failure_at
from api.auth import COORDINATOR_ROLE, OPEN, current_caller
from api.gateway.parts import MOST_BYTES, PREFIX
from api.people import to_the_page
from api.settings import CoordinatorSettings
from api.store.hospitals import Caller
from protocol.errors import (
    ConsiliumError,
    Forbidden,
    TooLarge,
    TooManyRequests,
    Unavailable,
)
from protocol.exchange import MOST_HEADS_BYTES, TOGETHER_BYTES

BODY_SECONDS = 20.0
"""That a body may take in any case."""

LEAST_BYTES_PER_SECOND = 16_384
"""That a body must have beyond that: a message of 256 MiB has 4.5 hours."""

MOST_PAGE_BYTES = 65_536
"""Of what a browser sends without a token: a form, or a message of the page's."""

SOCKET_OF_PAGE = "/_nicegui_ws"

OPEN_ADDRESSES = ("/health", "/openapi.json", "/docs", "/")
OPEN_FOLDERS = ("/docs/", "/page/", "/_nicegui/", "/_nicegui_ws/")
"""Whatever needs no token: what all may read, and the page, which has a door of its own
(`api.pages.visit`)."""

TOGETHER_PATH = re.compile(r"/exchange/[0-9]+/messages/[0-9]+/*")
ROUND_PATH = re.compile(r"/orders/[0-9]+/rounds/[0-9]+/*")


class OpenCalls:
    """How many calls each caller has open: streams, long waits, bodies that come."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[str] = Counter()

    @contextlib.contextmanager
    def one(self, caller: Caller | None) -> Iterator[None]:
        """While one is answered. TooManyRequests when this caller has too many."""
        if caller is None or _has_no_limit(caller):
            yield
            return
        self.check(caller)
        who = caller.name
        self._open[who] += 1
        try:
            yield
        finally:
            self._open[who] -= 1
            if not self._open[who]:
                del self._open[who]

    def check(self, caller: Caller) -> None:
        """TooManyRequests when this caller has as many as it may."""
        if _has_no_limit(caller) or self._open[caller.name] < self._most:
            return
        raise TooManyRequests(
            f"This token has {self._most} calls open, which is as many as it may.",
            remedy="Let one end, or close a stream; CONSILIUM_CALLS_AT_ONCE is the limit.",
        )

    def counted(self) -> dict[str, int]:
        return dict(self._open)


def _has_no_limit(caller: Caller) -> bool:
    # The coordinator's own flows wait for every order.
    return caller.role in (COORDINATOR_ROLE, OPEN)


class Door:
    """Lets a call in, or answers it itself."""

    def __init__(self, app: ASGIApp, settings: CoordinatorSettings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._open_socket(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, _with_headers(scope, send))
        else:
            await self._app(scope, receive, send)

    async def _open_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A browser tells from where it opens a socket; only our own page may open the
        page's.
        """
        origin = headers.header(scope, b"origin")
        is_page = scope["path"].startswith(SOCKET_OF_PAGE)
        if (origin or is_page) and not headers.is_own_origin(scope, origin):
            await send({"type": "websocket.close", "code": 1008})
            return
        await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if len(path) > 1 and path.endswith("/"):
            scope = {**scope, "path": path.rstrip("/") or "/"}
        page = to_the_page(scope)
        if page is not None:
            await page(scope, receive, send)
            return
        try:
            _check_origin(scope)
            caller = await self._caller(scope, path)
            # Until the whole answer has been sent: a stream counts for as long as it
            # lasts.
            with scope["app"].state.open_calls.one(caller):
                body = Body(receive, self._most_bytes(path))
                await self._app(scope, body.read, send)
        except BodyRefused as error:
            answer = failure_at(path, error.known, status=error.status_code)
            await answer(scope, receive, send)
        except ConsiliumError as error:
            await failure_at(path, error)(scope, receive, send)

    async def _caller(self, scope: Scope, path: str) -> Caller | None:
        """Who calls, kept for the route; None where everybody may.

        Unauthenticated, Forbidden or TooManyRequests before a byte of the body is read.
        """
        if needs_no_token(path):
            return None
        connection = HTTPConnection(scope)
        _refuse_crowd(connection)
        caller = await current_caller(connection)
        scope.setdefault("state", {})["caller"] = caller
        return caller

    def _most_bytes(self, path: str) -> int:
        if path.startswith(PREFIX):
            return MOST_BYTES
        if TOGETHER_PATH.fullmatch(path):
            return MOST_HEADS_BYTES + TOGETHER_BYTES
        if path.startswith("/exchange/"):
            return self._settings.max_message_bytes
        if ROUND_PATH.fullmatch(path):
            return self._settings.max_round_bytes
        if needs_no_token(path):
            return MOST_PAGE_BYTES
        return self._settings.max_body_bytes


def _refuse_crowd(connection: HTTPConnection) -> None:
    """TooManyRequests where a token that came before has no calls left: by what this
    process knows, without the store.
    """
    app_state = connection.app.state
    caller = app_state.seen_tokens.caller(connection)
    if caller is not None:
        app_state.open_calls.check(caller)
        app_state.rate.check(caller.name)


def _check_origin(scope: Scope) -> None:
    """Forbidden (code origin) where another site's page has a visitor's browser do
    something here.

    Programs send no Origin.
    """
    origin = headers.header(scope, b"origin")
    is_page = scope["path"].startswith(SOCKET_OF_PAGE)
    # What another site's page reads here its browser does not let it see. The page's
    # own connection is opened by GET, and everything is done through it.
    changes_nothing = scope["method"] in ("GET", "HEAD", "OPTIONS") and not is_page
    if not origin or changes_nothing or headers.is_own_origin(scope, origin):
        return
    raise Forbidden(
        "This call comes from a page of another site.",
        remedy="Open the coordinator's own address; a proxy before it passes Host and X-Forwarded-Proto on.",
        code="origin",
    )


def _with_headers(scope: Scope, send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            secured_headers = headers.with_security(
                scope, list(message.get("headers", []))
            )
            message = {**message, "headers": secured_headers}
        await send(message)

    return send_with_headers


def needs_no_token(path: str) -> bool:
    return path in OPEN_ADDRESSES or path.startswith(OPEN_FOLDERS)


class BodyRefused(HTTPException):
    """FastAPI passes on its own exceptions only from where it reads a body; any other
    becomes a 400.
    """

    def __init__(self, error: ConsiliumError, status: int) -> None:
        super().__init__(status)
        self.known = error


class Body:
    """What comes of a body, by its size and its time.

    Content-Length is only what the sender writes there, or missing.
    """

    def __init__(self, receive: Receive, most_bytes: int) -> None:
        self._receive = receive
        self._most_bytes = most_bytes
        self._began = time.monotonic()
        self._n_bytes = 0
        self._is_whole = False

    async def read(self) -> Message:
        """The next piece. BodyRefused when there is too much, or when it comes too
        slowly.
        """
        # Whoever asks on waits for the caller to go away.
        if self._is_whole:
            return await self._receive()
        message = await self._next()
        self._n_bytes += len(message.get("body", b""))
        if self._n_bytes > self._most_bytes:
            raise too_large(self._most_bytes)
        self._is_whole = not message.get("more_body", False)
        return message

    async def _next(self) -> Message:
        # By what has come, not by what was stated: who promises much and sends nothing
        # has as long as who sends a word.
        allowed = BODY_SECONDS + self._n_bytes / LEAST_BYTES_PER_SECOND
        remaining_seconds = self._began + allowed - time.monotonic()
        try:
            return await asyncio.wait_for(self._receive(), max(remaining_seconds, 0.0))
        except TimeoutError:
            raise _too_slow() from None


def too_large(limit: int) -> BodyRefused:
    error = TooLarge(
        f"The body has more than {limit} bytes.", remedy="Send less at once."
    )
    return BodyRefused(error, error.status)


def _too_slow() -> BodyRefused:
    # As an agent on a bad line meets it: it tries again.
    error = Unavailable(
        f"The body comes too slowly: it has {BODY_SECONDS:g} seconds, "
        f"and one more for every {LEAST_BYTES_PER_SECOND} bytes.",
        remedy="Send it again over a better line.",
        code="slow_body",
    )
    return BodyRefused(error, 408)
