"""What a Newton order tells of its model: estimates with standard errors, tests and
intervals (Wald), and how well it fits.

Decision 84.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from analytics.arrays import Floats

INTERCEPT = "(Intercept)"
EVENTS_PER_COEFFICIENT = 10
_INFERRED = ("se", "statistic", "p", "low", "high")


class Units(NamedTuple):
    """In which units the equations were solved: (x - mean) / deviation, and so of y."""

    mean: Floats  # (d,)
    deviation: Floats  # (d,)
    label_mean: float
    label_deviation: float


def own_units(coef: Floats, covariance: Floats, units: Units) -> tuple[Floats, Floats]:
    """Weights (d + 1,), the intercept last, and their covariance in the columns' units.

        b_j = s g_j / s_j    b_0 = m + s (g_0 - sum_j g_j m_j / s_j)    T C T'

    s, m: deviation and mean of the label.
    """
    d = len(units.mean)
    T = np.zeros((d + 1, d + 1))
    for place in range(d):
        share = units.label_deviation / units.deviation[place]
        T[place, place] = share
        T[d, place] = -share * units.mean[place]
    T[d, d] = units.label_deviation
    own = T @ coef
    own[d] += units.label_mean
    return own, T @ covariance @ T.T


class Fit(NamedTuple):
    """How well a model fits, over all rows of all hospitals, in the label's units."""

    n: int
    deviance: float
    null_deviance: float
    n_events: int | None  # the rarer class of lr; None of linear


def report(
    kind: str,
    names: Sequence[str],
    coef: Floats,
    covariance: Floats,
    fit: Fit,
    *,
    confidence: float,
    is_penalised: bool,
) -> dict[str, Any]:
    """The report as it is kept: `terms`, the intercept first, and numbers of the fit.

    covariance: (d + 1, d + 1) of an unscaled dispersion, that is the inverse of A; the
    dispersion of linear is the residual sum of squares over n - p, its tests are t's
    with n - p degrees of freedom, those of lr are z's. A penalty leaves no standard
    errors, nor do rows without residuals: null. Source: McCullagh and Nelder 1989; AIC
    as R counts it. Disclosure: of all hospitals' rows together.
    """
    p = len(coef)
    df = fit.n - p
    dispersion = 1.0
    if kind == "linear":
        dispersion = fit.deviance / df if df > 0 else math.nan
    quantile = _quantile(kind, 0.5 + confidence / 2, df)
    terms = []
    places = [p - 1, *range(p - 1)]
    for place in places:
        name = INTERCEPT if place == p - 1 else names[place]
        term: dict[str, Any] = {"term": name, "estimate": float(coef[place])}
        error = math.sqrt(dispersion * covariance[place, place])
        # Rows that lie on one line leave no error, and no row leaves no degree of
        # freedom: neither is a statistic.
        if is_penalised or df < 1 or error == 0:
            term.update(dict.fromkeys(_INFERRED))
        else:
            term.update(_inference(kind, float(coef[place]), error, quantile, df))
        if kind == "lr" and name != INTERCEPT:
            term["odds_ratio"] = _exp(term["estimate"])
            term["odds_ratio_low"] = _exp(term["low"])
            term["odds_ratio_high"] = _exp(term["high"])
        terms.append(term)
    log_likelihood = _log_likelihood(kind, fit)
    n_estimated = p + (1 if kind == "linear" else 0)
    return {
        "terms": terms,
        "n": fit.n,
        "statistic": "t" if kind == "linear" else "z",
        "df_residual": df,
        "confidence": confidence,
        "dispersion": dispersion if math.isfinite(dispersion) else None,
        "deviance": fit.deviance,
        "null_deviance": fit.null_deviance,
        "log_likelihood": log_likelihood,
        # Of a penalised model neither counts its parameters.
        "aic": None
        if is_penalised or log_likelihood is None
        else 2 * (n_estimated - log_likelihood),
        "notes": _notes(p, fit, is_penalised=is_penalised),
    }


def _quantile(kind: str, share: float, df: int) -> float:
    from scipy import special

    if kind == "linear":
        return float(special.stdtrit(df, share)) if df > 0 else math.nan
    return float(special.ndtri(share))


def _inference(
    kind: str, estimate: float, error: float, quantile: float, df: int
) -> dict[str, float]:
    # Not above: it takes long to import, and a simulation starts without.
    from scipy import special

    statistic = estimate / error
    if kind == "linear":
        p_value = 2 * float(special.stdtr(df, -abs(statistic)))
    else:
        p_value = 2 * float(special.ndtr(-abs(statistic)))
    return {
        "se": error,
        "statistic": statistic,
        "p": p_value,
        "low": estimate - quantile * error,
        "high": estimate + quantile * error,
    }


def _exp(value: float | None) -> float | None:
    if value is None or value > 700:
        return None
    return math.exp(value)


def _log_likelihood(kind: str, fit: Fit) -> float | None:
    """-D / 2, or -n / 2 (log(2 pi D / n) + 1) with the residual sum of squares D."""
    if kind == "lr":
        return -fit.deviance / 2
    if fit.deviance <= 0:
        return None
    return -fit.n / 2 * (math.log(2 * math.pi * fit.deviance / fit.n) + 1)


def _notes(p: int, fit: Fit, *, is_penalised: bool) -> list[str]:
    found = []
    if is_penalised:
        found.append(
            "A penalty pulls estimates towards 0, so they have no standard errors: order penalty null."
        )
    n_slopes = p - 1
    if fit.n_events is not None and fit.n_events < EVENTS_PER_COEFFICIENT * n_slopes:
        found.append(
            f"There are fewer than {EVENTS_PER_COEFFICIENT} rows of the rarer class for each coefficient: estimates may"
            " be too large, and intervals too narrow."
        )
    return found
