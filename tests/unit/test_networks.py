"""The two networks: derivatives by differences, scikit-learn and SciPy as second
opinions, and what orders say.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.signal import correlate2d
from scipy.special import softmax
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import LabelBinarizer

from agents.training.export import export_model
from agents.training.inference import model_of
from agents.training.row_sets import ordered_model
from analytics.training import networks
from analytics.training.gradients import local_gradient, local_loss
from analytics.training.initial_weights import initial_weights
from analytics.training.margins import scores
from analytics.training.metrics import metrics
from analytics.training.models import Model, split_layers
from deployments.demo.digits import HOSPITALS, PIXELS, digits_order, digits_tables
from protocol.errors import BadRequest, ConsiliumError, InvalidInput
from protocol.training_request import (
    order_document,
    parse_training_request,
    read_order_document,
)

MLP = Model("mlp", 6, classes=("a", "b", "c"), hidden=(5, 4))
CNN = Model("cnn", 35, classes=(0, 1, 2), hidden=(2, 3), shape=(5, 7))
MODELS = [
    MLP,
    Model("mlp", 6, fit_intercept=False, classes=(0, 1), hidden=(3, 7)),
    CNN,
    Model(
        "cnn",
        60,
        fit_intercept=False,
        classes=(0, 1, 2),
        hidden=(2, 3),
        shape=(5, 4, 3),
    ),
    Model("cnn", 64, classes=(0, 1), hidden=(3, 2), shape=(8, 8)),
]
every_model = pytest.mark.parametrize(
    "model", MODELS, ids=lambda m: f"{m.kind}-{m.n_weights}"
)
both = pytest.mark.parametrize("model", [MLP, CNN], ids=lambda m: m.kind)


def rows(model: Model, n_rows: int = 40) -> tuple[Any, Any]:
    rng = np.random.default_rng(3)
    return rng.normal(size=(n_rows, model.n_features)), rng.integers(
        0, len(model.classes), n_rows
    )


def some_weights(model: Model) -> Any:
    """Away from a relu's kink and with intercepts other than 0."""
    start = initial_weights(model, method="random_normal", const=0.0, seed=2)
    return start + 0.1 * np.random.default_rng(4).normal(size=len(start))


def full_gradient(model: Model, weights: Any, X: Any, y: Any) -> Any:
    return local_gradient(model, weights, X, y, batch_size=-1, learning_rate=0.1)


def tables(model: Model, weights: Any) -> list[tuple[Any, Any]]:
    """Each layer's coefficients and intercepts, of a model with intercepts."""
    parts = split_layers(model, weights)
    found = [parts[name].reshape(shape) for name, shape in model.layers.items()]
    return [(table[:, :-1], table[:, -1]) for table in found]


# Layout


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        (MLP, {"dense1": (5, 7), "dense2": (4, 6), "dense": (3, 5)}),
        (MODELS[1], {"dense1": (3, 6), "dense2": (7, 3), "dense": (2, 7)}),
        (CNN, {"conv1": (2, 10), "conv2": (3, 19), "dense": (3, 4)}),
        (MODELS[3], {"conv1": (2, 27), "conv2": (3, 18), "dense": (3, 3)}),
    ],
)
def test_layers_by_name(model: Model, layers: dict[str, Any]) -> None:
    assert model.layers == layers
    weights = some_weights(model)
    parts = split_layers(model, weights)
    assert {name: len(part) for name, part in parts.items()} == {
        n: a * b for n, (a, b) in layers.items()
    }
    assert np.concatenate(list(parts.values())).tolist() == weights.tolist()


def test_no_intercept_is_penalised() -> None:
    coefs = [
        np.ones(coef.shape, dtype=bool) for coef, _ in tables(MLP, some_weights(MLP))
    ]
    expected = [
        np.column_stack([coef, np.zeros(len(coef), dtype=bool)]).ravel()
        for coef in coefs
    ]
    assert MLP.penalised.tolist() == np.concatenate(expected).tolist()
    assert MODELS[1].penalised.all()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"kind": "mlp", "shape": ()}, "hidden"),
        ({"hidden": (8,)}, "hidden"),
        ({"hidden": (8, 0)}, "hidden"),
        ({"hidden": (8, 8, 8)}, "hidden"),
        ({"kind": "softmax", "shape": (), "hidden": (8, 8)}, "hidden"),
        ({"kind": "mlp", "hidden": (8, 8)}, "shape"),
        ({"hidden": (8, 8), "shape": ()}, "shape"),
        ({"hidden": (8, 8), "shape": (64,)}, "shape"),
        ({"hidden": (8, 8), "shape": (4, 4, 2, 2)}, "shape"),
        ({"hidden": (8, 8), "shape": (3, 21)}, "shape"),
        ({"hidden": (8, 8), "shape": (8, 8, 0)}, "shape"),
        ({"hidden": (8, 8), "shape": (8, 9)}, "shape"),
        ({"hidden": (8, 8), "classes": ()}, "classes"),
    ],
)
def test_model_refuses(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field}\b"):
        Model(
            **{
                "kind": "cnn",
                "n_features": 64,
                "classes": (0, 1),
                "shape": (8, 8),
                **change,
            }
        )


# Numbers


@every_model
def test_every_layer_s_gradient_matches_central_differences(model: Model) -> None:
    (X, y), weights, step = rows(model), some_weights(model), 1e-6
    ahead, behind = (
        [
            local_loss(model, weights + sign * step * e, X, y)
            for e in np.eye(len(weights))
        ]
        for sign in (1, -1)
    )
    expected = split_layers(model, (np.array(ahead) - np.array(behind)) / (2 * step))
    for name, found in split_layers(model, full_gradient(model, weights, X, y)).items():
        np.testing.assert_allclose(
            found, expected[name], rtol=0, atol=1e-8, err_msg=name
        )
        assert np.abs(found).max() > 1e-4, name


def test_mlp_probabilities_and_gradient_are_scikit_learn_s() -> None:
    """The gradient is what one full-batch step of its plain gradient descent takes
    away.
    """
    (X, y), weights, rate = rows(MLP), some_weights(MLP), 0.5
    other = MLPClassifier(
        MLP.hidden,
        solver="sgd",
        alpha=0.0,
        learning_rate_init=rate,
        momentum=0.0,
        batch_size=len(X),
    )
    other.partial_fit(X, y, classes=[0, 1, 2])
    other.coefs_ = [coef.T.copy() for coef, _ in tables(MLP, weights)]
    other.intercepts_ = [intercept.copy() for _, intercept in tables(MLP, weights)]
    np.testing.assert_allclose(
        scores(MLP, weights, X), other.predict_proba(X), rtol=1e-12
    )
    other._optimizer.params = other.coefs_ + other.intercepts_
    other.partial_fit(X, y)
    assert other.loss_ == pytest.approx(local_loss(MLP, weights, X, y), rel=1e-12)
    for (coef, intercept), step, intercept_step, before in zip(
        tables(MLP, full_gradient(MLP, weights, X, y)),
        other.coefs_,
        other.intercepts_,
        tables(MLP, weights),
        strict=True,
    ):
        np.testing.assert_allclose(
            coef, (before[0] - step.T) / rate, rtol=0, atol=1e-12
        )
        np.testing.assert_allclose(
            intercept, (before[1] - intercept_step) / rate, rtol=0, atol=1e-12
        )


def convolved(images: Any, coef: Any, intercept: Any) -> Any:
    """One image and channel after the other, by SciPy: relu, then the mean of 2x2.
    Images are (n, c, h, w).
    """
    kernels = coef.reshape(len(coef), 3, 3, images.shape[1])
    found = np.array(
        [
            [
                sum(
                    correlate2d(plane, kernel[:, :, c], mode="same")
                    for c, plane in enumerate(image)
                )
                + b
                for kernel, b in zip(kernels, intercept, strict=True)
            ]
            for image in images
        ]
    )
    height, width = found.shape[2] // 2 * 2, found.shape[3] // 2 * 2
    blocks = np.maximum(found, 0)[:, :, :height, :width]
    return blocks.reshape(*found.shape[:2], height // 2, 2, width // 2, 2).mean(
        axis=(3, 5)
    )


@pytest.mark.parametrize("shape", [(5, 7), (9, 4, 3), (8, 8)])
def test_cnn_probabilities_are_those_of_scipy_s_convolutions(
    shape: tuple[int, ...],
) -> None:
    model = Model(
        "cnn", int(np.prod(shape)), classes=(0, 1, 2), hidden=(2, 3), shape=shape
    )
    (X, _), weights = rows(model, 6), some_weights(model)
    (coef1, b1), (coef2, b2), (coef, b) = tables(model, weights)
    images = X.reshape(6, *(*shape, 1)[:3]).transpose(0, 3, 1, 2)
    held = convolved(convolved(images, coef1, b1), coef2, b2)
    flat = held.transpose(0, 2, 3, 1).reshape(6, -1)
    np.testing.assert_allclose(
        scores(model, weights, X), softmax(flat @ coef.T + b, axis=1), rtol=1e-12
    )


@every_model
@pytest.mark.parametrize("batch_size", [1, 7, 39])
def test_mini_batches_walk_in_order_and_report_the_pseudo_gradient(
    model: Model, batch_size: int
) -> None:
    (X, y), before = rows(model), some_weights(model)
    weights = before
    for start in range(0, len(X), batch_size):
        batch = slice(start, start + batch_size)
        weights = weights - 0.1 * full_gradient(model, weights, X[batch], y[batch])
    reported = local_gradient(
        model, before, X, y, batch_size=batch_size, learning_rate=0.1
    )
    np.testing.assert_allclose(
        reported, (before - weights) / 0.1, rtol=1e-9, atol=1e-12
    )


@every_model
def test_rows_in_pieces_give_the_same_numbers(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    (X, y), weights = rows(model), some_weights(model)
    whole = full_gradient(model, weights, X, y), scores(model, weights, X)
    monkeypatch.setattr(networks, "_VALUES_AT_ONCE", 1)
    pieces = full_gradient(model, weights, X, y), scores(model, weights, X)
    for found, expected in zip(pieces, whole, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


@both
def test_arguments_are_left_as_they_are(model: Model) -> None:
    (X, y), weights = rows(model), some_weights(model)
    for array in (X, y, weights):
        array.flags.writeable = False
    local_gradient(model, weights, X, y, batch_size=7, learning_rate=0.1)
    local_loss(model, weights, X, y)


@both
def test_metrics_are_those_of_classes(model: Model) -> None:
    found = metrics(model, some_weights(model), *rows(model))
    assert list(found) == ["loss", "accuracy", "f1_macro", "confusion"]
    assert np.sum(found["confusion"]) == 40


@both
@pytest.mark.parametrize("scale", [1e150, 1e308])
def test_a_network_that_leaves_the_range_says_so(model: Model, scale: float) -> None:
    (X, y), weights = rows(model), some_weights(model)
    for compute in (full_gradient, local_loss):
        with pytest.raises(ValueError, match="standardise"):
            compute(model, weights * scale, X, y)


@both
@pytest.mark.parametrize("y", [np.zeros(40), np.full(40, 3), np.full(40, -1)])
def test_classes_are_indices(model: Model, y: Any) -> None:
    with pytest.raises(ValueError, match=r"^y\b"):
        local_loss(model, some_weights(model), rows(model)[0], y)


# Weights to start from


@pytest.mark.parametrize("method", ["random_normal", "random_uniform"])
@pytest.mark.parametrize(
    "model",
    [
        Model("mlp", 200, classes=tuple(range(50)), hidden=(300, 100)),
        Model(
            "cnn",
            16 * 16 * 3,
            classes=tuple(range(20)),
            hidden=(60, 80),
            shape=(16, 16, 3),
        ),
    ],
    ids=lambda m: m.kind,
)
def test_initial_weights_are_scaled_by_layer(model: Model, method: str) -> None:
    first, again, other = (
        initial_weights(model, method=method, const=0.0, seed=s) for s in (7, 7, 8)
    )
    assert first.tobytes() == again.tobytes() != other.tobytes()
    for name, (coef, intercept) in zip(model.layers, tables(model, first), strict=True):
        n_outputs, n_inputs = coef.shape
        if name.startswith("conv"):
            n_outputs *= 9
        variance = (
            2 / n_inputs if method == "random_normal" else 2 / (n_inputs + n_outputs)
        )
        assert coef.std() == pytest.approx(np.sqrt(variance), rel=0.05)
        assert coef.mean() == pytest.approx(0, abs=0.05 * np.sqrt(variance))
        assert not intercept.any()


@both
@pytest.mark.parametrize("method", ["zeros", "ones", "const"])
def test_equal_initial_weights_are_refused(model: Model, method: str) -> None:
    with pytest.raises(ValueError, match="random_normal, random_uniform"):
        initial_weights(model, method=method, const=0.5, seed=1)


# Orders


def order(**changes: Any) -> dict[str, Any]:
    """An order of a cnn; `changes` replace fields, a None takes one away."""
    body = digits_order(HOSPITALS[:3], **changes.get("model_params", {}))
    given = {
        name: value for name, value in body["model_params"].items() if value is not None
    }
    return {**body, **changes, "model_params": given}


def mlp_order(**params: Any) -> dict[str, Any]:
    body = order(model_type="mlp")
    return {**body, "model_params": {"standardize": True, **params}}


def test_what_is_left_out_can_be_trained_and_is_signed() -> None:
    request = parse_training_request(mlp_order())
    assert (request.hidden, request.shape, request.init_method) == (
        (32, 16),
        (),
        "random_normal",
    )
    request = parse_training_request(order())
    assert (request.hidden, request.shape, request.init_method) == (
        (8, 16),
        (8, 8),
        "random_normal",
    )
    document = order_document(1, request, dict.fromkeys(request.hospitals, "0" * 64))
    params = json.loads(document)["request"]["model_params"]
    assert (params["hidden"], params["shape"]) == ([8, 16], [8, 8])
    assert params["init_param"]["init_method"] == "random_normal"
    assert (
        order_document(
            1,
            read_order_document(document, 1)[0],
            dict.fromkeys(request.hospitals, "0" * 64),
        )
        == document
    )


@pytest.mark.parametrize("word", ["CNN", "cnn", "Cnn"])
def test_words_in_any_case(word: str) -> None:
    assert parse_training_request(order(model_type=word)).model_type == "cnn"


def test_sizes_of_an_order_reach_the_model() -> None:
    request = parse_training_request(
        order(model_params={"hidden": [3, 5], "init_param": {"fit_intercept": False}})
    )
    model = ordered_model(request, ("a", "b"))
    assert model == Model("cnn", 64, False, ("a", "b"), (3, 5), (8, 8))
    assert ordered_model(
        parse_training_request(order(model_params={"shape": [4, 4, 4]})), (0, 1)
    ).shape == (
        4,
        4,
        4,
    )


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (order(model_params={"shape": None}), "shape"),
        (order(model_params={"shape": [8, 9]}), "shape"),
        (order(model_params={"shape": [8, 8, 3]}), "shape"),
        (order(model_params={"shape": [2, 32]}), "shape"),
        (order(model_params={"shape": [32, 2]}), "shape"),
        (order(attributes=PIXELS[:63]), "shape"),
        (mlp_order(shape=[8, 8]), "shape"),
        (order(model_type="softmax"), "shape"),
        (
            order(model_type="softmax", model_params={"shape": None, "hidden": [4, 4]}),
            "hidden",
        ),
        (
            order(model_type="lr", model_params={"shape": None, "hidden": [4, 4]}),
            "hidden",
        ),
        *(
            (make(init_param={"init_method": method}), "init_method")
            for method in ("zeros", "ones", "const")
            for make in (mlp_order, lambda **params: order(model_params=params))
        ),
    ],
)
def test_orders_that_no_network_could_follow(body: dict[str, Any], code: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_training_request(body)
    assert caught.value.code == code
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["hidden", "shape"])
@pytest.mark.parametrize(
    "value",
    [
        [],
        [8],
        [8, 8, 8, 8],
        [8, 0],
        [8, -8],
        [8, 8.5],
        [True, 64],
        "8x8",
        64,
        [10**9, 8],
    ],
)
def test_sizes_that_are_none(name: str, value: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_training_request(order(model_params={name: value}))
    assert name in caught.value.sentence


# Models that were saved


SAVED: dict[str, Any] = {
    "model_id": 3,
    "model_type": "mlp",
    "attributes": [f"x{i}" for i in range(6)],
    "unique_id": "id",
    "label_name": "y",
    "fit_intercept": True,
    "classes": ["a", "b", "c"],
    "hidden": [5, 4],
    "shape": [],
    "standardize": None,
}


def saved(model: Model, **changes: Any) -> dict[str, Any]:
    layers = {
        name: part.tolist()
        for name, part in split_layers(model, some_weights(model)).items()
    }
    sizes = {
        "hidden": list(model.hidden),
        "shape": list(model.shape),
        "classes": list(model.classes),
    }
    facts = {
        "model_type": model.kind,
        "fit_intercept": model.fit_intercept,
        "layers": layers,
        **sizes,
    }
    return {
        **SAVED,
        **facts,
        "attributes": [f"x{i}" for i in range(model.n_features)],
        **changes,
    }


@every_model
def test_a_saved_model_is_the_trained_one(model: Model) -> None:
    entry = json.loads(json.dumps(saved(model)))
    assert model_of(entry) == model
    exported = export_model(entry, "json")
    assert {name: exported[name] for name in model.layers} == entry["layers"]


SCALE = [[1.0, -2.0, 0.5, 3.0, 0.0, 1.0], [2.0, 0.5, 1.0, 4.0, 1.0, 3.0]]


@pytest.mark.parametrize("scale", [None, SCALE])
@pytest.mark.parametrize(
    "model", [*MODELS[:2], Model("mlp", 6, classes=("no", "yes"), hidden=(5, 4))]
)
def test_scikit_learn_gives_the_same_answers(model: Model, scale: Any) -> None:
    """`predict` needs the label binarizer that only fit would make."""
    exported = json.loads(
        json.dumps(export_model(saved(model, standardize=scale), "sklearn"))
    )
    assert exported["estimator"] == "sklearn.neural_network.MLPClassifier"
    estimator = MLPClassifier()
    for name, value in exported["attributes"].items():
        setattr(
            estimator,
            name,
            [np.array(table) for table in value]
            if name in ("coefs_", "intercepts_")
            else value,
        )
    X = rows(model)[0]
    frame = pd.DataFrame(X, columns=estimator.feature_names_in_)
    expected = scores(
        model, some_weights(model), (X - SCALE[0]) / SCALE[1] if scale else X
    )
    np.testing.assert_allclose(
        estimator.predict_proba(frame), expected, rtol=0, atol=1e-12
    )
    estimator._label_binarizer = LabelBinarizer().fit(list(model.classes))
    assert estimator.predict(frame).tolist() == [
        model.classes[i] for i in expected.argmax(axis=1)
    ]


def test_scikit_learn_has_no_cnn() -> None:
    with pytest.raises(ConsiliumError, match="no cnn") as caught:
        export_model(saved(CNN), "sklearn")
    assert "json" in caught.value.remedy


# The digits


def test_digits_are_dealt_once_to_ten_hospitals_of_their_own_mixtures() -> None:
    dealt = digits_tables()
    ids = [row for own in dealt.values() for table in own.values() for row in table.id]
    assert sorted(ids) == list(range(1797))
    for place, (user, own) in enumerate(dealt.items()):
        assert user == HOSPITALS[place]
        assert 100 <= len(own["digits"]) <= 200
        assert len(own["digits_test"]) >= 25
        most = own["digits"].y.value_counts().head(3).index
        assert set(most) == {place, (place + 1) % 10, (place + 2) % 10}
        assert set(own["digits"].y) == set(range(10))
        assert own["digits"][PIXELS].to_numpy().min() >= 0
        assert own["digits"][PIXELS].to_numpy().max() <= 1
