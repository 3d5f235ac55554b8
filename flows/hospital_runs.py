"""A hospital's Prefect flows: who takes part in an order here, and how its run ends.

The order of events stands in flows/hospital.py, which a federation in one process runs without Prefect.
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.hospital import answer_locally, approve_locally, train_locally
from tasks.hospital import training
from tasks.hospital.place import at_hospital
from tasks.hospital.statistics import StatisticsParty
from tasks.hospital.training import TrainingParty


@flow(name="hospital-train", log_prints=False, persist_result=False, validate_parameters=True)
def train_at_hospital(order_id: int) -> State[Any] | None:
    """One hospital's run of a training order."""
    with at_hospital(order_id, TrainingParty) as place:
        train_locally(place.party)
    return place.outcome


@flow(name="hospital-train-approval", log_prints=False, persist_result=False, validate_parameters=True)
def approve_training(order_id: int) -> State[Any] | None:
    """A training order that has no places yet: verified, and decided on by the person who has to."""
    with at_hospital(order_id, TrainingParty, takes_place=False) as place:
        approve_locally(place.party)
    return place.outcome


@flow(name="hospital-statistics-approval", log_prints=False, persist_result=False, validate_parameters=True)
def approve_statistics(order_id: int) -> State[Any] | None:
    """An order of joint statistics that has no places yet: verified, and decided on by the person who has to."""
    with at_hospital(order_id, StatisticsParty, takes_place=False) as place:
        approve_locally(place.party)
    return place.outcome


@flow(name="infer", log_prints=False, persist_result=False, validate_parameters=True)
def infer_at_hospital(order_id: int) -> State[Any] | None:
    """Reads the request, predicts, and answers to the one-time key of who asked."""
    with at_hospital(order_id, TrainingParty) as place:
        request = place.exchange.inference_request(order_id)
        training.predict(place.party, *request)
    return place.outcome


@flow(name="hospital-statistics", log_prints=False, persist_result=False, validate_parameters=True)
def answer_at_hospital(order_id: int) -> State[Any] | None:
    """One hospital's run of joint statistics."""
    with at_hospital(order_id, StatisticsParty) as place:
        answer_locally(place.party)
    return place.outcome
