"""What the hospitals add up of a kept model on new rows, and what the sums tell.

All are exact integers, in one sealed sum:

    rows left out    how many, before the model saw any
    of scores        of lr and a binomial glm: the squared error of the scores, in limbs
    of cox           how many rows and events; pairs of rows of one hospital that the
                     model orders rightly, wrongly and not at all
    all else         as of held-out rows at the end of training (`final_sums`): how many,
                     of scores their histogram, their losses, of numbers their errors, of
                     classifiers their calls

A hospital's part and what is made of the sum are what one table of all hospitals' rows
would give. What people are shown of a histogram is merged (`analytics.training.curves`).

Decision 87.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agents.training.cox_sums import local_pairs
from agents.training.final_sums import (
    N_BINS,
    Rows,
    held_out_metrics,
    held_out_sums,
    out_of_pairs,
)
from agents.training.own_metrics import Withheld
from analytics.arrays import Floats, Ints
from analytics.training import cox_labels
from analytics.training.concordance import Pairs
from analytics.training.curves import (
    CONFIDENCE,
    calibration_table,
    decision_curve,
    delong,
    roc_points,
)
from analytics.training.cutoffs import answered, calls_at
from analytics.training.margins import scores
from analytics.training.models import Model
from protocol.sums import limbs

_WITHHELD = Withheld(train=1, test=1)
"""Calls are counted together: no hospital shows its own."""


@dataclass(frozen=True)
class EvaluatedSums:
    """The opened sums, taken apart."""

    n_left_out: int
    held_out: Ints  # as `final_sums.held_out_metrics` reads them; of cox n and events
    brier: float | None = None  # of scores
    pairs: Pairs | None = None  # of cox

    @property
    def n_rows(self) -> int:
        return int(self.held_out[0])


def local_sums(
    model: Model,
    weights: Floats,
    rows: Rows,
    *,
    n_left_out: int,
) -> Ints:
    """A hospital's part, int64 (d,), the same d at every hospital, also without a row.

    Raises BadRequest `wide` for a mean that is too large to be added.

    Disclosure: as `final_sums.local_sums`; of cox counts of pairs within a stratum of
    the hospital, of no time. It leaves through the release door only, sealed so that nothing but the sum
    over hospitals can be read.
    """
    parts = [np.array([n_left_out])]
    n_rows = len(rows.y)
    if model.kind == "cox":
        events = cox_labels.outcome(rows.y).events
        n_events = np.count_nonzero(events)
        pairs = Pairs()
        if n_rows:
            pairs = local_pairs(weights, rows.X, rows.y)
        counts = [n_rows, n_events, *pairs]
        parts.append(np.array(counts))
        return np.concatenate(parts).astype(np.int64)
    if model.is_binary:
        brier = 0.0
        if n_rows:
            errors = scores(model, weights, rows.X) - rows.y
            brier = float(np.mean(errors**2))
        of_brier = limbs.to_limbs(np.array([brier]), n_rows)
        parts.append(of_brier)
    as_held_out = held_out_sums(
        model,
        weights,
        rows,
        _WITHHELD,
    )
    parts.append(as_held_out)
    return np.concatenate(parts).astype(np.int64)


def opened(model: Model, sums: Ints) -> EvaluatedSums:
    """The sums over rows of all hospitals, one or more of them."""
    n_left_out = int(sums[0])
    words = sums[1:]
    if model.kind == "cox":
        return EvaluatedSums(
            n_left_out,
            words[:2],
            pairs=Pairs(*words[2:].tolist()),
        )
    if not model.is_binary:
        return EvaluatedSums(n_left_out, words)
    of_brier = words[: limbs.N_LIMBS]
    held_out = words[limbs.N_LIMBS :]
    n_rows = int(held_out[0])
    brier = limbs.from_limbs(of_brier, n_rows)
    return EvaluatedSums(n_left_out, held_out, float(brier[0]))


def histogram_of(model: Model, sums: EvaluatedSums) -> Ints | None:
    """Scores by label of all hospitals' rows, (2 * N_BINS,); None but of scores."""
    if not model.is_binary:
        return None
    # Behind the number of rows.
    return out_of_pairs(sums.held_out[1 : 1 + N_BINS])


def report_of(
    model: Model,
    sums: EvaluatedSums,
    *,
    threshold: float,
    cutoffs: Sequence[float],
    label_variance: float,
    min_rows: int,
) -> dict[str, Any]:
    """What people are shown: `metrics` and, of scores, `roc`, `decision`, `calibration`
    and `cutoffs`, of cox `pairs`.

    threshold, cutoffs: of scores, from which one on a row is called positive, for the
    metrics and for lines of their own. label_variance: the joint one, of numbers. Where
    a class that occurs has fewer than min_rows rows of all hospitals together there are
    no metrics, and `withheld` says so; the two classes of a cox are rows with and without
    an event.
    """
    left_out = sums.n_left_out
    report: dict[str, Any] = {
        "n": sums.n_rows,
        # Few people are not told.
        "n_left_out": left_out if left_out == 0 or left_out >= min_rows else None,
        "min_rows": min_rows,
        "metrics": {},
    }
    metrics: dict[str, Any] = {}
    if sums.pairs is None:
        metrics = held_out_metrics(model, sums.held_out, _WITHHELD) or {}
    classes = _n_of_classes(model, sums, metrics)
    if any(0 < n_of_class < min_rows for n_of_class in classes):
        report["withheld"] = {"rule": "min_rows", "threshold": min_rows}
        return report
    if sums.pairs is not None:
        report["metrics"] = {
            "n_events": classes[1],
            "concordance": sums.pairs.concordance,
        }
        report["pairs"] = {"within": "hospitals", **sums.pairs._asdict()}
        return report
    if model.is_binary:
        counts = histogram_of(model, sums)
        assert counts is not None
        report["metrics"] = _of_scores(
            sums,
            metrics,
            counts,
            threshold,
        )
        report["confidence"] = CONFIDENCE
        report["cutoffs"] = answered(
            counts,
            cutoffs,
            min_rows=min_rows,
        )
        report["roc"] = roc_points(counts, min_rows=min_rows)
        report["decision"] = decision_curve(counts, min_rows=min_rows)
        report["calibration"] = calibration_table(counts, min_rows=min_rows)
        return report
    if model.is_number:
        report["metrics"] = _of_numbers(model, metrics, label_variance)
        return report
    report["metrics"] = metrics
    return report


def _n_of_classes(
    model: Model,
    sums: EvaluatedSums,
    metrics: dict[str, Any],
) -> list[int]:
    """How many rows each class has; none known of numbers and of very many classes."""
    if sums.pairs is not None:
        n_rows, n_events = sums.held_out.tolist()
        return [n_rows - n_events, n_events]
    if model.is_binary:
        return [
            metrics["tn"] + metrics["fp"],
            metrics["fn"] + metrics["tp"],
        ]
    confusion = metrics.get("confusion", [])
    return [sum(row) for row in confusion]


def _of_scores(
    sums: EvaluatedSums,
    metrics: dict[str, Any],
    counts: Ints,
    threshold: float,
) -> dict[str, Any]:
    negatives, positives = np.split(counts, 2)
    auc = delong(counts)
    # Of a glm the loss is half the mean deviance, which of 0 and 1 is the log loss.
    return {
        "n_negative": int(negatives.sum()),
        "n_positive": int(positives.sum()),
        "log_loss": metrics["loss"],
        "brier": sums.brier,
        "auc": auc.value,
        "auc_se": auc.se,
        "auc_low": auc.low,
        "auc_high": auc.high,
        "ks": metrics["ks"],
        "threshold": threshold,
        **calls_at(counts, threshold).figures,
    }


def _of_numbers(
    model: Model,
    metrics: dict[str, Any],
    label_variance: float,
) -> dict[str, Any]:
    """Errors and, of a glm, the mean of `families.unit_deviances`."""
    figures = {name: metrics[name] for name in ("mse", "rmse", "mae")}
    has_spread = label_variance > 0
    figures["r2"] = 1 - figures["mse"] / label_variance if has_spread else None
    if model.kind == "glm":
        figures["mean_deviance"] = 2 * metrics["loss"]
    return figures
