"""What the process of a flow run finds in memory, and that none outlives its agent.

Each test runs a program of its own: a fork server is one for each process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import ROOT
from tests.faults.processes import (
    FORK_SERVER,
    descendants,
    name_of,
    wait_until,
    wait_until_gone,
)

SECONDS = 60


class Seen(NamedTuple):
    """What a program and the process beside it have told."""

    program: dict[str, Any]
    beside: dict[str, Any]
    running: subprocess.Popen[str]


@contextlib.contextmanager
def program(mode: str, folder: Path) -> Iterator[Seen]:
    command = [sys.executable, "-m", "tests.forked", mode, str(folder)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout is not None
            told = json.loads(running.stdout.readline())
            path = folder / "one.json"
            wait_until(path.exists, "a process beside it", seconds=SECONDS)
            yield Seen(told, json.loads(path.read_text()), running)
        finally:
            running.kill()


def test_a_run_s_process_is_a_fork_of_what_its_agent_has_imported_and_dies_with_it(
    tmp_path: Path,
) -> None:
    with program("preload", tmp_path) as seen:
        agent = seen.program["pid"]
        # Imported once, by the agent: nothing was imported for the run.
        assert seen.beside["imported_in"] == agent
        assert seen.beside["parent"] == agent
        server = seen.beside["made_by"]
        assert server not in (agent, seen.beside["pid"])
        assert name_of(server) == FORK_SERVER
        below = set(descendants(agent))
        assert {server, seen.beside["pid"]} < below
        os.kill(agent, signal.SIGKILL)
        seen.running.wait()
        wait_until_gone(below)


@pytest.mark.slow
@pytest.mark.thorough
def test_another_fork_server_comes_where_one_is_killed(tmp_path: Path) -> None:
    with program("killed", tmp_path) as seen:
        # The new one has imported for itself what was preloaded.
        assert seen.beside["imported_in"] == seen.beside["made_by"]
        assert seen.beside["parent"] == seen.program["pid"]


@pytest.mark.slow
@pytest.mark.thorough
def test_without_preloading_a_run_s_process_imports_for_itself(tmp_path: Path) -> None:
    with program("fresh", tmp_path) as seen:
        assert seen.beside["imported_in"] == seen.beside["pid"]
        assert seen.beside["made_by"] == seen.program["pid"]
        agent = seen.program["pid"]
        os.kill(agent, signal.SIGKILL)
        seen.running.wait()
        wait_until_gone([seen.beside["pid"]])


@pytest.mark.slow
@pytest.mark.thorough
def test_an_agent_that_preloads_nothing_has_nothing_of_rows_in_memory() -> None:
    """What `deployments.agent` and the worker import before an order comes."""
    heavy = ("pandas", "duckdb", "sqlalchemy", "scipy", "flows.hospital")
    code = (
        "import sys, deployments.agent, flows.hospital_runs, tasks.hospital.worker\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stderr
