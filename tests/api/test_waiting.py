"""Whom an order waits for, and why: in the order, its timeline, the client and the
sentences of statistics.
"""

from __future__ import annotations

from typing import Any

import httpx

from api.client import Federation
from deployments.demo.training import document_order
from protocol.errors import Refused
from protocol.messages import EVERYONE, Acceptance, Header, write_envelope
from protocol.sealing import Identity
from tests.api.conftest import Coordinator
from tests.conftest import NO_AUTHORITY


def shown(
    coordinator: Coordinator, order_id: int, path: str = ""
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = coordinator.call(
        "GET", f"/orders/{order_id}{path}"
    ).json()["data"]["waiting_for"]
    return found


def new_order(coordinator: Coordinator) -> int:
    answer = coordinator.call("POST", "/model/train", json=document_order())
    assert answer.status_code == 200, answer.text
    order_id: int = answer.json()["data"]["order_id"]
    return order_id


def test_each_one_that_is_waited_for_has_a_cause_and_a_sentence(
    coordinator_with_order: tuple[Coordinator, int],
) -> None:
    coordinator, order_id = coordinator_with_order
    away = shown(coordinator, order_id)
    assert [(one["user_id"], one["name"], one["cause"]) for one in away] == [
        (2, "suzhou-szslyy", "away"),
        (3, "zhejiang-zdey", "away"),
        (4, "shanxi-xbfy", "away"),
    ]
    assert all(
        one["name"] in one["message"] and "not connected" in one["message"]
        for one in away
    )
    for user in (2, 3, 4):
        coordinator.call("GET", "/exchange/inbox?wait=0", f"agent-{user}")
    coordinator.give_places()
    working = shown(coordinator, order_id)
    assert [one["cause"] for one in working] == ["working"] * 3
    assert "has not sent its part" in working[0]["message"]
    assert shown(coordinator, order_id, "/timeline") == working
    transport = httpx.HTTPTransport(verify=NO_AUTHORITY, trust_env=False)
    address, token = str(coordinator.client.base_url), coordinator.tokens["user-4"]
    with Federation(address, token, user=4, transport=transport) as federation:
        frame = federation.order(order_id).waiting_for()
    assert frame.loc[2].to_dict() == {
        key: working[0][key] for key in ("name", "cause", "message")
    }


def test_an_order_that_has_ended_waits_for_nobody(
    coordinator_with_order: tuple[Coordinator, int],
) -> None:
    coordinator, order_id = coordinator_with_order
    assert coordinator.call("POST", f"/orders/{order_id}/cancel").status_code == 200
    assert (
        shown(coordinator, order_id) == shown(coordinator, order_id, "/timeline") == []
    )


def test_every_hospital_s_reason_is_kept(coordinator: Coordinator) -> None:
    """Hospitals check an order at the same time, and the second reason comes when the
    order has ended by the first.
    """
    order_id = new_order(coordinator)
    for user, code in ((3, "tables"), (2, "methods"), (3, "columns")):
        error = Refused(f"Hospital {user} says no.", remedy=f"Mend {code}.", code=code)
        body = error.to_json()
        # What only the coordinator keeps is not a hospital's to say.
        body["detail"] = {"also": [{"user_id": 4, "sentence": "made up"}]}
        sent = coordinator.call(
            "POST", f"/orders/{order_id}/refuse", f"agent-{user}", json=body
        )
        assert sent.status_code == 200
    refusal = coordinator.call("GET", f"/orders/{order_id}").json()["data"]["refusal"]
    assert refusal["code"] == "tables"
    assert refusal["sentence"] == "Hospital 3 says no. Hospital 2 says no."
    assert refusal["remedy"] == "Mend tables. Mend methods."
    also = refusal["detail"]["also"]
    assert [(one["user_id"], one["code"]) for one in also] == [(2, "methods")]


def test_no_reason_is_added_to_an_order_that_ended_otherwise(
    coordinator: Coordinator,
) -> None:
    order_id = new_order(coordinator)
    coordinator.call("POST", f"/orders/{order_id}/cancel")
    error = Refused("No.", remedy="Never.", code="tables")
    coordinator.call(
        "POST", f"/orders/{order_id}/refuse", "agent-2", json=error.to_json()
    )
    order = coordinator.call("GET", f"/orders/{order_id}").json()["data"]
    assert order["state"] == "cancelled"
    assert "No." not in str(order["refusal"])


def accept(coordinator: Coordinator, order_id: int, user: int, n_rows: int) -> None:
    identity = Identity.generate()
    told = Acceptance(
        order_digest=bytes(32),
        n_rows=n_rows,
        n_test_rows=0,
        regroup=False,
        least_hospitals=3,
        ephemeral=bytes(32),
        identity=identity.public,
    )
    envelope = write_envelope(
        identity, Header("acceptance", user, EVERYONE), told.encode()
    )
    path = f"/exchange/{order_id}/acceptance/0/0/0/{user}/{EVERYONE}"
    answer = coordinator.call("PUT", path, f"agent-{user}", content=envelope)
    assert answer.status_code == 201, answer.text


def test_rows_are_told_of_no_order_that_a_hospital_may_still_refuse(
    coordinator: Coordinator,
) -> None:
    """The gates forget an order that is cancelled by then: of two whose WHERE differ by
    one patient, the counts told whether there is one.
    """
    order_id = new_order(coordinator)
    for user in (2, 3, 4):
        coordinator.call("GET", "/exchange/inbox?wait=0", f"agent-{user}")
    coordinator.give_places()
    accept(coordinator, order_id, 2, 107)
    accept(coordinator, order_id, 3, 160)
    assert [one["user_id"] for one in shown(coordinator, order_id)] == [4]

    def told() -> list[str]:
        paths = (f"/orders/{order_id}", f"/model/info?model_id={order_id}", "/orders")
        return [coordinator.call("GET", path).text for path in paths]

    assert not any("107" in text for text in told())
    coordinator.call("POST", f"/orders/{order_id}/cancel")
    assert not any("107" in text for text in told())


def test_rows_are_told_of_an_order_that_all_have_agreed_on(
    coordinator: Coordinator,
) -> None:
    order_id = new_order(coordinator)
    counts = {"2": 107, "3": 160, "4": 160}
    report = {"state": "running", "n_rows": counts}
    coordinator.call("POST", f"/orders/{order_id}/progress", "coordinator", json=report)
    answer = coordinator.call("GET", f"/orders/{order_id}").json()
    assert answer["data"]["data_volum"] == counts
