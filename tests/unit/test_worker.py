"""The agent's worker, without a server."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from uuid import uuid4

import anyio
import httpx
import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import WorkerFlowRunResponse

import tasks.hospital.worker
import tasks.worker
from agents.site.settings import SiteSettings
from api.routes.admission import MOST_RUNS
from flows import hospital_runs
from tasks.flow_process import installed_flows, number_of
from tasks.hospital.worker import APPROVALS, INFERENCES, HospitalWorker, _drivers
from tasks.kept_runs import Work
from tasks.post import Post
from tasks.worker import COORDINATOR, FlowWorker

POLICY = """
[orders]
initiators = [2, 4]
methods = ["Mask"]
model_types = ["lr"]
sign = true
[tables."data.t"]
columns = ["x"]
"""

NO_FLOWS = ModuleType("no_flows")


def test_flows_with_a_place_of_their_own_are_flows_of_a_hospital() -> None:
    assert {*APPROVALS, *INFERENCES} < set(installed_flows(hospital_runs))


def test_a_run_that_two_polls_heard_of_is_begun_once(tmp_path: Path) -> None:
    """The later poll's answer is stale: the run is under way, and holds its place in
    the limit.
    """
    post: Any = None
    worker = FlowWorker(
        "hospital-2", flows=NO_FLOWS, post=post, locks=tmp_path, limit=2
    )
    worker._limiter = anyio.CapacityLimiter(2)
    entry: Any = SimpleNamespace(flow_run=SimpleNamespace(id=uuid4()))

    async def second_poll() -> list[Any]:
        assert worker._limiter is not None
        worker._limiter.acquire_on_behalf_of_nowait(entry.flow_run.id)
        worker._work[entry.flow_run.id] = Work(1)
        return list(await worker._submit_scheduled_flow_runs([entry]))

    assert anyio.run(second_poll) == []


FLOW_IDS = {name: uuid4() for name in installed_flows(hospital_runs)}


def entry_of(flow: str, order_id: int) -> WorkerFlowRunResponse:
    flow_run = FlowRun(
        id=uuid4(),
        flow_id=FLOW_IDS[flow],
        name=f"order-{order_id}",
        parameters={"order_id": order_id},
    )
    return WorkerFlowRunResponse(
        work_pool_id=uuid4(), work_queue_id=uuid4(), flow_run=flow_run
    )


def all_may_begin(request: httpx.Request) -> httpx.Response:
    runs = json.loads(request.content)["runs"]
    verdict = {"what": "begin", "sentence": ""}
    return httpx.Response(
        200, json={"data": {"runs": {run["flow_run_id"]: verdict for run in runs}}}
    )


def test_inferences_that_wait_for_a_person_keep_no_order_from_its_place(
    tmp_path: Path,
) -> None:
    """The coordinator gave the order a place here; meanwhile it holds one at every
    other hospital.
    """
    waiting, order, another = (
        entry_of("infer", 1),
        entry_of("hospital-train", 2),
        entry_of("infer", 3),
    )

    async def begun() -> tuple[set[Any], set[Any]]:
        async with httpx.AsyncClient(
            transport=httpx.MockTransport(all_may_begin), base_url="http://api"
        ) as client:
            post = Post(client, lambda: "a-token")
            site = SiteSettings(
                tmp_path,
                2,
                "here",
                "http://api",
                "duckdb://",
                tmp_path,
                max_orders=1,
            )
            worker = HospitalWorker(site, flows=hospital_runs, post=post)
            worker._flow_names = {number: name for name, number in FLOW_IDS.items()}
            worker._limiter = anyio.CapacityLimiter(1)
            worker.get_flow_run_logger = lambda _: logging.getLogger("prefect.worker")  # type: ignore[method-assign,assignment]
            worker._runs_task_group = SimpleNamespace(start_soon=lambda *_: None)  # type: ignore[assignment]
            await worker._submit_scheduled_flow_runs([waiting])
            await worker._submit_scheduled_flow_runs([another, order])
            full = set(worker._submitting_flow_run_ids)
            worker._release_limit_slot(waiting.flow_run.id)
            await worker._submit_scheduled_flow_runs([another])
            return full, set(worker._submitting_flow_run_ids)

    full, later = anyio.run(begun)
    assert full == {waiting.flow_run.id, order.flow_run.id}
    assert later - full == {another.flow_run.id}


class PrefectWithRuns:
    """Answers as many runs as Prefect does at most."""

    def __init__(self, flow_runs: list[FlowRun]) -> None:
        self.flow_runs = flow_runs

    async def read_flow_runs(
        self, *, limit: int = 200, offset: int = 0, **_filters: Any
    ) -> list[FlowRun]:
        return self.flow_runs[offset : offset + min(limit, 200)]


@asynccontextmanager
async def worker_beside(
    coordinator: Callable[[httpx.Request], httpx.Response], folder: Path
) -> AsyncIterator[FlowWorker]:
    """The worker of hospital 2, which knows what flows there are at Prefect."""
    async with httpx.AsyncClient(
        transport=httpx.MockTransport(coordinator), base_url="http://api"
    ) as client:
        post = Post(client, lambda: "a-token")
        worker = FlowWorker("hospital-2", flows=hospital_runs, post=post, locks=folder)
        worker._flow_names = {number: name for name, number in FLOW_IDS.items()}
        yield worker


@pytest.mark.parametrize("n_runs", [1, 200, 450, 1_001])
def test_all_runs_that_were_left_are_taken_up_however_many(
    tmp_path: Path, n_runs: int
) -> None:
    """Approvals of an earlier process wait for a person, who may answer any of them."""
    left_runs = [entry_of(APPROVALS[0], n + 1).flow_run for n in range(n_runs)]

    def coordinator(request: httpx.Request) -> httpx.Response:
        assert len(json.loads(request.content)["runs"]) <= MOST_RUNS
        return all_may_begin(request)

    async def taken_up() -> set[Any]:
        async with worker_beside(coordinator, tmp_path) as worker:
            worker._client = PrefectWithRuns(left_runs)  # type: ignore[assignment]
            worker._runs_task_group = SimpleNamespace(start_soon=lambda *_: None)  # type: ignore[assignment]
            await worker._take_up_left()
            return set(worker._work)

    assert anyio.run(taken_up) == {flow_run.id for flow_run in left_runs}


def a_page_to_sign_in_at(_request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, text="<html>Sign in</html>")


def an_older_coordinator(_request: httpx.Request) -> httpx.Response:
    return httpx.Response(404, json={"message": "There is no such address."})


@pytest.mark.parametrize("answer", [a_page_to_sign_in_at, an_older_coordinator])
def test_what_is_no_verdict_of_the_coordinator_begins_nothing_and_ends_no_agent(
    tmp_path: Path,
    answer: Callable[[httpx.Request], httpx.Response],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor is Prefect, which answered, said to be away."""
    entry, missed = entry_of("hospital-train", 1), []
    monkeypatch.setattr(
        tasks.worker.outage, "missed", lambda who, *_, **__: missed.append(who)
    )

    async def listed(_worker: Any) -> list[Any]:
        return [entry]

    monkeypatch.setattr(FlowWorker, "_get_scheduled_flow_runs", listed)

    async def begun() -> tuple[list[Any], bool]:
        async with worker_beside(answer, tmp_path) as worker:
            worker._has_successfully_synced = True
            return await worker.get_and_submit_flow_runs(), worker._left.is_set()

    assert anyio.run(begun) == ([], True)
    assert set(missed) == {COORDINATOR}


@pytest.mark.parametrize(
    ("parameters", "number"),
    [
        ({"schedule_id": 3}, 3),
        ({"order_id": 3}, None),
        ({"schedule_id": 3, "order_id": 3}, None),
        ({"schedule_id": 0}, None),
        ({"schedule_id": True}, None),
        ({"schedule_id": "3"}, None),
        ({"schedule_id": 2**31 - 1}, 2**31 - 1),
        (
            {"schedule_id": 2**31},
            None,
        ),  # Prefect carries it; no order has it, and the coordinator's API takes it not
        ({}, None),
    ],
)
def test_a_run_has_one_number_and_nothing_else(
    parameters: dict[str, Any], number: int | None
) -> None:
    flow_run: Any = SimpleNamespace(parameters=parameters)
    assert number_of(flow_run, "schedule_id") == number


# A hospital tells its policy


class Coordinator:
    """Takes what an agent tells of itself, after it has failed some times."""

    def __init__(self, n_failures: int) -> None:
        self.n_failures = n_failures
        self.told: list[Any] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        if self.n_failures:
            self.n_failures -= 1
            return httpx.Response(503, json={"message": "The store is locked."})
        self.told.append(json.loads(request.content))
        return httpx.Response(200, json={})


@asynccontextmanager
async def telling(
    tmp_path: Path, coordinator: Coordinator
) -> AsyncIterator[HospitalWorker]:
    """A hospital's worker whose policy is followed; no Prefect, no orders."""
    (tmp_path / "policy.toml").write_text(POLICY)
    settings = SiteSettings(
        tmp_path,
        2,
        "here",
        "http://coordinator",
        "duckdb://",
        tmp_path / "state",
    )
    settings.vault.parent.mkdir(mode=0o700)
    transport = httpx.MockTransport(coordinator.answer)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://coordinator"
    ) as client:
        worker = HospitalWorker(
            settings, flows=NO_FLOWS, post=Post(client, lambda: "a-token")
        )
        await worker.connected()
        following = asyncio.create_task(worker._follow_policy())
        yield worker
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def test_a_change_of_the_policy_is_told_even_if_the_coordinator_fails_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is heard, or seen when the file is compared."""
    monkeypatch.setattr(tasks.hospital.worker, "COMPARE_POLICY_MS", 500)

    async def run() -> None:
        coordinator = Coordinator(0)
        async with telling(tmp_path, coordinator):
            assert [news["scoring"] for news in coordinator.told] == ["none"]
            coordinator.n_failures = 2
            (tmp_path / "policy.toml").write_text(
                POLICY.replace("sign = true", 'sign = true\nscoring = "round"')
            )
            await until(lambda: len(coordinator.told) == 2)
            assert (
                coordinator.told[-1]["scoring"]
                == coordinator.told[-1]["policy"]["orders"]["scoring"]
                == "round"
            )
            (tmp_path / "policy.toml").write_text("[orders]\n")
            await until(lambda: len(coordinator.told) == 3)
            assert (
                coordinator.told[-1]["scoring"],
                coordinator.told[-1]["policy"],
            ) == ("none", None)

    asyncio.run(run())


@pytest.mark.slow
@pytest.mark.thorough
def test_a_worker_s_last_words_are_its_own() -> None:
    """Whoever reads why it ended reads the last line of its log."""
    program = "import duckdb; from tasks.flow_process import preload; preload([])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_database_address_that_cannot_be_used_ends_no_agent(tmp_path: Path) -> None:
    """It is mended while the agent runs; only nothing can be loaded beforehand for it."""
    assert (
        _drivers(SiteSettings(tmp_path, 2, "here", "", "oracle://nowhere", tmp_path))
        == []
    )
    assert (
        _drivers(SiteSettings(tmp_path, 2, "here", "", "duckdb:///x", tmp_path))[0]
        == "duckdb_engine"
    )
