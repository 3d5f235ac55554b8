"""What is too large for an order's bound, named so that somebody can act on it.

The bound is that of the sums' fixed point, `protocol.sums.fixed_point`.

Decision 76.
"""

from __future__ import annotations

import math

import numpy as np

from analytics.arrays import Floats, Places
from analytics.training.models import Model
from protocol.errors import BadRequest
from protocol.sums.fixed_point import FixedPoint
from protocol.sums.sum_keys import SumKeys

LARGEST_BOUND = 2.0**40
"""That an order may ask for."""

_STEP_BITS = 4
_MOST_NAMED = 5


def check_bound(keys: SumKeys, vector: Floats, model: Model, names: list[str]) -> None:
    """Refuses a round's part, gradient and loss behind it, that the bound has no room for.

    `names` are the attributes. Raises BadRequest (code bound_exceeded): its sentence
    names all that is too large, its remedy a bound that would do.

    Disclosure: which coefficients' gradients are beyond the bound at this hospital, and
    the size of the largest one to four bits.
    """
    # NaN compares false, so it is outside too.
    is_within = np.abs(vector) <= keys.bound
    if is_within.all():
        return
    beyond_places = np.flatnonzero(~is_within)
    named = _named(beyond_places, model, names)
    listed = ", ".join(named[:_MOST_NAMED])
    if len(named) > _MOST_NAMED:
        listed += f" and {len(named) - _MOST_NAMED} more"
    remedy = "Set standardize to true, give large columns in a larger unit in a view, or order a smaller learning_rate"
    largest = float(np.abs(vector).max())
    bound = _bound_for(largest, keys.n_rows_total)
    if bound:
        remedy += f"; or a bound of {bound:.0f}, which holds this part"
    raise BadRequest(
        f"This hospital's part in the sum is beyond the bound of {keys.bound:.0f}: {listed}.",
        remedy=f"{remedy}.",
        code="bound_exceeded",
    )


def _named(places: Places, model: Model, names: list[str]) -> list[str]:
    """What the values at these places are of, each once.

    Classes are not named: the coordinator knows none.
    """
    value_names = []
    for place in places.tolist():
        value_names.append(_name(place, model, names))
    return list(dict.fromkeys(value_names))


def _name(place: int, model: Model, names: list[str]) -> str:
    if place == model.n_weights:
        return "the loss"
    if model.hidden:
        return f"the gradient of layer {_layer(place, model)}"
    n_intercepts = 1 if model.fit_intercept else 0
    input_number = place % (model.n_features + n_intercepts)
    if input_number == model.n_features:
        return "the gradient of the intercept"
    return f"the gradient of {names[input_number]}"


def _layer(place: int, model: Model) -> str:
    layer_sizes = [math.prod(shape) for shape in model.layers.values()]
    ends = np.cumsum(layer_sizes)
    number = int(np.searchsorted(ends, place, side="right"))
    return [*model.layers][number]


def _bound_for(largest: float, n_rows: int) -> float | None:
    """The next bound that holds the largest value and leaves room for these rows.

    In steps of 2^4, so that it tells little of the value. None where there is none.
    """
    if not largest < LARGEST_BOUND:
        return None
    exponent = max(1, math.ceil(math.log2(largest)))
    n_bits = _STEP_BITS * math.ceil(exponent / _STEP_BITS)
    bound = 2.0**n_bits
    try:
        FixedPoint(n_rows, bound)
    except BadRequest:
        return None
    return bound
