"""The order of events in a training order, at the coordinator and at a hospital."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from protocol.order import folds
from tasks import coordinator, hospital
from tasks.coordinator import Desk
from tasks.hospital import TrainingParty


def coordinate_training(desk: Desk, show: Callable[[dict[str, Any]], None]) -> None:
    """Acceptances; for each fold standardization and rounds until a final one; then the models are in the vaults."""
    coordinator.collect_acceptances(desk)
    summary: dict[str, Any] = {}
    records: list[dict[str, Any]] = []
    for fold in folds(desk.request):
        if desk.request.model_params.standardize:
            coordinator.aggregate(desk, "mean", fold)
            coordinator.aggregate(desk, "variance", fold)
        record = _run_rounds(desk, fold, show)
        summary[str(fold)] = coordinator.summarize(desk, record)
        records.append(record)
    *of_folds, _ = records
    if of_folds:
        summary["held_out"] = coordinator.summarize_folds(desk, of_folds)
    coordinator.wait_for_models(desk)
    desk.exchange.record(desk.order_id, end="success", summary=summary)


def _run_rounds(desk: Desk, fold: int, show: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    recorded = desk.recorded_rounds(fold)
    for record in recorded[:-1]:
        show(record)
    round_ = max(0, len(recorded) - 1)
    while True:
        record = coordinator.aggregate_round(desk, fold, round_)
        show(record)
        if record["final"]:
            return record
        round_ += 1


def train_locally(party: TrainingParty) -> None:
    """Verify, ask a person, count, agree on keys; for each fold the rounds; keep the model."""
    hospital.verify_order(party)
    hospital.await_approval(party)
    hospital.extract_data(party)
    trainer = hospital.agree_on_keys(party)
    for number in folds(party.request):
        fold = hospital.open_fold(trainer, number)
        while not fold.checkpoint.stopped:
            report = hospital.local_gradient(trainer, fold)
            hospital.show_gradient(trainer, fold)
            hospital.encrypt_contribution(trainer, fold, report)
            hospital.apply_aggregate(trainer, fold)
        hospital.finish_fold(trainer, fold)
    hospital.save_model(trainer, fold)
    hospital.log_times(party)
