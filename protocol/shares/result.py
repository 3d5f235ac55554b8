"""What each provider sends of a joint result, and how a receiver opens it.

Decision 35: `with_zero` adds a fresh sharing of zero first, so that a share says nothing
but its part in the sum.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Self

import numpy as np

from analytics.arrays import Bools
from protocol.errors import ProtocolViolation, other_version
from protocol.shares.channel import Keys
from protocol.shares.ring import Limbs, Ring, Words, n_words, unpack
from protocol.sums.masks import Stream

_VERSION = 1
_ZERO = b"consilium/sharing/result/1"
_HEADER = struct.Struct(">BBHQQ")
_LIMB_BYTES = 4
_WORD_BYTES = 8


@dataclass(frozen=True)
class ResultShare:
    """A provider to a receiver, sealed to it: its shares of numbers and booleans.

    Encoded: version (1), q (1), n_limbs (2), n_rows (8), m (8), big-endian; then both
    arrays, little-endian.

    Disclosure: uniform but for the sum over all providers, which is the result.
    """

    n_rows: int
    numbers: Limbs  # uint32 (n_limbs, m)
    bits: Words  # uint64 (q, ceil(n_rows / 64))

    def encode(self) -> bytes:
        n_limbs, n_numbers = self.numbers.shape
        n_booleans = len(self.bits)
        header = _HEADER.pack(
            _VERSION,
            n_booleans,
            n_limbs,
            self.n_rows,
            n_numbers,
        )
        ring = Ring(n_limbs)
        numbers = ring.to_bytes(self.numbers)
        bits = self.bits.astype("<u8").tobytes()
        return header + numbers + bits

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Inverse of `encode`; ProtocolViolation `result_share` for another length."""
        if len(data) < _HEADER.size:
            raise _bad_share("is shorter than its header")
        header_fields = _HEADER.unpack_from(data)
        version, n_booleans, n_limbs, n_rows, n_numbers = header_fields
        words_by_boolean = n_words(n_rows)
        n_all_limbs = n_limbs * n_numbers
        n_all_words = n_booleans * words_by_boolean
        numbers_end = _HEADER.size + _LIMB_BYTES * n_all_limbs
        length = numbers_end + _WORD_BYTES * n_all_words
        is_as_long = len(data) == length
        if version != _VERSION or not n_limbs or not is_as_long:
            raise _bad_share(
                "is not of this version, or not as long as its header says"
            )
        ring = Ring(n_limbs)
        number_bytes = data[_HEADER.size : numbers_end]
        numbers = ring.from_bytes(number_bytes, n_numbers)
        bit_words = np.frombuffer(data[numbers_end:], dtype="<u8")
        flat = bit_words.astype(np.uint64, copy=False)
        bits = flat.reshape(n_booleans, words_by_boolean)
        return cls(n_rows, numbers, bits)


def with_zero(
    share: ResultShare,
    *,
    ring: Ring,
    keys: Keys,
    providers: Sequence[int],
) -> ResultShare:
    """A provider's share, which says nothing without the other providers': a fresh
    sharing of zero is added.
    """
    me = keys.me
    numbers = share.numbers
    bit_words = share.bits
    for peer in providers:
        if peer == me:
            continue
        pair_key = keys.pair_key(peer, b"sharing/result")
        stream = Stream(pair_key, _ZERO, b"")
        # The two ends of a pair: one adds the mask, the other takes it off.
        n_numbers = numbers.shape[1]
        mask = ring.draw(stream, n_numbers)
        if me < peer:
            numbers = ring.add(numbers, mask)
        else:
            numbers = ring.subtract(numbers, mask)
        word_mask = stream.words(bit_words.size)
        bit_words = bit_words ^ word_mask.reshape(bit_words.shape)
    return ResultShare(share.n_rows, numbers, bit_words)


def open_result(shares: Sequence[ResultShare]) -> tuple[list[int], Bools]:
    """The numbers, and booleans (q, n_rows), of all providers' shares.

    A receiver runs it. ProtocolViolation `result_share` when they do not belong
    together.
    """
    share_sizes = set()
    for share in shares:
        share_size = (
            share.n_rows,
            share.numbers.shape,
            share.bits.shape,
        )
        share_sizes.add(share_size)
    if len(share_sizes) != 1:
        raise _bad_share("is of another result than the others")
    first_share = shares[0]
    n_rows = first_share.n_rows
    n_limbs = len(first_share.numbers)
    ring = Ring(n_limbs)
    # Numbers add up in the ring, booleans by exclusive or.
    numbers = [share.numbers for share in shares]
    share_bits = [share.bits for share in shares]
    summed_numbers = reduce(ring.add, numbers)
    bits = np.bitwise_xor.reduce(share_bits)
    booleans = [unpack(row, n_rows) for row in bits]
    n_booleans = len(bits)
    flags = np.array(booleans, dtype=bool)
    # Also without any the array has its two axes.
    by_row = flags.reshape(n_booleans, n_rows)
    return ring.decode(summed_numbers), by_row


def _bad_share(fault: str) -> ProtocolViolation:
    return other_version("result_share", f"A provider's share of the result {fault}.")
