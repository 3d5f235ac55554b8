"""What left, as a picture: a row for each kind, a bar for each day. Pure: numbers to places, the template draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date

from agents.page.tables import Sent, Traffic

LABEL_WIDTH, DAY_WIDTH, ROW_HEIGHT, BAR_HEIGHT, TOP = 140, 18, 34, 28, 24
_LARGEST_EXPONENT = 9.0


@dataclass(frozen=True)
class Bar:
    """One day's bytes of one kind; its height grows by the same step for each ten times as many bytes."""

    day: date
    sent: Sent
    x: float
    y: float
    height: float


@dataclass(frozen=True)
class Picture:
    """Places in units of the drawing's own box, width by height."""

    width: int
    height: int
    rows: list[tuple[str, int, list[Bar]]]
    marks: list[tuple[int, str]]


def draw(traffic: Traffic) -> Picture:
    """The picture of what left."""
    rows = [
        (kind, TOP + ROW_HEIGHT * (row + 1), _bars(traffic, kind, TOP + ROW_HEIGHT * (row + 1)))
        for row, kind in enumerate(traffic.by_kind)
    ]
    n_days = len(traffic.days)
    every = max(1, math.ceil(n_days / 6))
    marks = [(LABEL_WIDTH + DAY_WIDTH * k, f"{traffic.days[k]:%m-%d}") for k in range(0, n_days, every)]
    return Picture(
        LABEL_WIDTH + DAY_WIDTH * max(n_days, 3) + 24, TOP + ROW_HEIGHT * len(rows) + 8, rows, marks
    )


def _bars(traffic: Traffic, kind: str, bottom: int) -> list[Bar]:
    place = {day: LABEL_WIDTH + DAY_WIDTH * k for k, day in enumerate(traffic.days)}
    heights = {day: height_of(sent.n_bytes) for day, sent in traffic.by_kind[kind].items()}
    return [
        Bar(day, sent, place[day] + 2, round(bottom - heights[day], 1), heights[day])
        for day, sent in sorted(traffic.by_kind[kind].items())
    ]


def height_of(n_bytes: int) -> float:
    """2 for an empty message, BAR_HEIGHT for a gigabyte and more; logarithmic between."""
    share = min(1.0, math.log10(max(1, n_bytes)) / _LARGEST_EXPONENT)
    return round(2 + (BAR_HEIGHT - 2) * share, 1)


def size_of(n_bytes: int) -> str:
    """1.5 kB and the like."""
    size, units = float(n_bytes), ["B", "kB", "MB", "GB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.0f} {units[0]}" if units[0] == "B" else f"{size:.1f} {units[0]}"
