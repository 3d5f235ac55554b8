"""What the API does before anything of it is at work: whoever has no token, sends
slowly or keeps many calls open is answered at once, and holds nothing.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from api import connections, door
from api.store.hospitals import Caller, HospitalStore
from api.store.rounds import RoundStore
from api.store.rows import RoundRow
from deployments.demo.training import document_order
from protocol.errors import Unavailable
from tests.api.conftest import Coordinator, serve, settings_in

AT_ONCE = 5
ANSWERED_SECONDS = 10.0
"""Far below the time that is allowed to a body, and above any that a busy machine
takes."""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """A coordinator with an order, that lets a token have five calls open."""
    home = tmp_path_factory.mktemp("home")
    with serve(settings_in(home, calls_at_once=AT_ONCE)) as running:
        answer = running.call("POST", "/model/train", json=document_order())
        assert answer.json()["data"]["order_id"] == 1
        yield running


class Raw:
    """One connection, byte by byte."""

    def __init__(self, coordinator: Coordinator) -> None:
        url = urlsplit(str(coordinator.client.base_url))
        self.socket = socket.create_connection((url.hostname, url.port), timeout=60)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def head(self, request: str, *headers: str) -> None:
        lines = [f"{request} HTTP/1.1", "Host: coordinator", *headers, "", ""]
        self.send("\r\n".join(lines).encode())

    def status(self) -> int:
        """Of the answer; 0 where the connection is closed without one."""
        line = self.socket.recv(65_536).split(b"\r\n")[0].split(b" ")
        return int(line[1]) if len(line) > 1 else 0

    def hear(self, words: bytes) -> None:
        """Reads until the other side has said that."""
        heard = b""
        while words not in heard:
            heard += self.socket.recv(65_536)

    def is_closed(self) -> bool:
        """Waits for the other side to close."""
        with contextlib.suppress(ConnectionError):
            while self.socket.recv(65_536):
                pass
        return True


@pytest.fixture
def connect(guarded: Coordinator) -> Iterator[Callable[[], Raw]]:
    opened: list[Raw] = []

    def connect() -> Raw:
        opened.append(Raw(guarded))
        return opened[-1]

    yield connect
    for raw in opened:
        raw.socket.close()


def bearer(coordinator: Coordinator, who: str) -> str:
    return f"Authorization: Bearer {coordinator.tokens[who]}"


BODIES_TO_COME = [
    "POST /model/train",
    "POST /model/infer",
    "POST /model/evaluate",
    "POST /orders/1/refuse",
    "PUT /exchange/1/order/0/0/0/4/0",
    "POST /statistics/schedules",
    "POST /runModelTrainTask",
    "POST /nowhere",
]


@pytest.mark.parametrize("request_line", BODIES_TO_COME)
@pytest.mark.parametrize("header", [[], ["Authorization: Bearer wrong"]])
def test_a_token_is_looked_at_before_the_body_is_there(
    connect: Callable[[], Raw], request_line: str, header: list[str]
) -> None:
    raw = connect()
    began = time.monotonic()
    raw.head(request_line, "Content-Length: 1000000", *header)
    assert raw.status() == (403 if header else 401)
    assert time.monotonic() - began < ANSWERED_SECONDS


def test_a_connection_that_is_refused_does_not_stay(
    monkeypatch: pytest.MonkeyPatch, connect: Callable[[], Raw]
) -> None:
    """Its body is not waited for either, however slowly it comes."""
    monkeypatch.setattr(connections, "LINGER_SECONDS", 0.2)
    raw = connect()
    raw.head("POST /model/train", "Content-Length: 1000000")
    assert raw.status() == 401
    raw.send(b"x")
    assert raw.is_closed()


def test_a_refusal_is_heard_by_who_is_still_sending(guarded: Coordinator) -> None:
    """A closed connection would be all that it hears."""
    answer = guarded.call("POST", "/model/train", "wrong", content=b"x" * 2**22)
    assert answer.status_code == 403


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: a\r\n"])
def test_a_silent_connection_is_closed(
    monkeypatch: pytest.MonkeyPatch, connect: Callable[[], Raw], sent: bytes
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    raw = connect()
    raw.send(sent)
    assert raw.is_closed()


def test_a_second_request_has_as_little_time(
    monkeypatch: pytest.MonkeyPatch, connect: Callable[[], Raw]
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    raw = connect()
    raw.head("GET /nowhere")
    assert raw.status() == 401
    raw.send(b"GET /nowhere HTTP/1.1\r\n")
    assert raw.is_closed()


def test_headers_end_somewhere(connect: Callable[[], Raw]) -> None:
    raw = connect()
    with contextlib.suppress(ConnectionError):
        raw.send(b"GET /health HTTP/1.1\r\nHost: a\r\n")
        for number in range(2_000):
            raw.send(b"X-%d: " % number + b"y" * 1000 + b"\r\n")
    with contextlib.suppress(ConnectionError):
        assert raw.status() in (0, 431)


def test_a_slow_body_ends(
    monkeypatch: pytest.MonkeyPatch, guarded: Coordinator, connect: Callable[[], Raw]
) -> None:
    """A token is no leave to hold the coordinator with a byte now and then."""
    monkeypatch.setattr(door, "BODY_SECONDS", 0.3)
    raw = connect()
    raw.head("POST /model/train", "Content-Length: 1000", bearer(guarded, "user-4"))
    raw.send(b"{")
    assert raw.status() == 408


def test_a_body_that_comes_steadily_has_its_time(
    monkeypatch: pytest.MonkeyPatch, guarded: Coordinator, connect: Callable[[], Raw]
) -> None:
    """A large message over a slow line takes longer than a small one."""
    monkeypatch.setattr(door, "BODY_SECONDS", 0.6)
    monkeypatch.setattr(door, "LEAST_BYTES_PER_SECOND", 1_000)
    raw = connect()
    body = json.dumps(document_order()).encode() + b" " * 2_000
    raw.head(
        "POST /model/train",
        f"Content-Length: {len(body)}",
        "Content-Type: application/json",
        bearer(guarded, "user-4"),
    )
    for start in range(0, len(body), 500):
        raw.send(body[start : start + 500])
        time.sleep(0.2)  # a line of 2500 bytes a second
    assert raw.status() == 200


def streams(
    coordinator: Coordinator, connect: Callable[[], Raw], who: str
) -> list[Raw]:
    """As many as a token may have, open."""
    opened = []
    for _ in range(AT_ONCE):
        raw = connect()
        raw.head("GET /orders/1/events", bearer(coordinator, who))
        assert raw.status() == 200
        opened.append(raw)
    return opened


def test_streams_of_a_token_are_counted(
    guarded: Coordinator, connect: Callable[[], Raw]
) -> None:
    opened = streams(guarded, connect, "user-4")
    answer = guarded.call("GET", "/orders", "user-4")
    assert answer.status_code == 429
    error = answer.json()["data"]["error"]
    assert error["code"] == "too_many_requests"
    assert str(AT_ONCE) in error["sentence"]
    # Nobody else waits for them.
    assert guarded.call("GET", "/orders", "operator").status_code == 200
    assert guarded.call("GET", "/orders/1", "user-2").status_code == 200
    # One that has ended makes room for another.
    opened[0].socket.close()
    wait_until(lambda: guarded.call("GET", "/orders", "user-4").status_code == 200)


def test_a_crowd_that_is_refused_does_not_reach_the_store(
    monkeypatch: pytest.MonkeyPatch, guarded: Coordinator, connect: Callable[[], Raw]
) -> None:
    """Else 500 refused calls a second keep all others from the store."""
    streams(guarded, connect, "user-4")
    asked = []
    ask = HospitalStore.caller

    def counted(store: HospitalStore, token: str) -> Caller | None:
        asked.append(token)
        return ask(store, token)

    monkeypatch.setattr(HospitalStore, "caller", counted)
    for _ in range(20):
        assert guarded.call("GET", "/orders", "user-4").status_code == 429
    assert not asked
    # What is remembered lets nobody in.
    assert guarded.call("GET", "/orders", "operator").status_code == 200
    assert len(asked) == 1


def test_an_order_is_read_once_for_all_of_its_streams(
    monkeypatch: pytest.MonkeyPatch, guarded: Coordinator, connect: Callable[[], Raw]
) -> None:
    """Else each round of a long order is read as often as there are streams."""
    read = []
    of_order = RoundStore.of_order

    def counted(store: RoundStore, order_id: int, *, skip: int = 0) -> list[RoundRow]:
        found = of_order(store, order_id, skip=skip)
        read.extend(found)
        return found

    monkeypatch.setattr(RoundStore, "of_order", counted)
    opened = streams(guarded, connect, "user-2")
    for round_ in range(5):
        facts = {"round": {"fold": 0, "round": round_, "loss": 0.5}}
        told = guarded.call("POST", "/orders/1/progress", "coordinator", json=facts)
        assert told.status_code == 200, told.text
    for raw in opened:
        raw.hear(b'"round": 4')
    assert len(read) == 5


def test_a_stream_ends_by_what_its_reading_has_failed_by_and_the_next_begins_anew(
    monkeypatch: pytest.MonkeyPatch, guarded: Coordinator, connect: Callable[[], Raw]
) -> None:
    """A client then connects again; it would wait for ever where nothing is read."""
    with monkeypatch.context() as away:

        def fail(store: RoundStore, order_id: int, *, skip: int = 0) -> list[RoundRow]:
            raise Unavailable("The store is away.", remedy="Wait.")

        away.setattr(RoundStore, "of_order", fail)
        raw = connect()
        raw.head("GET /orders/1/events", bearer(guarded, "user-3"))
        assert raw.is_closed()
    [again] = streams(guarded, connect, "user-3")[:1]
    again.hear(b"event: state")


def test_long_waits_of_a_token_are_counted(guarded: Coordinator) -> None:
    path = (
        "/exchange/1/acceptance/0/0/0?senders=2&recipient=0&wait=20&takes_place=false"
    )
    url = str(guarded.client.base_url)
    headers = {"Authorization": f"Bearer {guarded.tokens['agent-3']}"}
    statuses: list[int] = []

    def wait() -> None:
        # The call that looks takes a place too, and may take a waiting one's.
        status = 429
        with httpx.Client(trust_env=False, timeout=40) as client:
            while status == 429:
                status = client.get(f"{url}{path}", headers=headers).status_code
        statuses.append(status)

    threads = [threading.Thread(target=wait) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    try:
        wait_until(
            lambda: guarded.call("GET", f"{path}0", "agent-3").status_code == 429
        )
    finally:
        # What all wait for, and the end of the wait.
        assert guarded.call("POST", "/orders/1/cancel", "user-4").status_code == 200
        for thread in threads:
            thread.join()
    assert set(statuses) == {410}


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + ANSWERED_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_coordinators_own_flows_are_not_counted(guarded: Coordinator) -> None:
    state: Any = guarded.app.state
    own = f"coordinator/{None}"
    assert guarded.call("GET", "/orders", "coordinator").status_code == 200
    assert own not in state.open_calls.counted()
