"""The gate before whatever somebody will be able to open: of whom the totals are, held
against everything that left before.

Totals over sets of people that differ in a few give the values of these by subtraction,
and so do other combinations of them. An order says by `AskedSet` which sets its totals
are of; `reserve` audits them for each receiver, together with what it has
(`memory.py`) and what orders under way may give it, and reserves them. Both are one
act under one lock: of two orders at once the second sees the first.

To read next: `audited_sets.py`, which finds what does not pass. `regrouping.py` has the
second check, when all have accepted: of whole hospitals that answers leave alone.

Decisions 55, 70 and 118.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

from agents.gate.asked_sets import NO_CELL, AskedSet, AuditRules, EarlierCells, Reserved
from agents.gate.audited_sets import Audit, NewSet
from agents.gate.kept_sets import ColumnName, OpenedSet
from agents.gate.memory import Memory
from agents.gate.memory_transaction import Transaction
from analytics.arrays import let_go

# Orders count from 1.
NO_ORDER = 0


def reserve(
    memory: Memory,
    asked_sets: Sequence[AskedSet],
    *,
    receivers: Iterable[str],
    order_id: int,
    rules: AuditRules,
    has_ended: Callable[[int], bool],
    now: datetime,
    groups: Sequence[AskedSet] = (),
    cells: Sequence[AskedSet] = (),
    afterwards: Sequence[AskedSet] = (),
    kept_as: Mapping[str, str] | None = None,
) -> Reserved:
    """Lets an order's totals pass or refuses it; reserved until `memory.commit` or
    `memory.drop`.

    The sets of `asked_sets` are audited together and refuse the order, those of
    `groups` one name after the other, largest first: one that would tell a few people
    is withheld, and the others pass without it. `cells` are groups whose thresholds are
    on the sum of all hospitals: what hides few people here are the others' rows, so
    that a cell is compared with the same cell of earlier answers only, jointly. They
    are all reserved, but for those that are named NO_CELL. The sets of `afterwards` are
    groups that are judged as if they were asked when all others have been told. What
    the same order has reserved before is replaced. kept_as: by the name of a total in
    this order the one that it is remembered by, where the order asks several questions,
    and each is to be remembered as if it had been asked by itself.
    `has_ended` says of an order whether it has ended at this hospital: its reservation
    goes. Sets that an earlier version has kept in another form are compared by people
    alone.

    Raises Refused (code earlier_cohort; audit_size where it cannot be decided). Where
    only reservations of orders under way are in the way, it names the order to wait for.

    Disclosure: a refusal or a withheld group shows that a few people's values could be
    computed, not of how many or whom.
    """
    readers = sorted(set(receivers))
    if not readers:
        return Reserved(set(), EarlierCells())
    everything = [*asked_sets, *groups, *afterwards, *cells]
    has_whole_sets_only = not (groups or afterwards or cells)
    kept_names = kept_as or {}
    with alone(memory, everything, rules, now) as transaction:
        # First: what nobody will open any more must not refuse this order.
        drop_ended(transaction, order_id, has_ended)
        audit = Audit(transaction, order_id, rules)
        if has_whole_sets_only:
            _reserve_columns(transaction, audit, asked_sets, readers, kept_names, now)
            return Reserved(set(), EarlierCells())
        whole_sets = audit.number(asked_sets)
        audit.check(readers, whole_sets)
        shown_groups = _pass_groups(audit, readers, whole_sets, groups, afterwards)
        numbered_cells = audit.number(cells)
        earlier = audit.changed_cells(readers, numbered_cells)
        told_cells = [cell for cell in numbered_cells if cell.opened.name != NO_CELL]
        kept_sets = _kept([*whole_sets, *shown_groups, *told_cells], kept_names)
        transaction.keep(readers, kept_sets, at=now)
    withheld = {group.name for group in [*groups, *afterwards]}
    withheld -= {group.opened.name for group in shown_groups}
    return Reserved(withheld, earlier)


def _pass_groups(
    audit: Audit,
    readers: Sequence[str],
    whole_sets: Sequence[NewSet],
    groups: Sequence[AskedSet],
    afterwards: Sequence[AskedSet],
) -> list[NewSet]:
    """The groups that pass: those of `groups` beside the whole sets, then those of
    `afterwards` as if all these had been told.
    """
    numbered_groups = audit.number(groups)
    shown_first = audit.pass_groups(readers, whole_sets, numbered_groups)
    numbered_afterwards = audit.number(afterwards)
    told_sets = [*whole_sets, *shown_first]
    shown_afterwards = audit.pass_groups(
        readers, [], numbered_afterwards, told_sets=told_sets
    )
    return [*shown_first, *shown_afterwards]


def _reserve_columns(
    transaction: Transaction,
    audit: Audit,
    asked_sets: Sequence[AskedSet],
    readers: Sequence[str],
    kept_as: Mapping[str, str],
    now: datetime,
) -> None:
    """Audits and keeps whole sets, those of one column after those of the other, so that
    memory holds the members of one: members of two columns are never compared (decision 138).

    What is refused takes back all of them, as they are in one transaction.
    """
    by_column: dict[ColumnName, list[AskedSet]] = {}
    for asked_set in asked_sets:
        column = ColumnName(
            asked_set.population,
            asked_set.column,
            asked_set.form,
        )
        of_column = by_column.setdefault(column, [])
        of_column.append(asked_set)
    for column, of_column in by_column.items():
        whole_sets = audit.number(of_column)
        audit.check(readers, whole_sets)
        transaction.keep(
            readers,
            _kept(whole_sets, kept_as),
            at=now,
        )
        transaction.let_go(column)
        for asked_set in of_column:
            let_go(asked_set.values)


def _kept(
    sets: Iterable[NewSet],
    kept_as: Mapping[str, str],
) -> list[OpenedSet]:
    kept_sets = []
    for new_set in sets:
        asked_name = new_set.opened.name
        kept_name = kept_as.get(asked_name, asked_name)
        kept_sets.append(replace(new_set.opened, name=kept_name))
    return kept_sets


@contextmanager
def alone(
    memory: Memory,
    asked_sets: Sequence[AskedSet],
    rules: AuditRules,
    now: datetime,
) -> Iterator[Transaction]:
    """The memory, and no other order meanwhile, without sets that nobody has to be
    compared with any more.
    """
    with memory.alone():
        # In a step of its own: a refusal takes back what is written beside it.
        with memory.opened() as transaction:
            for form in {asked_set.form for asked_set in asked_sets}:
                transaction.drop_old_forms(
                    than=form,
                    now=now,
                    days=rules.budget_days,
                )
        with memory.opened() as transaction:
            yield transaction


def drop_ended(
    transaction: Transaction,
    order_id: int,
    has_ended: Callable[[int], bool],
) -> None:
    """What this order has reserved before, and what orders have that ended since."""
    for under_way in transaction.orders_under_way():
        if under_way == order_id or has_ended(under_way):
            transaction.drop(under_way)
