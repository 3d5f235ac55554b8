"""Whatever the coordinator's side holds or sees of an order: no row, no gradient, no
model.

A canary stands in hospital 2's rows. Its value and id, every hospital's gradients and
all weights of every round are searched as 8-byte floats in both byte orders, as the
integers that they are in fixed point, and as text. The same search finds them where
method None shows them.
"""

from __future__ import annotations

import json
import sqlite3
import struct
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from agents.training import fold as folds
from deployments.demo.training import document_order
from deployments.local.one_process import OrderOutcome, run_order
from protocol.memory_transport import MemoryTransport
from protocol.messages import COORDINATOR, Contribution, Header
from protocol.sealing import SIGNATURE_BYTES
from protocol.sums.fixed_point import FixedPoint
from protocol.sums.payload import Payload, words_of
from tasks.hospital import training
from tests.bad_tables import CANARY, CANARY_ID
from tests.conftest import RunningFederation
from tests.made_sites import make_sites
from tests.pairwise import quick

HOSPITALS = {2: "suzhou-szslyy", 3: "zhejiang-zdey", 4: "shanxi-xbfy"}
ROUNDS = 3
TEXT_DIGITS = 13


def canary_order(method: str) -> dict[str, Any]:
    made = document_order(method=method, rounds=ROUNDS)
    tables = {"2": "canary", "3": "rows", "4": "rows"}
    sql = {user: f"SELECT * FROM data.{name}" for user, name in tables.items()}
    return {**made, "scoring": "full", "data_info": sql}


class Secrets:
    """Every hospital's gradients and all weights of an order, and the byte strings that
    would give them away.
    """

    def __init__(self) -> None:
        self.gradients: list[tuple[int, Any]] = []
        self.weights: list[Any] = []
        self.lock = threading.Lock()

    def note(self, trainer: Any, fold: Any) -> None:
        with self.lock:
            self.gradients.append((trainer.order.me, fold.gradient.copy()))
            self.weights.append(fold.checkpoint.weights.copy())

    @property
    def numbers(self) -> list[float]:
        vectors = [*(vector for _, vector in self.gradients), *self.weights]
        return sorted(
            {float(number) for vector in vectors for number in vector if number != 0}
        )

    def needles(self, n_rows: dict[int, int]) -> dict[bytes, str]:
        """bytes -> what they are."""
        found = dict.fromkeys(canary_needles(), "canary")
        for number in self.numbers:
            found |= dict.fromkeys(float_needles(number), "gradient or weight")
        scale = FixedPoint(sum(n_rows.values()))
        for user, vector in self.gradients:
            found |= dict.fromkeys(
                word_needles(scale.encode(vector, n_rows[user])),
                "gradient in fixed point",
            )
        for weights in self.weights:
            found |= dict.fromkeys(
                word_needles(scale.encode(weights, 1)), "weight in fixed point"
            )
        return found


def float_needles(number: float) -> list[bytes]:
    """As 8 bytes, and the first digits of its text, which no rounding to 6 digits
    shows.
    """
    digits = f"{abs(number):.15e}"
    plain = digits[0] + digits[2:TEXT_DIGITS]
    return [
        struct.pack("<d", number),
        struct.pack(">d", number),
        repr(abs(number))[: TEXT_DIGITS + 3].encode(),
        plain.encode(),
    ]


def word_needles(words: Any) -> list[bytes]:
    return [
        struct.pack(order, int(word))
        for word in words
        if abs(int(word)) > 2**20
        for order in ("<q", ">q")
    ]


def canary_needles() -> list[bytes]:
    ids = [
        str(CANARY_ID).encode(),
        struct.pack("<q", CANARY_ID),
        struct.pack(">q", CANARY_ID),
    ]
    return [
        *float_needles(CANARY),
        *ids,
        struct.pack("<d", CANARY_ID),
        struct.pack(">d", CANARY_ID),
    ]


def found_in(data: bytes, needles: dict[bytes, str]) -> set[str]:
    return {what for needle, what in needles.items() if needle in data}


def clear_parts(traffic: Iterable[bytes]) -> set[tuple[int, ...]]:
    """The words of every contribution and total of method None that passed the
    exchange.
    """
    words = set()
    for body in traffic:
        for part in (lambda body: body, _part_of):
            try:
                words.add(words_in_clear(part(body)))
            except Exception:  # noqa: BLE001, S112
                continue
    return words


def words_in_clear(payload: bytes) -> tuple[int, ...]:
    """The words of a payload of method None, as anybody reads them who knows the format
    and has no key.
    """
    message = Payload.decode(payload, public=None)
    assert message.method == "None"
    return tuple(words_of(message.body).view(np.int64)[: message.d].tolist())


def _part_of(envelope: bytes) -> bytes:
    """A contribution's part of the sum: what stands between header and signature,
    behind tag and report.
    """
    return Contribution.decode(
        envelope[len(Header("gradient", 2, COORDINATOR).encode()) : -SIGNATURE_BYTES]
    ).part


# --- the traffic ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sites(
    federation_tables: dict[int, dict[str, pd.DataFrame]], tmp_path_factory: Any
) -> dict[int, SiteSettings]:
    return make_sites(tmp_path_factory.mktemp("sites"), federation_tables)


@pytest.fixture(scope="module")
def federation_tables(
    federation: RunningFederation,
) -> dict[int, dict[str, pd.DataFrame]]:
    """The very tables that the real federation holds: the same rows give the same bits."""
    tables = {}
    for user, name in HOSPITALS.items():
        path = federation.home / "sites" / name / "hospital.duckdb"
        with duckdb.connect(str(path), read_only=True) as database:
            tables[user] = {
                table: database.execute(f"SELECT * FROM data.{table}").df()
                for table in ("rows", "canary")
            }
    return tables


@pytest.fixture(scope="module")
def recorded(sites: dict[int, SiteSettings]) -> dict[str, tuple[OrderOutcome, Secrets]]:
    """The order under each method, with all that passed the exchange and all that it
    must not hold.
    """
    outcomes = {}
    for number, method in enumerate(("Paillier", "Mask", "None"), start=1):
        secrets = Secrets()
        with pytest.MonkeyPatch.context() as patch:
            local_gradient = folds.local_gradient

            def noted(
                trainer: Any,
                fold: Any,
                local_gradient: Any = local_gradient,
                secrets: Secrets = secrets,
            ) -> Any:
                report = local_gradient(trainer, fold)
                secrets.note(trainer, fold)
                return report

            patch.setattr(training.folds, "local_gradient", noted)
            transport = MemoryTransport()
            outcome = run_order(
                sites, canary_order(method), order_id=number, transport=transport
            )
        outcome.traffic.extend(transport.rounds[number].values())
        secrets.weights.append(np.array(outcome.models[4]["layers"]["dense"]))
        outcomes[method] = (outcome, secrets)
    return outcomes


N_ROWS = {2: 228, 3: 228, 4: 227}


def test_the_search_knows_what_to_look_for(
    recorded: dict[str, tuple[OrderOutcome, Secrets]],
) -> None:
    """Three hospitals, each round a gradient of their own; the same bits under every
    method.
    """
    numbers = [secrets.numbers for _, secrets in recorded.values()]
    assert numbers[0] == numbers[1] == numbers[2]
    assert len(recorded["Mask"][1].gradients) == 3 * ROUNDS
    assert len(numbers[0]) > 3 * ROUNDS * 5
    assert len(recorded["Mask"][1].needles(N_ROWS)) > 300


@pytest.mark.slow
@pytest.mark.parametrize("method", ["Paillier", "Mask"])
def test_the_traffic_holds_nothing(
    recorded: dict[str, tuple[OrderOutcome, Secrets]], method: str
) -> None:
    outcome, secrets = recorded[method]
    traffic = b"\0".join(
        [*outcome.traffic, json.dumps(outcome.facts, default=str).encode()]
    )
    assert len(traffic) > 10_000
    assert found_in(traffic, secrets.needles(N_ROWS)) == set()
    assert clear_parts(outcome.traffic) == set()


@pytest.mark.slow
def test_the_same_search_finds_the_gradients_of_method_none(
    recorded: dict[str, tuple[OrderOutcome, Secrets]],
) -> None:
    outcome, secrets = recorded["None"]
    traffic = b"\0".join(outcome.traffic)
    assert found_in(traffic, secrets.needles(N_ROWS)) == {
        "gradient in fixed point",
        "gradient or weight",
    }
    scale, clear = FixedPoint(sum(N_ROWS.values())), clear_parts(outcome.traffic)
    for user, vector in secrets.gradients:
        words = tuple(scale.encode(vector, N_ROWS[user]).tolist())
        assert any(part[: len(words)] == words for part in clear)


# --- the disk, Prefect and the logs ---------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=quick(["Mask", "Paillier"], 1))
def trained(federation: RunningFederation, request: pytest.FixtureRequest) -> int:
    """The canary order under two methods; None is the last, so that nothing of it is
    there when the others' are read.
    """
    return order_over(federation, request.param)


def order_over(federation: RunningFederation, method: str) -> int:
    order_id = federation.submit(canary_order(method))
    assert federation.wait_for(order_id)["state"] == "success"
    infer = {
        "model_id": order_id,
        "input_data": {
            "user_id": 2,
            "data_sql": f"SELECT * FROM data.canary WHERE id = {CANARY_ID}",
        },
    }
    with federation.client(2) as client:
        answer = client.post("/model/infer", json=infer).json()
    assert [row["id"] for row in answer["data"]["result"]] == [str(CANARY_ID)]
    return order_id


def coordinator_side(federation: RunningFederation) -> Iterator[tuple[Path, bytes]]:
    """Every file of the coordinator's data, of Prefect's, and every log of their
    processes.
    """
    folders = [federation.home / "coordinator", federation.home / "prefect"]
    logs = [federation.home.parent / f"{federation.home.name}.log"]
    for path in [
        *(path for folder in folders for path in folder.rglob("*") if path.is_file()),
        *logs,
    ]:
        yield path, path.read_bytes()


@pytest.mark.slow
def test_both_runs_are_of_one_mind(
    federation: RunningFederation,
    trained: int,
    recorded: dict[str, tuple[OrderOutcome, Secrets]],
) -> None:
    """The real federation's weights are those of the recorded order, bit for bit: so
    its gradients are too.
    """
    expected = recorded["Paillier"][1].weights[-1]
    for name in HOSPITALS.values():
        stored = Vault(federation.home / "sites" / name / "vault").model(trained)
        assert np.array_equal(stored["layers"]["dense"], expected)


@pytest.mark.slow
def test_the_coordinators_disk_and_logs_hold_nothing(
    federation: RunningFederation,
    trained: int,
    recorded: dict[str, tuple[OrderOutcome, Secrets]],
) -> None:
    needles = recorded["Paillier"][1].needles(N_ROWS)
    searched = list(coordinator_side(federation))
    names = {path.name for path, _ in searched}
    assert {
        "store.sqlite",
        "prefect.db",
        "server.log",
        "api.log",
        "worker.log",
    } <= names
    assert {
        path: found_in(data, needles)
        for path, data in searched
        if found_in(data, needles)
    } == {}


@pytest.mark.slow
def test_prefect_shows_nothing(
    federation: RunningFederation,
    trained: int,
    recorded: dict[str, tuple[OrderOutcome, Secrets]],
) -> None:
    """Read back through its API: runs with parameters and states, task runs, logs,
    artifacts, variables, events.
    """
    needles = recorded["Paillier"][1].needles(N_ROWS)
    told: dict[str, bytes] = {}
    with federation.prefect() as client:
        for kind in (
            "flow_runs",
            "task_runs",
            "logs",
            "artifacts",
            "deployments",
            "flow_run_states",
        ):
            told[kind] = (
                b"".join(pages(client, f"/{kind}/filter"))
                if kind != "flow_run_states"
                else b""
            )
        told["events"] = client.post("/events/filter", json={"limit": 50}).content
        runs = client.post("/flow_runs/filter", json={"limit": 200}).json()
        told["flow_run_states"] = b"".join(
            client.get("/flow_run_states/", params={"flow_run_id": run["id"]}).content
            for run in runs[:40]
        )
    assert len(told["flow_runs"]) > 1000
    assert {
        kind: found_in(data, needles)
        for kind, data in told.items()
        if found_in(data, needles)
    } == {}
    assert {
        tuple(run["parameters"]) for run in runs if f"order-{trained}" in run["tags"]
    } == {("order_id",)}


def pages(client: Any, path: str) -> Iterator[bytes]:
    offset = 0
    while True:
        answer = client.post(path, json={"limit": 200, "offset": offset})
        assert answer.status_code == 200, answer.text
        yield answer.content
        if len(answer.json()) < 200:
            return
        offset += 200


@pytest.mark.slow
def test_every_answer_of_the_coordinator_is_silent(
    federation: RunningFederation,
    trained: int,
    recorded: dict[str, tuple[OrderOutcome, Secrets]],
) -> None:
    needles = recorded["Paillier"][1].needles(N_ROWS)
    with federation.client("operator") as client:
        asked = [
            f"/{name}?order_id={trained}"
            for name in ("client_grad", "avg_grad", "anomaly/report")
        ]
        for path in (
            *asked,
            f"/orders/{trained}",
            f"/model/info?model_id={trained}",
            f"/orders/{trained}/events",
        ):
            answer = client.get(path)
            assert answer.status_code == 200
            assert found_in(answer.content, needles) == set()


@pytest.mark.slow
def test_the_store_keeps_no_sql(federation: RunningFederation, trained: int) -> None:
    for path, data in coordinator_side(federation):
        assert b"data.canary" not in data, path
        assert b"FROM data.rows" not in data, path


@pytest.mark.slow
@pytest.mark.thorough
def test_under_method_none_the_coordinator_holds_gradients_while_the_order_runs(
    federation: RunningFederation, recorded: dict[str, tuple[OrderOutcome, Secrets]]
) -> None:
    """The search works on a disk, too: hospitals' messages stand in the store until
    they are used.
    """
    needles, store = (
        recorded["None"][1].needles(N_ROWS),
        federation.home / "coordinator" / "store.sqlite",
    )
    found: set[str] = set()
    body, done = canary_order("None"), threading.Event()
    body["model_params"] = {**body["model_params"], "max_iter": 15, "eps": 0}

    def watch() -> None:
        with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as database:
            while not done.wait(0.005) and not found:
                for (message,) in database.execute(
                    "SELECT body FROM messages WHERE body IS NOT NULL"
                ):
                    found.update(found_in(message, needles))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert federation.wait_for(federation.submit(body))["state"] == "success"
    finally:
        done.set()
        watcher.join()
    assert found
    assert found <= {"gradient in fixed point", "gradient or weight"}, (
        "the first message may be for scores or for the sum"
    )
