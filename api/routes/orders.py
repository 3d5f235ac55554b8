"""Orders of training and of an external trainer: the request document's endpoint that
makes one, and the routes that make one beside it.

Those of joint statistics are made in statistics.py, of inference in inference.py. How
an order begins is in admission.py, what becomes of it in order_shown.py,
order_events.py, order_reports.py and order_watch.py, how somebody ends it in order_end.py; what the
routes share in services.py.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import Field

from api.answers import answer, failure
from api.auth import HOSPITAL, OPERATOR, CallerOf, require_owner, require_role
from api.live import read_until
from api.routes import statistics
from api.routes.admission import begin
from api.routes.services import (
    FLOWS,
    IdempotencyKey,
    OrderInPath,
    Services,
    data_volum,
    identities,
    not_counted,
    order_protocol,
    readable,
    waiting_for,
)
from api.store.engine import in_thread
from api.store.hospitals import Caller
from api.store.once import Once
from api.store.orders import Prepared
from api.store.rows import DueTime, OrderRow, SealedBox, cause_of
from protocol.errors import NotFound
from protocol.fields import Asked
from protocol.messages import COORDINATOR, HospitalSql
from protocol.sealing import KEY_BYTES, PublicIdentity
from protocol.training_request import (
    EvaluationRequest,
    TrainingRequest,
    check_training_request,
    order_document,
)

router = APIRouter()

SCORING = ("none", "round", "full")
"""The levels, from the one that shows nothing of single gradients to the one that shows
most.
"""

# Submission


@router.post("/model/train")
async def train(
    request: Request,
    caller: CallerOf,
    body: TrainingRequest,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Submits a training order and answers when the hospitals have counted their rows."""
    services = Services(request)
    public_keys = await checked(services, caller, body)
    sent_request = body.model_dump(mode="json", exclude_unset=True)
    once = Once.of(caller, idempotency_key, sent_request)
    order = await _with_scoring(services, body)
    return await send(
        services,
        order,
        public_keys,
        once,
    )


async def send(
    services: Services,
    body: TrainingRequest,
    keys: dict[int, PublicIdentity],
    once: Once | None,
) -> JSONResponse:
    """Keeps an order, begins it, and answers when the hospitals have counted."""
    order_id, is_new = await _add(
        services,
        body,
        keys,
        once,
    )
    if is_new:
        order = await in_thread(services.store.orders.get, order_id)
        await begin(services, order)
    return await _answer_with_rows(services, order_id)


async def checked(
    services: Services,
    caller: Caller,
    body: TrainingRequest,
) -> dict[int, PublicIdentity]:
    """The keys to seal an order with, when it may be sent: all that is checked before
    the hospitals see it.
    """
    require_owner(caller, body.user_id)
    check_training_request(body)
    return await identities(services, body.hospitals)


async def _with_scoring(services: Services, body: TrainingRequest) -> TrainingRequest:
    """The order with `scoring` written out, for its document: unsaid, it is the most
    that every party's policy allows (decision 31).

    Method None shows the coordinator every gradient: it is round at least. Full would
    show them to the hospitals too.
    """
    if body.scoring is not None:
        return body
    if body.is_newton:
        # It sends no gradients that could be scored.
        return body.model_copy(update={"scoring": "none"})
    hospitals = await in_thread(services.store.hospitals.all)
    levels = [
        hospital.scoring or "none"
        for hospital in hospitals
        if hospital.user_id in body.hospitals
    ]
    level = min(levels, key=SCORING.index)
    needs_scores = body.is_open or body.aggregation != "mean"
    if level == "none" and needs_scores:
        # which a hospital that forbids it refuses, by name, where the method hides
        # gradients
        level = "round"
    return body.model_copy(update={"scoring": level})


async def _add(
    services: Services,
    body: TrainingRequest,
    keys: dict[int, PublicIdentity],
    once: Once | None,
) -> tuple[int, bool]:
    sealed: dict[int, SealedBox] = {}
    for user_id in body.hospitals:
        # The salt keeps whoever sees the commitment from trying likely texts; it goes
        # into the box with the SQL.
        salt = secrets.token_bytes(KEY_BYTES)
        sql = HospitalSql(salt, body.sql_of(user_id))
        box = sql.seal(user_id, keys[user_id].seal_key)
        sealed[user_id] = SealedBox(box, sql.commitment)
    return await _keep(
        services,
        body,
        sealed,
        once=once,
    )


async def _keep(
    services: Services,
    body: TrainingRequest,
    sealed: Mapping[int, SealedBox],
    *,
    once: Once | None = None,
    rerun_of: int | None = None,
    due: DueTime | None = None,
) -> tuple[int, bool]:
    commitments = {user_id: box.commitment for user_id, box in sealed.items()}
    protocol = await order_protocol(services, body.hospitals, body)

    def prepare(order_id: int) -> Prepared:
        document = order_document(
            order_id,
            body,
            commitments,
            rerun_of=rerun_of,
            protocol=protocol,
        )
        return Prepared(document, sealed)

    return await in_thread(
        services.store.orders.add,
        kind="train" if body.evaluates is None else "evaluate",
        initiator=body.user_id,
        hospital_ids=body.hospitals,
        body=_without_sql(body),
        prepare=prepare,
        once=once,
        rerun_of=rerun_of,
        due=due,
    )


def _without_sql(body: TrainingRequest) -> dict[str, Any]:
    """The request as it was sent, but for the SQL texts: which hospitals have some is
    all that is kept.
    """
    kept_request = body.model_dump(
        mode="json", exclude_unset=True, exclude={"data_info", "test_data_info"}
    )
    kept_request["tested"] = sorted(body.test_data_info)
    return kept_request


async def _answer_with_rows(services: Services, order_id: int) -> JSONResponse:
    """data_volum as the hospitals counted it; a refusal fails the request with that
    hospital's reason.

    An order that cannot have its places now is answered at once: nobody counts rows for
    it before it has them.
    """
    order, missing = await _wait_for_rows(services, order_id)
    # A training order makes the model of its own number.
    model_id = order.body.get("model_id", order_id)
    if order.state in ("failed", "cancelled"):
        cause = cause_of(order)
        numbers = {"order_id": order_id, "model_id": model_id}
        return failure(cause, data=numbers)
    data = {
        "data_volum": data_volum(order),
        "model_id": model_id,
        "order_id": order_id,
    }
    message = await _say_rows(services, order, missing)
    return answer(data, message=message)


async def _say_rows(
    services: Services,
    order: OrderRow,
    missing: list[str],
) -> str | None:
    """Who has not counted yet and what the order waits for; None when there is nothing
    to say.
    """
    subject = "The order"
    if order.late:
        named = ", ".join(str(user_id) for user_id in order.late)
        return f"The order began without hospital {named}, which had not accepted it in time."
    if missing:
        named = ", ".join(missing)
        subject = f"No count yet from hospital {named}; the order"
    if order.admitted is None and not order.has_ended:
        waited_for = await waiting_for(services, order)
        causes = " ".join(waiting.message for waiting in waited_for)
        return f"{subject} waits for its places. {causes}".strip()
    if not missing:
        return None
    return f"{subject} waits for it."


async def _wait_for_rows(
    services: Services, order_id: int
) -> tuple[OrderRow, list[str]]:
    """The order and who has not counted: when all have, it has ended or waits for
    places, or the time is over.
    """

    async def look() -> tuple[OrderRow, list[str]]:
        order = await in_thread(services.store.orders.get, order_id)
        return order, await not_counted(services, order)

    def is_enough(reading: tuple[OrderRow, list[str]]) -> bool:
        order, missing = reading
        all_have_agreed = not missing and order.state != "pending"
        nobody_counts = order.admitted is None or order.has_ended
        return all_have_agreed or nobody_counts

    return await read_until(
        services.bell,
        ("order", order_id),
        look,
        is_enough=is_enough,
        seconds=services.settings.accept_seconds,
    )


class ExternalOrder(Asked):
    """The body of POST /orders."""

    kind: Literal["external"]
    name: Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""


@router.post("/orders")
async def open_external_order(
    request: Request,
    caller: CallerOf,
    body: ExternalOrder,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """An order into which any trainer records its rounds; it belongs to the user's
    hospital, or to the operator.
    """
    require_role(caller, HOSPITAL, OPERATOR)
    owner = caller.user_id if caller.role == HOSPITAL else None
    order_id, _ = await in_thread(
        Services(request).store.orders.add,
        kind="external",
        initiator=COORDINATOR if owner is None else owner,
        hospital_ids=[] if owner is None else [owner],
        body={"name": body.name},
        once=Once.of(
            caller,
            idempotency_key,
            body.model_dump(mode="json"),
        ),
    )
    return JSONResponse({"order_id": order_id})


# Once more


@router.post("/orders/{order_id}/rerun")
async def rerun_order(
    request: Request,
    caller: CallerOf,
    order_id: OrderInPath,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Makes a new order of the same request, with the sealed SQL that is there, and
    answers as the first one did.
    """
    services = Services(request)
    order = await readable(services, caller, order_id)
    if order.kind not in FLOWS:
        raise NotFound(
            f"There is no order {order_id} to run again.",
            remedy="Send the request again.",
        )
    require_owner(caller, order.initiator)
    if order.kind == "statistics":
        return await statistics.ask_again(
            services,
            caller,
            order,
            idempotency_key,
        )
    once = Once.of(caller, idempotency_key, {"rerun_of": order_id})
    again = await run_again(services, order, once=once)
    return await _answer_with_rows(services, again)


async def run_again(
    services: Services,
    order: OrderRow,
    *,
    once: Once | None = None,
    due: DueTime | None = None,
) -> int:
    """The number of a new order of training, or an evaluation, of the same request, with
    the sealed SQL that is there; at a due time of a schedule, or by who asks.
    """
    order_id = order.order_id
    # The SQL is in the hospitals' boxes only (decision 6); the request's form wants a
    # text for each.
    rerun_request = {key: value for key, value in order.body.items() if key != "tested"}
    rerun_request["data_info"] = dict.fromkeys(order.hospitals, "withheld")
    rerun_request["test_data_info"] = dict.fromkeys(order.body["tested"], "withheld")
    form = EvaluationRequest if order.kind == "evaluate" else TrainingRequest
    body = form.model_validate(rerun_request)
    sealed = await in_thread(services.store.orders.boxes, order_id)
    new_order_id, is_new = await _keep(
        services,
        body,
        sealed,
        once=once,
        rerun_of=order_id,
        due=due,
    )
    if is_new:
        new_order = await in_thread(services.store.orders.get, new_order_id)
        await begin(services, new_order)
    return new_order_id
