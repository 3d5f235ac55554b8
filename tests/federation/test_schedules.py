"""A schedule over a real federation: Prefect says when, the hospitals answer each time,
and what was missed is told.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from tests.conftest import RunningFederation
from tests.faults.processes import part, wait_until

pytestmark = pytest.mark.slow

NAMES = {2: "suzhou-szslyy", 3: "zhejiang-zdey", 4: "shanxi-xbfy"}
QUESTION = {
    "data_providers": [
        {
            "name": name,
            "data_path": "schedules/visits.csv",
            "data_type": "csv",
            "key_column": "cost",
        }
        for name in NAMES.values()
    ],
    "result_receivers": ["shanxi-xbfy"],
    "method": "sum",
    "result_alias": "costs",
}


def write_visits(federation: RunningFederation) -> int:
    """20 rows at each hospital; the sum of all."""
    for user, name in NAMES.items():
        folder = federation.home / "sites" / name / "data" / "schedules"
        folder.mkdir(parents=True, exist_ok=True)
        rows = "\n".join(f"{i},{user * 100 + i}" for i in range(20))
        (folder / "visits.csv").write_text(f"id,cost\n{rows}\n")
    return sum(user * 100 + i for user in NAMES for i in range(20))


def make(client: httpx.Client, **schedule: Any) -> int:
    answer = client.post(
        "/statistics/schedules", json={**QUESTION, "schedule": schedule}
    ).json()
    assert answer["code"] == 200, answer
    return int(answer["data"]["schedule_id"])


def runs(client: httpx.Client, schedule_id: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(
        "/statistics/history", params={"schedule_id": schedule_id, "limit": 500}
    ).json()["data"]["runs"]
    return found


def wait_for(
    client: httpx.Client, schedule_id: int, n: int, state: str
) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        found = [run for run in runs(client, schedule_id) if run["state"] == state]
        if len(found) >= n:
            return found
        time.sleep(0.5)
    raise AssertionError(f"not {n} runs in state {state}: {runs(client, schedule_id)}")


def when_none_is_under_way(
    client: httpx.Client, schedule_id: int
) -> list[dict[str, Any]]:
    """All runs, once each has ended.

    One that fell due while another was under way is skipped and has no order.
    """

    def ended() -> list[dict[str, Any]]:
        found = runs(client, schedule_id)
        return [] if {run["state"] for run in found} & {"waiting", "running"} else found

    all_runs: list[dict[str, Any]] = wait_until(
        ended, "no run is under way", seconds=150
    )
    return all_runs


@contextlib.contextmanager
def still(federation: RunningFederation, user: int) -> Iterator[None]:
    """This hospital's agent does nothing."""
    assert federation.process is not None
    agent = part(federation.process.pid, user)
    assert agent is not None
    os.kill(agent, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(agent, signal.SIGCONT)


@pytest.mark.thorough
def test_each_time_is_answered_and_a_pause_is_one(
    federation: RunningFederation,
) -> None:
    total = write_visits(federation)
    with federation.client(4) as client:
        schedule_id = make(client, interval_seconds=10)
        newest, first = wait_for(client, schedule_id, 2, "success")[:2]
        path = f"/statistics/schedules/{schedule_id}"
        assert (
            client.patch(path, json={"active": False}).json()["data"]["next_runs"] == []
        )
        paused = datetime.now(UTC)
        assert first["rows_used"] == {"2": 20, "3": 20, "4": 20}
        order_id = first["order_id"]
        written = federation.home / "sites" / "shanxi-xbfy" / "results" / first["path"]
        name, value = written.read_text().splitlines()
        assert (name, float(value)) == ("costs", total)
        assert newest["order_id"] > order_id
        time.sleep(15)
        due = [
            datetime.fromisoformat(run["scheduled"])
            for run in when_none_is_under_way(client, schedule_id)
        ]
        assert max(due) < paused
        with federation.prefect() as prefect:
            named = {"deployments": {"name": {"any_": [f"schedule-{schedule_id}"]}}}
            (deployment,) = prefect.post("/deployments/filter", json=named).json()
        assert deployment["parameters"] == {"schedule_id": schedule_id}
        assert client.delete(path).status_code == 200
        with federation.prefect() as prefect:
            assert prefect.post("/deployments/filter", json=named).json() == []
        assert client.get(f"/orders/{order_id}").json()["data"]["state"] == "success"


@pytest.mark.thorough
def test_who_cancels_its_run_in_prefect_cancels_the_order(
    federation: RunningFederation,
) -> None:
    """An order that waits for an agent that stands still ends with the run of its
    schedule.
    """
    write_visits(federation)
    with (
        still(federation, 3),
        federation.client(4) as client,
        federation.prefect() as prefect,
    ):
        schedule_id = make(client, interval_seconds=10)
        (waiting,) = wait_for(client, schedule_id, 1, "waiting")
        (skipped, *_) = wait_for(client, schedule_id, 1, "skipped")
        assert f"Order {waiting['order_id']}" in skipped["sentence"]
        tagged = {
            "flow_runs": {
                "tags": {"all_": [f"order-{waiting['order_id']}", "auto-scheduled"]}
            }
        }
        (run,) = wait_until(
            lambda: prefect.post("/flow_runs/filter", json=tagged).json(),
            "the run is tagged with its order",
        )
        client.patch(f"/statistics/schedules/{schedule_id}", json={"active": False})
        cancelling = {"state": {"type": "CANCELLING"}}
        assert (
            prefect.post(f"/flow_runs/{run['id']}/set_state", json=cancelling).json()[
                "status"
            ]
            == "ACCEPT"
        )
        assert federation.wait_for(waiting["order_id"])["state"] == "cancelled"
        wait_until(
            lambda: (
                prefect.get(f"/flow_runs/{run['id']}").json()["state_type"]
                == "CANCELLED"
            ),
            "the run is cancelled too",
            seconds=90,
        )
