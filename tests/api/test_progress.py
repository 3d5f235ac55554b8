"""How far an order is: in the list, in the order itself, and for who follows it and
asks for the newer rounds alone.
"""

from __future__ import annotations

from typing import Any

import pytest

from api.live import Bell
from api.routes.services import progress
from api.store.rows import OrderRow
from api.store.tables import utc_now
from tests.api.conftest import Coordinator

Running = tuple[Coordinator, int]


def report(coordinator: Coordinator, order_id: int, round_: int) -> None:
    told = {"fold": 0, "round": round_, "loss": 0.5, "final": False, "hospitals": {}}
    answer = coordinator.call(
        "POST", f"/orders/{order_id}/progress", "coordinator", json={"round": told}
    )
    assert answer.status_code == 200, answer.text


def test_who_has_rounds_gets_the_newer_ones(coordinator_with_order: Running) -> None:
    coordinator, order_id = coordinator_with_order
    for number in range(3):
        report(coordinator, order_id, number)

    def shown(rounds_from: int) -> dict[str, Any]:
        path = f"/orders/{order_id}?rounds_from={rounds_from}"
        return dict(coordinator.call("GET", path).json()["data"])

    for known in range(4):
        data = shown(known)
        assert [entry["round"] for entry in data["rounds"]] == [0, 1, 2][known:]
        assert data["round"] == 2
        assert data["progress"] == {"done": 2, "of": 10}
    # Who would leave out more than there are is told of no round that is not recorded.
    beyond = shown(9)
    assert beyond["rounds"] == []
    assert beyond["round"] == 2
    assert beyond["progress"] == {"done": 2, "of": 10}
    assert (
        coordinator.call("GET", f"/orders/{order_id}?rounds_from=-1").status_code == 422
    )


def test_the_list_has_the_same_progress_and_says_how_an_order_is_protected(
    coordinator_with_order: Running,
) -> None:
    coordinator, order_id = coordinator_with_order
    listed = coordinator.call("GET", "/orders").json()["data"]["orders"]
    one = coordinator.call("GET", f"/orders/{order_id}").json()["data"]
    assert [(row["progress"], row["method"]) for row in listed] == [
        (one["progress"], "Paillier")
    ]


def order_of(
    *,
    kind: str,
    body: dict[str, Any] | None = None,
    stage: dict[str, Any] | None = None,
) -> OrderRow:
    """An order as far as its progress depends on it."""
    now = utc_now()
    return OrderRow(
        order_id=1,
        kind=kind,
        initiator=2,
        hospitals=[2],
        body=body or {},
        document="",
        state="running",
        stop=None,
        n_rows={},
        summary={},
        flow_run_id=None,
        rerun_of=None,
        created=now,
        updated=now,
        owner_key=None,
        body_digest=None,
        score_readers=None,
        stage=stage,
        schedule_id=None,
        admitted=None,
        overtaken=0,
        asked=None,
        runs=None,
        runs_deleted=None,
    )


@pytest.mark.parametrize(
    ("order", "n_recorded", "done", "of"),
    [
        ({"kind": "train", "body": {}}, 0, 0, 100),
        ({"kind": "train", "body": {}}, 7, 6, 100),
        ({"kind": "train", "body": {"model_params": {"max_iter": 3}}}, 4, 3, 3),
        (
            {
                "kind": "train",
                "body": {
                    "model_params": {"max_iter": 3, "cv_param": {"need_cv": True}}
                },
            },
            4,
            3,
            18,
        ),
        (
            {
                "kind": "train",
                "body": {
                    "model_params": {"max_iter": 3, "cv_param": {"need_cv": True}}
                },
            },
            24,
            18,
            18,
        ),
        ({"kind": "statistics", "stage": None}, 0, 0, None),
        (
            {"kind": "statistics", "stage": {"what": "sums", "done": 2, "of": 5}},
            0,
            2,
            5,
        ),
        ({"kind": "external"}, 12, 12, None),
    ],
)
def test_progress_of_every_kind(
    order: dict[str, Any], n_recorded: int, done: int, of: int | None
) -> None:
    assert progress(order_of(**order), n_recorded) == {"done": done, "of": of}


def test_who_listens_for_all_orders_hears_of_each() -> None:
    bell = Bell()
    with (
        bell.listening("order") as every,
        bell.listening(("order", 3)) as third,
        bell.listening(("order", 4)) as fourth,
    ):
        bell.ring(("order", 3))
        assert [every.is_set(), third.is_set(), fourth.is_set()] == [True, True, False]
