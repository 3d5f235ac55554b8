"""The tightest group of a round: a largest clique among the pairs that are near enough,
found exactly.

Two clients conflict if they are too far apart, and a networkx graph has the clients as
vertices and their conflicts as edges. A clique of s of n clients is what n - s removed
vertices leave without conflict, that is, a vertex cover of the conflicts. Such covers
are small where groups are large, so they are searched, not the cliques; the graph's
connected components have no conflict in common, so each has a smallest cover of its
own.

Both searches are ours, on vertices as bits of Python integers. networkx has none that
stops after a given amount of work, as a search that the API runs has to, and none for
the smallest sum of distances. Measured at 100 clients:
`find_cliques` did not end within 20 s on vectors of random signs; `max_weight_clique`
takes 0.1 to 2.8 s for one of the dozen thresholds, and does not end within a minute
where the conflicts are twenty cycles of five clients. The whole search here takes 0.01
to 0.4 s for p of a half and more, the graphs included.

The module is imported where it is needed: networkx takes long to import, and every
process of a federation would.

From the top: `tightest_clique`; the vertex covers that give threshold and size; branch
and bound among equals.

Decision 63.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
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


def tightest_clique(
    between: Floats, size: int, *, most_effort: float = math.inf
) -> list[int]:
    """The largest clique of the graph {d_ij <= t}, ascending.

    t is the smallest distance for which it has `size` vertices or more. `between` (n,
    n) holds the distances d, 1 <= size <= n; distances compare with a relative MARGIN.
    Among several largest cliques the one with the smallest sum of distances, then the
    one with the smallest vertices. t is found by bisection over the distances, every
    step decides whether the conflicts {d_ij > t} have a vertex cover of at most n -
    size vertices (Cygan et al. 2015, chapter 3); among equals, branch and bound. Raises
    SearchTooLong, the same for the same distances on every machine, beyond
    `most_effort` vertices looked at.

    >>> line = np.array([0.0, 1.0, 2.0, 9.0])
    >>> tightest_clique(np.abs(np.subtract.outer(line, line)), 2)
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
    assert n_removed is not None, "at the threshold there is a clique of the size"
    is_far = between > threshold * (1 + MARGIN)
    problem = _Problem(
        between=between,
        compatible=np.where(is_far, np.inf, between),
        conflicts=_neighbours(conflicts),
        size=n - n_removed,
        effort=effort,
    )
    clique = _best_clique(problem)
    return list(_bits(clique))


def conflict_graph(between: Floats, threshold: float) -> nx.Graph:
    """The clients 0..n-1, with an edge where two are farther apart than the threshold.

    >>> line = np.array([0.0, 1.0, 9.0])
    >>> conflict_graph(np.abs(np.subtract.outer(line, line)), 8).edges
    EdgeView([(0, 2)])
    """
    graph = nx.empty_graph(len(between))
    is_far = np.triu(between > threshold * (1 + MARGIN))
    graph.add_edges_from(np.argwhere(is_far).tolist())
    return graph


def _smallest_threshold(
    between: Floats, values: Floats, size: int, effort: _Effort
) -> float:
    """Bisection over the ascending distances `values`.

    At the largest one all vertices are a clique. Each vertex of a clique of `size` has
    size - 1 others within t, which is where it begins.
    """
    n = len(between)
    # Of each vertex, the distance within which it has so many, itself at 0 included
    ascending = np.sort(between, axis=1)
    reach = ascending[:, size - 1]
    least = np.sort(reach)[size - 1]
    low = int(np.searchsorted(values, least * (1 - MARGIN)))
    high = len(values) - 1
    while low < high:
        middle = (low + high) // 2
        conflicts = conflict_graph(between, values[middle])
        n_removed = _smallest_cover(conflicts, n - size, effort)
        if n_removed is not None:
            high = middle
        else:
            low = middle + 1
    return float(values[low])


def _smallest_cover(conflicts: nx.Graph, most: int, effort: _Effort) -> int | None:
    """How few vertices, removed, leave no conflict; None if more than `most`."""
    neighbours = _neighbours(conflicts)
    components: list[nx.Graph] = []
    for vertices in nx.connected_components(conflicts):
        components.append(conflicts.subgraph(vertices))
    # Of every pair of a matching at least one vertex is removed.
    budgets = [len(nx.maximal_matching(component)) for component in components]
    for place, component in enumerate(components):
        in_component = _as_bits(component)
        while sum(budgets) <= most:
            if _coverable(neighbours, in_component, budgets[place], effort):
                break
            budgets[place] += 1
    n_removed = sum(budgets)
    return n_removed if n_removed <= most else None


def _neighbours(conflicts: nx.Graph) -> list[int]:
    """For each vertex the set of vertices in conflict with it, as bits."""
    return [_as_bits(conflicts[vertex]) for vertex in range(len(conflicts))]


def _as_bits(vertices: Iterable[int]) -> int:
    return sum(1 << vertex for vertex in vertices)


def _bits(vertices: int) -> Iterator[int]:
    """The vertices of a set, ascending."""
    while vertices:
        lowest = vertices & -vertices
        yield lowest.bit_length() - 1
        vertices ^= lowest


def _coverable(
    conflicts: Sequence[int], vertices: int, budget: int, effort: _Effort
) -> bool:
    """Whether `budget` vertices or fewer, removed, leave no conflict within `vertices`.

    Bounded search: a vertex of the highest degree is removed, or all its neighbours
    are.
    """
    waiting = [(vertices, budget)]
    seen = set()
    while waiting:
        left, left_budget = waiting.pop()
        kernel = _kernel(conflicts, left, left_budget, effort)
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
            if len(_groups(conflicts, vertices, effort)) < n_stay:
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
    conflicts: Sequence[int], vertices: int, budget: int, effort: _Effort
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
        for vertex in _bits(vertices):
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


def _groups(conflicts: Sequence[int], vertices: int, effort: _Effort) -> list[int]:
    """The vertices in groups of which a clique has at most one vertex each.

    The members of a group all conflict with each other.
    """
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
    """The candidate with the fewest conflicts in `vertices`, the smallest of several."""

    def n_conflicts(vertex: int) -> int:
        return (conflicts[vertex] & vertices).bit_count()

    return min(_bits(candidates), key=n_conflicts)


@dataclass(frozen=True, eq=False)
class _Problem:
    """What branch and bound asks.

    Which clique of `size` vertices has the smallest sum of distances?
    """

    between: Floats  # (n, n)
    compatible: Floats  # the same with inf at conflicts
    conflicts: list[int]  # of each vertex, as bits
    size: int  # of the largest clique
    effort: _Effort


@dataclass(frozen=True)
class _Node:
    """A set of cliques: all with the vertices `inside` and others of `opened`."""

    inside: int  # as bits
    opened: int  # as bits
    total: float  # the sum of distances inside
    outlier: int  # the open vertex that costs most above the cheapest of its group


class _Branch(NamedTuple):
    """A set of cliques as in `_Node`, not yet narrowed."""

    inside: int
    opened: int


def _best_clique(problem: _Problem) -> int:
    """Of the cliques of `size` the one of the smallest sum.

    Of several within MARGIN it is the one with the smallest vertices.
    """
    limit = _smallest_sum(problem) * (1 + MARGIN)
    waiting = [_everything(problem)]
    while True:
        node = _narrowed(problem, waiting.pop(), limit=limit)
        if node is None:
            continue
        if not node.opened:
            return node.inside
        # The branch with the smallest open vertex first, so that the first clique found
        # has the smallest vertices.
        lowest = next(_bits(node.opened))
        waiting.append(_without(node, lowest))
        waiting.append(_with(problem, node, lowest))


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
            continue
        waiting.append(_with(problem, node, node.outlier))
        waiting.append(_without(node, node.outlier))
    return float(least)


def _everything(problem: _Problem) -> _Branch:
    return _Branch(0, (1 << len(problem.between)) - 1)


def _with(problem: _Problem, node: _Node, vertex: int) -> _Branch:
    opened = node.opened & ~(1 << vertex) & ~problem.conflicts[vertex]
    return _Branch(node.inside | 1 << vertex, opened)


def _without(node: _Node, vertex: int) -> _Branch:
    return _Branch(node.inside, node.opened & ~(1 << vertex))


def _narrowed(problem: _Problem, branch: _Branch, *, limit: float) -> _Node | None:
    """The branch without vertices that no clique sought for has; None if none is left.

    Sought for are those of the size and of a sum within the limit.
    """
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
            is_within = total <= limit
            return _Node(inside, 0, total, -1) if is_within else None
        n_missing = problem.size - inside.bit_count()
        bounds = _bounds(problem, chosen, opened, n_missing)
        is_possible = np.isfinite(bounds.least) & (total + bounds.least <= limit)
        if is_possible.all():
            outlier = bounds.vertices[bounds.excess.argmax()]
            return _Node(inside, opened, total, int(outlier))
        opened = _as_bits(bounds.vertices[is_possible].tolist())


def _settled(problem: _Problem, inside: int, opened: int) -> _Branch | None:
    """Open vertices without conflict go inside, those with too many go.

    Until nothing changes; None if no clique of the size is left.
    """
    while True:
        n_missing = problem.size - inside.bit_count()
        budget = opened.bit_count() - n_missing  # so many open vertices may be left out
        if n_missing < 0 or budget < 0:
            return None
        free = 0
        removed = 0
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
    """A clique takes at most one vertex of each group. A vertex costs its distances to
    the chosen ones and half of those to the nearest compatible vertices of the other
    groups, as many as are missing beside it.
    """
    groups: list[Ints] = []
    for group in _groups(problem.conflicts, opened, problem.effort):
        groups.append(np.array(list(_bits(group))))
    sizes = [len(group) for group in groups]
    every_group = np.arange(len(groups))
    vertices = np.concatenate(groups)
    group_of = np.repeat(every_group, sizes)
    starts = np.searchsorted(group_of, every_group)
    # The nearest vertex of each other group, (n_opened, n_groups).
    compatible = problem.compatible[np.ix_(vertices, vertices)]
    nearest = np.minimum.reduceat(compatible, starts, axis=1)
    nearest[np.arange(len(vertices)), group_of] = np.inf
    to_others = np.sort(nearest, axis=1)[:, : n_missing - 1].sum(axis=1)
    to_chosen = problem.between[np.ix_(vertices, chosen)].sum(axis=1)
    costs = to_chosen + to_others / 2
    # Beside the vertex the cheapest of as many other groups as are missing: without its
    # own, or the dearest of them.
    cheapest = np.minimum.reduceat(costs, starts)
    taken = np.sort(cheapest)[:n_missing]
    with np.errstate(invalid="ignore"):  # inf - inf: nobody of the group can be taken
        cheapest_of_own = cheapest[group_of]
        others = taken.sum() - np.minimum(cheapest_of_own, taken[-1])
        return _Bounds(
            vertices=vertices,
            least=others + costs,
            excess=costs - cheapest_of_own,
        )
