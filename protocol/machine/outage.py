"""Who does not answer, said once: a line when an outage begins and a line when it is
over.

Many calls of many processes try again meanwhile, each on its own. What they share is a
small file: who was missed since when. Without a file one process shares it with itself.
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
"""A link that is cut takes Prefect's address with the coordinator's: that is one outage
and one line. Prefect's own is logged when it goes on for so long while the coordinator
answers.
"""

FORGOTTEN_SECONDS = 120.0
"""Whoever misses somebody tries again far sooner: where nobody has for so long, who
missed it has died.
"""

_ENTRY = struct.Struct("<dddd")  # the fields of _Entry
log = logging.getLogger("consilium.outage")


@dataclass
class _Entry:
    """What is known of one of NAMES: times of `Outage.now`, 0.0 for never. The shared
    file has them in this order.
    """

    # When this outage began.
    missed: float = 0.0
    # When somebody missed it last.
    last: float = 0.0
    # When a line about this outage was logged.
    logged: float = 0.0
    # When it answered again.
    back: float = 0.0


class Outage:
    """What the processes of one agent know of who does not answer.

    `now` counts alike in all processes of a machine and never runs backwards.
    """

    def __init__(
        self, path: Path | None = None, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._now = now
        # In the place of the file, where there is none.
        self._own = {name: _Entry() for name in NAMES}
        # Whom this process has missed itself: an answer of anybody else costs no look
        # into the file.
        self._missed_here: set[str] = set()
        self._lock = threading.Lock()

    def share(self, path: Path, *, afresh: bool = False) -> None:
        """From now on with the other processes that share this file; `afresh` forgets
        what an earlier agent left.
        """
        self._path = path
        if afresh:
            with contextlib.suppress(OSError):
                path.write_bytes(bytes(_ENTRY.size * len(NAMES)))

    def missed(self, name: str, why: object, *, asked: float) -> None:
        """`name` did not answer what was asked at this time (of `now`); logged if
        nobody here has logged it.
        """
        self._missed_here.add(name)
        with self._entries() as entries:
            entry = entries[name]
            coordinator = entries[COORDINATOR]
            now = self._now()
            # A call that was made in an outage which is over.
            if asked < max(entry.back, coordinator.back):
                return
            for server_entry in (entry, coordinator):
                if now - server_entry.last > FORGOTTEN_SECONDS:
                    server_entry.missed = server_entry.logged = 0.0
            # One link leads to both: while the coordinator is missed, Prefect's silence
            # is the same outage.
            if name == PREFECT and coordinator.missed:
                return
            if not entry.missed:
                entry.missed = now
            entry.last = now
            is_due = name == COORDINATOR or now - entry.missed >= CUT_SECONDS
            if is_due and not entry.logged:
                entry.logged = now
                log.warning("%s does not answer; trying again: %s", name, why)

    def answered(self, name: str) -> None:
        """`name` answered; logged if it was missed, and at no cost if this process has
        not missed it.
        """
        if name not in self._missed_here:
            return
        self._missed_here.discard(name)
        with self._entries() as entries:
            entry = entries[name]
            if entry.logged:
                log.warning(
                    "%s answers again after %.0f s", name, self._now() - entry.missed
                )
            if entry.missed:
                entries[name] = _Entry(back=self._now())

    @contextlib.contextmanager
    def _entries(self) -> Iterator[dict[str, _Entry]]:
        """The entries, for one process and thread at a time; what has become of them is
        kept.
        """
        with self._lock:
            try:
                file = None if self._path is None else os.open(self._path, os.O_RDWR)
            except OSError:
                # a log that has a line twice is better than an agent that does not try
                # again
                file = None
            if file is None:
                yield self._own
                return
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                entries = _read(file)
                yield entries
                packed = [_ENTRY.pack(*astuple(entry)) for entry in entries.values()]
                with contextlib.suppress(OSError):
                    os.pwrite(file, b"".join(packed), 0)
            finally:
                os.close(file)


def _read(file: int) -> dict[str, _Entry]:
    n_bytes = _ENTRY.size * len(NAMES)
    # A new file is empty: nobody was missed.
    file_bytes = os.pread(file, n_bytes, 0).ljust(n_bytes, b"\0")
    entries = [_Entry(*entry_fields) for entry_fields in _ENTRY.iter_unpack(file_bytes)]
    return dict(zip(NAMES, entries, strict=True))


outage = Outage()
"""This process's; the agent's file joins it with those of its other processes."""
