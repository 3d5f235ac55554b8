"""Writes cells.json: run it only when the lists of cells are changed on purpose.

.venv/bin/python tests/vectors/make_cells_vectors.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from protocol.shares.cells import (  # noqa: E402
    MOST_EARLIER,
    CellList,
    Limits,
    earlier_of,
    list_of,
    union,
)

PATH = Path(__file__).with_name("cells.json")
KEY = bytes(range(32))
LABELS: dict[str, list[list[str | None]]] = {
    "2": [["F", "痛风"], ["M", None], ["F", ""]],
    "3": [["M", None], ["M", "7"]],
    "4": [],
}


EARLIER = (earlier_of(KEY, 12, 0), earlier_of(KEY, 12, 3))
"""Of order 12, for a receiver without rows and for hospital 3."""

LIMITS = Limits(10, 3, 10, EARLIER)


def lists() -> dict[str, CellList]:
    """What each provider sends to the coordinator."""
    found = {}
    for user, labels in LABELS.items():
        own = [tuple(label) for label in labels]
        found[user] = list_of(KEY, own, LIMITS)
    return found


def bad_lists(good: bytes) -> dict[str, bytes]:
    """Lists that are refused, each for one reason."""
    header, earlier = good[:33], good[33:81]
    head, first, second = good[:81], good[81:129], good[129:177]
    return {
        "empty": b"",
        "header cut": good[:32],
        "last byte cut": good[:-1],
        "a byte more": good + b"\0",
        "another version": b"\2" + good[1:],
        "no threshold": good[:1] + bytes(8) + good[9:],
        "no providers": good[:9] + bytes(4) + good[13:],
        "out of order": head + second + first + good[177:],
        "a cell twice": head + first + first + good[177:],
        "no changed people": good[:13] + bytes(8) + good[21:],
        "an earlier answer less": good[:33] + earlier[:24] + good[81:],
        "too many earlier answers": header[:21]
        + (MOST_EARLIER + 1).to_bytes(2, "big")
        + header[23:]
        + (MOST_EARLIER + 1) * earlier[:24]
        + good[81:],
        "slices without a cell": header[:25] + bytes(8) + earlier,
    }


def all_vectors() -> dict[str, Any]:
    own = lists()
    together = union({int(user): cells for user, cells in own.items()})
    good = own["2"].encode()
    return {
        "key": KEY.hex(),
        "labels": LABELS,
        "lists": {user: cells.encode().hex() for user, cells in own.items()},
        "union": together.encode().hex(),
        "digest": together.digest.hex(),
        "must_fail": {what: data.hex() for what, data in bad_lists(good).items()},
    }


if __name__ == "__main__":
    text = json.dumps(all_vectors(), indent=1, ensure_ascii=False)
    PATH.write_text(text + "\n", "utf-8")
