"""Thirty orders at once over overlapping parties of five hospitals that take two each,
with parts killed meanwhile.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from api.store import Store
from deployments.demo.training import document_order
from deployments.local.one_process import run_order
from deployments.local.sites import NAMED, sites_folder
from tests.faults.conftest import Faulty, running
from tests.faults.processes import kill, wait_until
from tests.made_sites import make_sites

pytestmark = [pytest.mark.slow, pytest.mark.thorough, pytest.mark.timeout(1200)]

HOSPITALS = (2, 3, 4, 5, 6)
PARTIES = [
    (2, 3, 4),
    (3, 4, 5),
    (4, 5, 6),
    (2, 5, 6),
    (2, 3, 6),
    (2, 4, 6),
    (3, 5, 6),
    (2, 3, 4, 5),
    (3, 4, 5, 6),
]
N_ORDERS, ROWS_OF_EACH = 30, 40
SITES = {
    user: NAMED[user - 2] if user < 5 else f"hospital-{user}" for user in HOSPITALS
}
TABLE = '\n[tables."data.many"]\ncolumns = ["*"]\nfilter_columns = ["block"]\n'


def rows_of(user: int) -> pd.DataFrame:
    """Each order has a block of its own, so that no order is like another one to the
    gate.
    """
    random = np.random.default_rng(user)
    n_rows = N_ORDERS * ROWS_OF_EACH
    columns = {f"x{k}": random.normal(size=n_rows) for k in (1, 2, 3, 4)}
    score = columns["x1"] - columns["x3"] + random.normal(size=n_rows)
    block = np.repeat(np.arange(N_ORDERS), ROWS_OF_EACH)
    return pd.DataFrame(
        {
            "id": np.arange(n_rows),
            "y": (score > 0).astype(int),
            **columns,
            "block": block,
        }
    )


def order_of(number: int, parties: tuple[int, ...]) -> dict[str, Any]:
    # What they are about is who waits for whom, not what a round is.
    body = document_order(rounds=5, method="Paillier" if number == 7 else "Mask")
    body["model_params"]["eps"] = 0
    texts = {
        str(user): f"SELECT * FROM data.many WHERE block = {number}" for user in parties
    }
    return {
        **body,
        "user_id": parties[0],
        "party_id": list(parties[1:]),
        "data_info": texts,
    }


ORDERS = [
    order_of(number, PARTIES[number % len(PARTIES)]) for number in range(N_ORDERS)
]


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    """Five hospitals that take two orders each, with a table that thirty orders can
    share.
    """
    folder = tmp_path_factory.mktemp("crowded")
    for name in NAMED:
        site = folder / "sites" / name
        shutil.copytree(sites_folder() / name, site)
        (site / "settings.toml").write_text(
            (site / "settings.toml").read_text() + "\nmax_orders = 2\n"
        )
        (site / "policy.toml").write_text((site / "policy.toml").read_text() + TABLE)
    environment = {
        "CONSILIUM_SITES": str(folder / "sites"),
        "CONSILIUM_ACCEPT_SECONDS": "1",
    }
    federation = Faulty(
        folder / "home", options=("--hospitals", "5"), environment=environment
    )
    for user in HOSPITALS:
        state = federation.home / "sites" / SITES[user]
        state.mkdir(parents=True, mode=0o700)
        _make_table(state / "hospital.duckdb", user)
    yield from running(federation)


def _make_table(path: Path, user: int) -> None:
    with duckdb.connect(str(path)) as database:
        database.execute("CREATE SCHEMA data")
        database.register("rows", rows_of(user))
        database.execute("CREATE TABLE data.many AS SELECT * FROM rows")


def send(federation: Faulty, body: dict[str, Any]) -> int:
    with federation.client(body["user_id"]) as client:
        answer = client.post("/model/train", json=body).json()
    assert answer["code"] == 200, answer
    return int(answer["data"]["order_id"])


def layers_at(federation: Faulty, order_id: int, user: int) -> Any:
    return federation.vault(SITES[user]).model(order_id)["layers"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Each of the thirty in one process, over the same tables, with nobody beside it."""
    tables = {user: {"many": rows_of(user)} for user in HOSPITALS}
    sites = make_sites(
        tmp_path_factory.mktemp("undisturbed"), tables, filter_columns=["block"]
    )
    found = []
    for number, body in enumerate(ORDERS, start=1):
        users = [body["user_id"], *body["party_id"]]
        outcome = run_order(
            {user: sites[user] for user in users}, body, order_id=number
        )
        found.append(outcome.models[users[0]]["layers"])
    return found


def test_thirty_orders_at_once_all_end_and_with_the_weights_of_an_undisturbed_run(
    crowded: Faulty, undisturbed: list[Any]
) -> None:
    with ThreadPoolExecutor(N_ORDERS) as pool:
        numbers = list(pool.map(lambda body: send(crowded, body), ORDERS))
    assert len(set(numbers)) == N_ORDERS

    def n_ended() -> int:
        listed = crowded.operator.get("/orders", params={"limit": 100}).json()["data"][
            "orders"
        ]
        return sum(order["state"] == "success" for order in listed)

    wait_until(lambda: n_ended() >= 4, "some have ended", seconds=300)
    kill(crowded.pid(4))
    wait_until(lambda: n_ended() >= 10, "more have ended", seconds=300)
    kill(crowded.pid("worker"))
    ended = [crowded.wait_for(number, seconds=900) for number in numbers]
    assert [order["state"] for order in ended] == ["success"] * N_ORDERS
    store = Store(f"sqlite:///{crowded.home / 'coordinator' / 'store.sqlite'}")
    assert store.places.taken() == {}
    store.close()
    for number, body, layers in zip(numbers, ORDERS, undisturbed, strict=True):
        for user in (body["user_id"], *body["party_id"]):
            assert layers_at(crowded, number, user) == layers, number
