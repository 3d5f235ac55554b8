"""A full disk: how it is told from other faults, and when there is room again."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

DISK_FULL = 74
"""The exit code of a flow process that found its disk full: the agent starts it again when there is room."""

ROOM_BYTES = 2**20


def is_full(error: BaseException) -> bool:
    """Whether a call failed because a disk, or what its user may take of it, is used up."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def has_free_bytes(folder: Path) -> bool:
    """Whether the file system says that so much is free there; nothing is written."""
    return shutil.disk_usage(folder).free >= ROOM_BYTES


def has_room(folder: Path, n_bytes: int = ROOM_BYTES) -> bool:
    """Whether so much can be written in a folder and is on disk; the file is gone again when this returns."""
    path = folder / f".room.{os.getpid()}.tmp"
    try:
        with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
            file.write(bytes(n_bytes))
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    return True
