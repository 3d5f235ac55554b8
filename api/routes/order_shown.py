"""What became of an order: its state, its rounds, who is waited for, how it is protected;
as it is at this moment. `order_events` has the stream.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from api.answers import answer
from api.auth import AGENT, HOSPITAL, CallerOf
from api.routes.ending import ending
from api.routes.order_protection import method_of, protection
from api.routes.services import (
    Before,
    Limit,
    OrderId,
    OrderInPath,
    Services,
    data_volum,
    deleted_run,
    progress,
    readable,
    waiting_shown,
)
from api.store.engine import in_thread
from api.store.rows import OrderRow, RoundRow
from protocol.errors import Unavailable
from protocol.messages import COORDINATOR
from protocol.readers import reader_fingerprint
from protocol.training_request import MODEL_NAMES

router = APIRouter()


@router.get("/model/train_status")
async def train_status(
    request: Request, caller: CallerOf, order_id: OrderId
) -> JSONResponse:
    """pending, running, success, failed or cancelled; and how training ended."""
    services = Services(request)
    order = await readable(services, caller, order_id)
    return answer(
        {
            "model_id": order.body.get("model_id", order_id),
            "train_status": await _status(services, order),
            **ending(order),
            "refusal": order.stop,
        }
    )


@router.get("/model/info")
async def model_info(
    request: Request, caller: CallerOf, model_id: OrderId
) -> JSONResponse:
    """What was ordered: parameters as sent, with attributes, label_name and unique_id
    among them; and how training ended.
    """
    services = Services(request)
    order = await readable(services, caller, model_id, kind="train", what="model")
    body = order.body
    columns = {key: body[key] for key in ("attributes", "label_name", "unique_id")}
    # Beside the request document's keys, where an order has them.
    for request_key in (
        "event_name",
        "entry_name",
        "strata",
        "categorical",
        "derive",
        "missing",
        "complete_on",
    ):
        if body.get(request_key):
            columns[request_key] = body[request_key]
    return answer(
        {
            "data_volum": data_volum(order),
            "model_params": {**body.get("model_params", {}), **columns},
            "model_type": MODEL_NAMES[body["model_type"]],
            "party_id": [user for user in body["party_id"] if user in order.members],
            "user_id": body["user_id"],
            **ending(order),
            "refusal": order.stop,
        }
    )


async def _status(services: Services, order: OrderRow) -> str:
    """Prefect's word, unless the order has ended (then its record) or Prefect is away
    (then its last state).
    """
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
    request: Request, caller: CallerOf, limit: Limit = 50, before: Before = None
) -> JSONResponse:
    """Newest first; `before` is the order_id to go on from."""
    services = Services(request)
    hospital = caller.user_id if caller.role in (HOSPITAL, AGENT) else None
    orders = await in_thread(
        services.store.orders.newest, hospital=hospital, limit=limit, before=before
    )
    counts = await in_thread(
        services.store.rounds.counts, [order.order_id for order in orders]
    )
    rows = [_summary(order, counts.get(order.order_id, 0)) for order in orders]
    goes_on_from = orders[-1].order_id if len(orders) == limit else None
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
        "party": order.party,
        "late": order.late,
        "model_type": order.body.get("model_type"),
        "method": method_of(order)
        if order.kind in ("train", "evaluate")
        else order.body.get("method"),
        "progress": progress(order, n_recorded),
        **ending(order),
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
    """Everything that may be known of an order: state, rounds, metrics, who is waited
    for, and how it is protected.

    `rounds_from` leaves so many of the first recorded rounds out, for who has them
    already.
    """
    services = Services(request)
    order = await readable(services, caller, order_id)
    # Who wants no rounds at all asks beyond what is recorded.
    counts = await in_thread(services.store.rounds.counts, [order_id])
    n_left_out = min(rounds_from, counts.get(order_id, 0))
    # The last of those left out may be the newest that there is.
    n_skipped = max(0, n_left_out - 1)
    recorded = await in_thread(services.store.rounds.of_order, order_id, skip=n_skipped)
    last_round = recorded[-1] if recorded else None
    return answer(
        {
            **_summary(order, n_skipped + len(recorded)),
            "state": await _status(services, order),
            "data_volum": data_volum(order),
            "round": last_round.round if last_round else None,
            "fold": last_round.fold if last_round else None,
            "loss": last_round.loss if last_round else None,
            "rounds": [
                _round(recorded_round)
                for recorded_round in recorded[rounds_from - n_skipped :]
            ],
            "stage": order.stage,
            "summary": order.summary,
            "gradients": await _gradients(services, order),
            "waiting_for": await waiting_shown(services, order),
            "refusal": order.stop,
            "protection": protection(order),
            "reader": _reader(order),
            "prefect_run": _prefect_page(services, order),
            "prefect_run_deleted": deleted_run(order),
        }
    )


def _reader(order: OrderRow) -> str | None:
    """The fingerprint of whose key the answer is sealed to."""
    key = order.body.get("reader")
    return None if key is None else reader_fingerprint(bytes.fromhex(key))


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
    flow_run_id = order.flow_run_id
    if flow_run_id is None or order.runs_deleted is not None:
        return None
    return f"{services.settings.prefect_page}/runs/flow-run/{flow_run_id}"
