"""The only module of the API that asks Prefect: it starts an order's flow run and reads its state, and keeps one
deployment for each schedule.

Prefect is given names and numbers of orders only (decision 1). `Runs` has the calls, `parts_of` reads the timeline out
of Prefect's record (decision 51), `due_times` counts the times of schedules (decision 45).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    TaskRunFilter,
    TaskRunFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType, TaskRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Cancelled

from api.due_times import due_after, prefect_fields
from protocol.errors import Unavailable

T = TypeVar("T")
R = TypeVar("R", FlowRun, TaskRun)

# An order that will be resumed is never shown as failed: its own record says whether it has ended.
STATUS = {
    StateType.SCHEDULED: "pending",
    StateType.PENDING: "pending",
    StateType.RUNNING: "running",
    StateType.PAUSED: "running",
    StateType.COMPLETED: "success",
    StateType.FAILED: "failed",
    StateType.CRASHED: "failed",
    StateType.CANCELLING: "cancelled",
    StateType.CANCELLED: "cancelled",
}


@contextlib.asynccontextmanager
async def open_runs(url: str, auth: str | None) -> AsyncIterator[Runs]:
    """A client of Prefect's API for as long as the application runs."""
    async with PrefectClient(url, auth_string=auth) as client:
        yield Runs(client)


# On SQLite Prefect answers 500 while something else writes; a lock may last a minute, and no request waits so long.
START_SECONDS = 15.0
PAUSES = (0.3, 1.0, 2.0)
# What a call of Prefect's client raises where the server is away, slow (TimeoutError is an OSError) or in trouble.
AWAY = (httpx.HTTPError, PrefectHTTPStatusError, OSError)


class Runs:
    """Flow runs of orders. Every method raises Unavailable when Prefect does not answer."""

    def __init__(self, client: PrefectClient) -> None:
        self._client = client

    async def start(self, deployment: str, order_id: int, tags: list[str], *, attempt: int = 0) -> str:
        """The id of the order's flow run; asked twice for one attempt, it is the same run."""

        async def start_once() -> str:
            found = await self._client.read_deployment_by_name(deployment)
            run = await self._client.create_flow_run_from_deployment(
                found.id,
                parameters={"order_id": order_id},
                name=f"order-{order_id}",
                tags=[f"order-{order_id}", *tags],
                idempotency_key=f"order-{order_id}-{deployment}-{attempt}",
            )
            return str(run.id)

        try:
            async with asyncio.timeout(START_SECONDS):
                return await _insist(start_once)
        except ObjectNotFound:
            raise Unavailable(
                f"Prefect knows no deployment {deployment}.",
                remedy="Run: ./run server deploy",
                code="not_deployed",
            ) from None
        except AWAY as error:
            raise _away(error) from None

    async def status(self, flow_run_id: str) -> str:
        """The run's state in the request document's words."""
        try:
            run = await self._client.read_flow_run(UUID(flow_run_id))
        except ObjectNotFound:
            return "pending"
        except AWAY as error:
            raise _away(error) from None
        if run.state_type is None:
            return "pending"
        return STATUS[run.state_type]

    async def known(self, flow_run_ids: Iterable[str]) -> set[str]:
        """Those of these runs that Prefect has: none that somebody deleted, or of a database that was replaced."""
        wanted = [UUID(flow_run_id) for flow_run_id in flow_run_ids]
        found: set[str] = set()
        try:
            for start in range(0, len(wanted), PAGE):
                page = FlowRunFilter(id=FlowRunFilterId(any_=wanted[start : start + PAGE]))
                runs = await self._client.read_flow_runs(flow_run_filter=page)
                found.update(str(run.id) for run in runs)
        except AWAY as error:
            raise _away(error) from None
        return found

    async def cancelled(self, order_ids: Iterable[int]) -> set[int]:
        """Those orders of which somebody has cancelled a run in Prefect: the coordinator's or a hospital's."""
        by_tag = {f"order-{order_id}": order_id for order_id in order_ids}
        cancelled = FlowRunFilterStateType(any_=[StateType.CANCELLING, StateType.CANCELLED])
        wanted = FlowRunFilter(
            state=FlowRunFilterState(type=cancelled),
            tags=FlowRunFilterTags(any_=list(by_tag)),
        )
        try:
            runs = await self._client.read_flow_runs(flow_run_filter=wanted)
        except AWAY as error:
            raise _away(error) from None
        found: set[int] = set()
        for run in runs:
            found.update(by_tag[tag] for tag in run.tags if tag in by_tag)
        return found

    async def parts(self, order_id: int, names: list[str] | None) -> list[StepRun]:
        """The task runs of an order that have begun, of these names or all, by time."""
        of_order = FlowRunFilter(tags=FlowRunFilterTags(any_=[f"order-{order_id}"]))
        called = None
        if names:
            called = TaskRunFilter(name=TaskRunFilterName(any_=names))

        def task_runs(limit: int, offset: int) -> Awaitable[list[TaskRun]]:
            return self._client.read_task_runs(
                flow_run_filter=of_order,
                task_run_filter=called,
                limit=limit,
                offset=offset,
            )

        def flow_runs(limit: int, offset: int) -> Awaitable[list[FlowRun]]:
            return self._client.read_flow_runs(flow_run_filter=of_order, limit=limit, offset=offset)

        tasks = await _in_time(lambda: _all(task_runs))
        runs = await _in_time(lambda: _all(flow_runs))
        return parts_of(tasks, runs, now=datetime.now(UTC))

    async def cancel_waiting(self, order_id: int) -> None:
        """Cancels the order's runs that nobody has started yet; those under way hear of it through the exchange."""
        scheduled = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
        wanted = FlowRunFilter(state=scheduled, tags=FlowRunFilterTags(all_=[f"order-{order_id}"]))
        try:
            for run in await self._client.read_flow_runs(flow_run_filter=wanted):
                await self._client.set_flow_run_state(run.id, Cancelled(), force=True)
        except (ObjectNotFound, *AWAY) as error:
            raise _away(error) from None

    async def is_ready(self, deployments: list[str]) -> bool:
        """Whether Prefect answers and knows these deployments."""
        try:
            for name in deployments:
                await self._client.read_deployment_by_name(name)
        except (ObjectNotFound, *AWAY):
            return False
        return True

    # Schedules: one deployment for each, with its parameters on the deployment

    async def deploy_schedule(
        self, schedule_id: int, timing: Mapping[str, Any], *, active: bool, about: str
    ) -> None:
        """Makes or changes the schedule's deployment; runs that were due under an earlier timing are gone."""
        fields = prefect_fields(timing)
        schedule = CronSchedule(**fields) if "cron" in timing else IntervalSchedule(**fields)
        due = DeploymentScheduleCreate(schedule=schedule, active=active)

        async def attempt() -> None:
            flow_id = await self._client.create_flow_from_name(SCHEDULED_FLOW)
            await self._client.create_deployment(
                flow_id=flow_id,
                name=f"schedule-{schedule_id}",
                work_pool_name="coordinator",
                schedules=[due],
                paused=not active,
                parameters={"schedule_id": schedule_id},
                parameter_openapi_schema=SCHEDULE_PARAMETERS,
                enforce_parameter_schema=True,
                description=about,
                tags=["statistics", f"schedule-{schedule_id}"],
            )

        await _in_time(attempt)

    async def schedules(self, schedule_ids: Iterable[int], *, now: datetime) -> dict[int, Deployed]:
        """These schedules as Prefect has them; one that was deleted there is missing."""
        by_name = {f"schedule-{schedule_id}": schedule_id for schedule_id in schedule_ids}
        wanted = DeploymentFilter(name=DeploymentFilterName(any_=list(by_name)))
        flow = FlowFilter(name=FlowFilterName(any_=[SCHEDULED_FLOW]))

        def attempt() -> Awaitable[list[DeploymentResponse]]:
            return self._client.read_deployments(flow_filter=flow, deployment_filter=wanted)

        deployments = await _in_time(attempt)
        return {by_name[deployment.name]: _deployed(deployment, now) for deployment in deployments}

    async def delete_schedule(self, schedule_id: int) -> None:
        """Deletes the schedule's deployment and its runs that have not begun."""

        name = f"{SCHEDULED_FLOW}/schedule-{schedule_id}"

        async def attempt() -> None:
            with contextlib.suppress(ObjectNotFound):
                found = await self._client.read_deployment_by_name(name)
                await self._client.delete_deployment(found.id)

        await _in_time(attempt)


@dataclass(frozen=True)
class StepRun:
    """A task run of an order."""

    hospital: int | None  # None: the coordinator
    name: str
    began: datetime
    ended: datetime | None  # None: it still runs
    state: str  # a word of STATUS, or crashed


# Prefect writes a task's end in batches (decision 26), a moment after its flow's: a part without an end may only be on
# its way.
RECORD_SECONDS = 10.0


def parts_of(tasks: Iterable[TaskRun], flow_runs: Iterable[FlowRun], *, now: datetime) -> list[StepRun]:
    """The parts that these task runs are. One without an end that was begun again, or whose flow run has ended for some
    time, was cut off with its process; it lasted until then at the most."""
    runs = {run.id: run for run in flow_runs}
    begun = [task for task in tasks if task.start_time and task.flow_run_id in runs]
    begun.sort(key=_began)
    # When each task was begun, by run and name: again after its process died.
    begins: dict[tuple[UUID | None, str], list[datetime]] = {}
    for task in begun:
        key = (task.flow_run_id, task.name)
        begins.setdefault(key, []).append(_began(task))
    parts = []
    for task in begun:
        assert task.flow_run_id is not None
        run = runs[task.flow_run_id]
        hospital = _hospital_of(run.tags)
        began = _began(task)
        state = STATUS[task.state_type or StateType.RUNNING]
        ended: datetime | None = task.end_time
        if ended is None:
            cut_off = [later for later in begins[task.flow_run_id, task.name] if later > began]
            if run.end_time and (now - run.end_time).total_seconds() > RECORD_SECONDS:
                cut_off.append(run.end_time)
            if cut_off:
                ended, state = min(cut_off), "crashed"
        parts.append(StepRun(hospital, task.name, began, ended, state))
    return parts


def _began(task: TaskRun) -> datetime:
    assert task.start_time is not None
    return task.start_time


def _hospital_of(tags: Iterable[str]) -> int | None:
    """A hospital's run has its number as a tag; the coordinator's has none."""
    for tag in tags:
        if tag.startswith("hospital-"):
            number = tag.removeprefix("hospital-")
            return int(number) if number.isdecimal() else None
    return None


PAGE = 200


async def _all(page: Callable[[int, int], Awaitable[list[R]]]) -> list[R]:
    """Prefect answers a page at a time; what is made meanwhile may be on two."""
    found: dict[UUID, R] = {}
    for offset in itertools.count(0, PAGE):
        more = await page(PAGE, offset)
        for run in more:
            found[run.id] = run
        if len(more) < PAGE:
            return list(found.values())
    raise AssertionError("unreachable")


SCHEDULED_FLOW = "scheduled-statistics"
SCHEDULE_PARAMETERS = {
    "type": "object",
    "properties": {"schedule_id": {"type": "integer"}},
    "required": ["schedule_id"],
}
N_NEXT = 5


@dataclass(frozen=True)
class Deployed:
    """A schedule as Prefect has it."""

    deployment_id: str
    active: bool  # whether it is switched on there
    next_runs: list[datetime]  # in UTC, the first N_NEXT


def _deployed(deployment: DeploymentResponse, now: datetime) -> Deployed:
    active = []
    if not deployment.paused:
        active = [entry.schedule for entry in deployment.schedules if entry.active]
    # People may add schedules to a deployment in Prefect's page, so there may be several.
    due: list[datetime] = []
    for schedule in active:
        due += due_after(_timing_of(schedule), now, N_NEXT)
    return Deployed(str(deployment.id), bool(active), sorted(due)[:N_NEXT])


def _timing_of(schedule: Any) -> dict[str, Any]:
    """A schedule of Prefect's, which somebody may have changed there."""
    zone = {"timezone": schedule.timezone or "UTC"}
    if isinstance(schedule, CronSchedule):
        return {"cron": schedule.cron, **zone}
    anchor = schedule.anchor_date.astimezone(UTC).replace(tzinfo=None)
    return {"interval_seconds": schedule.interval.total_seconds(), "anchor": anchor.isoformat(), **zone}


async def _insist(attempt: Callable[[], Awaitable[T]]) -> T:
    """Tries again while Prefect answers with an error of its own."""
    for pause in PAUSES:
        try:
            return await attempt()
        except PrefectHTTPStatusError as error:
            if error.response.status_code < 500:
                raise
            await asyncio.sleep(pause)
    return await attempt()


async def _in_time(attempt: Callable[[], Awaitable[T]]) -> T:
    """The same within START_SECONDS; every fault of Prefect is Unavailable."""
    try:
        async with asyncio.timeout(START_SECONDS):
            return await _insist(attempt)
    except (ObjectNotFound, *AWAY) as error:
        raise _away(error) from None


def _away(error: Any) -> Unavailable:
    return Unavailable(
        f"Prefect does not answer ({type(error).__name__}).",
        remedy="Check the Prefect server; the order is kept.",
    )
