"""A Prefect worker that outlasts a Prefect server that is away, or runs by another clock.

Prefect's own ends when it has not been answered for minutes. Each method here stands
for one of Prefect's, and says why. `tasks.worker` has which runs may begin, and begins
them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import httpx
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import Abort, ObjectNotFound
from prefect.states import Pending
from prefect.utilities.engine import propose_state
from prefect.workers.base import (
    BaseJobConfiguration,
    BaseVariables,
    BaseWorker,
    BaseWorkerResult,
)

from protocol.exchange import LONGEST_PAUSE_SECONDS
from protocol.machine.clock import Clock
from protocol.machine.outage import PREFECT, outage
from tasks.flow_process import kind_of
from tasks.post import CoordinatorAway

log = logging.getLogger("consilium.worker")


class PatientWorker(BaseWorker[BaseJobConfiguration, BaseVariables, BaseWorkerResult]):
    """Asks Prefect for the runs of one pool, again and again."""

    type = "patient"

    def __init__(self, pool: str, *, limit: int | None) -> None:
        super().__init__(pool, name=pool, limit=limit, create_pool_if_not_found=False)
        self._clock = Clock()
        # A try was left without an answer: `look_again` makes another one.
        self._left = asyncio.Event()
        # Whether the log has said that Prefect does not know the pool.
        self._misses_pool = False

    async def sync_with_backend(self) -> None:
        """A heartbeat by REST (decision 4).

        Prefect's own channel by websocket sends it twice over, which SQLite answers
        with "database is locked", and writes its job template into the pool, which this
        worker has no use for.
        """
        asked_at = time.monotonic()
        try:
            self._work_pool = await self.client.read_work_pool(self._work_pool_name)
            worker_id = await self.client.send_worker_heartbeat(
                self._work_pool_name,
                self.name,
                self.heartbeat_interval_seconds,
                get_worker_id=self.backend_id is None,
            )
            if worker_id:
                self.backend_id = worker_id
            outage.answered(PREFECT)
            if self._misses_pool:
                log.warning("Prefect knows pool %s now", self._work_pool_name)
            self._misses_pool = False
        except ObjectNotFound:
            if not self._misses_pool:
                log.warning(
                    "Prefect knows no pool %s yet: the coordinator runs ./run server deploy",
                    self._work_pool_name,
                )
            self._misses_pool = True
        except httpx.HTTPError as error:
            outage.missed(PREFECT, kind_of(error), asked=asked_at)
        await self._initialize_after_sync()

    async def _setup_cancellation_observer(self) -> None:
        """Not used: it stops for good when Prefect is away for a while.

        The coordinator's API watches for cancelled runs of all pools, and ends their
        orders.
        """

    async def _emit_worker_started_event(self) -> None:
        """Nobody reads it: without it a worker at rest has no socket to Prefect, whose
        pings it would answer, and no thread for it.
        """

    async def _emit_worker_stopped_event(self, started_event: Any) -> None:
        """As of its start."""

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """As Prefect's, but its loop hears of no error.

        It would end the worker when the server is away for minutes.
        """
        asked_at = time.monotonic()
        try:
            flow_runs = await super().get_and_submit_flow_runs()
        except (CoordinatorAway, ObjectNotFound):
            # ObjectNotFound: somebody has deleted a run that was found.
            self._left.set()
            return []
        except httpx.HTTPError as error:
            outage.missed(PREFECT, kind_of(error), asked=asked_at)
            self._left.set()
            return []
        outage.answered(PREFECT)
        return flow_runs

    async def look_again(self) -> None:
        """After a try that Prefect did not answer the next one comes soon.

        Its own loop's would take half a minute, and the coordinator's word comes once.
        """
        pause = 1.0
        while True:
            await self._left.wait()
            await asyncio.sleep(pause)
            self._left.clear()
            await self.get_and_submit_flow_runs()
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            if not self._left.is_set():
                pause = 1.0

    async def _get_scheduled_flow_runs(self) -> list[Any]:
        """As Prefect's, but by the coordinator's clock.

        Prefect's asks for what is due by this machine's: where that is behind, nothing
        ever is.
        """
        ahead = timedelta(seconds=int(self._prefetch_seconds))
        due = self._clock.coordinators_time() + ahead
        try:
            return await self.client.get_scheduled_flow_runs_for_work_pool(
                work_pool_name=self._work_pool_name,
                scheduled_before=due,
                work_queue_names=list(self._work_queues),
            )
        except ObjectNotFound:
            return []  # the next heartbeat says so

    async def _propose_pending_state(self, flow_run: FlowRun) -> bool:
        """As Prefect's, without its traceback for a run that it could not take.

        Prefect's leaves such a run for half a minute.
        """
        asked_at = time.monotonic()
        try:
            state = await propose_state(self.client, Pending(), flow_run_id=flow_run.id)
        except (Abort, ObjectNotFound):
            # It has ended meanwhile, or somebody has deleted it.
            return False
        except httpx.HTTPError as error:
            outage.missed(PREFECT, kind_of(error), asked=asked_at)
            self._left.set()
            return False
        return bool(state.is_pending())

    def _soon(self, call: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """A task whose failure does not end the worker.

        What it leaves undone is taken up again.
        """

        async def guarded() -> None:
            asked_at = time.monotonic()
            try:
                await call(*args)
            except httpx.HTTPError as error:
                outage.missed(PREFECT, kind_of(error), asked=asked_at)
            except Exception:
                log.exception("Unplanned error")

        assert self._runs_task_group is not None
        self._runs_task_group.start_soon(guarded)
