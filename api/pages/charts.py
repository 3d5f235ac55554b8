"""Options of the pictures, as Apache ECharts takes them: lines, bars, spans of time,
heat maps. Pure; `frame.figure` puts one on a page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

COLOURS = [
    "#0b84d8",
    "#d9480f",
    "#2b9348",
    "#9c36b5",
    "#c99700",
    "#0b7285",
    "#c2255c",
    "#5f6b7a",
    "#6741d9",
    "#7a5b2e",
]
WEAK, MIDDLE, STRONG = "#dbe9f6", "#f2c14e", "#b3261e"
MANY_LINES = 8  # more do not fit into one tooltip
MANY_POINTS = 60  # more than that can be zoomed into

Series = Mapping[str, Sequence[float | None]]


def lines(
    x: Sequence[Any],
    series: Series,
    *,
    x_name: str,
    y_name: str,
    is_dark: bool,
    bold: str = "",
) -> dict[str, Any]:
    """A line for each name; the one called `bold` is broad and pale, behind the others."""
    drawn_lines = []
    for line_name, line_values in series.items():
        is_bold = line_name == bold
        style = {"width": 1.75}
        if is_bold:
            style = {"width": 7, "opacity": 0.35}
        drawn_line = {
            "type": "line",
            "name": line_name,
            "data": list(line_values),
            "showSymbol": len(x) < 2,
            "symbolSize": 8,
            "lineStyle": style,
            "emphasis": {"focus": "series"},
            "z": 1 if is_bold else 2,
        }
        drawn_lines.append(drawn_line)
    zoom = []
    if len(x) > MANY_POINTS:
        zoom.append({"type": "inside"})
    return {
        **_common(is_dark),
        "legend": {
            "type": "scroll",
            "top": 0,
            "textStyle": {"color": _ink(is_dark)},
        },
        "tooltip": {
            "trigger": "item" if len(series) > MANY_LINES else "axis",
            "confine": True,
        },
        "dataZoom": zoom,
        "xAxis": {
            "type": "category",
            "data": list(x),
            **_axis(is_dark),
            **_below(x_name),
        },
        "yAxis": {
            "type": "value",
            "name": y_name,
            "scale": True,
            **_axis(is_dark),
        },
        "series": drawn_lines,
    }


def bars(
    names: Sequence[Any],
    values: Sequence[float | None],
    *,
    y_name: str,
    is_dark: bool,
    x_name: str = "",
) -> dict[str, Any]:
    """A bar for each name."""
    return {
        **_common(is_dark),
        "tooltip": {"trigger": "axis", "confine": True},
        "xAxis": {
            "type": "category",
            "data": [str(name) for name in names],
            **_axis(is_dark),
            **_below(x_name),
        },
        "yAxis": {
            "type": "value",
            "name": y_name,
            **_axis(is_dark),
        },
        "series": [
            {
                "type": "bar",
                "data": list(values),
                "barMaxWidth": 48,
            }
        ],
    }


def colour(n: int) -> str:
    """The n-th kind's; they begin again after ten."""
    return COLOURS[n % len(COLOURS)]


@dataclass(frozen=True)
class Span:
    """One part of an order's work."""

    who: str  # whose lane it is in
    what: str
    began: float  # in seconds, from any one moment
    ended: float


def from_low_to_high(values: list[float | None]) -> list[float | None]:
    """(value - lowest) / (highest - lowest); 0 where all are the same."""
    known_values = [value for value in values if value is not None]
    lowest = min(known_values, default=0.0)
    highest = max(known_values, default=0.0)
    span = highest - lowest
    scaled: list[float | None] = []
    for value in values:
        if value is None:
            scaled.append(None)
        elif not span:
            scaled.append(0.0)
        else:
            scaled.append((value - lowest) / span)
    return scaled


def spans(parts: Sequence[Span], *, x_name: str, is_dark: bool) -> dict[str, Any]:
    """A lane for each name, in the order of first mention, and in it a bar for each
    part.

    The n-th gap and the n-th bar of all lanes are two series of one stack: a picture
    without a script of our own.
    """
    lanes: dict[str, list[Span]] = {}
    for part in parts:
        lane = lanes.setdefault(part.who, [])
        lane.append(part)
    colours: dict[str, str] = {}
    for part in parts:
        colours.setdefault(part.what, colour(len(colours)))
    gaps, bars = _stacked(list(lanes.values()), colours)
    in_lanes = {"type": "bar", "stack": "time"}
    clear = {"color": "transparent"}
    series: list[dict[str, Any]] = []
    for gap, bar in zip(gaps, bars, strict=True):
        series.append({**in_lanes, "data": gap, "itemStyle": clear, "silent": True})
        series.append({**in_lanes, "data": bar, "barMaxWidth": 28})
    return {
        **_common(is_dark),
        "grid": _grid(top=12, bottom=40),
        "tooltip": {"confine": True, "formatter": "{b}: {c} s"},
        "xAxis": {
            "type": "value",
            **_axis(is_dark),
            **_below(x_name),
        },
        "yAxis": {
            "type": "category",
            "data": list(lanes),
            "inverse": True,
            **_axis(is_dark),
        },
        "series": series,
    }


def _stacked(
    lanes: Sequence[list[Span]], colours: Mapping[str, str]
) -> tuple[list[list[Any]], list[list[Any]]]:
    """The gaps and the bars behind them, by series, then by lane. Lanes with fewer
    parts end with empty ones.
    """
    earliest = min((part.began for lane in lanes for part in lane), default=0.0)
    n_series = max((len(lane) for lane in lanes), default=0)
    gaps: list[list[Any]] = []
    bars: list[list[Any]] = []
    for _ in range(n_series):
        gaps.append([0.0] * len(lanes))
        bars.append([None] * len(lanes))
    for column, lane in enumerate(lanes):
        in_time = sorted(lane, key=lambda part: part.began)
        lane_end = earliest
        for row, part in enumerate(in_time):
            # A stack cannot go back: what overlaps begins where the part before it
            # ends.
            began = max(part.began, lane_end)
            gaps[row][column] = began - lane_end
            lane_end = max(part.ended, began)
            bars[row][column] = {
                "name": part.what,
                "value": round(lane_end - began, 3),
                "itemStyle": {"color": colours[part.what]},
            }
    return gaps, bars


def heat_map(
    x: Sequence[Any],
    y: Sequence[Any],
    cells: Sequence[Sequence[float | None]],
    *,
    x_name: str,
    is_dark: bool,
) -> dict[str, Any]:
    """A cell for each y (row) and x (column); cells without a value stay empty."""
    points = []
    known_values: list[float] = []
    for row, row_cells in enumerate(cells):
        for column, value in enumerate(row_cells):
            if value is not None:
                points.append([column, row, value])
                known_values.append(value)
    columns = [str(name) for name in x]
    rows = [str(name) for name in y]
    return {
        **_common(is_dark),
        "grid": _grid(top=12, bottom=84, right=16),
        "tooltip": {"confine": True},
        "xAxis": {
            "type": "category",
            "data": columns,
            **_axis(is_dark),
            **_below(x_name),
        },
        "yAxis": {
            "type": "category",
            "data": rows,
            "inverse": True,
            **_axis(is_dark),
        },
        "visualMap": _colour_scale(known_values, is_dark),
        "series": [
            {
                "type": "heatmap",
                "data": points,
                "progressive": 0,
            }
        ],
    }


def _colour_scale(values: Sequence[float], is_dark: bool) -> dict[str, Any]:
    """From the lowest to the highest value, below the picture."""
    lowest = min(values, default=0.0)
    highest = max(values, default=1.0)
    # A scale of no length would have no colours.
    if highest <= lowest:
        highest = lowest + 1
    return {
        "min": lowest,
        "max": highest,
        "precision": 4,
        "orient": "horizontal",
        "left": "center",
        "bottom": 0,
        "calculable": True,
        "inRange": {"color": [WEAK, MIDDLE, STRONG]},
        "textStyle": {"color": _ink(is_dark)},
    }


def _common(is_dark: bool) -> dict[str, Any]:
    return {
        "color": COLOURS,
        "animation": False,
        "textStyle": {"color": _ink(is_dark)},
        "grid": _grid(top=56, bottom=40),
    }


def _grid(*, top: int, bottom: int, right: int = 24) -> dict[str, Any]:
    """The room beside what is drawn, in pixels."""
    return {
        "left": 8,
        "right": right,
        "top": top,
        "bottom": bottom,
        "containLabel": True,
    }


def _axis(is_dark: bool) -> dict[str, Any]:
    ink = _ink(is_dark)
    return {
        "nameTextStyle": {"color": ink},
        "axisLabel": {"color": ink, "hideOverlap": True},
        "axisLine": {"lineStyle": {"color": ink}},
        "splitLine": {"lineStyle": {"color": "#38434f" if is_dark else "#e3e8ed"}},
    }


def _below(name: str) -> dict[str, Any]:
    """An axis' name, under its middle."""
    return {
        "name": name,
        "nameLocation": "middle",
        "nameGap": 28,
    }


def _ink(is_dark: bool) -> str:
    return "#c9d3dd" if is_dark else "#3a4654"
