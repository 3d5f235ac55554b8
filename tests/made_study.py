"""A study of three hospitals whose policies leave the gate's numbers as they are: ten
people, three hospitals; and a fourth that may join.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from deployments.local.one_process import run_order
from protocol.errors import ConsiliumError
from tests.made_statistics import Hospitals, make_hospitals

USERS = (2, 3, 4)
NEWCOMER = 5
N_PATIENTS = 160
NUMBERS = ("age", "bmi", "crp", "esr", "hb", "egfr", "sbp", "dbp", "years")
KINDS = ("sex", "smoker", "disease", "region", "died")
COVARIATES = ["age", "bmi", "crp", "egfr", "smoker"]
SQL = "SELECT id, " + ", ".join([*NUMBERS, *KINDS]) + " FROM data.pooled"


def patients(user: int, n_patients: int = N_PATIENTS) -> pd.DataFrame:
    """One hospital's table of 14 columns; in all but three of them values are missing
    at random.
    """
    rng = np.random.default_rng(user)
    frame = pd.DataFrame({"id": np.arange(n_patients) + 10_000 * user})
    for number, name in enumerate(NUMBERS):
        values = rng.normal(50 + 5 * number, 10, n_patients)
        frame[name] = np.round(values, 1)
    frame["age"] = rng.integers(20, 80, n_patients)
    frame["sex"] = rng.choice(["F", "M"], n_patients)
    frame["smoker"] = rng.integers(0, 2, n_patients).astype(float)
    frame["disease"] = rng.choice(["gout", "sle"], n_patients)
    frame["region"] = rng.choice(["north", "south"], n_patients)
    frame["died"] = rng.integers(0, 2, n_patients)
    has_all = {"id", "age", "sex", "died"}
    for name in frame.columns:
        if name not in has_all:
            frame.loc[rng.random(n_patients) < 0.06, name] = None
    return frame


class Study:
    """Orders of several hospitals one after the other, each of which must pass."""

    def __init__(self, hospitals: Hospitals) -> None:
        self.hospitals = hospitals

    def let_be_told(self, *users: int) -> None:
        """These hospitals, and no others, allow answers that leave them alone."""
        for user, site in self.hospitals.sites.items():
            word = "true" if user in users else "false"
            other = "false" if user in users else "true"
            rules = site.policy.read_text()
            site.policy.write_text(
                rules.replace(f"regroup = {other}", f"regroup = {word}")
            )

    def write(self, user: int, frame: pd.DataFrame) -> None:
        self.hospitals.write(user, "data.pooled", frame)

    def answer(
        self,
        method: str,
        column: str,
        *,
        users: Iterable[int] = USERS,
        data: str = "data.pooled",
        **fields: Any,
    ) -> Any:
        data_of = dict.fromkeys(users, data)
        return self.hospitals.ask(method, data_of, key=column, **fields)

    def refused(
        self,
        method: str,
        column: str,
        *,
        users: Iterable[int] = USERS,
        data: str = "data.pooled",
        **fields: Any,
    ) -> str:
        data_of = dict.fromkeys(users, data)
        return self.hospitals.refused(method, data_of, key=column, **fields).code

    def train(
        self,
        attributes: list[str],
        *,
        users: Iterable[int] = USERS,
        n_folds: int = 0,
        sql: str = SQL,
        complete_on: Iterable[str] = COVARIATES,
        away: Iterable[int] = (),
        **changes: Any,
    ) -> dict[int, Any]:
        self.hospitals.last += 1
        first, *others = users
        folds = {"need_cv": n_folds > 0, "n_splits": n_folds or 2, "shuffle": True}
        body = {
            "user_id": first,
            "party_id": others,
            "model_type": "lr",
            "model_params": {
                "eps": 0,
                "max_iter": 2,
                "standardize": True,
                "encrypt_param": {"method": "Mask"},
                "cv_param": folds,
            },
            "data_info": dict.fromkeys(map(str, users), sql),
            "unique_id": "id",
            "attributes": attributes,
            "label_name": "died",
            "complete_on": list(complete_on),
            "scoring": "none",
            **changes,
        }
        outcome = run_order(
            self.hospitals.sites,
            body,
            order_id=self.hospitals.last,
            away=list(away),
        )
        return outcome.models

    def refused_model(self, attributes: list[str], **order: Any) -> str:
        return self.refusal_of_model(attributes, **order).code

    def refusal_of_model(self, attributes: list[str], **order: Any) -> ConsiliumError:
        with pytest.raises(ConsiliumError) as caught:
            self.train(attributes, **order)
        return caught.value


RULES: dict[str, Any] = {
    "min_providers": 3,
    "own_totals": False,
    "regroup": False,
}


def make_study(folder: Path) -> Study:
    users = (*USERS, NEWCOMER)
    pooled = {user: patients(user) for user in users}
    hospitals = make_hospitals(folder, users, pooled=pooled, regroup=False)
    hospitals.allow(**RULES)
    return Study(hospitals)
