"""python -m deployments.prefect_server --host HOST --port PORT: Prefect's server without
what nothing here uses, and with garbage collected on its own thread.

Automations and blocks make a server act on its own: call an address (a webhook is a
block), start or cancel runs. Nothing here needs one, so the server has no route that
makes or reads them, whoever asks.

Python frees reference cycles on whichever thread happens to allocate, in Prefect's
server mostly that of its event loop. Among them are cursors of SQLite connections, and
freeing a cursor waits for its connection. Where that connection waits for the
database's write lock in another thread, and who holds the lock waits for the event
loop, all three stand still until SQLite's busy timeout of 60 seconds ("database is
locked", seen with Prefect 3.8.8). On a thread of its own the collector may wait: the
loop goes on, and the lock is given back.

Decisions 27 and 82.
"""

from __future__ import annotations

import argparse
import gc
import threading
from itertools import count

import uvicorn
from prefect.server import api
from prefect.server.api import server
from prefect.settings import get_current_settings

YOUNG_SECONDS = 1.0
# All objects only now and then: while they are looked at every thread stands still.
ALL_EVERY = 30

CLOSED = (
    api.automations.router,
    api.templates.router,  # of what automations send
    api.block_types.router,
    api.block_schemas.router,
    api.block_documents.router,
    api.block_capabilities.router,
)
"""Left out whole: a rule that looks at paths could be walked around."""


def collect_apart() -> None:
    """Takes the collection of cycles over from the threads that allocate."""
    gc.disable()
    threading.Thread(target=_collect_for_ever, name="garbage", daemon=True).start()


def _collect_for_ever() -> None:
    pause = threading.Event()
    for turn in count(1):
        pause.wait(YOUNG_SECONDS)
        gc.collect(2 if turn % ALL_EVERY == 0 else 1)


def leave_out_closed() -> None:
    """Before Prefect puts its application together."""
    missing = [router for router in CLOSED if router not in server.API_ROUTERS]
    # Another Prefect, which may have them elsewhere.
    assert not missing, missing
    server.API_ROUTERS = tuple(  # type: ignore[assignment]
        router for router in server.API_ROUTERS if router not in CLOSED
    )


def main() -> None:
    """Serves until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m deployments.prefect_server")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", required=True, type=int)
    args = parser.parse_args()
    collect_apart()
    leave_out_closed()
    settings = get_current_settings().server
    uvicorn.run(
        server.create_app(final=True),
        host=args.host,
        port=args.port,
        timeout_keep_alive=settings.api.keepalive_timeout,
        ws_ping_interval=settings.api.websocket_ping_interval,
        ws_ping_timeout=settings.api.websocket_ping_timeout,
        log_level=settings.logging_level.lower(),
    )


if __name__ == "__main__":
    main()
