"""Seconds of the processor by part of a federation: on a machine with other work they are
what can be compared.
"""

from __future__ import annotations

import os
from pathlib import Path

from deployments.processes import RunningParts

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    members = [pid]
    for member in members:
        # A child stands with the thread that started it, not with the process.
        threads = PROC / str(member) / "task"
        for thread in threads.iterdir():
            children = thread / "children"
            try:
                text = children.read_text()
            except OSError:
                # It has ended since the folder was listed.
                continue
            for child in text.split():
                if _lives(child):
                    members.append(int(child))
    return members


def _lives(pid: str) -> bool:
    """And is not only waited for."""
    state = _fields_behind_name(pid)[0]
    return state not in "ZX"


def _fields_behind_name(pid: str) -> list[str]:
    """Of /proc's stat; a program's name may have blanks and brackets."""
    path = PROC / pid / "stat"
    text = path.read_text()
    _, _, behind = text.rpartition(")")
    return behind.split()


def seconds_by_part(parts: RunningParts) -> dict[str, float]:
    """Seconds of each part's processes, also of those that have ended and were waited
    for.
    """
    found = {}
    for name, part in parts.parts.items():
        assert part.process is not None
        ticks = 0
        for pid in family(part.process.pid):
            fields = _fields_behind_name(str(pid))
            # utime, stime and those of the children
            for field in fields[11:15]:
                ticks += int(field)
        found[name] = ticks / TICKS
    return found


def by_part(seconds: dict[str, float]) -> str:
    words = []
    for name, used in seconds.items():
        words.append(f"{name} {used:.2f}")
    return ", ".join(words)


def peak_bytes(pid: int | str = "self") -> int:
    """The largest resident set of a process since its program began; `ru_maxrss` would
    begin with that of the process that started it.
    """
    path = PROC / str(pid) / "status"
    status = path.read_text()
    behind = status.split("VmHWM:")[1]
    kilobytes = behind.split()[0]
    return int(kilobytes) * 1024
