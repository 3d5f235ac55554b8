"""Who does not answer, said once: a line when an outage begins and a line when it is over.

Many calls of many processes try again meanwhile, each on its own. What they share is a small file: who was missed since
when. Without a file one process shares it with itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

COORDINATOR, PREFECT = "The coordinator", "Prefect"
NAMES = (COORDINATOR, PREFECT)
CUT_SECONDS = 3.0
"""A link that is cut takes Prefect's address with the coordinator's: that is one outage and one line. Prefect's own is
told when it goes on for so long while the coordinator answers."""

FORGOTTEN_SECONDS = 120.0
"""Whoever misses somebody tries again far sooner: what nobody has missed for so long, its witness died with it."""

_ENTRY = struct.Struct("<dddd")
log = logging.getLogger("consilium.outage")


@dataclass
class _Entry:
    """When one of them was first and last missed, when that was told, and when it answered again; 0.0 for never."""

    missed: float = 0.0
    last: float = 0.0
    told: float = 0.0
    back: float = 0.0


class Outage:
    """What the processes of one agent know of who does not answer.

    `now` counts alike in all processes of a machine and never runs backwards.
    """

    def __init__(self, path: Path | None = None, *, now: Callable[[], float] = time.monotonic) -> None:
        self._path, self._now = path, now
        self._own = {name: _Entry() for name in NAMES}
        self._missed_here: set[str] = set()
        self._lock = threading.Lock()

    def share(self, path: Path, *, afresh: bool = False) -> None:
        """From now on with the other processes that share this file; `afresh` forgets what an earlier agent left."""
        self._path = path
        if afresh:
            with contextlib.suppress(OSError):
                path.write_bytes(bytes(_ENTRY.size * len(NAMES)))

    def missed(self, name: str, why: object, *, asked: float) -> None:
        """`name` did not answer what was asked at this time (of `now`); said if nobody here has said so."""
        self._missed_here.add(name)
        with self._entries() as entries:
            one, coordinator, now = entries[name], entries[COORDINATOR], self._now()
            if asked < max(one.back, coordinator.back):
                return  # in an outage that is over
            for entry in (one, coordinator):
                if now - entry.last > FORGOTTEN_SECONDS:
                    entry.missed = entry.told = 0.0
            if name == PREFECT and coordinator.missed:
                return
            one.missed, one.last = one.missed or now, now
            is_due = name == COORDINATOR or now - one.missed >= CUT_SECONDS
            if is_due and not one.told:
                one.told = now
                log.warning("%s does not answer; trying again: %s", name, why)

    def answered(self, name: str) -> None:
        """`name` answered; said if it was missed, and at no cost if this process has not missed it."""
        if name not in self._missed_here:
            return
        self._missed_here.discard(name)
        with self._entries() as entries:
            one = entries[name]
            if one.told:
                log.warning("%s answers again after %.0f s", name, self._now() - one.missed)
            if one.missed:
                entries[name] = _Entry(back=self._now())

    @contextlib.contextmanager
    def _entries(self) -> Iterator[dict[str, _Entry]]:
        """The entries, for one process and thread at a time; what has become of them is kept."""
        with self._lock:
            try:
                file = None if self._path is None else os.open(self._path, os.O_RDWR)
            except OSError:
                file = None  # a log that says a thing twice is better than an agent that does not try again
            if file is None:
                yield self._own
                return
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                entries = _read(file)
                yield entries
                packed = (_ENTRY.pack(*astuple(one)) for one in entries.values())
                with contextlib.suppress(OSError):
                    os.pwrite(file, b"".join(packed), 0)
            finally:
                os.close(file)


def _read(file: int) -> dict[str, _Entry]:
    data = os.pread(file, _ENTRY.size * len(NAMES), 0).ljust(_ENTRY.size * len(NAMES), b"\0")
    return dict(zip(NAMES, (_Entry(*fields) for fields in _ENTRY.iter_unpack(data)), strict=True))


outage = Outage()
"""This process's; the agent's file joins it with those of its other processes."""
