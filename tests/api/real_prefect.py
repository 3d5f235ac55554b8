"""A real Prefect server behind the coordinator's application, with hospitals' pools and
deployments, and no agents.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from deployments.coordinator import prefect_variables
from deployments.processes import TIED
from tests.conftest import NO_AUTHORITY, ROOT, AskAgain, free_port, prefects_tables

HOSPITALS = (2, 3, 4, 5)


@dataclass
class Prefect:
    """The server, and a client that has its string."""

    url: str
    auth: str
    home: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def client(self) -> httpx.Client:
        user, _, password = self.auth.partition(":")
        return httpx.Client(
            base_url=self.url,
            auth=(user, password),
            timeout=120,
            transport=AskAgain(verify=NO_AUTHORITY, trust_env=False),
        )

    def start(self) -> None:
        port = self.url.split(":")[2].split("/")[0]
        command = [
            *TIED,
            str(os.getpid()),
            sys.executable,
            "-m",
            "deployments.prefect_process",
            *("--host", "127.0.0.1", "--port", port),
        ]
        environment = {
            **os.environ,
            "PREFECT_HOME": str(self.home),
            "PREFECT_SERVER_API_AUTH_STRING": self.auth,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_LEVEL": "WARNING",
            **prefect_variables(),
        }
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log
            )
        self._until_ready()

    def _until_ready(self) -> None:
        deadline = time.monotonic() + 180
        with self.client as client:
            while time.monotonic() < deadline:
                with contextlib.suppress(httpx.HTTPError):
                    if client.get("/health").status_code == 200:
                        return
                time.sleep(0.2)
        raise AssertionError((self.home / "server.log").read_text()[-3000:])

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def deploy(self) -> None:
        from prefect.client.orchestration import PrefectClient

        from deployments.pools import deploy

        async def run() -> None:
            async with PrefectClient(self.url, auth_string=self.auth) as client:
                await deploy(client, HOSPITALS)

        asyncio.run(run())

    def make_run(
        self, hospital: int, order_id: int, *, flow: str = "hospital-train"
    ) -> Any:
        """A flow run of an order at a hospital, as the coordinator makes it."""
        with self.client as client:
            place = f"/deployments/name/{flow}/hospital-{hospital}"
            deployment = client.get(place).json()
            asked = {
                "parameters": {"order_id": order_id},
                "name": f"order-{order_id}-hospital-{hospital}",
                "tags": ["hospital", f"order-{order_id}", f"hospital-{hospital}"],
                "state": {"type": "SCHEDULED"},
            }
            path = f"/deployments/{deployment['id']}/create_flow_run"
            return client.post(path, json=asked).raise_for_status().json()

    def run(self, flow_run_id: str) -> Any:
        with self.client as client:
            return client.get(f"/flow_runs/{flow_run_id}").raise_for_status().json()

    def task_runs(self, flow_run_id: str) -> list[Any]:
        wanted = {"flow_runs": {"id": {"any_": [flow_run_id]}}}
        with self.client as client:
            found = client.post("/task_runs/filter", json=wanted).raise_for_status()
            runs: list[Any] = found.json()
        return runs


@contextlib.contextmanager
def prefect_server(home: Path) -> Iterator[Prefect]:
    """With the pools and deployments of HOSPITALS."""
    home.mkdir(parents=True)
    shutil.copyfile(
        prefects_tables(home.parent / "prefects-tables"), home / "prefect.db"
    )
    auth = f"consilium:{secrets.token_hex(24)}"
    server = Prefect(f"http://127.0.0.1:{free_port()}/api", auth, home)
    server.start()
    try:
        server.deploy()
        yield server
    finally:
        server.kill()
