"""One federation for each module of this folder, in a home of its own, and what the
tests ask of its orders.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import httpx
import pytest

from agents.site.vault import Vault
from deployments.demo.training import document_order
from tests import bad_tables
from tests.conftest import RunningFederation
from tests.faults import processes
from tests.faults.processes import SITES, wait_until

collect_ignore = ["wrong_clock"]
"""No test: what the agents of some tests import at their start."""

ENDED = ("success", "failed", "cancelled")


@dataclass
class Faulty(RunningFederation):
    """A federation whose parts are killed."""

    def __post_init__(self) -> None:
        self.environment = {"CONSILIUM_ACCEPT_SECONDS": "3", **self.environment}

    @property
    def up(self) -> int:
        assert self.process is not None
        return self.process.pid

    def pid(self, name: str | int) -> int:
        found: int = wait_until(
            lambda: processes.part(self.up, name), f"a process of {name}"
        )
        return found

    def flows(self, name: str | int) -> list[int]:
        return processes.flow_processes(self.pid(name))

    @cached_property
    def operator(self) -> httpx.Client:
        """Kept open: a client for each question would cost more than the answer."""
        return self.client("operator")

    def order(self, order_id: int) -> dict[str, Any]:
        data: dict[str, Any] = self.operator.get(f"/orders/{order_id}").json()["data"]
        return data

    def status(self, order_id: int) -> str:
        answer = self.operator.get(
            "/model/train_status", params={"order_id": order_id}
        ).json()
        return str(answer["data"]["train_status"])

    def until_round(self, order_id: int, round_: int, *, seconds: float = 60) -> None:
        def reached() -> bool:
            try:
                order = self.order(order_id)
            except httpx.HTTPError:
                return False  # the coordinator was killed a moment ago
            assert order["state"] not in ENDED, order["refusal"]
            return order["round"] is not None and order["round"] >= round_

        wait_until(reached, f"round {round_} of order {order_id}", seconds=seconds)

    @cached_property
    def prefect_client(self) -> httpx.Client:
        return self.prefect()

    def run_details(self, order_id: int) -> list[dict[str, Any]]:
        """Every flow run of the order; none while Prefect is away."""
        wanted = {"flow_runs": {"tags": {"all_": [f"order-{order_id}"]}}}
        try:
            found: list[dict[str, Any]] = self.prefect_client.post(
                "/flow_runs/filter", json=wanted
            ).json()
        except httpx.HTTPError:
            return []
        return found

    def runs(self, order_id: int) -> dict[str, str]:
        """State by name."""
        return {run["name"]: run["state_type"] for run in self.run_details(order_id)}

    def until_runs_are(
        self, state: str, order_id: int, *, n_runs: int = 4, seconds: float = 40
    ) -> None:
        seen: list[dict[str, str]] = []

        def all_are() -> bool:
            seen.append(self.runs(order_id))
            return list(seen[-1].values()) == n_runs * [state]

        try:
            wait_until(all_are, "", seconds=seconds)
        except AssertionError:
            raise AssertionError(f"not all runs became {state}: {seen[-1]}") from None

    def weights(self, order_id: int) -> list[Any]:
        return [self.vault(site).model(order_id)["layers"] for site in SITES.values()]

    def vault(self, site: str) -> Vault:
        return Vault(self.home / "sites" / site / "vault")

    def messages(self, order_id: int) -> int:
        with sqlite3.connect(
            f"file:{self.home / 'coordinator' / 'store.sqlite'}?mode=ro", uri=True
        ) as db:
            (n_messages,) = db.execute(
                "SELECT count(*) FROM messages WHERE run = ?", (order_id,)
            ).fetchone()
        db.close()
        return int(n_messages)

    def assert_nothing_is_left(
        self, order_id: int, state: str, *, n_runs: int = 4
    ) -> None:
        """All its runs have this state; no process, message or vault folder of it is
        left.
        """
        self.until_runs_are(state, order_id, n_runs=n_runs)
        for name in ("worker", *SITES):
            self.assert_no_flow(name)
        for user_id in SITES:
            self.assert_no_folder(order_id, user_id)
        assert self.messages(order_id) == 0

    def assert_no_flow(self, name: str | int) -> None:
        wait_until(lambda: not self.flows(name), f"no flow process of {name}")

    def assert_no_folder(self, order_id: int, user_id: int) -> None:
        vault = self.vault(SITES[user_id])
        wait_until(
            lambda: order_id not in vault.orders(),
            f"no folder of order {order_id} at {user_id}",
        )

    def assert_quiet_logs(self) -> None:
        """What should not happen however often parts die.

        (Prefect's own server may say that SQLite is locked.)
        """
        logs = self.logs()
        for word in (
            "graceful shutdown exceeded",
            "Unplanned error",
            "Task exception was never",
        ):
            lines = [line for line in logs.splitlines() if word in line]
            assert not lines, lines[:5]


@dataclass
class Watcher:
    """Asks for train_status again and again, from submission to end, whether the
    coordinator is there or not.
    """

    federation: Faulty
    order_id: int
    seen: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watcher:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=100)

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                status = self.federation.status(self.order_id)
            except httpx.HTTPError:
                status = ""
            if status and status not in self.seen[-1:]:
                self.seen.append(status)
            self._stop.wait(0.05)


def thirty_rounds(**changes: Any) -> dict[str, Any]:
    """The document's order with 30 rounds that never converge before."""
    body = document_order(rounds=30)
    body["model_params"] |= {"eps": 0, **changes}
    return body


def running(federation: Faulty) -> Iterator[Faulty]:
    try:
        federation.start()
        yield federation
    finally:
        federation.operator.close()
        federation.prefect_client.close()
        if federation.process is not None and federation.process.poll() is None:
            began = time.monotonic()
            below = processes.descendants(federation.up)
            code = federation.stop()
            assert code == 0, federation.logs()[-3000:]
            assert time.monotonic() - began < 20
            processes.wait_until_gone(below)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    """Parts that die are started again.

    The sites are copies, so that a test may change a policy.
    """
    folder = tmp_path_factory.mktemp("faulty")
    federation = Faulty(
        folder / "home", environment={"CONSILIUM_SITES": str(folder / "sites")}
    )
    bad_tables.prepare(federation.env, federation.sites)
    yield from running(federation)


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    """Parts that die stay dead."""
    yield from running(
        Faulty(tmp_path_factory.mktemp("fragile") / "home", options=("--no-restart",))
    )
