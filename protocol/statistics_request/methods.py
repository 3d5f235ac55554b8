"""The methods of joint statistics: which there are, which fields mean something for them,
and the columns of their results.
"""

from __future__ import annotations

from typing import Literal, get_args

Pooled = Literal[
    "sum",
    "avg",
    "var",
    "std",
    "count",
    "min",
    "max",
    "median",
    "quantile",
    "histogram",
    "cov",
    "corr",
    "frequency",
    "crosstab",
    "describe",
    "ttest",
    "paired_ttest",
    "anova",
    "chi2",
    "trend",
    "correlation_test",
    "logrank",
    "kaplan_meier",
    "mann_whitney",
    "kruskal",
]
POOLED: tuple[str, ...] = get_args(Pooled)
"""Over the rows of all providers, one below the other (formulas.md 5.1)."""

Joined = Literal["custom", "is_investor_accredited"]
JOINED: tuple[str, ...] = get_args(Joined)
"""Over the rows of the same person at several providers (formulas.md 5.2)."""

Method = Literal[Pooled, Joined]
RANKED = ("min", "max", "median", "quantile")
"""Found by rounds of counts below pivots."""

SUMS_OF_DESCRIBE = 2
"""Before its quartiles are searched: one of numbers' moments, and one of counts."""

QUARTILES = (0.25, 0.5, 0.75)
"""The quantiles that describe tells where `quartiles` asks for them."""

TALLIED = ("histogram", "frequency", "crosstab")
"""Whose groups are values or bins, and whose values are how many rows each has."""

TEST_COUNTED_AS = {
    "ttest": "var",
    "paired_ttest": "var",
    "anova": "var",
    "chi2": "crosstab",
    "trend": "crosstab",
    "correlation_test": "corr",
    "logrank": "count",
    "kaplan_meier": "histogram",
    "mann_whitney": "crosstab",
    "kruskal": "crosstab",
}
"""A test is computed by the receivers from what another method opens, and is judged as
that one (decision 85).
"""

OF_RANKS = ("mann_whitney", "kruskal")
"""Tests of a table of values by groups, whose ranks are those of the values."""

OF_TWO_COLUMNS = ("crosstab", "chi2", "trend", "correlation_test", *OF_RANKS)
OF_COLUMNS = ("cov", "corr", "describe", *OF_TWO_COLUMNS)

MOST_TEST_GROUPS = 20
"""Of logrank."""

THRESHOLD = "3000000"
"""Of is_investor_accredited, unless a request gives one."""

DIGITS = (18, 6)
"""Of a column of doubles in an expression, unless a request gives others: in all, and
after the point.
"""

# What a result is made of

MATRIX_ROW = "column"
"""The column of a matrix, and of describe's result, that names a column of the data."""

CURVE = (
    "kind",
    "time",
    "survival",
    "se",
    "low",
    "high",
    "lower_bound",
    "upper_bound",
    "at_risk",
    "events",
    "censored",
)
"""The columns of survival curves."""

QUANTITY = "quantity"
"""The column of a test's result, and of describe's, that says what each value is."""

OVER, LEVEL = "over", "level"
"""The columns of describe's result that say whether a value is of all rows, of a group or
of two groups, and of which level of a category.
"""

WITHHELD = "withheld"
"""The column of a pooled result that says which rule withholds a row."""

# Which fields a method takes

NOT_BY_GROUPS = (
    "frequency",
    "crosstab",
    "paired_ttest",
    "chi2",
    "trend",
    "correlation_test",
    *OF_RANKS,
)
BY_GROUPS = tuple(method for method in POOLED if method not in NOT_BY_GROUPS)
"""The pooled methods that can be asked for each group."""

MEANT_FOR = {
    "expression": ("custom",),
    "threshold": ("is_investor_accredited",),
    "comparison": ("is_investor_accredited",),
    "quantile": ("quantile",),
    "bins": ("histogram", "kaplan_meier"),
    "histograms": ("describe",),
    "quartiles": ("describe",),
    "ddof": ("var", "std", "cov"),
    "columns": OF_COLUMNS,
    "group_by": BY_GROUPS,
    "event_name": ("logrank", "kaplan_meier"),
    "equal_var": ("ttest", "anova"),
    "correction": ("chi2",),
    "weights": ("logrank",),
    "p": ("logrank",),
    "q": ("logrank",),
    "key_normalisation": JOINED,
}
"""Fields that mean something for these methods only; a field is never ignored."""

NEEDED_BY = {
    "expression": ("custom",),
    "quantile": ("quantile",),
    "bins": ("histogram", "kaplan_meier"),
    "columns": OF_COLUMNS,
    "group_by": ("ttest", "anova", "logrank"),
    "event_name": ("logrank", "kaplan_meier"),
}
"""Fields without which these methods cannot be computed."""
