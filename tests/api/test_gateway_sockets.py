"""The gateway's sockets: which events of an agent become task runs at Prefect, and what
of a forged one does not.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from api.gateway.events import STEPS
from api.gateway.parts import MOST_BYTES
from tests.api.conftest import Behind

pytestmark = pytest.mark.slow

WORDS = "Patient 17 has 3 rows"


def opened(behind: Behind, hospital: int, path: str = "/events/in") -> ClientConnection:
    return connect(
        behind.url.replace("http://", "ws://") + path,
        subprotocols=[Subprotocol("prefect")],
        additional_headers={"Authorization": f"Bearer {behind.token(hospital)}"},
        proxy=None,
        max_size=None,
    )


def introduced(socket: ClientConnection) -> ClientConnection:
    socket.send('{"type": "auth", "token": null}')
    assert json.loads(socket.recv(timeout=30)) == {"type": "auth_success"}
    return socket


@pytest.fixture
def socket(behind: Behind) -> Iterator[ClientConnection]:
    """Hospital 2's."""
    with opened(behind, 2) as connection:
        yield introduced(connection)


def event(flow_run: str, task_id: str, /, **changes: Any) -> dict[str, Any]:
    """As Prefect's client makes it, of a task that has ended."""
    now = datetime.now(UTC)
    state = changes.pop("state", "COMPLETED")
    name = changes.pop("name", "local gradient, round 3")
    task = {
        "name": name,
        "task_key": "safely-5a0dbee1",
        "dynamic_key": str(uuid4()),
        "empirical_policy": {"max_retries": 0},
        "tags": [],
        "labels": {},
        "task_inputs": {"call": []},
        "run_count": 1,
        "flow_run_run_count": 1,
        "start_time": (now - timedelta(seconds=2)).isoformat(),
        "end_time": now.isoformat(),
        "total_run_time": 2.0,
        **changes.pop("task_run", {}),
    }
    validated = {
        "type": state,
        "name": state.capitalize(),
        "message": "",
        "state_details": {},
        "data": None,
        **changes.pop("validated_state", {}),
    }
    return {
        "id": str(uuid4()),
        "occurred": now.isoformat(),
        "event": f"prefect.task-run.{state.capitalize()}",
        "resource": {
            "prefect.resource.id": f"prefect.task-run.{task_id}",
            "prefect.resource.name": name,
            "prefect.state-message": "",
            "prefect.orchestration": "client",
        },
        "related": [
            {
                "prefect.resource.id": f"prefect.flow-run.{flow_run}",
                "prefect.resource.role": "flow-run",
                "prefect.resource.name": "order-1-hospital-2",
            },
            {
                "prefect.resource.id": "prefect.tag.order-1",
                "prefect.resource.role": "tag",
            },
        ],
        "payload": {
            "intended": {"from": "RUNNING", "to": state},
            "initial_state": None,
            "validated_state": validated,
            "task_run": task,
        },
        "follows": None,
        **changes,
    }


def recorded(behind: Behind, flow_run: str, n: int = 1) -> list[Any]:
    """Prefect writes task runs in batches, a second apart."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = behind.prefect.task_runs(flow_run)
        if len(found) >= n:
            return found
        time.sleep(0.2)
    raise AssertionError(f"{len(found)} task runs, not {n}")


def test_a_task_run_is_recorded_with_name_state_and_times(
    behind: Behind, socket: ClientConnection
) -> None:
    run = behind.prefect.make_run(2, 201)
    task_run = str(uuid4())
    for state in ("PENDING", "RUNNING", "COMPLETED"):
        name = "local gradient-3b3" if state == "PENDING" else "local gradient, round 3"
        socket.send(json.dumps(event(run["id"], task_run, state=state, name=name)))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        (found,) = recorded(behind, run["id"])
        if found["state_type"] == "COMPLETED":
            break
        time.sleep(0.2)
    assert found["name"] == "local gradient, round 3"
    assert found["state_type"] == "COMPLETED"
    assert 1.9 < found["total_run_time"] < 2.1
    assert found["start_time"]


def test_a_step_that_has_not_begun_is_none_of_prefects_business(
    behind: Behind, socket: ClientConnection
) -> None:
    run = behind.prefect.make_run(2, 204)
    socket.send(json.dumps(event(run["id"], str(uuid4()), state="PENDING")))
    # Comes behind it, so that it is recorded behind it.
    socket.send(json.dumps(event(run["id"], str(uuid4()), state="COMPLETED")))
    (found,) = recorded(behind, run["id"])
    assert found["state_type"] == "COMPLETED"


def test_every_step_of_a_hospital_has_its_name_there(
    behind: Behind, socket: ClientConnection
) -> None:
    run = behind.prefect.make_run(2, 202)
    for step in STEPS:
        name = f"{step}, round 12 of fold 2"
        socket.send(json.dumps(event(run["id"], str(uuid4()), name=name)))
    found = recorded(behind, run["id"], len(STEPS))
    assert {task["name"] for task in found} == {
        f"{step}, round 12 of fold 2" for step in STEPS
    }


def test_a_forged_event_changes_no_other_hospitals_task_run(behind: Behind) -> None:
    """Whether it names that hospital's task run or its flow run, in the resource, in
    `related` or in the payload.
    """
    own = behind.prefect.make_run(2, 203)
    other = behind.prefect.make_run(3, 203)
    task_run = str(uuid4())
    with opened(behind, 3) as socket:
        introduced(socket).send(json.dumps(event(other["id"], task_run)))
        (before,) = recorded(behind, other["id"])
        # The run is written before its state.
        deadline = time.monotonic() + 60
        while before["state"] is None and time.monotonic() < deadline:
            time.sleep(0.2)
            (before,) = recorded(behind, other["id"])

    real = {"id": before["id"], "flow_run_id": other["id"], "name": "results"}
    natural = {key: before[key] for key in ("task_key", "dynamic_key")}
    forged = [
        # Another hospital's flow run as one's own.
        event(other["id"], task_run, state="FAILED"),
        event(other["id"], before["id"], state="FAILED"),
        # Its task run below one's own flow run.
        event(own["id"], task_run, state="FAILED"),
        event(own["id"], before["id"], state="FAILED"),
        # In the payload, which Prefect would take before the resources.
        event(own["id"], str(uuid4()), state="FAILED", task_run=real),
        event(own["id"], str(uuid4()), state="FAILED", task_run={**real, **natural}),
        event(own["id"], str(uuid4()), state="FAILED", task_run=natural),
    ]
    # The event's id becomes its state's id.
    forged.append({**event(own["id"], str(uuid4())), "id": before["state_id"]})
    with opened(behind, 2) as socket:
        introduced(socket)
        for one in forged:
            socket.send(json.dumps(one))
        own_runs = recorded(behind, own["id"], 6)
    (after,) = behind.prefect.task_runs(other["id"])
    assert after == before
    assert before["id"] not in {run["id"] for run in own_runs}
    assert before["state_id"] not in {run["state_id"] for run in own_runs}


def test_no_words_of_an_agent_reach_prefect(
    behind: Behind, socket: ClientConnection
) -> None:
    run = behind.prefect.make_run(2, 214)
    sent = event(
        run["id"],
        str(uuid4()),
        task_run={"tags": [WORDS], "labels": {"a": WORDS}, "task_inputs": {WORDS: []}},
        validated_state={"message": WORDS, "name": WORDS, "data": WORDS},
    )
    sent["resource"]["prefect.state-message"] = WORDS
    sent["related"][0]["prefect.resource.name"] = WORDS
    sent["related"].append(
        {"prefect.resource.id": f"prefect.tag.{WORDS}", "prefect.resource.role": "tag"}
    )
    socket.send(json.dumps(sent))
    (task_run,) = recorded(behind, run["id"])
    assert WORDS not in str(task_run)
    assert task_run["state_name"] == "Completed"
    database = behind.prefect.home.glob("prefect.db*")
    assert not any(WORDS.encode() in path.read_bytes() for path in database)


def test_events_of_other_kinds_stay_here(
    behind: Behind, socket: ClientConnection
) -> None:
    run = behind.prefect.make_run(2, 205)
    for kind in ("prefect.flow-run.Cancelled", "prefect.automation.triggered", WORDS):
        socket.send(json.dumps({**event(run["id"], str(uuid4())), "event": kind}))
    socket.send(json.dumps(event(run["id"], str(uuid4()))))
    assert len(recorded(behind, run["id"])) == 1


@pytest.mark.parametrize("path", ["/events/in", "/events/out"])
@pytest.mark.parametrize("token", ["", "Bearer wrong", "Basic Y29uc2lsaXVtOng="])
def test_an_upgrade_without_a_token_is_refused(
    behind: Behind, path: str, token: str
) -> None:
    headers = {"Authorization": token} if token else {}
    url = behind.url.replace("http://", "ws://") + path
    with (
        pytest.raises(InvalidStatus) as caught,
        connect(
            url,
            subprotocols=[Subprotocol("prefect")],
            additional_headers=headers,
            proxy=None,
        ),
    ):
        pass
    assert caught.value.response.status_code in (401, 403)
    assert b"sentence" in caught.value.response.body


@pytest.mark.parametrize(
    "path", ["/events", "/logs/out", "/events/in/", "/events%2Fin", "/Events/in"]
)
def test_there_are_no_other_sockets(behind: Behind, path: str) -> None:
    with pytest.raises(InvalidStatus) as caught, opened(behind, 2, path):
        pass
    assert 400 <= caught.value.response.status_code < 500


def doubled() -> str:
    whole = json.dumps(event(str(uuid4()), str(uuid4())))
    return whole[:-1] + ', "event": "prefect.task-run.Failed"}'


UNREADABLE = {
    "10 MB": "x" * 10_000_000,
    "a little too long": json.dumps({"a": "x" * MOST_BYTES}),
    "no JSON": "no JSON",
    "bytes": b'{"a": 1}',
    "a list": "[]",
    "deep": "[" * 30_000,
    "NaN": '{"id": NaN}',
    "a name twice": doubled(),
    "a name that no step has": json.dumps(
        event(str(uuid4()), str(uuid4()), name=WORDS)
    ),
    "no id": json.dumps({**event(str(uuid4()), str(uuid4())), "id": "1"}),
    "no state": json.dumps(event(str(uuid4()), str(uuid4()), state="PAUSED")),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_ends_the_socket(behind: Behind, name: str) -> None:
    message = UNREADABLE[name]
    if name == "a name that no step has":
        own = behind.prefect.make_run(2, 206)["id"]
        message = json.dumps(event(own, str(uuid4()), name=WORDS))
    with opened(behind, 2) as socket:
        introduced(socket)
        with contextlib.suppress(ConnectionClosed):  # while it is still being sent
            socket.send(message)
        with pytest.raises(ConnectionClosed) as caught:
            socket.recv(timeout=60)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code in (1008, 1009)
    with opened(behind, 2) as socket:  # and nothing else
        introduced(socket)


def test_the_way_out_tells_an_agent_nothing(behind: Behind) -> None:
    everything = {"type": "filter", "filter": {"event": {"prefix": ["prefect."]}}}
    with opened(behind, 2, "/events/out") as socket:
        introduced(socket).send(json.dumps(everything))
        behind.prefect.make_run(3, 207)
        with pytest.raises(TimeoutError):
            socket.recv(timeout=2)
