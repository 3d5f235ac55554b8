"""Rows without a value, in whose place a mean stands, enter a gradient by that mean: who
can change the mean between two orders told what such a row adds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analytics.arrays import Floats
from tests.made_study import N_PATIENTS, USERS, Study, make_study, patients
from tests.pairwise import quick

COLUMNS = ["age", "crp"]
SQL = "SELECT id, age, crp, died FROM data.pooled"
STEP = 1e-9
"""A learning rate at which the model's first step is the gradient at the start."""


@pytest.fixture
def study(tmp_path: Path) -> Study:
    made = make_study(tmp_path)
    for user in USERS:
        made.write(user, table(user))
    return made


def table(user: int, n_lacking: int = 0) -> pd.DataFrame:
    frame = patients(user).fillna({"crp": 60.0})
    frame.loc[: n_lacking - 1, "crp"] = None
    return frame


def order(**params: Any) -> dict[str, Any]:
    given = {"eps": 0, "max_iter": 1, "penalty": None, "learning_rate": STEP}
    encryption = {"encrypt_param": {"method": "Mask"}}
    return {
        "sql": SQL,
        "complete_on": [],
        "missing": "mean",
        "model_params": {**given, **encryption, **params},
    }


def joint_gradient(study: Study) -> Floats:
    """What hospital 4 knows from its model: the sum over all hospitals."""
    step = np.array(study.train(COLUMNS, **order())[4]["layers"]["dense"])
    return -step / STEP * N_PATIENTS * len(USERS)


def residuals(frame: pd.DataFrame) -> Any:
    return 0.5 - frame["died"]


def test_two_means_would_tell_what_those_add_who_lack_a_value(study: Study) -> None:
    """What the rule is for. Hospital 4 adds 1,000 to its own values, and so to the mean."""
    n_lacking = 10
    study.write(2, table(2, n_lacking))
    before = joint_gradient(study)[1]
    own = table(4)
    moved = own.assign(crp=own["crp"] + 1000)
    study.write(4, moved)
    after = joint_gradient(study)[1]
    n_values = N_PATIENTS * len(USERS) - n_lacking
    of_own = residuals(own) @ (moved["crp"] - own["crp"])
    of_mean = (moved["crp"] - own["crp"]).sum() / n_values
    told = (after - before - of_own) / of_mean
    lacking = table(2).head(n_lacking)
    assert told == pytest.approx(residuals(lacking).sum(), abs=1e-6)


@pytest.mark.parametrize("n_lacking", quick([1, 9], 1))
def test_a_few_rows_without_a_value_are_given_no_mean(
    study: Study, n_lacking: int
) -> None:
    study.write(2, table(2, n_lacking))
    refusal = study.refusal_of_model(COLUMNS, **order())
    assert (refusal.code, refusal.detail["features"]) == ("min_rows", ["crp"])
    assert "missing drop" in refusal.remedy
    models = study.train(COLUMNS, **{**order(), "missing": "drop"})
    assert len(models) == len(USERS)


def test_a_few_more_without_a_value_than_before(study: Study) -> None:
    """Twenty of the same people, and one more: their values were all read before."""
    study.write(2, table(2, 20))
    assert len(study.train(COLUMNS, **order())) == len(USERS)
    study.write(2, table(2, 21))
    assert study.refused_model(COLUMNS, **order()) == "earlier_cohort"
    study.write(2, table(2, 30))
    assert len(study.train(COLUMNS, **order())) == len(USERS)


def test_those_without_a_value_in_either_of_two_columns(study: Study) -> None:
    """Twenty lack one value, and all of them but one another: what one adds would
    follow, though who has a value differs from all by many.
    """
    frame = table(2, 20)
    frame.loc[:18, "bmi"] = None
    frame["bmi"] = frame["bmi"].where(frame.index < 20, frame["bmi"].fillna(50.0))
    study.write(2, frame)
    sql = "SELECT id, crp, bmi, died FROM data.pooled"
    for user in (3, 4):
        study.write(user, table(user).fillna({"bmi": 50.0}))
    both = ["crp", "bmi"]
    refused = study.refused_model(both, **{**order(), "sql": sql})
    assert refused == "earlier_cohort"
