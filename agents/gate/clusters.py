"""Clusters by a column: how many a hospital needs, what none may be, and by which one
column its people are clustered.

With clusters M = sum of s s' is opened, s a cluster's sum of scores. A changed hospital
moves the coefficients by its own rows, and s follows them: several orders tell the sum
over clusters of all products of two of a cluster's sums of columns times columns and
label. Of fewer clusters than there are such sums these are the clusters' own but for a
turn. Two clusterings of the same people that differ in one tell this one by the
difference; so does the sum without clusters, of a cluster of one beside others of one.

Decision 120.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.site.vault_database import KeyedDatabase
from analytics.arrays import Bools, Floats, Ints
from protocol.errors import BadRequest, Refused
from protocol.policy import CohortRules

_SCHEMA = """
CREATE TABLE IF NOT EXISTS clusterings (
    order_id INTEGER NOT NULL, population TEXT NOT NULL, name TEXT NOT NULL, committed REAL NOT NULL,
    PRIMARY KEY (order_id, population)
) WITHOUT ROWID;
"""
_ROUNDING = 1e-18
"""Squared sums of clusters below so much of those of sizes are of nothing but rounding."""


def n_products(n_weights: int) -> int:
    """Of a cluster's sums of two columns' products, and of columns times label.

    >>> n_products(4)
    14
    """
    return n_weights * (n_weights + 3) // 2


def check_clusters(
    name: str, clusters: NDArray[np.object_], *, min_rows: int, tells_counts: bool
) -> None:
    """Refuses clusters of one row, and fewer clusters than min_rows; clusters (n,): which
    one each row with a weight is of.

    Raises BadRequest (code cluster) and Refused (code clusters). Disclosure: the name of
    the column, and how many rows are alone: where tells_counts, or there are min_rows.
    """
    _, n_of_cluster = np.unique(clusters.astype(str), return_counts=True)
    n_single = int(np.count_nonzero(n_of_cluster == 1))
    if n_single:
        counted = tells_counts or n_single >= min_rows
        amount = str(n_single) if counted else f"Fewer than {min_rows}"
        raise BadRequest(
            f"{amount} clusters of {name} have one row: beside errors without clusters these would be told.",
            remedy="Leave these rows out in the SQL, cluster by a coarser column, or order standard_errors HC1.",
            code="cluster",
            columns=[name],
        )
    if len(n_of_cluster) < min_rows:
        raise _too_few(name, min_rows)


def check_number(
    name: str, clusters: NDArray[np.object_], *, n_weights: int, min_rows: int
) -> None:
    """Refuses clusters that are no more than `n_products` of the model, whose sums
    several orders would tell. Raises Refused (code clusters).
    """
    least_clusters = n_products(n_weights) + 1
    # A least of 1 switches the rules on few rows off.
    if min_rows > 1 and len(set(clusters.tolist())) < least_clusters:
        raise _too_few(name, least_clusters, purpose=f" for {n_weights} coefficients")


def _too_few(name: str, least_clusters: int, *, purpose: str = "") -> Refused:
    return Refused(
        f"The rows of this hospital are of fewer than {least_clusters} clusters of {name}{purpose}: several orders"
        " would tell these clusters' own sums.",
        remedy="Widen the SQL, order fewer attributes, cluster by a finer column, or order standard_errors HC1.",
        code="clusters",
        threshold=least_clusters,
    )


def check_cell(
    scores: Floats,
    codes: Ints,
    is_in: Bools,
    *,
    named: str,
    max_share: Fraction,
    min_rows: int,
) -> None:
    """Refuses a cell of which two clusters make up nearly all by fewer than min_rows rows.

    scores (n,); codes (n,): 0 to G - 1; is_in (n,): which rows the cell has. Raises
    Refused (code max_share). Disclosure: names of columns.
    """
    sums = np.bincount(codes, scores * is_in)
    absolute_sums = np.bincount(codes, np.abs(scores) * is_in)
    squares = sums * sums
    sum_of_squares = float(squares.sum())
    if sum_of_squares <= _ROUNDING * float((absolute_sums * absolute_sums).sum()):
        return
    two_largest = np.argsort(squares)[-2:]
    if float(squares[two_largest].sum()) <= float(max_share) * sum_of_squares:
        return
    n_rows = int(np.count_nonzero(is_in & np.isin(codes, two_largest)))
    if n_rows < min_rows:
        raise Refused(
            f"Among this hospital's rows{named} two clusters of fewer than {min_rows} rows make up more than"
            f" {max_share} of what clusters add to the squared residuals.",
            remedy="Leave out the column or merge its levels, cluster by a coarser column, or order standard_errors"
            " HC1.",
            code="max_share",
            threshold=str(max_share),
        )


class Clusterings(KeyedDatabase):
    """By which column the people of each population were clustered."""

    def __init__(self, folder: Path, *, is_copy: bool = False) -> None:
        super().__init__(folder / "clusterings.sqlite", _SCHEMA, is_copy=is_copy)

    def commit(
        self,
        order_id: int,
        *,
        name: str,
        populations: Iterable[str],
        rules: CohortRules,
        now: datetime,
    ) -> None:
        """Remembers the column, before anything of the order leaves; one that starts again
        after a crash once. name: the column's, with its table's.

        Raises Refused (code clusters) for a second column.
        """
        since = (now - timedelta(days=rules.budget_days)).timestamp()
        # Compared and written in one step: of two orders at once by different columns,
        # the second has to find the first.
        with self.alone(), self._open() as database:
            for population in sorted(spelling.lower() for spelling in populations):
                rows: list[Any] = database.execute(
                    "SELECT DISTINCT name FROM clusterings"
                    " WHERE population = ? AND committed > ? AND order_id != ?",
                    (population, since, order_id),
                ).fetchall()
                earlier = {row[0] for row in rows}
                if earlier - {name.lower()}:
                    raise _second(rules.budget_days)
                database.execute(
                    "INSERT OR IGNORE INTO clusterings VALUES (?, ?, ?, ?)",
                    (order_id, population, name.lower(), now.timestamp()),
                )


def _second(days: int) -> Refused:
    return Refused(
        f"The same people were clustered by another column in the last {days} days: where two clusterings differ in few"
        " people, the difference of the errors tells these.",
        remedy="Cluster by the earlier column, order standard_errors HC1, or wait.",
        code="clusters",
        threshold=days,
    )
