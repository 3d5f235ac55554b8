"""The work of a study passes a gate that knows every earlier answer: the table that
describes its patients, a model and another one, the same every month, a hospital that
joins.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.made_study import (
    COVARIATES,
    KINDS,
    N_PATIENTS,
    NEWCOMER,
    NUMBERS,
    USERS,
    Study,
    make_study,
    patients,
)
from tests.pairwise import quick


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path)


@pytest.mark.thorough
def test_the_table_that_describes_the_patients_and_then_a_model(study: Study) -> None:
    """Each of 14 columns over those who have it, then over those who have all that the
    model needs; the model in five folds; the same with one covariate more.
    """
    # Of each value of a covariate ten patients are in each fold.
    for user in USERS:
        study.write(user, patients(user, 400))
    tables = pd.concat([patients(user, 400) for user in USERS])
    for column in NUMBERS:
        count = study.answer("count", column).number
        assert count == tables[column].notna().sum()
        mean = study.answer("avg", column).number
        assert mean == pytest.approx(tables[column].mean())
        spread = study.answer("std", column).number
        assert spread == pytest.approx(tables[column].std())
    for column in NUMBERS[:3]:
        assert not study.answer("median", column).summary["suppressed"]
    for column in KINDS:
        # Few are without a value: a group that would be withheld, and with it another.
        answer = study.answer("frequency", column, complete_on=[column])
        assert answer.summary["suppressed"] == []

    complete = tables.dropna(subset=COVARIATES)
    for column in COVARIATES:
        answer = study.answer("avg", column, complete_on=COVARIATES)
        assert answer.number == pytest.approx(complete[column].mean())

    for attributes in (COVARIATES[:4], COVARIATES):
        models = study.train(attributes, n_folds=5)
        assert len(models) == len(USERS)


def months(user: int, month: int) -> pd.DataFrame:
    """The table after so many months, of each of which 12 patients came and five went."""
    everybody = patients(user, N_PATIENTS + 12 * 12)
    everybody["age"] = everybody.id % 60 + 20
    has_come = np.arange(len(everybody)) < N_PATIENTS + 12 * month
    order_of_going = np.random.default_rng(99).permutation(N_PATIENTS)
    has_come[order_of_going[: 5 * month]] = False
    return everybody[has_come]


@pytest.mark.thorough
def test_a_year_of_monthly_means(study: Study) -> None:
    for month in range(13):
        for user in USERS:
            study.write(user, months(user, month))
        expected = pd.concat([months(user, month) for user in USERS]).age
        assert study.answer("avg", "age").number == pytest.approx(expected.mean())


@pytest.mark.thorough
def test_a_year_of_monthly_models(study: Study) -> None:
    for month in range(13):
        for user in USERS:
            study.write(user, months(user, month))
        assert len(study.train(["age"], complete_on=["age"])) == len(USERS)


@pytest.mark.thorough
def test_a_year_of_monthly_groups(study: Study) -> None:
    """By sex no ten have come and gone within a month: a group is shown again when as
    many have, and nothing but groups is withheld.
    """
    shown: list[set[str]] = []
    for month in range(5):
        for user in USERS:
            study.write(user, months(user, month))
        answer = study.answer("avg", "age", group_by=["sex"])
        shown.append({row["sex"] for row in answer.rows if not row.get("withheld")})
    assert shown[0] == {"F", "M"}
    assert any(shown[1:])


def by_age(study: Study) -> dict[int, str]:
    """The data with a column that says whether a patient is 50."""
    for user in USERS:
        frame = patients(user)
        frame["old"] = np.where(frame.age < 50, "below 50", "50 or more")
        study.write(user, frame)
    return dict.fromkeys(USERS, "data.pooled")


def test_a_table_by_sex_and_age(study: Study) -> None:
    """The means of two columns for each sex and age, and the counts, over the same
    rows for all of it.
    """
    data = by_age(study)
    table = study.hospitals.ask(
        "crosstab", data, columns=["sex", "old"], key="sex", complete_on=["bmi", "crp"]
    )
    assert table.summary["suppressed"] == []
    assert len(table.rows) == 4
    for column in ("bmi", "crp"):
        for group_by in (["sex"], ["old"], ["sex", "old"]):
            answer = study.answer(
                "avg", column, group_by=group_by, complete_on=["bmi", "crp"]
            )
            assert answer.summary["suppressed"] == []
            assert len(answer.rows) == 2 ** len(group_by)


@pytest.mark.thorough
def test_a_few_without_a_value_are_no_sex_that_is_told(study: Study) -> None:
    """All women less the women with a bmi: complete_on is the way."""
    for user in USERS:
        frame = patients(user).fillna({"bmi": 25})
        frame.loc[:8, "bmi"] = None
        study.write(user, frame)
    assert study.answer("frequency", "sex").summary["suppressed"] == []
    assert study.refused("avg", "bmi", group_by=["sex"]) == "earlier_cohort"


@pytest.mark.parametrize("n_missing", quick([9, 10, 0, 1], 1))
def test_a_frequency_of_a_column_with_few_gaps(study: Study, n_missing: int) -> None:
    """Those without a value are a group like another: withheld where they are few, and
    the question is answered.
    """
    for user in USERS:
        frame = patients(user)
        frame["region"] = np.where(frame.index % 2 == 0, "north", "south")
        frame.loc[: n_missing - 1, "region"] = None
        study.write(user, frame)
    assert study.answer("count", "age").number == 3 * N_PATIENTS
    answer = study.answer("frequency", "region")
    n_shown = sum(1 for row in answer.rows if row["frequency"])
    assert n_shown >= 1
    # Asked again without one patient, who has a value or has none.
    for user, patient in ((2, 0), (2, N_PATIENTS - 1)):
        frame = patients(user)
        frame["region"] = np.where(frame.index % 2 == 0, "north", "south")
        frame.loc[: n_missing - 1, "region"] = None
        study.write(user, frame.drop(index=patient))
        assert study.refused("frequency", "region") == "earlier_cohort"


def test_a_fourth_hospital_joins(study: Study) -> None:
    """What it alone has is the difference, which it lets be told: nobody else needs to."""
    study.answer("avg", "age")
    study.train(["age", "bmi"])
    four = (*USERS, NEWCOMER)
    assert study.refused("avg", "age", users=four) == "earlier_hospitals"
    study.let_be_told(*USERS)
    assert study.refused("avg", "age", users=four) == "earlier_hospitals"
    study.let_be_told(NEWCOMER)
    assert study.answer("count", "age", users=four).number == 4 * N_PATIENTS


@pytest.mark.thorough
def test_a_fourth_hospital_joins_a_model(study: Study) -> None:
    study.train(["age", "bmi"])
    four = (*USERS, NEWCOMER)
    study.let_be_told(*USERS)
    refusal = study.refusal_of_model(["age", "bmi"], users=four)
    assert refusal.code == "earlier_hospitals"
    assert refusal.detail["hospitals"] == [NEWCOMER]
    assert "hospital 5 set regroup = true under [cohort]" in refusal.remedy
    study.let_be_told(NEWCOMER)
    assert len(study.train(["age", "bmi"], users=four)) == 4
