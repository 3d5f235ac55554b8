"""Few combinations of a test's parameters in which each pair of values occurs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

Pair = tuple[tuple[int, Any], ...]
"""Two values, each with the place of its parameter."""


def all_pairs(*parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Rows of the full grid that hold each pair of values of two parameters, always the same rows.

    Takes the row that adds most pairs, again and again; the first of several. All pairs of n and m values need at
    least n * m rows, which is what this takes or little more.
    """
    grid = list(itertools.product(*parameters))
    missing: set[Pair] = set()
    for row in grid:
        missing |= pairs_of(row)
    chosen = []
    while missing:
        best = max(grid, key=lambda row: len(pairs_of(row) & missing))
        chosen.append(best)
        missing -= pairs_of(best)
    return chosen


def pairs_of(row: Sequence[Any]) -> set[Pair]:
    return set(itertools.combinations(enumerate(row), 2))


def pairwise(**parameters: Sequence[Any]) -> pytest.MarkDecorator:
    """`pytest.mark.parametrize` for each parameter, but all pairs of values instead of all combinations."""
    return pytest.mark.parametrize(tuple(parameters), all_pairs(*parameters.values()))
