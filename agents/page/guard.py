"""What stands before every page: the Host, the session, and the headers of each answer.

Decision 47.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agents.page.door import Door

log = logging.getLogger("consilium.page")

SESSION = "consilium-session"
"""The cookie of who has opened the link."""
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_RAW_HEADERS = [
    (name.lower().encode(), text.encode()) for name, text in _HEADERS.items()
]


class Guard:
    """Before anything else: the right Host, and a session for everything but the link.

    It sets the headers on every answer. `refuse` answers who has no session.
    """

    def __init__(
        self,
        app: ASGIApp,
        door: Door,
        *,
        at: str,
        refuse: Callable[[Request], Response],
    ) -> None:
        self._app = app
        self._door = door
        self._refuse = refuse
        _, _, port = at.rpartition(":")
        self._hosts = (at, f"localhost:{port}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *_RAW_HEADERS]}
            await send(message)

        if scope["type"] != "http":
            return
        refusal = self._refusal(Request(scope))
        answer: ASGIApp = self._app if refusal is None else refusal
        try:
            await answer(scope, receive, send_with_headers)
        except Exception as error:  # noqa: BLE001
            # Its kind and place only. uvicorn would log the text and all of the trace,
            # which may hold what the page shows.
            kind = type(error).__name__
            place = traceback.extract_tb(error.__traceback__)[-1]
            log.error(
                "Unplanned error (%s) in %s, line %s", kind, place.name, place.lineno
            )

    def _refusal(self, request: Request) -> Response | None:
        # A website whose name leads to 127.0.0.1 would else read this page in the
        # browser that is let in.
        if request.headers.get("host", "") not in self._hosts:
            return Response(
                "This address is not this page's.\n",
                status_code=421,
                media_type="text/plain",
            )
        door = self._door
        is_link = request.url.path == f"{door.folder}/open"
        if is_link or door.is_in(request.cookies.get(SESSION)):
            return None
        return self._refuse(request)
