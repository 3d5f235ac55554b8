"""Two Prefect servers on one PostgreSQL and one Redis, behind the documented balancer:
each is killed once while an order runs, and the order ends with the pooled numbers.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psycopg
import pytest
import redis

from deployments.demo.training import document_order, pooled_weights
from deployments.processes import TIED
from tests.api.own_database import SERVER, own_databases
from tests.conftest import ROOT, free_port
from tests.faults.conftest import Faulty, running
from tests.faults.processes import wait_until
from tests.nginx import run_balancer
from tests.own_redis import own_redis

pytestmark = [pytest.mark.slow, pytest.mark.thorough, pytest.mark.timeout(1200)]

N_ROUNDS = 12
LONG_SECONDS = 240
"""Of what takes a few seconds, on a machine that has other work too."""


@dataclass
class PrefectServer:
    """`./run server prefect` on a port of its own."""

    folder: Path
    environment: dict[str, str]
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [*TIED, str(os.getpid()), sys.executable, "-m", "deployments.server"]
        variables = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            **self.environment,
            "CONSILIUM_PREFECT_PORT": str(self.port),
        }
        with (self.folder / f"prefect-{self.port}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "prefect"], cwd=ROOT, env=variables, stdout=log, stderr=log
            )
        wait_until(self.is_there, "Prefect answers", seconds=LONG_SECONDS)

    def is_there(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "Prefect has ended"
        url = f"http://127.0.0.1:{self.port}/api/health"
        try:
            return httpx.get(url, timeout=5, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@dataclass
class OnRedis:
    federation: Faulty
    servers: list[PrefectServer]
    redis: str
    database: str


@pytest.fixture(scope="module")
def on_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnRedis]:
    folder = tmp_path_factory.mktemp("prefects")
    home = folder / "home"
    with (
        own_databases("prefect") as (database,),
        own_redis() as address,
    ):
        environment = {
            "CONSILIUM_HOME": str(home),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{SERVER}/{database}",
            "CONSILIUM_PREFECT_REDIS": address,
        }
        servers = [PrefectServer(folder, environment) for _ in range(2)]
        try:
            for server in servers:
                server.start()  # the first one makes the tables
            ports = [server.port for server in servers]
            with run_balancer(folder, ports) as port:
                federation = Faulty(
                    home,
                    prefect_port=port,
                    environment={
                        "CONSILIUM_PREFECT_URL": f"http://127.0.0.1:{port}/api"
                    },
                )
                for _ in running(federation):
                    yield OnRedis(federation, servers, address, database)
        finally:
            for server in servers:
                if server.process is not None:
                    server.kill()


@pytest.mark.parametrize("killed", [0, 1])
def test_an_order_ends_while_one_prefect_is_killed(
    on_redis: OnRedis, killed: int
) -> None:
    federation = on_redis.federation
    for server in on_redis.servers:
        assert server.is_there()
    order_id = federation.submit(document_order(rounds=N_ROUNDS, method="Mask"))
    federation.until_round(order_id, 2, seconds=LONG_SECONDS)
    on_redis.servers[killed].kill()
    order = federation.wait_for(order_id, seconds=LONG_SECONDS)
    assert order["state"] == "success", order["refusal"]
    pooled = pooled_weights(document_order(rounds=N_ROUNDS))
    for layers in federation.weights(order_id):
        np.testing.assert_allclose(layers["dense"], pooled, rtol=0, atol=1e-9)
    federation.until_runs_are("COMPLETED", order_id, seconds=LONG_SECONDS)
    on_redis.servers[killed].start()
    federation.assert_quiet_logs()


def test_what_one_server_is_told_the_other_one_has_written(on_redis: OnRedis) -> None:
    """Agents' events come in at whichever server their socket ends at; the task runs
    are in the database whoever took them from Redis.
    """
    federation = on_redis.federation
    order_id = federation.submit(document_order(rounds=2, method="Mask"))
    assert federation.wait_for(order_id, seconds=LONG_SECONDS)["state"] == "success"
    federation.until_runs_are("COMPLETED", order_id, seconds=LONG_SECONDS)
    query = (
        "SELECT count(*), count(*) FILTER (WHERE task_run.state_type = 'COMPLETED')"
        " FROM task_run JOIN flow_run ON flow_run.id = task_run.flow_run_id"
        f" WHERE flow_run.tags @> '[\"order-{order_id}\"]'"
    )

    def all_are_written() -> bool:
        with psycopg.connect(f"postgresql://{SERVER}/{on_redis.database}") as database:
            row = database.execute(query).fetchone()  # type: ignore[call-overload]
        return bool(row[0] > 0 and row[0] == row[1])

    wait_until(all_are_written, "every task run has ended", seconds=LONG_SECONDS)
    client = redis.Redis.from_url(on_redis.redis, decode_responses=True)
    # Both servers read one stream as one group, so each event is written once.
    groups = {group["name"]: group for group in client.xinfo_groups("events")}
    assert groups["task-run-recorder"]["consumers"] >= 2
    client.close()


def test_the_balancer_uses_both(on_redis: OnRedis) -> None:
    with on_redis.federation.prefect() as client:
        for _ in range(10):
            assert client.get("/admin/version").status_code == 200
    log = (on_redis.servers[0].folder / "access.log").read_text()
    for server in on_redis.servers:
        assert f"127.0.0.1:{server.port}" in log
    # A body that the balancer itself would not take.
    own = [line for line in log.splitlines() if '"413"' in line or '"500"' in line]
    assert own == []
