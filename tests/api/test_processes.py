"""Three processes of the API on one PostgreSQL, as three applications: what one of them
has in its memory, asked for at another one.

tests/faults/test_processes_of_the_api.py kills real ones.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import sqlalchemy as sa

from deployments.demo.training import document_order
from protocol.exchange import Address
from protocol.message_plan import training_plan
from protocol.training_request import parse_training_request
from tests.api.conftest import Coordinator, discard, serve, settings_in
from tests.api.own_database import SERVER, own_databases
from tests.api.test_statistics import asked, put_values, result, succeed
from tests.api.test_tokens import INFER, answer_as_agent

N_PROCESSES = 3
PLAN = training_plan(parse_training_request(document_order()), most_bytes=2**28)
LARGE = PLAN.kinds["gradient"].most_bytes
SEALED_TOPIC = "predictions"
PREDICTIONS = [{"id": "0", "label": 0.9713524687}]


@pytest.fixture(scope="module")
def processes(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[list[Coordinator]]:
    home = tmp_path_factory.mktemp("home")
    with ExitStack() as stack:
        (name,) = stack.enter_context(own_databases("processes"))
        settings = settings_in(
            home,
            store_url=f"postgresql+psycopg://{SERVER}/{name}",
            calls_per_second=1e6,
            api_processes=N_PROCESSES,
        )
        running = [stack.enter_context(serve(settings))]
        while len(running) < N_PROCESSES:
            running.append(stack.enter_context(serve(settings, running[0].tokens)))
        yield running


# One-time keys


@pytest.fixture(scope="module")
def model(processes: list[Coordinator]) -> int:
    first = processes[0]
    answer = first.call("POST", "/model/train", json=document_order()).json()
    order_id = int(answer["data"]["order_id"])
    first.store.orders.end(order_id, "success")
    return order_id


def infer(process: Coordinator, model: int) -> int:
    """The number of an inference whose one-time key this process has."""
    answer = process.call("POST", "/model/infer", json={**INFER, "model_id": model})
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"]["infer_status"] == "pending"
    return int(answer.json()["data"]["order_id"])


def status(process: Coordinator, order_id: int) -> dict[str, Any]:
    answer = process.call("GET", f"/model/infer_status?order_id={order_id}")
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()["data"]
    return told


def everything_in(process: Coordinator) -> str:
    """Every row of every table, bytes in hex."""
    texts = []
    with process.store.begin() as connection:
        for table in sa.inspect(connection).get_table_names():
            for row in connection.execute(sa.text(f'SELECT * FROM "{table}"')):
                texts += [
                    value.hex() if isinstance(value, bytes) else str(value)
                    for value in row
                ]
    return "\n".join(texts)


def attempts(processes: list[Coordinator], order_id: int) -> list[int]:
    """Of the hospital's runs, whichever process has started them."""
    started = [run for process in processes for run in process.runs.started]
    return sorted(run[-1] for run in started if run[1] == order_id)


def test_predictions_asked_for_at_another_process_are_sealed_to_its_own_key(
    processes: list[Coordinator], model: int
) -> None:
    one, other, third = processes
    order_id = infer(one, model)
    # Before the hospital has answered nobody asks it twice.
    assert status(other, order_id)["result"] is None
    assert attempts(processes, order_id) == [0]
    answer_as_agent(third, order_id, PREDICTIONS)
    assert status(one, order_id)["result"] == PREDICTIONS

    waiting = status(other, order_id)
    assert (waiting["infer_status"], waiting["result"]) == ("pending", None)
    assert attempts(processes, order_id) == [0, 1]
    # Asked again it waits for that answer.
    assert status(other, order_id)["result"] is None
    assert attempts(processes, order_id) == [0, 1]
    answer_as_agent(third, order_id, PREDICTIONS)
    assert status(other, order_id)["result"] == PREDICTIONS
    # The first one's key still opens what was sealed to it.
    assert status(one, order_id)["result"] == PREDICTIONS
    assert attempts(processes, order_id) == [0, 1]


def test_an_answer_shown_by_one_process_ends_no_question_of_another(
    processes: list[Coordinator], model: int
) -> None:
    """The hospital's second answer was refused as of an order that has ended, and who
    had asked for it waited for ever.
    """
    one, other, _ = processes
    order_id = infer(one, model)
    answer_as_agent(one, order_id, PREDICTIONS)
    assert status(other, order_id)["result"] is None
    assert status(one, order_id)["result"] == PREDICTIONS
    assert one.store.orders.get(order_id).state == "pending"
    answer_as_agent(one, order_id, PREDICTIONS)
    assert one.store.orders.get(order_id).state == "success"
    assert status(other, order_id)["result"] == PREDICTIONS


def test_of_two_that_ask_at_once_one_has_the_hospital_asked(
    processes: list[Coordinator], model: int
) -> None:
    one, *others = processes
    order_id = infer(one, model)
    answer_as_agent(one, order_id, PREDICTIONS)
    together = threading.Barrier(len(others))

    def ask(process: Coordinator) -> dict[str, Any]:
        together.wait()
        return status(process, order_id)

    with ThreadPoolExecutor(len(others)) as pool:
        told = [*pool.map(ask, others)]
    assert [answer["result"] for answer in told] == [None, None]
    assert attempts(processes, order_id) == [0, 1]
    # Whoever asked in vain is answered in its turn, and the other one keeps its own.
    for attempt in (1, 2):
        answer_as_agent(one, order_id, PREDICTIONS)
        results = [status(process, order_id)["result"] for process in others]
        assert results.count(PREDICTIONS) == attempt
    assert attempts(processes, order_id) == [0, 1, 2]


def test_no_key_and_no_prediction_is_in_the_database_that_all_share(
    processes: list[Coordinator], model: int
) -> None:
    one, other, _ = processes
    order_id = infer(one, model)
    answer_as_agent(one, order_id, PREDICTIONS)
    status(other, order_id)
    keys = [process.app.state.reply_keys[order_id][0] for process in (one, other)]
    assert keys[0] != keys[1]
    dumped = everything_in(one)
    assert SEALED_TOPIC in dumped
    for secret in (*(key.hex() for key in keys), "0.9713524687"):
        assert secret not in dumped


@pytest.mark.parametrize("who", ["user-2", "operator", "agent-4"])
def test_another_process_tells_nobody_else(
    processes: list[Coordinator], model: int, who: str
) -> None:
    one, other, _ = processes
    order_id = infer(one, model)
    answer_as_agent(one, order_id, PREDICTIONS)
    path = f"/model/infer_status?order_id={order_id}"
    assert other.call("GET", path, who).status_code == 403
    assert attempts(processes, order_id) == [0]


def test_disclosed_values_are_shown_by_the_process_that_has_their_key(
    processes: list[Coordinator],
) -> None:
    """Elsewhere the answer says where they are, as after a restart."""
    one, other, third = processes
    order_id = asked(one, disclose=True)
    put_values(third, order_id, b'[{"total": 713.25}]')
    succeed(other, order_id)
    told = result(other, order_id).json()
    assert told["status"] == 200
    assert "values" not in told["result"]
    assert f"{order_id}/total.csv" in json.loads(told["result"]["extra"])["notes"][-1]
    assert result(one, order_id).json()["result"]["values"] == [{"total": 713.25}]


# Budgets of the exchange


@pytest.fixture
def order(processes: list[Coordinator]) -> Iterator[int]:
    """One that has its places; ended behind the test."""
    first = processes[0]
    body = document_order()
    answer = first.call("POST", "/model/train", json=body).json()
    order_id = int(answer["data"]["order_id"])
    first.give_places()
    yield order_id
    first.store.orders.end(order_id, "cancelled")


def paths(order_id: int, *, who: int = 2) -> Iterator[tuple[str, int]]:
    """All that an agent finds to put, each as large as it may be."""
    for topic, room in PLAN.kinds.items():
        for round_ in range(min(room.last_round, 200) + 1):
            path = f"/exchange/{order_id}/{topic}/0/{round_}/0/{who}/1"
            yield path, room.most_bytes


def put(process: Coordinator, path: str, size: int, who: str = "agent-2") -> int:
    answer = process.call("PUT", path, who, content=b"x" * size)
    assert answer.status_code < 500, answer.text
    return int(answer.status_code)


def held(process: Coordinator, order_id: int, sender: int = 2) -> int:
    return process.store.messages.held(order_id).get(sender, 0)


def test_a_flood_through_each_process_in_turn_has_one_room(
    processes: list[Coordinator], order: int
) -> None:
    """Whatever is full at one is full at all."""
    statuses = []
    for n, (path, size) in enumerate(paths(order)):
        statuses.append(put(processes[n % N_PROCESSES], path, size))
        if statuses[-20:] == [413] * 20:
            break
    assert 201 in statuses
    assert 413 in statuses
    assert PLAN.held_bytes - LARGE < held(processes[0], order) <= PLAN.held_bytes
    path = f"/exchange/{order}/opened/0/5000/0/2/0"
    for process in processes:
        assert put(process, path, LARGE) == 413
    # Others have their own room, at any of them.
    for round_, process in enumerate(processes):
        path = f"/exchange/{order}/gradient/0/{round_}/0/3/1"
        assert put(process, path, LARGE, "agent-3") == 201


def test_a_flood_through_all_processes_at_once_has_one_room(
    processes: list[Coordinator], order: int
) -> None:
    """Each of many calls looks before the others have stored: what counts is what
    stands there when one is stored.
    """
    many = 4 * N_PROCESSES
    all_paths = [*paths(order)]

    def flood(number: int) -> set[int]:
        mine = all_paths[number::many]
        process = processes[number % N_PROCESSES]
        return {put(process, path, size) for path, size in mine}

    with ThreadPoolExecutor(many) as pool:
        statuses = set().union(*pool.map(flood, range(many)))
    assert {201, 413} <= statuses
    assert held(processes[0], order) <= PLAN.held_bytes


def test_what_one_process_has_freed_is_room_at_the_others(
    processes: list[Coordinator], order: int
) -> None:
    one, other, third = processes
    for path, size in paths(order):
        if put(one, path, size) == 413:
            break
    before = held(one, order)
    assert discard(third, Address(order, "gradient")).status_code == 204
    assert held(one, order) < before
    path = f"/exchange/{order}/gradient/0/10/0/2/1"
    assert put(other, path, LARGE) in (200, 201, 409)
