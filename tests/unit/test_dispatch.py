"""An order's hospital runs are asked for one after the other, and again while Prefect is
away.
"""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tasks.coordinator import place
from tasks.coordinator.place import dispatch


class Told:
    """Keeps what the coordinator's API would hear."""

    def __init__(self) -> None:
        self.runs: dict[str, str] = {}

    def record(self, order_id: int, *, runs: dict[str, str]) -> None:
        assert order_id == 7
        self.runs = runs


def test_hospital_runs_are_asked_for_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Side by side they take nine times as long on SQLite."""
    asking = threading.Lock()
    tried: list[int] = []

    def run_deployment(order_id: int, flow_name: str, user_id: int) -> str:
        assert asking.acquire(blocking=False), "another one is asked for"
        try:
            tried.append(user_id)
            if tried == [2, 3]:
                raise httpx.ConnectError("Prefect is away for a moment")
            threading.Event().wait(0.05)
        finally:
            asking.release()
        return f"order-{order_id}/{flow_name}/{user_id}"

    monkeypatch.setattr(place, "_run_deployment", run_deployment)
    exchange = Told()
    here: Any = SimpleNamespace(order_id=7, exchange=exchange)
    runs = dispatch(here, "hospital-train", [2, 3, 4])
    assert runs == {str(n): f"order-7/hospital-train/{n}" for n in (2, 3, 4)}
    assert exchange.runs == runs
    assert tried == [2, 3, 3, 4]
