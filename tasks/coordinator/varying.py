"""The coordinator's part in whether enough rows vary in an order's columns, where
thresholds are on the sum: it deals the random numbers of one comparison.

Decisions 73 and 95.
"""

from __future__ import annotations

from collections.abc import Mapping

from protocol.errors import listed, who_differ
from protocol.messages import Acceptance, bad_message, read_fields
from protocol.training_request import TrainingRequest
from protocol.varying_plan import (
    MOST_COMPARED,
    compared_columns,
    n_cells,
    strictest,
    varying_plan,
    waits_for_levels,
)
from tasks.coordinator.dealt import send_dealt
from tasks.coordinator.order import CoordinatedOrder


def deal_comparison(
    order: CoordinatedOrder,
    request: TrainingRequest,
    acceptances: Mapping[int, Acceptance],
) -> None:
    """Nothing where not all hospitals let their thresholds be on the sum.

    Of a Newton order it waits until they say how many columns and pairs they compare:
    their categories have levels that the coordinator does not know.
    """
    pooled = {}
    for user_id, acceptance in acceptances.items():
        if acceptance.pooled is None:
            return
        pooled[user_id] = acceptance.pooled
    if waits_for_levels(request):
        n_columns = _read_how_many(order, request)
    else:
        n_columns = len(compared_columns(request))
    plan = varying_plan(request.hospitals, strictest(pooled), n_cells(request))
    for _ in send_dealt(order, plan, n_rows=n_columns):
        continue


def _read_how_many(order: CoordinatedOrder, request: TrainingRequest) -> int:
    """The same at all hospitals, since it follows from what they have agreed on."""
    stated = order.read("compared", request.hospitals, _decode)
    if named := who_differ(stated):
        error = bad_message(
            f"of compared has another number than those of others: {listed(named)}"
        )
        error.detail["hospitals"] = named
        raise error
    return min(stated.values())


def _decode(body: bytes) -> int:
    n_rows: int = read_fields(body, {"rows": int})["rows"]
    if not 1 <= n_rows <= MOST_COMPARED:
        raise bad_message("of compared holds a number that there cannot be")
    return n_rows
