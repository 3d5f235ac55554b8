"""POST /model/evaluate at the coordinator: the order that it makes of a model's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from deployments.demo.training import document_order
from tests.api.conftest import Coordinator, serve, settings_in
from tests.api.test_bad_input import assert_refused, n_orders

SQL = "SELECT * FROM data.later"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """Model 1 is of hospitals 2, 3 and 4, model 2 is a linear one."""
    linear = {**document_order(), "model_type": "linear"}
    with serve(settings_in(tmp_path_factory.mktemp("home"))) as running:
        for model_id, body in enumerate((document_order(), linear), start=1):
            answer = running.call("POST", "/model/train", json=body).json()
            assert answer["data"]["order_id"] == model_id
            running.store.orders.end(model_id, "success")
        yield running


def asked(**changes: Any) -> dict[str, Any]:
    made = {
        "user_id": 4,
        "party_id": [2, 3],
        "model_id": 1,
        "data_info": dict.fromkeys("234", SQL),
    }
    return {**made, **changes}


def test_the_order_reads_rows_as_the_model_does(trained: Coordinator) -> None:
    answer = trained.call("POST", "/model/evaluate", json=asked(threshold=0.25)).json()
    order_id = answer["data"]["order_id"]
    assert answer["data"]["model_id"] == 1
    order = trained.store.orders.get(order_id)
    document = json.loads(order.document)
    model = json.loads(trained.store.orders.get(1).document)["request"]
    assert document["kind"] == "evaluate"
    request = document["request"]
    for name in ("attributes", "label_name", "unique_id", "model_type"):
        assert request[name] == model[name]
    assert (request["model_id"], request["threshold"]) == (1, 0.25)
    assert request["model_params"]["max_iter"] == 1
    assert "SELECT" not in order.document
    shown = trained.call("GET", f"/orders/{order_id}").json()["data"]
    assert (shown["kind"], shown["state"]) == ("evaluate", "pending")
    assert shown["progress"] == {"done": 0, "of": 1}
    method = model["model_params"]["encrypt_param"]["method"]
    assert shown["protection"]["method"] == method
    # It is no model of its own.
    info = trained.call("GET", f"/model/info?model_id={order_id}")
    assert_refused(info, 404, "no model")
    again = trained.call("POST", "/model/evaluate", json=asked(model_id=order_id))
    assert_refused(again, 404, f"There is no model {order_id}")
    rerun = trained.call("POST", f"/orders/{order_id}/rerun").json()["data"]
    assert rerun["model_id"] == 1
    second = json.loads(trained.store.orders.get(rerun["order_id"]).document)
    assert second["request"] == request
    assert second["sql"] == document["sql"]


def test_another_method_than_the_model_s(trained: Coordinator) -> None:
    body = asked(encrypt_param={"method": "none"})
    order_id = trained.call("POST", "/model/evaluate", json=body).json()["data"][
        "order_id"
    ]
    shown = trained.call("GET", f"/orders/{order_id}").json()["data"]
    assert shown["method"] == "None"
    assert "counts of scores" in shown["protection"]["who_could_decrypt"]


def test_a_key_makes_one_order_of_two_requests(trained: Coordinator) -> None:
    headers = {"Idempotency-Key": "one"}
    numbers = []
    for _ in range(2):
        answer = trained.call(
            "POST", "/model/evaluate", json=asked(), headers=headers
        ).json()
        numbers.append(answer["data"]["order_id"])
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize(
    ("changes", "needle"),
    [
        ({"data_info": {"4": SQL}}, "data_info has no SQL for"),
        ({"data_info": dict.fromkeys("2345", SQL)}, "not in this order"),
        ({"party_id": [2, 2, 3]}, "names a hospital twice"),
        ({"party_id": [2, 3, 4]}, "holds the initiator 4"),
        (
            {"party_id": [2, 9], "data_info": dict.fromkeys("249", SQL)},
            "Hospital 9 took no part in order 1",
        ),
        ({"model_id": 2, "threshold": 0.4}, "no single score"),
        ({"model_id": 2, "calibration_slope": True}, "no single score"),
    ],
)
def test_what_is_wrong_is_named(
    trained: Coordinator, changes: dict[str, Any], needle: str
) -> None:
    before = n_orders(trained)
    answer = trained.call("POST", "/model/evaluate", json=asked(**changes))
    assert_refused(answer, 400, needle)
    assert n_orders(trained) == before
