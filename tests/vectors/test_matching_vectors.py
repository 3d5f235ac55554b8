"""The committed bytes of the matching: another version's tags would match nobody, so
they must stay as they are.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest
from make_matching_vectors import KEY, PATH, all_vectors

from protocol.errors import ProtocolViolation
from protocol.shares.matching import (
    common_digest,
    common_rows,
    decode_bitmap,
    decode_tags,
)

VECTORS: dict[str, Any] = json.loads(PATH.read_text("utf-8"))
BAD = [(kind, case) for kind, cases in VECTORS["must_fail"].items() for case in cases]


def test_the_script_still_writes_these_vectors() -> None:
    assert all_vectors() == VECTORS


@pytest.mark.parametrize("user", VECTORS["providers"])
def test_tags_are_what_their_docstring_says(user: str) -> None:
    case = VECTORS["providers"][user]
    digests = sorted(
        hashlib.blake2b(text.encode(), key=KEY, digest_size=16).digest()
        for text in case["keys"]
    )
    assert bytes.fromhex(case["tags"]) == len(digests).to_bytes(8, "big") + b"".join(
        digests
    )


@pytest.mark.parametrize("user", VECTORS["providers"])
def test_a_provider_finds_its_common_keys(user: str) -> None:
    case = VECTORS["providers"][user]
    found = decode_tags(bytes.fromhex(case["tags"]))
    common = decode_bitmap(bytes.fromhex(case["bitmap"]), n_tags=len(case["keys"]))
    rows = common_rows(np.array(case["order"]), common)
    others = [set(other["keys"]) for other in VECTORS["providers"].values()]
    assert {case["keys"][row] for row in rows} == set.intersection(*others)
    assert (
        common_digest(found, common).hex()
        == case["digest"]
        == VECTORS["providers"]["2"]["digest"]
    )


@pytest.mark.parametrize(
    ("kind", "case"), BAD, ids=[f"{kind}: {case['what']}" for kind, case in BAD]
)
def test_messages_that_must_fail(kind: str, case: dict[str, str]) -> None:
    data = bytes.fromhex(case["data"])
    with pytest.raises(ProtocolViolation) as caught:
        decode_tags(data) if kind == "tags" else decode_bitmap(data, n_tags=9)
    assert caught.value.code == "bad_message"
