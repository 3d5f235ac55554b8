"""Sparse pair masks: the table keeps its bound, the bound is true of graphs that are
counted out, and colluders who subtract all masks that they know learn the sum of the
honest hospitals and no part of it.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace
from math import comb
from typing import Any

import networkx as nx
import numpy as np
import pytest
from scipy.special import gammaln
from scipy.stats import chisquare

from protocol.errors import ProtocolViolation
from protocol.sums import exact_sum, mask_graph, masks, secure_sum
from protocol.sums.exact_sum import Terms
from protocol.sums.payload import Payload, SumKind, words_of
from protocol.sums.sum_keys import SumKeys

INFO = b"train fold 1 round 2"
GROUP_KEY = hashlib.sha256(b"order secret").digest()
BITS = mask_graph.FAILURE_BITS + mask_graph.GRINDING_BITS
FEWEST = mask_graph.MOST_COMPLETE + 1


def seed_of(name: object) -> bytes:
    return hashlib.sha256(str(name).encode()).digest()


def key_of(a: int, b: int) -> bytes:
    return hashlib.sha256(b"%d/%d" % (min(a, b), max(a, b))).digest()


def graph_of(members: range, seed: bytes) -> nx.Graph[int]:
    graph: nx.Graph[int] = nx.Graph()
    for me in members:
        for peer in mask_graph.peers(members, me, seed=seed):
            graph.add_edge(me, peer)
    return graph


# The bound


def keeps_bound(n_members: int, reach: int, n_colluders: int) -> bool:
    """C(n, 2) C(c, k) / C(n, k) <= 2^-120, in whole numbers."""
    k = 2 * reach
    pairs_of_rows = comb(n_members, 2)
    return pairs_of_rows * comb(n_colluders, k) << BITS <= comb(n_members, k)


def log2_bound(n_members: int, reach: int) -> float:
    """The same as a logarithm, for numbers too large to count out each."""
    n, c, k = n_members, n_members // mask_graph.COLLUDERS, 2 * reach
    rows = gammaln(c + 1) - gammaln(c - k + 1) - gammaln(n + 1) + gammaln(n - k + 1)
    return float(np.log2(comb(n, 2)) + rows / np.log(2))


def test_each_number_of_members_keeps_the_bound() -> None:
    for n_members in range(FEWEST, 1_001):
        reach = mask_graph.reach(n_members)
        assert keeps_bound(n_members, reach, n_members // mask_graph.COLLUDERS)


def test_so_do_thousands() -> None:
    most = mask_graph.REACHES[-1].most_members
    for n_members in [*range(1_001, most, 50), most]:
        # 2^-119.99 would be a rounding error's doing: no row is so near.
        assert log2_bound(n_members, mask_graph.reach(n_members)) <= -BITS


def test_no_row_of_the_table_could_be_smaller() -> None:
    fewest = FEWEST
    for row in mask_graph.REACHES[:-2]:
        numbers = range(fewest, row.most_members + 1)
        assert not all(
            keeps_bound(n, row.places - 1, n // mask_graph.COLLUDERS) for n in numbers
        )
        fewest = row.most_members + 1


def is_told_apart(ring: list[int], colluders: frozenset[int], reach: int) -> bool:
    """Whether the honest places of a ring fall apart."""
    graph: nx.Graph[int] = nx.circulant_graph(len(ring), list(range(1, reach + 1)))
    graph.remove_nodes_from([place for place in ring if place in colluders])
    return graph.number_of_nodes() > 1 and not nx.is_connected(graph)


@pytest.mark.parametrize(("n", "c", "reach"), [(9, 4, 1), (10, 5, 2), (11, 6, 2)])
def test_all_sets_of_colluders_of_small_rings(n: int, c: int, reach: int) -> None:
    """Counted out: never more than the bound, and none where k > c."""
    ring = list(range(n))
    n_apart = 0
    for colluders in itertools.combinations(ring, c):
        n_apart += is_told_apart(ring, frozenset(colluders), reach)
    bound = comb(n, 2) * comb(c, 2 * reach) / comb(n, 2 * reach)
    assert 0 < n_apart / comb(n, c) <= bound


def test_fewer_colluders_than_neighbours_never_part_the_honest() -> None:
    ring = list(range(10))
    for n_colluders in range(4):
        for colluders in itertools.combinations(ring, n_colluders):
            assert not is_told_apart(ring, frozenset(colluders), 2)


# The graph


@pytest.mark.parametrize("n_members", [65, 100, 101, 300])
def test_a_graph_is_symmetric_and_regular(n_members: int) -> None:
    members = range(2, n_members + 2)
    k = 2 * mask_graph.reach(n_members)
    graph = graph_of(members, seed_of(n_members))
    assert set(graph) == set(members)
    assert {degree for _, degree in graph.degree()} == {k}
    # Symmetric: an edge that one end lacked would have given its other end too many.
    for me in members:
        peers = mask_graph.peers(members, me, seed=seed_of(n_members))
        assert list(peers) == sorted(graph[me])


def test_every_third_of_a_graph_may_collude() -> None:
    """Random colluders, and each hospital's own neighbours as far as a third goes."""
    members = range(300)
    graph = graph_of(members, seed_of("a third"))
    rng = np.random.default_rng(0)
    for _ in range(100):
        colluders = rng.choice(300, 100, replace=False)
        assert nx.is_connected(graph.subgraph(set(members) - set(colluders.tolist())))
    # Whoever chooses when the graph is known has a hospital to itself: not promised.
    around = set(graph[7])
    assert len(around) <= 100
    assert not nx.is_connected(graph.subgraph(set(members) - around))


def test_peers_are_uniform_over_seeds() -> None:
    members = range(FEWEST)
    counts = np.zeros(FEWEST)
    n_seeds = 2_000
    for number in range(n_seeds):
        peers = mask_graph.peers(members, 0, seed=seed_of(number))
        counts[list(peers)] += 1
    assert counts[0] == 0
    # Peers of one seed are drawn without replacement, so counts vary less than a
    # multinomial's: the test is only the milder for it.
    assert chisquare(counts[1:]).pvalue > 1e-4


def test_up_to_64_and_without_a_seed_all_mask_with_all() -> None:
    n_complete = mask_graph.MOST_COMPLETE
    for n_members, seed in ((n_complete, seed_of(1)), (FEWEST, None), (1, None)):
        members = range(n_members)
        assert mask_graph.peers(members, 0, seed=seed) == tuple(range(1, n_members))
    assert len(mask_graph.peers(range(FEWEST), 0, seed=seed_of(1))) < FEWEST - 1


@pytest.mark.parametrize(
    ("n_members", "me", "seed"),
    [(70, 70, bytes(32)), (70, 0, bytes(31)), (65_536, 0, bytes(32))],
)
def test_what_is_no_graph_is_refused(n_members: int, me: int, seed: bytes) -> None:
    with pytest.raises(ProtocolViolation) as refused:
        mask_graph.peers(range(n_members), me, seed=seed)
    assert refused.value.code == "mask_graph"


# Sums


def keys_of(members: range, seed: bytes | None) -> dict[int, SumKeys]:
    keys = {}
    for me in members:
        peers = mask_graph.peers(members, me, seed=seed)
        keys[me] = SumKeys(
            method="Mask",
            me=me,
            members=tuple(members),
            n_rows=dict.fromkeys(members, 1),
            pair_keys={peer: key_of(me, peer) for peer in peers},
            group_key=GROUP_KEY,
            mask_seed=seed,
        )
    return keys


def counts_of(me: int) -> Any:
    return np.array([me, -3 * me, me * me], dtype=np.int64)


def sealed(keys: dict[int, SumKeys]) -> dict[int, bytes]:
    parts = {}
    for me, own in keys.items():
        parts[me] = secure_sum.seal_counts(own, counts_of(me), info=INFO)
    return parts


def test_sparse_masks_cancel_in_the_sum() -> None:
    keys = keys_of(range(2, 72), seed_of("sum"))
    total = secure_sum.add("Mask", sealed(keys))
    opened = secure_sum.open_sum(keys[2], total, info=INFO)
    assert opened.tolist() == sum(counts_of(me) for me in keys).tolist()


@pytest.mark.parametrize("other", [None, seed_of("another")])
def test_a_hospital_with_another_graph_ends_the_order(other: bytes | None) -> None:
    members = range(2, 72)
    keys = keys_of(members, seed_of("sum"))
    parts = sealed(keys)
    parts[9] = secure_sum.seal_counts(
        keys_of(members, other)[9], counts_of(9), info=INFO
    )
    with pytest.raises(ProtocolViolation) as refused:
        secure_sum.open_sum(keys[2], secure_sum.add("Mask", parts), info=INFO)
    assert refused.value.code == "sum_mismatch"


def test_exact_sums_with_sparse_masks_and_one_with_another_graph() -> None:
    members = range(2, 72)
    terms = Terms(tuple(members), 64, 1, b"sum/1")
    seeds = {me: seed_of(me) for me in members}

    def part(me: int, seed: bytes) -> bytes:
        peers = mask_graph.peers(members, me, seed=seed)
        pair_keys = {peer: key_of(me, peer) for peer in peers}
        return exact_sum.seal(
            [me],
            terms,
            me=me,
            pair_keys=pair_keys,
            tag_key=GROUP_KEY,
            seed=seeds[me],
        )

    parts = {me: part(me, seed_of("sum")) for me in members}
    total = exact_sum.add(parts)
    opened = exact_sum.open_total(total, terms, tag_key=GROUP_KEY, seeds=seeds)
    assert opened == [sum(members)]
    parts[9] = part(9, seed_of("another"))
    total = exact_sum.add(parts)
    with pytest.raises(ProtocolViolation) as refused:
        exact_sum.open_total(total, terms, tag_key=GROUP_KEY, seeds=seeds)
    assert refused.value.code == "sum_mismatch"


# The attack: coordinator, initiator and a third of the hospitals


def unknown_masks(
    honest: set[int], members: range, seed: bytes
) -> tuple[list[tuple[int, int]], Any]:
    """Pairs whose mask no colluder has, and which of them (+1, -1) each honest hospital's
    vector still holds when the colluders have taken all theirs off.
    """
    graph = graph_of(members, seed).subgraph(honest)
    pairs = [(min(edge), max(edge)) for edge in graph.edges]
    ordered = sorted(honest)
    held = np.zeros((len(ordered), len(pairs)))
    for column, (low, high) in enumerate(pairs):
        held[ordered.index(low), column] = 1
        held[ordered.index(high), column] = -1
    return pairs, held


def stripped(members: range, seed: bytes, colluders: set[int]) -> dict[int, Any]:
    """What colluders make of each honest part: group masks, which all hospitals have,
    and pair masks with colluders taken off.
    """
    keys = keys_of(members, seed)
    parts = sealed(keys)
    left = {}
    for me in members:
        if me in colluders:
            continue
        terms = keys[me].terms(kind=SumKind.COUNTS, d=3, info=INFO)
        payload = Payload.decode(parts[me], public=None)
        words = words_of(payload.body)
        words = words - masks.group_words(GROUP_KEY, me, words.size, terms)
        known = {peer: key_of(me, peer) for peer in keys[me].pair_keys}
        known = {peer: key for peer, key in known.items() if peer in colluders}
        left[me] = (words - masks.mask_words(known, me, words.size, terms))[:3]
    return left


def test_colluders_learn_the_honest_sum_and_no_part_of_it() -> None:
    members = range(2, 71)
    seed = seed_of("attack")
    colluders = set(
        np.random.default_rng(1).choice(members, 23, replace=False).tolist()
    )
    honest = set(members) - colluders
    left = stripped(members, seed, colluders)
    total = np.add.reduce(list(left.values())).view(np.int64)
    assert total.tolist() == sum(counts_of(me) for me in honest).tolist()
    # No hospital's own, and no two neighbours' sum, is there to be read.
    ordered = sorted(honest)
    for me in ordered:
        assert not np.array_equal(left[me].view(np.int64), counts_of(me))
    # Of the masks that they lack, all combinations but the sum over all hold some: the
    # signed incidence matrix has rank |honest| - 1, and its only relation is the sum.
    _, held = unknown_masks(honest, members, seed)
    assert np.linalg.matrix_rank(held) == len(honest) - 1
    assert not held.sum(axis=0).any()


def test_the_attack_opens_a_hospital_whose_neighbours_all_collude() -> None:
    """Beyond a third nothing is promised, and the test above would see it."""
    members = range(2, 71)
    seed = seed_of("attack")
    colluders = set(mask_graph.peers(members, 40, seed=seed))
    assert len(colluders) > len(members) // mask_graph.COLLUDERS
    left = stripped(members, seed, colluders)
    assert np.array_equal(left[40].view(np.int64), counts_of(40))
    complete = replace(keys_of(members, None)[40], mask_seed=None)
    assert len(complete.peers()) == len(members) - 1
