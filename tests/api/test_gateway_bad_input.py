"""Whatever is sent to the gateway: a 4xx in our form, and nothing of it reaches Prefect.

Sent byte by byte, since a client would put most of it right.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any
from uuid import uuid4

import httpx
import pytest

from api.gateway.parts import MOST_BYTES
from tests.api.conftest import Behind, serve, settings_in

pytestmark = pytest.mark.slow

RUN = "/flow_runs/{run}"
FILTER = "/flow_runs/filter"


def say(behind: Behind, request: bytes) -> tuple[int, bytes]:
    """The status and body of the answer to these bytes."""
    url = httpx.URL(behind.url)
    with socket.create_connection((url.host, url.port or 80), timeout=60) as connection:
        connection.sendall(request)
        answer = HTTPResponse(connection)
        answer.begin()
        return answer.status, answer.read()


def request(
    behind: Behind,
    method: str,
    path: str,
    body: bytes = b"",
    *headers: str,
    with_length: bool = True,
) -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: Bearer {behind.token(2)}",
        *headers,
        "Connection: close",
    ]
    if with_length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.fixture
def nothing_passes(behind: Behind) -> Iterator[None]:
    n_before = len(behind.passed_on)
    yield
    assert behind.passed_on[n_before:] == []


def test_of_what_a_worker_sends_only_what_was_read_passes(behind: Behind) -> None:
    """That the other tests look in the right place, too."""
    n_before = len(behind.passed_on)
    sent = {
        "flow_runs": {
            "state": {"type": {"any_": ["RUNNING"]}, "name": {"any_": ["x"]}}
        },
        "work_pools": {"name": {"any_": ["hospital-3"]}},
        "sort": "ID_DESC",
        "offset": 0,
    }
    claimed = {"X-Forwarded-For": "10.0.0.1", "Cookie": "a=b", "X-Own": "hospital-3"}
    answer = behind.ask("POST", FILTER, json=sent, headers=claimed)
    assert answer.status_code == 200
    (passed,) = behind.passed_on[n_before:]
    assert str(passed.url) == f"{behind.prefect.url}{FILTER}"
    assert json.loads(passed.content) == {
        "flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}},
        "work_pools": {"name": {"any_": ["hospital-2"]}},
        "limit": 200,
        "offset": 0,
    }
    assert not {"x-forwarded-for", "cookie", "x-own"} & set(passed.headers)
    assert behind.token(2) not in str(passed.headers.raw)


PATHS = [
    "/prefect/api/work_pools%2Fhospital-2",
    "/prefect%2Fapi/work_pools/hospital-2",
    "/prefect/api/work_pools/hospital%2D2",
    "/prefect/api/work_pools/..;/work_pools/hospital-2",
    "/prefect/api/work_pools/hospital-2/..;/hospital-3",
    "/prefect/api/work_pools/hospital-2/../hospital-3",
    "/prefect/api/work_pools/hospital-2/%2e%2e/hospital-3",
    "/prefect/api//work_pools/hospital-2",
    "//prefect/api/work_pools/hospital-2",
    "/prefect/api/work_pools/hospital-2/",
    "/prefect/api/work_pools/hospital-2//",
    "/prefect/api/work_pools/hospital-2;a=b",
    "/prefect/api/work_pools/hospital-2%00",
    "/prefect/api/work_pools/hospital-2%0d%0aX:y",
    "/prefect/api/work_pools/Hospital-2",
    "/prefect/api/Work_Pools/hospital-2",
    "/PREFECT/API/work_pools/hospital-2",
    "/prefect/apis/work_pools/hospital-2",
    "/prefect/api",
    "/prefect/api/",
    "/prefect",
    "/prefect/../prefect/api/work_pools/hospital-2",
    "/prefect/api/work_pools/hospital-2?name=hospital-3",
    "/prefect/api/work_pools/hospital-2?id=1&id=2",
    "/prefect/api/work_pools/hospital-02",
    "/prefect/api/work_pools/hospital-2\\..\\hospital-3",
    "/prefect/api/work_pools/hospital-\u0662",
    "/prefect/api/flow_runs/11111111111141118111111111111111",
    "/prefect/api/flow_runs/{11111111-1111-4111-8111-111111111111}",
    "/prefect/api/" + "a" * 5000,
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.usefixtures("nothing_passes")
def test_a_path_that_two_readers_could_take_in_two_ways(
    behind: Behind, path: str
) -> None:
    # As a hostile sender writes it: the bytes of UTF-8, not escaped.
    line = request(behind, "GET", "PATH").replace(b"PATH", path.encode())
    status, _ = say(behind, line)
    assert 400 <= status < 500


@pytest.mark.usefixtures("nothing_passes")
def test_a_second_host(behind: Behind) -> None:
    line = request(
        behind, "GET", "/prefect/api/work_pools/hospital-2", b"", "Host: prefect"
    )
    status, _ = say(behind, line)
    assert 400 <= status < 500


WRONG_BODIES: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"work_pools",
    "cut": b'{"limit": 1',
    "bytes": b"\xff\xfe",
    "a list": b"[]",
    "a number": b"7",
    "a name twice": b'{"limit": 1, "limit": 2}',
    "a name twice below": b'{"flow_runs": {"id": {"any_": []}, "id": {"any_": []}}}',
    "NaN": b'{"limit": NaN}',
    "deep": b"[" * 60_000,
    "many digits": b'{"limit": ' + b"9" * 5000 + b"}",
    "an unknown field": b'{"pools": ["hospital-3"]}',
    "another filter": b'{"deployments": {"name": {"any_": ["hospital-3"]}}}',
    "a flow filter": b'{"flows": {"name": {"like_": "a"}}}',
    "a tag": b'{"flow_runs": {"tags": {"all_": ["order-1"]}}}',
    "a parent": b'{"flow_runs": {"parent_flow_run_id": {"any_": []}}}',
    "an id that is none": b'{"flow_runs": {"id": {"any_": ["1"]}}}',
    "a state that is none": b'{"flow_runs": {"state": {"type": {"any_": ["X"]}}}}',
    "too many": b'{"limit": 100000}',
    "less than none": b'{"offset": -1}',
    "true": b'{"limit": "many"}',
    "NUL": b'{"\x00": 1}',
    "a lone surrogate": b'{"\\ud800": 1}',
    "too long": b'{"a": "' + b"x" * MOST_BYTES + b'"}',
}


@pytest.mark.parametrize("name", WRONG_BODIES)
@pytest.mark.usefixtures("nothing_passes")
def test_a_body_that_no_worker_sends(behind: Behind, name: str) -> None:
    body = WRONG_BODIES[name]
    status, told = say(behind, request(behind, "POST", f"/prefect/api{FILTER}", body))
    assert 400 <= status < 500
    assert json.loads(told)["data"]["error"]["sentence"]


@pytest.mark.parametrize("n_bytes", [MOST_BYTES + 1, 2**22])
@pytest.mark.usefixtures("nothing_passes")
def test_a_body_in_chunks_is_limited_too(behind: Behind, n_bytes: int) -> None:
    chunk = b"x" * 1000
    body = b"".join([b"3e8\r\n" + chunk + b"\r\n"] * (n_bytes // 1000 + 1))
    head = request(
        behind,
        "POST",
        f"/prefect/api{FILTER}",
        b"",
        "Transfer-Encoding: chunked",
        with_length=False,
    )
    url = httpx.URL(behind.url)
    with socket.create_connection((url.host, url.port or 80), timeout=60) as connection:

        def send() -> None:
            with contextlib.suppress(OSError):  # the other side has seen enough
                connection.sendall(head + body + b"0\r\n\r\n")

        sending = threading.Thread(target=send)
        sending.start()
        answer = HTTPResponse(connection)
        answer.begin()
        assert answer.status == 413
        answer.read()
    sending.join()


@pytest.mark.usefixtures("nothing_passes")
def test_a_body_whose_length_is_said_twice(behind: Behind) -> None:
    headers = ("Transfer-Encoding: chunked",)
    line = request(behind, "POST", f"/prefect/api{FILTER}", b"0\r\n\r\n", *headers)
    status, _ = say(behind, line)
    assert 400 <= status < 500


def test_another_hospitals_ids_in_path_query_and_body_at_once(behind: Behind) -> None:
    own, other = behind.prefect.make_run(2, 301), behind.prefect.make_run(3, 301)
    n_before = len(behind.passed_on)
    state: dict[str, Any] = {"type": "CANCELLED", "name": "Cancelled"}
    for path, body in (
        (f"/flow_runs/{own['id']}?id={other['id']}", None),
        (
            f"/flow_runs/{own['id']}/set_state",
            {"state": state, "force": True, "flow_run_id": other["id"]},
        ),
        (
            f"/flow_runs/{own['id']}/set_state",
            {"state": {**state, "flow_run_id": other["id"]}, "force": True},
        ),
        (
            f"/flow_runs/{own['id']}/set_state?flow_run_id={other['id']}",
            {"state": state, "force": True},
        ),
    ):
        method = "GET" if body is None else "POST"
        assert behind.ask(method, path, json=body).status_code == 422
    assert behind.passed_on[n_before:] == []
    for run in (own, other):
        assert behind.prefect.run(run["id"])["state"]["type"] == "SCHEDULED"


@pytest.mark.parametrize(
    "state",
    [
        {"type": "PAUSED", "name": "Suspended"},
        {"type": "CANCELLING", "name": "Cancelling"},
        {"type": "X", "name": "X"},
        {"name": "Running"},
        {"type": ["FAILED"], "name": "Failed"},
        {"type": "FAILED", "name": "Failed", "state_details": {"transition_id": "1"}},
        "FAILED",
        None,
    ],
)
@pytest.mark.usefixtures("nothing_passes")
def test_a_state_that_no_worker_sets(behind: Behind, state: Any) -> None:
    path = f"/flow_runs/{uuid4()}/set_state"
    answer = behind.ask("POST", path, json={"state": state, "force": True})
    assert answer.status_code == 422


def test_a_prefect_that_is_away_is_tried_again(behind: Behind, tmp_path: Any) -> None:
    """503 without Retry-After, after which Prefect's client waits for a minute in all."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nowhere = f"http://127.0.0.1:{taken.getsockname()[1]}/api"
    with serve(settings_in(tmp_path, prefect_url=nowhere)) as running:
        for method, path in (
            ("GET", "/work_pools/hospital-2"),
            ("GET", f"/flow_runs/{uuid4()}"),
            ("GET", f"/flows/{uuid4()}"),
        ):
            answer = running.call(method, f"/prefect/api{path}", "agent-2")
            assert answer.status_code == 503
            assert "Retry-After" not in answer.headers
            assert "Prefect does not answer" in answer.json()["message"]
        for path in ("/admin/version", "/admin/storage"):
            answer = running.call("GET", f"/prefect/api{path}", "agent-2")
            assert answer.status_code == 200
