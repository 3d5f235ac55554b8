"""Ring vectors are Python's integers modulo 2^K, and bit planes are their bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.errors import ProtocolViolation
from protocol.shares.ring import Ring, n_words, pack, unpack
from protocol.sums.masks import Stream

SIZES = st.integers(1, 6)
NUMBERS = st.lists(st.integers(-(2**200), 2**200), min_size=1, max_size=5)


def signed(value: int, bits: int) -> int:
    return (value + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)


@given(n_limbs=SIZES, x=NUMBERS, y=NUMBERS)
@example(n_limbs=3, x=[0, 0], y=[0, 2**63 + 1])
def test_operations_are_those_of_integers(
    n_limbs: int, x: list[int], y: list[int]
) -> None:
    ring, n = Ring(n_limbs), min(len(x), len(y))
    x, y = x[:n], y[:n]
    a, b = ring.encode(x), ring.encode(y)
    for limbs, expected in [
        (a, x),
        (ring.add(a, b), [p + q for p, q in zip(x, y, strict=True)]),
        (ring.subtract(a, b), [p - q for p, q in zip(x, y, strict=True)]),
        (ring.multiply(a, b), [p * q for p, q in zip(x, y, strict=True)]),
        (ring.scale(a, y[0]), [p * y[0] for p in x]),
    ]:
        assert limbs.dtype == np.uint32
        assert ring.decode(limbs) == [signed(value, ring.bits) for value in expected]
    assert ring.total(a) == sum(x) % 2**ring.bits


@given(n_limbs=SIZES, x=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5))
def test_words_and_integers_encode_alike(n_limbs: int, x: list[int]) -> None:
    ring = Ring(n_limbs)
    assert ring.decode(ring.encode(np.array(x, dtype=np.int64))) == [
        signed(value, ring.bits) for value in x
    ]
    assert ring.decode(ring.encode(np.array([*x, None], dtype=object)[:-1])) == [
        signed(v, ring.bits) for v in x
    ]


@given(n_limbs=SIZES, x=NUMBERS)
def test_a_vector_is_reduced_by_leaving_limbs_out(n_limbs: int, x: list[int]) -> None:
    large, small = Ring(n_limbs + 2), Ring(n_limbs)
    assert small.decode(large.encode(x)) == [signed(value, small.bits) for value in x]
    assert small.decode(small.multiply(large.encode(x), large.encode(x))) == [
        signed(v * v, small.bits) for v in x
    ]


def test_a_short_factor_is_unsigned() -> None:
    assert Ring(3).decode(
        Ring(3).multiply(Ring(1).encode([-1]), Ring(3).encode([-2]))
    ) == [-2 * (2**32 - 1)]


def test_products_across_chunks() -> None:
    ring, x = Ring(3), np.arange(40_000, dtype=np.int64) - 17
    assert (
        ring.decode(ring.multiply(ring.encode(x), ring.encode(x[::-1].copy())))
        == (x * x[::-1]).tolist()
    )


def test_the_longest_carry() -> None:
    ring = Ring(4)
    assert ring.decode(ring.add(ring.encode([-1]), ring.encode([1]))) == [0]
    assert ring.decode(ring.subtract(ring.encode([0]), ring.encode([1]))) == [-1]
    assert ring.decode(ring.multiply(ring.encode([-1]), ring.encode([-1]))) == [1]
    assert ring.decode(ring.encode([2**127])) == [-(2**127)]


@pytest.mark.parametrize("bits", [31, 32, 33, 2048])
def test_the_smallest_ring_that_fits(bits: int) -> None:
    assert bits <= Ring.of_bits(bits).bits < bits + 32


@given(n_limbs=SIZES, x=NUMBERS)
def test_bytes_there_and_back(n_limbs: int, x: list[int]) -> None:
    ring = Ring(n_limbs)
    data = ring.to_bytes(ring.encode(x))
    assert len(data) == ring.n_bytes(len(x))
    assert ring.decode(ring.from_bytes(data, len(x))) == [
        signed(value, ring.bits) for value in x
    ]
    for wrong in (data[:-1], data + b"\0", b""):
        with pytest.raises(ProtocolViolation) as caught:
            ring.from_bytes(wrong, len(x))
        assert caught.value.code == "ring"


@given(
    x=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=130),
    width=st.integers(1, 64),
)
def test_planes_are_bits(x: list[int], width: int) -> None:
    ring = Ring(2)
    planes = ring.planes(ring.encode(x), width)
    assert planes.shape == (width, n_words(len(x)))
    for j, plane in enumerate(planes):
        assert unpack(plane, len(x)).tolist() == [bool(value >> j & 1) for value in x]


@given(bits=st.lists(st.booleans(), max_size=200))
def test_packing_there_and_back(bits: list[bool]) -> None:
    assert unpack(pack(np.array(bits, dtype=bool)), len(bits)).tolist() == bits


def test_drawn_elements_are_the_stream() -> None:
    drawn = Ring(3).draw(Stream(bytes(32), b"t", b""), 5)
    assert Ring(3).to_bytes(drawn) == Stream(bytes(32), b"t", b"").read(60)
