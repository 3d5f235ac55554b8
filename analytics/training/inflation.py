"""By how much each term's variance is inflated because terms depend on each other.

Of a term of one coefficient it is the variance inflation factor, 1 / (1 - R^2) for a
linear model; of a category or a spline its generalisation (Fox and Monette 1992,
"Generalized collinearity diagnostics"), as R's car::vif prints them.

Decision 84.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analytics.arrays import Floats


def generalised_inflation(
    covariance: Floats, places_of: Mapping[str, Sequence[int]]
) -> list[dict[str, Any]]:
    """For each term its factor, float, and how many coefficients it has.

        GVIF = det(R_own) det(R_others) / det(R)    scaled = GVIF^(1 / (2 df))

    covariance: of the coefficients without the intercept's, (d, d), positive definite; R
    its correlations, which in a model without one are of columns about 0. places_of: by
    term where its coefficients stand. Of one term alone there is nothing that inflates:
    empty.

    Disclosure: of the covariance, which the report has.
    """
    if len(places_of) < 2:
        return []
    deviations = np.sqrt(np.diag(covariance))
    correlations = covariance / np.outer(deviations, deviations)
    of_all = _log_determinant(correlations)
    term_factors = []
    for term, own in places_of.items():
        others = [place for place in range(len(correlations)) if place not in own]
        of_own = _log_determinant(correlations[np.ix_(own, own)])
        of_others = _log_determinant(correlations[np.ix_(others, others)])
        logarithm = of_own + of_others - of_all
        term_factor = {
            "term": term,
            "df": len(own),
            "gvif": float(np.exp(logarithm)),
            "scaled": float(np.exp(logarithm / (2 * len(own)))),
        }
        term_factors.append(term_factor)
    return term_factors


def _log_determinant(matrix: Floats) -> float:
    # The determinant of many columns that go together underflows; its logarithm
    # does not.
    _, logarithm = np.linalg.slogdet(matrix)
    return float(logarithm)
