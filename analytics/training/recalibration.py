"""How well a model's probabilities are calibrated, as logistic regressions of the outcome
on what the model says.

With l = log(p / (1 - p)) of each row's probability p there are two models, and they
answer two questions (Cox 1958, Biometrika 45, 562; Steyerberg 2019, chapter 15):

    logit P(y = 1) = a + b l    intercept a and slope b; (0, 1) is perfect, b < 1 says
                                that predictions are too extreme
    logit P(y = 1) = a' + l     calibration in the large: a' > 0 says that there are more
                                events than predicted

a is not a': the first is at a slope of b, the second at one of 1. Both are fitted by
Newton's method (`newton`, binomial with logit) from (0, 1) and 0, on sums over the rows
of all hospitals. A round's sums are those of both, one after the other; those of one that
is done are zeros.

Decision 92.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from analytics.arrays import Floats
from analytics.training import families, newton, normal_equations
from analytics.training.newton import NewtonState, RowNumbers
from analytics.training.normal_equations import Collinear, Opened
from analytics.training.pairs import LOGISTIC, Pair

EPS = 1e-12
"""Of the deviance: the standard errors are made of the last sums but one."""
N_ESTIMATED = (2, 1)
"""Of each model."""


class Estimate(NamedTuple):
    """A number and its standard error."""

    value: float
    se: float


class Calibration(NamedTuple):
    """Of one table of all rows."""

    intercept: Estimate  # a
    slope: Estimate  # b
    in_the_large: Estimate  # a'


@dataclass(frozen=True, eq=False)
class Fits:
    """How far both models are, the same bits at every hospital."""

    states: tuple[NewtonState, ...]
    # The sums of the last step of each; None before the first.
    opened: tuple[Opened | None, ...] = (None, None)

    @property
    def is_done(self) -> bool:
        return all(state.is_done for state in self.states)

    @property
    def coef(self) -> Floats:
        """(3,), of both."""
        both = [state.coef for state in self.states]
        return np.concatenate(both)


def first_fits() -> Fits:
    """Where predictions are taken as they are."""
    slope = np.array([1.0, 0.0])
    in_the_large = np.zeros(1)
    starts = (
        NewtonState(coef=slope, base=slope),
        NewtonState(coef=in_the_large, base=in_the_large),
    )
    return Fits(starts)


def logits(pair: Pair, predictors: Floats) -> Floats:
    """log(p / (1 - p)), (n,), of a model's linear predictors, whose means are valid.

    Disclosure: one number per row; they stay in the hospital.
    """
    # The predictor is the logit already; of a probability that rounds to 1 it is
    # infinite.
    if pair == LOGISTIC:
        return predictors
    row_means = families.means(pair, predictors)
    log_odds: Floats = np.log(row_means.mu) - np.log(row_means.complement)
    return log_odds


def rows_at(
    fits: Fits,
    logit: Floats,
    y: Floats,
) -> list[RowNumbers]:
    """What each row adds to the sums of the models that go on.

    Disclosure: numbers per row; they stay in the hospital.
    """
    row_numbers = []
    for columns, offset, state in _models(fits, logit):
        if not state.is_done:
            numbers = newton.row_numbers(
                LOGISTIC,
                columns,
                y,
                state.coef,
                is_start=False,
                offset=offset,
            )
            row_numbers.append(numbers)
    return row_numbers


def local_sums(
    fits: Fits,
    logit: Floats,
    y: Floats,
) -> Floats:
    """One hospital's part of a round, float64 (n_sums(),).

    Disclosure: weighted sums of l and its square, and the deviances. They leave through
    the release door only, sealed so that nothing but the sum over hospitals can be read.
    """
    model_sums = []
    for columns, offset, state in _models(fits, logit):
        if state.is_done:
            n_own = newton.n_sums(len(state.coef))
            model_sums.append(np.zeros(n_own))
            continue
        numbers = newton.row_numbers(
            LOGISTIC,
            columns,
            y,
            state.coef,
            is_start=False,
            offset=offset,
        )
        model_sums.append(newton.local_sums(columns, numbers))
    return np.concatenate(model_sums)


def _models(
    fits: Fits, logit: Floats
) -> list[tuple[Floats, Floats | float, NewtonState]]:
    """Columns without the intercept's, offset and state of each."""
    of_slope, in_the_large = fits.states
    no_columns = np.zeros((len(logit), 0))
    return [
        (logit[:, None], 0.0, of_slope),
        (no_columns, logit, in_the_large),
    ]


def n_sums() -> int:
    return sum(newton.n_sums(n_estimated) for n_estimated in N_ESTIMATED)


def stepped(
    fits: Fits,
    totals: Sequence[int],
    *,
    bits: int,
) -> Fits | None:
    """Both models one round later; None where there is no estimate: all predictions are
    one, or the outcome is told by them without an error.

    totals: n_sums() integers over 2**bits, over all hospitals.
    """
    remaining = list(totals)
    states = []
    sums = []
    models = zip(fits.states, fits.opened, N_ESTIMATED, strict=True)
    for state, before, n_estimated in models:
        n_own = newton.n_sums(n_estimated)
        own_totals = remaining[:n_own]
        remaining = remaining[n_own:]
        if state.is_done:
            states.append(state)
            sums.append(before)
            continue
        opened = newton.read_sums(own_totals, n_estimated, bits=bits)
        try:
            next_state = newton.advanced(
                state,
                opened,
                eps=EPS,
                diagonal=np.zeros(n_estimated),
            )
        except (Collinear, ValueError):
            return None
        states.append(next_state)
        # A halved step is made of the sums of the round before.
        is_halved = bool(next_state.n_halvings)
        sums.append(before if is_halved else opened)
    return replace(
        fits,
        states=tuple(states),
        opened=tuple(sums),
    )


def estimates(fits: Fits) -> Calibration | None:
    """Of models that are done; None of others, and where one's last step was no small
    one, so that there is no best coefficient.
    """
    is_separating = any(state.is_separating for state in fits.states)
    if not fits.is_done or is_separating:
        return None
    coefficients = []
    for state, opened in zip(fits.states, fits.opened, strict=True):
        assert opened is not None, "it has stepped"
        inverse = normal_equations.inverse(opened)
        variances = np.diag(inverse).tolist()
        for coefficient, variance in zip(state.coef.tolist(), variances, strict=True):
            se = math.sqrt(variance)
            coefficients.append(Estimate(coefficient, se))
    slope, intercept, in_the_large = coefficients
    return Calibration(
        intercept=intercept,
        slope=slope,
        in_the_large=in_the_large,
    )
