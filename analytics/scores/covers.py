"""Vertex covers of a graph of conflicts, and its groups of vertices that all conflict:
what `cliques` searches with. Sets of vertices are bits of Python integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple


class SearchTooLong(ValueError):
    """The search took more work than was allowed."""


class Effort:
    """How much a search may still do, in vertices looked at."""

    def __init__(self, most: float) -> None:
        self._left = most

    def spend(self, vertices: int) -> None:
        self._left -= vertices.bit_count()
        if self._left < 0:
            raise SearchTooLong("The search for the tightest clique takes too long.")


def as_bits(vertices: Iterable[int]) -> int:
    return sum(1 << vertex for vertex in vertices)


def bits(vertices: int) -> Iterator[int]:
    """The vertices of a set, ascending."""
    while vertices:
        lowest = vertices & -vertices
        yield lowest.bit_length() - 1
        vertices ^= lowest


def coverable(
    conflicts: Sequence[int],
    vertices: int,
    budget: int,
    effort: Effort,
) -> bool:
    """Whether `budget` vertices or fewer, removed, leave no conflict within `vertices`.

    Bounded search: a vertex of the highest degree is removed, or all its neighbours
    are.
    """
    waiting = [(vertices, budget)]
    seen = set()
    while waiting:
        left_vertices, left_budget = waiting.pop()
        kernel = _kernel(
            conflicts,
            left_vertices,
            left_budget,
            effort,
        )
        if kernel is None:
            continue
        vertices, budget, top = kernel
        if (vertices, budget) in seen:
            continue
        if not vertices:
            return True
        seen.add((vertices, budget))
        neighbours = conflicts[top] & vertices
        n_neighbours = neighbours.bit_count()
        without_top = vertices & ~(1 << top)
        # With at most two neighbours each, only cycles are left: of each, some smallest
        # cover holds any vertex.
        if n_neighbours > 2:
            # What stays is without conflict, so that each group of vertices in conflict
            # keeps one at most.
            n_stay = vertices.bit_count() - budget
            if len(conflict_groups(conflicts, vertices, effort)) < n_stay:
                continue
            waiting.append((without_top & ~neighbours, budget - n_neighbours))
        waiting.append((without_top, budget - 1))
    return False


class _Kernel(NamedTuple):
    """What is left to decide.

    Do `budget` vertices, removed, leave no conflict within `vertices`?
    """

    vertices: int  # as bits
    budget: int
    top: int  # a vertex of the highest degree


def _kernel(
    conflicts: Sequence[int],
    vertices: int,
    budget: int,
    effort: Effort,
) -> _Kernel | None:
    """The same question with fewer vertices; None if the answer is no.

    A vertex without conflict stays, the neighbour of a vertex with one is removed, a
    vertex with more conflicts than the budget is removed (Buss). Then every degree is
    between 2 and the budget.
    """
    while budget >= 0:
        effort.spend(vertices)
        before = budget
        degree_sum = 0
        highest = 0
        top = 0
        for vertex in bits(vertices):
            is_left = vertices >> vertex & 1
            if not is_left:  # removed since
                continue
            neighbours = conflicts[vertex] & vertices
            degree = neighbours.bit_count()
            if degree < 2:
                vertices &= ~neighbours & ~(1 << vertex)
                budget -= degree
            elif degree > budget:
                vertices ^= 1 << vertex
                budget -= 1
            else:
                degree_sum += degree
                # Of several of the highest degree, the last one
                if degree >= highest:
                    highest = degree
                    top = vertex
        if budget == before:
            # Each vertex removed ends `highest` conflicts at most.
            is_possible = degree_sum <= 2 * budget * highest
            return _Kernel(vertices, budget, top) if is_possible else None
    return None


def conflict_groups(
    conflicts: Sequence[int],
    vertices: int,
    effort: Effort,
) -> list[int]:
    """The vertices in groups of which a clique has at most one vertex each.

    The members of a group all conflict with each other.
    """
    groups = []
    while vertices:
        effort.spend(vertices)
        vertex = _least_in_conflict(conflicts, vertices, vertices)
        group = 1 << vertex
        candidates = conflicts[vertex] & vertices
        while candidates:
            effort.spend(candidates)
            vertex = _least_in_conflict(conflicts, candidates, vertices)
            group |= 1 << vertex
            candidates &= conflicts[vertex]
        groups.append(group)
        vertices &= ~group
    return groups


def _least_in_conflict(
    conflicts: Sequence[int],
    candidates: int,
    vertices: int,
) -> int:
    """The candidate with the fewest conflicts in `vertices`, the smallest of several."""

    def n_conflicts(vertex: int) -> int:
        return (conflicts[vertex] & vertices).bit_count()

    return min(bits(candidates), key=n_conflicts)
