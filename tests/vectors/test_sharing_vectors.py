"""The committed bytes of rings, triples, dealing and whole runs: a release that changes
one of them fails here.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from make_sharing_vectors import (
    PATH,
    all_vectors,
    changed,
    columns,
    made_plan,
    rows_of,
    written,
)

from protocol.errors import ProtocolViolation
from protocol.shares.ring import Ring
from protocol.shares.shared_expression import reveal
from tasks.coordinator.dealing import Dealt
from tests.made_providers import compute_jointly

VECTORS: dict[str, Any] = json.loads(PATH.read_text())
BAD = VECTORS["must_fail"]


def test_the_script_still_writes_these_vectors() -> None:
    assert json.loads(json.dumps(all_vectors())) == VECTORS


@pytest.mark.parametrize("case", VECTORS["ring"])
def test_ring_elements_are_read(case: dict[str, Any]) -> None:
    ring, values = Ring(case["n_limbs"]), [int(value) for value in case["values"]]
    limbs = ring.from_bytes(bytes.fromhex(case["bytes"]), len(values))
    assert ring.decode(limbs) == [int(value) for value in case["decoded"]]
    assert all(
        (int(d) - v) % 2**ring.bits == 0
        for d, v in zip(case["decoded"], values, strict=True)
    )


@pytest.mark.parametrize("name", sorted(VECTORS["runs"]))
def test_shares_are_read(name: str) -> None:
    case = VECTORS["runs"][name]
    shares = {
        int(provider): bytes.fromhex(share)
        for provider, share in case["shares"].items()
    }
    assert [written(value) for value in reveal(made_plan(name), shares).values] == case[
        "values"
    ]


@pytest.mark.parametrize("case", BAD, ids=[case["what"] for case in BAD])
def test_what_must_fail(case: dict[str, Any]) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        attempt(case)
    assert caught.value.code == case["code"]


def attempt(case: dict[str, Any]) -> None:
    made = made_plan(case["run"])
    if "share" in case:
        shares = {
            int(p): bytes.fromhex(s)
            for p, s in VECTORS["runs"][case["run"]]["shares"].items()
        }
        reveal(made, {**shares, 3: changed(shares[3], case["share"], case["xor"])})
        return

    def tamper(dealt: Dealt) -> bytes:
        is_meant = dealt.number == case["number"] and dealt.provider == 7
        return changed(dealt.data, case["at"]) if is_meant else dealt.data

    name = case["run"]
    compute_jointly(made, columns(name), len(rows_of(name)), tamper=tamper)
