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

To read next: `margins` has what a model says of rows, `gradients` what a hospital
computes in a round, `initial_weights` where training starts; `metrics` is what a
hospital reports of a round, `descent` has the whole order of events in one process.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from analytics.arrays import Bools, Floats, check_finite, check_name
from analytics.training import Baseline, ModelType, Ties, TimeScale, networks
from analytics.training.pairs import LEAST_SQUARES, LOGISTIC, Pair

NETWORKS = ("mlp", "cnn")
CLASSIFIERS = ("softmax", *NETWORKS)
KINDS = get_args(ModelType)


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
    # For softmax, mlp and cnn: what all hospitals agreed on, sorted, two or more; a
    # label is an index into it.
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
    # Of negative_binomial, once it is estimated.
    theta: float = math.inf
    # For cox.
    ties: Ties = "efron"
    time_scale: TimeScale = "log"
    baseline: Baseline = "hospital"

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
        match self.kind:
            case "glm":
                return Pair(self.family, self.link, self.theta)
            case "lr":
                return LOGISTIC
            case "linear":
                return LEAST_SQUARES
        return None

    @property
    def is_binary(self) -> bool:
        """Whether labels are 0 and 1, and answers the probability of 1."""
        pair = self.pair
        return pair is not None and pair.is_binary

    @property
    def is_number(self) -> bool:
        """Whether labels and answers are numbers."""
        pair = self.pair
        return pair is not None and not pair.is_binary

    @property
    def layers(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of each layer, in the order of the flat vector."""
        if not self.classes:
            return {"dense": (self.width,)}
        shapes: dict[str, tuple[int, ...]] = {}
        for layer_name, (n_units, n_inputs) in self.sizes.items():
            shapes[layer_name] = (n_units, n_inputs + self._n_intercepts)
        return shapes

    @property
    def n_weights(self) -> int:
        """Length of the flat parameter vector."""
        shapes = self.layers.values()
        return sum(math.prod(shape) for shape in shapes)

    @property
    def penalised(self) -> Bools:
        """bool (n_weights,): a penalty is for every coefficient and no intercept."""
        layers = []
        for n_units, n_inputs in self.sizes.values():
            places = np.arange(n_inputs + self._n_intercepts)
            is_coefficient = places < n_inputs  # the intercept is the last of a unit
            of_layer = np.tile(is_coefficient, n_units)
            layers.append(of_layer)
        return np.concatenate(layers)

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Name, number of units and number of inputs of each layer."""
        if self.hidden:
            return networks.layer_sizes(
                self.n_features,
                len(self.classes),
                hidden=self.hidden,
                shape=self.image,
            )
        n_outputs = max(1, len(self.classes))
        return {"dense": (n_outputs, self.n_features)}

    @property
    def image(self) -> tuple[int, ...]:
        """(height, width, channels), or () for what is no image."""
        if not self.shape:
            return ()
        if len(self.shape) == 3:
            return self.shape
        height, width = self.shape
        return (height, width, 1)

    @property
    def width(self) -> int:
        """How many parameters an output has, where all are in one layer."""
        return self.n_features + self._n_intercepts

    @property
    def _n_intercepts(self) -> int:
        return 1 if self.fit_intercept else 0


def split_layers(
    model: Model,
    weights: Floats,
) -> dict[str, Floats]:
    """The flat vector (n_weights,) as name -> flat float64 values of that layer.

    Raises ValueError if the length is not the model's.

    >>> split_layers(Model("lr", 1), np.array([0.5, -1.0]))
    {'dense': array([ 0.5, -1. ])}
    """
    check_weights(model, weights)
    layers = model.layers
    flat_values = np.asarray(weights, dtype=np.float64)
    layer_sizes = [math.prod(shape) for shape in layers.values()]
    ends = np.cumsum(layer_sizes)
    layer_values = np.split(flat_values, ends[:-1])
    return dict(zip(layers, layer_values, strict=True))


def layers_of(
    model: Model,
    weights: Floats,
) -> list[networks.Layer]:
    """A network's flat vector as what `analytics.training.networks` computes with."""
    layers = []
    shapes = model.layers
    for layer_name, layer_values in split_layers(model, weights).items():
        weight_table = layer_values.reshape(shapes[layer_name])
        coef = weight_table
        intercept = np.zeros(len(weight_table))
        if model.fit_intercept:
            coef = weight_table[:, :-1]
            intercept = weight_table[:, -1]
        layers.append(networks.Layer(coef, intercept))
    return layers


def flat_weights(
    model: Model,
    layers: Sequence[networks.Layer],
) -> Floats:
    """The transpose of `layers_of`."""
    vectors = []
    for layer in layers:
        weight_table = layer.coef
        if model.fit_intercept:
            weight_table = np.column_stack(layer)
        vectors.append(weight_table.ravel())
    return np.concatenate(vectors)


def _check_classes(classes: Sequence[Any]) -> None:
    n_classes = len(classes)
    if n_classes < 2:
        raise ValueError(
            "classes needs two or more classes for a softmax model or a network."
        )
    text_classes = [label for label in classes if isinstance(label, str)]
    # Python sorts no numbers beside texts.
    if 0 < len(text_classes) < n_classes:
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


def check_weights(model: Model, weights: Floats) -> None:
    n_weights = model.n_weights
    if weights.shape != (n_weights,):
        raise ValueError(
            f"weights has the shape {weights.shape}; ({n_weights},) is expected."
        )
    check_finite("weights", weights)
