"""Metrics against scikit-learn and scipy; joint histograms against the pooled rows."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
    roc_auc_score,
    roc_curve,
)

from analytics.training.gradients import local_loss
from analytics.training.metrics import (
    binary_metrics,
    histogram_metrics,
    metrics,
    multiclass_metrics,
    regression_metrics,
    round_metrics,
    score_histogram,
)
from analytics.training.models import Model

labels_and_scores = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 12)), min_size=1, max_size=60
).map(
    lambda pairs: (
        np.array([y for y, _ in pairs]),
        np.array([s / 12 for _, s in pairs]),
    )
)


def both_classes(sample):
    return len(set(sample[0].tolist())) == 2


@given(labels_and_scores.filter(both_classes))
def test_binary_metrics_match_scikit_learn_and_scipy(sample):
    y, score = sample
    found, called = binary_metrics(y, score), score > 0.5
    assert found["auc"] == pytest.approx(roc_auc_score(y, score), abs=1e-14)
    false_positive, true_positive, _ = roc_curve(y, score, drop_intermediate=False)
    assert found["ks"] == pytest.approx(
        np.abs(true_positive - false_positive).max(), abs=1e-14
    )
    assert found["accuracy"] == pytest.approx(accuracy_score(y, called))
    assert found["f1"] == pytest.approx(f1_score(y, called, zero_division=0.0))
    assert [[found["tn"], found["fp"]], [found["fn"], found["tp"]]] == confusion_matrix(
        y, called
    ).tolist()


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_auc_and_no_ks(label):
    found = binary_metrics(np.full(3, float(label)), np.array([0.2, 0.6, 0.7]))
    assert found["auc"] is None
    assert found["ks"] is None
    assert found["accuracy"] == pytest.approx(2 / 3 if label else 1 / 3)


def test_ties_count_half():
    assert binary_metrics(np.array([0, 1, 0, 1]), np.full(4, 0.5))["auc"] == 0.5


def test_f1_of_nothing_positive_is_zero():
    assert binary_metrics(np.zeros(2), np.zeros(2))["f1"] == 0.0


def test_regression_metrics_match_scikit_learn():
    rng = np.random.default_rng(0)
    y = rng.normal(size=50)
    predicted = y + rng.normal(size=50)
    found = regression_metrics(y, predicted)
    assert found["mse"] == pytest.approx(mean_squared_error(y, predicted), rel=1e-13)
    assert found["rmse"] == pytest.approx(
        mean_squared_error(y, predicted) ** 0.5, rel=1e-13
    )
    assert found["mae"] == pytest.approx(mean_absolute_error(y, predicted), rel=1e-13)
    assert found["r2"] == pytest.approx(r2_score(y, predicted), rel=1e-12)


@pytest.mark.parametrize("y", [[0.1], [0.1] * 7, [0.0, 1e-200]])
def test_r2_without_variance_is_none(y):
    assert regression_metrics(np.array(y), np.full(len(y), 0.3))["r2"] is None


def test_squares_out_of_range_are_said():
    with pytest.raises(ValueError, match="mse"):
        regression_metrics(np.array([1e200, -1e200]), np.zeros(2))


@pytest.mark.parametrize("absent", [None, 1, 3])
def test_multiclass_metrics_match_scikit_learn(absent):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 80)
    probabilities = rng.dirichlet(np.ones(4), 80)
    if absent is not None:
        y[y == absent] = 0
        probabilities[:, absent] = 0
    found, called = multiclass_metrics(y, probabilities), probabilities.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(accuracy_score(y, called))
    assert found["f1_macro"] == pytest.approx(f1_score(y, called, average="macro"))
    assert found["confusion"] == confusion_matrix(y, called, labels=range(4)).tolist()


MODELS = [
    Model("lr", 2),
    Model("linear", 2),
    Model("softmax", 2, classes=("a", "b", "c")),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.kind)
def test_metrics_of_a_model_carry_its_loss_and_are_plain_json(model):
    rng = np.random.default_rng(0)
    X, weights = rng.normal(size=(12, 2)), rng.normal(size=model.n_weights)
    y = {
        "lr": np.arange(12) % 2 * 1.0,
        "linear": np.arange(12.0),
        "softmax": np.arange(12) % 3,
    }[model.kind]
    found = metrics(model, weights, X, y)
    assert found["loss"] == local_loss(model, weights, X, y)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    plain = {type(v) for v in found.values()}
    assert plain <= {float, int, list}


def test_round_metrics_keeps_six_significant_digits_of_floats_only():
    given_metrics = {
        "a": 1 / 3,
        "b": [123456789, 1234567.89],
        "c": None,
        "d": {"e": np.float64(1e-9 / 3)},
        "f": True,
    }
    found = round_metrics(given_metrics)
    assert found == {
        "a": 0.333333,
        "b": [123456789, 1234570.0],
        "c": None,
        "d": {"e": 3.33333e-10},
        "f": True,
    }
    assert round_metrics(0.123456, 2) == 0.12


@given(labels_and_scores, st.integers(1, 5))
def test_joint_histogram_metrics_are_the_pooled_ones_where_bins_hold_one_score(
    sample, n_hospitals
):
    y, score = sample
    pieces = zip(
        np.array_split(y, n_hospitals), np.array_split(score, n_hospitals), strict=True
    )
    counts = sum(score_histogram(part, s) for part, s in pieces if len(part))
    pooled = binary_metrics(y, score)
    assert histogram_metrics(counts) == {"auc": pooled["auc"], "ks": pooled["ks"]}


def test_histogram_metrics_are_near_the_exact_ones_and_within_the_stated_bound():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 5000)
    score = 1 / (1 + np.exp(-(y + rng.normal(size=5000))))
    exact = binary_metrics(y, score)
    for n_bins, close in ((1000, 1e-4), (10, 1e-2)):
        counts = score_histogram(y, score, n_bins)
        in_one_bin = (counts[:n_bins] * counts[n_bins:]).sum() / (
            (y == 0).sum() * (y == 1).sum()
        )
        joint = histogram_metrics(counts)
        assert abs(joint["auc"] - exact["auc"]) <= in_one_bin / 2
        assert joint["auc"] == pytest.approx(exact["auc"], abs=close)
        assert joint["ks"] <= exact["ks"] + 1e-15
    assert histogram_metrics(score_histogram(y, score))["ks"] == pytest.approx(
        exact["ks"], abs=5e-3
    )


def test_histogram_layout_and_edges():
    counts = score_histogram(
        np.array([0, 0, 1, 1]), np.array([0.0, 0.5, 0.49, 1.0]), n_bins=2
    )
    assert counts.tolist() == [1, 1, 1, 1]
    assert counts.dtype == np.int64
    assert score_histogram(np.zeros(1), np.zeros(1)).shape == (2000,)


def test_histograms_of_many_rows_do_not_overflow():
    counts = np.array([10**9, 0, 0, 10**9])
    assert histogram_metrics(counts) == {"auc": 1.0, "ks": 1.0}


def test_histogram_of_one_class_has_no_auc():
    assert histogram_metrics(np.array([1, 2, 0, 0])) == {"auc": None, "ks": None}


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: binary_metrics(np.zeros(0), np.zeros(0)), "no rows"),
        (lambda: binary_metrics(np.zeros(2), np.zeros(3)), "y"),
        (lambda: binary_metrics(np.array([0, 2]), np.zeros(2)), "y"),
        (lambda: binary_metrics(np.array([0, 1]), np.array([0.1, np.nan])), "score"),
        (lambda: regression_metrics(np.array([np.inf]), np.zeros(1)), "y"),
        (lambda: multiclass_metrics(np.zeros(2, int), np.zeros(2)), "probabilities"),
        (lambda: multiclass_metrics(np.array([0, 2]), np.zeros((2, 2))), "y"),
        (lambda: score_histogram(np.array([0, 1]), np.array([0.1, 1.1])), "score"),
        (lambda: score_histogram(np.array([0, 1]), np.array([0.1, 0.2]), 0), "n_bins"),
        (lambda: histogram_metrics(np.array([1, 2, 3])), "counts"),
        (lambda: histogram_metrics(np.array([1, -2])), "counts"),
    ],
)
def test_metrics_refuse(call, field):
    with pytest.raises(ValueError, match=field):
        call()
