"""Agents that have one address and one token, over a real federation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from deployments.demo.training import document_order
from protocol.machine.disk import write_durably
from tests.conftest import ROOT, RunningFederation
from tests.faults.processes import children, part, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

SITE = "suzhou-szslyy"
POOL = "/prefect/api/work_pools/hospital-2"


def environment_of(pid: int) -> list[str]:
    """What a process was started with."""
    text = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    return text.split("\0")


def rotate(federation: RunningFederation, hospital: int) -> str:
    """The new token; the one before is no longer taken."""
    command = [sys.executable, "-m", "deployments.server", "token", "rotate", "agent"]
    return subprocess.run(
        [*command, "--user-id", str(hospital)],
        cwd=ROOT,
        env=federation.env,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout.strip()


def test_a_rotated_token_works_without_a_restart(federation: RunningFederation) -> None:
    assert federation.process is not None
    agent = part(federation.process.pid, 2)
    with federation.agent_client(SITE) as old:
        assert old.get(POOL).status_code == 200
        token = rotate(federation, 2)
        assert old.get(POOL).status_code == 403
    path = federation.home / "sites" / SITE / "token"
    write_durably(path, token.encode())
    os.chmod(path, 0o600)
    order_id = federation.submit(document_order(method="Mask"))
    order = federation.wait_for(order_id)
    assert order["state"] == "success", order["refusal"]
    assert part(federation.process.pid, 2) == agent
    with federation.prefect() as prefect:
        assert n_ended(prefect, f"order-{order_id}-hospital-2")


def n_ended(prefect: httpx.Client, run: str) -> int:
    """How many steps of a hospital's run Prefect has the end of."""
    wanted = {
        "flow_runs": {"name": {"any_": [run]}},
        "task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
    }

    def count() -> int:
        found: int = prefect.post("/task_runs/count", json=wanted).json()
        return found

    counted: int = wait_until(count, "steps that have ended", seconds=60)
    return counted


def test_an_agent_has_nothing_of_prefects(federation: RunningFederation) -> None:
    """Not its string, by environment or file, and not its address."""
    assert federation.process is not None
    auth = (federation.home / "coordinator" / "prefect_auth").read_text().strip()
    for hospital in (2, 3, 4):
        pid = part(federation.process.pid, hospital)
        assert pid is not None
        processes = [pid, *children(pid)]
        assert len(processes) > 1, "its fork server"
        variables = [one for process in processes for one in environment_of(process)]
        # What forks have set since they began does not stand there.
        assert any(one.startswith("CONSILIUM_HOME=") for one in variables)
        assert not [one for one in variables if auth in one or "AUTH_STRING" in one]
    for path in (federation.home / "sites").rglob("*"):
        if path.is_file():
            assert auth.encode() not in path.read_bytes(), path
