"""Links of generalised linear models: a row's mean from its linear predictor, and back.

A link g has its inverse, and h = d mu / d eta. Everything is elementwise over rows,
float64 (n,). Of binomial mu and 1 - mu are two numbers, so that neither loses its digits
near 1. Which family goes with which link is in `families`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from analytics.arrays import Floats

MOST_PREDICTOR = 700.0
"""exp of more leaves float64."""
_MOST_PROBIT = 37.0
_MOST_CLOGLOG = 6.5
"""Beyond these the smaller of the two probabilities is 0."""


class Means(NamedTuple):
    """Of each row, (n,)."""

    mu: Floats
    complement: Floats  # 1 - mu of binomial; else not looked at
    slope: Floats  # d mu / d eta


def _identity(eta: Floats) -> Means:
    return Means(
        mu=eta,
        complement=1 - eta,
        slope=np.ones_like(eta),
    )


def _log(eta: Floats) -> Means:
    held = np.clip(eta, -MOST_PREDICTOR, MOST_PREDICTOR)
    mu = np.exp(held)
    return Means(
        mu=mu,
        complement=-np.expm1(held),
        slope=mu,
    )


def _inverse(eta: Floats) -> Means:
    mu = 1 / eta
    return Means(
        mu=mu,
        complement=1 - mu,
        slope=-mu * mu,
    )


def _inverse_squared(eta: Floats) -> Means:
    mu = 1 / np.sqrt(eta)
    return Means(
        mu=mu,
        complement=1 - mu,
        slope=-mu * mu * mu / 2,
    )


def _sqrt(eta: Floats) -> Means:
    # A root is above 0: the other branch is another model.
    mu = np.where(eta > 0, eta * eta, np.nan)
    return Means(
        mu=mu,
        complement=1 - mu,
        slope=2 * eta,
    )


def _logit(eta: Floats) -> Means:
    held = np.clip(eta, -MOST_PREDICTOR, MOST_PREDICTOR)
    mu = np.exp(-np.logaddexp(0, -held))
    # Not 1 - mu, which is 0 long before the probability is.
    complement = np.exp(-np.logaddexp(0, held))
    return Means(
        mu=mu,
        complement=complement,
        slope=mu * complement,
    )


def _probit(eta: Floats) -> Means:
    # Not above: it takes long to import, and a simulation starts without.
    from scipy import special

    held = np.clip(eta, -_MOST_PROBIT, _MOST_PROBIT)
    exponential = np.exp(-held * held / 2)
    density = exponential / math.sqrt(2 * math.pi)
    return Means(
        mu=special.ndtr(held),
        complement=special.ndtr(-held),
        slope=density,
    )


def _cloglog(eta: Floats) -> Means:
    held = np.clip(eta, -MOST_PREDICTOR, _MOST_CLOGLOG)
    hazard = np.exp(held)
    complement = np.exp(-hazard)
    return Means(
        mu=-np.expm1(-hazard),
        complement=complement,
        slope=hazard * complement,
    )


INVERSES: dict[str, Callable[[Floats], Means]] = {
    "identity": _identity,
    "log": _log,
    "inverse": _inverse,
    "inverse_squared": _inverse_squared,
    "sqrt": _sqrt,
    "logit": _logit,
    "probit": _probit,
    "cloglog": _cloglog,
}
"""By link what gives mu = g^-1(eta), 1 - mu and d mu / d eta."""


def predictor_of(link: str, mu: Floats) -> Floats:
    """eta = g(mu)."""
    match link:
        case "log":
            return np.log(mu)
        case "inverse":
            return 1 / mu
        case "inverse_squared":
            return 1 / (mu * mu)
        case "sqrt":
            return np.sqrt(mu)
        case "logit":
            odds = mu / (1 - mu)
            return np.log(odds)
        case "probit":
            from scipy import special

            quantiles: Floats = special.ndtri(mu)
            return quantiles
        case "cloglog":
            hazard = -np.log1p(-mu)
            return np.log(hazard)
    return mu
