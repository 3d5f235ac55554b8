"""The rows and groups of an order of joint statistics beside those of earlier ones: what may be asked again.

Two answers whose rows differ by a few people give the values of these by subtraction. So a hospital keeps a sketch of
what every answer was made of (decision 38), and compares. `agents/gate/disclosure.py` has the rule,
`agents/gate/earlier_questions.py` the file in the vault; here is which rows and which groups are compared, and when.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from agents.gate import disclosure
from agents.gate.disclosure import Label, Sketch, Withheld
from agents.rows import exact_totals
from agents.rows.dataset import Dataset
from agents.statistics.party import StatisticsParty
from protocol.errors import Refused
from protocol.messages import canonical

# Rows


@dataclass(frozen=True)
class AskedRows:
    """Rows that an order is over."""

    # What they are called in this hospital's statistics ledger: the data, the columns, and where a value is needed.
    name: str
    # (SKETCH_CELLS,): sets of rows that differ by d rows differ in d cells at most.
    sketch: Sketch
    n_rows: int


def data_name(party: StatisticsParty, dataset: Dataset) -> str:
    """What a provider's data are called from order to order: a file by itself, all that is in the database alike.

    Who asks writes the SELECT, and could write each differently; it is known by its rows.
    """
    kind = party.request.provider(party.me).data_type
    if kind in ("table", "sql"):
        return "database"
    return canonical([kind, dataset.name])


def rows_of(
    party: StatisticsParty, dataset: Dataset, columns: Sequence[str], *, complete: Sequence[str] = ()
) -> AskedRows:
    """The rows of a dataset with these columns: those that an answer is made of, which have a value in `complete`.

    A row without one changes no answer, and so must not count as a row that has changed.
    """
    ordered = sorted(set(columns))
    needed = sorted(set(complete))
    name = canonical([data_name(party, dataset), ordered, needed])
    sketch, n_rows = exact_totals.sketch(dataset, ordered, complete=needed)
    return AskedRows(name, sketch, n_rows)


def check_gate(party: StatisticsParty, asked: AskedRows) -> bool:
    """Compares rows with those of earlier orders on the same data, of which one of `party.readers` has an answer.

    True where a schedule's rows have changed by fewer than the gate allows, so that its last result stands again.
    Raises Refused (code earlier_cohort) for such a change in any other order.
    """
    try:
        _compare(party, asked)
    except Refused:
        is_of_schedule = party.order.repeats is not None
        if not is_of_schedule:
            raise
        return True
    return False


def remember_rows(party: StatisticsParty, *rows: AskedRows) -> None:
    """Writes them down, all or none, before anything of them leaves.

    Not sooner: who corrects a row that could not be read has had no answer to compare with.
    """
    # Compared again in the same step (decision 55): of two orders at once, over rows that differ by a few, one is
    # refused, a schedule's too.
    with party.ledger.alone():
        for asked in rows:
            _compare(party, asked)
        party.ledger.remember(party.readers, _packed_rows(rows), order_id=party.order_id)


def _compare(party: StatisticsParty, asked: AskedRows) -> None:
    """Raises Refused (code earlier_cohort) for rows that differ by a few from those of an earlier order."""
    disclosure.check_sketch(asked.sketch, _near_sketches(party, asked), party.rules)


def _near_sketches(party: StatisticsParty, asked: AskedRows) -> Iterator[Sketch]:
    """The sketches of earlier rows that may differ from these by fewer than min_rows; one at a time in memory."""
    for packed in party.ledger.earlier(party.readers, asked.name):
        sketch, n_rows = packed[:-1], int(packed[-1])
        # Columns of few different values change in few cells of a sketch, whatever their rows do. Where min_rows have
        # come or gone, the rows are other ones whatever the sketch says.
        if abs(n_rows - asked.n_rows) < party.rules.min_rows:
            yield sketch


def _packed_rows(rows: Sequence[AskedRows]) -> dict[str, Sketch]:
    """As the ledger keeps them: the cells, and behind them the number of rows."""
    return {asked.name: np.append(asked.sketch, np.uint64(asked.n_rows)) for asked in rows}


# Groups


@dataclass(frozen=True)
class AskedGroups:
    """The groups of an order's rows, as this hospital's ledger compares them one by one."""

    name: str
    # Of each group (1 + GROUP_CELLS,): the number of rows, then a sketch.
    sketches: dict[Label, Sketch]


def groups_of(party: StatisticsParty, dataset: Dataset, summed: Sequence[str]) -> AskedGroups:
    """The groups of the rows that have a value in the `summed` columns."""
    group_by = party.request.group_by or []
    ordered = sorted(summed)
    name = canonical(["groups", data_name(party, dataset), ordered, group_by])
    sketches = exact_totals.group_sketches(dataset, ordered, complete=summed, group_by=group_by)
    return AskedGroups(name, sketches)


def remember_groups(
    party: StatisticsParty,
    rows: Sequence[AskedRows],
    groups: AskedGroups,
    withhold: Callable[[set[Label]], dict[Label, Withheld]],
) -> dict[Label, Withheld]:
    """As `remember_rows`, and of the groups those that are shown; returns what `withhold` gave, which are not.

    `withhold` is given the groups of which 1 to min_rows - 1 rows have changed since an earlier answer to one of
    `party.readers`.
    """
    # One step (decision 55): of two orders at once, over groups that differ by a few, one withholds them.
    with party.ledger.alone():
        for asked in rows:
            _compare(party, asked)
        withheld = withhold(_near_groups(party, groups))
        kept = _packed_rows(rows) | _packed_groups(groups, withheld)
        party.ledger.remember(party.readers, kept, order_id=party.order_id)
    return withheld


def _near_groups(party: StatisticsParty, groups: AskedGroups) -> set[Label]:
    """Those of which 1 to min_rows - 1 rows have changed since an earlier answer to one of the same hospitals."""
    min_rows = party.rules.min_rows
    near = set()
    for packed in party.ledger.earlier(party.readers, groups.name):
        # A line of the table is a group: digest of its label, number of rows, sketch.
        table = packed.reshape(-1, 2 + exact_totals.GROUP_CELLS)
        earlier = {int(line[0]): line[1:] for line in table}
        for label, sketch in groups.sketches.items():
            other = earlier.get(_label_digest(label))
            if other is None:
                continue
            n_come_or_gone = abs(int(other[0]) - int(sketch[0]))
            n_changed_cells = np.count_nonzero(other[1:] != sketch[1:])
            if n_come_or_gone < min_rows and 0 < n_changed_cells < min_rows:
                near.add(label)
    return near


def _packed_groups(groups: AskedGroups, withheld: Collection[Label]) -> dict[str, Sketch]:
    """As the ledger keeps the groups that are shown; nothing where none is."""
    shown = {
        _label_digest(label): sketch for label, sketch in groups.sketches.items() if label not in withheld
    }
    if not shown:
        return {}
    # By digest, so that the same groups are the same bytes in whatever order they were read.
    lines = [np.append(np.uint64(digest), shown[digest]) for digest in sorted(shown)]
    return {groups.name: np.concatenate(lines)}


def _label_digest(label: Label) -> int:
    """64 bits in the place of a group's name, which stays out of the vault."""
    digest = hashlib.blake2b(canonical(list(label)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
