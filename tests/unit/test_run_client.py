"""A flow process reads its run once, and asks Prefect for nothing of the run's deployment.

A server of its own counts what is asked.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.run_client import run_client

RUN = str(uuid4())


class Counting(BaseHTTPRequestHandler):
    """Answers with one flow run, as Prefect has it."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        run: dict[str, Any] = {
            "id": RUN,
            "flow_id": str(uuid4()),
            "deployment_id": str(uuid4()),
            "work_queue_id": str(uuid4()),
            "work_pool_name": "hospital-2",
            "name": "order-1-hospital-2",
            "parameters": {"order_id": 1},
        }
        body = json.dumps(run).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PATCH = do_POST = do_GET

    def log_message(self, *_args: Any) -> None:
        """Not to stderr."""


@pytest.fixture
def asked() -> Iterator[list[str]]:
    Counting.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Counting)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    url = f"http://127.0.0.1:{server.server_port}/api"
    try:
        with temporary_settings({PREFECT_API_URL: url}):
            yield Counting.asked
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


def test_a_run_is_read_once_and_belongs_to_no_deployment(asked: list[str]) -> None:
    with run_client() as context:
        client = get_client(sync_client=True)
        assert client is context.client
        run = client.read_flow_run(RUN)  # type: ignore[arg-type]
        run.parameters = {"order_id": 2}
        again = client.read_flow_run(run.id)
        client.update_flow_run(run.id, flow_version="1")
        assert (
            client.read_server_default_result_storage().default_result_storage_block_id
            is None
        )
    # What the worker has judged stands, whatever Prefect would say now.
    assert again is run
    assert (run.deployment_id, run.work_queue_id, run.work_pool_name) == (None,) * 3
    assert asked == [f"GET /api/flow_runs/{RUN}"]


def test_another_run_is_read_anew(asked: list[str]) -> None:
    with run_client() as context:
        context.client.read_flow_run(uuid4())
        context.client.read_flow_run(uuid4())
    assert len(asked) == 2
