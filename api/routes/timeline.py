"""GET /orders/{id}/timeline: which part of an order ran where and when, by Prefect's
record (decision 51).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from api.answers import answer
from api.auth import CallerOf
from api.prefect_parts import StepRun
from api.routes.services import (
    OrderInPath,
    Services,
    deleted_run,
    readable,
    waiting_shown,
)

router = APIRouter()

ROUND_PARTS = (
    "local training",
    "local gradient",
    "scoring",
    "encryption",
    "aggregation",
    "final metrics",
)
"""Those that an order has in each round; their runs are named after it."""

WHOLE_ORDER = "whole order"
"""All of a hospital's work, where an order has so many hospitals that none shows its
steps (decision 146).
"""

ORDER_PARTS = (
    "verify order",
    "approval",
    "acceptances",
    "data SQL extraction",
    "data extraction",
    "key agreement",
    "model columns",
    "standardization",
    "types",
    "matching",
    "cells",
    "dealing",
    "joint answer",
    "aggregation",
    "scoring",
    "save model",
    "models saved",
    "results",
    "inference",
    WHOLE_ORDER,
)
"""Those that an order has outside of its rounds."""

RoundOf = Annotated[int | None, Query(ge=0, lt=2**31)]
FoldOf = Annotated[int, Query(ge=0, lt=2**31)]


@router.get("/orders/{order_id}/timeline")
async def order_timeline(
    request: Request,
    caller: CallerOf,
    order_id: OrderInPath,
    round: RoundOf = None,
    fold: FoldOf = 0,
) -> JSONResponse:
    """The parts of one round; without `round` those before, between and after the
    rounds, or all where there are none. `hospitals_show` is `steps`, or `whole order`
    where an order has so many hospitals that each has one part for all its work.

    Discloses when each hospital began and ended what, and who is waited for and why, to
    the parties of the order. Unavailable while Prefect is away. No parts where Prefect
    has deleted the order's runs.
    """
    services = Services(request)
    order = await readable(services, caller, order_id)
    names: list[str] | None = None  # all of them
    if order.kind == "train" or round is not None:
        names = part_names(round, fold)
    parts: list[StepRun] = []
    if order.runs_deleted is None:
        parts = await services.runs.parts(order_id, names)
    shown_parts = [part for part in map(_shown, parts) if _is_ours(part)]
    is_coarse = any(part["what"] == WHOLE_ORDER for part in shown_parts)
    return answer(
        {
            "order_id": order_id,
            "fold": fold,
            "round": round,
            "parts": shown_parts,
            "hospitals_show": WHOLE_ORDER if is_coarse else "steps",
            "prefect_run_deleted": deleted_run(order),
            "waiting_for": await waiting_shown(services, order),
        }
    )


def part_names(round_: int | None, fold: int) -> list[str]:
    """The names of the runs of a training order's parts."""
    if round_ is None:
        return list(ORDER_PARTS)
    round_name = f"round {round_} of fold {fold}" if fold else f"round {round_}"
    # A hospital that shows all its work as one part has it in every round.
    return [*(f"{part_name}, {round_name}" for part_name in ROUND_PARTS), WHOLE_ORDER]


def _shown(part: StepRun) -> dict[str, Any]:
    step, _, _ = part.name.partition(", ")  # without the round
    return {
        "user_id": part.hospital,
        "what": step,
        "began": _moment(part.began),
        "ended": _moment(part.ended) if part.ended else None,
        "state": part.state,
    }


def _is_ours(part: dict[str, Any]) -> bool:
    """Prefect has a task of its own, by a made-up name, for each hospital's run."""
    return part["what"] in ORDER_PARTS or part["what"] in ROUND_PARTS


def _moment(when: datetime) -> str:
    return when.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"
