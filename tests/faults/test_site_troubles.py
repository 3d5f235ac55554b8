"""A hospital's full disk, a clock that is wrong, a link that is cut: told, waited for,
and over within seconds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.site.vault import Vault
from tests.conftest import ROOT
from tests.faults.conftest import Faulty, thirty_rounds
from tests.faults.disks import small_disk
from tests.faults.processes import SITES, kill, part, wait_until
from tests.faults.relay import relays

pytestmark = [pytest.mark.slow, pytest.mark.thorough, pytest.mark.timeout(300)]

CUT_SECONDS = 5.0


def end_agent_of_2(fragile: Faulty) -> None:
    """The one that came with the federation, if it is still there."""
    pid = part(fragile.up, 2)
    if pid is not None:
        kill(pid)
    wait_until(lambda: not hospital_2(fragile)["online"], "the agent before is gone")


@contextlib.contextmanager
def agent_of_2(
    fragile: Faulty,
    folder: Path,
    *,
    settings: dict[str, str] | None = None,
    environment: dict[str, str] | None = None,
) -> Iterator[Path]:
    """Hospital 2's agent with other settings, in place of the one that was there; its
    log.
    """
    end_agent_of_2(fragile)
    site, log = folder / SITES[2], folder / "agent.log"
    shutil.copytree(fragile.sites / SITES[2], site)
    lines = [f'{key} = "{value}"\n' for key, value in (settings or {}).items()]
    (site / "settings.toml").write_text(
        "".join(lines) + (site / "settings.toml").read_text()
    )
    command = [sys.executable, "-m", "deployments.agent", "start", "--site", str(site)]
    variables = {
        **fragile.env,
        "PREFECT_LOGGING_LEVEL": "WARNING",
        **(environment or {}),
    }
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=variables, stdout=file, stderr=file
        )
    try:
        wait_until(
            lambda: hospital_2(fragile)["online"], "hospital 2 online", seconds=90
        )
        yield log
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)


def hospital_2(fragile: Faulty) -> dict[str, Any]:
    rows = fragile.operator.get("/hospitals").json()["data"]["hospitals"]
    (found,) = [row for row in rows if row["user_id"] == 2]
    return dict(found)


def causes(fragile: Faulty, order_id: int) -> list[tuple[int, str]]:
    return [
        (one["user_id"], one["cause"]) for one in fragile.order(order_id)["waiting_for"]
    ]


def when_taken(fragile: Faulty, order_id: int, user_id: int) -> float:
    """When a hospital's run was seen to be no longer one that waits for its agent, by
    this machine's steady clock.
    """
    name = f"order-{order_id}-hospital-{user_id}"
    wait_until(
        lambda: fragile.runs(order_id).get(name, "SCHEDULED") != "SCHEDULED",
        f"{name} is taken",
        seconds=90,
    )
    return time.monotonic()


def cancel(fragile: Faulty, *order_ids: int) -> None:
    with fragile.client(4) as client:
        for order_id in order_ids:
            assert client.post(f"/orders/{order_id}/cancel").status_code == 200


def test_a_link_that_is_cut_leaves_one_line_and_one_when_it_is_back(
    fragile: Faulty, tmp_path: Path
) -> None:
    with relays(fragile.api_port) as (link,):
        settings = {"coordinator_url": f"http://127.0.0.1:{link.port}"}
        with agent_of_2(fragile, tmp_path, settings=settings) as log:
            running = [fragile.submit(thirty_rounds(max_iter=1000)) for _ in range(2)]
            for order_id in running:
                fragile.until_round(order_id, 2)
            n_before = log.stat().st_size
            link.cut()
            time.sleep(CUT_SECONDS)  # how long the link is down is what is tested
            link.mend()
            for order_id in running:
                fragile.until_round(order_id, int(fragile.order(order_id)["round"]) + 3)
            wait_until(
                lambda: b"answers again" in log.read_bytes()[n_before:],
                "the line that all is well",
                seconds=20,
            )
            said = log.read_bytes()[n_before:].decode().splitlines()
            cancel(fragile, *running)
            fragile.assert_no_folder(running[0], 2)
    usual = ("consilium.rounds", "consilium.tasks", "consilium.times")
    lines = [line for line in said if not any(name in line for name in usual)]
    assert len(lines) == 2, said
    assert "The coordinator does not answer" in lines[0]
    assert "The coordinator answers again after" in lines[1]


@pytest.mark.parametrize("ahead_seconds", [-86_400, -45, 3600])
def test_a_wrong_clock_delays_nothing_and_is_told(
    fragile: Faulty, tmp_path: Path, ahead_seconds: int
) -> None:
    """Prefect's worker asks for what is due by its own clock, of which nothing is due
    at a site a day behind.
    """
    path = os.pathsep.join([str(Path(__file__).parent / "wrong_clock"), str(ROOT)])
    wrong = {"PYTHONPATH": path, "CONSILIUM_TEST_CLOCK_SECONDS": str(ahead_seconds)}
    with agent_of_2(fragile, tmp_path, environment=wrong):
        (trouble,) = wait_until(
            lambda: hospital_2(fragile)["troubles"], "the clock is told", seconds=10
        )
        assert trouble["cause"] == "clock"
        told = int(trouble["message"].split(" seconds ")[0].rsplit(" ", 1)[1])
        assert abs(told - abs(ahead_seconds)) <= 2
        assert ("ahead of" if ahead_seconds > 0 else "behind") in trouble["message"]
        order_id = fragile.submit(thirty_rounds(max_iter=3))
        taken = {user: when_taken(fragile, order_id, user) for user in (3, 2)}
        assert taken[2] - taken[3] < 10, (
            "half a minute is what Prefect's own polling would take"
        )
        assert fragile.wait_for(order_id)["state"] == "success"
        parts = fragile.operator.get(f"/orders/{order_id}/timeline").json()["data"][
            "parts"
        ]
        assert 2 in {one["user_id"] for one in parts}


def test_a_hospitals_full_disk_is_told_and_its_order_goes_on(
    fragile: Faulty, tmp_path: Path
) -> None:
    """With no byte free an order neither ends nor is called at work; with room again it
    goes on within seconds.
    """
    with small_disk(tmp_path / "disk") as disk:
        end_agent_of_2(fragile)
        state = disk.folder / "state"
        subprocess.run(
            ["cp", "-a", str(fragile.home / "sites" / SITES[2]), str(state)], check=True
        )
        with agent_of_2(fragile, tmp_path, settings={"state": str(state)}) as log:
            order_id = fragile.submit(thirty_rounds(max_iter=60))
            fragile.until_round(order_id, 3)
            disk.fill()
            wait_until(
                lambda: causes(fragile, order_id) == [(2, "disk")],
                "the disk as the cause",
            )
            assert (
                "disk of suzhou-szslyy is full"
                in fragile.order(order_id)["waiting_for"][0]["message"]
            )
            assert [one["cause"] for one in hospital_2(fragile)["troubles"]] == ["disk"]
            later = fragile.submit(thirty_rounds(max_iter=2))
            wait_until(
                lambda: (2, "disk") in causes(fragile, later),
                "the disk as the cause of the later order",
            )
            time.sleep(
                12
            )  # longer than any pause between two tries: the order must wait, not end
            assert fragile.status(order_id) == "running"
            at = int(fragile.order(order_id)["round"])
            disk.empty()
            began = time.monotonic()
            fragile.until_round(order_id, at + 1)
            assert time.monotonic() - began < 8
            assert fragile.wait_for(order_id)["state"] == "success"
            assert fragile.wait_for(later)["state"] == "success"
            wait_until(
                lambda: not hospital_2(fragile)["troubles"], "nothing is wrong any more"
            )
            said = [
                line
                for line in log.read_text().splitlines()
                if "The disk is full" in line
            ]
            assert len(said) == 1, said
            vaults = [
                Vault(state / "vault"),
                *(fragile.vault(SITES[user]) for user in (3, 4)),
            ]
            assert len({str(vault.model(order_id)["layers"]) for vault in vaults}) == 1
