"""Files that survive a crash, and a full disk: how it differs from other faults, and
when there is room again.

What a call has written is on disk when it returns (fsync of the file and of its
folder), and a reader finds the old content or the new one, never a part: that is what
decision 14 rests on.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

ROOM_BYTES = 2**20
"""So much must be free for a process to go on."""


def is_full(error: BaseException) -> bool:
    """Whether a call failed because a disk, or what its user may take of it, is used
    up.
    """
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def has_free_bytes(folder: Path) -> bool:
    """Whether the file system says that so much is free there; nothing is written."""
    return shutil.disk_usage(folder).free >= ROOM_BYTES


def has_room(folder: Path, n_bytes: int = ROOM_BYTES) -> bool:
    """Whether so much can be written in a folder and is on disk; the file is gone again
    when this returns.
    """
    path = folder / f".room.{os.getpid()}.tmp"
    # Written, as a quota or a reserve of the file system shows only then.
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(bytes(n_bytes))
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    return True


def write_durably(path: Path, data: bytes) -> None:
    """Replaces a file whole, with mode 0600, and returns only when it is on disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        put_in_place(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def put_in_place(temporary: Path, path: Path) -> None:
    """Gives a file that has been written its name, which may be another's so far;
    returns when all is on disk.
    """
    # The content before the name: after a crash between the two there is the old file,
    # not an empty one.
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def write_once(path: Path, data: bytes) -> None:
    """As `write_durably`, but a file that is there already stays as it is: the first
    process wins.
    """
    with locked(path.parent):
        if not path.exists():
            write_durably(path, data)


@contextlib.contextmanager
def locked(folder: Path, *, waits: bool = True) -> Iterator[None]:
    """One process at a time, of those that ask for this folder; not to be asked for
    twice by one.

    BlockingIOError where another has it and this one does not wait.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        operation = fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB
        fcntl.flock(descriptor, operation)
        yield
    finally:
        os.close(descriptor)  # which gives the lock back, as a crash does


def make_private_folder(path: Path) -> Path:
    """A folder that only its owner may enter, and its parents too where they are new;
    on disk when this returns.
    """
    if not path.is_dir():
        make_private_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        sync(path.parent)
    return path


def sync(path: Path) -> None:
    """Returns when a file's bytes, or a folder's list of names, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
