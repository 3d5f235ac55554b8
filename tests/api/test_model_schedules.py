"""Schedules of models over REST: an order of training, or an evaluation, that is run again.

Prefect's part, saying when, is played here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from api.client.federation import Federation
from deployments.demo.training import document_order
from protocol.errors import Unavailable
from tests.api.conftest import Coordinator, StandInRuns, serve, settings_in
from tests.api.test_bad_input import assert_refused
from tests.api.test_client import federation_of
from tests.api.test_schedules import EVERY_MINUTE, add, fire, now
from tests.pairwise import quick

SQL = "SELECT * FROM data.later"


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    """Order 1 has trained a model, order 2 has evaluated it, order 3 is under way."""
    with serve(settings_in(tmp_path)) as running:
        running.call("POST", "/model/train", json=document_order())
        running.store.orders.end(1, "success")
        body = {
            "user_id": 4,
            "party_id": [2, 3],
            "model_id": 1,
            "data_info": dict.fromkeys("234", SQL),
        }
        running.call("POST", "/model/evaluate", json=body)
        running.store.orders.end(2, "success")
        running.call("POST", "/model/train", json=document_order())
        yield running


def add_model(coordinator: Coordinator, who: str = "user-4", **changes: Any) -> Any:
    body = {"order_id": 2, "schedule": EVERY_MINUTE, **changes}
    return coordinator.call("POST", "/model/schedules", who, json=body)


def times(coordinator: Coordinator, schedule_id: int) -> list[dict[str, Any]]:
    path = f"/model/schedules/{schedule_id}/history"
    runs: list[dict[str, Any]] = coordinator.call("GET", path).json()["data"]["runs"]
    return runs


@pytest.mark.parametrize(
    ("order_id", "kind"), quick([(1, "train"), (2, "evaluate")], 1)
)
def test_each_time_is_the_same_order_with_the_sealed_sql(
    coordinator: Coordinator, order_id: int, kind: str
) -> None:
    made = add_model(coordinator, order_id=order_id, name="monthly").json()["data"]
    schedule_id = made["schedule_id"]
    assert made["request"] == {"order_id": order_id, "kind": kind}
    assert (made["name"], made["user_id"], made["active"]) == ("monthly", 4, True)
    at = now()
    fired = fire(coordinator, schedule_id, at)
    again = coordinator.store.orders.get(fired["order_id"])
    first = coordinator.store.orders.get(order_id)
    assert (again.kind, again.rerun_of) == (kind, order_id)
    document, earlier = json.loads(again.document), json.loads(first.document)
    assert document["request"] == earlier["request"]
    assert document["sql"] == earlier["sql"]
    assert coordinator.store.orders.boxes(again.order_id)[2].commitment
    # Asked again for the same time, it is the same order; the next time waits for it.
    assert fire(coordinator, schedule_id, at)["order_id"] == again.order_id
    assert fire(coordinator, schedule_id, at + timedelta(minutes=1))["order_id"] is None
    coordinator.store.orders.end(again.order_id, "success")
    runs = times(coordinator, schedule_id)
    assert [run["state"] for run in runs] == ["skipped", "success"]
    assert runs[1]["order_id"] == again.order_id
    assert runs[1]["path"] is None
    later = fire(coordinator, schedule_id, at + timedelta(minutes=2))["order_id"]
    assert later > again.order_id


def test_schedules_of_questions_and_of_models_are_apart(
    coordinator: Coordinator,
) -> None:
    of_model = add_model(coordinator).json()["data"]["schedule_id"]
    of_question = add(coordinator).json()["data"]["schedule_id"]
    for path, number in (
        ("/model/schedules", of_model),
        ("/statistics/schedules", of_question),
    ):
        listed = coordinator.call("GET", path).json()["data"]["schedules"]
        assert [one["schedule_id"] for one in listed] == [number]
    for path in (
        f"/model/schedules/{of_question}",
        f"/statistics/schedules/{of_model}",
    ):
        for method in ("GET", "DELETE"):
            assert_refused(coordinator.call(method, path), 404, "no schedule")
        changed = coordinator.call("PATCH", path, json={"active": False})
        assert_refused(changed, 404, "no schedule")
    answer = coordinator.call("GET", f"/statistics/history?schedule_id={of_model}")
    assert_refused(answer, 404, "no schedule")


@pytest.mark.thorough
def test_it_is_paused_renamed_and_ended_by_who_made_it(
    coordinator: Coordinator,
) -> None:
    schedule_id = add_model(coordinator).json()["data"]["schedule_id"]
    path = f"/model/schedules/{schedule_id}"
    refused = coordinator.call("PATCH", path, "user-2", json={"active": False})
    assert refused.status_code == 403
    assert coordinator.call("DELETE", path, "user-2").status_code == 403
    assert coordinator.call("GET", path, "user-2").status_code == 200
    changed = coordinator.call("PATCH", path, json={"active": False, "name": "x"})
    assert changed.json()["data"]["active"] is False
    assert coordinator.runs.deployed[schedule_id][1] is False
    assert fire(coordinator, schedule_id, now())["order_id"] is None
    assert coordinator.call("DELETE", path).json()["data"]["deleted"]
    assert_refused(coordinator.call("GET", path), 404, "no schedule")


@pytest.mark.parametrize(
    ("changes", "who", "status", "needle"),
    quick(
        [
            ({"order_id": 3}, "user-4", 400, "succeeded"),
            ({"order_id": 9}, "user-4", 404, "9"),
            ({}, "user-2", 403, "4"),
            ({"schedule": {"cron": "every day"}}, "user-4", 400, "cron"),
        ],
        2,
    ),
)
def test_what_cannot_be_run_again_is_refused(
    coordinator: Coordinator, changes: Any, who: str, status: int, needle: str
) -> None:
    assert_refused(add_model(coordinator, who, **changes), status, needle)
    assert coordinator.call("GET", "/model/schedules").json()["data"]["schedules"] == []


def test_what_prefect_does_not_take_is_not_kept(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise Unavailable("Prefect does not answer.", remedy="Try again.")

    monkeypatch.setattr(StandInRuns, "deploy_schedule", away)
    assert add_model(coordinator).status_code == 503
    assert coordinator.call("GET", "/model/schedules").json()["data"]["schedules"] == []


def test_the_client_s_schedule(coordinator: Coordinator) -> None:
    with federation_of(coordinator, user=4) as federation:
        check_client(coordinator, federation)


def check_client(coordinator: Coordinator, federation: Federation) -> None:
    schedule = federation.schedule_order(2, cron="0 6 1 * *", name="monthly")
    assert federation.model_schedules()["name"].tolist() == ["monthly"]
    assert schedule.pause().info()["active"] is False
    schedule.resume()
    fired = fire(coordinator, schedule.schedule_id, now())
    assert schedule.history().index.tolist() == [fired["order_id"]]
    schedule.delete()
    assert federation.model_schedules().empty
