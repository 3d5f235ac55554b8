"""How many rounds of training each receiver has had of a population, in the vault.

Every round is one more sum over the same rows. Who is given enough of them can solve for
single rows, so a hospital's policy says how many a receiver may have in a number of days
(`max_rounds` and `budget_days` under [cohort]).

Decision 71.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from agents.gate.kept_sets import COORDINATOR
from agents.site.vault_database import KeyedDatabase
from protocol.errors import Refused
from protocol.policy import CohortRules

_SCHEMA = """
CREATE TABLE IF NOT EXISTS rounds (
    order_id INTEGER NOT NULL, receiver TEXT NOT NULL, population TEXT NOT NULL,
    n_rounds INTEGER NOT NULL, committed REAL NOT NULL,
    PRIMARY KEY (order_id, receiver, population)
) WITHOUT ROWID;
"""


class Spent(NamedTuple):
    """What a receiver has had of a population."""

    receiver: str  # a user id, or coordinator
    population: str  # a table of the policy
    n_rounds: int


class RoundBudget(KeyedDatabase):
    """The rounds that were committed, per order, receiver and population.

    An order counts with all rounds that it may take, even where it ends sooner.
    """

    def __init__(self, folder: Path, *, is_copy: bool = False) -> None:
        super().__init__(folder / "rounds.sqlite", _SCHEMA, is_copy=is_copy)

    def commit(
        self,
        order_id: int,
        *,
        receivers: Iterable[str],
        populations: Iterable[str],
        n_rounds: int,
        rules: CohortRules,
        now: datetime,
    ) -> None:
        """Counts an order's rounds, all or none, before anything of them leaves.

        In one act with the comparison, so that of two orders at once both count.
        Idempotent: an order that starts again after a crash is counted once.

        Raises Refused (code max_rounds), which says how many are left.
        """
        receivers = sorted(receivers)
        # A policy that is edited may spell a table otherwise: what was spent of it
        # counts on.
        populations = sorted(spelling.lower() for spelling in populations)
        since = _since(now, rules)
        with self.alone(), self._open() as database:
            for receiver in receivers:
                for population in populations:
                    n_before = _n_rounds(
                        database, receiver, population, since, without=order_id
                    )
                    _check(receiver, n_rounds, n_before, rules)
                    database.execute(
                        "INSERT OR IGNORE INTO rounds VALUES (?, ?, ?, ?, ?)",
                        (order_id, receiver, population, n_rounds, now.timestamp()),
                    )

    def spent(self, *, rules: CohortRules, now: datetime) -> list[Spent]:
        """What counts today, the most first."""
        spent_query = (
            "SELECT receiver, population, SUM(n_rounds) FROM rounds WHERE committed > ?"
            " GROUP BY receiver, population ORDER BY 3 DESC, 1, 2"
        )
        with self._open() as database:
            rows = database.execute(spent_query, (_since(now, rules),)).fetchall()
        return [Spent(*row) for row in rows]


def _since(now: datetime, rules: CohortRules) -> float:
    return (now - timedelta(days=rules.budget_days)).timestamp()


def _n_rounds(
    database: sqlite3.Connection,
    receiver: str,
    population: str,
    since: float,
    *,
    without: int,
) -> int:
    query = (
        "SELECT COALESCE(SUM(n_rounds), 0) FROM rounds"
        " WHERE receiver = ? AND population = ? AND committed > ? AND order_id != ?"
    )
    row = database.execute(query, (receiver, population, since, without)).fetchone()
    return int(row[0])


def _check(receiver: str, n_rounds: int, n_before: int, rules: CohortRules) -> None:
    n_left = max(0, rules.max_rounds - n_before)
    if n_rounds <= n_left:
        return
    who = "The coordinator" if receiver == COORDINATOR else f"Hospital {receiver}"
    raise Refused(
        f"{who} has {n_left} of {rules.max_rounds} rounds left here in {rules.budget_days} days; this order may take"
        f" {n_rounds}.",
        remedy="Use fewer rounds or folds, wait, or ask the hospital to raise max_rounds under [cohort] in its"
        " policy.toml.",
        code="max_rounds",
        threshold=rules.max_rounds,
    )
