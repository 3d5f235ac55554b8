"""The gateway knows every name that a hospital's flows have at Prefect."""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

from api.gateway.events import STEPS, rebuilt
from api.gateway.routes import ROUTES

ROOT = Path(__file__).resolve().parents[2]


def steps_of(folder: Path) -> set[str]:
    """What the decorator `step` is given there."""
    found = set()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "step":
                found.add(ast.literal_eval(node.args[0]))
    return found


def test_every_step_of_a_hospital_has_a_name_that_passes() -> None:
    """An event of another name ends the socket, and with it the timeline."""
    assert steps_of(ROOT / "tasks" / "hospital") == set(STEPS)


def test_every_route_that_changes_something_says_what_may_be_sent() -> None:
    for route in ROUTES:
        assert (route.body is None) == (route.method == "GET"), route.path
        assert ("{id}" in route.path) == (route.of is not None), route.path


def test_the_same_event_of_two_workers_is_two_at_prefect() -> None:
    """Prefect takes an event once, by its id: nobody can use up another's."""
    sent = {
        "id": str(uuid4()),
        "event": "prefect.worker.started",
        "occurred": "2026-01-01T00:00:00Z",
        "resource": {"prefect.resource.id": "prefect.worker.hospital.x"},
    }
    ownership: Any = None  # of no flow run

    async def ids() -> list[str]:
        found = []
        for pool in ("hospital-2", "hospital-3", "hospital-2"):
            event = await rebuilt(sent, pool, ownership)
            assert event is not None
            found.append(event["id"])
        return found

    first, other, again = asyncio.run(ids())
    assert first == again
    assert len({first, other, sent["id"]}) == 3
