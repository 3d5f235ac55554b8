"""Places in the store: how many orders each hospital takes at once, who has them, and who is next.

A place at a hospital is one of its agent's `max_orders`. An order takes all of its places in one transaction, and the
transaction that ends it frees them: what is taken is counted from the orders themselves, so that no crash loses a
place or gives one twice.

Where a person decides first, `asked` says by hospital whether that agent has been heard, and in which flow run:
{"2": {"run": "<flow run id>", "decided": false}}.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from api.tables import ENDED, hospitals, orders, utc_now

PLACED = ("train", "statistics")
"""The kinds of orders that need places; an inference takes its agent's own limit only."""

USUAL_PLACES = 4
"""Of a hospital whose agent has not said how many orders it takes at once."""

MOST_OVERTAKEN = 10
"""So many younger orders may go before one that waits. Then its hospitals take no younger ones until it has places."""

ADMISSION_LOCK = 0x636F6E73
"""PostgreSQL's advisory lock of who gives places, in every process of this coordinator."""


@dataclass(frozen=True)
class Queue:
    """Where a waiting order stands at one of its hospitals."""

    user_id: int
    places: int
    is_full: bool
    n_before: int  # older orders that wait for a place there too


class PlaceStore:
    """The part of the store that gives places."""

    _engine: sa.Engine

    def admit(self, present: Collection[int]) -> list[int]:
        """Gives places to all orders that can have every place of theirs now; their numbers, the oldest first.

        `present` are the hospitals whose agents are there and ready. An order goes before an older one that waits for
        a full hospital which it does not need itself, but not more than MOST_OVERTAKEN times.
        """
        with self._alone() as db:
            free = _free_places(db)
            ready = [order for order in _waiting(db) if _is_ready(order, present)]
            admitted: list[int] = []
            passed: list[sa.Row[Any]] = []  # older ones that stay behind
            for order in ready:
                is_free = all(free[user] > 0 for user in order.hospitals)
                if is_free and _held(passed).isdisjoint(order.hospitals):
                    free.subtract(order.hospitals)
                    admitted.append(order.order_id)
                    overtaken = [one.order_id for one in passed if not set(one.hospitals).isdisjoint(order.hospitals)]
                    more = orders.update().where(orders.c.order_id.in_(overtaken))
                    db.execute(more.values(overtaken=orders.c.overtaken + 1))
                else:
                    passed.append(order)
            db.execute(orders.update().where(orders.c.order_id.in_(admitted)).values(admitted=utc_now()))
            return admitted

    def give_back(self, order_id: int) -> bool:
        """Takes an order's places from it; it keeps its age and everything that was made. False if it had none."""
        has_places = sa.and_(
            orders.c.order_id == order_id,
            orders.c.admitted.is_not(None),
            orders.c.state.not_in(ENDED),
            orders.c.kind.in_(PLACED),
        )
        with self._engine.begin() as db:
            return bool(db.execute(orders.update().where(has_places).values(admitted=None)).rowcount)

    def queue(self, order_id: int, present: Collection[int]) -> list[Queue]:
        """Where a waiting order stands at each of its hospitals; nothing for one that has its places."""
        with self._engine.begin() as db:
            free = _free_places(db)
            places = _places(db)
            waiting = _waiting(db)
        own = next((order for order in waiting if order.order_id == order_id), None)
        if own is None:
            return []
        older = [order for order in waiting if order.order_id < order_id]
        held = _held(one for one in older if _is_ready(one, present))
        found = []
        for user in own.hospitals:
            n_before = sum(user in one.hospitals for one in older)
            is_full = free[user] <= 0 or user in held
            found.append(Queue(user, places.get(user, USUAL_PLACES), is_full, n_before))
        return found

    def taken_places(self) -> dict[int, int]:
        """How many orders hold a place at each hospital."""
        with self._engine.begin() as db:
            return dict(_taken_places(db))

    def ask(self, order_id: int, user_ids: Collection[int]) -> None:
        """A person decides at these hospitals before the order takes places; those that it has are given back."""
        with self._alone() as db:
            one = orders.c.order_id == order_id
            asked = dict(db.scalar(sa.select(orders.c.asked).where(one)) or {})
            for user in user_ids:
                asked[str(user)] = {"run": None, "decided": False}
            db.execute(orders.update().where(one).values(asked=asked, admitted=None))

    def note_asking(self, order_id: int, user_id: int, flow_run_id: str) -> None:
        """The flow run in which a hospital's agent is asked."""
        self._change_asked(order_id, user_id, run=flow_run_id)

    def note_decided(self, order_id: int, user_id: int) -> None:
        """Nobody has to decide at this hospital any longer."""
        self._change_asked(order_id, user_id, decided=True)

    def _change_asked(self, order_id: int, user_id: int, **change: Any) -> None:
        """Nothing happens for a hospital that was not asked."""
        with self._alone() as db:
            one = orders.c.order_id == order_id
            asked = dict(db.scalar(sa.select(orders.c.asked).where(one)) or {})
            if str(user_id) in asked:
                asked[str(user_id)] = {**asked[str(user_id)], **change}
                db.execute(orders.update().where(one).values(asked=asked))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[sa.Connection]:
        """A transaction in which no other process gives places: what is read stands until it is written."""
        with self._engine.begin() as db:
            if self._engine.dialect.name == "sqlite":
                db.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                db.execute(sa.select(sa.func.pg_advisory_xact_lock(ADMISSION_LOCK)))
            yield db


def who_decides(db: sa.Connection, hospital_ids: Collection[int], initiator: int) -> dict[str, Any] | None:
    """Who is asked before an order takes places, by what their agents tell of their policies; None for nobody.

    The initiator's agent among them, because it signs the order that the others verify before they ask anybody.
    """
    found = db.execute(sa.select(hospitals.c.user_id, hospitals.c.policy))
    policies = {row.user_id: row.policy or {} for row in found if row.user_id in hospital_ids}
    manual = {user for user, policy in policies.items() if policy.get("orders", {}).get("approval") == "manual"}
    if not manual:
        return None
    return {str(user): {"run": None, "decided": False} for user in sorted(manual | {initiator})}


def undecided(asked: Mapping[str, Any] | None) -> list[int]:
    """The hospitals whose agents have not been heard yet."""
    return [int(user) for user, one in (asked or {}).items() if not one["decided"]]


def _waiting(db: sa.Connection) -> list[sa.Row[Any]]:
    """Orders without places, the oldest first. One that Prefect has no run of yet could use none."""
    waits = sa.and_(
        orders.c.kind.in_(PLACED),
        orders.c.state.not_in(ENDED),
        orders.c.admitted.is_(None),
        orders.c.flow_run_id.is_not(None),
    )
    columns = (orders.c.order_id, orders.c.hospitals, orders.c.overtaken, orders.c.asked)
    return list(db.execute(sa.select(*columns).where(waits).order_by(orders.c.order_id)))


def _is_ready(order: sa.Row[Any], present: Collection[int]) -> bool:
    return set(order.hospitals) <= set(present) and not undecided(order.asked)


def _held(older: Iterable[sa.Row[Any]]) -> set[int]:
    """Hospitals that are kept free for an older order, before which enough others have gone."""
    held: set[int] = set()
    for order in older:
        if order.overtaken >= MOST_OVERTAKEN:
            held.update(order.hospitals)
    return held


def _places(db: sa.Connection) -> dict[int, int]:
    found = db.execute(sa.select(hospitals.c.user_id, hospitals.c.max_orders))
    return {row.user_id: row.max_orders or USUAL_PLACES for row in found}


def _taken_places(db: sa.Connection) -> Counter[int]:
    holds = sa.and_(
        orders.c.kind.in_(PLACED),
        orders.c.state.not_in(ENDED),
        orders.c.admitted.is_not(None),
    )
    taken: Counter[int] = Counter()
    for row in db.execute(sa.select(orders.c.hospitals).where(holds)):
        taken.update(row.hospitals)
    return taken


def _free_places(db: sa.Connection) -> Counter[int]:
    """Below 0 where more orders run than the hospital takes by now: nothing is ended for that."""
    free = Counter(_places(db))
    free.subtract(_taken_places(db))
    return free
