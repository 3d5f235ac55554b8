"""How few hospitals a meta-analysis may be of, and how many such orders there may be.

Of each coefficient a hospital's estimate b and weight w stand in seven sums: w, w^2 and
w* alone, w b, w b^2, w* b and w* b^2. How large w is, follows about from the number of
rows, which all know. Then four sums are left for the k - 1 other estimates. w* depends
on tau^2, which a changed hospital moves by its own part: each further order over the
same people, whatever its attributes, has two more sums of the same estimates.

So of m orders each needs hospitals of which one sees more estimates than sums:

    k - 1 > 2 + 2 m     6 hospitals for the first order, 2 more for each further one

A hospital whose policy says hospital_sums lets its own estimates be told. Each hospital
decides for itself. Decision 106.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from agents.site.vault_database import KeyedDatabase
from protocol.errors import Refused
from protocol.policy import Policy

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta_orders (
    order_id INTEGER NOT NULL, population TEXT NOT NULL, n_hospitals INTEGER NOT NULL,
    committed REAL NOT NULL,
    PRIMARY KEY (order_id, population)
) WITHOUT ROWID;
"""


def fewest_hospitals(n_orders: int) -> int:
    """Of the last of so many orders over the same people.

    >>> fewest_hospitals(1), fewest_hospitals(2)
    (6, 8)
    """
    return 4 + 2 * n_orders


class MetaOrders(KeyedDatabase):
    """Those that were committed, by population."""

    def __init__(self, folder: Path, *, is_copy: bool = False) -> None:
        super().__init__(folder / "meta_orders.sqlite", _SCHEMA, is_copy=is_copy)

    def commit(
        self,
        order_id: int,
        *,
        populations: Iterable[str],
        n_hospitals: int,
        policy: Policy,
        now: datetime,
    ) -> None:
        """Counts an order, before anything of it leaves; one that starts again after a
        crash once.

        The order with the fewest hospitals decides. Raises Refused (code meta_orders).
        """
        # What may be told openly no further order has to hide.
        if policy.orders.hospital_sums:
            return
        days = policy.cohort.budget_days
        since = (now - timedelta(days=days)).timestamp()
        with self.alone(), self._open() as database:
            for population in sorted(spelling.lower() for spelling in populations):
                n_before, fewest_before = database.execute(
                    "SELECT COUNT(*), MIN(n_hospitals) FROM meta_orders"
                    " WHERE population = ? AND committed > ? AND order_id != ?",
                    (population, since, order_id),
                ).fetchone()
                fewest = min(n_hospitals, fewest_before or n_hospitals)
                _check(fewest, n_before, days)
                database.execute(
                    "INSERT OR IGNORE INTO meta_orders VALUES (?, ?, ?, ?)",
                    (order_id, population, n_hospitals, now.timestamp()),
                )


def _check(n_hospitals: int, n_before: int, days: int) -> None:
    least_hospitals = fewest_hospitals(n_before + 1)
    if n_hospitals >= least_hospitals:
        return
    before = "" if not n_before else f" after {n_before} over this table in {days} days"
    raise Refused(
        f"A meta-analysis{before} needs {least_hospitals} hospitals, each time: of fewer, single hospitals' estimates"
        " could be computed from what is added up.",
        remedy="Order pooling pooled, add hospitals, wait, or ask the hospital to allow hospital_sums under [orders] in"
        " its policy.toml.",
        code="meta_orders",
        threshold=least_hospitals,
    )
