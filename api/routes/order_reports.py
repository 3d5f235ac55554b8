"""What agents and the coordinator's flow report of an order: a refusal, and how far it
is.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from api.answers import answer
from api.auth import AGENT, COORDINATOR_ROLE, CallerOf, require_role
from api.routes.admission import PLACES
from api.routes.order_end import tell_ended
from api.routes.services import ORDER_ENDED, OrderInPath, Services, readable
from api.store.engine import in_thread
from api.store.orders import OrderChange
from api.store.rows import OrderRow, late_stop
from protocol.errors import Conflict, ConsiliumError

router = APIRouter(include_in_schema=False)


@router.post("/orders/{order_id}/refuse")
async def refuse_order(
    request: Request,
    caller: CallerOf,
    order_id: OrderInPath,
    error: Annotated[dict[str, Any], Body()],
) -> JSONResponse:
    """A hospital of the order ends it with its reason, or adds it to that of another."""
    require_role(caller, AGENT)
    services = Services(request)
    order = await readable(services, caller, order_id)
    if caller.user_id in order.late:
        raise late_stop(order_id)
    if order.kind == "external":
        raise Conflict(
            f"Order {order_id} asks nothing of a hospital.",
            remedy="Its owner can cancel it.",
        )
    cause = ConsiliumError.from_json(error)
    # By the token, whatever was sent: nobody refuses in another hospital's name.
    cause.detail["user_id"] = caller.user_id
    # The coordinator's own list of other hospitals' reasons.
    cause.detail.pop("also", None)
    is_new = await in_thread(
        services.store.orders.end,
        order_id,
        "failed",
        cause,
    )
    if is_new:
        tell_ended(services, order)
        return answer({"order_id": order_id})
    is_added = await in_thread(
        services.store.orders.add_reason,
        order_id,
        cause,
    )
    if is_added:
        services.bell.ring(("order", order_id))
    return answer({"order_id": order_id})


class LeaveOneOut(BaseModel):
    """What a round's model is worth without each hospital; added to that round's
    report.
    """

    model_config = ConfigDict(extra="forbid")

    round: int
    clients: dict[str, dict[str, Any]]


class Stage(BaseModel):
    """How far an order of joint statistics is: which step, and how many of its parts
    are done; `of` may be unknown.
    """

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
    party: list[int] | None = None
    end: str | None = None
    stop: dict[str, Any] | None = None
    leave_one_out: LeaveOneOut | None = None
    score_readers: Literal["parties", "operator"] | None = None


@router.post("/orders/{order_id}/progress")
async def report_progress(
    request: Request,
    caller: CallerOf,
    order_id: OrderInPath,
    report: ProgressReport,
) -> JSONResponse:
    """Keeps what the coordinator's flow reports, and wakes who waits for it."""
    require_role(caller, COORDINATOR_ROLE)
    services = Services(request)
    order = await in_thread(services.store.orders.get, order_id)
    await _keep_facts(services, order, report)
    await _keep_round(services, order, report)
    # Read before anything is ended by it: a bad one ends no order.
    stop = None
    if report.stop:
        stop = ConsiliumError.from_json(report.stop)
    if report.runs:
        await in_thread(
            services.store.orders.change,
            order_id,
            runs=report.runs,
        )
        for user_id in order.hospitals:
            services.inbox.tell(user_id, "look", order_id)
    if report.party is not None:
        await _keep_party(services, order, report.party)
    # Who waits is woken after all of it is kept; for a message only by the order's end,
    # or where it may have started without who waits.
    if report.end:
        await _end_by_report(
            services,
            order,
            report.end,
            stop,
        )
    if report.end or report.party is not None:
        services.bell.ring(order_id)
    services.bell.ring(("order", order_id))
    return answer({"order_id": order_id})


async def _keep_facts(
    services: Services,
    order: OrderRow,
    report: ProgressReport,
) -> None:
    """What the report says of the order as a whole."""
    change: OrderChange = {}
    if report.n_rows is not None:
        change["n_rows"] = report.n_rows
    if report.summary is not None:
        change["summary"] = report.summary
    # Gradients that one policy keeps for the operator stay so: a policy that was opened
    # later opens no earlier round.
    may_change_readers = order.score_readers != "operator"
    if report.score_readers is not None and may_change_readers:
        change["score_readers"] = report.score_readers
    if report.stage is not None:
        change["stage"] = report.stage.model_dump()
    if change:
        await in_thread(
            services.store.orders.change,
            order.order_id,
            **change,
        )
    if report.state:
        # An order that has ended meanwhile stays so.
        await in_thread(
            services.store.orders.leave_pending,
            order.order_id,
            report.state,
        )


async def _keep_party(
    services: Services,
    order: OrderRow,
    party: list[int],
) -> None:
    """The order has started, perhaps without some: their places are free, and their
    agents look at what their runs are to do.
    """
    await in_thread(
        services.store.orders.name_party,
        order.order_id,
        party,
    )
    left_out = set(order.hospitals) - set(party)
    for user_id in left_out:
        services.inbox.tell(user_id, "look", order.order_id)
    services.bell.ring(PLACES)


async def _keep_round(
    services: Services,
    order: OrderRow,
    report: ProgressReport,
) -> None:
    """What the report says of a round, and of the one before."""
    round_report = report.round
    if round_report:
        await in_thread(
            services.store.rounds.record,
            order.order_id,
            round_report["fold"],
            round_report["round"],
            loss=round_report["loss"],
            report=round_report,
        )
    left_out = report.leave_one_out
    if left_out is not None:
        await in_thread(
            services.store.rounds.add_leave_one_out,
            order.order_id,
            left_out.round,
            left_out.clients,
        )


async def _end_by_report(
    services: Services,
    order: OrderRow,
    end: str,
    stop: ConsiliumError | None,
) -> None:
    is_new = await in_thread(
        services.store.orders.end,
        order.order_id,
        end,
        stop,
    )
    if not is_new:
        return
    services.bell.ring(PLACES)
    services.bell.ring(ORDER_ENDED)
    # After a success the agents' runs end by themselves.
    if end != "success":
        tell_ended(services, order)


@router.get("/orders/{order_id}/progress")
async def read_progress(
    request: Request,
    caller: CallerOf,
    order_id: OrderInPath,
) -> JSONResponse:
    """The rounds recorded so far, for a coordinator's flow that starts again."""
    require_role(caller, COORDINATOR_ROLE)
    services = Services(request)
    recorded = await in_thread(services.store.rounds.of_order, order_id)
    reports = [recorded_round.report for recorded_round in recorded]
    return answer(reports)
