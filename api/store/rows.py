"""The rows of the store's tables, as routes read them. None can be changed: a store's
method writes, and reads anew.

Each has the columns of its table in api/store/tables.py, by the same names.

Decision 67.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from api.store.tables import ENDED
from protocol.errors import ConsiliumError, OrderStopped
from protocol.versions import UNSAID_WINDOW, Window


@dataclass(frozen=True, slots=True)
class HospitalRow:
    """One that takes part, and what its agent has said of itself."""

    user_id: int
    name: str
    identity: str | None  # its public keys, encoded; None until its agent has connected
    agent_version: str | None
    last_seen: datetime.datetime | None
    scoring: str | None  # the most that its policy allows: none, round or full
    policy: dict[str, Any] | None  # the rules that it shows to everybody
    max_orders: (
        int | None
    )  # how many orders it takes at once; None where its agent has not said
    # the newest and the oldest protocol number that it takes; None where its agent has
    # not said, as before there was more than one
    protocol: int | None
    oldest_protocol: int | None

    @property
    def speaks(self) -> Window:
        """The protocol numbers in which an order that names it can be written."""
        if self.protocol is None:
            return UNSAID_WINDOW
        return Window(self.oldest_protocol or self.protocol, self.protocol)


class SealedBox(NamedTuple):
    """What only one hospital opens: its SQL, or the place of its data."""

    box: bytes
    # to what is in the box; stands in the order's document, which all parties see
    commitment: str


@dataclass(frozen=True, slots=True)
class OrderRow:
    """One order of any kind."""

    order_id: int
    kind: str  # train, evaluate, statistics, infer or external
    # the hospital that has sent and signs it; COORDINATOR for an operator's external
    # one
    initiator: int
    hospitals: list[int]  # who was asked, ascending
    body: dict[
        str, Any
    ]  # the request as it was sent, without SQL texts and places of data
    document: str  # what the parties verify and sign; empty for external orders
    state: str  # pending, running, success, failed or cancelled
    stop: dict[str, Any] | None  # the error that ended it
    n_rows: dict[str, int]  # rows by hospital, once all have counted
    summary: dict[
        str, Any
    ]  # the result's metrics, or what is said of a result of statistics
    flow_run_id: str | None  # the coordinator's run in Prefect
    rerun_of: int | None
    created: datetime.datetime
    updated: datetime.datetime
    owner_key: str | None  # digest of the Idempotency-Key it was sent with
    body_digest: str | None  # and of the request, keyed with it
    score_readers: str | None  # parties or operator
    stage: (
        dict[str, Any] | None
    )  # of statistics: what is being done, how many parts of how many are done
    schedule_id: int | None  # the schedule that asked for it
    admitted: (
        datetime.datetime | None
    )  # since when it has its places; None while it waits for them
    overtaken: int  # how many younger orders have got places before it
    asked: (
        dict[str, Any] | None
    )  # where a person decides first, by hospital: see api/store/places.py
    runs: dict[str, str] | None  # its hospitals' runs in Prefect, by hospital
    runs_deleted: datetime.datetime | None  # since when Prefect has none of its runs
    # Who takes part, ascending, in an order that has started with who was there; None in
    # one that waits for all, and before it has started.
    party: list[int] | None = None

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    @property
    def is_windowed(self) -> bool:
        """Whether it starts with who is there."""
        return self.body.get("start_within_seconds") is not None

    @property
    def members(self) -> list[int]:
        """Who takes part, as far as that is known: everybody asked before it is."""
        return self.hospitals if self.party is None else self.party

    @property
    def late(self) -> list[int]:
        """Who was asked and takes no part."""
        return sorted(set(self.hospitals) - set(self.members))

    @property
    def needed(self) -> list[int]:
        """Without whom it cannot go on now: before it has started its initiator alone,
        whose agent says when it does.
        """
        if self.is_windowed and self.party is None:
            return [self.initiator]
        return self.members


@dataclass(frozen=True, slots=True)
class RoundRow:
    """One recorded round of an order, with what was measured in it."""

    order_id: int
    fold: int  # 0 for the final model, 1, 2, ... for the models of a cross-validation
    round: int
    loss: float | None
    report: dict[
        str, Any
    ]  # as the coordinator's flow, or an external trainer, has sent it
    recorded: datetime.datetime


@dataclass(frozen=True, slots=True)
class RoundEntry:
    """A round file as the index knows it."""

    order_id: int
    round: int
    kind: str  # open (each client's gradient) or sealed (triangular factors)
    clients: list[int]
    sizes: (
        list[int] | None
    )  # the clients' row counts, in their order; None where nobody said
    layers: dict[str, int]  # how many values a client has in each
    # drawn once by `secrets`: in which frame points of a sealed round are shown
    frame: str
    digest: str
    n_bytes: int
    recorded: datetime.datetime


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """A question of joint statistics that is asked again and again, or an order of
    training or evaluation that is run again.
    """

    schedule_id: int
    name: str
    initiator: int
    hospitals: list[int]  # who takes part, ascending
    # The question, without the places of data; or {"order_id"}.
    body: dict[str, Any]
    timing: dict[str, Any]  # when it falls due: see api/due_times.py
    active: bool  # False while it is paused
    created: datetime.datetime
    updated: datetime.datetime
    deleted: datetime.datetime | None
    owner_key: str | None  # digest of the Idempotency-Key it was sent with
    body_digest: str | None  # and of the request, keyed with it

    @property
    def reruns(self) -> int | None:
        """The order that is run again; None of a question."""
        order_id: int | None = self.body.get("order_id")
        return order_id


@dataclass(frozen=True, slots=True)
class DueTime:
    """One time at which a schedule falls due, in UTC."""

    schedule_id: int
    scheduled: datetime.datetime


@dataclass(frozen=True, slots=True)
class FiringRow:
    """What became of one time of a schedule: an order, or a reason why nothing was
    asked.
    """

    firing_id: int
    schedule_id: int
    scheduled: datetime.datetime
    started: datetime.datetime
    order_id: int | None
    skipped: str | None  # why nothing was asked, as a sentence


def stop_of(order_id: int, state: str, stop: Mapping[str, Any] | None) -> OrderStopped:
    """Why an order ended, as the error that everybody who still asks for it gets."""
    cause = dict(stop or {})
    return OrderStopped(
        str(cause.get("sentence") or f"Order {order_id} has ended ({state})."),
        remedy=str(cause.get("remedy") or ""),
        code=state,
        cause=cause,
    )


def late_stop(order_id: int) -> OrderStopped:
    """What a hospital hears of an order that has started without it."""
    return OrderStopped(
        f"Order {order_id} began without this hospital, which had not accepted it in time.",
        remedy="There is nothing to do for it here. Whoever sent it can send it again, with more start_within_seconds.",
        code="late",
    )


def cause_of(order: OrderRow) -> ConsiliumError:
    """Why an order failed or was cancelled, as whoever ended it said."""
    if order.stop:
        return ConsiliumError.from_json(order.stop)
    return stop_of(order.order_id, order.state, None)
