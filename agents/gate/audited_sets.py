"""What of an order's sets does not pass beside those that its receivers have, or may get
of orders under way.

Sets are held against each other column by column, by the members that they share.
`agents.gate.cohort_audit` reserves what passes. The mathematics is in
`analytics.statistics.audit`.

Decisions 70 and 118.
"""

from __future__ import annotations

import hashlib
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
            readings = _readings(sets)
            if len(readings) > 1:
                # All at once first: ten thousand groups would sort the members as often.
                all_ids = np.concatenate([some[0].ids for some in readings])
                all_values = np.concatenate([some[0].values for some in readings])
                self._transaction.number_rows(column, all_ids, all_values)
            numbers = {}
            for some in readings:
                of_reading = self._transaction.number_rows(
                    column, some[0].ids, some[0].values
                )
                for one in some:
                    numbers[id(one)] = of_reading
                let_go(some[0].ids)
                let_go(some[0].values)
            n_members = self._transaction.persons_of(column).size
            for one in sets:
                of_reading = numbers[id(one)]
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
            raise refused(telling.code, self._rules)

    def pass_groups(
        self,
        receivers: Sequence[str],
        whole: Sequence[NewSet],
        groups: Sequence[NewSet],
        *,
        told: Sequence[NewSet] = (),
    ) -> list[NewSet]:
        """The sets of those groups that pass beside the whole sets and each other.

        told: sets of this order that every receiver has, as it has earlier ones.
        """
        found = self._find_telling(receivers, [*whole, *groups], told)
        n_members: dict[str, int] = {}
        for one in groups:
            name = one.opened.name
            n_members[name] = n_members.get(name, 0) + one.opened.members.size

        in_doubt = set().union(*[telling.names for telling in found])
        passed = {one.opened.name for one in whole} | (n_members.keys() - in_doubt)
        # Of equal ones the name decides: the same groups are withheld after a crash.
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
        self, persons: Numbers, now: OpenedSet | None, then: OpenedSet | None
    ) -> Change:
        if now is not None and then is not None and now.digest == then.digest:
            return NO_CHANGE
        members_now = _NOBODY if now is None else now.members
        members_then = _NOBODY if then is None else then.members
        come = np.setdiff1d(members_now, members_then, assume_unique=True)
        gone = np.setdiff1d(members_then, members_now, assume_unique=True)
        n_come = each_once(persons[come]).size
        n_gone = each_once(persons[gone]).size
        n_changed = each_once(persons[np.concatenate([come, gone])]).size
        is_few = then is not None and 0 < n_changed < self._rules.min_rows
        return Change((n_come, n_come), (n_gone, n_gone), is_few)

    def _tells_still(self, telling: _Telling, names: Collection[str]) -> bool:
        """Whether it does when only the totals of these names are opened."""
        new = [one for one in telling.new if one.opened.name in names]
        return bool(self._find_in_column(telling.earlier, new))

    def _find_telling(
        self,
        receivers: Sequence[str],
        new: Sequence[NewSet],
        told: Sequence[NewSet] = (),
    ) -> list[_Telling]:
        """What does not pass of the new sets and the receivers' earlier ones."""
        found = []
        for receiver in receivers:
            for column in dict.fromkeys(one.opened.column for one in new):
                of_column = [one for one in new if one.opened.column == column]
                told_of_column = [one for one in told if one.opened.column == column]
                earlier = list(self._transaction.sets_of(receiver, column))
                earlier += [one.opened for one in told_of_column]
                found += self._find_in_column(earlier, of_column)
                by_persons = list(self._transaction.sets_by_persons(receiver, column))
                if by_persons:
                    told_persons = self._of_persons(told_of_column)
                    by_persons += [one.opened for one in told_persons]
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
        least = 2 * min_rows if is_whole_row else min_rows
        # More people than `least` in the same sets are none too few, however many.
        members, table = table_of(
            [one.members for one in totals], persons=persons, most=least
        )
        finding = audit_people(
            table,
            persons[members].astype(np.int64),
            n_new=n_new,
            min_rows=least,
            prime=unforeseen_prime,
        )
        return finding.verdict


def _readings(sets: Sequence[AskedSet]) -> list[list[AskedSet]]:
    """Sets of one column by what was read, which most of them share."""
    # By identity: the sets keep these arrays alive, so that no other one gets their
    # place.
    found: dict[tuple[int, int], list[AskedSet]] = {}
    for one in sets:
        found.setdefault((id(one.ids), id(one.values)), []).append(one)
    readings: list[list[AskedSet]] = []
    for some in found.values():
        for reading in readings:
            if _is_same_reading(reading[0], some[0]):
                reading += some
                break
        else:
            readings.append(some)
    return readings


def _is_same_reading(one: AskedSet, other: AskedSet) -> bool:
    return one.ids is other.ids and np.array_equal(one.values, other.values)


def unforeseen_prime() -> int:
    """What is computed modulo a known prime could be aimed at."""
    return draw_prime(secrets.randbelow)
