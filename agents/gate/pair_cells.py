"""What sums of products of two columns may tell: two-way tables.

The first sums of a Newton order are X'X to a factor, and an entry of two columns of 0
and 1 is how many rows have both. So each cell of each such pair is 0 or min_rows, as in
a table that is asked for.

Decision 84.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analytics.arrays import Ints
from analytics.statistics.tables import smallest_cell
from protocol.errors import Refused

MOST_VALUES = 10
"""A column of more values is no category."""

Column = tuple[str, NDArray[Any]]


def check_event_cells(name: str, events: NDArray[Any], *, min_rows: int) -> None:
    """Refuse rows of which 1 to min_rows - 1 have the event, or have it not (code
    min_rows): none may, where sums are over events.

    Disclosure: a refusal names the column, no count.
    """
    n_events = int(np.count_nonzero(events))
    for n_rows in (n_events, len(events) - n_events):
        if 0 < n_rows < min_rows:
            raise Refused(
                f"Fewer than {min_rows} rows here have one of the two values of {name}, and a Cox order opens sums"
                " over the rows that have it.",
                remedy="Widen the SQL, or ask the hospital to lower min_rows in its policy.toml.",
                code="min_rows",
                threshold=min_rows,
            )


def check_event_times(
    name: str,
    times: NDArray[Any],
    events: NDArray[Any],
    n_rows: NDArray[Any] | None = None,
    *,
    min_rows: int,
) -> None:
    """Refuse events at fewer than min_rows times, each while min_rows rows or more are at
    risk (code few_event_times).

    A sum over event times is one of fractions, whose denominators are the numbers at risk
    at this hospital: of few times, or few people, it can be taken apart again, and into
    the hospitals that it was added of. n_rows: for how many rows each time stands.

    Disclosure: a refusal names the column, no count and no time.
    """
    if min_rows == 1 or not np.any(events):  # switched off, or zeros are added
        return
    weights = np.ones(len(times)) if n_rows is None else n_rows
    _, places = np.unique(times, return_inverse=True)
    leaving = np.bincount(places, weights=weights)
    at_risk = np.cumsum(leaving[::-1])[::-1]
    has_event = np.bincount(places, weights=np.asarray(events) != 0) > 0
    if np.count_nonzero(has_event & (at_risk >= min_rows)) < min_rows:
        raise Refused(
            f"Here events stand at fewer than {min_rows} different times of {name} while {min_rows} rows or more are at"
            " risk, so that sums over them could be taken apart.",
            remedy="Name a column of finer times, widen the SQL, or ask the hospital to lower min_rows in its"
            " policy.toml.",
            code="few_event_times",
            threshold=min_rows,
        )


def check_pair_cells(columns: Sequence[Column], *, min_rows: int) -> None:
    """Refuse columns of which two have a cell of 1 to min_rows - 1 rows (code min_rows).

    columns: name and values (n_rows,); one of more than MOST_VALUES values is not
    looked at.

    Disclosure: a refusal names pairs of columns, no value and no count.
    """
    if min_rows == 1:  # switched off
        return
    coded: list[tuple[str, Ints]] = []
    for name, values in columns:
        found, places = np.unique(values, return_inverse=True)
        if len(found) <= MOST_VALUES:
            coded.append((name, places))
    few = []
    for (name, first), (other, second) in combinations(coded, 2):
        if smallest_cell(first, second) < min_rows:
            few.append(f"{name} and {other}")
    if few:
        raise Refused(
            f"A table of {'; of '.join(few)} has a cell of fewer than {min_rows} rows here, and a Newton order opens"
            " sums of their products.",
            remedy="Leave one of each pair out or merge values by derive, widen the SQL, order a gradient optimizer, or"
            " ask the hospital to lower min_rows in its policy.toml.",
            code="min_rows",
            threshold=min_rows,
            pairs=few,
        )
