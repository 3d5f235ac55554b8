"""Cancelling, and hospitals that are away: what dies here stays dead until the test
starts it again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT
from tests.faults import processes
from tests.faults.conftest import Faulty, thirty_rounds
from tests.faults.processes import SITES, kill, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@contextlib.contextmanager
def started_again(
    fragile: Faulty, command: list[str], name: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A part, started as its own people would; it stays until the block ends."""
    environment = {**fragile.env, "PREFECT_LOGGING_LEVEL": "WARNING"}
    with (fragile.home / f"{name}-again.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) in (0, -signal.SIGTERM)


def agent_command(user_id: int) -> list[str]:
    return [
        "deployments.agent",
        "start",
        "--site",
        str(ROOT / "deployments" / "sites" / SITES[user_id]),
    ]


def cancel(fragile: Faulty, order_id: int) -> None:
    with fragile.client(4) as client:
        assert (
            client.post(f"/orders/{order_id}/cancel").json()["data"]["state"]
            == "cancelled"
        )
    assert fragile.status(order_id) == "cancelled"


def waiting_for(fragile: Faulty, order_id: int) -> list[int]:
    return [entry["user_id"] for entry in fragile.order(order_id)["waiting_for"]]


def test_cancel_in_mid_training(fragile: Faulty) -> None:
    order_id = fragile.submit(thirty_rounds(max_iter=1000))
    fragile.until_round(order_id, 3)
    cancel(fragile, order_id)
    fragile.assert_nothing_is_left(order_id, "CANCELLED")
    with fragile.client(4) as client:
        assert client.post(f"/orders/{order_id}/cancel").status_code == 200, (
            "again is fine"
        )


@pytest.mark.parametrize("whose", ["coordinator", "hospital-3"])
def test_cancel_in_prefect(fragile: Faulty, whose: str) -> None:
    order_id = fragile.submit(thirty_rounds(max_iter=1000))
    fragile.until_round(order_id, 2)
    name = (
        f"order-{order_id}" if whose == "coordinator" else f"order-{order_id}-{whose}"
    )
    (run,) = [run for run in fragile.run_details(order_id) if run["name"] == name]
    body = {"state": {"type": "CANCELLING"}, "force": False}
    assert (
        fragile.prefect_client.post(
            f"/flow_runs/{run['id']}/set_state", json=body
        ).status_code
        < 300
    )
    wait_until(lambda: fragile.status(order_id) == "cancelled", "cancelled", seconds=10)
    fragile.assert_nothing_is_left(order_id, "CANCELLED")


def test_the_same_key_is_the_same_order_and_other_sql_is_not(fragile: Faulty) -> None:
    headers, body = {"Idempotency-Key": str(uuid.uuid4())}, thirty_rounds(max_iter=1)
    other = {
        **body,
        "data_info": {**body["data_info"], "4": "SELECT * FROM data.breast_homo_test"},
    }
    with fragile.client(4) as client:
        first, second = (
            client.post("/model/train", json=body, headers=headers).json()
            for _ in range(2)
        )
        assert (first["code"], second["code"]) == (200, 200)
        assert first["data"]["order_id"] == second["data"]["order_id"]
        assert (
            client.post("/model/train", json=other, headers=headers).status_code == 409
        )
    assert fragile.wait_for(first["data"]["order_id"])["state"] == "success"


def test_a_hospital_away_from_before_submission_until_mid_order(
    fragile: Faulty,
) -> None:
    """One agent's absences: an order cancelled while pending, one that waits, and one
    that it leaves in the middle.
    """
    kill(fragile.pid(2))
    with fragile.client("operator") as client:

        def is_away() -> bool:
            hospitals = client.get("/hospitals").json()["data"]["hospitals"]
            return [row["user_id"] for row in hospitals if not row["online"]] == [2]

        wait_until(is_away, "hospital 2 offline", seconds=5)

    pending = fragile.submit(thirty_rounds())
    assert waiting_for(fragile, pending) == [2]
    cancel(fragile, pending)
    fragile.until_runs_are("CANCELLED", pending, n_runs=1)
    assert fragile.messages(pending) == 0

    with fragile.client(4) as client:
        answer = client.post("/model/train", json=thirty_rounds()).json()
    assert answer["data"]["data_volum"] == {"2": None, "3": None, "4": None}
    assert "waits for its places. suzhou-szslyy is away" in answer["message"]
    waiting = answer["data"]["order_id"]
    assert fragile.status(waiting) == "pending"
    for name in ("worker", 3, 4):
        fragile.assert_no_flow(name)  # an order that waits keeps no process

    with started_again(fragile, agent_command(2), "agent-2") as agent:
        fragile.until_round(waiting, 3)
        kill(agent.pid)
        agent.wait()
        agent.returncode = -signal.SIGTERM
        wait_until(
            lambda: waiting_for(fragile, waiting) == [2], "waiting for hospital 2"
        )
        assert fragile.status(waiting) == "running"
        _submit_while_away_and_cancel(fragile)
        with started_again(fragile, agent_command(2), "agent-2"):
            assert fragile.wait_for(waiting)["state"] == "success"
            fragile.until_runs_are("COMPLETED", waiting)
            cancelled = fragile.submit(thirty_rounds(max_iter=1000))
            fragile.until_round(cancelled, 2)
    # its agent has gone in mid-order, by SIGTERM this time
    wait_until(lambda: waiting_for(fragile, cancelled) == [2], "waiting for hospital 2")
    assert fragile.vault(SITES[2]).orders() == [cancelled]
    cancel(fragile, cancelled)
    fragile.until_runs_are("CANCELLED", cancelled)
    with started_again(fragile, agent_command(2), "agent-2"):
        fragile.assert_no_folder(cancelled, 2)


def _submit_while_away_and_cancel(fragile: Faulty) -> None:
    """The run of an order that waits for its places is cancelled in Prefect: nothing of
    it is left.
    """
    order_id = fragile.submit(thirty_rounds())
    (run,) = fragile.run_details(order_id)
    body = {"state": {"type": "CANCELLED"}, "force": True}
    assert (
        fragile.prefect_client.post(
            f"/flow_runs/{run['id']}/set_state", json=body
        ).status_code
        < 300
    )
    wait_until(lambda: fragile.status(order_id) == "cancelled", "cancelled", seconds=10)
    fragile.until_runs_are("CANCELLED", order_id, n_runs=1)


def test_prefect_away_at_submission(fragile: Faulty) -> None:
    """The order is kept, shown as pending, and starts when Prefect is back."""
    old = fragile.pid("prefect")
    command = [part.decode() for part in _arguments(old)]
    environment = dict(line.split("=", 1) for line in _environment(old))
    kill(old)
    processes.wait_until_gone([old])
    with fragile.client(4) as client:
        answer = client.post("/model/train", json=thirty_rounds(max_iter=3)).json()
    assert answer["code"] == 200, answer
    order_id = answer["data"]["order_id"]
    assert fragile.status(order_id) == "pending"
    with (fragile.home / "prefect-again.log").open("ab") as log:
        again = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=log, stderr=log
        )
    try:
        with started_again(fragile, agent_command(2), "agent-2"):
            assert fragile.wait_for(order_id)["state"] == "success"
    finally:
        again.terminate()
        again.wait(timeout=20)


def _arguments(pid: int) -> list[bytes]:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read().split(b"\0")[:-1]


def _environment(pid: int) -> list[str]:
    with open(f"/proc/{pid}/environ") as file:
        return [line for line in file.read().split("\0") if "=" in line]


def test_the_logs(fragile: Faulty) -> None:
    fragile.assert_quiet_logs()


def test_a_signal_while_it_still_starts(tmp_path: Path) -> None:
    """`up` ends with 0 and leaves nothing, also where it was only starting."""
    early = Faulty(tmp_path / "home")
    process = subprocess.Popen(
        [sys.executable, "-m", "deployments.local.command", "up"],
        cwd=ROOT,
        env=early.env,
    )
    early.process = process
    wait_until(
        lambda: processes.part(process.pid, "api"), "the API's process", seconds=60
    )
    below = processes.descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0
    processes.wait_until_gone(below)
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{early.url}/health", trust_env=False)
