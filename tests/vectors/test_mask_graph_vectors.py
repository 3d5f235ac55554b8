"""The committed graphs of sparse masks: hospitals of two releases that differ in one
edge open noise.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from make_mask_graph_vectors import PATH, all_vectors

from protocol.sums import mask_graph

VECTORS: list[dict[str, Any]] = json.loads(PATH.read_text())


def test_the_script_still_writes_these_vectors() -> None:
    assert all_vectors() == VECTORS


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: str(case["n_members"]))
def test_peers_of_a_seed(case: dict[str, Any]) -> None:
    members = range(2, case["n_members"] + 2)
    seed = bytes.fromhex(case["seed"])
    for me, peers in case["peers"].items():
        assert len(peers) == 2 * case["reach"]
        assert list(mask_graph.peers(members, int(me), seed=seed)) == peers
