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
from analytics.training.pairs import Pair
from analytics.training.sandwich import FEW_CLUSTERS

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

    s, m: factor and shift; of linear deviation and mean of the label. Without an intercept
    weights are (d,), and neither columns nor predictors have been moved.
    """
    d = len(units.mean)
    if len(coef) == d:
        shares = units.factor / units.deviation
        return shares * coef, covariance * np.outer(shares, shares)
    T = np.zeros((d + 1, d + 1))
    for column_place in range(d):
        share = units.factor / units.deviation[column_place]
        T[column_place, column_place] = share
        T[d, column_place] = -share * units.mean[column_place]
    T[d, d] = units.factor
    own_coef = T @ coef
    own_coef[d] += units.shift
    return own_coef, T @ covariance @ T.T


class Fit(NamedTuple):
    """How well a model fits, over all rows of all hospitals, in the label's units."""

    n: int
    n_likelihood: float  # as `families.log_likelihood` asks for it
    deviance: float
    null_deviance: float | None
    n_events: int | None  # the rarer class of binomial; else None
    pearson: float  # Pearson's chi2
    remainder: float  # the sum of `families.row_remainders`


class RobustErrors(NamedTuple):
    """Of a report whose standard errors do not rest on the model's variance."""

    kind: str  # HC0, HC1 or cluster
    covariance: Floats  # (p, p), the dispersion within
    n_clusters: int | None

    @property
    def df(self) -> int | None:
        """Of t tests by the clusters; None without."""
        return None if self.n_clusters is None else self.n_clusters - 1


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
    robust: RobustErrors | None = None,
    theta_se: float | None = None,
    has_intercept: bool = True,
) -> dict[str, Any]:
    """The report as it is kept: `terms`, the intercept first, and numbers of the fit.

    coef: (p,), the intercept last, where there is one; covariance: (p, p) of an unscaled
    dispersion, that is the inverse of A. Where the dispersion is estimated, by Pearson's
    chi2 over n - p, tests are t's with n - p degrees of freedom; else it is 1, and they are
    z's. A penalty leaves no standard errors, nor do rows without residuals: null. Of a
    family without a dispersion whose dispersion is estimated (quasi) there is no
    likelihood. With `robust` the errors are those, and with clusters tests are t's with
    one degree less than clusters. Source: McCullagh and Nelder 1989; AIC as R counts it.

    Disclosure: of all hospitals' rows together.
    """
    p = len(coef)
    df = fit.n - p
    dispersion = _pearson_dispersion(fit, df) if estimates_dispersion else 1.0
    # None: the normal distribution.
    df_of_tests = df if estimates_dispersion else None
    variances = dispersion * np.diag(covariance)
    if robust is not None:
        variances = np.diag(robust.covariance)
        df_of_tests = df_of_tests if robust.df is None else robust.df
    has_errors = not is_penalised and df > 0 and np.isfinite(variances).all()
    terms = _terms(
        pair,
        names,
        coef,
        variances,
        confidence if has_errors else None,
        df=df_of_tests,
        has_intercept=has_intercept,
    )
    log_likelihood = _log_likelihood(pair, fit, estimates_dispersion)
    # Of a penalised model neither counts its parameters.
    aic = None if is_penalised else _aic(pair, log_likelihood, p)
    n_features = p - 1 if has_intercept else p
    return {
        "terms": terms,
        "n": fit.n,
        "family": pair.family,
        "link": pair.link,
        **_of_errors(pair, robust, theta_se),
        "statistic": "z" if df_of_tests is None else "t",
        "df_residual": df,
        "confidence": confidence,
        "dispersion": dispersion if math.isfinite(dispersion) else None,
        "deviance": fit.deviance,
        "null_deviance": fit.null_deviance,
        "log_likelihood": log_likelihood,
        "aic": aic,
        "notes": _notes(
            n_features,
            fit,
            is_penalised=is_penalised,
            is_saturated=df <= 0,
            robust=robust,
        ),
    }


def _pearson_dispersion(fit: Fit, df: int) -> float:
    """Pearson's chi2 over the residual degrees of freedom; NaN where there are none."""
    return fit.pearson / df if df > 0 else math.nan


def _log_likelihood(pair: Pair, fit: Fit, estimates_dispersion: bool) -> float | None:
    """None of a quasi family, whose estimated dispersion belongs to no distribution."""
    if estimates_dispersion and not pair.has_dispersion:
        return None
    return families.log_likelihood(
        pair, deviance=fit.deviance, remainder=fit.remainder, n=fit.n_likelihood
    )


def _aic(pair: Pair, log_likelihood: float | None, n_coefficients: int) -> float | None:
    """A dispersion and theta are counted as coefficients are; None without a likelihood."""
    if log_likelihood is None:
        return None
    n_estimated = n_coefficients + (1 if pair.has_dispersion or pair.has_theta else 0)
    return 2 * (n_estimated - log_likelihood)


def _of_errors(
    pair: Pair, robust: RobustErrors | None, theta_se: float | None
) -> dict[str, Any]:
    """Of which kind the standard errors are, and theta with its own."""
    error_fields: dict[str, Any] = {}
    if robust is not None:
        error_fields["standard_errors"] = robust.kind
    if robust is not None and robust.n_clusters is not None:
        error_fields["clusters"] = robust.n_clusters
        error_fields["df_tests"] = robust.df
    if pair.has_theta:
        error_fields["theta"] = pair.theta
        error_fields["theta_se"] = theta_se
    return error_fields


def _terms(
    pair: Pair,
    names: Sequence[str],
    coef: Floats,
    variances: Floats,
    confidence: float | None,
    *,
    df: int | None,
    has_intercept: bool,
) -> list[dict[str, Any]]:
    """The intercept first; confidence: None without standard errors (a penalty, or no
    degree of freedom); df: of t tests, None for z tests.
    """
    quantile = _quantile(0.5 + (confidence or 0) / 2, df)
    ratio = ratio_name(pair)
    term_places = list(range(len(coef)))
    if has_intercept:
        names = [*names, INTERCEPT]
        term_places = [term_places[-1], *term_places[:-1]]
    terms = []
    for term_place in term_places:
        term_name = names[term_place]
        term: dict[str, Any] = {"term": term_name, "estimate": float(coef[term_place])}
        # Rows that lie on one line leave no error, which is no statistic.
        error = math.sqrt(max(0.0, variances[term_place])) if confidence else 0.0
        if error == 0:
            term.update(dict.fromkeys(_INFERRED))
        else:
            term.update(_inference(term["estimate"], error, quantile, df))
        if ratio is not None and term_name != INTERCEPT:
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
    return {
        "binomial": "risk_ratio",
        "poisson": "rate_ratio",
        "negative_binomial": "rate_ratio",
    }.get(pair.family, "ratio_of_means")


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
    # exp of 710 is beyond the doubles.
    if value is None or value > 700:
        return None
    return math.exp(value)


def not_converged(*, has_firth: bool) -> str:
    """What a report says whose rounds were too few; has_firth: whether there is that penalty
    of its model.
    """
    penalty = "firth or L2" if has_firth else "L2"
    return (
        "Training has not converged by max_iter: these are no estimates yet, and their intervals and tests mean"
        " nothing. Order a larger max_iter; where that does not help, an attribute separates the outcomes of some"
        f" rows: order penalty {penalty}, or leave it out."
    )


def _notes(
    n_slopes: int,
    fit: Fit,
    *,
    is_penalised: bool,
    is_saturated: bool,
    robust: RobustErrors | None,
) -> list[str]:
    notes = []
    if is_saturated:
        notes.append(
            "The model has as many coefficients as rows, so nothing is left to tell standard errors by: order fewer"
            " attributes."
        )
    n_clusters = None if robust is None else robust.n_clusters
    if n_clusters is not None and n_clusters < FEW_CLUSTERS:
        notes.append(
            f"There are fewer than {FEW_CLUSTERS} clusters: their standard errors are too small as a rule."
        )
    if is_penalised:
        notes.append(
            "A penalty pulls estimates towards 0, so they have no standard errors: order penalty null."
        )
    if fit.n_events is not None and fit.n_events < EVENTS_PER_COEFFICIENT * n_slopes:
        notes.append(
            f"There are fewer than {EVENTS_PER_COEFFICIENT} rows of the rarer class for each coefficient: estimates may"
            " be too large, and intervals too narrow."
        )
    return notes
