"""Computing on numbers that nobody sees: additive shares among the providers, triples dealt by the coordinator.

A number is the sum of one share per provider in Z_2^K, a boolean the exclusive or of one bit per provider. What a
provider holds itself is shared as it stands: its value with it, zero with the others. Additions cost nothing. A product
opens both factors behind a triple that is used once (Beaver 1991):

    d = x - a,  e = y - b opened;   z_i = c_i + d b_i + e a_i  (+ d e at the first provider)

The sign of a number: every provider shares the bits of its own share; carry-save adders bring them to two numbers, a
tree of carries gives the highest bit of their sum. Results leave with a fresh sharing of zero added, from streams of
the pair keys, so that shares say nothing but their sum.

What a provider sends is its share less a mask that the dealer alone knows, sealed against the dealer. So nobody learns
anything of numbers in between as long as the coordinator conspires with no hospital; and `verify`, before a result is
released, stops an order in which a false triple was dealt.

Everything is a function of the keys, the inputs and what was dealt and opened: after a crash the same bytes are made.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from protocol.errors import ProtocolViolation
from protocol.shares import triples
from protocol.shares.ring import Limbs, Ring, Words, n_words, pack, unpack
from protocol.shares.triples import SECURITY_BITS, BitTriples, Buckets
from protocol.sums.masks import Stream

SEED = 0
"""What is dealt first, to every provider; number 1 + k is the correction of triples k, to the last provider."""

_CHALLENGE = b"consilium/sharing/challenge/1"
_ORDER = b"consilium/sharing/order/1"
_DIGEST = b"consilium/sharing/digest/1"
_RESULT = b"consilium/sharing/result/1"
_VERSION = 1
_HEADER = struct.Struct(">BBHQQ")
_CHALLENGE_LIMBS = 2


class Keys(Protocol):
    """Of `protocol.sealing.Session`: keys that are fresh for each run of an order."""

    @property
    def me(self) -> int: ...

    def pair_key(self, peer: int, info: bytes) -> bytes: ...

    def group_key(self, info: bytes) -> bytes: ...


class Channel(Protocol):
    """How one provider's messages travel. Numbers count from 0 within an order; each is used once."""

    def open(self, number: int, data: bytes) -> Mapping[int, bytes]:
        """Sends `data` to all other providers, sealed so that the coordinator cannot read it; all providers' data."""

    def dealt(self, number: int) -> bytes:
        """What the coordinator dealt to this provider, sealed or in clear: it knows it anyway."""


class Sharing:
    """One provider's end of a computation on shares of at most `bits` bits, the sign included.

    Numbers are uint32 (n_limbs, n), booleans uint64 (ceil(n / 64),). All providers make the same calls in the same
    order. ProtocolViolation `dealt` or `opening` when a message has another length.
    """

    def __init__(self, keys: Keys, channel: Channel, *, providers: Sequence[int], bits: int) -> None:
        self.providers = tuple(providers)
        self.ring, self._checked = rings(bits)
        self._keys, self._channel, self._me = keys, channel, keys.me
        self._n_opened = self._n_triples = 0
        self._difference, self._digest = 0, 0
        self._seed: bytes | None = None

    @property
    def _is_first(self) -> bool:
        return self._me == self.providers[0]

    # Numbers

    def number(self, values: NDArray[np.int64] | NDArray[np.object_] | None, count: int) -> Limbs:
        """The shares of what one provider holds: its integers there, None at the others."""
        return self.ring.zeros(count) if values is None else self.ring.encode(values)

    def constant(self, value: int, count: int) -> Limbs:
        """The first provider holds what all know."""
        numbers = self.ring.encode([value if self._is_first else 0])
        return np.broadcast_to(numbers, (self.ring.n_limbs, count))

    def linear(self, terms: Iterable[tuple[Limbs, int]], constant: Limbs) -> Limbs:
        """constant + sum of factor * number."""
        return reduce(self.ring.add, (self.ring.scale(x, factor) for x, factor in terms), constant)

    def product(self, x: Limbs, y: Limbs) -> Limbs:
        """x y, by a triple per element; the check of the triples is added to what `verify` opens."""
        ring, checked, count = self.ring, self._checked, x.shape[1]
        index = self._next_triples()
        dealt = triples.number_triples(**self._own_part(index), ring=checked, count=count)
        challenge = self._group_stream(_CHALLENGE, index).words(count).astype("<u8", copy=False).view("<u4")
        r = np.ascontiguousarray(challenge.reshape(-1, _CHALLENGE_LIMBS).T).astype(np.uint32, copy=False)
        rho = checked.subtract(checked.multiply(r, dealt.a), dealt.check_a)
        d, e, rho = self._open_numbers(
            (ring, ring.subtract(x, dealt.a)), (ring, ring.subtract(y, dealt.b)), (checked, rho)
        )
        self._difference += checked.total(checked.multiply(r, dealt.c)) - checked.total(dealt.check_c)
        self._difference -= checked.total(checked.multiply(rho, dealt.b))
        beside_e = ring.add(dealt.a, d) if self._is_first else dealt.a
        return ring.add(ring.add(dealt.c, ring.multiply(d, dealt.b)), ring.multiply(e, beside_e))

    def total(self, x: Limbs) -> int:
        """This provider's share of the sum over all elements."""
        return self.ring.total(x)

    # Booleans

    def boolean(self, values: NDArray[np.bool_] | None, count: int) -> Words:
        """The shares of what one provider holds."""
        return np.zeros(n_words(count), dtype=np.uint64) if values is None else pack(values)

    def exclusive(self, bits: Iterable[Words], *, constant: bool) -> Words:
        total = reduce(np.bitwise_xor, bits)
        return ~total if constant and self._is_first else total

    def conjunction(self, x: Words, y: Words) -> Words:
        return self._and(self._bit_triples(x.size), x, y)

    def is_negative(self, x: Limbs, width: int) -> Words:
        """Whether -2^(width - 1) <= x < 0; x must be below 2^(width - 1) in size."""
        planes = self.ring.planes(x, width)
        others = np.zeros_like(planes)
        numbers = [planes if provider == self._me else others for provider in self.providers]
        if len(numbers) == 1:
            top: Words = planes[-1]
            return top
        pool = self._bit_triples(n_conjunctions(width, len(numbers)) * planes.shape[1])
        while len(numbers) > 2:
            numbers = [*numbers[3:], *self._save_carries(pool, *numbers[:3])]
        left, right = numbers
        carries = self._carry(pool, self._and(pool, left[:-1], right[:-1]), left[:-1] ^ right[:-1])
        highest: Words = left[-1] ^ right[-1] ^ carries
        return highest

    def part(self, bits: Words, provider: int, count: int) -> Limbs:
        """`provider`'s own share of booleans, as its numbers 0 and 1."""
        own = unpack(bits, count).astype(np.int64) if provider == self._me else None
        return self.number(own, count)

    def _save_carries(self, pool: _Pool, x: Words, y: Words, z: Words) -> tuple[Words, Words]:
        """x + y + z = (x ^ y ^ z) + 2 majority(x, y, z)."""
        majority = self._and(pool, (x ^ z)[:-1], (y ^ z)[:-1]) ^ z[:-1]
        return x ^ y ^ z, np.concatenate([np.zeros_like(x[:1]), majority])

    def _carry(self, pool: _Pool, made: Words, passed: Words) -> Words:
        """The carry out of the highest bit, of which each bit makes one or passes one on (Brent and Kung 1982)."""
        while len(made) > 1:
            pairs = len(made) // 2
            upper, lower = slice(1, 2 * pairs, 2), slice(0, 2 * pairs, 2)
            both = self._and(
                pool, np.concatenate([passed[upper]] * 2), np.concatenate([made[lower], passed[lower]])
            )
            made = np.concatenate([made[upper] ^ both[:pairs], made[2 * pairs :]])
            passed = np.concatenate([both[pairs:], passed[2 * pairs :]])
        carry: Words = made[0]
        return carry

    def _and(self, pool: _Pool, x: Words, y: Words) -> Words:
        dealt = pool.take(x.size)
        d, e = self._open_words(x.ravel() ^ dealt.a, y.ravel() ^ dealt.b)
        z: Words = dealt.c ^ (d & dealt.b) ^ (e & dealt.a)
        return (z ^ (d & e) if self._is_first else z).reshape(x.shape)

    def _bit_triples(self, count: int) -> _Pool:
        """`count` words of triples, each checked against those of its bucket; what `verify` opens is added to."""
        index, buckets = self._next_triples(), Buckets.of(count)
        dealt = triples.bit_triples(**self._own_part(index), count=buckets.n_dealt)
        order = triples.uniform_order(self._group_stream(_ORDER, index), buckets.n_dealt)
        a, b, c = (words[order] for words in (dealt.a, dealt.b, dealt.c))
        rest, shape = slice(buckets.size, None), (buckets.size, buckets.n_buckets)
        first, *others = (
            BitTriples(*t) for t in zip(*(w[rest].reshape(shape) for w in (a, b, c)), strict=True)
        )
        self._check_bits(index, first, others, opened=BitTriples(*(w[: buckets.size] for w in (a, b, c))))
        return _Pool(first)

    def _check_bits(
        self, index: int, first: BitTriples, others: list[BitTriples], *, opened: BitTriples
    ) -> None:
        masked = [word for other in others for word in (first.a ^ other.a, first.b ^ other.b)]
        a, b, *masked = self._open_words(opened.a, opened.b, *masked)
        found = [opened.c ^ (a & b) if self._is_first else opened.c]
        for other, d, e in zip(others, masked[::2], masked[1::2], strict=True):
            z = first.c ^ other.c ^ (d & other.b) ^ (e & other.a)
            found.append(z ^ (d & e) if self._is_first else z)
        self._digest ^= triples.linear_digest(self._group_stream(_DIGEST, index), np.concatenate(found))

    # Verification and results

    def verify(self) -> None:
        """Stops the order, with ProtocolViolation `false_triple`, unless all triples used so far were true.

        Run before a result is released.
        """
        if not self._n_triples:
            return
        ring = self._checked
        mine = ring.encode([self._difference]), np.array([self._digest], dtype=np.uint64)
        found = self._open(ring.to_bytes(mine[0]) + mine[1].astype("<u8").tobytes())
        difference = reduce(ring.add, (ring.from_bytes(data[:-8], 1) for data in found))
        digest = reduce(int.__xor__, (int.from_bytes(data[-8:], "little") for data in found))
        if difference.any() or digest:
            raise ProtocolViolation(
                "The coordinator dealt a false triple.",
                remedy="Nothing of the result was released. Check the coordinator before the order is sent again.",
                code="false_triple",
            )

    def result(self, numbers: Limbs, bits: Words, *, n_rows: int) -> ResultShare:
        """Numbers (n_limbs, m) and booleans (q, ceil(n_rows / 64)) that say nothing without the other providers'."""
        words = bits
        for peer in self.providers:
            if peer == self._me:
                continue
            stream = Stream(self._keys.pair_key(peer, b"sharing/result"), _RESULT, b"")
            mask = self.ring.draw(stream, numbers.shape[1])
            numbers = (self.ring.add if self._me < peer else self.ring.subtract)(numbers, mask)
            words = words ^ stream.words(bits.size).reshape(bits.shape)
        return ResultShare(n_rows, numbers, words)

    # Messages

    def _open(self, data: bytes) -> list[bytes]:
        """Every provider's data of this opening, of one length."""
        number, self._n_opened = self._n_opened, self._n_opened + 1
        if len(self.providers) == 1:
            return [data]
        found = self._channel.open(number, data)
        if set(found) != set(self.providers) or any(len(other) != len(data) for other in found.values()):
            raise ProtocolViolation(
                "A provider's opening is missing, or has another length.",
                remedy="All sides must run the same version of Consilium.",
                code="opening",
            )
        return [found[provider] for provider in self.providers]

    def _open_numbers(self, *shares: tuple[Ring, Limbs]) -> list[Limbs]:
        found = self._open(b"".join(ring.to_bytes(x) for ring, x in shares))
        opened, start = [], 0
        for ring, x in shares:
            end = start + ring.n_bytes(x.shape[1])
            opened.append(reduce(ring.add, (ring.from_bytes(data[start:end], x.shape[1]) for data in found)))
            start = end
        return opened

    def _open_words(self, *shares: Words) -> list[Words]:
        found = self._open(np.concatenate(shares).astype("<u8", copy=False).tobytes())
        total = np.bitwise_xor.reduce([np.frombuffer(data, dtype="<u8") for data in found])
        return np.split(total.astype(np.uint64, copy=False), np.cumsum([x.size for x in shares])[:-1])

    def _next_triples(self) -> int:
        self._n_triples += 1
        return self._n_triples - 1

    def _own_part(self, index: int) -> dict[str, Any]:
        """What this provider makes its shares of triples number `index` from."""
        if self._seed is None:
            self._seed = self._channel.dealt(SEED)
        correction = self._channel.dealt(1 + index) if self._me == self.providers[-1] else None
        return {"seed": self._seed, "index": index, "provider": self._me, "correction": correction}

    def _group_stream(self, tag: bytes, index: int) -> Stream:
        return Stream(self._keys.group_key(b"sharing/check"), tag, b"%d" % index)


class _Pool:
    """Checked bit triples, each handed out once."""

    def __init__(self, dealt: BitTriples) -> None:
        self._dealt, self._taken = dealt, 0

    def take(self, count: int) -> BitTriples:
        part = slice(self._taken, self._taken + count)
        self._taken += count
        assert self._taken <= self._dealt.a.size  # n_conjunctions counts what `is_negative` takes
        return BitTriples(self._dealt.a[part], self._dealt.b[part], self._dealt.c[part])


def rings(bits: int) -> tuple[Ring, Ring]:
    """The ring of numbers, and the larger one in which triples are checked."""
    numbers = Ring.of_bits(bits)
    return numbers, Ring.of_bits(numbers.bits + SECURITY_BITS)


def n_conjunctions(width: int, n_providers: int) -> int:
    """How many `and` of bit planes the sign of numbers of `width` bits takes."""
    if n_providers == 1:
        return 0
    below = width - 1
    total, left = below * (n_providers - 1), below
    while left > 1:
        total, left = total + 2 * (left // 2), left - left // 2
    return total


@dataclass(frozen=True)
class ResultShare:
    """A provider to a receiver, sealed to it: its shares of the result's numbers and booleans.

    numbers uint32 (n_limbs, m), bits uint64 (q, ceil(n_rows / 64)). Encoded: version, q, n_limbs, n_rows, m, then both
    arrays little-endian.

    Disclosure: uniform but for the sum over all providers, which is the result.
    """

    n_rows: int
    numbers: Limbs
    bits: Words

    def encode(self) -> bytes:
        n_limbs, m = self.numbers.shape
        header = _HEADER.pack(_VERSION, len(self.bits), n_limbs, self.n_rows, m)
        return header + Ring(n_limbs).to_bytes(self.numbers) + self.bits.astype("<u8").tobytes()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        if len(data) < _HEADER.size:
            raise _bad_share("is shorter than its header")
        version, q, n_limbs, n_rows, m = _HEADER.unpack_from(data)
        end = _HEADER.size + 4 * n_limbs * m
        if version != _VERSION or not n_limbs or len(data) != end + 8 * q * n_words(n_rows):
            raise _bad_share("is not of this version, or not as long as its header says")
        numbers = Ring(n_limbs).from_bytes(data[_HEADER.size : end], m)
        bits = np.frombuffer(data[end:], dtype="<u8").reshape(q, n_words(n_rows))
        return cls(n_rows, numbers, bits.astype(np.uint64, copy=False))


def open_result(shares: Sequence[ResultShare]) -> tuple[list[int], NDArray[np.bool_]]:
    """The numbers, and booleans (q, n_rows), of all providers' shares. A receiver runs it.

    ProtocolViolation `result_share` when they do not belong together.
    """
    if not shares or len({(s.n_rows, s.numbers.shape, s.bits.shape) for s in shares}) != 1:
        raise _bad_share("is of another result than the others")
    ring = Ring(len(shares[0].numbers))
    numbers = ring.decode(reduce(ring.add, (share.numbers for share in shares)))
    bits = np.bitwise_xor.reduce([share.bits for share in shares])
    rows = [unpack(row, shares[0].n_rows) for row in bits]
    return numbers, np.array(rows, dtype=bool).reshape(len(bits), shares[0].n_rows)


def _bad_share(what: str) -> ProtocolViolation:
    return ProtocolViolation(
        f"A provider's share of the result {what}.",
        remedy="Use one version of Consilium at all parties.",
        code="result_share",
    )
