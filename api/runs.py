"""The only module of the API that asks Prefect: it starts an order's flow run and reads its state."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Cancelled

from protocol.errors import Unavailable

# An order that will be resumed is never shown as failed: its own record says whether it has ended.
STATUS = {
    StateType.SCHEDULED: "pending",
    StateType.PENDING: "pending",
    StateType.RUNNING: "running",
    StateType.PAUSED: "running",
    StateType.COMPLETED: "success",
    StateType.FAILED: "failed",
    StateType.CRASHED: "failed",
    StateType.CANCELLING: "cancelled",
    StateType.CANCELLED: "cancelled",
}


@contextlib.asynccontextmanager
async def open_runs(url: str, auth: str | None) -> AsyncIterator[Runs]:
    """A client of Prefect's API for as long as the application runs."""
    async with PrefectClient(url, auth_string=auth) as client:
        yield Runs(client)


# On SQLite Prefect answers 500 while something else writes; a lock may last a minute, and no request waits so long.
START_SECONDS, PAUSES = 15.0, (0.3, 1.0, 2.0)


class Runs:
    """Flow runs of orders. Every method raises Unavailable when Prefect does not answer."""

    def __init__(self, client: PrefectClient) -> None:
        self._client = client

    async def start(self, deployment: str, order_id: int, tags: list[str], *, attempt: int = 0) -> str:
        """The id of the order's flow run; asked twice for one attempt, it is the same run."""
        try:
            async with asyncio.timeout(START_SECONDS):
                return await self._start(deployment, order_id, tags, f"order-{order_id}-{deployment}-{attempt}")
        except ObjectNotFound:
            raise Unavailable(
                f"Prefect knows no deployment {deployment}.", remedy="Run: ./run server deploy", code="not_deployed"
            ) from None
        except (httpx.HTTPError, PrefectHTTPStatusError, OSError) as error:  # TimeoutError is an OSError
            raise _away(error) from None

    async def _start(self, deployment: str, order_id: int, tags: list[str], key: str) -> str:
        for pause in (*PAUSES, None):
            try:
                found = await self._client.read_deployment_by_name(deployment)
                run = await self._client.create_flow_run_from_deployment(
                    found.id,
                    parameters={"order_id": order_id},
                    name=f"order-{order_id}",
                    tags=[f"order-{order_id}", *tags],
                    idempotency_key=key,
                )
                return str(run.id)
            except PrefectHTTPStatusError as error:
                if pause is None or error.response.status_code < 500:
                    raise
                await asyncio.sleep(pause)
        raise AssertionError

    async def status(self, flow_run_id: str) -> str:
        """The run's state in the request document's words."""
        try:
            run = await self._client.read_flow_run(UUID(flow_run_id))
        except ObjectNotFound:
            return "pending"
        except (httpx.HTTPError, PrefectHTTPStatusError, OSError) as error:
            raise _away(error) from None
        return STATUS[run.state_type] if run.state_type else "pending"

    async def cancelled(self, order_ids: Iterable[int]) -> set[int]:
        """Those orders of which somebody has cancelled a run in Prefect: the coordinator's or a hospital's."""
        tags = {f"order-{order_id}": order_id for order_id in order_ids}
        cancelled = FlowRunFilterStateType(any_=[StateType.CANCELLING, StateType.CANCELLED])
        wanted = FlowRunFilter(state=FlowRunFilterState(type=cancelled), tags=FlowRunFilterTags(any_=list(tags)))
        try:
            found = await self._client.read_flow_runs(flow_run_filter=wanted)
        except (httpx.HTTPError, PrefectHTTPStatusError, OSError) as error:
            raise _away(error) from None
        return {tags[tag] for run in found for tag in run.tags if tag in tags}

    async def cancel_if_waiting(self, flow_run_id: str) -> None:
        """Cancels a run that nobody has started yet; one under way hears of it through the exchange."""
        try:
            run = await self._client.read_flow_run(UUID(flow_run_id))
            if run.state and run.state.is_scheduled():
                await self._client.set_flow_run_state(run.id, Cancelled(), force=True)
        except (httpx.HTTPError, PrefectHTTPStatusError, ObjectNotFound, OSError) as error:
            raise _away(error) from None

    async def is_ready(self, deployments: list[str]) -> bool:
        """Whether Prefect answers and knows these deployments."""
        try:
            for name in deployments:
                await self._client.read_deployment_by_name(name)
        except (ObjectNotFound, httpx.HTTPError, PrefectHTTPStatusError, OSError):
            return False
        return True


def _away(error: Any) -> Unavailable:
    return Unavailable(
        f"Prefect does not answer ({type(error).__name__}).", remedy="Check the Prefect server; the order is kept."
    )
