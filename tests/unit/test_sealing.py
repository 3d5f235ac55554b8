"""Keys and boxes: who can open what, and that anything altered is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from hypothesis import given
from hypothesis import strategies as st

from protocol import sealing
from protocol.errors import ProtocolViolation, Refused
from protocol.sealing import Identity, PublicIdentity, Session


def stream(seed: str) -> Callable[[int], bytes]:
    """Bytes that are the same on every machine."""
    calls = 0

    def random_bytes(count: int) -> bytes:
        nonlocal calls
        calls += 1
        return hashlib.shake_256(f"{seed}/{calls}".encode()).digest(count)

    return random_bytes


ONE, TWO = Identity.generate(stream("one")), Identity.generate(stream("two"))
LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


def flip(data: bytes, bit: int) -> bytes:
    at, shift = divmod(bit % (8 * len(data)), 8)
    return data[:at] + bytes([data[at] ^ 1 << shift]) + data[at + 1 :]


# Identities


def test_an_identity_is_the_same_after_encoding() -> None:
    assert Identity.from_json(ONE.to_json()) == ONE
    assert PublicIdentity.decode(ONE.public.encode()) == ONE.public


@pytest.mark.parametrize("text", ["", "00", "zz" * 64, "00" * 63, "00" * 65])
def test_a_public_identity_of_another_length_is_refused(text: str) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        PublicIdentity.decode(text)
    assert caught.value.code == "bad_length"


def test_the_fingerprint_covers_both_keys() -> None:
    public = ONE.public
    assert len(public.fingerprint.replace("-", "")) == 32
    assert (
        replace(public, seal_key=TWO.public.seal_key).fingerprint != public.fingerprint
    )
    assert (
        replace(public, verify_key=TWO.public.verify_key).fingerprint
        != public.fingerprint
    )


def test_a_signature_is_bound_to_key_and_message() -> None:
    signature = ONE.sign(b"message")
    ONE.public.verify(b"message", signature)
    for identity, message, other in [
        (TWO.public, b"message", signature),
        (ONE.public, b"messagE", signature),
        (ONE.public, b"message", flip(signature, 100)),
        (ONE.public, b"message", signature[:-1]),
        (ONE.public, b"message", b""),
        (PublicIdentity(b"\xff" * 32, ONE.public.seal_key), b"message", signature),
    ]:
        with pytest.raises(ProtocolViolation) as caught:
            identity.verify(message, other)
        assert caught.value.code == "bad_signature"


# Pins


def test_a_pin_matches_its_identity_in_any_case() -> None:
    sealing.check_pin("Hospital 3", ONE.public.fingerprint, ONE.public)
    sealing.check_pin("Hospital 3", f" {ONE.public.fingerprint.upper()}\n", ONE.public)


@pytest.mark.parametrize(
    ("pinned", "code"),
    [
        (None, "pin_missing"),
        (TWO.public.fingerprint, "pin_mismatch"),
        ("", "pin_mismatch"),
        ("0000", "pin_mismatch"),
    ],
)
def test_no_trust_on_first_use(pinned: str | None, code: str) -> None:
    with pytest.raises(Refused) as caught:
        sealing.check_pin("Hospital 3", pinned, ONE.public)
    assert caught.value.code == code
    assert "settings.toml" in caught.value.remedy


# Agreement and derivation


def test_agreement_is_that_of_rfc_7748() -> None:
    secret = sealing.agree(ONE.open_key, sealing.exchange_public(TWO.open_key))
    reference = X25519PrivateKey.from_private_bytes(TWO.open_key)
    assert secret == reference.exchange(
        X25519PublicKey.from_public_bytes(ONE.public.seal_key)
    )


@pytest.mark.parametrize("public", [*LOW_ORDER, b"", bytes(31), bytes(33)])
def test_a_key_that_gives_everybody_the_same_secret_is_refused(public: bytes) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        sealing.agree(ONE.open_key, public)
    assert caught.value.code == "bad_key"


def test_derived_keys_differ_by_secret_salt_and_info() -> None:
    keys = {
        sealing.derive_key(secret, salt=salt, info=info)
        for secret in (b"a" * 32, b"b" * 32)
        for salt in (b"c" * 32, b"d" * 32)
        for info in (b"", b"x", b"y")
    }
    assert len(keys) == 12
    assert {len(key) for key in keys} == {32}


def test_a_commitment_binds_to_salt_and_text() -> None:
    assert sealing.commitment(bytes(32), "SELECT 1") == sealing.commitment(
        bytes(32), "SELECT 1"
    )
    assert sealing.commitment(bytes(32), "SELECT 2") != sealing.commitment(
        bytes(32), "SELECT 1"
    )
    assert sealing.commitment(b"1" * 32, "SELECT 1") != sealing.commitment(
        bytes(32), "SELECT 1"
    )
    with pytest.raises(ProtocolViolation):
        sealing.commitment(b"short", "SELECT 1")


# Boxes


@given(st.binary(max_size=300), st.binary(max_size=50))
def test_what_is_sealed_is_opened(plaintext: bytes, associated: bytes) -> None:
    box = sealing.seal_to(TWO.public.seal_key, plaintext, associated=associated)
    assert sealing.unseal_from(TWO.open_key, box, associated=associated) == plaintext
    assert len(box) == 32 + 12 + len(plaintext) + 16


@given(st.integers(min_value=0))
def test_a_box_with_any_bit_altered_is_refused(bit: int) -> None:
    box = sealing.seal_to(
        TWO.public.seal_key, b"secret", associated=b"tag", random_bytes=stream("box")
    )
    altered = flip(box, bit)
    # The highest bit of an X25519 key is ignored by RFC 7748; the key derivation covers
    # it all the same.
    with pytest.raises(ProtocolViolation):
        sealing.unseal_from(TWO.open_key, altered, associated=b"tag")


@pytest.mark.parametrize("cut", range(0, 66, 5))
def test_a_box_that_is_cut_is_refused(cut: int) -> None:
    box = sealing.seal_to(TWO.public.seal_key, b"secret", associated=b"tag")
    with pytest.raises(ProtocolViolation):
        sealing.unseal_from(TWO.open_key, box[:cut], associated=b"tag")


def test_a_box_is_for_one_key_and_one_purpose() -> None:
    box = sealing.seal_to(TWO.public.seal_key, b"secret", associated=b"tag")
    for key, associated in [
        (ONE.open_key, b"tag"),
        (TWO.open_key, b"other"),
        (TWO.open_key, b""),
    ]:
        with pytest.raises(ProtocolViolation) as caught:
            sealing.unseal_from(key, box, associated=associated)
        assert caught.value.code == "cannot_unseal"


def test_two_boxes_of_one_text_share_no_key() -> None:
    first, second = (
        sealing.seal_to(TWO.public.seal_key, b"secret", associated=b"")
        for _ in range(2)
    )
    assert first[:32] != second[:32]
    assert first[44:] != second[44:]


# Sessions

PRIVATE = {2: b"2" * 32, 3: b"3" * 32, 4: b"4" * 32}
PUBLIC = {user: sealing.exchange_public(key) for user, key in PRIVATE.items()}


def session(
    me: int, *, context: bytes = b"c" * 32, secret: bytes | None = b"s" * 32
) -> Session:
    return Session(
        context, me, PRIVATE[me], PUBLIC, dict.fromkeys(PRIVATE, ONE.public), secret
    )


def test_a_pair_has_one_key_and_nobody_else_has_it() -> None:
    assert session(2).pair_key(3, b"sum") == session(3).pair_key(2, b"sum")
    keys = {
        session(me).pair_key(peer, b"sum")
        for me in PRIVATE
        for peer in PRIVATE
        if me < peer
    }
    assert len(keys) == 3


def test_pair_and_group_keys_are_fresh_for_each_run_and_purpose() -> None:
    runs = [session(2), session(2, context=b"d" * 32)]
    assert (
        len({run.pair_key(3, info) for run in runs for info in (b"sum", b"setup")}) == 4
    )
    assert (
        len({run.group_key(info) for run in runs for info in (b"sum", b"state/")}) == 4
    )
    assert session(2).group_key(b"sum") == session(4).group_key(b"sum")


def test_there_is_no_group_key_before_the_secret_has_arrived() -> None:
    with pytest.raises(ProtocolViolation) as caught:
        session(2, secret=None).group_key(b"sum")
    assert caught.value.code == "no_secret"
