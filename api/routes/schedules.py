"""Questions of joint statistics that are asked again and again, and what became of each
time (decision 45).

A schedule is a question, its sealed places and a timing, kept in the store, and one
deployment in Prefect, which says when. Each time its flow run asks here for an order;
the hospitals check and answer that order as any other.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from api.answers import answer
from api.auth import (
    AGENT,
    COORDINATOR_ROLE,
    HOSPITAL,
    OPERATOR,
    CallerOf,
    require_owner,
    require_reader,
    require_role,
)
from api.due_times import Timing, check_timing, due_after, latest_due
from api.duties import Duty
from api.live import rang
from api.prefect_runs import Deployed
from api.routes.services import (
    ORDER_ENDED,
    Before,
    IdempotencyKey,
    Limit,
    Services,
    ended_order,
    waiting_for,
)
from api.routes.statistics import (
    add_order,
    resolved,
    seal_places,
    summary_of,
    why_waiting,
    without_places,
)
from api.store.engine import in_thread
from api.store.hospitals import Caller
from api.store.once import Once
from api.store.rows import DueTime, FiringRow, OrderRow, ScheduleRow, cause_of
from protocol.errors import BadRequest, ConsiliumError, Unavailable
from protocol.exchange import LONGEST_WAIT_SECONDS
from protocol.fields import Asked, printable
from protocol.messages import COORDINATOR
from protocol.statistics_request import StatisticsRequest, parse_statistics_request

router = APIRouter(prefix="/statistics")
log = logging.getLogger("consilium.api")

LATE_SECONDS = 60.0
"""A time that is asked for later than this was missed: a part was away."""

SETTLE_SECONDS = 15.0
"""So long after the start agents may not have come back yet; none counts as away."""

LOOK_SECONDS = 60.0
"""The longest that the due times are not looked at again."""

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


class FiringRequest(BaseModel):
    """What the flow run of a schedule asks with: the time it is for, and how long it
    waits for the order's end.
    """

    model_config = ConfigDict(extra="forbid")

    scheduled: AwareDatetime
    wait: Annotated[float, Field(ge=0, le=LONGEST_WAIT_SECONDS)] = 0


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
    timing, asked = await checked(services, caller, body)
    once = Once.of(
        caller, idempotency_key, body.model_dump(mode="json", exclude_unset=True)
    )
    boxes = await seal_places(services, asked)
    schedule_id, made = await in_thread(
        services.store.schedules.add,
        boxes,
        name=body.name,
        initiator=asked.initiator,
        hospitals=asked.hospitals,
        body=without_places(asked),
        timing=timing,
        once=once,
    )
    schedule = await in_thread(services.store.schedules.get, schedule_id)
    if made:
        try:
            await _deploy(services, schedule, active=True)
        except (
            ConsiliumError
        ):  # whoever sent it hears that there is no schedule, so there is none
            await in_thread(services.store.schedules.drop, schedule_id)
            raise
    return answer(await _shown(services, schedule))


async def checked(
    services: Services, caller: Caller, body: ScheduleRequest
) -> tuple[dict[str, Any], StatisticsRequest]:
    """When it is asked, and the question alone.

    Nobody waits for the answer, so there is nobody to show values to.
    """
    not_asked = {"schedule", "name", "timeout_seconds"}
    question = body.model_dump(mode="json", exclude_none=True, exclude=not_asked)
    asked = await resolved(services, caller, StatisticsRequest.model_validate(question))
    if asked.disclose:
        raise BadRequest(
            "disclose is true, and nobody waits for a schedule's answers.",
            remedy="Leave disclose out; each result is in the receivers' folders.",
            code="disclose",
        )
    return check_timing(body.schedule, now=_now()), asked


async def _deploy(services: Services, schedule: ScheduleRow, *, active: bool) -> None:
    name = schedule.name or schedule.body["result_alias"]
    about = f"{name}: {schedule.body['method']}"
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
    services = Services(request)
    found = await in_thread(
        services.store.schedules.newest,
        hospital=_own(caller),
        limit=limit,
        before=before,
    )
    deployed, message = await _deployed(services, found)
    rows = [await _shown_as(services, schedule, deployed) for schedule in found]
    goes_on_from = found[-1].schedule_id if len(found) == limit else None
    return answer({"schedules": rows, "next": goes_on_from}, message=message)


def _own(caller: Caller) -> int | None:
    return caller.user_id if caller.role in (HOSPITAL, AGENT) else None


@router.get("/schedules/{schedule_id}")
async def show_schedule(
    request: Request, caller: CallerOf, schedule_id: ScheduleId
) -> JSONResponse:
    """What is asked, when, and whether Prefect has it switched on."""
    services = Services(request)
    schedule = await in_thread(services.store.schedules.get, schedule_id)
    require_reader(caller, schedule.hospitals)
    deployed, message = await _deployed(services, [schedule])
    return answer(await _shown_as(services, schedule, deployed), message=message)


@router.patch("/schedules/{schedule_id}")
async def change_schedule(
    request: Request, caller: CallerOf, schedule_id: ScheduleId, body: ScheduleChange
) -> JSONResponse:
    """Pauses it or goes on, at other times or under another name."""
    services = Services(request)
    schedule = await in_thread(services.store.schedules.get, schedule_id)
    require_owner(caller, schedule.initiator)
    if body.active is None and body.schedule is None and body.name is None:
        raise BadRequest(
            "Nothing is to be changed.",
            remedy="Give active, schedule or name.",
            code="schedule",
        )
    deployed, _ = await _deployed(services, [schedule])
    active = _is_active(schedule, deployed) if body.active is None else body.active
    timing = (
        schedule.timing
        if body.schedule is None
        else check_timing(body.schedule, now=_now())
    )
    name = schedule.name if body.name is None else body.name
    changed = replace(schedule, active=active, timing=timing, name=name)
    await _deploy(services, changed, active=active)
    await in_thread(
        services.store.schedules.change,
        schedule_id,
        active=active,
        timing=timing,
        name=name,
    )
    services.bell.ring(CHANGED)
    return answer(
        await _shown(
            services, await in_thread(services.store.schedules.get, schedule_id)
        )
    )


@router.delete("/schedules/{schedule_id}")
async def delete_schedule(
    request: Request, caller: CallerOf, schedule_id: ScheduleId
) -> JSONResponse:
    """Ends it. Its orders and their history stay."""
    services = Services(request)
    schedule = await in_thread(services.store.schedules.get, schedule_id)
    require_owner(caller, schedule.initiator)
    await services.runs.delete_schedule(schedule_id)
    await in_thread(services.store.schedules.delete, schedule_id)
    services.bell.ring(CHANGED)
    return answer({"schedule_id": schedule_id, "deleted": True})


# What is shown


async def _deployed(
    services: Services, found: list[ScheduleRow]
) -> tuple[dict[int, Deployed] | None, str | None]:
    """What Prefect says of these schedules; None and a sentence while it does not
    answer.
    """
    if not found:
        return {}, None
    numbers = [schedule.schedule_id for schedule in found]
    try:
        return await services.runs.schedules(numbers, now=_now()), None
    except Unavailable as error:
        return None, f"{error.sentence} What it was told last is shown."


def _is_active(schedule: ScheduleRow, deployed: dict[int, Deployed] | None) -> bool:
    """By Prefect, where somebody may have switched it on or off; by the store's last
    state while it does not answer.
    """
    if deployed is None:
        return schedule.active
    here = deployed.get(schedule.schedule_id)
    return here is not None and here.active


async def _shown(services: Services, schedule: ScheduleRow) -> dict[str, Any]:
    deployed, _ = await _deployed(services, [schedule])
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
        here = deployed[schedule_id]
        next_runs = [_text(due) for due in here.next_runs]
        prefect_page = f"{services.settings.prefect_page}/deployments/deployment/{here.deployment_id}"
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
        "active": _is_active(schedule, deployed),
        "next_runs": next_runs,
        "last_run": last_run,
        "prefect_deployment": prefect_page,
        "created": _text(schedule.created),
        "updated": _text(schedule.updated),
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
        rows, last = await _all_orders(services, _own(caller), limit, before)
    else:
        schedule = await in_thread(
            services.store.schedules.get, schedule_id, or_deleted=True
        )
        require_reader(caller, schedule.hospitals)
        found = await in_thread(
            services.store.schedules.history, schedule_id, limit=limit, before=before
        )
        rows = [await _entry(services, firing) for firing in found]
        last = found[-1].firing_id if found else None
    return answer({"runs": rows, "next": last if len(rows) == limit else None})


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
    rows = [await _run(services, order, times.get(order.order_id)) for order in orders]
    return rows, orders[-1].order_id if orders else None


async def _entry(services: Services, firing: FiringRow) -> dict[str, Any]:
    if firing.order_id is not None:
        order = await in_thread(services.store.orders.get, firing.order_id)
        return await _run(services, order, firing.scheduled)
    return {
        "schedule_id": firing.schedule_id,
        "scheduled": _text(firing.scheduled),
        "started": _text(firing.started),
        "order_id": None,
        "state": "skipped",
        "path": None,
        "type": None,
        "rows_used": None,
        "repeats": None,
        "sentence": firing.skipped,
    }


async def _run(
    services: Services, order: OrderRow, scheduled: datetime | None
) -> dict[str, Any]:
    """One order as an entry of the history."""
    summary = summary_of(order)
    has_result = order.state == "success"
    state = order.state
    sentence: str | None = None
    if order.state in ("failed", "cancelled"):
        cause = cause_of(order)
        sentence = str(cause)
        if cause.status == 403:
            state = "refused"
    elif not has_result:
        missing = await waiting_for(services, order)
        sentence = await why_waiting(services, order, missing)
        if order.state == "pending":
            state = "waiting"
    return {
        "schedule_id": order.schedule_id,
        "scheduled": _text(scheduled) if scheduled else None,
        "started": _text(order.created),
        "order_id": order.order_id,
        "state": state,
        "path": summary["path"] if has_result else None,
        "type": summary["type"] if has_result else None,
        "rows_used": summary["rows_used"] if has_result else None,
        "repeats": summary["repeats"],
        "sentence": sentence,
    }


def _text(moment: datetime) -> str:
    return moment.isoformat() + "Z"


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


# Its times


@router.post("/schedules/{schedule_id}/firings", include_in_schema=False)
async def fire(
    request: Request, caller: CallerOf, schedule_id: ScheduleId, body: FiringRequest
) -> JSONResponse:
    """The order for one time of a schedule, or why there is none; waits for the order's
    end. Asked again for the same time, it is the same order.
    """
    require_role(caller, COORDINATOR_ROLE)
    services = Services(request)
    schedule = await in_thread(services.store.schedules.get, schedule_id)
    due = DueTime(schedule_id, body.scheduled.astimezone(UTC).replace(tzinfo=None))
    if schedule.timing["missed"] == "skip" and _away(services, schedule):
        settled = request.app.state.started + SETTLE_SECONDS
        await asyncio.sleep(max(0.0, settled - time.monotonic()))
    # One at a time: of two runs for one time, the second finds the entry of the first.
    async with request.app.state.firing:
        outcome = await _fired(services, schedule, due)
    if outcome.order_id is None:
        return answer(
            {"order_id": None, "state": "skipped", "sentence": outcome.skipped}
        )
    order = await ended_order(services, outcome.order_id, body.wait)
    run = await _run(services, order, due.scheduled)
    return answer(
        {"order_id": order.order_id, "state": order.state, "sentence": run["sentence"]}
    )


@dataclass(frozen=True, slots=True)
class DueOutcome:
    """What became of one time of a schedule."""

    order_id: int | None
    skipped: str | None = None  # why nothing was asked


async def _fired(services: Services, schedule: ScheduleRow, due: DueTime) -> DueOutcome:
    """What the history has for this time; it is entered if there is nothing yet."""
    earlier = await _earlier(services, due)
    if earlier is not None:
        return earlier
    if not schedule.active and await _is_paused(services, schedule):
        return DueOutcome(None, "The schedule is paused.")
    late = _now() - due.scheduled
    if late > timedelta(seconds=LATE_SECONDS):
        if schedule.timing["missed"] == "skip":
            why = f"It came {late.total_seconds():.0f} seconds late: a part was away."
            return await _skip(services, due, why)
        due = await _made_up(services, schedule, due)
        earlier = await _earlier(services, due)
        if earlier is not None:
            return earlier
    obstacle = await _obstacle(services, schedule)
    if obstacle is not None:
        return await _skip(services, due, obstacle)
    return await _start(services, schedule, due)


async def _earlier(services: Services, due: DueTime) -> DueOutcome | None:
    firing = await in_thread(services.store.schedules.firing, due)
    return None if firing is None else DueOutcome(firing.order_id, firing.skipped)


async def _skip(services: Services, due: DueTime, sentence: str) -> DueOutcome:
    await in_thread(services.store.schedules.skip, due, sentence)
    services.bell.ring(ORDER_ENDED)
    return DueOutcome(None, sentence)


async def _is_paused(services: Services, schedule: ScheduleRow) -> bool:
    """Whether Prefect has it switched off too: somebody may have switched it on again
    there.
    """
    deployed, _ = await _deployed(services, [schedule])
    return not _is_active(schedule, deployed)


async def _made_up(services: Services, schedule: ScheduleRow, due: DueTime) -> DueTime:
    """Of the times that were missed while a part was away, the last one, which is asked
    for once for all of them.
    """
    latest = latest_due(schedule.timing, _now())
    if latest is None or latest <= due.scheduled:
        return due
    why = f"It was missed while a part was away; the run of {_text(latest)} makes up for it."
    await _skip(services, due, why)
    return DueTime(due.schedule_id, latest)


async def _obstacle(services: Services, schedule: ScheduleRow) -> str | None:
    """Why nothing is asked this time, if so."""
    order_id = await in_thread(
        services.store.schedules.unended_order, schedule.schedule_id
    )
    if order_id is not None:
        order = await in_thread(services.store.orders.get, order_id)
        why = await why_waiting(services, order, await waiting_for(services, order))
        return f"Order {order_id} of an earlier time has not ended: {why}"
    if schedule.timing["missed"] != "skip":  # its order waits for whoever is away
        return None
    away = _away(services, schedule)
    if not away:
        return None
    names = await in_thread(services.store.hospitals.names)
    away_names = ", ".join(names.get(user, str(user)) for user in away)
    verb = "is" if len(away) == 1 else "are"
    return f"{away_names} {verb} away."


def _away(services: Services, schedule: ScheduleRow) -> list[int]:
    return [user for user in schedule.hospitals if not services.presence.is_there(user)]


async def _start(services: Services, schedule: ScheduleRow, due: DueTime) -> DueOutcome:
    question = parse_statistics_request(schedule.body)
    boxes = await in_thread(services.store.schedules.boxes, schedule.schedule_id)
    repeats = await in_thread(
        services.store.schedules.last_success, schedule.schedule_id
    )
    return DueOutcome(
        await add_order(services, question, boxes, due=due, repeats=repeats)
    )


async def wake_worker(services: Services) -> None:
    """Tells the coordinator's worker to look at its pool whenever a schedule falls due:
    it looks by itself only now and then.
    """
    duty = Duty("Schedules")
    while True:
        with duty.attempt():
            await _wake_when_due(services)
        if duty.is_held_up:
            await asyncio.sleep(LOOK_SECONDS)


async def _wake_when_due(services: Services) -> None:
    with services.bell.listening(CHANGED) as event:
        now = _now()
        pause = LOOK_SECONDS
        for timing in await in_thread(services.store.schedules.active_timings):
            for due in due_after(timing, now):
                pause = min(pause, (due - now).total_seconds())
        has_changed = await rang(event, time.monotonic() + pause)
        if has_changed or pause == LOOK_SECONDS:
            await asyncio.sleep(LOOK_SECONDS if event.over else 0)
            return
    services.inbox.tell(COORDINATOR, "look", 0)
    await asyncio.sleep(
        1.0
    )  # within the second in which it fell due it would be due again
