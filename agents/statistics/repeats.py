"""The rows and groups of an order of joint statistics beside those of earlier ones: what may be asked again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from agents.gate import disclosure
from agents.gate.disclosure import Label, Sketch, Withheld
from agents.rows import exact_totals
from agents.rows.dataset import Dataset
from agents.statistics.party import VerifiedStatistics
from protocol.errors import Refused
from protocol.messages import canonical


@dataclass(frozen=True)
class AskedRows:
    """Rows that an order is over: what they are called in this hospital's statistics ledger, a sketch of them, and how
    many they are."""

    name: str
    sketch: Sketch
    n_rows: int


def data_name(party: VerifiedStatistics, dataset: Dataset) -> str:
    """What a provider's data are called from order to order: a file by itself, all that is in the database alike.

    Who asks writes the SELECT, and could write each differently; it is known by its rows.
    """
    kind = party.request.provider(party.me).data_type
    return "database" if kind in ("table", "sql") else canonical([kind, dataset.name])


def rows_of(
    party: VerifiedStatistics, dataset: Dataset, columns: Sequence[str], *, complete: Sequence[str] = ()
) -> AskedRows:
    """The rows of a dataset with these columns: those that an answer is made of, which have a value in `complete`.

    A row without one changes no answer, and so must not count as a row that has changed.
    """
    ordered, needed = sorted(set(columns)), sorted(set(complete))
    name = canonical([data_name(party, dataset), ordered, needed])
    return AskedRows(name, *exact_totals.sketch(dataset, ordered, complete=needed))


def check_gate(party: VerifiedStatistics, rows: AskedRows) -> bool:
    """Compares rows with those of earlier orders on the same data of which this requester, or another opener of a
    quantile, was told.

    True where a schedule's rows have changed by fewer than the gate allows, so that its last result stands again.
    Raises Refused (code earlier_cohort) for such a change in any other order. Columns of few different values change in
    few cells of a sketch whatever the rows do; so rows are other ones too where min_rows have come or gone.
    """
    try:
        _compare(party, rows)
    except Refused:
        if party.order.repeats is None:
            raise
        return True
    return False


def remember_rows(party: VerifiedStatistics, *rows: AskedRows) -> None:
    """Writes them down, all or none, before anything of them leaves.

    Not sooner: who corrects a row that could not be read has had no answer to compare with. They are compared again as
    the same step: of two orders at once, over rows that differ by a few, one is refused, a schedule's too.
    """
    with party.ledger.alone():
        for asked in rows:
            _compare(party, asked)
        party.ledger.remember(party.told, _packed(rows), order_id=party.order_id)


def _packed(rows: Sequence[AskedRows]) -> dict[str, Sketch]:
    return {asked.name: np.append(asked.sketch, np.uint64(asked.n_rows)) for asked in rows}


def _compare(party: VerifiedStatistics, rows: AskedRows) -> None:
    min_rows = party.rules.min_rows
    earlier = (_taken_apart(cells) for cells in party.ledger.earlier(party.told, rows.name))
    near = (sketch for sketch, n_rows in earlier if abs(n_rows - rows.n_rows) < min_rows)
    disclosure.check_sketch(rows.sketch, near, party.rules)


def _taken_apart(cells: Sketch) -> tuple[Sketch, int]:
    """Inverse of how `remember_rows` puts a sketch and the number of rows together."""
    return cells[:-1], int(cells[-1])


@dataclass(frozen=True)
class AskedGroups:
    """The groups of an order's rows, as this hospital's ledger compares them one by one: how many rows, a sketch."""

    name: str
    sketches: dict[Label, Sketch]


def groups_of(party: VerifiedStatistics, dataset: Dataset, summed: Sequence[str]) -> AskedGroups:
    """The groups of the rows that have a value in the `summed` columns."""
    groups = party.request.group_by or []
    name = canonical(["groups", data_name(party, dataset), sorted(summed), groups])
    found = exact_totals.group_sketches(dataset, sorted(summed), complete=summed, group_by=groups)
    return AskedGroups(name, found)


def remember_groups(
    party: VerifiedStatistics,
    rows: Sequence[AskedRows],
    asked: AskedGroups,
    withhold: Callable[[set[Label]], dict[Label, Withheld]],
) -> dict[Label, Withheld]:
    """As `remember_rows`, and of the groups those that are to be told; what `withhold` gave, which are not.

    `withhold` is given the groups of which 1 to min_rows - 1 rows have changed since an earlier answer to one of
    those who are told. As one step: of two orders at once, over groups that differ by a few, one withholds them.
    """
    with party.ledger.alone():
        for one in rows:
            _compare(party, one)
        withheld = withhold(_near_groups(party, asked))
        shown = _packed(rows) | _packed_groups(asked, withheld)
        party.ledger.remember(party.told, shown, order_id=party.order_id)
    return withheld


def _near_groups(party: VerifiedStatistics, asked: AskedGroups) -> set[Label]:
    """Those of which 1 to min_rows - 1 rows have changed since an earlier answer to one of the same hospitals."""
    least, near = party.rules.min_rows, set()
    for packed in party.ledger.earlier(party.told, asked.name):
        earlier = {int(row[0]): row[1:] for row in packed.reshape(-1, 2 + exact_totals.GROUP_CELLS)}
        for label, sketch in asked.sketches.items():
            other = earlier.get(_label_digest(label))
            if other is None or abs(int(other[0]) - int(sketch[0])) >= least:
                continue
            if 0 < np.count_nonzero(other[1:] != sketch[1:]) < least:
                near.add(label)
    return near


def _packed_groups(asked: AskedGroups, withheld: Collection[Label]) -> dict[str, Sketch]:
    """Nothing where none is told."""
    told = sorted((_label_digest(label), label) for label in asked.sketches if label not in withheld)
    if not told:
        return {}
    return {
        asked.name: np.concatenate(
            [np.append(np.uint64(digest), asked.sketches[label]) for digest, label in told]
        )
    }


def _label_digest(label: Label) -> int:
    return int.from_bytes(hashlib.blake2b(canonical(list(label)).encode(), digest_size=8).digest(), "big")
