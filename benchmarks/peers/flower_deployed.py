"""The app that a SuperLink hands out to itself and its SuperNodes: the same training as
in flower_app.py, from a job in a file.

`flwr run` packs this file and flower_app.py beside an app's pyproject.toml.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench import flower_app
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

client = flower_app.client_of(
    lambda context: str(context.node_config["table"]), job_of=lambda c: _job(c)
)
server = ServerApp()


@server.main()
def serve(grid: Grid, context: Context) -> None:
    """One order: what came of it is in the file that the job names."""
    job = _job(context)
    answer = flower_app.one_order(grid, job)
    path = Path(context.run_config["answer"])
    path.write_text(json.dumps(answer))


def _job(context: Context) -> dict[str, Any]:
    return json.loads(Path(context.run_config["job"]).read_text())
