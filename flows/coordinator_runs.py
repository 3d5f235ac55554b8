"""The coordinator's Prefect flows: which runs an order has, and how its own run ends.

The order of events stands in flows/coordinator.py, which a federation in one process
runs without Prefect.

Decision 52.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from prefect import flow
from prefect.client.schemas.objects import State

from flows.coordinator import coordinate_statistics, coordinate_training
from protocol.exchange import Exchange
from tasks.coordinator import schedules, statistics, training
from tasks.coordinator.order import Show
from tasks.coordinator.place import at_coordinator, dispatch, withdraw
from tasks.coordinator.progress import (
    DrawnProgress,
    OrderPicture,
    StatisticsPicture,
    TrainingPicture,
)
from tasks.coordinator.run_log import tell_hospitals_runs
from tasks.coordinator.statistics import CoordinatedStatistics
from tasks.coordinator.training import CoordinatedTraining

Order = TypeVar("Order", CoordinatedTraining, CoordinatedStatistics)


# What a run prints or gives back stays out of Prefect's database.
@flow(
    name="train-order", log_prints=False, persist_result=False, validate_parameters=True
)
def train_order(order_id: int) -> State[Any] | None:
    """The coordinator's run of a training order: one hospital run for each party, then
    the rounds.
    """
    return _coordinate(
        order_id,
        open_order=training.open_order,
        hospital_flow="hospital-train",
        picture=TrainingPicture,
        coordinate=coordinate_training,
    )


@flow(
    name="joint-statistics",
    log_prints=False,
    persist_result=False,
    validate_parameters=True,
)
def answer_jointly(order_id: int) -> State[Any] | None:
    """The coordinator's run of joint statistics: one hospital run for each party, then
    sums or shares.
    """
    return _coordinate(
        order_id,
        open_order=statistics.open_order,
        hospital_flow="hospital-statistics",
        picture=StatisticsPicture,
        coordinate=coordinate_statistics,
    )


@flow(
    name="scheduled-statistics",
    flow_run_name="schedule-{schedule_id}",
    log_prints=False,
    persist_result=False,
)
def run_schedule(schedule_id: int) -> State[Any]:
    """Asks for the order of the time at which this run was due, and lasts until that
    order has ended.

    A time at which nothing is asked ends as Skipped.
    """
    return schedules.fire(schedule_id)


def _coordinate(
    order_id: int,
    *,
    open_order: Callable[[int, Exchange], Order],
    hospital_flow: str,
    picture: Callable[[Order], OrderPicture],
    coordinate: Callable[[Order, Show], None],
) -> State[Any] | None:
    """An order of any kind: one hospital run for each party, then its events, drawn as
    they go.
    """
    with at_coordinator(order_id) as place:
        # Read first: a document that is none starts no run at a hospital.
        order = open_order(order_id, place.exchange)
        run_ids = dispatch(place, hospital_flow, order.hospitals)
        tell_hospitals_runs(run_ids)
        with DrawnProgress(picture(order)) as progress:
            coordinate(order, progress.show)
    # Also where the work above has failed: at_coordinator has kept that in the place.
    withdraw(place)
    return place.outcome
