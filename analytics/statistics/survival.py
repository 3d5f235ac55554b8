"""The log-rank test of survival in groups, stratified by hospital.

Each hospital compares its own groups at the times of its own events; what it adds are
the sums over these times, and no time leaves it:

    O_g = number of events    E_g = sum over t of d n_g / n
    V_gh = sum over t of d (n - d) / (n - 1) n_g / n (1[g = h] - n_h / n)

d events and n people at risk at t, of them n_g in group g. With the sums over all
hospitals, chi2 = U' V^-1 U for U = O - E without one group, with groups - 1 degrees of
freedom: exactly the stratified test of one table, as R's
survdiff(Surv(time, event) ~ group + strata(hospital)).

Source: Mantel 1966; Klein and Moeschberger 2003, sections 7.3 and 7.5.

Decision 86.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from analytics.arrays import Floats, Ints

SUM_BITS = 100
"""Expected events and covariances are added as integers over 2**SUM_BITS."""


class OwnGroup(NamedTuple):
    """What one hospital adds of one of its groups."""

    n: int
    n_events: int
    expected: int  # over 2**SUM_BITS
    covariances: list[int]  # with each of its groups, over 2**SUM_BITS


def logrank_sums(
    times: Floats, is_event: Ints, groups: Ints, *, n_groups: int
) -> list[OwnGroup]:
    """times: float64 (n,); is_event: 0 or 1, (n,); groups: places below n_groups, (n,).

    Who leaves without an event at the time of one is still at risk then. Disclosure:
    sums over this hospital's rows; they leave sealed, to be added.
    """
    of_events = is_event == 1
    event_times, n_events = np.unique(times[of_events], return_counts=True)
    at_risk = np.zeros((n_groups, len(event_times)))
    for group in range(n_groups):
        in_order = np.sort(times[groups == group])
        at_risk[group] = len(in_order) - np.searchsorted(in_order, event_times)
    n_at_risk = at_risk.sum(axis=0)
    shares = at_risk / n_at_risk
    # Of one person at risk n - 1 is 0, and so is n - d.
    survivors = (n_at_risk - n_events) / np.maximum(n_at_risk - 1, 1)
    variances = n_events * survivors
    n_of = np.bincount(groups, minlength=n_groups).tolist()
    n_events_of = np.bincount(groups[of_events], minlength=n_groups).tolist()
    found = []
    for group in range(n_groups):
        covariances = []
        for other in range(n_groups):
            is_same = 1.0 if group == other else 0.0
            terms = variances * shares[group] * (is_same - shares[other])
            covariances.append(_whole(math.fsum(terms)))
        expected = _whole(math.fsum(n_events * shares[group]))
        found.append(OwnGroup(n_of[group], n_events_of[group], expected, covariances))
    return found


def _whole(value: float) -> int:
    """value * 2**SUM_BITS, rounded once."""
    return round(Fraction(value) * (1 << SUM_BITS))


class Logrank(NamedTuple):
    chi2: float
    df: int
    p: float
    expected: list[float]  # by group


def logrank(groups: Sequence[OwnGroup]) -> Logrank:
    """The test from the sums over all hospitals, by group.

    ValueError, with a sentence, where there is none.
    """
    from scipy import special

    if not any(group.n_events for group in groups):
        raise ValueError("No row has an event.")
    expected = [group.expected / 2**SUM_BITS for group in groups]
    differences = []
    rows = []
    # What of all groups but the last one is, the last one's is.
    df = len(groups) - 1
    for group, of_group in zip(groups[:df], expected, strict=False):
        differences.append(group.n_events - of_group)
        rows.append([value / 2**SUM_BITS for value in group.covariances[:df]])
    U, V = np.array(differences), np.array(rows)
    if np.linalg.matrix_rank(V) < df:
        raise ValueError(
            "A group has nobody at risk at the time of an event of another at its hospital."
        )
    chi2 = float(U @ np.linalg.solve(V, U))
    return Logrank(chi2, df, float(special.chdtrc(df, chi2)), expected)
