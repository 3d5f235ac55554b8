"""What a model says of rows: margins, and the answers that they are turned into.

Linear models answer from Xw + b, networks from their last layer. Every finite input of
lr and softmax has a finite answer.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from analytics.arrays import Floats, check_finite, check_result, table_chunks
from analytics.training import families, networks
from analytics.training.models import Model, check_weights, layers_of

# Beyond this a margin is held: a probability is 0 or 1 long before, and sums over 10**8
# rows stay finite.
_LARGEST_MARGIN = 1e300


def scores(
    model: Model,
    weights: Floats,
    X: Floats,
) -> Floats:
    """What the model says of each row of X (n, d).

    lr: the probability of class 1, 1 / (1 + exp(-(Xw + b))), (n,); linear: the
    predicted value Xw + b, (n,); glm: the mean g^-1(Xw + b), (n,), NaN where the family
    knows none; cox: the linear predictor Xw, (n,); softmax, mlp and cnn: the probability
    of each class, (n, K), rows adding up to 1. lr and softmax stay in [0, 1] for any
    finite input.
    Raises ValueError if X or weights have another shape or hold a number that is not
    finite, and for a linear value or a network's margin outside float64's range.

    Disclosure: one number per row. It may leave a hospital only as an answer to that
    hospital's own user.
    """
    check_rows(model, weights, X)
    margins = margins_of(model, weights, X)
    if model.classes:
        return softmax(margins)
    first_margins = margins[:, 0]
    if model.kind == "lr":
        return sigmoid(first_margins)
    if model.pair is not None and model.kind == "glm":
        row_means = families.means(model.pair, first_margins)
        is_valid = families.valid_rows(model.pair, row_means)
        return np.where(is_valid, row_means.mu, np.nan)
    return first_margins


def linear_predictors(
    model: Model,
    weights: Floats,
    X: Floats,
) -> Floats:
    """Xw + b of the rows of X (n, d), (n,), of a model with one output.

    Raises as `scores`. Disclosure: one number per row; they stay in the hospital.
    """
    check_rows(model, weights, X)
    margins = margins_of(model, weights, X)
    return margins[:, 0]


def margins_of(
    model: Model,
    weights: Floats,
    X: Floats,
) -> Floats:
    """Xw + b for each output, (n, n_outputs); of a network, of its last layer.

    Finite for any finite input of lr and softmax.
    """
    if model.hidden:
        return _network_margins(model, weights, X)
    n_outputs = max(1, len(model.classes))
    margins = np.empty((len(X), n_outputs))
    for chunk, rows in table_chunks(X):
        margins[chunk] = _linear_margins(model, weights, rows)
    return margins


def _linear_margins(
    model: Model,
    weights: Floats,
    X: Floats,
) -> Floats:
    weight_table = weights.reshape(-1, model.width)
    with np.errstate(all="ignore"):
        margins = _affine(model, weight_table, X)
        # A partial sum may overflow in rows whose margin does not.
        is_finite = np.isfinite(margins).all(axis=1)
        if not is_finite.all():
            beyond = ~is_finite
            margins[beyond] = _scaled_margins(model, weight_table, X[beyond])
    if model.kind == "linear":
        check_result("The predicted value", margins)
        return margins
    return np.clip(margins, -_LARGEST_MARGIN, _LARGEST_MARGIN)


def _network_margins(
    model: Model,
    weights: Floats,
    X: Floats,
) -> Floats:
    layers = layers_of(model, weights)
    image = model.image
    n_at_once = networks.rows_at_once(layers, shape=image)
    margins_by_batch = []
    with np.errstate(all="ignore"):
        for rows in batches(len(X), n_at_once):
            batch_margins, _ = networks.forward(
                layers,
                X[rows],
                shape=image,
            )
            margins_by_batch.append(batch_margins)
    margins = np.concatenate(margins_by_batch)
    check_result("The network's margin", margins)
    return margins


def _affine(
    model: Model,
    table: Floats,
    X: Floats,
) -> Floats:
    coef = table[:, : model.n_features]
    margins: Floats = X @ coef.T
    if model.fit_intercept:
        intercepts = table[:, -1]
        return margins + intercepts
    return margins


def _scaled_margins(
    model: Model,
    table: Floats,
    X: Floats,
) -> Floats:
    """The margins again, formed near 1 and multiplied out at the end.

    No partial sum is inf - inf so.
    """
    largest_value = float(np.abs(X).max())
    largest_weight = float(np.abs(table).max())
    row_scale = max(1.0, largest_value)
    weight_scale = max(1.0, largest_weight)
    scaled = table / weight_scale
    if model.fit_intercept:
        scaled[:, -1] /= row_scale  # what it is multiplied by is 1, not a number of X
    near_one = _affine(model, scaled, X / row_scale)
    return near_one * row_scale * weight_scale


def sigmoid(margins: Floats) -> Floats:
    """1 / (1 + exp(-z)) as exp(-log(1 + exp(-z))), where no exponential overflows."""
    logarithms = -np.logaddexp(0.0, -margins)
    result: Floats = np.exp(logarithms)
    return result


def log_softmax(margins: Floats) -> Floats:
    # With the largest at 0 no exponential overflows, and their sum is 1 or more.
    largest = margins.max(axis=1, keepdims=True)
    shifted = margins - largest
    exponential_sums = np.exp(shifted).sum(axis=1, keepdims=True)
    logarithms: Floats = shifted - np.log(exponential_sums)
    return logarithms


def softmax(margins: Floats) -> Floats:
    # exp of logarithms near -1e300 is 0; no row is all zeros, its largest logarithm is
    # at least -log(K).
    logarithms = log_softmax(margins)
    probabilities: Floats = np.exp(logarithms)
    return probabilities


def batches(n_rows: int, batch_size: int) -> Iterator[slice]:
    n_in_batch = n_rows
    if batch_size != -1:
        n_in_batch = min(batch_size, n_rows)
    for start in range(0, n_rows, n_in_batch):
        yield slice(start, start + n_in_batch)


def check_rows(
    model: Model,
    weights: Floats,
    X: Floats,
) -> None:
    check_weights(model, weights)
    n_features = model.n_features
    if X.ndim != 2 or X.shape[1] != n_features:
        raise ValueError(
            f"X has the shape {X.shape}; (n_rows, {n_features}) is expected."
        )
    n_rows = len(X)
    if n_rows < 1:
        raise ValueError("X: there are no rows.")
    check_finite("X", X)
