"""An order that starts with who is there, at the coordinator: when it gets its places, who
it waits for, and what a hospital that came late still may.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.live import Presence
from api.store import Store
from deployments.demo.training import document_order
from protocol.exchange import decode_frames
from protocol.messages import EVERYONE, Acceptance, Header, write_envelope
from protocol.sealing import Identity
from tests.api.conftest import Coordinator, serve, settings_in
from tests.api.test_places import (
    EVERYBODY,
    add,
    be_there,
    judge,
    look_after,
    shown,
    store_at,
    until,
)

WINDOW = {"start_within_seconds": 3600, "at_least": 2}
LATE = "late"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = store_at(f"sqlite:///{tmp_path / 'store.sqlite'}")
    yield opened
    opened.close()


# Places


@pytest.mark.parametrize(
    ("present", "is_admitted"),
    [((2, 3), True), ((2,), False), ((3, 4, 5), False), ((2, 3, 4, 5), True)],
)
def test_its_initiator_and_as_many_as_it_needs_have_to_be_there(
    store: Store, present: tuple[int, ...], is_admitted: bool
) -> None:
    order_id = add(store, 2, 3, 4, 5, body=WINDOW)
    admitted = store.places.admit(present)
    assert admitted == ([order_id] if is_admitted else [])


def test_they_have_to_have_a_place_too(store: Store) -> None:
    for _ in range(2):
        assert store.places.admit(EVERYBODY) == [add(store, 3, 4)] or True
    store.places.admit(EVERYBODY)
    assert store.places.taken() == {3: 2, 4: 2}
    needs_three = add(store, 2, 3, 4, 5, body={**WINDOW, "at_least": 3})
    needs_two = add(store, 2, 3, 4, 5, body=WINDOW)
    assert store.places.admit(EVERYBODY) == [needs_two]
    # At a full hospital it stands in line, so that no other order is taken there
    # before.
    assert store.places.taken() == {2: 1, 3: 3, 4: 3, 5: 1}
    store.orders.name_party(needs_two, [2, 5])
    assert store.places.taken() == {2: 1, 3: 2, 4: 2, 5: 1}, "free at once"
    assert store.places.admit(EVERYBODY) == []
    store.orders.end(1, "success")
    assert store.places.admit(EVERYBODY) == [needs_three]


def test_the_first_party_stands(store: Store) -> None:
    order_id = add(store, 2, 3, 4, 5, body=WINDOW)
    store.orders.name_party(order_id, [4, 2])
    store.orders.name_party(order_id, [2, 3, 4])
    order = store.orders.get(order_id)
    assert (order.party, order.members, order.late) == ([2, 4], [2, 4], [3, 5])


def test_who_has_to_decide_holds_nobody_up(store: Store) -> None:
    store.hospitals.enrol(
        4,
        store.hospitals.all()[2].identity or "",
        "1",
        policy={"orders": {"approval": "manual"}},
    )
    order_id = add(store, 2, 3, 4, body=WINDOW)
    assert sorted(store.orders.get(order_id).asked or {}) == ["2", "4"]
    assert store.places.admit(EVERYBODY) == [], "the initiator's agent signs first"
    store.places.note_decided(order_id, 2)
    assert store.places.admit(EVERYBODY) == [order_id]


# Over REST


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    with serve(settings_in(tmp_path, grace_seconds=0.01)) as running:
        yield running


def started(coordinator: Coordinator, *, there: tuple[int, ...] = (2, 4)) -> int:
    """An order of hospital 4 with 2 and 3, of which these are there."""
    for user in there:
        coordinator.call("GET", "/exchange/inbox?wait=0", f"agent-{user}")
    sent = coordinator.call("POST", "/model/train", json=document_order() | WINDOW)
    assert sent.status_code == 200, sent.text
    return int(sent.json()["data"]["order_id"])


def report(coordinator: Coordinator, order_id: int, **facts: Any) -> None:
    path = f"/orders/{order_id}/progress"
    told = coordinator.call("POST", path, "coordinator", json=facts)
    assert told.status_code == 200, told.text


def put(
    coordinator: Coordinator, order_id: int, topic: str, user: int, body: bytes = b"x"
) -> Any:
    path = f"/exchange/{order_id}/{topic}/0/0/0/{user}/0"
    return coordinator.call("PUT", path, f"agent-{user}", content=body)


def acceptance_of(user: int) -> bytes:
    identity = Identity.generate()
    accepted = Acceptance(
        order_digest=bytes(32),
        n_rows=40,
        n_test_rows=0,
        regroup=False,
        least_hospitals=2,
        ephemeral=bytes(32),
        identity=identity.public,
    )
    header = Header("acceptance", user, EVERYONE)
    return write_envelope(identity, header, accepted.encode())


def read(coordinator: Coordinator, order_id: int, who: str, **query: Any) -> Any:
    senders = query.pop("senders", "1")
    topic = query.pop("topic", "document")
    path = f"/exchange/{order_id}/{topic}/0/0/0"
    query = {"senders": senders, "recipient": 0, "wait": 0, **query}
    return coordinator.call("GET", path, who, params=query)


def error_of(answer: Any) -> tuple[str, str]:
    error = answer.json()["data"]["error"]
    return error["type"], error["code"]


def test_what_is_there_can_be_asked_for(coordinator: Coordinator) -> None:
    order_id = started(coordinator)
    assert put(coordinator, order_id, "acceptance", 4).status_code == 201
    asked = {"topic": "acceptance", "senders": "2,3,4"}
    assert read(coordinator, order_id, "agent-4", **asked).status_code == 204
    some = read(coordinator, order_id, "agent-4", present=True, **asked)
    assert decode_frames(some.content) == {4: b"x"}


def test_it_is_told_who_has_not_accepted_and_who_came_late(
    coordinator: Coordinator,
) -> None:
    order_id = started(coordinator)
    put(coordinator, order_id, "acceptance", 4, acceptance_of(4))
    waiting = shown(coordinator, order_id)["waiting_for"]
    assert [one["user_id"] for one in waiting] == [2, 3]
    assert "starts without it" in waiting[0]["message"]
    report(coordinator, order_id, party=[2, 4])
    report(coordinator, order_id, state="running", n_rows={"2": 30, "4": 40})
    order = shown(coordinator, order_id)
    assert (order["hospitals"], order["party"], order["late"]) == (
        [2, 3, 4],
        [2, 4],
        [3],
    )
    assert order["data_volum"] == {"2": 30, "3": None, "4": 40}
    # Who was asked may read of it.
    assert coordinator.call("GET", f"/orders/{order_id}", "user-3").status_code == 200


def test_a_late_hospital_reads_what_stands_and_does_nothing_more(
    coordinator: Coordinator,
) -> None:
    order_id = started(coordinator)
    report(coordinator, order_id, party=[2, 4], runs={"2": "of-2", "3": "of-3"})
    assert read(coordinator, order_id, "agent-3").status_code == 200
    began = time.monotonic()
    missing = read(
        coordinator, order_id, "agent-3", topic="setup", senders="4", wait=20
    )
    assert error_of(missing) == ("OrderStopped", LATE)
    assert time.monotonic() - began < 10
    assert error_of(put(coordinator, order_id, "acceptance", 3)) == (
        "OrderStopped",
        LATE,
    )
    assert put(coordinator, order_id, "acceptance", 2).status_code == 201
    refusal = {"sentence": "No.", "remedy": "", "code": "min_rows", "type": "Refused"}
    refused = coordinator.call(
        "POST", f"/orders/{order_id}/refuse", "agent-3", json=refusal
    )
    assert error_of(refused) == ("OrderStopped", LATE)
    assert shown(coordinator, order_id)["state"] == "pending"
    # Its run begins, to end by itself.
    assert judge(coordinator, "agent-3", "hospital-train", order_id, "of-3") == "begin"
    report(coordinator, order_id, end="success")
    assert error_of(read(coordinator, order_id, "agent-3")) == ("OrderStopped", LATE)
    assert error_of(read(coordinator, order_id, "agent-2")) == (
        "OrderStopped",
        "success",
    )
    assert judge(coordinator, "agent-3", "hospital-train", order_id, "of-3") == "begin"


def test_a_model_is_asked_of_those_who_have_it(coordinator: Coordinator) -> None:
    order_id = started(coordinator)
    report(coordinator, order_id, party=[2, 4])
    report(coordinator, order_id, end="success")
    for user, status in ((2, 200), (3, 400)):
        body = {
            "model_id": order_id,
            "input_data": {
                "user_id": user,
                "data_sql": "SELECT * FROM data.breast_cancer",
            },
        }
        answer = coordinator.call("POST", "/model/infer", f"user-{user}", json=body)
        if status == 400:
            assert answer.status_code == 400, answer.text
            assert "took no part" in answer.text
        else:
            assert answer.status_code != 400, answer.text


def test_before_it_starts_nobody_but_its_initiator_is_waited_for_with_its_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Presence, "PAUSE_SECONDS", 0.5)  # an agent is away sooner
    with serve(settings_in(tmp_path, grace_seconds=0.01)) as coordinator:
        order_id = started(coordinator)
        time.sleep(0.05)  # longer than the grace
        coordinator.call("GET", "/exchange/inbox?wait=0", "agent-4")
        assert coordinator.store.orders.get(order_id).needed == [4]
        report(coordinator, order_id, party=[2, 4])
        assert coordinator.store.orders.get(order_id).needed == [2, 4]
        look_after(coordinator)
        until(lambda: coordinator.store.orders.get(order_id).admitted is None)


def test_a_person_who_decides_while_the_others_go_on(coordinator: Coordinator) -> None:
    """The order keeps its places; the run of this hospital waits for the decision."""
    order_id = started(coordinator, there=(2, 3, 4))
    be_there(coordinator)
    report(coordinator, order_id, runs={"2": "of-2", "3": "of-3", "4": "of-4"})
    asked = coordinator.call("POST", f"/orders/{order_id}/ask", "agent-3")
    assert error_of(asked)[0] == "OrderWaits"
    assert coordinator.store.orders.get(order_id).admitted is not None
    assert judge(coordinator, "agent-3", "hospital-train", order_id, "of-3") == "wait"
    assert judge(coordinator, "agent-2", "hospital-train", order_id, "of-2") == "begin"
    coordinator.call("POST", f"/orders/{order_id}/decided", "agent-3")
    assert judge(coordinator, "agent-3", "hospital-train", order_id, "of-3") == "begin"
