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
from tests.pairwise import quick

PAGE = Path(__file__).parents[2] / "docs" / "studies.md"
FENCE = re.compile(r"^```json\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HOSPITALS = (2, 3, 4)


def examples(kind: str) -> list[dict[str, Any]]:
    """Those that have this field."""
    found = [json.loads(text) for text in FENCE.findall(PAGE.read_text("utf-8"))]
    return [body for body in found if kind in body]


HEADING = re.compile(r"^##+ ", re.MULTILINE)


def test_each_part_with_an_example_says_what_leaves_what_it_reveals_and_what_r_has() -> (
    None
):
    """A reader decides by these three."""
    parts = HEADING.split(PAGE.read_text("utf-8"))
    with_examples = [part for part in parts if FENCE.search(part)]
    assert len(with_examples) > 10
    for part in with_examples:
        bullets = [line[:10] for line in part.splitlines() if line.startswith("- ")]
        title = part.splitlines()[0]
        for word in ("- Leaves:", "- Reveals:", "- In R:"):
            assert word in [bullet[: len(word)] for bullet in bullets], (title, word)


def test_each_kind_of_study_has_an_example() -> None:
    models = {name_of(body) for body in examples("model_type")}
    assert models == {"lr", "linear", "glm", "cox"}
    methods = {name_of(body) for body in examples("method")}
    assert methods >= {
        "describe",
        "ttest",
        "paired_ttest",
        "anova",
        "chi2",
        "correlation_test",
        "mann_whitney",
        "kruskal",
        "trend",
        "kaplan_meier",
        "logrank",
        "corr",
    }


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
    frame["cases"] = rng.poisson(frame["age"] / 20 * rng.gamma(1.5, 1 / 1.5, n))
    frame["cost"] = np.round(rng.gamma(3, 900 + 10 * frame["visits"]), 2)
    risk = 0.05 * (frame["age"] - 60) + 0.4 * frame["stage"] - 1
    frame["died"] = (rng.random(n) < 1 / (1 + np.exp(-risk))).astype(int)
    frame["days"] = np.ceil(rng.exponential(400, n))
    # Half of them from the beginning on.
    frame["referred"] = np.floor(frame["days"] * rng.uniform(-0.9, 0.9, n)).clip(0)
    return frame


def made_hospitals(
    folder: Path, users: tuple[int, ...] = HOSPITALS
) -> dict[int, SiteSettings]:
    tables = {}
    for user in users:
        tables[user] = {"patients": patients(user), "later": patients(10 + user)}
    return make_sites(folder, tables)


def everybody(table: str, users: tuple[int, ...] = HOSPITALS) -> dict[str, Any]:
    """What the page leaves out of an order."""
    sql = f"SELECT * FROM data.{table}"
    first, *others = users
    data = {str(user): sql for user in users}
    return {"user_id": first, "party_id": others, "data_info": data}


@pytest.mark.parametrize("body", quick(examples("model_type"), 1), ids=name_of)
def test_an_order_of_the_page(tmp_path: Path, body: dict[str, Any]) -> None:
    params = body.get("model_params", {})
    compares_hospitals = {"pooling", "site_effect"} & params.keys()
    users = tuple(range(2, 8)) if compares_hospitals else HOSPITALS
    sites = made_hospitals(tmp_path, users)
    if "site_effect" in params:
        for site in sites.values():
            text = site.policy.read_text()
            told = text.replace("[orders]", "[orders]\nhospital_sums = true")
            site.policy.write_text(told)
    order = {**everybody("patients", users), "unique_id": "id", **body}
    if "compare" in body:
        smaller = {**order, "attributes": order["attributes"][:1], "categorical": {}}
        smaller.pop("compare")
        run_order(sites, smaller, order_id=body["compare"])
    outcome = run_order(sites, order, order_id=37)
    report = outcome.models[2]["report"]
    assert report["converged"]
    if "compare" in body:
        assert 0 < report["comparison"]["p"] <= 1
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


@pytest.mark.parametrize("body", quick(examples("method"), 2), ids=name_of)
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
