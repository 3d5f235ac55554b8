"""An order's answer as its hospital has sealed it to a reader's own key: this process
passes it on and cannot open it.

Decision 97.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from api.answers import answer, failure
from api.auth import CallerOf, require_owner
from api.live import read_until
from api.routes.services import ORDER_ENDED, OrderInPath, Services, readable
from api.store.engine import in_thread
from api.store.rows import OrderRow
from protocol.errors import BadRequest, Conflict, ConsiliumError, NotFound
from protocol.exchange import Address
from protocol.messages import COORDINATOR
from protocol.readers import (
    TOPIC,
    AnswerPlace,
    SealedAnswer,
    reader_fingerprint,
)

router = APIRouter()

_KINDS = {
    "train": "report",
    "evaluate": "evaluation",
    "infer": "predictions",
    "statistics": "statistics",
}


@router.get("/orders/{order_id}/answer")
async def sealed_answer(
    request: Request,
    caller: CallerOf,
    order_id: OrderInPath,
    wait: Annotated[float, Query(ge=0, le=60)] = 0,
) -> JSONResponse:
    """The answer, sealed to the reader whom the order names; `python -m api.client open`
    opens what this answers.
    """
    services = Services(request)
    order = await readable(services, caller, order_id)
    require_owner(caller, order.initiator)
    if order.body.get("reader") is None:
        raise BadRequest(
            f"Order {order_id} names no reader, so nothing is sealed to one.",
            remedy="Send an order with reader, the public key that your client shows.",
            code="reader",
        )
    order, sealed = await sealed_record(services, order, wait=wait)
    if sealed is not None:
        return answer(sealed.to_json())
    if order.state in ("failed", "cancelled"):
        cause = ConsiliumError.from_json(order.stop or {})
        return failure(cause, data={"order_id": order_id})
    if not order.has_ended:
        raise Conflict(
            f"Order {order_id} is {order.state}, and its answer is not sealed yet.",
            remedy="Ask again with wait=60.",
            code="no_answer",
        )
    raise NotFound(
        f"There is no sealed answer of order {order_id}: its hospital sent none, or it was kept long enough.",
        remedy="Where the reader was taken off the hospital's list meanwhile, have it listed and send the order again;"
        " the hospital itself has the answer.",
        code="no_answer",
    )


async def sealed_record(
    services: Services, order: OrderRow, *, wait: float
) -> tuple[OrderRow, SealedAnswer | None]:
    """What the initiator's hospital has sealed to the order's reader, as soon as it is
    there; None when the order has ended without it, or after `wait` seconds.
    """
    address = Address(order.order_id, TOPIC)
    current_order, box = await box_at(services, address, wait)
    if box is None:
        return current_order, None
    if current_order.kind == "infer" and not current_order.has_ended:
        # Such an order ends when it is answered.
        if await in_thread(services.store.orders.end, order.order_id, "success"):
            services.bell.ring(ORDER_ENDED)
        current_order = await in_thread(services.store.orders.get, order.order_id)
    answer_place = AnswerPlace(order.order_id, _KINDS[order.kind], order.initiator)
    reader = reader_fingerprint(bytes.fromhex(order.body["reader"]))
    return current_order, SealedAnswer(answer_place, reader, box)


async def box_at(
    services: Services, address: Address, wait: float
) -> tuple[OrderRow, bytes | None]:
    """The order, and what its initiator's hospital has sealed at this address, as soon as
    it is there; None when the order has ended without it, or after `wait` seconds.
    """

    async def look() -> tuple[OrderRow, bytes | None]:
        # The answer last: an order that has ended in between has it by then.
        order = await in_thread(services.store.orders.get, address.run)
        box = await in_thread(
            services.store.messages.read_box, address, order.initiator, COORDINATOR
        )
        return order, box

    def is_enough(reading: tuple[OrderRow, bytes | None]) -> bool:
        order, box = reading
        return box is not None or order.has_ended

    return await read_until(
        services.bell, address.run, look, is_enough=is_enough, seconds=wait
    )
