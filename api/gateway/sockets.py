"""The two sockets that Prefect's client opens.

`events/in` brings task runs and heartbeats: each message is built anew and put on the
one stream to Prefect. `events/out` brings an agent nothing: what happens at Prefect is
told by the coordinator's inbox, and a socket that stays silent keeps Prefect's client
from asking every ten seconds instead.

Who it is is decided at the upgrade, by the token in the header. Prefect's client then
sends a first message of its own, which is answered here and holds nothing that counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect, WebSocketState

from api.answers import failure
from api.auth import caller_of
from api.gateway.bodies import read_json
from api.gateway.events import rebuilt
from api.gateway.parts import MOST_BYTES, PREFIX, Gateway, pool_of
from api.gateway.relay import Away
from protocol.errors import (
    ConsiliumError,
    InvalidInput,
    NotFound,
    TooLarge,
    TooManyRequests,
)

log = logging.getLogger("consilium.api")
router = APIRouter()

SUBPROTOCOL = "prefect"
MOST_SOCKETS = 200
"""Of one agent: two for each flow process."""
FIRST_SECONDS = 30.0
"""For the client's first message."""
LOOK_AGAIN_SECONDS = 30.0
"""Whether a token is still good is looked at so often while a socket is open."""
AWAY_SECONDS = 1.0

NOT_ALLOWED = 1008
TOO_LARGE = 1009


@router.websocket(PREFIX + "/events/in")
async def events_in(websocket: WebSocket) -> None:
    """Events of the agent's own task runs, and that its worker is there."""
    gateway: Gateway = websocket.app.state.gateway

    async def pass_on(pool: str, message: Any) -> None:
        await _pass_on(gateway, pool, message)

    await _serve(websocket, pass_on)


@router.websocket(PREFIX + "/events/out")
async def events_out(websocket: WebSocket) -> None:
    """Nothing, until the agent closes it."""

    async def ignore(_pool: str, _message: Any) -> None:
        """What it would like to hear."""

    await _serve(websocket, ignore)


async def _admitted(websocket: WebSocket) -> str:
    """The caller's pool, of whose sockets this one is counted; a ConsiliumError for one
    that is refused.
    """
    gateway: Gateway = websocket.app.state.gateway
    pool = pool_of(await caller_of(websocket))
    # An address in another spelling is none, as with the routes: a proxy before may have
    # taken it for another path.
    if websocket.scope["raw_path"].decode("latin-1") != websocket.scope["path"]:
        raise NotFound("An agent has no such address at Prefect.", remedy="See docs.")
    if SUBPROTOCOL not in websocket.scope["subprotocols"]:
        raise InvalidInput(
            f"The socket does not ask for the subprotocol {SUBPROTOCOL}.",
            remedy="Open it as Prefect's client does.",
        )
    if gateway.sockets[pool] >= MOST_SOCKETS:
        raise TooManyRequests(
            f"This agent has {MOST_SOCKETS} sockets open.", remedy="Close some."
        )
    # Nothing is awaited between the look and the count: many upgrades at once would all
    # find room.
    gateway.sockets[pool] += 1
    return pool


async def _serve(
    websocket: WebSocket, act: Callable[[str, Any], Awaitable[None]]
) -> None:
    """Admits a socket, or refuses the upgrade with an answer of HTTP."""
    gateway: Gateway = websocket.app.state.gateway
    try:
        pool = await _admitted(websocket)
    except ConsiliumError as error:
        await websocket.send_denial_response(failure(error))
        return
    try:
        await websocket.accept(subprotocol=SUBPROTOCOL)
        await _talk(websocket, pool, act)
    finally:
        gateway.sockets[pool] -= 1


async def _talk(
    websocket: WebSocket, pool: str, act: Callable[[str, Any], Awaitable[None]]
) -> None:
    """Does something with each message, until either side ends it.

    What cannot be read ends it: an agent of this version sends nothing of the kind.
    """
    watching = asyncio.create_task(_end_with_token(websocket))
    try:
        async with asyncio.timeout(FIRST_SECONDS):
            await _receive(websocket)
        await websocket.send_json({"type": "auth_success"})
        while True:
            await act(pool, await _receive(websocket))
    except (WebSocketDisconnect, TimeoutError):
        await _close(websocket, NOT_ALLOWED)
    except ConsiliumError as error:
        log.warning("A socket of %s is closed: %s", pool, error)
        code = TOO_LARGE if isinstance(error, TooLarge) else NOT_ALLOWED
        await _close(websocket, code)
    finally:
        watching.cancel()


async def _receive(websocket: WebSocket) -> Any:
    message = await websocket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message["code"])
    message_text = message.get("text")
    if message_text is None:
        raise InvalidInput("A message is no text.", remedy="Send JSON.")
    if len(message_text.encode()) > MOST_BYTES:
        raise TooLarge(
            f"A message has more than {MOST_BYTES} bytes.", remedy="Send less at once."
        )
    return read_json(message_text.encode())


async def _pass_on(gateway: Gateway, pool: str, message: Any) -> None:
    """Waits rather than lose an event: while Prefect is away, and where the agent sends
    more than so many a second.
    """
    while True:
        try:
            gateway.rate.spend(pool)
            event = await rebuilt(message, pool, gateway.ownership)
        except (Away, TooManyRequests):
            # Nothing more of this socket is read meanwhile: it slows down who sends,
            # and nobody else.
            await asyncio.sleep(AWAY_SECONDS)
            continue
        except NotFound:
            # Deleted at Prefect, or another hospital's.
            log.warning("An event of %s is of no run of its own; it is left out", pool)
            return
        if event is not None:
            await gateway.stream.publish(event)
        return


async def _end_with_token(websocket: WebSocket) -> None:
    """A token that was revoked ends its sockets too."""
    while True:
        await asyncio.sleep(LOOK_AGAIN_SECONDS)
        try:
            await caller_of(websocket)
        # A token that has no calls left at this moment is still good.
        except TooManyRequests:
            continue
        except ConsiliumError:
            await _close(websocket, NOT_ALLOWED)
            return


async def _close(websocket: WebSocket, code: int) -> None:
    is_open = (
        websocket.application_state is WebSocketState.CONNECTED
        and websocket.client_state is WebSocketState.CONNECTED
    )
    if is_open:
        with contextlib.suppress(RuntimeError):  # the other side was quicker
            await websocket.close(code)
