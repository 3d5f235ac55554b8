"""Writes mask_graph.json: run it only when the graph is changed on purpose, and raise the
version in its tag.

.venv/bin/python tests/vectors/make_mask_graph_vectors.py
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from protocol.sums import mask_graph  # noqa: E402

PATH = Path(__file__).with_name("mask_graph.json")
COUNTS = (65, 100, 300)
SHOWN = (2, 3, 40)


def graph(n_members: int) -> dict[str, Any]:
    """Peers of some members, and SHA-256 over those of all in order of their ids."""
    seed = hashlib.sha256(b"vector/%d" % n_members).digest()
    members = range(2, n_members + 2)
    peers = {}
    for me in members:
        peers[str(me)] = list(mask_graph.peers(members, me, seed=seed))
    text = json.dumps(list(peers.values()))
    return {
        "n_members": n_members,
        "seed": seed.hex(),
        "reach": mask_graph.reach(n_members),
        "peers": {str(me): peers[str(me)] for me in SHOWN},
        "all_peers_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


def all_vectors() -> list[dict[str, Any]]:
    return [graph(n_members) for n_members in COUNTS]


if __name__ == "__main__":
    PATH.write_text(json.dumps(all_vectors(), indent=1) + "\n")
