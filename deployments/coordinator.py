"""The worker of pool `coordinator`: the same worker as a hospital's, with the coordinator's flows."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from agents.worker import FlowWorker, Post, preload, work_until_signal
from api.settings import Settings

FLOWS = {
    "train-order": "flows.runs.train_order",
    "joint-statistics": "flows.runs.answer_jointly",
    "scheduled-statistics": "flows.runs.run_schedule",
}
OF_SCHEDULES = ("scheduled-statistics",)


class CoordinatorWorker(FlowWorker):
    """As a hospital's worker, for the coordinator's own pool. Its flow ends after those of the hospitals."""

    type = "coordinator"
    stop_grace_seconds = 30.0
    _description = "Runs the coordinator's flow of an order."

    async def withdraw(self, order_id: int) -> None:
        (await self._post.send("POST", f"/orders/{order_id}/cancel")).raise_for_status()


def main(settings: Settings) -> None:
    """Runs until SIGINT or SIGTERM."""
    preload({entrypoint.rpartition(".")[0] for entrypoint in FLOWS.values()})
    asyncio.run(_work(settings))


async def _work(settings: Settings) -> None:
    async with httpx.AsyncClient(base_url=f"http://{settings.host}:{settings.port}", trust_env=False) as client:
        worker = CoordinatorWorker(
            "coordinator",
            flows=FLOWS,
            of_schedules=OF_SCHEDULES,
            post=Post(client, lambda: Path(settings.folder / "token").read_text().strip()),
            locks=settings.folder / "runs",
        )
        await work_until_signal(worker)
