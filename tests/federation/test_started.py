"""An order of real agents that starts with who is there: one of them is off, and comes
when it is over.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.processes import wait_until
from tests.strict_federation import FOUR, Strict, make_strict, order

pytestmark = [pytest.mark.slow, pytest.mark.thorough, pytest.mark.timeout(900)]

TABLE, LONG = "data.started", "data.started_long"
WINDOW: dict[str, Any] = {"start_within_seconds": 20, "at_least": 3}


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Strict]:
    made = make_strict(tmp_path_factory.mktemp("strict"), [TABLE, LONG])
    made.start()
    yield made
    assert made.stop() == 0, made.logs()[-3000:]


def prefect_state(strict: Strict, order_id: int, user: int) -> tuple[str, str]:
    """Of a hospital's run: type and message."""
    tags = {"all_": [f"order-{order_id}", f"hospital-{user}"]}
    wanted = {"flow_runs": {"tags": tags}}
    with strict.prefect() as client:
        (run,) = client.post("/flow_runs/filter", json=wanted).json()
    return run["state"]["type"], run["state"]["message"] or ""


SLOW = """
from agents.order import starting

opens = starting.open_window

def open_late(order):
    if order.request.start_within_seconds is not None:
        # It begins when the party is named.
        order.exchange.get(starting._address(order), order.request.initiator, 0)
    opens(order)

starting.open_window = open_late
"""


def test_a_hospital_that_comes_late_while_the_others_train(
    strict: Strict, tmp_path: Path
) -> None:
    """Its run is cancelled in Prefect, and the order goes on: nobody has cancelled it."""
    body = order(LONG, users=FOUR, params={"max_iter": 60}, **WINDOW)
    with strict.changed_agent(5, SLOW, tmp_path), strict.client(4) as client:
        answer = client.post("/model/train", json=body).json()
        assert "began without hospital 5" in str(answer["message"]), answer
        order_id = answer["data"]["order_id"]
        assert answer["data"]["data_volum"]["5"] is None
        wait_until(
            lambda: prefect_state(strict, order_id, 5) == ("CANCELLED", "late"),
            "the late run's end",
            seconds=120,
        )
        ended_while = strict.order(order_id)["state"]
        assert strict.wait_for(order_id)["state"] == "success", ended_while
    assert [entry["purpose"] for entry in strict.ledger(5, order_id, "late")] == [""]
    assert strict.ledger(5, order_id, "left") == []


def test_an_agent_that_is_off_and_comes_when_it_is_over(strict: Strict) -> None:
    strict._end_agent(5)
    started = strict.train(order(TABLE, users=FOUR, **WINDOW))
    assert started.order["state"] == "success", started.order
    assert (started.order["party"], started.order["late"]) == ([2, 3, 4], [5])
    assert started.order["hospitals"] == list(FOUR)
    counted = started.order["data_volum"]
    assert counted["5"] is None
    assert all(counted[str(user)] == 80 for user in (2, 3, 4))
    for user in (2, 3, 4):
        model = strict.state(user) / "vault" / "models" / f"{started.order_id}.json"
        assert json.loads(model.read_text())["content"]["hospitals"] == [2, 3, 4]

    # Its run ends by itself, with a word, and leaves nothing here.
    strict._start_agent(5, str(strict.env["PYTHONPATH"]))
    wait_until(
        lambda: prefect_state(strict, started.order_id, 5) == ("CANCELLED", "late"),
        "the late run's end",
        seconds=120,
    )
    vault = strict.state(5) / "vault"
    mark = json.loads((vault / "ended" / f"{started.order_id}.json").read_text())
    assert mark["content"]["outcome"] == "late"
    assert not (vault / "models").exists()
    assert not list((vault / "orders").glob("[0-9]*"))
    assert strict.ledger(5, started.order_id, "left") == []
    with strict.client(5) as client:
        again = client.get(f"/orders/{started.order_id}").json()["data"]
    assert again["state"] == "success"

    # With it, and without, on the same rows: its own gradient.
    with_all = strict.train(order(TABLE, users=FOUR))
    with_all.assert_refused("earlier_hospitals", by=[2, 3, 4])
    sentence = with_all.order["refusal"]["sentence"]
    said = f"Order {started.order_id} began without hospital 5 (start_within_seconds)"
    assert said in sentence
    strict.train(order(TABLE, users=(2, 3, 4))).assert_answered()
