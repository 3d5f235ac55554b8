"""Vectors over Z_2^K, K a multiple of 32: one uint32 limb per row of an array, least
significant first.

    x = sum_k limbs[k] 2^(32 k) mod 2^K,     read as signed:  -2^(K-1) <= x < 2^(K-1)

All operations are elementwise and wrap. A product of two limbs is exact in uint64, and
so is a sum of up to 2^32 limbs. Nothing here is secret by itself: `sharing` makes
shares of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analytics.arrays import Bools, Ints
from protocol.errors import ProtocolViolation
from protocol.sums.masks import Stream
from protocol.sums.masks import Words as Words

LIMB_BITS = 32
_LIMB_BYTES = 4
_LOW = np.uint64(2**LIMB_BITS - 1)
_UP = np.uint64(LIMB_BITS)
_CHUNK = 1 << 14
"""Elements at a time: what a product takes stays in the processor's cache."""

Limbs = NDArray[np.uint32]


@dataclass(frozen=True)
class Ring:
    """Z_2^(32 n_limbs). Vectors are uint32 (n_limbs, n).

    A vector of a larger ring is reduced by leaving limbs out.

    >>> ring = Ring.of_bits(40)
    >>> ring.decode(ring.multiply(ring.encode([-3, 2**31]), ring.encode([5, 2])))
    [-15, 4294967296]
    """

    n_limbs: int  # of 32 bits each

    @classmethod
    def of_bits(cls, bits: int) -> Ring:
        """The smallest with at least that many bits."""
        n_limbs = math.ceil(bits / LIMB_BITS)
        return cls(n_limbs)

    @property
    def bits(self) -> int:
        return LIMB_BITS * self.n_limbs

    def zeros(self, count: int) -> Limbs:
        return np.zeros((self.n_limbs, count), dtype=np.uint32)

    def encode(self, values: Any) -> Limbs:
        """Integers of any sign and size, modulo 2^K.

        `values` is an array (n,) of int64 or of objects that are int, or a list.
        """
        if isinstance(values, np.ndarray):
            if values.dtype == np.int64:
                return self._of_words(values)
            return self._of_integers(values.tolist())
        # Not by NumPy: it would make doubles of a list in which a number from 2^63 on
        # stands beside a smaller one.
        return self._of_integers(values)

    def _of_words(self, numbers: Ints) -> Limbs:
        limbs = np.empty((self.n_limbs, numbers.size), dtype=np.uint32)
        # The sign, into all limbs above the lowest two.
        limbs[:] = (numbers >> np.int64(63)).astype(np.uint32)
        little = np.ascontiguousarray(numbers, dtype="<i8")
        two_limbs = little.view("<u4").reshape(-1, 2).T
        n_lowest = min(2, self.n_limbs)
        limbs[:n_lowest] = two_limbs[:n_lowest]
        return limbs

    def _of_integers(self, numbers: Iterable[int]) -> Limbs:
        all_bits = 2**self.bits - 1
        n_bytes = self.bits // 8
        elements = [int(number) & all_bits for number in numbers]  # modulo 2^K
        data = b"".join(element.to_bytes(n_bytes, "little") for element in elements)
        return self.from_bytes_by_row(data)

    def decode(self, limbs: Limbs) -> list[int]:
        """The signed integers of a vector (n_limbs, n)."""
        by_row = np.ascontiguousarray(limbs[: self.n_limbs].T, dtype="<u4")
        data = by_row.tobytes()
        n_bytes = self.bits // 8
        starts = range(0, len(data), n_bytes)
        return [
            int.from_bytes(data[start : start + n_bytes], "little", signed=True)
            for start in starts
        ]

    def from_bytes_by_row(self, data: bytes) -> Limbs:
        """Number after number, each little-endian: 4 n_limbs n bytes."""
        by_row = np.frombuffer(data, dtype="<u4").reshape(-1, self.n_limbs)
        return np.ascontiguousarray(by_row.T).astype(np.uint32, copy=False)

    def to_bytes(self, limbs: Limbs) -> bytes:
        """Limb after limb, each little-endian: 4 n_limbs n bytes."""
        return limbs[: self.n_limbs].astype("<u4", copy=False).tobytes()

    def from_bytes(self, data: bytes, count: int) -> Limbs:
        """Inverse of `to_bytes`.

        ProtocolViolation `ring` when the length is another.
        """
        n_bytes = self.n_bytes(count)
        if len(data) != n_bytes:
            raise ProtocolViolation(
                f"A vector of {count} numbers has {len(data)} bytes instead of {n_bytes}.",
                remedy="All sides must run the same version of Consilium.",
                code="ring",
            )
        limbs = np.frombuffer(data, dtype="<u4").reshape(self.n_limbs, count)
        return limbs.astype(np.uint32, copy=False)

    def n_bytes(self, count: int) -> int:
        return _LIMB_BYTES * self.n_limbs * count

    def draw(self, stream: Stream, count: int) -> Limbs:
        """Uniform elements."""
        data = stream.read(self.n_bytes(count))
        return self.from_bytes(data, count)

    def add(self, x: Limbs, y: Limbs) -> Limbs:
        sums = x[: self.n_limbs].astype(np.uint64) + y[: self.n_limbs]
        return _carried(sums)

    def subtract(self, x: Limbs, y: Limbs) -> Limbs:
        """x - y = x + (2^K - 1 - y) + 1."""
        sums = x[: self.n_limbs].astype(np.uint64) + ~y[: self.n_limbs]
        sums[0] += np.uint64(1)
        return _carried(sums)

    def multiply(self, x: Limbs, y: Limbs) -> Limbs:
        """x y elementwise.

        A factor with fewer limbs counts as unsigned, one with one column is a constant.
        """
        left = x[: self.n_limbs]
        right = y[: self.n_limbs]
        count = max(left.shape[1], right.shape[1])
        product = np.empty((self.n_limbs, count), dtype=np.uint32)
        for start in range(0, count, _CHUNK):
            chunk = slice(start, start + _CHUNK)
            left_chunk = left if left.shape[1] == 1 else left[:, chunk]
            right_chunk = right if right.shape[1] == 1 else right[:, chunk]
            product[:, chunk] = self._multiply_chunk(left_chunk, right_chunk)
        return product

    def _multiply_chunk(self, x: Limbs, y: Limbs) -> Limbs:
        """As by hand: limb i times limb j belongs to columns i + j and i + j + 1."""
        count = max(x.shape[1], y.shape[1])
        columns = np.zeros((self.n_limbs + 1, count), dtype=np.uint64)
        y_wide = y.astype(np.uint64)
        for i, limb in enumerate(x.astype(np.uint64)):
            # What would go beyond the highest limb falls away modulo 2^K.
            products = limb * y_wide[: self.n_limbs - i]
            end = i + len(products)
            # The low half to its own column, the high half to the next one.
            columns[i:end] += products & _LOW
            products >>= _UP
            columns[i + 1 : end + 1] += products
        return _carried(columns[: self.n_limbs])

    def scale(self, x: Limbs, factor: int) -> Limbs:
        """factor x, by a public integer of any size."""
        if factor == 1:
            return x[: self.n_limbs]
        constant = self._of_integers([factor])
        return self.multiply(constant, x)

    def total(self, x: Limbs) -> int:
        """The sum of all elements, in [0, 2^K); up to 2^32 elements."""
        limb_sums = x[: self.n_limbs].sum(axis=1, dtype=np.uint64)
        total = 0
        for place, limb_sum in enumerate(limb_sums.tolist()):
            total += int(limb_sum) << LIMB_BITS * place
        return int(total % 2**self.bits)

    def planes(self, x: Limbs, width: int) -> Words:
        """The lowest `width` bits of n elements: uint64 (width, ceil(n / 64)).

        The lowest bit comes first.
        """
        n_octets = 8 * n_words(x.shape[1])
        planes = np.zeros((width, n_octets), dtype=np.uint8)
        for place in range(width):
            limb, bit = divmod(place, LIMB_BITS)
            bits = (x[limb] >> np.uint32(bit)) & np.uint32(1)
            packed = np.packbits(bits.astype(np.uint8), bitorder="little")
            planes[place, : packed.size] = packed
        return planes.view("<u8").astype(np.uint64, copy=False)


def n_words(count: int) -> int:
    """Words of 64 bits that hold `count` bits."""
    return math.ceil(count / 64)


def pack(bits: Bools) -> Words:
    """Booleans (n,) as uint64 (ceil(n / 64),), the first one lowest."""
    octets = np.packbits(bits, bitorder="little")
    padded = np.zeros(8 * n_words(bits.size), dtype=np.uint8)
    padded[: octets.size] = octets
    return padded.view("<u8").astype(np.uint64, copy=False)


def unpack(words: Words, count: int) -> Bools:
    """Inverse of `pack`: the first `count` bits."""
    octets = np.ascontiguousarray(words, dtype="<u8").view(np.uint8)
    return np.unpackbits(octets, count=count, bitorder="little").astype(bool)


def _carried(sums: Words) -> Limbs:
    """Limbs of sums that are larger than a limb; `sums` is used up.

    The carry out of the highest limb falls away.
    """
    for place in range(1, len(sums)):
        sums[place] += sums[place - 1] >> _UP
    return sums.astype(np.uint32)
