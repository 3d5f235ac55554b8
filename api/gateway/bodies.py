"""What an agent may send to Prefect, field by field, and how the gateway writes it
anew.

Nothing is passed on as it came: `rewritten` makes what Prefect gets from values that
were checked. Names, types and codes come from lists, ids and times are read and written
again, so no body carries a text of the agent's.

Decision 79.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NoReturn, TypeVar
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from api.pages.error_words import CHINESE_ERRORS
from protocol.errors import InvalidInput
from protocol.fields import describe

B = TypeVar("B", bound=BaseModel)

MOST_RUNS = 200
"""In one answer; Prefect gives no more either."""

StateType = Literal[
    "SCHEDULED",
    "PENDING",
    "RUNNING",
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "CRASHED",
]
"""Those that a hospital's run may have by its agent's word."""

_VERSION = re.compile(r"[0-9a-f]{32}")

Ignored = Annotated[Any, Field(default=None)]
"""A field that Prefect's client sends and that is not passed on."""


def read_json(body: bytes) -> Any:
    """InvalidInput for what is not JSON, or names a field twice: two readers could take
    two different values of it.
    """
    try:
        return json.loads(
            body,
            object_pairs_hook=_without_doubles,
            parse_constant=_no_number,
        )
    except (ValueError, RecursionError) as error:
        why = "It is not JSON."
        if isinstance(error, _Refused):
            why = str(error)
        raise InvalidInput(
            f"The body cannot be read. {why}",
            remedy="Send one JSON object.",
        ) from None


class _Refused(ValueError):
    """JSON that a reader could take in two ways."""


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise _Refused("A name stands twice in one object.")
    return fields


def _no_number(_text: str) -> NoReturn:
    raise _Refused("It holds a number that JSON does not have.")


def checked(model: type[B], sent: Any) -> B:
    """InvalidInput names every field that is wrong, unknown or missing."""
    try:
        return model.model_validate(sent)
    except ValidationError as error:
        raise describe(error) from None


def derived_id(owner: UUID, sent: UUID) -> UUID:
    """The id that stands at Prefect for one that an agent sent: for something of a flow
    run of its own, or of its pool.

    Of another owner the same id becomes another one. So nobody can name what another
    flow run has named, now or ever, and there is no list to keep of who named it first.
    """
    named = b"consilium gateway" + owner.bytes + sent.bytes
    digest = hashlib.sha256(named).digest()
    return UUID(bytes=digest[:16], version=5)


class Body(BaseModel):
    """A body with exactly these fields."""

    model_config = ConfigDict(extra="forbid")

    def rewritten(
        self,
        pool: str,
        owned: UUID | None,
    ) -> dict[str, Any]:
        """What Prefect gets: of this pool, and of what the path's id names."""
        raise NotImplementedError


class Heartbeat(Body):
    """A worker says that it is there."""

    name: Ignored  # there is one worker in a pool, and it has the pool's name
    heartbeat_interval_seconds: Annotated[float, Field(ge=1, le=3600)] = 30.0
    return_id: bool = False

    def rewritten(
        self,
        pool: str,
        owned: UUID | None,
    ) -> dict[str, Any]:
        return {
            "name": pool,
            "heartbeat_interval_seconds": self.heartbeat_interval_seconds,
            "return_id": self.return_id,
        }


class DueRuns(Body):
    """A worker asks what is to be run."""

    scheduled_before: AwareDatetime
    work_queue_names: Ignored  # all queues of the pool are its worker's
    limit: Annotated[int, Field(ge=1, le=MOST_RUNS)] | None = None

    def rewritten(
        self,
        pool: str,
        owned: UUID | None,
    ) -> dict[str, Any]:
        before = _time(self.scheduled_before)
        due: dict[str, Any] = {"scheduled_before": before}
        if self.limit is not None:
            due["limit"] = self.limit
        return due


_AnyState = StateType | Literal["PAUSED", "CANCELLING"]


class _AnyType(Body):
    any_: Annotated[list[_AnyState], Field(max_length=9)]


class _OfType(Body):
    type: _AnyType
    name: Ignored
    operator: Ignored


class _AnyId(Body):
    any_: Annotated[list[UUID], Field(max_length=MOST_RUNS)]
    not_any_: None = None


class _RunsOf(Body):
    state: _OfType | None = None
    id: _AnyId | None = None


class RunsFilter(Body):
    """A worker asks what of its pool is in some states."""

    flow_runs: _RunsOf | None = None
    work_pools: Ignored  # whatever it says, the pool is the caller's own
    flows: None = None
    task_runs: None = None
    deployments: None = None
    work_pool_queues: None = None
    sort: Ignored
    limit: Annotated[int, Field(ge=0, le=MOST_RUNS)] | None = None
    offset: Annotated[int, Field(ge=0, lt=2**31)] = 0

    def rewritten(
        self,
        pool: str,
        owned: UUID | None,
    ) -> dict[str, Any]:
        run_filter: dict[str, Any] = {}
        sent_filter = self.flow_runs
        if sent_filter is not None and sent_filter.state is not None:
            types = sent_filter.state.type.any_
            run_filter["state"] = {"type": {"any_": types}}
        if sent_filter is not None and sent_filter.id is not None:
            # Other pools' ids may stand among them: the pool below bounds what is
            # found.
            ids = [str(run_id) for run_id in sent_filter.id.any_]
            run_filter["id"] = {"any_": ids}
        limit = MOST_RUNS if self.limit is None else self.limit
        return {
            "flow_runs": run_filter,
            "work_pools": {"name": {"any_": [pool]}},
            "limit": limit,
            "offset": self.offset,
        }


class RunChange(Body):
    """What Prefect's flow engine notes of a run when it begins."""

    flow_version: str | None = None
    empirical_policy: Ignored  # of retries, which no flow here has

    def rewritten(
        self,
        pool: str,
        owned: UUID | None,
    ) -> dict[str, Any]:
        sent_version = self.flow_version or ""
        # Prefect shows it on its page: any other word there would be a text of the
        # agent's.
        is_digest = _VERSION.fullmatch(sent_version)
        if is_digest:
            return {"flow_version": self.flow_version}
        return {}


class _Details(BaseModel):
    """Of a state's details one is read: by it Prefect knows a state that was sent twice
    because the answer was lost.
    """

    transition_id: UUID | None = None


class _NewState(Body):
    type: StateType
    name: str | None = None
    message: str | None = None
    data: Ignored
    state_details: _Details | None = None
    id: Ignored
    timestamp: Ignored


class StateChange(Body):
    """A run's new state; of its own making are type and code only."""

    state: _NewState
    force: bool = False

    def rewritten(
        self,
        pool: str,
        owned: UUID | None,
    ) -> dict[str, Any]:
        assert owned is not None  # the path of a state has a run's id
        details: dict[str, Any] = {}
        sent_details = self.state.state_details
        if sent_details is not None and sent_details.transition_id is not None:
            transition = derived_id(owned, sent_details.transition_id)
            details["transition_id"] = str(transition)
        if self.state.type == "SCHEDULED":
            # Put back until its order has places: due at once, by the clock here.
            now = datetime.now(UTC)
            details["scheduled_time"] = _time(now)
        state = {
            "type": self.state.type,
            # Prefect takes any name and shows it: the agent's own is not passed on.
            "name": self.state.type.capitalize(),
            "message": code_in(self.state.message),
            "state_details": details,
        }
        return {"state": state, "force": self.force}


def code_in(message: str | None) -> str | None:
    """An error's code (docs/errors.md); None for every other message.

    The sentence behind the code goes over the exchange, and what Prefect shows of it is
    written by the coordinator's own flow.
    """
    return message if message in CHINESE_ERRORS else None


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()
