"""The request document's own order, from request to inference, over a real federation."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from analytics.training.outcome import WARNINGS
from deployments.demo.training import document_order, pooled_weights
from tests.conftest import RunningFederation
from tests.faults.processes import wait_until

pytestmark = pytest.mark.slow


# Beside the document's keys: ten rounds are too few for this order.
ENDING = {
    "converged": False,
    "stopped_by": "max_iter",
    "warnings": [WARNINGS["max_iter"]],
    "refusal": None,
}


@pytest.fixture(scope="module")
def ordered(federation: RunningFederation) -> tuple[dict[str, Any], int]:
    with federation.client(4) as client:
        answer = client.post("/model/train", json=document_order())
    assert answer.status_code == 200, answer.text
    body = answer.json()
    federation.wait_for(body["data"]["order_id"])
    return body, body["data"]["order_id"]


def test_train_answers_as_the_document_says(
    ordered: tuple[dict[str, Any], int],
) -> None:
    body, order_id = ordered
    expected = {
        "data_volum": {"2": 228, "3": 228, "4": 227},
        "model_id": order_id,
        "order_id": order_id,
    }
    assert body == {"code": 200, "data": expected, "message": None}


@pytest.mark.parametrize("slash", ["", "/"])
def test_train_status_and_info(
    federation: RunningFederation, ordered: tuple[dict[str, Any], int], slash: str
) -> None:
    _, order_id = ordered
    with federation.client(4) as client:
        status = client.get(
            f"/model/train_status{slash}", params={"order_id": order_id}
        ).json()
        info = client.get(f"/model/info{slash}", params={"model_id": order_id}).json()
    assert status == {
        "code": 200,
        "data": {"model_id": order_id, "train_status": "success", **ENDING},
        "message": None,
    }
    sent = document_order()
    assert info["data"] == {
        "data_volum": {"2": 228, "3": 228, "4": 227},
        "model_params": {
            **sent["model_params"],
            "attributes": sent["attributes"],
            "label_name": "y",
            "unique_id": "id",
        },
        "model_type": "Logistic Regression",
        "party_id": [2, 3],
        "user_id": 4,
        **ENDING,
    }


def test_all_hospitals_hold_the_pooled_weights(
    federation: RunningFederation, ordered: tuple[dict[str, Any], int]
) -> None:
    _, order_id = ordered
    exported = [
        json.loads(federation.agent(site, "export", "--model", str(order_id)).stdout)[
            "dense"
        ]
        for site in ("suzhou-szslyy", "zhejiang-zdey", "shanxi-xbfy")
    ]
    assert exported[0] == exported[1] == exported[2]
    np.testing.assert_allclose(
        exported[0], pooled_weights(document_order()), rtol=0, atol=1e-9
    )


def test_the_order_shows_rounds_metrics_and_protection(
    federation: RunningFederation, ordered: tuple[dict[str, Any], int]
) -> None:
    order = federation.order(ordered[1])
    assert [row["round"] for row in order["rounds"]] == list(range(11))
    losses = [row["loss"] for row in order["rounds"]]
    assert losses == sorted(losses, reverse=True)
    guest = order["rounds"][-1]["hospitals"]["4"]["train"]
    assert guest["auc"] == pytest.approx(0.998, abs=0.001)
    assert guest["ks"] == pytest.approx(0.97, abs=0.01)
    assert order["protection"]["method"] == "Paillier"
    assert order["protection"]["key_bits"] == 2048
    assert order["waiting_for"] == []


@pytest.mark.parametrize("as_text", [True, False])
def test_inference_at_the_own_hospital(
    federation: RunningFederation, ordered: tuple[dict[str, Any], int], as_text: bool
) -> None:
    kind = str if as_text else int
    body = {
        "model_id": kind(ordered[1]),
        "input_data": {
            "user_id": kind(4),
            "data_sql": "SELECT * FROM data.breast_homo_guest where id=133;",
        },
    }
    with federation.client(4) as client:
        answer = client.post("/model/infer/", json=body).json()
        again = client.get(
            "/model/infer_status", params={"order_id": answer["data"]["order_id"]}
        ).json()
    assert answer["code"] == 200
    assert answer["data"]["infer_status"] == "success"
    assert [row["id"] for row in answer["data"]["result"]] == ["133"]
    assert answer["data"]["result"][0]["label"] == pytest.approx(0.5547, abs=1e-3)
    assert again == answer


def test_prefect_shows_linked_runs_with_names_and_tags(
    federation: RunningFederation, ordered: tuple[dict[str, Any], int]
) -> None:
    _, order_id = ordered
    wanted = {"flow_runs": {"tags": {"all_": [f"order-{order_id}"]}}}

    def completed() -> list[dict[str, Any]]:
        """Runs tell Prefect of their end after the order has ended."""
        found: list[dict[str, Any]] = client.post(
            "/flow_runs/filter", json=wanted
        ).json()
        return found if {run["state_type"] for run in found} == {"COMPLETED"} else []

    with federation.prefect() as client:
        runs = wait_until(
            completed, f"all runs of order {order_id} are completed", seconds=60
        )
        artifacts = client.post("/artifacts/latest/filter", json={}).json()
    names = {run["name"]: run for run in runs}
    assert set(names) == {
        f"order-{order_id}",
        *(f"order-{order_id}-hospital-{user}" for user in (2, 3, 4)),
    }
    assert all(run["parameters"] == {"order_id": order_id} for run in runs)
    children = [run for name, run in names.items() if "hospital" in name]
    assert all(run["parent_task_run_id"] for run in children)
    keys = {artifact["key"] for artifact in artifacts}
    assert {
        f"order-{order_id}-{kind}" for kind in ("progress", "metrics", "summary")
    } <= keys
