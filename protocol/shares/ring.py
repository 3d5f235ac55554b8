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
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from analytics.arrays import Bools, Ints
from protocol.errors import ProtocolViolation
from protocol.sums.masks import Stream
from protocol.sums.masks import Words as Words

Number = TypeVar("Number", np.uint32, np.uint64)

LIMB_BITS = 32
_LIMB_BYTES = 4
_LOWEST_BITS = 2**LIMB_BITS - 1
_LOW = np.uint64(_LOWEST_BITS)
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
        shape = (self.n_limbs, count)
        return np.zeros(shape, dtype=np.uint32)

    def encode(self, values: Any) -> Limbs:
        """Integers of any sign and size, modulo 2^K.

        `values` is an array (n,) of int64 or of objects that are int, or a list.
        """
        if not isinstance(values, np.ndarray):
            # Not by NumPy: it would make doubles of a list in which a number from 2^63
            # on stands beside a smaller one.
            return self._of_integers(values)
        if values.dtype == np.int64:
            return self._of_words(values)
        numbers = values.tolist()
        return self._of_integers(numbers)

    def _of_words(self, numbers: Ints) -> Limbs:
        shape = (self.n_limbs, numbers.size)
        limbs = np.empty(shape, dtype=np.uint32)
        # The sign, into all limbs above the lowest two.
        limbs[:] = (numbers >> np.int64(63)).astype(np.uint32)
        little = np.ascontiguousarray(numbers, dtype="<i8")
        halves = little.view("<u4")
        by_number = halves.reshape(-1, 2)
        two_limbs = by_number.T
        n_lowest = min(2, self.n_limbs)
        limbs[:n_lowest] = two_limbs[:n_lowest]
        return limbs

    def _of_integers(self, numbers: Iterable[int]) -> Limbs:
        all_bits = 2**self.bits - 1
        n_bytes = self.bits // 8
        element_bytes = bytearray()
        for number in numbers:
            element = int(number) & all_bits  # modulo 2^K
            element_bytes += element.to_bytes(n_bytes, "little")
        return self.from_bytes_by_row(bytes(element_bytes))

    def decode(self, limbs: Limbs) -> list[int]:
        """The signed integers of a vector (n_limbs, n)."""
        reduced = self._reduced(limbs)
        by_row = np.ascontiguousarray(reduced.T, dtype="<u4")
        element_bytes = by_row.tobytes()
        n_bytes = self.bits // 8
        length = len(element_bytes)
        numbers = []
        for start in range(0, length, n_bytes):
            end = start + n_bytes
            number = int.from_bytes(element_bytes[start:end], "little", signed=True)
            numbers.append(number)
        return numbers

    def from_bytes_by_row(self, data: bytes) -> Limbs:
        """Number after number, each little-endian: 4 n_limbs n bytes."""
        flat = np.frombuffer(data, dtype="<u4")
        by_row = flat.reshape(-1, self.n_limbs)
        limbs = np.ascontiguousarray(by_row.T)
        return limbs.astype(np.uint32, copy=False)

    def to_bytes(self, limbs: Limbs) -> bytes:
        """Limb after limb, each little-endian: 4 n_limbs n bytes."""
        reduced = self._reduced(limbs)
        little = reduced.astype("<u4", copy=False)
        return little.tobytes()

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
        flat = np.frombuffer(data, dtype="<u4")
        limbs = flat.reshape(self.n_limbs, count)
        return limbs.astype(np.uint32, copy=False)

    def n_bytes(self, count: int) -> int:
        return _LIMB_BYTES * self.n_limbs * count

    def draw(self, stream: Stream, count: int) -> Limbs:
        """Uniform elements."""
        n_bytes = self.n_bytes(count)
        drawn_bytes = stream.read(n_bytes)
        return self.from_bytes(drawn_bytes, count)

    def add(self, x: Limbs, y: Limbs) -> Limbs:
        left = self._reduced(x)
        right = self._reduced(y)
        sums = left.astype(np.uint64) + right
        return _carried(sums)

    def subtract(self, x: Limbs, y: Limbs) -> Limbs:
        """x - y = x + (2^K - 1 - y) + 1."""
        left = self._reduced(x)
        right = self._reduced(y)
        sums = left.astype(np.uint64) + ~right
        sums[0] += np.uint64(1)
        return _carried(sums)

    def multiply(self, x: Limbs, y: Limbs) -> Limbs:
        """x y elementwise.

        A factor with fewer limbs counts as unsigned, one with one column is a constant.
        """
        left = self._reduced(x)
        right = self._reduced(y)
        count = _length(left, right)
        shape = (self.n_limbs, count)
        product = np.empty(shape, dtype=np.uint32)
        for start in range(0, count, _CHUNK):
            end = start + _CHUNK
            product[:, start:end] = self._multiply_chunk(
                _columns(left, start, end),
                _columns(right, start, end),
            )
        return product

    def _multiply_chunk(self, x: Limbs, y: Limbs) -> Limbs:
        """As by hand: limb i times limb j belongs to columns i + j and i + j + 1."""
        count = _length(x, y)
        shape = (self.n_limbs + 1, count)
        columns = np.zeros(shape, dtype=np.uint64)
        x_wide = x.astype(np.uint64)
        y_wide = y.astype(np.uint64)
        for i, limb in enumerate(x_wide):
            # What would go beyond the highest limb falls away modulo 2^K.
            n_kept = self.n_limbs - i
            products = limb * y_wide[:n_kept]
            end = i + len(products)
            # The low half to its own column, the high half to the next one.
            columns[i:end] += products & _LOW
            products >>= _UP
            columns[i + 1 : end + 1] += products
        reduced = self._reduced(columns)
        return _carried(reduced)

    def scale(self, x: Limbs, factor: int) -> Limbs:
        """factor x, by a public integer of any size."""
        if factor == 1:
            return self._reduced(x)
        constant = self._of_integers([factor])
        return self.multiply(constant, x)

    def total(self, x: Limbs) -> int:
        """The sum of all elements, in [0, 2^K); up to 2^32 elements."""
        reduced = self._reduced(x)
        limb_sums = reduced.sum(axis=1, dtype=np.uint64)
        element_sum = 0
        for limb_place, limb_sum in enumerate(limb_sums.tolist()):
            weight_bits = LIMB_BITS * limb_place
            element_sum += int(limb_sum) << weight_bits
        modulus = 2**self.bits
        return int(element_sum % modulus)

    def planes(self, x: Limbs, width: int) -> Words:
        """The lowest `width` bits of n elements: uint64 (width, ceil(n / 64)).

        The lowest bit comes first.
        """
        count = x.shape[1]
        n_octets = 8 * n_words(count)
        shape = (width, n_octets)
        planes = np.zeros(shape, dtype=np.uint8)
        for bit_place in range(width):
            limb, bit = divmod(bit_place, LIMB_BITS)
            bits = (x[limb] >> np.uint32(bit)) & np.uint32(1)
            octets = bits.astype(np.uint8)
            packed = np.packbits(octets, bitorder="little")
            plane = planes[bit_place]
            plane[: packed.size] = packed
        plane_words = planes.view("<u8")
        return plane_words.astype(np.uint64, copy=False)

    def _reduced(self, x: NDArray[Number]) -> NDArray[Number]:
        """Modulo 2^K: the lowest limbs."""
        return x[: self.n_limbs]


def n_words(count: int) -> int:
    """Words of 64 bits that hold `count` bits."""
    return math.ceil(count / 64)


def pack(bits: Bools) -> Words:
    """Booleans (n,) as uint64 (ceil(n / 64),), the first one lowest."""
    octets = np.packbits(bits, bitorder="little")
    n_octets = 8 * n_words(bits.size)
    padded = np.zeros(n_octets, dtype=np.uint8)
    padded[: octets.size] = octets
    packed_words = padded.view("<u8")
    return packed_words.astype(np.uint64, copy=False)


def unpack(words: Words, count: int) -> Bools:
    """Inverse of `pack`: the first `count` bits."""
    little = np.ascontiguousarray(words, dtype="<u8")
    octets = little.view(np.uint8)
    bits = np.unpackbits(
        octets,
        count=count,
        bitorder="little",
    )
    return bits.astype(bool)


def _length(x: Limbs, y: Limbs) -> int:
    """The elements of a product, where one column is a constant."""
    n_left: int = x.shape[1]
    n_right: int = y.shape[1]
    return max(n_left, n_right)


def _columns(
    x: Limbs,
    start: int,
    end: int,
) -> Limbs:
    """The elements from `start` to before `end`, or the constant for all of them."""
    if x.shape[1] == 1:
        return x
    return x[:, start:end]


def _carried(sums: Words) -> Limbs:
    """Limbs of sums that are larger than a limb; `sums` is used up.

    The carry out of the highest limb falls away.
    """
    for limb_place in range(1, len(sums)):
        limb_below = sums[limb_place - 1]
        carry = limb_below >> _UP
        sums[limb_place] += carry
    return sums.astype(np.uint32)
