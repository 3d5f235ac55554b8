"""Paillier: phe reads what we write and the other way round; slots never carry; no
obfuscator is used twice.
"""

from __future__ import annotations

import copy
import os
import pickle
import secrets
from functools import cache

import gmpy2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phe.paillier import EncryptedNumber, PaillierPrivateKey

from protocol.errors import BadRequest, ProtocolViolation
from protocol.sums import packing, paillier
from protocol.sums.fixed_point import FixedPoint
from protocol.sums.paillier import Obfuscators

BITS = 512


@cache
def private(bits: int = BITS) -> PaillierPrivateKey:
    return paillier._generate_keys(bits, secrets.token_bytes)


@cache
def stock() -> Obfuscators:
    return Obfuscators(private().public_key)


def test_keys_have_the_promised_form() -> None:
    key = private()
    assert key.p % 4 == key.q % 4 == 3
    assert gmpy2.gcd(key.p - 1, key.q - 1) == 2
    assert (key.p * key.q).bit_length() == BITS


@pytest.mark.parametrize("bits", [0, 1024, 2047, 2049, 8192])
def test_other_key_lengths_are_refused(bits: int) -> None:
    with pytest.raises(BadRequest) as caught:
        paillier.generate_keys(bits)
    assert caught.value.code == "key_length"


def test_a_real_key_survives_its_bytes() -> None:
    key = paillier.generate_keys(2048)
    assert paillier.private_from_bytes(paillier.private_to_bytes(key)) == key
    assert (
        paillier.public_from_bytes(paillier.public_to_bytes(key.public_key))
        == key.public_key
    )
    assert (
        len(paillier.public_to_bytes(key.public_key))
        == len(paillier.private_to_bytes(key))
        == 256
    )
    number = key.public_key.encrypt(12345)
    assert paillier.decrypt(key, [number.ciphertext()] * 3) == [12345] * 3


@pytest.mark.parametrize(
    "data", [b"", bytes(256), b"\xff" * 255, b"\xff" * 257, b"\xff" * 256, b"\x80" * 64]
)
def test_bytes_that_are_no_key_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        paillier.public_from_bytes(data)
    with pytest.raises(ProtocolViolation):
        paillier.private_from_bytes(data)


@given(st.lists(st.integers(0, 2**200), min_size=1, max_size=4))
def test_phe_opens_our_ciphertexts(plaintexts: list[int]) -> None:
    key = private()
    ciphertexts = paillier.encrypt(key.public_key, plaintexts, stock())
    assert [
        key.decrypt(EncryptedNumber(key.public_key, c, 0)) for c in ciphertexts
    ] == plaintexts
    assert [key.raw_decrypt(c) for c in ciphertexts] == plaintexts


def test_we_open_the_ciphertexts_of_phe() -> None:
    key = private()
    plaintexts = [0, 1, key.public_key.n // 2, key.public_key.n - 1]
    assert (
        paillier.decrypt(key, [key.public_key.raw_encrypt(m) for m in plaintexts])
        == plaintexts
    )


@given(st.lists(st.integers(0, 2**BITS), min_size=1, max_size=5))
def test_product_of_ciphertexts_is_the_sum_modulo_n(numbers: list[int]) -> None:
    key, n = private(), private().public_key.n
    sealed = [
        paillier.encrypt(key.public_key, [number % n, 7], stock()) for number in numbers
    ]
    assert paillier.decrypt(key, paillier.add(key.public_key, sealed)) == [
        sum(numbers) % n,
        7 * len(numbers),
    ]


def test_numbers_out_of_range_are_refused() -> None:
    key = private()
    public = key.public_key
    with pytest.raises(ProtocolViolation):
        paillier.encrypt(public, [public.n], stock())
    with pytest.raises(ProtocolViolation):
        paillier.encrypt(public, [-1], stock())
    for bad in (0, public.nsquare):
        with pytest.raises(ProtocolViolation):
            paillier.decrypt(key, [bad])
        with pytest.raises(ProtocolViolation):
            paillier.add(public, [[1], [bad]])
    for lists in ([], [[1], [1, 2]]):
        with pytest.raises(ProtocolViolation):
            paillier.add(public, lists)


@pytest.mark.parametrize("n_bytes", [1, 2, 3, 16, 17, 32, 128, 192])
def test_a_comb_gives_the_powers_of_its_base(n_bytes: int) -> None:
    modulus = private().public_key.nsquare
    comb = paillier._Comb(gmpy2.mpz(3), gmpy2.mpz(modulus), n_bytes=n_bytes)
    ends = [
        bytes(n_bytes),
        b"\xff" * n_bytes,
        b"\1" + bytes(n_bytes - 1),
        bytes(n_bytes - 1) + b"\x80",
    ]
    for exponent in [*ends, *(secrets.token_bytes(n_bytes) for _ in range(5))]:
        assert comb.power(exponent) == pow(
            3, int.from_bytes(exponent, "little"), modulus
        )


def test_obfuscators_are_encryptions_of_zero() -> None:
    assert paillier.decrypt(private(), [stock().take() for _ in range(5)]) == [0] * 5


def test_each_obfuscator_is_taken_once() -> None:
    obfuscators = Obfuscators(private().public_key)
    obfuscators.prepare(50)
    obfuscators.prepare(20)
    assert obfuscators.ready == 50
    taken = [obfuscators.take() for _ in range(30)] + obfuscators.take_many(30)
    assert len(set(taken)) == 60
    assert obfuscators.ready == 0


def test_two_hospitals_draw_their_own_base() -> None:
    assert (
        Obfuscators(private().public_key)._base
        != Obfuscators(private().public_key)._base
    )


def test_obfuscators_of_another_key_are_refused() -> None:
    with pytest.raises(ProtocolViolation, match="another key"):
        paillier.encrypt(private(256).public_key, [1], stock())


def test_a_fork_cannot_use_its_parents_obfuscators() -> None:
    obfuscators = Obfuscators(private().public_key)
    obfuscators.prepare(2)
    child = os.fork()
    if child == 0:
        os._exit(
            sum(
                not _is_refused(use)
                for use in (obfuscators.take, lambda: obfuscators.prepare(3))
            )
        )
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert obfuscators.take()


def _is_refused(use: object) -> bool:
    try:
        use()
    except ProtocolViolation as error:
        return error.code == "forked_obfuscators"
    return False


@pytest.mark.parametrize("double", [pickle.dumps, copy.copy, copy.deepcopy])
def test_obfuscators_are_not_copied(double: object) -> None:
    with pytest.raises(TypeError, match="twice"):
        double(stock())


@given(
    st.lists(st.integers(1, 10_000), min_size=1, max_size=5),
    st.integers(1, 70),
    st.sampled_from([256, 512, 2048]),
)
def test_slots_do_not_carry_at_the_bound(rows: list[int], d: int, bits: int) -> None:
    point = FixedPoint(sum(rows), 3.0)
    extreme = np.where(np.arange(d) % 3 == 0, 3.0, -3.0)
    words = [point.encode(extreme, n) for n in rows]
    packed = [
        packing.pack(w, weight=n, offset=point.offset(n), bits=bits)
        for w, n in zip(words, rows, strict=True)
    ]
    sums = [sum(column) for column in zip(*packed, strict=True)]
    assert len(sums) == packing.n_plaintexts(d, bits)
    assert max(sums) < 2 ** (bits - 1)
    total = packing.unpack(
        sums, d, weight=sum(rows), offset=point.offset(sum(rows)), bits=bits
    )
    assert total.tolist() == sum(words).tolist()


@given(st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=40))
def test_unpack_inverts_pack(words: list[int]) -> None:
    packed = packing.pack(np.array(words), weight=2**63 - 1, offset=2**62, bits=BITS)
    assert (
        packing.unpack(
            packed, len(words), weight=2**63 - 1, offset=2**62, bits=BITS
        ).tolist()
        == words
    )


@pytest.mark.parametrize("size", [99, 100, 101])
def test_a_word_beyond_its_offset_is_refused(size: int) -> None:
    words = np.array([0, -size])
    if size <= 100:
        assert packing.pack(words, weight=1, offset=100, bits=256)
    else:
        with pytest.raises(ProtocolViolation):
            packing.pack(words, weight=1, offset=100, bits=256)


@pytest.mark.parametrize(
    "change", [1, 1 << 63, -1 << 64, 3 << 128, 1 << 192, 1 << 254, -1 << 192]
)
def test_a_sum_that_does_not_add_up_is_refused(change: int) -> None:
    """Slot 0 and 1 hold words, slot 2 is empty, the row count starts at bit 192; offset
    is 100.
    """
    packed = packing.pack(np.array([100, -100]), weight=5, offset=100, bits=256)
    with pytest.raises(ProtocolViolation) as caught:
        packing.unpack([packed[0] + change], 2, weight=5, offset=100, bits=256)
    assert caught.value.code == "sum_mismatch"


def test_another_number_of_plaintexts_is_refused() -> None:
    with pytest.raises(ProtocolViolation):
        packing.unpack([], 2, weight=5, offset=100, bits=256)
