"""What the API asks of Prefect: it starts an order's flow run, reads its state and
deletes it at last, and keeps one deployment for each schedule.

Prefect is given names and numbers of orders only (decision 1). `Runs` has the calls,
`prefect_parts` reads the timeline out of Prefect's record, `due_times` counts
the times of schedules (decision 45), `prefect_deletion` deletes old runs (decision 82).
"""

from __future__ import annotations

import asyncio
import contextlib
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
from api.prefect_parts import STATUS, StepRun, parts_of
from protocol.errors import Unavailable
from protocol.machine.outage import PREFECT, Outage
from protocol.machine.pages import PAGE, all_pages
from protocol.run_lines import log_line, stays_there
from protocol.start_window import LATE

T = TypeVar("T")


@contextlib.asynccontextmanager
async def open_runs(
    url: str,
    auth: str | None,
) -> AsyncIterator[Runs]:
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
        return {
            **super().to_json(),
            "type": Unavailable.__name__,
        }


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
        asked_at = time.monotonic()
        try:
            yield
        # Prefect is there: it has answered that it has no such thing.
        except ObjectNotFound:
            self._outage.answered(PREFECT)
            raise
        except AWAY as error:
            error_name = type(error).__name__
            self._outage.missed(PREFECT, error_name, asked=asked_at)
            raise PrefectAway(
                f"Prefect does not answer ({error_name}).",
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
        self,
        deployment: str,
        order_id: int,
        tags: list[str],
        *,
        attempt: int = 0,
    ) -> str:
        """The id of the order's flow run; asked twice for one attempt, it is the same
        run.
        """

        async def start_once() -> str:
            found_deployment = await self._client.read_deployment_by_name(deployment)
            flow_run = await self._client.create_flow_run_from_deployment(
                found_deployment.id,
                parameters={"order_id": order_id},
                name=f"order-{order_id}",
                tags=[f"order-{order_id}", *tags],
                idempotency_key=f"order-{order_id}-{deployment}-{attempt}",
            )
            return str(flow_run.id)

        try:
            flow_run_id = await self._in_time(start_once)
        except ObjectNotFound:
            raise _not_deployed(f"deployment {deployment}") from None
        await self._say_where_its_log_is(flow_run_id, deployment)
        return flow_run_id

    async def _say_where_its_log_is(self, flow_run_id: str, deployment: str) -> None:
        """At a hospital's run, whose process sends no line. An order needs none."""
        _, is_hospitals, hospital_number = deployment.rpartition("/hospital-")
        if is_hospitals:
            line = log_line(flow_run_id, stays_there(int(hospital_number)))
            with contextlib.suppress(Exception):
                await self._client.create_logs([line])

    async def _flow_runs(self, run_filter: FlowRunFilter) -> list[FlowRun]:
        """On however many pages: an order has a run for each of its hospitals."""

        def flow_runs(
            limit: int,
            offset: int,
        ) -> Awaitable[list[FlowRun]]:
            return self._client.read_flow_runs(
                flow_run_filter=run_filter,
                limit=limit,
                offset=offset,
            )

        return await all_pages(flow_runs)

    async def status(self, flow_run_id: str) -> str:
        """The run's state in the request document's words."""
        try:
            with self._asking():
                flow_run = await self._client.read_flow_run(UUID(flow_run_id))
        # Somebody has deleted it there; the order is given a new one.
        except ObjectNotFound:
            return "pending"
        if flow_run.state_type is None:
            return "pending"
        return STATUS[flow_run.state_type]

    async def known(self, flow_run_ids: Iterable[str]) -> set[str]:
        """Those of these runs that Prefect has: none that somebody deleted, or of a
        database that was replaced.
        """
        run_ids = [UUID(flow_run_id) for flow_run_id in flow_run_ids]
        known_ids: set[str] = set()
        with self._asking():
            for start in range(0, len(run_ids), PAGE):
                ids = run_ids[start : start + PAGE]
                page = FlowRunFilter(id=FlowRunFilterId(any_=ids))
                flow_runs = await self._client.read_flow_runs(flow_run_filter=page)
                known_ids.update(str(flow_run.id) for flow_run in flow_runs)
        return known_ids

    async def cancelled(self, order_ids: Iterable[int]) -> set[int]:
        """Those orders of which somebody has cancelled a run in Prefect: the
        coordinator's or a hospital's. Not those that have begun without a hospital, whose
        run ends as cancelled by itself.
        """
        by_tag = {f"order-{order_id}": order_id for order_id in order_ids}
        tags = list(by_tag)
        types = [StateType.CANCELLING, StateType.CANCELLED]
        cancelled = FlowRunFilterStateType(any_=types)
        cancelled_orders: set[int] = set()
        with self._asking():
            for start in range(0, len(tags), MOST_TAGS):
                some_tags = tags[start : start + MOST_TAGS]
                run_filter = FlowRunFilter(
                    state=FlowRunFilterState(type=cancelled),
                    tags=FlowRunFilterTags(any_=some_tags),
                )
                for flow_run in await self._flow_runs(run_filter):
                    if flow_run.state is not None and flow_run.state.message == LATE:
                        continue
                    own_tags = [tag for tag in flow_run.tags if tag in by_tag]
                    cancelled_orders.update(by_tag[tag] for tag in own_tags)
        return cancelled_orders

    async def parts(
        self,
        order_id: int,
        names: list[str] | None,
    ) -> list[StepRun]:
        """The task runs of an order that have begun, of these names or all, by time."""
        tags = FlowRunFilterTags(any_=[f"order-{order_id}"])
        of_order = FlowRunFilter(tags=tags)
        called = None
        if names:
            called = TaskRunFilter(name=TaskRunFilterName(any_=names))

        def task_runs(
            limit: int,
            offset: int,
        ) -> Awaitable[list[TaskRun]]:
            return self._client.read_task_runs(
                flow_run_filter=of_order,
                task_run_filter=called,
                limit=limit,
                offset=offset,
            )

        tasks = await self._in_time(lambda: all_pages(task_runs))
        flow_runs = await self._in_time(lambda: self._flow_runs(of_order))
        return parts_of(tasks, flow_runs, now=datetime.now(UTC))

    async def cancel_waiting(self, order_id: int) -> None:
        """Cancels the order's runs that nobody has started yet; those under way hear of
        it through the exchange.
        """
        scheduled = FlowRunFilterStateType(any_=[StateType.SCHEDULED])
        run_filter = FlowRunFilter(
            state=FlowRunFilterState(type=scheduled),
            tags=FlowRunFilterTags(all_=[f"order-{order_id}"]),
        )
        with self._asking():
            # All before the first is cancelled: those of later pages would move up.
            flow_runs = await self._flow_runs(run_filter)
            for flow_run in flow_runs:
                # Somebody else may have just deleted it.
                with contextlib.suppress(ObjectNotFound):
                    await self._client.set_flow_run_state(
                        flow_run.id,
                        Cancelled(),
                        force=True,
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

    async def delete_ended_of_schedules(
        self,
        *,
        keep: int,
        before: datetime,
    ) -> None:
        """Deletes the schedules' own runs that have ended before, but for the newest:
        those that asked for no order have none with which they would go.
        """
        with self._asking():
            await _insist(
                lambda: delete_runs_of_flow(
                    self._client,
                    SCHEDULED_FLOW,
                    keep=keep,
                    before=before,
                )
            )

    async def is_ready(self, deployments: list[str]) -> bool:
        """Whether Prefect answers and knows these deployments."""
        try:
            with self._asking():
                for deployment_name in deployments:
                    await self._client.read_deployment_by_name(deployment_name)
        except (ObjectNotFound, PrefectAway):
            return False
        return True

    # Schedules: one deployment for each, with its parameters on the deployment

    async def deploy_schedule(
        self,
        schedule_id: int,
        timing: Mapping[str, Any],
        *,
        active: bool,
        about: str,
    ) -> None:
        """Makes or changes the schedule's deployment; runs that were due under an
        earlier timing are gone.
        """
        timing_fields = prefect_fields(timing)
        schedule_kind = CronSchedule if "cron" in timing else IntervalSchedule
        schedule = schedule_kind(**timing_fields)
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
        by_name = {}
        for schedule_id in schedule_ids:
            by_name[f"schedule-{schedule_id}"] = schedule_id
        names = list(by_name)
        deployment_filter = DeploymentFilter(name=DeploymentFilterName(any_=names))
        flow = FlowFilter(name=FlowFilterName(any_=[SCHEDULED_FLOW]))

        def deployed(
            limit: int,
            offset: int,
        ) -> Awaitable[list[DeploymentResponse]]:
            return self._client.read_deployments(
                flow_filter=flow,
                deployment_filter=deployment_filter,
                limit=limit,
                offset=offset,
            )

        deployments = await self._in_time(lambda: all_pages(deployed))
        by_id = {}
        for deployment in deployments:
            schedule_id = by_name[deployment.name]
            by_id[schedule_id] = _deployed(deployment, now)
        return by_id

    async def delete_schedule(self, schedule_id: int) -> None:
        """Deletes the schedule's deployment and its runs that have not begun."""

        deployment_name = f"{SCHEDULED_FLOW}/schedule-{schedule_id}"

        async def attempt() -> None:
            with contextlib.suppress(ObjectNotFound):
                deployment = await self._client.read_deployment_by_name(deployment_name)
                await self._client.delete_deployment(deployment.id)

        await self._in_time(attempt)


MOST_TAGS = 100
"""In one filter: Prefect puts them into one call of SQLite's json_array, which takes 127
arguments, and answers 500 above.
"""


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
        timing = _timing_of(schedule)
        due += due_after(timing, now, N_NEXT)
    next_runs = sorted(due)[:N_NEXT]
    return Deployed(
        str(deployment.id),
        bool(active),
        next_runs,
    )


def _timing_of(schedule: Any) -> dict[str, Any]:
    """A schedule of Prefect's, which somebody may have changed there."""
    zone = {"timezone": schedule.timezone or "UTC"}
    if isinstance(schedule, CronSchedule):
        return {"cron": schedule.cron, **zone}
    in_utc = schedule.anchor_date.astimezone(UTC)
    anchor = in_utc.replace(tzinfo=None)
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


def _not_deployed(missing: str) -> Unavailable:
    return Unavailable(
        f"Prefect knows no {missing}.",
        remedy="Run: ./run server deploy",
        code="not_deployed",
    )
