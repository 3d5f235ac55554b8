"""How many rows have each pair of values of columns that hold two values.

Sums of products of such columns are a cross table of them: n, sum x, sum y and
sum x y of 0 and 1 tell all four cells. `agents/statistics/tallies.py` asks how small
the smallest is before the sums may leave.

Decision 85.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from agents.rows.column_text import label_sql, number_of
from agents.rows.dataset import Dataset
from agents.rows.row_groups import Label
from analytics.arrays import Ints
from analytics.statistics.tables import smallest_cell


def smallest_cells(
    dataset: Dataset, columns: Sequence[str], *, group_by: Sequence[str] = ()
) -> dict[Label, int]:
    """By group, how many rows the smallest cell has that has any, of the values of a
    column of two values and of the pairs of two such columns.

    Over rows with a value in all columns. A group without a column of two values is not
    there. Disclosure: counts of rows; they stay here.
    """
    numbers = [number_of(dataset, column) for column in columns]
    complete = " AND ".join(f"{number.cell} IS NOT NULL" for number in numbers)
    labels = [label_sql(dataset, name) for name in group_by]
    distinct = [f"count(DISTINCT {number.double})" for number in numbers]
    label_places = ", ".join(str(place) for place in range(1, 1 + len(labels)))
    by_label = f" GROUP BY {label_places}" if labels else ""
    selected = ", ".join([*labels, *distinct])
    counts = dataset.query(f"SELECT {selected} FROM rows WHERE {complete}{by_label}")  # noqa: S608

    n_labels = len(labels)
    two_valued: dict[Label, list[int]] = {}
    for row in counts:
        of_group = [place for place, n in enumerate(row[n_labels:]) if n == 2]
        if of_group:
            two_valued[tuple(row[:n_labels])] = of_group
    asked_places = sorted(set().union(*two_valued.values()))
    if not asked_places:
        return {}

    double_cells = [numbers[place].double for place in asked_places]
    n_keys = n_labels + len(double_cells)
    key_places = ", ".join(str(place) for place in range(1, 1 + n_keys))
    selected = ", ".join([*labels, *double_cells])
    cell_rows = dataset.query(
        f"SELECT {selected}, count(*) FROM rows WHERE {complete} GROUP BY {key_places}"  # noqa: S608
    )
    by_group: dict[Label, list[tuple[float, ...]]] = {}
    for row in cell_rows:
        by_group.setdefault(tuple(row[:n_labels]), []).append(tuple(row[n_labels:]))
    smallest = {}
    for label, of_label in two_valued.items():
        group_table = np.array(by_group[label])
        n_rows = group_table[:, -1].astype(np.int64)
        is_high = []
        for place in of_label:
            column = group_table[:, asked_places.index(place)]
            is_high.append((column == column.max()).astype(np.int64))
        smallest[label] = _smallest(is_high, n_rows)
    return smallest


def _smallest(is_high: Sequence[Ints], n_rows: Ints) -> int:
    """Of one column's two values, or of the four cells of each two columns."""
    pairs = itertools.combinations_with_replacement(is_high, 2)
    return min(smallest_cell(x, y, n_rows) for x, y in pairs)
