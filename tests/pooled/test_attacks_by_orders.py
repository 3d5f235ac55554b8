"""Attacks on a hospital's rows by whole orders one after the other, each of which
passes for itself.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.rows import canonical
from agents.statistics import audited
from agents.statistics.party import AgreedStatistics
from tests.made_statistics import make_hospitals
from tests.made_study import (
    N_PATIENTS,
    NEWCOMER,
    RULES,
    USERS,
    Study,
    make_study,
    patients,
)
from tests.pairwise import quick

FOUR = (*USERS, NEWCOMER)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path)


@pytest.mark.parametrize(
    ("n_gone", "is_told"), quick([(9, False), (10, True), (11, True)], 1)
)
def test_a_few_patients_fewer(study: Study, n_gone: int, is_told: bool) -> None:
    study.answer("avg", "age")
    study.write(2, patients(2).iloc[n_gone:])
    if not is_told:
        assert study.refused("avg", "age") == "earlier_cohort"
        return
    n_rows = 3 * N_PATIENTS - n_gone
    assert study.answer("count", "age").number == n_rows


def test_four_cohorts_tell_a_patient_s_row(study: Study) -> None:
    """All, without twenty, without twenty others, without both and one more: each pair
    differs by twenty, and the four together by one.
    """
    everybody = patients(2)
    first, second, patient = range(20), range(20, 40), [N_PATIENTS - 1]
    for gone in ([], first, second):
        study.write(2, everybody.drop(index=list(gone)))
        study.train(["age"], complete_on=["age"])
    both = [*first, *second]
    study.write(2, everybody.drop(index=[*both, *patient]))
    code = study.refused_model(["age"], complete_on=["age"])
    assert code == "earlier_cohort"
    # A mean tells the same as a gradient.
    assert study.refused("avg", "age") == "earlier_cohort"
    study.write(2, everybody.drop(index=both))
    assert len(study.train(["age"], complete_on=["age"])) == len(USERS)


@pytest.mark.parametrize(
    ("n_corrected", "is_told"), quick([(1, False), (9, False), (10, True)], 1)
)
def test_a_corrected_value_between_two_models(
    study: Study, n_corrected: int, is_told: bool
) -> None:
    study.train(["age"], complete_on=["age"])
    corrected = patients(2)
    corrected.loc[: n_corrected - 1, "age"] += 1
    study.write(2, corrected)
    if is_told:
        assert len(study.train(["age"], complete_on=["age"])) == len(USERS)
        return
    code = study.refused_model(["age"], complete_on=["age"])
    assert code == "earlier_cohort"


WITHOUT_FOUR = (2, 3, NEWCOMER)


def test_a_hospital_that_left_is_told_by_subtraction(study: Study) -> None:
    """Whatever those say who remain."""
    study.answer("avg", "age", users=FOUR)
    assert study.refused("avg", "age", users=WITHOUT_FOUR) == "earlier_hospitals"
    study.let_be_told(*FOUR)
    assert study.refused("avg", "age", users=WITHOUT_FOUR) == "earlier_hospitals"
    assert study.refused("avg", "age") == "earlier_hospitals"


def test_a_hospital_that_had_allowed_it_may_leave(study: Study) -> None:
    """It is not asked again: it is no party of the order that leaves it alone."""
    study.let_be_told(4)
    study.answer("avg", "age", users=FOUR)
    study.let_be_told()
    answer = study.answer("count", "age", users=WITHOUT_FOUR)
    assert answer.number == 3 * N_PATIENTS
    assert study.refused("avg", "age") == "earlier_hospitals"


def test_a_model_and_a_mean_over_other_hospitals(study: Study) -> None:
    """A gradient's totals and a mean's are of the same columns of the same hospitals."""
    study.train(["age"], complete_on=["age"])
    assert study.refused("avg", "age", users=FOUR) == "earlier_hospitals"
    assert study.answer("avg", "age").number > 0


def test_a_mean_and_a_model_over_other_hospitals(study: Study) -> None:
    study.answer("avg", "age", users=FOUR)
    refusal = study.refusal_of_model(["age"], complete_on=["age"], users=WITHOUT_FOUR)
    assert refusal.code == "earlier_hospitals"
    assert refusal.detail["hospitals"] == [4]
    assert len(study.train(["age"], complete_on=["age"], users=FOUR)) == len(FOUR)


def test_two_models_over_other_hospitals(study: Study) -> None:
    """The second order's totals less the first one's would be those of hospital 4."""
    study.train(["age"], complete_on=["age"], users=FOUR)
    refusal = study.refusal_of_model(["age"], complete_on=["age"], users=WITHOUT_FOUR)
    assert refusal.code == "earlier_hospitals"
    assert len(study.train(["age"], complete_on=["age"], users=FOUR)) == len(FOUR)


@pytest.mark.parametrize("aggregation", quick(["mean", "minimum_diameter"], 1))
def test_rounds_over_some_hospitals_count_as_totals_over_these(
    tmp_path: Path, aggregation: str
) -> None:
    """Minimum diameter leaves one of four out, and whom is not known before: the sum over
    2, 3 and 4 may have been opened. Beside it 6 comes alone, and not together with 5.
    """
    another = 6
    hospitals = make_hospitals(tmp_path, (*FOUR, another), min_hospitals=2)
    study = Study(hospitals)
    for user in hospitals.sites:
        study.write(user, patients(user))
    study.let_be_told(*FOUR)
    rule = {"aggregation": aggregation, "scoring": "round"}
    study.train(["age"], complete_on=["age"], users=FOUR, **rule)
    with_another = (*USERS, another)
    if aggregation == "mean":
        models = study.train(["age"], complete_on=["age"], users=with_another)
        assert len(models) == 4
        return
    refusal = study.refusal_of_model(["age"], complete_on=["age"], users=with_another)
    assert refusal.code == "earlier_hospitals"
    assert refusal.detail["hospitals"] == [another]


@pytest.mark.parametrize("least_of_four", quick([2, 3], 1))
def test_what_one_hospital_asks_for_counts_for_all(
    study: Study, least_of_four: int
) -> None:
    """Hospitals 4 and 5 come, or leave: two are enough for 2, 3 and 5, and 4 may ask for
    three. Its word counts in the orders that it is in, and afterwards.
    """
    study.hospitals.allow(**{**RULES, "min_providers": 2})
    study.hospitals.allow([4], **{**RULES, "min_providers": least_of_four})
    study.answer("avg", "age", users=(2, 3))
    study.answer("avg", "bmi", users=FOUR)
    if least_of_four == 2:
        assert study.answer("count", "age", users=FOUR).number == 4 * N_PATIENTS
        assert study.answer("avg", "bmi", users=(2, 3)).number > 0
        return
    assert study.refused("avg", "age", users=FOUR) == "earlier_hospitals"
    assert study.refused("avg", "bmi", users=(2, 3)) == "earlier_hospitals"


@pytest.mark.parametrize("follows", quick([2, 5, None], 1))
def test_one_hospital_that_follows_the_rule_is_enough(
    study: Study, monkeypatch: pytest.MonkeyPatch, follows: int | None
) -> None:
    """The others look at nothing: what hospital 4 has is told only where all do so."""
    check = audited.check_hospitals

    def check_at_one(party: AgreedStatistics) -> bool:
        return check(party) if party.me == follows else True

    monkeypatch.setattr(audited, "check_hospitals", check_at_one)
    study.answer("avg", "age", users=FOUR)
    if follows is None:
        answer = study.answer("count", "age", users=WITHOUT_FOUR)
        assert answer.number == 3 * N_PATIENTS
        return
    assert study.refused("avg", "age", users=WITHOUT_FOUR) == "earlier_hospitals"


@pytest.mark.parametrize("section", quick(["cohort", "statistics"], 1))
def test_a_word_on_models_is_none_on_answers(study: Study, section: str) -> None:
    """Hospital 4 lets itself be told in one kind of order, and leaves both kinds."""
    site = study.hospitals.sites[4]
    rules, of_statistics = site.policy.read_text().split("[statistics]")
    told = {"cohort": rules, "statistics": of_statistics}
    told[section] = told[section].replace("regroup = false", "regroup = true")
    site.policy.write_text("[statistics]".join(told.values()))

    study.answer("avg", "age", users=FOUR)
    study.train(["bmi"], complete_on=["bmi"], users=FOUR)
    if section == "statistics":
        answer = study.answer("count", "age", users=WITHOUT_FOUR)
        assert answer.number == 3 * N_PATIENTS
        code = study.refused_model(["bmi"], complete_on=["bmi"], users=WITHOUT_FOUR)
        assert code == "earlier_hospitals"
        return
    assert study.refused("avg", "age", users=WITHOUT_FOUR) == "earlier_hospitals"
    models = study.train(["bmi"], complete_on=["bmi"], users=WITHOUT_FOUR)
    assert len(models) == len(WITHOUT_FOUR)


def test_others_rows_that_changed_count_as_the_same(study: Study) -> None:
    """Nobody knows the others' rows: the difference is of 4, and of what came at 5."""
    study.answer("avg", "age", users=FOUR)
    study.write(NEWCOMER, patients(NEWCOMER, N_PATIENTS + 20))
    assert study.refused("avg", "age", users=WITHOUT_FOUR) == "earlier_hospitals"


@pytest.mark.parametrize(("users", "is_told"), quick([(USERS, False), (FOUR, True)], 1))
def test_men_and_women_of_four_hospitals_and_all_of_three(
    study: Study, users: tuple[int, ...], is_told: bool
) -> None:
    """Men and women together are everybody: less everybody elsewhere, it is one's own."""
    study.answer("avg", "age", users=FOUR, group_by=["sex"])
    if is_told:
        answer = study.answer("count", "age", users=users)
        assert answer.number == 4 * N_PATIENTS
        return
    assert study.refused("avg", "age", users=users) == "earlier_hospitals"


def test_a_cross_table_with_gaps_and_a_patient_fewer(study: Study) -> None:
    """Who has no region is in no pair of values, and yet in the table where they are
    ten of each age: one of them fewer is seen in the mean as well.
    """
    n_missing = 10
    for user in USERS:
        frame = patients(user)
        frame["region"] = ["north", "south"] * (N_PATIENTS // 2)
        frame["old"] = frame.age // 50
        frame.loc[: 2 * n_missing - 1, "region"] = None
        frame.loc[: 2 * n_missing - 1, "old"] = [0, 1] * n_missing
        study.write(user, frame)
    table = study.hospitals.ask(
        "crosstab",
        dict.fromkeys(USERS, "data.pooled"),
        columns=["old", "region"],
        key="old",
    )
    assert len(table.rows) == 6
    assert table.summary["suppressed"] == []
    frame = patients(2)
    frame["old"] = frame.age // 50
    frame.loc[: 2 * n_missing - 1, "old"] = [0, 1] * n_missing
    study.write(2, frame.drop(index=0))
    assert study.refused("avg", "old") == "earlier_cohort"


def test_a_schedule_that_would_leave_few_hospitals_alone_repeats_its_result(
    study: Study,
) -> None:
    """Other hospitals were asked for the new rows meanwhile: the difference is of 4 and
    5, and neither allows it.
    """
    data = dict.fromkeys(USERS, "data.pooled")
    first = study.hospitals.ask("avg", data, key="age")
    for user in FOUR:
        study.write(user, patients(user, N_PATIENTS + 20))
    study.answer("avg", "age", users=WITHOUT_FOUR)
    again = study.hospitals.ask("avg", data, key="age", repeats=first.order_id)
    assert again.number == first.number
    assert study.refused("avg", "age") == "earlier_hospitals"


@pytest.mark.parametrize("n_gone", quick([1, 0], 1))
def test_a_patient_fewer_after_an_upgrade_that_writes_values_otherwise(
    study: Study, monkeypatch: pytest.MonkeyPatch, n_gone: int
) -> None:
    """No value is known again then; the people are."""
    study.answer("avg", "age")
    study.train(["bmi"], complete_on=["bmi"])
    monkeypatch.setattr(canonical, "FORM", canonical.FORM + 1)
    study.write(2, patients(2).dropna(subset=["bmi"]).iloc[n_gone:])
    if n_gone:
        assert study.refused_model(["bmi"], complete_on=["bmi"]) == "earlier_cohort"
        study.write(2, patients(2).iloc[n_gone:])
        assert study.refused("avg", "age") == "earlier_cohort"
        return
    assert len(study.train(["bmi"], complete_on=["bmi"])) == len(USERS)
    study.write(2, patients(2))
    assert study.answer("count", "age").number == 3 * N_PATIENTS
