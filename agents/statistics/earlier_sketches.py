"""The rows and groups of an order of joint statistics beside the sketches that an earlier
version has kept of what it answered.

They are compared for some weeks after the upgrade, as that version did; then the
sketches are forgotten (`StatisticsLedger.keeps_sketches`), and this module can go. What
is answered from now on is in `agents/gate/memory.py`.

Decision 38.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from agents.gate import disclosure
from agents.gate.disclosure import Sketch
from agents.gate.withheld_groups import Label
from agents.rows import row_sketches
from agents.rows.dataset import Dataset
from agents.statistics.party import (
    AskedStatistics,
    data_name,
)
from protocol.errors import Refused
from protocol.messages import canonical


def keeps_sketches(party: AskedStatistics) -> bool:
    return party.ledger.keeps_sketches(now=datetime.now(UTC))


# Rows


@dataclass(frozen=True)
class AskedRows:
    """Rows that an order is over."""

    # What they are called in this hospital's statistics ledger: the data, the columns,
    # and where a value is needed.
    name: str
    # (SKETCH_CELLS,): sets of rows that differ by d rows differ in d cells at most.
    sketch: Sketch
    n_rows: int


def rows_of(
    party: AskedStatistics,
    dataset: Dataset,
    columns: Sequence[str],
    *,
    complete: Sequence[str] = (),
) -> AskedRows:
    """The rows of a dataset with these columns: those that an answer is made of, which
    have a value in `complete`.

    A row without one changes no answer, and so must not count as a row that has
    changed.
    """
    ordered = sorted(set(columns))
    complete_columns = sorted(set(complete))
    data = data_name(party, dataset)
    sketch_name = canonical([data, ordered, complete_columns])
    sketch, n_rows = row_sketches.sketch(dataset, ordered, complete=complete_columns)
    return AskedRows(sketch_name, sketch, n_rows)


def is_near_earlier(party: AskedStatistics, asked_rows: AskedRows) -> bool:
    """Compares rows with those of earlier orders on the same data, of which one of
    `party.readers` has an answer.

    True where a schedule's rows have changed by fewer than the gate allows, so that its
    last result stands again. Raises Refused (code earlier_cohort) for such a change in
    any other order.
    """
    earlier = _near_sketches(party, asked_rows)
    try:
        disclosure.check_sketch(asked_rows.sketch, earlier, party.rules)
    except Refused:
        is_of_schedule = party.order.repeats is not None
        if not is_of_schedule:
            raise
        return True
    return False


def _near_sketches(party: AskedStatistics, asked_rows: AskedRows) -> Iterator[Sketch]:
    """The sketches of earlier rows that may differ from these by fewer than min_rows;
    one at a time in memory.
    """
    for packed in party.ledger.earlier(party.readers, asked_rows.name):
        sketch = packed[:-1]
        n_rows = int(packed[-1])
        n_come_or_gone = abs(n_rows - asked_rows.n_rows)
        # Columns of few different values change in few cells of a sketch, whatever
        # their rows do. Where min_rows have come or gone, the rows are other ones
        # whatever the sketch says.
        if n_come_or_gone < party.rules.min_rows:
            yield sketch


# Groups


@dataclass(frozen=True)
class AskedGroups:
    """The groups of an order's rows, as this hospital's ledger compares them one by
    one.
    """

    name: str
    # Of each group (1 + GROUP_CELLS,): the number of rows, then a sketch.
    sketches: dict[Label, Sketch]


def groups_of(
    party: AskedStatistics,
    dataset: Dataset,
    summed: Sequence[str],
) -> AskedGroups:
    """The groups of the rows that have a value in the `summed` columns."""
    group_by = party.request.grouping
    ordered = sorted(summed)
    data = data_name(party, dataset)
    sketch_name = canonical(["groups", data, ordered, group_by])
    sketches = row_sketches.group_sketches(
        dataset,
        ordered,
        complete=summed,
        group_by=group_by,
    )
    return AskedGroups(sketch_name, sketches)


def near_groups(party: AskedStatistics, groups: AskedGroups) -> set[Label]:
    """Those of which 1 to min_rows - 1 rows have changed since an earlier answer to one
    of the same hospitals.
    """
    min_rows = party.rules.min_rows
    near = set()
    for packed in party.ledger.earlier(party.readers, groups.name):
        # A line of the table is a group: digest of its label, number of rows, sketch.
        n_cells = 2 + row_sketches.GROUP_CELLS
        group_table = packed.reshape(-1, n_cells)
        earlier = {}
        for group_line in group_table:
            digest = int(group_line[0])
            earlier[digest] = group_line[1:]
        for label, sketch in groups.sketches.items():
            digest = _label_digest(label)
            earlier_sketch = earlier.get(digest)
            if earlier_sketch is None:
                continue
            n_rows = int(sketch[0])
            n_rows_before = int(earlier_sketch[0])
            n_come_or_gone = abs(n_rows_before - n_rows)
            is_changed = earlier_sketch[1:] != sketch[1:]
            n_changed_cells = np.count_nonzero(is_changed)
            if n_come_or_gone < min_rows and 0 < n_changed_cells < min_rows:
                near.add(label)
    return near


def _label_digest(label: Label) -> int:
    """64 bits in the place of a group's name, which stays out of the vault."""
    label_text = canonical(list(label))
    digest = hashlib.blake2b(label_text.encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "big")
