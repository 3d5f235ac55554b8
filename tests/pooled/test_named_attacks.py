"""Attacks that were tried on a running federation, by whole orders: each is refused by
the rule's name, and beside it the question that it hides behind is answered.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.made_statistics import Hospitals, make_hospitals
from tests.made_study import N_PATIENTS, USERS, Study, make_study, patients
from tests.pairwise import quick

N_PEOPLE = 80
FIRST, SECOND, PATIENT = range(20), range(20, 40), [N_PEOPLE - 1]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path)


@pytest.fixture
def joined(tmp_path: Path) -> Hospitals:
    """Three hospitals that know the same people, and add only what all have."""
    hospitals = make_hospitals(tmp_path, (2, 3, 4))
    hospitals.allow(
        min_providers=3, own_totals=False, regroup=False, row_level=["id", "x"]
    )
    for user in (2, 3, 4):
        hospitals.write(user, "people.csv", people())
    return hospitals


def people() -> pd.DataFrame:
    numbers = pd.Series(range(N_PEOPLE))
    return pd.DataFrame({"id": numbers, "x": 50 + numbers * 7 % 31})


def ask(hospitals: Hospitals, expression: str) -> Any:
    return hospitals.ask("custom", files(), key="id", expression=expression)


def refused(hospitals: Hospitals, expression: str) -> str:
    return hospitals.refused("custom", files(), key="id", expression=expression).code


def files() -> dict[int, str]:
    return dict.fromkeys((2, 3, 4), "people.csv")


SUM = "sum(df1.x + df2.x + df3.x)"


def test_four_sets_of_keys_that_a_partner_chooses(joined: Hospitals) -> None:
    """A, A without twenty, A without twenty others, A without all forty and one person:
    the fourth would tell what that person adds at the others.
    """
    everybody = people()
    gone: Iterable[int]
    for gone in ([], FIRST, SECOND):
        joined.write(2, "people.csv", everybody.drop(index=list(gone)))
        ask(joined, SUM)
    both = [*FIRST, *SECOND]
    joined.write(2, "people.csv", everybody.drop(index=[*both, *PATIENT]))
    assert refused(joined, SUM) == "earlier_cohort"
    joined.write(2, "people.csv", everybody.drop(index=both))
    expected = 3 * everybody.x.drop(index=both).sum()
    assert ask(joined, SUM).number == expected


@pytest.mark.parametrize(
    ("expression", "code"),
    [
        ("sum(df1.x + 1e-20 * df2.x + 1e-40 * df3.x)", "row_expressions"),
        ("sum(df1.x * df2.x * df3.x)", "row_expressions"),
        ("var(df1.x + df2.x + df3.x)", "row_expressions"),
        ("sum(df1.x * df1.x * df1.x + df2.x)", "row_expressions"),
        (
            "sum(case when df2.id = 17 then 1000 * df2.x else df2.x end + df1.x + df3.x)",
            "row_expressions",
        ),
        ("sum(df1.x)", "own_totals"),
        ("sum(df1.x + df2.x + df3.x) - sum(df2.x + df3.x)", "min_providers"),
        ("sum(df1.x + 0 * df2.x + df3.x)", "min_providers"),
    ],
)
def test_what_would_tell_one_hospitals_sum_or_one_persons_row(
    joined: Hospitals, expression: str, code: str
) -> None:
    assert refused(joined, expression) == code
    assert ask(joined, SUM).number == 3 * people().x.sum()


def test_a_known_column_takes_no_mask_off(joined: Hospitals) -> None:
    """A column that is the same for everybody hides nothing of the other two."""
    joined.write(4, "people.csv", people().assign(x=1))
    assert refused(joined, SUM) == "own_totals"
    joined.write(4, "people.csv", people())
    assert ask(joined, SUM).number == 3 * people().x.sum()


@pytest.mark.parametrize("n_thresholds", quick([3, 20], 1))
def test_twenty_thresholds(joined: Hospitals, n_thresholds: int) -> None:
    """Each threshold would halve what is not known of every person's sum."""
    first = joined.ask("is_investor_accredited", files(), key="id", threshold=150)
    for threshold in range(151, 151 + n_thresholds):
        error = joined.refused(
            "is_investor_accredited", files(), key="id", threshold=threshold
        )
        assert error.code == "threshold"
    again = joined.ask("is_investor_accredited", files(), key="id", threshold=150)
    assert again.text == first.text


# Of pooled rows


@pytest.mark.parametrize(
    "method", quick(["frequency", "median", "var", "histogram"], 2)
)
def test_each_kind_of_answer_with_a_patient_fewer(study: Study, method: str) -> None:
    """Frequencies as means: the table with a patient and the one without tell them."""
    fields: dict[str, Any] = {}
    if method == "histogram":
        fields = {"bins": [20, 40, 60, 80]}
    column = "sex" if method == "frequency" else "age"
    study.answer(method, column, **fields)
    study.write(2, patients(2).drop(index=0))
    assert study.refused(method, column, **fields) == "earlier_cohort"
    study.write(2, patients(2).drop(index=range(10)))
    assert study.answer(method, column, **fields).rows


def test_a_column_that_only_one_patient_lacks_chooses_them(study: Study) -> None:
    """`complete_on` leaves out who has no value in it."""
    frame = patients(2)
    frame["region"] = "north"
    frame.loc[0, "region"] = None
    study.write(2, frame)
    study.answer("avg", "age")
    code = study.refused("avg", "age", complete_on=["region"])
    assert code == "earlier_cohort"
    # The same rows as before pass.
    answer = study.answer("count", "age", complete_on=["sex"])
    assert answer.number == len(USERS) * N_PATIENTS


def test_two_fractions_that_hold_back_a_patient_more(study: Study) -> None:
    """The rows that train are 144 and then 143 of the same 160."""
    settings: dict[str, Any] = {"complete_on": ["age"]}
    study.train(["age"], validation_fraction=0.1, **settings)
    code = study.refused_model(["age"], validation_fraction=17 / 160, **settings)
    assert code == "earlier_cohort"
    assert study.train(["age"], validation_fraction=0.1, **settings)
