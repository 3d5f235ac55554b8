"""A Prefect worker that runs only flows installed with it, in a fork server, and starts again what was cut off.

It takes one thing from a flow run: its number, an order's or a schedule's. Entrypoint, pull steps, command,
environment and image that a deployment or job variable carries are never read, so whoever controls the Prefect server
gains no code execution here.
A flow process is tied to its agent: when the agent dies, so does it, and the next agent takes the run up.

What overrides Prefect's worker and why stands at each method. `tasks.flow_process` is the process of one run,
`tasks.post` what the coordinator is asked, `tasks.hospital.worker` and `deployments.coordinator_worker` the two kinds.

Decisions 2, 3 and 52.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
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
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import Abort, ObjectNotFound
from prefect.states import Cancelled, Crashed, Failed, Pending, Scheduled
from prefect.utilities.engine import propose_state
from prefect.workers.base import BaseJobConfiguration, BaseVariables, BaseWorker, BaseWorkerResult

from protocol.exchange import LONGEST_PAUSE_SECONDS
from protocol.machine.clock import Clock
from protocol.machine.disk import has_room
from protocol.machine.outage import COORDINATOR, PREFECT, outage
from tasks.exit_codes import ExitCode
from tasks.flow_process import OUTAGE, InstalledFlow, installed_flows, kind_of, new_process, number_of
from tasks.post import BEGIN, END, WAIT, CoordinatorAway, Post, Verdict
from tasks.quiet import hush

log = logging.getLogger("consilium.worker")

MAX_CRASHES = 10
"""One after the other. Then the order ends for all."""
CALM_SECONDS = 60.0
"""A process that has lasted so long has not died of what the one before it died of."""
LOOK_SECONDS = 15.0
"""Between two looks at Prefect for runs that are under way there and not here."""
LOOK_AT_ROOM_SECONDS, LOOK_FOR_ROOM_SECONDS = 0.5, 10.0
GETS_ON_SECONDS = 5.0
"""A process that has lasted so long since its disk was full has found room."""
COUNTED_FOR_NOTHING = (ExitCode.LOCKED, ExitCode.PREFECT_AWAY, ExitCode.NOT_READY)
"""These say nothing against the run, however often they come."""
HOLDS_UP = (ExitCode.DISK_FULL, ExitCode.NOT_READY)
"""What a person at this site puts right. Until then the run is tried again and again, and the coordinator is told."""


NOTHING_RUN = "Nothing of it was run: send orders to the coordinator's API, which makes their runs."


@dataclass
class Work:
    """One flow run under way here; a schedule's is no order's."""

    order_id: int | None
    process: BaseProcess | None = None
    ended: bool = False  # its order has ended: it is not started again


class FlowWorker(BaseWorker[BaseJobConfiguration, BaseVariables, BaseWorkerResult]):
    """Runs the flows of the module `flows` for one pool; nothing else, whatever a deployment says.

    A flow takes one number, an order's; those in `of_schedules` a schedule's. The coordinator's API is asked before a
    run of an order begins: it says whether the run is that order's own, and whether the order has its places. Runs of
    flows in `without_place` fill none of the `limit`; of those in `beside` as many again may be under way.
    """

    type = "consilium"
    stop_grace_seconds = 5.0
    _description = (
        "Runs the flows that are installed at a hospital, and nothing that a deployment brings along."
    )

    def __init__(
        self,
        pool: str,
        *,
        flows: ModuleType,
        post: Post,
        locks: Path,
        limit: int | None = None,
        of_schedules: Collection[str] = (),
        without_place: Collection[str] = (),
        beside: Collection[str] = (),
    ) -> None:
        super().__init__(pool, name=pool, limit=limit, create_pool_if_not_found=False)
        self._flows = installed_flows(flows)
        self._post, self._locks = post, locks
        self._of_schedules = frozenset(of_schedules)
        self._without_place, self._beside = frozenset(without_place), frozenset(beside)
        self._most_beside = limit
        self._under_way_beside: set[UUID] = set()
        self._work: dict[UUID, Work] = {}  # by flow run
        self._flow_names: dict[UUID, str] = {}  # by Prefect's id of the flow
        self._clock = Clock()
        self._left = asyncio.Event()  # a try was left without an answer: `look_again` makes another one
        self._held_up: dict[UUID, int] = {}  # runs whose last process ended with one of HOLDS_UP
        locks.mkdir(parents=True, exist_ok=True, mode=0o700)
        outage.share(locks / OUTAGE, afresh=True)

    async def run(self, flow_run: FlowRun, configuration: Any, task_status: Any = None) -> BaseWorkerResult:
        """Not used: `_submit_run` does not build a job configuration at all."""
        raise NotImplementedError

    async def connected(self) -> None:
        """The coordinator answers again, or another process of it does."""

    async def withdraw(self, order_id: int) -> None:
        """The order cannot go on here: it ends for all."""

    async def forget(self, order_id: int) -> None:
        """The order has ended and none of its processes is left here."""

    # Prefect, which may be away at any time and for any length of time

    async def sync_with_backend(self) -> None:
        """A heartbeat by REST (decision 4).

        Prefect's own channel by websocket sends it twice over, which SQLite answers with "database is locked", and
        writes its job template into the pool, which this worker has no use for.
        """
        asked = time.monotonic()
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
        except ObjectNotFound:
            log.warning(
                "Prefect knows no pool %s yet: the coordinator runs ./run server deploy", self._work_pool_name
            )
        except httpx.HTTPError as error:
            outage.missed(PREFECT, kind_of(error), asked=asked)
        await self._initialize_after_sync()

    async def _setup_cancellation_observer(self) -> None:
        """Not used: it stops for good when Prefect is away for a while. The coordinator's API watches for cancelled
        runs of all pools, and ends their orders."""

    async def _submit_scheduled_flow_runs(self, flow_run_response: list[Any]) -> list[FlowRun]:
        """As Prefect's, for runs that may begin and are not under way here. Two polls at once, its loop's and one that
        the coordinator woke, may both have heard of a run: its place in the limit is taken once, and a second try at
        it would raise RuntimeError, which ends the loop and with it the worker."""
        fresh = [entry.flow_run for entry in flow_run_response if entry.flow_run.id not in self._work]
        ready = await self._sort_out(fresh)
        entries = {entry.flow_run.id: entry for entry in flow_run_response}
        limited = []
        for flow_run in ready:
            if self._has(flow_run):
                continue  # another poll was quicker, while the coordinator was asked
            name = await self._flow_name(flow_run)
            if name not in self._beside and name not in self._without_place:
                limited.append(entries[flow_run.id])
                continue
            if name in self._beside:
                if not self._has_room_beside():
                    continue
                self._under_way_beside.add(flow_run.id)
            # Past Prefect's own way, which would take a place in the limit.
            self._submitting_flow_run_ids.add(flow_run.id)
            self._soon(self._submit_run, flow_run)
        return await super()._submit_scheduled_flow_runs(limited)

    def _has_room_beside(self) -> bool:
        return self._most_beside is None or len(self._under_way_beside) < self._most_beside

    def _release_limit_slot(self, flow_run_id: UUID) -> None:
        self._under_way_beside.discard(flow_run_id)
        super()._release_limit_slot(flow_run_id)

    async def _sort_out(self, flow_runs: list[FlowRun]) -> list[FlowRun]:
        """Those that may begin now. A run that is no order's own is ended here, and nothing of the order with it."""
        verdicts = await self._judge(flow_runs)
        ready = []
        for flow_run in flow_runs:
            verdict = verdicts[flow_run.id]
            if verdict.what == BEGIN:
                ready.append(flow_run)
            elif verdict.what == END:
                log.warning("Run %s is ended: %s", flow_run.name, verdict.sentence)
                await self._set_state(flow_run, Failed(message=f"{verdict.sentence} {NOTHING_RUN}"))
            elif flow_run.state is not None and not flow_run.state.is_scheduled():
                await self._put_back(flow_run)
        return ready

    async def _judge(self, flow_runs: list[FlowRun]) -> dict[UUID, Verdict]:
        """What to do with each run: begin, wait or end, and why. All wait while the coordinator is away."""
        verdicts: dict[UUID, Verdict] = {}
        asked = []
        for flow_run in flow_runs:
            name = await self._flow_name(flow_run)
            number = number_of(flow_run, "order_id")
            if name not in self._flows:
                verdicts[flow_run.id] = Verdict(END, "This flow is not installed here.")
            elif name in self._of_schedules:
                verdicts[flow_run.id] = Verdict(BEGIN)
            elif number is None:
                verdicts[flow_run.id] = Verdict(END, "The run's parameters are not an order's number.")
            else:
                verdicts[flow_run.id] = Verdict(WAIT)
                asked.append({"flow_run_id": str(flow_run.id), "flow": name, "order_id": number})
        if asked:
            # decision 54: only the API knows which runs it has made for which order.
            answer = await self._post.ask("POST", "/exchange/runs", {"runs": asked})
            for flow_run_id, verdict in answer["runs"].items():
                verdicts[UUID(flow_run_id)] = Verdict(verdict["what"], verdict["sentence"])
        return verdicts

    async def _put_back(self, flow_run: FlowRun) -> None:
        """The order has no places now: Prefect shows its run as one that has not begun, until it has. It is due at once
        by the coordinator's clock, by which it will be asked for."""
        now = self._clock.coordinators_time()
        message = "The order waits for places at its hospitals."
        await self._set_state(flow_run, Scheduled(scheduled_time=now, message=message))

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """As Prefect's; its loop, which ends the worker when the server is away for minutes, hears of no error."""
        asked = time.monotonic()
        try:
            found = await super().get_and_submit_flow_runs()
        except (CoordinatorAway, ObjectNotFound):  # or somebody has deleted a run that was found
            self._left.set()
            return []
        except httpx.HTTPError as error:
            outage.missed(PREFECT, kind_of(error), asked=asked)
            self._left.set()
            return []
        outage.answered(PREFECT)
        return found

    async def look_again(self) -> None:
        """After a try that Prefect did not answer the next one comes soon: its own loop's would take half a minute,
        and the coordinator's word comes once."""
        pause = 1.0
        while True:
            await self._left.wait()
            await asyncio.sleep(pause)
            self._left.clear()
            await self.get_and_submit_flow_runs()
            is_away = self._left.is_set()
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS) if is_away else 1.0

    async def _get_scheduled_flow_runs(self) -> list[Any]:
        """As Prefect's, which asks for what is due by this machine's clock: where that is behind, nothing ever is."""
        due = self._clock.coordinators_time() + timedelta(seconds=int(self._prefetch_seconds))
        try:
            return await self.client.get_scheduled_flow_runs_for_work_pool(
                work_pool_name=self._work_pool_name,
                scheduled_before=due,
                work_queue_names=list(self._work_queues),
            )
        except ObjectNotFound:
            return []  # the next heartbeat says so

    # What there is to run

    def duties(self) -> list[Coroutine[Any, Any, None]]:
        """What goes on side by side as long as the worker runs."""
        return [self.start(printer=log.info), self.listen(), self.take_up(), self.look_again()]

    async def listen(self) -> None:
        """Wakes on the coordinator's word; while the coordinator is away, Prefect's own polling goes on."""
        boot, cursor, pause = "", 0, 0.2
        while True:
            asked = time.monotonic()
            try:
                if not boot:
                    await self.connected()
                asked = time.monotonic()
                inbox = await self._post.read(boot, cursor)
                boot, cursor, pause = inbox["boot"], inbox["cursor"], 0.2
                if "time" in inbox:  # an older coordinator's answer lacks it
                    self._clock.heard(float(inbox["time"]), asked=asked)
                for news in inbox["news"]:
                    self._act(news)
                outage.answered(COORDINATOR)
            except (httpx.HTTPError, OSError, KeyError, ValueError) as error:
                outage.missed(COORDINATOR, kind_of(error), asked=asked)
                boot, pause = "", min(2 * pause, LONGEST_PAUSE_SECONDS)
                await asyncio.sleep(pause)

    def _act(self, news: Mapping[str, Any]) -> None:
        if self._runs_task_group is None:
            return
        if news["what"] == "stop":
            self._soon(self._end_order, int(news["order_id"]))
        else:
            self._soon(self.get_and_submit_flow_runs)

    async def take_up(self) -> None:
        """Runs that are under way by Prefect's word and not here: an earlier process of this worker left them, or an
        answer of Prefect was lost. The pool is this worker's alone."""
        pause = 0.2
        while True:
            if not self._has_successfully_synced and self.is_setup:
                await self.sync_with_backend()
            if not self._has_successfully_synced:
                await asyncio.sleep(pause)
                pause = min(2 * pause, 5.0)
                continue
            asked = time.monotonic()
            try:
                await self._take_up_left()
                outage.answered(PREFECT)
            except (CoordinatorAway, ObjectNotFound):
                pass  # the next look finds what there is then
            except httpx.HTTPError as error:
                outage.missed(PREFECT, kind_of(error), asked=asked)
            await asyncio.sleep(LOOK_SECONDS)

    async def _take_up_left(self) -> None:
        states = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING]))
        pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[self._work_pool_name]))
        found = await self.client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=states), work_pool_filter=pool
        )
        left = [flow_run for flow_run in found if not self._has(flow_run)]
        for flow_run in await self._sort_out(left):
            if not self._has(flow_run):
                log.info("Taking up %s", flow_run.name)
                self._begin(flow_run)

    def _has(self, flow_run: FlowRun) -> bool:
        return flow_run.id in self._work or flow_run.id in self._submitting_flow_run_ids

    async def _submit_run(self, flow_run: FlowRun) -> None:
        """Replaces Prefect's: no deployment is read, no job configuration is built."""
        try:
            if await self._propose_pending_state(flow_run):
                self._begin(flow_run)
            elif flow_run.id not in self._work:
                self._release_limit_slot(flow_run.id)
        finally:
            self._submitting_flow_run_ids.discard(flow_run.id)

    async def _propose_pending_state(self, flow_run: FlowRun) -> bool:
        """As Prefect's, which writes a traceback for a run that it could not take, and leaves it for half a minute."""
        asked = time.monotonic()
        try:
            state = await propose_state(self.client, Pending(), flow_run_id=flow_run.id)
        except (Abort, ObjectNotFound):  # it has ended meanwhile, or somebody has deleted it
            return False
        except httpx.HTTPError as error:
            outage.missed(PREFECT, kind_of(error), asked=asked)
            self._left.set()
            return False
        return bool(state.is_pending())

    def _begin(self, flow_run: FlowRun) -> None:
        """At most one keeper for each run, however it was found. A run taken up fills a place of the limit too."""
        if flow_run.id in self._work:
            return
        work = Work(number_of(flow_run, "order_id"))
        self._work[flow_run.id] = work
        name = self._flow_names.get(flow_run.flow_id)
        if name in self._beside:
            self._under_way_beside.add(flow_run.id)
        elif self._limiter and name not in self._without_place:
            # WouldBlock: more runs were left than fit now. RuntimeError: its submission has taken the place already.
            with contextlib.suppress(anyio.WouldBlock, RuntimeError):
                self._limiter.acquire_on_behalf_of_nowait(flow_run.id)
        self._soon(self._keep_running, flow_run, work)

    def _soon(self, call: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """A task whose failure does not end the worker: what it leaves undone is taken up again."""

        async def guarded() -> None:
            asked = time.monotonic()
            try:
                await call(*args)
            except httpx.HTTPError as error:
                outage.missed(PREFECT, kind_of(error), asked=asked)
            except Exception:
                log.exception("Unplanned error")

        assert self._runs_task_group is not None
        self._runs_task_group.start_soon(guarded)

    # One run

    async def _keep_running(self, flow_run: FlowRun, work: Work) -> None:
        """Starts the run's process, and starts it again when it dies, until it has reached a final state."""
        try:
            name = await self._flow_name(flow_run)
            parameter = "schedule_id" if name in self._of_schedules else "order_id"
            # Looked at again, before it runs: a run that was taken up may have been altered at Prefect.
            if name not in self._flows or number_of(flow_run, parameter) is None:
                message = "This flow or its parameters are not what is installed here."
                await self._set_state(flow_run, Failed(message=message))
                return
            await self._until_final(flow_run, work, self._flows[name], parameter)
        finally:
            del self._work[flow_run.id]
            self._release_limit_slot(flow_run.id)

    async def _until_final(
        self, flow_run: FlowRun, work: Work, installed: InstalledFlow, parameter: str
    ) -> None:
        """Another process after each that dies, after a pause that grows."""
        crashes, pause = 0, 0.1
        while crashes < MAX_CRASHES:
            began = time.monotonic()
            code = await self._one_process(flow_run, work, installed, parameter)
            self._note_end(flow_run.id, code)
            if code == 0 or work.ended:
                return
            if code == ExitCode.DISK_FULL:
                await self._until_room(work)
                if work.ended:
                    return
                continue
            if code == ExitCode.NO_PLACES:
                log.info("Order %s has no places now; %s waits", work.order_id, flow_run.name)
                await self._put_back(flow_run)
                return
            if time.monotonic() - began > CALM_SECONDS:
                crashes, pause = 0, 0.1
            if code not in COUNTED_FOR_NOTHING:
                crashes += 1
            if code != ExitCode.PREFECT_AWAY:
                log.warning("The process of %s ended with code %s; starting it again", flow_run.name, code)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        # A run that dies at once would die again at every other start: the other hospitals are not kept waiting.
        if work.order_id is not None:
            await self.withdraw(work.order_id)
        await self._set_state(flow_run, Crashed(message=f"The flow process died {MAX_CRASHES} times."))

    def _note_end(self, run_id: UUID, code: int | None) -> None:
        """What holds runs up here, a full disk or a site that is not ready; said once, however many runs it is."""
        before = set(self._held_up.values())
        self._held_up.pop(run_id, None)
        if code in HOLDS_UP:
            self._held_up[run_id] = code
        now = set(self._held_up.values())
        if ExitCode.DISK_FULL in now - before:
            log.warning("The disk is full: the orders under way wait, and go on when there is room")
        if ExitCode.DISK_FULL in before - now:
            log.warning("There is room on the disk again")

    async def _until_room(self, work: Work) -> None:
        """Until something can be written beside the runs' locks, or long enough for another disk to have room."""
        give_up = time.monotonic() + LOOK_FOR_ROOM_SECONDS
        while not work.ended and time.monotonic() < give_up:
            await asyncio.sleep(LOOK_AT_ROOM_SECONDS)
            if await anyio.to_thread.run_sync(has_room, self._locks):
                return

    async def _one_process(
        self, flow_run: FlowRun, work: Work, installed: InstalledFlow, parameter: str
    ) -> int:
        """Starts it, waits until it has ended, and gives its exit code."""
        lock = self._locks / f"{flow_run.id}.lock"
        process = new_process(flow_run.id, installed, parameter, lock)
        work.process = process
        await anyio.to_thread.run_sync(process.start)
        with anyio.move_on_after(GETS_ON_SECONDS) as early:
            await anyio.wait_readable(process.sentinel)
        if early.cancelled_caught:
            self._note_end(flow_run.id, None)  # it gets on: nothing holds it up any longer
            await anyio.wait_readable(process.sentinel)
        process.join()
        return int(process.exitcode or 0)

    async def _flow_name(self, flow_run: FlowRun) -> str:
        """What is run follows from it, by the list given at start; never from the deployment."""
        flow_id = flow_run.flow_id
        if flow_id not in self._flow_names:
            flow = await self.client.read_flow(flow_id)
            self._flow_names[flow_id] = flow.name
        return self._flow_names[flow_id]

    async def _end_order(self, order_id: int) -> None:
        """After the order has ended its flows end themselves; a process that does not is killed."""
        deadline = time.monotonic() + self.stop_grace_seconds
        while True:
            left = {run_id: work for run_id, work in self._work.items() if work.order_id == order_id}
            if not left:
                break
            if time.monotonic() > deadline:
                for run_id, work in left.items():
                    await self._kill(run_id, work)
            await asyncio.sleep(0.1)
        await self.forget(order_id)

    async def _kill(self, run_id: UUID, work: Work) -> None:
        if not work.ended:
            log.warning("The process of order %s did not end by itself; it is killed", work.order_id)
        work.ended = True
        if work.process is not None and work.process.is_alive():
            work.process.kill()
        flow_run = await self.client.read_flow_run(run_id)
        if flow_run.state is None or not flow_run.state.is_final():
            await self._set_state(flow_run, Cancelled(message="The order has ended."))

    async def _set_state(self, flow_run: FlowRun, state: State[Any]) -> None:
        """By force: what is so at this site is not for Prefect's rules to refuse."""
        await self.client.set_flow_run_state(flow_run.id, state, force=True)

    def kill_all(self) -> None:
        """Ends the flow processes with the worker; their runs are taken up when it starts again."""
        for work in list(self._work.values()):
            if work.process is not None and work.process.is_alive():
                work.process.kill()


# Starting


async def work_until_signal(worker: FlowWorker) -> None:
    """Runs the worker until SIGINT or SIGTERM."""
    hush()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    parts = [asyncio.create_task(duty) for duty in worker.duties()]
    stopped = asyncio.create_task(stop.wait())
    try:
        while not stopped.done():
            done, _ = await asyncio.wait([stopped, *parts], return_when=asyncio.FIRST_COMPLETED)
            for part in [part for part in parts if part in done]:
                parts.remove(part)
                part.result()  # raises what ended it, and the worker with it
    finally:
        worker.kill_all()
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)
