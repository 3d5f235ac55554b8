"""Prefect's client in the process of a flow run: what the engine would ask a second time
is answered here, and so is what nothing here makes use of.

A run is read once. As it is handed to Prefect's engine it belongs to no deployment, queue
or pool: the engine would read each of them, for events that nobody stores, and would
listen on a socket of its own, in a thread, whether somebody suspends the run. What a run
may do never comes from these, and an order ends through the exchange.

`tasks.flow_process` runs the flow with it. Decision 140.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, ServerDefaultResultStorage
from prefect.context import SyncClientContext
from prefect.settings import get_current_settings

NO_STORAGE = ServerDefaultResultStorage(default_result_storage_block_id=None)
"""No result is kept by Prefect: it need not say where."""


class RunClient(SyncPrefectClient):
    """The client of the one flow run of this process."""

    _run: FlowRun | None = None

    def read_flow_run(self, flow_run_id: UUID) -> FlowRun:
        """The run as it was first read, with the state that the engine has given it
        since.
        """
        if self._run is None or self._run.id != flow_run_id:
            run = super().read_flow_run(flow_run_id)
            run.deployment_id = None
            run.work_queue_id = None
            run.work_pool_name = None
            self._run = run
        return self._run

    def update_flow_run(
        self, flow_run_id: UUID, *args: Any, **changes: Any
    ) -> httpx.Response:
        """Tags, which a schedule's run has of its order. Else nothing: the engine tells
        the server of retries, and there are none.
        """
        if "tags" not in changes:
            return httpx.Response(204)
        return super().update_flow_run(flow_run_id, *args, **changes)

    def read_server_default_result_storage(self) -> ServerDefaultResultStorage:
        return NO_STORAGE

    def raise_for_api_version_mismatch_once(self) -> None:
        """Not compared: agent and coordinator compare their own."""


def run_client() -> SyncClientContext:
    """A context in which Prefect's engine asks through a RunClient, by the settings of
    this process.
    """
    settings = get_current_settings()
    key, auth = settings.api.key, settings.api.auth_string
    client = RunClient(
        settings.api.url or "",
        api_key=key.get_secret_value() if key else None,
        auth_string=auth.get_secret_value() if auth else None,
    )
    return SyncClientContext.model_construct(client=client)
