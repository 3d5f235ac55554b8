"""Of ended orders Prefect keeps the runs of the newest: older ones are deleted there, by
the coordinator's process, whenever an order has ended (decision 82).

The store notes it when the runs are gone. Whoever dies in between, or finds Prefect
away, begins again: what is gone stays gone, and the rest is found anew.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from api.duties import Duty
from api.routes.services import ORDER_ENDED, Services
from api.store.engine import in_thread

log = logging.getLogger("consilium.api")

SETTLE_SECONDS = 60.0
"""So long after an order's end all that Prefect is told of its tasks has been written.
"""

RETRY_SECONDS = 30.0
ORDERS_AT_ONCE = 20
"""In one call: Prefect's filter takes a hundred at the most."""


async def trim_when_ended(
    services: Services, *, settle_seconds: float = SETTLE_SECONDS
) -> None:
    """Runs as long as the application: at its start, and a moment after orders end."""
    duty = Duty("Old runs in Prefect")
    with services.bell.listening(ORDER_ENDED) as event:
        # What an earlier process has left.
        event.set()
        while True:
            await event.wait()
            event.clear()
            await asyncio.sleep(settle_seconds)
            with duty.attempt():
                await trim(services, settle_seconds=settle_seconds)
            if duty.is_held_up:
                await asyncio.sleep(RETRY_SECONDS)
                event.set()


async def trim(services: Services, *, settle_seconds: float) -> None:
    """Deletes the old runs that have ended, and notes the orders that have none left.

    An order with a run under way, as at a hospital that is away, is looked at again
    when the next one has ended.
    """
    before = datetime.now(UTC) - timedelta(seconds=settle_seconds)
    keep = services.settings.prefect_keep_orders
    old = await in_thread(services.store.orders.with_old_runs, keep)
    order_ids = list(old)
    n_deleted = 0
    for start in range(0, len(order_ids), ORDERS_AT_ONCE):
        batch = order_ids[start : start + ORDERS_AT_ONCE]
        remaining_orders = await services.runs.delete_ended(batch, before=before)
        for order_id in batch:
            if order_id not in remaining_orders:
                n_deleted += 1
                await in_thread(
                    # With the run's id: an inference that is asked for again has
                    # another one, which is there.
                    services.store.orders.note_runs_deleted,
                    order_id,
                    old[order_id],
                )
    if n_deleted:
        log.info("Prefect's record of %s older orders is deleted", n_deleted)
    if await in_thread(services.store.schedules.have_fired):
        await services.runs.delete_ended_of_schedules(keep=keep, before=before)
