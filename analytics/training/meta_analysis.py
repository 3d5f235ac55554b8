"""Meta-analysis of estimates that each hospital has made of its own rows.

Of k hospitals' estimates b of one coefficient with standard errors s, w = 1 / s^2:

    fixed effect   sum w b / sum w                          its variance 1 / sum w
    Q              sum w b^2 - (sum w b)^2 / sum w          I^2 = max(0, (Q - (k - 1)) / Q)
    tau^2          max(0, (Q - (k - 1)) / (sum w - sum w^2 / sum w))
    random effect  sum w* b / sum w*   with w* = 1 / (1 / w + tau^2)

tau^2 is DerSimonian and Laird's (1986, Controlled Clinical Trials 7). The random effect's
standard error is Knapp and Hartung's (2003, Statistics in Medicine 22), the root of

    sum w* (b - random effect)^2 / ((k - 1) sum w*)

with k - 1 degrees of freedom; the prediction interval is that of Higgins, Thompson and
Spiegelhalter (2009, Journal of the Royal Statistical Society A 172): k - 2 degrees of
freedom, variance tau^2 + 1 / sum w*. All of it follows from two messages of sums.

Pure. Decision 106.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analytics.arrays import Floats

N_FIRST = 4
N_SECOND = 3
"""Sums of each coefficient in the two messages."""


class NoEstimates(ValueError):
    """These sums are not those of estimates."""


def first_sums(estimates: Floats, errors: Floats) -> Floats:
    """One hospital's w, w b, w b^2 and w^2 of each coefficient, (4 p,), kind by kind.

    estimates, errors: float64 (p,). Disclosure: a hospital's own estimates follow from
    them; they leave sealed, so that nothing but the sum over hospitals can be read.
    """
    w = 1 / np.square(errors)
    kinds = [
        w,
        w * estimates,
        w * np.square(estimates),
        np.square(w),
    ]
    return np.concatenate(kinds)


def second_sums(
    estimates: Floats,
    errors: Floats,
    tau2: Floats,
) -> Floats:
    """Its w*, w* b and w* b^2, (3 p,); tau2: (p,). Disclosure: as `first_sums`."""
    variances = np.square(errors) + tau2
    w = 1 / variances
    kinds = [
        w,
        w * estimates,
        w * np.square(estimates),
    ]
    return np.concatenate(kinds)


@dataclass(frozen=True, eq=False)
class Fixed:
    """What the first message tells, float64 (p,) each."""

    effect: Floats
    variance: Floats
    q: Floats
    tau2: Floats
    n_hospitals: int

    @property
    def i2(self) -> Floats:
        df = self.n_hospitals - 1
        excess = np.maximum(self.q - df, 0.0)
        has_spread = self.q > 0
        divisors = np.where(has_spread, self.q, 1.0)
        return np.where(has_spread, excess / divisors, 0.0)


def fixed_effect(sums: Floats, n_hospitals: int) -> Fixed:
    """sums: `first_sums`, added over hospitals. Raises NoEstimates.

    >>> sums = first_sums(np.array([1.0]), np.array([0.5]))
    >>> sums = sums + first_sums(np.array([3.0]), np.array([0.5]))
    >>> found = fixed_effect(sums, 2)
    >>> float(found.effect[0]), float(found.q[0]), float(found.tau2[0])
    (2.0, 8.0, 1.75)
    """
    w, wb, wbb, ww = sums.reshape(N_FIRST, -1)
    if not (w > 0).all():
        raise NoEstimates("weights are above 0")
    effect = wb / w
    # Of equal estimates rounding alone is left, which may be below 0.
    q = np.maximum(wbb - wb * effect, 0.0)
    df = n_hospitals - 1
    # By how much more estimates differ than their errors say, 0 at least.
    excess = np.maximum(q - df, 0.0)
    spread = w - ww / w
    has_spread = spread > 0
    # np.where makes both of its sides, that of a division by 0 too.
    divisors = np.where(has_spread, spread, 1.0)
    return Fixed(
        effect=effect,
        variance=1 / w,
        q=q,
        tau2=np.where(has_spread, excess / divisors, 0.0),
        n_hospitals=n_hospitals,
    )


@dataclass(frozen=True, eq=False)
class Random:
    """What both messages tell, float64 (p,) each."""

    effect: Floats
    # DerSimonian and Laird's, 1 / sum w*, and Knapp and Hartung's.
    variance: Floats
    adjusted: Floats


def random_effect(sums: Floats, n_hospitals: int) -> Random:
    """sums: `second_sums`, added over hospitals. Raises NoEstimates."""
    w, wb, wbb = sums.reshape(N_SECOND, -1)
    if not (w > 0).all():
        raise NoEstimates("weights are above 0")
    effect = wb / w
    spread = np.maximum(wbb - wb * effect, 0.0)
    df = n_hospitals - 1
    return Random(
        effect=effect,
        variance=1 / w,
        adjusted=spread / (df * w),
    )


def terms(
    names: Sequence[str],
    fixed: Fixed,
    random: Random,
    units: Floats,
    *,
    confidence: float,
) -> list[dict[str, Any]]:
    """By coefficient the random effect, as estimates of a report are named, and the
    rest.

    units: (p,), by what estimates were multiplied before they were added.
    """
    # Not above: it takes long to import, and a simulation starts without.
    from scipy import special

    k = fixed.n_hospitals
    share = 0.5 + confidence / 2
    of_mean = float(special.stdtrit(k - 1, share))
    of_next = float(special.stdtrit(k - 2, share))
    of_fixed = float(special.ndtri(share))
    report_terms = []
    for term_place, term_name in enumerate(names):
        unit = float(units[term_place])
        estimate = float(random.effect[term_place]) / unit
        error = math.sqrt(random.adjusted[term_place]) / unit
        half = of_mean * error
        tau2 = float(fixed.tau2[term_place]) / unit**2
        of_effect = float(random.variance[term_place]) / unit**2
        reach = of_next * math.sqrt(tau2 + of_effect)
        fixed_estimate = float(fixed.effect[term_place]) / unit
        fixed_error = math.sqrt(fixed.variance[term_place]) / unit
        fixed_half = of_fixed * fixed_error
        statistic = None
        p = None
        if error > 0:
            statistic = estimate / error
            tail = special.stdtr(k - 1, -abs(statistic))
            p = 2 * float(tail)
        q = float(fixed.q[term_place])
        q_p = special.chdtrc(k - 1, q)
        term = {
            "term": term_name,
            "estimate": estimate,
            "se": error,
            "statistic": statistic,
            "p": p,
            "low": estimate - half,
            "high": estimate + half,
            "prediction_low": estimate - reach,
            "prediction_high": estimate + reach,
            "tau2": tau2,
            "q": q,
            "q_p": float(q_p),
            "i2": float(fixed.i2[term_place]),
            "fixed": fixed_estimate,
            "fixed_se": fixed_error,
            "fixed_low": fixed_estimate - fixed_half,
            "fixed_high": fixed_estimate + fixed_half,
        }
        report_terms.append(term)
    return report_terms
