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
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
    values = np.unique(between[np.triu_indices(n, 1)])
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
    graph.add_edges_from(np.argwhere(np.triu(between > threshold * (1 + MARGIN))).tolist())
    return graph


def _smallest_threshold(between: Floats, values: Floats, size: int, effort: _Effort) -> float:
    """Bisection over the ascending distances `values`; at the largest one all vertices are a clique.

    Each vertex of a clique of `size` has size - 1 others within t, which is where it begins.
    """
    n, reach = len(between), np.sort(between, axis=1)[:, size - 1]
    low, high = int(np.searchsorted(values, np.sort(reach)[size - 1] * (1 - MARGIN))), len(values) - 1
    while low < high:
        middle = (low + high) // 2
        if _smallest_cover(conflict_graph(between, values[middle]), n - size, effort) is not None:
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
    for i, component in enumerate(components):
        vertices = sum(1 << v for v in component)
        while sum(budgets) <= most and not _coverable(neighbours, vertices, budgets[i], effort):
            budgets[i] += 1
    return sum(budgets) if sum(budgets) <= most else None


def _neighbours(conflicts: nx.Graph) -> list[int]:
    """For each vertex the set of vertices in conflict with it, as bits."""
    return [sum(1 << other for other in conflicts[v]) for v in range(len(conflicts))]


def _bits(vertices: int) -> Iterator[int]:
    while vertices:
        lowest = vertices & -vertices
        yield lowest.bit_length() - 1
        vertices ^= lowest


def _coverable(conflicts: Sequence[int], vertices: int, budget: int, effort: _Effort) -> bool:
    """Whether `budget` vertices or fewer, removed, leave no conflict within `vertices`.

    Bounded search: a vertex of the highest degree is removed, or all its neighbours are.
    """
    waiting, seen = [(vertices, budget)], set()
    while waiting:
        state = _kernel(conflicts, *waiting.pop(), effort)
        if state is None or state[:2] in seen:
            continue
        vertices, budget, top = state
        if not vertices:
            return True
        seen.add((vertices, budget))
        neighbours = conflicts[top] & vertices
        if (
            neighbours.bit_count() > 2
        ):  # else only cycles are left: of each, some smallest cover holds any vertex
            if len(_groups(conflicts, vertices, effort)) < vertices.bit_count() - budget:
                continue
            waiting.append((vertices & ~neighbours & ~(1 << top), budget - neighbours.bit_count()))
        waiting.append((vertices & ~(1 << top), budget - 1))
    return False


def _kernel(
    conflicts: Sequence[int], vertices: int, budget: int, effort: _Effort
) -> tuple[int, int, int] | None:
    """The same question with fewer vertices, and a vertex of the highest degree; None if the answer is no.

    A vertex without conflict stays, the neighbour of a vertex with one is removed, a vertex with more conflicts
    than the budget is removed (Buss). Then every degree is between 2 and the budget.
    """
    while budget >= 0:
        effort.spend(vertices)
        before, n_pairs, degree, top = budget, 0, 0, 0
        for v in _bits(vertices):
            if not vertices >> v & 1:
                continue
            neighbours = conflicts[v] & vertices
            count = neighbours.bit_count()
            if count < 2:
                vertices, budget = vertices & ~neighbours & ~(1 << v), budget - count
            elif count > budget:
                vertices, budget = vertices ^ 1 << v, budget - 1
            else:
                n_pairs, degree, top = n_pairs + count, *max((degree, top), (count, v))
        if budget == before:
            return (vertices, budget, top) if n_pairs <= 2 * budget * degree else None
    return None


def _groups(conflicts: Sequence[int], vertices: int, effort: _Effort) -> list[int]:
    """The vertices in groups whose members all conflict with each other, so that a clique has at most one of each."""
    groups = []
    while vertices:
        effort.spend(vertices)
        found = min(_bits(vertices), key=lambda v: (conflicts[v] & vertices).bit_count())
        group, candidates = 1 << found, conflicts[found] & vertices
        while candidates:
            effort.spend(candidates)
            found = min(_bits(candidates), key=lambda v: (conflicts[v] & vertices).bit_count())
            group, candidates = group | 1 << found, candidates & conflicts[found]
        groups.append(group)
        vertices &= ~group
    return groups


@dataclass(frozen=True, eq=False)
class _Problem:
    """Distances (n, n), the same with inf at conflicts, the conflicts as bits, and the largest clique's size."""

    between: Floats
    compatible: Floats
    conflicts: list[int]
    size: int
    effort: _Effort


@dataclass(frozen=True)
class _Node:
    """A set of cliques: all with the vertices `inside` (their sum is `total`) and others of `opened`.

    `outlier` is the open vertex that costs most above the cheapest of its group.
    """

    inside: int
    opened: int
    total: float
    outlier: int


def _best_clique(problem: _Problem) -> int:
    """Of the cliques of `size` the one of the smallest sum; of several within MARGIN the smallest vertices."""
    limit, waiting = _smallest_sum(problem) * (1 + MARGIN), [(0, (1 << len(problem.between)) - 1)]
    while True:
        node = _narrowed(problem, *waiting.pop(), limit=limit)
        if node is None:
            continue
        if not node.opened:
            return node.inside
        lowest = (node.opened & -node.opened).bit_length() - 1
        waiting += [_without(node, lowest), _with(problem, node, lowest)]


def _smallest_sum(problem: _Problem) -> float:
    """Depth first, the likelier branch first: leaving out the vertex that costs most."""
    least, waiting = np.inf, [(0, (1 << len(problem.between)) - 1)]
    while waiting:
        node = _narrowed(problem, *waiting.pop(), limit=least * (1 - 1e-13))
        if node is None:
            continue
        if not node.opened:
            least = node.total
        else:
            waiting += [_with(problem, node, node.outlier), _without(node, node.outlier)]
    return float(least)


def _with(problem: _Problem, node: _Node, vertex: int) -> tuple[int, int]:
    return node.inside | 1 << vertex, node.opened & ~(1 << vertex) & ~problem.conflicts[vertex]


def _without(node: _Node, vertex: int) -> tuple[int, int]:
    return node.inside, node.opened & ~(1 << vertex)


def _narrowed(problem: _Problem, inside: int, opened: int, *, limit: float) -> _Node | None:
    """The node without vertices that no clique of the size and of a sum within the limit has; None if none is left."""
    while True:
        problem.effort.spend(opened)
        settled = _settled(problem, inside, opened)
        if settled is None:
            return None
        inside, opened, n_missing = settled
        chosen = np.array(list(_bits(inside)), dtype=np.int64)
        total = float(problem.between[np.ix_(chosen, chosen)].sum() / 2)
        if not opened:
            return _Node(inside, 0, total, -1) if total <= limit else None
        vertices, least, excess = _bounds(problem, chosen, opened, n_missing)
        possible = np.isfinite(least) & (total + least <= limit)
        if possible.all():
            return _Node(inside, opened, total, int(vertices[excess.argmax()]))
        opened = sum(1 << int(v) for v in vertices[possible])


def _settled(problem: _Problem, inside: int, opened: int) -> tuple[int, int, int] | None:
    """Open vertices without conflict go inside, those with too many go; then how many are missing."""
    while True:
        n_missing = problem.size - inside.bit_count()
        budget = opened.bit_count() - n_missing
        if n_missing < 0 or budget < 0:
            return None
        degrees = {v: (problem.conflicts[v] & opened).bit_count() for v in _bits(opened)}
        free = sum(1 << v for v, degree in degrees.items() if degree == 0)
        removed = sum(1 << v for v, degree in degrees.items() if degree > budget)
        if not free | removed:
            return (
                (inside, opened, n_missing)
                if _coverable(problem.conflicts, opened, budget, problem.effort)
                else None
            )
        inside, opened = inside | free, opened & ~free & ~removed


def _bounds(problem: _Problem, chosen: Ints, opened: int, n_missing: int) -> tuple[Ints, Floats, Floats]:
    """The open vertices, the least that the sum grows if each is taken, and its excess over the cheapest of its group.

    A clique takes at most one vertex of each group. A vertex costs its distances to the chosen ones and half of
    those to the nearest compatible vertices of the other groups, as many as are missing beside it.
    """
    groups = [list(_bits(group)) for group in _groups(problem.conflicts, opened, problem.effort)]
    vertices = np.array([v for group in groups for v in group])
    of = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    starts = np.searchsorted(of, np.arange(len(groups)))
    nearest = np.minimum.reduceat(problem.compatible[np.ix_(vertices, vertices)], starts, axis=1)
    nearest[np.arange(len(vertices)), of] = np.inf
    costs = problem.between[np.ix_(vertices, chosen)].sum(axis=1)
    costs += np.sort(nearest, axis=1)[:, : n_missing - 1].sum(axis=1) / 2
    cheapest = np.minimum.reduceat(costs, starts)
    taken = np.sort(cheapest)[:n_missing]
    with np.errstate(invalid="ignore"):  # inf - inf: nobody of the group can be taken
        others = taken.sum() - np.minimum(cheapest[of], taken[-1])
        return vertices, others + costs, costs - cheapest[of]
