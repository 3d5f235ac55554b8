"""Standardised mean differences, which say how unlike two groups are before they are
compared.

Decision 88.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np

from analytics.arrays import Floats


def of_means(
    means: tuple[float, float],
    variances: tuple[float, float],
) -> float | None:
    """|m1 - m2| / sqrt((s1^2 + s2^2) / 2); None where neither group varies.

    Of sums that have been opened: the receivers compute it. Austin (2009), equation 1.

    >>> of_means((4.0, 2.0), (5.0, 3.0))
    1.0
    """
    first_mean, second_mean = means
    first_variance, second_variance = variances
    spread = (first_variance + second_variance) / 2
    # Not `<= 0`, which NaN would pass.
    if not spread > 0:
        return None
    difference = abs(first_mean - second_mean)
    return difference / sqrt(spread)


def of_shares(
    first: Sequence[float],
    second: Sequence[float],
) -> float | None:
    """Of a category: sqrt((p - q)' S^-1 (p - q)), with p and q the shares of all levels
    but the first in the two groups, and S the mean of their multinomial covariances,

        S_kk = (p_k (1 - p_k) + q_k (1 - q_k)) / 2,   S_kl = -(p_k p_l + q_k q_l) / 2.

    first, second: (n_levels,), each of sum 1, in one order; which level is first does not
    matter. Levels that neither group has are left out. None where S has no inverse: a
    group is of one level and the other of others alone, and the difference is without
    bound. Yang and Dalton (2012).

    Of counts that have been opened: the receivers compute it.

    >>> round(of_shares([0.5, 0.5], [0.25, 0.75]), 12) == round(0.25 / sqrt(7 / 32), 12)
    True
    """
    p = np.asarray(first, dtype=np.float64)
    q = np.asarray(second, dtype=np.float64)
    is_there = p + q > 0
    # The shares of all levels add up to 1, so that S of all of them has no inverse.
    p = p[is_there][1:]
    q = q[is_there][1:]
    if not p.size:
        return 0.0
    covariance = (_multinomial(p) + _multinomial(q)) / 2
    # By its rank: solve fails for an exact 0 alone, and rounding seldom leaves one.
    rank = np.linalg.matrix_rank(covariance)
    if rank < p.size:
        return None
    difference = p - q
    solved = np.linalg.solve(covariance, difference)
    squared = float(difference @ solved)
    # Rounding may leave a square of 0 just below it.
    return sqrt(max(squared, 0.0))


def _multinomial(p: Floats) -> Floats:
    covariance: Floats = np.diag(p) - np.outer(p, p)
    return covariance
