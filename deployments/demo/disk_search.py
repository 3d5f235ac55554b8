"""What the coordinator's disk holds: a demonstration looks for the numbers that must
not be there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path


def search_disk(
    folders: Iterable[Path], numbers: Iterable[float]
) -> tuple[int, int, list[str]]:
    """(files, bytes, what was found) of a search for numbers as 8-byte floats in both
    byte orders and as text.
    """
    needles: dict[str, bytes] = {}
    for number in numbers:
        needles[f"{number} little-endian"] = struct.pack("<d", number)
        needles[f"{number} big-endian"] = struct.pack(">d", number)
        # Without its sign and its last digits, which a text may have rounded.
        needles[f"{number} as text"] = repr(number).lstrip("-")[:14].encode()
    n_files = n_bytes = 0
    matches = set()
    for folder in folders:
        for file_path in folder.rglob("*"):
            if not file_path.is_file():
                continue
            content = file_path.read_bytes()
            n_files += 1
            n_bytes += len(content)
            for needle_name, needle in needles.items():
                if needle in content:
                    matches.add(needle_name)
    return n_files, n_bytes, sorted(matches)
