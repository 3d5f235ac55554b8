"""The coordinator's step in a schedule of joint statistics.

At its time, it has the order made and waits for it. Decision 45.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from protocol.errors import ConsiliumError
from protocol.exchange import LONGEST_WAIT_SECONDS, Exchange, HttpTransport
from protocol.messages import COORDINATOR
from tasks.coordinator.place import coordinator_client, coordinator_token
from tasks.steps import hidden

log = logging.getLogger("consilium.flows")

UNDER_WAY = ("pending", "running")
"""States of an order that has not ended."""


def fire(schedule_id: int) -> State[Any]:
    """The state in which the schedule's run ends. It never raises.

    That of its order, or Skipped with the reason.
    """
    try:
        # Asked at once first: the run can be tagged before the order ends.
        firing = _ask(schedule_id, wait=0)
        _tag(firing["order_id"])
        while firing["state"] in UNDER_WAY:
            firing = _ask(schedule_id, wait=LONGEST_WAIT_SECONDS)
    except ConsiliumError as error:
        return Failed(message=str(error))
    except Exception as error:  # noqa: BLE001
        return Failed(message=str(hidden("flow run", error)))
    return _state_of(firing)


def _ask(schedule_id: int, *, wait: float) -> dict[str, Any]:
    """What the coordinator's API says of this run's time: order_id, state, sentence.

    Waits while it is away.
    """
    path = f"/statistics/schedules/{schedule_id}/firings"
    # The time names the firing: asked again, the API finds the order it has made.
    scheduled = flow_run.scheduled_start_time.isoformat()
    body = {"scheduled": scheduled, "wait": wait}
    with coordinator_client() as client:
        transport = HttpTransport(client, coordinator_token())
        call = functools.partial(
            transport.request, "POST", path, json=body, timeout=wait + 60
        )
        answer = Exchange(transport, COORDINATOR).insist(call)
    firing: dict[str, Any] = answer.json()["data"]
    return firing


def _tag(order_id: int | None) -> None:
    """Who cancels this run in Prefect cancels its order.

    The coordinator's API finds both by this tag.
    """
    if order_id is None:
        return
    tags = [*flow_run.tags, f"order-{order_id}"]
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(flow_run.id, tags=tags)
    except httpx.HTTPError as error:
        # The order goes on without it: only cancelling it here is lost.
        log.warning("The run could not be tagged (%s)", type(error).__name__)


def _state_of(firing: dict[str, Any]) -> State[Any]:
    sentence = firing["sentence"]
    message = f"Order {firing['order_id']}"
    if sentence:
        message += f": {sentence}"
    match firing["state"]:
        case "success":
            return Completed(message=message)
        case "skipped":
            return Completed(name="Skipped", message=sentence)
        case "cancelled":
            return Cancelled(message=message)
        case _:
            return Failed(message=message)
