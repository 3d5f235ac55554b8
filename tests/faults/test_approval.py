"""kill -9 of an agent, and of its flow process, while an order waits for a person at its hospital."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.demo import document_order
from tests import bad_tables
from tests.faults import processes
from tests.faults.conftest import Faulty
from tests.faults.processes import SITES, kill, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def deciding(tmp_path: Path) -> Iterator[Faulty]:
    """A federation in which a person decides at hospital 2."""
    running = Faulty(tmp_path / "home", environment={"CONSILIUM_SITES": str(tmp_path / "sites")})
    bad_tables.prepare(running.env, running.sites)
    policy = running.sites / SITES[2] / "policy.toml"
    policy.write_text(policy.read_text("utf-8").replace("[orders]\n", '[orders]\napproval = "manual"\n', 1), "utf-8")
    running.start()
    yield running
    running.operator.close()
    running.stop()


def waiting(federation: Faulty) -> list[dict[str, Any]]:
    return list(json.loads(federation.agent(SITES[2], "approvals", "--json").stdout))


def test_the_order_waits_on_and_a_decision_made_meanwhile_stands(deciding: Faulty) -> None:
    with deciding.client(4) as client:
        answer = client.post("/model/train", json=document_order(method="Mask", rounds=2)).json()
    assert answer["code"] == 200
    assert answer["data"]["data_volum"]["2"] is None
    assert answer["message"]
    number = answer["data"]["order_id"]
    (question,) = wait_until(lambda: waiting(deciding), "an order that waits", seconds=60)
    assert question["order_id"] == number
    wait_until(
        lambda: [entry["user_id"] for entry in deciding.order(number)["waiting_for"]] == [2], "hospital 2 waited for"
    )
    kill(wait_until(lambda: deciding.flows(2), "a flow process")[0])
    agent = deciding.pid(2)
    kill(agent)
    assert deciding.agent(SITES[2], "approve", str(number)).returncode == 0
    wait_until(lambda: processes.part(deciding.up, 2) not in (None, agent), "another agent")
    assert deciding.wait_for(number)["state"] == "success"
    assert waiting(deciding) == []
    again = deciding.submit(document_order(method="Mask", rounds=2))  # answers without hospital 2's count
    flow = wait_until(lambda: waiting(deciding) and deciding.flows(2), "a flow process that waits", seconds=60)[0]
    kill(flow)
    wait_until(lambda: [pid for pid in deciding.flows(2) if pid != flow], "another flow process")
    assert deciding.order(again)["state"] in ("pending", "running")
    assert deciding.agent(SITES[2], "refuse", str(again)).returncode == 0
    order = deciding.wait_for(again)
    assert (order["state"], order["refusal"]["code"]) == ("failed", "approval")
