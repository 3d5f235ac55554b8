"""Newton's equations, from sums over all hospitals: their factor, solution and inverse.

Made of the opened integers by elementwise float64 arithmetic alone, so that all hospitals
have the same bits. `newton` has the rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from analytics.arrays import Floats

SMALLEST_PIVOT = 1e-9
"""Of a column's own sum of squares; what is left of a collinear column is less."""


class Collinear(ValueError):
    """A column is, to rounding, a combination of those before it."""

    def __init__(self, column: int) -> None:
        super().__init__(f"column {column} is a combination of others")
        self.column = column


class Opened(NamedTuple):
    """A round's sums over all hospitals, exact: integers over 2**bits."""

    A: list[list[int]]  # (p, p), symmetric
    c: list[int]
    deviance: float
    bits: int
    is_valid: bool  # at every hospital


def integers(values: Floats, bits: int) -> list[list[int]]:
    """Float64 (n, p) as `Opened` has a matrix: whole numbers over 2**bits, the nearest.

    >>> integers(np.array([[0.5, -1.0]]), 2)
    [[2, -4]]
    """
    scale = 2**bits
    whole_rows = []
    for row in values.tolist():
        whole_row = [round(Fraction(value) * scale) for value in row]
        whole_rows.append(whole_row)
    return whole_rows


def penalised(opened: Opened, diagonal: Floats) -> Opened:
    """The same with a penalty's diagonal, float64 (p,), added to A."""
    scale = 2**opened.bits
    A = [list(row) for row in opened.A]
    for place, penalty in enumerate(diagonal.tolist()):
        whole = round(Fraction(penalty) * scale)
        A[place][place] += whole
    return opened._replace(A=A)


def factor(
    A: Sequence[Sequence[int]],
    *,
    bits: int,
) -> Floats:
    """L of A = L L', float64 (p, p), column by column, the right of it elementwise.

    Python's quotient of two integers is rounded once.

    Collinear where a pivot is below SMALLEST_PIVOT of the column's own sum of squares.
    """
    rest = _quotients(A, bits)
    # diag shows the matrix itself, which changes below.
    own_squares = np.diag(rest).copy()
    L = np.zeros_like(rest)
    for k in range(len(own_squares)):
        pivot = rest[k, k]
        least_pivot = SMALLEST_PIVOT * own_squares[k]
        # Not `<=`, which NaN would pass.
        if not pivot > least_pivot:
            raise Collinear(k)
        from_pivot = slice(k, None)
        behind = slice(k + 1, None)
        pivot_root = np.sqrt(pivot)
        L[from_pivot, k] = rest[from_pivot, k] / pivot_root
        column = L[behind, k]
        square = column[:, None] * column[None, :]
        rest[behind, behind] -= square
    return L


def _quotients(
    A: Sequence[Sequence[int]],
    bits: int,
) -> Floats:
    scale = 2**bits
    quotient_rows = []
    for row in A:
        quotients = [value / scale for value in row]
        quotient_rows.append(quotients)
    return np.array(quotient_rows)


def solve(opened: Opened) -> Floats:
    """A^-1 c, float64 (p,), refined twice by the exact residual of the integers."""
    L = factor(opened.A, bits=opened.bits)
    scale = 2**opened.bits
    quotients = [value / scale for value in opened.c]
    right_side = np.array(quotients)
    solution = _back(L, right_side)
    for _ in range(2):
        residual = _residual(opened, solution)
        solution = solution + _back(L, residual)
    return solution


def inverse(opened: Opened) -> Floats:
    """A^-1, float64 (p, p)."""
    L = factor(opened.A, bits=opened.bits)
    units = np.eye(len(L))
    columns = [_back(L, unit_vector) for unit_vector in units]
    return np.column_stack(columns)


def _back(L: Floats, right: Floats) -> Floats:
    """x of L L' x = right."""
    x = right.copy()
    p = len(x)
    for k in range(p):
        behind = slice(k + 1, None)
        value = x[k] / L[k, k]
        x[k] = value
        x[behind] -= L[behind, k] * value
    for k in reversed(range(p)):
        before = slice(None, k)
        value = x[k] / L[k, k]
        x[k] = value
        x[before] -= L[k, before] * value
    return x


def _residual(opened: Opened, x: Floats) -> Floats:
    """c - A x, each rounded once."""
    ratios = [value.as_integer_ratio() for value in x.tolist()]
    # Floats have powers of two below, so that the largest is a multiple of all.
    common = max(denominator for _, denominator in ratios)
    numerators = []
    for numerator, denominator in ratios:
        multiple = common // denominator
        numerators.append(numerator * multiple)
    scale = common * 2**opened.bits
    residuals = []
    for row, right in zip(opened.A, opened.c, strict=True):
        residual = right * common
        for value, number in zip(row, numerators, strict=True):
            residual -= value * number
        residuals.append(residual / scale)
    return np.array(residuals)
