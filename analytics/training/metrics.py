"""How good a model is on some rows, and the same from counts that several hospitals
have added up.

Answers are plain Python numbers, ready for JSON: a figure that is not defined is None,
never NaN. `metrics` is for one hospital's rows; `binary_figures`, `class_figures` and
`histogram_metrics` take counts that add up over hospitals.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from analytics.arrays import (
    Bools,
    Floats,
    Ints,
    Labels,
    check_class_index,
    check_finite,
    check_result,
    check_same_rows,
)
from analytics.training import concordance, cox_labels
from analytics.training.gradients import local_loss
from analytics.training.margins import scores
from analytics.training.models import Model


def binary_metrics(
    y: Labels,
    score: Floats,
) -> dict[str, Any]:
    """accuracy, auc, ks, f1, tp, fp, tn, fn of scores (n,); labels y (n,) are 0 or 1.

    A row is called positive if its score is above 0.5. auc = P(score_1 > score_0) +
    P(score_1 = score_0) / 2 over all pairs (Mann and Whitney 1947); ks = max over
    thresholds of |true - false positive rate|; both None if y has one class. f1 = 2 tp
    / (2 tp + fp + fn), 0.0 if that is 0 / 0. Raises ValueError for no rows, other
    labels, different lengths or a score that is not finite.

    Disclosure: counts over rows; with few rows, or from many almost equal models,
    single labels. The release door applies min_rows and sends them rounded
    (`round_metrics`).
    """
    check_same_rows("y", y, len(score))
    check_finite("score", score)
    _check_binary(y)
    is_positive = y == 1
    is_called = score > 0.5
    figures = binary_figures(
        tp=_n_true(is_positive & is_called),
        fp=_n_true(~is_positive & is_called),
        tn=_n_true(~is_positive & ~is_called),
        fn=_n_true(is_positive & ~is_called),
    )
    n_positive, n_negative = _counts_by_score(is_positive, score)
    ranking = _ranking(n_positive, n_negative)
    accuracy = figures.pop("accuracy")  # the first, in the order of an answer
    return {
        "accuracy": accuracy,
        **ranking,
        **figures,
    }


def binary_figures(
    *,
    tp: int,
    fp: int,
    tn: int,
    fn: int,
) -> dict[str, Any]:
    """accuracy, f1 and the four counts of calls, one or more of them above 0; counts of
    several hospitals add up.

    >>> binary_figures(tp=3, fp=1, tn=4, fn=2)
    {'accuracy': 0.7, 'f1': 0.6666666666666666, 'tp': 3, 'fp': 1, 'tn': 4, 'fn': 2}
    """
    n_rows = tp + fp + tn + fn
    n_right = tp + tn
    f1 = 0.0
    f1_divisor = 2 * tp + fp + fn
    if f1_divisor:
        f1 = 2 * tp / f1_divisor
    return {
        "accuracy": n_right / n_rows,
        "f1": f1,
        "tp": tp,
        "fp": fp,
        "tn": tn,
        "fn": fn,
    }


def regression_metrics(
    y: Floats,
    predicted: Floats,
) -> dict[str, float | None]:
    """mse, rmse, mae, r2 of predicted values (n,) for y (n,).

    r2 = 1 - sum (y - predicted)^2 / sum (y - mean y)^2, None if y is constant. Raises
    ValueError for no rows, different lengths, a number that is not finite or a square
    outside float64's range.

    Disclosure: sums over rows; see `binary_metrics`.
    """
    check_same_rows("y", y, len(predicted))
    check_finite("y", y)
    check_finite("predicted", predicted)
    with np.errstate(over="ignore", invalid="ignore"):
        errors = predicted - y
        mse = np.mean(errors**2)
        mae = np.mean(np.abs(errors))
        mean = np.mean(y)
        variance = np.mean((y - mean) ** 2)
        check_result(
            "mse",
            mse,
            mae,
            variance,
        )
    # The mean of equal values may be rounded, and their variance then is not 0.
    is_constant = (y == y[0]).all() or variance == 0
    r2: float | None = None
    if not is_constant:
        unexplained = float(mse) / float(variance)
        r2 = 1.0 - unexplained
    return {
        "mse": float(mse),
        "rmse": math.sqrt(mse),
        "mae": float(mae),
        "r2": r2,
    }


def multiclass_metrics(
    y_index: Labels,
    probabilities: Floats,
) -> dict[str, Any]:
    """accuracy, f1_macro and confusion of probabilities (n, K) for class indices
    y_index (n,).

    A row's class is the first of the largest probabilities. confusion[i][j] counts rows
    of class i called j; f1_macro is the mean F1 of the classes that occur in y or among
    the calls. Raises ValueError for no rows, other shapes, an index outside 0 to K - 1
    or a probability that is not finite.

    Disclosure: counts over rows; see `binary_metrics`.
    """
    if probabilities.ndim != 2:
        raise ValueError(
            f"probabilities has the shape {probabilities.shape}; (n_rows, n_classes) is expected."
        )
    n_rows, n_classes = probabilities.shape
    check_same_rows("y", y_index, n_rows)
    check_finite("probabilities", probabilities)
    check_class_index(y_index, n_classes)
    called = probabilities.argmax(axis=1)
    # A row's place in the confusion, whose rows lie one after the other here
    first_of_class = y_index.astype(np.int64) * n_classes
    confusion_places = first_of_class + called
    counts = np.bincount(confusion_places, minlength=n_classes**2)
    confusion = counts.reshape(n_classes, n_classes)
    return class_figures(confusion)


def class_figures(confusion: Ints) -> dict[str, Any]:
    """accuracy, f1_macro and confusion of counts (K, K), one or more of them above 0;
    those of hospitals add up.

    >>> class_figures(np.array([[2, 0], [1, 1]]))["accuracy"]
    0.75
    """
    hits = confusion.diagonal()
    n_in_y = confusion.sum(axis=1)
    n_called = confusion.sum(axis=0)
    occurrences = n_in_y + n_called
    # A class that is neither in y nor called has no F1: it would be 0 / 0.
    occurs = occurrences > 0
    f1 = 2 * hits[occurs] / occurrences[occurs]
    accuracy = hits.sum() / confusion.sum()
    return {
        "accuracy": float(accuracy),
        "f1_macro": float(f1.mean()),
        "confusion": confusion.tolist(),
    }


def metrics(
    model: Model,
    weights: Floats,
    X: Floats,
    y: Labels,
) -> dict[str, Any]:
    """The loss (`local_loss`, without penalty) and the metrics of the model's kind on
    rows X (n, d), y (n,).

    Disclosure: see `binary_metrics`.
    """
    loss = local_loss(
        model,
        weights,
        X,
        y,
    )
    score = scores(model, weights, X)
    figures: dict[str, Any]
    if model.is_binary:
        figures = binary_metrics(y, score)
    elif model.kind == "cox":
        outcome = cox_labels.outcome(y)
        pairs = concordance.local_pairs(
            score,
            outcome.times,
            outcome.events,
            entries=outcome.entries,
            strata=outcome.strata,
        )
        figures = {"concordance": pairs.concordance}
    elif model.is_number:
        labels = np.asarray(y, dtype=np.float64)
        figures = regression_metrics(labels, score)
    else:
        figures = multiclass_metrics(y, score)
    return {"loss": loss, **figures}


OF_BINARY = (
    "loss",
    "accuracy",
    "auc",
    "ks",
    "f1",
    "tp",
    "fp",
    "tn",
    "fn",
)
OF_NUMBERS = (
    "loss",
    "mse",
    "rmse",
    "mae",
    "r2",
)
"""The names of `metrics`, in their order."""


def round_metrics(metrics: Any, digits: int = 6) -> Any:
    """The same metrics with every float at `digits` significant digits, inside dicts
    and lists too.

    Integers, booleans, None and texts stay. Fewer digits keep one row's influence from
    being read out of the tail.

    >>> round_metrics({"loss": 0.123456789, "confusion": [[1234567, 0]], "auc": None})
    {'loss': 0.123457, 'confusion': [[1234567, 0]], 'auc': None}
    """
    if isinstance(metrics, dict):
        rounded = {}
        for name, value in metrics.items():
            rounded[name] = round_metrics(value, digits)
        return rounded
    if isinstance(metrics, list | tuple):
        return [round_metrics(value, digits) for value in metrics]
    if isinstance(metrics, float):
        return float(f"{metrics:.{digits}g}")
    return metrics


def score_histogram(
    y: Labels,
    score: Floats,
    n_bins: int = 1000,
) -> Ints:
    """Counts of scores (n,) in [0, 1] in n_bins equal bins, int64 (2 * n_bins,): class
    0, then class 1.

    Bin i is [i / n_bins, (i + 1) / n_bins), the last one closed. Histograms of several
    hospitals add up. Raises ValueError for no rows, labels other than 0 and 1, a score
    outside [0, 1] or no bins.

    Disclosure: how many rows of each class have which score; a lone row in a bin is a
    row. It leaves through the release door only, sealed so that nothing but the sum
    over hospitals can be read.
    """
    check_same_rows("y", y, len(score))
    check_finite("score", score)
    _check_binary(y)
    if n_bins < 1:
        raise ValueError(f"n_bins is {n_bins}; 1 or more is allowed.")
    if score.min() < 0 or score.max() > 1:
        raise ValueError("score holds a value outside 0 to 1.")
    bins = (score * n_bins).astype(np.int64)
    # A score of 1 belongs to the last bin.
    last_bin = n_bins - 1
    bins = np.minimum(bins, last_bin)
    is_positive = y == 1
    bin_places = np.where(is_positive, bins + n_bins, bins)
    counts = np.bincount(bin_places, minlength=2 * n_bins)
    return counts.astype(np.int64)


def histogram_metrics(counts: Ints) -> dict[str, float | None]:
    """Joint auc and ks of the pooled rows from the sum of their `score_histogram`s,
    int64 (2 * n_bins,).

    Scores of one bin count as tied (half), so auc is off by at most half the share of
    pairs of different classes that meet in one bin. None with one class. Raises
    ValueError for negative counts or an odd length.

    >>> histogram_metrics(np.array([3, 1, 0, 4]))
    {'auc': 0.875, 'ks': 0.75}
    """
    is_paired = counts.ndim == 1 and len(counts) % 2 == 0
    if not is_paired or (counts < 0).any():
        raise ValueError(
            "counts holds as many counts of class 0 as of class 1, none of them negative."
        )
    negatives, positives = np.split(counts.astype(np.int64), 2)
    return _ranking(positives, negatives)


def _n_true(rows: Bools) -> int:
    return int(rows.sum())


def _counts_by_score(
    positive: Bools,
    score: Floats,
) -> tuple[Ints, Ints]:
    """Rows of class 1 and of class 0 at each distinct score, ascending."""
    distinct, score_place = np.unique(score, return_inverse=True)
    n_positive = np.bincount(score_place[positive], minlength=len(distinct))
    n_negative = np.bincount(score_place[~positive], minlength=len(distinct))
    return n_positive, n_negative


def _ranking(
    positives: Ints,
    negatives: Ints,
) -> dict[str, float | None]:
    """auc and ks from counts per ascending score; the pairs are counted in integers, so
    auc is rounded once.
    """
    n_positive = int(positives.sum())
    n_negative = int(negatives.sum())
    if not n_positive or not n_negative:
        return {"auc": None, "ks": None}
    positives_up_to = np.cumsum(positives)
    negatives_up_to = np.cumsum(negatives)
    # Twice the pairs in which the positive scores higher, plus the ties.
    twice_below = 2 * negatives_up_to - negatives
    twice_won = int((positives * twice_below).sum())
    n_pairs = n_positive * n_negative
    auc = twice_won / (2 * n_pairs)
    # The rates above a threshold differ as much as the shares up to it do.
    gaps = np.abs(positives_up_to / n_positive - negatives_up_to / n_negative)
    ks = float(gaps.max())
    return {"auc": auc, "ks": ks}


def _check_binary(y: Labels) -> None:
    is_label = np.isin(y, (0, 1))
    if not is_label.all():
        raise ValueError("y holds a label other than 0 and 1.")
