"""An evaluation by subgroups: each is what one table of its rows would give, and none of
few rows is opened.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss, mean_absolute_error, roc_auc_score

from agents.training.report_text import evaluation_as_csv
from deployments.demo.breast_cancer import make_database
from protocol.errors import ConsiliumError, Refused
from tests.pairwise import quick
from tests.pooled.test_evaluated_families import OtherStudy, of_cox, pairs_of
from tests.pooled.test_evaluations import Study, made_rows, params, report_at_all

N_OF = {2: 120, 3: 110, 4: 130}


def with_site(n_rows: int, seed: int) -> pd.DataFrame:
    """Of three wards, of which hospital 4 lacks one."""
    rows = made_rows(n_rows, seed)
    n_wards = 2 if seed % 50 == 4 else 3
    rows["ward"] = np.arange(n_rows) // 2 % n_wards
    return rows


@pytest.mark.parametrize("method", quick(["Mask", "Paillier", "None"], 1))
def test_each_subgroup_is_judged_as_on_one_table(tmp_path: Path, method: str) -> None:
    study = Study(
        tmp_path, N_OF, order={"model_params": params(method)}, make_rows=with_site
    )
    outcome = study.evaluate(group_by="ward", calibration_slope=True)
    report = report_at_all(outcome)
    assert report["group_by"] == "ward"
    assert [group["level"] for group in report["groups"]] == ["0", "1", "2"]
    score = 1 / (1 + np.exp(-study.predictors()[:, 0]))
    rows = study.pooled.assign(score=score)
    for group in report["groups"]:
        own = rows[rows["ward"] == int(group["level"])]
        metrics = group["metrics"]
        assert group["n"] == len(own)
        assert metrics["log_loss"] == pytest.approx(
            log_loss(own["y"], own["score"]), rel=1e-12
        )
        binned = np.floor(own["score"] * 1000)
        assert metrics["auc"] == pytest.approx(
            roc_auc_score(own["y"], binned), abs=1e-14
        )
        assert metrics["tp"] == ((own["score"] >= 0.5) & (own["y"] == 1)).sum()
        assert group["roc"]
        assert "calibration_slope" not in metrics
    assert report["metrics"]["calibration_slope"]
    # The coordinator is told no subgroup.
    assert "groups" not in json.dumps(outcome.summary)
    assert "groups,ward=1,auc," in evaluation_as_csv(report)


@pytest.mark.thorough
def test_an_attribute_and_a_number_s_subgroups(tmp_path: Path) -> None:
    order = {
        "model_type": "linear",
        "label_name": "value",
        "attributes": ["age", "dose", "sex"],
        "categorical": {"sex": {"reference": "m"}},
    }
    study = Study(tmp_path, N_OF, order=order)
    report = report_at_all(study.evaluate(group_by="sex"))
    rows = study.pooled
    columns = [rows["age"], rows["dose"], rows["sex"] == "f"]
    X = np.column_stack(columns).astype(float)
    mean, deviation = study.model["standardize"]
    X = (X - np.asarray(mean)) / np.asarray(deviation)
    *slopes, intercept = study.model["layers"]["dense"]
    rows = rows.assign(predicted=X @ np.array(slopes) + intercept)
    assert [group["level"] for group in report["groups"]] == ["f", "m"]
    for group in report["groups"]:
        own = rows[rows["sex"] == group["level"]]
        expected = mean_absolute_error(own["value"], own["predicted"])
        assert group["metrics"]["mae"] == pytest.approx(expected, rel=1e-10)
        assert "r2" not in group["metrics"]


@pytest.mark.thorough
def test_subgroups_of_a_cox(tmp_path: Path) -> None:
    study = OtherStudy(tmp_path, of_cox())
    report = report_at_all(study.evaluate(group_by="sex"))
    for group in report["groups"]:
        n_pairs = 0
        for rows in study.later.values():
            n_pairs += pairs_of(rows[rows["sex"] == group["level"]])
        pairs = group["pairs"]
        counts = [pairs[name] for name in ("agreeing", "disagreeing", "tied")]
        assert sum(counts) == n_pairs


# What is refused


def split(n_few: int, *, n_events: int = 0) -> dict[int, pd.DataFrame]:
    """At hospital 3 so few are of a ward of their own; or so few of them with the event."""
    later = {user: made_rows(n_rows, 40 + user) for user, n_rows in N_OF.items()}
    for rows in later.values():
        rows["ward"] = np.where(np.arange(len(rows)) % 2, "a", "b")
        rows["y"] = np.arange(len(rows)) // 2 % 2
    rows = later[3]
    if n_events:
        rows.loc[rows["ward"] == "a", "y"] = 0
        of_a = rows.index[rows["ward"] == "a"]
        rows.loc[of_a[:n_events], "y"] = 1
    else:
        rows.loc[rows.index[-n_few:], "ward"] = "c"
        # Both classes of the ward are asked about.
        rows.loc[rows.index[-n_few:], "y"] = 1
    return later


@pytest.mark.parametrize(
    ("few", "code"),
    quick(
        [
            ({"n_few": 9}, "min_rows"),
            ({"n_few": 1, "n_events": 9}, "min_rows"),
            ({"n_few": 10}, ""),
            ({"n_few": 1, "n_events": 10}, ""),
        ],
        2,
    ),
)
def test_no_subgroup_of_few_rows_of_one_outcome_is_opened(
    tmp_path: Path, few: dict[str, int], code: str
) -> None:
    """Nor, by the difference from all rows, the rest of them: what all rows are less one
    subgroup are other cells of the same table.
    """
    study = Study(tmp_path, N_OF, later=split(**few))
    if not code:
        assert len(report_at_all(study.evaluate(group_by="ward"))["groups"]) >= 2
        return
    with pytest.raises(Refused, match=r"ward|SQL") as refused:
        study.evaluate(group_by="ward")
    assert refused.value.code == code
    assert report_at_all(study.evaluate())["metrics"]


@pytest.mark.parametrize(("least", "code"), quick([(3, "min_hospitals"), (2, "")], 1))
def test_a_subgroup_of_few_hospitals_is_not_opened(
    tmp_path: Path, least: int, code: str
) -> None:
    """A ward of two hospitals: less its own part, each would have the other's."""
    study = Study(tmp_path, N_OF, make_rows=with_site, min_hospitals=least)
    if not code:
        assert len(report_at_all(study.evaluate(group_by="ward"))["groups"]) == 3
        return
    with pytest.raises(Refused, match="fewer than 3 hospitals") as refused:
        study.evaluate(group_by="ward")
    assert refused.value.code == code


def test_subgroups_are_remembered(tmp_path: Path) -> None:
    """One person in another ward than in an earlier answer would be told by both."""
    later = split(10)
    study = Study(tmp_path, N_OF, later=later)
    study.evaluate(group_by="ward")
    moved = {user: rows.copy() for user, rows in later.items()}
    moved[3].loc[0, "ward"] = "a"
    path = study.sites[3].vault.parent / "hospital.duckdb"
    path.unlink()
    make_database(path, {**study.tables[3], "later": moved[3]})
    with pytest.raises(Refused, match="earlier"):
        study.evaluate(group_by="ward")


def code_of(study: Study, **changes: Any) -> str:
    with pytest.raises(ConsiliumError) as refused:
        study.evaluate(**changes)
    return refused.value.code


@pytest.mark.thorough
def test_what_is_no_column_of_subgroups_is_refused(tmp_path: Path) -> None:
    later = {user: made_rows(n_rows, 40 + user) for user, n_rows in N_OF.items()}
    for rows in later.values():
        rows["many"] = np.arange(len(rows)) % 11
        rows["gap"] = np.where(np.arange(len(rows)) % 2, "a", None)
        # Enough of each class of each value.
        rows["y"] = np.arange(len(rows)) % 2
    study = Study(tmp_path, N_OF, later=later)
    assert code_of(study, group_by="y") == "group_by"
    assert code_of(study, group_by="nowhere") in ("missing_column", "columns")
    assert code_of(study, group_by="gap") == "null"
    assert code_of(study, group_by="age") == "min_rows"
