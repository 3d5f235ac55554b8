"""docs/studies.md: every example runs, as it stands there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.site.settings import SiteSettings
from deployments.local.one_process import run_evaluation, run_order
from tests.made_sites import make_sites
from tests.made_statistics import Hospitals, make_hospitals

PAGE = Path(__file__).parents[2] / "docs" / "studies.md"
FENCE = re.compile(r"^```json\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HOSPITALS = (2, 3, 4)


def examples(kind: str) -> list[dict[str, Any]]:
    """Those that have this field."""
    found = [json.loads(text) for text in FENCE.findall(PAGE.read_text("utf-8"))]
    return [body for body in found if kind in body]


def name_of(body: dict[str, Any]) -> str:
    return str(body.get("method") or body["model_type"])


def patients(user: int) -> pd.DataFrame:
    """As the page describes its table."""
    n = 240
    rng = np.random.default_rng(user)
    frame = pd.DataFrame({"id": np.arange(n)})
    frame["age"] = np.round(rng.normal(60, 11, n))
    frame["sex"] = rng.choice(["F", "M"], n)
    frame["arm"] = rng.choice(["a", "b"], n)
    frame["stage"] = rng.choice([1, 2, 3], n)
    frame["bp"] = np.round(rng.normal(140, 16, n))
    is_treated = (frame["arm"] == "b").astype(float)
    frame["bp_after"] = np.round(frame["bp"] - 4 - 6 * is_treated + rng.normal(0, 8, n))
    frame["visits"] = rng.poisson(np.exp(2.7 + 0.02 * (frame["age"] - 60)))
    frame["cost"] = np.round(rng.gamma(3, 900 + 10 * frame["visits"]), 2)
    risk = 0.05 * (frame["age"] - 60) + 0.4 * frame["stage"] - 1
    frame["died"] = (rng.random(n) < 1 / (1 + np.exp(-risk))).astype(int)
    frame["days"] = np.ceil(rng.exponential(400, n))
    return frame


def made_hospitals(folder: Path) -> dict[int, SiteSettings]:
    tables = {}
    for user in HOSPITALS:
        tables[user] = {"patients": patients(user), "later": patients(10 + user)}
    return make_sites(folder, tables)


def everybody(table: str) -> dict[str, Any]:
    """What the page leaves out of an order."""
    sql = f"SELECT * FROM data.{table}"
    data = {str(user): sql for user in HOSPITALS}
    return {"user_id": 2, "party_id": [3, 4], "data_info": data}


@pytest.mark.parametrize("body", examples("model_type"), ids=name_of)
def test_an_order_of_the_page(tmp_path: Path, body: dict[str, Any]) -> None:
    sites = made_hospitals(tmp_path)
    outcome = run_order(sites, {**everybody("patients"), "unique_id": "id", **body})
    report = outcome.models[2]["report"]
    assert report["converged"]
    assert all(term["se"] > 0 for term in report["terms"])


def test_the_validation_of_the_page(tmp_path: Path) -> None:
    (body,) = examples("model_id")
    sites = made_hospitals(tmp_path)
    first = next(found for found in examples("model_type"))
    trained = {**everybody("patients"), "unique_id": "id", **first}
    run_order(sites, trained)
    asked = {**everybody("later"), **body, "model_id": 1}
    outcome = run_evaluation(sites, asked, trained=trained, order_id=2)
    report = outcome.evaluations[2]["report"]
    assert report["metrics"]["threshold"] == body["threshold"]
    assert report["roc"]
    assert report["calibration"]


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Hospitals:
    made = make_hospitals(tmp_path_factory.mktemp("sites"), HOSPITALS)
    for user in HOSPITALS:
        made.write(user, "patients.csv", patients(user))
    # Who is who: else questions one after the other are compared by whole rows.
    made.allow(unique_ids={"*.csv": "id"})
    return made


@pytest.mark.parametrize("body", examples("method"), ids=name_of)
def test_a_question_of_the_page(hospitals: Hospitals, body: dict[str, Any]) -> None:
    fields = dict(body)
    answered = hospitals.ask(
        fields.pop("method"),
        dict.fromkeys(HOSPITALS, "patients.csv"),
        key=fields.pop("key_column", "id"),
        **fields,
    )
    assert answered.rows
    withheld = [row["withheld"] for row in answered.rows if row.get("withheld")]
    assert withheld == []
