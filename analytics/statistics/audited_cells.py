"""People by the sets that they are in: the cells of `audit` and `hospital_audit`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analytics.arrays import Bools, Ints, Places

Bitmaps = NDArray[np.uint8]
"""(n_sets, ceil(n_members / 8)), the bits in the order of np.packbits."""
# Members whose bitmaps are turned at a time: what is read and written stays in cache.
TURNED_BYTES = 2**12
_CORNERS = (
    (7, 0x00AA00AA00AA00AA),
    (14, 0x0000CCCC0000CCCC),
    (28, 0x00000000F0F0F0F0),
)
"""By how many bits a step of `_turned_squares` moves, and which ones."""


@dataclass(frozen=True, eq=False)
class Cells:
    """People by the sets that they are in; who is in none is left out."""

    words: NDArray[np.uint64]  # (n_cells, n_words), bit i of them all is set i
    counts: Ints  # (n_cells,) members, which are as many persons
    cell: Places  # (n_members,) the cell of each member
    persons: Ints  # (n_members,) the person of each member

    def columns(self, cells: Places, sets: Places) -> Ints:
        """The part of M with these sets and cells: (n_sets, n_cells), 0 and 1."""
        words = self.words[cells]
        octets = words.view(np.uint8)
        by_cell = np.unpackbits(
            octets,
            axis=1,
            bitorder="little",
        )
        by_set = by_cell[:, sets].T
        return by_set.astype(np.int64)

    def restricted(self, is_kept: Bools) -> Cells:
        """The cells that some of the sets make; sets keep their numbers."""
        n_sets = len(is_kept)
        n_cells, n_words = self.words.shape
        bits = np.zeros(n_words * 64, dtype=np.bool_)
        bits[:n_sets] = is_kept
        octets = np.packbits(bits, bitorder="little")
        mask = octets.view(np.uint64)
        masked = self.words & mask
        is_somewhere = masked.any(axis=1)
        cell_words, merged = distinct_rows(masked[is_somewhere])

        # From an old cell to the one it is a part of now; -1 if it is in no set.
        new_cell = np.full(n_cells, -1, dtype=np.intp)
        new_cell[is_somewhere] = merged
        member_cells = new_cell[self.cell]
        is_member = member_cells >= 0
        member_cells = member_cells[is_member]
        counts = np.bincount(member_cells, minlength=len(cell_words))
        return Cells(
            words=cell_words,
            counts=counts,
            cell=member_cells,
            persons=self.persons[is_member],
        )


def cells_of(sets: Bitmaps, persons: Ints) -> Cells:
    n_members = len(persons)
    member_words = turned(sets)[:n_members]
    is_somewhere = member_words.any(axis=1)
    distinct, member_cells = distinct_rows(member_words[is_somewhere])
    counts = np.bincount(member_cells, minlength=len(distinct))
    return Cells(
        words=distinct,
        counts=counts,
        cell=member_cells,
        persons=persons[is_somewhere],
    )


def turned(sets: Bitmaps) -> NDArray[np.uint64]:
    """By member the sets that it is in, bit i for set i: (8 n_bytes, n_words)."""
    n_sets, n_bytes = sets.shape
    n_words = (n_sets + 63) // 64
    shape = (n_bytes * 8, n_words * 8)
    octets = np.zeros(shape, dtype=np.uint8)
    for first_byte in range(0, n_bytes, TURNED_BYTES):
        stop = min(first_byte + TURNED_BYTES, n_bytes)
        byte_range = slice(first_byte, stop)
        members = octets[first_byte * 8 : stop * 8]
        for first_set in range(0, n_sets, 8):
            set_range = slice(first_set, first_set + 8)
            block = sets[set_range, byte_range]
            shape = (8, stop - first_byte)
            eight_sets = np.zeros(shape, dtype=np.uint8)
            eight_sets[: len(block)] = block
            octet = first_set // 8
            members[:, octet] = _turned_squares(eight_sets)
    return octets.view("<u8")


def _turned_squares(eight_sets: Bitmaps) -> NDArray[np.uint8]:
    """From eight bitmaps a byte for each member, by turning squares of 8 x 8 bits.

    A square is a 64-bit number, its rows are bytes. Three steps swap the corners of
    squares of 2, 4 and 8 (Warren, Hacker's Delight, 7-3).
    """
    by_member = np.ascontiguousarray(eight_sets.T)
    squares = by_member.view("<u8")[:, 0]
    for shift, corner in _CORNERS:
        step = np.uint64(shift)
        mask = np.uint64(corner)
        moved = squares >> step
        swapped = (squares ^ moved) & mask
        back = swapped << step
        squares = squares ^ swapped ^ back
    # A bitmap has its first member in the highest bit, which became the last row.
    rows = squares.view(np.uint8)
    rows = rows.reshape(-1, 8)
    backwards = rows[:, ::-1]
    return backwards.reshape(-1)


def distinct_rows(words: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], Places]:
    """The different rows, and for each row which of them it is."""
    row_keys = _mixed(words)
    order = np.argsort(row_keys, kind="stable")
    distinct, index = _runs(words, order, row_keys[order][:, np.newaxis])
    # Two different rows with one key are next to impossible, but nothing may hang on
    # it.
    has_one_word = words.shape[1] <= 1
    if has_one_word or np.array_equal(distinct[index], words):
        return distinct, index
    order = np.lexsort(words.T)
    return _runs(words, order, words[order])


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A key for each row, which for rows of one word is the row itself."""
    row_keys = words[:, 0].copy()
    for column in words.T[1:]:
        row_keys *= np.uint64(0x9E3779B97F4A7C15)
        row_keys ^= row_keys >> np.uint64(29)
        row_keys *= np.uint64(0xD6E8FEB86659FD93)
        row_keys ^= row_keys >> np.uint64(32)
        row_keys += column
    return row_keys


def _runs(
    words: NDArray[np.uint64],
    order: Places,
    in_order: NDArray[np.uint64],
) -> tuple[NDArray[np.uint64], Places]:
    """Rows that are equal stand side by side in this order: one of each, and which."""
    n_rows = len(words)
    is_first = np.ones(n_rows, dtype=np.bool_)
    is_first[1:] = (in_order[1:] != in_order[:-1]).any(axis=1)

    number = np.cumsum(is_first) - 1
    index = np.empty(n_rows, dtype=np.intp)
    index[order] = number
    firsts = order[is_first]
    return words[firsts], index
