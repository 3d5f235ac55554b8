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
    means: tuple[float, float], variances: tuple[float, float]
) -> float | None:
    """|m1 - m2| / sqrt((s1^2 + s2^2) / 2); None where neither group varies.

    Of sums that have been opened: the receivers compute it. Austin (2009), equation 1.

    >>> of_means((4.0, 2.0), (5.0, 3.0))
    1.0
    """
    spread = (variances[0] + variances[1]) / 2
    if not spread > 0:
        return None
    return abs(means[0] - means[1]) / sqrt(spread)


def of_shares(first: Sequence[float], second: Sequence[float]) -> float | None:
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
    p, q = p[is_there][1:], q[is_there][1:]
    if not p.size:
        return 0.0
    covariance = (_multinomial(p) + _multinomial(q)) / 2
    if np.linalg.matrix_rank(covariance) < p.size:
        return None
    difference = p - q
    squared = difference @ np.linalg.solve(covariance, difference)
    return sqrt(max(float(squared), 0.0))


def _multinomial(p: Floats) -> Floats:
    covariance: Floats = np.diag(p) - np.outer(p, p)
    return covariance
