"""An order in a fresh federation on this machine, twice: the body on stdin, what came
of it as JSON on stdout. Agents dial the relay, which counts what goes to and from the
coordinator.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import httpx

from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from api.settings import CoordinatorSettings
from benchmarks.peers.relay import Relay
from deployments.coordinator import until_signal
from deployments.local.federation import choose_ports, federation, part_of_site
from deployments.local.sites import prepare
from deployments.processes import PartProcess


def main() -> None:
    """Starts, orders twice, answers, and leaves nothing running."""
    body = json.load(sys.stdin)
    settings = choose_ports(any_free=True)
    asyncio.run(until_signal(_answer(settings, prepare(settings), body)))


async def _answer(
    settings: CoordinatorSettings, sites: list[SiteSettings], body: dict[str, Any]
) -> None:
    relay = Relay(settings.port)

    def through_relay(site: SiteSettings) -> PartProcess:
        part = part_of_site(site)
        dialled = {**part.environment, "CONSILIUM_API_PORT": str(relay.port)}
        return dataclasses.replace(part, environment=dialled)

    with relay:
        answer = await _measure(settings, sites, body, through_relay, relay)
    print(json.dumps(answer), flush=True)


async def _measure(
    settings: CoordinatorSettings,
    sites: list[SiteSettings],
    body: dict[str, Any],
    part: Callable[[SiteSettings], PartProcess],
    relay: Relay,
) -> dict[str, Any]:
    token = json.loads((settings.home / "tokens.json").read_text())[
        str(body["user_id"])
    ]
    headers, url = (
        {"Authorization": f"Bearer {token}"},
        f"http://{settings.host}:{settings.port}",
    )
    async with (
        federation(settings, sites, restart=False, part=part),
        httpx.AsyncClient(
            base_url=url, headers=headers, timeout=120, trust_env=False
        ) as client,
    ):
        submitted, before = time.time(), relay.n_bytes
        order_id = await _order(client, body)
        finished, n_bytes = time.time(), relay.n_bytes - before
        await _order(client, body)
        again = time.time() - finished
        rounds = (await client.get(f"/orders/{order_id}")).json()["data"]["rounds"]
    model = Vault(
        next(site.vault for site in sites if site.user_id == body["user_id"])
    ).model(order_id)
    return {
        "submitted": submitted,
        "finished": finished,
        "again": again,
        "round_ends": [
            datetime.fromisoformat(row["recorded"]).timestamp()
            for row in rounds
            if not row["final"]
        ],
        "weights": list(model["layers"]["dense"]),
        "n_bytes": n_bytes,
    }


async def _order(client: httpx.AsyncClient, body: dict[str, Any]) -> int:
    """Sends an order and waits for its end."""
    order_id = int(
        (await client.post("/model/train", json=body)).json()["data"]["order_id"]
    )
    async with client.stream("GET", f"/orders/{order_id}/events") as stream:
        async for line in stream.aiter_lines():
            if line.startswith("data:") and '"success"' in line:
                return order_id
    raise SystemExit(f"Order {order_id} did not succeed.")


if __name__ == "__main__":
    main()
