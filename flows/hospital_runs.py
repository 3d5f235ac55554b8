"""A hospital's Prefect flows: which events an order has here, and how its run ends.

The order of events stands in flows/hospital.py, which a federation in one process runs
without Prefect. `tasks.hospital.place` says what becomes of a run in which something
goes wrong.

An agent imports this module to know which flows there are; what their work needs is
imported in the process of a run, or before it where that is preloaded (decision 122).
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from tasks.hospital.place import at_hospital

PRELOADED = ("flows.hospital",)
"""What the functions below import, all of it."""


# Nothing that a run prints or gives back leaves for Prefect's database.
@flow(
    name="hospital-train",
    log_prints=False,
    persist_result=False,
    validate_parameters=True,
)
def train_at_hospital(order_id: int) -> State[Any] | None:
    """One hospital's run of a training order."""
    from flows.hospital import train_locally
    from tasks.hospital.order import shown

    return at_hospital(order_id, shown(train_locally))


@flow(
    name="hospital-train-approval",
    log_prints=False,
    persist_result=False,
    validate_parameters=True,
)
def approve_training(order_id: int) -> State[Any] | None:
    """A training order that has no places yet: verified, and decided on by the person
    who has to.
    """
    from flows.hospital import approve_locally
    from tasks.hospital import training

    return at_hospital(
        order_id,
        lambda party: approve_locally(party, training.verify_order),
        # A person may take days: meanwhile the places are for orders that work.
        takes_place=False,
    )


@flow(
    name="hospital-statistics-approval",
    log_prints=False,
    persist_result=False,
    validate_parameters=True,
)
def approve_statistics(order_id: int) -> State[Any] | None:
    """An order of joint statistics that has no places yet: verified, and decided on by
    the person who has to.
    """
    from flows.hospital import approve_locally
    from tasks.hospital import statistics

    return at_hospital(
        order_id,
        lambda party: approve_locally(party, statistics.verify_order),
        takes_place=False,
    )


@flow(name="infer", log_prints=False, persist_result=False, validate_parameters=True)
def infer_at_hospital(order_id: int) -> State[Any] | None:
    """Answers to the hospital's own people with its own model."""
    from flows.hospital import infer_locally

    return at_hospital(order_id, infer_locally)


@flow(
    name="hospital-statistics",
    log_prints=False,
    persist_result=False,
    validate_parameters=True,
)
def answer_at_hospital(order_id: int) -> State[Any] | None:
    """One hospital's run of joint statistics."""
    from flows.hospital import answer_locally
    from tasks.hospital.order import shown

    return at_hospital(order_id, shown(answer_locally))
