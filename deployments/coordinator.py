"""The worker of pool `coordinator`: the same worker as a hospital's, with the coordinator's flow."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from agents.worker import FlowWorker, Post, preload, work_until_signal
from api.settings import Settings

FLOWS = {"train-order": "flows.training.train_order"}


class CoordinatorWorker(FlowWorker):
    """As a hospital's worker, for the coordinator's own pool."""

    type = "coordinator"
    _description = "Runs the coordinator's flow of an order."


def main(settings: Settings) -> None:
    """Runs until SIGINT or SIGTERM."""
    preload([entrypoint.rpartition(".")[0] for entrypoint in FLOWS.values()])
    asyncio.run(_work(settings))


async def _work(settings: Settings) -> None:
    async def cancel(post: Post, order_id: int) -> None:
        await post.send("POST", f"/orders/{order_id}/cancel")

    token = Path(settings.folder / "token").read_text().strip()
    async with httpx.AsyncClient(base_url=f"http://{settings.host}:{settings.port}", trust_env=False) as client:
        worker = CoordinatorWorker(
            "coordinator",
            flows=FLOWS,
            post=Post(client, token),
            locks=settings.folder / "runs",
            on_withdrawn=cancel,
        )
        await work_until_signal(worker)
