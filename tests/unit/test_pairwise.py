"""The grids of whole orders that are cut down to pairs."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pairwise import all_pairs, pairwise

GRID = (
    ["sgd", "adam", "rmsprop", "adagrad", "nesterov"],
    ["L1", "L2", None],
    ["Paillier", "Mask", "None"],
    [5, 3, 2, 1],
)


@given(sizes=st.lists(st.integers(1, 5), min_size=2, max_size=4))
def test_every_pair_of_values_occurs(sizes: list[int]) -> None:
    """Whatever the grid; and each row is one of the grid's, used once."""
    rows = all_pairs(*map(range, sizes))
    assert len(set(rows)) == len(rows)
    for row in rows:
        assert all(value < size for value, size in zip(row, sizes, strict=True))
    for first, second in itertools.combinations(range(len(sizes)), 2):
        found = {(row[first], row[second]) for row in rows}
        assert found == set(
            itertools.product(range(sizes[first]), range(sizes[second]))
        )


def test_the_grid_of_training_orders_takes_no_more_than_its_two_longest_parameters() -> (
    None
):
    assert len(all_pairs(*GRID)) == 5 * 4


def test_the_first_rows_have_every_value() -> None:
    """The rows that the short layer takes."""
    optimizers, penalties, methods, numbers = zip(*all_pairs(*GRID)[:8], strict=True)
    assert set(optimizers) == set(GRID[0])
    assert set(penalties) == set(GRID[1])
    assert set(methods) == set(GRID[2])
    assert set(numbers) == set(GRID[3])


def test_the_same_rows_each_time() -> None:
    """Processes that share the tests have to collect the same ones."""
    assert all_pairs(*GRID) == all_pairs(*GRID)


@pytest.mark.parametrize("parameters", [{"a": [1, 2], "b": ["x", None]}])
def test_two_parameters_are_all_combinations(parameters: dict[str, Any]) -> None:
    mark = pairwise(**parameters).mark
    assert mark.args[0] == ("a", "b")
    rows = [case.values for case in mark.args[1]]
    assert sorted(rows, key=str) == sorted(
        itertools.product([1, 2], ["x", None]), key=str
    )


def test_the_rows_behind_the_first_are_thorough() -> None:
    cases = pairwise(n_quick=1, a=[1, 2], b=["x", None]).mark.args[1]
    marks = [[mark.name for mark in case.marks] for case in cases]
    assert marks == [[], ["thorough"], ["thorough"], ["thorough"]]
