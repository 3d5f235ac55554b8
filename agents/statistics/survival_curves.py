"""Survival curves from the joint counts of a question by group, event and interval.

The mathematics is `analytics/statistics/kaplan_meier.py`. Every cell is needed: where one
is withheld the order is refused before a sum is opened, as a test is
(`agents.statistics.tested.check_groups`).

Decision 90.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agents.gate.withheld_groups import Label
from agents.statistics.answer import Answer
from agents.statistics.labels import EVENT
from agents.statistics.results import Cell
from analytics.statistics import kaplan_meier
from analytics.statistics.kaplan_meier import Interval, Point
from protocol.statistics_request import CURVE, StatisticsRequest

OF_LIFE_TABLES = (
    "At times marked life_table people were last seen between the events of an interval: the curve lies between"
    " lower_bound and upper_bound. Finer bins leave less between them."
)


def curves_answer(
    request: StatisticsRequest,
    labels: Sequence[Label],
    by_group: Sequence[Sequence[int]],
) -> Answer:
    """A row for each group and time, and behind them the group's median and restricted
    mean. labels: group, if there is one, event, and bin.
    """
    assert request.bins is not None
    edges = request.bins
    counts = _counts_of_bins(
        labels,
        by_group,
        n_bins=len(edges) + 1,
    )
    rows: list[list[Cell]] = []
    notes = []
    # NULL is a group as any other, and None cannot be compared with a text.
    for group in sorted(counts, key=str):
        of_group = counts[group]
        points = kaplan_meier.curve(edges, of_group.events, of_group.censored)
        for point in points:
            row_cells = _cells(point)
            rows.append([*group, *row_cells])
        median = kaplan_meier.median(points)
        row_cells = _summary("median", median)
        rows.append([*group, *row_cells])
        mean = kaplan_meier.restricted_mean(points)
        row_cells = _summary("restricted_mean", mean)
        rows.append([*group, *row_cells])
        last_point = points[-1]
        if last_point.kind == kaplan_meier.LIFE_TABLE:
            notes = [OF_LIFE_TABLES]
    columns = [*request.label_columns, *request.value_columns]
    return Answer(columns, rows, notes=notes)


@dataclass(frozen=True)
class _Counts:
    """How many people of a group have left in each bin."""

    events: list[int]
    censored: list[int]


def _counts_of_bins(
    labels: Sequence[Label],
    by_group: Sequence[Sequence[int]],
    *,
    n_bins: int,
) -> dict[Label, _Counts]:
    counts: dict[Label, _Counts] = {}
    for label, (n_rows,) in zip(labels, by_group, strict=True):
        *group, event, bin_label = label
        group_label = tuple(group)
        if group_label not in counts:
            counts[group_label] = _Counts(
                events=[0] * n_bins,
                censored=[0] * n_bins,
            )
        of_group = counts[group_label]
        bin_place = int(bin_label or 0)
        if event == EVENT:
            of_group.events[bin_place] = n_rows
        else:
            of_group.censored[bin_place] = n_rows
    return counts


def _cells(point: Point) -> list[Cell]:
    point_values = point._asdict()
    return [point_values[column] for column in CURVE]


def _summary(kind: str, interval: Interval) -> list[Cell]:
    """Between which numbers it lies; the columns of points are empty."""
    summary_values = {
        "kind": kind,
        "low": interval.low,
        "high": interval.high,
    }
    return [summary_values.get(column) for column in CURVE]
