"""The coordinator's disk is full, Prefect's database on it too: told, nothing half
done, and over within seconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import NO_AUTHORITY
from tests.faults.conftest import Faulty, running, thirty_rounds
from tests.faults.disks import SmallDisk, small_disk
from tests.faults.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.thorough, pytest.mark.timeout(400)]

NEEDED_BYTES = 4 * 2**20
SOON_SECONDS = 12.0
"""Prefect's own polling comes every half minute."""


@pytest.fixture(scope="module")
def filling(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Faulty, SmallDisk]]:
    """A federation whose coordinator and Prefect live on a small disk, its hospitals on
    another.
    """
    folder = tmp_path_factory.mktemp("filling")
    with small_disk(folder / "home") as disk:
        sites, elsewhere = disk.folder / "sites", folder / "sites"
        for path in (sites, elsewhere):
            path.mkdir(mode=0o700)
        subprocess.run(["mount", "--bind", str(elsewhere), str(sites)], check=True)
        federation = Faulty(
            disk.folder, environment={"CONSILIUM_LEAST_FREE_BYTES": str(NEEDED_BYTES)}
        )
        try:
            for started in running(federation):
                yield started, disk
        finally:
            subprocess.run(["umount", "-l", str(sites)], check=True)


def health(federation: Faulty) -> httpx.Response:
    return httpx.get(
        f"{federation.url}/health", timeout=10, verify=NO_AUTHORITY, trust_env=False
    )


def prefect_has_no_room(federation: Faulty) -> bool:
    """Whether Prefect fails to keep what it is sent, the smallest thing too; SQLite
    writes into its old log first.
    """
    for size in (2**18, 2**12, 1, 1):
        ballast = {"key": "ballast", "data": "x" * size}
        # Prefect ends connections, too, when it can write nothing at all: no answer is
        # a failure, and the next smaller thing is tried.
        with contextlib.suppress(httpx.HTTPError):
            answer = federation.prefect_client.post("/artifacts/", json=ballast)
            if answer.status_code < 500:
                return False
    return True


def orders(federation: Faulty) -> list[int]:
    return [
        one["order_id"]
        for one in federation.operator.get("/orders").json()["data"]["orders"]
    ]


def test_a_running_order_waits_and_a_new_one_is_not_made(
    filling: tuple[Faulty, SmallDisk],
) -> None:
    federation, disk = filling
    order_id = federation.submit(thirty_rounds(max_iter=60))
    federation.until_round(order_id, 3)
    before = orders(federation)
    disk.fill()
    wait_until(lambda: health(federation).status_code == 503, "not ready")
    answer = health(federation)
    assert answer.json()["data"]["cause"] == "disk"
    assert answer.json()["data"]["needed_bytes"] == NEEDED_BYTES
    with federation.client(4) as client:
        refused = client.post("/model/train", json=thirty_rounds(max_iter=1))
    assert refused.status_code == 503
    assert "The coordinator's disk is full" in refused.json()["message"]
    assert orders(federation) == before

    def causes() -> set[tuple[str, str]]:
        return {
            (one["name"], one["cause"])
            for one in federation.order(order_id)["waiting_for"]
        }

    wait_until(
        lambda: causes() == {("coordinator", "disk")},
        "the coordinator's disk as the cause",
    )
    time.sleep(10)  # longer than any pause between two tries
    hospitals = federation.operator.get("/hospitals").json()["data"]["hospitals"]
    assert [row["user_id"] for row in hospitals if row["online"]] == [2, 3, 4]
    at = int(federation.order(order_id)["round"])
    disk.empty()
    began = time.monotonic()
    federation.until_round(order_id, at + 1)
    assert time.monotonic() - began < SOON_SECONDS
    wait_until(lambda: health(federation).status_code == 200, "ready again", seconds=10)
    assert federation.wait_for(order_id)["state"] == "success"


@contextlib.contextmanager
def log_that_only_grows(federation: Faulty) -> Iterator[None]:
    """Prefect's database with a reader that stays.

    SQLite begins its log again from the front whenever it has been copied, and needs no
    room for a while then; not while a reader still holds an earlier state.
    """
    (database,) = federation.home.rglob("prefect.db")
    reader = sqlite3.connect(database, isolation_level=None)
    try:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM flow_run").fetchone()
        yield
    finally:
        reader.close()


def order_not_taken(federation: Faulty, disk: SmallDisk) -> int | None:
    """An order whose run the worker has heard of and could not take, since Prefect can
    write nothing; none where Prefect found room after all.

    The disk is full when this returns an order, and empty when it does not.
    """
    worker = federation.pid("worker")
    with log_that_only_grows(federation):
        os.kill(worker, signal.SIGSTOP)
        try:
            order_id = federation.submit(thirty_rounds(max_iter=2))
            assert federation.order(order_id)["prefect_run"]
            disk.fill()
            wait_until(
                lambda: prefect_has_no_room(federation),
                "Prefect has used up the room within its own files",
            )
        finally:
            os.kill(worker, signal.SIGCONT)
        # The worker has heard and tried; what it says of that finds no room either.
        until = time.monotonic() + 6
        while time.monotonic() < until:
            disk.fill()  # again: of what others on this disk let go
            time.sleep(0.1)
        if federation.status(order_id) == "pending":
            return order_id
    disk.empty()
    federation.wait_for(order_id)
    return None


def test_a_run_that_prefect_could_not_let_be_taken_is_taken_soon(
    filling: tuple[Faulty, SmallDisk],
) -> None:
    """The coordinator's word that there is a run comes once, here while Prefect can
    write nothing.
    """
    federation, disk = filling
    # A Prefect that has found room says nothing about one without.
    trials = (order_not_taken(federation, disk) for _ in range(4))
    order_id = next((found for found in trials if found is not None), None)
    assert order_id is not None, "Prefect has found room each time"
    disk.empty()
    began = time.monotonic()
    wait_until(
        lambda: federation.status(order_id) != "pending",
        "the order is taken",
        seconds=60,
    )
    assert time.monotonic() - began < SOON_SECONDS
    assert federation.wait_for(order_id)["state"] == "success"
