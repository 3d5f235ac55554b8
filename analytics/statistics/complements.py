"""Which cells of a table must be withheld beside those that are, so that no total tells
one of them.

T is the 0/1 matrix of slices by cells: the row of all cells, and a row for each slice.
Who knows a slice's total and the shown cells in it knows what the withheld ones, W,
make of it. A combination y of rows of T over W tells nothing of few people as long as
it is zero, or not zero on some cell of W that passed its threshold by itself. For every
combination this holds if

    rank of T over the passed cells of W = rank of T over W

that is, if each withheld cell's column of T is a combination of passed columns of W.
Decision 73.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from analytics.arrays import Ints

_FIRST_PRIME_FROM = 2**30

Draw = Callable[[int], NDArray[np.uint64]]
"""So many random words."""


def complements(
    slices: Sequence[Sequence[int]],
    *,
    withheld: Sequence[int],
    passed: Sequence[int],
    candidates: Sequence[int],
    draw: Draw,
) -> list[int] | None:
    """Which candidates to withhold too; None where that does not reach the equation, so
    that all have to be.

    slices: of each cell the numbers of the slices that it is in, beside that of all
    cells; withheld: cells, of which `passed` are those that passed; candidates: the
    shown cells, those first that are withheld first. Taken are those in whose
    combination with passed ones, the first of them that are independent, a withheld
    cell's column is.

    Ranks are those modulo a prime near 2^30 and of random combinations of rows, both
    drawn here: with probability below cells^2 2^-29 they are not those of T. `draw`
    makes random words, the same at every hospital and nobody's to choose.
    """
    failed = sorted(set(withheld) - set(passed))
    if not failed:
        return []
    prime = _draw_prime(draw)
    ordered = [*passed, *candidates, *failed]
    columns = _compressed(
        slices,
        ordered,
        prime,
        draw,
    )
    n_passed = len(passed)
    n_spanning = n_passed + len(candidates)
    pivots, reduced = _row_reduced(columns, n_spanning, prime)
    # Below the pivots' rows nothing may be left of a withheld cell's column.
    n_pivots = len(pivots)
    of_failed = reduced[:, n_spanning:]
    if of_failed[n_pivots:].any():
        return None
    # Each column is the combination of the pivots' columns by its entries.
    is_used = of_failed[:n_pivots].any(axis=1)
    taken_cells = []
    for pivot_row in np.flatnonzero(is_used).tolist():
        column_place = pivots[pivot_row]
        is_candidate = column_place >= n_passed
        if is_candidate:
            taken_cells.append(ordered[column_place])
    return taken_cells


def _compressed(
    slices: Sequence[Sequence[int]],
    cells: Sequence[int],
    prime: int,
    draw: Draw,
) -> Ints:
    """(n, cells): random combinations of the rows of T, as many as there are cells at
    most.
    """
    last_slice = -1
    for cell_slices in slices:
        own_last = max(cell_slices, default=-1)
        last_slice = max(last_slice, own_last)
    n_slices = last_slice + 1
    n_cells = len(cells)
    n_rows = min(n_slices + 1, n_cells + 2)
    # The last one is the row of all cells.
    n_words = (n_slices + 1) * n_rows
    random_words = draw(n_words) % np.uint64(prime)
    residues = random_words.astype(np.int64)
    weights = residues.reshape(n_slices + 1, n_rows)
    shape = (n_rows, n_cells)
    columns = np.empty(shape, dtype=np.int64)
    for column_place, cell in enumerate(cells):
        its_slices = [*slices[cell], n_slices]
        column_sum = weights[its_slices].sum(axis=0)
        columns[:, column_place] = column_sum % prime
    return columns


def _row_reduced(
    matrix: Ints,
    n_spanning: int,
    prime: int,
) -> tuple[list[int], Ints]:
    """The first independent columns among the first `n_spanning`, and the matrix with
    unit vectors there.
    """
    reduced = matrix.copy()
    pivots: list[int] = []
    for column in range(n_spanning):
        row = len(pivots)
        if row == len(reduced):
            break
        nonzero = np.flatnonzero(reduced[row:, column])
        if not nonzero.size:
            continue
        pivot_row = row + int(nonzero[0])
        swapped = [pivot_row, row]
        # Both rows at once: one by itself is a view, and a swap by name would lose it.
        reduced[[row, pivot_row]] = reduced[swapped]
        pivot = int(reduced[row, column])
        inverse = pow(pivot, -1, prime)
        reduced[row] = reduced[row] * inverse % prime
        # A copy, since the rows that it is taken from change below.
        factors = reduced[:, column].copy()
        factors[row] = 0
        # Columns to the left are unit vectors or combinations of them already.
        right = reduced[row, column:]
        other_rows = np.flatnonzero(factors)
        change = factors[other_rows, None] * right
        changed_rows = reduced[other_rows, column:] - change
        reduced[other_rows, column:] = changed_rows % prime
        pivots.append(column)
    return pivots, reduced


def _draw_prime(draw: Draw) -> int:
    """Of 30 bits and more, so that products of two residues fit into 63 bits."""
    word = int(draw(1)[0])
    above = word % _FIRST_PRIME_FROM
    candidate = (_FIRST_PRIME_FROM + above) | 1
    while not _is_prime(candidate):
        candidate += 2
    return candidate


def _is_prime(number: int) -> bool:
    """By Miller and Rabin with bases that decide it below 3.2 10^9 (Jaeschke 1993)."""
    minus_one = number - 1
    odd = minus_one
    n_twos = 0
    while odd % 2 == 0:
        odd //= 2
        n_twos += 1
    for base in (2, 3, 5, 7):
        power = pow(base, odd, number)
        if power in (1, minus_one):
            continue
        squares = [pow(power, 2**k, number) for k in range(1, n_twos)]
        if minus_one not in squares:
            return False
    return True
