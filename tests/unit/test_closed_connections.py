"""A server that dies as soon as a connection to it is open is one that does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import anyio
import httpx
import pytest
import uvicorn

from api.gateway.relay import Away, Relay
from protocol.machine.connections import mind_closed_connections


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each connection is closed before anybody looks at it."""
    mind_closed_connections()
    connect = anyio.connect_tcp

    async def connect_and_lose(*args: Any, **kwargs: Any) -> Any:
        stream: Any = await connect(*args, **kwargs)
        stream._transport.abort()
        # The loop closes it in its next turns. uvloop's, which the API runs on, has no
        # socket then, unless somebody asked for it before.
        for _ in range(10):
            await asyncio.sleep(0)
        assert stream._raw_socket is None
        return stream

    monkeypatch.setattr(anyio, "connect_tcp", connect_and_lose)


def _run(call: Coroutine[Any, Any, None]) -> None:
    """On the loop that uvicorn takes for the API."""
    loop_factory = uvicorn.Config("").get_loop_factory()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(call)


async def _served(call: Any) -> Any:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        return await call(f"http://127.0.0.1:{port}")


def test_httpx_calls_it_a_lost_connection(dying: None) -> None:
    async def ask(url: str) -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            with pytest.raises(httpx.TransportError):
                await client.get(url)

    _run(_served(ask))


def test_the_gateway_says_that_prefect_is_away(dying: None) -> None:
    async def ask(url: str) -> None:
        relay = Relay(url, None)
        with pytest.raises(Away):
            await relay.send("GET", "/api/health")
        await relay.close()

    _run(_served(ask))
