"""Two small neural networks, forward and derivative: what analytics/training/models.py
needs for `mlp` and `cnn`.

    mlp   dense1 -> relu -> dense2 -> relu -> dense
    cnn   conv1 -> relu -> mean of 2x2 -> conv2 -> relu -> mean of 2x2 -> dense

Each layer is a `Layer`: coefficients (n_units, n_inputs) and an intercept for each
unit. A convolution is the same affine map, applied to the 3x3 patch around each pixel
(LeCun et al. 1998); beyond the edge there are zeros, so an image keeps its size. Inputs
of a patch are in the order row, column, channel. A mean of 2x2 leaves out the last row
or column of an odd size. `shape` is (height, width, channels) of an image, or () for an
mlp. All numbers are float64.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from analytics.arrays import Bools, Floats

# (row, column) of the pixels of a patch, and of a mean
_OFFSETS = list(itertools.product(range(3), repeat=2))
_CORNERS = list(itertools.product(range(2), repeat=2))

# So many float64 values a layer may read at once; more would only leave the processor's
# cache.
_VALUES_AT_ONCE = 2**18


class Layer(NamedTuple):
    """Coefficients and intercepts, or the loss's derivatives by them."""

    coef: Floats  # (n_units, n_inputs)
    intercept: Floats  # (n_units,)


class ForwardPass(NamedTuple):
    """What the derivative needs of a forward pass."""

    inputs: list[Floats]  # of each layer
    # Where the relu of each layer but the last let something through
    active: list[Bools]


def layer_sizes(
    n_features: int,
    n_outputs: int,
    *,
    hidden: tuple[int, ...],
    shape: tuple[int, ...],
) -> dict[str, tuple[int, int]]:
    """Name, number of units and number of inputs of each layer.

    >>> layer_sizes(64, 10, hidden=(32, 16), shape=())
    {'dense1': (32, 64), 'dense2': (16, 32), 'dense': (10, 16)}
    >>> layer_sizes(64, 10, hidden=(8, 16), shape=(8, 8, 1))
    {'conv1': (8, 9), 'conv2': (16, 72), 'dense': (10, 64)}
    """
    first, second = hidden
    if not shape:
        return {
            "dense1": (first, n_features),
            "dense2": (second, first),
            "dense": (n_outputs, second),
        }
    height, width, channels = shape
    # Each of the two means halves both sides.
    pooled_height = height // 4
    pooled_width = width // 4
    n_pooled = pooled_height * pooled_width * second
    return {
        "conv1": (first, 9 * channels),
        "conv2": (second, 9 * first),
        "dense": (n_outputs, n_pooled),
    }


def rows_at_once(
    layers: Sequence[Layer],
    *,
    shape: tuple[int, ...],
) -> int:
    """How many rows one `forward` should take, so that memory stays small whatever the
    number of rows.
    """
    # Pixels of a row that each layer is applied to.
    n_pixels = [1, 1, 1]
    if shape:
        height, width, _ = shape
        n_whole = height * width
        n_pixels = [n_whole, n_whole // 4, 1]
    largest = 1
    for pixel_count, layer in zip(n_pixels, layers, strict=True):
        _, n_inputs = layer.coef.shape
        n_read = pixel_count * n_inputs
        largest = max(largest, n_read)
    n_rows = _VALUES_AT_ONCE // largest
    return max(1, n_rows)


def forward(
    layers: Sequence[Layer],
    X: Floats,
    *,
    shape: tuple[int, ...],
) -> tuple[Floats, ForwardPass]:
    """The margins (n, n_outputs) of rows X (n, d), and what `backward` needs.

    Disclosure: as rows. It stays within the function that called.
    """
    inputs: list[Floats] = []
    active: list[Bools] = []
    is_image = bool(shape)
    signals = X
    if is_image:
        signals = X.reshape(-1, *shape)
    for layer in layers[:-1]:
        if is_image:
            signals = _patches(signals)
        inputs.append(signals)
        unit_values = _affine(layer, signals)
        active.append(unit_values > 0)
        signals = np.maximum(unit_values, 0)
        if is_image:
            signals = _pooled(signals)
    # The last layer takes a row of numbers, of an image too.
    rows = signals.reshape(len(X), -1)
    inputs.append(rows)
    margins = _affine(layers[-1], rows)
    return margins, ForwardPass(inputs, active)


def backward(
    layers: Sequence[Layer],
    forward_pass: ForwardPass,
    residuals: Floats,
) -> list[Layer]:
    """The derivatives of a loss by each layer, from its derivatives by the margins,
    `residuals` (n, n_outputs).

    A relu's derivative at 0 is 0. (Rumelhart, Hinton and Williams 1986.)

    Disclosure: a combination of the rows' features; see
    `analytics.training.gradients.local_gradient`.
    """
    of_last = _derivative(forward_pass.inputs[-1], residuals)
    derivatives = [of_last]
    # From the last hidden layer to the first: through the weights above it, the pooling
    # and the relu.
    n_hidden = len(forward_pass.active)
    for layer_place in reversed(range(n_hidden)):
        active = forward_pass.active[layer_place]
        above = layers[layer_place + 1]
        residuals = np.tensordot(residuals, above.coef, axes=1)
        is_image = active.ndim == 4
        if is_image:
            residuals = _through_pooling(residuals, active.shape)
        residuals = residuals * active
        inputs = forward_pass.inputs[layer_place]
        derivatives.append(_derivative(inputs, residuals))
    return derivatives[::-1]


def _affine(layer: Layer, inputs: Floats) -> Floats:
    """Over the last axis, as one product of matrices."""
    turned = layer.coef.T
    products = np.tensordot(inputs, turned, axes=1)
    outputs: Floats = products + layer.intercept
    return outputs


def _derivative(inputs: Floats, residuals: Floats) -> Layer:
    n_units = residuals.shape[-1]
    flat = residuals.reshape(-1, n_units)
    flat_inputs = inputs.reshape(len(flat), -1)
    return Layer(
        coef=flat.T @ flat_inputs,
        intercept=flat.sum(axis=0),
    )


def _through_pooling(
    residuals: Floats,
    shape: tuple[int, ...],
) -> Floats:
    """Derivatives by the relu's output (n, height, width, channels), from those by the
    next layer's inputs.
    """
    n_rows, height, width, channels = shape
    # The next layer took patches, or, being the last one, a row of numbers.
    if residuals.ndim == 4:
        pooled = _folded(residuals, channels)
    else:
        pooled = residuals.reshape(
            n_rows,
            height // 2,
            width // 2,
            channels,
        )
    return _unpooled(pooled, shape)


def _patches(images: Floats) -> Floats:
    """The 3x3 neighbours of each pixel.

    (n, height, width, c) to (n, height, width, 9 c).
    """
    height, width = images.shape[1:3]
    none = (0, 0)
    one_each_side = (1, 1)
    margins = (
        none,
        one_each_side,
        one_each_side,
        none,
    )
    padded = np.pad(images, margins)
    neighbours: list[Floats] = []
    for down, right in _OFFSETS:
        rows = slice(down, down + height)
        columns = slice(right, right + width)
        neighbours.append(padded[:, rows, columns])
    return np.concatenate(neighbours, axis=-1)


def _folded(patches: Floats, n_channels: int) -> Floats:
    """The transpose of `_patches`: each pixel gets back what all its neighbours'
    patches hold for it.
    """
    n_rows, height, width, _ = patches.shape
    padded = np.zeros(
        (
            n_rows,
            height + 2,
            width + 2,
            n_channels,
        )
    )
    for neighbour_place, (down, right) in enumerate(_OFFSETS):
        first_channel = neighbour_place * n_channels
        pixels = patches[..., first_channel : first_channel + n_channels]
        rows = slice(down, down + height)
        columns = slice(right, right + width)
        padded[:, rows, columns] += pixels
    # What lies beyond the edge was zero, and has no derivative.
    return padded[:, 1:-1, 1:-1]


def _pooled(images: Floats) -> Floats:
    """The mean of each 2x2 pixels."""
    height = _even(images.shape[1])
    width = _even(images.shape[2])
    corners = []
    for down, right in _CORNERS:
        rows = slice(down, height, 2)
        columns = slice(right, width, 2)
        corners.append(images[:, rows, columns])
    corner_sum: Floats = sum(corners)  # type: ignore[assignment]
    return corner_sum / 4


def _unpooled(
    residuals: Floats,
    shape: tuple[int, ...],
) -> Floats:
    """The transpose of `_pooled`, for images of this shape."""
    height = _even(shape[1])
    width = _even(shape[2])
    images = np.zeros(shape)
    quarters = residuals / 4
    for down, right in _CORNERS:
        rows = slice(down, height, 2)
        columns = slice(right, width, 2)
        images[:, rows, columns] = quarters
    return images


def _even(size: int) -> int:
    """The size without the last row or column of an odd one."""
    return size // 2 * 2
