"""How many sockets of one agent the gateway opens, however many are asked for at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.websockets import WebSocketState

from api.auth import AGENT
from api.gateway import sockets
from api.store.hospitals import Caller

MOST = 3
POOL = "hospital-2"


class Upgrade:
    """One that is asked for: both sides are slow, and the agent hangs up when told."""

    application_state = WebSocketState.DISCONNECTED
    client_state = WebSocketState.DISCONNECTED

    def __init__(self, gateway: Any, *, breaks: bool = False) -> None:
        self.app = SimpleNamespace(state=SimpleNamespace(gateway=gateway))
        self.scope = {
            "raw_path": b"/events/out",
            "path": "/events/out",
            "subprotocols": [sockets.SUBPROTOCOL],
        }
        self.outcome = "asked"
        self.hangs_up = asyncio.Event()
        self._breaks = breaks

    async def accept(self, subprotocol: str) -> None:
        await asyncio.sleep(0)
        if self._breaks:
            raise RuntimeError("The connection broke.")
        self.outcome = "accepted"

    async def send_denial_response(self, response: Any) -> None:
        self.outcome = str(response.status_code)

    async def receive(self) -> dict[str, Any]:
        await self.hangs_up.wait()
        return {"type": "websocket.disconnect", "code": 1000}


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Any:
    async def caller_of(_websocket: Any) -> Caller:
        await asyncio.sleep(0)
        return Caller(AGENT, 2)

    monkeypatch.setattr(sockets, "caller_of", caller_of)
    monkeypatch.setattr(sockets, "MOST_SOCKETS", MOST)
    return SimpleNamespace(sockets=Counter())


def test_many_at_once_are_no_more_than_one_after_the_other(gateway: Any) -> None:
    async def run() -> None:
        asked = [Upgrade(gateway) for _ in range(2 * MOST)]
        serving = [asyncio.create_task(sockets.events_out(one)) for one in asked]  # type: ignore[arg-type]
        async with asyncio.timeout(10):
            while any(one.outcome == "asked" for one in asked):
                await asyncio.sleep(0)
        outcomes = Counter(one.outcome for one in asked)
        assert outcomes == {"accepted": MOST, "429": MOST}
        assert gateway.sockets[POOL] == MOST
        for one in asked:
            one.hangs_up.set()
        await asyncio.gather(*serving)
        assert gateway.sockets[POOL] == 0

    asyncio.run(run())


def test_one_that_breaks_at_the_upgrade_is_not_counted(gateway: Any) -> None:
    async def run() -> None:
        with pytest.raises(RuntimeError):
            await sockets.events_out(Upgrade(gateway, breaks=True))  # type: ignore[arg-type]
        assert gateway.sockets[POOL] == 0

    asyncio.run(run())
