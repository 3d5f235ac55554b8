"""How good a model is on new rows of its hospitals together, over REST: an order like
one of training, without rounds.

Decision 87.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from api.auth import CallerOf, require_owner
from api.routes.inference import check_model
from api.routes.orders import checked, send
from api.routes.services import IdempotencyKey, Services
from api.store.once import Once
from protocol.evaluation_request import EvaluateRequest, evaluation_order

router = APIRouter()


@router.post("/model/evaluate")
async def evaluate(
    request: Request,
    caller: CallerOf,
    body: EvaluateRequest,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Judges a model on rows of hospitals that hold it, as of one table; answers when
    these have counted their rows.

    GET /orders/{order_id} has metrics of all rows in its summary, the vaults the rest.
    """
    require_owner(caller, body.user_id)
    services = Services(request)
    users = [body.user_id, *body.party_id]
    trained = await check_model(services, body.model_id, users)
    order = evaluation_order(body, trained.body)
    keys = await checked(services, caller, order)
    once = Once.of(
        caller, idempotency_key, body.model_dump(mode="json", exclude_unset=True)
    )
    return await send(services, order, keys, once)
