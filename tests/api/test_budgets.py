"""What one agent can put into the exchange: what its order can have, and no more bytes
than that has.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.demo.training import document_order
from protocol.exchange import Address
from protocol.message_plan import training_plan
from protocol.training_request import parse_training_request
from tests.api.conftest import Coordinator, discard, serve, settings_in
from tests.api.test_statistics import asked

ROUNDS = 10  # of the request document's order
PLAN = training_plan(parse_training_request(document_order()), most_bytes=2**28)
LARGE = PLAN.kinds["gradient"].most_bytes


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """Order 1 is the request document's, order 2 of statistics; both have places."""
    home = tmp_path_factory.mktemp("home")
    with serve(settings_in(home, calls_per_second=1e6)) as coordinator:
        answer = coordinator.call("POST", "/model/train", json=document_order())
        assert answer.json()["data"]["order_id"] == 1
        assert asked(coordinator) == 2
        coordinator.give_places()
        yield coordinator


def put(
    coordinator: Coordinator, path: str, body: bytes = b"x", who: str = "agent-2"
) -> Any:
    return coordinator.call("PUT", f"/exchange/{path}", who, content=body)


NONE_SUCH = [
    ("a round of another order", "1/gradient/0/901/0/2/1"),
    ("the round behind the last", f"1/gradient/0/{ROUNDS + 1}/0/2/1"),
    ("a fold without cross-validation", "1/gradient/1/0/0/2/1"),
    ("a second attempt", "1/gradient/0/0/1/2/1"),
    ("a kind of another order", "1/addend/0/0/0/2/1"),
    ("an answer of another order", "1/predictions/0/0/0/2/1"),
    ("a round of what has none", "1/acceptance/0/1/0/2/0"),
    ("the initiator's word of another", "1/opening-gradient/0/0/0/2/0"),
    ("a recipient who is nobody", "1/gradient/0/0/0/2/77"),
    ("a sum for one hospital", "1/gradient/0/0/0/2/3"),
    ("training in a question", "2/gradient/0/0/0/2/1"),
    ("a round behind the last of a search", "2/addend/0/99/0/2/1"),
]


@pytest.mark.parametrize(("what", "path"), NONE_SUCH, ids=[c[0] for c in NONE_SUCH])
def test_what_an_order_cannot_have_is_refused(
    running: Coordinator, what: str, path: str
) -> None:
    answer = put(running, path)
    assert answer.status_code == 403, what
    error = answer.json()["data"]["error"]
    assert error["code"] == "no_such_message"
    assert error["remedy"]


@pytest.mark.parametrize("round_", [0, ROUNDS])
def test_every_round_of_the_order_is_taken(running: Coordinator, round_: int) -> None:
    """The last one has the final metrics."""
    assert (
        put(running, f"1/gradient/0/{round_}/0/3/1", who="agent-3").status_code == 201
    )


def test_a_message_is_no_larger_than_its_model_needs(running: Coordinator) -> None:
    path = "1/gradient/0/1/0/2/1"
    answer = put(running, path, b"x" * (LARGE + 1))
    assert answer.status_code == 413
    error = answer.json()["data"]["error"]
    assert error["code"] == "message_size"
    assert str(LARGE) in error["sentence"]
    assert put(running, path, b"x" * LARGE).status_code == 201
    assert put(running, path, b"x" * LARGE).status_code == 200


def size_of(home: Path) -> int:
    return sum(file.stat().st_size for file in (home / "coordinator").glob("store*"))


def flood(coordinator: Coordinator) -> list[int]:
    """All that an agent finds to put, each as large as it may be; the statuses."""
    statuses = []
    for topic, room in PLAN.kinds.items():
        for round_ in range(min(room.last_round, 200) + 1):
            path = f"1/{topic}/0/{round_}/0/2/1"
            answer = put(coordinator, path, b"x" * room.most_bytes)
            statuses.append(answer.status_code)
            assert answer.status_code < 500, answer.text
            if statuses[-20:] == [413] * 20:
                return statuses
    return statuses


def test_a_flood_ends_and_is_freed_with_its_order(tmp_path: Path) -> None:
    """One agent filled 240 MiB in 2.4 seconds before there were budgets."""
    with serve(settings_in(tmp_path, calls_per_second=1e6)) as coordinator:
        coordinator.call("POST", "/model/train", json=document_order())
        coordinator.give_places()
        before = size_of(tmp_path)
        statuses = flood(coordinator)
        assert 413 in statuses
        held = coordinator.store.messages.held(1)[2]
        assert PLAN.held_bytes - LARGE < held <= PLAN.held_bytes
        assert held < 2**25
        assert size_of(tmp_path) > before + held
        # What the coordinator has used makes room.
        assert discard(coordinator, Address(1, "gradient")).status_code == 204
        assert put(coordinator, "1/gradient/0/10/0/2/1").status_code in (200, 201, 409)
        # Others have their own.
        assert put(coordinator, "1/gradient/0/0/0/3/1", who="agent-3").is_success

        assert coordinator.call("POST", "/orders/1/cancel").status_code == 200
        # SQLite keeps a few free pages.
        assert size_of(tmp_path) < before + 2**22 + 2**20


def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, calls_per_second=1e6)
    with serve(settings) as coordinator:
        coordinator.call("POST", "/model/train", json=document_order())
        coordinator.give_places()
        flood(coordinator)
        tokens = coordinator.tokens
    with serve(settings, tokens) as coordinator:
        answer = put(coordinator, "1/opened/0/5000/0/2/0", b"x" * LARGE)
        assert answer.status_code == 413
        assert json.loads(answer.content)["data"]["error"]["code"] == "budget"


def test_an_earlier_store_shrinks_too(tmp_path: Path) -> None:
    """SQLite decides when it makes a file whether pages can be given back."""
    settings = settings_in(tmp_path, calls_per_second=1e6)
    file = tmp_path / "coordinator" / "store.sqlite"
    with serve(settings) as coordinator:
        tokens = coordinator.tokens
    with sqlite3.connect(file, isolation_level=None) as raw:
        raw.execute("PRAGMA journal_mode=DELETE")
        raw.execute("PRAGMA auto_vacuum=NONE")
        raw.execute("VACUUM")
        assert raw.execute("PRAGMA auto_vacuum").fetchone() == (0,)
    raw.close()
    with serve(settings, tokens):
        pass
    with sqlite3.connect(file) as raw:
        assert raw.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    raw.close()
