"""What the hospitals add up of a fold's trained model, as exact integers, and what the initiator makes of the sums.

    training rows    lr: the histogram of scores, two counts a word; other models: the loss, in limbs
    held-out rows    where a fold has some: how many; for lr their histogram, as above; their loss and, for linear,
                     absolute error, in limbs

A hospital without held-out rows adds zeros. What is made of the sum is what one table of all hospitals' rows would
give: counts are exact, and a mean is rounded once. In cross-validation each row is held out once, so the held-out parts
of all folds add up too.

Decision 56.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from analytics.arrays import Floats, Ints, Labels
from analytics.training.metrics import histogram_metrics, metrics, round_metrics, score_histogram
from analytics.training.models import Model, local_loss, scores
from protocol.sums import limbs

Rows = tuple[Floats, Labels]
"""X (n, d) and y (n,) as the model sees them."""

_N_BINS = 1000
"""Of a histogram of scores, for each label."""
_COUNT_BITS = 30
"""Of a count in a word that holds two."""


def local_sums(model: Model, weights: Floats, training: Rows, held_out: Rows | None) -> Ints:
    """A hospital's part, int64 (d,), the same d at every hospital; `held_out` is None where no hospital has such rows.

    Raises BadRequest `wide` for a mean that is too large to be added.

    Disclosure: histograms of scores by label and sums over rows; with few rows nearly the rows' scores. They leave
    through the release door only, sealed so that nothing but the sum over hospitals can be read.
    """
    parts = [_of_training(model, weights, training)]
    if held_out is not None:
        parts.append(_of_held_out(model, weights, held_out))
    return np.concatenate(parts)


def held_out_part(model: Model, sums: Ints) -> Ints:
    """Of opened sums those of held-out rows, empty where the fold has none; those of several folds add up."""
    n_words = _N_BINS if model.kind == "lr" else limbs.N_LIMBS
    return sums[n_words:]


def training_metrics(model: Model, sums: Ints) -> dict[str, Any]:
    """auc and ks of all training rows for lr, rounded as they may leave; nothing for other models."""
    if model.kind != "lr":
        return {}
    histogram = _out_of_pairs(sums[:_N_BINS])
    rounded: dict[str, Any] = round_metrics(histogram_metrics(histogram))
    return rounded


def held_out_metrics(model: Model, part: Ints) -> dict[str, Any] | None:
    """loss and, for lr, auc and ks, for linear mse, rmse and mae of all held-out rows; None without such rows.

    auc and ks are None where all of them have one label. These are not rounded: they are over all hospitals' rows.
    """
    if not len(part) or not part[0]:
        return None
    n_rows, rest = int(part[0]), part[1:]
    ranking: dict[str, Any] = {}
    if model.kind == "lr":
        ranking = histogram_metrics(_out_of_pairs(rest[:_N_BINS]))
        rest = rest[_N_BINS:]
    loss, *errors = limbs.from_limbs(rest, n_rows).tolist()
    if model.kind != "linear":
        return {"loss": loss, **ranking}
    mse = 2 * loss  # the loss is half the mean of squares
    return {"loss": loss, "mse": mse, "rmse": math.sqrt(mse), "mae": errors[0]}


def _of_training(model: Model, weights: Floats, rows: Rows) -> Ints:
    X, y = rows
    if model.kind == "lr":
        histogram = score_histogram(y, scores(model, weights, X), _N_BINS)
        return _in_pairs(histogram)
    # `training_metrics` makes nothing of it; without it the sum could be empty.
    loss = local_loss(model, weights, X, y)
    return limbs.to_limbs(np.array([loss]), len(y))


def _of_held_out(model: Model, weights: Floats, rows: Rows) -> Ints:
    """How many rows, for lr their histogram, and their means in limbs; as many words without any row."""
    X, y = rows
    n_rows = len(y)
    names = ("loss", "mae") if model.kind == "linear" else ("loss",)
    means = np.zeros(len(names))
    histogram = np.zeros(2 * _N_BINS, dtype=np.int64)
    if n_rows:
        found = metrics(model, weights, X, y)
        means = np.array([found[name] for name in names])
        if model.kind == "lr":
            histogram = score_histogram(y, scores(model, weights, X), _N_BINS)
    words = [np.array([n_rows])]
    if model.kind == "lr":
        words.append(_in_pairs(histogram))
    words.append(limbs.to_limbs(means, n_rows))
    return np.concatenate(words)


def _in_pairs(counts: Ints) -> Ints:
    """Two counts in each word, 30 bits apart: no sum over hospitals comes near 2**30 rows, and half is encrypted."""
    return counts[0::2] + (counts[1::2] << _COUNT_BITS)


def _out_of_pairs(words: Ints) -> Ints:
    low, high = words & ((1 << _COUNT_BITS) - 1), words >> _COUNT_BITS
    return np.column_stack([low, high]).ravel()
