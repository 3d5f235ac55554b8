"""What agents and the coordinator's flows try again and again says once why it does not
succeed, however long that lasts.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.exceptions import ObjectNotFound

from agents.site.coordinator_told import CoordinatorTold, kept_in
from agents.site.settings import SiteSettings
from protocol import VERSION
from protocol.versions import SPOKEN, Window
from tasks import kept_runs
from tasks.coordinator import progress
from tasks.coordinator.progress import DrawnProgress
from tasks.exit_codes import ExitCode
from tasks.hospital import worker as hospital_worker
from tasks.hospital.worker import HospitalWorker
from tasks.kept_runs import RunKeeper, Work
from tasks.post import Post
from tasks.worker import FlowWorker

POLICY = """
[orders]
initiators = [2]
methods = ["Mask"]
model_types = ["lr"]
sign = true
[tables."data.t"]
columns = ["x"]
"""
NO_FLOWS = ModuleType("no_flows")


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("consilium") and record.levelno >= logging.WARNING
    ]


class Pools:
    """Prefect, as far as a worker's heartbeat asks it: a pool that comes to be."""

    is_there = False

    async def read_work_pool(self, _name: str) -> Any:
        if not self.is_there:
            raise ObjectNotFound(http_exc=Exception("404"))
        return SimpleNamespace(id=uuid4())

    async def send_worker_heartbeat(self, *_: Any, **__: Any) -> None:
        """Taken note of."""


def test_a_pool_that_prefect_does_not_know_yet_is_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    post: Any = None
    worker = FlowWorker("hospital-2", flows=NO_FLOWS, post=post, locks=tmp_path)
    pools = Pools()
    worker._client = pools  # type: ignore[assignment]

    async def nothing() -> None:
        """What Prefect's worker does after a heartbeat."""

    monkeypatch.setattr(worker, "_initialize_after_sync", nothing)

    async def beat(n_times: int) -> None:
        for _ in range(n_times):
            await worker.sync_with_backend()

    asyncio.run(beat(3))
    assert len(lines(caplog)) == 1
    assert "knows no pool hospital-2 yet" in lines(caplog)[0]
    pools.is_there = True
    asyncio.run(beat(2))
    assert lines(caplog)[1:] == ["Prefect knows pool hospital-2 now"]


def hospital(folder: Path, client: httpx.AsyncClient) -> HospitalWorker:
    (folder / "policy.toml").write_text(POLICY)
    site = SiteSettings(folder, 2, "north", "", "duckdb://", folder / "state")
    site.vault.parent.mkdir(mode=0o700)
    return HospitalWorker(site, flows=NO_FLOWS, post=Post(client, lambda: "a-token"))


def test_a_policy_that_cannot_be_read_or_told_is_one_line_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hospital_worker, "MOST_PAUSE_SECONDS", 0.0)
    answers = [500, 500, 500, 200]

    def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(answers.pop(0), json={"data": {}})

    async def run() -> None:
        async with httpx.AsyncClient(
            transport=httpx.MockTransport(answer), base_url="http://coordinator"
        ) as client:
            worker = hospital(tmp_path, client)
            await worker._report_policy()
            assert answers == []
            assert len(lines(caplog)) == 1
            (tmp_path / "policy.toml").write_text("no policy")
            for _ in range(3):
                worker._policy()
            assert len(lines(caplog)) == 2
            # Mended and broken again: that is news.
            for text in (POLICY, "no policy"):
                (tmp_path / "policy.toml").write_text(text)
                worker._policy()
            assert len(lines(caplog)) == 3

    asyncio.run(run())


TOLD = {"protocol": SPOKEN.newest, "oldest_protocol": SPOKEN.oldest}


async def presented(
    folder: Path, answer: Callable[[httpx.Request], httpx.Response], n_times: int
) -> None:
    """An agent that presents itself so many times."""
    async with httpx.AsyncClient(
        transport=httpx.MockTransport(answer), base_url="http://coordinator"
    ) as client:
        worker = hospital(folder, client)
        for _ in range(n_times):
            await worker._present()


def test_an_agent_that_lags_says_so_once_and_keeps_it_for_its_page(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    newer = SPOKEN.newest + 1
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        told = {"version": VERSION, "protocol": newer, "oldest_protocol": newer - 1}
        return httpx.Response(200, json={"data": told})

    asyncio.run(presented(tmp_path, answer, 3))
    assert [{name: one[name] for name in TOLD} for one in sent] == [TOLD] * 3
    (line,) = lines(caplog)
    assert f"This agent speaks protocol {SPOKEN}, the coordinator" in line
    assert f"consilium-agent-{VERSION}-py" in line
    kept = kept_in(tmp_path / "state")
    assert kept == CoordinatorTold(VERSION, Window(newer - 1, newer))


def test_a_policy_that_takes_the_newest_only_is_told(tmp_path: Path) -> None:
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return httpx.Response(200, json={"data": {"version": VERSION, **TOLD}})

    async def run() -> None:
        async with httpx.AsyncClient(
            transport=httpx.MockTransport(answer), base_url="http://coordinator"
        ) as client:
            worker = hospital(tmp_path, client)
            text = POLICY.replace(
                "[orders]", f"[orders]\noldest_protocol = {SPOKEN.newest}"
            )
            (tmp_path / "policy.toml").write_text(text)
            await worker._report_policy()

    asyncio.run(run())
    (told,) = sent
    assert (told["protocol"], told["oldest_protocol"]) == (SPOKEN.newest, SPOKEN.newest)


def test_another_version_is_one_line_that_names_both_and_the_command(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [VERSION, "99.0.0", "99.0.0", "no version", None, "0.0.1"]

    def answer(_request: httpx.Request) -> httpx.Response:
        told = {"version": answers.pop(0), **TOLD}
        return httpx.Response(200, json={"data": told})

    asyncio.run(presented(tmp_path, answer, len(answers)))
    newer, older = lines(caplog)
    assert newer.startswith(f"This agent is {VERSION}, the coordinator 99.0.0. ")
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert f"--bundle consilium-agent-99.0.0-py{python}.tar" in newer
    assert "coordinator 0.0.1" in older
    assert "upgrade --back" in older


def test_a_site_that_is_not_ready_is_one_line_of_its_agent_however_often_it_tries(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_runs, "FIRST_PAUSE_SECONDS", 0.0)
    keeper = RunKeeper(tmp_path, dict)
    not_ready, killed = int(ExitCode.NOT_READY), -9
    codes = [killed, not_ready, not_ready, not_ready, killed, 0]

    async def one_process(*_: Any) -> int:
        return codes.pop(0)

    monkeypatch.setattr(keeper, "_one_process", one_process)
    flow_run: Any = SimpleNamespace(id=uuid4(), name="order-7")
    installed: Any = None
    asyncio.run(keeper.keep_running(flow_run, Work(7), installed, "order_id"))
    assert [line.split("code ")[1].split(";")[0] for line in lines(caplog)] == [
        "-9",
        "78",
        "-9",
    ]


class Picture:
    """Of an order that has nothing to show yet."""

    order_id = 7

    def percent(self, _records: Any) -> float:
        return 0.0

    def table(self, _records: Any) -> list[Any]:
        return []

    def summary(self, _records: Any) -> str:
        return ""

    def opening(self) -> str:
        return "Order 7."

    def line(self, _record: Any) -> str:
        return "Round 1."


def test_lines_that_cannot_be_written_are_one_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = threading.Semaphore(0)

    def fails(*_: Any, **__: Any) -> None:
        raise httpx.ConnectError("away")

    monkeypatch.setattr(progress, "DRAW_EVERY_SECONDS", 0.0)
    for name in ("create_progress", "create_table", "create_markdown"):
        monkeypatch.setattr(progress, f"{name}_artifact", lambda *_, **__: "bar")
    monkeypatch.setattr(
        progress, "update_progress_artifact", lambda *_, **__: drawn.release()
    )
    monkeypatch.setattr(progress.RunLog, "say", fails)
    with DrawnProgress(Picture()) as shown:
        for _ in range(4):
            shown.show({})
            assert drawn.acquire(timeout=20)
    assert lines(caplog) == ["Prefect lacks lines of this run (ConnectError)"]


def test_a_bar_that_cannot_be_drawn_is_one_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = threading.Semaphore(0)

    def fails(*_: Any, **__: Any) -> None:
        drawn.release()
        raise httpx.ConnectError("away")

    monkeypatch.setattr(progress, "DRAW_EVERY_SECONDS", 0.0)
    for name in ("progress", "table", "markdown"):
        monkeypatch.setattr(progress, f"create_{name}_artifact", fails)
    with DrawnProgress(Picture()) as shown:
        for _ in range(4):
            shown.show({})
            assert drawn.acquire(timeout=20)
    assert lines(caplog) == [
        "Progress could not be shown (ConnectError)",
        "The result could not be shown (ConnectError)",
    ]
