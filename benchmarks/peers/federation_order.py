"""An order in a fresh federation on this machine, twice: the body on stdin, what came
of it as JSON on stdout.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import datetime
from typing import Any

import httpx

from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from api.settings import CoordinatorSettings
from deployments.coordinator import until_signal
from deployments.local.federation import choose_ports, federation
from deployments.local.sites import prepare


def main() -> None:
    """Starts, orders twice, answers, and leaves nothing running."""
    body = json.load(sys.stdin)
    settings = choose_ports(any_free=True)
    asyncio.run(until_signal(_answer(settings, prepare(settings), body)))


async def _answer(
    settings: CoordinatorSettings, sites: list[SiteSettings], body: dict[str, Any]
) -> None:
    token = json.loads((settings.home / "tokens.json").read_text())[
        str(body["user_id"])
    ]
    headers, url = (
        {"Authorization": f"Bearer {token}"},
        f"http://{settings.host}:{settings.port}",
    )
    async with (
        federation(settings, sites, restart=False),
        httpx.AsyncClient(
            base_url=url, headers=headers, timeout=120, trust_env=False
        ) as client,
    ):
        submitted = time.time()
        order_id = await _order(client, body)
        finished = time.time()
        await _order(client, body)
        again = time.time() - finished
        rounds = (await client.get(f"/orders/{order_id}")).json()["data"]["rounds"]
    model = Vault(
        next(site.vault for site in sites if site.user_id == body["user_id"])
    ).model(order_id)
    answer = {
        "submitted": submitted,
        "finished": finished,
        "again": again,
        "round_ends": [
            datetime.fromisoformat(row["recorded"]).timestamp()
            for row in rounds
            if not row["final"]
        ],
        "weights": list(model["layers"]["dense"]),
    }
    print(json.dumps(answer), flush=True)


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
