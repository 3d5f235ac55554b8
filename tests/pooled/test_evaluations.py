"""A kept model on new rows of all hospitals: what is told is what one table would give."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import (
    brier_score_loss,
    confusion_matrix,
    log_loss,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
    roc_auc_score,
)

from agents.site.settings import SiteSettings
from analytics.arrays import Floats
from deployments.demo.breast_cancer import make_database
from deployments.local.one_process import (
    EvaluationOutcome,
    run_evaluation,
    run_order,
)
from protocol.errors import BadRequest, ConsiliumError, NotFound, Refused
from tests.made_sites import make_sites, order_body
from tests.pairwise import pairwise, quick
from tests.unit.test_curves import direct_delong

ATTRIBUTES = ["age", "dose"]
DEALS = {
    1: {2: 300},
    2: {2: 150, 3: 170},
    3: {2: 130, 3: 25, 4: 160},
    5: {2: 80, 3: 70, 4: 21, 5: 90, 6: 75},
}


def made_rows(n_rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    age = rng.normal(60, 9, n_rows)
    dose = rng.normal(0, 1, n_rows)
    eta = 0.1 * (age - 60) + dose
    return pd.DataFrame(
        {
            "id": np.arange(n_rows) + 1000 * seed,
            "age": age,
            "dose": dose,
            "sex": np.where(np.arange(n_rows) % 2, "f", "m"),
            "y": (rng.uniform(size=n_rows) < 1 / (1 + np.exp(-eta))).astype(int),
            "value": 40 + 3 * eta + rng.normal(0, 2, n_rows),
            "kind": np.digitize(eta + rng.normal(0, 1, n_rows), [-0.6, 0.6]),
        }
    )


class Study:
    """A model that hospitals have trained on `rows`, and new people in `later`."""

    def __init__(
        self,
        folder: Path,
        n_of: dict[int, int],
        *,
        later: dict[int, pd.DataFrame] | None = None,
        order: dict[str, Any] | None = None,
        make_rows: Callable[[int, int], pd.DataFrame] = made_rows,
        **policy: Any,
    ) -> None:
        self.later = later or {
            user: make_rows(n_rows, 50 + user) for user, n_rows in n_of.items()
        }
        tables = self.tables = {}
        for user, n_rows in n_of.items():
            rows = make_rows(max(80, n_rows), user)
            tables[user] = {"rows": rows, "later": self.later[user]}
        options = {"min_hospitals": 1, **policy}
        self.sites: dict[int, SiteSettings] = make_sites(folder, tables, **options)
        unsaid = {"attributes": ATTRIBUTES, "model_params": params("Mask")}
        self.trained = order_body(n_of, **{**unsaid, **(order or {})})
        if self.trained["model_type"] in ("glm", "cox"):
            # Newton has defaults of its own.
            self.trained["model_params"] = dict((order or {})["model_params"])
        outcome = run_order(self.sites, self.trained)
        self.model = outcome.models[2]
        # What the coordinator saw.
        self.traffic, self.facts = outcome.traffic, outcome.facts
        self.n_orders = 1

    def put_later(self, later: dict[int, pd.DataFrame]) -> None:
        """Other new rows in the hospitals' databases."""
        self.later = later
        for user, rows in later.items():
            path = self.sites[user].vault.parent / "hospital.duckdb"
            path.unlink()
            make_database(path, {**self.tables[user], "later": rows})

    def evaluate(self, **changes: Any) -> EvaluationOutcome:
        users = sorted(self.later)
        sql = {str(user): "SELECT * FROM data.later" for user in users}
        body = {
            "user_id": users[0],
            "party_id": users[1:],
            "model_id": 1,
            "data_info": sql,
            **changes,
        }
        # No two orders have one number, also where the first one has failed.
        self.n_orders += 1
        return run_evaluation(
            self.sites, body, trained=self.trained, order_id=self.n_orders
        )

    @property
    def pooled(self) -> pd.DataFrame:
        return pd.concat([self.later[user] for user in sorted(self.later)])

    def predictors(self) -> Floats:
        """Of one table of all new rows, by the layers of the vault."""
        X = self.pooled[ATTRIBUTES].to_numpy(float)
        mean, deviation = self.model["standardize"] or (0.0, 1.0)
        X = (X - np.asarray(mean)) / np.asarray(deviation)
        dense = np.array(self.model["layers"]["dense"]).reshape(-1, X.shape[1] + 1)
        return np.column_stack([X, np.ones(len(X))]) @ dense.T


def params(method: str, **more: Any) -> dict[str, Any]:
    return {
        "penalty": None,
        "eps": 0,
        "max_iter": 12,
        "standardize": True,
        "encrypt_param": {"method": method},
        **more,
    }


def report_at_all(outcome: EvaluationOutcome) -> dict[str, Any]:
    found = [one["report"] for one in outcome.evaluations.values()]
    assert all(report == found[0] for report in found)
    report: dict[str, Any] = found[0]
    return report


@pairwise(
    n_quick=1,
    n_hospitals=[3, 1, 2, 5],
    method=["Mask", "Paillier", "None"],
    threshold=[0.5, 0.301],
)
def test_lr_is_judged_as_on_one_table(
    tmp_path: Path, n_hospitals: int, method: str, threshold: float
) -> None:
    study = Study(tmp_path, DEALS[n_hospitals], order={"model_params": params(method)})
    outcome = study.evaluate(threshold=threshold, cutoffs=[0.6, 0.2])
    report = report_at_all(outcome)
    y = study.pooled["y"].to_numpy()
    score = 1 / (1 + np.exp(-study.predictors()[:, 0]))
    metrics = report["metrics"]
    assert report["n"] == len(y)
    assert report["n_left_out"] == 0
    assert metrics["n_positive"] == y.sum()
    assert metrics["log_loss"] == pytest.approx(log_loss(y, score), rel=1e-12)
    assert metrics["brier"] == pytest.approx(brier_score_loss(y, score), rel=1e-12)
    binned = np.floor(score * 1000)
    assert metrics["auc"] == pytest.approx(roc_auc_score(y, binned), abs=1e-14)
    assert metrics["auc"] == pytest.approx(roc_auc_score(y, score), abs=1e-3)
    _, se = direct_delong(y, binned)
    assert metrics["auc_se"] == pytest.approx(se, rel=1e-12)
    cells = confusion_matrix(y, score >= threshold).ravel().tolist()
    assert [metrics[name] for name in ("tn", "fp", "fn", "tp")] == cells
    tn, _, fn, tp = cells
    assert metrics["sensitivity"] == tp / (tp + fn)
    assert metrics["npv"] == tn / (tn + fn)
    assert metrics["threshold"] == threshold
    assert [line["asked"] for line in report["cutoffs"]] == [0.2, 0.6]
    for line in report["cutoffs"]:
        called = score >= line["threshold"]
        assert line["tp"] == (called & (y == 1)).sum()
    assert len(report["decision"]) == len(report["roc"])
    # The counts stay in the vaults; what is shown of them has steps of enough rows.
    counts = np.array(outcome.evaluations[2]["counts"])
    expected = np.histogram(score, bins=1000, range=(0, 1))[0]
    assert (counts[:1000] + counts[1000:]).sum() == expected.sum()
    min_rows = report["min_rows"]
    assert min_rows == 10
    assert len(report["roc"]) >= 3
    for group in report["calibration"]:
        assert min(group["events"], group["n"] - group["events"]) >= min_rows
    assert sum(group["n"] for group in report["calibration"]) == len(y)
    steps = np.diff([0.0, *(point["sensitivity"] for point in report["roc"])])
    assert (steps * y.sum() >= min_rows - 1e-9).all()


@pairwise(n_quick=1, n_hospitals=[3, 1, 2, 5], method=["Mask", "Paillier", "None"])
def test_linear_is_judged_as_on_one_table(
    tmp_path: Path, n_hospitals: int, method: str
) -> None:
    order = {
        "model_type": "linear",
        "label_name": "value",
        "model_params": params(method),
    }
    study = Study(tmp_path, DEALS[n_hospitals], order=order)
    report = report_at_all(study.evaluate())
    y = study.pooled["value"].to_numpy()
    predicted = study.predictors()[:, 0]
    expected = {
        "mse": mean_squared_error(y, predicted),
        "rmse": mean_squared_error(y, predicted) ** 0.5,
        "mae": mean_absolute_error(y, predicted),
        "r2": r2_score(y, predicted),
    }
    assert report["metrics"] == pytest.approx(expected, rel=1e-10)


@pairwise(n_quick=1, kind=["softmax", "mlp"], n_hospitals=[3, 2])
def test_classes_are_judged_as_on_one_table(
    tmp_path: Path, kind: str, n_hospitals: int
) -> None:
    order = {
        "model_type": kind,
        "label_name": "kind",
    }
    if kind == "mlp":
        order["model_params"] = params("Mask", hidden=[2, 2])
    study = Study(tmp_path, DEALS[n_hospitals], order=order)
    metrics = report_at_all(study.evaluate())["metrics"]
    confusion = np.array(metrics["confusion"])
    y = study.pooled["kind"].to_numpy()
    assert confusion.sum(axis=1).tolist() == np.bincount(y, minlength=3).tolist()
    if kind == "mlp":
        return
    margins = study.predictors()
    shares = np.exp(margins) / np.exp(margins).sum(axis=1, keepdims=True)
    called = margins.argmax(axis=1)
    assert (confusion == confusion_matrix(y, called, labels=[0, 1, 2])).all()
    assert metrics["loss"] == pytest.approx(log_loss(y, shares), rel=1e-12)


def test_columns_that_were_made_are_made_again(tmp_path: Path) -> None:
    order = {
        "attributes": ["age", "dose", "sex"],
        "categorical": {"sex": {"reference": "m"}},
        "missing": "mean",
    }
    later = {user: made_rows(90, 40 + user) for user in (2, 3, 4)}
    # Twelve people lack a dose: the mean of the rows that trained stands for it.
    later[3].loc[:11, "dose"] = np.nan
    study = Study(tmp_path, {2: 90, 3: 90, 4: 90}, later=later, order=order)
    report = report_at_all(study.evaluate())
    rows = study.pooled
    model = study.model
    dose = rows["dose"].fillna(model["means"]["dose"])
    columns = {"age": rows["age"], "dose": dose, "sex[f]": rows["sex"] == "f"}
    X = np.column_stack([columns[name] for name in model["features"]]).astype(float)
    mean, deviation = model["standardize"]
    X = (X - np.asarray(mean)) / np.asarray(deviation)
    *slopes, intercept = model["layers"]["dense"]
    score = 1 / (1 + np.exp(-(X @ np.array(slopes) + intercept)))
    assert report["metrics"]["log_loss"] == pytest.approx(
        log_loss(rows["y"], score), rel=1e-12
    )


@pytest.mark.thorough
def test_some_of_the_model_s_hospitals_judge_it(tmp_path: Path) -> None:
    study = Study(tmp_path, {2: 90, 3: 90, 4: 90})
    sql = {str(user): "SELECT * FROM data.later" for user in (3, 4)}
    outcome = study.evaluate(user_id=3, party_id=[4], data_info=sql)
    assert sorted(outcome.evaluations) == [3, 4]
    assert report_at_all(outcome)["n"] == 180


@pytest.mark.thorough
def test_a_label_far_from_0_costs_no_digits_of_r2(tmp_path: Path) -> None:
    later = {user: made_rows(90, 40 + user) for user in (2, 3, 4)}
    for rows in later.values():
        rows["value"] += 1e9
    order = {"model_type": "linear", "label_name": "value"}
    study = Study(tmp_path, {2: 90, 3: 90, 4: 90}, later=later, order=order)
    metrics = report_at_all(study.evaluate())["metrics"]
    y = study.pooled["value"].to_numpy()
    expected = r2_score(y, study.predictors()[:, 0])
    assert metrics["r2"] == pytest.approx(expected, rel=1e-8)


@pytest.mark.thorough
def test_rows_without_a_value_are_left_out_and_counted(tmp_path: Path) -> None:
    later = {user: made_rows(90, 40 + user) for user in (2, 3, 4)}
    later[3].loc[:11, "dose"] = np.nan
    order = {"missing": "drop"}
    study = Study(tmp_path, {2: 90, 3: 90, 4: 90}, later=later, order=order)
    report = report_at_all(study.evaluate())
    assert (report["n"], report["n_left_out"]) == (258, 12)


# What is told


def test_the_coordinator_is_told_metrics_and_no_curve(tmp_path: Path) -> None:
    study = Study(tmp_path, DEALS[3])
    outcome = study.evaluate()
    told = outcome.summary
    assert told["model_id"] == 1
    assert told["n_rows"] == 315
    metrics = outcome.evaluations[2]["report"]["metrics"]
    for name in ("auc", "auc_se", "brier", "log_loss", "tp", "accuracy"):
        assert told["metrics"][name] == metrics[name]
    for seen in [*outcome.traffic, json.dumps(told).encode()]:
        assert b"calibration" not in seen
        assert b"net_benefit" not in seen
        assert b"cutoffs" not in seen
        assert b'"roc"' not in seen


def test_of_a_newton_model_no_deviance_is_told(tmp_path: Path) -> None:
    newton = {"optimizer": "newton", "eps": None, "max_iter": None}
    order = {"model_params": params("Mask", **newton)}
    study = Study(tmp_path, {2: 200, 3: 200, 4: 200}, order=order)
    outcome = study.evaluate()
    assert "log_loss" in outcome.evaluations[2]["report"]["metrics"]
    assert "log_loss" not in outcome.summary["metrics"]
    assert "auc" in outcome.summary["metrics"]


def with_events(n_rows: int, n_events: int, seed: int) -> pd.DataFrame:
    rows = made_rows(n_rows, seed)
    rows["y"] = (np.arange(n_rows) < n_events).astype(int)
    return rows


@pytest.mark.parametrize(
    ("n_events", "is_told"), quick([(9, False), (10, True), (11, True)], 2)
)
def test_few_rows_of_a_class_tell_nothing(
    tmp_path: Path, n_events: int, is_told: bool
) -> None:
    later = {2: with_events(90, n_events, 42), 3: with_events(90, 0, 43)}
    study = Study(tmp_path, {2: 90, 3: 90}, later=later)
    outcome = study.evaluate()
    report = report_at_all(outcome)
    assert bool(report["metrics"]) is is_told
    assert bool(outcome.summary["metrics"]) is is_told
    if not is_told:
        assert report["withheld"] == {"rule": "min_rows", "threshold": 10}
        assert "roc" not in report
        assert outcome.summary["withheld"] == report["withheld"]


def test_the_ledger_says_what_is_opened_and_by_whom(tmp_path: Path) -> None:
    study = Study(tmp_path, DEALS[3])
    study.evaluate()
    lines = study.sites[3].ledger.read_text().splitlines()
    texts = [text for text in lines if "model 1 on age, dose" in text]
    assert len(texts) == 1
    assert "bins by class of model 1" in texts[0]
    assert "gradient" not in texts[0]


# The gate, and what is refused


def code_of(study: Study, **changes: Any) -> str:
    with pytest.raises(ConsiliumError) as refused:
        study.evaluate(**changes)
    return refused.value.code


@pytest.mark.parametrize(
    ("n_rows", "code"), quick([(9, "min_rows"), (10, ""), (11, "")], 1)
)
def test_the_gate_stands_before_these_rows_too(
    tmp_path: Path, n_rows: int, code: str
) -> None:
    n_of = {2: 90, 3: n_rows, 4: 90}
    study = Study(tmp_path, n_of)
    if code:
        assert code_of(study) == code
    else:
        assert report_at_all(study.evaluate())["n"] == 180 + n_rows


@pytest.mark.thorough
def test_a_policy_decides_which_sql_may_run(tmp_path: Path) -> None:
    study = Study(tmp_path, {2: 90, 3: 90, 4: 90})
    sql = {str(user): "SELECT * FROM data.later" for user in (2, 3, 4)}
    assert (
        code_of(study, data_info={**sql, "3": "SELECT * FROM secret.rows"}) == "tables"
    )


def test_one_person_more_is_one_person_told(tmp_path: Path) -> None:
    """The audit remembers whose rows an evaluation was over."""
    later = {user: made_rows(90, 40 + user) for user in (2, 3, 4)}
    study = Study(tmp_path, {2: 90, 3: 90, 4: 90}, later=later)
    study.evaluate()
    path = study.sites[3].vault.parent / "hospital.duckdb"
    path.unlink()
    make_database(path, {"rows": made_rows(90, 3), "later": later[3].iloc[:-1]})
    with pytest.raises(Refused, match="earlier"):
        study.evaluate()


def test_what_cannot_be_judged_is_refused_with_its_code(tmp_path: Path) -> None:
    study = Study(tmp_path, {2: 90, 3: 90, 4: 90})
    with pytest.raises(NotFound, match="holds no model 7"):
        study.evaluate(model_id=7)
    sql = {str(user): "SELECT id, age, y FROM data.later" for user in (2, 3, 4)}
    with pytest.raises(BadRequest, match="dose"):
        study.evaluate(data_info=sql)
    # At another hospital it has lost the model.
    (study.sites[3].vault / "models" / "1.json").unlink()
    with pytest.raises(NotFound, match="holds no model 1"):
        study.evaluate()


def test_one_class_at_all_hospitals_is_refused(tmp_path: Path) -> None:
    later = {user: with_events(90, 0, 40 + user) for user in (2, 3, 4)}
    study = Study(tmp_path, {2: 90, 3: 90, 4: 90}, later=later)
    assert code_of(study) == "one_class"


@pytest.mark.thorough
def test_a_class_and_a_level_that_the_model_does_not_know(tmp_path: Path) -> None:
    later = {user: made_rows(90, 40 + user) for user in (2, 3, 4)}
    later[4].loc[:19, "kind"] = 7
    later[4].loc[:19, "sex"] = "x"
    softmax = {"model_type": "softmax", "label_name": "kind"}
    of_classes = Study(
        tmp_path / "c", {2: 90, 3: 90, 4: 90}, later=later, order=softmax
    )
    assert code_of(of_classes) == "classes"
    sex = {"attributes": ["age", "sex"], "categorical": {"sex": {}}}
    of_levels = Study(tmp_path / "l", {2: 90, 3: 90, 4: 90}, later=later, order=sex)
    assert code_of(of_levels) == "levels"


@pytest.mark.thorough
def test_a_threshold_is_for_scores(tmp_path: Path) -> None:
    linear = {"model_type": "linear", "label_name": "value"}
    study = Study(tmp_path, {2: 90, 3: 90, 4: 90}, order=linear)
    assert code_of(study, threshold=0.4) == "no_score"


def test_an_order_that_reads_other_columns_is_not_the_model_s(tmp_path: Path) -> None:
    study = Study(tmp_path, {2: 90, 3: 90, 4: 90})
    study.trained["attributes"] = ["age"]
    with pytest.raises(Refused, match="otherwise than model 1 does: attributes"):
        study.evaluate()
