"""Random products that the coordinator deals to the providers, and how they find out
whether it dealt true ones.

A triple is a, b and c = a b, each the sum (of bits: the exclusive or) of one share per
provider. All shares are streams of a 32-byte seed per provider but the last one's
shares of c, which the dealer computes and sends:

    number triples   a, b, c, and for the check a', c' with c' = a' b         in Z_2^(K + 40)
    bit triples      a, b, c, 64 in a word; B N + B words for N checked ones

A dealer of false triples learns nothing, since openings are sealed among the providers;
it could shift a result. So every triple that is used is checked against others that are
then thrown away.

Numbers (Damgard et al. 2012, in the larger ring of Cramer et al. 2018). With r_j of 64
bits that the dealer cannot know, and rho_j = r_j a_j - a'_j opened,

    sum_j r_j c_j - c'_j - rho_j b_j = sum_j r_j delta_j - delta'_j = 0 mod 2^(K + 40),   delta_j = c_j - a_j b_j

holds for some delta_j != 0 mod 2^K with probability 2^-40 at most.

Bits (Furukawa, Lindell, Nof, Weinstein 2017). In an order that the dealer cannot know,
B words are opened and the others stand in N buckets of B; in each, the first is checked
against the rest. That t buckets hold false words only, and the others true ones, which
alone passes, has probability C(N, t) / C(B N + B, B t): largest at t = 1, and below
2^-40 by the choice of B.

The coordinator's flow deals in `tasks/coordinator/dealing.py`; the providers use and
check triples in `sharing`.

Decision 35.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from analytics.arrays import Places
from protocol.errors import ProtocolViolation
from protocol.shares.ring import Limbs, Ring, Words
from protocol.sums.masks import KEY_BYTES, Stream

SECURITY_BITS = 40
FEWEST_WORDS = 1024
SEED_BYTES = KEY_BYTES
_NUMBERS = b"consilium/triples/numbers/1"
_BITS = b"consilium/triples/bits/1"
_BLOCK_BYTES = 512


@dataclass(frozen=True)
class NumberTriples:
    """One provider's shares of a, b, c = a b and of the check's a', c' = a' b.

    Each is (n_limbs, n) of the larger ring.
    """

    a: Limbs
    b: Limbs
    c: Limbs  # a b
    check_a: Limbs  # a', which hides r a when rho is opened
    check_c: Limbs  # a' b


@dataclass(frozen=True)
class BitTriples:
    """One provider's shares of a, b, c = a & b: uint64 (n,) each."""

    a: Words
    b: Words
    c: Words  # a & b

    def __getitem__(self, words: slice | Places) -> BitTriples:
        return BitTriples(
            self.a[words],
            self.b[words],
            self.c[words],
        )


class CheckedWords:
    """Bit triples that were checked, each handed out once.

    Used twice, two openings would show a difference of inputs.
    """

    def __init__(self, dealt: BitTriples) -> None:
        self._dealt = dealt
        self._n_taken = 0

    def take(self, count: int) -> BitTriples:
        start = self._n_taken
        end = start + count
        # n_conjunctions counts what `is_negative` takes.
        assert end <= self._dealt.a.size
        self._n_taken = end
        return self._dealt[start:end]


def number_triples(
    seed: bytes,
    index: int,
    *,
    provider: int,
    ring: Ring,
    count: int,
    correction: bytes | None,
) -> NumberTriples:
    """`provider`'s triples number `index` of an order. That provider runs it, and the
    dealer for all.

    `seed` is 32 bytes, another for each provider; `correction` what `number_correction`
    gives, 8 n_limbs `count` bytes, for the last provider, None for the others. The user
    id is part of the stream: a dealer that gives two providers one seed gives them no
    common mask.

    ProtocolViolation `dealt` when seed or correction have another length.
    """
    stream = _stream(
        seed,
        _NUMBERS,
        index,
        provider,
    )
    a = ring.draw(stream, count)
    b = ring.draw(stream, count)
    check_a = ring.draw(stream, count)
    if correction is None:
        c = ring.draw(stream, count)
        check_c = ring.draw(stream, count)
    else:
        n_share_bytes = ring.n_bytes(count)
        _require_length(correction, 2 * n_share_bytes)
        c = ring.from_bytes(correction[:n_share_bytes], count)
        check_c = ring.from_bytes(correction[n_share_bytes:], count)
    return NumberTriples(
        a,
        b,
        c,
        check_a,
        check_c,
    )


def number_correction(
    seeds: Mapping[int, bytes],
    index: int,
    *,
    ring: Ring,
    count: int,
) -> bytes:
    """The last provider's shares of c and c'.

    The dealer runs it, with the seeds of all, in their order.
    """
    a = ring.zeros(count)
    b = ring.zeros(count)
    c = ring.zeros(count)
    check_a = ring.zeros(count)
    check_c = ring.zeros(count)
    *_, last_provider = seeds
    for provider, seed in seeds.items():
        dealt = number_triples(
            seed,
            index,
            provider=provider,
            ring=ring,
            count=count,
            correction=None,
        )
        a = ring.add(a, dealt.a)
        b = ring.add(b, dealt.b)
        check_a = ring.add(check_a, dealt.check_a)
        # The last provider's c is what is wanted here, not its stream's.
        if provider != last_provider:
            c = ring.add(c, dealt.c)
            check_c = ring.add(check_c, dealt.check_c)
    # c_last = a b - sum of the others' c, and the same of the check.
    last_c = ring.subtract(ring.multiply(a, b), c)
    last_check_c = ring.subtract(ring.multiply(check_a, b), check_c)
    return ring.to_bytes(last_c) + ring.to_bytes(last_check_c)


def bit_triples(
    seed: bytes,
    index: int,
    *,
    provider: int,
    count: int,
    correction: bytes | None,
) -> BitTriples:
    """`provider`'s `count` words of bit triples number `index`.

    Same roles and errors as `number_triples`. `seed` is 32 bytes, `correction` 8
    `count` bytes of `bit_correction` for the last provider, None for the others.
    """
    stream = _stream(
        seed,
        _BITS,
        index,
        provider,
    )
    a = stream.words(count)
    b = stream.words(count)
    if correction is None:
        c = stream.words(count)
    else:
        _require_length(correction, 8 * count)
        dealt = np.frombuffer(correction, dtype="<u8")
        c = dealt.astype(np.uint64, copy=False)
    return BitTriples(a, b, c)


def bit_correction(
    seeds: Mapping[int, bytes],
    index: int,
    *,
    count: int,
) -> bytes:
    """The last provider's shares of c.

    The dealer runs it, with the seeds of all, in their order.
    """
    a = np.zeros(count, dtype=np.uint64)
    b = np.zeros(count, dtype=np.uint64)
    c = np.zeros(count, dtype=np.uint64)
    *_, last_provider = seeds
    for provider, seed in seeds.items():
        dealt = bit_triples(
            seed,
            index,
            provider=provider,
            count=count,
            correction=None,
        )
        a ^= dealt.a
        b ^= dealt.b
        if provider != last_provider:
            c ^= dealt.c
    # c_last = (a & b) ^ the others' c
    last_c = (a & b) ^ c
    little = last_c.astype("<u8", copy=False)
    return bytes(little.tobytes())


@dataclass(frozen=True)
class Buckets:
    """N buckets of B words each, and B words that are opened."""

    n_buckets: int  # N
    size: int  # B

    @classmethod
    def of(cls, n_words: int) -> Buckets:
        """For at least `n_words` checked words: the smallest B with N / C(N B, B) <=
        2^-40.

        >>> Buckets.of(2**19).size, Buckets.of(1).size
        (3, 5)
        """
        n_buckets = max(n_words, FEWEST_WORDS)
        bucket_size = 2
        # N / C(N B, B) <= 2^-40 without a fraction: C(N B, B) >= N 2^40
        least = n_buckets << SECURITY_BITS
        while math.comb(n_buckets * bucket_size, bucket_size) < least:
            bucket_size += 1
        return cls(n_buckets, bucket_size)

    @property
    def n_dealt(self) -> int:
        """B N + B words."""
        return self.n_buckets * self.size + self.size

    def divide(self, shuffled: BitTriples) -> tuple[BitTriples, list[BitTriples]]:
        """The words that are opened; then those of the buckets, the first of all
        buckets, the second of all, ...
        """
        opened = shuffled[: self.size]
        members = []
        for start in range(self.size, self.n_dealt, self.n_buckets):
            end = start + self.n_buckets
            members.append(shuffled[start:end])
        return opened, members


def uniform_order(stream: Stream, count: int) -> Places:
    """A uniform order of `count` places.

    As `Stream.permutation` gives, in a sixth of the time for millions. Every provider
    runs it, on a stream of the group key, `count` below 2^32. Sorted are words whose
    low bits are the places; those whose random bits are equal are put in order by fresh
    words.
    """
    place_bits = np.uint64(count.bit_length())
    places = np.arange(count, dtype=np.uint64)
    random = stream.words(count) >> place_bits
    sort_keys = random << place_bits | places
    sort_keys.sort()
    one = np.uint64(1)
    place_mask = (one << place_bits) - one
    order = (sort_keys & place_mask).astype(np.intp)
    # Runs of equal random bits stand in the order of their places, which is not random.
    sorted_random = sort_keys >> place_bits
    is_new = sorted_random[1:] != sorted_random[:-1]
    begins_run = np.concatenate([[True], is_new])
    ends_run = np.append(begins_run[1:], True)
    is_alone = begins_run & ends_run
    tied = np.flatnonzero(~is_alone)
    # Within each run the places are put in the order of fresh words.
    run_of_tied = np.cumsum(begins_run)[tied]
    fresh_words = stream.words(tied.size)
    fresh = np.lexsort((fresh_words, run_of_tied))
    places_of_tied = order[tied]
    order[tied] = places_of_tied[fresh]
    return order


def linear_digest(stream: Stream, words: Words) -> int:
    """64 bits of uint64 (n,), by a random map that is linear over exclusive or.

    Words that are not all zero give zero with probability 2^-61 at most. Every provider
    runs it on its shares, on a stream of the group key.

    Blocks of 512 bytes become one word by tables, one per place, again and again until
    one word is left.
    """
    words_per_block = _BLOCK_BYTES // 8
    while True:
        n_needed = math.ceil(words.size / words_per_block)
        n_blocks = max(1, n_needed)
        n_padded = n_blocks * words_per_block
        padded = np.zeros(n_padded, dtype="<u8")
        padded[: words.size] = words
        octets = padded.view(np.uint8)
        blocks = octets.reshape(n_blocks, _BLOCK_BYTES)
        # Place by place beside each other, so that a table serves all blocks at once.
        octets_by_place = np.ascontiguousarray(blocks.T)
        words = np.zeros(n_blocks, dtype=np.uint64)
        places = zip(_tables(stream), octets_by_place, strict=True)
        for table, at_place in places:
            words ^= table[at_place]
        if words.size == 1:
            return int(words[0])


def _tables(stream: Stream) -> Words:
    """For each place of a block the words of all 256 bytes: uint64 (512, 256)."""
    random_words = stream.words(8 * _BLOCK_BYTES)
    basis = random_words.reshape(_BLOCK_BYTES, 8)
    tables = np.zeros((_BLOCK_BYTES, 256), dtype=np.uint64)
    # A byte's word is the exclusive or of its bits' words, so that bytes with one bit
    # more follow from those before.
    for bit in range(8):
        n_done = 1 << bit
        earlier_words = tables[:, :n_done]
        bit_words = basis[:, bit : bit + 1]
        tables[:, n_done : 2 * n_done] = earlier_words ^ bit_words
    return tables


def _stream(
    seed: bytes,
    tag: bytes,
    index: int,
    provider: int,
) -> Stream:
    _require_length(seed, SEED_BYTES)
    stream_info = b"%d/%d" % (provider, index)
    return Stream(seed, tag, stream_info)


def _require_length(data: bytes, length: int) -> None:
    if len(data) != length:
        raise ProtocolViolation(
            f"The coordinator dealt {len(data)} bytes instead of {length}.",
            remedy="All sides must run the same version of Consilium.",
            code="dealt",
        )
