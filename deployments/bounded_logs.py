"""Logs that other processes write to, kept below a size.

A part writes to its log by a descriptor that was opened for appending, and so do all
processes that it starts: of a log that was renamed they would write on into the renamed
file. So a log that is full is copied and then emptied, as logrotate's `copytruncate`
does. What is written between the last byte that is copied and the emptying is lost,
some microseconds' lines of every 10 MiB.

Decision 123.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

MOST_BYTES = 10 * 2**20
N_OLDER = 3
_PIECE_BYTES = 2**20


def older(log: Path, n: int) -> Path:
    """The n-th file before the one that is written to."""
    return log.with_name(f"{log.name}.{n}")


def cut_back(
    log: Path, *, most_bytes: int = MOST_BYTES, n_older: int = N_OLDER
) -> None:
    """Empties a log of more than `most_bytes` bytes; what it held is in `log.1` then,
    what that held in `log.2`, and so on to `log.<n_older>`. Nobody else can read them.

    The log stays as it is where the copy cannot be made, as on a full disk.
    """
    if not _is_larger(log, most_bytes):
        return
    copy = log.with_name(f"{log.name}.new")
    try:
        _move_content(log, copy)
    except OSError:
        copy.unlink(missing_ok=True)
        return
    # From the oldest down: each name is free before the next one takes it.
    for log_number in range(n_older - 1, 0, -1):
        with contextlib.suppress(FileNotFoundError):
            older(log, log_number).rename(older(log, log_number + 1))
    copy.rename(older(log, 1))


def _is_larger(path: Path, n_bytes: int) -> bool:
    try:
        return path.stat().st_size > n_bytes
    except FileNotFoundError:
        return False  # nobody has written to it yet, or a person has moved it away


def _move_content(log: Path, copy: Path) -> None:
    # One that was left half made is begun anew.
    copy.unlink(missing_ok=True)
    with log.open("r+b", buffering=0) as source:
        # O_EXCL follows no link that stands there under this name.
        descriptor = os.open(copy, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with open(descriptor, "wb") as target:
            while piece := source.read(_PIECE_BYTES):
                target.write(piece)
                # Before the log is emptied: a full disk has to show here, not after it.
                target.flush()
            source.truncate(0)
