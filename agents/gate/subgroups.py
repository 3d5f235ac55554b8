"""What an evaluation by subgroups may tell: of each subgroup the same sums are opened as
of all rows.

A subgroup, and what all rows are less it, are sums of a hospital's cells of subgroup and
outcome. So each of these cells is none or min_rows rows at each hospital: then no sum of
all hospitals, and no difference of two of them, is of fewer rows of one outcome.

Decision 101.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from analytics.statistics.tables import smallest_cell
from protocol.errors import Refused


def check_subgroups(
    name: str,
    groups: NDArray[Any],
    outcome: str,
    values: NDArray[Any] | None,
    *,
    min_rows: int,
) -> None:
    """Refuse subgroups of which one has 1 to min_rows - 1 rows, or so many of one
    outcome (code min_rows).

    groups, values: (n_rows,); values None where the outcome is a number: then the
    subgroups' rows alone are counted.

    Disclosure: a refusal names the columns, no value and no count.
    """
    _, group_places = np.unique(groups.astype(str), return_inverse=True)
    outcome_places = np.zeros(len(groups), dtype=np.int64)
    if values is not None:
        _, outcome_places = np.unique(values, return_inverse=True)
    if min_rows == 1 or smallest_cell(group_places, outcome_places) >= min_rows:
        return
    of_outcome = (
        "" if values is None else f", or of a subgroup with one value of {outcome},"
    )
    raise Refused(
        f"Fewer than {min_rows} rows here are of one subgroup by {name}{of_outcome} and the same sums are opened of"
        " each subgroup as of all rows.",
        remedy="Leave group_by out, widen the SQL, merge values in a view, or ask the hospital to lower min_rows in its"
        " policy.toml.",
        code="min_rows",
        threshold=min_rows,
    )
