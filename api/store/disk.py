"""The coordinator's disk: whether an order can still be kept on it, and which errors
say that it is full.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from psycopg.errors import DiskFull

from protocol.errors import Unavailable
from protocol.machine import disk

FULL_BYTES = 2**20
"""With less than this free the disk counts as full."""

REMEMBERED_SECONDS = 7.0
"""Whoever could not write tries again sooner than this: as long as the disk is full, it
is heard of.
"""

MEGABYTE = 10**6


class Disk:
    """The file system of the coordinator's folder, where store and round files are
    unless a setting says otherwise.

    short   free space below `needed_bytes`: no new order is taken, those under way go
    on full    something could not be written a moment ago, or next to nothing is free:
    what is under way waits
    """

    def __init__(
        self,
        folder: Path,
        needed_bytes: int,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self.needed_bytes = needed_bytes
        self._now = now
        self._failed: float | None = (
            None  # when something could not be written the last time
        )

    def free_bytes(self) -> int:
        """What can still be written there; a folder that is not made yet stands for its
        parent.
        """
        candidates = (self._folder, *self._folder.parents)
        folder = next(candidate for candidate in candidates if candidate.exists())
        return shutil.disk_usage(folder).free

    def noted(self) -> Unavailable:
        """A write has just failed for want of room; the error that says so."""
        self._failed = self._now()
        return self.trouble()

    def is_full(self) -> bool:
        # Free bytes alone do not say it: a quota, or a store that is elsewhere, may be
        # used up while this folder has room.
        if self._failed is not None and self._now() - self._failed < REMEMBERED_SECONDS:
            return True
        return self.free_bytes() < FULL_BYTES

    def is_short(self) -> bool:
        return self.free_bytes() < self.needed_bytes or self.is_full()

    def trouble(self) -> Unavailable:
        """What is wrong, how much is needed, and what ends it."""
        free_bytes = self.free_bytes()
        needed_bytes = self.needed_bytes
        sentence = (
            f"The coordinator's disk is full: {_megabytes(free_bytes)} MB are free and"
            f" {_megabytes(needed_bytes)} MB are needed."
        )
        if free_bytes >= needed_bytes:  # a store that a setting has put elsewhere
            sentence = "The coordinator's store has found its own disk full."
        return Unavailable(
            sentence,
            remedy="Its operator makes room; orders under way then go on by themselves, and new ones are taken.",
            code="disk",
            free_bytes=free_bytes,
            needed_bytes=needed_bytes,
        )


def _megabytes(n_bytes: int) -> str:
    n_megabytes = n_bytes / MEGABYTE
    return f"{n_megabytes:,.0f}" if n_megabytes >= 1 else f"{n_megabytes:.1f}"


def is_full(error: BaseException | None) -> bool:
    """Whether an error says that a disk, or what its user may take of it, is used up.

    By class and number: OSError, SQLite (which cannot make its log either then),
    PostgreSQL, also as SQLAlchemy wraps them.
    """
    error = getattr(error, "orig", error)
    if isinstance(error, OSError):
        return disk.is_full(error)
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return isinstance(error, DiskFull)
