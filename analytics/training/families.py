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
from typing import Any, NamedTuple

import numpy as np

from analytics.arrays import Bools, Floats
from analytics.training import links
from analytics.training.links import Means
from analytics.training.pairs import (
    LEAST_SQUARES,
    POWER_OF_VARIANCE,
    Pair,
)

# Links


def means(pair: Pair, predictors: Floats) -> Means:
    """mu = g^-1(eta), 1 - mu and d mu / d eta.

    eta is held where exp would leave float64; where mu is then none of the family
    `is_valid` says so.
    """
    find = links.INVERSES[pair.link]
    eta = np.asarray(predictors, dtype=np.float64)
    with np.errstate(all="ignore"):
        return find(eta)


def predictor_of(pair: Pair, mu: Floats) -> Floats:
    """eta = g(mu)."""
    return links.predictor_of(pair.link, mu)


# Families


def valid_rows(pair: Pair, row_means: Means) -> Bools:
    """Which of these means the family knows, (n,)."""
    has_mean = np.isfinite(row_means.mu)
    has_slope = np.isfinite(row_means.slope)
    is_known: Bools = has_mean & has_slope
    if pair.family != "gaussian":
        is_known &= row_means.mu > 0
    if pair.is_binary:
        is_known &= row_means.complement > 0
    return is_known


def is_valid(pair: Pair, row_means: Means) -> bool:
    """Whether the family knows every one of these means."""
    is_known = valid_rows(pair, row_means)
    return bool(is_known.all())


def variances(pair: Pair, row_means: Means) -> Floats:
    """V(mu)."""
    if pair.is_binary:
        return row_means.mu * row_means.complement
    if pair.has_theta:
        growth = 1 + row_means.mu / pair.theta
        of_theta: Floats = row_means.mu * growth
        return of_theta
    power = POWER_OF_VARIANCE[pair.family]
    variance: Floats = row_means.mu**power
    return variance


def residuals(
    pair: Pair,
    y: Floats,
    row_means: Means,
) -> Floats:
    """y - mu; of binomial without losing digits near 1."""
    if pair.is_binary:
        return np.where(y > 0, row_means.complement, -row_means.mu)
    return y - row_means.mu


def unit_deviances(
    pair: Pair,
    y: Floats,
    row_means: Means,
) -> Floats:
    """d(y, mu): twice what the log-likelihood of a row is below that of mu = y.

    gaussian (y - mu)^2; binomial -2 log mu or -2 log(1 - mu); poisson 2 (y log(y / mu) -
    (y - mu)); gamma 2 (-log(y / mu) + (y - mu) / mu); inverse_gaussian (y - mu)^2 / (mu^2
    y); negative_binomial 2 (y log(y / mu) - (y + theta) log((y + theta) / (mu + theta))).
    """
    mu = row_means.mu
    match pair.family:
        case "gaussian":
            squares: Floats = (y - mu) ** 2
            return squares
        case "binomial":
            probability = np.where(y > 0, mu, row_means.complement)
            return -2 * np.log(probability)
        case "poisson":
            of_label = _y_log(y, mu)
            return 2 * (of_label - (y - mu))
        case "negative_binomial":
            of_label = _y_log(y, mu)
            of_theta = _theta_log(pair.theta, y, mu)
            return 2 * (of_label - of_theta)
        case "gamma":
            distance = (y - mu) / mu
            return 2 * (distance - np.log(y / mu))
    scale = mu * mu * y
    scaled_squares: Floats = (y - mu) ** 2 / scale
    return scaled_squares


def _y_log(y: Floats, mu: Floats) -> Floats:
    """y log(y / mu), 0 where y is."""
    # The logarithm of 1 where y is 0: 0 times that of 0 is NaN.
    ratio = np.where(y > 0, y, mu) / mu
    products: Floats = y * np.log(ratio)
    return products


def _y_log_y(y: Floats) -> Floats:
    ones = np.ones(len(y))
    return _y_log(y, ones)


def _theta_log(
    theta: float,
    y: Floats,
    mu: Floats | float,
) -> Floats:
    """(y + theta) log((y + theta) / (mu + theta)); where theta is infinite y - mu."""
    if math.isinf(theta):
        differences: Floats = y - mu
        return differences
    # By log1p: with a large theta the quotient of the two is nearly 1, and its
    # logarithm would have no digits left.
    distance = (y - mu) / (mu + theta)
    of_theta: Floats = (y + theta) * np.log1p(distance)
    return of_theta


def pearson_residuals(
    pair: Pair,
    y: Floats,
    row_means: Means,
) -> Floats:
    """(y - mu) / sqrt(V): their squares are Pearson's chi2."""
    deviations = np.sqrt(variances(pair, row_means))
    pearson: Floats = residuals(pair, y, row_means) / deviations
    return pearson


def label_problem(
    pair: Pair,
    y: Floats,
) -> tuple[Bools, str]:
    """Which labels (n,) the family does not know, and what it asks of them."""
    match pair.family:
        case "binomial":
            is_unknown = (y != 0) & (y != 1)
            return is_unknown, "0 or 1"
        case "poisson" | "negative_binomial":
            is_broken = y != np.floor(y)
            is_unknown = (y < 0) | is_broken
            return is_unknown, "a whole number of 0 or more"
        case "gamma" | "inverse_gaussian":
            return y <= 0, "above 0"
    no_row = np.zeros(len(y), dtype=bool)
    return no_row, "a number"


def start_means(
    pair: Pair,
    y: Floats,
    row_weights: Floats | float = 1.0,
) -> Means:
    """What the first equations are made at, from the labels alone.

    y, that of gaussian .1 at least where the link has no mean of 0 (such a label comes
    divided by its joint mean); binomial (m y + 1/2) / (m + 1) with weights m; poisson y
    + .1, negative_binomial 1/6 where y is 0.
    """
    mu = y
    if pair.is_binary:
        mu = (row_weights * y + 0.5) / (row_weights + 1)
    elif pair.family == "poisson":
        mu = y + 0.1
    elif pair.has_theta:
        is_zero = y == 0
        mu = y + is_zero / 6
    elif pair.family == "gaussian" and not pair.is_least_squares:
        mu = np.maximum(y, 0.1)
    eta = predictor_of(pair, mu)
    row_means = means(pair, eta)
    return Means(
        mu=mu,
        complement=1 - mu,
        slope=row_means.slope,
    )


class NullTerms(NamedTuple):
    """What rows add to the deviance of one mean for all: each (n,), or their sums with
    the rows' weights.
    """

    weight: Any  # m
    label: Any  # m y; of gaussian m (y - center)
    # gaussian m (y - center)^2; negative_binomial m (y log y - (y + theta) log((y +
    # theta) / (1 + theta))); poisson m y log y; gamma m log y; inverse_gaussian m / y
    spread: Any


def is_null_with_offset(pair: Pair) -> bool:
    """Whether the model of an intercept and an offset has a formula, and so needs no rounds
    of its own.
    """
    if pair == LEAST_SQUARES:
        return True
    return pair.link == "log" and pair.family in ("poisson", "gamma")


def null_terms(
    pair: Pair,
    y: Floats,
    m: Floats,
    *,
    center: float,
    offset: Floats | None = None,
) -> NullTerms:
    """center: anything near the mean, so that nothing cancels. With an offset, where
    `is_null_with_offset`, the one mean is exp(b) of mu / exp(offset), or b of mu - offset.
    """
    if offset is not None:
        if pair == LEAST_SQUARES:
            y = y - offset
        if pair == Pair("gamma", "log"):
            y = y * np.exp(-offset)
        if pair == Pair("poisson", "log"):
            of_label = _y_log_y(y)
            return NullTerms(
                weight=m * np.exp(offset),
                label=m * y,
                spread=m * (of_label - y * offset),
            )
    if pair.family == "gaussian":
        return NullTerms(
            weight=m,
            label=m * (y - center),
            spread=m * (y - center) ** 2,
        )
    spread = _null_spread(pair, y, m)
    return NullTerms(
        weight=m,
        label=m * y,
        spread=spread,
    )


def _null_spread(
    pair: Pair,
    y: Floats,
    m: Floats,
) -> Floats:
    """`NullTerms.spread` of all families but gaussian."""
    match pair.family:
        case "poisson":
            return m * _y_log_y(y)
        case "negative_binomial":
            of_theta = _theta_log(pair.theta, y, 1.0)
            of_label = _y_log_y(y)
            return m * (of_label - of_theta)
        case "gamma":
            return m * np.log(y)
        case "inverse_gaussian":
            return m / y
    return np.zeros(len(y))


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
            of_mean = label * math.log(mean)
            return 2 * float(spread - of_mean)
        case "negative_binomial":
            if mean == 0:
                return 0.0
            # From a mean of 1 to the mean.
            if math.isinf(pair.theta):
                moved = weight * (mean - 1)
            else:
                ratio = (mean - 1) / (1 + pair.theta)
                amount = label + weight * pair.theta
                moved = amount * math.log1p(ratio)
            of_mean = label * math.log(mean)
            return 2 * float(spread - of_mean + moved)
        case "gamma":
            of_mean = weight * math.log(mean)
            return 2 * float(of_mean - spread)
        case "inverse_gaussian":
            return float(spread - weight / mean)
    deviance = 0.0
    for class_weight in (label, weight - label):
        # Labels that are all the same leave 0 log 0, which is 0.
        if class_weight > 0:
            surprise = math.log(weight / class_weight)
            deviance += 2 * class_weight * surprise
    return deviance


def zero_deviance(
    pair: Pair,
    sums: NullTerms,
    *,
    center: float,
) -> float | None:
    """sum m d(y, mu) at mu = g^-1(0), which is the null model where there is no intercept,
    from sums of `null_terms` with the same center; with an offset at mu = g^-1(offset).

    None where the family does not know that mean, as 0 of poisson with identity.
    """
    mean_at_zero = means(pair, np.zeros(1))
    if not is_valid(pair, mean_at_zero):
        return None
    weight, label, spread = sums
    mu = float(mean_at_zero.mu[0])
    match pair.family:
        case "gaussian":
            shift = mu - center
            product = 2 * shift * label
            square = shift * shift * weight
            return float(spread - product + square)
        case "binomial":
            complement = float(mean_at_zero.complement[0])
            n_zeros = weight - label
            of_zeros = n_zeros * math.log(complement)
            of_ones = label * math.log(mu)
            return -2 * float(of_ones + of_zeros)
        case "poisson":
            of_mean = label * math.log(mu)
            return 2 * float(spread - of_mean - label + weight * mu)
        case "negative_binomial":
            # Its one link is log, and 1 where the terms are taken.
            return 2 * float(spread)
        case "gamma":
            of_mean = weight * (math.log(mu) - 1)
            return 2 * float(of_mean - spread + label / mu)
    of_labels = label / (mu * mu)
    of_weights = 2 * weight / mu
    return float(of_labels - of_weights + spread)


def row_remainders(
    pair: Pair,
    y: Floats,
    m: Floats,
    *,
    are_counts: bool,
) -> Floats:
    """What the log-likelihood has of a row besides its deviance: see `log_likelihood`.

    poisson m (y log y - y - log y!); negative_binomial the log of its probability at mu =
    y; gamma and inverse_gaussian m log y; gaussian with
    weights that are no counts of rows log(m) / 2; else 0.
    """
    match pair.family:
        case "negative_binomial" if math.isfinite(pair.theta):
            return m * _log_probability_at_mean(y, pair.theta)
        case "poisson" | "negative_binomial":
            from scipy import special

            of_factorial = special.gammaln(y + 1)
            of_own_mean = special.xlogy(y, y) - y - of_factorial
            remainders: Floats = m * of_own_mean
            return remainders
        case "gamma" | "inverse_gaussian":
            return m * np.log(y)
    if pair.family == "gaussian" and not are_counts:
        has_weight = m > 0
        weights = np.where(has_weight, m, 1.0)
        return np.where(has_weight, np.log(weights) / 2, 0.0)
    return np.zeros(len(y))


def _log_probability_at_mean(y: Floats, theta: float) -> Floats:
    """log of Gamma(y + theta) / (Gamma(theta) y!) (theta / (y + theta))^theta (y / (y + theta))^y."""
    from scipy import special

    # log of the binomial coefficient by a beta function, which does not cancel.
    ways = -np.log(theta + y) - special.betaln(theta, y + 1)
    log_probability: Floats = np.asarray(
        ways
        - special.xlog1py(theta, y / theta)
        + special.xlogy(y, y)
        - special.xlogy(y, y + theta),
        dtype=np.float64,
    )
    return log_probability


def log_likelihood(
    pair: Pair,
    *,
    deviance: float,
    remainder: float,
    n: float,
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
        of_shape = n * math.log(shape)
        of_means = shape * (-deviance / 2 - n + of_shape)
        return of_means - remainder - n * math.lgamma(shape)
    of_dispersion = math.log(2 * math.pi * dispersion)
    of_spread = -n / 2 * (of_dispersion + 1)
    if pair.family == "gaussian":
        return of_spread + remainder
    return of_spread - 1.5 * remainder
