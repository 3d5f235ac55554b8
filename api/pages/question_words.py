"""What each method of joint statistics is called by people who are no programmers; the
API's own name stands behind it.
"""

from __future__ import annotations

from api.pages.visit import Visit

METHODS = {
    "sum": "Sum",
    "avg": "Mean",
    "var": "Variance",
    "std": "Standard deviation",
    "count": "Number of rows",
    "min": "Smallest value",
    "max": "Largest value",
    "median": "Median",
    "quantile": "Quantiles",
    "histogram": "Histogram",
    "cov": "Covariances",
    "corr": "Correlations",
    "frequency": "How often each value occurs",
    "crosstab": "Cross table of two columns",
    "describe": "A paper's first table: n, mean, standard deviation, levels",
    "ttest": "t test of two groups",
    "paired_ttest": "Paired t test",
    "anova": "Analysis of variance",
    "chi2": "Chi-squared test of two columns",
    "trend": "Test for trend",
    "correlation_test": "Test of a correlation",
    "logrank": "Log-rank test",
    "kaplan_meier": "Survival curves (Kaplan-Meier)",
    "mann_whitney": "Mann-Whitney test",
    "kruskal": "Kruskal-Wallis test",
    "custom": "Expression over joined rows of the same person",
    "is_investor_accredited": "Whether joined rows of a person reach a threshold",
}


def method_name(visit: Visit, method: str) -> str:
    """The words with the API's name; the name alone of a method that has no words yet."""
    words = METHODS.get(method)
    return f"{visit.t(words)} ({method})" if words else method
