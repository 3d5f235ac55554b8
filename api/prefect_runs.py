"""What the API asks of Prefect: it starts an order's flow run, reads its state and
deletes it at last, and keeps one deployment for each schedule.

Prefect is given names and numbers of orders only (decision 1). `Runs` has the calls,
`parts_of` reads the timeline out of Prefect's record (decision 51), `due_times` counts
the times of schedules (decision 45), `prefect_deletion` deletes old runs (decision 82).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
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
from api.prefect_deletion import delete_runs_of, delete_runs_of_flow
from protocol.errors import Unavailable
from protocol.machine.outage import PREFECT, Outage

T = TypeVar("T")
R = TypeVar("R", FlowRun, TaskRun)

# An order that will be resumed is never shown as failed: its own record says whether it
# has ended.
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


# On SQLite Prefect answers 500 while something else writes; a lock may last a minute,
# and no request waits so long.
START_SECONDS = 15.0
PAUSES = (0.3, 1.0, 2.0)
# What a call of Prefect's client raises where the server is away, slow (TimeoutError is
# an OSError) or in trouble.
AWAY = (httpx.HTTPError, PrefectHTTPStatusError, OSError)


class PrefectAway(Unavailable):
    """Prefect does not answer, or with an error of its own; the log has said so."""

    def to_json(self) -> dict[str, Any]:
        """To others it is Unavailable, which they know."""
        return {**super().to_json(), "type": Unavailable.__name__}


class Runs:
    """Flow runs of orders.

    Every method raises PrefectAway when Prefect does not answer. The log says once that
    it does not, and once that it does again, however many ask.
    """

    def __init__(self, client: PrefectClient) -> None:
        self._client = client
        self._outage = Outage()

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        asked = time.monotonic()
        try:
            yield
        except ObjectNotFound:
            self._outage.answered(PREFECT)
            raise
        except AWAY as error:
            kind = type(error).__name__
            self._outage.missed(PREFECT, kind, asked=asked)
            raise PrefectAway(
                f"Prefect does not answer ({kind}).",
                remedy="Check the Prefect server; the order is kept.",
            ) from None
        self._outage.answered(PREFECT)

    async def _in_time(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What Prefect answers within START_SECONDS, asked again where it is in
        trouble.
        """
        with self._asking():
            async with asyncio.timeout(START_SECONDS):
                return await _insist(attempt)

    async def start(
        self, deployment: str, order_id: int, tags: list[str], *, attempt: int = 0
    ) -> str:
        """The id of the order's flow run; asked twice for one attempt, it is the same
        run.
        """

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
            return await self._in_time(start_once)
        except ObjectNotFound:
            raise _not_deployed(f"deployment {deployment}") from None

    async def status(self, flow_run_id: str) -> str:
        """The run's state in the request document's words."""
        try:
            with self._asking():
                run = await self._client.read_flow_run(UUID(flow_run_id))
        except ObjectNotFound:
            return "pending"
        if run.state_type is None:
            return "pending"
        return STATUS[run.state_type]

    async def known(self, flow_run_ids: Iterable[str]) -> set[str]:
        """Those of these runs that Prefect has: none that somebody deleted, or of a
        database that was replaced.
        """
        wanted = [UUID(flow_run_id) for flow_run_id in flow_run_ids]
        found: set[str] = set()
        with self._asking():
            for start in range(0, len(wanted), PAGE):
                page = FlowRunFilter(
                    id=FlowRunFilterId(any_=wanted[start : start + PAGE])
                )
                runs = await self._client.read_flow_runs(flow_run_filter=page)
                found.update(str(run.id) for run in runs)
        return found

    async def cancelled(self, order_ids: Iterable[int]) -> set[int]:
        """Those orders of which somebody has cancelled a run in Prefect: the
        coordinator's or a hospital's.
        """
        by_tag = {f"order-{order_id}": order_id for order_id in order_ids}
        tags = list(by_tag)
        cancelled = FlowRunFilterStateType(
            any_=[StateType.CANCELLING, StateType.CANCELLED]
        )
        found: set[int] = set()
        with self._asking():
            for start in range(0, len(tags), MOST_TAGS):
                some = FlowRunFilterTags(any_=tags[start : start + MOST_TAGS])
                wanted = FlowRunFilter(
                    state=FlowRunFilterState(type=cancelled), tags=some
                )
                for run in await self._client.read_flow_runs(flow_run_filter=wanted):
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
            return self._client.read_flow_runs(
                flow_run_filter=of_order, limit=limit, offset=offset
            )

        tasks = await self._in_time(lambda: _all(task_runs))
        runs = await self._in_time(lambda: _all(flow_runs))
        return parts_of(tasks, runs, now=datetime.now(UTC))

    async def cancel_waiting(self, order_id: int) -> None:
        """Cancels the order's runs that nobody has started yet; those under way hear of
        it through the exchange.
        """
        scheduled = FlowRunFilterState(
            type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])
        )
        wanted = FlowRunFilter(
            state=scheduled, tags=FlowRunFilterTags(all_=[f"order-{order_id}"])
        )
        with self._asking():
            for run in await self._client.read_flow_runs(flow_run_filter=wanted):
                # Somebody else may have just deleted it.
                with contextlib.suppress(ObjectNotFound):
                    await self._client.set_flow_run_state(
                        run.id, Cancelled(), force=True
                    )

    async def delete_ended(
        self, order_ids: Sequence[int], *, before: datetime
    ) -> set[int]:
        """Deletes the runs of these orders that have ended before, with all that
        belongs to them; the orders of which Prefect has another run.
        """
        with self._asking():
            return await _insist(
                lambda: delete_runs_of(self._client, order_ids, before=before)
            )

    async def delete_ended_of_schedules(self, *, keep: int, before: datetime) -> None:
        """Deletes the schedules' own runs that have ended before, but for the newest:
        those that asked for no order have none with which they would go.
        """
        with self._asking():
            await _insist(
                lambda: delete_runs_of_flow(
                    self._client, SCHEDULED_FLOW, keep=keep, before=before
                )
            )

    async def is_ready(self, deployments: list[str]) -> bool:
        """Whether Prefect answers and knows these deployments."""
        try:
            with self._asking():
                for name in deployments:
                    await self._client.read_deployment_by_name(name)
        except (ObjectNotFound, PrefectAway):
            return False
        return True

    # Schedules: one deployment for each, with its parameters on the deployment

    async def deploy_schedule(
        self, schedule_id: int, timing: Mapping[str, Any], *, active: bool, about: str
    ) -> None:
        """Makes or changes the schedule's deployment; runs that were due under an
        earlier timing are gone.
        """
        fields = prefect_fields(timing)
        schedule = (
            CronSchedule(**fields) if "cron" in timing else IntervalSchedule(**fields)
        )
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

        try:
            await self._in_time(attempt)
        except ObjectNotFound:
            raise _not_deployed("work pool coordinator") from None

    async def schedules(
        self, schedule_ids: Iterable[int], *, now: datetime
    ) -> dict[int, Deployed]:
        """These schedules as Prefect has them; one that was deleted there is missing."""
        by_name = {
            f"schedule-{schedule_id}": schedule_id for schedule_id in schedule_ids
        }
        wanted = DeploymentFilter(name=DeploymentFilterName(any_=list(by_name)))
        flow = FlowFilter(name=FlowFilterName(any_=[SCHEDULED_FLOW]))

        def attempt() -> Awaitable[list[DeploymentResponse]]:
            return self._client.read_deployments(
                flow_filter=flow, deployment_filter=wanted
            )

        deployments = await self._in_time(attempt)
        return {
            by_name[deployment.name]: _deployed(deployment, now)
            for deployment in deployments
        }

    async def delete_schedule(self, schedule_id: int) -> None:
        """Deletes the schedule's deployment and its runs that have not begun."""

        name = f"{SCHEDULED_FLOW}/schedule-{schedule_id}"

        async def attempt() -> None:
            with contextlib.suppress(ObjectNotFound):
                found = await self._client.read_deployment_by_name(name)
                await self._client.delete_deployment(found.id)

        await self._in_time(attempt)


@dataclass(frozen=True)
class StepRun:
    """A task run of an order."""

    hospital: int | None  # None: the coordinator
    name: str
    began: datetime
    ended: datetime | None  # None: it still runs
    state: str  # a word of STATUS, or crashed


# Prefect writes a task's end in batches (decision 26), a moment after its flow's: a
# part without an end may only be on its way.
RECORD_SECONDS = 10.0


def parts_of(
    tasks: Iterable[TaskRun], flow_runs: Iterable[FlowRun], *, now: datetime
) -> list[StepRun]:
    """The parts that these task runs are. One without an end that was begun again, or
    whose flow run has ended for some time, was cut off with its process; it lasted
    until then at the most.
    """
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
            cut_off = [
                later for later in begins[task.flow_run_id, task.name] if later > began
            ]
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
MOST_TAGS = 100
"""In one filter: Prefect puts them into one call of SQLite's json_array, which takes 127
arguments, and answers 500 above.
"""


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
    # People may add schedules to a deployment in Prefect's page, so there may be
    # several.
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
    return {
        "interval_seconds": schedule.interval.total_seconds(),
        "anchor": anchor.isoformat(),
        **zone,
    }


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


def _not_deployed(what: str) -> Unavailable:
    return Unavailable(
        f"Prefect knows no {what}.",
        remedy="Run: ./run server deploy",
        code="not_deployed",
    )
