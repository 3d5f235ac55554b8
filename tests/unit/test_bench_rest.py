"""What the benchmark of agents at rest counts as an agent's memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from benchmarks.rest import lone_bytes, proportional_bytes

WAITING = "import ssl, sqlite3; print('ready', flush=True); input()"
MEGABYTE = 10**6


@pytest.fixture
def processes() -> Iterator[list[int]]:
    """Three that have the same libraries in memory, and nothing else in common."""
    started = []
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", WAITING],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.readline()
        started.append(process)
    yield [process.pid for process in started]
    for process in started:
        process.communicate(b"\n")


def test_libraries_that_others_use_too_count_in_full(processes: list[int]) -> None:
    """Each of three would otherwise seem smaller than the only one on a machine."""
    one, *_ = processes
    assert lone_bytes([one]) > proportional_bytes(one) + MEGABYTE


def test_libraries_of_a_family_count_once(processes: list[int]) -> None:
    alone = [lone_bytes([pid]) for pid in processes]
    assert lone_bytes(processes) < sum(alone) - MEGABYTE
    assert lone_bytes([]) == 0
