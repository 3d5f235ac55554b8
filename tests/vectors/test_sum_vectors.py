"""The committed bytes of fixed point, masks, Paillier and sums: a release that changes
one of them fails here.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from make_sum_vectors import INFO, PATH, ROWS, all_vectors, small_key, sum_keys

from protocol.errors import ProtocolViolation
from protocol.sums import EncryptMethod, masks, packing, paillier, secure_sum
from protocol.sums.fixed_point import FixedPoint

VECTORS: dict[str, Any] = json.loads(PATH.read_text())
METHODS: list[EncryptMethod] = ["Paillier", "Mask", "None"]
BAD = [
    (method, case)
    for method in METHODS
    for case in VECTORS["sums"][method]["must_fail"]
]


def test_the_script_still_writes_these_vectors() -> None:
    assert json.loads(json.dumps(all_vectors())) == VECTORS


@pytest.mark.parametrize("case", VECTORS["fixed_point"])
def test_fixed_point(case: dict[str, Any]) -> None:
    point = FixedPoint(case["n_rows_total"], case["bound"])
    values = np.array([float.fromhex(value) for value in case["values"]])
    assert point.fraction_bits == case["fraction_bits"]
    assert point.encode(values, case["n_rows"]).tolist() == case["words"]


def test_masks() -> None:
    case = VECTORS["masks"]
    pair = {int(peer): bytes.fromhex(key) for peer, key in case["pair_keys"].items()}
    group, modulus, info = (
        bytes.fromhex(case["group_key"]),
        int(case["modulus"], 16),
        bytes.fromhex(case["info"]),
    )
    assert [hex(m) for m in masks.mask_modulo(pair, 3, modulus, 2, info)] == case[
        "mask_modulo"
    ]
    assert [hex(m) for m in masks.mask_words(pair, 3, 3, info).tolist()] == case[
        "mask_words"
    ]
    assert [hex(m) for m in masks.group_modulo(group, 3, modulus, 2, info)] == case[
        "group_modulo"
    ]
    assert [hex(m) for m in masks.group_words(group, 3, 3, info).tolist()] == case[
        "group_words"
    ]
    assert hex(masks.tag(group, np.array(case["tagged_words"]), info)) == case["tag"]
    assert hex(masks.tag_pad(group, 3, info)) == case["tag_pad"]


def test_paillier_with_phe_alone() -> None:
    case = VECTORS["paillier"]
    key = paillier.private_from_bytes(bytes.fromhex(case["private"]))
    assert key.public_key == paillier.public_from_bytes(bytes.fromhex(case["public"]))
    plaintexts = [key.raw_decrypt(int(c, 16)) for c in case["ciphertexts"]]
    assert [hex(m) for m in plaintexts] == case["plaintexts"]
    words = packing.unpack(
        plaintexts, 5, weight=case["weight"], offset=case["offset"], bits=2048
    )
    assert words.tolist() == case["words"]


@pytest.mark.parametrize("method", METHODS)
def test_sums(method: EncryptMethod) -> None:
    case, keys = VECTORS["sums"][method], sum_keys(method, 2)
    payloads = {me: bytes.fromhex(case["payloads"][str(me)]) for me in ROWS}
    total = secure_sum.add(method, payloads, public=keys.public)
    assert total.hex() == case["total"]
    sums = secure_sum.open_sum(keys, total, info=INFO, private_key=small_key())
    assert sums.tolist() == case["sums"]
    assert [value.hex() for value in secure_sum.mean(keys, sums).tolist()] == case[
        "mean"
    ]


@pytest.mark.parametrize(
    ("method", "case"), BAD, ids=[f"{method}: {case['what']}" for method, case in BAD]
)
def test_totals_that_must_fail(method: EncryptMethod, case: dict[str, str]) -> None:
    total = bytes.fromhex(case["total"])
    with pytest.raises(ProtocolViolation) as caught:
        secure_sum.open_sum(
            sum_keys(method, 2), total, info=INFO, private_key=small_key()
        )
    assert caught.value.code == case["code"]
