"""Scores, losses and gradients against scikit-learn, finite differences and extreme
inputs.
"""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import check_grad
from scipy.special import expit
from scipy.special import softmax as scipy_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, mean_squared_error

from analytics.training.gradients import local_gradient, local_loss
from analytics.training.initial_weights import initial_weights
from analytics.training.margins import scores
from analytics.training.models import Model, split_layers

MODELS = [
    Model("lr", 3),
    Model("lr", 3, fit_intercept=False),
    Model("linear", 3),
    Model("linear", 3, fit_intercept=False),
    Model("softmax", 3, classes=(0, 1)),
    Model("softmax", 3, classes=("a", "b", "c")),
    Model("softmax", 3, fit_intercept=False, classes=(2, 5, 7)),
]
LARGEST = np.finfo(np.float64).max


def rows(model, n_rows=40, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, model.n_features))
    if model.kind == "lr":
        return X, rng.integers(0, 2, n_rows).astype(float)
    return X, rng.normal(size=n_rows) if model.kind == "linear" else rng.integers(
        0, len(model.classes), n_rows
    )


def some_weights(model, seed=1):
    return np.random.default_rng(seed).normal(size=model.n_weights)


def full_gradient(model, weights, X, y):
    return local_gradient(model, weights, X, y, batch_size=-1, learning_rate=0.1)


def name(model):
    return f"{model.kind}-{model.n_weights}"


every_model = pytest.mark.parametrize("model", MODELS, ids=name)


@pytest.mark.parametrize(
    ("model", "shape", "penalised"),
    [
        (Model("lr", 2), (3,), [True, True, False]),
        (Model("linear", 2, fit_intercept=False), (2,), [True, True]),
        (Model("softmax", 1, classes=(0, 1)), (2, 2), [True, False, True, False]),
        (
            Model("softmax", 1, fit_intercept=False, classes=(0, 1)),
            (2, 1),
            [True, True],
        ),
    ],
)
def test_layout_of_the_dense_layer(model, shape, penalised):
    assert model.layers == {"dense": shape}
    assert model.penalised.tolist() == penalised
    assert model.n_weights == len(penalised)


@every_model
def test_split_layers_is_the_flat_vector_ready_for_json(model):
    weights = some_weights(model)
    layers = split_layers(model, weights)
    assert list(layers) == ["dense"]
    assert json.loads(json.dumps(layers["dense"].tolist())) == weights.tolist()


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"kind": "svm", "n_features": 1}, "kind"),
        ({"kind": "lr", "n_features": 0}, "n_features"),
        ({"kind": "lr", "n_features": 1, "classes": (0, 1)}, "classes"),
        ({"kind": "softmax", "n_features": 1}, "classes"),
        ({"kind": "softmax", "n_features": 1, "classes": (1,)}, "classes"),
        ({"kind": "softmax", "n_features": 1, "classes": (2, 1)}, "classes"),
        ({"kind": "softmax", "n_features": 1, "classes": (1, 1, 2)}, "classes"),
        ({"kind": "softmax", "n_features": 1, "classes": (1, "a")}, "classes"),
    ],
)
def test_model_refuses(arguments, field):
    with pytest.raises(ValueError, match=field):
        Model(**arguments)


@every_model
def test_gradient_matches_finite_differences_of_the_loss(model):
    X, y = rows(model)
    error = check_grad(
        lambda w: local_loss(model, w, X, y),
        lambda w: full_gradient(model, w, X, y),
        some_weights(model),
    )
    assert error < 1e-6


def test_lr_scores_and_loss_match_scikit_learn():
    model = Model("lr", 3)
    X, y = rows(model)
    fitted = LogisticRegression().fit(X, y)
    weights = np.append(fitted.coef_, fitted.intercept_)
    np.testing.assert_allclose(
        scores(model, weights, X), fitted.predict_proba(X)[:, 1], rtol=1e-12
    )
    assert local_loss(model, weights, X, y) == pytest.approx(
        log_loss(y, fitted.predict_proba(X)), rel=1e-12
    )


def test_softmax_scores_and_loss_match_scikit_learn():
    model = Model("softmax", 3, classes=("a", "b", "c"))
    X, y = rows(model)
    fitted = LogisticRegression().fit(X, y)
    weights = np.column_stack([fitted.coef_, fitted.intercept_]).ravel()
    np.testing.assert_allclose(
        scores(model, weights, X), fitted.predict_proba(X), rtol=1e-12
    )
    assert local_loss(model, weights, X, y) == pytest.approx(
        log_loss(y, fitted.predict_proba(X)), rel=1e-12
    )


def test_linear_loss_is_half_the_mean_squared_error():
    model = Model("linear", 3)
    X, y = rows(model)
    weights = some_weights(model)
    predicted = X @ weights[:3] + weights[3]
    np.testing.assert_allclose(scores(model, weights, X), predicted, rtol=1e-14)
    assert local_loss(model, weights, X, y) == pytest.approx(
        mean_squared_error(y, predicted) / 2, rel=1e-14
    )


def test_two_class_softmax_is_lr_on_the_difference_of_its_rows():
    two, one = Model("softmax", 3, classes=(0, 1)), Model("lr", 3)
    X, y = rows(two)
    table = some_weights(two).reshape(2, 4)
    difference = table[1] - table[0]
    np.testing.assert_allclose(
        scores(two, table.ravel(), X)[:, 1], scores(one, difference, X), rtol=1e-12
    )
    assert local_loss(two, table.ravel(), X, y) == pytest.approx(
        local_loss(one, difference, X, y), rel=1e-12
    )


@every_model
def test_doubled_rows_change_nothing(model):
    X, y = rows(model)
    weights = some_weights(model)
    twice = np.vstack([X, X]), np.concatenate([y, y])
    assert local_loss(model, weights, *twice) == pytest.approx(
        local_loss(model, weights, X, y), rel=1e-13
    )
    np.testing.assert_allclose(
        full_gradient(model, weights, *twice),
        full_gradient(model, weights, X, y),
        rtol=1e-12,
        atol=1e-15,
    )


@every_model
@pytest.mark.parametrize("batch_size", [1, 7, 39])
def test_mini_batches_walk_in_order_and_report_the_pseudo_gradient(model, batch_size):
    X, y = rows(model)
    before = weights = some_weights(model)
    for start in range(0, len(X), batch_size):
        batch = slice(start, start + batch_size)
        weights = weights - 0.1 * full_gradient(model, weights, X[batch], y[batch])
    reported = local_gradient(
        model, before, X, y, batch_size=batch_size, learning_rate=0.1
    )
    np.testing.assert_allclose(
        reported, (before - weights) / 0.1, rtol=1e-10, atol=1e-12
    )


@every_model
@pytest.mark.parametrize("batch_size", [40, 41, 500])
def test_one_full_batch_is_exactly_the_mean_gradient(model, batch_size):
    X, y = rows(model)
    weights = some_weights(model)
    expected = full_gradient(model, weights, X, y)
    for learning_rate in (1e-9, 0.15, 1e3):
        found = local_gradient(
            model, weights, X, y, batch_size=batch_size, learning_rate=learning_rate
        )
        assert found.tobytes() == expected.tobytes()


@every_model
def test_arguments_are_left_as_they_are(model):
    (X, y), weights = rows(model), some_weights(model)
    for array in (X, y, weights):
        array.flags.writeable = False
    local_gradient(model, weights, X, y, batch_size=7, learning_rate=0.1)
    local_loss(model, weights, X, y)
    scores(model, weights, X)


def test_a_column_of_scale_a_million():
    model = Model("lr", 2)
    X = np.array([[1e6, -1e6], [-1e6, 1e6], [1e6, 1e6]])
    y, weights = np.array([0.0, 1.0, 1.0]), np.array([3.0, -2.0, 1.0])
    z = X @ weights[:2] + weights[2]
    assert scores(model, weights, X).tolist() == expit(z).tolist() == [1.0, 0.0, 1.0]
    assert local_loss(model, weights, X, y) == pytest.approx(
        (5e6 + 1 + 5e6 - 1 + 0) / 3, rel=1e-12
    )
    np.testing.assert_allclose(
        full_gradient(model, weights, X, y), [2e6 / 3, -2e6 / 3, 0.0], atol=1e-9
    )


def test_softmax_of_far_apart_margins():
    model = Model("softmax", 1, fit_intercept=False, classes=(0, 1, 2))
    weights, X = np.array([1e6, 0.0, -1e6]), np.array([[1.0], [0.0], [-1e-6]])
    np.testing.assert_allclose(
        scores(model, weights, X), scipy_softmax(X * weights, axis=1), rtol=1e-12
    )
    assert local_loss(model, weights, X[:1], np.array([2])) == 2e6


def finite(shape):
    return hnp.arrays(
        np.float64, shape, elements=st.floats(allow_nan=False, allow_infinity=False)
    )


@given(X=finite((4, 3)), data=st.data(), kind=st.sampled_from(["lr", "softmax"]))
def test_no_finite_input_overflows(X, data, kind):
    model = Model(kind, 3, classes=("a", "b", "c") if kind == "softmax" else ())
    weights = data.draw(finite((model.n_weights,)))
    y = np.array([0, 1, 1, 0]) if kind == "softmax" else np.array([0.0, 1.0, 1.0, 0.0])
    probabilities = scores(model, weights, X)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    if kind == "softmax":
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    assert 0 <= local_loss(model, weights, X, y) < np.inf
    assert np.isfinite(full_gradient(model, weights, X, y)).all()


@given(X=finite((4, 2)), weights=finite((3,)), y=finite((4,)))
def test_linear_answers_with_a_number_or_says_that_it_left_the_range(X, weights, y):
    for compute in (full_gradient, local_loss):
        assert answer_or_sentence(compute, Model("linear", 2), weights, X, y)


def answer_or_sentence(compute, *arguments):
    try:
        return np.isfinite(compute(*arguments)).all()
    except ValueError as error:
        return "left the range" in str(error)


def test_the_largest_numbers_that_cancel():
    model = Model("lr", 2, fit_intercept=False)
    X = np.array([[LARGEST, LARGEST], [LARGEST, -LARGEST]])
    assert scores(model, np.array([2.0, -2.0]), X).tolist() == [0.5, 1.0]


def test_the_intercept_survives_beside_the_largest_numbers():
    X = np.array([[LARGEST, LARGEST], [0.0, 0.0]])
    found = scores(Model("lr", 2), np.array([2.0, -2.0, 1.0]), X)
    np.testing.assert_allclose(found, expit(1.0), rtol=1e-12)


@pytest.mark.parametrize("batch_size", [1, -1])
def test_a_walk_that_diverges_is_said(batch_size):
    model = Model("linear", 1)
    X, y = np.array([[1e160], [1e160]]), np.array([0.0, 1.0])
    with pytest.raises(ValueError, match="standardise"):
        local_gradient(
            model, np.array([1.0, 0.0]), X, y, batch_size=batch_size, learning_rate=1.0
        )


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"weights": np.zeros(3)}, "weights"),
        ({"weights": np.full(4, np.nan)}, "weights"),
        ({"X": np.zeros((2, 2))}, "X"),
        ({"X": np.zeros(3)}, "X"),
        ({"X": np.full((2, 3), np.inf)}, "X"),
        ({"X": np.zeros((0, 3)), "y": np.zeros(0)}, "X"),
        ({"y": np.zeros(3)}, "y"),
        ({"y": np.array([0.0, np.nan])}, "y"),
        ({"y": np.array([0.0, 2.0])}, "y"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": -2}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": np.inf}, "learning_rate"),
    ],
)
def test_gradient_refuses(change, field):
    arguments = {
        "weights": np.zeros(4),
        "X": np.ones((2, 3)),
        "y": np.array([0.0, 1.0]),
        "batch_size": -1,
    }
    with pytest.raises(ValueError, match=rf"^{field}\b"):
        local_gradient(Model("lr", 3), **{"learning_rate": 0.1, **arguments, **change})


@pytest.mark.parametrize(
    "y", [np.array([0.0, 1.0]), np.array([0, 3]), np.array([-1, 0])]
)
def test_softmax_takes_class_indices_only(y):
    model = Model("softmax", 3, classes=("a", "b", "c"))
    with pytest.raises(ValueError, match=r"^y\b"):
        local_loss(model, np.zeros(model.n_weights), np.ones((2, 3)), y)


def test_no_value_of_a_row_is_in_a_message():
    with pytest.raises(ValueError, match="other than 0 and 1") as caught:
        local_loss(
            Model("lr", 1), np.zeros(2), np.array([[31337.0]]), np.array([4711.0])
        )
    assert "31337" not in str(caught.value)
    assert "4711" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "value"), [("zeros", 0.0), ("ones", 1.0), ("const", 0.25)]
)
def test_constant_initial_weights_include_the_intercept(method, value):
    assert (
        initial_weights(Model("lr", 2), method=method, const=0.25, seed=1).tolist()
        == [value] * 3
    )


@pytest.mark.parametrize("method", ["random_normal", "random_uniform"])
def test_random_initial_weights_follow_their_seed(method):
    model = Model("lr", 2_000)
    first, again, other = (
        initial_weights(model, method=method, const=0.0, seed=s) for s in (7, 7, 8)
    )
    assert first.tobytes() == again.tobytes() != other.tobytes()
    centre, spread = (0.0, 1.0) if method == "random_normal" else (0.5, 12**-0.5)
    assert first.mean() == pytest.approx(centre, abs=0.1)
    assert first.std() == pytest.approx(spread, abs=0.1)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"method": "xavier"}, "init_method"),
        ({"const": np.nan}, "init_const"),
        ({"seed": -1}, "seed"),
    ],
)
def test_initial_weights_refuse(change, field):
    with pytest.raises(ValueError, match=field):
        initial_weights(
            Model("lr", 2), **{"method": "zeros", "const": 0.0, "seed": 1, **change}
        )
