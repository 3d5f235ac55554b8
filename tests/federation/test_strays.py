"""Flow runs that are not an order's own, started at Prefect by whoever can: they end,
and the order goes on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from agents.site.vault import Vault
from deployments.demo.training import document_order
from tests.conftest import RunningFederation
from tests.faults.processes import flow_processes, part, wait_until

pytestmark = pytest.mark.slow

NOBODYS = 987_654
PLACES = [
    ("hospital-statistics", "hospital-2"),
    ("infer", "hospital-2"),
    ("hospital-train", "hospital-2"),
    ("hospital-train-approval", "hospital-2"),
    ("train-order", "train-order"),
    ("joint-statistics", "joint-statistics"),
]


def start(prefect: httpx.Client, flow: str, deployment: str, order_id: int) -> str:
    found = prefect.get(f"/deployments/name/{flow}/{deployment}").json()["id"]
    asked = {"parameters": {"order_id": order_id}, "state": {"type": "SCHEDULED"}}
    return str(
        prefect.post(f"/deployments/{found}/create_flow_run", json=asked).json()["id"]
    )


def let_workers_look(federation: RunningFederation) -> None:
    """Those of hospital 2 and of the coordinator look at Prefect when they hear of an
    order; by themselves only every 30 seconds. This one is of two hospitals, which
    their policies refuse.
    """
    body = {**document_order(method="Mask"), "party_id": [2]}
    body["data_info"] = {user: body["data_info"][user] for user in ("2", "4")}
    with federation.client(4) as client:
        answer = client.post("/model/train", json=body)
    assert answer.json()["data"]["error"]["code"] == "min_hospitals", answer.text


def until_final(prefect: httpx.Client, run: str) -> dict[str, Any]:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        state: dict[str, Any] = prefect.get(f"/flow_runs/{run}").json()["state"]
        if state["type"] in ("FAILED", "CRASHED", "COMPLETED", "CANCELLED"):
            return state
        time.sleep(0.2)
    raise AssertionError(f"run {run} has not ended: {state}")


@contextlib.contextmanager
def still(federation: RunningFederation, user: int) -> Iterator[None]:
    """This hospital's flows do nothing: an order under way does not end, however long
    this lasts.
    """
    assert federation.process is not None
    agent = part(federation.process.pid, user)
    assert agent is not None
    stopped = flow_processes(agent)
    assert stopped
    send(stopped, signal.SIGSTOP)
    try:
        yield
    finally:
        send(stopped, signal.SIGCONT)


def send(processes: list[int], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(
            ProcessLookupError
        ):  # an earlier order's, that has ended a moment ago
            os.kill(process, number)


@pytest.mark.thorough
def test_a_run_of_another_kind_number_or_maker_ends_alone(
    federation: RunningFederation,
) -> None:
    """Started with the number of an order under way, with one that no order has, and a
    second time.
    """
    body = document_order(method="Mask", rounds=30)
    body["model_params"]["eps"] = 0
    order_id = federation.submit(body)
    wait_until(
        lambda: federation.order(order_id)["round"],
        "the order is under way",
        seconds=120,
    )
    with federation.prefect() as prefect, still(federation, 3):
        runs = {place: start(prefect, *place, order_id) for place in PLACES}
        runs |= {(*place, NOBODYS): start(prefect, *place, NOBODYS) for place in PLACES}
        let_workers_look(federation)
        states = {place: until_final(prefect, run) for place, run in runs.items()}
        assert federation.order(order_id)["state"] == "running"
    assert {state["type"] for state in states.values()} == {"FAILED"}, states
    assert states["hospital-train", "hospital-2"]["message"] == "stray"
    assert states["infer", "hospital-2", NOBODYS]["message"] == "stray"
    coordinators = states["train-order", "train-order", NOBODYS]["message"]
    assert f"no order {NOBODYS}" in coordinators
    vault = Vault(federation.home / "sites" / "suzhou-szslyy" / "vault")
    assert not vault.has_ended(NOBODYS), "its number may still be an order's"
    ended = federation.wait_for(order_id)
    assert ended["state"] == "success", ended["refusal"]


def test_a_run_in_another_hospitals_pool_ends_alone(
    federation: RunningFederation,
) -> None:
    """Hospital 3's deployment, moved into the pool of hospital 2, which is no party of
    the order that it is run for.
    """
    with federation.client("operator") as client:
        external = client.post("/orders", json={"kind": "external"}).json()["order_id"]
    with federation.prefect() as prefect:
        moved = prefect.get("/deployments/name/hospital-train/hospital-3").json()
        try:
            assert (
                prefect.patch(
                    f"/deployments/{moved['id']}", json={"work_pool_name": "hospital-2"}
                ).status_code
                < 300
            )
            stray = start(prefect, "hospital-train", "hospital-3", external)
            let_workers_look(federation)
            state = until_final(prefect, stray)
        finally:
            back = {"work_pool_name": "hospital-3"}
            assert (
                prefect.patch(f"/deployments/{moved['id']}", json=back).status_code
                < 300
            )
    assert state["type"] == "FAILED"
    assert state["message"] == "stray"
