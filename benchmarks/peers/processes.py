"""What this process has started: how much memory it takes together, and its end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time
from pathlib import Path
from typing import NamedTuple, Self

from benchmarks.rest import proportional_bytes

SAMPLE_SECONDS = 0.1
CHILD_SUBREAPER = 36  # of prctl(2)
MEMORY_SECONDS = 1.0  # the kernel walks every page for it
STOP_SECONDS = 20.0


class Process(NamedTuple):
    """A process cannot be mistaken for a later one of the same number: `began` is the
    kernel's time of its start.
    """

    pid: int
    began: int


class Descendants:
    """All processes that this one starts while the block runs, and theirs, sampled; what
    is left of them at its end is ended.

    Those that ran before the block, and what they start, are no part of it.

    A process that loses its parent becomes a child of this one, however short its
    parent's life was.
    """

    def __init__(self) -> None:
        self.peak_mib = 0.0
        self._before: set[Process] = set()
        self._seen: set[Process] = set()
        self._weighed = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._before = _below(_table(), {os.getpid()})
        _adopt_orphans(True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        # Once more: what began since the last look would be left running.
        self._sample()
        self._over.set()
        self._thread.join()
        for number in (signal.SIGTERM, signal.SIGKILL):
            self._end(number)
        _adopt_orphans(False)

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        """Finds the processes, and weighs them once a second."""
        if time.monotonic() - self._weighed >= MEMORY_SECONDS:
            self.weigh()
        else:
            self._find()

    def _find(self) -> None:
        table = _table()
        for process in self._before:
            if _is_in(table, process):
                del table[process.pid]
        parents = {process.pid for process in self._seen if _is_in(table, process)}
        self._seen |= _below(table, parents | {os.getpid()})

    def weigh(self) -> None:
        """Adds up the proportional set sizes (PSS): a page that n processes share counts
        as an n-th in each.
        """
        self._weighed = time.monotonic()
        self._find()
        total = sum(_proportional_bytes(process.pid) for process in self._living())
        self.peak_mib = max(self.peak_mib, total / 2**20)

    def _end(self, number: signal.Signals) -> None:
        for pid in self._left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + STOP_SECONDS
        while self._left() and time.monotonic() < deadline:
            time.sleep(SAMPLE_SECONDS)

    def _left(self) -> list[int]:
        return [process.pid for process in self._living()]

    def _living(self) -> list[Process]:
        """Of all that were ever seen, those that have not ended."""
        table = _table()
        # A copy of the set: the thread that looks for processes adds to it meanwhile.
        return [process for process in tuple(self._seen) if _is_in(table, process)]


def _adopt_orphans(yes: bool) -> None:
    """Whether a process below this one that loses its parent becomes this one's child."""
    if ctypes.CDLL(None, use_errno=True).prctl(CHILD_SUBREAPER, int(yes), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def _proportional_bytes(pid: int) -> int:
    try:
        return proportional_bytes(pid)
    except OSError:  # it has just ended
        return 0


_Table = dict[int, tuple[int, int]]


def _is_in(table: _Table, process: Process) -> bool:
    return process.pid in table and table[process.pid][1] == process.began


def _below(table: _Table, parents: set[int]) -> set[Process]:
    """Their children, their children's children, and so on."""
    found: set[int] = set()
    generation = parents
    while generation:
        generation = {
            pid
            for pid, (parent, _) in table.items()
            if parent in generation and pid not in found
        }
        found |= generation
    return {Process(pid, table[pid][1]) for pid in found}


def _table() -> _Table:
    """Parent and start by process number, of all that have not ended."""
    table = {}
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            with contextlib.suppress(OSError):
                state, parent, *rest = (
                    (path / "stat").read_text().rpartition(")")[2].split()
                )
                if state not in "ZX":
                    table[int(path.name)] = (int(parent), int(rest[17]))
    return table
