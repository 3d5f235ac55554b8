"""Masks that hide a contribution and cancel in the sum, and tags that show that nobody
altered it.

Pairwise (Bonawitz et al. 2017, without dropout recovery): hospitals i < j share a
32-byte key k_ij; i adds PRF(k_ij), j subtracts it. Over all members the sum is zero.
One group mask per sender, from the order secret all members hold, hides the sum itself
from the coordinator and is taken off by whoever opens.

    stream(key, info) = AES-256-CTR(HKDF-SHA256(key, tag | info)), counter from zero

A key and info give one pad: the same info must never mask two different vectors.

Tags (the homomorphic one-time authenticator of Carter and Wegman 1981) are sums as
well. With q = 2^64 - 59, and factors r_j and a pad s_i per sender drawn from the group
key,

    t_i = sum_j r_j m_ij + s_i  mod q,        sum_i t_i = sum_j r_j sum_i m_ij + sum_i s_i  mod q

Who does not hold the group key sees uniform tags, learns nothing of r from them
whatever else it sees of the words, and so makes another sum fit with probability 2^-63
at most.

`Stream`, at the end, is where all numbers come from that parties derive alike;
`secure_sum`, `exact_sum` and `frames` are made of it, and so is `protocol.shares`.

Decisions 9, 10, 11 and 150.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from analytics.arrays import Floats, Ints, Places
from protocol.errors import ProtocolViolation

KEY_BYTES = 32
EXCESS_BITS = 128
"""Stream bits beyond the modulus, so that the reduced value is within 2^-128 of
uniform.
"""

PAIR_MODULO = b"consilium/mask/pair/modulo/1"
PAIR_WORDS = b"consilium/mask/pair/words/1"
GROUP_MODULO = b"consilium/mask/group/modulo/1"
GROUP_WORDS = b"consilium/mask/group/words/1"
TAG_FACTORS = b"consilium/mask/tag/factors/1"
TAG_PAD = b"consilium/mask/tag/pad/1"

TAG_MODULUS = (1 << 64) - 59
"""A prime above 2^63, the largest difference of two sums within 2^62: a smaller q could
be added to a word unseen.
"""

Words = NDArray[np.uint64]
Number = TypeVar("Number", np.int64, np.uint64)

_LIMBS = 4
_LIMB_BITS = 16
_CHUNK = 1 << 14
"""Words at a time: what they take stays in the processor's cache."""


def mask_modulo(
    pair_keys: Mapping[int, bytes],
    me: int,
    modulus: int,
    count: int,
    info: bytes,
) -> list[int]:
    """sum_{j > me} PRF(k_j, info) - sum_{j < me} PRF(k_j, info) modulo `modulus`:
    `count` values.

    A hospital runs it. `pair_keys` maps each peer's id to the 32-byte key shared with
    it (`me` is not among them), `modulus` > 1. With at least one honest peer the values
    are uniform to everybody else (which peers, and what then hides several together:
    `mask_graph`). Over all members the masks of one `info` add up to
    zero. ProtocolViolation when a key has another length.
    """
    mask_sums = [0] * count
    for peer, pair_key in pair_keys.items():
        sign = _sign(me, peer)
        masks = _integers(
            pair_key,
            PAIR_MODULO,
            info,
            modulus=modulus,
            count=count,
        )
        for place, mask in enumerate(masks):
            mask_sums[place] += sign * mask
    reduced_masks = []
    for mask_sum in mask_sums:
        reduced_mask = mask_sum % modulus
        reduced_masks.append(reduced_mask)
    return reduced_masks


def mask_words(
    pair_keys: Mapping[int, bytes],
    me: int,
    count: int,
    info: bytes,
) -> Words:
    """The masks of `mask_modulo` in Z_2^64: uint64 (count,).

    Same roles, pre-conditions and errors.
    """
    mask_sums = np.zeros(count, dtype=np.uint64)
    for peer, pair_key in pair_keys.items():
        is_added = _sign(me, peer) > 0
        stream = Stream(pair_key, PAIR_WORDS, info)
        for chunk in _chunks(mask_sums):
            if is_added:
                chunk += stream.words(chunk.size)
            else:
                chunk -= stream.words(chunk.size)
    return mask_sums


def group_modulo(
    group_key: bytes,
    sender: int,
    modulus: int,
    count: int,
    info: bytes,
) -> list[int]:
    """`count` values uniform modulo `modulus`, which every holder of the key can make.

    The group key has 32 bytes. A hospital adds its own, the initiator takes off those
    of all members: a sum opened under other `info` or another member list becomes
    noise. ProtocolViolation when the key has another length.
    """
    own_info = _of_sender(sender, info)
    integers = _integers(
        group_key,
        GROUP_MODULO,
        own_info,
        modulus=modulus,
        count=count,
    )
    return [integer % modulus for integer in integers]


def group_words(
    group_key: bytes,
    sender: int,
    count: int,
    info: bytes,
) -> Words:
    """The masks of `group_modulo` in Z_2^64: uint64 (count,).

    Same roles, pre-conditions and errors.
    """
    own_info = _of_sender(sender, info)
    stream = Stream(group_key, GROUP_WORDS, own_info)
    group_masks = np.empty(count, dtype=np.uint64)
    for chunk in _chunks(group_masks):
        chunk[:] = stream.words(chunk.size)
    return group_masks


def tag(
    group_key: bytes,
    words: Ints,
    info: bytes,
) -> int:
    """sum_j r_j words_j mod TAG_MODULUS, the r_j uniform in [0, 2^64).

    They are from the 32-byte group key and `info`. A hospital tags its own words (d,),
    the initiator the sums. Linear as long as no sum of words wraps. A tag that leaves a
    hospital needs its `tag_pad`: as many bare tags as words give r away.
    ProtocolViolation when the key has another length.
    """
    factors = Stream(group_key, TAG_FACTORS, info)
    tag_sum = 0
    for chunk in _chunks(words):
        chunk_factors = factors.words(chunk.size)
        tag_sum += _inner_product(chunk, chunk_factors)
    return tag_sum % TAG_MODULUS


def tag_pad(
    group_key: bytes,
    sender: int,
    info: bytes,
) -> int:
    """s_i, uniform modulo TAG_MODULUS, of one sender.

    A hospital adds its own, the initiator takes off those of all. ProtocolViolation
    when the key has another length.
    """
    own_info = _of_sender(sender, info)
    (unreduced_pad,) = _integers(
        group_key,
        TAG_PAD,
        own_info,
        modulus=TAG_MODULUS,
        count=1,
    )
    return unreduced_pad % TAG_MODULUS


def _inner_product(words: Ints, factors: Words) -> int:
    """sum_j words_j factors_j as an exact integer, whatever the signs.

    Both are cut into limbs of 16 bits, the words' highest one signed: a product of
    limbs is within 2^32, so 2^14 of them add up within 2^46 in int64.
    """
    product_sum = 0
    pairs = zip(_chunks(words), _chunks(factors), strict=True)
    for some_words, some_factors in pairs:
        signed_words = np.ascontiguousarray(some_words, dtype="<i8")
        word_limbs = _limbs(signed_words)
        # The sign is in the highest limb.
        signed = signed_words.view("<i2")
        signed_limbs = signed.reshape(-1, _LIMBS)
        word_limbs[:, -1] = signed_limbs[:, -1]
        factor_limbs = _limbs(some_factors)
        # products[i][j] = sum over the words of their limb i times the factors' limb j,
        # of weight 2^(16 (i + j)).
        products = word_limbs.T @ factor_limbs
        for i, row in enumerate(products.tolist()):
            for j, product in enumerate(row):
                weight_bits = _LIMB_BITS * (i + j)
                product_sum += product << weight_bits
    return product_sum


def _limbs(words: Ints | Words) -> Ints:
    """64-bit words (n,) as int64 (n, 4), the lowest 16 bits first."""
    little_endian = words.dtype.newbyteorder("<")
    little = words.astype(little_endian, copy=False)
    quarters = little.view("<u2")
    limbs = quarters.reshape(-1, _LIMBS)
    return limbs.astype(np.int64)


def _sign(me: int, peer: int) -> int:
    """+1 towards a higher id, -1 towards a lower one: the two ends of a pair cancel."""
    if me == peer:
        raise ProtocolViolation(
            "A hospital has a pair key with itself.",
            remedy="Set up the order again.",
        )
    if me < peer:
        return 1
    return -1


def _of_sender(sender: int, info: bytes) -> bytes:
    of_sender = sender.to_bytes(8, "big")
    return of_sender + info


def _integers(
    key: bytes,
    tag: bytes,
    info: bytes,
    *,
    modulus: int,
    count: int,
) -> list[int]:
    """`count` integers with EXCESS_BITS more bits than the modulus, not yet reduced."""
    n_bits = modulus.bit_length() + EXCESS_BITS
    width = (n_bits + 7) // 8
    stream = Stream(key, tag, info)
    drawn_bytes = stream.read(width * count)
    integers = []
    length = len(drawn_bytes)
    for start in range(0, length, width):
        end = start + width
        integer = int.from_bytes(drawn_bytes[start:end], "little")
        integers.append(integer)
    return integers


def _chunks(vector: NDArray[Number]) -> Iterator[NDArray[Number]]:
    """A vector's parts, in order, each a view."""
    for start in range(0, vector.size, _CHUNK):
        end = start + _CHUNK
        yield vector[start:end]


class Stream:
    """Bytes of AES-256-CTR, and numbers made of them, each taken once and in order.

    Every holder of the 32-byte key makes the same; `tag` says what for, `info` of which
    order, round or vector. What is derived of the three is used for nothing else, so
    the counter begins at 0. ProtocolViolation for another key length.
    """

    def __init__(
        self,
        key: bytes,
        tag: bytes,
        info: bytes,
    ) -> None:
        if len(key) != KEY_BYTES:
            raise ProtocolViolation(
                f"A mask key is not {KEY_BYTES} bytes long.",
                remedy="Set up the order again.",
            )
        purpose = tag + b"\0" + info
        derivation = HKDF(
            SHA256(),
            KEY_BYTES,
            salt=None,
            info=purpose,
        )
        derived = derivation.derive(key)
        counter_from_zero = bytes(16)
        cipher = Cipher(
            algorithms.AES256(derived),
            modes.CTR(counter_from_zero),
        )
        self._encryptor = cipher.encryptor()

    def read(self, length: int) -> bytes:
        """The next `length` bytes: zeros encrypted are the key stream."""
        zeros = bytes(length)
        return self._encryptor.update(zeros)

    def words(self, count: int) -> Words:
        """Uniform 64-bit words."""
        drawn_bytes = self.read(8 * count)
        words = np.frombuffer(drawn_bytes, dtype="<u8")
        return words.astype(np.uint64, copy=False)

    def signs(self, count: int) -> Floats:
        """+1 or -1."""
        n_octets = (count + 7) // 8
        drawn_bytes = self.read(n_octets)
        octets = np.frombuffer(drawn_bytes, dtype=np.uint8)
        bits = np.unpackbits(octets, count=count)
        signs: Floats = 1.0 - 2.0 * bits.astype(np.float64)
        return signs

    def permutation(self, count: int) -> Places:
        """A uniform order of `count` places.

        Two equal words out of 2^64 would favour the earlier place.
        """
        random_words = self.words(count)
        return np.argsort(random_words, kind="stable")

    def normals(self, count: int) -> Floats:
        """Standard normal numbers by Box and Muller (1958), from 53 bits each."""
        n_pairs = (count + 1) // 2
        # In [0, 1): log1p(-u) is the logarithm of a number in (0, 1], never of 0.
        highest_53_bits = self.words(2 * n_pairs) >> np.uint64(11)
        uniform = highest_53_bits.astype(np.float64) * 2.0**-53
        for_radius = uniform[:n_pairs]
        for_angle = uniform[n_pairs:]
        radius = np.sqrt(-2.0 * np.log1p(-for_radius))
        angle = 2.0 * np.pi * for_angle
        cosines = radius * np.cos(angle)
        sines = radius * np.sin(angle)
        normals = np.concatenate([cosines, sines])
        return normals[:count]
