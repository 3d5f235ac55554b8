"""Members by number: who they are, as keyed digests, and how numbers and digests are kept.

A member is a person with the value that was read in one column; `memory.py` keeps them,
and sets of them. Numbers follow the order in which members came, so that the columns of
one reading have equal sets, which are kept once.

Decision 70.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from analytics.arrays import Ints

Digests = NDArray[np.uint64]
"""(n,): of ids, or of values; without the key of the vault they say nothing."""


class Register:
    """Digests by number, in the order in which they came."""

    def __init__(self, known: Digests) -> None:
        self.digests = known
        self.n_kept = known.size
        self._sorted = np.argsort(known)

    def numbers(self, digests: Digests) -> Ints:
        """(n,): the number of each digest; one that is not known yet gets the next."""
        distinct, first, inverse = np.unique(
            digests, return_index=True, return_inverse=True
        )
        numbers = self._find(distinct)
        is_new = numbers < 0
        if is_new.any():
            # In the order of the rows: the columns of one reading then have their
            # members under the same numbers, and equal sets.
            new = np.flatnonzero(is_new)
            new = new[np.argsort(first[new])]
            n_known = self.digests.size
            numbers[new] = np.arange(n_known, n_known + new.size)
            self.digests = np.concatenate([self.digests, distinct[new]])
            self._sorted = np.argsort(self.digests)
        return numbers[inverse]

    def _find(self, distinct: Digests) -> Ints:
        """-1 where one is not known."""
        places = np.searchsorted(self.digests, distinct, sorter=self._sorted)
        numbers = np.full(distinct.size, -1, dtype=np.int64)
        inside = np.flatnonzero(places < self.digests.size)
        candidates = self._sorted[places[inside]]
        is_known = self.digests[candidates] == distinct[inside]
        numbers[inside[is_known]] = candidates[is_known]
        return numbers


class Members:
    """The members of one column: persons, by their numbers, with values."""

    def __init__(self, persons: Ints, values: Digests) -> None:
        self.persons = persons  # (n,)
        self.values = values  # (n,)
        self.n_kept = persons.size

    def numbers(self, persons: Ints, values: Digests) -> Ints:
        """(n,): the number of each member; one that is not known yet gets the next."""
        found = self._last_of(persons)
        has_any = found >= 0
        is_known = has_any.copy()
        is_known[has_any] = self.values[found[has_any]] == values[has_any]
        numbers = np.where(is_known, found, -1)
        rest = np.flatnonzero(~is_known)
        if not rest.size:
            return numbers
        # Nobody has to look for the one row of a person who has no member: most of the
        # rows of a first reading. In the order of the rows: the columns of one reading
        # then have their members under the same numbers, and equal sets.
        n_rows = np.bincount(persons[rest])[persons[rest]]
        is_only = (n_rows == 1) & ~has_any[rest]
        only, others = rest[is_only], rest[~is_only]
        numbers[only] = self.persons.size + np.arange(only.size)
        self._grow(numbers[only], persons[only], values[only])
        if others.size:
            register = Register(_mixed(self.values, self.persons.astype(np.uint64)))
            digests = _mixed(values[others], persons[others].astype(np.uint64))
            numbers[others] = register.numbers(digests)
            self._grow(numbers[others], persons[others], values[others])
        return numbers

    def _last_of(self, persons: Ints) -> Ints:
        """(n,): a member of each person, in most columns the only one; -1 for none."""
        n_persons = 1 + max(persons.max(initial=-1), self.persons.max(initial=-1))
        last = np.full(n_persons, -1, dtype=np.int64)
        last[self.persons] = np.arange(self.persons.size)
        return last[persons]

    def _grow(self, numbers: Ints, persons: Ints, values: Digests) -> None:
        """Takes in what members have these numbers, some of which are new."""
        n_known = self.persons.size
        n_members = max(n_known, 1 + int(numbers.max(initial=-1)))
        grown_persons = np.empty(n_members, dtype=np.int64)
        grown_persons[:n_known] = self.persons
        grown_persons[numbers] = persons
        grown_values = np.empty(n_members, dtype=np.uint64)
        grown_values[:n_known] = self.values
        grown_values[numbers] = values
        self.persons, self.values = grown_persons, grown_values


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


def distinct_numbers(numbers: Ints, n_members: int) -> Ints:
    """Numbers below n_members in ascending order, each once."""
    if 16 * numbers.size < n_members:
        return np.unique(numbers)
    is_there = np.zeros(n_members, dtype=bool)
    is_there[numbers] = True
    return np.flatnonzero(is_there)


def packed_set(members: Ints) -> bytes:
    n_members = int(members[-1]) + 1 if members.size else 0
    bits = np.zeros(n_members, dtype=bool)
    bits[members] = True
    return zlib.compress(np.packbits(bits).tobytes(), 1)


def unpacked_set(bitmap: bytes) -> Ints:
    packed = np.frombuffer(zlib.decompress(bitmap), dtype=np.uint8)
    return np.flatnonzero(np.unpackbits(packed))


_SAMPLE = 4096


def packed_persons(persons: Ints) -> bytes:
    """Most columns have all persons of a reading, in the order of their numbers."""
    steps = np.diff(persons, prepend=0)
    return zlib.compress(steps.astype("<i4").tobytes(), 1)


def unpacked_persons(packed: bytes) -> Ints:
    steps = np.frombuffer(zlib.decompress(packed), dtype="<i4")
    return np.cumsum(steps, dtype=np.int64)


def packed_values(values: Digests) -> bytes:
    """Small where few values are different, as in a column of sexes or pixels."""
    sample = values[:_SAMPLE]
    repeats = 2 * np.unique(sample).size < sample.size
    # Level 0 only wraps them: where all are different there is nothing to gain.
    return zlib.compress(values.astype("<u8").tobytes(), 1 if repeats else 0)


def unpacked_values(packed: bytes) -> Digests:
    return np.frombuffer(zlib.decompress(packed), dtype="<u8").astype(np.uint64)
