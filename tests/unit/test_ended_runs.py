"""The hospital runs of an order that did not succeed: however many, all are cancelled."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Cancelled, Completed, Running, Scheduled

from tasks.coordinator import place

MOST = 200
"""In one answer of Prefect's."""

N_RUNS = 299


class Prefect:
    """Stands in for Prefect's client, and has the runs of one order."""

    def __init__(self, states: list[State[Any]]) -> None:
        self.runs: dict[UUID, State[Any]] = {uuid4(): state for state in states}

    def read_flow_runs(
        self, *, flow_run_filter: Any, limit: int | None = None, offset: int = 0
    ) -> list[FlowRun]:
        assert flow_run_filter.tags.all_ == ["order-7", "hospital"]
        found = [
            FlowRun(id=run_id, flow_id=uuid4(), state=state)
            for run_id, state in self.runs.items()
        ]
        return found[offset : offset + min(limit or MOST, MOST)]

    def set_flow_run_state(
        self, run_id: UUID, state: State[Any], *, force: bool
    ) -> None:
        assert force
        self.runs[run_id] = state

    def n_in(self, state: State[Any]) -> int:
        return sum(found.type == state.type for found in self.runs.values())


def stand_in(monkeypatch: pytest.MonkeyPatch, states: list[State[Any]]) -> Prefect:
    prefect = Prefect(states)

    @contextlib.contextmanager
    def get_client(*, sync_client: bool) -> Iterator[Prefect]:
        assert sync_client
        yield prefect

    monkeypatch.setattr(place, "get_client", get_client)
    return prefect


def test_one_under_way_behind_many_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[State[Any]] = [Completed() for _ in range(N_RUNS - 2)]
    prefect = stand_in(monkeypatch, [*ended, Running(), Scheduled()])
    assert not place._end_runs(7, None, is_late=False)
    assert (prefect.n_in(Running()), prefect.n_in(Cancelled())) == (1, 1)


def test_all_that_are_left_at_last_are_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prefect = stand_in(monkeypatch, [Running() for _ in range(N_RUNS)])
    assert place._end_runs(7, None, is_late=True)
    assert prefect.n_in(Cancelled()) == N_RUNS
