"""Pictures and tables of a study as a paper has them, of the frames that this client
gives; matplotlib is imported by the first picture.

Each takes a frame and gives matplotlib's axes; `.figure.savefig("forest.svg")` keeps
it. The numbers that it draws are the frame's own, and a function of the same name gives
them: `forest_numbers(report).to_csv("forest.csv")` keeps them beside the picture.

    forest            `Order.report()`
    roc, calibration  `Order.roc()`, `Order.calibration()`
    kaplan_meier      the frame of a question `kaplan_meier`
    histogram         the frame of a question `histogram`
    first_table       the frame of a question `describe`, as a table to print
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from api.client.study_numbers import (
    RATIOS,
    calibration_numbers,
    forest_numbers,
    group_names,
    histogram_numbers,
    kaplan_meier_numbers,
    risk_table,
    roc_numbers,
)
from api.client.study_tables import FirstTable, first_table, first_table_numbers
from protocol.errors import Unavailable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "RATIOS",
    "FirstTable",
    "calibration",
    "calibration_numbers",
    "first_table",
    "first_table_numbers",
    "forest",
    "forest_numbers",
    "histogram",
    "histogram_numbers",
    "kaplan_meier",
    "kaplan_meier_numbers",
    "risk_table",
    "roc",
    "roc_numbers",
]

MOST_TIMES = 8
FIRST_LINE_POINTS = 40.0  # below tick labels and the axis's own label
LINE_POINTS = 12.0


def forest(
    report: pd.DataFrame,
    axes: Axes | None = None,
    *,
    terms: Sequence[str] | None = None,
    title: str = "",
) -> Axes:
    """Estimates with intervals, a line for each term but the intercept; ratios on a
    logarithmic axis where the model has them.

    terms: these only, in this order.
    """
    estimates = forest_numbers(report, terms)
    is_ratio = estimates.attrs["of"] != "estimate"
    if axes is None:
        axes = _axes(height=1.5 + 0.35 * len(estimates))
    term_places = range(len(estimates))
    below = estimates["value"] - estimates["low"]
    above = estimates["high"] - estimates["value"]
    axes.errorbar(
        estimates["value"],
        term_places,
        xerr=[below, above],
        fmt="s",
        color="C0",
        capsize=3,
    )
    no_effect = 1.0 if is_ratio else 0.0
    axes.axvline(no_effect, color="grey", linewidth=1)
    if is_ratio:
        axes.set_xscale("log")
        _tick_ratios(axes, estimates)
    axes.set_yticks(list(term_places), list(estimates.index))
    # Upside down, so that the first term stands at the top.
    axes.set_ylim(len(estimates) - 0.5, -0.5)
    quantity = str(estimates.attrs["of"])
    label = quantity.replace("_", " ")
    axes.set(xlabel=label, title=title)
    return axes


def _tick_ratios(axes: Axes, ratios: pd.DataFrame) -> None:
    """Ticks that are read as ratios, 1.5 and not a power of ten."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    highest = ratios["high"].max()
    lowest = ratios["low"].min()
    is_within_a_decade = highest < 10 * lowest
    if is_within_a_decade:
        linear = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10])
        axes.xaxis.set_major_locator(linear)
    else:
        logarithmic = LogLocator(subs=(1.0, 2.0, 5.0))
        axes.xaxis.set_major_locator(logarithmic)
    axes.xaxis.set_major_formatter(lambda ratio, _: f"{ratio:g}")
    axes.xaxis.set_minor_locator(NullLocator())


def roc(
    points: pd.DataFrame,
    axes: Axes | None = None,
    *,
    title: str = "",
) -> Axes:
    """Sensitivity by 1 - specificity. Between two points are several rows, as the
    policies ask: the line between them is drawn straight.
    """
    if axes is None:
        axes = _axes(width=4.5, height=4.5)
    numbers = roc_numbers(points)
    false_alarms = [0.0, *(1 - numbers["specificity"]), 1.0]
    sensitivity = [0.0, *numbers["sensitivity"], 1.0]
    axes.plot(false_alarms, sensitivity, marker=".")
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", title=title)
    _draw_diagonal(axes)
    return axes


def calibration(
    ranges: pd.DataFrame,
    axes: Axes | None = None,
    *,
    title: str = "",
) -> Axes:
    """The share of events by the mean predicted probability of each range of scores; a
    point's area is by its rows.
    """
    if axes is None:
        axes = _axes(width=4.5, height=4.5)
    numbers = calibration_numbers(ranges)
    n_rows = numbers["n"]
    areas = 200 * n_rows / n_rows.max()
    axes.scatter(
        numbers["predicted"],
        numbers["observed"],
        s=areas,
        alpha=0.7,
    )
    axes.set(xlabel="predicted", ylabel="observed", title=title)
    _draw_diagonal(axes)
    return axes


def _draw_diagonal(axes: Axes) -> None:
    """Where both axes are the same number: chance, or perfect calibration."""
    axes.plot(
        [0, 1],
        [0, 1],
        color="grey",
        linewidth=1,
        linestyle=":",
    )
    axes.set_aspect("equal")


def kaplan_meier(
    curves: pd.DataFrame,
    axes: Axes | None = None,
    *,
    title: str = "",
) -> Axes:
    """A step for each group with its interval, and below the number at risk at each
    time. Where a curve is a life table, its bounds are drawn as well.
    """
    groups = _groups(kaplan_meier_numbers(curves))
    if axes is None:
        axes = _axes(height=4.0 + 0.3 * len(groups))
    for number, (group_name, rows) in enumerate(groups.items()):
        _draw_curve(axes, group_name, rows, color=f"C{number}")
    axes.set(ylim=(0, 1.02), xlabel="time", ylabel="survival", title=title)
    if len(groups) > 1:
        axes.legend()
    _draw_at_risk(axes, groups)
    return axes


def _draw_curve(axes: Axes, name: str, rows: pd.DataFrame, *, color: str) -> None:
    """A group's step, its interval and, where it has them, its bounds."""
    times = [0.0, *rows["time"]]
    curve = rows["survival"]
    survival = [1.0, *curve]
    # A curve that has come to 0 has no interval.
    low = [1.0, *rows["low"].fillna(curve)]
    high = [1.0, *rows["high"].fillna(curve)]
    axes.step(times, survival, where="post", color=color, label=name, marker=".")
    axes.fill_between(times, low, high, step="post", color=color, alpha=0.15)
    # The last step has no width, and its interval would not be seen.
    axes.vlines(times[-1], low[-1], high[-1], color=color, alpha=0.4, linewidth=3)
    for bound in ("lower_bound", "upper_bound"):
        points = rows[bound]
        if points.notna().any():
            bounds = [1.0, *points.fillna(curve)]
            axes.step(times, bounds, where="post", color=color, linestyle=":")


def _draw_at_risk(
    axes: Axes,
    groups: dict[str, pd.DataFrame],
) -> None:
    """The numbers at risk below the picture, each below its time."""
    at_risk = risk_table(groups)
    times = [float(time) for time in at_risk.columns]
    # All are in the numbers; here as many as are read beside each other.
    step = math.ceil(len(times) / MOST_TIMES)
    shown_times = times[::step]
    axes.set_xticks(shown_times, [f"{time:g}" for time in shown_times])
    points_below = FIRST_LINE_POINTS
    _write_below(
        axes,
        0.0,
        points_below,
        "At risk",
        is_label=True,
    )
    for group_name, numbers in at_risk.iterrows():
        points_below += LINE_POINTS
        _write_below(
            axes,
            0.0,
            points_below,
            str(group_name),
            is_label=True,
        )
        for time in shown_times:
            number = numbers[time]
            number_text = "-" if pd.isna(number) else str(number)
            _write_below(
                axes,
                float(time),
                points_below,
                number_text,
            )


def _write_below(
    axes: Axes,
    place: float,
    points: float,
    text: str,
    *,
    is_label: bool = False,
) -> None:
    """A text so many points below the axis: at a time, or as a label left of them all."""
    if is_label:
        along = "axes fraction"
        shift = -12
        alignment = "right"
    else:
        along = "data"
        shift = 0
        alignment = "center"
    axes.annotate(
        text,
        (place, 0.0),
        xycoords=(along, "axes fraction"),
        xytext=(shift, -points),
        textcoords="offset points",
        ha=alignment,
        va="top",
        fontsize=8,
        annotation_clip=False,
    )


def _groups(points: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each group by its name; all under "all" where there are none."""
    names = group_names(points)
    groups = {}
    if not names:
        return {"all": points}
    # pandas would leave out the group whose label is missing.
    for labels, rows in points.groupby(names, dropna=False):
        group_labels = []
        for name, label in zip(names, labels, strict=True):
            group_labels.append(f"{name} {label}")
        groups[", ".join(group_labels)] = rows
    return groups


def histogram(
    counts: pd.DataFrame,
    axes: Axes | None = None,
    *,
    value: str | None = None,
    title: str = "",
) -> Axes:
    """Bars between the edges, for each group its own; withheld ones are missing.

    value: the column of counts, else the one behind the edges.
    """
    numbers = histogram_numbers(counts, value)
    *groups, _, _, value = numbers.columns
    if axes is None:
        axes = _axes()
    named_rows: list[tuple[str, pd.DataFrame]] = [("", numbers)]
    if groups:
        named_rows = []
        for labels, rows in numbers.groupby(groups, dropna=False):
            group_name = ", ".join(str(label) for label in labels)
            named_rows.append((group_name, rows))
    for number, (group_name, rows) in enumerate(named_rows):
        edges = [float(edge) for edge in rows["lower"]]
        upper = rows["upper"].astype(float)
        widths = [float(width) for width in upper - edges]
        heights = [float(height) for height in rows[value]]
        axes.bar(
            edges,
            heights,
            widths,
            align="edge",
            alpha=0.5,
            color=f"C{number}",
            label=group_name,
        )
    if groups:
        axes.legend(title=", ".join(groups))
    axes.set(ylabel="rows", title=title)
    return axes


def _axes(
    *,
    width: float = 6.4,
    height: float = 4.8,
) -> Axes:
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise Unavailable(
            "matplotlib is not installed, and pictures are drawn by it.",
            remedy="Install it, or keep the numbers: frame.to_csv(...).",
            code="no_matplotlib",
        ) from None
    _, axes = plt.subplots(figsize=(width, height), layout="constrained")
    return axes
