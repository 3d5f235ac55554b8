"""Joint statistics over REST: one request, one answer, in the form of its request
document.

Where a provider's data are goes sealed to that provider; neither the store nor a
document has it. The answer says where at the receivers the result lies; the values
themselves pass through this process's memory only where the receiver who asks wants
them (`disclose`), sealed to a one-time key that is made here for each request.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from api.answers import refusal, told
from api.auth import HOSPITAL, OPEN, CallerOf, require_role
from api.routes.admission import begin
from api.routes.services import (
    IdempotencyKey,
    OrderId,
    Services,
    Waiting,
    ended_order,
    identities,
    order_protocol,
    readable,
    waiting_for,
)
from api.store.engine import in_thread
from api.store.hospitals import Caller
from api.store.once import Once
from api.store.orders import Prepared
from api.store.rows import DueTime, OrderRow, SealedBox, cause_of
from protocol.errors import BadRequest, Forbidden, ProtocolViolation
from protocol.exchange import Address
from protocol.messages import COORDINATOR, HospitalSql, canonical
from protocol.sealing import KEY_BYTES, exchange_public, unseal_from
from protocol.statistics_request import (
    JOINED,
    RANKED,
    StatisticsRequest,
    parse_statistics_request,
    read_statistics_document,
    resolve,
    statistics_document,
)

router = APIRouter()

Sealed = Mapping[int, SealedBox]
"""By provider: where its data are, in a box that only its hospital opens."""

RECEIVERS_ONLY = (
    "Only the receivers, {receivers}, can open the result. Nobody else can open one hospital's part, and the "
    "coordinator can open nothing."
)
ADDED = "Masked numbers are added over {providers} hospitals. " + RECEIVERS_ONLY
SEARCHED = (
    "Masked counts are added over {providers} hospitals. The receivers, {receivers}, can open them, and so can "
    "every provider, which counts its rows only where the search leads. Of two providers, each then knows how many "
    "rows of the other lie below every value that was searched at. The coordinator can open nothing."
)
DESCRIBED = (
    ADDED
    + " The counts of rows below pivots, by which the quartiles are searched, every provider can open, too: of two"
    " providers, each then knows how many rows of the other lie below every value that was searched at."
)
SHARED = (
    "Each value is split into random shares among {providers} hospitals. "
    + RECEIVERS_ONLY
    + " The coordinator learns how many keys each hospital has and how many are common; each hospital learns which of "
    "its own keys are common."
)


@router.post("/runModelTrainTask")
@router.post("/runJointStatisticalAnalysisTask")
async def run_statistics(
    request: Request,
    caller: CallerOf,
    body: StatisticsRequest,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Asks a question of joint statistics, and answers when the receivers have the
    result, or after timeout_seconds with status 202.
    """
    services = Services(request)
    question = await resolved(services, caller, body)
    once = Once.of(
        caller, idempotency_key, body.model_dump(mode="json", exclude_unset=True)
    )
    sealed = await seal_places(services, question)
    order_id = await add_order(services, question, sealed, once=once)
    return await _answer_in_time(services, question, order_id)


@router.get("/statistics/result")
async def statistics_result(
    request: Request,
    caller: CallerOf,
    order_id: OrderId,
    wait: Annotated[float, Query(ge=0, le=60)] = 0,
) -> JSONResponse:
    """The same answer, for the order's parties who did not wait for it."""
    require_role(caller, HOSPITAL)
    services = Services(request)
    order = await readable(
        services, caller, order_id, kind="statistics", what="statistics order"
    )
    is_initiator = caller.role == OPEN or caller.user_id == order.initiator
    return await _answer(services, order_id, wait, is_initiator=is_initiator)


async def ask_again(
    services: Services, caller: Caller, order: OrderRow, idempotency_key: str | None
) -> JSONResponse:
    """A new order of the same question, with the sealed places that are there; answers
    as the first one did.
    """
    question = read_statistics_document(order.document, order.order_id).request
    once = Once.of(caller, idempotency_key, {"rerun_of": order.order_id})
    boxes = await in_thread(services.store.orders.boxes, order.order_id)
    new_order_id = await add_order(
        services, question, boxes, once=once, rerun_of=order.order_id
    )
    return await _answer_in_time(services, question, new_order_id)


def protection(order: OrderRow) -> dict[str, Any]:
    """Who could decrypt what, in plain words."""
    body = order.body
    method, sentence = "additive masks", ADDED
    if body["method"] in JOINED:
        method, sentence = "additive secret sharing", SHARED
    elif body["method"] in RANKED:
        method, sentence = "additive masks, opened by all", SEARCHED
    elif body.get("quartiles"):
        method, sentence = "additive masks, counts opened by all", DESCRIBED
    receivers = ", ".join(f"hospital {user_id}" for user_id in body["result_receivers"])
    return {
        "method": method,
        "key_bits": 256,
        "key_holder": "each pair of hospitals",
        "receivers": body["result_receivers"],
        "who_could_decrypt": sentence.format(
            providers=len(body["data_providers"]), receivers=receivers
        ),
    }


# Making an order


async def resolved(
    services: Services, caller: Caller, body: StatisticsRequest
) -> StatisticsRequest:
    """The checked question with user ids for names, in the name of the caller's
    hospital.
    """
    if caller.role not in (HOSPITAL, OPEN):
        raise Forbidden(
            f"An order of joint statistics is signed by a hospital, and this token's role is {caller.role}.",
            remedy="Use the token of a hospital's user.",
        )
    sent = parse_statistics_request(body.model_dump(mode="json", exclude_none=True))
    names = await in_thread(services.store.hospitals.names)
    question = resolve(sent, names, initiator=_initiator(caller, sent, names))
    if question.disclose and question.initiator not in question.receivers:
        raise BadRequest(
            f"disclose is true, and hospital {question.initiator} is no receiver.",
            remedy="Leave disclose out, or name the hospital in result_receivers.",
            code="disclose",
        )
    if question.reader is not None and question.initiator not in question.receivers:
        raise BadRequest(
            f"reader is given, and hospital {question.initiator} is no receiver: it has no answer to seal.",
            remedy="Leave reader out, or name the hospital in result_receivers.",
            code="reader",
        )
    return question


def _initiator(
    caller: Caller, sent: StatisticsRequest, names: Mapping[int, str]
) -> int:
    """The caller's hospital; with authentication off, the one that the body names, or
    its first receiver.
    """
    if caller.user_id is not None:
        if sent.user_id not in (None, caller.user_id):
            raise Forbidden(
                f"This token belongs to another hospital than {sent.user_id}.",
                remedy="Use a token of the hospital itself, or leave user_id out.",
            )
        return caller.user_id
    by_number = {str(user_id): user_id for user_id in names}
    by_name = {hospital_name: user_id for user_id, hospital_name in names.items()}
    named_hospital = str(sent.user_id or sent.result_receivers[0])
    return (by_number | by_name).get(named_hospital, 0)


async def seal_places(services: Services, question: StatisticsRequest) -> Sealed:
    """Each provider's data_path, sealed to it (decision 40).

    NotFound and Conflict for hospitals that nothing can be sealed to.
    """
    public_keys = await identities(services, question.hospitals)
    sealed: dict[int, SealedBox] = {}
    for user_id in question.providers:
        # The salt keeps who sees the commitment from trying likely places; it goes into
        # the box with the place.
        data_place = HospitalSql(
            secrets.token_bytes(KEY_BYTES),
            {"data": question.provider(user_id).data_path},
        )
        sealed[user_id] = SealedBox(
            data_place.seal(user_id, public_keys[user_id].seal_key),
            data_place.commitment,
        )
    return sealed


def without_places(question: StatisticsRequest) -> dict[str, Any]:
    """The request as the store keeps it: nobody there learns where a provider's data
    are.
    """
    stored_request = question.model_dump(mode="json", exclude_none=True)
    stored_request["data_providers"] = [
        {**provider, "data_path": ""} for provider in stored_request["data_providers"]
    ]
    return stored_request


async def add_order(
    services: Services,
    question: StatisticsRequest,
    sealed: Sealed,
    *,
    once: Once | None = None,
    rerun_of: int | None = None,
    due: DueTime | None = None,
    repeats: int | None = None,
) -> int:
    """The number of the order, which is made, and started, unless it was asked for
    `once` before.
    """
    # The receiver who asks seals the values to this one-time key (decision 7).
    reply = secrets.token_bytes(KEY_BYTES) if question.disclose else None
    commitments = {user_id: box.commitment for user_id, box in sealed.items()}
    protocol = await order_protocol(services, question.hospitals, question)

    def prepare(order_id: int) -> Prepared:
        document = statistics_document(
            order_id,
            question,
            commitments,
            schedule_id=due.schedule_id if due else None,
            repeats=repeats,
            reply_key=exchange_public(reply).hex() if reply else None,
            protocol=protocol,
        )
        return Prepared(document, sealed)

    order_id, is_new = await in_thread(
        services.store.orders.add,
        kind="statistics",
        initiator=question.initiator,
        hospital_ids=question.hospitals,
        body=without_places(question),
        prepare=prepare,
        once=once,
        rerun_of=rerun_of,
        due=due,
    )
    if is_new:
        if reply:
            services.keep_key(order_id, reply)
        await begin(services, await in_thread(services.store.orders.get, order_id))
    return order_id


# The answer


async def _answer_in_time(
    services: Services, question: StatisticsRequest, order_id: int
) -> JSONResponse:
    seconds = question.timeout_seconds
    if seconds is None:
        seconds = services.settings.statistics_seconds
    return await _answer(services, order_id, seconds, is_initiator=True)


async def _answer(
    services: Services, order_id: int, seconds: float, *, is_initiator: bool
) -> JSONResponse:
    order = await ended_order(services, order_id, seconds)
    if order.state == "success":
        return await _success(services, order, is_initiator=is_initiator)
    if order.has_ended:
        return _failure(order)
    return await _not_yet(services, order, seconds)


async def _success(
    services: Services, order: OrderRow, *, is_initiator: bool
) -> JSONResponse:
    extra = {"order_id": order.order_id, **summary_of(order)}
    result: dict[str, Any] = {"path": extra.pop("path"), "type": extra.pop("type")}
    # To who has asked alone: other parties of the order may be no receivers.
    if is_initiator and order.body.get("disclose"):
        values = await _values(services, order)
        if values is None:
            extra["notes"] = [*extra["notes"], GONE.format(path=result["path"])]
        else:
            result["values"] = values
    return told({**result, "extra": canonical(extra)}, order_id=order.order_id)


GONE = (
    "The values cannot be shown again: the coordinator keeps their key in memory only. They are in the receiver's "
    "results folder, {path}."
)


def summary_of(order: OrderRow) -> dict[str, Any]:
    """What the coordinator's flow has recorded of a result, with everything that an
    answer says of it.
    """
    body = order.body
    recorded = order.summary.get("statistics", {})
    summary: dict[str, Any] = {
        "path": f"{order.order_id}/{body['result_alias']}.{body['result_type']}",
        "type": body["result_type"],
        "rows_used": order.n_rows,
        "rows_suppressed": {},
        "rows_null": {},
        "suppressed": [],
        "notes": [],
        "opened": [],
        "repeats": None,
    }
    if body.get("missing") is not None:
        summary["flow"] = {}
    if order.is_windowed:
        summary["late"] = order.late
    for name in summary:
        if name in recorded:
            summary[name] = recorded[name]
    return summary


async def _values(services: Services, order: OrderRow) -> Any:
    """The result's rows as the initiator's agent has sealed them to this process; None
    when the key is gone.
    """
    order_id = order.order_id
    reply, attempt = services.reply_keys.get(order_id, (b"", 0))
    if not reply:
        return None
    address = Address(order_id, "values", attempt=attempt)
    box = await in_thread(
        services.store.messages.read_box, address, order.initiator, COORDINATOR
    )
    if box is None:
        return None
    try:
        plain = unseal_from(reply, box, associated=b"values/%d" % order_id)
        return json.loads(plain, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise ProtocolViolation(
            "The receiver's values are not readable.",
            remedy="They are in its results folder.",
            code="bad_message",
        ) from None


def _no_number(constant: str) -> None:
    """NaN and the infinities are no JSON."""
    raise ValueError(constant)


def _failure(order: OrderRow) -> JSONResponse:
    cause = cause_of(order)
    status = {"cancelled": 410, "unplanned": 500}.get(cause.code)
    return refusal(cause, status=status, order_id=order.order_id)


async def _not_yet(services: Services, order: OrderRow, seconds: float) -> JSONResponse:
    order_id = order.order_id
    summary = summary_of(order)
    missing = await waiting_for(services, order)
    extra = {
        "order_id": order_id,
        "state": order.state,
        "waiting_for": [waiting.user_id for waiting in missing],
        "stage": order.stage,
    }
    why = await why_waiting(services, order, missing)
    msg = (
        f"Order {order_id} has not ended after {seconds:g} seconds: {why} "
        f"GET /statistics/result?order_id={order_id} gives the answer."
    )
    result = {
        "path": summary["path"],
        "type": summary["type"],
        "extra": canonical(extra),
    }
    return told(result, msg=msg, status=202, order_id=order_id)


async def why_waiting(
    services: Services, order: OrderRow, missing: list[Waiting]
) -> str:
    """Who or what an order waits for, as a sentence."""
    if not order.flow_run_id:
        return "Prefect does not answer, and the order is started when it does."
    if not missing:
        return "it is under way."
    names = {
        COORDINATOR: "the coordinator",
        **await in_thread(services.store.hospitals.names),
    }
    waited_for = ", ".join(
        names.get(waiting.user_id, str(waiting.user_id)) for waiting in missing
    )
    causes = {waiting.cause for waiting in missing}
    if causes == {"away"}:
        verb = "is" if len(missing) == 1 else "are"
        return f"it waits for {waited_for}, which {verb} away."
    if causes == {"working"}:
        return f"it waits for {waited_for}."
    troubles = [waiting.message for waiting in missing if waiting.cause != "working"]
    return f"it waits for {waited_for}. {' '.join(troubles)}"
