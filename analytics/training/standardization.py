"""Columns brought to mean 0 and deviation 1 over the rows of all hospitals, in two joint rounds.

First the joint mean (the row-weighted mean of the hospitals' means), then the joint variance about it. Two rounds
rather than sums of x and x^2 in one: mean(x^2) - mean(x)^2 loses every digit once the mean is 1e8 deviations away
(Chan, Golub and LeVeque 1983), and the squares of unscaled columns need a far larger range in fixed point.
An error d in the joint mean changes the variance by d^2 only. The sums travel as wide integers (decision 25).
"""

from __future__ import annotations

import numpy as np

from analytics.arrays import Floats, check_finite, check_result

# Float64 cannot tell a smaller deviation from the rounding of a constant column's mean.
_CONSTANT = 1e-14


def local_mean(X: Floats) -> Floats:
    """The mean of each column of X (n, d), float64 (d,); a constant column's is exact.

    Raises ValueError for no rows, another shape, or numbers that are not finite or too large.

    Disclosure: sums over the hospital's rows. They leave through the release door only, sealed into the joint sum.
    """
    _check_table(X)
    # About the first row: exact for constants, and no digits are lost to an offset.
    with np.errstate(over="ignore", invalid="ignore"):
        mean: Floats = X[0] + np.mean(X - X[0], axis=0)
    check_result("The mean", mean)
    return mean


def local_variance(X: Floats, mean: Floats) -> Floats:
    """The mean of (x - mean)^2 of each column of X (n, d) about the joint mean (d,), float64 (d,).

    The row-weighted mean of these over the hospitals is the population variance of all rows. Raises ValueError as
    `local_mean` does, and if mean has another length.

    Disclosure: as `local_mean`.
    """
    _check_table(X)
    _check_columns(X, mean)
    with np.errstate(over="ignore"):
        variance: Floats = np.mean((X - mean) ** 2, axis=0)
    check_result("The variance", variance)
    return variance


def deviation(variance: Floats, *, mean: Floats | None = None) -> Floats:
    """The square root of the joint variance (d,), float64 (d,); 1 where a column is constant.

    Constant means variance 0 or, given the mean, a root of at most 1e-14 |mean|, which is rounding. Elementwise sqrt
    and comparisons only: the same bits at every hospital. Raises ValueError for a negative variance.

    >>> deviation(np.array([4.0, 0.0]))
    array([2., 1.])
    """
    check_finite("variance", variance)
    if (variance < 0).any():
        raise ValueError("variance holds a negative value.")
    root: Floats = np.sqrt(variance)
    noise = np.zeros_like(root)
    if mean is not None:
        noise = _CONSTANT * np.abs(mean)
    return np.where(root <= noise, 1.0, root)


def standardize(X: Floats, mean: Floats, deviation: Floats) -> Floats:
    """(X - mean) / deviation, columnwise, float64 (n, d); X is left as it is.

    Raises ValueError for other shapes, a deviation that is not above 0, and numbers that are not finite.
    """
    _check_table(X)
    _check_columns(X, mean)
    _check_columns(X, deviation)
    if not (deviation > 0).all():
        raise ValueError("deviation holds a value that is not above 0.")
    with np.errstate(over="ignore"):
        scaled = (X - mean) / deviation
    check_result("The standardised columns", scaled)
    return scaled


def _check_table(X: Floats) -> None:
    if X.ndim != 2 or len(X) < 1:
        raise ValueError(f"X has the shape {X.shape}; one or more rows of (n_rows, n_features) are expected.")
    check_finite("X", X)


def _check_columns(X: Floats, values: Floats) -> None:
    if values.shape != (X.shape[1],):
        raise ValueError(f"mean and deviation need one value for each of {X.shape[1]} columns.")
    check_finite("mean or deviation", values)
