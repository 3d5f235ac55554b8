"""What left, as a picture: a row for each kind, a bar for each day. Pure: numbers to
places, the template draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

from agents.page.tables import Sent, Traffic

# In units of the drawing's box.
LABEL_WIDTH = 140
DAY_WIDTH = 18
ROW_HEIGHT = 34
BAR_HEIGHT = 28
TOP = 24
RIGHT_MARGIN = 24
BOTTOM_MARGIN = 8
FEWEST_DAYS = 3  # the drawing is as wide as for so many days
MOST_MARKS = 6
_LARGEST_EXPONENT = 9.0


@dataclass(frozen=True)
class Bar:
    """One day's bytes of one kind; its height grows by the same step for each ten times
    as many bytes.
    """

    day: date
    sent: Sent
    x: float
    y: float
    height: float


class Row(NamedTuple):
    """All bars of one kind of message."""

    kind: str
    bottom: int  # where its bars stand
    bars: list[Bar]


class Mark(NamedTuple):
    """A day's name at the top."""

    x: int
    text: str


@dataclass(frozen=True)
class Picture:
    """Places in units of the drawing's own box, width by height."""

    width: int
    height: int
    rows: list[Row]
    marks: list[Mark]


def draw(traffic: Traffic) -> Picture:
    """The picture of what left."""
    rows = []
    bottom = TOP
    for message_kind, by_day in traffic.by_kind.items():
        bottom += ROW_HEIGHT
        days = sorted(by_day)
        bars = [_bar(day, by_day[day], traffic, bottom) for day in days]
        rows.append(Row(message_kind, bottom, bars))

    n_days = len(traffic.days)
    days_per_mark = max(1, math.ceil(n_days / MOST_MARKS))
    marked = traffic.days[::days_per_mark]
    marks = [Mark(_left_edge(day, traffic), f"{day:%m-%d}") for day in marked]

    width = LABEL_WIDTH + DAY_WIDTH * max(n_days, FEWEST_DAYS) + RIGHT_MARGIN
    height = TOP + ROW_HEIGHT * len(rows) + BOTTOM_MARGIN
    return Picture(width, height, rows, marks)


def _bar(day: date, sent: Sent, traffic: Traffic, bottom: int) -> Bar:
    height = height_of(sent.n_bytes)
    return Bar(
        day=day,
        sent=sent,
        x=_left_edge(day, traffic) + 2,
        y=round(bottom - height, 1),
        height=height,
    )


def _left_edge(day: date, traffic: Traffic) -> int:
    n_before = (day - traffic.days[0]).days  # the days follow each other without a gap
    return LABEL_WIDTH + DAY_WIDTH * n_before


def height_of(n_bytes: int) -> float:
    """2 for an empty message, BAR_HEIGHT for a gigabyte and more; logarithmic between."""
    exponent = math.log10(max(1, n_bytes))
    share = min(1.0, exponent / _LARGEST_EXPONENT)
    return round(2 + (BAR_HEIGHT - 2) * share, 1)


def size_of(n_bytes: int) -> str:
    """1.5 kB and the like."""
    if n_bytes < 1000:
        return f"{n_bytes:.0f} B"
    size = n_bytes / 1000
    for unit in ("kB", "MB"):
        if size < 1000:
            return f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
