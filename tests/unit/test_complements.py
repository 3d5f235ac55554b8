"""Which cells are withheld beside those that are: against fractions and all subsets."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from analytics.statistics.complements import complements


def draw(count: int) -> NDArray[np.uint64]:
    return np.random.default_rng(count).integers(0, 2**63, count, dtype=np.uint64)


def two_way(n_rows: int, n_columns: int) -> list[list[int]]:
    """The slices of the cells of a table: its row's, its column's."""
    cells = itertools.product(range(n_rows), range(n_columns))
    return [[row, n_rows + column] for row, column in cells]


def rank(slices: Sequence[Sequence[int]], cells: Sequence[int]) -> int:
    """Of T over these cells, in fractions."""
    n_slices = 1 + max(max(own) for own in slices)
    matrix = []
    for number in range(n_slices):
        matrix.append([Fraction(number in slices[cell]) for cell in cells])
    matrix.append([Fraction(1) for cell in cells])
    found = 0
    for column in range(len(cells)):
        pivot = next((r for r in range(found, len(matrix)) if matrix[r][column]), None)
        if pivot is None:
            continue
        matrix[found], matrix[pivot] = matrix[pivot], matrix[found]
        for row in range(found + 1, len(matrix)):
            factor = matrix[row][column] / matrix[found][column]
            pairs = zip(matrix[row], matrix[found], strict=True)
            matrix[row] = [a - factor * b for a, b in pairs]
        found += 1
    return found


def test_of_one_column_one_more_is_withheld() -> None:
    slices: list[list[int]] = [[], [], [], []]
    found = complements(
        slices, withheld=[2], passed=[], candidates=[3, 0, 1], draw=draw
    )
    assert found == [3]


def test_of_a_two_way_table_the_other_corners_of_a_rectangle() -> None:
    slices = two_way(3, 4)
    candidates = [cell for cell in range(12) if cell != 0]
    found = complements(
        slices, withheld=[0], passed=[], candidates=candidates, draw=draw
    )
    assert found == [1, 4, 5]


def test_what_passed_and_nobody_names_hides_as_well() -> None:
    slices: list[list[int]] = [[], [], []]
    found = complements(slices, withheld=[0, 1], passed=[1], candidates=[2], draw=draw)
    assert found == []


def test_one_row_with_one_cell_cannot_be_hidden() -> None:
    """Its slice's total is the cell's own."""
    slices = [[0], [1], [1]]
    assert (
        complements(slices, withheld=[0], passed=[], candidates=[1, 2], draw=draw)
        is None
    )


def test_nothing_is_withheld_for_nothing() -> None:
    found = complements([[], []], withheld=[], passed=[], candidates=[0, 1], draw=draw)
    assert found == []


@st.composite
def tables(
    choose: st.DrawFn,
) -> tuple[list[list[int]], list[int], list[int], list[int]]:
    """Some cells of a two-way table: slices, withheld, passed of them, candidates."""
    all_cells = two_way(3, 4)
    kept = choose(st.lists(st.integers(0, 11), min_size=2, max_size=10, unique=True))
    slices = [all_cells[cell] for cell in kept]
    kinds = choose(st.lists(st.integers(0, 3), min_size=len(kept), max_size=len(kept)))
    withheld = [place for place, kind in enumerate(kinds) if kind < 2]
    passed = [place for place, kind in enumerate(kinds) if kind == 1]
    candidates = [place for place, kind in enumerate(kinds) if kind >= 2]
    return slices, withheld, passed, choose(st.permutations(candidates))


@pytest.mark.hypothesis
@given(tables())
def test_the_ranks_are_equal_afterwards_with_no_more_than_one_by_one(
    table: tuple[list[list[int]], list[int], list[int], list[int]],
) -> None:
    slices, withheld, passed, candidates = table
    found = complements(
        slices, withheld=withheld, passed=passed, candidates=candidates, draw=draw
    )
    # One candidate after the other, as long as the ranks differ.
    needed: list[int] | None = None
    for n_added in range(len(candidates) + 1):
        added = candidates[:n_added]
        if rank(slices, [*passed, *added]) == rank(slices, [*withheld, *added]):
            needed = added
            break
    if needed is None:
        assert found is None
        return
    assert found is not None
    assert set(found) <= set(needed)
    assert rank(slices, [*passed, *found]) == rank(slices, [*withheld, *found])
    # None of them is there for nothing.
    for cell in found:
        fewer = [other for other in found if other != cell]
        assert rank(slices, [*passed, *fewer]) < rank(slices, [*withheld, *fewer])
