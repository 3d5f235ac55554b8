"""Two-way tables of counts, as the rules of small cells look at them. Decisions 84 and 85."""

from __future__ import annotations

import numpy as np

from analytics.arrays import Ints


def smallest_cell(rows: Ints, columns: Ints, counts: Ints | None = None) -> int:
    """How many there are in the smallest cell that has any.

    rows, columns: of each entry the place of its cell, from 0, int64 (n,); counts: how
    many each entry stands for, int64 (n,), one unless given. ValueError without entries.

    >>> smallest_cell(np.array([0, 0, 1, 1, 1]), np.array([0, 0, 1, 1, 0]))
    1

    Disclosure: a count of rows; it stays where it is asked.
    """
    width = int(columns.max()) + 1
    n_of_cell = np.zeros((int(rows.max()) + 1) * width, dtype=np.int64)
    # Not +=, which counts a cell that comes twice once.
    np.add.at(n_of_cell, rows * width + columns, 1 if counts is None else counts)
    return int(n_of_cell[n_of_cell > 0].min())
