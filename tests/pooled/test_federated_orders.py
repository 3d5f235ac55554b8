"""A whole order, with signatures, masks and fixed point, trains what plain gradient descent trains on pooled rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.cohort import CohortLedger
from agents.extraction import split
from agents.settings import Settings
from agents.vault import Vault
from analytics import standardization
from analytics.models import Model
from analytics.training import train
from deployments.breast_cancer import breast_cancer_tables
from deployments.one_process import Outcome, run_order
from protocol.order import parse_training_request
from tests.made_sites import make_sites, order_body

HOSPITALS = (2, 3, 4, 5, 6)
NAMES = ["x1", "x2", "x3", "x4"]
OPTIMIZERS = ["sgd", "nesterov_momentum_sgd", "adam", "rmsprop", "adagrad"]
CLASSES = ("benign", "恶性", "unclear")


def tolerance(optimizer: str) -> float:
    return 1e-9 if "sgd" in optimizer else 1e-6


@pytest.fixture(scope="module")
def frames() -> dict[int, pd.DataFrame]:
    """The breast cancer rows over five hospitals: one tiny, one with a single class; with a class and a value each."""
    everything = pd.concat(breast_cancer_tables().values()).sort_values("id").reset_index(drop=True)
    everything["value"] = 2 * everything.x1 - everything.x3 + 0.5
    everything["kind"] = np.where(everything.y == 1, CLASSES[0], np.where(everything.x2 > 0, CLASSES[1], CLASSES[2]))
    ones = everything[everything.y == 1].head(60)
    rest = everything.drop(ones.index)
    parts = [rest.iloc[:200], ones, rest.iloc[200:220], rest.iloc[220:360], rest.iloc[360:]]
    return {user: part.sample(frac=1, random_state=user) for user, part in zip(HOSPITALS, parts, strict=True)}


@pytest.fixture(scope="module")
def sites(frames: dict[int, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> dict[int, Settings]:
    """Policies that say so: one hospital may be a federation, and a single class or a fold of a few rows is fine."""
    tables = {
        user: {"rows": frame, "late": frame.sort_values("id").tail(len(frame) // 2)} for user, frame in frames.items()
    }
    gate = "min_rows = 1\nmin_varying = 1\nmax_parameter_share = 5"
    return make_sites(tmp_path_factory.mktemp("sites"), tables, min_hospitals=1, cohort=gate)


class Runner:
    """Runs orders one after another, each with a number of its own."""

    def __init__(self, sites: dict[int, Settings], frames: dict[int, pd.DataFrame]) -> None:
        self.sites, self.frames, self.n_orders = sites, frames, 0

    def run(self, body: dict[str, Any]) -> Outcome:
        self.n_orders += 1
        return run_order(self.sites, body, order_id=self.n_orders)

    def rows(self, body: dict[str, Any], *, fold: int = 0) -> list[tuple[Any, Any]]:
        """Each hospital's training rows, in order of id, without those that the fold holds out."""
        request, parts = parse_training_request(body), []
        for user in request.hospitals:
            frame = self.frames[user].sort_values("id")
            kept = np.setdiff1d(
                np.arange(len(frame)),
                split(request, len(frame), fold, CohortLedger(Vault(self.sites[user].vault).cohorts).key),
            )
            y = frame[body["label_name"]].to_numpy()[kept]
            if body["model_type"] == "softmax":
                y = np.array([sorted(CLASSES).index(label) for label in y])
            parts.append((frame[body["attributes"]].to_numpy()[kept], y))
        return parts

    def pooled(self, body: dict[str, Any], *, fold: int = 0, scaled: bool = False) -> Any:
        parts = self.rows(body, fold=fold)
        X, y = np.vstack([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
        if scaled:
            X = (X - X.mean(axis=0)) / X.std(axis=0)
        return train(model_of(body), [(X, y if body["model_type"] == "softmax" else y.astype(float))], **options(body))


@pytest.fixture(scope="module")
def runner(sites: dict[int, Settings], frames: dict[int, pd.DataFrame]) -> Runner:
    return Runner(sites, frames)


def model_of(body: dict[str, Any]) -> Model:
    classes = tuple(sorted(CLASSES)) if body["model_type"] == "softmax" else ()
    intercept = body["model_params"].get("init_param", {}).get("fit_intercept", True)
    return Model(body["model_type"], len(body["attributes"]), intercept, classes)


def options(body: dict[str, Any]) -> dict[str, Any]:
    params = body["model_params"]
    names = ("penalty", "optimizer", "alpha", "max_iter", "learning_rate", "decay", "decay_sqrt", "eps")
    return {"learning_rate": 0.15, **{name: params[name] for name in names if name in params}}


def params(**changes: Any) -> dict[str, Any]:
    method = changes.pop("method", "Mask")
    base = {"alpha": 0.01, "decay": 1, "decay_sqrt": True, "learning_rate": 0.15, "optimizer": "sgd", "max_iter": 5}
    return {**base, "encrypt_param": {"method": method}, **changes}


def dense(outcome: Outcome) -> list[Any]:
    """Every hospital's weights, flat."""
    return [np.ravel(model["layers"]["dense"]) for model in outcome.models.values()]


def assert_pooled(outcome: Outcome, expected: Any, atol: float) -> None:
    weights = dense(outcome)
    assert all(np.array_equal(weights[0], own) for own in weights)
    np.testing.assert_allclose(weights[0], expected.weights, rtol=0, atol=atol)


@pytest.mark.parametrize("n_hospitals", [1, 2, 3, 5])
@pytest.mark.parametrize("method", ["Paillier", "Mask", "None"])
@pytest.mark.parametrize("penalty", ["L1", "L2", None])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_and_penalty(
    runner: Runner, method: str, optimizer: str, penalty: str | None, n_hospitals: int
) -> None:
    settings = params(method=method, optimizer=optimizer, penalty=penalty)
    body = order_body(HOSPITALS[:n_hospitals], model_params=settings)
    assert_pooled(runner.run(body), runner.pooled(body), tolerance(optimizer))


def test_the_three_methods_give_the_same_bits(runner: Runner) -> None:
    weights = [
        dense(runner.run(order_body((2, 3, 4), model_params=params(method=method))))[0]
        for method in ("Paillier", "Mask", "None")
    ]
    assert np.array_equal(weights[0], weights[1])
    assert np.array_equal(weights[0], weights[2])


@pytest.mark.parametrize("model_type", ["linear", "softmax"])
@pytest.mark.parametrize("method", ["Paillier", "Mask"])
def test_other_models(runner: Runner, model_type: str, method: str) -> None:
    """Hospital 3 has one class only; the classes are texts, one of them Chinese."""
    label = {"linear": "value", "softmax": "kind"}[model_type]
    body = order_body((2, 3, 4), model_type=model_type, label_name=label, model_params=params(method=method))
    outcome = runner.run(body)
    assert_pooled(outcome, runner.pooled(body), 1e-9)
    assert outcome.models[3]["classes"] == (sorted(CLASSES) if model_type == "softmax" else [])


@pytest.mark.parametrize("method", ["Paillier", "Mask"])
def test_standardized(runner: Runner, method: str) -> None:
    """Another penalty scale than the raw columns': the joint mean and deviation are those of the pooled rows."""
    body = order_body((2, 3, 4), model_params=params(standardize=True, penalty="L2", method=method))
    outcome = runner.run(body)
    assert_pooled(outcome, runner.pooled(body, scaled=True), 1e-9)
    X = np.vstack([part[0] for part in runner.rows(body)])
    mean, deviation = outcome.models[2]["standardize"]
    np.testing.assert_allclose(mean, X.mean(axis=0), rtol=0, atol=1e-9)
    np.testing.assert_allclose(deviation, standardization.deviation(X.var(axis=0)), rtol=0, atol=1e-9)


@pytest.mark.parametrize("intercept", [True, False])
def test_cross_validation_ends_with_the_model_of_all_rows(runner: Runner, intercept: bool) -> None:
    folds = {"need_cv": True, "n_splits": 3, "random_seed": 7}
    settings = params(cv_param=folds, init_param={"fit_intercept": intercept})
    body = order_body((2, 3, 4, 5, 6), model_params=settings)
    outcome = runner.run(body)
    assert_pooled(outcome, runner.pooled(body), 1e-9)
    summary = next(facts["summary"] for facts in outcome.facts if "summary" in facts)
    assert list(summary) == ["1", "2", "3", "0"]
    for fold in (1, 2, 3):
        n_rows = sum(len(y) for _, y in runner.rows(body, fold=fold))
        assert summary[str(fold)]["n_rows"] == n_rows < summary["0"]["n_rows"]


def test_a_validation_part_is_not_trained(runner: Runner) -> None:
    body = order_body((2, 3, 4), validation_fraction=0.2, model_params=params())
    outcome = runner.run(body)
    assert_pooled(outcome, runner.pooled(body), 1e-9)
    reports = [facts["round"] for facts in outcome.facts if "round" in facts][-1]["hospitals"]
    assert {report["n_rows"] + report["n_test_rows"] for report in reports.values()} == {
        len(runner.frames[user]) for user in (2, 3, 4)
    }
    assert all("test" in report for report in reports.values())


def test_test_rows_of_their_own_sql(runner: Runner) -> None:
    """Two hospitals of three bring test rows; the weights are those of the training rows alone."""
    tested = {"2": "SELECT * FROM data.late", "4": "SELECT * FROM data.late"}
    body = order_body((2, 3, 4), test_data_info=tested, model_params=params())
    outcome = runner.run(body)
    assert_pooled(outcome, runner.pooled(body), 1e-9)
    reports = [facts["round"] for facts in outcome.facts if "round" in facts][-1]["hospitals"]
    assert {user: "test" in report for user, report in reports.items()} == {"2": True, "3": False, "4": True}


def test_vaults_keep_models_and_nothing_else_of_an_order(runner: Runner) -> None:
    runner.run(order_body((2, 3, 4), model_params=params()))
    for site in runner.sites.values():
        assert list((site.vault / "orders").glob("*")) == []
        assert Vault(site.vault).models()
