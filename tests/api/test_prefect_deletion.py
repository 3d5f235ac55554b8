"""What is left in a real Prefect's database when older runs were deleted: nothing of
them, everything of the others, and no more bytes than before.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prefect.client import base
from prefect.client.orchestration import PrefectClient

from api.prefect_runs import PrefectAway, open_runs
from tests.api.real_prefect import prefect_server
from tests.faults.relay import Relay

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

DONE = "COMPLETED"


@dataclass
class Prefect:
    """A server of its own, its database, and orders in it as a federation writes
    them.
    """

    client: httpx.Client
    url: str
    auth: str
    database: Path

    def make_run(
        self, flow: str, tags: list[str], *, state: str = DONE, message: str = ""
    ) -> str:
        flow_id = self.post("/flows/", name=flow)["id"]
        run = self.post(
            "/flow_runs/",
            flow_id=flow_id,
            tags=tags,
            parameters={"order_id": 1},
            state={"type": "RUNNING"},
        )
        for number in range(4):
            self.post(
                "/task_runs/",
                flow_run_id=run["id"],
                task_key=f"step-{number}",
                dynamic_key=str(number),
                name=f"step {number}",
                state={"type": DONE},
            )
        if state != "RUNNING":
            self.post(
                f"/flow_runs/{run['id']}/set_state",
                state={"type": state, "message": message},
                force=True,
            )
        return str(run["id"])

    def make_order(self, order_id: int, *, state: str = DONE) -> list[str]:
        tag = f"order-{order_id}"
        runs = [self.make_run("train-order", [tag, "lr"], state=state)]
        for user in (2, 3):
            tags = [tag, "hospital", f"hospital-{user}"]
            runs.append(self.make_run("hospital-train", tags, state=state))
        for what in ("progress", "metrics"):
            self.post(
                "/artifacts/",
                key=f"{tag}-{what}",
                type="markdown",
                data="What each hospital said. " * 20,
                flow_run_id=runs[0],
            )
        line = {
            "name": "flow",
            "level": 20,
            "message": "A line.",
            "timestamp": datetime.now(UTC).isoformat(),
            "flow_run_id": runs[0],
        }
        answer = self.client.post("/logs/", json=[line])
        answer.raise_for_status()
        return runs

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        answer = self.client.post(path, json=body)
        assert answer.is_success, (path, answer.text)
        found: dict[str, Any] = answer.json()
        return found

    def rows(self, query: str, *values: Any) -> list[Any]:
        connection = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)
        try:
            return connection.execute(query, values).fetchall()
        finally:
            connection.close()

    def left_of(self, runs: list[str]) -> dict[str, int]:
        """How many rows of each table belong to these runs."""
        marks = ",".join("?" * len(runs))
        of_tasks = f"SELECT id FROM task_run WHERE flow_run_id IN ({marks})"
        queries = {
            "flow_run": f"SELECT count(*) FROM flow_run WHERE id IN ({marks})",
            "task_run_state": (
                f"SELECT count(*) FROM task_run_state WHERE task_run_id IN ({of_tasks})"
            ),
        }
        tables = ("flow_run_state", "task_run", "log", "artifact")
        tables += ("artifact_collection",)
        for table in tables:
            queries[table] = (
                f"SELECT count(*) FROM {table} WHERE flow_run_id IN ({marks})"
            )
        found = {}
        for table, query in queries.items():
            ((found[table],),) = self.rows(query, *runs)
        return found

    def is_gone(self, runs: list[str]) -> bool:
        """Prefect deletes logs a moment after their run."""
        deadline = time.monotonic() + 20
        while any(self.left_of(runs).values()):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    home = tmp_path_factory.mktemp("prefect") / "home"
    with prefect_server(home) as server, server.client as client:
        yield Prefect(client, server.url, server.auth, home / "prefect.db")


def delete(prefect: Prefect, *order_ids: int, url: str | None = None) -> set[int]:
    async def run() -> set[int]:
        async with open_runs(url or prefect.url, prefect.auth) as runs:
            return await runs.delete_ended(order_ids, before=datetime.now(UTC))

    return asyncio.run(run())


def test_nothing_of_a_deleted_order_is_left_and_of_others_nothing_is_missing(
    prefect: Prefect,
) -> None:
    old, other = prefect.make_order(101), prefect.make_order(102)
    # A number that begins with the same digits is another one.
    longer = prefect.make_order(1010)
    before = prefect.left_of(other)
    assert all(before.values()), before
    assert delete(prefect, 101) == set()
    assert prefect.is_gone(old), prefect.left_of(old)
    assert prefect.left_of(other) == before
    assert prefect.left_of(longer) == before
    assert delete(prefect, 101) == set()  # once more is no error


@pytest.mark.parametrize("state", ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"])
def test_every_end_is_one(prefect: Prefect, state: str) -> None:
    order_id = {"COMPLETED": 110, "FAILED": 111, "CRASHED": 112, "CANCELLED": 113}
    runs = prefect.make_order(order_id[state], state=state)
    assert delete(prefect, order_id[state]) == set()
    assert prefect.is_gone(runs)


@pytest.mark.parametrize(
    "state", ["SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING"]
)
def test_no_run_under_way_is_deleted(prefect: Prefect, state: str) -> None:
    number = 120 + ["SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING"].index(
        state
    )
    ended = prefect.make_order(number)
    under_way = prefect.make_run("hospital-train", [f"order-{number}"], state=state)
    before = prefect.left_of([under_way])
    assert delete(prefect, number) == {number}
    assert prefect.left_of([under_way]) == before
    assert prefect.is_gone(ended)
    done = {"type": "COMPLETED"}
    prefect.post(f"/flow_runs/{under_way}/set_state", state=done, force=True)
    assert delete(prefect, number) == set()
    assert prefect.is_gone([under_way])


def test_a_run_that_has_just_ended_stays_until_its_tasks_are_written(
    prefect: Prefect,
) -> None:
    runs = prefect.make_order(130)

    async def a_minute_ago() -> set[int]:
        before = datetime.now(UTC) - timedelta(seconds=60)
        async with open_runs(prefect.url, prefect.auth) as asked:
            return await asked.delete_ended([130], before=before)

    assert asyncio.run(a_minute_ago()) == {130}
    assert prefect.left_of(runs)["flow_run"] == len(runs)


def test_a_run_that_somebody_retries_meanwhile_stays(
    prefect: Prefect, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = prefect.make_order(140)
    request = PrefectClient.request

    async def retried_first(self: Any, method: Any, path: Any, **more: Any) -> Any:
        if "bulk_delete" in path:
            running = {"type": "RUNNING"}
            prefect.post(f"/flow_runs/{runs[0]}/set_state", state=running, force=True)
        return await request(self, method, path, **more)

    monkeypatch.setattr(PrefectClient, "request", retried_first)
    assert delete(prefect, 140) == {140}
    assert prefect.left_of(runs)["flow_run"] == 1
    assert prefect.left_of(runs[:1])["task_run"] == 4


class Killed(BaseException):
    """The process is gone: nothing of it handles this."""


def killed_at(n_calls: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """From now on this process dies before its call of this number; how many came."""
    request = PrefectClient.request
    came = 0

    async def counted(self: Any, *args: Any, **more: Any) -> Any:
        nonlocal came
        if came == n_calls:
            raise Killed
        came += 1
        return await request(self, *args, **more)

    monkeypatch.setattr(PrefectClient, "request", counted)
    return lambda: came


def test_wherever_it_is_killed_the_next_process_finds_the_rest(
    prefect: Prefect, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_calls = 0
    while True:
        order_id = 200 + n_calls
        runs = prefect.make_order(order_id)
        with monkeypatch.context() as patch:
            killed_at(n_calls, patch)
            try:
                delete(prefect, order_id)
                was_killed = False
            except Killed:
                was_killed = True
        assert delete(prefect, order_id) == set()
        assert prefect.is_gone(runs), (n_calls, prefect.left_of(runs))
        if not was_killed:
            break
        n_calls += 1
    assert n_calls > 5  # it had calls between which to die


def test_prefect_away_is_said_and_nothing_is_lost(
    prefect: Prefect, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = prefect.make_order(300)
    before = prefect.left_of(runs)
    relay = Relay(int(httpx.URL(prefect.url).port or 0))
    url = f"http://127.0.0.1:{relay.port}/api"
    try:
        relay.cut()
        # Its client would try for more than a minute by itself.
        no_retries = SimpleNamespace(value=lambda: 0)
        monkeypatch.setattr(base, "PREFECT_CLIENT_MAX_RETRIES", no_retries)
        with pytest.raises(PrefectAway):
            delete(prefect, 300, url=url)
        assert prefect.left_of(runs) == before
        relay.mend()
        assert delete(prefect, 300, url=url) == set()
        assert prefect.is_gone(runs)
    finally:
        relay.close()


def test_of_a_schedules_runs_the_newest_stay(prefect: Prefect) -> None:
    tags = ["statistics", "schedule-7"]
    runs = [prefect.make_run("scheduled-statistics", tags) for _ in range(5)]
    next_time = prefect.make_run("scheduled-statistics", tags, state="SCHEDULED")
    elsewhere = prefect.make_run("hospital-statistics", tags)

    async def run() -> None:
        async with open_runs(prefect.url, prefect.auth) as asked:
            now = datetime.now(UTC)
            await asked.delete_ended_of_schedules(keep=2, before=now)

    asyncio.run(run())
    assert prefect.is_gone(runs[:3])
    for kept in (*runs[3:], next_time, elsewhere):
        assert prefect.left_of([kept])["flow_run"] == 1


def test_many_orders_are_more_than_one_page(prefect: Prefect) -> None:
    orders = {400 + n: prefect.make_order(400 + n) for n in range(20)}
    running = prefect.make_run("hospital-train", ["order-403"], state="RUNNING")
    assert delete(prefect, *orders) == {403}
    for runs in orders.values():
        assert prefect.is_gone(runs)
    assert prefect.left_of([running])["flow_run"] == 1


def test_many_orders_under_way_are_looked_after_at_once(prefect: Prefect) -> None:
    """SQLite takes no list of more than 127 tags."""
    tags = ["order-999", "lr"]
    prefect.make_run("train-order", tags, state="CANCELLED")

    async def run() -> set[int]:
        async with open_runs(prefect.url, prefect.auth) as runs:
            return await runs.cancelled(range(700, 1000))

    assert asyncio.run(run()) == {999}


def test_an_order_that_began_without_a_hospital_is_not_cancelled_by_its_run(
    prefect: Prefect,
) -> None:
    """That run ends by itself, while the others go on."""
    for order_id, message in ((501, "late"), (502, "late."), (503, "")):
        tags = [f"order-{order_id}", "hospital", "hospital-5"]
        prefect.make_run("hospital-train", tags, state="CANCELLED", message=message)

    async def run() -> set[int]:
        async with open_runs(prefect.url, prefect.auth) as runs:
            return await runs.cancelled(range(500, 510))

    assert asyncio.run(run()) == {502, 503}


KEPT, HALF, TOGETHER = 20, 60, 10


@pytest.mark.timeout(1800)
def test_with_20_of_120_orders_kept_the_file_stays_as_large_as_after_60(
    prefect: Prefect,
) -> None:
    """SQLite gives the pages of what was deleted to what is written next."""
    orders: list[int] = []

    def run_orders(n_orders: int) -> int:
        for _ in range(n_orders):
            number = 70_000 + len(orders)
            prefect.make_run("train-order", [f"order-{number}"])
            orders.append(number)
            if number % TOGETHER == 0 and len(orders) > KEPT:
                old = orders[:-KEPT][-TOGETHER:]
                assert delete(prefect, *old) == set()
        return prefect.database.stat().st_size

    half = run_orders(HALF)
    assert run_orders(HALF) <= 1.1 * half
    found = "SELECT count(*) FROM flow_run WHERE tags LIKE '%order-70___%'"
    ((n_left,),) = prefect.rows(found)
    assert KEPT <= n_left <= KEPT + TOGETHER
