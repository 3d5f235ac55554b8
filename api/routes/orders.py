"""Orders over REST: the request document's endpoints, and what people need beside them.

Orders of training and of an external trainer are made here; those of joint statistics in api/routes/statistics.py, of
inference in inference.py. How an order begins is in admission.py, what its routes share in services.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from api.answers import answer, failure
from api.auth import AGENT, COORDINATOR_ROLE, HOSPITAL, OPERATOR, CallerOf, require_owner, require_role
from api.live import rang, read_until
from api.routes import statistics
from api.routes.admission import PLACES, begin, forget_lost_runs, give_back_if_stuck
from api.routes.services import (
    FLOWS,
    Before,
    IdempotencyKey,
    Limit,
    OrderId,
    OrderInPath,
    Services,
    data_volum,
    identities,
    progress,
    readable,
    waiting_for,
    waiting_shown,
)
from api.store.engine import in_thread
from api.store.hospitals import Caller
from api.store.once import Once
from api.store.orders import OrderChange, Prepared
from api.store.places import is_begun
from api.store.rows import OrderRow, RoundRow, SealedBox, cause_of
from protocol.errors import Conflict, ConsiliumError, NotFound, Unavailable
from protocol.messages import COORDINATOR, HospitalSql
from protocol.sealing import KEY_BYTES, PublicIdentity
from protocol.training_request import MODEL_NAMES, TrainingRequest, check_training_request, order_document

router = APIRouter()
log = logging.getLogger("consilium.api")

WATCH_SECONDS = 2.0
LOST_SECONDS = 30.0
"""How often it is looked whether Prefect still has the runs of all orders."""

STILL_HERE_SECONDS = 15.0
"""How often a stream of events says something when there is no news, so that no proxy closes it."""

SCORING = ("none", "round", "full")
"""The levels, from the one that shows nothing of single gradients to the one that shows most."""

# Submission


@router.post("/model/train")
async def train(
    request: Request, caller: CallerOf, body: TrainingRequest, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Submits a training order and answers when the hospitals have counted their rows."""
    services = Services(request)
    keys = await checked(services, caller, body)
    once = Once.of(caller, idempotency_key, body.model_dump(mode="json", exclude_unset=True))
    order_id, made = await _add(services, await _with_scoring(services, body), keys, once)
    if made:
        await begin(services, await in_thread(services.store.orders.get, order_id))
    return await _answer_with_rows(services, order_id)


async def checked(services: Services, caller: Caller, body: TrainingRequest) -> dict[int, PublicIdentity]:
    """The keys to seal an order with, when it may be sent: all that is checked before the hospitals see it."""
    require_owner(caller, body.user_id)
    check_training_request(body)
    return await identities(services, body.hospitals)


async def _with_scoring(services: Services, body: TrainingRequest) -> TrainingRequest:
    """The order with `scoring` written out, for its document: unsaid, it is the most that every party's policy allows
    (decision 31).

    Method None shows the coordinator every gradient: it is round at least. Full would show them to the hospitals too.
    """
    if body.scoring is not None:
        return body
    hospitals = await in_thread(services.store.hospitals.all)
    levels = [hospital.scoring or "none" for hospital in hospitals if hospital.user_id in body.hospitals]
    level = min(levels, key=SCORING.index)
    needs_scores = body.is_open or body.aggregation != "mean"
    if level == "none" and needs_scores:
        level = "round"  # which a hospital that forbids it refuses, by name, where the method hides gradients
    return body.model_copy(update={"scoring": level})


async def _add(
    services: Services, body: TrainingRequest, keys: dict[int, PublicIdentity], once: Once | None
) -> tuple[int, bool]:
    sealed: dict[int, SealedBox] = {}
    for user in body.hospitals:
        # The salt keeps whoever sees the commitment from trying likely texts; it goes into the box with the SQL.
        sql = HospitalSql(secrets.token_bytes(KEY_BYTES), body.sql_of(user))
        sealed[user] = SealedBox(sql.seal(user, keys[user].seal_key), sql.commitment)
    return await _keep(services, body, sealed, once=once)


async def _keep(
    services: Services,
    body: TrainingRequest,
    sealed: Mapping[int, SealedBox],
    *,
    once: Once | None = None,
    rerun_of: int | None = None,
) -> tuple[int, bool]:
    commitments = {user: own.commitment for user, own in sealed.items()}

    def prepare(order_id: int) -> Prepared:
        document = order_document(order_id, body, commitments, rerun_of=rerun_of)
        return Prepared(document, sealed)

    return await in_thread(
        services.store.orders.add,
        kind="train",
        initiator=body.user_id,
        hospital_ids=body.hospitals,
        body=_without_sql(body),
        prepare=prepare,
        once=once,
        rerun_of=rerun_of,
    )


def _without_sql(body: TrainingRequest) -> dict[str, Any]:
    """The request as it was sent, but for the SQL texts: which hospitals have some is all that is kept."""
    sent = body.model_dump(mode="json", exclude_unset=True, exclude={"data_info", "test_data_info"})
    return {**sent, "tested": sorted(body.test_data_info)}


async def watch_orders(services: Services) -> None:
    """What no request brings: orders kept while Prefect was away are started, those whose run somebody cancelled in
    Prefect are ended, whether a worker is there or not, and those of an agent that stays away give their places back.
    """
    looked_for_lost = time.monotonic()
    while True:
        try:
            active = await in_thread(services.store.orders.active)
            await _look_after(services, active)
            if time.monotonic() - looked_for_lost > LOST_SECONDS:
                looked_for_lost = time.monotonic()
                await forget_lost_runs(services, active)
        except Unavailable as trouble:
            log.info("%s Orders are looked after when that has passed", trouble.sentence)
        except Exception:
            log.exception("Unplanned error")
        await asyncio.sleep(WATCH_SECONDS)


async def _look_after(services: Services, active: list[OrderRow]) -> None:
    """Making runs comes last: for each order it may take as long as Prefect's answer does, or fail."""
    for order in active:
        await give_back_if_stuck(services, order)
    if not active:
        return
    cancelled = await services.runs.cancelled([order.order_id for order in active])
    for order in active:
        if order.order_id in cancelled:
            await _cancel(services, order)
        elif order.kind in FLOWS and not is_begun(order):
            await _begin_again(services, order)


async def _begin_again(services: Services, order: OrderRow) -> None:
    """What is wrong with one order keeps no other from being looked after."""
    try:
        await begin(services, order)
    except Unavailable:
        raise
    except Exception:
        log.exception("Order %s could not be begun; it is tried again", order.order_id)


async def _answer_with_rows(services: Services, order_id: int) -> JSONResponse:
    """data_volum as the hospitals counted it; a refusal fails the request with that hospital's reason.

    An order that cannot have its places now is answered at once: nobody counts rows for it before it has them.
    """
    order, missing = await _wait_for_rows(services, order_id)
    if order.state in ("failed", "cancelled"):
        return failure(cause_of(order), data={"order_id": order_id, "model_id": order_id})
    volume = await data_volum(services, order)
    data = {"data_volum": volume, "model_id": order_id, "order_id": order_id}
    return answer(data, message=await _say_rows(services, order, missing))


async def _say_rows(services: Services, order: OrderRow, missing: list[str]) -> str | None:
    """Who has not counted yet and what the order waits for; None when there is nothing to say."""
    subject = "The order"
    if missing:
        subject = f"No count yet from hospital {', '.join(missing)}; the order"
    if order.admitted is None and not order.has_ended:
        causes = [waiting.message for waiting in await waiting_for(services, order)]
        return f"{subject} waits for its places. {' '.join(causes)}".strip()
    return f"{subject} waits for it." if missing else None


async def _wait_for_rows(services: Services, order_id: int) -> tuple[OrderRow, list[str]]:
    """The order and who has not counted: when all have, it has ended or waits for places, or the time is over."""

    async def look() -> tuple[OrderRow, list[str]]:
        order = await in_thread(services.store.orders.get, order_id)
        volume = await data_volum(services, order)
        missing = [user for user, n_rows in volume.items() if n_rows is None]
        return order, missing

    def is_enough(found: tuple[OrderRow, list[str]]) -> bool:
        order, missing = found
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


class ExternalOrder(BaseModel):
    """The body of POST /orders."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["external"]
    name: Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""


@router.post("/orders")
async def open_external_order(
    request: Request, caller: CallerOf, body: ExternalOrder, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """An order into which any trainer records its rounds; it belongs to the user's hospital, or to the operator."""
    require_role(caller, HOSPITAL, OPERATOR)
    owner = caller.user_id if caller.role == HOSPITAL else None
    order_id, _ = await in_thread(
        Services(request).store.orders.add,
        kind="external",
        initiator=COORDINATOR if owner is None else owner,
        hospital_ids=[] if owner is None else [owner],
        body={"name": body.name},
        once=Once.of(caller, idempotency_key, body.model_dump(mode="json")),
    )
    return JSONResponse({"order_id": order_id})


# What became of it


@router.get("/model/train_status")
async def train_status(request: Request, caller: CallerOf, order_id: OrderId) -> JSONResponse:
    """pending, running, success, failed or cancelled."""
    services = Services(request)
    order = await readable(services, caller, order_id)
    return answer({"model_id": order_id, "train_status": await _status(services, order)})


@router.get("/model/info")
async def model_info(request: Request, caller: CallerOf, model_id: OrderId) -> JSONResponse:
    """What was ordered: parameters as sent, with attributes, label_name and unique_id among them."""
    services = Services(request)
    order = await readable(services, caller, model_id, kind="train", what="model")
    body = order.body
    columns = {key: body[key] for key in ("attributes", "label_name", "unique_id")}
    return answer(
        {
            "data_volum": await data_volum(services, order),
            "model_params": {**body.get("model_params", {}), **columns},
            "model_type": MODEL_NAMES[body["model_type"]],
            "party_id": body["party_id"],
            "user_id": body["user_id"],
        }
    )


async def _status(services: Services, order: OrderRow) -> str:
    """Prefect's word, unless the order has ended (then its record) or Prefect is away (then its last state)."""
    state = order.state
    if order.has_ended or not order.flow_run_id:
        return state
    try:
        status = await services.runs.status(order.flow_run_id)
    except Unavailable:
        return state
    return state if status in ("success", "failed") else status


@router.get("/orders")
async def list_orders(
    request: Request,
    caller: CallerOf,
    limit: Limit = 50,
    before: Before = None,
) -> JSONResponse:
    """Newest first; `before` is the order_id to go on from."""
    services = Services(request)
    own = caller.user_id if caller.role in (HOSPITAL, AGENT) else None
    found = await in_thread(services.store.orders.newest, hospital=own, limit=limit, before=before)
    counts = await in_thread(services.store.rounds.counts, [order.order_id for order in found])
    rows = [_summary(order, counts.get(order.order_id, 0)) for order in found]
    goes_on_from = found[-1].order_id if len(found) == limit else None
    return answer({"orders": rows, "next": goes_on_from})


def _summary(order: OrderRow, n_recorded: int) -> dict[str, Any]:
    is_operators = order.initiator == COORDINATOR
    return {
        "order_id": order.order_id,
        "kind": order.kind,
        "name": order.body.get("name"),
        "state": order.state,
        "user_id": None if is_operators else order.initiator,
        "hospitals": order.hospitals,
        "model_type": order.body.get("model_type"),
        "method": method_of(order) if order.kind == "train" else order.body.get("method"),
        "progress": progress(order, n_recorded),
        "schedule_id": order.schedule_id,
        "created": order.created.isoformat() + "Z",
        "updated": order.updated.isoformat() + "Z",
        "rerun_of": order.rerun_of,
    }


@router.get("/orders/{order_id}")
async def show_order(
    request: Request,
    caller: CallerOf,
    order_id: OrderInPath,
    rounds_from: Annotated[int, Query(ge=0, lt=2**31)] = 0,
) -> JSONResponse:
    """Everything that may be known of an order: state, rounds, metrics, who is waited for, and how it is protected.

    `rounds_from` leaves so many of the first recorded rounds out, for who has them already."""
    services = Services(request)
    order = await readable(services, caller, order_id)
    known = max(0, rounds_from - 1)  # the last of those left out may be the newest that there is
    recorded = await in_thread(services.store.rounds.of_order, order_id, skip=known)
    last = recorded[-1] if recorded else None
    return answer(
        {
            **_summary(order, known + len(recorded)),
            "state": await _status(services, order),
            "data_volum": await data_volum(services, order),
            "round": last.round if last else None,
            "fold": last.fold if last else None,
            "loss": last.loss if last else None,
            "rounds": [_round(recorded_round) for recorded_round in recorded[rounds_from - known :]],
            "stage": order.stage,
            "summary": order.summary,
            "gradients": await _gradients(services, order),
            "waiting_for": await waiting_shown(services, order),
            "refusal": order.stop,
            "protection": _protection(order),
            "prefect_run": _prefect_page(services, order),
        }
    )


async def _gradients(services: Services, order: OrderRow) -> dict[str, Any] | None:
    """What analytics can answer from: in which frame, how many rounds, and for whom."""
    newest = await in_thread(services.store.rounds.file, order.order_id, None)
    if newest is None:
        return None
    numbers = await in_thread(services.store.rounds.file_numbers, order.order_id)
    return {
        "frame": newest.kind,
        "rounds": len(numbers),
        "newest_round": newest.round,
        "layers": newest.layers,
        "score_readers": order.score_readers or "parties",
    }


def _round(recorded: RoundRow) -> dict[str, Any]:
    report = recorded.report
    return {
        "fold": recorded.fold,
        "round": recorded.round,
        "loss": recorded.loss,
        "final": report["final"],
        "hospitals": report["hospitals"],
        "left_out": report.get("left_out", {}),
        "recorded": recorded.recorded.isoformat() + "Z",
    }


def _prefect_page(services: Services, order: OrderRow) -> str | None:
    run = order.flow_run_id
    return f"{services.settings.prefect_page}/runs/flow-run/{run}" if run else None


def method_of(order: OrderRow) -> str:
    """Paillier, Mask or None, as the training order says it in any case; null is None, and unsaid it is Paillier."""
    encrypt = order.body.get("model_params", {}).get("encrypt_param", {})
    unsaid = "None" if "method" in encrypt else "Paillier"
    method = str(encrypt.get("method") or unsaid)
    spellings = {word.lower(): word for word in ("Paillier", "Mask", "None")}
    return spellings.get(method.lower(), method)


def _protection(order: OrderRow) -> dict[str, Any]:
    """Who could decrypt what, in plain words."""
    if order.kind == "external":
        return {
            "method": "None",
            "who_could_decrypt": "Nothing is encrypted: gradients are kept as they were recorded.",
        }
    if order.kind == "statistics":
        return statistics.protection(order)
    if order.kind != "train":
        return {"method": "sealed to the one who asked", "who_could_decrypt": "the owner of the token"}
    encrypt = order.body.get("model_params", {}).get("encrypt_param", {})
    method = method_of(order)
    if method == "None":
        return {
            "method": "None",
            "key_bits": None,
            "key_holder": None,
            "who_could_decrypt": "Nothing is encrypted: the coordinator sees gradients and can compute the model.",
        }
    is_paillier = method == "Paillier"
    initiator = f"hospital {order.initiator}"
    return {
        "method": method,
        "key_bits": encrypt.get("key_length", 2048) if is_paillier else None,
        "key_holder": initiator if is_paillier else "each pair of hospitals",
        "who_could_decrypt": (
            f"Only sums over {_members(order)} hospitals can be opened, by {initiator}. Nobody can open one "
            "hospital's gradient, and the coordinator can open nothing."
        ),
        "scoring": SCORED[order.body.get("scoring") or "none"],
    }


def _members(order: OrderRow) -> str:
    whole = f"all {len(order.hospitals)}"
    takes_everybody = order.body.get("aggregation", "mean") == "mean"
    return whole if takes_everybody else f"the chosen of {whole}"


SCORED = {
    "none": "The coordinator learns nothing of single gradients.",
    "round": "The coordinator learns the lengths of the gradients of a round and the angles between them.",
    "full": (
        "The coordinator learns the lengths of the gradients of a round, the angles between them, "
        "and how far each moved since the round before."
    ),
}


@router.post("/orders/{order_id}/cancel")
async def cancel_order(request: Request, caller: CallerOf, order_id: OrderInPath) -> JSONResponse:
    """Ends an order. Everybody who works on it hears of it at once; its messages are deleted."""
    services = Services(request)
    order = await readable(services, caller, order_id)
    if caller.role not in (OPERATOR, COORDINATOR_ROLE):
        require_owner(caller, order.initiator)
    if not await _cancel(services, order) and order.state != "cancelled":
        raise Conflict(
            f"Order {order_id} has ended already ({order.state}).", remedy="There is nothing to cancel."
        )
    if order.flow_run_id:
        with contextlib.suppress(Unavailable):
            await services.runs.cancel_waiting(order_id)
    return answer({"order_id": order_id, "state": "cancelled"})


async def _cancel(services: Services, order: OrderRow) -> bool:
    """False when it had ended before."""
    order_id = order.order_id
    reason = ConsiliumError(
        f"Order {order_id} was cancelled.", remedy="Rerun it if it was a mistake.", code="cancelled"
    )
    is_new = await in_thread(services.store.orders.end, order_id, "cancelled", reason)
    _tell_ended(services, order)
    return is_new


def _tell_ended(services: Services, order: OrderRow) -> None:
    """Wakes all who wait for the order, and has the agents see to it that nothing of it goes on."""
    order_id = order.order_id
    services.waits.note(order_id, ())
    services.bell.ring(order_id)
    services.bell.ring(("order", order_id))
    services.bell.ring(PLACES)
    if (
        order.flow_run_id
    ):  # one that has not begun is begun now, and ends in Prefect with the order's own word
        services.inbox.tell(COORDINATOR, "look", order_id)
    if order.kind == "external":  # nobody works on it
        return
    for user in (COORDINATOR, *order.hospitals):
        services.inbox.tell(user, "stop", order_id)


@router.post("/orders/{order_id}/rerun")
async def rerun_order(
    request: Request, caller: CallerOf, order_id: OrderInPath, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Makes a new order of the same request, with the sealed SQL that is there, and answers as the first one did."""
    services = Services(request)
    order = await readable(services, caller, order_id)
    if order.kind not in FLOWS:
        raise NotFound(f"There is no order {order_id} to run again.", remedy="Send the request again.")
    require_owner(caller, order.initiator)
    if order.kind == "statistics":
        return await statistics.ask_again(services, caller, order, idempotency_key)
    # The SQL is in the hospitals' boxes only (decision 6); the request's form wants a text for each.
    sent = {key: value for key, value in order.body.items() if key != "tested"}
    sent["data_info"] = dict.fromkeys(order.hospitals, "withheld")
    sent["test_data_info"] = dict.fromkeys(order.body["tested"], "withheld")
    body = TrainingRequest.model_validate(sent)
    sealed = await in_thread(services.store.orders.boxes, order_id)
    once = Once.of(caller, idempotency_key, {"rerun_of": order_id})
    again, made = await _keep(services, body, sealed, once=once, rerun_of=order_id)
    if made:
        await begin(services, await in_thread(services.store.orders.get, again))
    return await _answer_with_rows(services, again)


@router.get("/orders/{order_id}/events", response_class=StreamingResponse)
async def order_events(request: Request, caller: CallerOf, order_id: OrderInPath) -> StreamingResponse:
    """Server-sent events: `state`, `round` (fold, round, loss) and `stage` (what, done, of), from the beginning until
    the order has ended."""
    services = Services(request)
    await readable(services, caller, order_id)
    return StreamingResponse(_events(services, order_id), media_type="text/event-stream")


async def _events(services: Services, order_id: int) -> AsyncIterator[str]:
    n_sent, state, stage = 0, "", None
    with services.bell.listening(("order", order_id)) as event:
        while True:
            event.clear()
            order = await in_thread(services.store.orders.get, order_id)
            recorded = await in_thread(services.store.rounds.of_order, order_id)
            for new in recorded[n_sent:]:
                yield _event("round", {"fold": new.fold, "round": new.round, "loss": new.loss})
            n_sent = len(recorded)
            if order.stage is not None and order.stage != stage:
                stage = order.stage
                yield _event("stage", stage)
            if order.state != state:
                state = order.state
                yield _event("state", {"order_id": order_id, "state": state})
            if order.has_ended:
                return
            if not await rang(event, time.monotonic() + STILL_HERE_SECONDS):
                yield ": still here\n\n"


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


# What agents and the coordinator's flow report


@router.post("/orders/{order_id}/refuse", include_in_schema=False)
async def refuse_order(
    request: Request, caller: CallerOf, order_id: OrderInPath, error: Annotated[dict[str, Any], Body()]
) -> JSONResponse:
    """A hospital of the order ends it with its reason."""
    require_role(caller, AGENT)
    services = Services(request)
    order = await readable(services, caller, order_id)
    if order.kind == "external":
        raise Conflict(f"Order {order_id} asks nothing of a hospital.", remedy="Its owner can cancel it.")
    cause = ConsiliumError.from_json(error)
    cause.detail["user_id"] = caller.user_id
    if await in_thread(services.store.orders.end, order_id, "failed", cause):
        _tell_ended(services, order)
    return answer({"order_id": order_id})


class LeaveOneOut(BaseModel):
    """What a round's model is worth without each hospital; added to that round's report."""

    model_config = ConfigDict(extra="forbid")

    round: int
    clients: dict[str, dict[str, Any]]


class Stage(BaseModel):
    """How far an order of joint statistics is: which step, and how many of its parts are done; `of` may be unknown."""

    model_config = ConfigDict(extra="forbid")

    what: Annotated[str, Field(max_length=100)]
    done: Annotated[int, Field(ge=0)]
    of: Annotated[int, Field(ge=0)] | None


class ProgressReport(BaseModel):
    """What the coordinator's flow reports: any part of it, each part idempotent."""

    model_config = ConfigDict(extra="forbid")

    state: str | None = None
    n_rows: dict[str, int] | None = None
    round: dict[str, Any] | None = None
    stage: Stage | None = None
    summary: dict[str, Any] | None = None
    runs: dict[str, Annotated[str, Field(max_length=36)]] | None = None
    end: str | None = None
    stop: dict[str, Any] | None = None
    leave_one_out: LeaveOneOut | None = None
    score_readers: Literal["parties", "operator"] | None = None


@router.post("/orders/{order_id}/progress", include_in_schema=False)
async def report_progress(
    request: Request, caller: CallerOf, order_id: OrderInPath, report: ProgressReport
) -> JSONResponse:
    """Keeps what the coordinator's flow reports, and wakes who waits for it."""
    require_role(caller, COORDINATOR_ROLE)
    services = Services(request)
    order = await in_thread(services.store.orders.get, order_id)
    change: OrderChange = {}
    if report.n_rows is not None:
        change["n_rows"] = report.n_rows
    if report.summary is not None:
        change["summary"] = report.summary
    # Gradients that one policy keeps for the operator stay so: a policy that was opened later opens no earlier round.
    if report.score_readers is not None and order.score_readers != "operator":
        change["score_readers"] = report.score_readers
    if report.stage is not None:
        change["stage"] = report.stage.model_dump()
    if change:
        await in_thread(services.store.orders.change, order_id, **change)
    if report.state:
        await in_thread(services.store.orders.leave_pending, order_id, report.state)
    if report.round:
        entry = report.round
        await in_thread(
            services.store.rounds.record,
            order_id,
            entry["fold"],
            entry["round"],
            loss=entry["loss"],
            report=entry,
        )
    left_out = report.leave_one_out
    if left_out is not None:
        await in_thread(services.store.rounds.add_leave_one_out, order_id, left_out.round, left_out.clients)
    stop = ConsiliumError.from_json(report.stop) if report.stop else None
    if report.runs:
        await in_thread(services.store.orders.change, order_id, runs=report.runs)
        for user in order.hospitals:
            services.inbox.tell(user, "look", order_id)
    if report.end:
        is_new = await in_thread(services.store.orders.end, order_id, report.end, stop)
        if is_new:
            services.bell.ring(PLACES)
        if is_new and report.end != "success":
            _tell_ended(services, order)
    services.bell.ring(order_id)
    services.bell.ring(("order", order_id))
    return answer({"order_id": order_id})


@router.get("/orders/{order_id}/progress", include_in_schema=False)
async def read_progress(request: Request, caller: CallerOf, order_id: OrderInPath) -> JSONResponse:
    """The rounds recorded so far, for a coordinator's flow that starts again."""
    require_role(caller, COORDINATOR_ROLE)
    recorded = await in_thread(Services(request).store.rounds.of_order, order_id)
    return answer([recorded_round.report for recorded_round in recorded])
