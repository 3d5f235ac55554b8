"""The processes of a federation that a test has started, found below its own `up`, and
how to kill one.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

PARTS = {
    "prefect": "deployments.prefect_process",
    "api": "deployments.server api",
    "worker": "deployments.server worker",
    2: "deployments.agent start --site",
    3: "deployments.agent start --site",
    4: "deployments.agent start --site",
}
FORK_SERVER = "fork server"
"""As `tasks.flow_process` names it."""
SITES = {2: "suzhou-szslyy", 3: "zhejiang-zdey", 4: "shanxi-xbfy"}


def wait_until(condition: Callable[[], Any], what: str, *, seconds: float = 30) -> Any:
    """The condition's first true value; there is no event to wait for in another
    process.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")


def command_of(pid: int) -> str:
    try:
        return (
            Path(f"/proc/{pid}/cmdline")
            .read_bytes()
            .replace(b"\0", b" ")
            .decode(errors="replace")
        )
    except OSError:
        return ""


def _parent_and_state(pid: int) -> tuple[int, str]:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0, "X"
    return int(fields[1]), fields[0]


def children(pid: int) -> list[int]:
    every = (
        int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()
    )
    found = ((child, *_parent_and_state(child)) for child in every)
    return [child for child, parent, state in found if parent == pid and state != "Z"]


def descendants(pid: int) -> list[int]:
    return [found for child in children(pid) for found in (child, *descendants(child))]


def part(up: int, name: str | int) -> int | None:
    """The process of a part: prefect, api, worker, or a hospital's agent by user id."""
    wanted = SITES.get(name, "") if isinstance(name, int) else ""
    for pid in children(up):
        command = command_of(pid)
        if PARTS[name] in command and wanted in command:
            return pid
    return None


def flow_processes(worker: int) -> list[int]:
    """The flow runs of a worker: what its fork server has forked."""
    servers = [pid for pid in children(worker) if name_of(pid) == FORK_SERVER]
    return [child for server in servers for child in children(server)]


def name_of(pid: int) -> str:
    """As `ps -e` shows it; empty for a process that has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def wait_until_gone(pids: Iterable[int], *, seconds: float = 60) -> None:
    """A killed part's own processes see its end when they next run Python; one that is
    being started on a busy machine may take its time.
    """
    deadline = time.monotonic() + seconds
    left = list(pids)
    while left := [pid for pid in left if _parent_and_state(pid)[1] not in "XZ"]:
        commands = [command_of(pid) for pid in left]
        assert time.monotonic() < deadline, f"left after {seconds} s: {commands}"
        time.sleep(0.05)
