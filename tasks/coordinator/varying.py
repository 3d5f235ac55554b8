"""The coordinator's part in whether enough rows vary in an order's columns, where
thresholds are on the sum: it deals the random numbers of one comparison.

Decision 73.
"""

from __future__ import annotations

from collections.abc import Mapping

from protocol.messages import Acceptance
from protocol.training_request import TrainingRequest
from protocol.varying_plan import compared_columns, strictest, varying_plan
from tasks.coordinator.dealt import send_dealt
from tasks.coordinator.order import CoordinatedOrder


def deal_comparison(
    order: CoordinatedOrder,
    request: TrainingRequest,
    acceptances: Mapping[int, Acceptance],
) -> None:
    """Nothing where not all hospitals let their thresholds be on the sum."""
    pooled = {}
    for user, acceptance in acceptances.items():
        if acceptance.pooled is None:
            return
        pooled[user] = acceptance.pooled
    plan = varying_plan(request.hospitals, strictest(pooled))
    n_columns = len(compared_columns(request))
    for _ in send_dealt(order, plan, n_rows=n_columns):
        continue
