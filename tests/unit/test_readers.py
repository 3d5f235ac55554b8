"""Answers sealed to a reader: whose they are, and what their size tells."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from protocol import readers
from protocol.errors import BadRequest, ProtocolViolation
from protocol.readers import AnswerPlace, check_reader_key, open_from_hospital
from protocol.sealing import Identity, exchange_public

HOSPITAL = Identity(b"h" * 32, b"o" * 32)
READER = b"r" * 32
PLACE = AnswerPlace(38, "predictions", 4)
LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


def seal(payload: bytes) -> bytes:
    return readers.seal_answer(
        exchange_public(READER), payload, place=PLACE, identity=HOSPITAL
    )


@given(st.binary(max_size=20_000))
def test_what_is_sealed_opens_byte_by_byte(payload: bytes) -> None:
    found = open_from_hospital(READER, seal(payload), place=PLACE)
    assert found.payload == payload
    assert found.hospital == HOSPITAL.public


def test_a_prediction_of_another_class_has_the_same_size() -> None:
    sizes = {
        len(seal(b'[{"label":"%s"}]' % name)) for name in (b"benign", b"malignant")
    }
    assert len(sizes) == 1


@given(st.integers(1, 2**30))
def test_a_size_is_told_in_steps_of_an_eighth(n_bytes: int) -> None:
    padded = readers._padded(n_bytes)
    assert n_bytes <= padded < n_bytes + max(4096, n_bytes // 8 + 1)
    # A step is as large as the whole is long, so that neighbours are alike.
    assert padded % max(4096, 2 ** (n_bytes.bit_length() - 4)) == 0


@pytest.mark.parametrize("point", LOW_ORDER, ids=lambda point: point.hex()[:6])
def test_a_key_of_low_order_is_sealed_to_by_nobody(point: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        readers.seal_answer(point, b"x", place=PLACE, identity=HOSPITAL)
    assert caught.value.code == "reader"
    with pytest.raises(ValueError, match="usable"):
        check_reader_key(point.hex())


@pytest.mark.parametrize(
    "text", ["", "ab", "g" * 64, "0" * 63, "0" * 65, " " + "1" * 64]
)
def test_what_is_no_key_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="64 hex digits"):
        check_reader_key(text)


def test_a_key_is_read_in_any_case() -> None:
    public = exchange_public(READER).hex()
    assert check_reader_key(public.upper()) == public


def test_an_answer_that_no_hospital_signed_does_not_open() -> None:
    """Whoever knows a reader's public key can seal to it: the coordinator, say."""
    public = exchange_public(READER)
    info = PLACE.info(public)
    head = HOSPITAL.public.verify_key + HOSPITAL.public.seal_key
    payload = b"[]"
    plaintext = head + bytes(64) + len(payload).to_bytes(8, "big") + payload
    plaintext += bytes(4096 - len(plaintext))
    key = X25519PublicKey.from_public_bytes(public)
    forged = readers._SUITE.encrypt(plaintext, key, info)
    with pytest.raises(ProtocolViolation) as caught:
        open_from_hospital(READER, forged, place=PLACE)
    assert caught.value.code == "bad_signature"
    # Under a key of its own it opens, as that key's: who pins the hospital's sees it.
    own = Identity(b"c" * 32, b"c" * 32)
    made_up = readers.seal_answer(public, payload, place=PLACE, identity=own)
    found = open_from_hospital(READER, made_up, place=PLACE)
    assert found.hospital.fingerprint != HOSPITAL.public.fingerprint


def test_a_reader_cannot_pass_an_answer_on_as_the_hospitals_to_somebody_else() -> None:
    opened = open_from_hospital(READER, seal(b"[]"), place=PLACE)
    signed_to_reader = PLACE.info(exchange_public(READER))
    other = PLACE.info(exchange_public(b"s" * 32))
    assert readers._to_sign(signed_to_reader, opened.payload) != readers._to_sign(
        other, opened.payload
    )
