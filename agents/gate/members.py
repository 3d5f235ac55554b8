"""Members by number: who they are, as keyed digests, and how numbers and digests are kept.

A member is a person with the value that was read in one column; `memory.py` keeps them,
and sets of them. Numbers follow the order in which members came, so that the columns of
one reading have equal sets, which are kept once.

Decisions 70 and 152.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.rows.row_tables import is_rising
from analytics.arrays import Bools, row_chunks

Digests = NDArray[np.uint64]
"""(n,): of ids, or of values; without the key of the vault they say nothing."""

Numbers = NDArray[np.signedinteger[Any]]
"""(n,): of persons, or of members."""

NUMBER = np.int32
"""The memory's file, too, has 32 bits for each."""


class Register:
    """Digests by number, in the order in which they came."""

    def __init__(self, digests: Digests) -> None:
        self.digests = digests
        self.n_kept = digests.size

    def numbers(self, digests: Digests) -> Numbers:
        """(n,): the number of each digest; one that is not known yet gets the next."""
        if not self.digests.size and are_different(digests):
            self.digests = digests
            return np.arange(digests.size, dtype=NUMBER)
        numbers = self._find(digests)
        new_places = np.flatnonzero(numbers < 0)
        if not new_places.size:
            return numbers
        # In the order of the rows: the columns of one reading then have their members
        # under the same numbers, and equal sets.
        new_digests = (
            digests if new_places.size == digests.size else digests[new_places]
        )
        if are_different(new_digests):
            numbers[new_places] = self.digests.size + np.arange(new_places.size)
        else:
            distinct, first_places, inverse = np.unique(
                new_digests, return_index=True, return_inverse=True
            )
            in_order = np.argsort(first_places)
            of_distinct = np.empty(distinct.size, dtype=NUMBER)
            of_distinct[in_order] = self.digests.size + np.arange(distinct.size)
            numbers[new_places] = of_distinct[inverse]
            new_digests = distinct[in_order]
        self.digests = np.concatenate([self.digests, new_digests])
        return numbers

    def _find(self, digests: Digests) -> Numbers:
        """-1 where one is not known."""
        numbers = np.full(digests.size, -1, dtype=NUMBER)
        if not self.digests.size:
            return numbers
        order = np.argsort(self.digests)
        for chunk in row_chunks(digests.size):
            # Neighbours of one order are near each other in the other one, too.
            distinct, inverse = np.unique(digests[chunk], return_inverse=True)
            insertion_places = np.searchsorted(self.digests, distinct, sorter=order)
            candidates = order[np.minimum(insertion_places, self.digests.size - 1)]
            is_known = self.digests[candidates] == distinct
            numbers[chunk] = np.where(is_known, candidates, -1)[inverse]
        return numbers


class Members:
    """The members of one column: persons, by their numbers, with values."""

    def __init__(self, persons: Numbers, values: Digests) -> None:
        self.persons = persons  # (n,)
        self.values = values  # (n,)
        self.n_kept = persons.size

    def numbers(self, persons: Numbers, values: Digests) -> Numbers:
        """(n,): the number of each member; one that is not known yet gets the next."""
        if not self.persons.size and is_rising(persons):
            # As they were read: the persons are those of other columns, too, and the
            # values are on disk where they are many.
            self.persons = persons
            self.values = values
            return np.arange(persons.size, dtype=NUMBER)
        # A member of each person, in most columns the only one; -1 for none.
        numbers = self._last_of(persons)
        is_known = np.empty(persons.size, dtype=bool)
        has_any = np.empty(persons.size, dtype=bool)
        for chunk in row_chunks(persons.size):
            candidates = numbers[chunk]
            has_any[chunk] = candidates >= 0
            is_same = has_any[chunk].copy()
            is_same[is_same] = (
                self.values[candidates[is_same]] == values[chunk][is_same]
            )
            candidates[~is_same] = -1
            is_known[chunk] = is_same
        if is_known.all():
            return numbers
        # Nobody has to look for the one row of a person who has no member: most of the
        # rows of a first reading. In the order of the rows: the columns of one reading
        # then have their members under the same numbers, and equal sets.
        is_only = ~is_known & ~has_any
        has_several = _has_several(persons, ~is_known)
        if has_several is not None:
            for chunk in row_chunks(persons.size):
                is_only[chunk] &= ~has_several[persons[chunk]]
        self._add(numbers, is_only, persons, values)
        remaining = np.flatnonzero(~is_known & ~is_only)
        if remaining.size:
            register = Register(_mixed(self.values, self.persons.astype(np.uint64)))
            digests = _mixed(values[remaining], persons[remaining].astype(np.uint64))
            numbers[remaining] = register.numbers(digests)
            self._grow(numbers[remaining], persons[remaining], values[remaining])
        return numbers

    def _add(
        self, numbers: Numbers, is_new: Bools, persons: Numbers, values: Digests
    ) -> None:
        """Takes in rows that are members of their own, each under the next number."""
        n_known = self.persons.size
        n_members = n_known + int(np.count_nonzero(is_new))
        grown_persons = np.empty(n_members, dtype=NUMBER)
        grown_persons[:n_known] = self.persons
        self.persons = grown_persons
        grown_values = np.empty(n_members, dtype=np.uint64)
        grown_values[:n_known] = self.values
        self.values = grown_values
        begin = n_known
        for chunk in row_chunks(persons.size):
            of_chunk = is_new[chunk]
            end = begin + int(np.count_nonzero(of_chunk))
            numbers[chunk][of_chunk] = np.arange(begin, end)
            grown_persons[begin:end] = persons[chunk][of_chunk]
            grown_values[begin:end] = values[chunk][of_chunk]
            begin = end

    def _last_of(self, persons: Numbers) -> Numbers:
        """(n,): the last member of each person; -1 for none."""
        n_persons = 1 + max(persons.max(initial=-1), self.persons.max(initial=-1))
        last_member = np.full(n_persons, -1, dtype=NUMBER)
        last_member[self.persons] = np.arange(self.persons.size, dtype=NUMBER)
        return last_member[persons]

    def _grow(self, numbers: Numbers, persons: Numbers, values: Digests) -> None:
        """Takes in what members have these numbers, some of which are new."""
        n_known = self.persons.size
        n_members = max(n_known, 1 + int(numbers.max(initial=-1)))
        grown_persons = np.empty(n_members, dtype=NUMBER)
        grown_persons[:n_known] = self.persons
        grown_persons[numbers] = persons
        grown_values = np.empty(n_members, dtype=np.uint64)
        grown_values[:n_known] = self.values
        grown_values[numbers] = values
        self.persons, self.values = grown_persons, grown_values


def _has_several(persons: Numbers, is_asked: Bools) -> Bools | None:
    """By number of a person, whether several of some rows are theirs; None where nobody
    has several.
    """
    n_persons = 1 + int(persons.max(initial=-1))
    is_seen = np.zeros(n_persons, dtype=bool)
    has_several = np.zeros(n_persons, dtype=bool)
    for chunk in row_chunks(persons.size):
        of_chunk, n_rows = np.unique(
            persons[chunk][is_asked[chunk]], return_counts=True
        )
        has_several[of_chunk] |= is_seen[of_chunk] | (n_rows > 1)
        is_seen[of_chunk] = True
    return has_several if has_several.any() else None


# Digests


_MULTIPLIERS = (
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(0xBF58476D1CE4E5B9),
    np.uint64(0x94D049BB133111EB),
)


def _mixed(first: Digests, second: Digests) -> Digests:
    """One 64-bit number for two: the finalizer of SplitMix64 (Steele, Lea and Flood
    2014), over both.

    The first are keyed digests, so that nobody can choose two that meet, or all 0.
    """
    mixed = (first ^ _finalized(second + _MULTIPLIERS[0])) * _MULTIPLIERS[0]
    return _finalized(mixed)


def _finalized(words: Digests) -> Digests:
    words = (words ^ (words >> np.uint64(30))) * _MULTIPLIERS[1]
    words = (words ^ (words >> np.uint64(27))) * _MULTIPLIERS[2]
    return words ^ (words >> np.uint64(31))


def told_apart(ids: Digests, values: Digests) -> Digests:
    """(n,): the values of one reading's rows, which differ where a person has the same
    one in several rows.

    Each of them is in a total, so that one that comes or goes must be seen. To be asked
    of all rows of a reading, before they are parted into groups.
    """
    if are_different(ids):
        return values
    digests = _mixed(ids, values)
    order = np.argsort(digests, kind="stable")
    ordered = digests[order]
    is_first = np.ones(ordered.size, dtype=bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    if is_first.all():
        return values
    places = np.arange(ordered.size)
    begins = np.maximum.accumulate(np.where(is_first, places, 0))
    nth = np.empty(ordered.size, dtype=np.uint64)
    nth[order] = places - begins
    return np.where(nth > 0, _mixed(values, nth), values)


def are_different(digests: Digests) -> bool:
    """Whether no two of them (n,) are equal."""
    in_order = np.sort(digests)
    return is_rising(in_order)


def distinct_numbers(numbers: Numbers, n_members: int) -> Numbers:
    """Numbers below n_members in ascending order, each once."""
    # Few of many are sorted faster than all are walked through.
    if 16 * numbers.size < n_members:
        return np.unique(numbers)
    is_there = np.zeros(n_members, dtype=bool)
    is_there[numbers] = True
    return _places(is_there)


def _places(is_there: NDArray[Any]) -> Numbers:
    """(n,): where something is there."""
    all_places = [np.zeros(0, dtype=NUMBER)]
    for chunk in row_chunks(is_there.size):
        chunk_places = chunk.start + np.flatnonzero(is_there[chunk])
        all_places.append(chunk_places.astype(NUMBER))
    return np.concatenate(all_places)


def packed_set(members: Numbers) -> bytes:
    n_members = int(members[-1]) + 1 if members.size else 0
    bits = np.zeros(n_members, dtype=bool)
    bits[members] = True
    return zlib.compress(np.packbits(bits).tobytes(), 1)


def unpacked_set(bitmap: bytes) -> Numbers:
    packed = np.frombuffer(zlib.decompress(bitmap), dtype=np.uint8)
    return _places(np.unpackbits(packed))


_SAMPLE = 4096


def packed_persons(persons: Numbers) -> bytes:
    """Most columns have all persons of a reading, in the order of their numbers."""

    # From each number to the next: nearly all steps are 1, and take no room once they
    # are compressed.
    def steps() -> Iterator[bytes]:
        last_person = 0
        for chunk in row_chunks(persons.size):
            of_chunk = np.diff(persons[chunk], prepend=last_person)
            last_person = int(persons[chunk][-1])
            yield of_chunk.astype("<i4").tobytes()

    return _compressed(steps(), level=1)


def unpacked_persons(packed: bytes) -> Numbers:
    steps = np.frombuffer(zlib.decompress(packed), dtype="<i4")
    return np.cumsum(steps, dtype=NUMBER)


def packed_values(values: Digests) -> bytes:
    """Small where few values are different, as in a column of sexes or pixels."""
    sample = values[:_SAMPLE]
    repeats = 2 * np.unique(sample).size < sample.size
    written = (
        values[chunk].astype("<u8").tobytes() for chunk in row_chunks(values.size)
    )
    # Level 0 only wraps them: where all are different there is nothing to gain.
    return _compressed(written, level=1 if repeats else 0)


def unpacked_values(packed: bytes) -> Digests:
    return np.frombuffer(zlib.decompress(packed), dtype="<u8").astype(np.uint64)


def _compressed(chunks: Iterable[bytes], *, level: int) -> bytes:
    compressing = zlib.compressobj(level)
    compressed = bytearray()
    for chunk in chunks:
        compressed += compressing.compress(chunk)
    compressed += compressing.flush()
    return bytes(compressed)
