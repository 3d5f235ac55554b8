"""Questions of joint statistics that are asked again and again, and what became of each
time (decision 45). `model_schedules.py` has the routes of models in the same form.

A schedule is a question, its sealed places and a timing, kept in the store, and one
deployment in Prefect, which says when. Each time its flow run asks here for an order;
the hospitals check and answer that order as any other.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, Field

from api.answers import answer
from api.auth import (
    AGENT,
    HOSPITAL,
    OPERATOR,
    CallerOf,
    require_owner,
    require_reader,
    require_role,
)
from api.due_times import Timing, check_timing
from api.prefect_runs import Deployed
from api.routes.services import (
    Before,
    IdempotencyKey,
    Limit,
    Services,
    progress,
    waiting_for,
)
from api.routes.statistics import (
    resolved,
    seal_places,
    summary_of,
    why_waiting,
    without_places,
)
from api.store.engine import in_thread
from api.store.hospitals import Caller
from api.store.once import Once
from api.store.rows import FiringRow, OrderRow, ScheduleRow, cause_of
from protocol.errors import BadRequest, ConsiliumError, NotFound, Unavailable
from protocol.fields import Asked, printable
from protocol.start_window import check_no_window
from protocol.statistics_request import StatisticsRequest

router = APIRouter(prefix="/statistics")

CHANGED = "schedules"
"""Rung when a schedule is made, changed or deleted."""

ScheduleId = Annotated[int, Path(ge=1, lt=2**31)]
Name = Annotated[str, Field(max_length=200), AfterValidator(printable)]


class ScheduleRequest(StatisticsRequest):
    """The body of POST /statistics/schedules: a question, and when it is asked."""

    schedule: Timing
    name: Name = ""


class ScheduleChange(Asked):
    """The body of PATCH /statistics/schedules/{schedule_id}."""

    active: bool | None = None
    schedule: Timing | None = None
    name: Name | None = None


# Making and changing


@router.post("/schedules")
async def add_schedule(
    request: Request,
    caller: CallerOf,
    body: ScheduleRequest,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """A question that is asked again and again from now on."""
    services = Services(request)
    timing, question = await checked(services, caller, body)
    once = Once.of(
        caller, idempotency_key, body.model_dump(mode="json", exclude_unset=True)
    )
    boxes = await seal_places(services, question)
    schedule_id, is_new = await in_thread(
        services.store.schedules.add,
        boxes,
        name=body.name,
        initiator=question.initiator,
        hospitals=question.hospitals,
        body=without_places(question),
        timing=timing,
        once=once,
    )
    schedule = await deploy_or_drop(services, schedule_id, is_new=is_new)
    return answer(await shown(services, schedule))


async def checked(
    services: Services, caller: Caller, body: ScheduleRequest
) -> tuple[dict[str, Any], StatisticsRequest]:
    """When it is asked, and the question alone.

    Nobody waits for the answer, so there is nobody to show values to.
    """
    not_asked = {"schedule", "name", "timeout_seconds"}
    question_fields = body.model_dump(mode="json", exclude_none=True, exclude=not_asked)
    question = await resolved(
        services, caller, StatisticsRequest.model_validate(question_fields)
    )
    if question.disclose:
        raise BadRequest(
            "disclose is true, and nobody waits for a schedule's answers.",
            remedy="Leave disclose out, and give a reader to whose own key each answer is sealed; each result is in the"
            " receivers' folders too.",
            code="disclose",
        )
    check_no_window(question)
    return check_timing(body.schedule, now=utc_now()), question


async def deploy_or_drop(
    services: Services, schedule_id: int, *, is_new: bool
) -> ScheduleRow:
    """The schedule, which Prefect has when it was made now; whoever sent one that Prefect
    does not take hears that there is none, so there is none.
    """
    schedule: ScheduleRow = await in_thread(services.store.schedules.get, schedule_id)
    if is_new:
        try:
            await _deploy(services, schedule, active=True)
        except ConsiliumError:
            await in_thread(services.store.schedules.drop, schedule_id)
            raise
    return schedule


async def _deploy(services: Services, schedule: ScheduleRow, *, active: bool) -> None:
    if schedule.reruns is None:
        schedule_name = schedule.name or schedule.body["result_alias"]
        about = f"{schedule_name}: {schedule.body['method']}"
    else:
        about = f"{schedule.name or 'a model'}: order {schedule.reruns} again"
    await services.runs.deploy_schedule(
        schedule.schedule_id, schedule.timing, active=active, about=about
    )
    services.bell.ring(CHANGED)


@router.get("/schedules")
async def list_schedules(
    request: Request,
    caller: CallerOf,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    before: Before = None,
) -> JSONResponse:
    """Newest first; `before` is the schedule_id to go on from."""
    return await listed(Services(request), caller, limit, before, reruns=False)


async def listed(
    services: Services,
    caller: Caller,
    limit: int,
    before: int | None,
    *,
    reruns: bool,
) -> JSONResponse:
    """The answer of a list, of questions or of orders that are run again."""
    schedules = await in_thread(
        services.store.schedules.newest,
        hospital=_own(caller),
        limit=limit,
        before=before,
        reruns=reruns,
    )
    deployed, message = await in_prefect(services, schedules)
    rows = [await _shown_as(services, schedule, deployed) for schedule in schedules]
    goes_on_from = schedules[-1].schedule_id if len(schedules) == limit else None
    return answer({"schedules": rows, "next": goes_on_from}, message=message)


def _own(caller: Caller) -> int | None:
    return caller.user_id if caller.role in (HOSPITAL, AGENT) else None


@router.get("/schedules/{schedule_id}")
async def show_schedule(
    request: Request, caller: CallerOf, schedule_id: ScheduleId
) -> JSONResponse:
    """What is asked, when, and whether Prefect has it switched on."""
    services = Services(request)
    return await shown_to(services, caller, schedule_id, reruns=False)


async def scheduled(
    services: Services, schedule_id: int, *, reruns: bool, or_deleted: bool = False
) -> ScheduleRow:
    """A schedule of a question, or of an order that is run again. Raises NotFound."""
    schedule: ScheduleRow = await in_thread(
        services.store.schedules.get, schedule_id, or_deleted=or_deleted
    )
    if (schedule.reruns is not None) != reruns:
        where = "/model/schedules" if reruns else "/statistics/schedules"
        raise NotFound(
            f"There is no schedule {schedule_id} here.",
            remedy=f"GET {where} lists them.",
            code="schedule",
        )
    return schedule


async def shown_to(
    services: Services, caller: Caller, schedule_id: int, *, reruns: bool
) -> JSONResponse:
    """The answer that shows one schedule."""
    schedule = await scheduled(services, schedule_id, reruns=reruns)
    require_reader(caller, schedule.hospitals)
    deployed, message = await in_prefect(services, [schedule])
    return answer(await _shown_as(services, schedule, deployed), message=message)


@router.patch("/schedules/{schedule_id}")
async def change_schedule(
    request: Request, caller: CallerOf, schedule_id: ScheduleId, body: ScheduleChange
) -> JSONResponse:
    """Pauses it or goes on, at other times or under another name."""
    services = Services(request)
    return await changed(services, caller, schedule_id, body, reruns=False)


async def changed(
    services: Services,
    caller: Caller,
    schedule_id: int,
    body: ScheduleChange,
    *,
    reruns: bool,
) -> JSONResponse:
    """The answer of a change."""
    schedule = await scheduled(services, schedule_id, reruns=reruns)
    require_owner(caller, schedule.initiator)
    if body.active is None and body.schedule is None and body.name is None:
        raise BadRequest(
            "Nothing is to be changed.",
            remedy="Give active, schedule or name.",
            code="schedule",
        )
    deployed, _ = await in_prefect(services, [schedule])
    active = is_active(schedule, deployed) if body.active is None else body.active
    timing = (
        schedule.timing
        if body.schedule is None
        else check_timing(body.schedule, now=utc_now())
    )
    name = schedule.name if body.name is None else body.name
    new = replace(schedule, active=active, timing=timing, name=name)
    await _deploy(services, new, active=active)
    await in_thread(
        services.store.schedules.change,
        schedule_id,
        active=active,
        timing=timing,
        name=name,
    )
    services.bell.ring(CHANGED)
    return answer(
        await shown(
            services, await in_thread(services.store.schedules.get, schedule_id)
        )
    )


@router.delete("/schedules/{schedule_id}")
async def delete_schedule(
    request: Request, caller: CallerOf, schedule_id: ScheduleId
) -> JSONResponse:
    """Ends it. Its orders and their history stay."""
    return await deleted(Services(request), caller, schedule_id, reruns=False)


async def deleted(
    services: Services, caller: Caller, schedule_id: int, *, reruns: bool
) -> JSONResponse:
    """The answer of a deletion."""
    schedule = await scheduled(services, schedule_id, reruns=reruns)
    require_owner(caller, schedule.initiator)
    await services.runs.delete_schedule(schedule_id)
    await in_thread(services.store.schedules.delete, schedule_id)
    services.bell.ring(CHANGED)
    return answer({"schedule_id": schedule_id, "deleted": True})


# What is shown


async def in_prefect(
    services: Services, schedules: list[ScheduleRow]
) -> tuple[dict[int, Deployed] | None, str | None]:
    """What Prefect says of these schedules; None and a sentence while it does not
    answer.
    """
    if not schedules:
        return {}, None
    numbers = [schedule.schedule_id for schedule in schedules]
    try:
        return await services.runs.schedules(numbers, now=utc_now()), None
    except Unavailable as error:
        return None, f"{error.sentence} What it was told last is shown."


def is_active(schedule: ScheduleRow, deployed: dict[int, Deployed] | None) -> bool:
    """By Prefect, where somebody may have switched it on or off; by the store's last
    state while it does not answer.
    """
    if deployed is None:
        return schedule.active
    deployment = deployed.get(schedule.schedule_id)
    return deployment is not None and deployment.active


async def shown(services: Services, schedule: ScheduleRow) -> dict[str, Any]:
    deployed, _ = await in_prefect(services, [schedule])
    return await _shown_as(services, schedule, deployed)


async def _shown_as(
    services: Services, schedule: ScheduleRow, deployed: dict[int, Deployed] | None
) -> dict[str, Any]:
    schedule_id = schedule.schedule_id
    timing = dict(schedule.timing)
    timing.pop("anchor", None)  # ours: from when an interval counts
    next_runs: list[str] | None = None if deployed is None else []
    prefect_page: str | None = None
    if deployed is not None and schedule_id in deployed:
        deployment = deployed[schedule_id]
        next_runs = [as_text(due) for due in deployment.next_runs]
        prefect_page = f"{services.settings.prefect_page}/deployments/deployment/{deployment.deployment_id}"
    newest = await in_thread(
        services.store.schedules.history, schedule_id, limit=1, before=None
    )
    last_run = await _entry(services, newest[0]) if newest else None
    return {
        "schedule_id": schedule_id,
        "name": schedule.name,
        "user_id": schedule.initiator,
        "hospitals": schedule.hospitals,
        "request": schedule.body,
        "schedule": timing,
        "active": is_active(schedule, deployed),
        "next_runs": next_runs,
        "last_run": last_run,
        "prefect_deployment": prefect_page,
        "created": as_text(schedule.created),
        "updated": as_text(schedule.updated),
    }


@router.get("/history")
async def history(
    request: Request,
    caller: CallerOf,
    schedule_id: Annotated[int | None, Query(ge=1, lt=2**31)] = None,
    limit: Limit = 50,
    before: Before = None,
) -> JSONResponse:
    """What became of each time of a schedule, or of all statistics orders that the
    token may read; newest first.
    """
    require_role(caller, HOSPITAL, AGENT, OPERATOR)
    services = Services(request)
    if schedule_id is None:
        rows, last_id = await _all_orders(services, _own(caller), limit, before)
    else:
        rows, last_id = await times_of(
            services, caller, schedule_id, limit, before, reruns=False
        )
    return answer({"runs": rows, "next": last_id if len(rows) == limit else None})


async def times_of(
    services: Services,
    caller: Caller,
    schedule_id: int,
    limit: int,
    before: int | None,
    *,
    reruns: bool,
) -> tuple[list[dict[str, Any]], int | None]:
    """What became of each time of a schedule, and the entry to go on from."""
    schedule = await scheduled(services, schedule_id, reruns=reruns, or_deleted=True)
    require_reader(caller, schedule.hospitals)
    firings = await in_thread(
        services.store.schedules.history, schedule_id, limit=limit, before=before
    )
    rows = [await _entry(services, firing) for firing in firings]
    return rows, firings[-1].firing_id if firings else None


async def _all_orders(
    services: Services, hospital: int | None, limit: int, before: int | None
) -> tuple[list[dict[str, Any]], int | None]:
    orders = await in_thread(
        services.store.orders.newest,
        hospital=hospital,
        limit=limit,
        before=before,
        kind="statistics",
    )
    times = await in_thread(
        services.store.schedules.scheduled_times, [order.order_id for order in orders]
    )
    rows = [
        await run_entry(services, order, times.get(order.order_id)) for order in orders
    ]
    return rows, orders[-1].order_id if orders else None


async def _entry(services: Services, firing: FiringRow) -> dict[str, Any]:
    if firing.order_id is not None:
        order = await in_thread(services.store.orders.get, firing.order_id)
        return await run_entry(services, order, firing.scheduled)
    return {
        "schedule_id": firing.schedule_id,
        "scheduled": as_text(firing.scheduled),
        "started": as_text(firing.started),
        "order_id": None,
        "user_id": None,
        "method": None,
        "opened": None,
        "progress": None,
        "state": "skipped",
        "path": None,
        "type": None,
        "rows_used": None,
        "repeats": None,
        "sentence": firing.skipped,
    }


async def run_entry(
    services: Services, order: OrderRow, scheduled: datetime | None
) -> dict[str, Any]:
    """One order as an entry of the history."""
    # A model and a report of it are no file of receivers.
    summary = dict.fromkeys(("path", "type", "repeats", "opened"), None)
    summary["rows_used"] = order.n_rows
    if order.kind == "statistics":
        summary = summary_of(order)
    has_result = order.state == "success"
    shown_state = order.state
    sentence: str | None = None
    if order.state in ("failed", "cancelled"):
        cause = cause_of(order)
        sentence = str(cause)
        if cause.status == 403:
            shown_state = "refused"
    elif not has_result:
        missing = await waiting_for(services, order)
        sentence = await why_waiting(services, order, missing)
        if order.state == "pending":
            shown_state = "waiting"
    return {
        "schedule_id": order.schedule_id,
        "scheduled": as_text(scheduled) if scheduled else None,
        "started": as_text(order.created),
        "order_id": order.order_id,
        "user_id": order.initiator,
        "method": order.body.get("method"),
        "opened": summary["opened"] if has_result else None,
        "progress": progress(order, 0) if order.kind == "statistics" else None,
        "state": shown_state,
        "path": summary["path"] if has_result else None,
        "type": summary["type"] if has_result else None,
        "rows_used": summary["rows_used"] if has_result else None,
        "repeats": summary["repeats"],
        "sentence": sentence,
    }


def as_text(moment: datetime) -> str:
    return moment.isoformat() + "Z"


def utc_now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
