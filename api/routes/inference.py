"""Inference over REST: it runs at the hospital, and its answer passes through this
process's memory only.

For each request a one-time key pair is made here; the hospital seals its predictions to
it. What is kept in the store is that box; the key stays in memory (decision 7). After a
restart the hospital is asked to seal the same predictions again.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from api.answers import answer, failure
from api.auth import AGENT, CallerOf, require_owner, require_role
from api.routes.sealed_answers import box_at, sealed_record
from api.routes.services import (
    ORDER_ENDED,
    IdempotencyKey,
    OrderId,
    OrderInPath,
    Services,
    ended_order,
    identities,
    readable,
)
from api.store.engine import in_thread
from api.store.once import Once
from api.store.orders import Prepared
from api.store.rows import OrderRow, SealedBox
from protocol.errors import BadRequest, Conflict, ConsiliumError, NotFound
from protocol.exchange import Address
from protocol.inference_request import InferRequest
from protocol.messages import HospitalSql, canonical
from protocol.sealing import KEY_BYTES, exchange_public, unseal_from

router = APIRouter()


@router.post("/model/infer")
async def infer(
    request: Request,
    caller: CallerOf,
    body: InferRequest,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Applies a model to rows of one's own hospital, at that hospital, and answers with
    the predictions.
    """
    user_id = body.input_data.user_id
    require_owner(caller, user_id)
    services = Services(request)
    await check_model(services, body.model_id, [user_id])
    public_keys = await identities(services, [user_id])
    identity = public_keys[user_id]
    hospital_sql = HospitalSql(secrets.token_bytes(KEY_BYTES), body.input_data.asked)
    # To this key the hospital seals what this process opens; none where a reader's own
    # key takes its place.
    reply = secrets.token_bytes(KEY_BYTES) if body.reader is None else None

    def prepare(order_id: int) -> Prepared:
        document = _document(
            order_id,
            body.model_id,
            user_id,
            hospital_sql.commitment,
            reply,
            reader=body.reader,
        )
        box = hospital_sql.seal(user_id, identity.seal_key)
        sealed = SealedBox(box, hospital_sql.commitment)
        return Prepared(document, {user_id: sealed})

    order_id, is_new = await in_thread(
        services.store.orders.add,
        kind="infer",
        initiator=user_id,
        hospital_ids=[user_id],
        body=_kept(body),
        prepare=prepare,
        once=Once.of(caller, idempotency_key, body.model_dump(mode="json")),
    )
    if is_new:
        if reply is not None:
            services.keep_key(order_id, reply)
        await _ask_first(services, order_id, user_id)
    return await _answer(services, order_id, services.settings.accept_seconds)


@router.get("/model/infer_status")
async def infer_status(
    request: Request,
    caller: CallerOf,
    order_id: OrderId,
    wait: Annotated[float, Query(ge=0, le=60)] = 0,
) -> JSONResponse:
    """The same answer as /model/infer, for who did not wait for it."""
    services = Services(request)
    order = await readable(
        services,
        caller,
        order_id,
        kind="infer",
        what="inference order",
    )
    require_owner(caller, order.initiator)
    has_key = order_id in services.reply_keys or "reader" in order.body
    if not has_key and order.state not in ("failed", "cancelled"):
        wait = max(wait, services.settings.accept_seconds)
        if services.store.conninfo is not None:
            # Another process may have the key and wait with it: the hospital is asked
            # once it has answered that one.
            order = await ended_order(services, order_id, wait)
        if services.store.conninfo is None or order.state == "success":
            await _ask_again(services, order)
    return await _answer(services, order_id, wait)


async def check_model(
    services: Services,
    model_id: int,
    user_ids: Iterable[int],
) -> OrderRow:
    """The order that made a model, which these hospitals hold.

    Raises NotFound, BadRequest and Conflict (code model).
    """
    order: OrderRow = await in_thread(services.store.orders.get, model_id)
    if order.kind != "train":
        raise NotFound(
            f"There is no model {model_id}.",
            remedy="GET /orders lists what there is.",
            code="model",
        )
    without = sorted(set(user_ids) - set(order.members))
    if without:
        named = ", ".join(str(user_id) for user_id in without)
        raise BadRequest(
            f"Hospital {named} took no part in order {model_id} and holds no such model.",
            remedy="Use a model of an order that it took part in.",
            code="model",
        )
    if order.state != "success":
        raise Conflict(
            f"Model {model_id} is not there: its order is {order.state}.",
            remedy="Wait for success.",
            code="model",
        )
    return order


def _kept(body: InferRequest) -> dict[str, Any]:
    """The request as the store has it."""
    # Neither SQL nor rows, which stand in the hospital's box alone.
    stored_request = {"model_id": body.model_id, "user_id": body.input_data.user_id}
    if body.reader is None:
        return stored_request
    return {**stored_request, "reader": body.reader}


def _document(
    order_id: int,
    model_id: int,
    user_id: int,
    commitment: str,
    reply: bytes | None,
    *,
    attempt: int = 0,
    reader: str | None = None,
) -> str:
    if reply is None:
        to_whom = {"reader": reader}
    else:
        to_whom = {"reply_key": exchange_public(reply).hex()}
    return canonical(
        {
            "version": 1,
            "kind": "infer",
            "order_id": order_id,
            "model_id": model_id,
            "user_id": user_id,
            **to_whom,
            "attempt": attempt,
            "sql": commitment,
        }
    )


async def _ask(
    services: Services,
    order_id: int,
    user_id: int,
    *,
    attempt: int,
) -> None:
    """Starts the hospital's run. Raises Unavailable when Prefect does not answer."""
    tags = ["infer", f"hospital-{user_id}", f"attempt-{attempt}"]
    flow_run_id = await services.runs.start(
        f"infer/hospital-{user_id}",
        order_id,
        tags,
        attempt=attempt,
    )
    # Prefect has a run of it again, where earlier ones were deleted.
    await in_thread(
        services.store.orders.change,
        order_id,
        flow_run_id=flow_run_id,
        runs_deleted=None,
    )
    services.inbox.tell(user_id, "look", order_id)


async def _ask_first(services: Services, order_id: int, user_id: int) -> None:
    """Starts the run of a new order, which fails when Prefect does not answer."""
    try:
        await _ask(services, order_id, user_id, attempt=0)
    except ConsiliumError as error:
        await in_thread(services.store.orders.end, order_id, "failed", error)
        services.bell.ring(ORDER_ENDED)
        raise


async def _ask_again(services: Services, order: OrderRow) -> None:
    """The one-time key was lost with an earlier process, or another process has it: the
    hospital seals what it has to a new one.

    The key stands before anything is waited for, so that who asks at the same moment
    waits for the same answer. When Prefect does not answer the key goes again, so that
    who asks later is not told to wait for nothing.
    """
    order_id = order.order_id
    document = json.loads(order.document)
    user_id = document["user_id"]
    attempt = document["attempt"] + 1
    reply = secrets.token_bytes(KEY_BYTES)
    services.keep_key(order_id, reply, attempt=attempt)
    renewed = _document(
        order_id,
        document["model_id"],
        user_id,
        document["sql"],
        reply,
        attempt=attempt,
    )
    is_first = await in_thread(
        services.store.orders.renew_document,
        order_id,
        order.document,
        renewed,
    )
    if not is_first:
        # Another process asks for its own key; what is sealed to this one comes never.
        services.reply_keys.pop(order_id, None)
        return
    try:
        await _ask(
            services,
            order_id,
            user_id,
            attempt=attempt,
        )
    except ConsiliumError:
        services.reply_keys.pop(order_id, None)
        await in_thread(
            services.store.orders.change,
            order_id,
            state=order.state,
        )
        raise


async def _answer(
    services: Services,
    order_id: int,
    wait: float,
) -> JSONResponse:
    """The predictions, as soon as the hospital has sealed them to the order's one-time
    key; or the state after `wait`.

    Discloses the predictions to who asked, and to this process's memory.
    """
    asked_order = await in_thread(services.store.orders.get, order_id)
    if "reader" in asked_order.body:
        return await _sealed(services, asked_order, wait)
    reply, attempt = services.reply_keys.get(order_id, (b"", 0))
    address = Address(order_id, "predictions", attempt=attempt)
    box: bytes | None = None
    if reply:
        order, box = await box_at(services, address, wait)
    else:  # no box is of use
        order = await ended_order(services, order_id, wait)
    if order.state in ("failed", "cancelled"):
        cause = ConsiliumError.from_json(order.stop or {})
        return failure(cause, data={"order_id": order_id, "infer_status": order.state})
    if box is None:
        # It has ended with an answer that was sealed to an earlier key: the hospital is
        # asked again.
        shown_state = "pending" if order.state == "success" else order.state
        return answer(
            {"order_id": order_id, "infer_status": shown_state, "result": None},
            message="The hospital has not answered yet.",
        )
    is_new = await in_thread(services.store.orders.end_inference, order_id, attempt)
    if is_new:
        services.bell.ring(ORDER_ENDED)
    plain = unseal_from(reply, box, associated=b"predictions/%d" % order_id)
    result = json.loads(plain)
    return answer({"order_id": order_id, "infer_status": "success", "result": result})


async def _sealed(
    services: Services,
    order: OrderRow,
    wait: float,
) -> JSONResponse:
    """The predictions as the hospital has sealed them to the reader's own key."""
    order_id = order.order_id
    order, sealed = await sealed_record(services, order, wait=wait)
    if order.state in ("failed", "cancelled"):
        cause = ConsiliumError.from_json(order.stop or {})
        return failure(cause, data={"order_id": order_id, "infer_status": order.state})
    outcome = {
        "order_id": order_id,
        "infer_status": order.state,
        "result": None,
    }
    if sealed is not None:
        return answer({**outcome, "sealed": sealed.to_json()})
    return answer(outcome, message="The hospital has not answered yet.")


@router.get("/orders/{order_id}/request", include_in_schema=False)
async def read_request(
    request: Request,
    caller: CallerOf,
    order_id: OrderInPath,
) -> JSONResponse:
    """An inference order as its hospital needs it: the document, and the SQL sealed to
    the hospital.
    """
    require_role(caller, AGENT)
    services = Services(request)
    order = await readable(
        services,
        caller,
        order_id,
        kind="infer",
    )
    boxes = await in_thread(services.store.orders.boxes, order_id)
    # With authentication off the caller has no number; an inference has one hospital.
    sealed = boxes[caller.user_id or order.initiator]
    sealed_request = {
        "document": order.document,
        "box": sealed.box.hex(),
    }
    return answer(sealed_request)
