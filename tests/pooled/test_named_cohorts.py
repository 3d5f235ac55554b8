"""Whole orders over cohorts by name: the answers are those of the same rows in a table,
and the gate remembers people across cohorts and refreshes.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from agents.check.findings import WRONG
from agents.check.order.checking import check_order
from agents.rows.cohort_refresh import refresh_cohort
from agents.site.policy import load_policy
from tests.made_study import RULES, USERS, Study, make_study, patients

COLUMNS = ["age", "sex", "died"]
ALL = "SELECT id, age, sex, died FROM data.pooled"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    study = make_study(tmp_path)
    make(study, "all_v1", ALL)
    return study


def make(study: Study, name: str, sql: str) -> None:
    """Every hospital approves the definition, and makes its rows."""
    for user in USERS:
        path = study.hospitals.sites[user].site / f"{name}.sql"
        path.write_text(sql)
        study.hospitals.policies[user] += (
            f'[cohorts."{name}"]\nsql = "{name}.sql"\ncolumns = ["id", "age", "died"]\n'
            f'sha256 = "{hashlib.sha256(sql.encode()).hexdigest()}"\n'
        )
    study.hospitals.allow(**RULES)
    for user in USERS:
        refresh(study, user, name)


def refresh(study: Study, user: int, name: str) -> None:
    settings = study.hospitals.sites[user]
    policy = load_policy(settings.policy)
    refresh_cohort(settings, policy, name, now=datetime.now(UTC))


@pytest.mark.slow
@pytest.mark.thorough
def test_a_mean_and_a_model_are_those_of_the_rows(study: Study) -> None:
    make(study, "old_v1", f"{ALL} WHERE age > 30")
    ages = np.concatenate([patients(user).age for user in USERS])
    found = study.answer("avg", "age", data="cohort:old_v1").number
    assert found == pytest.approx(ages[ages > 30].mean(), rel=1e-12)
    named = study.train(["age"], complete_on=["age"], sql="cohort:all_v1")
    written = study.train(["age"], complete_on=["age"], sql=ALL)
    assert named[2]["layers"] == written[2]["layers"]


def test_two_cohorts_that_differ_by_one_patient(study: Study) -> None:
    """Another definition is no way around the audit."""
    oldest = patients(2).sort_values("age").id.iloc[-1]
    make(study, "all_v2", f"{ALL} WHERE id <> {oldest}")
    study.answer("avg", "age", data="cohort:all_v1")
    assert study.refused("avg", "age", data="cohort:all_v2") == "earlier_cohort"
    code = study.refused_model(["age"], complete_on=["age"], sql="cohort:all_v2")
    assert code == "earlier_cohort"


@pytest.mark.thorough
def test_two_cohorts_of_which_one_names_the_table(study: Study) -> None:
    """The oldest patient's age would be the difference of two sums."""
    oldest = patients(2).sort_values("age").id.iloc[-1]
    make(study, "all_v2", f"{ALL} WHERE id <> {oldest}")
    for user in USERS:
        study.hospitals.policies[user] += 'same_people_as = "data.pooled"\n'
    study.hospitals.allow(**RULES)
    study.answer("avg", "age", data="cohort:all_v1")
    assert study.refused("avg", "age", data="cohort:all_v2") == "earlier_cohort"


def test_a_refresh_that_changed_one_row(study: Study) -> None:
    study.answer("avg", "age", data="cohort:all_v1")
    frame = patients(2)
    study.write(2, frame.iloc[1:])
    # Until it is made anew, an answer is of the same rows.
    study.answer("avg", "age", data="cohort:all_v1")
    refresh(study, 2, "all_v1")
    assert study.refused("avg", "age", data="cohort:all_v1") == "earlier_cohort"


@pytest.mark.slow
@pytest.mark.thorough
def test_a_cohort_of_too_few_rows(study: Study) -> None:
    make(study, "few_v1", f"{ALL} WHERE id % 20 = 0")
    code = study.refused_model(["age"], complete_on=["age"], sql="cohort:few_v1")
    assert code == "min_rows"


@pytest.mark.slow
@pytest.mark.thorough
def test_a_column_that_is_not_open(study: Study) -> None:
    code = study.refused("frequency", "sex", data="cohort:all_v1")
    assert code == "missing_column"


def test_what_is_not_there_ends_an_order_before_it_begins(study: Study) -> None:
    assert study.refused("avg", "age", data="cohort:none_v1") == "tables"
    refusal = study.refusal_of_model(["age"], sql="cohort:all_v1 WHERE age > 40")
    assert refusal.code == "cohort_name"


def test_an_order_is_checked_before_it_is_sent(study: Study, tmp_path: Path) -> None:
    """The check reads the rows in the vault, and says what `digest` is for."""
    body = {
        "user_id": 3,
        "party_id": [2, 4],
        "model_type": "lr",
        "model_params": {"encrypt_param": {"method": "Mask"}, "max_iter": 2},
        "data_info": dict.fromkeys(map(str, USERS), "cohort:all_v1"),
        "unique_id": "id",
        "attributes": ["age"],
        "label_name": "died",
    }
    path = tmp_path / "order.json"
    path.write_text(json.dumps(body))
    site = study.hospitals.sites[2].site

    def wrong() -> str:
        found = check_order(site, path)
        return " ".join(one.sentence for one in found if one.state == WRONG)

    assert "all_v1" not in wrong()
    (site / "all_v1.sql").write_text(f"{ALL} LIMIT 5")
    assert "all_v1.sql" in wrong()
