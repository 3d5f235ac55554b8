"""What an agent finds of its own site, a full disk and a wrong clock, and what becomes
of an order meanwhile.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from uuid import uuid4

import duckdb
import httpx
import psycopg
import pymysql
import pytest

import tasks.hospital.worker
import tasks.kept_runs
from agents.rows.faults import database_fault, reading_fault
from agents.site.settings import SiteSettings
from protocol.errors import Unavailable
from protocol.exchange import Exchange
from protocol.machine.clock import Clock
from protocol.machine.disk import has_room, is_full
from tasks import flow_process
from tasks.coordinator import place as coordinator_place
from tasks.exit_codes import ExitCode
from tasks.flow_process import InstalledFlow
from tasks.hospital import place as hospital_place
from tasks.hospital.worker import HospitalWorker
from tasks.kept_runs import KeptUntil, Work
from tasks.post import Post
from tasks.steps import step
from tasks.worker import FlowWorker

NO_ROOM = OSError(errno.ENOSPC, "No space left on device", "/state/vault/secret-name")
POST: Any = None


class Clocks:
    """Two clocks of a test: this site's, and one that nobody sets."""

    def __init__(self, own: float) -> None:
        self.own, self.steady = own, 0.0

    def pass_by(self, seconds: float) -> None:
        self.own += seconds
        self.steady += seconds


# A wrong clock


@pytest.mark.parametrize("wrong_by", [-86_400, -45, 0, 45, 86_400])
def test_a_worker_asks_prefect_by_the_coordinators_clock(
    tmp_path: Path, wrong_by: int
) -> None:
    """Prefect's own worker asks for runs that are due by its machine's clock: one that
    is behind sees none.
    """
    asked: list[datetime] = []

    async def read(
        work_pool_name: str, scheduled_before: datetime, work_queue_names: list[str]
    ) -> list[Any]:
        asked.append(scheduled_before)
        return []

    truth = datetime.now(UTC)
    worker = FlowWorker(
        "hospital-2", flows=ModuleType("no_flows"), post=POST, locks=tmp_path
    )
    worker._clock = Clock(own=lambda: truth.timestamp() + wrong_by)
    worker._client = SimpleNamespace(get_scheduled_flow_runs_for_work_pool=read)  # type: ignore[assignment]
    worker._clock.heard(truth.timestamp(), asked=worker._clock._steady())
    asyncio.run(worker._get_scheduled_flow_runs())
    prefetch = timedelta(seconds=worker._prefetch_seconds)
    assert abs(asked[0] - truth - prefetch) < timedelta(seconds=1)


@pytest.mark.parametrize("wrong_by", [-86_400, 3600])
def test_a_run_that_is_put_back_is_due_by_the_coordinators_clock(
    tmp_path: Path, wrong_by: int
) -> None:
    """By a clock that is ahead it would be due only when the coordinator's has come to
    it.
    """
    said: list[Any] = []

    async def say(flow_run_id: Any, state: Any, force: bool) -> None:
        said.append(state)

    truth = datetime.now(UTC)
    worker = FlowWorker(
        "hospital-2", flows=ModuleType("no_flows"), post=POST, locks=tmp_path
    )
    worker._clock = Clock(own=lambda: truth.timestamp() + wrong_by)
    worker._clock.heard(truth.timestamp(), asked=worker._clock._steady())
    worker._client = SimpleNamespace(set_flow_run_state=say)  # type: ignore[assignment]
    run: Any = SimpleNamespace(id=uuid4())
    asyncio.run(worker._put_back(run))
    assert abs(said[0].state_details.scheduled_time - truth) < timedelta(seconds=1)


@pytest.mark.parametrize(
    ("ahead", "told"), [(0, 0), (5, 0), (6, 6), (-5, 0), (-6, -6), (-86_400, -86_400)]
)
def test_a_clock_is_wrong_above_five_seconds(ahead: int, told: int) -> None:
    clocks = Clocks(1e9 + ahead)
    clock = Clock(own=lambda: clocks.own, steady=lambda: clocks.steady)
    assert clock.wrong_seconds() == 0
    clock.heard(1e9, asked=0.0)
    assert clock.wrong_seconds() == told


def test_an_answer_that_took_long_says_nothing_against_a_clock(tmp_path: Path) -> None:
    """The coordinator's time was written at some moment of a long poll, and may have
    come late.
    """
    clocks = Clocks(1e9)
    clock = Clock(own=lambda: clocks.own, steady=lambda: clocks.steady)
    clock.heard(1e9, asked=0.0)
    asked = clocks.steady
    clocks.pass_by(25)
    clock.heard(1e9 + 1, asked=asked)
    assert clock.wrong_seconds() == 0
    clocks.own -= 60  # somebody sets this machine's clock back
    clock.heard(1e9 + 25, asked=clocks.steady)
    assert clock.wrong_seconds() == -60


# A full disk


def test_a_full_disk_is_told_from_other_faults() -> None:
    assert is_full(NO_ROOM)
    assert is_full(OSError(errno.EDQUOT, ""))
    assert not is_full(PermissionError(errno.EACCES, ""))
    assert not is_full(ValueError("No space left on device"))


def test_room_is_looked_for_and_nothing_is_left_behind(tmp_path: Path) -> None:
    assert has_room(tmp_path, 10)
    assert list(tmp_path.iterdir()) == []
    assert not has_room(tmp_path / "nowhere")


def test_a_step_that_finds_the_disk_full_says_so_without_a_path() -> None:
    @step("save model")
    def fails() -> None:
        raise NO_ROOM

    with pytest.raises(Unavailable) as caught:
        fails()
    assert caught.value.code == "disk"
    assert "secret-name" not in str(caught.value)
    assert "disk" in hospital_place.MENDABLE


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.DiskFull('could not write to file "/x"'),
        duckdb.IOException('Could not write file "/x": No space left on device'),
        pymysql.err.OperationalError(1021, "Disk full (/x)"),
    ],
)
def test_a_database_whose_disk_is_full_is_waited_for(error: Exception) -> None:
    assert database_fault(error, 1.0).code == "disk"
    assert "/x" not in str(database_fault(error, 1.0))


def test_a_spill_that_finds_the_disk_full_is_waited_for() -> None:
    assert (
        reading_fault(
            duckdb.IOException("IO Error: No space left on device"), 1.0, "csv"
        ).code
        == "disk"
    )


@pytest.mark.parametrize(
    "error", [NO_ROOM, Unavailable("Full.", remedy="", code="disk")]
)
@pytest.mark.parametrize("where", ["hospital", "coordinator"])
def test_a_run_is_given_back_as_one_without_room(
    where: str,
    error: Exception,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its agent speaks of the disk, once; a line for each try of each order says
    nothing more.
    """
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        raise SystemExit

    monkeypatch.setattr("tasks.ending.os._exit", leave)
    (tmp_path / "token").write_text("a-token")
    monkeypatch.setenv(coordinator_place.COORDINATOR_URL, "http://127.0.0.1:9")
    monkeypatch.setenv(coordinator_place.COORDINATOR_TOKEN, str(tmp_path / "token"))
    monkeypatch.setenv(hospital_place.SITE, str(tmp_path))
    settings = SiteSettings(
        tmp_path, 2, "here", "http://127.0.0.1:9", "duckdb://", tmp_path
    )
    monkeypatch.setattr(hospital_place, "load_settings", lambda site: settings)
    (tmp_path / "token").chmod(0o600)
    monkeypatch.setattr(hospital_place, "open_party", lambda *_: None)

    def work(*_: Any) -> None:
        raise error

    def at_coordinator() -> None:
        with coordinator_place.at_coordinator(3):
            work()

    run = (
        at_coordinator
        if where == "coordinator"
        else functools.partial(hospital_place.at_hospital, 3, work)
    )
    with pytest.raises(SystemExit):
        run()
    assert codes == [ExitCode.DISK_FULL]
    assert not caplog.records


def test_a_site_without_a_policy_refuses_and_its_run_ends_with_a_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal comes before any work; Prefect must not be left with an exception."""
    refused: list[str] = []
    (tmp_path / "token").write_text("a-token")
    (tmp_path / "token").chmod(0o600)
    monkeypatch.setenv(hospital_place.SITE, str(tmp_path))
    settings = SiteSettings(
        tmp_path, 2, "here", "http://127.0.0.1:9", "duckdb://", tmp_path
    )
    monkeypatch.setattr(hospital_place, "load_settings", lambda site: settings)
    monkeypatch.setattr(
        Exchange, "refuse", lambda _, order_id, cause: refused.append(cause.code)
    )

    def work(_: Any) -> None:
        raise AssertionError("no work without a policy")

    state: Any = hospital_place.at_hospital(3, work)
    assert refused == ["policy"]
    assert state.is_failed()
    assert state.message == "policy"


def test_a_lock_that_cannot_be_made_is_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> bool:
        raise NO_ROOM

    for name in ("_die_with_agent", "_log_to_stderr"):
        monkeypatch.setattr(flow_process, name, lambda: None)
    monkeypatch.setattr("tasks.flow_process.signal.pthread_sigmask", lambda *_: None)
    monkeypatch.setattr(flow_process, "_run_locked", full)
    with pytest.raises(SystemExit) as caught:
        flow_process.run_in_child(
            str(uuid4()),
            "flows.hospital_runs",
            "x",
            "order_id",
            str(tmp_path / "x.lock"),
            {},
        )
    assert caught.value.code == ExitCode.DISK_FULL


class Told:
    """Takes what an agent says of its site."""

    def __init__(self) -> None:
        self.conditions: list[dict[str, Any]] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/hospitals/me/condition":
            self.conditions.append(json.loads(request.content))
            return httpx.Response(
                200, json={"data": {"time": datetime.now(UTC).timestamp()}}
            )
        return httpx.Response(200, json={"data": {}})


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def test_runs_that_find_no_room_wait_without_end_and_the_coordinator_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each try ends at once for want of room, more often than a run may crash; then
    there is room.
    """
    settings = SiteSettings(
        tmp_path,
        2,
        "here",
        "http://coordinator",
        "duckdb://",
        tmp_path / "state",
    )
    settings.vault.parent.mkdir(mode=0o700)
    monkeypatch.setattr(tasks.kept_runs, "has_room", lambda folder: True)
    monkeypatch.setattr(tasks.kept_runs, "LOOK_AT_ROOM_SECONDS", 0.0)
    monkeypatch.setattr(tasks.hospital.worker, "NOTICE_AT_REST_SECONDS", 0.1)
    codes = [ExitCode.DISK_FULL] * (3 * tasks.kept_runs.MAX_CRASHES)
    told = Told()

    async def run() -> None:
        transport = httpx.MockTransport(told.answer)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://coordinator"
        ) as client:
            worker = HospitalWorker(
                settings,
                flows=ModuleType("no_flows"),
                post=Post(client, lambda: "a-token"),
            )
            following = asyncio.create_task(worker._follow_condition())

            async def one_process(*_: Any) -> int:
                if codes:
                    return codes.pop()
                await until(lambda: bool(told.conditions))
                return 0

            monkeypatch.setattr(worker._keeper, "_one_process", one_process)
            flow_run: Any = SimpleNamespace(id=uuid4(), name="order-3-hospital-2")
            kept = await worker._keeper.keep_running(
                flow_run, Work(3), InstalledFlow("", ""), "order_id"
            )
            assert kept is KeptUntil.END
            await until(lambda: len(told.conditions) == 2)
            following.cancel()

    asyncio.run(run())
    assert [one["disk_full"] for one in told.conditions] == [True, False]
    assert all(
        set(one) == {"disk_full", "not_ready", "clock_seconds"}
        for one in told.conditions
    )
    assert (
        len(
            [
                record
                for record in caplog.records
                if "disk is full" in record.getMessage()
            ]
        )
        == 1
    )
