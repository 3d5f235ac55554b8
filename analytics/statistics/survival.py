"""The log-rank test: what each hospital adds up over its own rows, and what receivers
compute from the joint sums.

At an event time t of a hospital, n rows are at risk (their time is t or later), n_g of
them in group g; d have the event at t, d_g of them in group g. With T the hospital's event
times,

    U_g  = sum_T  d_g - d n_g / n
    V_gh = sum_T  d (n - d) / (n - 1)  n_g / n  ([g = h] - n_h / n)

(Mantel 1966; Peto and Peto 1972). Sums of U and V over hospitals make the test stratified
by hospital: people are compared with those of their own hospital alone, and the result is
exact, as of one table with a column that says the hospital.

U and V are whole numbers in units of 2^-FRACTION_BITS, each term rounded once, so that
they are added exactly. Decision 86.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy import stats

from analytics.arrays import Floats, Ints
from analytics.statistics.hypothesis_tests import Quantities

FRACTION_BITS = 40
"""More would tell more of the fractions that are added than a test needs."""
UNIT = 1 << FRACTION_BITS

LEAST_PIVOT = Fraction(1, 10**9)
"""Of a covariance matrix, relative to its diagonal: below, a group is compared with none."""


@dataclass(frozen=True)
class LogRankSums:
    """U (n_groups) and V (n_groups, n_groups) of one hospital, in units of 1 / UNIT."""

    scores: list[int]
    covariances: list[list[int]]


def log_rank_sums(
    times: Floats, is_event: Ints, groups: Ints, n_rows: Ints, *, n_groups: int
) -> LogRankSums:
    """U and V over lines that each stand for `n_rows` rows.

    times, is_event (0 or 1), groups (0 to n_groups - 1), n_rows: (n_lines,).

    Disclosure: sums over this hospital's rows; they leave sealed, as a part of a sum.
    """
    distinct, place = np.unique(times, return_inverse=True)
    leaving = np.zeros((distinct.size, n_groups), dtype=np.int64)
    events = np.zeros((distinct.size, n_groups), dtype=np.int64)
    np.add.at(leaving, (place, groups), n_rows)
    np.add.at(events, (place, groups), n_rows * is_event)
    at_risk = np.cumsum(leaving[::-1], axis=0)[::-1]

    scores = [0] * n_groups
    covariances = [[0] * n_groups for _ in range(n_groups)]
    with_events = events.any(axis=1)
    of_times = zip(at_risk[with_events], events[with_events], strict=True)
    for at_time, died in of_times:
        # Python's integers: products of counts outgrow 64 bits.
        _add_time(scores, covariances, at_time.tolist(), died.tolist())
    return LogRankSums(scores, covariances)


def _add_time(
    scores: list[int],
    covariances: list[list[int]],
    at_risk: Sequence[int],
    events: Sequence[int],
) -> None:
    """Adds what one event time brings."""
    n, d = sum(at_risk), sum(events)
    for g, n_g in enumerate(at_risk):
        scores[g] += _rounded(events[g] * n - d * n_g, n)
        # The last one at risk has no variance; a group that is not at risk, neither.
        if n == 1 or not n_g:
            continue
        for h in range(g, len(at_risk)):
            among = (n if g == h else 0) - at_risk[h]
            numerator = d * (n - d) * n_g * among
            value = _rounded(numerator, n * n * (n - 1))
            covariances[g][h] += value
            if h != g:
                covariances[h][g] += value


def _rounded(numerator: int, denominator: int) -> int:
    """numerator / denominator in units of 1 / UNIT, to the nearest."""
    return (2 * numerator * UNIT + denominator) // (2 * denominator)


def log_rank(
    n_rows: Mapping[str, int], n_events: Mapping[str, int], sums: Sequence[int]
) -> Quantities:
    """chi2 = U' V^-1 U of all groups but the last, with one degree of freedom for each.

    n_rows, n_events: by group, in the order of the sums; sums: U and then the upper
    triangle of V by rows, all without the last group, whose own follow: U and the rows of V
    add up to 0. Expected events are observed ones minus U.
    The equations are solved in fractions: the same bits everywhere.

    ValueError, with a sentence, where a group was never at risk together with another.
    """
    names = list(n_rows)
    n_tested = len(names) - 1
    scores = [Fraction(value, UNIT) for value in sums[:n_tested]]
    covariances = _symmetric(sums[n_tested:], n_tested)
    statistic = float(_quadratic(covariances, scores))
    # SciPy's upper tail keeps its digits where p is tiny.
    p = float(stats.chi2.sf(statistic, n_tested))
    found: Quantities = [("chi2", statistic), ("df", n_tested), ("p", p)]
    all_scores = [*scores, -sum(scores, Fraction(0))]
    for name, score in zip(names, all_scores, strict=True):
        expected = float(n_events[name] - score)
        found += [
            (f"n[{name}]", n_rows[name]),
            (f"observed[{name}]", n_events[name]),
            (f"expected[{name}]", expected),
        ]
    return found


def _symmetric(triangle: Sequence[int], size: int) -> list[list[Fraction]]:
    matrix = [[Fraction(0)] * size for _ in range(size)]
    values = iter(triangle)
    for g in range(size):
        for h in range(g, size):
            matrix[g][h] = matrix[h][g] = Fraction(next(values), UNIT)
    return matrix


def _quadratic(matrix: list[list[Fraction]], vector: list[Fraction]) -> Fraction:
    """u' V^-1 u by elimination: the sum of squares of what is left of u, by pivot."""
    size = len(vector)
    diagonal = [matrix[place][place] for place in range(size)]
    rest = list(vector)
    total = Fraction(0)
    for pivot in range(size):
        value = matrix[pivot][pivot]
        if value <= LEAST_PIVOT * diagonal[pivot]:
            raise ValueError(
                "At every hospital some group has nobody at risk when another has an event: there is no comparison."
            )
        total += rest[pivot] ** 2 / value
        for row in range(pivot + 1, size):
            factor = matrix[row][pivot] / value
            rest[row] -= factor * rest[pivot]
            for column in range(pivot + 1, size):
                matrix[row][column] -= factor * matrix[pivot][column]
    return total
