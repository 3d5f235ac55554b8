"""The hospital's ledger: what was asked, what was refused and why, what left.

One JSON object a line, appended and synced before anything happens; each line carries
the SHA-256 of the line before, so that a removed or altered line shows. It holds names,
kinds, counts and digests; never a value from a row.

`Ledger.write` is called before what it records happens: what could not be written down
must not happen. Only agents.order.release writes that something left.

The chain has no key: who may write the file can write a whole new one. Note the head
(`./run agent ledger` prints it) where the machine's administrators cannot write, and
compare.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from protocol.errors import Conflict
from protocol.machine.disk import locked, write_durably

_FIRST = "0" * 64


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Ledger:
    """Append-only, safe for several processes of one agent."""

    def __init__(
        self,
        path: Path,
        *,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self.path = path
        self._now = now

    def write(self, event: str, **facts: Any) -> None:
        """Appends one line and returns when it is on disk.

        A line that a crash cut short was never acknowledged: it is dropped, and a line
        "repaired" says so. The file comes into being with its first line, so that an
        empty one is what is left of another: Conflict (code ledger).
        """
        if self._begins_with(event, facts):
            return
        # Without O_CREAT: a file that was removed since is an error, not a new
        # beginning.
        flags = os.O_RDWR | os.O_APPEND
        descriptor = os.open(self.path, flags)
        with os.fdopen(descriptor, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self._check_not_emptied()
            n_dropped = _repair(file)
            if n_dropped:
                repaired = {"event": "repaired", "n_bytes": n_dropped}
                self._append(file, repaired)
            self._append(file, {"event": event, **facts})
            os.fsync(file.fileno())

    def _begins_with(
        self,
        event: str,
        facts: dict[str, Any],
    ) -> bool:
        """Whether this line is the first; then it is on disk."""
        if self.path.exists():
            return False
        with locked(self.path.parent):
            # Another process was first.
            if self.path.exists():
                return False
            first_entry = {"event": event, **facts}
            first_line = self._line(first_entry, previous=_FIRST)
            write_durably(self.path, first_line)
        return True

    def _append(
        self,
        file: IO[bytes],
        facts: dict[str, Any],
    ) -> None:
        last_line = _last_line(file)
        line = self._line(facts, previous=_digest(last_line))
        file.write(line)
        file.flush()

    def _line(
        self,
        facts: dict[str, Any],
        *,
        previous: str,
    ) -> bytes:
        moment = self._now().isoformat(timespec="milliseconds")
        entry = {
            "at": moment,
            **facts,
            "previous": previous,
        }
        entry_json = json.dumps(
            entry,
            sort_keys=True,
            ensure_ascii=False,
        )
        # Half of a surrogate pair, which UTF-8 has no bytes for, becomes JSON's own
        # escape.
        return entry_json.encode(errors="backslashreplace") + b"\n"

    def _check_not_emptied(self) -> None:
        if self.path.stat().st_size == 0:
            raise Conflict(
                f"{self.path} is empty: its lines are lost.",
                remedy="Restore it from the backup; without one, move it away, note that, and a new one is begun.",
                code="ledger",
            )

    def entries(self) -> Iterator[dict[str, Any]]:
        """The lines in order; {"event": "unreadable"} for one that cannot be read."""
        for line in self._lines():
            yield _parsed(line) or {"event": "unreadable"}

    def first_broken_line(self) -> int | None:
        """The number of the first line that does not follow from the one before.

        None when the chain is whole. Conflict (code ledger) for a file without a line.
        """
        expected = _FIRST
        for number, line in enumerate(self._lines(), start=1):
            entry = _parsed(line)
            if entry is None:
                return number
            if entry.get("previous") != expected:
                return number
            expected = _digest(line)
        return None

    def head(self) -> str:
        """SHA-256 of the last line, 64 hex digits.

        Whoever noted it can tell whether what stood then still stands.
        """
        lines = self._lines()
        if not lines:
            return _FIRST
        return _digest(lines[-1])

    def _lines(self) -> list[bytes]:
        if not self.path.exists():
            return []
        self._check_not_emptied()
        with self.path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            # Not splitlines: an order's purpose may hold U+2028, which str.splitlines
            # takes for the end of a line.
            content = file.read()
        lines = content.split(b"\n")
        # What stands after the last line's end; a line that was cut short stays.
        if not lines[-1]:
            lines.pop()
        return lines


def _digest(line: bytes) -> str:
    if not line:
        return _FIRST
    return hashlib.sha256(line).hexdigest()


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _last_line(file: IO[bytes]) -> bytes:
    """Read from the end in growing steps: the ledger may be long, its lines are not."""
    file_size = file.seek(0, os.SEEK_END)
    tail_size = 4096
    while file_size:
        file.seek(max(0, file_size - tail_size))
        tail = file.read().rstrip(b"\n")
        lines = tail.split(b"\n")
        is_whole = len(lines) > 1 or tail_size >= file_size
        if is_whole:
            return lines[-1]
        tail_size *= 4
    return b""


def _repair(file: IO[bytes]) -> int:
    """Ends a last line that lacks its end, or drops it if a crash cut it short.

    Returns how many bytes were dropped.
    """
    file_size = file.seek(0, os.SEEK_END)
    if not file_size:
        return 0
    file.seek(file_size - 1)
    last_byte = file.read(1)
    if last_byte == b"\n":
        return 0
    unended = _last_line(file)
    # The crash took its end only.
    if _parsed(unended) is not None:
        file.write(b"\n")
        file.flush()
        return 0
    n_dropped = len(unended)
    file.truncate(file_size - n_dropped)
    return n_dropped
