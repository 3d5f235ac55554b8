"""What the hospitals add up of a fold's trained model, and what the sums give.

All are exact integers.

    training rows    lr: the histogram of scores, two counts a word;
                     softmax, mlp and cnn: how many there are of each class;
                     the loss, in limbs;
                     but for linear how many are called right;
                     for glm what a report needs besides, in limbs
    held-out rows    where a fold has some: how many;
                     for lr their histogram, as above;
                     their loss and, for linear, absolute error, of other numbers the
                     squared one too, in limbs
    where withheld   what the coordinator else makes of each hospital's metrics: of
                     held-out rows how many of each class are called which

A hospital without held-out rows adds zeros. What is made of the sum is what one table
of all hospitals' rows would give: counts are exact, and a mean is rounded once. In
cross-validation each row is held out once, so the held-out parts of all folds add up
too.

Those of cox are in `cox_sums`. Decisions 56, 71 and 77.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from agents.training import cox_sums
from agents.training.own_metrics import Withheld
from analytics.arrays import Floats, Ints, Labels
from analytics.training import families
from analytics.training.gradients import local_loss
from analytics.training.margins import linear_predictors, scores
from analytics.training.metrics import (
    binary_figures,
    class_figures,
    histogram_metrics,
    metrics,
    round_metrics,
    score_histogram,
)
from analytics.training.models import Model
from analytics.training.outcome import constant_class_loss, constant_linear_loss
from analytics.training.pairs import Pair
from protocol.sums import limbs


class Rows(NamedTuple):
    """Rows as the model sees them."""

    X: Floats  # (n, d)
    y: Labels  # (n,)


N_BINS = 1000
"""Of a histogram of scores, for each label."""
_COUNT_BITS = 30
"""Of a count in a word that holds two."""
_MOST_COUNTED_CLASSES = 30
"""Of more classes the calls are not counted together: a word for each pair of them."""


class GlmMeans(NamedTuple):
    """What a glm's report has besides the metrics, each a mean over rows."""

    loss: float  # half of deviance, weighted
    has_weight: float  # the share of rows with a weight above 0
    weight: float
    label: float  # this and the next as in `families.NullTerms`
    spread: float
    pearson: float  # squares of Pearson's residuals, weighted
    remainder: float  # `families.row_remainders`
    null_weight: float  # with `label` and `spread`

    @property
    def null_terms(self) -> families.NullTerms:
        return families.NullTerms(self.null_weight, self.label, self.spread)

    def null_loss(self, pair: Pair) -> float:
        """Half the mean deviance of one mean for all rows."""
        return families.null_deviance(pair, self.null_terms) / 2


class TrainingTotals(NamedTuple):
    """What the sums say of the training rows of all hospitals."""

    n_rows: int
    loss: float  # without the penalty
    n_right: int | None  # rows that are called what they are; None of linear
    n_of_class: Ints  # (K,); empty of linear
    ranking: dict[str, Any]  # auc and ks of lr, concordance of cox
    fit: GlmMeans | None  # of glm

    @property
    def n_wrong(self) -> int | None:
        return None if self.n_right is None else self.n_rows - self.n_right


def local_sums(
    model: Model,
    weights: Floats,
    training: Rows,
    held_out: Rows | None,
    withheld: Withheld,
    *,
    row_weights: Floats | None,
    are_counts: bool,
    label_mean: float,
    offset: Floats | None = None,
) -> Ints:
    """A hospital's part, int64 (d,), the same d at every hospital.

    Of a glm: the training rows' weights (n,), whether they are numbers of rows, and the
    label's mean over all hospitals.

    `held_out` is None where no hospital has such rows. Raises BadRequest `wide` for a
    mean that is too large to be added.

    Disclosure: histograms of scores by label and sums over rows; with few rows nearly
    the rows' scores. They leave through the release door only, sealed so that nothing
    but the sum over hospitals can be read.
    """
    parts = [_of_training(model, weights, training)]
    if model.kind == "glm":
        of_fit = _glm_means(
            model,
            weights,
            training,
            row_weights,
            are_counts=are_counts,
            label_mean=label_mean,
            offset=offset,
        )
        fit_words = limbs.to_limbs(np.array(of_fit), len(training.y))
        parts.append(fit_words)
    if held_out is not None:
        parts.append(held_out_sums(model, weights, held_out, withheld))
    return np.concatenate(parts)


def held_out_part(model: Model, sums: Ints) -> Ints:
    """Of opened sums those of held-out rows; those of several folds add up.

    Empty where the fold has no such rows.
    """
    if model.kind == "cox":
        return sums[cox_sums.n_words(model) :]
    n_words = _n_class_words(model) + limbs.N_LIMBS + _n_words_of_calls(model)
    return sums[n_words + _n_words_of_fit(model) :]


def _n_class_words(model: Model) -> int:
    """Words that tell how many training rows there are of each class."""
    if model.is_binary:
        return N_BINS
    return len(model.classes)


def _n_words_of_calls(model: Model) -> int:
    return 0 if model.is_number else 1


def _n_words_of_fit(model: Model) -> int:
    if model.kind != "glm":
        return 0
    return len(GlmMeans._fields) * limbs.N_LIMBS


def training_totals(
    model: Model,
    sums: Ints,
    n_rows: int,
) -> TrainingTotals:
    """What opened sums say of the n_rows training rows of a fold."""
    if model.kind == "cox":
        training_part = cox_sums.read_training(model, sums)
        loss = training_part.deviance / 2 / n_rows
        none = np.zeros(0, dtype=np.int64)
        concordance = {"concordance": training_part.pairs.concordance}
        return TrainingTotals(
            n_rows,
            loss,
            None,
            none,
            concordance,
            None,
        )
    n_class_words = _n_class_words(model)
    of_classes = sums[:n_class_words]
    ranking: dict[str, Any] = {}
    if model.is_binary:
        histogram = out_of_pairs(of_classes)
        ranking = histogram_metrics(histogram)
        of_classes = histogram.reshape(2, N_BINS).sum(axis=1)
    words = sums[n_class_words:]
    loss = float(limbs.from_limbs(words[: limbs.N_LIMBS], n_rows)[0])
    n_right = None
    if _n_words_of_calls(model):
        n_right = int(words[limbs.N_LIMBS])
    fit = None
    n_words_of_fit = _n_words_of_fit(model)
    if n_words_of_fit:
        fit_start = limbs.N_LIMBS + _n_words_of_calls(model)
        of_fit = words[fit_start : fit_start + n_words_of_fit]
        fit = GlmMeans(*limbs.from_limbs(of_fit, n_rows).tolist())
    return TrainingTotals(
        n_rows,
        loss,
        n_right,
        of_classes,
        ranking,
        fit,
    )


def constant_loss(
    model: Model,
    totals: TrainingTotals,
    label_variance: float,
) -> float:
    """The training loss of the best model that gives every row the same answer; of a glm
    it is weighted, as that of `fitted_loss`; NaN of cox, of which no such model is known.

    `label_variance` is the joint one, NaN of cox; of classes it is not looked at.
    """
    if totals.fit is not None and model.pair is not None:
        return totals.fit.null_loss(model.pair)
    if len(totals.n_of_class):
        return constant_class_loss(totals.n_of_class)
    return constant_linear_loss(label_variance)


def zero_loss(
    model: Model,
    totals: TrainingTotals,
    *,
    label_mean: float,
    label_variance: float,
) -> float | None:
    """The training loss at predictors of 0, or of the offset: the null model of a model
    without an intercept. None where the family does not know these means.

    Of a label that is a number its joint moments, which are those of the sums' center.
    """
    pair = model.pair
    assert pair is not None, "cox has none"
    if totals.fit is not None:
        deviance = families.zero_deviance(
            pair,
            totals.fit.null_terms,
            center=label_mean,
        )
        return None if deviance is None else deviance / 2
    if pair.is_binary:
        return math.log(2)
    return constant_linear_loss(label_variance + label_mean * label_mean)


def fitted_loss(totals: TrainingTotals) -> float:
    """The training loss that was made as small as it can be."""
    return totals.loss if totals.fit is None else totals.fit.loss


def training_metrics(
    model: Model,
    sums: Ints,
    n_rows: int,
    withheld: Withheld,
) -> dict[str, Any]:
    """auc and ks of all n_rows training rows for lr, concordance for cox, rounded.

    Where hospitals show no metrics of their own also loss, and accuracy or mse.
    """
    opened_totals = training_totals(model, sums, n_rows)
    figures: dict[str, Any] = dict(opened_totals.ranking)
    if withheld.train:
        figures["loss"] = opened_totals.loss
        if model.kind == "linear":
            figures["mse"] = 2 * opened_totals.loss
        elif opened_totals.n_right is not None:
            figures["accuracy"] = opened_totals.n_right / n_rows
    rounded: dict[str, Any] = round_metrics(figures)
    return rounded


def held_out_metrics(
    model: Model,
    sums: Ints,
    withheld: Withheld,
) -> dict[str, Any] | None:
    """Metrics of all held-out rows; None without such rows.

    They are loss and, for lr, auc and ks, for cox concordance, for linear mse, rmse and mae. auc and ks are
    None where all of them have one label. Where hospitals show no metrics of their own
    also what follows from counts of calls. These are not rounded: they are over all
    hospitals' rows.
    """
    if not len(sums) or not sums[0]:
        return None
    if model.kind == "cox":
        rows = cox_sums.read_held_out(sums)
        loss = rows.deviance / 2 / rows.n_rows
        return {"loss": loss, "concordance": rows.pairs.concordance}
    # In the order in which `held_out_sums` writes them.
    n_rows = int(sums[0])
    remaining_words = sums[1:]
    ranking: dict[str, Any] = {}
    if model.is_binary:
        histogram = out_of_pairs(remaining_words[:N_BINS])
        ranking = histogram_metrics(histogram)
        remaining_words = remaining_words[N_BINS:]
    mean_names = _names_of_means(model)
    n_words_of_means = len(mean_names) * limbs.N_LIMBS
    means = limbs.from_limbs(remaining_words[:n_words_of_means], n_rows).tolist()
    of_name = dict(zip(mean_names, means, strict=True))
    loss = of_name["loss"]
    if not model.is_number:
        figures = {}
        if withheld.test:
            figures = _call_figures(model, remaining_words[n_words_of_means:])
        return {
            "loss": loss,
            **ranking,
            **figures,
        }
    # The loss of linear is half the mean of squares.
    mse = of_name.get("mse", 2 * loss)
    rmse = math.sqrt(mse)
    return {
        "loss": loss,
        "mse": mse,
        "rmse": rmse,
        "mae": of_name["mae"],
    }


def _names_of_means(model: Model) -> list[str]:
    if not model.is_number:
        return ["loss"]
    return ["loss", "mae"] if model.kind == "linear" else ["loss", "mae", "mse"]


def _of_training(
    model: Model,
    weights: Floats,
    rows: Rows,
) -> Ints:
    if model.kind == "cox":
        return cox_sums.of_training(model, weights, rows.X, rows.y)
    words = []
    if model.is_binary:
        words.append(_in_pairs(_histogram(model, weights, rows)))
    elif model.classes:
        n_of_class = np.bincount(rows.y, minlength=len(model.classes))
        words.append(n_of_class.astype(np.int64))
    loss = local_loss(model, weights, rows.X, rows.y)
    loss_words = limbs.to_limbs(np.array([loss]), len(rows.y))
    words.append(loss_words)
    if _n_words_of_calls(model):
        calls = _calls(model, weights, rows)
        words.append(np.array([calls.trace()]))
    return np.concatenate(words)


def _glm_means(
    model: Model,
    weights: Floats,
    rows: Rows,
    row_weights: Floats | None,
    *,
    are_counts: bool,
    label_mean: float,
    offset: Floats | None,
) -> GlmMeans:
    pair = model.pair
    assert pair is not None
    y = np.asarray(rows.y, dtype=np.float64)
    m = np.ones(len(y)) if row_weights is None else row_weights
    row_means = families.means(pair, linear_predictors(model, weights, rows.X))
    deviances = m * families.unit_deviances(pair, y, row_means)
    squares = m * families.pearson_residuals(pair, y, row_means) ** 2
    terms = families.null_terms(
        pair,
        y,
        m,
        center=label_mean,
        offset=offset,
    )
    remainders = families.row_remainders(pair, y, m, are_counts=are_counts)
    return GlmMeans(
        loss=float(np.mean(deviances)) / 2,
        has_weight=float(np.mean(m > 0)),
        weight=float(np.mean(m)),
        label=float(np.mean(terms.label)),
        spread=float(np.mean(terms.spread)),
        pearson=float(np.mean(squares)),
        remainder=float(np.mean(remainders)),
        null_weight=float(np.mean(terms.weight)),
    )


def _calls(
    model: Model,
    weights: Floats,
    rows: Rows,
) -> Ints:
    """How many rows of each class are called which, (K, K); of lr (2, 2)."""
    figures = metrics(model, weights, rows.X, rows.y)
    if model.is_binary:
        counts = [
            [figures["tn"], figures["fp"]],
            [figures["fn"], figures["tp"]],
        ]
    else:
        counts = figures["confusion"]
    return np.array(counts, dtype=np.int64)


def n_counted_classes(model: Model) -> int:
    """How many classes have their calls counted together; 0 where none has."""
    n_classes = 2 if model.is_binary else len(model.classes)
    return n_classes if n_classes <= _MOST_COUNTED_CLASSES else 0


def _call_figures(model: Model, words: Ints) -> dict[str, Any]:
    n_classes = n_counted_classes(model)
    if not n_classes:
        return {}
    counts = words.reshape(n_classes, n_classes)
    if not model.is_binary:
        return class_figures(counts)
    (tn, fp), (fn, tp) = counts.tolist()
    return binary_figures(tp=tp, fp=fp, tn=tn, fn=fn)


def held_out_sums(
    model: Model,
    weights: Floats,
    rows: Rows,
    withheld: Withheld,
) -> Ints:
    """How many rows, for lr their histogram, and their means in limbs.

    Without any row there are as many words.
    """
    if model.kind == "cox":
        return cox_sums.of_held_out(model, weights, rows.X, rows.y)
    n_rows = len(rows.y)
    mean_names = _names_of_means(model)
    means = np.zeros(len(mean_names))
    histogram = np.zeros(2 * N_BINS, dtype=np.int64)
    if n_rows:
        figures = metrics(model, weights, rows.X, rows.y)
        means = np.array([figures[mean_name] for mean_name in mean_names])
        if model.is_binary:
            histogram = _histogram(model, weights, rows)
    words = [np.array([n_rows])]
    if model.is_binary:
        words.append(_in_pairs(histogram))
    words.append(limbs.to_limbs(means, n_rows))
    if withheld.test and not model.is_number:
        n_classes = n_counted_classes(model)
        counts = np.zeros((n_classes, n_classes), dtype=np.int64)
        if n_rows and n_classes:
            counts = _calls(model, weights, rows)
        words.append(counts.ravel())
    return np.concatenate(words)


def _histogram(
    model: Model,
    weights: Floats,
    rows: Rows,
) -> Ints:
    """Scores by label, (2 * N_BINS,)."""
    predicted = scores(model, weights, rows.X)
    return score_histogram(rows.y, predicted, N_BINS)


def _in_pairs(counts: Ints) -> Ints:
    """Two counts in each word, 30 bits apart, so that half is encrypted.

    No sum over hospitals comes near 2**30 rows.
    """
    low_counts = counts[0::2]
    high_counts = counts[1::2]
    return low_counts + (high_counts << _COUNT_BITS)


def out_of_pairs(words: Ints) -> Ints:
    mask = (1 << _COUNT_BITS) - 1
    low_counts = words & mask
    high_counts = words >> _COUNT_BITS
    return np.column_stack([low_counts, high_counts]).ravel()
