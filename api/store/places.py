"""Places: how many orders each hospital takes at once, who has them, who is next.

Decisions 53 and 135. A place at a hospital is one of its agent's `max_orders`. An order takes all of its
places in one transaction, and the transaction that ends it frees them: what is taken is
counted from the orders themselves, so that no crash loses a place or gives one twice.

Where a person decides first, `asked` says by hospital whether that agent has been
heard, and in which flow run:
{"2": {"run": "<flow run id>", "decided": false}}, with "attempt" where it is asked
again after it had been heard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from api.store.engine import Database
from api.store.rows import OrderRow
from api.store.tables import ENDED, hospitals, orders, utc_now

PLACED = ("train", "evaluate", "statistics")
"""The kinds of orders that need places; an inference takes its agent's own limit only.
"""

USUAL_PLACES = 4
"""Of a hospital whose agent has not said how many orders it takes at once."""

MOST_OVERTAKEN = 10
"""So many younger orders may go before one that waits.

Then its hospitals take no younger ones until it has places.
"""

Asked = dict[str, dict[str, Any]]
"""By hospital: run, decided and perhaps attempt, as above."""

NOT_ASKED = {"run": None, "decided": False}


@dataclass(frozen=True, slots=True)
class Queue:
    """Where a waiting order stands at one of its hospitals."""

    user_id: int
    places: int  # how many orders the hospital takes at once
    is_full: bool
    # its free places are for an older order, before which enough others have gone
    is_kept: bool
    n_before: int  # older orders that wait for a place there too


class PlaceStore:
    """Places of all orders at all hospitals."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def admit(self, present: Collection[int]) -> list[int]:
        """Gives places to all orders that can have every place of theirs now.

        Their numbers, the oldest first. `present` are the hospitals whose agents are
        there and ready. An order goes before an older one that waits for a full
        hospital which it does not need itself, but not more than MOST_OVERTAKEN times.
        """
        with self._database.begin_alone() as connection:
            giving = _Giving(_free_places(connection))
            # From the oldest to the youngest. One that can have its places takes them
            # at once; one that cannot stays in front of all younger ones that need a
            # hospital of its own.
            for order in _waiting(connection):
                if not order.is_ready(present):
                    continue
                if giving.has_places_for(order, present):
                    giving.admit(order)
                else:
                    giving.leave_waiting(order)
            _add_overtaken(connection, giving.overtaken)
            is_admitted = orders.c.order_id.in_(giving.admitted)
            update = orders.update().where(is_admitted)
            connection.execute(update.values(admitted=utc_now()))
        return giving.admitted

    def give_back(self, order_id: int) -> bool:
        """Takes an order's places from it. False if it had none.

        It keeps its age and everything that was made.
        """
        has_places = sa.and_(
            orders.c.order_id == order_id,
            orders.c.admitted.is_not(None),
            orders.c.state.not_in(ENDED),
            orders.c.kind.in_(PLACED),
        )
        update = orders.update().where(has_places)
        given_back = update.values(admitted=None)
        with self._database.begin() as connection:
            n_changed = connection.execute(given_back).rowcount
        return n_changed > 0

    def forget_runs(self, order_id: int, flow_run_id: str) -> bool:
        """Prefect has lost the order's run: it is made anew.

        So are those in which agents are asked. What the order has made, its places and
        its age stay. False where the order has another run by now.
        """
        has_that_run = sa.and_(
            orders.c.order_id == order_id,
            orders.c.flow_run_id == flow_run_id,
        )
        update = orders.update().where(has_that_run)
        with self._database.begin_alone() as connection:
            askings = _asked(connection, order_id)
            for asking in askings.values():
                asking["run"] = None
            forgotten = update.values(
                flow_run_id=None,
                runs=None,
                asked=askings or None,
            )
            changed = connection.execute(forgotten)
        return changed.rowcount > 0

    def queue(self, order_id: int, present: Collection[int]) -> list[Queue]:
        """Where a waiting order stands at each of its hospitals.

        Nothing for one that has its places.
        """
        with self._database.begin() as connection:
            free = _free_places(connection)
            hospital_places = _places(connection)
            waiting = _waiting(connection)
        waiting_by_id = {order.order_id: order for order in waiting}
        waiting_order = waiting_by_id.get(order_id)
        if waiting_order is None:
            return []
        all_older = [order for order in waiting if order.order_id < order_id]
        # An order that could not use its places keeps none free.
        ready = [older for older in all_older if older.is_ready(present)]
        kept_hospitals = _kept(ready)
        queues = []
        for user_id in waiting_order.hospitals:
            n_before = 0
            for older in all_older:
                if user_id in older.hospitals:
                    n_before += 1
            n_places = hospital_places.get(user_id, USUAL_PLACES)
            is_full = free[user_id] <= 0
            is_kept = not is_full and user_id in kept_hospitals
            queue = Queue(
                user_id=user_id,
                places=n_places,
                is_full=is_full,
                is_kept=is_kept,
                n_before=n_before,
            )
            queues.append(queue)
        return queues

    def taken(self) -> dict[int, int]:
        """How many orders hold a place at each hospital."""
        with self._database.begin() as connection:
            return dict(_taken_places(connection))

    def ask(
        self,
        order_id: int,
        user_ids: Collection[int],
        *,
        keeps_places: bool = False,
    ) -> None:
        """A person decides at these hospitals before the order takes places.

        Those that it has are given back, unless it goes on without these hospitals
        meanwhile (`keeps_places`). Where one is being asked, that goes on. An
        agent that was heard before is asked in a new attempt, because its earlier run
        is over.
        """
        with self._database.begin_alone() as connection:
            askings = _asked(connection, order_id)
            for user_id in user_ids:
                user_key = str(user_id)
                earlier = askings.get(user_key)
                if earlier is None:
                    askings[user_key] = dict(NOT_ASKED)
                elif earlier["decided"]:
                    attempt = earlier.get("attempt", 0) + 1
                    askings[user_key] = {**NOT_ASKED, "attempt": attempt}
            is_open = sa.and_(
                orders.c.order_id == order_id,
                orders.c.state.not_in(ENDED),
            )
            update = orders.update().where(is_open)
            update = update.values(asked=askings)
            if not keeps_places:
                update = update.values(admitted=None)
            connection.execute(update)

    def note_asking(
        self,
        order_id: int,
        user_id: int,
        flow_run_id: str,
        *,
        attempt: int = 0,
    ) -> None:
        """The flow run in which a hospital's agent is asked.

        Nothing changes when that is a later attempt by now.
        """
        with self._database.begin_alone() as connection:
            askings = _asked(connection, order_id)
            asking = askings.get(str(user_id))
            if asking is None:
                return
            newest = asking.get("attempt", 0)
            if newest == attempt:
                _change_asked(
                    connection,
                    order_id,
                    askings,
                    user_id,
                    run=flow_run_id,
                )

    def note_decided(self, order_id: int, user_id: int) -> None:
        """Nobody has to decide at this hospital any longer.

        Nothing changes for one that was not asked.
        """
        with self._database.begin_alone() as connection:
            askings = _asked(connection, order_id)
            if str(user_id) in askings:
                _change_asked(
                    connection,
                    order_id,
                    askings,
                    user_id,
                    decided=True,
                )


def who_decides(
    connection: sa.Connection,
    hospital_ids: Collection[int],
    initiator: int,
) -> dict[str, Any] | None:
    """Who is asked before an order takes places; None for nobody.

    By what their agents tell of their policies. The initiator's agent among them,
    because it signs the order that the others verify before they ask anybody.
    """
    policies_query = sa.select(hospitals.c.user_id, hospitals.c.policy)
    deciding: set[int] = set()
    for row in connection.execute(policies_query):
        if row.user_id not in hospital_ids:
            continue
        policy = row.policy or {}
        order_rules = policy.get("orders", {})
        approval = order_rules.get("approval")
        if approval == "manual":
            deciding.add(row.user_id)
    if not deciding:
        return None
    deciding.add(initiator)
    askings = {}
    for user_id in sorted(deciding):
        askings[str(user_id)] = dict(NOT_ASKED)
    return askings


def undecided(askings: Asked | None) -> list[int]:
    """The hospitals whose agents have not been heard yet."""
    user_ids = []
    by_user = askings or {}
    for user_key, asking in by_user.items():
        is_decided = asking["decided"]
        if not is_decided:
            user_ids.append(int(user_key))
    return user_ids


def is_begun(order: OrderRow) -> bool:
    """Whether Prefect has all flow runs that an order needs before its places."""
    if not order.flow_run_id:
        return False
    askings = order.asked or {}
    return all(asking["run"] for asking in askings.values())


def _asked(connection: sa.Connection, order_id: int) -> Asked:
    is_meant = orders.c.order_id == order_id
    query = sa.select(orders.c.asked).where(is_meant)
    askings = connection.scalar(query) or {}
    return dict(askings)


def _change_asked(
    connection: sa.Connection,
    order_id: int,
    askings: Asked,
    user_id: int,
    **change: Any,
) -> None:
    askings[str(user_id)].update(change)
    is_meant = orders.c.order_id == order_id
    update = orders.update().where(is_meant)
    connection.execute(update.values(asked=askings))


@dataclass(frozen=True, slots=True)
class WaitingOrder:
    """An order without places, as far as giving places looks at it."""

    order_id: int
    hospitals: list[int]
    overtaken: int  # how many younger orders have got places before it
    asked: Asked | None  # where a person decides first
    initiator: int
    # With how many of its hospitals it may start; None where it waits for all.
    at_least: int | None

    def is_ready(self, present: Collection[int]) -> bool:
        """Whether it could use its places.

        All agents are there, and nobody has to decide any longer; of one that starts with
        who is there, as many as it needs, its initiator among them.
        """
        if self.at_least is None and undecided(self.asked):
            return False
        return self.is_enough(self.ready(present))

    def ready(self, present: Collection[int]) -> set[int]:
        """The hospitals that could take part now."""
        users_undecided = undecided(self.asked)
        able = set(present) - set(users_undecided)
        return set(self.hospitals) & able

    def is_enough(self, users: Collection[int]) -> bool:
        if self.at_least is None:
            needed_users = set(self.hospitals)
            return needed_users <= set(users)
        has_initiator = self.initiator in users
        return has_initiator and len(users) >= self.at_least


@dataclass
class _Giving:
    """Places while they are given, to one order after the other."""

    free: Counter[int]  # places by hospital
    admitted: list[int] = field(default_factory=list)
    # By order, how many younger ones go before it now.
    overtaken: Counter[int] = field(default_factory=Counter)
    # By hospital, those that go on waiting.
    _waiting_at: dict[int, list[WaitingOrder]] = field(default_factory=dict)
    # Hospitals that take no younger orders.
    _kept: set[int] = field(default_factory=set)

    def has_places_for(self, order: WaitingOrder, present: Collection[int]) -> bool:
        with_place = set()
        not_kept = order.ready(present) - self._kept
        for user_id in not_kept:
            if self.free[user_id] > 0:
                with_place.add(user_id)
        return order.is_enough(with_place)

    def admit(self, order: WaitingOrder) -> None:
        """Places at all of its hospitals.

        Of one that starts with who is there, also at those that are away or full: who
        comes within its time takes part, and the agent's own limit guards how many it
        works on. They are free again when its party is named.
        """
        self.free.subtract(order.hospitals)
        self.admitted.append(order.order_id)
        # Each older order that waits at one of these hospitals is overtaken, and once
        # only, at however many of them it waits.
        all_older: dict[int, WaitingOrder] = {}
        for user_id in order.hospitals:
            older_here = self._waiting_at.get(user_id, ())
            for older in older_here:
                all_older[older.order_id] = older
        for older in all_older.values():
            self.overtaken[older.order_id] += 1
            self._keep_places_for(older)

    def leave_waiting(self, order: WaitingOrder) -> None:
        for user_id in order.hospitals:
            waiting_here = self._waiting_at.setdefault(user_id, [])
            waiting_here.append(order)
        self._keep_places_for(order)

    def _keep_places_for(self, order: WaitingOrder) -> None:
        """From here on nobody takes its places, if it has been overtaken enough."""
        overtaken_now = self.overtaken[order.order_id]
        n_overtaken = order.overtaken + overtaken_now
        if n_overtaken >= MOST_OVERTAKEN:
            self._kept.update(order.hospitals)


def _waiting(connection: sa.Connection) -> list[WaitingOrder]:
    """Orders without places, the oldest first.

    One that Prefect has no run of yet could use none.
    """
    waits = sa.and_(
        orders.c.kind.in_(PLACED),
        orders.c.state.not_in(ENDED),
        orders.c.admitted.is_(None),
        orders.c.flow_run_id.is_not(None),
    )
    columns = (
        orders.c.order_id,
        orders.c.hospitals,
        orders.c.overtaken,
        orders.c.asked,
        orders.c.initiator,
        orders.c.body,
    )
    waiting_query = sa.select(*columns).where(waits)
    oldest_first = waiting_query.order_by(orders.c.order_id)
    waiting_orders = []
    for row in connection.execute(oldest_first):
        order_fields = dict(row._mapping)
        order_body = order_fields.pop("body")
        at_least = order_body.get("at_least")
        order = WaitingOrder(**order_fields, at_least=at_least)
        waiting_orders.append(order)
    return waiting_orders


def _kept(all_older: Iterable[WaitingOrder]) -> set[int]:
    """Hospitals kept free for an older order, before which enough others have gone."""
    kept_hospitals: set[int] = set()
    for older in all_older:
        if older.overtaken >= MOST_OVERTAKEN:
            kept_hospitals.update(older.hospitals)
    return kept_hospitals


def _add_overtaken(
    connection: sa.Connection,
    more: Mapping[int, int],
) -> None:
    if not more:
        return
    n_overtaken = orders.c.overtaken + sa.bindparam("more")
    is_meant = orders.c.order_id == sa.bindparam("number")
    update = orders.update().where(is_meant)
    rows = []
    for order_id, n_more in more.items():
        row = {"number": order_id, "more": n_more}
        rows.append(row)
    connection.execute(update.values(overtaken=n_overtaken), rows)


def _places(connection: sa.Connection) -> dict[int, int]:
    places_query = sa.select(hospitals.c.user_id, hospitals.c.max_orders)
    hospital_places = {}
    for row in connection.execute(places_query):
        n_places = row.max_orders or USUAL_PLACES
        hospital_places[row.user_id] = n_places
    return hospital_places


def _taken_places(connection: sa.Connection) -> Counter[int]:
    holds = sa.and_(
        orders.c.kind.in_(PLACED),
        orders.c.state.not_in(ENDED),
        orders.c.admitted.is_not(None),
    )
    columns = (orders.c.hospitals, orders.c.party)
    holders_query = sa.select(*columns).where(holds)
    taken_places: Counter[int] = Counter()
    for row in connection.execute(holders_query):
        if row.party is None:
            taken_places.update(row.hospitals)
        else:
            taken_places.update(row.party)
    return taken_places


def _free_places(connection: sa.Connection) -> Counter[int]:
    """Below 0 where more orders run than the hospital takes by now.

    Nothing is ended for that.
    """
    free = Counter(_places(connection))
    free.subtract(_taken_places(connection))
    return free
