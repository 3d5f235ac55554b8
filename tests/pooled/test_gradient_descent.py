"""Joint equals pooled: one table over several hospitals trains the model that the
pooled rows train.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.linear_model import Lasso, LogisticRegression, Ridge

from analytics.training.descent import joint_gradient, joint_loss, train
from analytics.training.gradients import local_gradient
from analytics.training.margins import scores
from analytics.training.metrics import (
    binary_metrics,
    histogram_metrics,
    metrics,
    score_histogram,
)
from analytics.training.models import Model
from tests.pairwise import quick

SPLIT = Path(__file__).parents[2] / "deployments" / "demo" / "breast_cancer_split.json"
ALL_OPTIMIZERS = ["sgd", "nesterov_momentum_sgd", "adam", "rmsprop", "adagrad"]
TOLERANCE = {"sgd": 1e-9, "nesterov_momentum_sgd": 1e-9}
LR, LINEAR, SOFTMAX = (
    Model("lr", 4),
    Model("linear", 4),
    Model("softmax", 4, classes=("s", "ve", "vi")),
)


def breast_table():
    """scikit-learn's table as the parties hold it: worst, mean and error columns,
    z-scored to six decimals.
    """
    data = load_breast_cancer()
    X = np.hstack([data.data[:, 20:30], data.data[:, :10], data.data[:, 10:20]])
    return np.round((X - X.mean(axis=0)) / X.std(axis=0), 6), data.target.astype(float)


def breast_part(name):
    X, y = breast_table()
    ids = sorted(json.loads(SPLIT.read_text())[name])
    return X[ids, 1:5], y[ids]


def pooled(parts):
    return np.vstack([X for X, _ in parts]), np.concatenate([y for _, y in parts])


def cut(part, at):
    return list(zip(np.split(part[0], at), np.split(part[1], at), strict=True))


def table_of(model):
    rng = np.random.default_rng(5)
    if model.kind == "lr":
        return breast_part("test")
    data = load_iris()
    X = (data.data - data.data.mean(axis=0)) / data.data.std(axis=0)
    order = rng.permutation(150)
    y = (
        data.target
        if model.kind == "softmax"
        else X @ [1.0, -2.0, 0.0, 0.5] + 3 + rng.normal(size=150)
    )
    return X[order], y[order]


@pytest.mark.parametrize(
    "cuts", [[], [40], [1, 60], [1, 2, 50, 90]], ids=lambda c: f"{len(c) + 1}-hospitals"
)
@pytest.mark.parametrize("penalty", ["L1", "L2", None])
@pytest.mark.parametrize("optimizer", ALL_OPTIMIZERS)
@pytest.mark.parametrize("model", [LR, LINEAR, SOFTMAX], ids=lambda m: m.kind)
def test_federated_equals_pooled(model, optimizer, penalty, cuts):
    """Parts of a single row lack classes; adaptive optimizers are compared over their
    first rounds.
    """
    table = table_of(model)
    options = {
        "learning_rate": 0.15,
        "decay": 1,
        "decay_sqrt": True,
        "alpha": 0.01,
        "max_iter": 10,
        "eps": 0.0,
    }
    options |= {"optimizer": optimizer, "penalty": penalty}
    one, several = (
        train(model, [table], **options),
        train(model, cut(table, cuts), **options),
    )
    tolerance = TOLERANCE.get(optimizer, 1e-6)
    np.testing.assert_allclose(several.weights, one.weights, rtol=0, atol=tolerance)
    np.testing.assert_allclose(several.losses, one.losses, rtol=0, atol=tolerance)
    assert several.n_rounds == one.n_rounds == 10


@pytest.mark.parametrize("model", [LR, SOFTMAX], ids=lambda m: m.kind)
def test_a_hospital_with_one_class_only(model):
    X, y = table_of(model)
    parts = [(X[y == 0], y[y == 0]), (X[y != 0], y[y != 0])]
    options = {"learning_rate": 0.5, "max_iter": 50, "eps": 0.0}
    one, several = train(model, [(X, y)], **options), train(model, parts, **options)
    np.testing.assert_allclose(several.weights, one.weights, rtol=0, atol=1e-9)


def test_a_hospital_named_twice_counts_as_its_rows_doubled():
    guest, host = breast_part("guest"), breast_part("host")
    options = {
        "learning_rate": 0.15,
        "max_iter": 30,
        "penalty": "L2",
        "alpha": 0.01,
        "eps": 0.0,
    }
    twice = train(LR, [guest, host, host], **options).weights
    np.testing.assert_allclose(
        twice,
        train(LR, [guest, pooled([host, host])], **options).weights,
        rtol=0,
        atol=1e-12,
    )


def test_the_aggregate_is_weighted_by_rows_not_by_hospitals():
    X, y = breast_part("test")
    weights = np.linspace(-1, 1, 5)
    options = {"batch_size": -1, "learning_rate": 0.1}
    found = joint_gradient(LR, weights, cut((X, y), [1, 30]), **options)
    np.testing.assert_allclose(
        found, local_gradient(LR, weights, X, y, **options), rtol=0, atol=1e-14
    )


def test_the_same_run_gives_the_same_bits():
    parts = cut(breast_part("test"), [10, 50])
    options = {
        "learning_rate": 0.1,
        "max_iter": 20,
        "optimizer": "adam",
        "batch_size": 7,
    }
    first, again = train(LR, parts, **options), train(LR, parts, **options)
    assert first.weights.tobytes() == again.weights.tobytes()
    assert first.losses == again.losses


def test_figures_of_the_request_document():
    """Formulas 1.2: guest, host and host again, ten rounds; beside them gradient
    descent written out.
    """
    guest, host = breast_part("guest"), breast_part("host")
    assert [len(part[1]) for part in (guest, host, breast_part("test"))] == [
        227,
        228,
        114,
    ]
    found = train(
        LR, [guest, host, host], learning_rate=0.15, decay=1, decay_sqrt=True, penalty="L2", alpha=0.01,
        max_iter=10, batch_size=500, eps=1e-4, converge_func="diff", init_method="zeros",
    )  # fmt: skip
    X, y = pooled([guest, host, host])
    coef, b = np.zeros(4), 0.0
    for t in range(10):
        residual, rate = (expit(X @ coef + b) - y) / len(y), 0.15 / (1 + t) ** 0.5
        coef, b = (
            coef - rate * (X.T @ residual + 0.01 * coef),
            b - rate * residual.sum(),
        )
    np.testing.assert_allclose(found.weights, [*coef, b], rtol=0, atol=1e-9)
    assert found.n_rounds == 10
    assert found.losses[0] == pytest.approx(np.log(2), abs=1e-12)
    np.testing.assert_allclose(
        found.weights,
        [-0.13675674, -0.24046167, -0.22367177, -0.13360364, 0.08475866],
        rtol=0,
        atol=5e-9,
    )
    of_guest = metrics(LR, found.weights, *guest)
    assert of_guest["auc"] == pytest.approx(0.998, abs=5e-4)
    assert of_guest["ks"] == pytest.approx(0.97, abs=5e-3)
    assert of_guest["accuracy"] == pytest.approx(221 / 227)
    assert of_guest["loss"] > 0.49  # undertrained: the rate decays


def test_joint_auc_and_ks_of_the_request_document():
    guest, host = breast_part("guest"), breast_part("host")
    weights = np.array([-0.13675674, -0.24046167, -0.22367177, -0.13360364, 0.08475866])
    counts = sum(
        score_histogram(y, scores(LR, weights, X)) for X, y in (guest, host, host)
    )
    X, y = pooled([guest, host, host])
    exact = binary_metrics(y, scores(LR, weights, X))
    joint = histogram_metrics(counts)
    assert joint["auc"] == pytest.approx(exact["auc"], abs=1e-3)
    assert joint["ks"] == pytest.approx(exact["ks"], abs=1e-2)


def test_long_lr_training_meets_scikit_learn():
    guest, host = breast_part("guest"), breast_part("host")
    found = train(
        LR,
        [guest, host],
        learning_rate=1.0,
        max_iter=3000,
        penalty="L2",
        alpha=0.01,
        eps=0.0,
    )
    X, y = pooled([guest, host])
    fitted = LogisticRegression(C=1 / (0.01 * len(y)), tol=1e-10, max_iter=1000).fit(
        X, y
    )
    np.testing.assert_allclose(
        found.weights, np.append(fitted.coef_, fitted.intercept_), atol=1e-5
    )


def test_long_softmax_training_meets_scikit_learn():
    X, y = table_of(SOFTMAX)
    found = train(
        SOFTMAX,
        cut((X, y), [50]),
        learning_rate=1.0,
        max_iter=3000,
        penalty="L2",
        alpha=0.01,
        eps=0.0,
    )
    fitted = LogisticRegression(C=1 / (0.01 * len(y)), tol=1e-10, max_iter=1000).fit(
        X, y
    )
    np.testing.assert_allclose(
        scores(SOFTMAX, found.weights, X), fitted.predict_proba(X), atol=1e-5
    )


@pytest.mark.parametrize("penalty", quick(["L1", "L2"], 1))
def test_long_linear_training_meets_lasso_and_ridge(penalty):
    X, y = table_of(LINEAR)
    found = train(
        LINEAR,
        cut((X, y), [1, 70]),
        learning_rate=0.3,
        max_iter=3000,
        penalty=penalty,
        alpha=0.1,
        eps=0.0,
    )
    reference = (
        Lasso(0.1, tol=1e-12, max_iter=100_000)
        if penalty == "L1"
        else Ridge(0.1 * len(y))
    )
    fitted = reference.fit(X, y)
    np.testing.assert_allclose(
        found.weights, np.append(fitted.coef_, fitted.intercept_), atol=1e-7
    )


@pytest.mark.thorough
def test_l1_ends_at_exact_zeros_that_meet_the_optimality_conditions():
    parts = cut(breast_part("guest"), [100])
    weights = train(
        LR, parts, learning_rate=1.0, max_iter=3000, penalty="L1", alpha=0.1, eps=0.0
    ).weights
    gradient = joint_gradient(LR, weights, parts, batch_size=-1, learning_rate=1.0)
    zero = weights[:4] == 0
    assert zero.any()
    assert not zero.all()
    assert (np.abs(gradient[:4][zero]) <= 0.1).all()
    np.testing.assert_allclose(
        gradient[:4][~zero], -0.1 * np.sign(weights[:4][~zero]), atol=1e-6
    )


def test_one_round_follows_the_order_of_events():
    """The loss is that of the starting model, penalty once; the penalty is added to the
    aggregate.
    """
    parts = cut(breast_part("guest"), [60])
    options = {"penalty": "L2", "alpha": 0.5}
    found = train(
        LR, parts, learning_rate=0.2, max_iter=1, init_method="ones", **options
    )
    start = np.ones(5)
    X, y = pooled(parts)
    z = X.sum(axis=1) + 1
    assert found.losses == [
        pytest.approx(np.mean(np.logaddexp(0, z) - y * z) + 0.5 / 2 * 4, rel=1e-13)
    ]
    gradient = joint_gradient(LR, start, parts, batch_size=-1, learning_rate=0.2)
    expected = start - 0.2 * (gradient + 0.5 * np.array([1, 1, 1, 1, 0]))
    np.testing.assert_allclose(found.weights, expected, rtol=0, atol=1e-15)


def test_training_stops_after_the_round_that_converges():
    parts = [breast_part("guest")]
    options = {"learning_rate": 0.5, "max_iter": 200}
    whole = train(LR, parts, eps=0.0, **options).losses
    stopped = train(LR, parts, eps=1e-3, **options)
    first = next(t for t in range(1, 200) if abs(whole[t - 1] - whole[t]) < 1e-3)
    assert stopped.n_rounds == first + 1
    assert stopped.losses == whole[: first + 1]
    assert joint_loss(
        LR, stopped.weights, parts, penalty=None, alpha=0.0
    ) == pytest.approx(whole[first + 1])


@pytest.mark.parametrize(
    ("converge_func", "eps", "n_rounds"),
    [("abs", 0.7, 1), ("weight_diff", 10.0, 1), ("diff", 10.0, 2)],
)
def test_first_rounds_of_each_convergence_test(converge_func, eps, n_rounds):
    found = train(
        LR,
        [breast_part("guest")],
        learning_rate=0.1,
        max_iter=5,
        converge_func=converge_func,
        eps=eps,
    )
    assert found.n_rounds == n_rounds


def test_mini_batches_of_one_hospital_are_plain_stochastic_descent():
    X, y = breast_part("test")
    found = train(LR, [(X, y)], learning_rate=0.1, max_iter=2, batch_size=10, eps=0.0)
    w, A = np.zeros(5), np.column_stack([X, np.ones(len(y))])
    for start in [*range(0, len(y), 10)] * 2:
        rows = slice(start, start + 10)
        w = w - 0.1 * A[rows].T @ (expit(A[rows] @ w) - y[rows]) / len(y[rows])
    np.testing.assert_allclose(found.weights, w, rtol=0, atol=1e-12)


def test_columns_of_scale_a_million_train_without_a_warning():
    X, y = breast_part("guest")
    found = train(
        LR,
        cut((X * 1e6, y), [50]),
        learning_rate=0.15,
        max_iter=20,
        eps=0.0,
        optimizer="nesterov_momentum_sgd",
    )
    assert np.isfinite(found.weights).all()
    assert np.isfinite(found.losses).all()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"max_iter": 0}, "max_iter"),
        ({"optimizer": "lbfgs"}, "optimizer"),
        ({"converge_func": "never"}, "converge_func"),
        ({"init_method": "xavier"}, "init_method"),
        ({"parts": []}, "parts"),
    ],
)
def test_train_refuses(change, field):
    arguments = {
        "model": LR,
        "parts": [breast_part("guest")],
        "learning_rate": 0.1,
        "max_iter": 2,
    }
    with pytest.raises(ValueError, match=field):
        train(**{**arguments, **change})
