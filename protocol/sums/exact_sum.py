"""Exact integers of several providers, added by a coordinator that cannot read them and
opened by the receivers only.

    seal(keys, values, ...)     at each provider    v_i + pair masks + own mask   modulo 2^(width + 64)
    Adder().add, .total         at the coordinator  the sum of what it cannot read, as it comes
    open_total(keys, total, ..) at each receiver    own masks taken off, the tag checked

Pair masks cancel in the sum over all providers. Each provider's own mask comes from a
32-byte seed that it seals to the receivers alone, so a provider that receives nothing
cannot open the sum either.

Behind the values stands a tag, sum_j a_j v_j modulo 2^(width + 64) with a_j of 64 bits
from the group key, which the coordinator lacks. Values are below 2^(width - 1) in size.
A coordinator that adds d to a value must add a_j d to the tag: where 2^width does not
divide d it guesses at least 64 bits (as in SPDZ2k, Cramer et al. 2018); where it does,
the value leaves its range.

The width is fixed by the kind of number, never by the data, whose magnitude it would
show.

Decisions 32 and 34. The integers are made in `agents/rows/exact_totals.py`, and read in
`analytics/statistics/exact.py`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from protocol.errors import (
    ProtocolViolation,
    listed,
    other_version,
    sent_by,
    who_differ,
)
from protocol.sums import masks

TAG_BITS = 64
_VERSION = 1
_HEADER = struct.Struct(">BxHI")
_INFO = b"consilium/exact-sum/1"


@dataclass(frozen=True)
class Terms:
    """What all parties of a sum must agree on.

    Whoever differs in one has other masks and tags, and the sum is noise that its tag
    shows.
    """

    providers: tuple[int, ...]  # user ids, sorted
    width: int  # bits of a value with its sign, a multiple of 8
    count: int  # values, without the tag
    name: bytes  # which sum of the order

    @property
    def modulus(self) -> int:
        """2^(width + 64)."""
        return 1 << (self.width + TAG_BITS)

    @property
    def info(self) -> bytes:
        """SHA-256 over all of them, 32 bytes: what masks and tag are derived from."""
        n_providers = len(self.providers)
        numbers = struct.pack(
            ">HII",
            self.width,
            self.count,
            n_providers,
        )
        ids_format = f">{n_providers}Q"
        providers = struct.pack(ids_format, *self.providers)
        digest_input = _INFO + numbers + providers + self.name
        digest = hashlib.sha256(digest_input)
        return digest.digest()


def seal(
    values: Sequence[int],
    terms: Terms,
    *,
    me: int,
    pair_keys: Mapping[int, bytes],
    tag_key: bytes,
    seed: bytes,
) -> bytes:
    """One provider's part.

    A provider runs it, once for each `terms` of an order: sealed again with other
    values, the difference of the two would be in clear.

    values: `terms.count` integers, |sum over providers| < 2^(width - 1); pair_keys: 32
    bytes for each provider that this one masks with (`mask_graph.peers`); tag_key: 32
    bytes that all parties hold; seed: 32 bytes that this provider sealed to the
    receivers. ProtocolViolation when a value or
    the number of values does not fit.
    """
    is_complete = len(values) == terms.count
    if not is_complete or not _in_range(values, terms.width):
        raise other_version(
            "payload",
            "A sum's values are not of the size that all parties agreed on.",
        )
    tag = _tag(values, terms, tag_key)
    tagged = [*values, tag]
    n_tagged = len(tagged)
    info = terms.info
    modulus = terms.modulus
    pair_masks = masks.mask_modulo(
        pair_keys,
        me,
        modulus,
        n_tagged,
        info,
    )
    own_masks = masks.group_modulo(
        seed,
        me,
        modulus,
        n_tagged,
        info,
    )
    masked = []
    summands = zip(
        tagged,
        pair_masks,
        own_masks,
        strict=True,
    )
    for value, pair_mask, own_mask in summands:
        number = value + pair_mask + own_mask
        masked.append(number % modulus)
    return _encode(masked, terms.width)


def add(parts: Mapping[int, bytes]) -> bytes:
    """The sum of all providers' parts, which are all there; see `Adder`."""
    adder = Adder()
    for user_id, part in parts.items():
        adder.add(user_id, part)
    return adder.total()


class Adder:
    """Adds providers' parts one after another, as they come, and keeps none of them.

    The coordinator runs it; it sees uniform numbers.
    """

    def __init__(self) -> None:
        # By provider, (width, count) of its part; all must have the same.
        self._sizes: dict[int, tuple[int, int]] = {}
        self._numbers: list[int] = []

    def add(self, user: int, data: bytes) -> None:
        """Adds one provider's part, by its user id.

        ProtocolViolation when it is malformed, or there already.
        """
        with sent_by(user):
            provider_part = _decode(data)
            if user in self._sizes:
                raise other_version("payload", "A part of a sum came twice.")
        n_numbers = len(provider_part.numbers)
        part_size = (provider_part.width, n_numbers)
        part_sizes = iter(self._sizes.values())
        first_size = next(part_sizes, part_size)
        if not self._sizes:
            self._numbers = provider_part.numbers
        elif part_size == first_size:
            modulus = 1 << (provider_part.width + TAG_BITS)
            pairs = zip(self._numbers, provider_part.numbers, strict=True)
            self._numbers = [(total + number) % modulus for total, number in pairs]
        self._sizes[user] = part_size

    def total(self) -> bytes:
        """The sum of the parts of one provider or more.

        ProtocolViolation with the `hospitals` whose width or count differs.
        """
        if named := who_differ(self._sizes):
            raise other_version(
                "payload",
                f"The providers' parts of a sum are of different sizes: {listed(named)}.",
                hospitals=named,
            )
        part_sizes = iter(self._sizes.values())
        width, _ = next(part_sizes)
        return _encode(self._numbers, width)


def open_total(
    total: bytes,
    terms: Terms,
    *,
    tag_key: bytes,
    seeds: Mapping[int, bytes],
) -> list[int]:
    """The sums, `terms.count` signed integers.

    A receiver runs it, with every provider's seed.

    tag_key: 32 bytes that all parties hold; seeds: 32 bytes by provider, as each sealed
    them to the receivers.

    ProtocolViolation (code sum_mismatch) unless it is the sum of exactly these
    providers' parts, unaltered.
    """
    decoded = _decode(total)
    numbers = decoded.numbers
    n_numbers = len(numbers)
    if decoded.width != terms.width or n_numbers != terms.count + 1:
        raise _mismatch()
    if set(seeds) != set(terms.providers):
        raise _mismatch()
    # Pair masks have cancelled in the sum; every provider's own mask is taken off.
    info = terms.info
    modulus = terms.modulus
    for provider, seed in seeds.items():
        own_masks = masks.group_modulo(
            seed,
            provider,
            modulus,
            n_numbers,
            info,
        )
        pairs = zip(numbers, own_masks, strict=True)
        numbers = [(number - own_mask) % modulus for number, own_mask in pairs]
    *opened_sums, opened_tag = [_signed(number, modulus) for number in numbers]
    # A change by a multiple of 2^width leaves the range, every other one the tag
    # (Cramer et al. 2018).
    if not _in_range(opened_sums, terms.width):
        raise _mismatch()
    expected_tag = _tag(opened_sums, terms, tag_key)
    if (expected_tag - opened_tag) % modulus:
        raise _mismatch()
    return opened_sums


def _in_range(values: Sequence[int], width: int) -> bool:
    """Whether every |value| < 2^(width - 1)."""
    limit = 1 << (width - 1)
    return all(abs(value) < limit for value in values)


def _tag(
    values: Sequence[int],
    terms: Terms,
    tag_key: bytes,
) -> int:
    """sum_j a_j v_j modulo 2^(width + 64), a_j of 64 bits from the group key."""
    info = terms.info
    stream = masks.Stream(tag_key, b"consilium/exact-sum/tag/1", info)
    factor_words = stream.words(terms.count)
    factors = factor_words.tolist()
    tag_sum = 0
    for factor, value in zip(factors, values, strict=True):
        tag_sum += factor * value
    return tag_sum % terms.modulus


def _signed(number: int, modulus: int) -> int:
    """The same modulo `modulus`, in [-modulus / 2, modulus / 2)."""
    if number >= modulus // 2:
        return number - modulus
    return number


class _Part(NamedTuple):
    """One provider's part, or the sum of several."""

    width: int  # bits of a value, without those of the tag
    numbers: list[int]  # modulo 2^(width + 64), the tag last


def _encode(numbers: Sequence[int], width: int) -> bytes:
    """version (1), 0 (1), width (2), count (4), big-endian; the numbers.

    Each number has (width + 64) / 8 bytes.
    """
    n_bytes = _bytes(width)
    n_numbers = len(numbers)
    header = _HEADER.pack(_VERSION, width, n_numbers)
    body = b"".join(number.to_bytes(n_bytes, "big") for number in numbers)
    return header + body


def _decode(data: bytes) -> _Part:
    """ProtocolViolation unless header and length are exactly those of such a part."""
    if len(data) < _HEADER.size:
        raise other_version("payload", "A part of a sum is shorter than its header.")
    version, width, n_numbers = _HEADER.unpack_from(data)
    padding = data[1]
    is_width = width > 0 and width % 8 == 0
    if version != _VERSION or padding or not is_width or not n_numbers:
        raise other_version(
            "payload",
            "A part of a sum has a header that is not of this version.",
        )
    n_bytes = _bytes(width)
    n_expected = _HEADER.size + n_numbers * n_bytes
    if len(data) != n_expected:
        raise other_version(
            "payload",
            "A part of a sum is not as long as its header says.",
        )
    numbers = []
    for start in range(_HEADER.size, n_expected, n_bytes):
        end = start + n_bytes
        number = int.from_bytes(data[start:end], "big")
        numbers.append(number)
    return _Part(width, numbers)


def _bytes(width: int) -> int:
    """Of a number with what the tag needs beside a value's bits."""
    return (width + TAG_BITS) // 8


def _mismatch() -> ProtocolViolation:
    return ProtocolViolation(
        "A sum is not that of exactly these providers' parts.",
        remedy="Nothing of it was used. Send the order again; if this repeats, the coordinator alters sums.",
        code="sum_mismatch",
    )
