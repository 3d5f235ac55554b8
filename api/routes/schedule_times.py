"""The times of schedules, of questions and of models: for each an order, or why there is
none (decision 45).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from api.answers import answer
from api.auth import COORDINATOR_ROLE, CallerOf, require_role
from api.due_times import due_after, latest_due
from api.duties import Duty
from api.live import rang
from api.routes.orders import run_again
from api.routes.schedules import (
    CHANGED,
    ScheduleId,
    as_text,
    in_prefect,
    is_active,
    run_entry,
    utc_now,
)
from api.routes.services import ORDER_ENDED, Services, ended_order, waiting_for
from api.routes.statistics import add_order, why_waiting
from api.store.engine import in_thread
from api.store.rows import DueTime, ScheduleRow
from api.store.schedules import TimeTaken
from protocol.errors import Conflict
from protocol.exchange import LONGEST_WAIT_SECONDS
from protocol.messages import COORDINATOR
from protocol.statistics_request import parse_statistics_request

router = APIRouter(prefix="/statistics")

LATE_SECONDS = 60.0
"""A time that is asked for later than this was missed: a part was away."""

SETTLE_SECONDS = 15.0
"""So long after the start agents may not have come back yet; none counts as away."""

LOOK_SECONDS = 60.0
"""The longest that the due times are not looked at again."""


class FiringRequest(BaseModel):
    """What the flow run of a schedule asks with: the time it is for, and how long it
    waits for the order's end.
    """

    model_config = ConfigDict(extra="forbid")

    scheduled: AwareDatetime
    wait: Annotated[float, Field(ge=0, le=LONGEST_WAIT_SECONDS)] = 0


@router.post("/schedules/{schedule_id}/firings", include_in_schema=False)
async def fire(
    request: Request,
    caller: CallerOf,
    schedule_id: ScheduleId,
    body: FiringRequest,
) -> JSONResponse:
    """The order for one time of a schedule, or why there is none; waits for the order's
    end. Asked again for the same time, it is the same order.
    """
    require_role(caller, COORDINATOR_ROLE)
    services = Services(request)
    schedule = await in_thread(services.store.schedules.get, schedule_id)
    in_utc = body.scheduled.astimezone(UTC)
    due = DueTime(schedule_id, in_utc.replace(tzinfo=None))
    skips_missed = schedule.timing["missed"] == "skip"
    if skips_missed and _away(services, schedule):
        settled = request.app.state.started + SETTLE_SECONDS
        remaining_seconds = settled - time.monotonic()
        await asyncio.sleep(max(0.0, remaining_seconds))
    # One at a time in this process: of two runs for one time, the second finds the entry
    # of the first. Of two processes the store has one entry stand.
    async with request.app.state.firing:
        outcome = await _fired(services, schedule, due)
    if outcome.order_id is None:
        return answer(
            {
                "order_id": None,
                "state": "skipped",
                "sentence": outcome.skipped,
            }
        )
    order = await ended_order(services, outcome.order_id, body.wait)
    shown_run = await run_entry(services, order, due.scheduled)
    return answer(
        {
            "order_id": order.order_id,
            "state": order.state,
            "sentence": shown_run["sentence"],
        }
    )


@dataclass(frozen=True, slots=True)
class DueOutcome:
    """What became of one time of a schedule."""

    order_id: int | None
    skipped: str | None = None  # why nothing was asked


async def _fired(
    services: Services,
    schedule: ScheduleRow,
    due: DueTime,
) -> DueOutcome:
    """What the history has for this time; it is entered if there is nothing yet."""
    earlier = await _earlier(services, due)
    if earlier is not None:
        return earlier
    if not schedule.active and await _is_paused(services, schedule):
        return DueOutcome(None, "The schedule is paused.")
    late = utc_now() - due.scheduled
    if late > timedelta(seconds=LATE_SECONDS):
        if schedule.timing["missed"] == "skip":
            late_seconds = late.total_seconds()
            why = f"It came {late_seconds:.0f} seconds late: a part was away."
            return await _skip(services, due, why)
        due = await _made_up(services, schedule, due)
        # The later time may have had its own run already.
        earlier = await _earlier(services, due)
        if earlier is not None:
            return earlier
    obstacle = await _obstacle(services, schedule)
    if obstacle is not None:
        return await _skip(services, due, obstacle)
    try:
        return await _start(services, schedule, due)
    except Conflict as error:
        # An agent lags that did not when the schedule was made.
        if error.code != "protocol":
            raise
        return await _skip(services, due, str(error))
    except TimeTaken:
        # Another process of the API was quicker: its entry is the answer.
        earlier = await _earlier(services, due)
        if earlier is None:
            raise
        return earlier


async def _earlier(services: Services, due: DueTime) -> DueOutcome | None:
    firing = await in_thread(services.store.schedules.firing, due)
    if firing is None:
        return None
    return DueOutcome(firing.order_id, firing.skipped)


async def _skip(
    services: Services,
    due: DueTime,
    sentence: str,
) -> DueOutcome:
    # Another process may have made an order of this time meanwhile.
    firing_row = await in_thread(services.store.schedules.skip, due, sentence)
    services.bell.ring(ORDER_ENDED)
    return DueOutcome(firing_row.order_id, firing_row.skipped)


async def _is_paused(services: Services, schedule: ScheduleRow) -> bool:
    """Whether Prefect has it switched off too: somebody may have switched it on again
    there.
    """
    deployed, _ = await in_prefect(services, [schedule])
    return not is_active(schedule, deployed)


async def _made_up(
    services: Services,
    schedule: ScheduleRow,
    due: DueTime,
) -> DueTime:
    """Of the times that were missed while a part was away, the last one, which is asked
    for once for all of them.
    """
    latest = latest_due(schedule.timing, utc_now())
    if latest is None or latest <= due.scheduled:
        return due
    latest_text = as_text(latest)
    why = f"It was missed while a part was away; the run of {latest_text} makes up for it."
    await _skip(services, due, why)
    return DueTime(due.schedule_id, latest)


async def _obstacle(services: Services, schedule: ScheduleRow) -> str | None:
    """Why nothing is asked this time, if so."""
    order_id = await in_thread(
        services.store.schedules.unended_order,
        schedule.schedule_id,
    )
    if order_id is not None:
        order = await in_thread(services.store.orders.get, order_id)
        waiting = await waiting_for(services, order)
        why = await why_waiting(services, order, waiting)
        return f"Order {order_id} of an earlier time has not ended: {why}"
    if schedule.timing["missed"] != "skip":  # its order waits for whoever is away
        return None
    away = _away(services, schedule)
    if not away:
        return None
    hospital_names = await in_thread(services.store.hospitals.names)
    known_names = [hospital_names.get(user_id, str(user_id)) for user_id in away]
    away_names = ", ".join(known_names)
    verb = "is" if len(away) == 1 else "are"
    return f"{away_names} {verb} away."


def _away(services: Services, schedule: ScheduleRow) -> list[int]:
    presence = services.presence
    return [user_id for user_id in schedule.hospitals if not presence.is_there(user_id)]


async def _start(
    services: Services,
    schedule: ScheduleRow,
    due: DueTime,
) -> DueOutcome:
    if schedule.reruns is not None:
        order = await in_thread(services.store.orders.get, schedule.reruns)
        order_id = await run_again(services, order, due=due)
        return DueOutcome(order_id)
    question = parse_statistics_request(schedule.body)
    boxes = await in_thread(
        services.store.schedules.boxes,
        schedule.schedule_id,
    )
    repeats = await in_thread(
        services.store.schedules.last_success,
        schedule.schedule_id,
    )
    order_id = await add_order(
        services,
        question,
        boxes,
        due=due,
        repeats=repeats,
    )
    return DueOutcome(order_id)


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
        now = utc_now()
        pause = LOOK_SECONDS
        timings = await in_thread(services.store.schedules.active_timings)
        for timing in timings:
            for due in due_after(timing, now):
                until_due = due - now
                pause = min(pause, until_due.total_seconds())
        deadline = time.monotonic() + pause
        has_changed = await rang(event, deadline)
        if has_changed or pause == LOOK_SECONDS:
            rest_seconds = LOOK_SECONDS if event.over else 0
            await asyncio.sleep(rest_seconds)
            return
    services.inbox.tell(COORDINATOR, "look", 0)
    # within the second in which it fell due it would be due again
    await asyncio.sleep(1.0)
