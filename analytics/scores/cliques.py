"""The tightest group of a round: a largest clique among the pairs that are near enough, found exactly.

Two clients conflict if they are too far apart, and a networkx graph has the clients as vertices and their conflicts as
edges. A clique of s of n clients is what n - s removed vertices leave without conflict, that is, a vertex cover of the
conflicts. Such covers are small where groups are large, so they are searched, not the cliques; the graph's connected
components have no conflict in common, so each has a smallest cover of its own.

Both searches are ours, on vertices as bits of Python integers. networkx has none that stops after a given amount of
work, as a search that the API runs has to, and none for the smallest sum of distances. Measured at 100 clients:
`find_cliques` did not end within 20 s on vectors of random signs; `max_weight_clique` takes 0.1 to 2.8 s for one of
the dozen thresholds, and does not end within a minute where the conflicts are twenty cycles of five clients. The whole
search here takes 0.01 to 0.4 s for p of a half and more, the graphs included.

The module is imported where it is needed: networkx takes long to import, and every process of a federation would.

From the top: `tightest_clique`; the vertex covers that give threshold and size; branch and bound among equals.

Decision 63.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import networkx as nx
import numpy as np

from analytics.arrays import Floats, Ints
from analytics.scores.geometry import MARGIN


class SearchTooLong(ValueError):
    """The search took more work than was allowed."""


class _Effort:
    """How much a search may still do, in vertices looked at."""

    def __init__(self, most: float) -> None:
        self._left = most

    def spend(self, vertices: int) -> None:
        self._left -= vertices.bit_count()
        if self._left < 0:
            raise SearchTooLong("The search for the tightest clique takes too long.")


def tightest_clique(between: Floats, size: int, *, most_effort: float = math.inf) -> list[int]:
    """The largest clique of the graph {d_ij <= t}, t the smallest distance for which it has `size` vertices or more.

    `between` (n, n) holds the distances d, 1 <= size <= n; distances compare with a relative MARGIN. Among several
    largest cliques the one with the smallest sum of distances, then the one with the smallest vertices. The answer is
    ascending. t is found by bisection over the distances, every step decides whether the conflicts {d_ij > t} have a
    vertex cover of at most n - size vertices (Cygan et al. 2015, chapter 3); among equals, branch and bound.
    Raises SearchTooLong, the same for the same distances on every machine, beyond `most_effort` vertices looked at.

    >>> tightest_clique(np.abs(np.subtract.outer([0.0, 1, 2, 9], [0.0, 1, 2, 9])), 2)
    [0, 1]
    """
    n = len(between)
    values = np.unique(between[np.triu_indices(n, 1)])  # ascending
    if size == n or len(values) < 2:
        return list(range(n))
    effort = _Effort(most_effort)
    threshold = _smallest_threshold(between, values, size, effort)
    conflicts = conflict_graph(between, threshold)
    n_removed = _smallest_cover(conflicts, n - size, effort)
    assert n_removed is not None  # the threshold is one at which there is a clique of the size
    compatible = np.where(between > threshold * (1 + MARGIN), np.inf, between)
    problem = _Problem(between, compatible, _neighbours(conflicts), n - n_removed, effort)
    return list(_bits(_best_clique(problem)))


def conflict_graph(between: Floats, threshold: float) -> nx.Graph:
    """The graph of the clients 0..n-1 with an edge between any two that are farther apart than the threshold.

    >>> conflict_graph(np.abs(np.subtract.outer([0.0, 1, 9], [0.0, 1, 9])), 8).edges
    EdgeView([(0, 2)])
    """
    graph = nx.empty_graph(len(between))
    is_far = np.triu(between > threshold * (1 + MARGIN))
    graph.add_edges_from(np.argwhere(is_far).tolist())
    return graph


def _smallest_threshold(between: Floats, values: Floats, size: int, effort: _Effort) -> float:
    """Bisection over the ascending distances `values`; at the largest one all vertices are a clique.

    Each vertex of a clique of `size` has size - 1 others within t, which is where it begins.
    """
    n = len(between)
    reach = np.sort(between, axis=1)[:, size - 1]  # of each vertex, itself at 0 included
    least = np.sort(reach)[size - 1]
    low = int(np.searchsorted(values, least * (1 - MARGIN)))
    high = len(values) - 1
    while low < high:
        middle = (low + high) // 2
        conflicts = conflict_graph(between, values[middle])
        if _smallest_cover(conflicts, n - size, effort) is not None:
            high = middle
        else:
            low = middle + 1
    return float(values[low])


def _smallest_cover(conflicts: nx.Graph, most: int, effort: _Effort) -> int | None:
    """How few vertices, removed, leave no conflict; None if that takes more than `most`."""
    neighbours = _neighbours(conflicts)
    components = [conflicts.subgraph(component) for component in nx.connected_components(conflicts)]
    # Of every pair of a matching at least one vertex is removed.
    budgets = [len(nx.maximal_matching(component)) for component in components]
    for place, component in enumerate(components):
        vertices = sum(1 << vertex for vertex in component)
        while sum(budgets) <= most and not _coverable(neighbours, vertices, budgets[place], effort):
            budgets[place] += 1
    n_removed = sum(budgets)
    return n_removed if n_removed <= most else None


def _neighbours(conflicts: nx.Graph) -> list[int]:
    """For each vertex the set of vertices in conflict with it, as bits."""
    return [sum(1 << other for other in conflicts[vertex]) for vertex in range(len(conflicts))]


def _bits(vertices: int) -> Iterator[int]:
    """The vertices of a set, ascending."""
    while vertices:
        lowest = vertices & -vertices
        yield lowest.bit_length() - 1
        vertices ^= lowest


def _coverable(conflicts: Sequence[int], vertices: int, budget: int, effort: _Effort) -> bool:
    """Whether `budget` vertices or fewer, removed, leave no conflict within `vertices`.

    Bounded search: a vertex of the highest degree is removed, or all its neighbours are.
    """
    waiting = [(vertices, budget)]
    seen = set()
    while waiting:
        left, left_budget = waiting.pop()
        kernel = _kernel(conflicts, left, left_budget, effort)
        if kernel is None or (kernel.vertices, kernel.budget) in seen:
            continue
        vertices, budget, top = kernel
        if not vertices:
            return True
        seen.add((vertices, budget))
        neighbours = conflicts[top] & vertices
        n_neighbours = neighbours.bit_count()
        without_top = vertices & ~(1 << top)
        # With at most two neighbours each, only cycles are left: of each, some smallest cover holds any vertex.
        if n_neighbours > 2:
            # What stays is without conflict, so that each group of vertices in conflict keeps one at most.
            n_stay = vertices.bit_count() - budget
            if len(_groups(conflicts, vertices, effort)) < n_stay:
                continue
            waiting.append((without_top & ~neighbours, budget - n_neighbours))
        waiting.append((without_top, budget - 1))
    return False


class _Kernel(NamedTuple):
    """What is left to decide: whether `budget` vertices, removed, leave no conflict within `vertices`."""

    vertices: int  # as bits
    budget: int
    top: int  # a vertex of the highest degree


def _kernel(conflicts: Sequence[int], vertices: int, budget: int, effort: _Effort) -> _Kernel | None:
    """The same question with fewer vertices, and a vertex of the highest degree; None if the answer is no.

    A vertex without conflict stays, the neighbour of a vertex with one is removed, a vertex with more conflicts
    than the budget is removed (Buss). Then every degree is between 2 and the budget.
    """
    while budget >= 0:
        effort.spend(vertices)
        before = budget
        degree_sum, highest, top = 0, 0, 0
        for vertex in _bits(vertices):
            if not vertices >> vertex & 1:  # removed since
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
                highest, top = max((highest, top), (degree, vertex))
        if budget == before:
            # Each vertex removed ends `highest` conflicts at most.
            is_possible = degree_sum <= 2 * budget * highest
            return _Kernel(vertices, budget, top) if is_possible else None
    return None


def _groups(conflicts: Sequence[int], vertices: int, effort: _Effort) -> list[int]:
    """The vertices in groups whose members all conflict with each other, so that a clique has at most one of each."""
    groups = []
    while vertices:
        effort.spend(vertices)
        found = _least_in_conflict(conflicts, vertices, vertices)
        group = 1 << found
        candidates = conflicts[found] & vertices
        while candidates:
            effort.spend(candidates)
            found = _least_in_conflict(conflicts, candidates, vertices)
            group |= 1 << found
            candidates &= conflicts[found]
        groups.append(group)
        vertices &= ~group
    return groups


def _least_in_conflict(conflicts: Sequence[int], candidates: int, vertices: int) -> int:
    """The candidate with the fewest conflicts within `vertices`, the smallest of several."""
    return min(_bits(candidates), key=lambda vertex: (conflicts[vertex] & vertices).bit_count())


@dataclass(frozen=True, eq=False)
class _Problem:
    """What branch and bound asks: the clique of `size` vertices with the smallest sum of distances."""

    between: Floats  # (n, n)
    compatible: Floats  # the same with inf at conflicts
    conflicts: list[int]  # of each vertex, as bits
    size: int  # of the largest clique
    effort: _Effort


@dataclass(frozen=True)
class _Node:
    """A set of cliques: all with the vertices `inside` and others of `opened`; both as bits."""

    inside: int
    opened: int
    total: float  # the sum of distances inside
    outlier: int  # the open vertex that costs most above the cheapest of its group


class _Branch(NamedTuple):
    """A set of cliques as in `_Node`, not yet narrowed."""

    inside: int
    opened: int


def _best_clique(problem: _Problem) -> int:
    """Of the cliques of `size` the one of the smallest sum; of several within MARGIN the smallest vertices."""
    limit = _smallest_sum(problem) * (1 + MARGIN)
    waiting = [_everything(problem)]
    while True:
        node = _narrowed(problem, waiting.pop(), limit=limit)
        if node is None:
            continue
        if not node.opened:
            return node.inside
        # The branch with the smallest open vertex first, so that the first clique found has the smallest vertices.
        lowest = next(_bits(node.opened))
        waiting += [_without(node, lowest), _with(problem, node, lowest)]


def _smallest_sum(problem: _Problem) -> float:
    """Depth first, the likelier branch first: leaving out the vertex that costs most."""
    least = np.inf
    waiting = [_everything(problem)]
    while waiting:
        node = _narrowed(problem, waiting.pop(), limit=least * (1 - 1e-13))
        if node is None:
            continue
        if not node.opened:
            least = node.total
        else:
            waiting += [_with(problem, node, node.outlier), _without(node, node.outlier)]
    return float(least)


def _everything(problem: _Problem) -> _Branch:
    return _Branch(0, (1 << len(problem.between)) - 1)


def _with(problem: _Problem, node: _Node, vertex: int) -> _Branch:
    opened = node.opened & ~(1 << vertex) & ~problem.conflicts[vertex]
    return _Branch(node.inside | 1 << vertex, opened)


def _without(node: _Node, vertex: int) -> _Branch:
    return _Branch(node.inside, node.opened & ~(1 << vertex))


def _narrowed(problem: _Problem, branch: _Branch, *, limit: float) -> _Node | None:
    """The node without vertices that no clique of the size and of a sum within the limit has; None if none is left."""
    inside, opened = branch
    while True:
        problem.effort.spend(opened)
        settled = _settled(problem, inside, opened)
        if settled is None:
            return None
        inside, opened = settled
        chosen = np.array(list(_bits(inside)), dtype=np.int64)
        total = float(problem.between[np.ix_(chosen, chosen)].sum() / 2)
        if not opened:
            return _Node(inside, 0, total, -1) if total <= limit else None
        bounds = _bounds(problem, chosen, opened, problem.size - inside.bit_count())
        is_possible = np.isfinite(bounds.least) & (total + bounds.least <= limit)
        if is_possible.all():
            outlier = bounds.vertices[bounds.excess.argmax()]
            return _Node(inside, opened, total, int(outlier))
        opened = sum(1 << int(vertex) for vertex in bounds.vertices[is_possible])


def _settled(problem: _Problem, inside: int, opened: int) -> _Branch | None:
    """Open vertices without conflict go inside, those with too many go, until nothing changes; None if no clique of the
    size is left.
    """
    while True:
        n_missing = problem.size - inside.bit_count()
        budget = opened.bit_count() - n_missing  # so many open vertices may be left out
        if n_missing < 0 or budget < 0:
            return None
        free = removed = 0
        for vertex in _bits(opened):
            degree = (problem.conflicts[vertex] & opened).bit_count()
            if degree == 0:
                free |= 1 << vertex
            if degree > budget:
                removed |= 1 << vertex
        if not free | removed:
            is_left = _coverable(problem.conflicts, opened, budget, problem.effort)
            return _Branch(inside, opened) if is_left else None
        inside |= free
        opened &= ~free & ~removed


class _Bounds(NamedTuple):
    """Of each open vertex, (n_opened,), in the order of their groups."""

    vertices: Ints
    least: Floats  # the least that the sum grows if it is taken; inf if it cannot be
    excess: Floats  # what it costs above the cheapest of its group


def _bounds(problem: _Problem, chosen: Ints, opened: int, n_missing: int) -> _Bounds:
    """A clique takes at most one vertex of each group. A vertex costs its distances to the chosen ones and half of
    those to the nearest compatible vertices of the other groups, as many as are missing beside it.
    """
    groups = [list(_bits(group)) for group in _groups(problem.conflicts, opened, problem.effort)]
    vertices = np.concatenate([np.array(group) for group in groups])
    group_of = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    starts = np.searchsorted(group_of, np.arange(len(groups)))
    # The nearest vertex of each other group, (n_opened, n_groups).
    nearest = np.minimum.reduceat(problem.compatible[np.ix_(vertices, vertices)], starts, axis=1)
    nearest[np.arange(len(vertices)), group_of] = np.inf
    costs = problem.between[np.ix_(vertices, chosen)].sum(axis=1)
    costs += np.sort(nearest, axis=1)[:, : n_missing - 1].sum(axis=1) / 2
    # Beside the vertex the cheapest of as many other groups as are missing: without its own, or the dearest of them.
    cheapest = np.minimum.reduceat(costs, starts)
    taken = np.sort(cheapest)[:n_missing]
    with np.errstate(invalid="ignore"):  # inf - inf: nobody of the group can be taken
        others = taken.sum() - np.minimum(cheapest[group_of], taken[-1])
        return _Bounds(vertices, others + costs, costs - cheapest[group_of])
