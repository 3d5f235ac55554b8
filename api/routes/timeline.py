"""GET /orders/{id}/timeline: which part of an order ran where and when, by Prefect's record of the tasks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from api.answers import answer
from api.auth import CallerOf
from api.prefect_runs import Part
from api.routes.services import OrderInPath, Services, readable, waiting_shown

router = APIRouter()

ROUND_PARTS = ("local gradient", "scoring", "encryption", "aggregation", "final metrics")
"""Those that an order has in each round; their runs are named after it."""

ORDER_PARTS = (
    "verify order",
    "approval",
    "acceptances",
    "data SQL extraction",
    "data extraction",
    "key agreement",
    "standardization",
    "types",
    "matching",
    "dealing",
    "joint answer",
    "aggregation",
    "scoring",
    "save model",
    "models saved",
    "results",
    "inference",
)
"""Those that an order has outside of its rounds."""

RoundOf = Annotated[int | None, Query(ge=0, lt=2**31)]
FoldOf = Annotated[int, Query(ge=0, lt=2**31)]


@router.get("/orders/{order_id}/timeline")
async def order_timeline(
    request: Request, caller: CallerOf, order_id: OrderInPath, round: RoundOf = None, fold: FoldOf = 0
) -> JSONResponse:
    """The parts of one round; without `round` those before, between and after the rounds, or all where there are none.

    Discloses when each hospital began and ended what, and who is waited for and why, to the parties of the order.
    Unavailable while Prefect is away.
    """
    services = Services(request)
    order = await readable(services, caller, order_id)
    has_rounds = order.kind == "train"
    parts = await services.runs.parts(
        order_id, part_names(round, fold) if has_rounds or round is not None else None
    )
    found = {"fold": fold, "round": round, "parts": [_part(one) for one in parts]}
    return answer({"order_id": order_id, **found, "waiting_for": await waiting_shown(services, order)})


def part_names(round_: int | None, fold: int) -> list[str]:
    """The names of the runs of a training order's parts."""
    if round_ is None:
        return list(ORDER_PARTS)
    place = f"round {round_}" + (f" of fold {fold}" if fold else "")
    return [f"{name}, {place}" for name in ROUND_PARTS]


def _part(one: Part) -> dict[str, Any]:
    return {
        "user_id": one.hospital,
        "what": one.name.partition(", ")[0],
        "began": _moment(one.began),
        "ended": _moment(one.ended) if one.ended else None,
        "state": one.state,
    }


def _moment(when: datetime) -> str:
    return when.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"
