"""The three models that are trained by gradients: logistic, linear and softmax regression.

A model's parameters are one flat float64 vector, the concatenation of its named layers. There is one layer, `dense`:

    lr, linear   [w_1 .. w_d, b]                      (d + 1,)
    softmax      a row [w_1 .. w_d, b] for each class (K, d + 1), flattened row by row

Without `fit_intercept` the b are left out. Nothing here needs to be bit-identical between processors (that is
`analytics.optimizers`); a hospital's own numbers are made once and sent from its outbox.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analytics.checks import (
    Bools,
    Floats,
    Labels,
    check_at_least,
    check_class_index,
    check_finite,
    check_name,
    check_result,
    check_same_rows,
)

KINDS = ("lr", "linear", "softmax")
INIT_METHODS = ("zeros", "ones", "const", "random_normal", "random_uniform")

# Beyond this a margin is held: a probability is 0 or 1 long before, and sums over 10**8 rows stay finite.
_LARGEST_MARGIN = 1e300


@dataclass(frozen=True)
class Model:
    """What is trained: the kind of model and the shape of its parameters.

    `classes` is for softmax only: the class set that all hospitals agreed on, sorted, two or more; the y of the
    functions below is an index into it. Raises ValueError for an unknown kind, no features or another class set.

    >>> Model("lr", 4).layers
    {'dense': (5,)}
    >>> Model("softmax", 4, classes=("a", "b", "c")).n_weights
    15
    """

    kind: str
    n_features: int
    fit_intercept: bool = True
    classes: tuple[int | str, ...] = ()

    def __post_init__(self) -> None:
        check_name("kind", self.kind, KINDS)
        if self.n_features < 1:
            raise ValueError(f"n_features is {self.n_features}; 1 or more is allowed.")
        if self.kind == "softmax":
            _check_classes(self.classes)
        elif self.classes:
            raise ValueError(f"classes is for softmax models, not for {self.kind}.")

    @property
    def layers(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of each layer, in the order of the flat vector."""
        return {"dense": (self._n_outputs, self._width) if self.kind == "softmax" else (self._width,)}

    @property
    def n_weights(self) -> int:
        """Length of the flat parameter vector."""
        return self._n_outputs * self._width

    @property
    def penalised(self) -> Bools:
        """Which parameters a penalty is for, bool (n_weights,): every coefficient, no intercept."""
        row = np.arange(self._width) < self.n_features
        return np.tile(row, self._n_outputs)

    @property
    def _width(self) -> int:
        return self.n_features + int(self.fit_intercept)

    @property
    def _n_outputs(self) -> int:
        return len(self.classes) if self.kind == "softmax" else 1


def split_layers(model: Model, weights: Floats) -> dict[str, Floats]:
    """The flat vector (n_weights,) as name -> flat float64 values of that layer, for export.

    Raises ValueError if the length is not the model's.

    >>> split_layers(Model("lr", 1), np.array([0.5, -1.0]))
    {'dense': array([ 0.5, -1. ])}
    """
    _check_weights(model, weights)
    sizes = [int(np.prod(shape)) for shape in model.layers.values()]
    parts = np.split(np.asarray(weights, dtype=np.float64), np.cumsum(sizes)[:-1])
    return dict(zip(model.layers, parts, strict=True))


def scores(model: Model, weights: Floats, X: Floats) -> Floats:
    """What the model says of each row of X (n, d).

    lr: the probability of class 1, 1 / (1 + exp(-(Xw + b))), (n,); linear: the predicted value Xw + b, (n,);
    softmax: the probability of each class, (n, K), rows adding up to 1. lr and softmax stay in [0, 1] for any finite
    input. Raises ValueError if X or weights have another shape or hold a number that is not finite, and for a linear
    value outside float64's range.

    Disclosure: one number per row. It may leave a hospital only as an answer to that hospital's own user.
    """
    _check_rows(model, weights, X)
    margins = _margins(model, weights, X)
    if model.kind == "softmax":
        return _softmax(margins)
    return _sigmoid(margins[:, 0]) if model.kind == "lr" else margins[:, 0]


def local_loss(model: Model, weights: Floats, X: Floats, y: Labels) -> float:
    """The mean loss over the rows of X (n, d), y (n,), without penalty.

    lr: mean log(1 + exp(-z)) with z = Xw + b, negated where y = 0; linear: mean (z - y)^2 / 2; softmax: mean
    log(sum_k exp(z_k)) - z_y, the largest z_k taken out first. y is 0 or 1 (float64) for lr, any finite number for
    linear, a class index for softmax. Raises ValueError for other shapes, labels or numbers, and for a linear loss
    outside float64's range.

    Disclosure: one sum over rows. It leaves through the release door only, rounded as a metric or sealed.
    """
    _check_rows(model, weights, X)
    _check_labels(model, y, len(X))
    return float(np.mean(_row_losses(model, _margins(model, weights, X), y)))


def local_gradient(
    model: Model, weights: Floats, X: Floats, y: Labels, *, batch_size: int, learning_rate: float
) -> Floats:
    """The pseudo-gradient (n_weights,) of one walk over the rows in mini-batches.

    With w_0 = weights and g_b the mean gradient of batch b's unpenalised loss, w_b = w_{b-1} - learning_rate * g_b;
    the answer is (w_0 - w_last) / learning_rate, computed as the sum of the g_b, so nothing cancels and one full batch
    (`batch_size` -1, or the number of rows or more) gives exactly the mean gradient. The last batch may be smaller.
    Rows are taken as they come: the caller sorts them by unique_id. (McMahan et al. 2017, algorithm 1, E = 1.)

    Raises ValueError for other shapes, labels or numbers, a batch_size that is neither -1 nor at least 1, a
    learning_rate that is not above 0, and a walk that leaves float64's range.

    Disclosure: a combination of the rows' features, and with few rows nearly the rows. It leaves only through
    the release door: summed under masks, or rotated for the coordinator.
    """
    _check_rows(model, weights, X)
    _check_labels(model, y, len(X))
    _check_walk(batch_size, learning_rate)
    total = np.zeros(model.n_weights)
    with np.errstate(over="ignore", invalid="ignore"):
        for rows in _batches(len(X), batch_size):
            total = total + _mean_gradient(model, weights - learning_rate * total, X[rows], y[rows])
            check_result("The gradient", total)
    return total


def initial_weights(model: Model, *, method: str, const: float, seed: int) -> Floats:
    """The weights (n_weights,) that training starts from, the intercept treated as every other weight.

    zeros, ones, const (every weight `const`), random_normal (standard normal), random_uniform ([0, 1)); the last two
    from numpy's default generator with `seed`. They are drawn once, by the initiator. Raises ValueError for an unknown
    method, a const that is not finite or a negative seed.
    """
    check_name("init_method", method, INIT_METHODS)
    check_finite("init_const", np.asarray(const))
    check_at_least("random_seed", seed, 0)
    if method.startswith("random"):
        rng = np.random.default_rng(seed)
        return rng.standard_normal(model.n_weights) if method == "random_normal" else rng.random(model.n_weights)
    return np.full(model.n_weights, {"zeros": 0.0, "ones": 1.0}.get(method, float(const)))


def _margins(model: Model, weights: Floats, X: Floats) -> Floats:
    """Xw + b for each output, (n, n_outputs); finite for any finite input of lr and softmax."""
    table = weights.reshape(-1, model._width)
    with np.errstate(all="ignore"):
        margins = _affine(model, table, X)
        beyond = ~np.isfinite(margins).all(axis=1)
        if beyond.any():
            margins[beyond] = _scaled_margins(model, table, X[beyond])
    if model.kind == "linear":
        check_result("The predicted value", margins)
    return margins if model.kind == "linear" else np.clip(margins, -_LARGEST_MARGIN, _LARGEST_MARGIN)


def _affine(model: Model, table: Floats, X: Floats) -> Floats:
    margins: Floats = X @ table[:, : model.n_features].T
    return margins + table[:, -1] if model.fit_intercept else margins


def _scaled_margins(model: Model, table: Floats, X: Floats) -> Floats:
    """The margins again, formed near 1 and multiplied out at the end, so that no partial sum is inf - inf."""
    row_scale, weight_scale = max(1.0, float(np.abs(X).max())), max(1.0, float(np.abs(table).max()))
    scaled = table / weight_scale
    if model.fit_intercept:
        scaled[:, -1] /= row_scale
    return _affine(model, scaled, X / row_scale) * row_scale * weight_scale


def _sigmoid(z: Floats) -> Floats:
    result: Floats = np.exp(-np.logaddexp(0.0, -z))
    return result


def _log_softmax(margins: Floats) -> Floats:
    shifted = margins - margins.max(axis=1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _softmax(margins: Floats) -> Floats:
    # exp of logarithms near -1e300 is 0; no row is all zeros, its largest logarithm is at least -log(K).
    result: Floats = np.exp(_log_softmax(margins))
    return result


def _row_losses(model: Model, margins: Floats, y: Labels) -> Floats:
    if model.kind == "softmax":
        return -_log_softmax(margins)[np.arange(len(y)), y]
    if model.kind == "lr":
        losses: Floats = np.logaddexp(0.0, -_signs(y) * margins[:, 0])
        return losses
    with np.errstate(over="ignore"):
        squares = 0.5 * (margins[:, 0] - y) ** 2
        check_result("The loss", squares, squares.sum())
    return squares


def _signs(y: Labels) -> Floats:
    """Labels 0 and 1 as -1 and +1."""
    result: Floats = 2.0 * y - 1.0
    return result


def _mean_gradient(model: Model, weights: Floats, X: Floats, y: Labels) -> Floats:
    # Divided by n before the rows are summed: the sum stays within the largest row.
    residuals = _residuals(model, _margins(model, weights, X), y) / len(X)
    table: Floats = residuals.T @ X
    if model.fit_intercept:
        table = np.column_stack([table, residuals.sum(axis=0)])
    return table.ravel()


def _residuals(model: Model, margins: Floats, y: Labels) -> Floats:
    """The derivative of each row's loss by its margins, (n, n_outputs)."""
    if model.kind == "lr":
        signs = _signs(y)
        return (-signs * _sigmoid(-signs * margins[:, 0]))[:, None]
    if model.kind == "linear":
        return margins - np.asarray(y, dtype=np.float64)[:, None]
    own_class: Bools = np.asarray(y)[:, None] == np.arange(margins.shape[1])
    return _softmax(margins) - own_class


def _batches(n_rows: int, batch_size: int) -> Iterator[slice]:
    size = n_rows if batch_size == -1 else min(batch_size, n_rows)
    return (slice(start, start + size) for start in range(0, n_rows, size))


def _check_classes(classes: Sequence[Any]) -> None:
    if len(classes) < 2:
        raise ValueError("classes needs two or more classes for a softmax model.")
    if len({isinstance(c, str) for c in classes}) > 1:
        raise ValueError("classes mixes numbers and texts.")
    if list(classes) != sorted(set(classes)):
        raise ValueError("classes must be sorted and each class given once.")


def _check_weights(model: Model, weights: Floats) -> None:
    if weights.shape != (model.n_weights,):
        raise ValueError(f"weights has the shape {weights.shape}; ({model.n_weights},) is expected.")
    check_finite("weights", weights)


def _check_rows(model: Model, weights: Floats, X: Floats) -> None:
    _check_weights(model, weights)
    if X.ndim != 2 or X.shape[1] != model.n_features:
        raise ValueError(f"X has the shape {X.shape}; (n_rows, {model.n_features}) is expected.")
    if len(X) < 1:
        raise ValueError("X: there are no rows.")
    check_finite("X", X)


def _check_labels(model: Model, y: Labels, n_rows: int) -> None:
    check_same_rows("y", y, n_rows)
    check_finite("y", y)
    if model.kind == "lr" and not np.isin(y, (0, 1)).all():
        raise ValueError("y holds a label other than 0 and 1.")
    if model.kind == "softmax":
        check_class_index(y, len(model.classes))


def _check_walk(batch_size: int, learning_rate: float) -> None:
    if batch_size != -1 and batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; -1 (all rows) or 1 or more is allowed.")
    if not (np.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"learning_rate is {learning_rate}; a finite number above 0 is allowed.")
