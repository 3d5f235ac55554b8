"""Prefect answers 200 runs or deployments at the most: where there are more, all are
asked for.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from prefect.client.schemas.filters import (
    DeploymentFilter,
    FlowFilter,
    FlowRunFilter,
)
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.responses import DeploymentResponse
from prefect.states import Cancelled, Scheduled

from api.prefect_runs import Runs

MOST = 200
"""In one answer."""

N_RUNS = 2 * MOST + 1


class Prefect:
    """Stands in for Prefect's client: it has flow runs, and finds those in the state."""

    def __init__(self, runs: list[FlowRun]) -> None:
        self.runs = {run.id: run for run in runs}

    async def read_deployments(
        self,
        *,
        flow_filter: FlowFilter,
        deployment_filter: DeploymentFilter,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[DeploymentResponse]:
        assert flow_filter.name is not None
        assert deployment_filter.name is not None
        names = deployment_filter.name.any_ or []
        some = names[offset : offset + min(limit or MOST, MOST)]
        return [
            DeploymentResponse(name=name, flow_id=uuid4(), labels={}) for name in some
        ]

    async def read_flow_runs(
        self,
        *,
        flow_run_filter: FlowRunFilter,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[FlowRun]:
        assert flow_run_filter.state is not None
        assert flow_run_filter.state.type is not None
        types = flow_run_filter.state.type.any_ or []
        found = [run for run in self.runs.values() if run.state_type in types]
        return found[offset : offset + min(limit or MOST, MOST)]

    async def set_flow_run_state(
        self, run_id: UUID, state: State[Any], *, force: bool
    ) -> None:
        assert force
        self.runs[run_id] = made(self.runs[run_id].tags, state, run_id)


def made(tags: list[str], state: State[Any], run_id: UUID | None = None) -> FlowRun:
    return FlowRun(
        id=run_id or uuid4(),
        flow_id=uuid4(),
        tags=tags,
        state=state,
        state_type=state.type,
    )


def runs_of(prefect: Prefect) -> Runs:
    return Runs(prefect)  # type: ignore[arg-type]


def test_all_runs_that_nobody_has_started_are_cancelled() -> None:
    prefect = Prefect([made(["order-7"], Scheduled()) for _ in range(N_RUNS)])
    asyncio.run(runs_of(prefect).cancel_waiting(7))
    assert {run.state_type for run in prefect.runs.values()} == {Cancelled().type}


def test_a_cancelled_run_is_found_behind_many_of_others() -> None:
    many = [made(["order-7"], Cancelled()) for _ in range(N_RUNS)]
    prefect = Prefect([*many, made(["order-8"], Cancelled())])
    assert asyncio.run(runs_of(prefect).cancelled([7, 8])) == {7, 8}


def test_all_schedules_are_there() -> None:
    wanted = range(1, N_RUNS + 1)
    reading = runs_of(Prefect([])).schedules(wanted, now=datetime.now(UTC))
    assert set(asyncio.run(reading)) == set(wanted)
