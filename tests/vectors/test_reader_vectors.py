"""RFC 9180's vector for the suite that answers are sealed with, and a committed sealed
answer with ways in which it must fail.

The package seals without associated data, which the RFC's vectors have: so its steps
are written down here, held to the RFC, and the product is held to them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from make_reader_vectors import (
    HOSPITAL,
    OTHER_READER,
    PATH,
    PAYLOAD,
    PLACE,
    READER,
)

from protocol.errors import ProtocolViolation
from protocol.readers import (
    AnswerPlace,
    SealedAnswer,
    open_from_hospital,
    seal_answer,
)
from protocol.sealing import agree, exchange_public

# RFC 9180, A.2.1: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305, base mode.
RFC = {
    "info": "4f6465206f6e2061204772656369616e2055726e",
    "enc": "1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a",
    "public": "4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a",
    "private": "8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb",
    "shared_secret": "0bbe78490412b4bbea4812666f7916932b828bba79942424abb65244930d69a7",
    "key": "ad2744de8e17f4ebba575b3f5f5a8fa1f69c2a07f6e7500bc60ca6e3e3ec1c91",
    "base_nonce": "5c4d98150661b848853b547f",
    "aad": "436f756e742d30",
    "plaintext": "4265617574792069732074727574682c20747275746820626561757479",
    "ciphertext": "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28",
}
KEM_ID = b"KEM\x00\x20"
SUITE_ID = b"HPKE\x00\x20\x00\x01\x00\x03"

VECTORS: dict[str, Any] = json.loads(PATH.read_text())
RECORD = SealedAnswer.from_json(VECTORS["record"])


def extract(salt: bytes, label: bytes, secret: bytes, suite: bytes) -> bytes:
    return hmac.digest(salt, b"HPKE-v1" + suite + label + secret, "sha256")


def expand(secret: bytes, label: bytes, info: bytes, n: int, suite: bytes) -> bytes:
    assert n <= 32
    labeled = n.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac.digest(secret, labeled + b"\x01", "sha256")[:n]


def shared_secret(private: bytes, enc: bytes) -> bytes:
    """Decap of section 4.1."""
    extracted = extract(b"", b"eae_prk", agree(private, enc), KEM_ID)
    context = enc + exchange_public(private)
    return expand(extracted, b"shared_secret", context, 32, KEM_ID)


def key_and_nonce(shared: bytes, info: bytes) -> tuple[bytes, bytes]:
    """KeySchedule of section 5.1 in base mode."""
    psk_id_hash = extract(b"", b"psk_id_hash", b"", SUITE_ID)
    info_hash = extract(b"", b"info_hash", info, SUITE_ID)
    context = b"\x00" + psk_id_hash + info_hash
    secret = extract(shared, b"secret", b"", SUITE_ID)
    key = expand(secret, b"key", context, 32, SUITE_ID)
    return key, expand(secret, b"base_nonce", context, 12, SUITE_ID)


def opened(private: bytes, sealed: bytes, info: bytes, aad: bytes = b"") -> bytes:
    key, nonce = key_and_nonce(shared_secret(private, sealed[:32]), info)
    return ChaCha20Poly1305(key).decrypt(nonce, sealed[32:], aad)


def test_the_steps_here_are_the_rfcs() -> None:
    rfc = {name: bytes.fromhex(text) for name, text in RFC.items()}
    assert exchange_public(rfc["private"]) == rfc["public"]
    assert shared_secret(rfc["private"], rfc["enc"]) == rfc["shared_secret"]
    found = key_and_nonce(rfc["shared_secret"], rfc["info"])
    assert found == (rfc["key"], rfc["base_nonce"])
    sealed = rfc["enc"] + rfc["ciphertext"]
    assert opened(rfc["private"], sealed, rfc["info"], rfc["aad"]) == rfc["plaintext"]
    with pytest.raises(InvalidTag):
        opened(rfc["private"], sealed, rfc["info"] + b"!", rfc["aad"])


def test_what_is_sealed_opens_by_the_rfcs_steps() -> None:
    public = exchange_public(READER)
    sealed = seal_answer(public, PAYLOAD, place=PLACE, identity=HOSPITAL)
    plaintext = opened(READER, sealed, PLACE.info(public))
    assert plaintext[:64].hex() == HOSPITAL.public.encode()
    assert plaintext[136 : 136 + len(PAYLOAD)] == PAYLOAD


def test_the_committed_answer_opens() -> None:
    found = RECORD.open(READER)
    assert found.payload == VECTORS["payload"].encode() == PAYLOAD
    assert found.hospital.fingerprint == VECTORS["hospital"]
    assert RECORD.reader == VECTORS["fingerprint"]
    around = json.dumps({"code": 200, "data": VECTORS["record"], "message": None})
    assert SealedAnswer.read(around) == RECORD


@pytest.mark.parametrize(
    "place",
    [
        replace(PLACE, order_id=42),
        replace(PLACE, kind="report"),
        replace(PLACE, hospital=2),
    ],
    ids=["another order", "another kind", "another hospital"],
)
def test_it_does_not_open_as_another_answer(place: AnswerPlace) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        replace(RECORD, place=place).open(READER)
    assert caught.value.code == "cannot_unseal"


ZERO = bytes(32)
ONE = (1).to_bytes(32, "little")
CUT = {
    "nothing": (b"", "sealed_short"),
    "a key only": (RECORD.sealed[:32], "sealed_short"),
    "half": (RECORD.sealed[:2000], "sealed_short"),
    "without its last byte": (RECORD.sealed[:-1], "sealed_short"),
    "one byte more": (RECORD.sealed + b"\x00", "cannot_unseal"),
    "from the zero point": (ZERO + RECORD.sealed[32:], "cannot_unseal"),
    "from a point of low order": (ONE + RECORD.sealed[32:], "cannot_unseal"),
    "the last bit flipped": (
        RECORD.sealed[:-1] + bytes([RECORD.sealed[-1] ^ 1]),
        "cannot_unseal",
    ),
}


@pytest.mark.parametrize(("sealed", "code"), CUT.values(), ids=list(CUT))
def test_altered_bytes_do_not_open(sealed: bytes, code: str) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        replace(RECORD, sealed=sealed).open(READER)
    assert caught.value.code == code


def test_another_reader_does_not_open_it() -> None:
    with pytest.raises(ProtocolViolation) as caught:
        RECORD.open(OTHER_READER)
    assert caught.value.code == "another_reader"
    # Nor where the record is altered to name that reader.
    with pytest.raises(ProtocolViolation) as caught:
        open_from_hospital(OTHER_READER, RECORD.sealed, place=PLACE)
    assert caught.value.code == "cannot_unseal"


BAD_RECORDS = {
    "another version": {"version": 2},
    "no order": {"order_id": None},
    "a text for a number": {"order_id": "41"},
    "true for a number": {"hospital": True},
    "another kind": {"kind": "model"},
    "no fingerprint": {"reader": "lin"},
    "no base64": {"sealed": "*" + base64.b64encode(b"x").decode()},
    "a list": {"sealed": [1]},
}


@pytest.mark.parametrize("change", BAD_RECORDS.values(), ids=list(BAD_RECORDS))
def test_a_record_that_is_none_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        SealedAnswer.from_json({**VECTORS["record"], **change})
    assert caught.value.code == "sealed_record"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"data": 1}', b"\xff\xfe", "[" * 9999]
)
def test_a_file_that_is_none_is_refused(text: str | bytes) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        SealedAnswer.read(text)
    assert caught.value.code == "sealed_record"


def test_a_fingerprint_is_that_of_this_key() -> None:
    # Written down here, so that another derivation fails.
    digest = hashlib.sha256(
        b"consilium/v1/reader" + exchange_public(READER)
    ).hexdigest()
    assert VECTORS["fingerprint"].replace("-", "") == digest[:32]
