"""A Prefect worker that runs only flows installed with it, in a fork server, and starts again what was cut off.

It takes one thing from a flow run: its order number. Entrypoint, pull steps, command, environment and image that a
deployment or job variable carries are never read, so whoever controls the Prefect server gains no code execution here.
A flow process is tied to its agent: when the agent dies, so does it, and the next agent takes the run up.
"""

from __future__ import annotations

import asyncio
import fcntl
import importlib
import logging
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import httpx
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import Abort
from prefect.flow_engine import load_flow_run, run_flow
from prefect.states import Cancelled, Crashed, Failed
from prefect.workers.base import BaseJobConfiguration, BaseVariables, BaseWorker, BaseWorkerResult

from agents.settings import Settings
from agents.vault import Vault
from protocol import VERSION
from protocol.errors import OrderStopped
from protocol.exchange import error_of
from protocol.sealing import PublicIdentity

log = logging.getLogger("consilium.worker")

MAX_CRASHES = 10
STOP_GRACE_SECONDS = 5.0
_LOCKED = 75
_spawn = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Post:
    """How a worker hears from the coordinator: its inbox, by long polling, with its own token."""

    client: httpx.AsyncClient
    token: str

    async def read(self, boot: str, cursor: int) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.token}"}
        query: dict[str, str | int] = {"boot": boot, "cursor": cursor}
        answer = await self.client.get("/exchange/inbox", params=query, headers=headers, timeout=40)
        answer.raise_for_status()
        news: dict[str, Any] = answer.json()
        return news

    async def send(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"}
        return await self.client.request(method, path, json=body, headers=headers, timeout=40)


@dataclass
class Work:
    """One flow run under way here."""

    order_id: int
    process: Any = None
    ended: bool = False


class FlowWorker(BaseWorker[BaseJobConfiguration, BaseVariables, BaseWorkerResult]):
    """Runs `flows` (flow name -> "module.function") for one pool; nothing else, whatever a deployment says."""

    type = "hospital"
    _description = "Runs the flows that are installed at a hospital, and nothing that a deployment brings along."

    def __init__(
        self,
        pool: str,
        *,
        flows: Mapping[str, str],
        post: Post,
        locks: Path,
        limit: int | None = None,
        on_connect: Callable[[Post], Awaitable[None]] | None = None,
        on_withdrawn: Callable[[Post, int], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(pool, name=pool, limit=limit, create_pool_if_not_found=False)
        self._flows, self._post, self._locks = dict(flows), post, locks
        self._on_connect, self._on_withdrawn = on_connect, on_withdrawn
        self._work: dict[UUID, Work] = {}
        self._flow_names: dict[UUID, str] = {}
        locks.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def run(self, flow_run: FlowRun, configuration: Any, task_status: Any = None) -> BaseWorkerResult:
        """Not used: `_submit_run` does not build a job configuration at all."""
        raise NotImplementedError

    async def sync_with_backend(self) -> None:
        """A heartbeat by REST. Prefect's own channel by websocket sends it twice over, which SQLite answers with
        "database is locked", and writes its job template into the pool, which this worker has no use for."""
        self._work_pool = await self.client.read_work_pool(self._work_pool_name)
        self.backend_id = (
            await self.client.send_worker_heartbeat(
                self._work_pool_name, self.name, self.heartbeat_interval_seconds, get_worker_id=self.backend_id is None
            )
            or self.backend_id
        )
        await self._initialize_after_sync()

    # What there is to run

    async def listen(self) -> None:
        """Wakes on the coordinator's word; while the coordinator is away, Prefect's own polling goes on."""
        boot, cursor, pause = "", 0, 0.2
        while True:
            try:
                if not boot and self._on_connect:
                    await self._on_connect(self._post)
                heard = await self._post.read(boot, cursor)
                boot, cursor, pause = heard["boot"], heard["cursor"], 0.2
                for news in heard["news"]:
                    await self._act(news)
            except (httpx.HTTPError, OSError, KeyError, ValueError) as error:
                log.warning("The coordinator does not answer (%s); trying again", type(error).__name__)
                boot, pause = "", min(2 * pause, 5.0)
                await asyncio.sleep(pause)

    async def _act(self, news: Mapping[str, Any]) -> None:
        if news["what"] == "stop":
            for run_id, work in list(self._work.items()):
                if work.order_id == news["order_id"]:
                    self._group.start_soon(self._end, run_id, work)
        elif self._has_successfully_synced:
            await self.get_and_submit_flow_runs()

    async def take_up(self) -> None:
        """Runs that an earlier process of this worker left behind, before new ones. The pool is this worker's alone."""
        while not self._has_successfully_synced:
            await asyncio.sleep(0.1)
        states = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING]))
        pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[self._work_pool_name]))
        left = await self.client.read_flow_runs(flow_run_filter=FlowRunFilter(state=states), work_pool_filter=pool)
        for flow_run in left:
            if flow_run.id not in self._work:
                log.info("Taking up %s", flow_run.name)
                self._group.start_soon(self._keep_running, flow_run)

    async def _submit_run(self, flow_run: FlowRun) -> None:
        """Replaces Prefect's: no deployment is read, no job configuration is built."""
        try:
            if await self._propose_pending_state(flow_run):
                self._group.start_soon(self._keep_running, flow_run)
            else:
                self._release_limit_slot(flow_run.id)
        finally:
            self._submitting_flow_run_ids.discard(flow_run.id)

    @property
    def _group(self) -> Any:
        assert self._runs_task_group is not None
        return self._runs_task_group

    # One run

    async def _keep_running(self, flow_run: FlowRun) -> None:
        """Starts the run's process, and starts it again when it dies, until it has reached a final state."""
        work = Work(_order_of(flow_run))
        self._work[flow_run.id] = work
        try:
            entrypoint = await self._entrypoint(flow_run)
            if entrypoint is None or work.order_id < 1:
                await self._say(flow_run, Failed(message="This flow or its parameters are not what is installed here."))
                return
            await self._until_final(flow_run, work, entrypoint)
        finally:
            del self._work[flow_run.id]
            self._release_limit_slot(flow_run.id)

    async def _until_final(self, flow_run: FlowRun, work: Work, entrypoint: str) -> None:
        crashes = 0
        while crashes < MAX_CRASHES:
            code = await self._one_process(flow_run, work, entrypoint)
            if code == 0 or work.ended:
                return
            crashes += code != _LOCKED
            log.warning("The process of %s ended with code %s; starting it again", flow_run.name, code)
            await asyncio.sleep(min(0.1 * 2**crashes, 10.0))
        await self._say(flow_run, Crashed(message=f"The flow process died {MAX_CRASHES} times."))
        await self._withdraw(work.order_id)

    async def _one_process(self, flow_run: FlowRun, work: Work, entrypoint: str) -> int:
        lock = str(self._locks / f"{flow_run.id}.lock")
        work.process = _spawn.Process(target=run_in_child, args=(str(flow_run.id), entrypoint, lock), daemon=True)
        await anyio.to_thread.run_sync(work.process.start)
        await anyio.wait_readable(work.process.sentinel)
        work.process.join()
        return int(work.process.exitcode or 0)

    async def _entrypoint(self, flow_run: FlowRun) -> str | None:
        """By the flow's name, from the list given at start; never from the deployment."""
        if flow_run.flow_id not in self._flow_names:
            self._flow_names[flow_run.flow_id] = (await self.client.read_flow(flow_run.flow_id)).name
        return self._flows.get(self._flow_names[flow_run.flow_id])

    async def _end(self, run_id: UUID, work: Work) -> None:
        """After the order has ended its flow ends itself; a process that does not is killed."""
        with anyio.move_on_after(STOP_GRACE_SECONDS):
            while run_id in self._work:
                await asyncio.sleep(0.1)
            return
        work.ended = True
        if work.process is not None and work.process.is_alive():
            log.warning("The process of order %s did not end by itself; it is killed", work.order_id)
            work.process.kill()
        await self.client.set_flow_run_state(run_id, Cancelled(message="The order has ended."), force=True)

    async def _cancel_run(self, flow_run_id: UUID) -> None:
        """Somebody cancelled the run in Prefect: the order ends, for all."""
        flow_run = await self.client.read_flow_run(flow_run_id)
        await self._withdraw(_order_of(flow_run))
        work = self._work.get(flow_run_id)
        if work is None:
            await self.client.set_flow_run_state(flow_run_id, Cancelled(), force=True)

    async def _withdraw(self, order_id: int) -> None:
        if self._on_withdrawn and order_id > 0:
            await self._on_withdrawn(self._post, order_id)

    async def _say(self, flow_run: FlowRun, state: Any) -> None:
        await self.client.set_flow_run_state(flow_run.id, state, force=True)

    def kill_all(self) -> None:
        """Ends the flow processes with the worker; their runs are taken up when it starts again."""
        for work in list(self._work.values()):
            if work.process is not None and work.process.is_alive():
                work.process.kill()


def _order_of(flow_run: FlowRun) -> int:
    """The run's only parameter; 0 when it has others or is not a whole number."""
    number = flow_run.parameters.get("order_id")
    return number if set(flow_run.parameters) == {"order_id"} and type(number) is int and number > 0 else 0


# In the flow process


def run_in_child(flow_run_id: str, entrypoint: str, lock: str) -> None:
    """Runs one flow run to a final state. Exit code 0: it has one; 75: another process works on it; else: died."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _die_with_agent()
    with open(lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(_LOCKED)
        module, _, name = entrypoint.rpartition(".")
        flow_run = load_flow_run(UUID(flow_run_id))
        flow_run.parameters = {"order_id": _order_of(flow_run)}
        try:
            state: Any = run_flow(
                getattr(importlib.import_module(module), name), flow_run=flow_run, return_type="state"
            )
        except Abort:
            sys.exit(0)
        Path(lock).unlink(missing_ok=True)
    sys.exit(0 if state.is_final() else 1)


def _die_with_agent() -> None:
    """A thread that waits for the agent's end; the kernel closes the agent's side of the pipe however it dies."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# Starting


async def work_until_signal(worker: FlowWorker) -> None:
    """Runs the worker until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    parts: list[asyncio.Task[None]] = [
        asyncio.create_task(part) for part in (worker.start(printer=log.info), worker.listen(), worker.take_up())
    ]
    stopped = asyncio.create_task(stop.wait())
    try:
        while not stopped.done():
            done, _ = await asyncio.wait([stopped, *parts], return_when=asyncio.FIRST_COMPLETED)
            for part in [part for part in parts if part in done]:
                parts.remove(part)
                part.result()
    finally:
        worker.kill_all()
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)


def preload(modules: list[str]) -> None:
    """Starts the fork server with the flows' modules imported, so that a flow run begins in a fraction of a second."""
    _spawn.set_forkserver_preload([*modules, "prefect.flow_engine", "prefect.client.orchestration"])
    multiprocessing.forkserver.ensure_running()


# A hospital's worker

HOSPITAL_FLOWS = {
    "hospital-train": "flows.training.train_at_hospital",
    "infer": "flows.inference.infer_at_hospital",
}


def main(settings: Settings, flows: Mapping[str, str] = HOSPITAL_FLOWS) -> None:
    """Runs a hospital's agent until SIGINT or SIGTERM. `settings.environment()` must be set before this import."""
    identity = Vault(settings.vault).identity()
    preload([entrypoint.rpartition(".")[0] for entrypoint in flows.values()])
    asyncio.run(_work_at_hospital(settings, flows, identity.public))


async def _work_at_hospital(settings: Settings, flows: Mapping[str, str], identity: PublicIdentity) -> None:
    async def enrol(post: Post) -> None:
        answer = await post.send("PUT", "/hospitals/me", {"identity": identity.encode(), "version": VERSION})
        if answer.status_code >= 400:
            log.error("The coordinator does not let this agent in: %s", error_of(answer))
        answer.raise_for_status()

    async def withdraw(post: Post, order_id: int) -> None:
        reason = OrderStopped(
            f"{settings.name} withdrew.", remedy="Ask the hospital, then send the order again.", code="withdrawn"
        )
        await post.send("POST", f"/orders/{order_id}/refuse", reason.to_json())

    async with settings.async_client() as client:
        worker = FlowWorker(
            settings.pool,
            flows=flows,
            post=Post(client, settings.secret("token")),
            locks=settings.state / "runs",
            limit=settings.max_orders,
            on_connect=enrol,
            on_withdrawn=withdraw,
        )
        await work_until_signal(worker)
