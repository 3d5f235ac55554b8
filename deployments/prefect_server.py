"""Prefect's server without what nothing here uses, with garbage collected on its own
thread, and with one writer at a time where its database is SQLite.
`deployments.prefect_process` is its process.

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

A transaction of Prefect's reads before it writes. Where another one has written in
between, SQLite refuses the write at once, whatever the busy timeout (SQLITE_BUSY_SNAPSHOT),
Prefect answers 503, and its client asks again after 2, 4, 8 seconds: of four orders sent
together the last had its run after 15 (seen with Prefect 3.8.8). PostgreSQL has no such
thing.

Decisions 27, 82 and 154.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import threading
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import uvicorn
from prefect.server import api
from prefect.server.api import server
from prefect.server.database.configurations import AioSqliteConfiguration
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


def write_in_turn() -> None:
    """One transaction of Prefect's at a time, in the order in which they came.

    Each has SQLite's write lock from its beginning, so that none is refused for what
    another has written. They wait here and not in SQLite, whose busy handler asks every
    100 ms and gives the lock to whoever asks first: some then wait for seconds. Only
    for SQLite: Prefect has another class for PostgreSQL.
    """
    begin = AioSqliteConfiguration.begin_transaction
    turn = asyncio.Lock()
    writing: asyncio.Task[object] | None = None

    @contextlib.asynccontextmanager
    async def begin_in_turn(
        self: AioSqliteConfiguration,
        session: Any,
        with_for_update: bool = False,
    ) -> AsyncIterator[Any]:
        nonlocal writing
        task = asyncio.current_task()
        # One within another would wait for itself; the outer one has the lock.
        if task is writing:
            async with begin(self, session, with_for_update) as transaction:
                yield transaction
            return
        async with turn:
            writing = task
            try:
                async with begin(self, session, with_for_update=True) as transaction:
                    yield transaction
            finally:
                writing = None

    AioSqliteConfiguration.begin_transaction = begin_in_turn  # type: ignore[method-assign]


def serve() -> None:
    """Until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m deployments.prefect_process")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", required=True, type=int)
    args = parser.parse_args()
    collect_apart()
    leave_out_closed()
    write_in_turn()
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
