"""Prefect's flows: who takes part in an order, and how its run ends. The order of events stands in the modules beside.

Nothing here is needed by a federation in one process, which runs without Prefect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from prefect import flow
from prefect.client.schemas.objects import State

from flows.approval import approve_locally
from flows.joint_statistics import answer_locally, coordinate_statistics
from flows.training import coordinate_training, train_locally
from protocol.exchange import Exchange
from tasks import coordinator, hospital, joint_statistics, schedules
from tasks.hospital import TrainingParty
from tasks.joint_statistics import StatisticsParty, StatisticsPicture
from tasks.places import at_coordinator, at_hospital, dispatch, withdraw
from tasks.progress import Picture, Progress, TrainingPicture

D = TypeVar("D", coordinator.Desk, joint_statistics.Desk)


@flow(name="train-order", log_prints=False, persist_result=False, validate_parameters=True)
def train_order(order_id: int) -> State[Any] | None:
    """The coordinator's run of a training order: one hospital run for each party, then the rounds."""
    return _coordinate(order_id, coordinator.open_desk, "hospital-train", TrainingPicture, coordinate_training)


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
        hospital.predict(place.party, *request)
    return place.outcome


@flow(name="joint-statistics", log_prints=False, persist_result=False, validate_parameters=True)
def answer_jointly(order_id: int) -> State[Any] | None:
    """The coordinator's run of joint statistics: one hospital run for each party, then sums or shares."""
    open_desk = joint_statistics.open_desk
    return _coordinate(order_id, open_desk, "hospital-statistics", StatisticsPicture, coordinate_statistics)


@flow(name="hospital-statistics", log_prints=False, persist_result=False, validate_parameters=True)
def answer_at_hospital(order_id: int) -> State[Any] | None:
    """One hospital's run of joint statistics."""
    with at_hospital(order_id, StatisticsParty) as place:
        answer_locally(place.party)
    return place.outcome


@flow(name="scheduled-statistics", flow_run_name="schedule-{schedule_id}", log_prints=False, persist_result=False)
def run_schedule(schedule_id: int) -> State[Any]:
    """Asks for the order of the time at which this run was due, and lasts until that order has ended.

    A time at which nothing is asked ends as Skipped.
    """
    return schedules.fire(schedule_id)


def _coordinate(
    order_id: int,
    open_desk: Callable[[int, Exchange], D],
    hospital_flow: str,
    picture: Callable[[D], Picture],
    coordinate: Callable[[D, Callable[[dict[str, Any]], None]], None],
) -> State[Any] | None:
    """An order of any kind: one hospital run for each party, then its events, drawn as they go."""
    with at_coordinator(order_id) as place:
        desk = open_desk(order_id, place.exchange)
        dispatch(place, hospital_flow, desk.hospitals)
        with Progress(picture(desk)) as progress:
            coordinate(desk, progress.show)
    withdraw(place)
    return place.outcome
