"""Places: an order takes all of its own at once, the oldest first; none waits for what
another waiting one holds.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

from api.routes.admission import forget_lost_runs
from api.routes.order_watch import look_after as look_after_orders
from api.routes.services import Services
from api.store import Store
from api.store.orders import Prepared
from api.store.places import MOST_OVERTAKEN, USUAL_PLACES
from api.store.rows import OrderRow
from deployments.demo.training import document_order
from protocol.errors import Refused, Unavailable
from protocol.sealing import Identity
from tests.api.conftest import NAMES, Coordinator, serve, settings_in
from tests.examples import few
from tests.made_databases import postgresql_database
from tests.pairwise import quick

EVERYBODY = (2, 3, 4, 5, 6)
MANUAL = {"orders": {"approval": "manual"}}


def store_at(url: str, limits: Mapping[int, int] | None = None) -> Store:
    store = Store(url)
    store.migrate()
    for user in EVERYBODY:
        if user not in store.hospitals.names():
            store.hospitals.add(user, f"hospital-{user}")
        places = (limits or {}).get(user, 2)
        store.hospitals.enrol(user, store_identity(store, user), "1", max_orders=places)
    return store


def store_identity(store: Store, user: int) -> str:
    known = {hospital.user_id: hospital.identity for hospital in store.hospitals.all()}
    return known.get(user) or Identity.generate().public.encode()


def add(
    store: Store,
    *hospitals: int,
    kind: str = "train",
    begun: bool = True,
    body: Any = None,
) -> int:
    """An order whose run stands in Prefect, unless it has not `begun`."""
    order_id, _ = store.orders.add(
        kind=kind,
        initiator=hospitals[0],
        hospital_ids=hospitals,
        body=body or {},
        prepare=lambda number: Prepared("", {}),
    )
    if begun:
        store.orders.change(order_id, flow_run_id=f"run-{order_id}")
    return order_id


@pytest.fixture(params=quick(["sqlite", "postgresql"], 1))
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty store on each of the two databases."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'store.sqlite'}"
        return
    with postgresql_database() as address:
        yield address


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = store_at(url)
    yield opened
    opened.close()


# All places at once, the oldest first


def test_an_order_takes_all_of_its_places_or_none(store: Store) -> None:
    first, second = add(store, 2, 3, 4), add(store, 2, 3, 4)
    third, elsewhere = add(store, 4, 5, 6), add(store, 5, 6)
    assert store.places.admit(EVERYBODY) == [first, second, elsewhere]
    assert store.places.taken() == {2: 2, 3: 2, 4: 2, 5: 1, 6: 1}
    assert [
        queue.user_id for queue in store.places.queue(third, EVERYBODY) if queue.is_full
    ] == [4]
    store.orders.end(first, "success")
    assert store.places.admit(EVERYBODY) == [third]


@pytest.mark.parametrize("state", ["success", "failed", "cancelled"])
def test_the_end_of_an_order_frees_its_places_however_it_ends(
    store: Store, state: str
) -> None:
    orders = [add(store, 2, 3) for _ in range(3)]
    assert store.places.admit(EVERYBODY) == orders[:2]
    store.orders.end(orders[0], state)
    assert store.places.taken() == {2: 1, 3: 1}
    assert store.places.admit(EVERYBODY) == [orders[2]]


def test_the_oldest_comes_first_and_its_queue_says_how_many_are_before(
    store: Store,
) -> None:
    numbers = [add(store, 2, 3) for _ in range(5)]
    store.places.admit(EVERYBODY)
    queues = {number: store.places.queue(number, EVERYBODY) for number in numbers[2:]}
    assert [(q.user_id, q.places, q.n_before) for q in queues[numbers[4]]] == [
        (2, 2, 2),
        (3, 2, 2),
    ]
    assert [q.n_before for q in queues[numbers[2]]] == [0, 0]
    assert store.places.queue(numbers[0], EVERYBODY) == []


def test_an_order_is_overtaken_a_few_times_and_no_more(store: Store) -> None:
    """Hospital 2 is full for long; meanwhile orders at hospital 3 alone go before the
    one that needs both.
    """
    long = [add(store, 2), add(store, 2)]
    store.places.admit(EVERYBODY)
    waits = add(store, 2, 3)
    for _ in range(MOST_OVERTAKEN):
        short_one = add(store, 3)
        assert store.places.admit(EVERYBODY) == [short_one]
        store.orders.end(short_one, "success")
    late = add(store, 3)
    assert store.places.admit(EVERYBODY) == []
    assert [
        queue.n_before for queue in store.places.queue(late, EVERYBODY) if queue.is_kept
    ] == [1]
    store.orders.end(long[0], "success")
    assert store.places.admit(EVERYBODY) == [waits, late]


def test_an_order_is_not_overtaken_more_often_when_many_others_come_at_once(
    store: Store,
) -> None:
    store.hospitals.enrol(3, store_identity(store, 3), "1", max_orders=100)
    long = [add(store, 2), add(store, 2)]
    store.places.admit(EVERYBODY)
    add(store, 2, 3)
    others = [add(store, 3) for _ in range(3 * MOST_OVERTAKEN)]
    assert store.places.admit(EVERYBODY) == others[:MOST_OVERTAKEN]
    assert store.places.admit(EVERYBODY) == []
    kept, full = (
        store.places.queue(others[-1], EVERYBODY),
        store.places.queue(long[0] + 2, EVERYBODY),
    )
    assert [(one.user_id, one.is_full, one.is_kept) for one in kept] == [
        (3, False, True)
    ]
    assert [(one.user_id, one.is_full, one.is_kept) for one in full] == [
        (2, True, False),
        (3, False, False),
    ]


def test_only_while_all_agents_are_there_and_prefect_has_its_run(store: Store) -> None:
    order_id = add(store, 2, 3, begun=False)
    assert store.places.admit(EVERYBODY) == []
    store.orders.change(order_id, flow_run_id="a-run")
    assert store.places.admit([2, 4, 5, 6]) == []
    assert store.places.admit([2, 3]) == [order_id]


def test_inference_and_external_orders_take_no_place(store: Store) -> None:
    add(store, 2, kind="infer")
    store.orders.add(kind="external", initiator=2, hospital_ids=[2], body={})
    assert store.places.taken() == {}
    assert store.places.admit(EVERYBODY) == []


def test_a_lowered_limit_ends_nothing_and_admits_nothing_new(store: Store) -> None:
    running = [add(store, 2, 3) for _ in range(2)]
    store.places.admit(EVERYBODY)
    store.hospitals.enrol(2, store_identity(store, 2), "1", max_orders=1)
    waits = add(store, 2, 3)
    store.orders.end(running[0], "success")
    assert store.orders.get(running[1]).state == "pending"
    assert store.places.admit(EVERYBODY) == []
    store.orders.end(running[1], "success")
    assert store.places.admit(EVERYBODY) == [waits]


def test_a_hospital_that_has_not_said_takes_the_usual_number(store: Store) -> None:
    store.hospitals.enrol(2, store_identity(store, 2), "1")
    orders = [add(store, 2) for _ in range(USUAL_PLACES + 1)]
    assert store.places.admit(EVERYBODY) == orders[:-1]


def test_places_that_are_given_back_leave_the_order_its_age(store: Store) -> None:
    first, second = add(store, 2, 3), add(store, 2, 3)
    store.places.admit(EVERYBODY)
    younger = add(store, 2, 3)
    assert store.places.give_back(first)
    assert not store.places.give_back(first), "once"
    assert store.places.admit([3]) == []
    assert store.places.admit(EVERYBODY) == [first]
    store.orders.end(second, "failed")
    assert store.places.admit(EVERYBODY) == [younger]
    assert not store.places.give_back(second), "it has ended"


def test_an_order_about_which_a_person_decides_holds_no_place(store: Store) -> None:
    store.hospitals.enrol(3, store_identity(store, 3), "1", policy=MANUAL, max_orders=1)
    asks, others = add(store, 2, 3), add(store, 2, 4)
    assert store.orders.get(asks).asked == {
        str(user): {"run": None, "decided": False} for user in (2, 3)
    }
    assert store.places.admit(EVERYBODY) == [others]
    store.places.note_asking(asks, 3, "run-of-3")
    for user in (2, 3, 4):
        store.places.note_decided(asks, user)
    assert store.orders.get(asks).asked["3"] == {"run": "run-of-3", "decided": True}
    assert store.places.admit(EVERYBODY) == [asks]
    store.places.ask(asks, [4])
    assert store.orders.get(asks).admitted is None
    assert store.places.admit(EVERYBODY) == []
    store.places.note_decided(asks, 4)
    assert store.places.admit(EVERYBODY) == [asks]


def _admit_elsewhere(url: str, n_times: int) -> list[int]:
    """With connections of its own, as another process of the coordinator has them."""
    store = Store(url)
    found = [
        order_id for _ in range(n_times) for order_id in store.places.admit(EVERYBODY)
    ]
    store.close()
    return found


def test_several_that_give_places_at_once_give_none_twice(url: str) -> None:
    store = store_at(url, dict.fromkeys(EVERYBODY, 3))
    parties = [(2, 3, 4), (3, 4, 5), (4, 5, 6), (5, 6, 2), (6, 2, 3)]
    for index in range(20):
        add(store, *parties[index % len(parties)])
    store.close()
    with ThreadPoolExecutor(4) as pool:
        found = [
            number
            for part in pool.map(_admit_elsewhere, [url] * 4, [10] * 4)
            for number in part
        ]
    assert len(found) == len(set(found)) > 0
    store = Store(url)
    taken = Counter(
        user for number in found for user in store.orders.get(number).hospitals
    )
    assert store.places.taken() == taken
    assert max(taken.values()) == 3
    store.close()


@few
@given(st.data())
def test_whatever_orders_there_are_all_of_them_end(data: Any) -> None:
    """No set of overlapping parties and limits leaves an order behind, and no hospital
    ever has more than it takes.
    """
    limits = data.draw(
        st.fixed_dictionaries({user: st.integers(1, 3) for user in EVERYBODY})
    )
    party = st.sets(st.sampled_from(EVERYBODY), min_size=1, max_size=5)
    store = store_at("sqlite://", limits)
    waiting = {
        add(store, *sorted(one))
        for one in data.draw(st.lists(party, min_size=1, max_size=12))
    }
    running: list[int] = []
    while waiting or running:
        admitted = store.places.admit(EVERYBODY)
        running += admitted
        waiting -= set(admitted)
        assert running, "somebody works, or nobody waits"
        assert all(n <= limits[user] for user, n in store.places.taken().items())
        store.orders.end(
            running.pop(data.draw(st.integers(0, len(running) - 1))), "success"
        )
    store.close()


def test_orders_of_the_version_before_count_as_having_their_places(url: str) -> None:
    store = Store(url)
    store.migrate("0004")
    with store.begin() as db:
        db.execute(
            sa.text("INSERT INTO hospitals (user_id, name) VALUES (2, 'hospital-2')")
        )
        db.execute(
            sa.text(
                "INSERT INTO orders (kind, initiator, hospitals, body, state, n_rows, summary, created, updated)"
                " VALUES ('train', 2, '[2]', '{}', 'running', '{}', '{}', '2026-11-20 06:00:00', '2026-11-20 06:00:00')"
            )
        )
    store.migrate()
    assert store.places.taken() == {2: 1}
    store.close()


# Over REST


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    """Hospitals that take one order each; their agents are there."""
    with serve(settings_in(tmp_path, accept_seconds=30)) as running:
        for hospital in running.store.hospitals.all():
            if hospital.identity:
                running.store.hospitals.enrol(
                    hospital.user_id, hospital.identity, "1", max_orders=1
                )
        be_there(running)
        yield running


def ordered(coordinator: Coordinator) -> Any:
    coordinator.app.state.settings = settings_in(
        Path(coordinator.app.state.settings.home), accept_seconds=0.05
    )
    return coordinator.call("POST", "/model/train", json=document_order()).json()


def shown(coordinator: Coordinator, order_id: int) -> dict[str, Any]:
    found: dict[str, Any] = coordinator.call("GET", f"/orders/{order_id}").json()[
        "data"
    ]
    return found


def test_who_orders_more_than_fits_is_answered_at_once_and_told_who_is_full(
    coordinator: Coordinator,
) -> None:
    first = ordered(coordinator)["data"]["order_id"]
    coordinator.app.state.settings = settings_in(
        Path(coordinator.app.state.settings.home), accept_seconds=3600
    )
    answer = coordinator.call("POST", "/model/train", json=document_order()).json()
    assert answer["code"] == 200
    assert answer["data"]["data_volum"] == {"2": None, "3": None, "4": None}
    for name in ("suzhou-szslyy", "zhejiang-zdey", "shanxi-xbfy"):
        assert (
            f"{name} has no free place: it takes 1 orders at once" in answer["message"]
        )
    second = answer["data"]["order_id"]
    assert [one["cause"] for one in shown(coordinator, second)["waiting_for"]] == [
        "full"
    ] * 3
    hospitals = coordinator.call("GET", "/hospitals").json()["data"]["hospitals"]
    assert [(row["orders"], row["max_orders"]) for row in hospitals] == [(1, 1)] * 3 + [
        (0, 4)
    ]
    coordinator.call("POST", f"/orders/{first}/cancel")
    coordinator.give_places()
    assert coordinator.store.orders.get(second).admitted


def test_whoever_works_on_an_order_without_places_is_told_to_wait(
    coordinator: Coordinator,
) -> None:
    ordered(coordinator)
    waits = ordered(coordinator)["data"]["order_id"]
    path = f"/exchange/{waits}/document/0/0/0?senders=1&recipient=0&wait=0"
    refused = coordinator.call("GET", path, "agent-2")
    assert (refused.status_code, refused.json()["data"]["error"]["type"]) == (
        409,
        "OrderWaits",
    )
    put = coordinator.call(
        "PUT", f"/exchange/{waits}/acceptance/0/0/0/2/0", "agent-2", content=b"x"
    )
    assert put.json()["data"]["error"]["type"] == "OrderWaits"
    assert (
        coordinator.call("GET", f"{path}&takes_place=false", "agent-2").status_code
        == 200
    )


def judge(
    coordinator: Coordinator,
    who: str,
    flow: str,
    order_id: int,
    flow_run_id: str = "a-run",
) -> str:
    body = {"runs": [{"flow_run_id": flow_run_id, "flow": flow, "order_id": order_id}]}
    return str(
        coordinator.call("POST", "/exchange/runs", who, json=body).json()["data"][
            "runs"
        ][flow_run_id]["what"]
    )


def test_a_run_begins_only_where_it_is_its_orders_own_and_the_order_has_places(
    coordinator: Coordinator,
) -> None:
    first = ordered(coordinator)["data"]["order_id"]
    second = ordered(coordinator)["data"]["order_id"]
    own = {
        number: coordinator.store.orders.get(number).flow_run_id
        for number in (first, second)
    }
    assert (
        judge(coordinator, "coordinator", "train-order", first, own[first]) == "begin"
    )
    assert (
        judge(coordinator, "coordinator", "train-order", second, own[second]) == "wait"
    )
    assert judge(coordinator, "coordinator", "train-order", first, "another") == "end"
    assert (
        judge(coordinator, "coordinator", "joint-statistics", first, own[first])
        == "end"
    )
    assert judge(coordinator, "coordinator", "train-order", 10**12) == "end"
    assert judge(coordinator, "agent-2", "hospital-train", first) == "wait", (
        "its number is not known yet"
    )
    coordinator.call(
        "POST",
        f"/orders/{first}/progress",
        "coordinator",
        json={"runs": {"2": "run-of-2"}},
    )
    assert judge(coordinator, "agent-2", "hospital-train", first, "run-of-2") == "begin"
    assert judge(coordinator, "agent-2", "hospital-train", first, "another") == "end"
    assert judge(coordinator, "agent-3", "hospital-train", first, "run-of-2") == "wait"
    for flow in (
        "hospital-statistics",
        "infer",
        "hospital-train-approval",
        "train-order",
    ):
        assert judge(coordinator, "agent-2", flow, first, "run-of-2") == "end"
    assert judge(coordinator, "agent-5", "hospital-train", first) == "end", "no party"
    assert judge(coordinator, "agent-2", "hospital-train", 77) == "end", "no such order"
    assert coordinator.store.orders.get(first).state == "pending"
    coordinator.call("POST", f"/orders/{second}/cancel")
    assert (
        judge(coordinator, "coordinator", "train-order", second, own[second]) == "begin"
    ), "it ends itself"


def test_a_policy_that_turns_manual_gives_the_places_back_until_a_person_has_decided(
    coordinator: Coordinator,
) -> None:
    order_id = ordered(coordinator)["data"]["order_id"]
    asked = coordinator.call("POST", f"/orders/{order_id}/ask", "agent-3")
    assert asked.json()["data"]["error"]["type"] == "OrderWaits"
    order = coordinator.store.orders.get(order_id)
    assert order.admitted is None
    assert coordinator.runs.started[-1][:2] == (
        "hospital-train-approval/hospital-3",
        order_id,
    )
    assert [
        (one["user_id"], one["cause"])
        for one in shown(coordinator, order_id)["waiting_for"]
    ] == [(3, "approval")]
    assert (
        judge(
            coordinator,
            "agent-3",
            "hospital-train-approval",
            order_id,
            order.asked["3"]["run"],
        )
        == "begin"
    )
    assert judge(coordinator, "agent-2", "hospital-train-approval", order_id) == "end"
    assert (
        coordinator.call("POST", f"/orders/{order_id}/decided", "agent-3").status_code
        == 200
    )
    assert coordinator.store.orders.get(order_id).admitted


def test_a_person_is_asked_in_a_new_run_where_the_first_one_has_ended(
    coordinator: Coordinator,
) -> None:
    """Asked twice for one attempt Prefect answers with the run that is over, and nobody
    would ever decide.
    """
    order_id = ordered(coordinator)["data"]["order_id"]
    runs = []
    for _ in range(2):
        coordinator.call("POST", f"/orders/{order_id}/ask", "agent-3")
        runs.append(coordinator.store.orders.get(order_id).asked["3"]["run"])
        coordinator.call(
            "POST", f"/orders/{order_id}/ask", "agent-3"
        )  # the answer was lost, and it asks again
        assert coordinator.store.orders.get(order_id).asked["3"]["run"] == runs[-1], (
            "that one is not over"
        )
        coordinator.call("POST", f"/orders/{order_id}/decided", "agent-3")
        assert coordinator.store.orders.get(order_id).admitted
    assert runs[0] != runs[1]
    assert (
        judge(coordinator, "agent-3", "hospital-train-approval", order_id, runs[1])
        == "begin"
    )
    assert (
        judge(coordinator, "agent-3", "hospital-train-approval", order_id, runs[0])
        == "end"
    )


def test_nobody_is_asked_about_an_order_that_has_ended(
    coordinator: Coordinator,
) -> None:
    order_id = ordered(coordinator)["data"]["order_id"]
    coordinator.call("POST", f"/orders/{order_id}/cancel")
    n_started = len(coordinator.runs.started)
    asked = coordinator.call("POST", f"/orders/{order_id}/ask", "agent-3")
    assert asked.json()["data"]["error"]["type"] == "OrderStopped"
    assert coordinator.store.orders.get(order_id).asked is None
    assert len(coordinator.runs.started) == n_started


def test_an_order_cancelled_while_its_flow_reports_stays_cancelled(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between what the report's call reads of the order and what it writes; else its
    places were taken for ever.
    """
    order_id = ordered(coordinator)["data"]["order_id"]
    read = coordinator.store.orders.get

    def read_and_cancelled(number: int) -> OrderRow:
        found = read(number)
        coordinator.store.orders.end(number, "cancelled")
        return found

    monkeypatch.setattr(coordinator.store.orders, "get", read_and_cancelled)
    coordinator.call(
        "POST", f"/orders/{order_id}/progress", "coordinator", json={"state": "running"}
    )
    assert read(order_id).state == "cancelled"
    assert coordinator.store.places.taken() == {}


def test_an_order_whose_rows_are_counted_is_answered_with_them_while_it_waits_and_when_it_has_ended(
    coordinator: Coordinator,
) -> None:
    headers = {"Idempotency-Key": "once"}
    coordinator.app.state.settings = settings_in(
        Path(coordinator.app.state.settings.home), accept_seconds=0.05
    )

    def sent() -> Any:
        return coordinator.call(
            "POST", "/model/train", json=document_order(), headers=headers
        ).json()

    order_id = sent()["data"]["order_id"]
    counts = {"2": 10, "3": 10, "4": 10}
    report = {"state": "running", "n_rows": counts}
    coordinator.call("POST", f"/orders/{order_id}/progress", "coordinator", json=report)
    coordinator.store.places.give_back(order_id)
    again = sent()
    assert again["data"]["data_volum"] == counts
    assert again["message"].startswith("The order waits for its places.")
    coordinator.store.orders.end(order_id, "success")
    assert sent()["message"] is None


def test_an_order_that_prefect_does_not_know_yet_names_who_is_waited_for(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_asked: Any, **_more: Any) -> str:
        raise Unavailable("Prefect does not answer.", remedy="Check it.")

    with monkeypatch.context() as patch:
        patch.setattr(coordinator.runs, "start", away)
        order_id = ordered(coordinator)["data"]["order_id"]
        (waiting,) = shown(coordinator, order_id)["waiting_for"]
        assert (waiting["name"], waiting["cause"]) == ("coordinator", "prefect")
    look_after(coordinator)
    assert coordinator.store.orders.get(order_id).admitted
    assert "prefect" not in [
        one["cause"] for one in shown(coordinator, order_id)["waiting_for"]
    ]


def test_places_are_given_back_before_the_runs_of_other_orders_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect may take a quarter of a minute for each of them, and many orders may wait
    for it.
    """
    with serve(settings_in(tmp_path, grace_seconds=0)) as coordinator:
        be_there(coordinator)
        add(coordinator.store, 2, 3, begun=False, body={"model_type": "lr"})
        admitted = add(coordinator.store, 3, 4)
        coordinator.store.places.admit(NAMES)
        coordinator.call(
            "PUT", "/hospitals/me/condition", "agent-4", json={"disk_full": True}
        )
        seen = []

        async def start(*_asked: Any, **_more: Any) -> str:
            seen.append(coordinator.store.orders.get(admitted).admitted)
            return "a-run"

        monkeypatch.setattr(coordinator.runs, "start", start)
        look_after(coordinator)
        assert seen == [None]


def test_the_coordinators_worker_hears_of_runs_that_there_are(
    coordinator: Coordinator,
) -> None:
    """An order of the version before has its places, and may have no run yet."""
    first, second = add(coordinator.store, 2), add(coordinator.store, 3)
    coordinator.store.places.admit(NAMES)
    coordinator.store.orders.change(first, flow_run_id=None)
    told = coordinator.call("GET", "/exchange/admitted", "coordinator").json()["data"]
    assert told == {"flow_run_ids": [coordinator.store.orders.get(second).flow_run_id]}


def test_an_order_that_cannot_be_begun_keeps_no_other_from_being_begun(
    coordinator: Coordinator,
) -> None:
    add(
        coordinator.store, 2, 3, begun=False
    )  # its body lacks what its run is made from
    other = add(coordinator.store, 2, 3, begun=False, body={"model_type": "lr"})
    look_after(coordinator)
    assert coordinator.store.orders.get(other).flow_run_id


def test_a_refused_order_that_waits_is_over_and_holds_nobody_up(
    coordinator: Coordinator,
) -> None:
    ordered(coordinator)
    waits = ordered(coordinator)["data"]["order_id"]
    refusal = Refused("A person refused.", remedy="Talk to them.", code="approval")
    coordinator.call(
        "POST", f"/orders/{waits}/refuse", "agent-2", json=refusal.to_json()
    )
    assert coordinator.store.orders.get(waits).state == "failed"
    assert shown(coordinator, waits)["waiting_for"] == []


def test_an_order_whose_run_prefect_has_lost_gets_a_new_one(tmp_path: Path) -> None:
    """Its database was replaced: the order keeps its places, and is begun in a run that
    there is.
    """
    with serve(settings_in(tmp_path)) as coordinator:
        be_there(coordinator)
        order_id = ordered(coordinator)["data"]["order_id"]
        first = coordinator.store.orders.get(order_id)
        assert first.admitted
        look_for_lost(coordinator)
        assert (
            coordinator.store.orders.get(order_id).flow_run_id == first.flow_run_id
        ), "it is there"
        coordinator.runs.lose()
        look_for_lost(coordinator)
        look_after(coordinator)
        again = coordinator.store.orders.get(order_id)
        assert again.flow_run_id not in (None, first.flow_run_id)
        assert again.admitted == first.admitted
        assert (
            judge(
                coordinator, "coordinator", "train-order", order_id, again.flow_run_id
            )
            == "begin"
        )
        assert (
            judge(
                coordinator, "coordinator", "train-order", order_id, first.flow_run_id
            )
            == "end"
        )


@pytest.mark.parametrize(
    "trouble", quick([{"disk_full": True}, {"not_ready": True}], 1)
)
def test_a_site_that_is_held_up_gets_no_new_order_and_keeps_none_from_working(
    tmp_path: Path, trouble: dict[str, bool]
) -> None:
    """After the grace its order gives its places back, and is the first to have them
    when that is over.
    """
    with serve(settings_in(tmp_path, grace_seconds=0.01)) as coordinator:
        be_there(coordinator)
        first = ordered(coordinator)["data"]["order_id"]
        coordinator.call("PUT", "/hospitals/me/condition", "agent-3", json=trouble)
        until(lambda: coordinator.store.orders.get(first).admitted is None)
        be_there(coordinator)
        (waiting,) = shown(coordinator, first)["waiting_for"]
        assert (waiting["user_id"], waiting["cause"]) == (
            3,
            "disk" if "disk_full" in trouble else "site",
        )
        coordinator.call("PUT", "/hospitals/me/condition", "agent-3", json={})
        until(lambda: coordinator.store.orders.get(first).admitted is not None)


def be_there(coordinator: Coordinator) -> None:
    for user in (2, 3, 4):
        coordinator.call("GET", "/exchange/inbox?wait=0", f"agent-{user}")


def look_after(coordinator: Coordinator) -> None:
    """What the application does every two seconds by itself, with the runs of its
    start.
    """
    services = Services(Request({"type": "http", "app": coordinator.app}))
    asyncio.run(look_after_orders(services, coordinator.store.orders.active(), {}))


def look_for_lost(coordinator: Coordinator) -> None:
    services = Services(Request({"type": "http", "app": coordinator.app}))
    asyncio.run(forget_lost_runs(services, coordinator.store.orders.active()))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
