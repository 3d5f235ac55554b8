"""kill -9 of any one part in the middle of a 30-round Paillier order: success, the same
bits, and never "failed".
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from deployments.demo.training import document_order
from tests.faults import processes
from tests.faults.conftest import Faulty, Watcher, thirty_rounds
from tests.faults.processes import SITES, kill, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# Each list is one order; the next part dies when the order has gone on after the one
# before it.
KILLS: list[list[tuple[int, str | int]]] = [
    [(3, "flow of 4"), (10, "flow of 3"), (18, "flow of worker")],
    [(3, 4), (14, 2)],
    [(3, "api"), (14, "worker")],
    [(5, "prefect")],
    [(6, "prefect"), (6, "api"), (16, "api")],
]


@pytest.fixture(scope="module")
def undisturbed(faulty: Faulty) -> list[Any]:
    """The weights at the three hospitals, as their own export gives them too."""
    order_id = faulty.submit(thirty_rounds())
    assert faulty.wait_for(order_id)["state"] == "success"
    weights = faulty.weights(order_id)
    exported = [
        faulty.agent(site, "export", "--model", str(order_id)).stdout
        for site in SITES.values()
    ]
    assert [layers["dense"] for layers in weights] == [
        json.loads(text)["dense"] for text in exported
    ]
    return weights


@pytest.mark.parametrize(
    "kills", KILLS, ids=lambda kills: "+".join(str(name) for _, name in kills)
)
def test_an_order_survives(
    faulty: Faulty, undisturbed: list[Any], kills: list[tuple[int, str | int]]
) -> None:
    order_id = faulty.submit(thirty_rounds())
    with Watcher(faulty, order_id) as watcher:
        for round_, killed in kills:
            faulty.until_round(order_id, round_)
            _kill(faulty, killed)
        order = faulty.wait_for(order_id)
    assert order["state"] == "success", order["refusal"]
    assert set(watcher.seen) <= {"pending", "running", "success"}, watcher.seen
    assert [row["round"] for row in order["rounds"]] == list(range(31))
    assert faulty.weights(order_id) == undisturbed
    faulty.wait_until_ready()
    faulty.until_runs_are("COMPLETED", order_id)


def _kill(faulty: Faulty, killed: str | int) -> None:
    if not isinstance(killed, str) or not killed.startswith("flow of "):
        kill(faulty.pid(killed))
        return
    name = killed.removeprefix("flow of ")
    flows = faulty.flows(int(name) if name.isdecimal() else name)
    assert len(flows) == 1
    kill(flows[0])


def test_everything_dies_with_up_and_goes_on_with_the_next(
    faulty: Faulty, undisturbed: list[Any]
) -> None:
    order_id = faulty.submit(thirty_rounds())
    faulty.until_round(order_id, 5)
    below = processes.descendants(faulty.up)
    assert len(below) >= 10, "five parts, their fork servers and the order's flows"
    kill(faulty.up)
    faulty.process.wait()  # type: ignore[union-attr]
    processes.wait_until_gone(below)
    faulty.start()
    assert faulty.wait_for(order_id)["state"] == "success"
    assert faulty.weights(order_id) == undisturbed


@pytest.fixture
def deciding(faulty: Faulty) -> Iterator[Faulty]:
    """While this lasts a person decides at hospital 2."""
    policy = faulty.sites / SITES[2] / "policy.toml"
    before = policy.read_text("utf-8")
    policy.write_text(
        before.replace("[orders]\n", '[orders]\napproval = "manual"\n', 1), "utf-8"
    )
    yield faulty
    policy.write_text(before, "utf-8")


def asked(federation: Faulty) -> list[dict[str, Any]]:
    return list(json.loads(federation.agent(SITES[2], "approvals", "--json").stdout))


def test_an_order_that_waits_for_a_person_waits_on_and_a_decision_made_meanwhile_stands(
    deciding: Faulty,
) -> None:
    with deciding.client(4) as client:
        answer = client.post(
            "/model/train", json=document_order(method="Mask", rounds=2)
        ).json()
    assert answer["code"] == 200
    assert answer["data"]["data_volum"]["2"] is None
    assert answer["message"]
    number = answer["data"]["order_id"]
    (question,) = wait_until(lambda: asked(deciding), "an order that waits", seconds=60)
    assert question["order_id"] == number
    wait_until(
        lambda: (
            [entry["user_id"] for entry in deciding.order(number)["waiting_for"]] == [2]
        ),
        "hospital 2 waited for",
    )
    kill(wait_until(lambda: deciding.flows(2), "a flow process")[0])
    agent = deciding.pid(2)
    kill(agent)
    assert deciding.agent(SITES[2], "approve", str(number)).returncode == 0
    wait_until(
        lambda: processes.part(deciding.up, 2) not in (None, agent), "another agent"
    )
    assert deciding.wait_for(number)["state"] == "success"
    assert asked(deciding) == []
    again = deciding.submit(
        document_order(method="Mask", rounds=2)
    )  # answers without hospital 2's count
    flow = wait_until(
        lambda: asked(deciding) and deciding.flows(2),
        "a flow process that waits",
        seconds=60,
    )[0]
    kill(flow)
    wait_until(
        lambda: [pid for pid in deciding.flows(2) if pid != flow],
        "another flow process",
    )
    assert deciding.order(again)["state"] in ("pending", "running")
    assert deciding.agent(SITES[2], "refuse", str(again)).returncode == 0
    order = deciding.wait_for(again)
    assert (order["state"], order["refusal"]["code"]) == ("failed", "approval")


def test_the_logs_say_nothing_worse_than_that_somebody_was_away(faulty: Faulty) -> None:
    faulty.assert_quiet_logs()
