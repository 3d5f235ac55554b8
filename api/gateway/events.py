"""Events from an agent, built anew.

Prefect writes task runs from events, and takes their ids, names and states from a
payload that the sender fills. So of an event only what is read here reaches Prefect: a
task run's id, which is bound to its flow run, a name out of a list, a type of state and
times. Messages, data, tags and the payload itself do not.

Decisions 79 and 142.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import NAMESPACE_OID, UUID, uuid5

from pydantic import AwareDatetime, BaseModel, Field

from api.gateway.bodies import checked, derived_id
from api.gateway.ownership import Kind, Ownership
from protocol.errors import InvalidInput

STEPS = (
    "approval",
    "data SQL extraction",
    "data extraction",
    "encryption",
    "final metrics",
    "inference",
    "joint answer",
    "key agreement",
    "local gradient",
    "local training",
    "results",
    "save model",
    "scoring",
    "standardization",
    "verify order",
    "whole order",
)
"""What `tasks.hospital` calls its steps."""

_NAME = re.compile(
    rf"(?P<step>{'|'.join(STEPS)})"
    r"(?P<place>, round [0-9]{1,7}( of fold [0-9]{1,4})?)?"
    r"(-[0-9a-f]{3})?"  # Prefect's own end of a name until a task has begun
)
_TASK_RUN, _FLOW_RUN = "prefect.task-run.", "prefect.flow-run."
_PENDING = "prefect.task-run.Pending"
_WORKER = ("prefect.worker.started", "prefect.worker.stopped")
_HEARTBEAT = "prefect.flow-run.heartbeat"

TaskState = Literal["PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "CRASHED"]


class _Related(BaseModel):
    id: Annotated[str, Field(alias="prefect.resource.id", max_length=200)]
    role: Annotated[str, Field(alias="prefect.resource.role", max_length=50)]


class _Resource(BaseModel):
    id: Annotated[str, Field(alias="prefect.resource.id", max_length=200)]


class _Event(BaseModel):
    """Of any event these are read."""

    id: UUID
    event: Annotated[str, Field(max_length=100)]
    occurred: AwareDatetime
    resource: _Resource
    related: Annotated[list[_Related], Field(max_length=100)] = []


class _State(BaseModel):
    type: TaskState


class _TaskRun(BaseModel):
    name: Annotated[str, Field(max_length=100)]
    run_count: Annotated[int, Field(ge=0, le=10_000)] = 0
    expected_start_time: AwareDatetime | None = None
    start_time: AwareDatetime | None = None
    end_time: AwareDatetime | None = None


class _Payload(BaseModel):
    validated_state: _State
    task_run: _TaskRun


class _TaskRunEvent(_Event):
    payload: _Payload


async def rebuilt(sent: Any, pool: str, ownership: Ownership) -> dict[str, Any] | None:
    """The event as Prefect may have it; None for a kind that it does not get.

    InvalidInput for a field that cannot be, NotFound for another pool's flow run.
    """
    event = checked(_Event, sent)
    # A step begins as soon as it is there: that it was pending for a millisecond is a
    # third of what Prefect would have to write.
    if event.event == _PENDING:
        return None
    if event.event.startswith(_TASK_RUN):
        return await _task_run_event(checked(_TaskRunEvent, sent), pool, ownership)
    if event.event in _WORKER:
        return _worker_event(event, pool)
    if event.event == _HEARTBEAT:
        return await _heartbeat(event, pool, ownership)
    return None


async def _task_run_event(
    event: _TaskRunEvent, pool: str, ownership: Ownership
) -> dict[str, Any]:
    flow_run = _flow_run_of(event)
    owned = await ownership.require(Kind.FLOW_RUN, flow_run, pool)
    task_run = derived_id(flow_run, _id_in(event.resource.id, _TASK_RUN))
    sent_task_run = event.payload.task_run
    name_match = _NAME.fullmatch(sent_task_run.name)
    if name_match is None:
        raise InvalidInput(
            "payload.task_run.name is no step of a hospital's.",
            remedy="Run what is installed with this version.",
        )
    state_type = event.payload.validated_state.type
    state_name = state_type.capitalize()
    occurred = _time(event.occurred)
    label = name_match["step"] + (name_match["place"] or "")
    return {
        # Prefect takes an id once: as it was sent, another hospital's event could stand
        # in this one's place.
        "id": str(derived_id(flow_run, event.id)),
        "event": f"{_TASK_RUN}{state_name}",
        "occurred": occurred,
        "resource": {
            "prefect.resource.id": f"{_TASK_RUN}{task_run}",
            "prefect.resource.name": label,
            "prefect.run-count": str(sent_task_run.run_count),
            "prefect.state-message": "",
            "prefect.state-name": state_name,
            "prefect.state-timestamp": occurred,
            "prefect.state-type": state_type,
            "prefect.orchestration": "client",  # Prefect records such events only
        },
        "related": [_related_run(flow_run, owned.name)],
        "payload": {
            "intended": {"from": None, "to": state_type},
            "initial_state": None,
            "validated_state": {
                "type": state_type,
                "name": state_name,
                "message": "",
                "state_details": {},
                "data": None,
            },
            # No id and no flow run: these are in the resources, and one that stood
            # here would take their place.
            "task_run": {
                "name": label,
                "task_key": name_match["step"].replace(" ", "-"),
                "dynamic_key": str(task_run),
                "run_count": sent_task_run.run_count,
                "flow_run_run_count": sent_task_run.run_count,
                **_times(sent_task_run),
            },
        },
    }


def _times(sent: _TaskRun) -> dict[str, Any]:
    times: dict[str, Any] = {}
    if sent.expected_start_time is not None:
        times["expected_start_time"] = _time(sent.expected_start_time)
    if sent.start_time is not None:
        times["start_time"] = _time(sent.start_time)
    if sent.end_time is not None:
        times["end_time"] = _time(sent.end_time)
    seconds = 0.0
    if sent.start_time and sent.end_time:
        # By the site's clock, which may be set back between the two.
        seconds = max(0.0, (sent.end_time - sent.start_time).total_seconds())
    return {**times, "total_run_time": seconds}


def _worker_event(event: _Event, pool: str) -> dict[str, Any]:
    return {
        # A worker has no flow run: its pool is the owner, so that no other pool can
        # have named the same id before.
        "id": str(derived_id(uuid5(NAMESPACE_OID, pool), event.id)),
        "event": event.event,
        "occurred": _time(event.occurred),
        "resource": {
            "prefect.resource.id": f"prefect.worker.hospital.{pool}",
            "prefect.resource.name": pool,
            "prefect.worker-type": "hospital",
        },
        "related": [],
        "payload": {},
    }


async def _heartbeat(event: _Event, pool: str, ownership: Ownership) -> dict[str, Any]:
    flow_run = _id_in(event.resource.id, _FLOW_RUN)
    owned = await ownership.require(Kind.FLOW_RUN, flow_run, pool)
    return {
        "id": str(derived_id(flow_run, event.id)),
        "event": _HEARTBEAT,
        "occurred": _time(event.occurred),
        "resource": {
            "prefect.resource.id": f"{_FLOW_RUN}{flow_run}",
            "prefect.resource.name": owned.name,
        },
        "related": [],
        "payload": {},
    }


def _flow_run_of(event: _Event) -> UUID:
    """The one flow run that the event is related to."""
    run_ids = [related.id for related in event.related if related.role == "flow-run"]
    if len(run_ids) != 1:
        raise InvalidInput(
            "related names no flow run, or several.", remedy="Name the task's own."
        )
    return _id_in(run_ids[0], _FLOW_RUN)


def _id_in(resource: str, kind: str) -> UUID:
    try:
        return UUID(resource.removeprefix(kind))
    except ValueError:
        raise InvalidInput(
            f"A resource's id is not {kind}<id>.",
            remedy="Send what Prefect's client does.",
        ) from None


def _related_run(flow_run: UUID, name: str) -> dict[str, str]:
    return {
        "prefect.resource.id": f"{_FLOW_RUN}{flow_run}",
        "prefect.resource.role": "flow-run",
        "prefect.resource.name": name,
    }


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()
