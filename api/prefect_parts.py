"""An order's timeline, as Prefect's record has it: which part of whom ran from when until
when (decision 51).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from prefect.client.schemas.objects import FlowRun, StateType, TaskRun

# An order that will be resumed is never shown as failed: its own record says whether it
# has ended.
STATUS = {
    StateType.SCHEDULED: "pending",
    StateType.PENDING: "pending",
    StateType.RUNNING: "running",
    StateType.PAUSED: "running",
    StateType.COMPLETED: "success",
    StateType.FAILED: "failed",
    StateType.CRASHED: "failed",
    StateType.CANCELLING: "cancelled",
    StateType.CANCELLED: "cancelled",
}


@dataclass(frozen=True)
class StepRun:
    """A task run of an order."""

    hospital: int | None  # None: the coordinator
    name: str
    began: datetime
    ended: datetime | None  # None: it still runs
    state: str  # a word of STATUS, or crashed


# Prefect writes a task's end in batches (decision 26), a moment after its flow's: a
# part without an end may only be on its way.
RECORD_SECONDS = 10.0


def parts_of(
    tasks: Iterable[TaskRun], flow_runs: Iterable[FlowRun], *, now: datetime
) -> list[StepRun]:
    """The parts that these task runs are. One without an end that was begun again, or
    whose flow run has ended for some time, was cut off with its process; it lasted
    until then at the most.
    """
    runs = {run.id: run for run in flow_runs}
    begun = [task for task in tasks if task.start_time and task.flow_run_id in runs]
    begun.sort(key=_began)
    # When each task was begun, by run and name: again after its process died.
    begins: dict[tuple[UUID | None, str], list[datetime]] = {}
    for task in begun:
        task_key = (task.flow_run_id, task.name)
        begins.setdefault(task_key, []).append(_began(task))
    parts = []
    for task in begun:
        assert task.flow_run_id is not None
        run = runs[task.flow_run_id]
        hospital = _hospital_of(run.tags)
        began = _began(task)
        state = STATUS[task.state_type or StateType.RUNNING]
        ended: datetime | None = task.end_time
        if ended is None:
            cut_off = [
                later for later in begins[task.flow_run_id, task.name] if later > began
            ]
            if run.end_time and (now - run.end_time).total_seconds() > RECORD_SECONDS:
                cut_off.append(run.end_time)
            if cut_off:
                ended, state = min(cut_off), "crashed"
        parts.append(StepRun(hospital, task.name, began, ended, state))
    return parts


def _began(task: TaskRun) -> datetime:
    assert task.start_time is not None
    return task.start_time


def _hospital_of(tags: Iterable[str]) -> int | None:
    """A hospital's run has its number as a tag; the coordinator's has none."""
    for tag in tags:
        if tag.startswith("hospital-"):
            number = tag.removeprefix("hospital-")
            return int(number) if number.isdecimal() else None
    return None
