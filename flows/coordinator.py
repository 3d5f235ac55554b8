"""The order of events at the coordinator: in a training order, and in joint statistics.

What happens in each step stands in tasks/coordinator. Nothing here needs Prefect: a
federation in one process runs the same events. `flows.coordinator_runs` are Prefect's
flows around them.
"""

from __future__ import annotations

import itertools

from protocol.training_request import folds
from tasks.coordinator import cells, statistics, training
from tasks.coordinator.order import Record, Show
from tasks.coordinator.statistics import CoordinatedStatistics
from tasks.coordinator.training import CoordinatedTraining


def coordinate_training(order: CoordinatedTraining, show: Show) -> None:
    """Acceptances, the model's columns; for each fold joint moments, then rounds until a
    final one.

    Then the models are in the vaults.
    """
    training.collect_acceptances(order)
    if order.request.evaluates is not None:
        _coordinate_evaluation(order, show)
        return
    training.agree_on_columns(order)
    summary: Record = {}
    records: list[Record] = []
    for fold in folds(order.request):
        _add_moments(order, fold=fold)
        record = _run_rounds(order, fold, show)
        of_fold = training.summarize(order, record)
        summary[str(fold)] = of_fold
        records.append(record)
    # The last record is the final model's; those before it are of cross-validation.
    *of_folds, _ = records
    if of_folds:
        summary["held_out"] = training.summarize_folds(order, of_folds)
    summary["rows"] = training.summarize_rows(order)
    training.wait_for_models(order)
    # Not before all hold it: a success would lack a model where a hospital dies now.
    order.record(end="success", summary=summary)


def _coordinate_evaluation(order: CoordinatedTraining, show: Show) -> None:
    """Of numbers their label's moments; one sum of all, and where the calibration's slope
    is asked for further ones; the reports are in the vaults.
    """
    _add_moments(order, fold=0)
    _run_rounds(order, 0, show)
    evaluated = training.summarize_evaluation(order)
    summary = {"evaluation": evaluated}
    training.wait_for_models(order)
    order.record(end="success", summary=summary)


def _add_moments(order: CoordinatedTraining, *, fold: int) -> None:
    if order.request.takes_moments:
        training.aggregate(order, "mean", fold)
        # Taken about the joint mean, which has to be there first.
        training.aggregate(order, "variance", fold)


def _run_rounds(
    order: CoordinatedTraining,
    fold: int,
    show: Show,
) -> Record:
    # After a restart the last recorded round is looked at again: its sum may not have
    # been given away.
    recorded = order.recorded_rounds(fold)
    for record in recorded[:-1]:
        show(record)
    n_before = len(recorded) - 1
    round_ = max(0, n_before)
    while True:
        record = training.aggregate_round(order, fold, round_)
        show(record)
        if record["final"]:
            return record
        round_ += 1


def coordinate_statistics(order: CoordinatedStatistics, show: Show) -> None:
    """Acceptances; cells and sums of pooled rows, or matching and dealing for joined ones; then
    the receivers hold the result.
    """
    statistics.collect_acceptances(order)
    if order.request.is_joined:
        plan = statistics.agree_on_plan(order)
        if plan is not None:
            n_rows = statistics.match_keys(order)
            statistics.deal(
                order,
                plan,
                n_rows=n_rows,
                show=show,
            )
    else:
        cells.compare_cells(order, show)
        for round_ in itertools.count():
            if not statistics.add_round(order, round_, show):
                break
    summary = statistics.collect_reports(order)
    last_stage = {
        "what": "result",
        "final": True,
        **summary,
    }
    show(last_stage)
    of_order = {"statistics": summary}
    order.record(end="success", summary=of_order)
