"""What each provider sends of a joint result, and how a receiver opens it.

Decision 35: `Sharing.result` in `sharing` adds a fresh sharing of zero first, so that a
share says nothing but its part in the sum.
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
from protocol.shares.ring import Limbs, Ring, Words, n_words, unpack

_VERSION = 1
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
        header = _HEADER.pack(_VERSION, n_booleans, n_limbs, self.n_rows, n_numbers)
        numbers = Ring(n_limbs).to_bytes(self.numbers)
        bits = self.bits.astype("<u8").tobytes()
        return header + numbers + bits

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Inverse of `encode`; ProtocolViolation `result_share` for another length."""
        if len(data) < _HEADER.size:
            raise _bad_share("is shorter than its header")
        version, n_booleans, n_limbs, n_rows, n_numbers = _HEADER.unpack_from(data)
        words_by_boolean = n_words(n_rows)
        end = _HEADER.size + _LIMB_BYTES * n_limbs * n_numbers
        length = end + _WORD_BYTES * n_booleans * words_by_boolean
        if version != _VERSION or not n_limbs or len(data) != length:
            raise _bad_share(
                "is not of this version, or not as long as its header says"
            )
        numbers = Ring(n_limbs).from_bytes(data[_HEADER.size : end], n_numbers)
        words = np.frombuffer(data[end:], dtype="<u8").astype(np.uint64, copy=False)
        return cls(n_rows, numbers, words.reshape(n_booleans, words_by_boolean))


def open_result(shares: Sequence[ResultShare]) -> tuple[list[int], Bools]:
    """The numbers, and booleans (q, n_rows), of all providers' shares.

    A receiver runs it. ProtocolViolation `result_share` when they do not belong
    together.
    """
    sizes = {(share.n_rows, share.numbers.shape, share.bits.shape) for share in shares}
    if len(sizes) != 1:
        raise _bad_share("is of another result than the others")
    n_rows = shares[0].n_rows
    ring = Ring(len(shares[0].numbers))
    # Numbers add up in the ring, booleans by exclusive or.
    total = reduce(ring.add, [share.numbers for share in shares])
    bits = np.bitwise_xor.reduce([share.bits for share in shares])
    booleans = [unpack(row, n_rows) for row in bits]
    by_row = np.array(booleans, dtype=bool).reshape(len(bits), n_rows)
    return ring.decode(total), by_row


def _bad_share(what: str) -> ProtocolViolation:
    return other_version("result_share", f"A provider's share of the result {what}.")
