"""What earlier answers and a new one tell together: named attacks on a hospital's gate,
and the ordinary work that it must let pass.

Sets of people are given to the gate as an order gives them. Orders of two hospitals are
at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.gate import audited_sets, regrouping
from agents.gate.asked_sets import AskedSet, AuditRules
from agents.gate.cohort_audit import reserve
from agents.gate.kept_sets import Terms
from agents.gate.members import told_apart
from agents.gate.memory import Memory
from analytics.statistics.audit import Finding, Verdict
from protocol.errors import Refused

RULES = AuditRules(min_rows=10, least_hospitals=3, budget_days=30)
N_PEOPLE = 100
EVERYONE = set(range(N_PEOPLE))
A, B, P = set(range(20)), set(range(20, 40)), {99}
"""Two sets of enough people, and a patient of neither."""


def digests(numbers: Iterable[int]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return np.array(list(numbers), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def asked(
    people: Iterable[int],
    *,
    name: str = "all",
    column: str = "age",
    population: str = "public.patients",
    corrected: Iterable[int] = (),
    is_whole_row: bool = False,
    form: int = 1,
) -> AskedSet:
    """A set of people; of those who are `corrected`, with another value than before."""
    ids = sorted(people)
    values = [1000 * (number in set(corrected)) + number for number in ids]
    return AskedSet(
        population=population,
        column=column,
        name=name,
        ids=digests(ids),
        # Another form's texts have other digests.
        values=told_apart(digests(ids), digests(values) + np.uint64(form)),
        form=f"{form}, persons",
        is_whole_row=is_whole_row,
    )


class Gate:
    """The gate of one hospital, and orders that come one after the other."""

    def __init__(self, folder: Path) -> None:
        self.memory = Memory(folder)
        self.last = 0
        self.now = datetime(2026, 11, 26, tzinfo=UTC)
        self.ended: set[int] = set()

    def reserve(
        self,
        *sets: AskedSet,
        groups: Sequence[AskedSet] = (),
        cells: Sequence[AskedSet] = (),
        receivers: Iterable[str] = ("2",),
        order_id: int | None = None,
        rules: AuditRules = RULES,
    ) -> set[str]:
        """The groups that are withheld, and cells that would be at one hospital."""
        self.last = order_id or self.last + 1
        reserved = reserve(
            self.memory,
            sets,
            receivers=receivers,
            order_id=self.last,
            rules=rules,
            has_ended=lambda number: number in self.ended,
            now=self.now,
            groups=groups,
            cells=cells,
        )
        return reserved.withheld | reserved.near

    def accept(
        self, *, willing: Iterable[int] = (), least: int = 3, order_id: int = 0
    ) -> None:
        """All hospitals have accepted the last order, or another one, and said this."""
        regrouping.agree(
            self.memory,
            order_id=order_id or self.last,
            terms=Terms(least, frozenset(willing)),
            section="[cohort]",
            has_ended=lambda number: number in self.ended,
        )

    def answer(
        self,
        *sets: AskedSet,
        willing: Iterable[int] = (),
        least: int = 3,
        **order: Any,
    ) -> set[str]:
        """The same, and the totals are opened."""
        withheld = self.reserve(*sets, **order)
        try:
            self.accept(willing=willing, least=least)
        except Refused:
            self.memory.drop(self.last)
            raise
        self.memory.commit(self.last)
        return withheld

    def code(self, *sets: AskedSet, **order: Any) -> str:
        """The rule by which an order is refused; "" where it is answered."""
        try:
            self.answer(*sets, **order)
        except Refused as refusal:
            return refusal.code
        return ""


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


# Attacks


@pytest.mark.parametrize(("n_less", "code"), [(9, "earlier_cohort"), (10, "")])
def test_a_few_people_fewer(gate: Gate, n_less: int, code: str) -> None:
    gate.answer(asked(EVERYONE))
    assert gate.code(asked(set(range(n_less, N_PEOPLE)))) == code


def test_four_sets_of_which_each_pair_differs_by_many(gate: Gate) -> None:
    """All - (all - A) - (all - B) + (all - A - B - p) is p's value, less p's twice."""
    gate.answer(asked(EVERYONE))
    gate.answer(asked(EVERYONE - A))
    gate.answer(asked(EVERYONE - B))
    assert gate.code(asked(EVERYONE - A - B - P)) == "earlier_cohort"
    # Without p's trick the fourth set says nothing that the three did not.
    assert gate.code(asked(EVERYONE - A - B)) == ""


def test_four_sets_in_one_order(gate: Gate) -> None:
    sets = [EVERYONE, EVERYONE - A, EVERYONE - B, EVERYONE - A - B - P]
    named = [asked(people, name=str(number)) for number, people in enumerate(sets)]
    assert gate.code(*named) == "earlier_cohort"
    assert gate.memory.list_opened() == []


@pytest.mark.parametrize(("n_corrected", "code"), [(9, "earlier_cohort"), (10, "")])
def test_a_corrected_value(gate: Gate, n_corrected: int, code: str) -> None:
    """The same people, and yet the difference of the sums is theirs."""
    gate.answer(asked(EVERYONE))
    assert gate.code(asked(EVERYONE, corrected=range(n_corrected))) == code


def test_one_value_corrected_in_another_column_changes_nothing(gate: Gate) -> None:
    gate.answer(asked(EVERYONE), asked(EVERYONE, column="bmi"))
    again = asked(EVERYONE), asked(EVERYONE, column="bmi", corrected=[1])
    assert gate.code(*again) == "earlier_cohort"
    assert gate.code(asked(EVERYONE)) == ""


@pytest.mark.parametrize(("n_changed", "code"), [(9, "earlier_cohort"), (20, "")])
def test_rows_without_an_id(gate: Gate, n_changed: int, code: str) -> None:
    """A row that changes is one gone and another come, so that twice as many count."""
    gate.answer(asked(EVERYONE, is_whole_row=True))
    come = set(range(N_PEOPLE, N_PEOPLE + n_changed))
    gone = set(range(n_changed))
    assert gate.code(asked(EVERYONE - gone | come, is_whole_row=True)) == code


def test_what_one_receiver_has_another_has_not(gate: Gate) -> None:
    gate.answer(asked(EVERYONE), receivers=["2", "3"])
    assert gate.code(asked(EVERYONE - P), receivers=["4", "3"]) == "earlier_cohort"
    assert gate.code(asked(EVERYONE - P), receivers=["4"]) == ""


def test_nobody_but_oneself_needs_no_gate(gate: Gate) -> None:
    gate.answer(asked(EVERYONE), receivers=[])
    assert gate.code(asked(EVERYONE - P), receivers=[]) == ""
    assert gate.memory.list_opened() == []


@pytest.mark.parametrize("n_people", [9, 10])
def test_a_person_of_many_rows_is_one(gate: Gate, n_people: int) -> None:
    """Each of those who have gone has three rows, with three values."""

    def rows(people: Iterable[int]) -> AskedSet:
        ids = sorted(people) * 3
        values = np.repeat(np.arange(3), len(ids) // 3)
        return AskedSet(
            "public.visits",
            "age",
            "all",
            digests(ids),
            told_apart(digests(ids), digests(values)),
            "1",
        )

    gate.answer(rows(EVERYONE))
    code = gate.code(rows(EVERYONE - set(range(n_people))))
    assert code == ("earlier_cohort" if n_people < 10 else "")


# Hospitals


def over(hospitals: Iterable[int], people: Iterable[int] = EVERYONE) -> AskedSet:
    return replace(asked(people), parts=dict.fromkeys(hospitals, Fraction(1)))


def test_a_hospital_that_is_left_out(gate: Gate) -> None:
    """The difference is what it alone has."""
    gate.answer(over([3, 4, 5]))
    assert gate.code(over([3, 5])) == "earlier_hospitals"
    assert gate.code(over([6, 7, 8])) == ""


def test_a_hospital_whose_people_come_by_parts(gate: Gate) -> None:
    gate.answer(over([3, 4, 5], range(50)))
    gate.answer(over([3, 4, 5], range(50, 100)))
    assert gate.code(over([3, 5])) == "earlier_hospitals"
    assert gate.code(over([3, 4, 5])) == ""


def test_who_joins_lets_itself_be_told_or_not(gate: Gate) -> None:
    """This is hospital 2: what the others allow for themselves says nothing of 5."""
    gate.answer(over([3, 4]), willing=[2, 3, 4])
    with pytest.raises(Refused) as caught:
        gate.answer(over([3, 4, 5]), willing=[2, 3, 4])
    refusal = caught.value
    assert refusal.code == "earlier_hospitals"
    assert refusal.detail == {"threshold": 3, "hospitals": [5]}
    assert "hospital 5 did not allow that" in refusal.sentence
    assert "have hospital 5 set regroup = true under [cohort]" in refusal.remedy
    assert gate.code(over([3, 4, 5]), willing=[5]) == ""


def test_who_has_left_is_told_only_where_it_had_said_so(gate: Gate) -> None:
    gate.answer(over([3, 4, 5]), willing=[3, 4, 5])
    assert gate.code(over([3, 5]), willing=[]) == ""


def test_who_did_not_allow_it_then_cannot_be_asked_any_longer(gate: Gate) -> None:
    gate.answer(over([3, 4, 5]), willing=[3, 5])
    with pytest.raises(Refused) as caught:
        gate.answer(over([3, 5]), willing=[2, 3, 4, 5])
    assert caught.value.detail["hospitals"] == [4]
    assert caught.value.remedy == "Ask the same hospitals as before."
    assert gate.code(over([3, 4, 5]), willing=[3, 4, 5]) == ""
    # It allowed it the second time; the first answer is there all the same.
    assert gate.code(over([3, 5]), willing=[3, 4, 5]) == "earlier_hospitals"


def test_one_who_allows_it_opens_nothing_of_one_who_does_not(gate: Gate) -> None:
    """Two come at once: who says that it lets itself be told takes its own part off."""
    gate.answer(over([3, 4]), least=4)
    with pytest.raises(Refused) as caught:
        gate.answer(over([3, 4, 5, 6]), willing=[6], least=4)
    assert caught.value.detail["hospitals"] == [5]


def test_who_leaves_and_who_comes_are_both_asked(gate: Gate) -> None:
    gate.answer(over([3, 4, 5]), willing=[5])
    assert gate.code(over([3, 4, 6]), willing=[3, 4]) == "earlier_hospitals"
    assert gate.code(over([3, 4, 6]), willing=[6]) == ""


def test_the_strictest_of_all_earlier_parties_counts(gate: Gate) -> None:
    gate.answer(over([3, 4, 5]), least=4)
    assert gate.code(over([3, 5]), least=1) == "earlier_hospitals"
    assert gate.code(over([3, 4, 5, 6, 7]), least=1) == "earlier_hospitals"
    assert gate.code(over([3, 4, 5, 6, 7, 8, 9]), least=1) == ""


def test_more_hospitals_than_before_are_left_where_a_new_party_asks_for_more(
    gate: Gate,
) -> None:
    gate.answer(over([3, 4]))
    three_more = over([3, 4, 5, 6, 7])
    assert gate.code(three_more, least=4) == "earlier_hospitals"
    assert gate.code(three_more, least=3) == ""


def test_another_column_in_the_place_of_one(gate: Gate) -> None:
    """sum(a.w + b.y + c.z) after sum(a.w + b.x + c.z): what b alone has."""

    def joined(*parts: tuple[int, str]) -> AskedSet:
        return replace(asked(EVERYONE), parts=dict.fromkeys(parts, Fraction(1)))

    gate.answer(joined((3, "x"), (4, "z")), willing=[3])
    second = joined((3, "y"), (4, "z"))
    assert gate.code(second, willing=[2, 4]) == "earlier_hospitals"
    assert gate.code(second, willing=[3]) == ""


def test_joined_rows_of_a_hospital_are_not_taken_for_those_of_a_pooled_total(
    gate: Gate,
) -> None:
    """Who of the others is joined, nobody else knows: the two may be other people."""
    pooled = over([3, 4])
    parts = {(3, "age"): Fraction(1), (4, "age"): Fraction(1)}
    joined = replace(asked(EVERYONE), parts=parts)
    gate.answer(pooled)
    assert gate.code(joined) == "earlier_hospitals"
    gate.memory.forget("2", "public.patients")
    gate.answer(pooled, willing=[3, 4])
    assert gate.code(joined, willing=[3, 4]) == ""


def test_what_was_kept_before_hospitals_were_asked_is_not_allowed(gate: Gate) -> None:
    gate.reserve(over([3, 4, 5]))
    gate.memory.commit(gate.last)
    assert gate.code(over([3, 5]), willing=[2, 3, 4, 5]) == "earlier_hospitals"


def test_men_women_and_all_over_the_same_hospitals(gate: Gate) -> None:
    men, women = over([3, 4], range(50)), over([3, 4], range(50, 100))
    assert gate.code(replace(men, name="men"), replace(women, name="women")) == ""
    assert gate.code(over([3, 4])) == ""


def test_of_two_orders_that_all_accept_at_once_the_second_waits(gate: Gate) -> None:
    """Each leaves hospital 5 alone beside the other; before both accept, who is willing
    is not known.
    """
    gate.reserve(over([3, 4]), order_id=1)
    gate.reserve(over([3, 4, 5]), order_id=2)
    gate.accept(order_id=2)
    with pytest.raises(Refused) as caught:
        gate.accept(order_id=1)
    assert caught.value.code == "earlier_hospitals"
    assert caught.value.detail["order_under_way"] == 2
    gate.ended.add(2)
    gate.accept(order_id=1)
    gate.accept(order_id=1)
    gate.memory.commit(1)
    assert gate.code(over([3, 4, 5]), order_id=3) == "earlier_hospitals"


def test_what_few_hospitals_have_cannot_be_decided(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def undecided(*_: Any, **__: Any) -> Finding:
        return Finding(Verdict.UNDECIDED)

    gate.answer(over([3, 4]))
    monkeypatch.setattr(regrouping, "audit_hospitals", undecided)
    assert gate.code(over([3, 4, 5])) == "audit_size"
    assert gate.code(over([3, 4, 5]), willing=[5]) == ""


# Ordinary work


def test_the_same_question_again(gate: Gate) -> None:
    for _ in range(3):
        assert gate.code(asked(EVERYONE)) == ""


def test_a_column_of_another_table(gate: Gate) -> None:
    gate.answer(asked(EVERYONE, column="sex"))
    other = asked(EVERYONE - P, column="sex", population="public.staff")
    assert gate.code(other) == ""


def test_folds_do_not_refuse_their_own_order(gate: Gate) -> None:
    held_out = [set(range(first, N_PEOPLE, 5)) for first in range(5)]
    sets = [asked(EVERYONE, name="train")]
    for number, people in enumerate(held_out):
        sets.append(asked(EVERYONE - people, name=f"train/fold-{number}"))
        sets.append(asked(people, name=f"test/fold-{number}"))
    assert gate.code(*sets) == ""
    assert gate.code(*sets) == ""


def test_a_month_more_every_month(gate: Gate) -> None:
    for month in range(1, 10):
        assert gate.code(asked(range(10 * month))) == ""
    assert gate.code(asked(range(95))) == "earlier_cohort"


# Groups


def by_halves(*, moved: int | None = None) -> list[AskedSet]:
    """Two groups; one person may have moved from the first to the second."""
    first, second = set(range(0, 60)), set(range(60, N_PEOPLE))
    if moved is not None:
        first, second = first - {moved}, second | {moved}
    return [asked(first, name="first"), asked(second, name="second")]


def test_groups_are_withheld_and_not_the_question(gate: Gate) -> None:
    assert gate.answer(groups=by_halves()) == set()
    third = asked(range(200, 230), name="third")
    assert gate.answer(groups=[*by_halves(moved=3), third]) == {"first", "second"}
    assert {one.name for one in gate.memory.list_opened()} == {
        "first",
        "second",
        "third",
    }


def test_the_smallest_of_the_groups_that_tell_is_withheld(gate: Gate) -> None:
    """All without p are known, p's group is not: it would be the difference."""
    gate.answer(asked(EVERYONE - P))
    assert gate.answer(groups=by_halves()) == {"second"}


def test_a_group_of_which_a_few_changed_under_another_column(gate: Gate) -> None:
    """A covariance is withheld where either of its columns would tell."""
    both = [*by_halves(), *[asked_in_bmi(one) for one in by_halves()]]
    assert gate.answer(groups=both) == set()
    first = asked(range(60), name="first", column="bmi", corrected=[1])
    second = asked_in_bmi(by_halves()[1])
    assert gate.answer(groups=[*by_halves(), first, second]) == {"first"}


def asked_in_bmi(one: AskedSet) -> AskedSet:
    return AskedSet(one.population, "bmi", one.name, one.ids, one.values, one.form)


def test_ten_thousand_groups_take_no_longer_than_their_people(gate: Gate) -> None:
    people = np.arange(100_000).reshape(10_000, 10)
    groups = [
        asked(row.tolist(), name=f"{number:05}") for number, row in enumerate(people)
    ]
    assert gate.answer(groups=groups) == set()
    assert gate.answer(groups=groups) == set()


# Values that are written in another form than before


def test_a_patient_fewer_in_another_form(gate: Gate) -> None:
    """No value is known again, and the people are."""
    gate.answer(asked(EVERYONE))
    assert gate.code(asked(EVERYONE - P, form=2)) == "earlier_cohort"
    assert gate.code(asked(EVERYONE, form=2)) == ""
    assert gate.code(asked(EVERYONE - A, form=2)) == ""


def test_sets_of_two_forms_tell_a_patient_together(gate: Gate) -> None:
    for gone in (set(), A):
        gate.answer(asked(EVERYONE - gone))
    gate.answer(asked(EVERYONE - B, form=2))
    assert gate.code(asked(EVERYONE - A - B - P, form=2)) == "earlier_cohort"
    assert gate.code(asked(EVERYONE - A - B, form=2)) == ""


def test_a_hospital_that_is_left_out_in_another_form(gate: Gate) -> None:
    four = dict.fromkeys([2, 3, 5], Fraction(1))
    three = dict.fromkeys([2, 3], Fraction(1))
    gate.answer(replace(asked(EVERYONE), parts=four))
    left_out = replace(asked(EVERYONE, form=2), parts=three)
    assert gate.code(left_out) == "earlier_hospitals"


def test_a_group_and_a_cell_in_another_form(gate: Gate) -> None:
    gate.answer(groups=[asked(A, name="a"), asked(B, name="b")])
    groups = [asked(A - {0}, name="a", form=2), asked(B, name="b", form=2)]
    assert gate.answer(groups=groups) == {"a"}
    assert gate.answer(cells=groups) == {"a"}


def test_sets_of_another_form_are_dropped_after_budget_days(gate: Gate) -> None:
    """From the first question in the new form on, however long ago they left."""
    gate.answer(asked(EVERYONE))
    gate.now += timedelta(days=100)
    assert gate.code(asked(EVERYONE - P, form=2)) == "earlier_cohort"
    gate.now += timedelta(days=29)
    assert gate.code(asked(EVERYONE - P, form=2)) == "earlier_cohort"
    gate.now += timedelta(days=1)
    assert gate.code(asked(EVERYONE - P, form=2)) == ""
    forms = [one.order_id for one in gate.memory.list_opened()]
    assert forms == [gate.last]


def test_sets_of_todays_form_are_not_dropped(gate: Gate) -> None:
    gate.answer(asked(EVERYONE, form=2))
    gate.now += timedelta(days=100)
    assert gate.code(asked(EVERYONE - P, form=2)) == "earlier_cohort"


# Orders under way


def test_a_refusal_names_the_order_that_is_under_way(gate: Gate) -> None:
    gate.reserve(asked(EVERYONE))
    with pytest.raises(Refused) as caught:
        gate.reserve(asked(EVERYONE - P))
    assert caught.value.code == "earlier_cohort"
    assert caught.value.detail["order_under_way"] == 1
    assert "order 1" in caught.value.remedy


def test_what_has_left_is_the_cause_whatever_is_under_way(gate: Gate) -> None:
    gate.answer(asked(EVERYONE))
    gate.reserve(asked(EVERYONE))
    with pytest.raises(Refused) as caught:
        gate.reserve(asked(EVERYONE - P))
    assert "order_under_way" not in caught.value.detail


@pytest.mark.parametrize("how", ["dropped", "ended"])
def test_an_order_that_ended_without_an_answer_is_in_nobodys_way(
    gate: Gate, how: str
) -> None:
    """Another hospital refused it, say, before all had accepted."""
    gate.reserve(asked(EVERYONE))
    assert gate.code(asked(EVERYONE - P)) == "earlier_cohort"
    if how == "dropped":
        gate.memory.drop(1)
    else:
        gate.ended.add(1)
    assert gate.code(asked(EVERYONE - P)) == ""
    assert gate.code(asked(EVERYONE)) == "earlier_cohort"


def test_an_order_that_dies_before_its_commit_is_not_its_own_neighbour(
    gate: Gate,
) -> None:
    """It reads again, and a patient has come since; nothing of the first reading left."""
    gate.reserve(asked(EVERYONE), order_id=5)
    gate.reserve(asked(EVERYONE - P), order_id=5)
    gate.memory.commit(5)
    assert gate.code(asked(EVERYONE), order_id=6) == "earlier_cohort"
    assert gate.code(asked(EVERYONE - P), order_id=7) == ""


def test_a_refused_order_leaves_nothing(gate: Gate) -> None:
    gate.answer(asked(EVERYONE))
    good = asked(EVERYONE - A, name="test")
    assert gate.code(good, asked(EVERYONE - P, name="train")) == "earlier_cohort"
    assert gate.code(asked(EVERYONE - A - P)) == ""


def test_what_cannot_be_decided_is_refused(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def undecided(*_: Any, **__: Any) -> Finding:
        return Finding(Verdict.UNDECIDED)

    gate.answer(asked(EVERYONE))
    monkeypatch.setattr(audited_sets, "audit_people", undecided)
    assert gate.code(asked(EVERYONE - A)) == "audit_size"
