"""Writes matching.json: run it only when tags, bitmaps or digests are changed on
purpose.

.venv/bin/python tests/vectors/make_matching_vectors.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from protocol.shares.matching import (  # noqa: E402
    common_digest,
    encode_bitmap,
    encode_tags,
    intersect,
    tags,
)

PATH = Path(__file__).with_name("matching.json")
KEY = bytes(range(32))
KEYS = {
    "2": ["7", "19", "110101199003074514", "王芳", "Zoë", "", "007", "x y", "0"],
    "3": ["19", "王芳", "zoë", "8", "x y", "0"],
    "4": ["x y", "王芳", "19", "Zoë", "7", "0", "b", "a"],
}


def providers() -> dict[str, dict[str, Any]]:
    """What each provider sends, is told, and tells the others."""
    own = {user: tags(KEY, keys) for user, keys in KEYS.items()}
    bitmaps = dict(
        zip(KEYS, intersect([found for found, _ in own.values()]), strict=True)
    )
    return {
        user: {
            "keys": KEYS[user],
            "order": order.tolist(),
            "tags": encode_tags(found).hex(),
            "bitmap": encode_bitmap(bitmaps[user]).hex(),
            "digest": common_digest(found, bitmaps[user]).hex(),
        }
        for user, (found, order) in own.items()
    }


def bad_tags(good: bytes) -> dict[str, bytes]:
    """Tags that the coordinator refuses, each for one reason."""
    first, second, rest = good[8:24], good[24:40], good[40:]
    return {
        "empty": b"",
        "count cut": good[:7],
        "last byte cut": good[:-1],
        "last tag cut": good[:-16],
        "one byte more": good + b"\0",
        "one tag more": good + b"\xff" * 16,
        "count too high": (10).to_bytes(8, "big") + good[8:],
        "count beyond memory": b"\xff" * 8 + good[8:],
        "two tags in the wrong order": good[:8] + second + first + rest,
        "a tag twice": good[:8] + first + first + rest,
    }


def bad_bitmaps(good: bytes) -> dict[str, bytes]:
    """Bitmaps that a provider of nine keys refuses."""
    return {
        "empty": b"",
        "count cut": good[:7],
        "last byte cut": good[:-1],
        "one byte more": good + b"\0",
        "of eight keys": (8).to_bytes(8, "big") + good[8:9],
        "of ten keys": (10).to_bytes(8, "big") + good[8:],
        "a bit beyond the last key": good[:-1] + bytes([good[-1] | 1]),
    }


def all_vectors() -> dict[str, Any]:
    """The content of matching.json."""
    found = providers()
    must_fail = {
        "tags": bad_tags(bytes.fromhex(found["2"]["tags"])),
        "bitmap": bad_bitmaps(bytes.fromhex(found["2"]["bitmap"])),
    }
    return {
        "key": KEY.hex(),
        "providers": found,
        "must_fail": {
            kind: [{"what": what, "data": data.hex()} for what, data in cases.items()]
            for kind, cases in must_fail.items()
        },
    }


if __name__ == "__main__":
    PATH.write_text(
        json.dumps(all_vectors(), indent=1, ensure_ascii=False) + "\n", "utf-8"
    )
