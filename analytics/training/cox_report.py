"""What a Cox order tells of its model: hazard ratios with standard errors, tests and
intervals (Wald), concordance, and the test of proportional hazards.

Decision 89.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from analytics.arrays import Floats
from analytics.training import Ties, TimeScale
from analytics.training.concordance import Pairs
from analytics.training.newton_report import EVENTS_PER_COEFFICIENT, HAZARD_RATIO
from analytics.training.proportional_hazards import Tested

_INFERRED = ("se", "statistic", "p", "low", "high")
# exp of 710 is beyond the doubles.
_LARGEST_EXPONENT = 700.0


class Survival(NamedTuple):
    """How a model fits, over all rows of all hospitals."""

    n: int
    n_events: int
    log_likelihood: float  # partial
    null_log_likelihood: float
    pairs: Pairs
    # None where a penalty has moved the estimate, at which it is no test.
    tested: Tested | None
    scale: TimeScale
    ties: Ties


def report(
    names: Sequence[str],
    coef: Floats,
    covariance: Floats,
    fit: Survival,
    *,
    confidence: float,
    is_penalised: bool,
) -> dict[str, Any]:
    """The report as it is kept: `terms`, and numbers of the fit.

    coef (p,), covariance (p, p), the inverse of the information, in the columns' own
    units. Tests are z's; a penalty leaves no standard errors: null. AIC is 2 p - 2 l.
    Source: Therneau and Grambsch 2000; R's coxph. Disclosure: of all hospitals' rows
    together.
    """
    from scipy import special

    quantile = float(special.ndtri(0.5 + confidence / 2))
    terms = []
    for term_place, term_name in enumerate(names):
        estimate = float(coef[term_place])
        term: dict[str, Any] = {"term": term_name, "estimate": estimate}
        error = math.sqrt(covariance[term_place, term_place])
        if is_penalised:
            term.update(dict.fromkeys(_INFERRED))
        else:
            z = estimate / error
            term["se"] = error
            term["statistic"] = z
            term["p"] = 2 * float(special.ndtr(-abs(z)))
            term["low"] = estimate - quantile * error
            term["high"] = estimate + quantile * error
        term[HAZARD_RATIO] = partial_hazard(estimate)
        term[f"{HAZARD_RATIO}_low"] = partial_hazard(term["low"])
        term[f"{HAZARD_RATIO}_high"] = partial_hazard(term["high"])
        terms.append(term)
    p = len(coef)
    model_report = {
        "terms": terms,
        "n": fit.n,
        "events": fit.n_events,
        "ties": fit.ties,
        "baseline": "hospital",
        "statistic": "z",
        "confidence": confidence,
        "log_likelihood": fit.log_likelihood,
        "null_log_likelihood": fit.null_log_likelihood,
        "likelihood_ratio": None,
        "aic": None,
        "concordance": _concordance(fit.pairs),
        "proportional_hazards": None,
        "notes": _notes(p, fit, is_penalised=is_penalised),
    }
    if not is_penalised:
        ratio = 2 * (fit.log_likelihood - fit.null_log_likelihood)
        model_report["likelihood_ratio"] = _chi2(ratio, p)
        model_report["aic"] = 2 * (p - fit.log_likelihood)
    if fit.tested is not None:
        model_report["proportional_hazards"] = _tests(names, fit.tested, fit.scale)
    return model_report


def partial_hazard(predictor: float | None) -> float | None:
    """exp, None where no double holds it."""
    if predictor is None or predictor > _LARGEST_EXPONENT:
        return None
    return math.exp(predictor)


def own_units(
    coef: Floats, covariance: Floats, deviation: Floats
) -> tuple[Floats, Floats]:
    """Both of columns that were divided by `deviation` (p,), in the columns' units."""
    return coef / deviation, covariance / np.outer(deviation, deviation)


def _concordance(pairs: Pairs) -> dict[str, Any]:
    return {
        "within": "hospital",
        "index": pairs.concordance,
        "agreeing": pairs.agreeing,
        "disagreeing": pairs.disagreeing,
        "tied": pairs.tied,
    }


def _tests(names: Sequence[str], tested: Tested, scale: TimeScale) -> dict[str, Any]:
    terms = []
    for term_name, chi2 in zip(names, tested.columns, strict=True):
        terms.append({"term": term_name, **_chi2(chi2, 1)})
    return {"time": scale, "terms": terms, "joint": _chi2(tested.joint, len(names))}


def _chi2(value: float | None, df: int) -> dict[str, Any]:
    # Not above: it takes long to import, and a simulation starts without.
    from scipy import special

    # Of a model that explains nothing rounding may leave a ratio just below 0.
    p = None if value is None else float(special.chdtrc(df, max(value, 0.0)))
    return {"chi2": value, "df": df, "p": p}


def _notes(p: int, fit: Survival, *, is_penalised: bool) -> list[str]:
    notes = []
    if is_penalised:
        notes.append(
            "A penalty pulls estimates towards 0, so they have no standard errors: order penalty null."
        )
    if fit.n_events < EVENTS_PER_COEFFICIENT * p:
        notes.append(
            f"There are fewer than {EVENTS_PER_COEFFICIENT} events for each coefficient: estimates may be too large,"
            " and intervals too narrow."
        )
    return notes
