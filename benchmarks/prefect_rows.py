"""How many rows an order has in Prefect's own tables (SQLite), and how many one of
another size has.

Counted are flow runs and task runs, and the states of both: tables flow_run, task_run,
flow_run_state, task_run_state. Events, which Prefect deletes after hours, are counted
apart.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROUND = ", round "
"""Stands in the name of a task run of a round."""


@dataclass(frozen=True)
class Rows:
    """Of one order, or of one part of it."""

    flow_runs: int
    task_runs: int
    flow_run_states: int
    task_run_states: int
    events: int

    @property
    def total(self) -> int:
        """Without events."""
        runs = self.flow_runs + self.task_runs
        return runs + self.flow_run_states + self.task_run_states


@dataclass(frozen=True)
class OrderRows:
    """Of one order: who has how many."""

    hospitals: dict[str, Rows]  # by the name of a hospital's flow run
    around: Rows  # the coordinator's, outside of rounds
    in_rounds: Rows  # the coordinator's of all rounds together
    n_rounds: int  # that its rounds were, the final metrics among them

    @property
    def total(self) -> int:
        of_hospitals = sum(rows.total for rows in self.hospitals.values())
        return of_hospitals + self.around.total + self.in_rounds.total

    def foreseen(self, n_hospitals: int, n_rounds: int) -> int:
        """Rows of such an order with other numbers, of hospitals that show their whole
        work as one task:

            rows = hospitals * h + a + (rounds + 1) * r

        h the most that one hospital has here, a the coordinator's outside of rounds, r
        its rows of one round; the final metrics are one round more.
        """
        each = max(rows.total for rows in self.hospitals.values())
        in_round = self.in_rounds.total / self.n_rounds
        return round(n_hospitals * each + self.around.total + (n_rounds + 1) * in_round)


def rows_of(database: Path, order_id: int) -> OrderRows:
    """Reads Prefect's database, of a server that may be running."""
    # Read only, so that nothing here waits for its lock or holds it.
    address = f"file:{database}?mode=ro"
    with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
        runs = connection.execute(
            "SELECT id, name FROM flow_run WHERE EXISTS"
            " (SELECT 1 FROM json_each(flow_run.tags) WHERE value = ?)",
            (f"order-{order_id}",),
        ).fetchall()
        hospitals = {}
        coordinators = []
        for run_id, name in runs:
            if "hospital" in name:
                tasks = _task_runs(connection, run_id)
                hospitals[name] = _count(connection, [run_id], list(tasks))
            else:
                coordinators.append(run_id)
        around, in_rounds = [], []
        rounds = set()
        for run_id in coordinators:
            for task_id, name in _task_runs(connection, run_id).items():
                _, is_of_round, place = name.partition(ROUND)
                if is_of_round:
                    rounds.add(place)
                    in_rounds.append(task_id)
                else:
                    around.append(task_id)
        return OrderRows(
            hospitals=hospitals,
            around=_count(connection, coordinators, around),
            in_rounds=_count(connection, [], in_rounds),
            n_rounds=len(rounds),
        )


def _task_runs(connection: sqlite3.Connection, run_id: str) -> dict[str, str]:
    query = "SELECT id, name FROM task_run WHERE flow_run_id = ?"
    return dict(connection.execute(query, (run_id,)).fetchall())


def _count(
    connection: sqlite3.Connection, flow_runs: list[str], task_runs: list[str]
) -> Rows:
    n_events = 0
    for kind, ids in (("flow-run", flow_runs), ("task-run", task_runs)):
        names = [f"prefect.{kind}.{run_id}" for run_id in ids]
        n_events += _among(connection, "events", "resource_id", names)
    return Rows(
        flow_runs=len(flow_runs),
        task_runs=len(task_runs),
        flow_run_states=_among(connection, "flow_run_state", "flow_run_id", flow_runs),
        task_run_states=_among(connection, "task_run_state", "task_run_id", task_runs),
        events=n_events,
    )


def _among(
    connection: sqlite3.Connection, table: str, column: str, values: Iterable[str]
) -> int:
    n_rows = 0
    for value in values:
        query = f"SELECT count(*) FROM {table} WHERE {column} = ?"
        (n,) = connection.execute(query, (value,)).fetchone()
        n_rows += n
    return n_rows
