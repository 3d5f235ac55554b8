"""Ended runs are deleted in Prefect, with their logs and artifacts.

Prefect deletes a run's states, task runs and logs with it, its artifacts not: they go
first, so that whoever dies in between finds the run again, and nothing of it stays.

Decision 82.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound

from protocol.machine.pages import PAGE, all_pages

AT_ONCE = 50
"""The most that Prefect deletes in one transaction."""


def _ended(run_ids: Iterable[UUID] | None, before: datetime) -> dict[str, Any]:
    """The fields of a filter for runs that have ended before."""
    filter_fields: dict[str, Any] = {
        "state": FlowRunFilterState(
            type=FlowRunFilterStateType(any_=sorted(TERMINAL_STATES))
        ),
        "end_time": FlowRunFilterEndTime(before_=before),  # type: ignore[arg-type]
    }
    if run_ids is not None:
        filter_fields["id"] = FlowRunFilterId(any_=list(run_ids))
    return filter_fields


async def delete_runs_of(
    client: PrefectClient, order_ids: Sequence[int], *, before: datetime
) -> set[int]:
    """Deletes the runs of these orders that have ended before; the orders of which
    Prefect has another run: one under way, or ended since.

    Task runs are written a moment after they ended, in batches that fail as a whole
    where the run of one of them is gone: so `before` lies some time back.
    """
    by_tag = {f"order-{order_id}": order_id for order_id in order_ids}
    of_orders = FlowRunFilterTags(any_=list(by_tag))
    ended = FlowRunFilter(tags=of_orders, **_ended(None, before))
    while runs := await client.read_flow_runs(flow_run_filter=ended, limit=AT_ONCE):
        n_deleted = await _delete(client, [run.id for run in runs], before)
        # Each of them runs again: somebody has retried it in Prefect.
        if not n_deleted:
            break
    any_state = FlowRunFilter(tags=of_orders)

    def flow_runs(limit: int, offset: int) -> Awaitable[list[FlowRun]]:
        return client.read_flow_runs(
            flow_run_filter=any_state, limit=limit, offset=offset
        )

    remaining_orders: set[int] = set()
    for run in await all_pages(flow_runs):
        remaining_orders.update(by_tag[tag] for tag in run.tags if tag in by_tag)
    return remaining_orders


async def delete_runs_of_flow(
    client: PrefectClient, flow: str, *, keep: int, before: datetime
) -> None:
    """Deletes the runs of a flow that have ended before, but for the newest."""
    named = FlowFilter(name=FlowFilterName(any_=[flow]))
    ended = FlowRunFilter(**_ended(None, before))
    while runs := await client.read_flow_runs(
        flow_filter=named,
        flow_run_filter=ended,
        sort=FlowRunSort.END_TIME_DESC,
        limit=AT_ONCE,
        offset=keep,
    ):
        if not await _delete(client, [run.id for run in runs], before):
            return


async def _delete(client: PrefectClient, run_ids: list[UUID], before: datetime) -> int:
    """How many were deleted: in Prefect's transaction each is looked at once more."""
    of_runs = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=run_ids))
    while artifacts := await client.read_artifacts(artifact_filter=of_runs, limit=PAGE):
        for artifact in artifacts:
            # Somebody else may have just deleted it.
            with contextlib.suppress(ObjectNotFound):
                await client.delete_artifact(artifact.id)
    ended = FlowRunFilter(**_ended(run_ids, before))
    prefect_answer = await client.request(
        "POST",
        "/flow_runs/bulk_delete",  # type: ignore[arg-type]
        json={
            "flow_runs": ended.model_dump(mode="json", exclude_unset=True),
            "limit": AT_ONCE,
        },
    )
    return len(prefect_answer.json()["deleted"])
