"""Of which people the totals of an order are, and what came of asking: the sets that
`cohort_audit.py` holds against earlier ones, what has changed in cells, what is reserved.

Decision 55.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from agents.gate.kept_sets import OpenedSet
from agents.gate.members import Digests, told_apart
from agents.rows.canonical import Members
from agents.rows.row_tables import is_in_order
from analytics.arrays import Ints, let_go
from analytics.statistics.hospital_audit import Part
from protocol.policy import Policy


@dataclass(frozen=True, eq=False)
class AskedSet:
    """The people of a total that somebody will be able to open, under one of the
    columns that it depends on.
    """

    # The table or file that they are of, as the policy names it.
    population: str
    column: str
    # Of the total within its order: sets of one total under several columns have one
    # name.
    name: str
    # (n,): of each row that was read. Values are told apart (`members.told_apart`).
    ids: Digests
    values: Digests
    form: str
    # The places of the rows in the total; None where all are.
    rows: Ints | None = None
    # An id is the digest of a whole row: a value that changes is one gone and one come.
    is_whole_row: bool = False
    # The coefficient in the total of each other hospital, or of its column, relative to
    # that of one's own.
    parts: Mapping[Part, Fraction] = field(default_factory=dict)


def asked_sets(
    members: Members,
    policy: Policy,
    *,
    population: str,
    columns: Iterable[str],
    rows: Mapping[str, Ints],
    parts: Mapping[Part, Fraction],
) -> list[AskedSet]:
    """The sets of an order's totals, under each of the columns that they depend on.

    members: of all rows that were read; rows: by a total's name the places of the rows
    in it; population: as a reading names it, a table or "file NAME".
    """
    unit, ids = "persons", members.ids
    if members.is_whole_row:
        # Two equal rows are of two people, as far as anybody knows.
        unit, ids = "whole rows", told_apart(np.zeros_like(ids), ids)
    # All rows need no list of their places.
    places_of: dict[str, Ints | None] = {}
    for total_name, places in rows.items():
        places_of[total_name] = None if is_in_order(places, ids.size) else places
    sets = []
    for column in columns:
        values = members.values[column]
        under = {column.lower(): told_apart(ids, values)}
        shared = policy.shared_column(column)
        if shared is not None:
            # Another column tells the same in other words: people alone can be
            # compared.
            under[shared] = told_apart(ids, np.zeros_like(values))
        for column_name, of_column in under.items():
            for total_name, of_total in places_of.items():
                asked_set = AskedSet(
                    population=policy.population(population),
                    column=column_name,
                    name=total_name,
                    ids=ids,
                    values=of_column,
                    form=f"{members.form}, {unit}",
                    rows=of_total,
                    is_whole_row=members.is_whole_row,
                    parts=parts,
                )
                sets.append(asked_set)
        let_go(values)
    return sets


NO_CELL = ""
"""The name of a set without anybody: under its column there may be cells of which this
hospital has no rows any more.
"""


@dataclass(frozen=True)
class Change:
    """People of a cell at this hospital since an earlier answer: who has come and who
    has gone, the fewest and the most of the columns that the answers are compared by.
    """

    come: tuple[int, int] = (0, 0)
    gone: tuple[int, int] = (0, 0)
    # By this hospital alone they would be too few to be compared.
    is_few: bool = False

    def beside(self, other: Change) -> Change:
        """Of both columns together."""
        return Change(
            _span(self.come, other.come),
            _span(self.gone, other.gone),
            self.is_few or other.is_few,
        )


NO_CHANGE = Change()


@dataclass
class EarlierCells:
    """What receivers have of cells like those of an order."""

    # By order, who has its answer, and the names of what it was of.
    receivers: dict[int, set[str]] = field(default_factory=dict)
    names: dict[int, set[str]] = field(default_factory=dict)
    # By order and by name of a cell that this hospital has, or had.
    changes: dict[int, dict[str, Change]] = field(default_factory=dict)

    def add_answers(
        self,
        receiver: str,
        sets: Iterable[OpenedSet],
        answers: dict[int, dict[str, OpenedSet]],
    ) -> None:
        """Takes down who has them, and adds them to `answers` by order and name."""
        for opened_set in sets:
            self.receivers.setdefault(opened_set.order_id, set()).add(receiver)
            self.names.setdefault(opened_set.order_id, set()).add(opened_set.name)
            answers.setdefault(opened_set.order_id, {})[opened_set.name] = opened_set

    def add_change(self, order_id: int, name: str, change: Change) -> None:
        of_order = self.changes.setdefault(order_id, {})
        if name in of_order:
            change = of_order[name].beside(change)
        of_order[name] = change


def _span(first: tuple[int, int], second: tuple[int, int]) -> tuple[int, int]:
    """The fewest and the most of both."""
    return min(*first, *second), max(*first, *second)


@dataclass(frozen=True)
class Reserved:
    """What of an order passes beside what left before."""

    # Names of groups that must be withheld.
    withheld: set[str]
    # With what the cells have to be compared jointly.
    earlier: EarlierCells

    @property
    def near(self) -> set[str]:
        """Cells of which this hospital alone has a few changed people."""
        near_cells = set()
        for changes in self.earlier.changes.values():
            near_cells |= {name for name, change in changes.items() if change.is_few}
        return near_cells


@dataclass(frozen=True)
class AuditRules:
    """What this hospital's policy asks of every combination of totals."""

    # The fewest persons of this hospital whose total a combination may tell.
    min_rows: int
    # The fewest hospitals whose total it may tell, by this hospital's policy.
    least_hospitals: int
    # For so many days sets in which an earlier version has written values otherwise
    # count, by people alone.
    budget_days: int
