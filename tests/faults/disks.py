"""A small disk of a test's own that it fills and empties."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SIZE = "160m"


@dataclass
class SmallDisk:
    """A file system below `folder`, and one file that takes what others leave of it."""

    folder: Path

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"

    def fill(self) -> None:
        """Not a byte is free when this returns, but in what is written meanwhile."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (2**20, 2**12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def empty(self) -> None:
        self._ballast.unlink()


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    """Mounted in memory; where this user may not mount, the test is skipped and says
    so.
    """
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "tmpfs", str(folder)],
        check=False,
    )
    if mounted.returncode:
        assert not (os.environ.get("CI") == "true" and os.geteuid() == 0), (
            "root under CI may mount"
        )
        pytest.skip("only root may mount the small disk that is filled here")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
