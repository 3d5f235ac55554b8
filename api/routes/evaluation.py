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
from api.store.hospitals import Caller
from api.store.once import Once
from protocol.evaluation_request import EvaluateRequest, evaluation_order
from protocol.sealing import PublicIdentity
from protocol.training_request import EvaluationRequest

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
    services = Services(request)
    order, public_keys = await checked_evaluation(services, caller, body)
    once = Once.of(
        caller, idempotency_key, body.model_dump(mode="json", exclude_unset=True)
    )
    return await send(services, order, public_keys, once)


async def checked_evaluation(
    services: Services, caller: Caller, body: EvaluateRequest
) -> tuple[EvaluationRequest, dict[int, PublicIdentity]]:
    """The order and the keys to seal it with, when it may be sent."""
    require_owner(caller, body.user_id)
    # Who did not train it is sent it, where the hospitals' policies list them.
    trained = await check_model(services, body.model_id, [body.user_id])
    order = evaluation_order(body, trained.body, trained_by=trained.members)
    return order, await checked(services, caller, order)
