"""The combinations of sets that an audit has to look at: the sets that any of them can
hold, and a basis of those that are 0 wherever many people are. `audit` has the
mathematics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from analytics.arrays import Bools, Ints, Places
from analytics.statistics.audited_cells import Cells
from analytics.statistics.modular import Base, solved


def peeled(
    cells: Cells,
    is_set: Bools,
    min_rows: int,
) -> tuple[Cells, Bools]:
    """Leave out sets that no telling combination can hold.

    A set that has a cell of min_rows people or more to itself can have no part in a
    combination that tells of fewer. Without it cells become one and may be large
    enough to be the only such cell of another set, so again.
    """
    is_kept = is_set.copy()
    while True:
        is_large = cells.counts >= min_rows
        large = np.flatnonzero(is_large)
        numbers = np.flatnonzero(is_kept)
        holds = cells.columns(large, numbers).astype(np.bool_)
        dropped = _with_own_cells(holds)
        if not dropped.any():
            return cells, is_kept
        is_kept[numbers[dropped]] = False
        cells = cells.restricted(is_kept)


def _with_own_cells(holds: Bools) -> Bools:
    """Which sets have one of these cells to themselves, once those are out that have.

    holds: (n_sets, n_cells), whether a set has a cell; changed.
    """
    n_holding = holds.sum(axis=0)
    dropped = np.zeros(len(holds), dtype=np.bool_)
    while True:
        is_own = n_holding == 1
        has_own = holds[:, is_own].any(axis=1)
        alone = has_own & ~dropped
        if not alone.any():
            return dropped
        n_holding -= holds[alone].sum(axis=0)
        holds[alone] = False
        dropped |= alone


@dataclass(frozen=True, eq=False)
class Code:
    """The combinations K that are 0 on every cell of min_rows people or more."""

    base: Base  # a basis of K without what is 0 everywhere
    rank: int  # of all sets
    large_rank: int  # of all sets, on the large cells only
    prime: int


def code_of(
    cells: Cells,
    sets: Places,
    is_new: Bools,
    min_rows: int,
    prime: int,
) -> Code:
    """K for some sets; is_new: (n_sets,), for each of them."""
    is_large = cells.counts >= min_rows
    large = np.flatnonzero(is_large)
    small = np.flatnonzero(~is_large)

    def columns(block: Places) -> Ints:
        return cells.columns(block, sets)

    n_sets = len(sets)
    every = np.eye(n_sets, dtype=np.int64)
    on_large, off_large = solved(
        every,
        large,
        columns,
        prime,
    )
    base, nowhere = solved(
        off_large,
        small,
        columns,
        prime,
    )

    # A set may be a combination of others. So that the coefficients of the new sets
    # say whether the earlier ones alone would do, take away what can be taken away.
    new = np.flatnonzero(is_new)
    unit, _ = solved(
        nowhere,
        new,
        _identity(n_sets),
        prime,
    )
    reduced = base.combinations
    for row, pivot in zip(unit.combinations, unit.pivots, strict=True):
        factors = reduced[:, [pivot]]
        reduced = (reduced - factors * row) % prime
    large_rank = len(on_large.pivots)
    small_rank = len(base.pivots)
    return Code(
        base=Base(reduced, base.pivots),
        rank=large_rank + small_rank,
        large_rank=large_rank,
        prime=prime,
    )


def _identity(n_sets: int) -> Callable[[Places], Ints]:
    every = np.eye(n_sets, dtype=np.int64)
    return lambda places: every[:, places]
