"""What the coordinator's process does beside its routes says once what holds it up,
and once that it goes on, however often it tries.
"""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.client import base

from api.duties import Duty
from api.prefect_runs import PrefectAway, Runs
from api.routes import order_watch
from deployments.demo.training import document_order
from protocol.errors import ConsiliumError, Unavailable
from protocol.machine import outage
from tests.api.conftest import serve, settings_in


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("consilium")
    ]


def tried(duty: Duty, *errors: Exception | None) -> None:
    for error in errors:
        with duty.attempt():
            if error is not None:
                raise error


def full(free: int) -> Unavailable:
    return Unavailable(f"{free} MB are free.", remedy="Make room.", code="disk")


def test_what_holds_a_duty_up_is_said_once_and_that_it_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    duty = Duty("Orders")
    tried(duty, None, None)
    assert lines(caplog) == []
    tried(duty, full(3), full(2), full(1))
    assert duty.is_held_up
    tried(duty, None, None)
    assert not duty.is_held_up
    assert lines(caplog) == [
        "Orders are held up: 3 MB are free. Make room.",
        "Orders go on",
    ]
    tried(duty, full(3))
    assert len(lines(caplog)) == 3  # another time is another line


def test_an_unplanned_error_has_its_traceback_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    duty = Duty("Orders")
    tried(duty, *(RuntimeError("a bug") for _ in range(3)), KeyError("another"), None)
    assert [bool(record.exc_info) for record in caplog.records] == [True, True, False]


def test_that_prefect_is_away_is_left_to_who_asks_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    duty = Duty("Orders")
    tried(duty, PrefectAway("Prefect does not answer.", remedy="Look."))
    assert duty.is_held_up
    tried(duty, None)
    assert lines(caplog) == []


def test_to_others_it_is_what_they_know() -> None:
    away = PrefectAway("Prefect does not answer.", remedy="Look.")
    again = ConsiliumError.from_json(away.to_json())
    assert type(again) is Unavailable
    assert str(again) == str(away)


class _Nothing(http.server.BaseHTTPRequestHandler):
    """Prefect without a run: every list is empty."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(200, b"[]")

    def do_GET(self) -> None:
        """It needs no token against forgery, and has no deployment."""
        self._answer(404, b"{}")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Not into the test's output."""


NO_RETRIES = SimpleNamespace(value=lambda: 0)
"""Prefect's client would try for more than a minute by itself."""


class Prefect:
    """That server, on a port that it keeps while it is away."""

    def __init__(self) -> None:
        self.port = 0
        self.start()

    def start(self) -> None:
        self._server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", self.port), _Nothing
        )
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def prefect() -> Iterator[Prefect]:
    running = Prefect()
    yield running
    running.stop()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_prefect_cut_is_one_line_and_one_when_it_is_back(
    tmp_path: Path,
    prefect: Prefect,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """However often the orders under way are looked after meanwhile."""
    monkeypatch.setattr(order_watch, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(outage, "CUT_SECONDS", 0.0)
    monkeypatch.setattr(base, "PREFECT_CLIENT_MAX_RETRIES", NO_RETRIES)
    looks = {"answered": 0, "missed": 0}
    cancelled = Runs.cancelled

    async def counted(self: Runs, order_ids: list[int]) -> set[int]:
        try:
            found = await cancelled(self, order_ids)
        except PrefectAway:
            looks["missed"] += 1
            raise
        looks["answered"] += 1
        return found

    monkeypatch.setattr(Runs, "cancelled", counted)
    settings = settings_in(tmp_path, prefect_url=f"http://127.0.0.1:{prefect.port}/api")
    with serve(settings) as coordinator:
        coordinator.call("POST", "/model/train", json=document_order())
        until(lambda: looks["answered"] > 0)
        prefect.stop()
        until(lambda: looks["missed"] > 2)
        prefect.start()
        seen = looks["answered"]
        until(lambda: looks["answered"] > seen + 2)
    told = [line for line in lines(caplog) if "refect" in line]
    assert len(told) == 2, told
    assert told[0].startswith("Prefect does not answer; trying again: ")
    assert told[1].startswith("Prefect answers again after ")
