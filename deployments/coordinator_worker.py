"""The worker of pool `coordinator`: a hospital's, with the coordinator's flows."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import UUID

import httpx
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import WorkerFlowRunResponse

from api.settings import CoordinatorSettings
from flows import coordinator_runs
from tasks.flow_process import preload
from tasks.post import Post
from tasks.worker import FlowWorker, work_until_signal

OF_SCHEDULES = ("scheduled-statistics",)


class CoordinatorWorker(FlowWorker):
    """As a hospital's worker, for the coordinator's own pool.

    Its flow ends after those of the hospitals.
    """

    type = "coordinator"
    stop_grace_seconds = 30.0
    _description = "Runs the coordinator's flow of an order."

    async def _get_scheduled_flow_runs(self) -> list[WorkerFlowRunResponse]:
        """Prefect's list, and beside it the runs of all orders that have their places.

        Prefect's is cut at 200, and may be full of orders that wait.
        """
        listed = await super()._get_scheduled_flow_runs()
        admitted = await self._post.ask("GET", "/exchange/admitted")
        unlisted = {UUID(flow_run_id) for flow_run_id in admitted["flow_run_ids"]}
        unlisted -= {listed_run.flow_run.id for listed_run in listed}
        # Nor those at work here: a second process of a run would only find its lock.
        unlisted -= set(self._work)
        if not unlisted:
            return listed
        # Not those that have begun, or ended, since the coordinator was asked.
        scheduled = FlowRunFilterStateType(any_=[StateType.SCHEDULED])
        run_filter = FlowRunFilter(
            id=FlowRunFilterId(any_=list(unlisted)),
            state=FlowRunFilterState(type=scheduled),
        )
        for flow_run in await self.client.read_flow_runs(flow_run_filter=run_filter):
            assert flow_run.work_pool_id is not None
            assert flow_run.work_queue_id is not None
            listed_run = WorkerFlowRunResponse(
                work_pool_id=flow_run.work_pool_id,
                work_queue_id=flow_run.work_queue_id,
                flow_run=flow_run,
            )
            listed.append(listed_run)
        return listed

    async def withdraw(self, order_id: int) -> None:
        answer = await self._post.send("POST", f"/orders/{order_id}/cancel")
        answer.raise_for_status()


def main(settings: CoordinatorSettings) -> None:
    """Runs until SIGINT or SIGTERM."""
    # Before the loop: the fork server is a fork of this process, without threads yet.
    preload([coordinator_runs.__name__])
    asyncio.run(_work(settings))


async def _work(settings: CoordinatorSettings) -> None:
    def read_token() -> str:
        token_path = Path(settings.folder / "token")
        return token_path.read_text().strip()

    # No proxy of the environment: the API is on this machine.
    async with httpx.AsyncClient(
        base_url=f"http://{settings.host}:{settings.port}", trust_env=False
    ) as client:
        worker = CoordinatorWorker(
            "coordinator",
            flows=coordinator_runs,
            of_schedules=OF_SCHEDULES,
            post=Post(client, read_token),
            locks=settings.folder / "runs",
        )
        await work_until_signal(worker)
