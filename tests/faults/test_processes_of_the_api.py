"""Three processes of the API on PostgreSQL, killed one after the other while orders
run: every order ends, once, with the numbers of the pooled table.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import psycopg
import pytest

from deployments.demo.training import document_order, pooled_weights
from tests.api.own_database import SERVER, own_databases
from tests.conftest import free_port
from tests.faults.conftest import Faulty, running
from tests.faults.processes import PARTS, children, command_of, kill, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.thorough, pytest.mark.timeout(1200)]

N_PROCESSES, N_ROUNDS = 3, 4
N_AT_ONCE = 3  # while one process is killed
N_ORDERS = (N_PROCESSES + 1) * N_AT_ONCE
HAS_DUTIES = "has the duties of all processes"


@pytest.fixture(scope="module")
def databases() -> Iterator[list[str]]:
    with own_databases("store", "prefect") as names:
        yield names


@pytest.fixture(scope="module")
def several(
    databases: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Faulty]:
    store, prefect = databases
    environment = {
        "CONSILIUM_STORE_URL": f"postgresql+psycopg://{SERVER}/{store}",
        "CONSILIUM_API_PROCESSES": str(N_PROCESSES),
        "CONSILIUM_PAGE_PORT": str(free_port()),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{SERVER}/{prefect}",
    }
    home = tmp_path_factory.mktemp("several") / "home"
    yield from running(Faulty(home, environment=environment))


def processes_of_api(federation: Faulty) -> list[int]:
    """The page's among them, which may have the duties too; the oldest first."""
    found = []
    for pid in sorted(children(federation.up)):
        command = command_of(pid)
        if PARTS["api"] in command or "deployments.server page" in command:
            found.append(pid)
    return found


def send(federation: Faulty) -> int:
    """Once, also where the process that takes it dies."""
    body = document_order(rounds=N_ROUNDS, method="Mask")
    key = {"Idempotency-Key": secrets.token_hex(8)}
    deadline = time.monotonic() + 60
    while True:
        try:
            with federation.client(4) as client:
                answer = client.post("/model/train", json=body, headers=key).json()
        except httpx.HTTPError:
            assert time.monotonic() < deadline
            continue
        assert answer["code"] == 200, answer
        return int(answer["data"]["order_id"])


def times_that_duties_were_taken(federation: Faulty) -> int:
    logs = (federation.home / "coordinator" / "log").glob("*.log")
    return sum(len(re.findall(HAS_DUTIES, log.read_text())) for log in logs)


def count(database: str, query: str) -> int:
    with psycopg.connect(f"postgresql://{SERVER}/{database}") as connection:
        row = connection.execute(query).fetchone()  # type: ignore[call-overload]
    return int(row[0])


def test_twelve_orders_end_once_while_one_process_after_the_other_is_killed(
    several: Faulty, databases: list[str]
) -> None:
    store, prefect = databases
    assert len(processes_of_api(several)) == N_PROCESSES + 1
    rounds = "SELECT count(*) FROM rounds"
    order_ids: list[int] = []
    killed: list[int] = []
    with ThreadPoolExecutor(N_AT_ONCE) as pool:
        while len(order_ids) < N_ORDERS:
            n_rounds = count(store, rounds)
            sending = [pool.submit(send, several) for _ in range(N_AT_ONCE)]
            wait_until(
                lambda n=n_rounds: count(store, rounds) > n, "a round ends", seconds=60
            )
            # Each in turn: the one that has lived longest, so that it is the duties'
            # holder one time.
            oldest = processes_of_api(several)[0]
            kill(oldest)
            killed.append(oldest)
            wait_until(
                lambda: (
                    len(set(processes_of_api(several)) - set(killed)) == N_PROCESSES + 1
                ),
                "the killed process is started again",
                seconds=60,
            )
            order_ids += [sent.result() for sent in sending]
    assert len(killed) == N_PROCESSES + 1
    ended = (
        "SELECT count(*) FROM orders WHERE state IN ('success', 'failed', 'cancelled')"
    )
    wait_until(lambda: count(store, ended) == N_ORDERS, "all orders end", seconds=400)
    assert times_that_duties_were_taken(several) >= 2
    pooled = pooled_weights(document_order(rounds=N_ROUNDS))
    for order_id in order_ids:
        order = several.order(order_id)
        assert order["state"] == "success", order["refusal"]
        for layers in several.weights(order_id):
            np.testing.assert_allclose(layers["dense"], pooled, rtol=0, atol=1e-9)
    assert count(store, "SELECT count(*) FROM orders") == N_ORDERS
    assert count(store, rounds) == N_ORDERS * (N_ROUNDS + 1)
    assert count(store, "SELECT count(*) FROM messages") == 0
    completed = "SELECT count(*) FROM flow_run WHERE state_type = 'COMPLETED'"
    wait_until(
        lambda: count(prefect, completed) == 4 * N_ORDERS,
        "every order has one run of its own and one at each hospital",
        seconds=120,
    )


def test_the_documents_own_order_is_as_with_one_process(
    several: Faulty, databases: list[str]
) -> None:
    """The request document's body as it stands there, after every process was killed."""
    store, _ = databases
    order_id = several.submit(document_order())
    order = several.wait_for(order_id)
    assert order["state"] == "success", order["refusal"]
    assert order["data_volum"] == {"2": 228, "3": 228, "4": 227}
    pooled = pooled_weights(document_order())
    for layers in several.weights(order_id):
        np.testing.assert_allclose(layers["dense"], pooled, rtol=0, atol=1e-9)
    assert (
        count(store, f"SELECT count(*) FROM rounds WHERE order_id = {order_id}") == 11
    )
    assert count(store, "SELECT count(*) FROM messages") == 0


def test_the_page_has_a_process_of_its_own(several: Faulty) -> None:
    page_port = several.environment["CONSILIUM_PAGE_PORT"]
    page = httpx.get(f"http://127.0.0.1:{page_port}/page/sign-in", trust_env=False)
    assert page.headers["content-type"].startswith("text/html")
    api = httpx.get(f"{several.url}/page/sign-in", trust_env=False)
    assert api.headers["content-type"] == "application/json"
