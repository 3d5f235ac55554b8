"""What the answers that somebody has, put together, tell of few hospitals: whether there
is a combination of totals in which those of all hospitals but a few cancel.

Decision 75. Of people: `audit`, which has the mathematics of both.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import comb

import numpy as np

from analytics.arrays import Ints, Places
from analytics.statistics.audit import PASSES, UNDECIDED, Finding, Verdict
from analytics.statistics.audited_cells import Bitmaps, Cells, distinct_rows, turned
from analytics.statistics.modular import N_PRIMES, eliminated, modulo, solved

Part = int | tuple[int, str]
"""Who brought a summand of a total: a hospital, or a hospital's column."""
Coefficient = Fraction | int
"""Of a part, relative to the own one."""
_Pattern = tuple[Coefficient, ...]
# Groups of hospitals that could be left, and these times the rank of what is left of
# all of them: some five seconds.
GROUP_LIMIT = 20_000
RANK_LIMIT = 20_000


def audit_hospitals(
    sets: Bitmaps,
    parts: Sequence[Mapping[Part, Coefficient]],
    *,
    n_new: int,
    least_hospitals: int,
    prime: Callable[[], int],
    willing: Collection[int] = (),
) -> Finding:
    """Whether the last `n_new` totals, with the others before them, tell of fewer than
    `least_hospitals` other hospitals, not all of which let that be told.

    Of total i the own part is known to be over set i; of the part j of another hospital
    it is known that its coefficient relative to the own one is p_ij, 0 if it is not
    there. Nobody knows the others' rows: they are taken to be cut like the own ones.
    For x with x' M = 0 the own part is gone and part j is left if

        x' diag(p_j) M != 0.

    TELLS_FEW if for some x parts of 1 to least_hospitals - 1 hospitals are left, of
    which at least one is not willing; and what is left is no sum of what willing ones
    leave and of what the earlier totals alone tell of the same hospitals.

    By ranks: with N a basis of {x : x' M = 0} and B_j = N diag(p_j) M, what can be left
    of hospitals J alone is the space V_J of the combinations that are 0 on all other
    blocks. Its dimension is by how much the rank of [B_1 ... B_n] falls where the
    blocks of J are left out. With W the willing ones and E_J as V_J of the earlier
    totals, E_J and V_(J and W) have E_(J and W) in common, so that J is told of if

        dim V_J > dim V_(J and W) + dim E_J - dim E_(J and W).

    sets: as for `audit_people`, the own members of each total. parts: for each total
    the coefficients of the other hospitals' parts. A part is a hospital, or (hospital,
    column): if another column of the hospital stands in its place, that is another
    part. willing: the hospitals that let their part be told; where they are all that
    could be left, everything passes. UNDECIDED if there are too many groups J to try.

    ValueError if the lengths do not fit together.
    """
    n_sets = len(sets)
    if len(parts) != n_sets or not 1 <= n_new <= n_sets:
        raise ValueError(
            f"There are {n_sets} sets, {len(parts)} parts and {n_new} new ones."
        )
    varying = _varying(parts)
    let_be_told = frozenset(willing)
    could_be_left = {hospital_of(part) for part in varying}
    if could_be_left <= let_be_told or least_hospitals < 2:
        return PASSES

    groups = _groups(varying, least_hospitals - 1)
    if groups is None:
        return UNDECIDED
    cell_words, member_cells = distinct_rows(turned(sets))
    cells = Cells(
        words=cell_words,
        counts=np.bincount(member_cells),
        cell=member_cells,
        persons=np.arange(len(member_cells)),
    )
    every = np.arange(n_sets)
    before = every[:-n_new]
    primes = [prime() for _ in range(N_PRIMES)]
    blocks = [_Blocks.of(cells, every, varying, modulus) for modulus in primes]
    earlier = [_Blocks.of(cells, before, varying, modulus) for modulus in primes]
    rank = len(blocks[0].table)
    n_ranks = len(groups) * rank
    if n_ranks > RANK_LIMIT:
        return UNDECIDED
    for group in groups:
        unwilling = group - let_be_told
        if not unwilling:
            continue
        told_rank = _lost_rank(blocks, group)
        if not told_rank:
            continue
        harmless_rank = _lost_rank(earlier, group)
        letting = group & let_be_told
        if letting:
            harmless_rank += _lost_rank(blocks, letting)
            harmless_rank -= _lost_rank(earlier, letting)
        if told_rank > harmless_rank:
            hospitals = tuple(sorted(unwilling))
            return Finding(Verdict.TELLS_FEW, hospitals=hospitals)
    return PASSES


def _varying(
    parts: Sequence[Mapping[Part, Coefficient]],
) -> dict[Part, list[Coefficient]]:
    """The coefficients of each part in all totals, of parts for which they differ.

    Where a part has the same coefficient in all totals, it goes with one's own.
    """
    present: set[Part] = set()
    for coefficients in parts:
        for part in coefficients:
            present.add(part)
    varying = {}
    for part in present:
        column = [coefficients.get(part, 0) for coefficients in parts]
        if len(set(column)) > 1:
            varying[part] = column
    return varying


def hospital_of(part: Part) -> int:
    """Who brought a part."""
    if isinstance(part, int):
        return part
    hospital, _ = part
    return hospital


def _groups(
    varying: Mapping[Part, Sequence[Coefficient]], most: int
) -> list[frozenset[int]] | None:
    """The groups of at most so many hospitals that could be left, None if they are too
    many.

    Hospitals whose parts have the same coefficients are left together or not at all.
    """
    columns: dict[int, set[_Pattern]] = {}
    for part, column in varying.items():
        hospital = hospital_of(part)
        hospital_patterns = columns.setdefault(hospital, set())
        hospital_patterns.add(tuple(column))
    alike: dict[frozenset[_Pattern], list[int]] = {}
    for hospital, hospital_patterns in columns.items():
        patterns = frozenset(hospital_patterns)
        together = alike.setdefault(patterns, [])
        together.append(hospital)

    classes = [
        alike_hospitals
        for alike_hospitals in alike.values()
        if len(alike_hospitals) <= most
    ]
    n_classes = len(classes)
    largest = min(most, n_classes)
    group_sizes = range(1, largest + 1)
    n_choices = sum(comb(n_classes, size) for size in group_sizes)
    if n_choices > GROUP_LIMIT:
        return None
    groups = []
    for group_size in group_sizes:
        for chosen in itertools.combinations(classes, group_size):
            hospitals = itertools.chain.from_iterable(chosen)
            group = frozenset(hospitals)
            if len(group) <= most:
                groups.append(group)
    return groups


@dataclass(frozen=True, eq=False)
class _Blocks:
    """What is left of the hospitals' parts where the own part cancels."""

    table: Ints  # (rank, n_columns) modulo the prime: the blocks side by side
    hospitals: Ints  # (n_columns,) whose block a column is in
    prime: int

    @staticmethod
    def of(
        cells: Cells,
        sets: Places,
        coefficients: Mapping[Part, Sequence[Coefficient]],
        prime: int,
    ) -> _Blocks:
        """The blocks B_j = N diag(p_j) M of some of the sets."""

        def columns(block: Places) -> Ints:
            return cells.columns(block, sets)

        n_sets = len(sets)
        n_cells = len(cells.words)
        every = np.eye(n_sets, dtype=np.int64)
        every_cell = np.arange(n_cells)
        base, null = solved(
            every,
            every_cell,
            columns,
            prime,
        )
        # B_j is linear in the columns of M: those that span the others say it all.
        spanning = columns(base.pivots)
        n_spanning = len(base.pivots)
        blocks = []
        hospitals = []
        for part, column in coefficients.items():
            residues = [modulo(column[set_place], prime) for set_place in sets]
            p = np.array(residues, dtype=np.int64)
            scaled = null * p % prime
            blocks.append(scaled @ spanning % prime)
            hospital = hospital_of(part)
            hospitals.append(np.full(n_spanning, hospital))
        table = np.hstack(blocks)
        is_basis = eliminated(table, prime)
        return _Blocks(
            table=table[is_basis],
            hospitals=np.concatenate(hospitals),
            prime=prime,
        )

    def rank_without(self, group: frozenset[int]) -> int:
        """The rank of the blocks of all hospitals but a group."""
        is_in_group = np.isin(self.hospitals, list(group))
        is_other = ~is_in_group
        other_blocks = self.table[:, is_other]
        is_basis = eliminated(other_blocks, self.prime)
        return int(is_basis.sum())


def _lost_rank(
    blocks: Sequence[_Blocks],
    group: frozenset[int],
) -> int:
    """By how much the rank falls without a group: the dimension of what is told of it
    alone.
    """
    # Modulo a prime a rank can be too low, never too high.
    rank = max(len(of_prime.table) for of_prime in blocks)
    rank_without = max(of_prime.rank_without(group) for of_prime in blocks)
    return rank - rank_without
