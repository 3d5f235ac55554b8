"""Whom an order waits for, and why: in the order, its timeline, the client and the sentences of statistics."""

from __future__ import annotations

from typing import Any

import httpx

from api.client import Federation
from tests.api.conftest import Coordinator
from tests.conftest import NO_AUTHORITY


def shown(coordinator: Coordinator, order_id: int, path: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = coordinator.call("GET", f"/orders/{order_id}{path}").json()["data"][
        "waiting_for"
    ]
    return found


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
    assert all(one["name"] in one["message"] and "not connected" in one["message"] for one in away)
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
    assert frame.loc[2].to_dict() == {key: working[0][key] for key in ("name", "cause", "message")}


def test_an_order_that_has_ended_waits_for_nobody(coordinator_with_order: tuple[Coordinator, int]) -> None:
    coordinator, order_id = coordinator_with_order
    assert coordinator.call("POST", f"/orders/{order_id}/cancel").status_code == 200
    assert shown(coordinator, order_id) == shown(coordinator, order_id, "/timeline") == []
