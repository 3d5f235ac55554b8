"""A training order, from the coordinator's side and from a hospital's.

`coordinate_training` and `train_locally` are the order of events; the Prefect flows around them say who takes part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from protocol.order import folds
from tasks import coordinator, hospital
from tasks.coordinator import Desk
from tasks.hospital import TrainingParty
from tasks.places import at_coordinator, at_hospital, dispatch, withdraw
from tasks.progress import Progress, TrainingPicture


@flow(name="train-order", log_prints=False, persist_result=False, validate_parameters=True)
def train_order(order_id: int) -> State[Any] | None:
    """The coordinator's run of an order: one hospital run for each party, then the rounds."""
    with at_coordinator(order_id) as place:
        desk = coordinator.open_desk(order_id, place.exchange)
        dispatch(place, "hospital-train", desk.hospitals)
        with Progress(TrainingPicture(desk)) as progress:
            coordinate_training(desk, progress.show)
    withdraw(place)
    return place.outcome


def coordinate_training(desk: Desk, show: Callable[[dict[str, Any]], None]) -> None:
    """Acceptances; for each fold standardization and rounds until a final one; then the models are in the vaults."""
    coordinator.collect_acceptances(desk)
    summary: dict[str, Any] = {}
    for fold in folds(desk.request):
        if desk.request.model_params.standardize:
            coordinator.aggregate(desk, "mean", fold)
            coordinator.aggregate(desk, "variance", fold)
        record = _run_rounds(desk, fold, show)
        summary[str(fold)] = coordinator.summarize(desk, record)
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


@flow(name="hospital-train", log_prints=False, persist_result=False, validate_parameters=True)
def train_at_hospital(order_id: int) -> State[Any] | None:
    """One hospital's run of an order."""
    with at_hospital(order_id, TrainingParty) as place:
        train_locally(place.party)
    return place.outcome


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
