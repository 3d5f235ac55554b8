"""A Prefect worker that runs only flows installed with it, and goes on with what was
cut off.

It takes one thing from a flow run: its number, an order's or a schedule's. Entrypoint,
pull steps, command, environment and image that a deployment or job variable carries are
never read, so whoever controls the Prefect server gains no code execution here. A flow
process is tied to its agent: when the agent dies, so does it, and the next agent takes
the run up.

What overrides Prefect's worker and why stands at each method. `tasks.patient_worker`
has how it asks Prefect, `tasks.post` what the coordinator is asked. `tasks.kept_runs`
starts a run's process again when it dies; `tasks.flow_process` is that process, in a
fork server. `tasks.hospital.worker` and `deployments.coordinator_worker` are the two
kinds.

Decisions 2, 3 and 52.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Awaitable, Collection, Coroutine, Mapping
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
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Crashed, Failed, Scheduled
from prefect.workers.base import BaseWorkerResult

from protocol.exchange import LONGEST_PAUSE_SECONDS
from protocol.machine.outage import COORDINATOR, PREFECT, outage
from protocol.machine.pages import PAGE, all_pages
from tasks.flow_process import OUTAGE, installed_flows, kind_of, number_of
from tasks.kept_runs import MAX_CRASHES, KeptUntil, RunKeeper, Work
from tasks.patient_worker import PatientWorker
from tasks.post import BEGIN, END, WAIT, CoordinatorAway, Post, Verdict
from tasks.quiet import hush

log = logging.getLogger("consilium.worker")

LOOK_SECONDS, LOOK_AT_REST_SECONDS = 15.0, 60.0
"""Between two looks at Prefect for runs that are under way there and not here: while
there is work, and at rest.
"""
NOTHING_RUN = "Nothing of it was run: send orders to the coordinator's API, which makes their runs."


class FlowWorker(PatientWorker):
    """Runs the flows of the module `flows` for one pool.

    Nothing else, whatever a deployment says.

    A flow takes one number, an order's; those in `of_schedules` a schedule's. The
    coordinator's API is asked before a run of an order begins: it says whether the run
    is that order's own, and whether the order has its places. Runs of flows in
    `without_place` fill none of the `limit`; of those in `beside` as many again may be
    under way.
    """

    type = "consilium"
    stop_grace_seconds = 5.0
    _description = "Runs the flows that are installed at a hospital, and nothing that a deployment brings along."

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
        super().__init__(pool, limit=limit)
        self._flows = installed_flows(flows)
        self._post = post
        self._keeper = RunKeeper(locks, self.flow_environment)
        self._of_schedules = frozenset(of_schedules)
        self._without_place = frozenset(without_place)
        self._beside = frozenset(beside)
        self._most_beside = limit
        self._under_way_beside: set[UUID] = set()
        self._work: dict[UUID, Work] = {}  # by flow run
        self._flow_names: dict[UUID, str] = {}  # by Prefect's id of the flow
        # The coordinator has said something since the last look at Prefect.
        self._stirred = asyncio.Event()
        locks.mkdir(parents=True, exist_ok=True, mode=0o700)
        outage.share(locks / OUTAGE, afresh=True)

    async def run(
        self,
        flow_run: FlowRun,
        configuration: Any,
        task_status: Any = None,
    ) -> BaseWorkerResult:
        """Not used: `_submit_run` does not build a job configuration at all."""
        raise NotImplementedError

    def flow_environment(self) -> Mapping[str, str]:
        """What a flow process that is started now has to know beside what this worker
        was started with.
        """
        return {}

    def told(self, sentence: str, *, code: str) -> str:
        """What Prefect shows of why a run was ended or put back here."""
        return sentence

    async def connected(self) -> None:
        """The coordinator answers again, or another process of it does."""

    async def withdraw(self, order_id: int) -> None:
        """The order cannot go on here: it ends for all."""

    async def forget(self, order_id: int) -> None:
        """The order has ended and none of its processes is left here."""

    # Which runs may begin

    async def _submit_scheduled_flow_runs(
        self, flow_run_response: list[Any]
    ) -> list[FlowRun]:
        """As Prefect's, for runs that may begin and are not under way here.

        Two polls at once, its loop's and one that the coordinator woke, may both have
        heard of a run: its place in the limit is taken once, and a second try at it
        would raise RuntimeError, which ends the loop and with it the worker.
        """
        entries = {entry.flow_run.id: entry for entry in flow_run_response}
        fresh = []
        for flow_run_id, entry in entries.items():
            if flow_run_id not in self._work:
                fresh.append(entry.flow_run)
        ready = await self._sort_out(fresh)
        limited = []
        for flow_run in ready:
            if self._has(flow_run):
                continue  # another poll was quicker, while the coordinator was asked
            flow_name = await self._flow_name(flow_run)
            if flow_name not in self._beside and flow_name not in self._without_place:
                limited.append(entries[flow_run.id])
                continue
            if flow_name in self._beside:
                if not self._has_room_beside():
                    continue
                self._under_way_beside.add(flow_run.id)
            # Past Prefect's own way, which would take a place in the limit.
            self._submitting_flow_run_ids.add(flow_run.id)
            self._soon(self._submit_run, flow_run)
        return await super()._submit_scheduled_flow_runs(limited)

    def _has_room_beside(self) -> bool:
        if self._most_beside is None:
            return True
        return len(self._under_way_beside) < self._most_beside

    def _release_limit_slot(self, flow_run_id: UUID) -> None:
        self._under_way_beside.discard(flow_run_id)
        super()._release_limit_slot(flow_run_id)

    async def _sort_out(self, flow_runs: list[FlowRun]) -> list[FlowRun]:
        """Those that may begin now.

        A run that is no order's own is ended here, and nothing of the order with it.
        """
        verdicts = await self._judge(flow_runs)
        ready = []
        for flow_run in flow_runs:
            verdict = verdicts[flow_run.id]
            if verdict.what == BEGIN:
                ready.append(flow_run)
            elif verdict.what == END:
                log.warning("Run %s is ended: %s", flow_run.name, verdict.sentence)
                sentence = f"{verdict.sentence} {NOTHING_RUN}"
                message = self.told(sentence, code="stray")
                await self._set_state(flow_run, Failed(message=message))
            elif flow_run.state is not None and not flow_run.state.is_scheduled():
                await self._put_back(flow_run)
        return ready

    async def _judge(self, flow_runs: list[FlowRun]) -> dict[UUID, Verdict]:
        """What to do with each run: begin, wait or end, and why.

        CoordinatorAway while the API does not answer.
        """
        verdicts: dict[UUID, Verdict] = {}
        asked_runs = []
        for flow_run in flow_runs:
            flow_name = await self._flow_name(flow_run)
            order_id = number_of(flow_run, "order_id")
            if flow_name not in self._flows:
                sentence = "This flow is not installed here."
                verdicts[flow_run.id] = Verdict(END, sentence)
            elif flow_name in self._of_schedules:
                verdicts[flow_run.id] = Verdict(BEGIN)
            elif order_id is None:
                sentence = "The run's parameters are not an order's number."
                verdicts[flow_run.id] = Verdict(END, sentence)
            else:
                # Until the API says more; what it does not mention waits.
                verdicts[flow_run.id] = Verdict(WAIT)
                asked_run = {
                    "flow_run_id": str(flow_run.id),
                    "flow": flow_name,
                    "order_id": order_id,
                }
                asked_runs.append(asked_run)
        if asked_runs:
            # decision 54: only the API knows which runs it has made for which order.
            answer = await self._post.ask(
                "POST", "/exchange/runs", {"runs": asked_runs}
            )
            for flow_run_id, verdict_fields in answer["runs"].items():
                verdict = Verdict(verdict_fields["what"], verdict_fields["sentence"])
                verdicts[UUID(flow_run_id)] = verdict
        return verdicts

    async def _put_back(self, flow_run: FlowRun) -> None:
        """The order has no places now: its run is one that has not begun, until it has.

        It is due at once by the coordinator's clock, by which it will be asked for.
        """
        now = self._clock.coordinators_time()
        sentence = "The order waits for places at its hospitals."
        message = self.told(sentence, code="order_waits")
        await self._set_state(flow_run, Scheduled(scheduled_time=now, message=message))

    # What there is to run

    def duties(self) -> list[Coroutine[Any, Any, None]]:
        """What goes on side by side as long as the worker runs."""
        return [
            self.start(printer=log.info),
            self.listen(),
            self.take_up(),
            self.look_again(),
        ]

    async def listen(self) -> None:
        """Wakes on the coordinator's word.

        While the coordinator is away, Prefect's own polling goes on.
        """
        boot = ""  # the API's process that gave the last news; none yet
        cursor = 0
        pause = 0.2
        while True:
            asked_at = time.monotonic()
            try:
                if not boot:
                    await self.connected()
                asked_at = time.monotonic()
                inbox = await self._post.read(boot, cursor)
                boot = inbox["boot"]
                cursor = inbox["cursor"]
                pause = 0.2
                if "time" in inbox:  # an older coordinator's answer lacks it
                    self._clock.heard(float(inbox["time"]), asked=asked_at)
                for news in inbox["news"]:
                    self._act(news)
                outage.answered(COORDINATOR)
            except (httpx.HTTPError, OSError, KeyError, ValueError) as error:
                outage.missed(COORDINATOR, kind_of(error), asked=asked_at)
                # It may be another process that answers next: present this site again.
                boot = ""
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                await asyncio.sleep(pause)

    def _act(self, news: Mapping[str, Any]) -> None:
        self._stirred.set()
        if self._runs_task_group is None:
            return
        if news["what"] == "stop":
            self._soon(self._end_order, int(news["order_id"]))
        else:
            self._soon(self.get_and_submit_flow_runs)

    async def take_up(self) -> None:
        """Runs that are under way by Prefect's word and not here.

        An earlier process of this worker left them, or an answer of Prefect was lost.
        The pool is this worker's alone.
        """
        pause = 0.2
        while True:
            if not self._has_successfully_synced and self.is_setup:
                await self.sync_with_backend()
            if not self._has_successfully_synced:
                await asyncio.sleep(pause)
                pause = min(2 * pause, 5.0)
                continue
            asked_at = time.monotonic()
            try:
                await self._take_up_left()
                outage.answered(PREFECT)
            except (CoordinatorAway, ObjectNotFound):
                pass  # the next look finds what there is then
            except httpx.HTTPError as error:
                outage.missed(PREFECT, kind_of(error), asked=asked_at)
            await self._until_next_look()

    async def _until_next_look(self) -> None:
        """At rest nothing is lost that the coordinator had not spoken of before."""
        if not self._work:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AT_REST_SECONDS - LOOK_SECONDS):
                    await self._stirred.wait()
        self._stirred.clear()
        await asyncio.sleep(LOOK_SECONDS)

    async def _take_up_left(self) -> None:
        flow_runs = await self._runs_under_way()
        left_runs = [flow_run for flow_run in flow_runs if not self._has(flow_run)]
        for start in range(0, len(left_runs), PAGE):
            for flow_run in await self._sort_out(left_runs[start : start + PAGE]):
                # Another poll may have been quicker, while the coordinator was asked.
                if not self._has(flow_run):
                    log.info("Taking up %s", flow_run.name)
                    self._begin(flow_run)

    async def _runs_under_way(self) -> list[FlowRun]:
        """All of the pool's, by Prefect's word.

        They may be many: approvals wait for a person and fill no place.
        """
        types = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING])
        run_filter = FlowRunFilter(state=FlowRunFilterState(type=types))
        pool_name = WorkPoolFilterName(any_=[self._work_pool_name])
        pool_filter = WorkPoolFilter(name=pool_name)

        def flow_runs(limit: int, offset: int) -> Awaitable[list[FlowRun]]:
            return self.client.read_flow_runs(
                flow_run_filter=run_filter,
                work_pool_filter=pool_filter,
                limit=limit,
                offset=offset,
            )

        return await all_pages(flow_runs)

    def _has(self, flow_run: FlowRun) -> bool:
        run_id = flow_run.id
        return run_id in self._work or run_id in self._submitting_flow_run_ids

    async def _submit_run(self, flow_run: FlowRun) -> None:
        """Replaces Prefect's: no deployment is read, no job configuration is built."""
        try:
            if await self._propose_pending_state(flow_run):
                self._begin(flow_run)
            elif flow_run.id not in self._work:
                self._release_limit_slot(flow_run.id)
        finally:
            self._submitting_flow_run_ids.discard(flow_run.id)

    def _begin(self, flow_run: FlowRun) -> None:
        """At most one keeper for each run, however it was found.

        A run taken up fills a place of the limit too.
        """
        if flow_run.id in self._work:
            return
        work = Work(number_of(flow_run, "order_id"))
        self._work[flow_run.id] = work
        flow_name = self._flow_names.get(flow_run.flow_id)
        if flow_name in self._beside:
            self._under_way_beside.add(flow_run.id)
        elif self._limiter and flow_name not in self._without_place:
            # WouldBlock: more runs were left than fit now. RuntimeError: its submission
            # has taken the place already.
            with contextlib.suppress(anyio.WouldBlock, RuntimeError):
                self._limiter.acquire_on_behalf_of_nowait(flow_run.id)
        self._soon(self._keep_running, flow_run, work)

    # One run

    async def _keep_running(self, flow_run: FlowRun, work: Work) -> None:
        """Starts the run's process, and starts it again when it dies.

        Until the run has reached a final state, or waits for places.
        """
        try:
            flow_name = await self._flow_name(flow_run)
            parameter = "schedule_id" if flow_name in self._of_schedules else "order_id"
            # Looked at again, before it runs: a run that was taken up may have been
            # altered at Prefect.
            if flow_name not in self._flows or number_of(flow_run, parameter) is None:
                sentence = "This flow or its parameters are not what is installed here."
                message = self.told(sentence, code="stray")
                await self._set_state(flow_run, Failed(message=message))
                return
            until = await self._keeper.keep_running(
                flow_run,
                work,
                self._flows[flow_name],
                parameter,
            )
            if until is KeptUntil.NO_PLACES:
                log.info(
                    "Order %s has no places now; %s waits", work.order_id, flow_run.name
                )
                await self._put_back(flow_run)
            if until is KeptUntil.TOO_MANY_CRASHES:
                await self._give_up(flow_run, work)
        finally:
            del self._work[flow_run.id]
            self._release_limit_slot(flow_run.id)

    async def _give_up(self, flow_run: FlowRun, work: Work) -> None:
        """A run that dies at once would die again at every other start.

        The other hospitals are not kept waiting.
        """
        if work.order_id is not None:
            await self.withdraw(work.order_id)
        sentence = f"The flow process died {MAX_CRASHES} times."
        message = self.told(sentence, code="withdrawn")
        await self._set_state(flow_run, Crashed(message=message))

    async def _flow_name(self, flow_run: FlowRun) -> str:
        """What is run follows from it, by the list given at start.

        Never from the deployment.
        """
        flow_id = flow_run.flow_id
        if flow_id not in self._flow_names:
            flow = await self.client.read_flow(flow_id)
            self._flow_names[flow_id] = flow.name
        return self._flow_names[flow_id]

    async def _end_order(self, order_id: int) -> None:
        """After the order has ended its flows end themselves.

        A process that does not is killed.
        """
        deadline = time.monotonic() + self.stop_grace_seconds
        while True:
            remaining_work = {}
            for run_id, work in self._work.items():
                if work.order_id == order_id:
                    remaining_work[run_id] = work
            if not remaining_work:
                break
            if time.monotonic() > deadline:
                for run_id, work in remaining_work.items():
                    await self._kill(run_id, work)
            await asyncio.sleep(0.1)
        await self.forget(order_id)

    async def _kill(self, run_id: UUID, work: Work) -> None:
        if not work.ended:
            log.warning(
                "The process of order %s did not end by itself; it is killed",
                work.order_id,
            )
        # Before the kill: the keeper must not start it again.
        work.ended = True
        work.kill()
        flow_run = await self.client.read_flow_run(run_id)
        if flow_run.state is None or not flow_run.state.is_final():
            message = self.told("The order has ended.", code="order_stopped")
            await self._set_state(flow_run, Cancelled(message=message))

    async def _set_state(self, flow_run: FlowRun, state: State[Any]) -> None:
        """By force: what is so at this site is not for Prefect's rules to refuse."""
        await self.client.set_flow_run_state(flow_run.id, state, force=True)

    def kill_all(self) -> None:
        """Ends the flow processes with the worker.

        Their runs are taken up when it starts again.
        """
        for work in self._work.values():
            work.kill()


# Starting


async def work_until_signal(worker: FlowWorker) -> None:
    """Runs the worker until SIGINT or SIGTERM."""
    hush()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    duty_tasks = [asyncio.create_task(duty) for duty in worker.duties()]
    stopped = asyncio.create_task(stop.wait())
    try:
        while not stopped.done():
            finished, _ = await asyncio.wait(
                [stopped, *duty_tasks], return_when=asyncio.FIRST_COMPLETED
            )
            for duty_task in [*duty_tasks]:
                if duty_task in finished:
                    duty_tasks.remove(duty_task)
                    duty_task.result()  # raises what ended it, and the worker with it
    finally:
        worker.kill_all()
        for duty_task in duty_tasks:
            duty_task.cancel()
        await asyncio.gather(*duty_tasks, return_exceptions=True)
