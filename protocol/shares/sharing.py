"""Computing on numbers that nobody sees: additive shares among the providers, triples
dealt by the coordinator.

A number is the sum of one share per provider in Z_2^K, a boolean the exclusive or of
one bit per provider. What a provider holds itself is shared as it stands: its value
with it, zero with the others. Additions cost nothing. A product opens both factors
behind a triple that is used once (Beaver 1991):

    d = x - a,  e = y - b opened;   z_i = c_i + d b_i + e a_i  (+ d e at the first provider)

The sign of a number: every provider shares the bits of its own share; carry-save adders
bring them to two numbers, a tree of carries gives the highest bit of their sum. Results
leave with a fresh sharing of zero added, from streams of the pair keys, so that shares
say nothing but their sum.

What a provider sends is its share less a mask that the dealer alone knows, sealed
against the dealer. So nobody learns anything of numbers in between as long as the
coordinator conspires with no hospital; and `verify`, before a result is released, stops
an order in which a false triple was dealt.

Everything is a function of the keys, the inputs and what was dealt and opened: after a
crash the same bytes are made.

`channel` has what is asked of the outside, `sizes` how much is dealt, `ring` the
arithmetic, `triples` what is dealt and how it is checked, `result` what leaves at the
end. `protocol/shares/shared_expression.py` calls this step by step, as
`analytics/statistics/compiling.py` wrote the steps down. Decision 35.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from analytics.arrays import Bools, Ints
from protocol.errors import ProtocolViolation
from protocol.shares import triples
from protocol.shares.channel import SEED, Channel, Keys
from protocol.shares.result import ResultShare, with_zero
from protocol.shares.ring import Limbs, Ring, Words, n_words, pack, unpack
from protocol.shares.sizes import n_conjunctions, rings
from protocol.shares.triples import BitTriples, Buckets, CheckedWords, NumberTriples
from protocol.sums.masks import Stream

_CHALLENGE = b"consilium/sharing/challenge/1"
_ORDER = b"consilium/sharing/order/1"
_DIGEST = b"consilium/sharing/digest/1"
# r_j of the check of triples has 64 bits.
_CHALLENGE_LIMBS = 2
_DIGEST_BYTES = 8


class Sharing:
    """One provider's end of a computation on shares of at most `bits` bits, the sign
    included. Each provider has one.

    Numbers are uint32 (n_limbs, n), booleans uint64 (ceil(n / 64),). All providers make
    the same calls in the same order. ProtocolViolation `dealt` or `opening` when a
    message has another length.
    """

    def __init__(
        self,
        keys: Keys,
        channel: Channel,
        *,
        providers: Sequence[int],
        bits: int,
    ) -> None:
        self.providers = tuple(providers)
        self.ring, self._larger_ring = rings(bits)
        self._keys = keys
        self._channel = channel
        self._me = keys.me
        self._n_opened = 0
        self._n_triples = 0
        # What `verify` opens: this provider's shares of zero, unless a triple was
        # false.
        # Of number triples, in the larger ring.
        self._difference = 0
        # Of bit triples, by exclusive or.
        self._digest = 0
        # Dealt; None until the first triple is needed.
        self._seed: bytes | None = None

    @property
    def _is_first(self) -> bool:
        """Whether this provider adds what is public, which only one may."""
        return self._me == self.providers[0]

    # Numbers

    def number(self, values: Ints | NDArray[np.object_] | None, count: int) -> Limbs:
        """The shares of what one provider holds: its integers there, None at the
        others.
        """
        if values is None:
            return self.ring.zeros(count)
        return self.ring.encode(values)

    def constant(self, value: int, count: int) -> Limbs:
        """The first provider holds what all know."""
        own_share = value if self._is_first else 0
        column = self.ring.encode([own_share])
        shape = (self.ring.n_limbs, count)
        return np.broadcast_to(column, shape)

    def linear(self, terms: Iterable[tuple[Limbs, int]], constant: Limbs) -> Limbs:
        """constant + sum of factor * number."""
        linear_sum = constant
        for number, factor in terms:
            scaled = self.ring.scale(number, factor)
            linear_sum = self.ring.add(linear_sum, scaled)
        return linear_sum

    def product(self, x: Limbs, y: Limbs) -> Limbs:
        """x y, by a triple per element; the check of the triples is added to what
        `verify` opens.
        """
        ring = self.ring
        larger = self._larger_ring
        count = x.shape[1]
        index = self._next_triples()
        dealt = triples.number_triples(
            self._dealt_seed(),
            index,
            provider=self._me,
            ring=larger,
            count=count,
            correction=self._dealt_correction(index),
        )
        r = self._challenge(index, count)
        # rho is opened together with d = x - a and e = y - b (Damgard et al. 2012).
        own_d = ring.subtract(x, dealt.a)
        own_e = ring.subtract(y, dealt.b)
        own_rho = self._own_rho(dealt, r)
        d, e, rho = self._open_numbers(
            _Hidden(ring, own_d),
            _Hidden(ring, own_e),
            _Hidden(larger, own_rho),
        )
        self._difference += self._deviation(dealt, r, rho)
        # z_i = c_i + d b_i + e a_i (Beaver 1991); the first provider's e (a_i + d) adds
        # d e once.
        z = ring.add(dealt.c, ring.multiply(d, dealt.b))
        beside_e = dealt.a
        if self._is_first:
            beside_e = ring.add(dealt.a, d)
        rest = ring.multiply(e, beside_e)
        return ring.add(z, rest)

    def _own_rho(self, dealt: NumberTriples, r: Limbs) -> Limbs:
        """This provider's share of rho_j = r_j a_j - a'_j."""
        ring = self._larger_ring
        r_a = ring.multiply(r, dealt.a)
        return ring.subtract(r_a, dealt.check_a)

    def _deviation(self, dealt: NumberTriples, r: Limbs, rho: Limbs) -> int:
        """sum_j r_j c_j - c'_j - rho_j b_j, zero for true triples."""
        ring = self._larger_ring
        r_c = ring.multiply(r, dealt.c)
        rho_b = ring.multiply(rho, dealt.b)
        deviation = ring.total(r_c)
        deviation -= ring.total(dealt.check_c)
        deviation -= ring.total(rho_b)
        return deviation

    def _challenge(self, index: int, count: int) -> Limbs:
        """r_j of 64 bits for each of triples number `index`: uint32 (2, count)."""
        # From the group key, which the dealer lacks: it cannot deal false triples that
        # fit.
        stream = self._group_stream(_CHALLENGE, index)
        ring = Ring(_CHALLENGE_LIMBS)
        n_bytes = ring.n_bytes(count)
        drawn_bytes = stream.read(n_bytes)
        return ring.from_bytes_by_row(drawn_bytes)

    def total(self, x: Limbs) -> int:
        """This provider's share of the sum over all elements."""
        return self.ring.total(x)

    # Booleans

    def boolean(self, values: Bools | None, count: int) -> Words:
        """The shares of what one provider holds."""
        if values is None:
            size = n_words(count)
            return np.zeros(size, dtype=np.uint64)
        return pack(values)

    def exclusive(self, bits: Iterable[Words], *, constant: bool) -> Words:
        """constant xor all of `bits`: as a sum, each provider's shares for itself."""
        combined_bits = reduce(np.bitwise_xor, bits)
        if constant and self._is_first:
            return ~combined_bits
        return combined_bits

    def conjunction(self, x: Words, y: Words) -> Words:
        """x & y, by a checked bit triple per element."""
        pool = self._bit_triples(x.size)
        return self._and(pool, x, y)

    def is_negative(self, x: Limbs, width: int) -> Words:
        """Whether -2^(width - 1) <= x < 0; x must be below 2^(width - 1) in size."""
        own_planes = self.ring.planes(x, width)
        if len(self.providers) == 1:
            sign: Words = own_planes[-1]
            return sign
        # x is the sum of the providers' own shares, each of which one provider knows
        # bit by bit: it shares the bits as they stand, the others zeros.
        zeros = np.zeros_like(own_planes)
        numbers: list[Words] = []
        for provider in self.providers:
            shared = own_planes if provider == self._me else zeros
            numbers.append(shared)
        n_words_by_plane = own_planes.shape[1]
        n_planes = n_conjunctions(width, len(numbers))
        pool = self._bit_triples(n_planes * n_words_by_plane)
        # A carry-save adder makes two numbers of three.
        while len(numbers) > 2:
            first, second, third, *rest = numbers
            parity, majority = self._save_carries(pool, first, second, third)
            numbers = [*rest, parity, majority]
        # The highest bit of the sum of two numbers: both highest bits and the carry
        # into it.
        left, right = numbers
        left_below = left[:-1]
        right_below = right[:-1]
        made = self._and(pool, left_below, right_below)
        passed = left_below ^ right_below
        carry = self._carry(pool, made, passed)
        highest: Words = left[-1] ^ right[-1]
        return highest ^ carry

    def part(self, bits: Words, provider: int, count: int) -> Limbs:
        """`provider`'s own share of booleans, as its numbers 0 and 1."""
        if provider != self._me:
            return self.number(None, count)
        flags = unpack(bits, count)
        own_numbers = flags.astype(np.int64)
        return self.number(own_numbers, count)

    def _save_carries(
        self,
        pool: CheckedWords,
        x: Words,
        y: Words,
        z: Words,
    ) -> tuple[Words, Words]:
        """x + y + z = (x ^ y ^ z) + 2 majority(x, y, z)."""
        # majority = ((x ^ z) & (y ^ z)) ^ z takes one `and`; its highest bit would be
        # carried out of the width.
        x_differs = (x ^ z)[:-1]
        y_differs = (y ^ z)[:-1]
        differ = self._and(pool, x_differs, y_differs)
        majority = differ ^ z[:-1]
        # Twice the majority: its bits move up by one.
        lowest = np.zeros_like(x[:1])
        doubled = np.concatenate([lowest, majority])
        return x ^ y ^ z, doubled

    def _carry(self, pool: CheckedWords, made: Words, passed: Words) -> Words:
        """The carry out of the highest bit, of which each bit makes one or passes one
        on (Brent and Kung 1982).
        """
        while len(made) > 1:
            n_pairs = len(made) // 2
            n_paired = 2 * n_pairs
            upper = slice(1, n_paired, 2)
            lower = slice(0, n_paired, 2)
            # Of a pair: made = upper made ^ (upper passed & lower made), passed = upper
            # passed & lower passed. Both conjunctions are opened in one message.
            upper_passed = passed[upper]
            conjunctions = self._and(
                pool,
                np.concatenate([upper_passed, upper_passed]),
                np.concatenate([made[lower], passed[lower]]),
            )
            pair_made = made[upper] ^ conjunctions[:n_pairs]
            pair_passed = conjunctions[n_pairs:]
            # Of an odd number the highest stays alone until the next step.
            made_alone = made[n_paired:]
            passed_alone = passed[n_paired:]
            made = np.concatenate([pair_made, made_alone])
            passed = np.concatenate([pair_passed, passed_alone])
        carry: Words = made[0]
        return carry

    def _and(self, pool: CheckedWords, x: Words, y: Words) -> Words:
        """x & y: z_i = c_i ^ (d & b_i) ^ (e & a_i) (Beaver 1991).

        d = x ^ a and e = y ^ b are opened; the first provider adds d & e, once.
        """
        dealt = pool.take(x.size)
        own_d = x.ravel() ^ dealt.a
        own_e = y.ravel() ^ dealt.b
        d, e = self._open_words(own_d, own_e)
        z = self._conjunctions(dealt, d, e)
        return z.reshape(x.shape)

    def _conjunctions(self, dealt: BitTriples, d: Words, e: Words) -> Words:
        """c_i ^ (d & b_i) ^ (e & a_i), and at the first provider d & e."""
        z: Words = dealt.c ^ (d & dealt.b) ^ (e & dealt.a)
        if self._is_first:
            z = z ^ (d & e)
        return z

    def _bit_triples(self, count: int) -> CheckedWords:
        """`count` words of triples, each checked against those of its bucket.

        What `verify` opens is added to.
        """
        index = self._next_triples()
        buckets = Buckets.of(count)
        dealt = triples.bit_triples(
            self._dealt_seed(),
            index,
            provider=self._me,
            count=buckets.n_dealt,
            correction=self._dealt_correction(index),
        )
        # The order is from the group key, which the dealer lacks: it cannot put its
        # false words into one bucket.
        stream = self._group_stream(_ORDER, index)
        order = triples.uniform_order(stream, buckets.n_dealt)
        shuffled = dealt[order]
        opened, members = buckets.divide(shuffled)
        first_triples, *others = members
        self._check_bits(
            index,
            first_triples,
            others,
            opened=opened,
        )
        return CheckedWords(first_triples)

    def _check_bits(
        self,
        index: int,
        first: BitTriples,
        others: list[BitTriples],
        *,
        opened: BitTriples,
    ) -> None:
        """Adds to the digest what is zero in the sum over providers if all are true.

        Of the triples that are opened it is c ^ (a & b); of the others, against the
        first of their bucket, c_1 ^ c_k ^ (d & b_k) ^ (e & a_k) ^ (d & e), with d = a_1
        ^ a_k and e = b_1 ^ b_k opened.
        """
        own_differences: list[Words] = []
        for other_triples in others:
            own_d = first.a ^ other_triples.a
            own_e = first.b ^ other_triples.b
            own_differences += [own_d, own_e]
        # All in one message: a and b of the opened, then d and e of each other.
        a, b, *differences = self._open_words(opened.a, opened.b, *own_differences)
        checked_words = [opened.c]
        if self._is_first:
            conjunction = a & b
            checked_words = [opened.c ^ conjunction]
        all_d = differences[::2]
        all_e = differences[1::2]
        opened_differences = zip(others, all_d, all_e, strict=True)
        for other_triples, d, e in opened_differences:
            z = self._conjunctions(other_triples, d, e)
            checked_words.append(first.c ^ z)
        stream = self._group_stream(_DIGEST, index)
        joined_words = np.concatenate(checked_words)
        self._digest ^= triples.linear_digest(stream, joined_words)

    # Verification and results

    def verify(self) -> None:
        """Stops the order, with ProtocolViolation `false_triple`, unless all triples
        used so far were true.

        Run before a result is released.
        """
        if not self._n_triples:
            return
        ring = self._larger_ring
        encoded = ring.encode([self._difference])
        own_difference = ring.to_bytes(encoded)
        own_digest = self._digest.to_bytes(_DIGEST_BYTES, "little")
        difference = ring.zeros(1)
        digest = 0
        for opening in self._open(own_difference + own_digest):
            of_difference = opening[:-_DIGEST_BYTES]
            of_digest = opening[-_DIGEST_BYTES:]
            difference_share = ring.from_bytes(of_difference, 1)
            difference = ring.add(difference, difference_share)
            digest ^= int.from_bytes(of_digest, "little")
        if difference.any() or digest:
            raise ProtocolViolation(
                "The coordinator dealt a false triple.",
                remedy="Nothing of the result was released. Check the coordinator before the order is sent again.",
                code="false_triple",
            )

    def result(self, numbers: Limbs, bits: Words, *, n_rows: int) -> ResultShare:
        """Numbers (n_limbs, m) and booleans (q, ceil(n_rows / 64)).

        They say nothing without the other providers': a fresh sharing of zero is added.
        """
        result_share = ResultShare(n_rows, numbers, bits)
        return with_zero(
            result_share,
            ring=self.ring,
            keys=self._keys,
            providers=self.providers,
        )

    # Messages

    def _open(self, data: bytes) -> list[bytes]:
        """Every provider's data of this opening, of one length."""
        number = self._n_opened
        self._n_opened += 1
        if len(self.providers) == 1:
            return [data]
        openings = self._channel.open(number, data)
        is_complete = set(openings) == set(self.providers)
        lengths = {len(opening) for opening in openings.values()}
        own_length = len(data)
        if not is_complete or lengths != {own_length}:
            raise ProtocolViolation(
                "A provider's opening is missing, or has another length.",
                remedy="All sides must run the same version of Consilium.",
                code="opening",
            )
        return [openings[provider] for provider in self.providers]

    def _open_numbers(self, *hidden: _Hidden) -> list[Limbs]:
        """The numbers of which all providers hold these shares, in one message each."""
        own_bytes = b"".join(ring.to_bytes(share) for ring, share in hidden)
        openings = self._open(own_bytes)
        opened = []
        start = 0
        for ring, share in hidden:
            n_numbers = share.shape[1]
            end = start + ring.n_bytes(n_numbers)
            shares = [
                ring.from_bytes(opening[start:end], n_numbers) for opening in openings
            ]
            number = reduce(ring.add, shares)
            opened.append(number)
            start = end
        return opened

    def _open_words(self, *shares: Words) -> list[Words]:
        """The same of booleans, which add up by exclusive or."""
        own_words = np.concatenate(shares).astype("<u8", copy=False)
        openings = self._open(own_words.tobytes())
        word_shares = [np.frombuffer(opening, dtype="<u8") for opening in openings]
        xored_words = np.bitwise_xor.reduce(word_shares)
        opened_words = xored_words.astype(np.uint64, copy=False)
        share_sizes = [share.size for share in shares]
        ends = np.cumsum(share_sizes)
        return np.split(opened_words, ends[:-1])

    def _next_triples(self) -> int:
        """The number of the triples that are used next."""
        index = self._n_triples
        self._n_triples += 1
        return index

    def _dealt_seed(self) -> bytes:
        """What all of this provider's shares are made from, but for the corrections."""
        if self._seed is None:
            self._seed = self._channel.dealt(SEED)
        return self._seed

    def _dealt_correction(self, index: int) -> bytes | None:
        """The last provider's shares of c of triples number `index`.

        The others make theirs themselves.
        """
        if self._me != self.providers[-1]:
            return None
        return self._channel.dealt(1 + index)

    def _group_stream(self, tag: bytes, index: int) -> Stream:
        group_key = self._keys.group_key(b"sharing/check")
        return Stream(group_key, tag, b"%d" % index)


class _Hidden(NamedTuple):
    """One provider's share of numbers that are to be opened."""

    ring: Ring
    share: Limbs
