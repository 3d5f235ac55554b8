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
from analytics.training import families
from analytics.training.families import Pair

INTERCEPT = "(Intercept)"
HAZARD_RATIO = "hazard_ratio"
RATIOS = ("odds_ratio", "risk_ratio", "rate_ratio", "ratio_of_means", HAZARD_RATIO)
"""What exp of an estimate is called, by what a model is of: see `ratio_name`; the last one
is of cox.
"""
EVENTS_PER_COEFFICIENT = 10
_INFERRED = ("se", "statistic", "p", "low", "high")


class Units(NamedTuple):
    """In which units the equations were solved: (x - mean) / deviation, and by what the
    label's own change the linear predictor.
    """

    mean: Floats  # (d,)
    deviation: Floats  # (d,)
    shift: float
    factor: float


def own_units(coef: Floats, covariance: Floats, units: Units) -> tuple[Floats, Floats]:
    """Weights (d + 1,), the intercept last, and their covariance in the columns' units.

        b_j = s g_j / s_j    b_0 = m + s (g_0 - sum_j g_j m_j / s_j)    T C T'

    s, m: factor and shift; of linear deviation and mean of the label.
    """
    d = len(units.mean)
    T = np.zeros((d + 1, d + 1))
    for place in range(d):
        share = units.factor / units.deviation[place]
        T[place, place] = share
        T[d, place] = -share * units.mean[place]
    T[d, d] = units.factor
    own = T @ coef
    own[d] += units.shift
    return own, T @ covariance @ T.T


class Fit(NamedTuple):
    """How well a model fits, over all rows of all hospitals, in the label's units."""

    n: int
    n_likelihood: float  # as `families.log_likelihood` asks for it
    deviance: float
    null_deviance: float | None
    n_events: int | None  # the rarer class of binomial; else None
    pearson: float  # Pearson's chi2
    remainder: float  # the sum of `families.row_remainders`


def report(
    pair: Pair,
    names: Sequence[str],
    coef: Floats,
    covariance: Floats,
    fit: Fit,
    *,
    confidence: float,
    is_penalised: bool,
    estimates_dispersion: bool,
) -> dict[str, Any]:
    """The report as it is kept: `terms`, the intercept first, and numbers of the fit.

    covariance: (d + 1, d + 1) of an unscaled dispersion, that is the inverse of A. Where
    the dispersion is estimated, by Pearson's chi2 over n - p, tests are t's with n - p
    degrees of freedom; else it is 1, and they are z's. A penalty leaves no standard
    errors, nor do rows without residuals: null. Of a family without a dispersion whose
    dispersion is estimated (quasi) there is no likelihood. Source: McCullagh and Nelder
    1989; AIC as R counts it. Disclosure: of all hospitals' rows together.
    """
    p = len(coef)
    df = fit.n - p
    dispersion = 1.0
    if estimates_dispersion:
        dispersion = fit.pearson / df if df > 0 else math.nan
    # None: the normal distribution.
    df_of_tests = df if estimates_dispersion else None
    terms = _terms(
        pair,
        names,
        coef,
        dispersion * np.diag(covariance),
        None if is_penalised or df < 1 else confidence,
        df=df_of_tests,
    )
    log_likelihood = None
    if pair.has_dispersion or not estimates_dispersion:
        log_likelihood = families.log_likelihood(
            pair, deviance=fit.deviance, remainder=fit.remainder, n=fit.n_likelihood
        )
    n_estimated = p + (1 if pair.has_dispersion else 0)
    return {
        "terms": terms,
        "n": fit.n,
        "family": pair.family,
        "link": pair.link,
        "statistic": "t" if estimates_dispersion else "z",
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


def _terms(
    pair: Pair,
    names: Sequence[str],
    coef: Floats,
    variances: Floats,
    confidence: float | None,
    *,
    df: int | None,
) -> list[dict[str, Any]]:
    """The intercept first; confidence: None without standard errors (a penalty, or no
    degree of freedom); df: of t tests, None for z tests.
    """
    quantile = _quantile(0.5 + (confidence or 0) / 2, df)
    ratio = ratio_name(pair)
    last = len(coef) - 1
    terms = []
    for place in [last, *range(last)]:
        name = INTERCEPT if place == last else names[place]
        term: dict[str, Any] = {"term": name, "estimate": float(coef[place])}
        error = math.sqrt(variances[place])
        # Rows that lie on one line leave no error, which is no statistic.
        if confidence is None or error == 0:
            term.update(dict.fromkeys(_INFERRED))
        else:
            term.update(_inference(float(coef[place]), error, quantile, df))
        if ratio is not None and name != INTERCEPT:
            term[ratio] = _exp(term["estimate"])
            term[f"{ratio}_low"] = _exp(term["low"])
            term[f"{ratio}_high"] = _exp(term["high"])
        terms.append(term)
    return terms


def ratio_name(pair: Pair) -> str | None:
    """What exp of an estimate is; None where it is nothing."""
    if pair.link == "logit":
        return "odds_ratio"
    if pair.link != "log":
        return None
    return {"binomial": "risk_ratio", "poisson": "rate_ratio"}.get(
        pair.family, "ratio_of_means"
    )


def _quantile(share: float, df: int | None) -> float:
    from scipy import special

    if df is None:
        return float(special.ndtri(share))
    return float(special.stdtrit(df, share)) if df > 0 else math.nan


def _inference(
    estimate: float, error: float, quantile: float, df: int | None
) -> dict[str, float]:
    # Not above: it takes long to import, and a simulation starts without.
    from scipy import special

    statistic = estimate / error
    if df is None:
        p_value = 2 * float(special.ndtr(-abs(statistic)))
    else:
        p_value = 2 * float(special.stdtr(df, -abs(statistic)))
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
