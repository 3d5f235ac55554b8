"""A whole order, with signatures, masks and fixed point, trains what plain gradient
descent trains on pooled rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as skm

from agents.gate.memory import Memory
from agents.site.ledger import Ledger
from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from agents.training import fold_end
from agents.training.row_sets import split
from analytics.training import standardization
from analytics.training.descent import train
from analytics.training.margins import scores
from analytics.training.models import Model
from deployments.demo.breast_cancer import breast_cancer_tables
from deployments.local.one_process import OrderOutcome, run_order
from protocol.errors import BadRequest
from protocol.training_request import parse_training_request
from tests.made_sites import make_sites, order_body
from tests.pairwise import pairwise, quick

HOSPITALS = (2, 3, 4, 5, 6)
NAMES = ["x1", "x2", "x3", "x4"]
OPTIMIZERS = ["sgd", "nesterov_momentum_sgd", "adam", "rmsprop", "adagrad"]
METHODS = ["Paillier", "Mask", "None"]
CLASSES = ("benign", "恶性", "unclear")


def tolerance(optimizer: str) -> float:
    return 1e-9 if "sgd" in optimizer else 1e-6


@pytest.fixture(scope="module")
def frames() -> dict[int, pd.DataFrame]:
    """The breast cancer rows over five hospitals: one tiny, one with a single class;
    with a class and a value each.
    """
    everything = (
        pd.concat(breast_cancer_tables().values())
        .sort_values("id")
        .reset_index(drop=True)
    )
    everything["value"] = 2 * everything.x1 - everything.x3 + 0.5
    everything["kind"] = np.where(
        everything.y == 1,
        CLASSES[0],
        np.where(everything.x2 > 0, CLASSES[1], CLASSES[2]),
    )
    ones = everything[everything.y == 1].head(60)
    rest = everything.drop(ones.index)
    parts = [
        rest.iloc[:200],
        ones,
        rest.iloc[200:220],
        rest.iloc[220:360],
        rest.iloc[360:],
    ]
    return {
        user: part.sample(frac=1, random_state=user)
        for user, part in zip(HOSPITALS, parts, strict=True)
    }


@pytest.fixture(scope="module")
def sites(
    frames: dict[int, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory
) -> dict[int, SiteSettings]:
    """Policies that say so: one hospital may be a federation, and a single class or a
    fold of a few rows is fine.
    """
    tables = {
        user: {"rows": frame, "late": frame.sort_values("id").tail(len(frame) // 2)}
        for user, frame in frames.items()
    }
    gate = "min_rows = 1\nmin_varying = 1\nmax_parameter_share = 5"
    return make_sites(
        tmp_path_factory.mktemp("sites"), tables, min_hospitals=1, cohort=gate
    )


class Runner:
    """Runs orders one after another, each with a number of its own."""

    def __init__(
        self, sites: dict[int, SiteSettings], frames: dict[int, pd.DataFrame]
    ) -> None:
        self.sites, self.frames, self.n_orders = sites, frames, 0

    def run(self, body: dict[str, Any]) -> OrderOutcome:
        self.n_orders += 1
        return run_order(self.sites, body, order_id=self.n_orders)

    def rows(
        self, body: dict[str, Any], *, fold: int = 0, held_out: bool = False
    ) -> list[tuple[Any, Any]]:
        """Each hospital's training rows, in order of id, or those that the fold holds
        out.
        """
        request, parts = parse_training_request(body), []
        for user in request.hospitals:
            frame = self.frames[user].sort_values("id")
            key = Memory(Vault(self.sites[user].vault).cohorts).key
            chosen = split(request, len(frame), fold, key)
            if not held_out:
                chosen = np.setdiff1d(np.arange(len(frame)), chosen)
            parts.append(of_rows(frame.iloc[chosen], body))
        return parts

    def pooled(
        self, body: dict[str, Any], *, fold: int = 0, scaled: bool = False
    ) -> Any:
        parts = self.rows(body, fold=fold)
        X, y = (
            np.vstack([part[0] for part in parts]),
            np.concatenate([part[1] for part in parts]),
        )
        if scaled:
            X = (X - X.mean(axis=0)) / X.std(axis=0)
        return train(
            model_of(body),
            [(X, y if body["model_type"] == "softmax" else y.astype(float))],
            **options(body),
        )


@pytest.fixture(scope="module")
def runner(sites: dict[int, SiteSettings], frames: dict[int, pd.DataFrame]) -> Runner:
    return Runner(sites, frames)


def of_rows(frame: pd.DataFrame, body: dict[str, Any]) -> tuple[Any, Any]:
    """X and y as the model sees them."""
    y = frame[body["label_name"]].to_numpy()
    if body["model_type"] == "softmax":
        y = np.array([sorted(CLASSES).index(label) for label in y], dtype=int)
    return frame[body["attributes"]].to_numpy(), y


def summary_of(outcome: OrderOutcome) -> dict[str, Any]:
    found: dict[str, Any] = next(
        facts["summary"] for facts in outcome.facts if "summary" in facts
    )
    return found


def model_of(body: dict[str, Any]) -> Model:
    classes = tuple(sorted(CLASSES)) if body["model_type"] == "softmax" else ()
    intercept = body["model_params"].get("init_param", {}).get("fit_intercept", True)
    return Model(body["model_type"], len(body["attributes"]), intercept, classes)


def options(body: dict[str, Any]) -> dict[str, Any]:
    params = body["model_params"]
    names = (
        "penalty",
        "optimizer",
        "alpha",
        "max_iter",
        "learning_rate",
        "decay",
        "decay_sqrt",
        "eps",
    )
    return {
        "learning_rate": 0.15,
        **{name: params[name] for name in names if name in params},
    }


def params(**changes: Any) -> dict[str, Any]:
    method = changes.pop("method", "Mask")
    base = {
        "alpha": 0.01,
        "decay": 1,
        "decay_sqrt": True,
        "learning_rate": 0.15,
        "optimizer": "sgd",
        "max_iter": 5,
    }
    return {**base, "encrypt_param": {"method": method}, **changes}


def dense(outcome: OrderOutcome) -> list[Any]:
    """Every hospital's weights, flat."""
    return [np.ravel(model["layers"]["dense"]) for model in outcome.models.values()]


def assert_pooled(outcome: OrderOutcome, expected: Any, atol: float) -> None:
    weights = dense(outcome)
    assert all(np.array_equal(weights[0], own) for own in weights)
    np.testing.assert_allclose(weights[0], expected.weights, rtol=0, atol=atol)


# All combinations of what is trained are in `test_gradient_descent`; here, whole orders
# under each method.
@pairwise(
    n_quick=3,
    optimizer=OPTIMIZERS,
    penalty=["L1", "L2", None],
    method=METHODS,
    n_hospitals=[5, 3, 2, 1],
)
def test_every_optimizer_and_penalty(
    runner: Runner, method: str, optimizer: str, penalty: str | None, n_hospitals: int
) -> None:
    settings = params(method=method, optimizer=optimizer, penalty=penalty)
    body = order_body(HOSPITALS[:n_hospitals], model_params=settings)
    assert_pooled(runner.run(body), runner.pooled(body), tolerance(optimizer))


def test_the_three_methods_give_the_same_bits(runner: Runner) -> None:
    weights = [
        dense(runner.run(order_body((2, 3, 4), model_params=params(method=method))))[0]
        for method in METHODS
    ]
    assert np.array_equal(weights[0], weights[1])
    assert np.array_equal(weights[0], weights[2])


@pytest.mark.parametrize("model_type", ["linear", "softmax"])
@pytest.mark.parametrize("method", quick(["Mask", "Paillier"], 1))
def test_other_models(runner: Runner, model_type: str, method: str) -> None:
    """Hospital 3 has one class only; the classes are texts, one of them Chinese."""
    label = {"linear": "value", "softmax": "kind"}[model_type]
    body = order_body(
        (2, 3, 4),
        model_type=model_type,
        label_name=label,
        model_params=params(method=method),
    )
    outcome = runner.run(body)
    assert_pooled(outcome, runner.pooled(body), 1e-9)
    assert outcome.models[3]["classes"] == (
        sorted(CLASSES) if model_type == "softmax" else []
    )


def test_the_ledger_lists_the_totals_before_a_sum_leaves(
    runner: Runner, sites: dict[int, SiteSettings]
) -> None:
    """What each hospital opens of a training order, to all of its hospitals."""
    body = order_body(
        (2, 3, 4), model_params=params(standardize=True, max_iter=2, method="Mask")
    )
    runner.run(body)
    for user in (2, 3, 4):
        entries = list(Ledger(sites[user].ledger).entries())
        places = [i for i, line in enumerate(entries) if line["event"] == "opens"]
        opens = entries[places[-1]]
        assert opens["receivers"] == ["2", "3", "4"]
        joined = "; ".join(opens["totals"])
        for words in ("n of ", "sum and sum of squares of each of ", "in each round"):
            assert words in joined
        of_order = [
            line.get("kind")
            for line in entries[: places[-1]]
            if line.get("order_id") == opens["order_id"] and line["event"] == "left"
        ]
        assert not {"moments", "gradient", "mean"} & set(of_order)
        after = [line.get("kind") for line in entries[places[-1] :]]
        assert "gradient" in after


@pytest.mark.parametrize("method", quick(["Mask", "Paillier"], 1))
def test_standardized(runner: Runner, method: str) -> None:
    """Another penalty scale than the raw columns': the joint mean and deviation are
    those of the pooled rows.
    """
    body = order_body(
        (2, 3, 4), model_params=params(standardize=True, penalty="L2", method=method)
    )
    outcome = runner.run(body)
    assert_pooled(outcome, runner.pooled(body, scaled=True), 1e-9)
    X = np.vstack([part[0] for part in runner.rows(body)])
    mean, deviation = outcome.models[2]["standardize"]
    np.testing.assert_allclose(mean, X.mean(axis=0), rtol=0, atol=1e-9)
    np.testing.assert_allclose(
        deviation, standardization.deviation(X.var(axis=0)), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("intercept", quick([False, True], 1))
def test_cross_validation_ends_with_the_model_of_all_rows(
    runner: Runner, intercept: bool
) -> None:
    folds = {"need_cv": True, "n_splits": 3, "random_seed": 7}
    settings = params(cv_param=folds, init_param={"fit_intercept": intercept})
    body = order_body((2, 3, 4, 5, 6), model_params=settings)
    outcome = runner.run(body)
    assert_pooled(outcome, runner.pooled(body), 1e-9)
    summary = summary_of(outcome)
    assert list(summary) == ["1", "2", "3", "0", "held_out", "rows"]
    for fold in (1, 2, 3):
        n_rows = sum(len(y) for _, y in runner.rows(body, fold=fold))
        assert summary[str(fold)]["n_rows"] == n_rows < summary["0"]["n_rows"]


def test_complete_cases_are_trained_and_no_others(
    tmp_path: Path, frames: dict[int, pd.DataFrame]
) -> None:
    with_gaps = {}
    for user, frame in frames.items():
        seen = np.where(frame.id % 3 == 0, None, 1)
        x1 = frame.x1.where(
            frame.id % 3 != 0
        )  # a gap in a feature where nobody was seen
        with_gaps[user] = frame.assign(x1=x1, seen=pd.array(seen, dtype="Int64"))
    gate = "min_rows = 1\nmin_varying = 1\nmax_parameter_share = 5"
    tables = {user: {"rows": frame} for user, frame in with_gaps.items()}
    made = make_sites(tmp_path, tables, min_hospitals=1, cohort=gate)
    body = order_body((2, 3, 4), model_params=params())
    with pytest.raises(BadRequest, match="complete_on") as refused:
        run_order(made, body, order_id=1)
    assert refused.value.code == "null"
    outcome = run_order(made, {**body, "complete_on": ["seen", "x1"]}, order_id=2)
    complete = {user: frame.dropna() for user, frame in with_gaps.items()}
    assert_pooled(outcome, Runner(made, complete).pooled(body), 1e-9)


def test_a_validation_part_is_not_trained(runner: Runner) -> None:
    body = order_body((2, 3, 4), validation_fraction=0.2, model_params=params())
    outcome = runner.run(body)
    assert_pooled(outcome, runner.pooled(body), 1e-9)
    reports = [facts["round"] for facts in outcome.facts if "round" in facts][-1][
        "hospitals"
    ]
    assert {
        report["n_rows"] + report["n_test_rows"] for report in reports.values()
    } == {len(runner.frames[user]) for user in (2, 3, 4)}
    assert all("test" in report for report in reports.values())


def test_test_rows_of_their_own_sql(runner: Runner) -> None:
    """Two hospitals of three bring test rows; the weights are those of the training
    rows alone.
    """
    tested = {"2": "SELECT * FROM data.late", "4": "SELECT * FROM data.late"}
    body = order_body((2, 3, 4), test_data_info=tested, model_params=params())
    outcome = runner.run(body)
    assert_pooled(outcome, runner.pooled(body), 1e-9)
    reports = [facts["round"] for facts in outcome.facts if "round" in facts][-1][
        "hospitals"
    ]
    assert {user: "test" in report for user, report in reports.items()} == {
        "2": True,
        "3": False,
        "4": True,
    }


# --- rows that a model has not seen --------------------------------------------------------------------------------

MODELS = {"lr": "y", "linear": "value", "softmax": "kind"}


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> dict[int, Any]:
    """Each fold's trained weights, which a fold's end alone knows but for those of the
    final model.
    """
    found: dict[int, Any] = {}
    finish = fold_end.finish_fold

    def finish_fold(own: Any, fold: Any) -> None:
        found[fold.number] = fold.checkpoint.weights
        finish(own, fold)

    monkeypatch.setattr(fold_end, "finish_fold", finish_fold)
    return found


def by_scikit_learn(
    body: dict[str, Any], parts: list[tuple[list[tuple[Any, Any]], Any]]
) -> dict[str, Any]:
    """Metrics of one table, of whose parts each is predicted by weights of its own."""
    rows = [
        (X, y, scores(model_of(body), weights, X))
        for own, weights in parts
        for X, y in own
        if len(y)
    ]
    y, score = (
        np.concatenate([y for _, y, _ in rows]),
        np.concatenate([score for _, _, score in rows]),
    )
    if body["model_type"] == "linear":
        mse = skm.mean_squared_error(y, score)
        mae = skm.mean_absolute_error(y, score)
        return {
            "n_rows": len(y),
            "loss": mse / 2,
            "mse": mse,
            "rmse": np.sqrt(mse),
            "mae": mae,
        }
    labels = range(len(CLASSES) if body["model_type"] == "softmax" else 2)
    called = score.argmax(axis=1) if body["model_type"] == "softmax" else score > 0.5
    loss, confusion = (
        skm.log_loss(y, score, labels=labels),
        skm.confusion_matrix(y, called, labels=labels),
    )
    found = {"n_rows": len(y), "loss": loss, "accuracy": skm.accuracy_score(y, called)}
    if body["model_type"] == "softmax":
        return {
            **found,
            "f1_macro": skm.f1_score(y, called, average="macro"),
            "confusion": confusion.tolist(),
        }
    (tn, fp), (fn, tp) = confusion.tolist()
    return {
        **found,
        **of_bins(y, score),
        "f1": skm.f1_score(y, called),
        "tp": tp,
        "fp": fp,
        "tn": tn,
        "fn": fn,
    }


def of_bins(y: Any, score: Any) -> dict[str, float | None]:
    """AUC and KS of scores that are told in 1,000 bins."""
    bins = np.minimum(np.floor(score * 1000), 999)
    if len(set(y.tolist())) < 2:
        return {"auc": None, "ks": None}
    false_positive, true_positive, _ = skm.roc_curve(y, bins, drop_intermediate=False)
    return {
        "auc": skm.roc_auc_score(y, bins),
        "ks": np.abs(true_positive - false_positive).max(),
    }


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        is_exact = value is None or isinstance(value, int | list)
        assert found[name] == (
            value if is_exact else pytest.approx(value, rel=1e-12, abs=1e-12)
        ), name


@pairwise(n_quick=1, model_type=list(MODELS), n_hospitals=[5, 3, 2, 1])
def test_metrics_of_each_fold_s_held_out_rows_are_those_of_one_table(
    runner: Runner, weights: dict[int, Any], model_type: str, n_hospitals: int
) -> None:
    """One hospital is tiny, one has a single class.

    Over all folds each row counts once, by the model of its fold.
    """
    folds = {"need_cv": True, "n_splits": 3, "shuffle": True, "random_seed": 7}
    changes = {"model_type": model_type, "label_name": MODELS[model_type]}
    body = order_body(
        HOSPITALS[:n_hospitals],
        model_params=params(cv_param=folds, max_iter=3),
        **changes,
    )
    summary, parts = summary_of(runner.run(body)), []
    for fold in (1, 2, 3):
        own = (runner.rows(body, fold=fold, held_out=True), weights[fold])
        assert_same(summary[str(fold)]["held_out"], by_scikit_learn(body, [own]))
        parts.append(own)
    assert_same(summary["held_out"], by_scikit_learn(body, parts))
    assert summary["held_out"]["n_rows"] == sum(
        len(runner.frames[user]) for user in HOSPITALS[:n_hospitals]
    )
    assert summary["0"]["held_out"] is None, (
        "no row is left that the final model has not seen"
    )


@pairwise(n_quick=2, model_type=list(MODELS), method=METHODS, n_hospitals=[5, 3, 2, 1])
def test_metrics_of_a_validation_part_are_those_of_one_table(
    runner: Runner,
    weights: dict[int, Any],
    method: str,
    model_type: str,
    n_hospitals: int,
) -> None:
    changes = {
        "model_type": model_type,
        "label_name": MODELS[model_type],
        "validation_fraction": 0.3,
    }
    body = order_body(
        HOSPITALS[:n_hospitals],
        model_params=params(method=method, max_iter=2),
        **changes,
    )
    summary = summary_of(runner.run(body))
    expected = by_scikit_learn(body, [(runner.rows(body, held_out=True), weights[0])])
    assert_same(summary["0"]["held_out"], expected)
    n_trained = sum(len(y) for _, y in runner.rows(body))
    assert list(summary) == ["0", "rows"]
    assert summary["0"]["n_rows"] == n_trained, (
        "the other figures are those of the training rows"
    )


def test_held_out_rows_of_one_class_have_no_auc_and_no_ks(
    runner: Runner, weights: dict[int, Any]
) -> None:
    """Hospital 3 alone brings test rows, and has none of label 0."""
    body = order_body(
        (2, 3, 4),
        test_data_info={"3": "SELECT * FROM data.late"},
        model_params=params(),
    )
    summary = summary_of(runner.run(body))
    late = runner.frames[3].sort_values("id").tail(len(runner.frames[3]) // 2)
    expected = by_scikit_learn(body, [([of_rows(late, body)], weights[0])])
    assert (expected["auc"], expected["ks"]) == (None, None)
    assert_same(summary["0"]["held_out"], expected)
    assert summary["0"]["auc"] is not None


@pytest.mark.parametrize("model_type", quick(MODELS, 1))
def test_rows_of_test_sql_are_held_out_too(
    runner: Runner, weights: dict[int, Any], model_type: str
) -> None:
    tested = {"2": "SELECT * FROM data.late", "4": "SELECT * FROM data.late"}
    changes = {
        "model_type": model_type,
        "label_name": MODELS[model_type],
        "test_data_info": tested,
    }
    body = order_body((2, 3, 4), model_params=params(), **changes)
    summary = summary_of(runner.run(body))
    late = [
        runner.frames[user].sort_values("id").tail(len(runner.frames[user]) // 2)
        for user in (2, 4)
    ]
    parts = [of_rows(frame, body) for frame in late]
    assert_same(summary["0"]["held_out"], by_scikit_learn(body, [(parts, weights[0])]))


def test_an_order_without_held_out_rows_says_so(runner: Runner) -> None:
    assert (
        summary_of(runner.run(order_body((2, 3), model_params=params())))["0"][
            "held_out"
        ]
        is None
    )


def test_vaults_keep_models_and_nothing_else_of_an_order(runner: Runner) -> None:
    runner.run(order_body((2, 3, 4), model_params=params()))
    for user in (2, 3, 4):
        site = runner.sites[user]
        assert list((site.vault / "orders").glob("*")) == []
        assert Vault(site.vault).models()
