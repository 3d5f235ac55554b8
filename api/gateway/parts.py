"""What the gateway's routes and sockets share."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from api.auth import AGENT, Rate
from api.gateway.ownership import Ownership
from api.gateway.relay import EventStream, Relay
from api.store.hospitals import Caller
from protocol.errors import Forbidden

PREFIX = "/prefect/api"
"""Below the coordinator's own address; an agent takes it for Prefect's API."""

MOST_BYTES = 2**16
"""Of a body, and of a message on a socket."""


@dataclass
class Gateway:
    """What the gateway keeps in this process."""

    relay: Relay
    ownership: Ownership
    stream: EventStream
    rate: Rate  # of events
    # How many sockets are open, by pool.
    sockets: Counter[str] = field(default_factory=Counter)


@contextlib.asynccontextmanager
async def open_gateway(
    url: str, auth: str | None, events_per_second: float
) -> AsyncIterator[Gateway]:
    """For as long as the application runs."""
    relay = Relay(url, auth)
    stream = EventStream(url, auth)
    passing_on = asyncio.create_task(stream.run())
    try:
        yield Gateway(relay, Ownership(relay), stream, Rate(events_per_second))
    finally:
        passing_on.cancel()
        await asyncio.gather(passing_on, return_exceptions=True)
        await relay.close()


def pool_of(caller: Caller) -> str:
    """Forbidden unless the caller is an agent, where nobody needs a token too: whose
    pool it is follows from the token alone.
    """
    if caller.role != AGENT:
        raise Forbidden(
            "Prefect is asked by agents only.", remedy="Use the token of an agent."
        )
    return f"hospital-{caller.user_id}"
