"""The weights that training starts from: drawn once, by the initiator."""

from __future__ import annotations

from typing import get_args

import numpy as np

from analytics.arrays import Floats, check_at_least, check_finite, check_name
from analytics.training import InitMethod, networks
from analytics.training.models import Model, flat_weights

INIT_METHODS = get_args(InitMethod)


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
    for layer_name, (n_units, n_inputs) in model.sizes.items():
        if method == "random_normal":
            deviation = np.sqrt(2 / n_inputs)
            coef = rng.standard_normal((n_units, n_inputs)) * deviation
        else:
            n_outputs = n_units
            if layer_name.startswith("conv"):
                n_outputs = 9 * n_units  # a pixel is in nine patches
            largest = np.sqrt(6 / (n_inputs + n_outputs))
            from_minus_one = 2 * rng.random((n_units, n_inputs)) - 1
            coef = from_minus_one * largest
        layers.append(networks.Layer(coef, np.zeros(n_units)))
    return flat_weights(model, layers)
