"""Families and links of generalised linear models: what a row says of its mean.

A family has a variance V(mu), the unit deviance d(y, mu) and which means it knows; a
link g has its inverse, and h = d mu / d eta. A row of the label y at the linear
predictor eta = g(mu) enters Newton's equations by

    W = h^2 / V    W z = W eta + (y - mu) h / V

Everything is elementwise over rows, float64 (n,). Of binomial mu and 1 - mu are two
numbers, so that neither loses its digits near 1. McCullagh and Nelder 1989, chapter 2;
the pairs and their starts are R's.

Decision 84.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from analytics.arrays import Bools, Floats

MOST_PREDICTOR = 700.0
"""exp of more leaves float64."""
_MOST_PROBIT = 37.0
_MOST_CLOGLOG = 6.5
"""Beyond these the smaller of the two probabilities is 0."""

POWER_OF_VARIANCE = {"gaussian": 0, "poisson": 1, "gamma": 2, "inverse_gaussian": 3}
"""k of V(mu) = mu^k."""

LINKS: dict[str, tuple[str, ...]] = {
    "gaussian": ("identity", "log", "inverse"),
    "binomial": ("logit", "probit", "cloglog", "log"),
    "poisson": ("log", "identity", "sqrt"),
    "gamma": ("inverse", "identity", "log"),
    "inverse_gaussian": ("inverse_squared", "inverse", "identity", "log"),
}
"""By family the links that go with it, the canonical one first."""


class Means(NamedTuple):
    """Of each row, (n,)."""

    mu: Floats
    complement: Floats  # 1 - mu of binomial; else not looked at
    slope: Floats  # d mu / d eta


@dataclass(frozen=True)
class Pair:
    """A family and a link that go together.

    Raises ValueError for others.

    >>> Pair("poisson", "log").is_canonical
    True
    """

    family: str
    link: str

    def __post_init__(self) -> None:
        if self.link not in LINKS.get(self.family, ()):
            raise ValueError(f"{self.family} has no link {self.link}.")

    @property
    def is_canonical(self) -> bool:
        return self.link == LINKS[self.family][0]

    @property
    def is_binary(self) -> bool:
        return self.family == "binomial"

    @property
    def is_least_squares(self) -> bool:
        """Whether the equations do not depend on where they are made."""
        return self == LEAST_SQUARES

    @property
    def has_dispersion(self) -> bool:
        """Whether the family has a dispersion besides its mean."""
        return self.family not in ("binomial", "poisson")


LOGISTIC = Pair("binomial", "logit")
LEAST_SQUARES = Pair("gaussian", "identity")


def canonical_pair(family: str) -> Pair:
    return Pair(family, LINKS[family][0])


# Links


def means(pair: Pair, predictors: Floats) -> Means:
    """mu = g^-1(eta), 1 - mu and d mu / d eta.

    eta is held where exp would leave float64; where mu is then none of the family
    `is_valid` says so.
    """
    find = _INVERSES[pair.link]
    with np.errstate(all="ignore"):
        return find(np.asarray(predictors, dtype=np.float64))


def _identity(eta: Floats) -> Means:
    return Means(eta, 1 - eta, np.ones_like(eta))


def _log(eta: Floats) -> Means:
    held = np.clip(eta, -MOST_PREDICTOR, MOST_PREDICTOR)
    mu = np.exp(held)
    return Means(mu, -np.expm1(held), mu)


def _inverse(eta: Floats) -> Means:
    mu = 1 / eta
    return Means(mu, 1 - mu, -mu * mu)


def _inverse_squared(eta: Floats) -> Means:
    mu = 1 / np.sqrt(eta)
    return Means(mu, 1 - mu, -mu * mu * mu / 2)


def _sqrt(eta: Floats) -> Means:
    # A root is above 0: the other branch is another model.
    mu = np.where(eta > 0, eta * eta, np.nan)
    return Means(mu, 1 - mu, 2 * eta)


def _logit(eta: Floats) -> Means:
    held = np.clip(eta, -MOST_PREDICTOR, MOST_PREDICTOR)
    mu = np.exp(-np.logaddexp(0, -held))
    complement = np.exp(-np.logaddexp(0, held))
    return Means(mu, complement, mu * complement)


def _probit(eta: Floats) -> Means:
    # Not above: it takes long to import, and a simulation starts without.
    from scipy import special

    held = np.clip(eta, -_MOST_PROBIT, _MOST_PROBIT)
    density = np.exp(-held * held / 2) / math.sqrt(2 * math.pi)
    return Means(special.ndtr(held), special.ndtr(-held), density)


def _cloglog(eta: Floats) -> Means:
    held = np.clip(eta, -MOST_PREDICTOR, _MOST_CLOGLOG)
    hazard = np.exp(held)
    complement = np.exp(-hazard)
    return Means(-np.expm1(-hazard), complement, hazard * complement)


_INVERSES: dict[str, Callable[[Floats], Means]] = {
    "identity": _identity,
    "log": _log,
    "inverse": _inverse,
    "inverse_squared": _inverse_squared,
    "sqrt": _sqrt,
    "logit": _logit,
    "probit": _probit,
    "cloglog": _cloglog,
}


def predictor_of(pair: Pair, mu: Floats) -> Floats:
    """eta = g(mu)."""
    match pair.link:
        case "log":
            return np.log(mu)
        case "inverse":
            return 1 / mu
        case "inverse_squared":
            return 1 / (mu * mu)
        case "sqrt":
            return np.sqrt(mu)
        case "logit":
            return np.log(mu / (1 - mu))
        case "probit":
            from scipy import special

            quantiles: Floats = special.ndtri(mu)
            return quantiles
        case "cloglog":
            return np.log(-np.log1p(-mu))
    return mu


# Families


def valid_rows(pair: Pair, at: Means) -> Bools:
    """Which of these means the family knows, (n,)."""
    found: Bools = np.isfinite(at.mu) & np.isfinite(at.slope)
    if pair.family != "gaussian":
        found &= at.mu > 0
    if pair.is_binary:
        found &= at.complement > 0
    return found


def is_valid(pair: Pair, at: Means) -> bool:
    """Whether the family knows every one of these means."""
    return bool(valid_rows(pair, at).all())


def variances(pair: Pair, at: Means) -> Floats:
    """V(mu)."""
    if pair.is_binary:
        return at.mu * at.complement
    found: Floats = at.mu ** POWER_OF_VARIANCE[pair.family]
    return found


def residuals(pair: Pair, y: Floats, at: Means) -> Floats:
    """y - mu; of binomial without losing digits near 1."""
    if pair.is_binary:
        return np.where(y > 0, at.complement, -at.mu)
    return y - at.mu


def unit_deviances(pair: Pair, y: Floats, at: Means) -> Floats:
    """d(y, mu): twice what the log-likelihood of a row is below that of mu = y.

    gaussian (y - mu)^2; binomial -2 log mu or -2 log(1 - mu); poisson 2 (y log(y / mu) -
    (y - mu)); gamma 2 (-log(y / mu) + (y - mu) / mu); inverse_gaussian (y - mu)^2 / (mu^2
    y).
    """
    mu = at.mu
    match pair.family:
        case "gaussian":
            squares: Floats = (y - mu) ** 2
            return squares
        case "binomial":
            return -2 * np.log(np.where(y > 0, mu, at.complement))
        case "poisson":
            return 2 * (_y_log(y, mu) - (y - mu))
        case "gamma":
            return 2 * ((y - mu) / mu - np.log(y / mu))
    found: Floats = (y - mu) ** 2 / (mu * mu * y)
    return found


def _y_log(y: Floats, mu: Floats) -> Floats:
    """y log(y / mu), 0 where y is."""
    ratio = np.where(y > 0, y, mu) / mu
    found: Floats = y * np.log(ratio)
    return found


def pearson_residuals(pair: Pair, y: Floats, at: Means) -> Floats:
    """(y - mu) / sqrt(V): their squares are Pearson's chi2."""
    found: Floats = residuals(pair, y, at) / np.sqrt(variances(pair, at))
    return found


def label_problem(pair: Pair, y: Floats) -> tuple[Bools, str]:
    """Which labels (n,) the family does not know, and what it asks of them."""
    match pair.family:
        case "binomial":
            return (y != 0) & (y != 1), "0 or 1"
        case "poisson":
            return (y < 0) | (y != np.floor(y)), "a whole number of 0 or more"
        case "gamma" | "inverse_gaussian":
            return y <= 0, "above 0"
    return np.zeros(len(y), dtype=bool), "a number"


def start_means(pair: Pair, y: Floats, row_weights: Floats | float = 1.0) -> Means:
    """What the first equations are made at, from the labels alone.

    y, that of gaussian .1 at least where the link has no mean of 0 (such a label comes
    divided by its joint mean); binomial (m y + 1/2) / (m + 1) with weights m; poisson y
    + .1.
    """
    mu = y
    if pair.is_binary:
        mu = (row_weights * y + 0.5) / (row_weights + 1)
    elif pair.family == "poisson":
        mu = y + 0.1
    elif pair.family == "gaussian" and not pair.is_least_squares:
        mu = np.maximum(y, 0.1)
    _, _, slope = means(pair, predictor_of(pair, mu))
    return Means(mu, 1 - mu, slope)


class NullTerms(NamedTuple):
    """What rows add to the deviance of one mean for all: each (n,), or their sums with
    the rows' weights.
    """

    weight: Any  # m
    label: Any  # m y; of gaussian m (y - center)
    # gaussian m (y - center)^2; poisson m y log y; gamma m log y; inverse_gaussian m / y
    spread: Any


def null_terms(pair: Pair, y: Floats, m: Floats, *, center: float) -> NullTerms:
    """center: anything near the mean, so that nothing cancels."""
    match pair.family:
        case "gaussian":
            return NullTerms(m, m * (y - center), m * (y - center) ** 2)
        case "poisson":
            return NullTerms(m, m * y, m * _y_log(y, np.ones(len(y))))
        case "gamma":
            return NullTerms(m, m * y, m * np.log(y))
        case "inverse_gaussian":
            return NullTerms(m, m * y, m / y)
    return NullTerms(m, m * y, np.zeros(len(y)))


def null_deviance(pair: Pair, sums: NullTerms) -> float:
    """sum m d(y, mu) at mu = sum m y / sum m, from sums of `null_terms`."""
    weight, label, spread = sums
    mean = float(label / weight)
    match pair.family:
        case "gaussian":
            return float(spread - label * mean)
        case "poisson":
            if mean == 0:
                return 0.0
            return 2 * float(spread - label * math.log(mean))
        case "gamma":
            return 2 * float(weight * math.log(mean) - spread)
        case "inverse_gaussian":
            return float(spread - weight / mean)
    found = 0.0
    for part in (label, weight - label):
        if part > 0:
            found += 2 * part * math.log(weight / part)
    return found


def row_remainders(pair: Pair, y: Floats, m: Floats, *, are_counts: bool) -> Floats:
    """What the log-likelihood has of a row besides its deviance: see `log_likelihood`.

    poisson m (y log y - y - log y!); gamma and inverse_gaussian m log y; gaussian with
    weights that are no counts of rows log(m) / 2; else 0.
    """
    match pair.family:
        case "poisson":
            from scipy import special

            of_own_mean = special.xlogy(y, y) - y - special.gammaln(y + 1)
            found: Floats = m * of_own_mean
            return found
        case "gamma" | "inverse_gaussian":
            return m * np.log(y)
    if pair.family == "gaussian" and not are_counts:
        has_weight = m > 0
        return np.where(has_weight, np.log(np.where(has_weight, m, 1.0)) / 2, 0.0)
    return np.zeros(len(y))


def log_likelihood(
    pair: Pair, *, deviance: float, remainder: float, n: float
) -> float | None:
    """As R's logLik, from the deviance and the sum of `row_remainders`.

    n: the sum of the weights, of gaussian with weights that are no counts how many rows
    have one. The dispersion is D / n: of gaussian and inverse_gaussian its maximum
    likelihood, of gamma what R takes. None where the rows leave no residuals.
    """
    if not pair.has_dispersion:
        return remainder - deviance / 2
    if deviance <= 0:
        return None
    dispersion = deviance / n
    if pair.family == "gamma":
        shape = 1 / dispersion
        of_means = shape * (-deviance / 2 - n + n * math.log(shape))
        return of_means - remainder - n * math.lgamma(shape)
    of_spread = -n / 2 * (math.log(2 * math.pi * dispersion) + 1)
    if pair.family == "gaussian":
        return of_spread + remainder
    return of_spread - 1.5 * remainder
