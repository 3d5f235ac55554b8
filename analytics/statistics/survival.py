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

Each time may weigh: its terms of U are times w, those of V times w^2, where w is

    logrank              1
    wilcoxon             n                       (Gehan 1965; Breslow 1970)
    fleming_harrington   S^p (1 - S)^q           (Fleming and Harrington 1991)

with n and S of the hospital's own rows, S the Kaplan-Meier estimate of all of them just
before t, p and q each 0 or 1.

U and V are whole numbers in units of 2^-FRACTION_BITS, each term rounded once, so that
they are added exactly. Decisions 86 and 93.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy import stats

from analytics.arrays import Floats, Ints
from analytics.statistics import EventWeights
from analytics.statistics.hypothesis_tests import Quantities

FRACTION_BITS = 40
"""More would tell more of the fractions that are added than a test needs."""
UNIT = 1 << FRACTION_BITS

LEAST_PIVOT = Fraction(1, 10**9)
"""Of a covariance matrix, relative to its diagonal: below, a group is compared with none."""


@dataclass(frozen=True)
class Weighting:
    """By what each event time weighs; p and q of fleming_harrington."""

    name: EventWeights = "logrank"
    p: int = 0
    q: int = 0


EQUAL = Weighting()


@dataclass(frozen=True)
class EventTimes:
    """One hospital's event times, in order, with the numbers of each group then."""

    at_risk: Ints  # (m, n_groups)
    events: Ints  # (m, n_groups)

    def weights(self, weighting: Weighting) -> list[Fraction]:
        """w of each time, exact but for S, which is rounded to a double at each time."""
        n = self.at_risk.sum(axis=1)
        if weighting.name == "wilcoxon":
            counts = n.tolist()
            return [Fraction(count) for count in counts]
        if weighting.name == "logrank":
            return [Fraction(1)] * len(n)
        d = self.events.sum(axis=1)
        after = np.cumprod(1 - d / n)
        before = np.concatenate([[1.0], after])
        S = before[: len(n)]
        # 0 ** 0 is 1 for NumPy: p or q of 0 takes its factor out, also where S is 0.
        of_alive = S**weighting.p
        of_gone = (1 - S) ** weighting.q
        weights = of_alive * of_gone
        plain_weights = weights.tolist()
        return [Fraction(weight) for weight in plain_weights]


def event_times(
    times: Floats,
    is_event: Ints,
    groups: Ints,
    n_rows: Ints,
    *,
    n_groups: int,
) -> EventTimes:
    """Of lines that each stand for `n_rows` rows.

    times, is_event (0 or 1), groups (0 to n_groups - 1), n_rows: (n_lines,).

    Disclosure: single times' numbers at risk; they stay in the hospital.
    """
    distinct, time_place = np.unique(times, return_inverse=True)
    cell = (time_place, groups)
    shape = (distinct.size, n_groups)
    leaving = np.zeros(shape, dtype=np.int64)
    events = np.zeros(shape, dtype=np.int64)
    np.add.at(leaving, cell, n_rows)
    np.add.at(events, cell, n_rows * is_event)
    backwards = leaving[::-1]
    from_the_end = np.cumsum(backwards, axis=0)
    at_risk = from_the_end[::-1]
    has_event = events.any(axis=1)
    return EventTimes(
        at_risk=at_risk[has_event],
        events=events[has_event],
    )


@dataclass(frozen=True)
class LogRankSums:
    """U (n_groups) and V (n_groups, n_groups) of one hospital, in units of 1 / UNIT."""

    scores: list[int]
    covariances: list[list[int]]


def log_rank_sums(of_times: EventTimes, weighting: Weighting = EQUAL) -> LogRankSums:
    """U and V of one hospital.

    Disclosure: sums over this hospital's rows; they leave sealed, as a part of a sum.
    """
    n_groups = of_times.at_risk.shape[1]
    scores = [0] * n_groups
    covariances = [[0] * n_groups for _ in range(n_groups)]
    weights = of_times.weights(weighting)
    # Python's integers: products of counts outgrow 64 bits.
    at_risk = of_times.at_risk.tolist()
    events = of_times.events.tolist()
    numbers = zip(at_risk, events, weights, strict=True)
    for n_at_risk, n_died, weight in numbers:
        _add_time(
            scores,
            covariances,
            n_at_risk,
            n_died,
            weight,
        )
    return LogRankSums(scores, covariances)


def _add_time(
    scores: list[int],
    covariances: list[list[int]],
    at_risk: Sequence[int],
    events: Sequence[int],
    weight: Fraction,
) -> None:
    """Adds what one event time brings."""
    n = sum(at_risk)
    d = sum(events)
    square = weight * weight
    for g, n_g in enumerate(at_risk):
        score = events[g] * n - d * n_g
        scores[g] += _rounded(
            score * weight.numerator,
            n * weight.denominator,
        )
        # The last one at risk has no variance; a group that is not at risk, neither.
        if n == 1 or not n_g:
            continue
        for h in range(g, len(at_risk)):
            own = n if g == h else 0
            among = own - at_risk[h]
            numerator = d * (n - d) * n_g * among
            denominator = n * n * (n - 1)
            covariance = _rounded(
                numerator * square.numerator,
                denominator * square.denominator,
            )
            covariances[g][h] += covariance
            if h != g:
                covariances[h][g] += covariance


def _rounded(numerator: int, denominator: int) -> int:
    """numerator / denominator in units of 1 / UNIT, to the nearest."""
    doubled = 2 * numerator * UNIT
    return (doubled + denominator) // (2 * denominator)


def log_rank(
    n_rows: Mapping[str, int],
    n_events: Mapping[str, int],
    sums: Sequence[int],
    weighting: Weighting = EQUAL,
) -> Quantities:
    """chi2 = U' V^-1 U of all groups but the last, with one degree of freedom for each.

    n_rows, n_events: by group, in the order of the sums; sums: U and then the upper
    triangle of V by rows, all without the last group, whose own follow: U and the rows of V
    add up to 0. Expected events are observed ones minus U; where times weigh, U itself is
    told.
    The equations are solved in fractions: the same bits everywhere.

    ValueError, with a sentence, where a group was never at risk together with another.
    """
    group_names = list(n_rows)
    n_tested = len(group_names) - 1
    of_scores = sums[:n_tested]
    of_covariances = sums[n_tested:]
    scores = [Fraction(value, UNIT) for value in of_scores]
    covariances = _symmetric(of_covariances, n_tested)
    statistic = float(_quadratic(covariances, scores))
    # SciPy's upper tail keeps its digits where p is tiny.
    tail = stats.chi2.sf(statistic, n_tested)
    quantities: Quantities = [
        ("chi2", statistic),
        ("df", n_tested),
        ("p", float(tail)),
    ]
    of_last = -sum(scores, Fraction(0))
    all_scores = [*scores, of_last]
    for group_name, score in zip(group_names, all_scores, strict=True):
        observed = n_events[group_name]
        quantities.append((f"n[{group_name}]", n_rows[group_name]))
        quantities.append((f"observed[{group_name}]", observed))
        if weighting.name == "logrank":
            expected = float(observed - score)
            quantities.append((f"expected[{group_name}]", expected))
        else:
            quantities.append((f"score[{group_name}]", float(score)))
    return quantities


def _symmetric(
    triangle: Sequence[int],
    size: int,
) -> list[list[Fraction]]:
    nothing = Fraction(0)
    matrix = [[nothing] * size for _ in range(size)]
    values = iter(triangle)
    for g in range(size):
        for h in range(g, size):
            covariance = Fraction(next(values), UNIT)
            matrix[g][h] = covariance
            matrix[h][g] = covariance
    return matrix


def _quadratic(
    matrix: list[list[Fraction]],
    vector: list[Fraction],
) -> Fraction:
    """u' V^-1 u by elimination: the sum of squares of what is left of u, by pivot."""
    size = len(vector)
    diagonal = [matrix[place][place] for place in range(size)]
    rest = list(vector)
    square_sum = Fraction(0)
    for pivot in range(size):
        pivot_row = matrix[pivot]
        pivot_value = pivot_row[pivot]
        least_pivot = LEAST_PIVOT * diagonal[pivot]
        if pivot_value <= least_pivot:
            raise ValueError(
                "At every hospital some group has nobody at risk when another has an event: there is no comparison."
            )
        square_sum += rest[pivot] ** 2 / pivot_value
        for row in range(pivot + 1, size):
            factor = matrix[row][pivot] / pivot_value
            rest[row] -= factor * rest[pivot]
            for column in range(pivot + 1, size):
                matrix[row][column] -= factor * pivot_row[column]
    return square_sum
