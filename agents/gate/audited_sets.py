"""What of an order's sets does not pass beside those that its receivers have, or may get
of orders under way.

Sets are held against each other column by column, by the members that they share.
`agents.gate.cohort_audit` reserves what passes. The mathematics is in
`analytics.statistics.audit`.

Decisions 70 and 118.
"""

from __future__ import annotations

import hashlib
import itertools
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agents.gate.asked_sets import NO_CHANGE, AskedSet, AuditRules, Change, EarlierCells
from agents.gate.audit_words import EARLIER_COHORT, code_of, refused, refused_beside
from agents.gate.connected_sets import (
    connected,
    each_once,
    n_different,
    table_of,
)
from agents.gate.kept_sets import ColumnName, OpenedSet
from agents.gate.members import NUMBER, Numbers, distinct_numbers
from agents.gate.memory_transaction import Transaction
from analytics.arrays import let_go
from analytics.statistics.audit import Verdict, audit_people
from analytics.statistics.modular import draw_prime

_NOBODY = np.zeros(0, dtype=NUMBER)


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
        return {
            opened_set.order_id
            for opened_set in self.earlier
            if not opened_set.has_left
        }

    @property
    def names(self) -> set[str]:
        return {new_set.opened.name for new_set in self.new}


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

    def number(self, asked_sets: Sequence[AskedSet]) -> list[NewSet]:
        """The asked sets by numbers of members."""
        by_column: dict[ColumnName, list[AskedSet]] = {}
        for asked_set in asked_sets:
            column = ColumnName(asked_set.population, asked_set.column, asked_set.form)
            by_column.setdefault(column, []).append(asked_set)
        numbered = []
        for column, sets in by_column.items():
            numbers = {}
            readings = _readings(sets)
            of_readings = self._number_readings(column, readings)
            for reading, of_reading in zip(readings, of_readings, strict=True):
                for asked_set in reading:
                    numbers[id(asked_set)] = of_reading
                let_go(reading[0].ids)
                let_go(reading[0].values)
            n_members = self._transaction.persons_of(column).size
            for asked_set in sets:
                of_reading = numbers[id(asked_set)]
                of_set = (
                    of_reading if asked_set.rows is None else of_reading[asked_set.rows]
                )
                opened_set = OpenedSet(
                    column,
                    distinct_numbers(of_set, n_members),
                    asked_set.name,
                    self._order_id,
                    asked_set.parts,
                    self._rules.least_hospitals,
                )
                numbered.append(NewSet(opened_set, asked_set.is_whole_row))
        return numbered

    def _number_readings(
        self, column: ColumnName, readings: Sequence[Sequence[AskedSet]]
    ) -> list[Numbers]:
        """By reading, (n,): the number of the member that each of its rows is."""
        all_ids = [reading[0].ids for reading in readings]
        all_values = [reading[0].values for reading in readings]
        if len(readings) == 1:
            # The very arrays, by which the persons of the next column are known again.
            return [
                self._transaction.number_rows(column, all_ids[0], all_values[0]),
            ]
        # All at once: ten thousand groups would sort all members as often.
        all_numbers = self._transaction.number_rows(
            column, np.concatenate(all_ids), np.concatenate(all_values)
        )
        ends = np.cumsum([ids.size for ids in all_ids])
        return np.split(all_numbers, ends[:-1])

    def check(self, receivers: Sequence[str], new: Sequence[NewSet]) -> None:
        """Refused where the sets, with what a receiver has, tell a few people."""
        for telling in self._find_telling(receivers, new):
            have_left = [
                opened_set for opened_set in telling.earlier if opened_set.has_left
            ]
            if telling.under_way and not self._find_in_column(have_left, telling.new):
                raise refused_beside(min(telling.under_way), telling.code)
            raise refused(telling.code, self._rules)

    def pass_groups(
        self,
        receivers: Sequence[str],
        whole_sets: Sequence[NewSet],
        groups: Sequence[NewSet],
        *,
        told_sets: Sequence[NewSet] = (),
    ) -> list[NewSet]:
        """The sets of those groups that pass beside the whole sets and each other.

        told_sets: sets of this order that every receiver has, as it has earlier ones.
        """
        tellings = self._find_telling(receivers, [*whole_sets, *groups], told_sets)
        n_members: dict[str, int] = {}
        for group in groups:
            group_name = group.opened.name
            n_members[group_name] = (
                n_members.get(group_name, 0) + group.opened.members.size
            )

        in_doubt = set().union(*[telling.names for telling in tellings])
        passed = {whole_set.opened.name for whole_set in whole_sets} | (
            n_members.keys() - in_doubt
        )
        # Of equal ones the name decides: the same groups are withheld after a crash.
        largest_first = sorted(n_members, key=lambda name: (-n_members[name], name))
        for group_name in largest_first:
            if group_name in passed:
                continue
            beside = passed | {group_name}
            of_name = [telling for telling in tellings if group_name in telling.names]
            if not any(self._tells_still(telling, beside) for telling in of_name):
                passed.add(group_name)
        return [group for group in groups if group.opened.name in passed]

    def changed_cells(
        self, receivers: Sequence[str], cells: Sequence[NewSet]
    ) -> EarlierCells:
        """Who has come into each cell and gone from it since each answer that a
        receiver has or may have.
        """
        earlier = EarlierCells()
        by_column: dict[ColumnName, list[NewSet]] = {}
        for cell in cells:
            by_column.setdefault(cell.opened.column, []).append(cell)
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
        cells_now = {
            cell.opened.name: cell.opened for cell in cells if cell.opened.name
        }
        persons = self._transaction.persons_of(cells[0].opened.column)
        for order_id, cells_then in answers.items():
            for cell_name in cells_now.keys() | cells_then.keys():
                change = self._change(
                    persons, cells_now.get(cell_name), cells_then.get(cell_name)
                )
                earlier.add_change(order_id, cell_name, change)

    def _change(
        self, persons: Numbers, cell_now: OpenedSet | None, cell_then: OpenedSet | None
    ) -> Change:
        if (
            cell_now is not None
            and cell_then is not None
            and cell_now.digest == cell_then.digest
        ):
            return NO_CHANGE
        members_now = _NOBODY if cell_now is None else cell_now.members
        members_then = _NOBODY if cell_then is None else cell_then.members
        members_come = np.setdiff1d(members_now, members_then, assume_unique=True)
        members_gone = np.setdiff1d(members_then, members_now, assume_unique=True)
        n_come = each_once(persons[members_come]).size
        n_gone = each_once(persons[members_gone]).size
        n_changed = each_once(
            persons[np.concatenate([members_come, members_gone])]
        ).size
        is_few = cell_then is not None and 0 < n_changed < self._rules.min_rows
        return Change((n_come, n_come), (n_gone, n_gone), is_few)

    def _tells_still(self, telling: _Telling, names: Collection[str]) -> bool:
        """Whether it does when only the totals of these names are opened."""
        new = [new_set for new_set in telling.new if new_set.opened.name in names]
        return bool(self._find_in_column(telling.earlier, new))

    def _find_telling(
        self,
        receivers: Sequence[str],
        new: Sequence[NewSet],
        told_sets: Sequence[NewSet] = (),
    ) -> list[_Telling]:
        """What does not pass of the new sets and the receivers' earlier ones."""
        tellings = []
        for receiver in receivers:
            for column in dict.fromkeys(new_set.opened.column for new_set in new):
                of_column = [
                    new_set for new_set in new if new_set.opened.column == column
                ]
                told_of_column = [
                    told_set
                    for told_set in told_sets
                    if told_set.opened.column == column
                ]
                earlier = list(self._transaction.sets_of(receiver, column))
                earlier += [told_set.opened for told_set in told_of_column]
                tellings += self._find_in_column(earlier, of_column)
                by_persons = list(self._transaction.sets_by_persons(receiver, column))
                if by_persons:
                    told_persons = self._of_persons(told_of_column)
                    by_persons += [told_set.opened for told_set in told_persons]
                    new_persons = self._of_persons(of_column)
                    tellings += self._find_in_column(by_persons, new_persons)
        return tellings

    def _of_persons(self, new: Sequence[NewSet]) -> list[NewSet]:
        person_sets = []
        for new_set in new:
            opened_set = self._transaction.of_persons(new_set.opened)
            person_sets.append(NewSet(opened_set, new_set.is_whole_row))
        return person_sets

    def _find_in_column(
        self, earlier: Sequence[OpenedSet], new: Sequence[NewSet]
    ) -> list[_Telling]:
        column = new[0].opened.column if new else None
        added = [new_set.opened for new_set in new if new_set.opened.members.size]
        if column is None or not added:
            return []
        # Equal sets are one; the earlier ones first.
        distinct = {total.digest: total for total in [*earlier, *added]}
        totals = list(distinct.values())
        earlier_digests = {opened_set.digest for opened_set in earlier}
        is_new = np.array([total.digest not in earlier_digests for total in totals])
        if not is_new.any():  # the same sets as before tell nothing more
            return []
        totals = [totals[place] for place in np.argsort(is_new, kind="stable")]
        n_new = int(np.count_nonzero(is_new))
        question = _Question(
            totals=tuple(total.digest for total in totals),
            n_new=n_new,
            is_whole_row=any(new_set.is_whole_row for new_set in new),
            form=column.form,
            persons=self._digest_of_persons(column),
        )
        if question not in self._found:
            self._found[question] = self._find_parts(totals, question)
        tellings = []
        for part in self._found[question]:
            telling = _Telling(
                part.code,
                [
                    opened_set
                    for opened_set in earlier
                    if opened_set.digest in part.totals
                ],
                [new_set for new_set in new if new_set.opened.digest in part.totals],
            )
            tellings.append(telling)
        return tellings

    def _find_parts(
        self, totals: Sequence[OpenedSet], question: _Question
    ) -> list[_Part]:
        """What does not pass of totals, the last of which are new."""
        is_new = np.arange(len(totals)) >= len(totals) - question.n_new
        # Sets that share nobody, even by way of others, tell nothing together.
        labels = connected([total.members for total in totals])
        # Of each, those that are connected with it stand one behind the other.
        in_order = np.argsort(labels, kind="stable")
        parts = []
        for places in np.split(in_order, np.flatnonzero(np.diff(labels[in_order])) + 1):
            n_new = int(np.count_nonzero(is_new[places]))
            if not n_new:
                continue
            together = [totals[place] for place in places.tolist()]
            code = self._code(together, n_new, question.is_whole_row)
            if code:
                parts.append(_Part(code, frozenset(total.digest for total in together)))
        return parts

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
            digest = hashlib.blake2b(persons.data, digest_size=16).digest()
            self._digests[grown] = digest
        return self._digests[grown]

    def _audit_people(
        self,
        totals: Sequence[OpenedSet],
        persons: Numbers,
        n_new: int,
        is_whole_row: bool,
    ) -> Verdict:
        min_rows = self._rules.min_rows
        if len(totals) == 1:
            n_persons = n_different(persons[totals[0].members])
            return Verdict.PASSES if n_persons >= min_rows else Verdict.TELLS_FEW
        # Of a row without an id, a value that has changed is one gone and one come.
        least_rows = 2 * min_rows if is_whole_row else min_rows
        # More people than `least_rows` in the same sets are none too few, however many.
        members, table = table_of(
            [total.members for total in totals], persons=persons, most=least_rows
        )
        finding = audit_people(
            table,
            persons[members].astype(np.int64),
            n_new=n_new,
            min_rows=least_rows,
            prime=unforeseen_prime,
        )
        return finding.verdict


def _readings(sets: Sequence[AskedSet]) -> list[list[AskedSet]]:
    """Sets of one column by what was read, which most of them share."""
    # By identity: the sets keep these arrays alive, so that no other one gets their
    # place.
    by_identity: dict[tuple[int, int], list[AskedSet]] = {}
    for asked_set in sets:
        by_identity.setdefault((id(asked_set.ids), id(asked_set.values)), []).append(
            asked_set
        )
    by_ids: dict[int, list[list[AskedSet]]] = {}
    for identical in by_identity.values():
        of_ids = by_ids.setdefault(id(identical[0].ids), [])
        for reading in of_ids:
            if np.array_equal(reading[0].values, identical[0].values):
                reading += identical
                break
        else:
            of_ids.append(identical)
    return list(itertools.chain.from_iterable(by_ids.values()))


def unforeseen_prime() -> int:
    """What is computed modulo a known prime could be aimed at."""
    return draw_prime(secrets.randbelow)
