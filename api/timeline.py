"""GET /orders/{id}/timeline: which part of an order ran where and when, by Prefect's record of the tasks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from api.auth import CallerOf
from api.desk import Desk, OrderInPath, readable
from api.envelope import answer

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
    """The parts of one round, or without `round` those before, between and after the rounds.

    Discloses when each hospital began and ended what, to the parties of the order. Unavailable while Prefect is away.
    """
    desk = Desk(request)
    await readable(desk, caller, order_id)
    names = part_names(round, fold)
    parts = await desk.runs.parts(order_id, list(names))
    return answer({"order_id": order_id, "fold": fold, "round": round, "parts": [_part(one, names) for one in parts]})


def part_names(round_: int | None, fold: int) -> dict[str, str]:
    """The name of each part's run, and what the part is called."""
    if round_ is None:
        return {name: name for name in ORDER_PARTS}
    place = f"round {round_}" + (f" of fold {fold}" if fold else "")
    return {f"{name}, {place}": name for name in ROUND_PARTS}


def _part(one: Any, names: dict[str, str]) -> dict[str, Any]:
    return {
        "user_id": one.hospital,
        "what": names[one.name],
        "began": _moment(one.began),
        "ended": _moment(one.ended) if one.ended else None,
        "state": one.state,
    }


def _moment(when: datetime) -> str:
    return when.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"
