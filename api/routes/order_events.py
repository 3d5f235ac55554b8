"""An order as a stream of events."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from api.auth import CallerOf
from api.live import rang
from api.routes.services import OrderInPath, Services, readable
from api.told_orders import event_text

router = APIRouter()

STILL_HERE_SECONDS = 15.0
"""How often a stream of events says something when there is no news, so that no proxy
closes it.
"""


@router.get("/orders/{order_id}/events", response_class=StreamingResponse)
async def order_events(
    request: Request, caller: CallerOf, order_id: OrderInPath
) -> StreamingResponse:
    """Server-sent events: `state`, `round` (fold, round, loss) and `stage` (what, done,
    of), from the beginning until the order has ended.
    """
    services = Services(request)
    await readable(services, caller, order_id)
    return StreamingResponse(
        _events(services, order_id), media_type="text/event-stream"
    )


async def _events(services: Services, order_id: int) -> AsyncIterator[str]:
    n_sent, state, stage = 0, "", None
    with (
        services.told_orders.one(order_id) as told_order,
        services.bell.listening(told_order.key) as event,
    ):
        while True:
            event.clear()
            told_order.check()
            # Both at one moment: what is read while a round is sent comes next.
            order, rounds = told_order.order, told_order.rounds[n_sent:]
            n_sent += len(rounds)
            for new in rounds:
                yield new
            if order is not None and order.stage not in (None, stage):
                stage = order.stage
                yield event_text("stage", order.stage)
            if order is not None and order.state != state:
                state = order.state
                yield event_text("state", {"order_id": order_id, "state": state})
            if order is not None and order.has_ended:
                return
            if await rang(event, time.monotonic() + STILL_HERE_SECONDS):
                continue
            if event.over:
                return
            yield ": still here\n\n"
