"""What this process has started: how much memory it takes together, and its end."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import NamedTuple, Self

SAMPLE_SECONDS = 0.1
STOP_SECONDS = 20.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Process(NamedTuple):
    """A process cannot be mistaken for a later one of the same number: `began` is the
    kernel's time of its start.
    """

    pid: int
    began: int


class Descendants:
    """All processes below this one while the block runs, sampled; what is left of them
    at its end is ended.

    A process that loses its parent is still known by what was seen of it before.
    """

    def __init__(self) -> None:
        self.peak_mib = 0.0
        self._seen: set[Process] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._sample()
        self._over.set()
        self._thread.join()
        for number in (signal.SIGTERM, signal.SIGKILL):
            self._end(number)

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        """Adds up the resident sets; pages that processes share count in each of them."""
        table = _table()
        known = {
            pid for pid, began in self._seen if pid in table and table[pid][1] == began
        } | {os.getpid()}
        size = 0
        while size < len(known):
            size = len(known)
            known |= {pid for pid, (parent, _, _) in table.items() if parent in known}
        known.discard(os.getpid())
        self._seen |= {Process(pid, table[pid][1]) for pid in known}
        self.peak_mib = max(
            self.peak_mib, sum(table[pid][2] for pid in known) * PAGE_BYTES / 2**20
        )

    def _end(self, number: signal.Signals) -> None:
        for pid in self._left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + STOP_SECONDS
        while self._left() and time.monotonic() < deadline:
            time.sleep(SAMPLE_SECONDS)

    def _left(self) -> list[int]:
        table = _table()
        return [
            pid for pid, began in self._seen if pid in table and table[pid][1] == began
        ]


def _table() -> dict[int, tuple[int, int, int]]:
    """Parent, start and resident pages by process number, of all that have not ended."""
    table = {}
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            with contextlib.suppress(OSError):
                state, parent, *rest = (
                    (path / "stat").read_text().rpartition(")")[2].split()
                )
                if state not in "ZX":
                    table[int(path.name)] = (int(parent), int(rest[17]), int(rest[19]))
    return table
