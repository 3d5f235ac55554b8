"""Sets of people by their members: which of them share somebody, and as a table.

Memory has a number for each member, and not one for each set and each member.

Decision 152.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from agents.gate.members import NUMBER, Numbers, distinct_numbers
from agents.rows.row_tables import is_rising
from analytics.arrays import CHUNK_ROWS, Bools, Ints, row_chunks
from analytics.statistics.audited_cells import Bitmaps

CellNumbers = NDArray[NUMBER]
"""(n_members,): members in the same sets have one number; 0 of who is in none."""


def each_once(numbers: Numbers) -> Numbers:
    """In ascending order, each once."""
    return distinct_numbers(numbers, 1 + int(numbers.max(initial=-1)))


def n_different(numbers: Numbers) -> int:
    """How many of some numbers, 0 or more, are different."""
    is_there = np.zeros(1 + int(numbers.max(initial=-1)), dtype=bool)
    is_there[numbers] = True
    return int(np.count_nonzero(is_there))


def cells_of_members(sets: Sequence[Numbers]) -> CellNumbers:
    """In which of some sets each member is, up to the last one that is in any.

    One set after the other takes its members out of the cells that they are in, so that
    memory has a number for each member, however many sets there are.
    """
    n_members = 1 + max(int(set_members.max(initial=-1)) for set_members in sets)
    cells = np.zeros(n_members, dtype=NUMBER)
    n_cells = 1
    renumbered = np.zeros(1, dtype=NUMBER)
    for set_members in sets:
        touched = distinct_numbers(cells[set_members], n_cells)
        if n_cells > renumbered.size:
            renumbered = np.zeros(2 * n_cells, dtype=NUMBER)
        renumbered[touched] = np.arange(n_cells, n_cells + touched.size)
        cells[set_members] = renumbered[cells[set_members]]
        n_cells += touched.size
        # Numbers stay taken by cells that nobody is in any more: they would grow with
        # every set.
        if n_cells > 2 * n_members + 1:
            n_cells = _number_anew(cells, n_cells)
    _number_anew(cells, n_cells)
    return cells


def _number_anew(cells: CellNumbers, n_cells: int) -> int:
    """Leaves out numbers of cells that nobody is in any more; how many are left, with 0."""
    # With a 0 in any case: who is in no set keeps it, and no cell gets it.
    remaining = distinct_numbers(np.append(cells, NUMBER(0)), n_cells)
    renumbered = np.zeros(n_cells, dtype=NUMBER)
    renumbered[remaining] = np.arange(remaining.size)
    for chunk in row_chunks(cells.size):
        cells[chunk] = renumbered[cells[chunk]]
    return int(remaining.size)


def table_of(
    sets: Sequence[Numbers], *, persons: Numbers | None = None, most: int
) -> tuple[Ints, Bitmaps]:
    """Members of some sets, and (n_sets, ceil(n / 8)) packed bits: which of these n each
    set has.

    Of members that are in the same sets there are the first `most`. persons:
    (n_members,), the person of each member; nobody with several rows in one set is
    counted as several people then (`_is_counted`).
    """
    cells = cells_of_members(sets)
    is_counted = None if persons is None else _is_counted(sets, cells, persons)
    members = _first_of_each(cells, is_counted, most)
    place_of_member = np.full(cells.size, -1, dtype=NUMBER)
    place_of_member[members] = np.arange(members.size)
    table = np.zeros((len(sets), (members.size + 7) // 8), dtype=np.uint8)
    for table_row, set_members in zip(table, sets, strict=True):
        member_places = place_of_member[set_members]
        is_in = np.zeros(members.size, dtype=bool)
        is_in[member_places[member_places >= 0]] = True
        table_row[:] = np.packbits(is_in)
    return members, table


def _first_of_each(cells: CellNumbers, is_counted: Bools | None, most: int) -> Ints:
    """The first so many counted members of each cell, in ascending order."""
    n_taken = np.zeros(1 + int(cells.max(initial=0)), dtype=np.int64)
    first_members = [np.zeros(0, dtype=np.int64)]
    for chunk in row_chunks(cells.size):
        is_asked = cells[chunk] > 0
        if is_counted is not None:
            is_asked &= is_counted[chunk]
        asked_places = np.flatnonzero(is_asked)
        asked_places = asked_places[n_taken[cells[chunk][asked_places]] < most]
        order = np.argsort(cells[chunk][asked_places], kind="stable")
        in_order = cells[chunk][asked_places[order]]
        distinct, begins, n_rows = np.unique(
            in_order, return_index=True, return_counts=True
        )
        nth = np.arange(in_order.size) - np.repeat(begins, n_rows)
        is_first = n_taken[in_order] + nth < most
        n_taken[distinct] += n_rows
        first_members.append(chunk.start + np.sort(asked_places[order[is_first]]))
    return np.concatenate(first_members)


def _is_counted(
    sets: Sequence[Numbers], cells: CellNumbers, persons: Numbers
) -> Bools | None:
    """(n_members,): which members are counted, so that nobody with several rows in one
    set counts as several people; None where all are.

    Of such a person it is the first row, and any that alone tells two sets apart: fewer
    people are counted then than there are, or as many.
    """
    has_several = np.zeros(int(persons.max()) + 1, dtype=bool)
    for set_members in sets:
        of_set = persons[set_members]
        if is_rising(of_set):
            continue
        if set_members.size > CHUNK_ROWS:
            has_several |= np.bincount(of_set, minlength=has_several.size) > 1
            continue
        distinct, n_rows = np.unique(of_set, return_counts=True)
        has_several[distinct] |= n_rows > 1
    if not has_several.any():
        return None
    members = np.flatnonzero(cells)
    of_members = persons[members]
    _, first_of_person = np.unique(of_members, return_index=True)
    is_counted = ~has_several[of_members]
    is_counted[first_of_person] = True
    of_cell = cells[members]
    is_seen = np.zeros(int(of_cell.max()) + 1, dtype=bool)
    is_seen[of_cell[is_counted]] = True
    unseen = np.flatnonzero(~is_seen[of_cell])
    _, first_of_cell = np.unique(of_cell[unseen], return_index=True)
    is_counted[unseen[first_of_cell]] = True
    counted = np.zeros(cells.size, dtype=bool)
    counted[members[is_counted]] = True
    return counted


def connected(sets: Sequence[Numbers]) -> Ints:
    """(n_sets,): the first set that each is connected with, by members that they share
    or by way of other sets.
    """
    n_members = 1 + max(int(set_members.max()) for set_members in sets)
    labels = np.arange(len(sets))
    # Labels only fall, so that they come to rest.
    while True:
        of_member = np.full(n_members, len(sets), dtype=NUMBER)
        for few_sets in _few_at_a_time(sets):
            members, of_set, _ = _side_by_side(sets, few_sets)
            np.minimum.at(of_member, members, labels[of_set].astype(NUMBER))
        lowest = np.empty_like(labels)
        for few_sets in _few_at_a_time(sets):
            members, _, begins = _side_by_side(sets, few_sets)
            lowest[few_sets] = np.minimum.reduceat(of_member[members], begins)
        if (lowest == labels).all():
            return labels
        labels = lowest


def _few_at_a_time(sets: Sequence[Numbers]) -> Iterator[slice]:
    """Sets that follow each other, of about CHUNK_ROWS members together, or one."""
    first_place = n_members = 0
    for set_place, set_members in enumerate(sets):
        if set_place > first_place and n_members + set_members.size > CHUNK_ROWS:
            yield slice(first_place, set_place)
            first_place = set_place
            n_members = 0
        n_members += set_members.size
    yield slice(first_place, len(sets))


def _side_by_side(
    sets: Sequence[Numbers], few_sets: slice
) -> tuple[Numbers, Ints, Ints]:
    """The members of some sets behind each other, of which set each is, and where each
    set begins.
    """
    set_sizes = [set_members.size for set_members in sets[few_sets]]
    if len(set_sizes) == 1:
        set_members = sets[few_sets.start]
        return set_members, np.full(1, few_sets.start), np.zeros(1, dtype=np.int64)
    of_set = np.repeat(np.arange(few_sets.start, few_sets.stop), set_sizes)
    return np.concatenate(sets[few_sets]), of_set, np.cumsum([0, *set_sizes[:-1]])
