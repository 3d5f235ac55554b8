"""Sharing by parts: triples, buckets, digests, adders and result shares. Whole
expressions: tests/pooled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ProtocolViolation
from protocol.shares import triples
from protocol.shares.channel import SEED
from protocol.shares.result import ResultShare, open_result
from protocol.shares.ring import Ring, unpack
from protocol.shares.sharing import Sharing
from protocol.shares.sizes import n_conjunctions, rings
from protocol.shares.triples import Buckets, linear_digest, uniform_order
from protocol.sums.masks import Stream
from tests.examples import few
from tests.made_providers import Hall, MadeKeys, seeds_of

RING = Ring(3)


def test_number_triples_are_products() -> None:
    for n in (1, 2, 3, 5):
        seeds = {7 + i: bytes([i]) * 32 for i in range(n)}
        correction = triples.number_correction(seeds, 4, ring=RING, count=7)
        dealt = [
            triples.number_triples(
                s,
                4,
                provider=p,
                ring=RING,
                count=7,
                correction=correction if p == max(seeds) else None,
            )
            for p, s in seeds.items()
        ]
        a, b, c, check_a, check_c = (
            reduce(RING.add, parts)
            for parts in zip(*(vars(d).values() for d in dealt), strict=True)
        )
        assert RING.decode(RING.multiply(a, b)) == RING.decode(c)
        assert RING.decode(RING.multiply(check_a, b)) == RING.decode(check_c)


def test_bit_triples_are_conjunctions() -> None:
    seeds = {7 + i: bytes([i]) * 32 for i in range(3)}
    correction = triples.bit_correction(seeds, 0, count=9)
    dealt = [
        triples.bit_triples(
            s,
            0,
            provider=p,
            count=9,
            correction=correction if p == max(seeds) else None,
        )
        for p, s in seeds.items()
    ]
    a, b, c = (
        np.bitwise_xor.reduce(parts)
        for parts in zip(*(vars(d).values() for d in dealt), strict=True)
    )
    assert ((a & b) == c).all()


def test_triples_of_another_number_seed_or_provider_differ() -> None:
    drawn = [
        triples.number_triples(
            seed, index, provider=provider, ring=RING, count=3, correction=None
        ).a.tobytes()
        for seed in (bytes(32), b"1" * 32)
        for index in (0, 1)
        for provider in (2, 3)
    ]
    assert len(set(drawn)) == 8
    parts = vars(
        triples.number_triples(
            bytes(32), 0, provider=2, ring=RING, count=3, correction=None
        )
    ).values()
    assert len({part.tobytes() for part in parts}) == 5


def log2_comb(n: int, k: int) -> float:
    return (
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    ) / math.log(2)


@pytest.mark.parametrize("n_words", [1, 1023, 1024, 1025, 5000, 2**17, 2**19, 2**22])
def test_false_words_pass_all_buckets_rarely_enough(n_words: int) -> None:
    """For every number t of buckets of false words, below 2^-40; for many buckets at
    places spread over all.
    """
    buckets = Buckets.of(n_words)
    assert buckets.n_buckets >= n_words
    n, size, dealt = buckets.n_buckets, buckets.size, buckets.n_dealt
    places = (
        range(1, n + 1)
        if n < 5001
        else [*range(1, 200), *range(200, n, n // 500), *range(n - 200, n + 1)]
    )
    worst = max(log2_comb(n, t) - log2_comb(dealt, size * t) for t in places)
    assert worst <= -40
    smaller = n * (size - 1)
    assert size == 2 or math.comb(smaller, size - 1) < n << 40


def test_the_check_ring_is_forty_bits_larger_than_all_that_is_decoded() -> None:
    for bits in range(2, 300):
        numbers, checked = rings(bits)
        assert numbers.bits >= bits
        assert checked.bits >= numbers.bits + 40


def digest(words: list[int]) -> int:
    return linear_digest(Stream(bytes(32), b"t", b""), np.array(words, dtype=np.uint64))


@given(
    st.lists(
        st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
        min_size=1,
        max_size=80,
    )
)
def test_the_digest_is_linear(pairs: list[tuple[int, int]]) -> None:
    x, y = ([pair[i] for pair in pairs] for i in (0, 1))
    assert digest([p ^ q for p, q in pairs]) == digest(x) ^ digest(y)
    assert digest([0] * len(pairs)) == 0


@pytest.mark.parametrize("n_words", [1, 64, 65, 4096, 4097, 300_000])
def test_the_digest_sees_every_single_bit(n_words: int) -> None:
    found = set()
    for place in {0, n_words // 2, n_words - 1}:
        for bit in (0, 63):
            words = np.zeros(n_words, dtype=np.uint64)
            words[place] = 1 << bit
            found.add(linear_digest(Stream(bytes(32), b"t", b""), words))
    assert 0 not in found
    assert len(found) == 2 * len({0, n_words // 2, n_words - 1})


def test_an_order_has_every_place_once_and_depends_on_the_stream() -> None:
    orders = [
        uniform_order(Stream(bytes([key]) * 32, b"t", b""), 5000) for key in range(3)
    ]
    assert all(sorted(order.tolist()) == list(range(5000)) for order in orders)
    assert (orders[0] != orders[1]).any()
    firsts = [
        int(uniform_order(Stream(bytes([k]) * 32, b"t", b""), 4)[0]) for k in range(256)
    ]
    assert min(np.bincount(firsts, minlength=4)) > 40


def test_places_with_equal_words_stand_in_an_order_of_their_own() -> None:
    class Equal:
        """Words of which all random bits that are kept are equal, then distinct ones."""

        def __init__(self) -> None:
            self.calls = 0

        def words(self, count: int) -> Any:
            self.calls += 1
            return (
                np.zeros(count, dtype=np.uint64)
                if self.calls == 1
                else np.arange(count, 0, -1, dtype=np.uint64)
            )

    stream: Any = Equal()
    assert uniform_order(stream, 6).tolist() == [5, 4, 3, 2, 1, 0]


# Providers as threads


def together(
    n: int,
    bits: int,
    dealt: Callable[[dict[int, bytes]], list[bytes]],
    act: Callable[[Sharing, int], Any],
) -> list[Any]:
    """What `act` gives at each of n providers; `dealt` makes the corrections of the
    seeds.
    """
    providers = tuple(range(2, 2 + n))
    seeds = seeds_of(providers)
    corrections = dealt(seeds)
    messages = {(SEED, p): seeds[p] for p in providers}
    messages |= {(1 + i, providers[-1]): data for i, data in enumerate(corrections)}
    hall = Hall(providers, messages)

    def run(me: int) -> Any:
        sharing = Sharing(
            MadeKeys(me), hall.channel(me), providers=providers, bits=bits
        )
        result = act(sharing, me)
        sharing.verify()
        return result

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(run, providers))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7])
@given(data=st.data())
@few
def test_signs_of_sums(n: int, data: st.DataObject) -> None:
    width = data.draw(st.integers(2, 70))
    half = 2 ** (width - 1)
    sums = [
        *data.draw(st.lists(st.integers(-half, half - 1), max_size=66)),
        -half,
        -1,
        0,
        half - 1,
    ]
    ring = rings(width)[0]
    shares = [
        [data.draw(st.integers(-half, half - 1)) for _ in range(n - 1)] for _ in sums
    ]
    columns = [[row[i] for row in shares] for i in range(n - 1)]
    columns.append([s - sum(row) for s, row in zip(sums, shares, strict=True)])
    words = n_conjunctions(width, n) * -(-len(sums) // 64)

    def dealt(seeds: dict[int, bytes]) -> list[bytes]:
        return (
            [triples.bit_correction(seeds, 0, count=Buckets.of(words).n_dealt)]
            if n > 1
            else []
        )

    bits = together(
        n,
        width,
        dealt,
        lambda s, me: s.is_negative(ring.encode(columns[me - 2]), width),
    )
    assert unpack(reduce(np.bitwise_xor, bits), len(sums)).tolist() == [
        s < 0 for s in sums
    ]


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_products_of_shares(n: int) -> None:
    numbers, checked = rings(100)
    x, y = [3, -(2**49), 2**49 - 1, 0, -1], [-7, 2**49, 2**49 - 1, 5, -1]

    def act(sharing: Sharing, me: int) -> Any:
        own = [
            np.array(v, dtype=np.int64) if me == holder else None
            for v, holder in ((x, 2), (y, 1 + n))
        ]
        z = sharing.product(sharing.number(own[0], 5), sharing.number(own[1], 5))
        return sharing.product(z, sharing.constant(-1, 5)), sharing.total(z)

    shares = together(
        n,
        100,
        lambda s: [
            triples.number_correction(s, i, ring=checked, count=5) for i in (0, 1)
        ],
        act,
    )
    expected = [p * q for p, q in zip(x, y, strict=True)]
    assert numbers.decode(reduce(numbers.add, [z for z, _ in shares])) == [
        -e for e in expected
    ]
    assert (
        sum(total for _, total in shares) % 2**numbers.bits
        == sum(expected) % 2**numbers.bits
    )


def test_an_opening_of_another_length_is_refused() -> None:
    class Short:
        def open(self, number: int, data: bytes) -> dict[int, bytes]:
            return {2: data, 3: data[:-1]}

        def dealt(self, number: int) -> bytes:
            return bytes(32)

    sharing = Sharing(MadeKeys(2), Short(), providers=(2, 3), bits=20)
    with pytest.raises(ProtocolViolation) as caught:
        sharing.product(sharing.constant(1, 2), sharing.constant(1, 2))
    assert caught.value.code == "opening"


# Shares of the result


def result_shares(n: int) -> list[ResultShare]:
    def act(sharing: Sharing, me: int) -> ResultShare:
        numbers = sharing.number(np.array([-5, 7]) if me == 2 else None, 2)
        bits = sharing.boolean(np.array([True, False, True]) if me == 2 else None, 3)
        return sharing.result(numbers, bits.reshape(1, -1), n_rows=3)

    return together(n, 64, lambda seeds: [], act)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_a_result_is_the_sum_of_its_shares(n: int) -> None:
    shares = [ResultShare.decode(share.encode()) for share in result_shares(n)]
    numbers, bits = open_result(shares)
    assert numbers == [-5, 7]
    assert bits.tolist() == [[True, False, True]]
    if n > 1:
        assert all(share.numbers.all() and share.bits.all() for share in shares), (
            "a share shows what it is of"
        )


def test_shares_of_another_result_are_refused() -> None:
    shares = result_shares(2)
    for wrong in ([], [shares[0], ResultShare(4, shares[1].numbers, shares[1].bits)]):
        with pytest.raises(ProtocolViolation) as caught:
            open_result(wrong)
        assert caught.value.code == "result_share"


@given(cut=st.integers(0, 60), more=st.binary(max_size=3))
def test_malformed_shares_are_refused(cut: int, more: bytes) -> None:
    data = ResultShare(
        3, RING.encode([1, 2]), np.zeros((1, 1), dtype=np.uint64)
    ).encode()
    wrong = data[:cut] + more
    if len(wrong) == len(data):
        return
    for bad in (wrong, b"\x02" + data[1:]):
        with pytest.raises(ProtocolViolation) as caught:
            ResultShare.decode(bad)
        assert caught.value.code == "result_share"
