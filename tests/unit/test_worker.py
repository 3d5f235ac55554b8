"""The agent's worker, without a server."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import anyio
import pytest

from agents.worker import FlowWorker, Work, _number_of


def test_a_run_that_two_polls_heard_of_is_begun_once(tmp_path: Path) -> None:
    """The later poll's answer is stale: the run is under way, and holds its place in the limit."""
    post: Any = None
    worker = FlowWorker("hospital-2", flows={}, post=post, locks=tmp_path, limit=2)
    worker._limiter = anyio.CapacityLimiter(2)
    entry: Any = SimpleNamespace(flow_run=SimpleNamespace(id=uuid4()))

    async def second_poll() -> list[Any]:
        assert worker._limiter is not None
        worker._limiter.acquire_on_behalf_of_nowait(entry.flow_run.id)
        worker._work[entry.flow_run.id] = Work(1)
        return list(await worker._submit_scheduled_flow_runs([entry]))

    assert anyio.run(second_poll) == []


@pytest.mark.parametrize(
    ("parameters", "number"),
    [
        ({"schedule_id": 3}, 3),
        ({"order_id": 3}, None),
        ({"schedule_id": 3, "order_id": 3}, None),
        ({"schedule_id": 0}, None),
        ({"schedule_id": True}, None),
        ({"schedule_id": "3"}, None),
        ({}, None),
    ],
)
def test_a_run_has_one_number_and_nothing_else(parameters: dict[str, Any], number: int | None) -> None:
    flow_run: Any = SimpleNamespace(parameters=parameters)
    assert _number_of(flow_run, "schedule_id") == number
