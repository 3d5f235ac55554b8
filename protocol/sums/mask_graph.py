"""Which members of a sum share pair masks: all with all up to 64, beyond that each with
its neighbours in a public graph (Bell, Bonawitz, Gascón, Lepoint, Raykova 2020, "Secure
Single-Server Aggregation with (Poly)Logarithmic Overhead", section 4), where every
party's policy allows it.

    ring      members by SHA-256(tag | seed | id)
    edges     each member with the h before it and the h behind it on the ring: k = 2 h
    masks     as in `masks`, over the edges only: they cancel in the sum over all members

**What the graph is for.** A mask of two honest members is uniform to everybody else. Of
a connected graph of honest members the masked values are uniform among those with the
same sum (lemma 2.2 there: take a spanning tree, and go from its leaves to its root).
Whoever has the colluders' keys can then compute the sum over all honest members and
nothing more. Parts of it that no edge joins would each tell their own sum.

**The bound.** Let c of n members collude, chosen without knowing the ring. Two honest
members with fewer than h colluders and nobody else between them on the ring share an
edge. So the honest ones are joined all round unless h colluders in a row stand in two
places apart: with one such gap they are still a path. For two given rows of h places
each, that is one in C(n, k) / C(c, k); there are at most C(n, 2) pairs of rows; so

    P(honest graph not connected) <= C(n, 2) C(c, k) / C(n, k)  for one seed, k = 2 h

and it is 0 where k > c, whatever the seed: too few collude to fill both rows.

**Grinding.** The seed is `run_context`: the signed order with its nonce, and every
party's acceptance with its fresh key. Nobody chooses it alone, and whoever accepts last,
or the initiator with all that collude, may try many and keep the one that suits it. An
honest acceptance has no second form, and cannot be replaced: it is signed under a pinned
key. With SHA-256 as a random oracle every seed has a ring of its own, so that 2^t tries,
in one order or in many, succeed with 2^t times the bound at most (union). REACHES keeps it
below 2^-(40 + 80) for c = floor(n / 3): 2^-40 over 2^80 tries. Tries cost a SHA-256 or
more each. The members are those of the signed order: a sum over others, which the
coordinator chooses when it knows the ring, has complete masks.

Does not hold: for colluders that are chosen when the ring is known (bribe the k
neighbours of one), nor for more than a third. Complete masks hide any two honest members
from all others.

**Shown different acceptances** by the coordinator and a colluder that signs two, honest
members have other contexts, and with them other pair keys: their common masks never
cancel. The bound is about each context's whole ring, so that every honest part is joined
to one in another context, and its sum stays hidden.

Nobody leaves between keys and sums (a missing part is waited for), so that no shares of
keys are needed as in that paper.

Decision 136.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from protocol.errors import ProtocolViolation

MOST_COMPLETE = 64
"""Members of a sum up to which each masks with every other."""

COLLUDERS = 3
"""One of so many members may collude, rounded down."""

FAILURE_BITS = 40
GRINDING_BITS = 80
"""The honest graph falls apart with 2^-40 at most, over 2^80 tried seeds."""

_RING = b"consilium/mask/ring/1"
_SEED_BYTES = 32


class Reach(NamedTuple):
    """How far each member's masks go on the ring."""

    most_members: int  # up to this many members of a sum
    places: int  # h, to each side


# The least reach that keeps the bound for all numbers of members of its row;
# tests/unit/test_mask_graph.py computes it from the bound.
REACHES = (
    Reach(100, 17),
    Reach(128, 22),
    Reach(150, 25),
    Reach(200, 29),
    Reach(300, 34),
    Reach(500, 37),
    Reach(1_000, 41),
    Reach(4_000, 45),
    Reach(65_535, 48),
)


def peers(
    members: Sequence[int], me: int, *, seed: bytes | None = None
) -> tuple[int, ...]:
    """With whom `me` masks in a sum over `members`, sorted.

    Every member runs it. members: distinct user ids, `me` among them; seed: 32 bytes,
    the same at all, fixed after the members and by no single party; None for complete
    masks. All others up to MOST_COMPLETE members or without a seed. Symmetric: j is
    among the peers of i where i is among those of j. ProtocolViolation `mask_graph` for
    another seed's length, another `me`, or more members than a sum can have.

    Disclosure: the graph is public.
    """
    if me not in members:
        raise _bad_graph("This hospital is not a member of the sum.")
    if seed is None or len(members) <= MOST_COMPLETE:
        return tuple(sorted(set(members) - {me}))
    if len(seed) != _SEED_BYTES:
        raise _bad_graph("The seed of the masks' graph has another length.")
    ring = _ring(members, seed)
    n_members = len(ring)
    own_place = ring.index(me)
    neighbours = set()
    for step in range(1, reach(n_members) + 1):
        neighbours.add(ring[(own_place + step) % n_members])
        neighbours.add(ring[(own_place - step) % n_members])
    return tuple(sorted(neighbours))


def reach(n_members: int) -> int:
    """h of so many members, more than MOST_COMPLETE.

    >>> reach(300)
    34
    """
    for row in REACHES:
        if n_members <= row.most_members:
            return row.places
    raise _bad_graph("A sum has more members than its masks' graph can have.")


def _ring(members: Sequence[int], seed: bytes) -> list[int]:
    """A uniform order of the members; two equal digests would be a collision of SHA-256."""

    def place(member: int) -> bytes:
        return hashlib.sha256(_RING + seed + member.to_bytes(8, "big")).digest()

    return sorted(members, key=place)


def _bad_graph(sentence: str) -> ProtocolViolation:
    return ProtocolViolation(
        sentence, remedy="Set up the order again.", code="mask_graph"
    )
