"""Curves and bars as pictures without a script: survival with its risk table, ROC,
calibration, histograms by group. Pure: numbers to places, the template draws.

The numbers are those of the file beside each picture, which can be downloaded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# In units of the drawing's box.
LEFT = 64
PLOT_WIDTH = 460
PLOT_HEIGHT = 300
TOP = 30
BELOW = 46
RISK_HEIGHT = 18
LEGEND_HEIGHT = 20
RIGHT = 24
MOST_GROUPS = 6
"""That have a shade and a dash of their own; an answer with more has its table alone."""

MOST_TIMES_AT_RISK = 8
MOST_NAME_LETTERS = 9
"""That fit beside numbers; above it names have lines of their own."""

MOST_BARS = 60
MOST_BIN_NAMES = 8

Place = tuple[float, float]

Row = Mapping[str, Any]
"""A line of a result, by the names of its columns."""

Report = Mapping[str, Any]


class Line(NamedTuple):
    """A polyline; `look` is a class of the style sheet."""

    points: str
    look: str


class Dot(NamedTuple):
    x: float
    y: float
    radius: float
    words: str


class Bar(NamedTuple):
    x: float
    y: float
    width: float
    height: float
    look: str
    words: str


class Tick(NamedTuple):
    at: float
    text: str


class AtRisk(NamedTuple):
    """A line of numbers below a curve, and its name beside or above it."""

    name: str
    name_y: float
    y: float
    numbers: list[Tick]


@dataclass
class Chart:
    """Places in units of the drawing's own box, width by height."""

    name: str  # of words.py
    x_name: str
    y_name: str
    x_ticks: list[Tick] = field(default_factory=list)
    y_ticks: list[Tick] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    dots: list[Dot] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    # By look the name of its group.
    legend: list[tuple[str, str]] = field(default_factory=list)
    at_risk: list[AtRisk] = field(default_factory=list)

    @property
    def width(self) -> int:
        return LEFT + PLOT_WIDTH + RIGHT

    @property
    def height(self) -> int:
        under = BELOW
        if self.at_risk:
            last_line = int(self.at_risk[-1].y)
            under = last_line - self.axis + RISK_HEIGHT
        legend = LEGEND_HEIGHT * len(self.legend)
        return self.axis + under + legend

    @property
    def axis(self) -> int:
        return TOP + PLOT_HEIGHT

    @property
    def right(self) -> int:
        return LEFT + PLOT_WIDTH

    @property
    def left(self) -> int:
        return LEFT

    @property
    def top(self) -> int:
        return TOP


class Scale(NamedTuple):
    """From the numbers of an axis to places along it."""

    last: float

    def x(self, value: float) -> float:
        place = LEFT + PLOT_WIDTH * value / self.last
        return round(place, 1)

    def y(self, value: float) -> float:
        from_top = 1 - value / self.last
        place = TOP + PLOT_HEIGHT * from_top
        return round(place, 1)


_SHARE = Scale(1.0)

_ORIGIN: Place = (0.0, 0.0)
_CORNER: Place = (1.0, 1.0)

_Along = Callable[[float], float]
"""From a number to its place along an axis."""

_SURVIVAL_LINES = {
    "survival": "curve",
    "low": "band",
    "high": "band",
}
"""By column how its line looks."""


# Of an evaluation


def roc(report: Report) -> Chart | None:
    """Sensitivity over 1 - specificity; None without a curve."""
    steps = report.get("roc") or []
    if not steps:
        return None
    chart = Chart("picture.roc", "1 - specificity", "sensitivity")
    _draw_share_axes(chart)
    curve_places = [_ORIGIN]
    for roc_step in steps:
        across = 1 - roc_step["specificity"]
        curve_places.append((across, roc_step["sensitivity"]))
    curve_places.append(_CORNER)
    chart.lines.append(_share_line(curve_places, "curve g0"))
    return chart


def calibration(report: Report) -> Chart | None:
    """The share of events over the mean score, a dot for each group of rows; None without
    a table of it.
    """
    groups = report.get("calibration") or []
    if not groups:
        return None
    if "observed" not in groups[0]:
        return None
    chart = Chart("picture.calibration", "predicted", "observed")
    _draw_share_axes(chart)
    dot_places = []
    for row_group in groups:
        predicted = row_group["predicted"]
        observed = row_group["observed"]
        dot_places.append((predicted, observed))
        n_rows = row_group["n"]
        dot = Dot(
            x=_SHARE.x(predicted),
            y=_SHARE.y(observed),
            radius=4,
            words=f"{predicted:.3g}: {observed:.3g} (n {n_rows})",
        )
        chart.dots.append(dot)
    chart.lines.append(_share_line(dot_places, "curve g0"))
    return chart


# Of joint statistics


def of_result(
    rows: Sequence[Row],
    *,
    method: str,
    alias: str,
) -> list[Chart]:
    """The picture of an answer whose method has one. Values may be texts, as a csv has
    them; what is withheld is not drawn.
    """
    if method == "kaplan_meier":
        chart = survival(rows)
    elif method == "histogram":
        chart = histogram(rows, alias)
    else:
        chart = None
    if chart is None:
        return []
    return [chart]


def survival(rows: Sequence[Row]) -> Chart | None:
    """Steps that go down at each time, dashed lines for the interval, and how many are at
    risk. Rows without a survival (median, mean) are not drawn.
    """
    groups = _by_group(rows)
    if not groups or len(groups) > MOST_GROUPS:
        return None
    last_time = _last_time(groups)
    if last_time <= 0:
        return None
    across = Scale(last_time)
    chart = Chart("picture.survival", "time", "survival")
    chart.x_ticks = _round_ticks(across.x, last_time)
    chart.y_ticks = _share_ticks(_SHARE.y)
    y = float(chart.axis + BELOW)
    has_long_names = any(len(group_name) > MOST_NAME_LETTERS for group_name in groups)
    for group_place, (group_name, group_rows) in enumerate(groups.items()):
        look = f"g{group_place}"
        for column, line_kind in _SURVIVAL_LINES.items():
            stairs = _stairs(group_rows, column)
            if not stairs:
                continue
            line = _line(
                stairs,
                across,
                _SHARE,
                f"{line_kind} {look}",
            )
            chart.lines.append(line)
        y += RISK_HEIGHT
        name_y = y
        if has_long_names:
            y += RISK_HEIGHT
        at_risk = AtRisk(
            name=group_name,
            name_y=name_y,
            y=y,
            numbers=_numbers_at_risk(group_rows, across),
        )
        chart.at_risk.append(at_risk)
        if group_name:
            chart.legend.append((look, group_name))
    return chart


def _last_time(groups: Mapping[str, Sequence[Row]]) -> float:
    """0 where no row has one."""
    times = []
    for group_rows in groups.values():
        for row in group_rows:
            time = number(row["time"])
            if time is not None:
                times.append(time)
    return max(times, default=0.0)


def histogram(rows: Sequence[Row], alias: str) -> Chart | None:
    """A bar for each bin, those of groups side by side."""
    bins: dict[str, None] = {}
    groups: dict[str, dict[str, float]] = {}
    for row in rows:
        bar_value = number(row.get(alias))
        bin_name = _bin_words(row)
        bins[bin_name] = None
        if bar_value is not None:
            group_name = ", ".join(_before(row, "lower"))
            of_group = groups.setdefault(group_name, {})
            of_group[bin_name] = bar_value
    highest = [max(heights.values()) for heights in groups.values()]
    highest_value = max(highest, default=0.0)
    if highest_value <= 0:
        return None
    if len(groups) > MOST_GROUPS or len(bins) > MOST_BARS:
        return None
    chart = Chart("picture.histogram", "", alias)
    up = Scale(highest_value)
    chart.y_ticks = _round_ticks(up.y, highest_value)
    slot = PLOT_WIDTH / len(bins)
    width = slot * 0.9 / len(groups)
    bins_per_name = math.ceil(len(bins) / MOST_BIN_NAMES)
    for bin_place, bin_name in enumerate(bins):
        slot_left = LEFT + slot * bin_place
        if bin_place % bins_per_name == 0:
            middle = round(slot_left + slot / 2, 1)
            chart.x_ticks.append(Tick(middle, bin_name))
        for turn, (group_name, by_bin) in enumerate(groups.items()):
            bar_value = by_bin.get(bin_name)
            if bar_value is None:
                continue
            tooltip = f"{group_name} {bin_name}: {bar_value:.6g}"
            top = up.y(bar_value)
            bar = Bar(
                x=round(slot_left + slot * 0.05 + width * turn, 1),
                y=top,
                width=round(width, 1),
                height=round(chart.axis - top, 1),
                look=f"g{turn}",
                words=tooltip.strip(),
            )
            chart.bars.append(bar)
    if list(groups) != [""]:
        for turn, group_name in enumerate(groups):
            chart.legend.append((f"g{turn}", group_name))
    return chart


def number(value: Any) -> float | None:
    """A finite number, be it written as text; None for anything else."""
    if value is None or isinstance(value, bool):
        return None
    try:
        parsed = float(value)
    except (TypeError, ValueError):
        return None
    if math.isfinite(parsed):
        return parsed
    return None


def steps_to(last: float) -> list[float]:
    """0 and multiples of 1, 2 or 5 times a power of ten, about five.

    >>> steps_to(100), steps_to(3)
    ([0.0, 20.0, 40.0, 60.0, 80.0, 100.0], [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
    """
    magnitude = math.log10(last / 4)
    power = 10.0 ** math.floor(magnitude)
    step = power
    for digit in (2, 5):
        larger = digit * power
        if last / larger >= 4:
            step = larger
    # The division may end a hair below a whole number.
    n_steps = int(last / step + 1e-9)
    return [step * place for place in range(n_steps + 1)]


def _by_group(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The points of each group's curve."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if number(row.get("survival")) is None:
            continue
        group_name = ", ".join(_before(row, "kind"))
        of_group = groups.setdefault(group_name, [])
        of_group.append(row)
    return groups


def _before(row: Row, first: str) -> list[str]:
    """The group that a row is of: what stands before the columns that all have."""
    levels = []
    for column, level in row.items():
        if column == first:
            break
        levels.append(str(level))
    return levels


def _bin_words(row: Row) -> str:
    """Of a bin whose first or last has no edge on one side."""
    lower = row.get("lower")
    upper = row.get("upper")
    if lower in (None, ""):
        return f"< {upper}"
    if upper in (None, ""):
        return f">= {lower}"
    return f"{lower} - {upper}"


def _stairs(rows: Sequence[Row], column: str) -> list[Place]:
    """From 1 at time 0, level until the next time and down there."""
    before = 1.0
    stair_places = [(0.0, before)]
    for row in rows:
        time = number(row["time"])
        column_value = number(row.get(column))
        if time is None or column_value is None:
            continue
        stair_places.append((time, before))
        stair_places.append((time, column_value))
        before = column_value
    if len(stair_places) == 1:
        return []
    return stair_places


def _numbers_at_risk(rows: Sequence[Row], across: Scale) -> list[Tick]:
    row_step = max(1, math.ceil(len(rows) / MOST_TIMES_AT_RISK))
    numbers = []
    for row in rows[::row_step]:
        time = number(row["time"])
        n_rows = number(row.get("at_risk"))
        if time is None or n_rows is None:
            continue
        tick = Tick(across.x(time), f"{n_rows:.0f}")
        numbers.append(tick)
    return numbers


def _line(
    places: Iterable[Place],
    across: Scale,
    up: Scale,
    look: str,
) -> Line:
    points = []
    for x, y in places:
        point = f"{across.x(x)},{up.y(y)}"
        points.append(point)
    return Line(" ".join(points), look)


def _share_line(places: Iterable[Place], look: str) -> Line:
    return _line(places, _SHARE, _SHARE, look)


def _draw_share_axes(chart: Chart) -> None:
    """Both from 0 to 1, with the diagonal."""
    chart.x_ticks = _share_ticks(_SHARE.x)
    chart.y_ticks = _share_ticks(_SHARE.y)
    diagonal = [_ORIGIN, _CORNER]
    chart.lines.append(_share_line(diagonal, "guide"))


def _share_ticks(along: _Along) -> list[Tick]:
    ticks = []
    for tenth in range(0, 11, 2):
        share = tenth / 10
        tick = Tick(along(share), f"{share:g}")
        ticks.append(tick)
    return ticks


def _round_ticks(along: _Along, last: float) -> list[Tick]:
    ticks = []
    for tick_value in steps_to(last):
        tick = Tick(along(tick_value), f"{tick_value:.6g}")
        ticks.append(tick)
    return ticks
