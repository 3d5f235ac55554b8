"""The order of events at the coordinator: in a training order, and in joint statistics.

What happens in each step stands in tasks/coordinator. Nothing here needs Prefect: a federation in one process runs the
same events.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from protocol.training_request import folds
from tasks.coordinator import statistics, training


def coordinate_training(desk: training.Desk, show: Callable[[dict[str, Any]], None]) -> None:
    """Acceptances; for each fold standardization and rounds until a final one; then the models are in the vaults."""
    training.collect_acceptances(desk)
    summary: dict[str, Any] = {}
    records: list[dict[str, Any]] = []
    for fold in folds(desk.request):
        if desk.request.model_params.standardize:
            training.aggregate(desk, "mean", fold)
            training.aggregate(desk, "variance", fold)
        record = _run_rounds(desk, fold, show)
        summary[str(fold)] = training.summarize(desk, record)
        records.append(record)
    *of_folds, _ = records
    if of_folds:
        summary["held_out"] = training.summarize_folds(desk, of_folds)
    training.wait_for_models(desk)
    desk.exchange.record(desk.order_id, end="success", summary=summary)


def _run_rounds(desk: training.Desk, fold: int, show: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    recorded = desk.recorded_rounds(fold)
    for record in recorded[:-1]:
        show(record)
    round_ = max(0, len(recorded) - 1)
    while True:
        record = training.aggregate_round(desk, fold, round_)
        show(record)
        if record["final"]:
            return record
        round_ += 1


def coordinate_statistics(desk: statistics.Desk, show: Callable[[dict[str, Any]], None]) -> None:
    """Acceptances; sums of pooled rows, or matching and dealing for joined ones; then the receivers hold the result."""
    statistics.collect_acceptances(desk)
    if desk.request.is_joined:
        plan = statistics.agree_on_plan(desk)
        if plan is not None:
            n_rows = statistics.match_keys(desk)
            statistics.deal(desk, plan, n_rows=n_rows, show=show)
    else:
        for round_ in itertools.count():
            if not statistics.add_round(desk, round_, show):
                break
    summary = statistics.collect_reports(desk)
    show({"what": "result", "final": True, **summary})
    desk.exchange.record(desk.order_id, end="success", summary={"statistics": summary})
