"""Orders of training and evaluations that are run again and again, and what became of each
time: schedules in the form of those of joint statistics (`schedules.py`, decision 45).

A schedule names an order that has succeeded. Each time is an order of its own of the same
request, with the SQL that was sealed for the first one, as `POST /orders/{id}/rerun` makes
it.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from pydantic import Field

from api.answers import answer
from api.auth import AGENT, HOSPITAL, OPERATOR, CallerOf, require_owner, require_role
from api.due_times import Timing, check_timing
from api.routes import schedules
from api.routes.schedules import Name, ScheduleChange, ScheduleId
from api.routes.services import Before, IdempotencyKey, Limit, Services, readable
from api.store.engine import in_thread
from api.store.once import Once
from protocol.errors import BadRequest
from protocol.fields import Asked, Whole

router = APIRouter(prefix="/model")

SCHEDULED = ("train", "evaluate")


class ModelScheduleRequest(Asked):
    """The body of POST /model/schedules."""

    # An order of training, or an evaluation, that has succeeded.
    order_id: Annotated[Whole, Field(ge=1, lt=2**31)]
    schedule: Timing
    name: Name = ""


@router.post("/schedules")
async def add_schedule(
    request: Request,
    caller: CallerOf,
    body: ModelScheduleRequest,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """An order that is run again and again from now on."""
    services = Services(request)
    order = await readable(services, caller, body.order_id)
    require_owner(caller, order.initiator)
    if order.kind not in SCHEDULED or order.state != "success":
        raise BadRequest(
            f"Order {body.order_id} is no order of training, or evaluation, that has succeeded.",
            remedy="Name one that has; questions are scheduled by POST /statistics/schedules.",
            code="schedule",
        )
    once = Once.of(
        caller, idempotency_key, body.model_dump(mode="json", exclude_unset=True)
    )
    schedule_id, is_new = await in_thread(
        services.store.schedules.add,
        {},
        name=body.name,
        initiator=order.initiator,
        hospitals=order.hospitals,
        body={"order_id": order.order_id, "kind": order.kind},
        timing=check_timing(body.schedule, now=schedules.utc_now()),
        once=once,
    )
    schedule = await schedules.deploy_or_drop(services, schedule_id, is_new=is_new)
    return answer(await schedules.shown(services, schedule))


@router.get("/schedules")
async def list_schedules(
    request: Request,
    caller: CallerOf,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    before: Before = None,
) -> JSONResponse:
    """Newest first; `before` is the schedule_id to go on from."""
    services = Services(request)
    return await schedules.listed(services, caller, limit, before, reruns=True)


@router.get("/schedules/{schedule_id}")
async def show_schedule(
    request: Request, caller: CallerOf, schedule_id: ScheduleId
) -> JSONResponse:
    """Which order is run again, when, and whether Prefect has it switched on."""
    services = Services(request)
    return await schedules.shown_to(services, caller, schedule_id, reruns=True)


@router.patch("/schedules/{schedule_id}")
async def change_schedule(
    request: Request, caller: CallerOf, schedule_id: ScheduleId, body: ScheduleChange
) -> JSONResponse:
    """Pauses it or goes on, at other times or under another name."""
    services = Services(request)
    return await schedules.changed(services, caller, schedule_id, body, reruns=True)


@router.delete("/schedules/{schedule_id}")
async def delete_schedule(
    request: Request, caller: CallerOf, schedule_id: ScheduleId
) -> JSONResponse:
    """Ends it. Its orders, their models and its history stay."""
    services = Services(request)
    return await schedules.deleted(services, caller, schedule_id, reruns=True)


@router.get("/schedules/{schedule_id}/history")
async def history(
    request: Request,
    caller: CallerOf,
    schedule_id: ScheduleId,
    limit: Limit = 50,
    before: Before = None,
) -> JSONResponse:
    """What became of each time; newest first."""
    require_role(caller, HOSPITAL, AGENT, OPERATOR)
    rows, last_id = await schedules.times_of(
        Services(request), caller, schedule_id, limit, before, reruns=True
    )
    return answer({"runs": rows, "next": last_id if len(rows) == limit else None})
