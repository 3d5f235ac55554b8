"""What docs/operators.md says about PostgreSQL: the coordinator's store and Prefect's
database on a real server.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator

import numpy as np
import psycopg
import pytest

from deployments.demo.training import document_order, pooled_weights
from tests.conftest import RunningFederation
from tests.faults.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

SERVER = "postgres@127.0.0.1:5432"


@pytest.fixture(scope="module")
def databases() -> Iterator[tuple[str, str]]:
    """Two fresh databases, for the store and for Prefect; dropped at the end."""
    try:
        connection = psycopg.connect(
            f"postgresql://{SERVER}/postgres", autocommit=True, connect_timeout=5
        )
    except psycopg.OperationalError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no PostgreSQL at 127.0.0.1:5432 ({type(error).__name__})")
    suffix = secrets.token_hex(4)
    names = (f"consilium_store_{suffix}", f"consilium_prefect_{suffix}")
    with connection:
        try:
            for name in names:
                connection.execute(f"CREATE DATABASE {name}")
            yield names
        finally:
            for name in names:
                connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def federation_on_postgresql(
    databases: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningFederation]:
    store, prefect = databases
    addresses = {
        "CONSILIUM_STORE_URL": f"postgresql+psycopg://{SERVER}/{store}",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{SERVER}/{prefect}",
    }
    home = tmp_path_factory.mktemp("postgresql") / "home"
    running = RunningFederation(home, options=("--no-restart",), environment=addresses)
    running.start()
    yield running
    assert running.stop() == 0, running.logs()[-3000:]


def count(database: str, query: str) -> int:
    with psycopg.connect(f"postgresql://{SERVER}/{database}") as connection:
        row = connection.execute(query).fetchone()  # type: ignore[call-overload]
    return int(row[0])


def test_the_documents_order_succeeds_with_store_and_prefect_on_postgresql(
    databases: tuple[str, str], federation_on_postgresql: RunningFederation
) -> None:
    store, prefect = databases
    order_id = federation_on_postgresql.submit(document_order())
    order = federation_on_postgresql.wait_for(order_id)
    assert order["state"] == "success", order["refusal"]
    assert order["data_volum"] == {"2": 228, "3": 228, "4": 227}
    exported = federation_on_postgresql.agent(
        "shanxi-xbfy", "export", "--model", str(order_id)
    )
    np.testing.assert_allclose(
        json.loads(exported.stdout)["dense"],
        pooled_weights(document_order()),
        rtol=0,
        atol=1e-9,
    )
    assert count(store, "SELECT count(*) FROM rounds") == 11
    assert count(store, "SELECT count(*) FROM messages") == 0
    completed = "SELECT count(*) FROM flow_run WHERE state_type = 'COMPLETED'"
    wait_until(
        lambda: count(prefect, completed) == 4,
        "all four runs are completed",
        seconds=60,
    )
    for folder in ("coordinator", "prefect"):
        left = [
            path.name
            for path in (federation_on_postgresql.home / folder).rglob("*.*")
            if path.is_file()
        ]
        assert not [name for name in left if name.endswith((".sqlite", ".db"))]


def test_a_repeated_request_is_one_order_and_another_body_a_conflict(
    federation_on_postgresql: RunningFederation,
) -> None:
    body, key = document_order(rounds=1), {"Idempotency-Key": "the same"}
    with federation_on_postgresql.client(4) as client:
        first = client.post("/model/train", json=body, headers=key).json()
        again = client.post("/model/train", json=body, headers=key).json()
        other = client.post("/model/train", json=document_order(rounds=2), headers=key)
    assert first["data"]["order_id"] == again["data"]["order_id"]
    assert (other.status_code, other.json()["data"]["error"]["code"]) == (
        409,
        "idempotency",
    )
    federation_on_postgresql.wait_for(first["data"]["order_id"])
