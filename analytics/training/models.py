"""The models that are trained: logistic, linear and softmax regression and two small
neural networks by gradients, generalised linear models and Cox regression by `newton`.

A model's parameters are one flat float64 vector, the concatenation of its named layers:

    lr, linear   dense                  [w_1 .. w_d, b]                      (d + 1,)
    glm          dense                  the same, for the linear predictor
    cox          dense                  [w_1 .. w_d], without an intercept   (d,)
    softmax      dense                  a row [w_1 .. w_d, b] for each class (K, d + 1), flattened row by row
    mlp          dense1, dense2, dense  a row [w_1 .. , b] for each unit, of the last layer for each class
    cnn          conv1, conv2, dense    the same; a convolution's unit is a channel, its w a 3x3 patch

Without `fit_intercept` the b are left out. Nothing here needs to be bit-identical
between processors (that is `analytics.training.optimizers`); a hospital's own numbers
are made once and sent from its outbox.

`local_gradient` is what a hospital computes in a round, `metrics` what it reports of
it; `descent` has the whole order of events in one process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import numpy as np

from analytics.arrays import (
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
from analytics.training import InitMethod, ModelType, Ties, cox, families, networks
from analytics.training.families import LEAST_SQUARES, LOGISTIC, Pair

NETWORKS = ("mlp", "cnn")
CLASSIFIERS = ("softmax", *NETWORKS)
KINDS = get_args(ModelType)
INIT_METHODS = get_args(InitMethod)

# Beyond this a margin is held: a probability is 0 or 1 long before, and sums over 10**8
# rows stay finite.
_LARGEST_MARGIN = 1e300


@dataclass(frozen=True)
class Model:
    """What is trained: the kind of model and the shape of its parameters.

    Raises ValueError for an unknown kind, no features, another class set, and sizes
    that are missing, for another kind or do not fit.

    >>> Model("lr", 4).layers
    {'dense': (5,)}
    >>> Model("softmax", 4, classes=("a", "b", "c")).n_weights
    15
    >>> Model("cnn", 64, classes=(0, 1), hidden=(8, 16), shape=(8, 8)).layers
    {'conv1': (8, 10), 'conv2': (16, 73), 'dense': (2, 65)}
    """

    kind: str
    n_features: int
    fit_intercept: bool = True
    # For softmax, mlp and cnn: what all hospitals agreed on, sorted, two or more; y of
    # the functions below is an index into it.
    classes: tuple[int | str, ...] = ()
    # For mlp and cnn: the units of the two hidden layers, of a cnn the channels.
    hidden: tuple[int, ...] = ()
    # For cnn: (height, width) or (height, width, channels), whose product is
    # n_features. The features are the pixels, row by row, the channels of each pixel
    # together.
    shape: tuple[int, ...] = ()
    # For glm: a family and a link that go together.
    family: str = ""
    link: str = ""
    # For cox.
    ties: Ties = "efron"

    def __post_init__(self) -> None:
        check_name("kind", self.kind, KINDS)
        if self.kind == "glm":
            Pair(self.family, self.link)
        elif self.family or self.link:
            raise ValueError(f"family and link are for glm, not for {self.kind}.")
        if self.n_features < 1:
            raise ValueError(f"n_features is {self.n_features}; 1 or more is allowed.")
        if self.kind == "cox" and self.fit_intercept:
            raise ValueError(
                "A cox model has no intercept: its baseline hazard is one."
            )
        if self.kind in CLASSIFIERS:
            _check_classes(self.classes)
        elif self.classes:
            raise ValueError(
                f"classes is for softmax models and networks, not for {self.kind}."
            )
        _check_hidden(self)
        _check_shape(self)

    @property
    def pair(self) -> Pair | None:
        """Family and link of a generalised linear model, lr and linear among them."""
        if self.kind == "glm":
            return Pair(self.family, self.link)
        return {"lr": LOGISTIC, "linear": LEAST_SQUARES}.get(self.kind)

    @property
    def is_binary(self) -> bool:
        """Whether labels are 0 and 1, and answers the probability of 1."""
        return self.pair is not None and self.pair.is_binary

    @property
    def is_number(self) -> bool:
        """Whether labels and answers are numbers."""
        return self.pair is not None and not self.pair.is_binary

    @property
    def layers(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of each layer, in the order of the flat vector."""
        if not self.classes:
            return {"dense": (self._width,)}
        shapes: dict[str, tuple[int, ...]] = {}
        for name, (n_units, n_inputs) in self._sizes.items():
            shapes[name] = (n_units, n_inputs + self._n_intercepts)
        return shapes

    @property
    def n_weights(self) -> int:
        """Length of the flat parameter vector."""
        return sum(math.prod(shape) for shape in self.layers.values())

    @property
    def penalised(self) -> Bools:
        """bool (n_weights,): a penalty is for every coefficient and no intercept."""
        layers = []
        for n_units, n_inputs in self._sizes.values():
            places = np.arange(n_inputs + self._n_intercepts)
            is_coefficient = places < n_inputs  # the intercept is the last of a unit
            layers.append(np.tile(is_coefficient, n_units))
        return np.concatenate(layers)

    @property
    def _sizes(self) -> dict[str, tuple[int, int]]:
        """Name, number of units and number of inputs of each layer."""
        if self.hidden:
            return networks.layer_sizes(
                self.n_features,
                len(self.classes),
                hidden=self.hidden,
                shape=self._image,
            )
        n_outputs = max(1, len(self.classes))
        return {"dense": (n_outputs, self.n_features)}

    @property
    def _image(self) -> tuple[int, ...]:
        """(height, width, channels), or () for what is no image."""
        if not self.shape:
            return ()
        if len(self.shape) == 3:
            return self.shape
        height, width = self.shape
        return (height, width, 1)

    @property
    def _width(self) -> int:
        """How many parameters an output has, where all are in one layer."""
        return self.n_features + self._n_intercepts

    @property
    def _n_intercepts(self) -> int:
        return 1 if self.fit_intercept else 0


def split_layers(model: Model, weights: Floats) -> dict[str, Floats]:
    """The flat vector (n_weights,) as name -> flat float64 values of that layer.

    Raises ValueError if the length is not the model's.

    >>> split_layers(Model("lr", 1), np.array([0.5, -1.0]))
    {'dense': array([ 0.5, -1. ])}
    """
    _check_weights(model, weights)
    sizes = [math.prod(shape) for shape in model.layers.values()]
    ends = np.cumsum(sizes)
    parts = np.split(np.asarray(weights, dtype=np.float64), ends[:-1])
    return dict(zip(model.layers, parts, strict=True))


def scores(model: Model, weights: Floats, X: Floats) -> Floats:
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
    _check_rows(model, weights, X)
    margins = _margins(model, weights, X)
    if model.classes:
        return _softmax(margins)
    if model.kind == "lr":
        return _sigmoid(margins[:, 0])
    if model.pair is not None and model.kind == "glm":
        at = families.means(model.pair, margins[:, 0])
        return np.where(families.valid_rows(model.pair, at), at.mu, np.nan)
    return margins[:, 0]


def local_loss(model: Model, weights: Floats, X: Floats, y: Labels) -> float:
    """The mean loss over the rows of X (n, d), y (n,), without penalty.

    lr: mean log(1 + exp(-z)) with z = Xw + b, negated where y = 0; linear: mean (z -
    y)^2 / 2; glm: half the mean unit deviance; cox: -l / n (`cox`); softmax, mlp and cnn:
    mean log(sum_k exp(z_k)) - z_y, the largest z_k taken out first. y is 0 or 1 (float64)
    for lr, any finite number for linear, of glm what its family knows, as `cox.outcome`
    has it for cox, else a class index. Raises ValueError for other shapes, labels or
    numbers, for a mean that the family does not know, and for a linear loss or a
    network's margin outside float64's range.

    Disclosure: one sum over rows. It leaves through the release door only, rounded as a
    metric or sealed.
    """
    _check_rows(model, weights, X)
    _check_labels(model, y, len(X))
    if model.kind == "cox":
        return cox.mean_loss(X, y, weights, ties=model.ties)
    margins = _margins(model, weights, X)
    return float(np.mean(_row_losses(model, margins, y)))


def local_gradient(
    model: Model,
    weights: Floats,
    X: Floats,
    y: Labels,
    *,
    batch_size: int,
    learning_rate: float,
) -> Floats:
    """The pseudo-gradient (n_weights,) of one walk over the rows in mini-batches.

    With w_0 = weights and g_b the mean gradient of batch b's unpenalised loss, w_b =
    w_{b-1} - learning_rate * g_b; the answer is (w_0 - w_last) / learning_rate,
    computed as the sum of the g_b, so nothing cancels and one full batch (`batch_size`
    -1, or the number of rows or more) gives exactly the mean gradient. The last batch
    may be smaller. Rows are taken as they come: the caller sorts them by unique_id.
    (McMahan et al. 2017, algorithm 1, E = 1.)

    Raises ValueError for other shapes, labels or numbers, a batch_size that is neither
    -1 nor at least 1, a learning_rate that is not above 0, and a walk that leaves
    float64's range.

    Disclosure: a combination of the rows' features, and with few rows nearly the rows.
    It leaves only through the release door: summed under masks, or rotated for the
    coordinator.
    """
    _check_rows(model, weights, X)
    _check_labels(model, y, len(X))
    _check_walk(batch_size, learning_rate)
    total = np.zeros(model.n_weights)
    with np.errstate(over="ignore", invalid="ignore"):
        for rows in _batches(len(X), batch_size):
            walked = weights - learning_rate * total  # w_{b-1}
            gradient = _mean_gradient(model, walked, X[rows], y[rows])  # g_b
            total = total + gradient
            check_result("The gradient", total)
    return total


class RowWeights(NamedTuple):
    """How each row enters a round's gradient, (n,) each."""

    # The largest of a row's margins by size; those of softmax less their mean, which
    # its probabilities do not depend on.
    predictors: Floats
    # |p - y| of lr, added up over the classes of softmax; |residual| of linear: over the
    # rows of its batch, whose mean the gradient has.
    weights: Floats


def row_weights(
    model: Model,
    weights: Floats,
    X: Floats,
    y: Labels,
    *,
    batch_size: int,
    learning_rate: float,
) -> RowWeights:
    """What `local_gradient` multiplies each row by, at the weights that its batch sees.

    For lr, softmax and linear: their gradient is a sum of rows times these weights.
    Raises as `local_gradient`, and ValueError for a network, whose rows have no such
    weight.

    Disclosure: one number per row. It stays in the hospital; see `agents.gate.probes`.
    """
    if model.hidden:
        raise ValueError(f"A row of {model.kind} has no weight in the gradient.")
    _check_rows(model, weights, X)
    _check_labels(model, y, len(X))
    _check_walk(batch_size, learning_rate)
    predictors = []
    sizes = []
    walked = weights
    with np.errstate(over="ignore", invalid="ignore"):
        for rows in _batches(len(X), batch_size):
            margins = _margins(model, walked, X[rows])
            residuals = _residuals(model, margins, y[rows])
            if model.classes:
                margins = margins - margins.mean(axis=1, keepdims=True)
            predictors.append(np.abs(margins).max(axis=1))
            sizes.append(np.abs(residuals).sum(axis=1) / len(residuals))
            if batch_size != -1:
                gradient = _mean_gradient(model, walked, X[rows], y[rows])
                walked = walked - learning_rate * gradient
                check_result("The gradient", walked)
    return RowWeights(np.concatenate(predictors), np.concatenate(sizes))


def initial_weights(model: Model, *, method: str, const: float, seed: int) -> Floats:
    """The weights (n_weights,) that training starts from.

    zeros, ones, const (every weight `const`), random_normal (standard normal),
    random_uniform ([0, 1)), the intercept treated as every other weight. A network's
    intercepts start at 0 and its coefficients are scaled by layer, so that signals keep
    their size: random_normal has variance 2 / n_inputs (He et al. 2015, equation 10),
    random_uniform is from -a to a with a^2 = 6 / (n_inputs + n_outputs) (Glorot and
    Bengio 2010, equation 16; n_outputs of a convolution is 9 for each channel). Drawn
    from numpy's default generator with `seed`, once, by the initiator.

    Raises ValueError for an unknown method, a const that is not finite, a negative
    seed, and zeros, ones or const for a network: the units of a hidden layer that are
    equal at the start stay equal.
    """
    allowed = ("random_normal", "random_uniform") if model.hidden else INIT_METHODS
    check_name("init_method", method, allowed)
    check_finite("init_const", np.asarray(const))
    check_at_least("random_seed", seed, 0)
    rng = np.random.default_rng(seed)
    if model.hidden:
        return _initial_network(model, method, rng)
    match method:
        case "random_normal":
            return rng.standard_normal(model.n_weights)
        case "random_uniform":
            return rng.random(model.n_weights)
        case "zeros":
            return np.zeros(model.n_weights)
        case "ones":
            return np.ones(model.n_weights)
    return np.full(model.n_weights, float(const))


def _initial_network(model: Model, method: str, rng: np.random.Generator) -> Floats:
    layers = []
    for name, (n_units, n_inputs) in model._sizes.items():
        if method == "random_normal":
            deviation = np.sqrt(2 / n_inputs)
            coef = rng.standard_normal((n_units, n_inputs)) * deviation
        else:
            n_outputs = n_units
            if name.startswith("conv"):
                n_outputs = 9 * n_units  # a pixel is in nine patches
            largest = np.sqrt(6 / (n_inputs + n_outputs))
            from_minus_one = 2 * rng.random((n_units, n_inputs)) - 1
            coef = from_minus_one * largest
        layers.append(networks.Layer(coef, np.zeros(n_units)))
    return _flat(model, layers)


def _layers(model: Model, weights: Floats) -> list[networks.Layer]:
    """A network's flat vector as what `analytics.training.networks` computes with."""
    layers = []
    for name, part in split_layers(model, weights).items():
        table = part.reshape(model.layers[name])
        if model.fit_intercept:
            layer = networks.Layer(table[:, :-1], table[:, -1])
        else:
            no_intercept = np.zeros(len(table))
            layer = networks.Layer(table, no_intercept)
        layers.append(layer)
    return layers


def _flat(model: Model, layers: Sequence[networks.Layer]) -> Floats:
    """The transpose of `_layers`."""
    parts = []
    for layer in layers:
        table = layer.coef
        if model.fit_intercept:
            table = np.column_stack(layer)
        parts.append(table.ravel())
    return np.concatenate(parts)


def _margins(model: Model, weights: Floats, X: Floats) -> Floats:
    """Xw + b for each output, (n, n_outputs); of a network, of its last layer.

    Finite for any finite input of lr and softmax.
    """
    if model.hidden:
        return _network_margins(model, weights, X)
    table = weights.reshape(-1, model._width)
    with np.errstate(all="ignore"):
        margins = _affine(model, table, X)
        # A partial sum may overflow in rows whose margin does not.
        is_finite = np.isfinite(margins).all(axis=1)
        if not is_finite.all():
            beyond = ~is_finite
            margins[beyond] = _scaled_margins(model, table, X[beyond])
    if model.kind == "linear":
        check_result("The predicted value", margins)
        return margins
    return np.clip(margins, -_LARGEST_MARGIN, _LARGEST_MARGIN)


def _network_margins(model: Model, weights: Floats, X: Floats) -> Floats:
    layers = _layers(model, weights)
    image = model._image
    n_at_once = networks.rows_at_once(layers, shape=image)
    parts = []
    with np.errstate(all="ignore"):
        for rows in _batches(len(X), n_at_once):
            part, _ = networks.forward(layers, X[rows], shape=image)
            parts.append(part)
    margins = np.concatenate(parts)
    check_result("The network's margin", margins)
    return margins


def _affine(model: Model, table: Floats, X: Floats) -> Floats:
    coef = table[:, : model.n_features]
    margins: Floats = X @ coef.T
    if model.fit_intercept:
        intercepts = table[:, -1]
        return margins + intercepts
    return margins


def _scaled_margins(model: Model, table: Floats, X: Floats) -> Floats:
    """The margins again, formed near 1 and multiplied out at the end.

    No partial sum is inf - inf so.
    """
    row_scale = max(1.0, float(np.abs(X).max()))
    weight_scale = max(1.0, float(np.abs(table).max()))
    scaled = table / weight_scale
    if model.fit_intercept:
        scaled[:, -1] /= row_scale  # what it is multiplied by is 1, not a number of X
    near_one = _affine(model, scaled, X / row_scale)
    return near_one * row_scale * weight_scale


def _sigmoid(margins: Floats) -> Floats:
    """1 / (1 + exp(-z)) as exp(-log(1 + exp(-z))), where no exponential overflows."""
    result: Floats = np.exp(-np.logaddexp(0.0, -margins))
    return result


def _log_softmax(margins: Floats) -> Floats:
    # With the largest at 0 no exponential overflows, and their sum is 1 or more.
    shifted = margins - margins.max(axis=1, keepdims=True)
    totals = np.exp(shifted).sum(axis=1, keepdims=True)
    result: Floats = shifted - np.log(totals)
    return result


def _softmax(margins: Floats) -> Floats:
    # exp of logarithms near -1e300 is 0; no row is all zeros, its largest logarithm is
    # at least -log(K).
    result: Floats = np.exp(_log_softmax(margins))
    return result


def _row_losses(model: Model, margins: Floats, y: Labels) -> Floats:
    """Each row's loss as `local_loss` defines it, (n,)."""
    if model.classes:
        logarithms = _log_softmax(margins)
        every_row = np.arange(len(y))
        return -logarithms[every_row, y]
    margin = margins[:, 0]
    if model.kind == "lr":
        losses: Floats = np.logaddexp(0.0, -_signs(y) * margin)
        return losses
    if model.pair is not None and model.kind == "glm":
        return _half_deviances(model.pair, margin, y)
    with np.errstate(over="ignore"):
        squares = 0.5 * (margin - y) ** 2
        check_result("The loss", squares, squares.sum())
    return squares


def _half_deviances(pair: Pair, margin: Floats, y: Labels) -> Floats:
    at = families.means(pair, margin)
    if not families.is_valid(pair, at):
        raise ValueError(
            f"The model gives a row a mean that {pair.family} does not know: order another link."
        )
    values = np.asarray(y, dtype=np.float64)
    return families.unit_deviances(pair, values, at) / 2


def _signs(y: Labels) -> Floats:
    """Labels 0 and 1 as -1 and +1."""
    result: Floats = 2.0 * y - 1.0
    return result


def _mean_gradient(model: Model, weights: Floats, X: Floats, y: Labels) -> Floats:
    if model.hidden:
        return _network_gradient(model, weights, X, y)
    # Divided by n before the rows are summed: the sum stays within the largest row.
    margins = _margins(model, weights, X)
    residuals = _residuals(model, margins, y) / len(X)
    table: Floats = residuals.T @ X
    if model.fit_intercept:
        table = np.column_stack([table, residuals.sum(axis=0)])
    return table.ravel()


def _network_gradient(model: Model, weights: Floats, X: Floats, y: Labels) -> Floats:
    layers = _layers(model, weights)
    image = model._image
    n_at_once = networks.rows_at_once(layers, shape=image)
    total = np.zeros(model.n_weights)
    for rows in _batches(len(X), n_at_once):
        margins, kept = networks.forward(layers, X[rows], shape=image)
        check_result("The network's margin", margins)
        residuals = _residuals(model, margins, y[rows]) / len(X)
        derivatives = networks.backward(layers, kept, residuals)
        total = total + _flat(model, derivatives)
    return total


def _residuals(model: Model, margins: Floats, y: Labels) -> Floats:
    """The derivative of each row's loss by its margins, (n, n_outputs)."""
    if model.kind == "lr":
        signs = _signs(y)
        derivatives = -signs * _sigmoid(-signs * margins[:, 0])
        return derivatives[:, None]
    if model.kind in ("glm", "cox"):
        raise ValueError(f"{model.kind} is trained by newton, not by gradients.")
    if model.kind == "linear":
        values = np.asarray(y, dtype=np.float64)
        return margins - values[:, None]
    every_class = np.arange(margins.shape[1])
    is_own_class: Bools = np.asarray(y)[:, None] == every_class
    return _softmax(margins) - is_own_class


def _batches(n_rows: int, batch_size: int) -> Iterator[slice]:
    size = n_rows
    if batch_size != -1:
        size = min(batch_size, n_rows)
    for start in range(0, n_rows, size):
        yield slice(start, start + size)


def _check_classes(classes: Sequence[Any]) -> None:
    if len(classes) < 2:
        raise ValueError(
            "classes needs two or more classes for a softmax model or a network."
        )
    n_texts = sum(1 for label in classes if isinstance(label, str))
    if 0 < n_texts < len(classes):
        raise ValueError("classes mixes numbers and texts.")
    in_order = sorted(set(classes))
    if list(classes) != in_order:
        raise ValueError("classes must be sorted and each class given once.")


def _check_hidden(model: Model) -> None:
    if model.kind not in NETWORKS:
        if model.hidden:
            raise ValueError(f"hidden is for networks, not for {model.kind}.")
        return
    if len(model.hidden) != 2 or min(model.hidden) < 1:
        raise ValueError(
            f"hidden is {model.hidden}; two numbers of 1 or more are allowed."
        )


def _check_shape(model: Model) -> None:
    if model.kind != "cnn":
        if model.shape:
            raise ValueError(f"shape is for cnn models, not for {model.kind}.")
        return
    is_image = False
    if len(model.shape) in (2, 3):
        height, width, *channels = model.shape
        # Two means of 2x2 leave one pixel or more of four.
        is_image = min(height, width) >= 4 and min(channels, default=1) >= 1
    if not is_image:
        raise ValueError(
            f"shape is {model.shape}; height and width of 4 or more, and channels, are allowed."
        )
    if math.prod(model.shape) != model.n_features:
        raise ValueError(
            f"shape is {model.shape}, whose product is not n_features, {model.n_features}."
        )


def _check_weights(model: Model, weights: Floats) -> None:
    if weights.shape != (model.n_weights,):
        raise ValueError(
            f"weights has the shape {weights.shape}; ({model.n_weights},) is expected."
        )
    check_finite("weights", weights)


def _check_rows(model: Model, weights: Floats, X: Floats) -> None:
    _check_weights(model, weights)
    if X.ndim != 2 or X.shape[1] != model.n_features:
        raise ValueError(
            f"X has the shape {X.shape}; (n_rows, {model.n_features}) is expected."
        )
    if len(X) < 1:
        raise ValueError("X: there are no rows.")
    check_finite("X", X)


def _check_labels(model: Model, y: Labels, n_rows: int) -> None:
    check_same_rows("y", y, n_rows)
    check_finite("y", y)
    if model.is_binary and not np.isin(y, (0, 1)).all():
        raise ValueError("y holds a label other than 0 and 1.")
    if model.kind == "cox" and not np.all(y):
        raise ValueError("y holds a time of 0.")
    if model.classes:
        check_class_index(y, len(model.classes))


def _check_walk(batch_size: int, learning_rate: float) -> None:
    if batch_size != -1 and batch_size < 1:
        raise ValueError(
            f"batch_size is {batch_size}; -1 (all rows) or 1 or more is allowed."
        )
    is_rate = np.isfinite(learning_rate) and learning_rate > 0
    if not is_rate:
        raise ValueError(
            f"learning_rate is {learning_rate}; a finite number above 0 is allowed."
        )
