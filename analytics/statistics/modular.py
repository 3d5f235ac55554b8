"""Matrices modulo a prime, for the audits of `audit` and `hospital_audit`.

Primes have 31 bits and are drawn for each audit: a prime that is known could be aimed
at, with sets that are independent but for it. A rank can only be too low modulo a
prime, so of two primes the one with the larger ranks counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from analytics.arrays import Bools, Ints, Places

PRIME_BITS = 31
N_PRIMES = 2
# Cells of which a matrix is made at a time.
CELL_BLOCK = 2**14


@dataclass(frozen=True, eq=False)
class Base:
    """Combinations that are the unit vectors on some cells: an information set."""

    combinations: Ints  # (k, n_sets) modulo the prime
    pivots: Places  # (k,) the cell on which each of them alone is not 0, and is 1


def solved(
    combinations: Ints,
    order: Places,
    columns: Callable[[Places], Ints],
    prime: int,
) -> tuple[Base, Ints]:
    """Make combinations (k, n_sets) unit vectors on the first independent cells of an
    order: Gauss and Jordan, block of cells by block.

    `columns` gives the matrix of some cells. The second result are the combinations for
    which no cell was left: they are 0 on all cells of the order.
    """
    n_combinations, n_sets = combinations.shape
    pivots = np.full(n_combinations, -1, dtype=np.intp)
    # The first cells usually are enough; if not, few combinations are left to try.
    block_size = 2 * n_combinations + 64
    block_start = 0
    while block_start < len(order):
        is_open = pivots < 0
        if not is_open.any():
            break
        block = order[block_start : block_start + block_size]
        block_start += len(block)
        block_size = min(2 * block_size, CELL_BLOCK)
        matrix = columns(block)
        # The matrix is of 0 and 1: sums of numbers of 31 bits over sets fit into 63.
        if not (combinations[is_open] @ matrix % prime).any():
            continue
        table = np.hstack([combinations, combinations @ matrix % prime])
        eliminate(
            table,
            pivots,
            block,
            n_sets,
            prime,
        )
        combinations = table[:, :n_sets]
    is_open = pivots < 0
    is_solved = ~is_open
    base = Base(
        combinations=combinations[is_solved],
        pivots=pivots[is_solved],
    )
    return base, combinations[is_open]


def eliminate(
    table: Ints,
    pivots: Places,
    block: Places,
    n_sets: int,
    prime: int,
) -> None:
    """In place: behind the first n_sets columns of the table are the cells of a block;
    give as many rows as can be a cell of it.
    """
    while True:
        open_rows = np.flatnonzero(pivots < 0)
        is_usable = table[open_rows, n_sets:] != 0
        usable = np.flatnonzero(is_usable.any(axis=0))
        if len(usable) == 0:
            return
        block_place = usable[0]
        usable_rows = np.flatnonzero(is_usable[:, block_place])
        pivot_row = open_rows[usable_rows[0]]
        column = n_sets + block_place
        pivot = int(table[pivot_row, column])
        inverse = pow(pivot, -1, prime)
        table[pivot_row] = table[pivot_row] * inverse % prime
        other_rows = np.flatnonzero(table[:, column])
        other_rows = other_rows[other_rows != pivot_row]
        # Two numbers of 31 bits: their product fits into 63.
        factors = table[other_rows, column, np.newaxis]
        changed_rows = table[other_rows] - factors * table[pivot_row]
        table[other_rows] = changed_rows % prime
        pivots[pivot_row] = block[block_place]


def eliminated(table: Ints, prime: int) -> Bools:
    """Reduce a matrix in place; the rows that have a pivot are a basis of its rows."""
    n_rows, n_columns = table.shape
    pivots = np.full(n_rows, -1, dtype=np.intp)
    every_column = np.arange(n_columns)
    eliminate(
        table,
        pivots,
        block=every_column,
        n_sets=0,
        prime=prime,
    )
    return pivots >= 0


def inverted(numbers: Ints, prime: int) -> Ints:
    """1 / n modulo the prime by Fermat, n^(prime - 2); 0 for 0."""
    inverses = np.ones_like(numbers)
    power = numbers
    exponent = prime - 2
    while exponent:
        if exponent & 1:
            inverses = inverses * power % prime
        power = power * power % prime
        exponent >>= 1
    return inverses


def modulo(coefficient: Fraction | int, prime: int) -> int:
    exact = Fraction(coefficient)
    inverse: int = pow(exact.denominator, -1, prime)
    return exact.numerator * inverse % prime


def draw_prime(below: Callable[[int], int]) -> int:
    """A prime of 31 bits, evenly among them; below(n) gives a number of 0 to n - 1 that
    nobody can foresee (`secrets.randbelow`).
    """
    least_candidate = 1 << (PRIME_BITS - 1)
    while True:
        candidate = least_candidate + below(least_candidate)
        if _is_prime(candidate):
            return candidate


def _is_prime(number: int) -> bool:
    """Miller and Rabin; with these bases no composite below 3,215,031,751 passes
    (Pomerance, Selfridge and Wagstaff 1980).
    """
    if number % 2 == 0:
        return False
    minus_one = number - 1
    odd = minus_one
    n_halvings = 0
    while odd % 2 == 0:
        odd //= 2
        n_halvings += 1
    for base in (2, 3, 5, 7):
        power: int = pow(base, odd, number)
        if power in (1, minus_one):
            continue
        for _ in range(n_halvings - 1):
            power = power * power % number
            if power == minus_one:
                break
        else:
            return False
    return True
