"""A model's loss over rows, and its derivative: what a hospital computes in a round.

`analytics.training.descent` has the whole order of events in one process.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from analytics.arrays import (
    Bools,
    Floats,
    Labels,
    check_class_index,
    check_finite,
    check_result,
    check_same_rows,
    table_chunks,
)
from analytics.training import cox, cox_labels, families, networks
from analytics.training.margins import (
    batches,
    check_rows,
    log_softmax,
    margins_of,
    sigmoid,
    softmax,
)
from analytics.training.models import Model, flat_weights, layers_of
from analytics.training.pairs import Pair


def local_loss(
    model: Model,
    weights: Floats,
    X: Floats,
    y: Labels,
) -> float:
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
    check_rows(model, weights, X)
    n_rows = len(X)
    _check_labels(model, y, n_rows)
    if model.kind == "cox":
        return cox.mean_loss(
            X,
            y,
            weights,
            ties=model.ties,
        )
    loss_sum = 0.0
    for chunk, rows in table_chunks(X):
        margins = margins_of(model, weights, rows)
        losses = _row_losses(model, margins, y[chunk])
        loss_sum += float(np.sum(losses))
    return loss_sum / n_rows


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
    check_rows(model, weights, X)
    _check_labels(model, y, len(X))
    _check_walk(batch_size, learning_rate)
    gradient_sum = np.zeros(model.n_weights)
    with np.errstate(over="ignore", invalid="ignore"):
        for rows in batches(len(X), batch_size):
            walked = weights - learning_rate * gradient_sum  # w_{b-1}
            gradient = _mean_gradient(
                model,
                walked,
                X[rows],
                y[rows],
            )  # g_b
            gradient_sum = gradient_sum + gradient
            check_result("The gradient", gradient_sum)
    return gradient_sum


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
    check_rows(model, weights, X)
    n_rows = len(X)
    _check_labels(model, y, n_rows)
    _check_walk(batch_size, learning_rate)
    predictors = []
    residual_sizes = []
    walked = weights
    with np.errstate(over="ignore", invalid="ignore"):
        for rows in batches(n_rows, batch_size):
            of_batch = y[rows]
            n_in_batch = len(of_batch)
            for chunk, of_chunk in table_chunks(X[rows]):
                margins = margins_of(model, walked, of_chunk)
                residuals = _residuals(model, margins, of_batch[chunk])
                if model.classes:
                    margins = margins - margins.mean(axis=1, keepdims=True)
                largest = np.abs(margins).max(axis=1)
                residual_sum = np.abs(residuals).sum(axis=1)
                predictors.append(largest)
                residual_sizes.append(residual_sum / n_in_batch)
            # Nothing comes after the step of a single batch.
            if batch_size != -1:
                gradient = _mean_gradient(
                    model,
                    walked,
                    X[rows],
                    y[rows],
                )
                walked = walked - learning_rate * gradient
                check_result("The gradient", walked)
    return RowWeights(
        predictors=np.concatenate(predictors),
        weights=np.concatenate(residual_sizes),
    )


def _row_losses(
    model: Model,
    margins: Floats,
    y: Labels,
) -> Floats:
    """Each row's loss as `local_loss` defines it, (n,)."""
    if model.classes:
        logarithms = log_softmax(margins)
        every_row = np.arange(len(y))
        return -logarithms[every_row, y]
    margin = margins[:, 0]
    if model.kind == "lr":
        signed = -_signs(y) * margin
        # exp of a large margin is infinite; its logarithm is the margin.
        losses: Floats = np.logaddexp(0.0, signed)
        return losses
    if model.pair is not None and model.kind == "glm":
        return _half_deviances(model.pair, margin, y)
    with np.errstate(over="ignore"):
        squares = 0.5 * (margin - y) ** 2
        loss_sum = squares.sum()
        check_result("The loss", squares, loss_sum)
    return squares


def _half_deviances(
    pair: Pair,
    margin: Floats,
    y: Labels,
) -> Floats:
    row_means = families.means(pair, margin)
    if not families.is_valid(pair, row_means):
        raise ValueError(
            f"The model gives a row a mean that {pair.family} does not know: order another link."
        )
    labels = np.asarray(y, dtype=np.float64)
    deviances = families.unit_deviances(pair, labels, row_means)
    return deviances / 2


def _signs(y: Labels) -> Floats:
    """Labels 0 and 1 as -1 and +1."""
    signs: Floats = 2.0 * y - 1.0
    return signs


def _mean_gradient(
    model: Model,
    weights: Floats,
    X: Floats,
    y: Labels,
) -> Floats:
    if model.hidden:
        return _network_gradient(
            model,
            weights,
            X,
            y,
        )
    n_rows = len(X)
    gradient_sum = np.zeros(model.n_weights)
    for chunk, rows in table_chunks(X):
        # Divided by n before the rows are summed: the sum stays within the largest row.
        margins = margins_of(model, weights, rows)
        residuals = _residuals(model, margins, y[chunk]) / n_rows
        derivative_table: Floats = residuals.T @ rows
        if model.fit_intercept:
            of_intercepts = residuals.sum(axis=0)
            derivative_table = np.column_stack([derivative_table, of_intercepts])
        gradient_sum = gradient_sum + derivative_table.ravel()
    return gradient_sum


def _network_gradient(
    model: Model,
    weights: Floats,
    X: Floats,
    y: Labels,
) -> Floats:
    layers = layers_of(model, weights)
    image = model.image
    n_rows = len(X)
    n_at_once = networks.rows_at_once(layers, shape=image)
    gradient_sum = np.zeros(model.n_weights)
    for rows in batches(n_rows, n_at_once):
        margins, forward_pass = networks.forward(
            layers,
            X[rows],
            shape=image,
        )
        check_result("The network's margin", margins)
        residuals = _residuals(model, margins, y[rows]) / n_rows
        derivatives = networks.backward(layers, forward_pass, residuals)
        gradient_sum = gradient_sum + flat_weights(model, derivatives)
    return gradient_sum


def _residuals(
    model: Model,
    margins: Floats,
    y: Labels,
) -> Floats:
    """The derivative of each row's loss by its margins, (n, n_outputs)."""
    if model.kind == "lr":
        signs = _signs(y)
        margin = margins[:, 0]
        # Of the other class itself: 1 - p is 0 where p rounds to 1.
        of_other = sigmoid(-signs * margin)
        derivatives = -signs * of_other
        return derivatives[:, None]
    if model.kind in ("glm", "cox"):
        raise ValueError(f"{model.kind} is trained by newton, not by gradients.")
    if model.kind == "linear":
        labels = np.asarray(y, dtype=np.float64)
        return margins - labels[:, None]
    every_class = np.arange(margins.shape[1])
    classes = np.asarray(y)[:, None]
    is_own_class: Bools = classes == every_class
    return softmax(margins) - is_own_class


def _check_labels(
    model: Model,
    y: Labels,
    n_rows: int,
) -> None:
    if model.kind == "cox":
        cox_labels.check_labels(y, n_rows)
        return
    check_same_rows("y", y, n_rows)
    check_finite("y", y)
    if model.is_binary:
        is_label = np.isin(y, (0, 1))
        if not is_label.all():
            raise ValueError("y holds a label other than 0 and 1.")
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
