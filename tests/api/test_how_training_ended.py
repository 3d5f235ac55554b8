"""How training ended stands in every answer about an order, beside the request
document's keys.
"""

from __future__ import annotations

from typing import Any

import pytest

from analytics.training.outcome import WARNINGS
from api.client import Federation
from deployments.demo.training import document_order
from protocol.errors import Refused
from tests.api.conftest import Coordinator

NOTHING = {"converged": None, "stopped_by": None, "warnings": []}
UNFINISHED = {
    "converged": False,
    "stopped_by": "max_iter",
    "warnings": [WARNINGS["max_iter"]],
}
FINE = {"converged": True, "stopped_by": "converged", "warnings": []}


@pytest.fixture
def order_id(coordinator: Coordinator) -> int:
    answer = coordinator.call("POST", "/model/train", json=document_order())
    return int(answer.json()["data"]["order_id"])


def tell(coordinator: Coordinator, order_id: int, **facts: Any) -> None:
    path = f"/orders/{order_id}/progress"
    answer = coordinator.call("POST", path, "coordinator", json=facts)
    assert answer.status_code == 200, answer.text


def end(coordinator: Coordinator, order_id: int, summary: dict[str, Any]) -> None:
    tell(coordinator, order_id, state="running")
    tell(coordinator, order_id, end="success", summary=summary)


def answers(coordinator: Coordinator, order_id: int) -> dict[str, dict[str, Any]]:
    """The four answers about an order."""
    paths = {
        "status": f"/model/train_status?order_id={order_id}",
        "info": f"/model/info?model_id={order_id}",
        "order": f"/orders/{order_id}",
        "orders": "/orders?limit=500",
    }
    found = {}
    for name, path in paths.items():
        found[name] = coordinator.call("GET", path).json()["data"]
    rows = found["orders"]["orders"]
    (found["orders"],) = [row for row in rows if row["order_id"] == order_id]
    return found


def endings(coordinator: Coordinator, order_id: int) -> dict[str, Any]:
    """What all answers say alike."""
    said = []
    for answer in answers(coordinator, order_id).values():
        names = [*NOTHING, "folds"]
        said.append({name: answer[name] for name in names if name in answer})
    for one in said:
        assert one == said[0]
    return said[0]


def fold(**ending: Any) -> dict[str, Any]:
    return {"n_rows": 140, "loss": 0.4, "held_out": None, **ending}


def test_before_the_end_there_is_nothing_to_say(
    coordinator: Coordinator, order_id: int
) -> None:
    assert endings(coordinator, order_id) == NOTHING
    tell(coordinator, order_id, state="running")
    assert endings(coordinator, order_id) == NOTHING


@pytest.mark.parametrize("ending", [FINE, UNFINISHED])
def test_an_order_says_how_its_model_ended(
    coordinator: Coordinator, order_id: int, ending: dict[str, Any]
) -> None:
    end(coordinator, order_id, {"0": fold(**ending)})
    assert endings(coordinator, order_id) == ending


def test_of_cross_validation_each_fold_and_all_together(
    coordinator: Coordinator, order_id: int
) -> None:
    held_out = {"n_rows": 140, "loss": 0.5}
    summary = {
        "1": fold(**FINE),
        "2": fold(**UNFINISHED),
        "0": fold(**FINE),
        "held_out": held_out,
    }
    end(coordinator, order_id, summary)
    assert endings(coordinator, order_id) == {
        "converged": False,
        "stopped_by": "max_iter",
        "warnings": [f"Fold 2: {WARNINGS['max_iter']}"],
        "folds": {"1": FINE, "2": UNFINISHED, "0": FINE},
    }


def test_all_folds_together_have_converged_where_each_has(
    coordinator: Coordinator, order_id: int
) -> None:
    end(coordinator, order_id, {"1": fold(**FINE), "0": fold(**FINE)})
    found = endings(coordinator, order_id)
    assert {name: found[name] for name in NOTHING} == FINE


def test_an_order_that_failed_says_why_and_nothing_else(
    coordinator: Coordinator, order_id: int
) -> None:
    tell(coordinator, order_id, state="running")
    error = Refused(
        "The model is so steep.", remedy="Use one.", code="linear_predictor"
    )
    path = f"/orders/{order_id}/refuse"
    coordinator.call("POST", path, "agent-3", json=error.to_json())
    assert endings(coordinator, order_id) == NOTHING
    found = answers(coordinator, order_id)
    for name in ("status", "info", "order"):
        assert found[name]["refusal"]["code"] == "linear_predictor"
        assert found[name]["refusal"]["remedy"] == "Use one."


def test_an_order_of_an_earlier_version_says_nothing(
    coordinator: Coordinator, order_id: int
) -> None:
    end(coordinator, order_id, {"0": fold()})
    assert endings(coordinator, order_id) == NOTHING


def test_no_key_of_the_request_document_changes(
    coordinator: Coordinator, order_id: int
) -> None:
    end(coordinator, order_id, {"0": fold(**FINE)})
    found = answers(coordinator, order_id)
    status = found["status"]
    assert [*status][:2] == ["model_id", "train_status"]
    assert status["model_id"] == order_id
    assert [*found["info"]][:5] == [
        "data_volum",
        "model_params",
        "model_type",
        "party_id",
        "user_id",
    ]
    sent = document_order()["model_params"]
    assert {name: found["info"]["model_params"][name] for name in sent} == sent


def test_the_client_says_it_too(
    coordinator: Coordinator, order_id: int, capsys: pytest.CaptureFixture[str]
) -> None:
    address = str(coordinator.client.base_url)
    with Federation(address, coordinator.tokens["user-4"], user=4) as federation:
        order = federation.order(order_id)
        assert (order.converged(), order.warnings()) == (None, [])
        summary = {"0": {**fold(**UNFINISHED), "auc": 0.9}}
        end(coordinator, order_id, summary)
        order.wait()
        assert (order.converged(), order.warnings()) == (False, [WARNINGS["max_iter"]])
        shown = federation.orders().loc[order_id]
        assert (shown["converged"], shown["stopped_by"]) == (False, "max_iter")
        pooled = order.pooled_metrics()
        assert pooled["stopped_by"].tolist() == ["max_iter"]
        assert "warnings" not in pooled
    *_, last = capsys.readouterr().err.splitlines()
    assert last == f"Warning: {WARNINGS['max_iter']}"
