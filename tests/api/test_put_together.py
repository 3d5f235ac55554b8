"""Several messages in one call, and one that is brought along with others: all or none
of them is kept, and nothing is kept or shown that a call of its own would not.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from deployments.demo.training import document_order
from protocol.exchange import (
    LARGE_BYTES,
    MOST_HEADS_BYTES,
    TOGETHER_BYTES,
    Address,
    HttpTransport,
    Sent,
    decode_frames,
    encode_sent,
)
from protocol.messages import COORDINATOR, EVERYONE
from tests.api.conftest import Coordinator, serve, settings_in
from tests.api.test_budgets import LARGE, PLAN


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """Order 1 is the request document's, and has places."""
    home = tmp_path_factory.mktemp("home")
    with serve(settings_in(home, calls_per_second=1e6)) as coordinator:
        coordinator.call("POST", "/model/train", json=document_order())
        coordinator.give_places()
        yield coordinator


def sent(topic: str, round_: int, body: bytes, recipient: int = COORDINATOR) -> Sent:
    return Sent(Address(1, topic, round=round_), recipient, body)


def put(
    coordinator: Coordinator,
    *messages: Sent,
    who: str = "agent-2",
    sender: int = 2,
    body: bytes | None = None,
) -> Any:
    content = encode_sent(messages) if body is None else body
    path = f"/exchange/1/messages/{sender}"
    return coordinator.call("POST", path, who, content=content)


def there(coordinator: Coordinator, topic: str, round_: int) -> dict[int, bytes]:
    address = Address(1, topic, round=round_)
    return coordinator.store.messages.gather(address, [2, 3], COORDINATOR)


def error_of(answer: Any) -> Any:
    error = answer.json()["data"]["error"]
    assert error["remedy"]
    return error


def test_both_are_kept_and_may_come_again(running: Coordinator) -> None:
    messages = sent("vectors", 0, b"shown"), sent("gradient", 0, b"sealed")
    assert put(running, *messages).status_code == 201
    assert there(running, "vectors", 0) == {2: b"shown"}
    assert there(running, "gradient", 0) == {2: b"sealed"}
    held = running.store.messages.held(1)[2]
    assert put(running, *messages).status_code == 200
    assert running.store.messages.held(1)[2] == held
    # One of them had come alone before.
    alone = "/exchange/1/vectors/0/1/0/2/1"
    assert running.call("PUT", alone, "agent-2", content=b"v").status_code == 201
    both = sent("vectors", 1, b"v"), sent("gradient", 1, b"g")
    assert put(running, *both).status_code == 201
    assert there(running, "gradient", 1) == {2: b"g"}


def test_other_bytes_of_one_keep_none(running: Coordinator) -> None:
    assert put(running, sent("gradient", 2, b"sealed")).status_code == 201
    answer = put(running, sent("vectors", 2, b"v"), sent("gradient", 2, b"another"))
    assert answer.status_code == 409
    assert error_of(answer)["code"] == "put_twice"
    assert there(running, "vectors", 2) == {}
    assert there(running, "gradient", 2) == {2: b"sealed"}


NOT_ALLOWED = [
    ("in another's name", {"sender": 3}, sent("gradient", 3, b"x")),
    ("in the coordinator's", {"sender": COORDINATOR}, sent("gradient", 3, b"x")),
    ("by nobody of the order", {"who": "agent-5", "sender": 5}, sent("x", 3, b"x")),
    ("by a hospital's user", {"who": "hospital-2"}, sent("gradient", 3, b"x")),
    ("of no kind", {}, sent("rumour", 3, b"x")),
    ("what the coordinator says", {}, sent("total-gradient", 3, b"x", 2)),
    ("of a round that there is not", {}, sent("gradient", 901, b"x")),
]


@pytest.mark.parametrize(("what", "how", "bad"), NOT_ALLOWED, ids=lambda v: str(v)[:30])
def test_nothing_is_kept_beside_what_may_not_be_put(
    running: Coordinator, what: str, how: dict[str, Any], bad: Sent
) -> None:
    answer = put(running, sent("vectors", 3, b"v"), bad, **how)
    assert answer.status_code == 403, what
    error_of(answer)
    assert there(running, "vectors", 3) == {}


def test_one_that_is_too_large_keeps_none(running: Coordinator) -> None:
    large = sent("gradient", 4, b"x" * (LARGE + 1))
    answer = put(running, sent("vectors", 4, b"v"), large)
    assert answer.status_code == 413
    assert error_of(answer)["code"] == "message_size"
    assert there(running, "vectors", 4) == {}


def test_more_than_small_messages_have_is_not_read(running: Coordinator) -> None:
    body = bytes(MOST_HEADS_BYTES + TOGETHER_BYTES + 1)
    assert put(running, body=body).status_code == 413


def test_the_budget_holds_for_both(running: Coordinator) -> None:
    """Two messages a call, as large as they may be, until there is no room for two."""
    size = PLAN.kinds["opened"].most_bytes
    answers = []
    for call in range(PLAN.held_bytes // size):
        both = []
        for round_ in (2 * call, 2 * call + 1):
            address = Address(1, "opened", round=round_)
            both.append(Sent(address, EVERYONE, b"y" * size))
        answers.append((both, put(running, *both, who="agent-3", sender=3)))
        if not answers[-1][1].is_success:
            break
    *earlier, (refused, last) = answers
    assert earlier
    assert all(answer.status_code == 201 for _, answer in earlier)
    assert last.status_code == 413
    assert error_of(last)["code"] == "budget"
    for message in refused:
        assert not running.store.messages.find(message.address, [3], EVERYONE)
    held = running.store.messages.held(1)[3]
    assert PLAN.held_bytes - 2 * size < held <= PLAN.held_bytes
    # What was refused takes no room: a single one that fits is kept.
    if held + size <= PLAN.held_bytes:
        assert put(running, refused[0], who="agent-3", sender=3).status_code == 201


def lengthened(change: dict[str, Any], *, body: bytes = b"x") -> bytes:
    head = {
        "topic": "vectors",
        "fold": 0,
        "round": 5,
        "attempt": 0,
        "recipient": 1,
        "n_bytes": len(body),
        **change,
    }
    heads = json.dumps([head]).encode()
    return len(heads).to_bytes(4, "big") + heads + body


BAD_BODIES = [
    b"",
    b"\0\0",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff[]",
    b"\0\0\0\2[]",
    b"\0\0\0\2{}",
    b"\0\0\0\4null",
    lengthened({"n_bytes": 2}),
    lengthened({"n_bytes": 0}),
    lengthened({"n_bytes": -1}),
    lengthened({"n_bytes": 2**40}),
    lengthened({"round": "5"}),
    lengthened({"round": True}),
    lengthened({"round": 2**31}),
    lengthened({"topic": "../vectors"}),
    lengthened({"topic": "v" * 33}),
    lengthened({"sender": 3}),
    lengthened({"recipient": None}),
    encode_sent([sent("vectors", 5, b"") for _ in range(17)]),
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=lambda body: repr(body)[:40])
def test_a_body_of_another_form_is_refused(running: Coordinator, body: bytes) -> None:
    answer = put(running, body=body)
    assert answer.status_code == 422
    error_of(answer)
    assert there(running, "vectors", 5) == {}


# Brought along


def read(
    coordinator: Coordinator, who: str, query: str, topic: str = "gradient"
) -> Any:
    path = f"/exchange/1/{topic}/0/6/0?{query}"
    return coordinator.call("GET", path, who)


def test_what_the_coordinator_says_to_all_is_brought_along(
    running: Coordinator,
) -> None:
    opened = sent("opening-gradient", 6, b"opened", EVERYONE)
    query = "senders=4&recipient=0&wait=0&along=check"
    assert put(running, opened, who="agent-4", sender=4).status_code == 201
    # It is not waited for.
    answer = read(running, "agent-2", query, "opening-gradient")
    assert decode_frames(answer.content) == {4: b"opened"}
    said = sent("check", 6, b"mean", EVERYONE), sent("total-gradient", 6, b"sum", 4)
    assert put(running, *said, who="coordinator", sender=COORDINATOR).is_success
    answer = read(running, "agent-2", query, "opening-gradient")
    assert decode_frames(answer.content) == {4: b"opened", COORDINATOR: b"mean"}
    # What is waited for is not there: nothing is brought.
    waited = "senders=3&recipient=0&wait=0&along=check"
    assert read(running, "agent-2", waited, "opening-gradient").status_code == 204


def test_nothing_else_is_brought_along(running: Coordinator) -> None:
    """Neither what is for one hospital, nor what another hospital says."""
    opened = sent("opening-gradient", 6, b"opened", EVERYONE)
    assert put(running, opened, who="agent-4", sender=4).is_success
    said = sent("total-gradient", 6, b"sum", 4)
    assert put(running, said, who="coordinator", sender=COORDINATOR).is_success
    shown = sent("vectors", 6, b"shown")
    assert put(running, shown, who="agent-3", sender=3).is_success
    for topic in ("total-gradient", "vectors", "opening-gradient", "document"):
        query = f"senders=4&recipient=0&wait=0&along={topic}"
        answer = read(running, "agent-2", query, "opening-gradient")
        assert decode_frames(answer.content) == {4: b"opened"}
    bad = read(running, "agent-2", "senders=4&recipient=0&along=..", "opening-gradient")
    assert bad.status_code == 422


def test_a_large_one_is_left_to_a_call_of_its_own(running: Coordinator) -> None:
    transport = HttpTransport(running.client, running.tokens["coordinator"])
    address = Address(1, "check", round=7)
    transport.put(address, COORDINATOR, EVERYONE, bytes(LARGE_BYTES + 1))
    opened = sent("opening-gradient", 7, b"opened", EVERYONE)
    assert put(running, opened, who="agent-4", sender=4).is_success
    agent = HttpTransport(running.client, running.tokens["agent-2"])
    beside = Address(1, "opening-gradient", round=7)
    found = agent.gather(beside, [4], EVERYONE, wait_seconds=0, along="check")
    assert found == {4: b"opened"}
    alone = agent.gather(address, [COORDINATOR], EVERYONE, wait_seconds=0)
    assert alone == {COORDINATOR: bytes(LARGE_BYTES + 1)}


def test_who_waits_for_either_wakes(running: Coordinator) -> None:
    """A message that came with another rings as one that came alone."""
    transport = HttpTransport(running.client, running.tokens["coordinator"])
    found: list[Any] = []

    def wait(topic: str) -> None:
        address = Address(1, topic, round=8)
        found.append(transport.gather(address, [2], COORDINATOR, wait_seconds=20))

    topics = ("vectors", "gradient")
    waiting = [threading.Thread(target=wait, args=(topic,)) for topic in topics]
    for thread in waiting:
        thread.start()
    # Both are waiting before anything is put: else they would find it at their first
    # look.
    bell = running.app.state.bell
    while not all(("messages", 1, topic, 0, 8) in bell._waiting for topic in topics):
        time.sleep(0.01)
    put(running, sent("vectors", 8, b"one"), sent("gradient", 8, b"one"))
    for thread in waiting:
        thread.join(20)
    assert found == [{2: b"one"}, {2: b"one"}]


def test_an_order_that_has_ended_takes_none(running: Coordinator) -> None:
    assert running.call("POST", "/orders/1/cancel").status_code == 200
    answer = put(running, sent("vectors", 9, b"v"), sent("gradient", 9, b"g"))
    assert answer.status_code == 410
    assert error_of(answer)["code"] == "cancelled"
