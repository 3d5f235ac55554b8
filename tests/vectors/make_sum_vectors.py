"""Writes sum_vectors.json: run it only when a format is changed on purpose, and raise
the version there.

.venv/bin/python tests/vectors/make_sum_vectors.py
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from protocol.sums import (  # noqa: E402
    EncryptMethod,
    masks,
    packing,
    paillier,
    secure_sum,
)
from protocol.sums.fixed_point import FixedPoint  # noqa: E402
from protocol.sums.paillier import Obfuscators  # noqa: E402
from protocol.sums.sum_keys import SumKeys  # noqa: E402

PATH = Path(__file__).with_name("sum_vectors.json")
INFO = b"vector train fold 1 round 2 attempt 0"
ROWS = {2: 40, 3: 7, 5: 1000}
TAGGED = [1, -1, 2**62, -(2**62), 65535, 0]
VALUES = {2: [1.5, -8.0, 0.1], 3: [8.0, -0.25, 1e-9], 5: [-1 / 3, 8.0, 0.0]}


def stream(seed: str) -> Callable[[int], bytes]:
    """A source of bytes that are the same on every machine: SHAKE-256 of the seed and a
    counter.
    """
    calls = 0

    def random_bytes(count: int) -> bytes:
        nonlocal calls
        calls += 1
        return hashlib.shake_256(f"{seed}/{calls}".encode()).digest(count)

    return random_bytes


def key_of(*ids: int) -> bytes:
    return hashlib.sha256(b"vector" + bytes(sorted(ids))).digest()


def small_key() -> Any:
    """A 512-bit key, too short for use, long enough for the format."""
    return paillier._generate_keys(512, stream("key"))


def sum_keys(method: EncryptMethod, me: int) -> SumKeys:
    public = small_key().public_key if method == "Paillier" else None
    return SumKeys(
        method=method,
        me=me,
        members=tuple(ROWS),
        n_rows=ROWS,
        pair_keys={peer: key_of(me, peer) for peer in ROWS if peer != me},
        group_key=key_of(0),
        bound=8.0,
        public=public,
        obfuscators=Obfuscators(public, stream(f"obfuscators {me}"))
        if public
        else None,
    )


def contributions(method: EncryptMethod) -> dict[int, bytes]:
    return {
        me: secure_sum.seal(sum_keys(method, me), np.array(VALUES[me]), info=INFO)
        for me in ROWS
    }


def fixed_point_vectors() -> list[dict[str, Any]]:
    cases = [
        (1047, 8.0, 40, [1.5, -8.0, 0.1, 1e-300]),
        (3, 2.0**20, 3, [2.0**20, -1 / 3]),
        (1, 0.25, 1, [0.25, 1e-20]),
    ]
    return [
        {
            "n_rows_total": total,
            "bound": bound,
            "n_rows": n_rows,
            "values": [value.hex() for value in values],
            "fraction_bits": FixedPoint(total, bound).fraction_bits,
            "words": FixedPoint(total, bound).encode(np.array(values), n_rows).tolist(),
        }
        for total, bound, n_rows, values in cases
    ]


def mask_vectors() -> dict[str, Any]:
    pair = {2: key_of(2, 3), 5: key_of(3, 5)}
    modulus = (1 << 255) - 19
    return {
        "me": 3,
        "pair_keys": {str(peer): key.hex() for peer, key in pair.items()},
        "group_key": key_of(0).hex(),
        "modulus": hex(modulus),
        "info": INFO.hex(),
        "mask_modulo": [hex(m) for m in masks.mask_modulo(pair, 3, modulus, 2, INFO)],
        "mask_words": [hex(m) for m in masks.mask_words(pair, 3, 3, INFO).tolist()],
        "group_modulo": [
            hex(m) for m in masks.group_modulo(key_of(0), 3, modulus, 2, INFO)
        ],
        "group_words": [
            hex(m) for m in masks.group_words(key_of(0), 3, 3, INFO).tolist()
        ],
        "tagged_words": TAGGED,
        "tag": hex(masks.tag(key_of(0), np.array(TAGGED), INFO)),
        "tag_pad": hex(masks.tag_pad(key_of(0), 3, INFO)),
    }


def paillier_vectors() -> dict[str, Any]:
    key = paillier.generate_keys(2048, stream("2048"))
    words = np.array([0, 1, -1, 100, -100])
    packed = packing.pack(words, weight=7, offset=100, bits=2048)
    ciphertexts = paillier.encrypt(
        key.public_key, packed, Obfuscators(key.public_key, stream("base"))
    )
    return {
        "private": paillier.private_to_bytes(key).hex(),
        "public": paillier.public_to_bytes(key.public_key).hex(),
        "words": words.tolist(),
        "weight": 7,
        "offset": 100,
        "plaintexts": [hex(m) for m in packed],
        "ciphertexts": [hex(c) for c in ciphertexts],
    }


def sum_vectors(method: EncryptMethod) -> dict[str, Any]:
    payloads = contributions(method)
    keys = sum_keys(method, 2)
    total = secure_sum.add(method, payloads, public=keys.public)
    sums = secure_sum.open_sum(keys, total, info=INFO, private_key=small_key())
    return {
        "payloads": {str(me): payload.hex() for me, payload in payloads.items()},
        "total": total.hex(),
        "sums": sums.tolist(),
        "mean": [value.hex() for value in secure_sum.mean(keys, sums).tolist()],
        "must_fail": must_fail(method, payloads, total),
    }


def must_fail(
    method: EncryptMethod, payloads: dict[int, bytes], total: bytes
) -> list[dict[str, str]]:
    """Totals that `open_sum` must refuse, with the code of the refusal."""
    public = sum_keys(method, 2).public
    doubled = secure_sum.add(
        method, {2: payloads[2], 3: payloads[2], 5: payloads[5]}, public=public
    )
    two = secure_sum.add(method, {2: payloads[2], 3: payloads[3]}, public=public)
    other = replace(sum_keys(method, 3), n_rows={2: 40, 3: 7, 5: 999})
    stray = {**payloads, 3: secure_sum.seal(other, np.array(VALUES[3]), info=INFO)}
    cases = [
        ("another version", b"\x01" + total[1:], "payload"),
        ("an unknown method", total[:1] + b"\x09" + total[2:], "payload"),
        ("an unknown kind", total[:2] + b"\x03" + total[3:], "payload"),
        ("one byte missing", total[:-1], "payload"),
        ("one byte more", total + b"\0", "payload"),
        ("empty", b"", "payload"),
        ("a single contribution", payloads[2], "payload"),
        ("two of three members", two, "payload"),
        (
            "two of three members, said to be three",
            two[:5] + b"\x03" + two[6:],
            "sum_mismatch",
        ),
        ("one member twice", doubled, "sum_mismatch"),
        ("last byte flipped", total[:-1] + bytes([total[-1] ^ 1]), "sum_mismatch"),
        (
            "one member with another list",
            secure_sum.add(method, stray, public=public),
            "sum_mismatch",
        ),
        ("one added to a value", plus(method, total, {1: 1}), "sum_mismatch"),
        (
            "2^61 - 1 added to a value",
            plus(method, total, {1: 2**61 - 1}),
            "sum_mismatch",
        ),
        (
            "one added to the tag's low half",
            plus(method, total, {3: 1}),
            "sum_mismatch",
        ),
        (
            "one taken off the tag's high half",
            plus(method, total, {4: -1}),
            "sum_mismatch",
        ),
        (
            "one moved from value to value",
            plus(method, total, {0: 1, 2: -1}),
            "sum_mismatch",
        ),
    ]
    return [
        {"what": what, "total": data.hex(), "code": code} for what, data, code in cases
    ]


def plus(method: EncryptMethod, total: bytes, deltas: dict[int, int]) -> bytes:
    """The total with numbers added to words of three values and two halves of a tag, as
    a coordinator could.
    """
    header, body = total[:14], total[14:]
    if method != "Paillier":
        words = np.frombuffer(body, dtype="<u8")
        added = np.array(
            [deltas.get(i, 0) % 2**64 for i in range(words.size)], dtype="<u8"
        )
        return header + (words + added).tobytes()
    public = small_key().public_key
    plain = sum(delta << 64 * position for position, delta in deltas.items())
    ciphertext = int.from_bytes(body, "big") * (1 + public.n * plain) % public.nsquare
    return header + ciphertext.to_bytes(len(body), "big")


def all_vectors() -> dict[str, Any]:
    methods: list[EncryptMethod] = ["Paillier", "Mask", "None"]
    return {
        "fixed_point": fixed_point_vectors(),
        "masks": mask_vectors(),
        "paillier": paillier_vectors(),
        "sums": {method: sum_vectors(method) for method in methods},
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(all_vectors(), indent=1) + "\n")
