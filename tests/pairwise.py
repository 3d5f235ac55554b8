"""Few combinations of a test's parameters in which each pair of values occurs."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

Pair = tuple[tuple[int, Any], ...]
"""Two values, each with the place of its parameter."""


def all_pairs(*parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Rows of the full grid that hold each pair of values of two parameters, always the
    same rows.

    Takes the row that adds most pairs, again and again; the first of several. All pairs
    of n and m values need at least n * m rows, which is what this takes or little more.
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
    return _varied_first(chosen)


def _varied_first(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The same rows, each time the one next whose values were there least, so that a
    few rows have all values.
    """
    n_taken: Counter[tuple[int, Any]] = Counter()
    left = list(rows)
    ordered = []
    while left:
        row = min(left, key=lambda row: sum(n_taken[one] for one in enumerate(row)))
        left.remove(row)
        ordered.append(row)
        n_taken.update(enumerate(row))
    return ordered


def pairs_of(row: Sequence[Any]) -> set[Pair]:
    return set(itertools.combinations(enumerate(row), 2))


def pairwise(
    *, n_quick: int | None = None, **parameters: Sequence[Any]
) -> pytest.MarkDecorator:
    """`pytest.mark.parametrize` for each parameter, but all pairs of values instead of
    all combinations.

    The rows behind the first `n_quick` are thorough.
    """
    rows = all_pairs(*parameters.values())
    return pytest.mark.parametrize(tuple(parameters), quick(rows, n_quick))


def quick(rows: Sequence[Any], n_quick: int | None) -> list[Any]:
    """Further cases of one kind, behind the first so many, are thorough."""
    marked = []
    for place, row in enumerate(rows):
        values = row if isinstance(row, tuple) else (row,)
        is_quick = n_quick is None or place < n_quick
        marks = () if is_quick else (pytest.mark.thorough,)
        marked.append(pytest.param(*values, marks=marks))
    return marked
