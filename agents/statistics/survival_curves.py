"""Survival curves from the joint counts of a question by group, event and interval.

The mathematics is `analytics/statistics/kaplan_meier.py`. Every cell is needed: where one
is withheld the order is refused before a sum is opened, as a test is
(`agents.statistics.tested.check_groups`).

Decision 90.
"""

from __future__ import annotations

from collections.abc import Sequence

from agents.gate.disclosure import Label
from agents.statistics.answer import Answer
from agents.statistics.log_rank import EVENT
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
    counts: dict[Label, list[list[int]]] = {}
    for label, (n_rows,) in zip(labels, by_group, strict=True):
        group, (event, bin_label) = label[:-2], label[-2:]
        n_bins = len(edges) + 1
        of_group = counts.setdefault(group, [[0] * n_bins, [0] * n_bins])
        is_event = event == EVENT
        of_group[int(is_event)][int(bin_label or 0)] = n_rows
    rows: list[list[Cell]] = []
    notes = []
    for group in sorted(counts, key=str):
        censored, events = counts[group]
        points = kaplan_meier.curve(edges, events, censored)
        rows += [[*group, *_cells(point)] for point in points]
        rows.append([*group, *_summary("median", kaplan_meier.median(points))])
        mean = kaplan_meier.restricted_mean(points)
        rows.append([*group, *_summary("restricted_mean", mean)])
        if points[-1].kind == kaplan_meier.LIFE_TABLE:
            notes = [OF_LIFE_TABLES]
    return Answer([*request.label_columns, *request.value_columns], rows, notes=notes)


def _cells(point: Point) -> list[Cell]:
    values = point._asdict()
    return [values[name] for name in CURVE]


def _summary(kind: str, interval: Interval) -> list[Cell]:
    """Between which numbers it lies; the columns of points are empty."""
    values = {"kind": kind, "low": interval.low, "high": interval.high}
    return [values.get(name) for name in CURVE]
