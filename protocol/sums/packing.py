"""Words as the slots of large integers, so that one Paillier plaintext adds many.

A plaintext of key_bits holds (key_bits - 64) // 64 slots of 64 bits and, above them, a
63-bit row count:

    m = sum_k (word_k + offset) 2^(64 k) + weight 2^(64 slots) < 2^(key_bits - 1) <= n

`paillier` encrypts the plaintexts and `secure_sum` masks them before (decision 8).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from analytics.arrays import Ints
from protocol.errors import ProtocolViolation

SLOT_BITS = 64
_SLOT_BYTES = 8


def slots_per_plaintext(bits: int) -> int:
    """(key_bits - 64) // 64: 31 at 2048 bits.

    >>> slots_per_plaintext(2048), slots_per_plaintext(4096)
    (31, 63)
    """
    return (bits - SLOT_BITS) // SLOT_BITS


def n_plaintexts(d: int, bits: int) -> int:
    """How many plaintexts (and so obfuscators) a vector of length d takes.

    >>> n_plaintexts(31, 2048), n_plaintexts(32, 2048)
    (1, 2)
    """
    n_slots = slots_per_plaintext(bits)
    return math.ceil(d / n_slots)


def pack(
    words: Ints,
    *,
    weight: int,
    offset: int,
    bits: int,
) -> list[int]:
    """Words (d,) as `n_plaintexts(d, bits)` plaintexts below 2^(bits - 1).

    A hospital runs it. |word| <= offset, so a slot word + offset is in [0, 2 offset];
    no slot of a sum carries while the offsets of all senders add up to at most 2^62.
    `weight` (row count) stands above the slots of every plaintext; all weights add up
    to less than 2^63. ProtocolViolation when a word is beyond the offset.
    """
    words = np.asarray(words, dtype=np.int64)
    offset_fits = 0 <= offset <= 2**62
    weight_fits = 0 <= weight < 2**63
    fits = offset_fits and weight_fits
    if not fits or not _within(words, offset):
        raise ProtocolViolation(
            "A word does not fit its slot.",
            remedy="Encode with the order's bound.",
        )
    n_rows = n_plaintexts(words.size, bits)
    n_slots = slots_per_plaintext(bits)
    # A row for each plaintext: offset + word in each slot, empty slots too, and the
    # weight in the highest.
    shape = (n_rows, n_slots + 1)
    slots = np.full(shape, offset, dtype="<u8")
    slots[:, -1] = weight
    n_padded = n_rows * n_slots
    padded = np.zeros(n_padded, dtype=np.int64)
    padded[: words.size] = words
    unsigned = padded.view(np.uint64)
    slots[:, :-1] += unsigned.reshape(n_rows, n_slots)
    plaintexts = []
    for slot_row in slots:
        plaintext = int.from_bytes(slot_row.tobytes(), "little")
        plaintexts.append(plaintext)
    return plaintexts


def unpack(
    plaintexts: Sequence[int],
    d: int,
    *,
    weight: int,
    offset: int,
    bits: int,
) -> Ints:
    """The summed words int64 (d,) from summed plaintexts. The initiator runs it.

    `weight` and `offset` are the sums over all members. ProtocolViolation
    `sum_mismatch` when a row-count field is not `weight`, a slot is beyond 2 offset, or
    the slots after the last word are not empty: then a contribution is missing,
    doubled, masked otherwise or altered.
    """
    if len(plaintexts) != n_plaintexts(d, bits):
        raise sum_mismatch()
    n_slots = slots_per_plaintext(bits)
    n_bytes = _SLOT_BYTES * n_slots
    slot_bits = SLOT_BITS * n_slots
    lowest_slots = (1 << slot_bits) - 1
    rows = []
    for plaintext in plaintexts:
        if plaintext >> slot_bits != weight:
            raise sum_mismatch()
        in_slots = plaintext & lowest_slots
        row = in_slots.to_bytes(n_bytes, "little")
        rows.append(row)
    slots = np.frombuffer(b"".join(rows), dtype="<u8")
    # A slot below the offset wraps to a negative word.
    wrapped = slots - np.uint64(offset)
    native = wrapped.astype(np.uint64, copy=False)
    words = native.view(np.int64)
    if not _within(words, offset) or words[d:].any():
        raise sum_mismatch()
    return words[:d].copy()


def sum_mismatch() -> ProtocolViolation:
    """The error of a sum whose check fields do not add up."""
    return ProtocolViolation(
        "The sum does not hold exactly one contribution of every member.",
        remedy="Order again; if it comes again, compare the hospitals' versions and keys.",
        code="sum_mismatch",
    )


def _within(words: Ints, limit: int) -> bool:
    """Whether every |word| <= limit <= 2^62."""
    # Not by abs, which wraps at -2^63.
    is_above = words >= -limit
    is_below = words <= limit
    is_within = is_above & is_below
    return bool(is_within.all())
