"""Two processes with stores of their own, between whose reading and writing the other
one comes: on SQLite and on PostgreSQL.
"""

from __future__ import annotations

import contextlib
import datetime
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from api.store import Store
from api.store.rows import DueTime
from api.store.schedules import TimeTaken
from protocol.errors import Conflict, Forbidden
from tests.api.own_database import SERVER, own_databases
from tests.pairwise import quick

MEET_SECONDS = 2.0
"""So long one that has read waits for the other to have read, too: where that one is not
let in before the first has written, it does not come."""

Two = tuple[Store, Store]


@pytest.fixture(params=quick(["sqlite", "postgresql"], 1))
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Two]:
    """Two on one database."""
    with contextlib.ExitStack() as stack:
        if request.param == "sqlite":
            url = f"sqlite:///{tmp_path}/store.sqlite"
        else:
            (name,) = stack.enter_context(own_databases("at_one_time"))
            url = f"postgresql+psycopg://{SERVER}/{name}"
        one, other = Store(url), Store(url)
        stack.callback(one.close)
        stack.callback(other.close)
        one.migrate()
        one.hospitals.add(2, "suzhou-szslyy")
        yield one, other


def both(stores: Two, table: str, act: Callable[[Store], Any]) -> list[Any]:
    """What each of two got, or the error that it raised, who both had read the table
    before either wrote.
    """
    barrier = threading.Barrier(2)

    def meet(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("SELECT") and f"FROM {table}" in statement:
            with contextlib.suppress(threading.BrokenBarrierError):
                barrier.wait(MEET_SECONDS)

    for store in stores:
        sa.event.listen(store.engine, "after_cursor_execute", meet)
    try:
        with ThreadPoolExecutor(2) as pool:
            acting = [pool.submit(act, store) for store in stores]
            return [done.exception() or done.result() for done in acting]
    finally:
        for store in stores:
            sa.event.remove(store.engine, "after_cursor_execute", meet)


def test_of_two_first_enrolments_the_first_keys_stay(stores: Two) -> None:
    """Whoever has stolen a token, and enrols while the hospital does, is not told yes."""
    one, other = stores
    keys = {id(one): "keys of the hospital", id(other): "keys of a thief"}

    def enrol(store: Store) -> str:
        store.hospitals.enrol(2, keys[id(store)], "1")
        return keys[id(store)]

    outcomes = both(stores, "hospitals", enrol)
    accepted = [told for told in outcomes if isinstance(told, str)]
    refused = [told for told in outcomes if isinstance(told, Conflict)]
    assert [len(accepted), len(refused)] == [1, 1], outcomes
    assert refused[0].code == "keys_changed"
    (hospital,) = one.hospitals.all()
    assert hospital.identity == accepted[0]


@pytest.fixture
def due(stores: Two) -> DueTime:
    schedule_id, _ = stores[0].schedules.add(
        {}, name="weekly", initiator=2, hospitals=[2], body={}, timing={}
    )
    return DueTime(schedule_id, datetime.datetime(2026, 1, 5, 6, 0))


def test_a_time_that_two_skip_keeps_the_first_entry(stores: Two, due: DueTime) -> None:
    sentences = {id(stores[0]): "One is away.", id(stores[1]): "Another is away."}
    entries = both(
        stores, "firings", lambda store: store.schedules.skip(due, sentences[id(store)])
    )
    entry = stores[0].schedules.firing(due)
    assert entry is not None
    assert entry.skipped in sentences.values()
    assert entries == [entry, entry]


def test_a_time_has_an_order_or_is_skipped(stores: Two, due: DueTime) -> None:
    """Whichever comes first: the other finds it, and leaves no order of its own."""
    one, other = stores

    def order(store: Store) -> int | TimeTaken:
        body: dict[str, Any] = {}
        try:
            order_id, _ = store.orders.add(
                kind="external", initiator=2, hospital_ids=[2], body=body, due=due
            )
        except TimeTaken as taken:
            return taken
        return order_id

    order_id = order(one)
    skipped = other.schedules.skip(due, "One is away.")
    assert (skipped.order_id, skipped.skipped) == (order_id, None)
    assert isinstance(order(other), TimeTaken)
    newest = one.orders.newest(hospital=None, limit=9, before=None)
    assert [found.order_id for found in newest] == [order_id]


def test_a_round_recorded_again_keeps_what_is_added_meanwhile(stores: Two) -> None:
    one, other = stores
    order_id, _ = one.orders.add(
        kind="external", initiator=2, hospital_ids=[2], body={}
    )
    report = {"final": True, "hospitals": {}}
    one.rounds.record(order_id, 0, 3, loss=0.5, report=report)

    def act(store: Store) -> None:
        if store is one:
            store.rounds.record(order_id, 0, 3, loss=0.25, report=report)
        else:
            store.rounds.add_leave_one_out(order_id, 3, {"2": 0.125})

    # Who comes first gets the lock, mostly: once the one, once the other.
    assert both((one, other), "rounds", act) == [None, None]
    assert both((other, one), "rounds", act) == [None, None]
    (found,) = one.rounds.of_order(order_id)
    assert found.loss == 0.25
    assert found.report == {**report, "leave_one_out": {"2": 0.125}}


def test_what_two_hospitals_add_to_a_round_both_stays(stores: Two) -> None:
    one, _ = stores
    order_id, _ = one.orders.add(
        kind="external", initiator=2, hospital_ids=[2], body={}
    )
    one.rounds.record(order_id, 0, 3, loss=0.5, report={"hospitals": {}})

    def act(store: Store) -> None:
        hospital = "2" if store is one else "3"
        store.rounds.add_leave_one_out(order_id, 3, {hospital: 0.125})

    assert both(stores, "rounds", act) == [None, None]
    (found,) = one.rounds.of_order(order_id)
    assert found.report["leave_one_out"] == {"2": 0.125, "3": 0.125}


def test_what_two_hospitals_refuse_an_order_for_is_both_said(stores: Two) -> None:
    one, _ = stores
    order_id, _ = one.orders.add(
        kind="external", initiator=2, hospital_ids=[2, 3, 4], body={}
    )

    def refusal(user: int) -> Forbidden:
        sentence = f"Hospital {user} refuses."
        return Forbidden(sentence, remedy="Ask it.", user_id=user)

    one.orders.end(order_id, "failed", stop=refusal(2))

    def act(store: Store) -> bool:
        return store.orders.add_reason(order_id, refusal(3 if store is one else 4))

    assert both(stores, "orders", act) == [True, True]
    stop = one.orders.get(order_id).stop
    assert stop is not None
    assert {told["user_id"] for told in stop["detail"]["also"]} == {3, 4}


def test_a_round_that_two_record_first_is_one(stores: Two) -> None:
    """A flow that was given up and one that took its place may both write."""
    one, _ = stores
    order_id, _ = one.orders.add(
        kind="external", initiator=2, hospital_ids=[2], body={}
    )

    def act(store: Store) -> None:
        loss = 0.5 if store is one else 0.25
        store.rounds.record(order_id, 0, 3, loss=loss, report={"hospitals": {}})

    assert both(stores, "rounds", act) == [None, None]
    (found,) = one.rounds.of_order(order_id)
    assert found.loss in (0.5, 0.25)
    assert found.report == {"hospitals": {}}


def test_a_hospital_that_two_register_is_one(stores: Two) -> None:
    one, _ = stores

    def act(store: Store) -> None:
        store.hospitals.add(3, f"clinic-{id(store)}")

    outcomes = both(stores, "hospitals", act)
    refused = [told for told in outcomes if told is not None]
    assert len(refused) == 1
    assert isinstance(refused[0], Conflict)
    assert [hospital.user_id for hospital in one.hospitals.all()] == [2, 3]


def test_an_agent_that_shows_its_token_twice_is_told_yes_twice(stores: Two) -> None:
    """Its first call was not answered, and still runs."""
    one, _ = stores
    enrolment = "e" * 43
    one.hospitals.add_token(enrolment, "enrolment", 2)

    def act(store: Store) -> None:
        store.hospitals.take_enrolment(enrolment, "a" * 64)

    assert both(stores, "tokens", act) == [None, None]
    with pytest.raises(Forbidden) as caught:
        one.hospitals.take_enrolment(enrolment, "b" * 64)
    assert caught.value.code == "enrolment_used"
