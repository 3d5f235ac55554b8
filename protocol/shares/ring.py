"""Vectors over Z_2^K, K a multiple of 32: one uint32 limb per row of an array, least significant first.

    x = sum_k limbs[k] 2^(32 k) mod 2^K,     read as signed:  -2^(K-1) <= x < 2^(K-1)

All operations are elementwise and wrap. Products of limbs are exact in uint64, and so are sums of up to 2^32 of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.errors import ProtocolViolation
from protocol.sums.masks import Stream

LIMB_BITS = 32
_LIMB_BYTES = 4
_LOW = np.uint64(2**LIMB_BITS - 1)
_UP = np.uint64(LIMB_BITS)
_CHUNK = 1 << 14
"""Elements at a time: what a product takes stays in the processor's cache."""

Limbs = NDArray[np.uint32]
Words = NDArray[np.uint64]


@dataclass(frozen=True)
class Ring:
    """Z_2^(32 n_limbs). Vectors are uint32 (n_limbs, n); a vector of a larger ring is reduced by leaving limbs out.

    >>> ring = Ring.of_bits(40)
    >>> ring.decode(ring.multiply(ring.encode([-3, 2**31]), ring.encode([5, 2])))
    [-15, 4294967296]
    """

    n_limbs: int

    @classmethod
    def of_bits(cls, bits: int) -> Ring:
        """The smallest with at least that many bits."""
        return cls(-(-bits // LIMB_BITS))

    @property
    def bits(self) -> int:
        return LIMB_BITS * self.n_limbs

    def zeros(self, count: int) -> Limbs:
        return np.zeros((self.n_limbs, count), dtype=np.uint32)

    def encode(self, values: Any) -> Limbs:
        """Integers of any sign and size, modulo 2^K: an array (n,) of int64 or of objects that are int, or a list."""
        # NumPy would make doubles of a list in which a number from 2^63 on stands beside a smaller one.
        numbers = values if isinstance(values, np.ndarray) else np.array(values, dtype=object)
        if numbers.dtype == np.int64:
            return self._of_words(numbers)
        return self._of_integers(numbers.tolist())

    def _of_words(self, numbers: NDArray[np.int64]) -> Limbs:
        limbs = np.empty((self.n_limbs, numbers.size), dtype=np.uint32)
        limbs[:] = (numbers >> np.int64(63)).astype(np.uint32)
        little = np.ascontiguousarray(numbers, dtype="<i8").view("<u4").reshape(-1, 2).T
        limbs[: min(2, self.n_limbs)] = little[: self.n_limbs]
        return limbs

    def _of_integers(self, numbers: list[int]) -> Limbs:
        mask, width = 2**self.bits - 1, self.bits // 8
        return self.from_bytes_by_row(b"".join((int(x) & mask).to_bytes(width, "little") for x in numbers))

    def decode(self, limbs: Limbs) -> list[int]:
        """The signed integers of a vector (n_limbs, n)."""
        data = np.ascontiguousarray(limbs[: self.n_limbs].T, dtype="<u4").tobytes()
        width = self.bits // 8
        return [
            int.from_bytes(data[i : i + width], "little", signed=True) for i in range(0, len(data), width)
        ]

    def from_bytes_by_row(self, data: bytes) -> Limbs:
        by_row = np.frombuffer(data, dtype="<u4").reshape(-1, self.n_limbs)
        return np.ascontiguousarray(by_row.T).astype(np.uint32, copy=False)

    def to_bytes(self, limbs: Limbs) -> bytes:
        """Limb after limb, each little-endian: 4 n_limbs n bytes."""
        return limbs[: self.n_limbs].astype("<u4", copy=False).tobytes()

    def from_bytes(self, data: bytes, count: int) -> Limbs:
        """Inverse of `to_bytes`. ProtocolViolation `ring` when the length is another."""
        if len(data) != self.n_bytes(count):
            raise ProtocolViolation(
                f"A vector of {count} numbers has {len(data)} bytes instead of {self.n_bytes(count)}.",
                remedy="All sides must run the same version of Consilium.",
                code="ring",
            )
        return np.frombuffer(data, dtype="<u4").reshape(self.n_limbs, count).astype(np.uint32, copy=False)

    def n_bytes(self, count: int) -> int:
        return _LIMB_BYTES * self.n_limbs * count

    def draw(self, stream: Stream, count: int) -> Limbs:
        """Uniform elements."""
        return self.from_bytes(stream.read(self.n_bytes(count)), count)

    def add(self, x: Limbs, y: Limbs) -> Limbs:
        return _carried(x[: self.n_limbs].astype(np.uint64) + y[: self.n_limbs])

    def subtract(self, x: Limbs, y: Limbs) -> Limbs:
        """x + (2^K - 1 - y) + 1."""
        sums = x[: self.n_limbs].astype(np.uint64) + ~y[: self.n_limbs]
        sums[0] += np.uint64(1)
        return _carried(sums)

    def multiply(self, x: Limbs, y: Limbs) -> Limbs:
        """x y; a factor with fewer limbs counts as unsigned, one with one column is a constant."""
        count = max(x.shape[1], y.shape[1])
        product = np.empty((self.n_limbs, count), dtype=np.uint32)
        for start in range(0, count, _CHUNK):
            part = slice(start, start + _CHUNK)
            left, right = (v if v.shape[1] == 1 else v[:, part] for v in (x, y))
            product[:, part] = self._multiply_chunk(left[: self.n_limbs], right[: self.n_limbs])
        return product

    def _multiply_chunk(self, x: Limbs, y: Limbs) -> Limbs:
        columns = np.zeros((self.n_limbs + 1, max(x.shape[1], y.shape[1])), dtype=np.uint64)
        wide = y.astype(np.uint64)
        for i, limb in enumerate(x.astype(np.uint64)):
            products = limb * wide[: self.n_limbs - i]
            columns[i : i + len(products)] += products & _LOW
            products >>= _UP
            columns[i + 1 : i + 1 + len(products)] += products
        return _carried(columns[: self.n_limbs])

    def scale(self, x: Limbs, factor: int) -> Limbs:
        """factor x, by a public integer of any size."""
        if factor == 1:
            return x[: self.n_limbs]
        return self.multiply(self._of_integers([factor]), x)

    def total(self, x: Limbs) -> int:
        """The sum of all elements, in [0, 2^K); up to 2^32 elements."""
        sums = x[: self.n_limbs].sum(axis=1, dtype=np.uint64).tolist()
        return int(sum(int(s) << LIMB_BITS * k for k, s in enumerate(sums)) % 2**self.bits)

    def planes(self, x: Limbs, width: int) -> Words:
        """The lowest `width` bits of n elements, lowest first: uint64 (width, ceil(n / 64))."""
        planes = np.zeros((width, 8 * n_words(x.shape[1])), dtype=np.uint8)
        for j in range(width):
            bits = ((x[j // LIMB_BITS] >> np.uint32(j % LIMB_BITS)) & np.uint32(1)).astype(np.uint8)
            packed = np.packbits(bits, bitorder="little")
            planes[j, : packed.size] = packed
        return planes.view("<u8").astype(np.uint64, copy=False)


def n_words(count: int) -> int:
    """Words of 64 bits that hold `count` bits."""
    return -(-count // 64)


def pack(bits: NDArray[np.bool_]) -> Words:
    """Booleans (n,) as uint64 (ceil(n / 64),), the first one lowest."""
    packed = np.zeros(8 * n_words(bits.size), dtype=np.uint8)
    packed[: -(-bits.size // 8)] = np.packbits(bits, bitorder="little")
    return packed.view("<u8").astype(np.uint64, copy=False)


def unpack(words: Words, count: int) -> NDArray[np.bool_]:
    """Inverse of `pack`: the first `count` bits."""
    octets = np.ascontiguousarray(words, dtype="<u8").view(np.uint8)
    return np.unpackbits(octets, count=count, bitorder="little").astype(bool)


def _carried(sums: NDArray[np.uint64]) -> Limbs:
    """Limbs of sums that are larger than a limb; the last carry falls away. `sums` is used up."""
    for k in range(1, len(sums)):
        sums[k] += sums[k - 1] >> _UP
    return sums.astype(np.uint32)
