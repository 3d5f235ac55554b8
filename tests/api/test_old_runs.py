"""Of ended orders Prefect keeps the runs of the newest: which are deleted, when, and
what is said of them afterwards. What Prefect itself does then: test_prefect_deletion.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from api import trimming
from api.live import Bell
from api.prefect_runs import PrefectAway
from api.routes.services import ORDER_ENDED
from api.store import Store
from api.store.orders import Prepared
from api.trimming import trim, trim_when_ended
from deployments.demo.training import document_order
from protocol.errors import BadRequest
from tests.api.conftest import Coordinator, serve, settings_in


class Prefect:
    """Stands in for `api.prefect_runs.Runs`: which orders have runs, and how far those
    are.
    """

    def __init__(self) -> None:
        self.of_orders: dict[int, str] = {}  # "ended" or "running"
        self.schedule_runs_kept: list[int] = []
        self.is_away = False
        self.asked = asyncio.Event()

    async def delete_ended(
        self, order_ids: Sequence[int], *, before: datetime
    ) -> set[int]:
        assert before <= datetime.now(UTC)
        self.asked.set()
        if self.is_away:
            raise PrefectAway("Prefect does not answer (ConnectError).", remedy="-")
        for order_id in order_ids:
            if self.of_orders.get(order_id) == "ended":
                del self.of_orders[order_id]
        return set(order_ids) & set(self.of_orders)

    async def delete_ended_of_schedules(self, *, keep: int, before: datetime) -> None:
        self.schedule_runs_kept.append(keep)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path}/store.sqlite")
    store.migrate()
    for user in (2, 3, 4):
        store.hospitals.add(user, f"hospital-{user}")
    yield store
    store.close()


@pytest.fixture
def services(store: Store) -> Any:
    settings = SimpleNamespace(prefect_keep_orders=2)
    return SimpleNamespace(store=store, settings=settings, bell=Bell(), runs=Prefect())


def ended(services: Any, kind: str = "train", state: str = "success") -> int:
    """An order with runs that have ended."""
    order_id, _ = services.store.orders.add(
        kind=kind,
        initiator=4,
        hospital_ids=[2, 3, 4],
        body={},
        prepare=lambda number: Prepared("{}", {}),
    )
    services.store.orders.change(order_id, flow_run_id=f"run-{order_id}")
    services.runs.of_orders[order_id] = "ended"
    if state != "running":
        services.store.orders.end(order_id, state)
    return int(order_id)


def trimmed(services: Any) -> list[int]:
    """The orders of which Prefect has runs afterwards."""
    asyncio.run(trim(services, settle_seconds=0))
    return sorted(services.runs.of_orders)


def is_noted(services: Any, order_id: int) -> bool:
    return services.store.orders.get(order_id).runs_deleted is not None


def test_of_ended_orders_of_every_kind_the_newest_stay(services: Any) -> None:
    kinds = ("train", "statistics", "infer")
    states = ("success", "failed", "cancelled")
    orders = [ended(services, kind, state) for kind in kinds for state in states]
    assert trimmed(services) == orders[-2:]
    assert [is_noted(services, one) for one in orders] == [True] * 7 + [False] * 2
    # Nothing is left to do.
    services.runs.asked.clear()
    assert trimmed(services) == orders[-2:]
    assert not services.runs.asked.is_set()


@pytest.mark.parametrize("n_orders", [1, 2, 3])
def test_two_are_kept_and_the_third_is_not(services: Any, n_orders: int) -> None:
    orders = [ended(services) for _ in range(n_orders)]
    assert trimmed(services) == orders[-2:]


def test_the_order_that_ended_last_is_the_newest_however_long_it_took(
    services: Any,
) -> None:
    long = ended(services, state="running")
    quick = [ended(services) for _ in range(3)]
    assert trimmed(services) == [long, *quick[-2:]]
    services.store.orders.end(long, "success")
    assert trimmed(services) == [long, quick[-1]]


def test_no_order_under_way_loses_a_run(services: Any) -> None:
    under_way = [ended(services, state="running") for _ in range(5)]
    orders = [ended(services) for _ in range(3)]
    assert trimmed(services) == [*under_way, *orders[-2:]]
    assert not any(is_noted(services, one) for one in under_way)


def test_a_hospitals_run_that_has_not_ended_is_looked_at_again_with_the_next_order(
    services: Any,
) -> None:
    away = ended(services, state="cancelled")
    services.runs.of_orders[away] = "running"
    orders = [ended(services) for _ in range(2)]
    assert trimmed(services) == [away, *orders]
    assert not is_noted(services, away)
    services.runs.of_orders[away] = "ended"
    assert trimmed(services) == orders
    assert is_noted(services, away)


def test_many_orders_of_an_earlier_version_are_deleted_too(services: Any) -> None:
    orders = [ended(services) for _ in range(2 * trimming.ORDERS_AT_ONCE + 3)]
    assert trimmed(services) == orders[-2:]


def test_an_external_order_has_no_runs(services: Any) -> None:
    external, _ = services.store.orders.add(
        kind="external", initiator=4, hospital_ids=[4], body={}
    )
    services.store.orders.end(external, "success")
    orders = [ended(services) for _ in range(2)]
    assert trimmed(services) == orders
    assert not is_noted(services, external)


def test_who_asks_for_predictions_again_gives_their_order_a_run_again(
    services: Any,
) -> None:
    """Also where that comes between the deletion and its note."""
    infer = ended(services, "infer")
    services.store.orders.change(infer, flow_run_id="run-again", state="pending")
    services.store.orders.end(infer, "success")
    services.store.orders.note_runs_deleted(infer, f"run-{infer}")
    assert not is_noted(services, infer)
    services.store.orders.note_runs_deleted(infer, "run-again")
    assert is_noted(services, infer)


def test_the_runs_of_schedules_that_asked_for_nothing_are_deleted_too(
    services: Any,
) -> None:
    assert trimmed(services) == []
    assert services.runs.schedule_runs_kept == []  # there is no schedule
    services.store.schedules.have_fired = lambda: True
    trimmed(services)
    assert services.runs.schedule_runs_kept == [2]


# When


async def watched(services: Any, *, check: Any) -> None:
    duty = asyncio.create_task(trim_when_ended(services, settle_seconds=0))
    try:
        await asyncio.wait_for(check(), 20)
    finally:
        duty.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await duty


def test_it_begins_with_what_an_earlier_process_has_left_and_then_waits_for_an_end(
    services: Any,
) -> None:
    orders = [ended(services) for _ in range(3)]
    runs = services.runs

    async def check() -> None:
        await runs.asked.wait()
        runs.asked.clear()
        while sorted(runs.of_orders) != orders[-2:]:
            await asyncio.sleep(0)
        newest = ended(services)
        services.bell.ring(ORDER_ENDED)
        await runs.asked.wait()
        while sorted(runs.of_orders) != [orders[-1], newest]:
            await asyncio.sleep(0)

    asyncio.run(watched(services, check=check))


def test_while_prefect_is_away_it_is_tried_again(
    services: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trimming, "RETRY_SECONDS", 0.01)
    orders = [ended(services) for _ in range(3)]
    runs = services.runs
    runs.is_away = True

    async def check() -> None:
        for _ in range(3):
            await runs.asked.wait()
            runs.asked.clear()
        assert sorted(runs.of_orders) == orders
        runs.is_away = False
        while not is_noted(services, orders[0]):
            await asyncio.sleep(0.01)

    asyncio.run(watched(services, check=check))
    assert sorted(runs.of_orders) == orders[-2:]


# Every way in which an order ends is heard


def cancelled(coordinator: Coordinator, order_id: int) -> None:
    coordinator.call("POST", f"/orders/{order_id}/cancel")


def refused(coordinator: Coordinator, order_id: int) -> None:
    error = {"type": "Refused", "code": "x", "sentence": "x.", "remedy": "x."}
    coordinator.call("POST", f"/orders/{order_id}/refuse", "agent-2", json=error)


def succeeded(coordinator: Coordinator, order_id: int) -> None:
    end = {"end": "success"}
    coordinator.call("POST", f"/orders/{order_id}/progress", "coordinator", json=end)


@pytest.mark.parametrize("end", [cancelled, refused, succeeded])
def test_every_end_rings(
    coordinator: Coordinator, end: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung: list[Any] = []
    ring = coordinator.app.state.bell.ring
    monkeypatch.setattr(
        coordinator.app.state.bell, "ring", lambda key: (rung.append(key), ring(key))
    )
    answer = coordinator.call("POST", "/model/train", json=document_order()).json()
    assert ORDER_ENDED not in rung
    end(coordinator, answer["data"]["order_id"])
    assert ORDER_ENDED in rung


# What is said of it


def test_the_link_to_prefect_goes_with_the_run(tmp_path: Path) -> None:
    with serve(settings_in(tmp_path)) as coordinator:
        answer = coordinator.call("POST", "/model/train", json=document_order()).json()
        order_id = answer["data"]["order_id"]

        def shown() -> Any:
            return coordinator.call("GET", f"/orders/{order_id}").json()["data"]

        def timeline() -> Any:
            path = f"/orders/{order_id}/timeline"
            return coordinator.call("GET", path).json()["data"]

        coordinator.call("POST", f"/orders/{order_id}/cancel")
        before = shown()
        run = coordinator.store.orders.get(order_id).flow_run_id
        assert before["prefect_run"].endswith(f"/runs/flow-run/{run}")
        assert before["prefect_run_deleted"] is None
        assert timeline()["prefect_run_deleted"] is None
        coordinator.store.orders.note_runs_deleted(order_id, run)
        after = shown()
        assert after["prefect_run"] is None
        assert after["prefect_run_deleted"].endswith("Z")
        assert after["updated"] == before["updated"]
        # Nobody is asked what is not there.
        coordinator.runs.parts = None
        told = timeline()
        assert told["parts"] == []
        assert told["prefect_run_deleted"] == after["prefect_run_deleted"]


@pytest.mark.parametrize("text", ["0", "-1", "2.5", "many", "", "nan"])
def test_how_many_are_kept_is_a_whole_number_above_0(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSILIUM_PREFECT_KEEP_ORDERS", text)
    with pytest.raises(BadRequest, match="KEEP_ORDERS is not a whole number above 0"):
        settings_in(tmp_path)
    monkeypatch.setenv("CONSILIUM_PREFECT_KEEP_ORDERS", "200")  # what the remedy says
    assert settings_in(tmp_path).prefect_keep_orders == 200
