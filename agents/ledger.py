"""The hospital's ledger: what was asked, what was refused and why, what left.

One JSON object a line, appended and synced before anything happens; each line carries the SHA-256 of the line before,
so that a removed or altered line shows. It holds names, kinds, counts and digests; never a value from a row.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_FIRST = "0" * 64


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Ledger:
    """Append-only, safe for several processes of one agent."""

    def __init__(self, path: Path, *, now: Callable[[], datetime] = _utc_now) -> None:
        self.path = path
        self._now = now

    def write(self, event: str, **facts: Any) -> None:
        """Appends one line and returns when it is on disk."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            entry = {"at": self._now().isoformat(timespec="milliseconds"), "event": event, **facts}
            line = json.dumps({**entry, "previous": _digest(_last_line(file))}, sort_keys=True, ensure_ascii=False)
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def entries(self) -> Iterator[dict[str, Any]]:
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                yield json.loads(line)

    def first_broken_line(self) -> int | None:
        """The number of the first line that does not follow from the one before; None when the chain is whole."""
        previous = b""
        if not self.path.exists():
            return None
        for number, line in enumerate(self.path.read_bytes().splitlines(), start=1):
            if json.loads(line)["previous"] != _digest(previous):
                return number
            previous = line
        return None


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest() if line else _FIRST


def _last_line(file: Any) -> bytes:
    """Read from the end in growing steps: the ledger may be long, its lines are not."""
    size, step = file.seek(0, os.SEEK_END), 4096
    while size:
        file.seek(max(0, size - step))
        lines: list[bytes] = file.read().rstrip(b"\n").split(b"\n")
        if len(lines) > 1 or step >= size:
            return lines[-1]
        step *= 4
    return b""
