"""Negative binomial regression: the dispersion theta, beside the coefficients.

With V(mu) = mu + mu^2 / theta a round adds up, beside what every glm does (`newton`), of
t = log theta the score and the observed information at (b, t)

    s = theta sum m_i (psi(y_i + theta) - psi(theta) + ln theta + 1
                       - ln(theta + mu_i) - (y_i + theta) / (theta + mu_i))
    j = theta^2 sum m_i (psi'(theta) - psi'(y_i + theta) - 1 / theta
                         + 2 / (mu_i + theta) - (y_i + theta) / (mu_i + theta)^2) - s

and b and t step together: their information is 0 beside each other, so that both go to the
maximum of the likelihood. What must fall is -2 log-likelihood. Before theta is known the
round is poisson's, and the sums are of (y / mu - 1)^2 and of m: theta starts at n over
the first. Venables and Ripley 2002, section 7.4: glm.nb of R.

Decision 105.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from analytics.arrays import Floats
from analytics.training import newton, normal_equations
from analytics.training.elementary import logarithm
from analytics.training.links import Means
from analytics.training.newton import NewtonState, NoMean
from analytics.training.normal_equations import Opened
from analytics.training.pairs import Pair

N_SUMS = 2
_MOST_STEP = 2.0
"""Of log theta."""
_SMALL_STEP = 1e-8
"""Of its standard error; the estimates' errors hardly depend on it."""
MOST_THETA = 1e6
"""Beyond the counts are poisson's."""


class NoOverdispersion(ValueError):
    """Theta grows without end: the counts vary no more than poisson's."""


class ThetaRows(NamedTuple):
    """What each row adds to the two sums, (n,) each."""

    first: Floats
    second: Floats


def theta_rows(
    pair: Pair,
    y: Floats,
    row_means: Means,
    m: Floats | float,
) -> ThetaRows:
    """Disclosure: one number per row each; they stay in the hospital."""
    mu = row_means.mu
    theta = pair.theta
    row_weights = np.asarray(m, dtype=np.float64)
    weights = np.broadcast_to(row_weights, y.shape)
    if math.isinf(theta):
        squares = (y / mu - 1) ** 2
        return ThetaRows(weights * squares, weights)
    # Not above: it takes long to import, and a simulation starts without.
    from scipy import special

    ratio = (y + theta) / (mu + theta)
    slope = special.digamma(y + theta) - special.digamma(theta)
    # By log1p: beside a large theta the logarithms of theta and theta + mu cancel.
    score = theta * weights * (slope - np.log1p(mu / theta) + 1 - ratio)
    curve = special.polygamma(1, theta) - special.polygamma(1, y + theta)
    information = curve - 1 / theta + (2 - ratio) / (mu + theta)
    return ThetaRows(
        first=score,
        second=theta * theta * weights * information - score,
    )


def stepped(
    state: NewtonState,
    opened: Opened,
    totals: Sequence[float],
    *,
    eps: float,
) -> NewtonState:
    """The state one round later; totals: the two sums over all hospitals.

    Raises Collinear, NoMean, NoOverdispersion, and ValueError where no halved step lets
    -2 log-likelihood fall.
    """
    if state.is_start:
        first_coef = normal_equations.solve(opened)
        return replace(
            state,
            coef=first_coef,
            base=first_coef,
            round=1,
        )
    if math.isinf(state.log_theta):
        return _first_theta(state, opened, totals)
    no_penalty = np.zeros(len(opened.c))
    next_state = newton.advanced(
        state,
        opened,
        eps=eps,
        diagonal=no_penalty,
    )
    # The deviance is of both: what let it rise may be the step of theta.
    if next_state.n_halvings:
        half_step = (state.log_theta - state.base_log_theta) / 2
        return replace(next_state, log_theta=state.base_log_theta + half_step)
    score, information = totals
    theta_step = _step(score, information)
    log_theta = state.log_theta + theta_step
    if log_theta > logarithm(MOST_THETA):
        raise NoOverdispersion("theta grows without end")
    is_done = False
    if next_state.is_still and _is_small(theta_step, information):
        moved = next_state.coef - state.coef
        is_done = newton.is_small(
            moved,
            next_state.coef,
            opened,
            dispersion=1.0,
        )
    return replace(
        next_state,
        log_theta=log_theta,
        base_log_theta=state.log_theta,
        is_done=is_done,
    )


def _is_small(step: float, information: float) -> bool:
    """Whether a step of log theta is, against its standard error."""
    if information <= 0:
        return False
    error = math.sqrt(information)
    return abs(step) <= _SMALL_STEP / error


def _first_theta(
    state: NewtonState,
    opened: Opened,
    totals: Sequence[float],
) -> NewtonState:
    if not opened.is_valid:
        raise NoMean("the first weights give a mean that the family does not know")
    squares, weight = totals
    # Not as a quotient, since the squares may be 0.
    if squares * MOST_THETA <= weight:
        raise NoOverdispersion("the counts are their means")
    log_theta = logarithm(weight / squares)
    coef = normal_equations.solve(opened)
    return replace(
        state,
        coef=coef,
        base=coef,
        round=state.round + 1,
        log_theta=log_theta,
        base_log_theta=log_theta,
    )


def _step(score: float, information: float) -> float:
    """Newton's, or where the likelihood is not concave uphill, and never a long one."""
    if information <= 0:
        return math.copysign(1.0, score)
    newtons = score / information
    at_most = min(_MOST_STEP, newtons)
    return max(-_MOST_STEP, at_most)


def theta_error(theta: float, information: float) -> float | None:
    """The standard error of theta given b, as R's: information is that of log theta."""
    if information > 0:
        return theta / math.sqrt(information)
    return None
