"""What the hospitals add up of a kept model on new rows, and what the sums tell.

All are exact integers, in one sealed sum:

    rows left out    how many, before the model saw any
    of lr            the squared error of the scores, in limbs
    all else         as of held-out rows at the end of training (`final_sums`): how many,
                     of lr their histogram, their losses, of classifiers their calls

A hospital's part and what is made of the sum are what one table of all hospitals' rows
would give. What people are shown of a histogram is merged (`analytics.training.curves`).

Decision 87.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from agents.training.final_sums import (
    N_BINS,
    Rows,
    held_out_metrics,
    held_out_sums,
    out_of_pairs,
)
from agents.training.own_metrics import Withheld
from analytics.arrays import Floats, Ints
from analytics.training.curves import (
    CONFIDENCE,
    calibration_table,
    delong,
    roc_points,
)
from analytics.training.models import Model, scores
from protocol.sums import limbs

_WITHHELD = Withheld(train=1, test=1)
"""Calls are counted together: no hospital shows its own."""


@dataclass(frozen=True)
class EvaluatedSums:
    """The opened sums, taken apart."""

    n_left_out: int
    held_out: Ints  # as `final_sums.held_out_metrics` reads them
    brier: float | None = None  # of lr


def local_sums(model: Model, weights: Floats, rows: Rows, *, n_left_out: int) -> Ints:
    """A hospital's part, int64 (d,), the same d at every hospital.

    Raises BadRequest `wide` for a mean that is too large to be added.

    Disclosure: as `final_sums.local_sums`. It leaves through the release door only,
    sealed so that nothing but the sum over hospitals can be read.
    """
    parts = [np.array([n_left_out])]
    if model.is_binary:
        score = scores(model, weights, rows.X)
        brier = np.mean((score - rows.y) ** 2)
        parts.append(limbs.to_limbs(np.array([brier]), len(rows.y)))
    parts.append(held_out_sums(model, weights, rows, _WITHHELD))
    return np.concatenate(parts).astype(np.int64)


def opened(model: Model, sums: Ints, n_rows: int) -> EvaluatedSums:
    """The sums over n_rows rows of all hospitals."""
    n_left_out = int(sums[0])
    words = sums[1:]
    if not model.is_binary:
        return EvaluatedSums(n_left_out, words)
    brier = float(limbs.from_limbs(words[: limbs.N_LIMBS], n_rows)[0])
    return EvaluatedSums(n_left_out, words[limbs.N_LIMBS :], brier)


def histogram_of(model: Model, sums: EvaluatedSums) -> Ints | None:
    """Scores by label of all hospitals' rows, (2 * N_BINS,); None but for lr."""
    if not model.is_binary:
        return None
    # Behind the number of rows.
    return out_of_pairs(sums.held_out[1 : 1 + N_BINS])


def report_of(
    model: Model,
    sums: EvaluatedSums,
    *,
    threshold: float,
    label_variance: float,
    min_rows: int,
) -> dict[str, Any]:
    """What people are shown: `metrics` and, of lr, `roc` and `calibration`.

    threshold: of lr, from which score on a row is called positive. label_variance: the
    joint one, of linear. Where a class that occurs has fewer than
    min_rows rows of all hospitals together there are no metrics, and `withheld` says
    so.
    """
    n_rows = int(sums.held_out[0])
    left_out = sums.n_left_out
    found: dict[str, Any] = {
        "n": n_rows,
        # Few people are not told.
        "n_left_out": left_out if left_out == 0 or left_out >= min_rows else None,
        "min_rows": min_rows,
        "metrics": {},
    }
    metrics = held_out_metrics(model, sums.held_out, _WITHHELD)
    assert metrics is not None, "each hospital has rows"
    classes = _n_of_classes(model, metrics)
    if any(0 < n_of_class < min_rows for n_of_class in classes):
        found["withheld"] = {"rule": "min_rows", "threshold": min_rows}
        return found
    if model.is_binary:
        counts = histogram_of(model, sums)
        assert counts is not None
        found["metrics"] = _of_scores(sums, metrics, counts, threshold)
        found["confidence"] = CONFIDENCE
        found["roc"] = roc_points(counts, min_rows=min_rows)
        found["calibration"] = calibration_table(counts, min_rows=min_rows)
        return found
    if model.is_number:
        r2 = None
        if label_variance > 0:
            r2 = 1 - metrics["mse"] / label_variance
        found["metrics"] = {**_without_loss(metrics), "r2": r2}
        return found
    found["metrics"] = metrics
    return found


def _n_of_classes(model: Model, metrics: dict[str, Any]) -> list[int]:
    """How many rows each class has; none known of linear and of very many classes."""
    if model.is_binary:
        return [metrics["tn"] + metrics["fp"], metrics["fn"] + metrics["tp"]]
    confusion = metrics.get("confusion", [])
    return [sum(row) for row in confusion]


def _of_scores(
    sums: EvaluatedSums, metrics: dict[str, Any], counts: Ints, threshold: float
) -> dict[str, Any]:
    negatives, positives = np.split(counts, 2)
    # A threshold is where a bin begins.
    place = round(threshold * N_BINS)
    tn, fp = int(negatives[:place].sum()), int(negatives[place:].sum())
    fn, tp = int(positives[:place].sum()), int(positives[place:].sum())
    auc = delong(counts)
    return {
        "n_negative": tn + fp,
        "n_positive": fn + tp,
        "log_loss": metrics["loss"],
        "brier": sums.brier,
        "auc": auc.value,
        "auc_se": auc.se,
        "auc_low": auc.low,
        "auc_high": auc.high,
        "ks": metrics["ks"],
        "threshold": threshold,
        "tn": tn,
        "fp": fp,
        "fn": fn,
        "tp": tp,
        "accuracy": (tn + tp) / (tn + fp + fn + tp),
        "sensitivity": _share(tp, fn),
        "specificity": _share(tn, fp),
        "ppv": _share(tp, fp),
        "npv": _share(tn, fn),
    }


def _share(n_of: int, n_rest: int) -> float | None:
    """None of no rows."""
    n_all = n_of + n_rest
    return n_of / n_all if n_all else None


def _without_loss(metrics: dict[str, Any]) -> dict[str, Any]:
    """Half the mean of squares is no number of a paper."""
    return {name: value for name, value in metrics.items() if name != "loss"}
