"""The size of a mini-batch weighs hospitals and rows: models over the same rows, which
differ in it alone, told one hospital's gradient and one patient's whole row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analytics.arrays import Floats
from analytics.training.gradients import row_weights
from analytics.training.models import Model
from tests.made_study import USERS, Study, make_study, patients
from tests.pairwise import quick

N_ROWS = {2: 141, 3: 60, 4: 60}
COLUMNS = ["age", "sbp", "dbp"]
SQL = "SELECT id, age, sbp, dbp, died FROM data.pooled"
STEP = 1e-9
"""A learning rate at which no batch moves the weights, so that the model's first step is
the gradient at the start.
"""


def complete(user: int, n_rows: int | None = None) -> pd.DataFrame:
    return patients(user, n_rows or N_ROWS[user]).fillna(dict.fromkeys(COLUMNS, 75.0))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    made = make_study(tmp_path)
    for user in USERS:
        made.write(user, complete(user))
    return made


def let_walk(study: Study, *users: int) -> None:
    """These hospitals' policies allow mini-batches."""
    for user in users:
        policy = study.hospitals.sites[user].policy
        policy.write_text(
            policy.read_text().replace("[cohort]\n", "[cohort]\nmini_batches = true\n")
        )


def settings(batch_size: int) -> dict[str, Any]:
    return {
        "sql": SQL,
        "complete_on": [],
        "model_params": {
            "eps": 0,
            "max_iter": 1,
            "penalty": None,
            "learning_rate": STEP,
            "batch_size": batch_size,
            "init_param": {"init_method": "zeros"},
            "encrypt_param": {"method": "Mask"},
        },
    }


def joint_gradient(study: Study, batch_size: int) -> Floats:
    """What hospital 3 knows from its model: the sum over all hospitals."""
    models = study.train(COLUMNS, **settings(batch_size))
    step = np.array(models[3]["layers"]["dense"])
    return -step / STEP * sum(N_ROWS.values())


def test_three_batch_sizes_would_tell_a_patient_and_a_hospital(study: Study) -> None:
    """What the rule is for. Of hospital 2's 141 rows 140 are one batch and the last one
    another, or 70, 70 and the last one; the others' 60 are one batch always.
    """
    let_walk(study, *USERS)
    n_rows = N_ROWS[2]
    whole = joint_gradient(study, -1)
    two = joint_gradient(study, n_rows - 1) - whole
    three = joint_gradient(study, (n_rows - 1) // 2) - whole
    of_most = (three - two) * (n_rows - 1) / n_rows
    of_last = (two - of_most / (n_rows - 1)) / (n_rows - 1)

    frame = complete(2)
    X = np.column_stack([frame[COLUMNS].to_numpy(float), np.ones(n_rows)])
    own = (0.5 - frame["died"].to_numpy())[:, None] * X
    assert of_last[:-1] / of_last[-1] == pytest.approx(X[-1, :-1], rel=1e-5)
    assert of_most + of_last == pytest.approx(own.sum(axis=0), abs=1e-2)


@pytest.mark.parametrize("batch_size", quick([1, 70, 140], 1))
def test_rows_in_mini_batches_are_refused(study: Study, batch_size: int) -> None:
    assert joint_gradient(study, -1).size == len(COLUMNS) + 1
    refusal = study.refusal_of_model(COLUMNS, **settings(batch_size))
    assert refusal.code == "mini_batches"
    assert "batch_size to -1" in refusal.remedy
    assert "141" not in str(refusal)


@pytest.mark.parametrize("batch_size", quick([141, 500], 1))
def test_one_batch_of_all_rows_is_trained(study: Study, batch_size: int) -> None:
    whole = joint_gradient(study, -1)
    assert joint_gradient(study, batch_size) == pytest.approx(whole)


def test_a_hospital_in_one_batch_beside_others_in_several(study: Study) -> None:
    """Twice the whole less what the others walk in two batches is hospital 4's sum: its
    own policy decides, whatever the others allow.
    """
    study.write(3, complete(3, N_ROWS[2]))
    let_walk(study, 2, 3)
    refusal = study.refusal_of_model(COLUMNS, **settings(71))
    assert refusal.code == "mini_batches"
    let_walk(study, 4)
    assert len(study.train(COLUMNS, **settings(71))) == len(USERS)


def test_a_row_alone_in_its_batch_counts_as_often_as_it_enters() -> None:
    """For the rule that two rows may not make up a round."""
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(21, 2)), np.arange(21) % 2
    found = row_weights(
        Model("lr", 2), np.zeros(3), X, y, batch_size=20, learning_rate=STEP
    )
    assert found.weights[-1] == pytest.approx(20 * found.weights[0])
