"""The gate before whatever somebody will be able to open: of whom the totals are, held
against everything that left before.

Totals over sets of people that differ in a few give the values of these by subtraction,
and so do other combinations of them. An order says by `AskedSet` which sets its totals
are of; `reserve` audits them for each receiver, together with what it has
(`memory.py`) and what orders under way may give it, and reserves them. Both are one
act under one lock: of two orders at once the second sees the first.

`regrouping.py` has the second check, when all have accepted: of whole hospitals that
answers leave alone. The mathematics is in `analytics.statistics.audit`.

Decisions 55 and 70.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from agents.gate.members import Digests, distinct_numbers, told_apart
from agents.gate.memory import ColumnName, Memory, OpenedSet, Transaction
from agents.rows.canonical import Members
from analytics.arrays import Ints
from analytics.statistics.audit import (
    Part,
    Verdict,
    audit_people,
    draw_prime,
)
from protocol.errors import Refused
from protocol.policy import Policy

EARLIER_COHORT = "earlier_cohort"
AUDIT_SIZE = "audit_size"
# Orders count from 1.
NO_ORDER = 0


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
    # (n,): of each row that was read. Values are told apart (`memory.told_apart`).
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
    sets = []
    for column in columns:
        values = members.values[column]
        under = {column.lower(): told_apart(ids, values)}
        shared = policy.shared_column(column)
        if shared is not None:
            # Another column tells the same in other words: people alone can be
            # compared.
            under[shared] = told_apart(ids, np.zeros_like(values))
        for key, of_key in under.items():
            for name, places in rows.items():
                asked = AskedSet(
                    population=policy.population(population),
                    column=key,
                    name=name,
                    ids=ids,
                    values=of_key,
                    form=f"{members.form}, {unit}",
                    rows=places,
                    is_whole_row=members.is_whole_row,
                    parts=parts,
                )
                sets.append(asked)
    return sets


NO_CELL = ""
"""The name of a set without anybody: under its column there may be cells of which this
hospital has no rows any more.
"""

_NOBODY = np.zeros(0, dtype=np.int64)


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
        for one in sets:
            self.receivers.setdefault(one.order_id, set()).add(receiver)
            self.names.setdefault(one.order_id, set()).add(one.name)
            answers.setdefault(one.order_id, {})[one.name] = one

    def add_change(self, order_id: int, name: str, change: Change) -> None:
        of_order = self.changes.setdefault(order_id, {})
        if name in of_order:
            change = of_order[name].beside(change)
        of_order[name] = change


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
        found = set()
        for changes in self.earlier.changes.values():
            found |= {name for name, change in changes.items() if change.is_few}
        return found


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


def reserve(
    memory: Memory,
    asked: Sequence[AskedSet],
    *,
    receivers: Iterable[str],
    order_id: int,
    rules: AuditRules,
    has_ended: Callable[[int], bool],
    now: datetime,
    groups: Sequence[AskedSet] = (),
    cells: Sequence[AskedSet] = (),
    kept_as: Mapping[str, str] | None = None,
) -> Reserved:
    """Lets an order's totals pass or refuses it; reserved until `memory.commit` or
    `memory.drop`.

    The sets of `asked` are audited together and refuse the order, those of `groups` one
    name after the other, largest first: one that would tell a few people is withheld,
    and the others pass without it. `cells` are groups whose thresholds are on the sum
    of all hospitals: what hides few people here are the others' rows, so that a cell is
    compared with the same cell of earlier answers only, jointly. They are all reserved,
    but for those that are named NO_CELL. What the same order has reserved before is
    replaced. kept_as: by the name of a total in this order the one that it is remembered
    by, where the order asks several questions, and each is to be remembered as if it had
    been asked by itself.
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
    with alone(memory, [*asked, *groups, *cells], rules, now) as transaction:
        drop_ended(transaction, order_id, has_ended)
        audit = Audit(transaction, order_id, rules)
        whole = audit.number(asked)
        audit.check(readers, whole)
        shown = audit.pass_groups(readers, whole, audit.number(groups))
        withheld = {one.name for one in groups} - {one.opened.name for one in shown}
        numbered = audit.number(cells)
        earlier = audit.changed_cells(readers, numbered)
        shown += [one for one in numbered if one.opened.name != NO_CELL]
        kept = []
        for one in [*whole, *shown]:
            name = (kept_as or {}).get(one.opened.name, one.opened.name)
            kept.append(replace(one.opened, name=name))
        transaction.keep(readers, kept, at=now)
    return Reserved(withheld, earlier)


@contextmanager
def alone(
    memory: Memory, asked: Sequence[AskedSet], rules: AuditRules, now: datetime
) -> Iterator[Transaction]:
    """The memory, and no other order meanwhile, without sets that nobody has to be
    compared with any more.
    """
    with memory.alone():
        # In a step of its own: a refusal takes back what is written beside it.
        with memory.opened() as transaction:
            for form in {one.form for one in asked}:
                transaction.drop_old_forms(than=form, now=now, days=rules.budget_days)
        with memory.opened() as transaction:
            yield transaction


def drop_ended(
    transaction: Transaction, order_id: int, has_ended: Callable[[int], bool]
) -> None:
    """What this order has reserved before, and what orders have that ended since."""
    for other in transaction.orders_under_way():
        if other == order_id or has_ended(other):
            transaction.drop(other)


@dataclass(frozen=True, eq=False)
class NewSet:
    """A set of this order, by numbers of members."""

    opened: OpenedSet
    is_whole_row: bool


@dataclass(frozen=True, eq=False)
class _Telling:
    """Sets of one column that are connected by people whom they share, and which do
    not pass together.
    """

    code: str  # the rule
    earlier: list[OpenedSet]
    new: list[NewSet]

    @property
    def under_way(self) -> set[int]:
        """The orders that have reserved some of them."""
        return {one.order_id for one in self.earlier if not one.has_left}

    @property
    def names(self) -> set[str]:
        return {one.opened.name for one in self.new}


@dataclass(frozen=True)
class _Question:
    """What decides whether totals of a column pass together."""

    totals: tuple[bytes, ...]
    n_new: int
    is_whole_row: bool
    form: str
    # Equal sets of two columns are of the same people when these are equal.
    persons: bytes


@dataclass(frozen=True)
class _Part:
    """Connected totals that do not pass together."""

    code: str
    totals: frozenset[bytes]


class Audit:
    """The sets of one order beside those that each receiver has."""

    def __init__(
        self, transaction: Transaction, order_id: int, rules: AuditRules
    ) -> None:
        self._transaction = transaction
        self._order_id = order_id
        self._rules = rules
        # Most receivers have the same sets, and most columns sets of the same people:
        # what was found for one is not computed again.
        self._found: dict[_Question, list[_Part]] = {}
        self._digests: dict[tuple[ColumnName, int], bytes] = {}

    def number(self, asked: Sequence[AskedSet]) -> list[NewSet]:
        """The asked sets by numbers of members."""
        by_column: dict[ColumnName, list[AskedSet]] = {}
        for one in asked:
            column = ColumnName(one.population, one.column, one.form)
            by_column.setdefault(column, []).append(one)
        numbered = []
        for column, sets in by_column.items():
            readings = {(id(one.ids), id(one.values)): one for one in sets}
            if len(readings) > 1:
                # All at once first: ten thousand groups would sort the members as often.
                all_ids = np.concatenate([one.ids for one in readings.values()])
                all_values = np.concatenate([one.values for one in readings.values()])
                self._transaction.number_rows(column, all_ids, all_values)
            numbers = {}
            for reading, one in readings.items():
                numbers[reading] = self._transaction.number_rows(
                    column, one.ids, one.values
                )
            n_members = self._transaction.persons_of(column).size
            for one in sets:
                of_reading = numbers[id(one.ids), id(one.values)]
                of_set = of_reading if one.rows is None else of_reading[one.rows]
                opened = OpenedSet(
                    column,
                    distinct_numbers(of_set, n_members),
                    one.name,
                    self._order_id,
                    one.parts,
                    self._rules.least_hospitals,
                )
                numbered.append(NewSet(opened, one.is_whole_row))
        return numbered

    def check(self, receivers: Sequence[str], new: Sequence[NewSet]) -> None:
        """Refused where the sets, with what a receiver has, tell a few people."""
        for telling in self._find_telling(receivers, new):
            have_left = [one for one in telling.earlier if one.has_left]
            if telling.under_way and not self._find_in_column(have_left, telling.new):
                raise refused_beside(min(telling.under_way), telling.code)
            raise _refused(telling.code, self._rules)

    def pass_groups(
        self,
        receivers: Sequence[str],
        whole: Sequence[NewSet],
        groups: Sequence[NewSet],
    ) -> list[NewSet]:
        """The sets of those groups that pass beside the whole sets and each other."""
        found = self._find_telling(receivers, [*whole, *groups])
        n_members: dict[str, int] = {}
        for one in groups:
            name = one.opened.name
            n_members[name] = n_members.get(name, 0) + one.opened.members.size

        in_doubt = set().union(*[telling.names for telling in found])
        passed = {one.opened.name for one in whole} | (n_members.keys() - in_doubt)
        largest_first = sorted(n_members, key=lambda name: (-n_members[name], name))
        for name in largest_first:
            if name in passed:
                continue
            beside = passed | {name}
            of_name = [telling for telling in found if name in telling.names]
            if not any(self._tells_still(telling, beside) for telling in of_name):
                passed.add(name)
        return [one for one in groups if one.opened.name in passed]

    def changed_cells(
        self, receivers: Sequence[str], cells: Sequence[NewSet]
    ) -> EarlierCells:
        """Who has come into each cell and gone from it since each answer that a
        receiver has or may have.
        """
        earlier = EarlierCells()
        by_column: dict[ColumnName, list[NewSet]] = {}
        for one in cells:
            by_column.setdefault(one.opened.column, []).append(one)
        for column, of_column in by_column.items():
            in_form: dict[int, dict[str, OpenedSet]] = {}
            by_persons: dict[int, dict[str, OpenedSet]] = {}
            for receiver in receivers:
                sets = self._transaction.sets_of(receiver, column)
                earlier.add_answers(receiver, sets, in_form)
                sets = self._transaction.sets_of_other_forms(receiver, column)
                earlier.add_answers(receiver, sets, by_persons)
            self._compare(earlier, of_column, in_form)
            if by_persons:
                self._compare(earlier, self._of_persons(of_column), by_persons)
        return earlier

    def _compare(
        self,
        earlier: EarlierCells,
        cells: Sequence[NewSet],
        answers: Mapping[int, Mapping[str, OpenedSet]],
    ) -> None:
        """The cells of one column with those of each earlier order."""
        now = {one.opened.name: one.opened for one in cells if one.opened.name}
        persons = self._transaction.persons_of(cells[0].opened.column)
        for order_id, then in answers.items():
            for name in now.keys() | then.keys():
                change = self._change(persons, now.get(name), then.get(name))
                earlier.add_change(order_id, name, change)

    def _change(
        self, persons: Ints, now: OpenedSet | None, then: OpenedSet | None
    ) -> Change:
        if now is not None and then is not None and now.digest == then.digest:
            return NO_CHANGE
        members_now = _NOBODY if now is None else now.members
        members_then = _NOBODY if then is None else then.members
        come = np.setdiff1d(members_now, members_then, assume_unique=True)
        gone = np.setdiff1d(members_then, members_now, assume_unique=True)
        n_come = _distinct(persons[come]).size
        n_gone = _distinct(persons[gone]).size
        n_changed = _distinct(persons[np.concatenate([come, gone])]).size
        is_few = then is not None and 0 < n_changed < self._rules.min_rows
        return Change((n_come, n_come), (n_gone, n_gone), is_few)

    def _tells_still(self, telling: _Telling, names: Collection[str]) -> bool:
        """Whether it does when only the totals of these names are opened."""
        new = [one for one in telling.new if one.opened.name in names]
        return bool(self._find_in_column(telling.earlier, new))

    def _find_telling(
        self, receivers: Sequence[str], new: Sequence[NewSet]
    ) -> list[_Telling]:
        """What does not pass of the new sets and the receivers' earlier ones."""
        found = []
        for receiver in receivers:
            for column in dict.fromkeys(one.opened.column for one in new):
                of_column = [one for one in new if one.opened.column == column]
                earlier = self._transaction.sets_of(receiver, column)
                found += self._find_in_column(earlier, of_column)
                by_persons = self._transaction.sets_by_persons(receiver, column)
                if by_persons:
                    new_persons = self._of_persons(of_column)
                    found += self._find_in_column(by_persons, new_persons)
        return found

    def _of_persons(self, new: Sequence[NewSet]) -> list[NewSet]:
        found = []
        for one in new:
            opened = self._transaction.of_persons(one.opened)
            found.append(NewSet(opened, one.is_whole_row))
        return found

    def _find_in_column(
        self, earlier: Sequence[OpenedSet], new: Sequence[NewSet]
    ) -> list[_Telling]:
        column = new[0].opened.column if new else None
        added = [one.opened for one in new if one.opened.members.size]
        if column is None or not added:
            return []
        # Equal sets are one; the earlier ones first.
        distinct = {one.digest: one for one in [*earlier, *added]}
        totals = list(distinct.values())
        known = {one.digest for one in earlier}
        is_new = np.array([one.digest not in known for one in totals])
        if not is_new.any():  # the same sets as before tell nothing more
            return []
        totals = [totals[place] for place in np.argsort(is_new, kind="stable")]
        n_new = int(np.count_nonzero(is_new))
        question = _Question(
            totals=tuple(one.digest for one in totals),
            n_new=n_new,
            is_whole_row=any(one.is_whole_row for one in new),
            form=column.form,
            persons=self._digest_of_persons(column),
        )
        if question not in self._found:
            self._found[question] = self._find_parts(totals, question)
        found = []
        for part in self._found[question]:
            telling = _Telling(
                part.code,
                [one for one in earlier if one.digest in part.totals],
                [one for one in new if one.opened.digest in part.totals],
            )
            found.append(telling)
        return found

    def _find_parts(
        self, totals: Sequence[OpenedSet], question: _Question
    ) -> list[_Part]:
        """What does not pass of totals, the last of which are new."""
        is_new = np.arange(len(totals)) >= len(totals) - question.n_new
        # Sets that share nobody, even by way of others, tell nothing together.
        parts = connected([one.members for one in totals])
        # Of each, those that are connected with it stand one behind the other.
        in_order = np.argsort(parts, kind="stable")
        found = []
        for places in np.split(in_order, np.flatnonzero(np.diff(parts[in_order])) + 1):
            n_new = int(np.count_nonzero(is_new[places]))
            if not n_new:
                continue
            together = [totals[place] for place in places.tolist()]
            code = self._code(together, n_new, question.is_whole_row)
            if code:
                found.append(_Part(code, frozenset(one.digest for one in together)))
        return found

    def _code(self, totals: Sequence[OpenedSet], n_new: int, is_whole_row: bool) -> str:
        """The rule by which connected totals of one column do not pass together, the
        last of which are new; "" where they do.
        """
        column = totals[0].column
        persons = self._transaction.persons_of(column)
        verdict = self._audit_people(totals, persons, n_new, is_whole_row)
        return code_of(verdict, EARLIER_COHORT)

    def _digest_of_persons(self, column: ColumnName) -> bytes:
        persons = self._transaction.persons_of(column)
        grown = (column, persons.size)
        if grown not in self._digests:
            digest = hashlib.blake2b(persons.tobytes(), digest_size=16).digest()
            self._digests[grown] = digest
        return self._digests[grown]

    def _audit_people(
        self,
        totals: Sequence[OpenedSet],
        persons: Ints,
        n_new: int,
        is_whole_row: bool,
    ) -> Verdict:
        min_rows = self._rules.min_rows
        if len(totals) == 1:
            n_persons = _distinct(persons[totals[0].members]).size
            return Verdict.PASSES if n_persons >= min_rows else Verdict.TELLS_FEW
        members, table = table_of([one.members for one in totals])
        is_counted = _one_member_of_each(table, persons[members])
        finding = audit_people(
            np.packbits(table[:, is_counted], axis=1),
            persons[members][is_counted],
            n_new=n_new,
            # Of a row without an id, a value that has changed is one gone and one come.
            min_rows=2 * min_rows if is_whole_row else min_rows,
            prime=unforeseen_prime,
        )
        return finding.verdict


def _span(first: tuple[int, int], second: tuple[int, int]) -> tuple[int, int]:
    """The fewest and the most of both."""
    return min(*first, *second), max(*first, *second)


def _distinct(numbers: Ints) -> Ints:
    """In ascending order, each once."""
    return distinct_numbers(numbers, 1 + int(numbers.max(initial=-1)))


def table_of(sets: Sequence[Ints]) -> tuple[Ints, NDArray[np.bool_]]:
    """The members of any set, and (n_sets, n_members) which of them each has."""
    members = _distinct(np.concatenate(sets))
    table = np.zeros((len(sets), members.size), dtype=bool)
    for row, one in zip(table, sets, strict=True):
        row[np.searchsorted(members, one)] = True
    return members, table


def _one_member_of_each(table: NDArray[np.bool_], persons: Ints) -> NDArray[np.bool_]:
    """(n_members,): which members are counted, so that nobody with several rows in one
    set counts as several people.

    Of such a person it is the first row, and any that alone tells two sets apart: fewer
    people are counted then than there are, or as many.
    """
    is_counted = np.ones(persons.size, dtype=bool)
    has_several = np.zeros(int(persons.max()) + 1, dtype=bool)
    for row in table:
        has_several |= np.bincount(persons[row], minlength=has_several.size) > 1
    if not has_several.any():
        return is_counted
    _, first = np.unique(persons, return_index=True)
    is_counted = ~has_several[persons]
    is_counted[first] = True
    _, cells = np.unique(np.packbits(table.T, axis=1), axis=0, return_inverse=True)
    is_seen = np.zeros(cells.max() + 1, dtype=bool)
    is_seen[cells[is_counted]] = True
    unseen = np.flatnonzero(~is_seen[cells])
    _, first_of_cell = np.unique(cells[unseen], return_index=True)
    is_counted[unseen[first_of_cell]] = True
    return is_counted


def connected(sets: Sequence[Ints]) -> Ints:
    """(n_sets,): the first set that each is connected with, by members that they share
    or by way of other sets.
    """
    members = np.concatenate(sets)
    n_members = 1 + int(members.max())
    begins = np.cumsum([0, *[one.size for one in sets[:-1]]])
    of_set = np.repeat(np.arange(len(sets)), [one.size for one in sets])
    labels = np.arange(len(sets))
    while True:
        of_member = np.full(n_members, len(sets))
        np.minimum.at(of_member, members, labels[of_set])
        lowest = np.minimum.reduceat(of_member[members], begins)
        if (lowest == labels).all():
            return labels
        labels = lowest


# Refusals


def code_of(verdict: Verdict, rule: str) -> str:
    if verdict is Verdict.PASSES:
        return ""
    return AUDIT_SIZE if verdict is Verdict.UNDECIDED else rule


def _refused(code: str, rules: AuditRules) -> Refused:
    if code == AUDIT_SIZE:
        return Refused(
            "So many different sets of people were asked for that it cannot be decided whether their answers tell"
            " single ones.",
            remedy="Ask for more rows, or for rows that were asked for before.",
            code="audit_size",
        )
    return Refused(
        f"These rows with those of earlier orders would tell of fewer than {rules.min_rows} patients, by comparing the"
        " answers.",
        remedy="Use the same rows as before, or rows that differ more; where columns have gaps, name the same columns"
        " in complete_on each time.",
        code="earlier_cohort",
        threshold=rules.min_rows,
    )


def refused_beside(order_id: int, code: str) -> Refused:
    return Refused(
        f"These rows with those of order {order_id}, which is under way, would tell too much.",
        remedy=f"Send the order again when order {order_id} has ended: it can pass if that one gave no answer.",
        code=code,
        order_under_way=order_id,
    )


def unforeseen_prime() -> int:
    """What is computed modulo a known prime could be aimed at."""
    return draw_prime(secrets.randbelow)
