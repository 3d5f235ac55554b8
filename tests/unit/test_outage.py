"""An agent's log says once that somebody does not answer, and once that all is well
again.
"""

from __future__ import annotations

import logging
from pathlib import Path

import httpx
import pytest

from protocol.exchange import Address, Exchange, HttpTransport, party
from protocol.machine.outage import COORDINATOR, PREFECT, Outage
from tasks import quiet


class Ticking:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("consilium")
    ]


@pytest.fixture
def clock() -> Ticking:
    return Ticking()


@pytest.fixture
def processes(tmp_path: Path, clock: Ticking) -> list[Outage]:
    """What three processes of one agent have each."""
    found = [Outage(now=clock) for _ in range(3)]
    for number, one in enumerate(found):
        one.share(tmp_path / "outage", afresh=number == 0)
    return found


def test_an_outage_is_one_line_however_many_miss_the_coordinator(
    processes: list[Outage], clock: Ticking, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(20):
        for one in processes:
            one.missed(COORDINATOR, "ConnectError", asked=clock())
            one.missed(PREFECT, "ConnectError", asked=clock())
        clock.at += 0.25
    assert lines(caplog) == [
        "The coordinator does not answer; trying again: ConnectError"
    ]
    asked = clock() - 0.1
    processes[1].answered(COORDINATOR)
    processes[2].missed(COORDINATOR, "ReadTimeout", asked=asked)
    processes[2].missed(PREFECT, "ReadTimeout", asked=asked)
    for one in processes:
        one.answered(COORDINATOR)
        one.answered(PREFECT)
    assert lines(caplog)[1:] == ["The coordinator answers again after 5 s"]
    clock.at += 60
    processes[0].missed(COORDINATOR, "ConnectError", asked=clock())
    assert len(lines(caplog)) == 3


def test_prefect_alone_is_told_when_it_stays_away(
    processes: list[Outage], clock: Ticking, caplog: pytest.LogCaptureFixture
) -> None:
    processes[0].missed(PREFECT, "ConnectError", asked=clock())
    assert lines(caplog) == []
    clock.at += 4
    processes[1].missed(PREFECT, "ConnectError", asked=clock())
    processes[0].answered(PREFECT)
    processes[1].answered(PREFECT)
    assert lines(caplog) == [
        "Prefect does not answer; trying again: ConnectError",
        "Prefect answers again after 4 s",
    ]


def test_an_outage_whose_witness_died_hides_no_later_one(
    processes: list[Outage], clock: Ticking, caplog: pytest.LogCaptureFixture
) -> None:
    processes[0].missed(COORDINATOR, "ConnectError", asked=clock())
    clock.at += 3600
    processes[1].missed(COORDINATOR, "ConnectError", asked=clock())
    processes[1].answered(COORDINATOR)
    assert len(lines(caplog)) == 3
    assert "after 0 s" in lines(caplog)[-1]


def test_a_witness_of_the_coordinators_that_died_does_not_silence_prefects(
    processes: list[Outage], clock: Ticking, caplog: pytest.LogCaptureFixture
) -> None:
    processes[0].missed(COORDINATOR, "ConnectError", asked=clock())
    clock.at += 3600
    for _ in range(2):
        processes[1].missed(PREFECT, "ConnectError", asked=clock())
        clock.at += 4
    assert lines(caplog)[1:] == ["Prefect does not answer; trying again: ConnectError"]


def test_what_prefect_writes_of_a_lost_connection_is_not_written(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its other errors are; and ours of a lost connection too."""
    caplog.handler.addFilter(quiet._is_worth_a_line)
    for name in ("prefect.FlowRunSuspendingObserver", "consilium.worker"):
        for error in (httpx.ConnectError("cut"), ConnectionResetError(), KeyError("x")):
            logging.getLogger(name).warning("lost", exc_info=error)
    kinds = [
        (record.name.partition(".")[0], type(record.exc_info[1]).__name__)
        for record in caplog.records
        if record.exc_info
    ]
    assert kinds == [
        ("prefect", "KeyError"),
        ("consilium", "ConnectError"),
        ("consilium", "ConnectionResetError"),
        ("consilium", "KeyError"),
    ]


def test_without_its_file_it_is_said_nevertheless(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outage = Outage()
    outage.share(tmp_path / "nowhere" / "outage", afresh=True)
    outage.missed(COORDINATOR, "ConnectError", asked=1e9)
    assert len(lines(caplog)) == 1


def test_many_messages_that_are_tried_again_leave_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each message waits by itself, also those that are put one after the other in one
    outage.
    """
    monkeypatch.setattr(party, "outage", Outage())
    n_calls = 0

    def handler(request: httpx.Request) -> httpx.Response:
        nonlocal n_calls
        n_calls += 1
        if n_calls < 4:
            raise httpx.ConnectError("cut", request=request)
        return httpx.Response(200)

    with httpx.Client(
        transport=httpx.MockTransport(handler), base_url="http://coordinator"
    ) as client:
        for _ in range(3):
            Exchange(HttpTransport(client, "token"), 2, sleep=lambda seconds: None).put(
                Address(1, "setup"), 1, b""
            )
    assert [line[:34] for line in lines(caplog)] == [
        "The coordinator does not answer; t",
        "The coordinator answers again afte",
    ]
    assert caplog.records[0].levelno == logging.WARNING
