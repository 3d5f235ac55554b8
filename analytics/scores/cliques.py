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
from dataclasses import dataclass
from typing import NamedTuple

import networkx as nx
import numpy as np

from analytics.arrays import Floats, Ints
from analytics.scores.covers import (
    Effort,
    as_bits,
    bits,
    conflict_groups,
    coverable,
)
from analytics.scores.geometry import MARGIN


def tightest_clique(
    between: Floats,
    size: int,
    *,
    most_effort: float = math.inf,
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
    pairs = np.triu_indices(n, 1)
    distances = np.unique(between[pairs])  # ascending
    if size == n or len(distances) < 2:
        return list(range(n))
    effort = Effort(most_effort)
    threshold = _smallest_threshold(
        between,
        distances,
        size,
        effort,
    )
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
    return list(bits(clique))


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
    between: Floats,
    values: Floats,
    size: int,
    effort: Effort,
) -> float:
    """Bisection over the ascending distances `values`.

    At the largest one all vertices are a clique. Each vertex of a clique of `size` has
    size - 1 others within t, which is where it begins.
    """
    n = len(between)
    # Of each vertex, the distance within which it has so many, itself at 0 included
    ascending = np.sort(between, axis=1)
    reach = ascending[:, size - 1]
    least_reach = np.sort(reach)[size - 1]
    low = int(np.searchsorted(values, least_reach * (1 - MARGIN)))
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


def _smallest_cover(
    conflicts: nx.Graph,
    most: int,
    effort: Effort,
) -> int | None:
    """How few vertices, removed, leave no conflict; None if more than `most`."""
    neighbours = _neighbours(conflicts)
    components: list[nx.Graph] = []
    for vertices in nx.connected_components(conflicts):
        components.append(conflicts.subgraph(vertices))
    # Of every pair of a matching at least one vertex is removed.
    budgets = [len(nx.maximal_matching(component)) for component in components]
    for component_place, component in enumerate(components):
        in_component = as_bits(component)
        while sum(budgets) <= most:
            budget = budgets[component_place]
            is_enough = coverable(
                neighbours,
                in_component,
                budget,
                effort,
            )
            if is_enough:
                break
            budgets[component_place] += 1
    n_removed = sum(budgets)
    if n_removed > most:
        return None
    return n_removed


def _neighbours(conflicts: nx.Graph) -> list[int]:
    """For each vertex the set of vertices in conflict with it, as bits."""
    return [as_bits(conflicts[vertex]) for vertex in range(len(conflicts))]


@dataclass(frozen=True, eq=False)
class _Problem:
    """What branch and bound asks.

    Which clique of `size` vertices has the smallest sum of distances?
    """

    between: Floats  # (n, n)
    compatible: Floats  # the same with inf at conflicts
    conflicts: list[int]  # of each vertex, as bits
    size: int  # of the largest clique
    effort: Effort


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
        lowest = next(bits(node.opened))
        waiting.append(_without(node, lowest))
        waiting.append(_with(problem, node, lowest))


def _smallest_sum(problem: _Problem) -> float:
    """Depth first, the likelier branch first: leaving out the vertex that costs most."""
    least_sum = np.inf
    waiting = [_everything(problem)]
    while waiting:
        node = _narrowed(
            problem,
            waiting.pop(),
            limit=least_sum * (1 - 1e-13),
        )
        if node is None:
            continue
        if not node.opened:
            least_sum = node.total
            continue
        waiting.append(_with(problem, node, node.outlier))
        waiting.append(_without(node, node.outlier))
    return float(least_sum)


def _everything(problem: _Problem) -> _Branch:
    n_vertices = len(problem.between)
    return _Branch(inside=0, opened=(1 << n_vertices) - 1)


def _with(
    problem: _Problem,
    node: _Node,
    vertex: int,
) -> _Branch:
    own_bit = 1 << vertex
    gone_bits = own_bit | problem.conflicts[vertex]
    return _Branch(inside=node.inside | own_bit, opened=node.opened & ~gone_bits)


def _without(node: _Node, vertex: int) -> _Branch:
    own_bit = 1 << vertex
    return _Branch(inside=node.inside, opened=node.opened & ~own_bit)


def _narrowed(
    problem: _Problem,
    branch: _Branch,
    *,
    limit: float,
) -> _Node | None:
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
        chosen = np.array(list(bits(inside)), dtype=np.int64)
        among_chosen = problem.between[np.ix_(chosen, chosen)]
        chosen_total = float(among_chosen.sum() / 2)
        if not opened:
            if not chosen_total <= limit:
                return None
            return _Node(
                inside=inside,
                opened=0,
                total=chosen_total,
                outlier=-1,
            )
        n_missing = problem.size - inside.bit_count()
        bounds = _bounds(
            problem,
            chosen,
            opened,
            n_missing,
        )
        is_within_limit = chosen_total + bounds.least <= limit
        is_possible = np.isfinite(bounds.least) & is_within_limit
        if is_possible.all():
            dearest = bounds.excess.argmax()
            outlier = int(bounds.vertices[dearest])
            return _Node(
                inside=inside,
                opened=opened,
                total=chosen_total,
                outlier=outlier,
            )
        possible = bounds.vertices[is_possible]
        opened = as_bits(possible.tolist())


def _settled(
    problem: _Problem,
    inside: int,
    opened: int,
) -> _Branch | None:
    """Open vertices without conflict go inside, those with too many go.

    Until nothing changes; None if no clique of the size is left.
    """
    conflicts = problem.conflicts
    while True:
        n_missing = problem.size - inside.bit_count()
        budget = opened.bit_count() - n_missing  # so many open vertices may be left out
        if n_missing < 0 or budget < 0:
            return None
        free = 0
        removed = 0
        for vertex in bits(opened):
            neighbours = conflicts[vertex] & opened
            degree = neighbours.bit_count()
            if degree == 0:
                free |= 1 << vertex
            if degree > budget:
                removed |= 1 << vertex
        if not free | removed:
            is_left = coverable(
                conflicts,
                opened,
                budget,
                problem.effort,
            )
            return _Branch(inside, opened) if is_left else None
        inside |= free
        opened &= ~free & ~removed


class _Bounds(NamedTuple):
    """Of each open vertex, (n_opened,), in the order of their groups."""

    vertices: Ints
    least: Floats  # the least that the sum grows if it is taken; inf if it cannot be
    excess: Floats  # what it costs above the cheapest of its group


def _bounds(
    problem: _Problem,
    chosen: Ints,
    opened: int,
    n_missing: int,
) -> _Bounds:
    """A clique takes at most one vertex of each group. A vertex costs its distances to
    the chosen ones and half of those to the nearest compatible vertices of the other
    groups, as many as are missing beside it.
    """
    groups: list[Ints] = []
    for group in conflict_groups(problem.conflicts, opened, problem.effort):
        members = list(bits(group))
        groups.append(np.array(members))
    group_sizes = [len(group) for group in groups]
    every_group = np.arange(len(groups))
    vertices = np.concatenate(groups)
    every_vertex = np.arange(len(vertices))
    group_of = np.repeat(every_group, group_sizes)
    starts = np.searchsorted(group_of, every_group)
    # The nearest vertex of each other group, (n_opened, n_groups).
    compatible = problem.compatible[np.ix_(vertices, vertices)]
    nearest = np.minimum.reduceat(compatible, starts, axis=1)
    nearest[every_vertex, group_of] = np.inf
    ascending = np.sort(nearest, axis=1)
    to_others = ascending[:, : n_missing - 1].sum(axis=1)
    away = problem.between[np.ix_(vertices, chosen)]
    to_chosen = away.sum(axis=1)
    costs = to_chosen + to_others / 2
    # Beside the vertex the cheapest of as many other groups as are missing: without its
    # own, or the dearest of them.
    cheapest = np.minimum.reduceat(costs, starts)
    taken_costs = np.sort(cheapest)[:n_missing]
    dearest_taken = taken_costs[-1]
    with np.errstate(invalid="ignore"):  # inf - inf: nobody of the group can be taken
        cheapest_of_own = cheapest[group_of]
        given_up = np.minimum(cheapest_of_own, dearest_taken)
        other_costs = taken_costs.sum() - given_up
        return _Bounds(
            vertices=vertices,
            least=other_costs + costs,
            excess=costs - cheapest_of_own,
        )
