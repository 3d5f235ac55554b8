"""The numbers that a study's pictures draw, a frame for each picture: `.to_csv()` keeps
them beside it.

Each is a part of the frame that the picture was given, with every digit as it was; a
picture adds only what no hospital has said: the corners of a ROC curve, and the start of
a survival curve at 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from protocol.errors import BadRequest

RATIOS = ("odds_ratio", "risk_ratio", "rate_ratio", "hazard_ratio", "ratio_of_means")
"""What a report calls exp of an estimate, where it has one."""

CURVE = (
    "kind",
    "time",
    "survival",
    "low",
    "high",
    "lower_bound",
    "upper_bound",
    "at_risk",
)
"""What is drawn of a survival curve, behind the columns that name its group."""


def forest_numbers(
    report: pd.DataFrame,
    terms: Sequence[str] | None = None,
) -> pd.DataFrame:
    """value, low and high of each term that is drawn; `attrs["of"]` is which of the
    report's columns they are.

    >>> report = pd.DataFrame({"term": ["(Intercept)", "age"], "estimate": [1.0, 0.0], "low": [0.0, -1.0],
    ...     "high": [2.0, 1.0], "odds_ratio": [2.7, 1.0], "odds_ratio_low": [1.0, 0.5], "odds_ratio_high": [7.4, 2.0]})
    >>> forest_numbers(report.set_index("term")).loc["age"].tolist()
    [1.0, 0.5, 2.0]
    """
    ratios = [ratio for ratio in RATIOS if ratio in report]
    if ratios:
        drawn_column = ratios[0]
        low_column = f"{drawn_column}_low"
        high_column = f"{drawn_column}_high"
    else:
        drawn_column = "estimate"
        low_column = "low"
        high_column = "high"
    estimates = pd.DataFrame(
        {
            "value": report[drawn_column],
            "low": report[low_column],
            "high": report[high_column],
        }
    )
    if terms is None:
        estimates = estimates.drop(index="(Intercept)", errors="ignore")
    else:
        estimates = estimates.loc[list(terms)]
    # An offset, or a penalised model's term, has no interval.
    estimates = estimates.dropna().astype(float)
    estimates.attrs["of"] = drawn_column
    return estimates


def roc_numbers(points: pd.DataFrame) -> pd.DataFrame:
    """specificity and sensitivity of each point of the curve, in its order.

    >>> points = pd.DataFrame({"score": [0.7], "sensitivity": [0.4], "specificity": [0.95]})
    >>> roc_numbers(points).values.tolist()
    [[0.95, 0.4]]
    """
    columns = ["specificity", "sensitivity"]
    return points[columns].copy()


def calibration_numbers(ranges: pd.DataFrame) -> pd.DataFrame:
    """n, and the mean of predicted and of observed, of each range of scores."""
    columns = ["n", "predicted", "observed"]
    return ranges[columns].copy()


def kaplan_meier_numbers(curves: pd.DataFrame) -> pd.DataFrame:
    """The points of each group's curve by time, with interval, bounds and who is at
    risk; the columns that name a group come first.

    BadRequest (code no_table) where the frame has no points of a curve.
    """
    points = pd.DataFrame()
    if "kind" in curves:
        is_point = curves["kind"].isin(["exact", "life_table"])
        points = curves[is_point]
    if points.empty:
        raise BadRequest(
            "The frame has no points of a curve.",
            remedy="Give the frame of a question kaplan_meier.",
            code="no_table",
        )
    names = group_names(points)
    order = [*names, "time"]
    ordered = points.sort_values(order, kind="stable")
    columns = [*names, *CURVE]
    return ordered[columns].reset_index(drop=True)


def group_names(points: pd.DataFrame) -> list[str]:
    """The columns that name the group of a curve."""
    columns = list(points.columns)
    n_names = columns.index("kind")
    return columns[:n_names]


def risk_table(groups: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """How many are at risk: a line for each group, a column for each time."""
    group_lines = {}
    for group_name, rows in groups.items():
        by_time = rows.set_index("time")
        group_lines[group_name] = by_time["at_risk"]
    table = pd.DataFrame(group_lines).T
    # A group that is not followed so long has no number at that time.
    return table.astype("Int64")


def histogram_numbers(
    counts: pd.DataFrame,
    value: str | None = None,
) -> pd.DataFrame:
    """The edges of each bar and its count, behind the columns that name its group.
    Withheld bars are missing, and so are the outermost bins, which have one edge.

    value: the column of counts, else the one behind the edges.

    >>> counts = pd.DataFrame({"lower": [None, 20.0], "upper": [20.0, 40.0], "age": [3, 12]})
    >>> histogram_numbers(counts).values.tolist()
    [[20.0, 40.0, 12.0]]
    """
    columns = list(counts.columns)
    n_names = columns.index("lower")
    if not value:
        upper_place = columns.index("upper")
        value = columns[upper_place + 1]
    bar = ["lower", "upper", value]
    bars = counts[[*columns[:n_names], *bar]]
    known_bars = bars.dropna(subset=bar)
    return known_bars.reset_index(drop=True)
