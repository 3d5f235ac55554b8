"""The page over HTTP: loopback only, plain HTML without any script.

It is for the browser that opened the one-time link.

Every answer carries a strict Content-Security-Policy. A request for another Host than
this address is refused, so that no website can lead a browser here under a name of its
own; what changes anything is a form with a token (decision 47). Who may enter is
agents.page.door's; what is shown, agents.page.pages'.

Decision 47.
"""

from __future__ import annotations

from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from agents.page.door import Door
from agents.page.guard import Guard
from agents.page.listening import LOOPBACK, listening
from agents.page.pages import Page
from agents.site.settings import SiteSettings


def serve(settings: SiteSettings, port: int, tell: Callable[[str], None]) -> None:
    """Serves the page on 127.0.0.1 until SIGINT or SIGTERM.

    `tell` gets the one-time link when it can be opened. BadRequest (code port) when the
    port is taken.
    """
    with listening(port) as listener:
        taken_port = listener.getsockname()[1]
        address = f"{LOOPBACK}:{taken_port}"
        door = Door()
        config = uvicorn.Config(
            make_page(settings, door, at=address),
            lifespan="off",
            # uvicorn believes these headers of who connects from this machine: all do.
            proxy_headers=False,
            log_level="warning",
            # The link's key is in an address.
            access_log=False,
            server_header=False,
            ws="none",
        )
        server = uvicorn.Server(config)
        tell(f"http://{address}{door.folder}/open?key={door.key}")
        server.run(sockets=[listener])


def make_page(settings: SiteSettings, door: Door, *, at: str) -> ASGIApp:
    """The application that answers at `at`, host and port, to who has passed the door."""
    page = Page(settings, door)
    app = Starlette(routes=page.routes(), exception_handlers=page.handlers())

    def refuse(request: Request) -> Response:
        return page.message(request, "error.link", status=401)

    return Guard(app, door, at=at, refuse=refuse)
