"""An order is ended by whom it belongs to, or because its run was cancelled in Prefect;
and everybody hears of it.
"""

from __future__ import annotations

import contextlib

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from api.answers import answer
from api.auth import COORDINATOR_ROLE, OPERATOR, CallerOf, require_owner
from api.routes.admission import PLACES
from api.routes.services import ORDER_ENDED, OrderInPath, Services, readable
from api.store.engine import in_thread
from api.store.rows import OrderRow
from protocol.errors import Conflict, ConsiliumError, Unavailable
from protocol.messages import COORDINATOR

router = APIRouter()


@router.post("/orders/{order_id}/cancel")
async def cancel_order(
    request: Request, caller: CallerOf, order_id: OrderInPath
) -> JSONResponse:
    """Ends an order.

    Everybody who works on it hears of it at once; its messages are deleted.
    """
    services = Services(request)
    order = await readable(services, caller, order_id)
    if caller.role not in (OPERATOR, COORDINATOR_ROLE):
        require_owner(caller, order.initiator)
    if not await cancel(services, order) and order.state != "cancelled":
        raise Conflict(
            f"Order {order_id} has ended already ({order.state}).",
            remedy="There is nothing to cancel.",
        )
    if order.flow_run_id:
        # The order has ended in the store. A run that stays at Prefect is begun, finds
        # that out, and ends.
        with contextlib.suppress(Unavailable):
            await services.runs.cancel_waiting(order_id)
    return answer({"order_id": order_id, "state": "cancelled"})


async def cancel(services: Services, order: OrderRow) -> bool:
    """False when it had ended before."""
    order_id = order.order_id
    reason = ConsiliumError(
        f"Order {order_id} was cancelled.",
        remedy="Rerun it if it was a mistake.",
        code="cancelled",
    )
    is_new = await in_thread(services.store.orders.end, order_id, "cancelled", reason)
    tell_ended(services, order)
    return is_new


def tell_ended(services: Services, order: OrderRow) -> None:
    """Wakes all who wait for the order, and has the agents see to it that nothing of it
    goes on.
    """
    order_id = order.order_id
    services.waits.note(order_id, ())
    services.bell.ring(order_id)
    services.bell.ring(("order", order_id))
    services.bell.ring(PLACES)
    services.bell.ring(ORDER_ENDED)
    # one that has not begun is begun now, and ends in Prefect with the order's own word
    if order.flow_run_id:
        services.inbox.tell(COORDINATOR, "look", order_id)
    if order.kind == "external":  # nobody works on it
        return
    for user_id in (COORDINATOR, *order.hospitals):
        services.inbox.tell(user_id, "stop", order_id)
