"""Options of the pictures, as Apache ECharts takes them; pure."""

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
WEAK, STRONG = "#dbe9f6", "#b3261e"
MANY_LINES = 8

Series = Mapping[str, Sequence[float | None]]


def lines(
    x: Sequence[Any], series: Series, *, x_name: str, y_name: str, is_dark: bool, bold: str = ""
) -> dict[str, Any]:
    """A line for each name; the one called `bold` stands out."""
    is_long = len(x) > 60
    return {
        **_common(is_dark),
        "legend": {"type": "scroll", "top": 0, "textStyle": {"color": _ink(is_dark)}},
        "tooltip": {"trigger": "item" if len(series) > MANY_LINES else "axis", "confine": True},
        "dataZoom": [{"type": "inside"}] if is_long else [],
        "xAxis": {"type": "category", "data": list(x), **_axis(is_dark), **_below(x_name)},
        "yAxis": {"type": "value", "name": y_name, "scale": True, **_axis(is_dark)},
        "series": [
            {
                "type": "line",
                "name": name,
                "data": list(values),
                "showSymbol": len(x) < 2,
                "symbolSize": 8,
                "lineStyle": {"width": 7, "opacity": 0.35} if name == bold else {"width": 1.75},
                "emphasis": {"focus": "series"},
                "z": 1 if name == bold else 2,
            }
            for name, values in series.items()
        ],
    }


def bars(
    names: Sequence[Any], values: Sequence[float | None], *, y_name: str, is_dark: bool, x_name: str = ""
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
        "yAxis": {"type": "value", "name": y_name, **_axis(is_dark)},
        "series": [{"type": "bar", "data": list(values), "barMaxWidth": 48}],
    }


def colour(n: int) -> str:
    """The n-th kind's; they begin again after ten."""
    return COLOURS[n % len(COLOURS)]


@dataclass(frozen=True)
class Span:
    """From `began` to `ended`, in seconds from any one moment, in the lane of `who`."""

    who: str
    what: str
    began: float
    ended: float


def spans(parts: Sequence[Span], *, x_name: str, is_dark: bool) -> dict[str, Any]:
    """A lane for each name, in the order of first mention, and in it a bar for each part.

    The n-th gap and the n-th bar of all lanes are two series of one stack: a picture without a script of our own.
    """
    lanes = list(dict.fromkeys(part.who for part in parts))
    kinds = list(dict.fromkeys(part.what for part in parts))
    zero = min((part.began for part in parts), default=0.0)
    most = max((sum(part.who == lane for part in parts) for lane in lanes), default=0)
    gaps: list[list[Any]] = [[0.0] * len(lanes) for _ in range(most)]
    bars: list[list[Any]] = [[None] * len(lanes) for _ in range(most)]
    for at, lane in enumerate(lanes):
        end = zero
        for n, part in enumerate(
            sorted((one for one in parts if one.who == lane), key=lambda one: one.began)
        ):
            began = max(part.began, end)
            gaps[n][at], end = began - end, max(part.ended, began)
            style = {"color": colour(kinds.index(part.what))}
            bars[n][at] = {"name": part.what, "value": round(end - began, 3), "itemStyle": style}
    series = []
    for gap, bar in zip(gaps, bars, strict=True):
        clear = {"color": "transparent"}
        series.append({"type": "bar", "stack": "time", "data": gap, "itemStyle": clear, "silent": True})
        series.append({"type": "bar", "stack": "time", "data": bar, "barMaxWidth": 28})
    return {
        **_common(is_dark),
        "grid": {"left": 8, "right": 24, "top": 12, "bottom": 40, "containLabel": True},
        "tooltip": {"confine": True, "formatter": "{b}: {c} s"},
        "xAxis": {"type": "value", **_axis(is_dark), **_below(x_name)},
        "yAxis": {"type": "category", "data": lanes, "inverse": True, **_axis(is_dark)},
        "series": series,
    }


def heat_map(
    x: Sequence[Any], y: Sequence[Any], cells: Sequence[Sequence[float | None]], *, x_name: str, is_dark: bool
) -> dict[str, Any]:
    """A cell for each y (row) and x (column); cells without a value stay empty."""
    data = [
        [column, row, value]
        for row, line in enumerate(cells)
        for column, value in enumerate(line)
        if value is not None
    ]
    known = [value for _, _, value in data]
    low, high = min(known, default=0.0), max(known, default=1.0)
    return {
        **_common(is_dark),
        "grid": {"left": 8, "right": 16, "top": 12, "bottom": 84, "containLabel": True},
        "tooltip": {"confine": True},
        "xAxis": {"type": "category", "data": [str(name) for name in x], **_axis(is_dark), **_below(x_name)},
        "yAxis": {"type": "category", "data": [str(name) for name in y], "inverse": True, **_axis(is_dark)},
        "visualMap": {
            "min": low,
            "max": high if high > low else low + 1,
            "precision": 4,
            "orient": "horizontal",
            "left": "center",
            "bottom": 0,
            "calculable": True,
            "inRange": {"color": [WEAK, "#f2c14e", STRONG]},
            "textStyle": {"color": _ink(is_dark)},
        },
        "series": [{"type": "heatmap", "data": data, "progressive": 0}],
    }


def _common(is_dark: bool) -> dict[str, Any]:
    return {
        "color": COLOURS,
        "animation": False,
        "textStyle": {"color": _ink(is_dark)},
        "grid": {"left": 8, "right": 24, "top": 56, "bottom": 40, "containLabel": True},
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
    return {"name": name, "nameLocation": "middle", "nameGap": 28}


def _ink(is_dark: bool) -> str:
    return "#c9d3dd" if is_dark else "#3a4654"
