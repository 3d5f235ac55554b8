"""The same people and the same values are known again in whole orders: in another
column, through a view, in a column of another type.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from tests.made_study import (
    N_PATIENTS,
    RULES,
    SQL,
    USERS,
    Study,
    make_study,
    patients,
)
from tests.pairwise import quick

VIEW = "data.seen"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path)


def show_through_view(study: Study, select: str, *, same_people: bool = True) -> None:
    """A view of each hospital's table, which its policy opens."""
    for user in USERS:
        path = study.hospitals.sites[user].state / "hospital.duckdb"
        with duckdb.connect(str(path)) as database:
            database.execute(f"CREATE VIEW {VIEW} AS {select}")
        section = f'[tables."{VIEW}"]\ncolumns = ["*"]\n'
        if same_people:
            section += 'same_people_as = "data.pooled"\n'
        study.hospitals.policies[user] += section
    study.hospitals.allow(**RULES)


def people(user: int) -> pd.DataFrame:
    frame = patients(user)
    frame["birth_year"] = 2026 - frame.age
    return frame


@pytest.mark.parametrize("is_named", quick([True, False], 1))
def test_a_column_that_tells_the_same_in_other_words(
    study: Study, is_named: bool
) -> None:
    """From the mean age and the mean year of birth of one patient fewer follow both of
    that patient.
    """
    same = [["age", "birth_year"]] if is_named else []
    study.hospitals.allow(**RULES, same_values=same)
    for user in USERS:
        study.write(user, people(user))
    n_rows = study.answer("count", "age").number
    study.write(2, people(2).iloc[1:])
    if not is_named:
        assert study.answer("count", "birth_year").number == n_rows - 1
        return
    assert study.refused("avg", "birth_year") == "earlier_cohort"
    assert study.refused_model(["birth_year"], **of("birth_year")) == "earlier_cohort"
    study.write(2, people(2))
    assert study.answer("count", "birth_year").number == n_rows


@pytest.mark.parametrize("same_people", quick([True, False], 1))
def test_a_view_shows_the_people_of_its_table(study: Study, same_people: bool) -> None:
    show_through_view(study, "SELECT * FROM data.pooled", same_people=same_people)
    n_rows = study.answer("count", "age").number
    study.write(2, patients(2).iloc[1:])
    if not same_people:
        assert study.answer("count", "age", data=VIEW).number == n_rows - 1
        return
    assert study.refused("avg", "age", data=VIEW) == "earlier_cohort"
    through_view = SQL.replace("data.pooled", VIEW)
    code = study.refused_model(["age"], complete_on=["age"], sql=through_view)
    assert code == "earlier_cohort"
    study.write(2, patients(2))
    assert study.answer("count", "age", data=VIEW).number == n_rows


def test_a_table_has_the_people_of_its_view(study: Study) -> None:
    show_through_view(study, "SELECT * FROM data.pooled")
    through_view = SQL.replace("data.pooled", VIEW)
    study.train(["age"], complete_on=["age"], sql=through_view)
    study.write(2, patients(2).iloc[1:])
    assert study.refused("avg", "age") == "earlier_cohort"


@pytest.mark.parametrize("kind", quick(["DOUBLE", "DECIMAL(10, 2)", "SMALLINT"], 1))
def test_an_unchanged_column_of_another_type(study: Study, kind: str) -> None:
    """A mean, and then a median of the same numbers, of which no patient is another."""
    select = f"SELECT * REPLACE (CAST(age AS {kind}) AS age) FROM data.pooled"
    show_through_view(study, select)
    study.answer("avg", "age")
    assert study.answer("median", "age", data=VIEW).number == pytest.approx(50, abs=5)
    study.write(2, patients(2).iloc[1:])
    assert study.refused("median", "age", data=VIEW) == "earlier_cohort"


@pytest.mark.parametrize(
    ("n_corrected", "is_told"), quick([(9, False), (1, False), (10, True)], 1)
)
@pytest.mark.parametrize("first", ["a mean", "a model"])
def test_a_corrected_value_before_a_mean(
    study: Study, first: str, n_corrected: int, is_told: bool
) -> None:
    if first == "a mean":
        study.answer("avg", "age")
    else:
        study.train(["age"], **of("age"))
    corrected = patients(2)
    corrected.loc[: n_corrected - 1, "age"] += 1
    study.write(2, corrected)
    if is_told:
        assert study.answer("count", "age").number == 3 * N_PATIENTS
        return
    assert study.refused("avg", "age") == "earlier_cohort"


def of(column: str) -> dict[str, Any]:
    """The other fields of a model of one column."""
    return {
        "complete_on": [column],
        "sql": f"SELECT id, {column}, died FROM data.pooled",
    }


def test_a_column_that_is_constant_at_each_hospital(study: Study) -> None:
    """A dummy of the site: nobody's value changes when the order is sent again, and a
    patient fewer is seen.
    """
    order: dict[str, Any] = {
        "complete_on": ["age"],
        "sql": "SELECT id, age, site, died FROM data.pooled",
    }
    of_site = {user: patients(user).assign(site=int(user == 2)) for user in USERS}
    for user, frame in of_site.items():
        study.write(user, frame)
    for _ in range(2):
        assert len(study.train(["age", "site"], **order)) == len(USERS)
    study.write(2, of_site[2].iloc[1:])
    assert study.refused_model(["site"], **order) == "earlier_cohort"
