"""How many values of each group lie below pivots: what exact quantiles are searched by.

To read next: `agents.statistics.quantile_rounds`, which asks for them round by round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from agents.rows.column_text import finite_doubles, number_of, whole_sql, wide
from agents.rows.dataset import Dataset
from agents.rows.row_groups import Label, aliases, labels_sql
from analytics.arrays import Floats, Ints

_HALF = 2**63  # the first whole number that no int64 holds


def counts_below(
    dataset: Dataset,
    column: str,
    pivots: Mapping[Label, Floats],
    *,
    group_by: Sequence[str] = (),
) -> dict[Label, Ints]:
    """For each group that has pivots (float64, rising), how many of its values lie
    below each: int64.

    A decimal counts as the double nearest to it. One pass, a batch of rows in memory.

    Disclosure: as `exact_totals.moments`.
    """
    number = number_of(dataset, column)

    def places(rising: Floats, rows: Any) -> Ints:
        x = finite_doubles(rows["x"], number)
        return np.searchsorted(rising, x, side="right")

    labels = labels_sql(dataset, group_by)
    selected = ", ".join([*labels, f"{number.double} AS x"])
    sql = f"SELECT {selected} FROM rows WHERE {number.cell} IS NOT NULL"  # noqa: S608
    return _counts_below(dataset, sql, pivots, places, n_labels=len(group_by))


def whole_counts_below(
    dataset: Dataset,
    column: str,
    pivots: Mapping[Label, Sequence[int]],
    *,
    group_by: Sequence[str] = (),
) -> dict[Label, Ints]:
    """The same of a column for which `is_whole` holds, below rising whole numbers of 64
    bits, signed or not.

    Every digit counts, though neither a double nor an int64 holds them all: what is
    2^63 or more is compared by itself, 2^64 lower. Disclosure: as `exact_totals.moments`.
    """
    labels = labels_sql(dataset, group_by)
    whole_number = whole_sql(dataset, column)
    labelled = ", ".join([*labels, f"{whole_number} AS v"])
    is_large = f"v >= {wide(_HALF)}"
    shift = f"CASE WHEN {is_large} THEN {wide(2 * _HALF)} ELSE {wide(0)} END"
    group_aliases = aliases("g", len(group_by))
    selected = ", ".join(
        [*group_aliases, f"CAST(v - {shift} AS BIGINT) AS x", f"{is_large} AS is_large"]
    )
    sql = f"SELECT {selected} FROM (SELECT {labelled} FROM rows) WHERE v IS NOT NULL"  # noqa: S608
    return _counts_below(dataset, sql, pivots, _whole_places, n_labels=len(group_by))


def _whole_places(rising: Sequence[int], rows: Any) -> Ints:
    x = rows["x"].to_numpy(dtype=np.int64)
    is_large = rows["is_large"].to_numpy(dtype=bool)
    small = [pivot for pivot in rising if pivot < _HALF]
    lowered = [pivot - 2 * _HALF for pivot in rising if pivot >= _HALF]
    among_small = _places(small, x)
    among_large = _places(lowered, x)
    places: Ints = np.where(is_large, len(small) + among_large, among_small)
    return places


def _places(rising: Sequence[int], x: Ints) -> Ints:
    pivots = np.array(rising, dtype=np.int64)
    return np.searchsorted(pivots, x, side="right")


def _counts_below(
    dataset: Dataset,
    sql: str,
    pivots: Mapping[Label, Any],
    places: Callable[[Any, Any], Ints],
    *,
    n_labels: int,
) -> dict[Label, Ints]:
    """sql: rows of labels and a value; places: how many of its group's pivots are no
    larger than a value.
    """
    at_place: dict[Label, Ints] = {}
    for label, rising in pivots.items():
        at_place[label] = np.zeros(len(rising) + 1, dtype=np.int64)
    group_aliases = aliases("g", n_labels)
    for frame in dataset.frames(sql):
        groups: Any = [((), frame)]
        if group_aliases:
            values = [name for name in frame.columns if name not in group_aliases]
            groups = frame.groupby(group_aliases, dropna=False, sort=False)[values]
        for group_key, rows in groups:
            # pandas has NaN where DuckDB has NULL
            label = tuple(text if isinstance(text, str) else None for text in group_key)
            if label in at_place:
                label_counts = at_place[label]
                of_rows = places(pivots[label], rows)
                label_counts += np.bincount(of_rows, minlength=len(label_counts))
    return {label: np.cumsum(counts)[:-1] for label, counts in at_place.items()}
