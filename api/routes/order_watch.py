"""Orders under way are looked after: what no request brings."""

from __future__ import annotations

import asyncio
import time

from api.duties import Duty
from api.routes.admission import begin, forget_lost_runs, give_back_if_stuck
from api.routes.order_end import cancel
from api.routes.services import FLOWS, Services
from api.store.engine import in_thread
from api.store.places import is_begun
from api.store.rows import OrderRow

WATCH_SECONDS = 2.0
LOST_SECONDS = 30.0
"""How often it is looked whether Prefect still has the runs of all orders."""


async def watch_orders(services: Services) -> None:
    """What no request brings: orders kept while Prefect was away are started, those
    whose run somebody cancelled in Prefect are ended, whether a worker is there or not,
    and those of an agent that stays away give their places back.
    """
    duty = Duty("Orders under way")
    beginnings: dict[int, Duty] = {}
    looked_for_lost = time.monotonic()
    while True:
        with duty.attempt():
            active = await in_thread(services.store.orders.active)
            await look_after(services, active, beginnings)
            if time.monotonic() - looked_for_lost > LOST_SECONDS:
                looked_for_lost = time.monotonic()
                await forget_lost_runs(services, active)
        await asyncio.sleep(WATCH_SECONDS)


async def look_after(
    services: Services, active: list[OrderRow], beginnings: dict[int, Duty]
) -> None:
    """Making runs comes last: for each order it may take as long as Prefect's answer
    does, or fail.
    """
    for order in active:
        await give_back_if_stuck(services, order)
    ended = set(beginnings) - {order.order_id for order in active}
    for order_id in ended:
        del beginnings[order_id]
    if not active:
        return
    cancelled = await services.runs.cancelled([order.order_id for order in active])
    for order in active:
        if order.order_id in cancelled:
            await cancel(services, order)
        elif order.kind in FLOWS and not is_begun(order):
            # What is wrong with one order keeps no other from being looked after.
            subject = f"The runs of order {order.order_id}"
            beginning = beginnings.setdefault(order.order_id, Duty(subject))
            with beginning.attempt():
                await begin(services, order)
