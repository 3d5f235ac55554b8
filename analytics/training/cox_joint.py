"""Cox regression with one baseline hazard for all hospitals, from sums at given times.

Between two neighbouring edges (a, b] all events count as at one time, at which everybody
is at risk whose time is above a. Each hospital adds up, for each interval with events, at
coefficients b,

    S0, S1, S2   over those at risk of exp(x b), x exp(x b) and x x' exp(x b)
    D0, D1, D2   the same over the interval's events (Efron's ties alone)

and over all events together the sum of x. With d events in an interval and f = k / d for
the k-th of them (0 with Breslow's),

    M = (S1 - f D1) / (S0 - f D0)
    U = sum x - sum M      I = sum (S2 - f D2) / (S0 - f D0) - M M'

of which everybody takes ROUNDS steps b + I^-1 U from the estimate that has a baseline for
each hospital. At the event times themselves it is Cox's own estimate.

**S of two neighbouring intervals differ by the covariates of those who left between
them.** So `merged` makes intervals of enough people, and only a hospital whose policy
says so takes part.

Source: Cox 1972; Efron 1977; Breslow 1974. Decision 111.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from analytics.arrays import Floats, Ints, Labels, check_name
from analytics.training import Ties, normal_equations
from analytics.training.cox import TIES, predictors
from analytics.training.cox_labels import outcome
from analytics.training.normal_equations import Opened

ROUNDS = 3
"""Of joint sums; from the stratified estimate three steps reach the last digits."""

WIDEST_PREDICTOR = 60.0
"""About the joint mean: the sums are of exp of it."""


class Counts(NamedTuple):
    """Of each of the order's intervals, of all hospitals, (K + 1,): behind the last edge
    is one more.
    """

    events: Ints
    censored: Ints


def local_counts(y: Labels, edges: Sequence[float]) -> Counts:
    """One hospital's rows in each interval (a, b]. Disclosure: counts of rows; through
    the release door only, sealed.
    """
    outcomes = outcome(y)
    # A time at an edge belongs to the interval that ends there.
    interval_places = np.searchsorted(edges, outcomes.times, side="left")
    n_intervals = len(edges) + 1
    events = np.bincount(interval_places[outcomes.events], minlength=n_intervals)
    censored = np.bincount(interval_places[~outcomes.events], minlength=n_intervals)
    return Counts(
        events=events.astype(np.int64),
        censored=censored.astype(np.int64),
    )


@dataclass(frozen=True, eq=False)
class Intervals:
    """Those whose sums are added."""

    starts: Floats  # (m,): everybody with a time above is at risk
    ends: Floats  # (m,): the last may be infinite
    n_at_risk: Ints  # (m,)
    n_events: Ints  # (m,), above 0


def merged(
    counts: Counts,
    edges: Sequence[float],
    *,
    least: int,
    ties: Ties,
) -> Intervals | None:
    """Each interval merged with the next until `least` people leave in it; with Efron's
    ties, whose sums are of events by themselves, also until both events and the rest are
    none or `least`. None where all rows together are too few.

    least 1 leaves them as they are. Intervals without an event are left out where their
    people are enough; those behind the last event are part of the last.
    """
    check_name("ties", ties, TIES)

    def is_closed(group: list[int]) -> bool:
        return _is_closed(
            counts,
            group,
            least=least,
            ties=ties,
        )

    groups: list[list[int]] = []
    group: list[int] = []
    for interval_place in range(len(counts.events)):
        group.append(interval_place)
        has_leavers = _n_leavers(counts, group) > 0
        # Whether it can stand by itself.
        if has_leavers and is_closed(group):
            groups.append(group)
            group = []
    if group:
        groups.append(group)
    # What is left at the end goes with those before, until that is enough.
    while len(groups) > 1 and not is_closed(groups[-1]):
        last_group = groups.pop()
        groups[-1] = groups[-1] + last_group
    if not is_closed(groups[-1]):
        return None
    return _intervals(counts, edges, groups)


def _intervals(
    counts: Counts,
    edges: Sequence[float],
    groups: list[list[int]],
) -> Intervals:
    """Those of these groups that have an event."""
    bounds = [0.0, *edges, np.inf]
    n_leaving = counts.events + counts.censored
    n_left = np.cumsum(n_leaving[::-1])[::-1]
    starts = []
    ends = []
    n_at_risk = []
    n_events = []
    for group in groups:
        n_own_events = counts.events[group].sum()
        if n_own_events:
            first_interval = group[0]
            last_interval = group[-1]
            starts.append(bounds[first_interval])
            ends.append(bounds[last_interval + 1])
            n_at_risk.append(n_left[first_interval])
            n_events.append(n_own_events)
    return Intervals(
        starts=np.array(starts),
        ends=np.array(ends),
        n_at_risk=np.array(n_at_risk),
        n_events=np.array(n_events),
    )


def _n_leavers(counts: Counts, group: list[int]) -> int:
    n_events = counts.events[group].sum()
    n_censored = counts.censored[group].sum()
    return int(n_events + n_censored)


def _is_closed(
    counts: Counts,
    group: list[int],
    *,
    least: int,
    ties: Ties,
) -> bool:
    n_leavers = _n_leavers(counts, group)
    if 0 < n_leavers < least:
        return False
    if ties == "breslow":
        return True
    n_events = int(counts.events[group].sum())
    n_others = n_leavers - n_events
    has_few_events = 0 < n_events < least
    has_few_others = 0 < n_others < least
    return not (has_few_events or has_few_others)


def null_log_likelihood(intervals: Intervals, *, ties: Ties) -> float:
    """l at b = 0, of which the counts tell all."""
    log_likelihood = 0.0
    n_at_risk = intervals.n_at_risk.tolist()
    n_events = intervals.n_events.tolist()
    for n_there, n_tied in zip(n_at_risk, n_events, strict=True):
        for number in range(n_tied):
            n_gone = number if ties == "efron" else 0
            log_likelihood -= math.log(n_there - n_gone)
    return log_likelihood


def n_sums(
    n_weights: int,
    n_intervals: int,
    *,
    ties: Ties,
) -> int:
    """Of a round: the sum of x over events, and S, and with Efron's ties D, of each
    interval.
    """
    n_kinds = _n_kinds(ties)
    n_each = _n_each(n_weights)
    return n_weights + n_intervals * n_kinds * n_each


def _n_kinds(ties: Ties) -> int:
    return 2 if ties == "efron" else 1


def _n_each(n_weights: int) -> int:
    n_products = n_weights * (n_weights + 1) // 2
    return 1 + n_weights + n_products


def local_sums(
    X: Floats,
    y: Labels,
    intervals: Intervals,
    coef: Floats,
    *,
    ties: Ties,
) -> Floats:
    """One hospital's part of a round at coef (p,), float64 (n_sums(p, m),).

    X (n, p) about the joint mean, y as `cox.outcome` has them. Raises ValueError where a
    linear predictor is beyond WIDEST_PREDICTOR.

    Disclosure: sums over risk sets, whose differences are sums over those who left
    between two of them. They leave through the release door only, sealed so that nothing
    but the sum over hospitals can be read; and only where the policy says `risk_sets`.
    """
    outcomes = outcome(y)
    eta = predictors(X, coef)
    widest = np.abs(eta).max(initial=0)
    # Not `>`, which NaN would pass.
    if not widest <= WIDEST_PREDICTOR:
        raise ValueError(
            f"A linear predictor is beyond {WIDEST_PREDICTOR:.0f} about the joint mean."
        )
    risks = np.exp(eta)
    n_rows, p = X.shape
    first, second = np.triu_indices(p)
    products = X[:, first] * X[:, second]
    weighted = np.column_stack([np.ones(n_rows), X, products])
    weighted = weighted * risks[:, None]
    of_events = X[outcomes.events].sum(axis=0)
    interval_sums = [of_events]
    for start, end in zip(intervals.starts, intervals.ends, strict=True):
        is_at_risk = outcomes.times > start
        interval_sums.append(weighted[is_at_risk].sum(axis=0))
        if ties == "efron":
            is_within = is_at_risk & (outcomes.times <= end)
            has_event = is_within & outcomes.events
            interval_sums.append(weighted[has_event].sum(axis=0))
    return np.concatenate(interval_sums)


class JointRound(NamedTuple):
    """What a round's joint sums give, the same bits at every hospital."""

    log_likelihood: float  # at the coefficients that the sums were made at
    information: Floats  # (p, p), there
    coef: Floats  # (p,): one step further


def stepped(
    totals: Sequence[int],
    intervals: Intervals,
    coef: Floats,
    *,
    ties: Ties,
    bits: int,
) -> JointRound:
    """One step of Newton's method. totals: n_sums(p, m) integers over 2**bits.

    Elementwise and in order, so that every processor has the same bits. Raises
    newton.Collinear.
    """
    p = len(coef)
    n_intervals = len(intervals.starts)
    sums = np.array([total / 2**bits for total in totals])
    n_expected = n_sums(p, n_intervals, ties=ties)
    if len(sums) != n_expected:
        raise ValueError("the sums are of another number of intervals")
    score = sums[:p].copy()
    log_likelihood = 0.0
    for place in range(p):
        log_likelihood += float(coef[place] * score[place])
    information = np.zeros((p, p))
    shape = (
        n_intervals,
        _n_kinds(ties),
        _n_each(p),
    )
    rows = sums[p:].reshape(shape)
    for of_interval, n_events in zip(rows, intervals.n_events.tolist(), strict=True):
        for number in range(n_events):
            at_risk = of_interval[0]
            if ties == "efron":
                fraction = number / n_events
                at_risk = at_risk - of_interval[1] * fraction
            S0 = at_risk[0]
            S1 = at_risk[1 : 1 + p]
            S2 = _square(at_risk[1 + p :], p)
            mean = S1 / S0
            score = score - mean
            mean_square = mean[:, None] * mean[None, :]
            information = information + S2 / S0 - mean_square
            log_likelihood -= math.log(S0)
    equations = Opened(
        A=normal_equations.integers(information, bits),
        c=normal_equations.integers(score[None], bits)[0],
        deviance=0.0,
        bits=bits,
        is_valid=True,
    )
    step = normal_equations.solve(equations)
    return JointRound(
        log_likelihood=log_likelihood,
        information=information,
        coef=coef + step,
    )


def _square(triangle: Floats, p: int) -> Floats:
    """The symmetric matrix of this upper triangle."""
    matrix = np.zeros((p, p))
    rows, columns = np.triu_indices(p)
    matrix[rows, columns] = triangle
    matrix[columns, rows] = triangle
    return matrix


@dataclass(frozen=True, eq=False)
class JointState:
    """How far the joint rounds are: first the counts, then ROUNDS of sums."""

    counts: Counts | None = None
    # How many hospitals ask for many people in each interval.
    n_strict: int = 0
    n_rounds: int = 0
    log_likelihood: float = math.nan
    information: Floats | None = None

    @property
    def is_done(self) -> bool:
        return self.n_rounds == ROUNDS
