"""Metrics over few rows of a class are labels of single rows: no hospital shows them as
its own, and all together print the same numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.site.settings import SiteSettings
from deployments.local.one_process import run_order
from tests.made_sites import make_sites, order_body
from tests.pairwise import quick

HOSPITALS = (2, 3, 4)
LOWEST = "min_rows = 1\nmin_varying = 1"
TEN = "min_rows = 10\nmin_varying = 1"
FOLDS = {"need_cv": True, "n_splits": 3, "shuffle": True, "random_seed": 7}
CROSS_VALIDATION = {"model_params": {"cv_param": FOLDS}}


def frames(n_rows: int, few: int) -> dict[int, pd.DataFrame]:
    """Rows of three hospitals; at hospital 3 `few` of them are of class 1."""
    made = {}
    for user in HOSPITALS:
        rng = np.random.default_rng(user)
        n_ones = few if user == 3 else n_rows // 2
        labels = np.arange(n_rows) % n_rows < n_ones
        columns = {"id": np.arange(n_rows), "x1": rng.normal(size=n_rows)}
        y = rng.permutation(labels).astype(int)
        kind = np.where(y == 1, "ill", "well")
        value = columns["x1"] + y
        made[user] = pd.DataFrame({**columns, "y": y, "kind": kind, "value": value})
    return made


def facts_of(
    folder: Path, tables: dict[int, pd.DataFrame], cohort: str, **order: Any
) -> dict[str, Any]:
    """The records of all rounds, and what was summed up at the end."""
    opened = {user: {"rows": frame} for user, frame in tables.items()}
    sites = make_sites(folder, opened, cohort=cohort)
    return facts_at(sites, **order)


def facts_at(
    sites: dict[int, SiteSettings], order_id: int = 1, **order: Any
) -> dict[str, Any]:
    body = order_body(HOSPITALS, attributes=["x1"], **order)
    outcome = run_order(sites, body, order_id=order_id)
    rounds = [fact["round"] for fact in outcome.facts if "round" in fact]
    (summary,) = [fact["summary"] for fact in outcome.facts if "summary" in fact]
    return {"rounds": rounds, "summary": summary}


def test_a_fold_with_few_rows_of_a_class_shows_no_hospitals_counts(
    tmp_path: Path,
) -> None:
    """Three held-out parts of 30 rows, of which hospital 3 has about 4 of class 1."""
    found = facts_of(tmp_path, frames(90, 12), TEN, **CROSS_VALIDATION)
    for record in found["rounds"]:
        for report in record["hospitals"].values():
            assert "withheld" in report
            for value in report.get("test", {}).values():
                assert value is None
            if "test" in report:
                rule = {"rule": "min_rows", "threshold": 10}
                assert report["withheld"]["test"] == rule


def test_where_every_class_has_enough_rows_each_shows_its_own(tmp_path: Path) -> None:
    found = facts_of(tmp_path, frames(90, 45), TEN)
    for record in found["rounds"]:
        for report in record["hospitals"].values():
            assert "withheld" not in report
            assert report["train"]["tp"] + report["train"]["fn"] == 45


@pytest.mark.parametrize(
    ("model_type", "label"), quick([("lr", "y"), ("softmax", "kind")], 1)
)
def test_together_the_same_numbers_are_printed(
    tmp_path: Path, model_type: str, label: str
) -> None:
    """Nothing is withheld at min_rows 1, all is at 10."""
    order = {"model_type": model_type, "label_name": label, **CROSS_VALIDATION}
    opened = {user: {"rows": frame} for user, frame in frames(90, 12).items()}
    sites = make_sites(tmp_path, opened, cohort=LOWEST)
    shown = facts_at(sites, **order)
    # The same vaults, because their keys draw the folds.
    for site in sites.values():
        text = site.policy.read_text()
        site.policy.write_text(text.replace(LOWEST, TEN))
    withheld = facts_at(sites, order_id=2, **order)
    assert withheld["rounds"][0]["loss"] is None
    _assert_alike(withheld["summary"], shown["summary"])


def _assert_alike(one: Any, other: Any) -> None:
    """Counts are equal; a mean of rounded metrics is so to 6 digits."""
    if isinstance(other, dict):
        assert set(one) == set(other)
        for name, value in other.items():
            _assert_alike(one[name], value)
    elif isinstance(other, float):
        assert one == pytest.approx(other, abs=2e-6)
    else:
        assert one == other
