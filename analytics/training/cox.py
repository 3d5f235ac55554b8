"""Cox regression with a baseline hazard of each hospital's own, from sums.

The partial likelihood is a product over strata, and a hospital's rows are at least one
stratum of their own, so that

    l = sum over events (x b - log S0)    U = dl / db    I = - d2l / db db'

are sums over hospitals, each over its own risk sets: no time leaves. With S0, S1 the
sums over the risk set (entry < t <= time) of exp(x b) and x exp(x b), D0 and D1 the same
over those whose event is at t, and f = k / d for the k-th of d events at one time (Efron 1977;
0 with Breslow's), every event has

    M = (S1 - f D1) / (S0 - f D0)

and takes the denominator instead of S0. A round of Newton's method adds up A = I,
c = I b + U and the deviance -2 l, in the order of `newton.local_sums`, so that the
equations, the halving and the stop are those of `newton`.

I is X' V X - M'M, where V holds for each row its weight times the sum of 1 / (S0 - f D0)
over the events at which it was at risk: n p^2 steps, whatever the number of times.

Source: Cox 1972; Therneau and Grambsch 2000, chapter 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from analytics.arrays import (
    Bools,
    Floats,
    Ints,
    Labels,
    Places,
    check_finite,
    check_name,
    check_same_rows,
)
from analytics.training import Ties, newton, normal_equations
from analytics.training.cox_labels import outcome
from analytics.training.newton import NewtonState
from analytics.training.normal_equations import Opened

TIES: tuple[Ties, ...] = ("efron", "breslow")
WIDEST_SPREAD = 600.0
"""Of the linear predictors of one stratum: exp of more is 0 beside the largest."""
_SMALLEST_REST = 1e-4
"""Of what a difference of two sums is taken from; the digits of less are made anew."""


@dataclass(frozen=True, eq=False)
class Stratum:
    """Rows that share a baseline hazard, sorted by time, and where their risk sets are.

    The columns are about their mean in the stratum, which no risk set sees.
    """

    X: Floats  # (n, p)
    entries: Floats | None  # (n,)
    times: Floats  # (n,)
    event_rows: Places  # (D,): rows, by time
    event_times: Floats  # (m,): each once
    # Of each event: which of event_times, its number among those, and how many they are.
    event_place: Places
    event_number: Ints
    n_tied: Ints
    # Of each of event_times: the first row that is still there.
    first_there: Places
    # Of each row: how many of event_times are up to its time, and up to its entry.
    n_until: Places
    n_before: Places


def strata_of(
    X: Floats,
    times: Floats,
    events: Labels,
    *,
    entries: Floats | None = None,
    strata: Labels | None = None,
) -> list[Stratum]:
    """One hospital's rows, sorted once for all rounds.

    X (n, p) standardised; times, events of 0 and 1, entries (n,); strata (n,): codes, one
    for each baseline, None for one. Strata without an event add nothing and are left out.

    Raises ValueError where a value is not finite, an event neither 0 nor 1, a time not
    above 0, or an entry not below its time. Disclosure: stays in the hospital.
    """
    X = np.asarray(X, dtype=np.float64)
    times = np.asarray(times, dtype=np.float64)
    events = np.asarray(events)
    _check(
        X,
        times,
        events,
        entries,
    )
    if strata is None:
        strata = np.zeros(len(times), dtype=np.int64)
    check_same_rows("strata", np.asarray(strata), len(times))
    has_event = events == 1
    event_strata = []
    for code in np.unique(strata):
        rows = np.flatnonzero(strata == code)
        if not np.any(events[rows]):
            continue
        own_entries = None
        if entries is not None:
            own_entries = np.asarray(entries)[rows]
        stratum = _stratum(
            X[rows],
            times[rows],
            has_event[rows],
            own_entries,
        )
        event_strata.append(stratum)
    return event_strata


def _check(
    X: Floats,
    times: Floats,
    events: Labels,
    entries: Floats | None,
) -> None:
    n_rows = len(times)
    check_same_rows("times", times, n_rows)
    check_same_rows("events", events, n_rows)
    if X.ndim != 2 or len(X) != n_rows:
        raise ValueError(f"X has the shape {X.shape}; {n_rows} rows are expected.")
    check_finite("X", X)
    check_finite("times", times)
    is_known = np.isin(events, (0, 1))
    if not is_known.all():
        raise ValueError("events holds a value that is neither 0 nor 1.")
    if not (times > 0).all():
        raise ValueError("times holds a value that is not above 0.")
    if entries is not None:
        entry_times = np.asarray(entries)
        check_same_rows("entries", entry_times, n_rows)
        check_finite("entries", entry_times)
        if not (entry_times < times).all():
            raise ValueError("entries holds a value that is not below its time.")


def _stratum(
    X: Floats,
    times: Floats,
    events: Bools,
    entries: Floats | None,
) -> Stratum:
    order = np.argsort(times, kind="stable")
    times = times[order]
    event_rows = np.flatnonzero(events[order])
    event_times, first_places, event_place, n_each = np.unique(
        times[event_rows],
        return_index=True,
        return_inverse=True,
        return_counts=True,
    )
    n_before = np.zeros(len(times), dtype=np.intp)
    if entries is not None:
        entries = np.asarray(entries, dtype=np.float64)[order]
        # Who enters at the time of an event was not at risk at it.
        n_before = np.searchsorted(event_times, entries, side="right")
    event_number = np.arange(len(event_rows)) - first_places[event_place]
    return Stratum(
        X=(X - X.mean(axis=0))[order],
        entries=entries,
        times=times,
        event_rows=event_rows,
        event_times=event_times,
        event_place=event_place,
        event_number=event_number,
        n_tied=n_each[event_place],
        # Who is last seen at the time of an event still was at risk at it.
        first_there=np.searchsorted(times, event_times, side="left"),
        n_until=np.searchsorted(event_times, times, side="right"),
        n_before=n_before,
    )


def labelled_strata(X: Floats, y: Labels) -> list[Stratum]:
    """`strata_of` rows with such labels."""
    outcomes = outcome(y)
    return strata_of(
        X,
        outcomes.times,
        outcomes.events,
        entries=outcomes.entries,
        strata=outcomes.strata,
    )


class AtWeights(NamedTuple):
    """A stratum at weights b, shifted so that the largest linear predictor is 0."""

    predictors: Floats  # (n,)
    risks: Floats  # (n,): exp of them
    fractions: Floats  # (D,): f of each event
    denominators: Floats  # (D,): S0 - f D0
    means: Floats  # (D, p): M


def predictors(X: Floats, coef: Floats) -> Floats:
    """X b, (n,), so that equal rows have equal bits, which a library's product does not
    promise: concordance counts ties.

    Disclosure: one number per row; they stay in the hospital.
    """
    eta = np.zeros(len(X))
    for column, weight in zip(X.T, coef.tolist(), strict=True):
        eta += column * weight
    return eta


def at_weights(
    stratum: Stratum,
    coef: Floats,
    *,
    ties: Ties,
) -> AtWeights:
    """coef (p,). Raises ValueError where the linear predictors are not finite or spread
    over more than WIDEST_SPREAD: the last step went too far.
    """
    check_name("ties", ties, TIES)
    eta = predictors(stratum.X, coef)
    eta = eta - eta.max()
    # Not `<`, which NaN would pass.
    if not eta.min() >= -WIDEST_SPREAD:
        raise ValueError(
            f"The linear predictors of a baseline spread over more than {WIDEST_SPREAD:.0f}."
        )
    risks = np.exp(eta)
    weighted = np.column_stack([risks, stratum.X * risks[:, None]])
    event_place = stratum.event_place
    at_risk = _at_risk(stratum, weighted)[event_place]
    fractions = np.zeros(len(stratum.event_rows))
    if ties == "efron":
        fractions = stratum.event_number / stratum.n_tied
        tied = np.zeros((len(stratum.event_times), weighted.shape[1]))
        np.add.at(tied, event_place, weighted[stratum.event_rows])
        at_risk = at_risk - fractions[:, None] * tied[event_place]
    denominators = at_risk[:, 0]
    means = at_risk[:, 1:] / denominators[:, None]
    return AtWeights(
        predictors=eta,
        risks=risks,
        fractions=fractions,
        denominators=denominators,
        means=means,
    )


def _at_risk(stratum: Stratum, weighted: Floats) -> Floats:
    """S0 and S1 of each of event_times, (m, 1 + p): those still there, less those who
    have not come yet.
    """
    still_there = _from_the_end(weighted)[stratum.first_there]
    if stratum.entries is None:
        return still_there
    by_entry = np.argsort(stratum.entries, kind="stable")
    first_to_come = np.searchsorted(
        stratum.entries[by_entry],
        stratum.event_times,
        side="left",
    )
    still_to_come = _from_the_end(weighted[by_entry])[first_to_come]
    at_risk = still_there - still_to_come
    # Few at risk among many to come are a small difference of large sums.
    is_small = at_risk[:, 0] < _SMALLEST_REST * still_there[:, 0]
    for time_place in np.flatnonzero(is_small):
        time = stratum.event_times[time_place]
        has_come = stratum.entries < time
        is_there = has_come & (stratum.times >= time)
        at_risk[time_place] = weighted[is_there].sum(axis=0)
    return at_risk


def _from_the_end(values: Floats) -> Floats:
    """Of each place, and one past the last, the sum of `values` from there on."""
    n_rows, n_columns = values.shape
    sums = np.zeros((n_rows + 1, n_columns))
    backwards = np.cumsum(values[::-1], axis=0)
    sums[:-1] = backwards[::-1]
    return sums


def log_likelihood(stratum: Stratum, risk_sums: AtWeights) -> float:
    """l. The shift stands in both terms."""
    event_terms = risk_sums.predictors[stratum.event_rows] - np.log(
        risk_sums.denominators
    )
    return float(event_terms.sum())


def score(
    stratum: Stratum,
    risk_sums: AtWeights,
    factors: Floats | None = None,
) -> Floats:
    """U, (p,): the sum over events of x - M, times `factors` (D,)."""
    event_scores = stratum.X[stratum.event_rows] - risk_sums.means
    if factors is not None:
        event_scores = event_scores * factors[:, None]
    summed: Floats = event_scores.sum(axis=0)
    return summed


def information(
    stratum: Stratum,
    risk_sums: AtWeights,
    factors: Floats | None = None,
) -> Floats:
    """I, (p, p): the sum over events of the covariance at risk, times `factors` (D,)."""
    if factors is None:
        factors = np.ones(len(stratum.event_rows))
    weights = expected(stratum, risk_sums, factors)
    squares = stratum.X.T @ (stratum.X * weights[:, None])
    weighted_means = risk_sums.means * factors[:, None]
    covariance: Floats = squares - risk_sums.means.T @ weighted_means
    return covariance


def expected(
    stratum: Stratum,
    risk_sums: AtWeights,
    factors: Floats,
) -> Floats:
    """How many events a row could expect while it was at risk, (n,), each times its
    factor: its weight in I.

    Disclosure: one number per row; they stay in the hospital.
    """
    event_place = stratum.event_place
    n_times = len(stratum.event_times)
    increments = factors / risk_sums.denominators
    in_all = np.zeros(n_times)
    np.add.at(in_all, event_place, increments)
    # Whose event is at that time is at risk with 1 - f.
    less = np.zeros(n_times)
    np.add.at(less, event_place, increments * risk_sums.fractions)
    row_parts = _while_there(stratum, risk_sums.risks, in_all)
    row_parts[stratum.event_rows] -= less[event_place]
    weights: Floats = risk_sums.risks * row_parts
    return weights


def _while_there(
    stratum: Stratum,
    risks: Floats,
    values: Floats,
) -> Floats:
    """Of each row the sum of `values` (m,) at the times at which it was at risk, (n,)."""
    n_until = stratum.n_until
    n_before = stratum.n_before
    until = np.concatenate([[0.0], np.cumsum(values)])
    row_sums: Floats = until[n_until] - until[n_before]
    # A great risk after times at which all risks were small: see _at_risk.
    size = np.concatenate([[0.0], np.cumsum(np.abs(values))])
    is_small = risks * size[n_before] > 1 / _SMALLEST_REST
    for row in np.flatnonzero(is_small):
        risk_span = slice(n_before[row], n_until[row])
        row_sums[row] = values[risk_span].sum()
    return row_sums


class RowWeights(NamedTuple):
    """How rows enter a round's sums, (n,) each; of strata without an event none."""

    weights: Floats  # in I
    residuals: Floats  # in U: event less what was expected


def row_weights(
    strata: Sequence[Stratum],
    coef: Floats,
    *,
    ties: Ties,
) -> RowWeights:
    """Raises as `at_weights`. Disclosure: one number per row; they stay in the hospital."""
    weights = [np.zeros(0)]
    residuals = [np.zeros(0)]
    for stratum in strata:
        risk_sums = at_weights(stratum, coef, ties=ties)
        factors = np.ones(len(stratum.event_rows))
        expected_events = expected(stratum, risk_sums, factors)
        has_event = np.zeros(len(expected_events))
        has_event[stratum.event_rows] = 1
        weights.append(expected_events)
        residuals.append(has_event - expected_events)
    return RowWeights(
        weights=np.concatenate(weights),
        residuals=np.concatenate(residuals),
    )


def mean_loss(
    X: Floats,
    y: Labels,
    coef: Floats,
    *,
    ties: Ties,
) -> float:
    """-l / n over n rows; as `models.local_loss`."""
    loss_sum = 0.0
    for stratum in labelled_strata(X, y):
        risk_sums = at_weights(stratum, coef, ties=ties)
        loss_sum -= log_likelihood(stratum, risk_sums)
    return loss_sum / len(y)


def n_sums(n_weights: int) -> int:
    """Of a round: I's upper triangle, I b + U, -2 l, and 0: all weights have a likelihood."""
    return newton.n_sums(n_weights)


def local_sums(
    strata: Sequence[Stratum],
    coef: Floats,
    *,
    ties: Ties,
) -> Floats:
    """One hospital's part of a round at coef (p,), float64 (n_sums(p),), zeros where no
    event is.

    Raises ValueError as `at_weights`. Disclosure: sums of squares and products of columns
    over risk sets. They leave through the release door only, sealed so that nothing but
    the sum over hospitals can be read.
    """
    p = len(coef)
    A = np.zeros((p, p))
    U = np.zeros(p)
    deviance = 0.0
    for stratum in strata:
        risk_sums = at_weights(stratum, coef, ties=ties)
        A += information(stratum, risk_sums)
        U += score(stratum, risk_sums)
        deviance -= 2 * log_likelihood(stratum, risk_sums)
    c = A @ coef + U
    upper = A[np.triu_indices(p)]
    is_invalid = 0.0
    return np.concatenate([upper, c, [deviance, is_invalid]])


def start(n_weights: int) -> NewtonState:
    """Before the first round: at 0, whose deviance is the null deviance."""
    zeros = np.zeros(n_weights)
    return NewtonState(coef=zeros, base=zeros)


def stepped(
    state: NewtonState,
    opened: Opened,
    *,
    eps: float,
    diagonal: Floats,
) -> NewtonState:
    """The state one round later, as `newton.advanced`: the first step too is halved
    where l falls, and the last one is as small as of a glm with a canonical link.
    """
    next_state = newton.advanced(
        state,
        opened,
        eps=eps,
        diagonal=diagonal,
    )
    if next_state.n_halvings or not next_state.is_still:
        return next_state
    equations = normal_equations.penalised(opened, diagonal)
    next_state = newton.with_growth(state, next_state, equations)
    is_done = newton.is_small(
        next_state.coef - state.coef,
        next_state.coef,
        equations,
        dispersion=1.0,
        limit=newton.LAST_STEP,
    )
    return replace(next_state, is_done=is_done)
