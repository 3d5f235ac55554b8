"""One time of a schedule: the coordinator's API makes the order, and the run lasts until that order has ended."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from tasks import schedules


@flow(name="scheduled-statistics", flow_run_name="schedule-{schedule_id}", log_prints=False, persist_result=False)
def run_schedule(schedule_id: int) -> State[Any]:
    """Asks for the order of the time at which this run was due. A time at which nothing is asked ends as Skipped."""
    return schedules.fire(schedule_id)
