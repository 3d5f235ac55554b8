"""Answers that are sealed to a reader's own key, as the coordinator passes them on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from protocol.readers import AnswerPlace, SealedAnswer, seal_answer
from protocol.sealing import Identity
from tests.api.conftest import Coordinator
from tests.api.test_statistics import question
from tests.made_readers import LIN, fingerprint, public

AGENT = Identity(b"a" * 32, b"b" * 32)
PAYLOAD = b'[{"id": "133", "label": 0.5547414326637677}]'


def seal_as_agent(
    coordinator: Coordinator, order_id: int, kind: str, *, who: int = 4
) -> int:
    """What the initiator's agent sends; the status."""
    place = AnswerPlace(order_id, kind, who)
    box = seal_answer(bytes.fromhex(public(LIN)), PAYLOAD, place=place, identity=AGENT)
    path = f"/exchange/{order_id}/answer/0/0/0/{who}/1"
    return coordinator.call("PUT", path, f"agent-{who}", content=box).status_code


def body_of(**changes: Any) -> dict[str, Any]:
    return {**question(), "reader": public(LIN), "timeout_seconds": 1, **changes}


def asked(coordinator: Coordinator, body: dict[str, Any]) -> int:
    """The number of an order that is under way."""
    made = coordinator.call("POST", "/runModelTrainTask", json=body)
    assert made.status_code == 202, made.text
    coordinator.give_places()
    return int(made.headers["X-Order-Id"])


def infer(coordinator: Coordinator) -> dict[str, Any]:
    from deployments.demo.training import document_order

    made = coordinator.call("POST", "/model/train", json=document_order())
    model_id = int(made.json()["data"]["order_id"])
    coordinator.store.orders.end(model_id, "success")
    body = {
        "model_id": model_id,
        "input_data": {"user_id": 4, "data_sql": "SELECT * FROM data.visits"},
        "reader": public(LIN),
    }
    found = coordinator.call("POST", "/model/infer", json=body)
    assert found.status_code == 200, found.text
    data: dict[str, Any] = found.json()["data"]
    return data


def test_predictions_pass_sealed_and_are_opened_by_their_reader_alone(
    coordinator: Coordinator,
) -> None:
    first = infer(coordinator)
    order_id = first.pop("order_id")
    assert first == {"infer_status": "pending", "result": None}
    request = coordinator.call("GET", f"/orders/{order_id}/request", "agent-4").json()[
        "data"
    ]
    document = json.loads(request["document"])
    assert document["reader"] == public(LIN)
    assert "reply_key" not in document
    waits = coordinator.call("GET", f"/orders/{order_id}/answer")
    assert (waits.status_code, waits.json()["data"]["error"]["code"]) == (
        409,
        "no_answer",
    )
    assert seal_as_agent(coordinator, order_id, "predictions") == 201
    found = coordinator.call("GET", f"/model/infer_status?order_id={order_id}").json()[
        "data"
    ]
    assert found["infer_status"] == "success"
    assert found["result"] is None
    record = SealedAnswer.from_json(found["sealed"])
    assert record.open(LIN).payload == PAYLOAD
    assert record.reader == fingerprint(LIN)
    # Again, and by the address of all answers.
    again = coordinator.call("GET", f"/orders/{order_id}/answer")
    assert SealedAnswer.read(again.text) == record
    # This process has no key of its own for it.
    assert order_id not in coordinator.app.state.reply_keys
    for who, status in (("user-2", 403), ("operator", 403), ("agent-4", 403)):
        assert (
            coordinator.call("GET", f"/orders/{order_id}/answer", who).status_code
            == status
        )


def test_a_statistics_answer_is_kept_when_its_order_has_ended(
    coordinator: Coordinator,
) -> None:
    order_id = asked(coordinator, body_of())
    assert seal_as_agent(coordinator, order_id, "statistics") == 201
    coordinator.store.orders.end(order_id, "success")
    found = SealedAnswer.read(
        coordinator.call("GET", f"/orders/{order_id}/answer").text
    )
    assert found.place == AnswerPlace(order_id, "statistics", 4)
    assert found.open(LIN).payload == PAYLOAD
    # Whoever looks at the order sees to whom, and how.
    shown = coordinator.call("GET", f"/orders/{order_id}").json()["data"]
    assert shown["reader"] == fingerprint(LIN)
    without = asked(coordinator, {**question(), "timeout_seconds": 1})
    shown = coordinator.call("GET", f"/orders/{without}").json()["data"]
    assert shown["reader"] is None


def test_only_the_initiator_s_agent_seals_an_answer(coordinator: Coordinator) -> None:
    order_id = asked(coordinator, body_of())
    assert seal_as_agent(coordinator, order_id, "statistics", who=2) == 403
    # And only where the order names a reader.
    without = asked(coordinator, {**question(), "timeout_seconds": 1})
    assert seal_as_agent(coordinator, without, "statistics") == 403
    refused = coordinator.call("GET", f"/orders/{without}/answer")
    assert (refused.status_code, refused.json()["data"]["error"]["code"]) == (
        400,
        "reader",
    )


def test_an_order_that_failed_says_why_in_the_place_of_an_answer(
    coordinator: Coordinator,
) -> None:
    from protocol.errors import Refused

    order_id = asked(coordinator, body_of())
    why = Refused("No such reader.", remedy="Have it listed.", code="reader")
    coordinator.call(
        "POST", f"/orders/{order_id}/refuse", "agent-4", json=why.to_json()
    )
    coordinator.store.orders.end(order_id, "failed", why)
    found = coordinator.call("GET", f"/orders/{order_id}/answer")
    assert (found.status_code, found.json()["data"]["error"]["code"]) == (403, "reader")


def test_an_order_that_ended_without_one_says_what_to_do(
    coordinator: Coordinator,
) -> None:
    order_id = asked(coordinator, body_of())
    coordinator.store.orders.end(order_id, "success")
    found = coordinator.call("GET", f"/orders/{order_id}/answer?wait=5")
    assert (found.status_code, found.json()["data"]["error"]["code"]) == (
        404,
        "no_answer",
    )


@pytest.mark.parametrize("key", ["00" * 32, "ab", 7, "g" * 64])
def test_what_is_no_key_is_refused(coordinator: Coordinator, key: Any) -> None:
    found = coordinator.call("POST", "/runModelTrainTask", json=body_of(reader=key))
    assert found.status_code == 400
    assert "reader" in found.json()["msg"]


def test_who_receives_nothing_has_nothing_to_seal(coordinator: Coordinator) -> None:
    body = body_of(result_receivers=[2])
    found = coordinator.call("POST", "/runModelTrainTask", json=body)
    assert found.status_code == 400
    assert "reader" in found.json()["msg"]


def test_a_schedule_may_name_a_reader_and_not_disclose(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    body = {**question(), "reader": public(LIN), "schedule": {"cron": "0 6 * * *"}}
    made = coordinator.call("POST", "/statistics/schedules", json=body)
    assert made.status_code == 200, made.text
    assert made.json()["data"]["request"]["reader"] == public(LIN)
    body = {**body, "disclose": True}
    refused = coordinator.call("POST", "/statistics/schedules", json=body)
    assert refused.json()["data"]["error"]["code"] == "disclose"
    assert "reader" in refused.json()["data"]["error"]["remedy"]
