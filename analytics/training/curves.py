"""What a joint histogram of scores tells of a model beyond AUC and KS: how sure the AUC
is, its ROC curve, and how well its scores are calibrated.

A histogram is that of `metrics.score_histogram`, int64 (2 * n_bins,): counts of class 0,
then of class 1, in equal bins of [0, 1]. Scores of one bin count as tied.

Curves are merged: each of their steps has min_rows rows of each class, so that none
tells which score a single row has.

Decision 87.
"""

from __future__ import annotations

import math
from fractions import Fraction
from statistics import NormalDist
from typing import Any, NamedTuple

from analytics.arrays import Ints

CONFIDENCE = 0.95
N_GROUPS = 10
"""Of a calibration table, at the most: tenths of the rows."""


class Auc(NamedTuple):
    """The area under an ROC curve, and what DeLong says of it; None where it is not
    defined.
    """

    value: float | None
    se: float | None
    low: float | None
    high: float | None


_NO_AUC = Auc(
    value=None,
    se=None,
    low=None,
    high=None,
)


class Step(NamedTuple):
    """Bins that are shown as one, [first, last)."""

    first: int
    last: int
    n_negative: int
    n_positive: int

    @property
    def n_rows(self) -> int:
        return self.n_negative + self.n_positive


def delong(
    counts: Ints,
    *,
    confidence: float = CONFIDENCE,
) -> Auc:
    """AUC with its standard error and Wald interval, from a joint histogram.

    A row of class 1 is placed at the share of rows of class 0 below it, ties half, and a
    row of class 0 at the share of those of class 1 above it. AUC is the mean of either;
    se^2 = S1 / n1 + S0 / n0, with S the sample variances of the placements (DeLong,
    DeLong and Clarke-Pearson 1988, Biometrics 44, 837). All of it is made in fractions
    and rounded once, so it is the same at every hospital. The interval is cut to [0, 1].

    auc is None with one class, the rest with fewer than two rows of either.

    >>> import numpy as np
    >>> delong(np.array([3, 1, 0, 4])).value
    0.875

    Disclosure: two numbers over all rows. With few of a class, the order of its scores.
    """
    negatives, positives = _halves(counts)
    n_negative = sum(negatives)
    n_positive = sum(positives)
    if not n_negative or not n_positive:
        return _NO_AUC
    # Twice the number of rows of the other class that are placed on the right side.
    twice_below = _twice_below(negatives)
    twice_above = _twice_below(positives[::-1])[::-1]
    n_pairs = n_negative * n_positive
    twice_won = sum(map(int.__mul__, positives, twice_below))
    auc = float(Fraction(twice_won, 2 * n_pairs))
    if n_negative < 2 or n_positive < 2:
        return _NO_AUC._replace(value=auc)
    of_positives = _variance(positives, twice_below) / (2 * n_negative) ** 2
    of_negatives = _variance(negatives, twice_above) / (2 * n_positive) ** 2
    se = math.sqrt(of_positives / n_positive + of_negatives / n_negative)
    share = (1 + confidence) / 2
    quantile = NormalDist().inv_cdf(share)
    reach = quantile * se
    return Auc(
        value=auc,
        se=se,
        low=max(0.0, auc - reach),
        high=min(1.0, auc + reach),
    )


def roc_points(
    counts: Ints,
    *,
    min_rows: int,
) -> list[dict[str, float]]:
    """The ROC curve from the highest threshold down: `threshold`, `sensitivity`,
    `specificity` of calling positive what scores at least the threshold.

    Between two points lie min_rows rows of each class or more; none where a class has
    fewer.

    Disclosure: counts of class 0 and class 1 between thresholds, each min_rows or more.
    """
    negatives, positives = _halves(counts)
    n_bins = len(negatives)
    n_negative = sum(negatives)
    n_positive = sum(positives)
    points: list[dict[str, float]] = []
    fp = 0
    tp = 0
    for step in reversed(merged_steps(counts, min_rows=min_rows)):
        fp += step.n_negative
        tp += step.n_positive
        point = {
            "threshold": step.first / n_bins,
            "sensitivity": tp / n_positive,
            "specificity": 1 - fp / n_negative,
        }
        points.append(point)
    return points


def decision_curve(
    counts: Ints,
    *,
    min_rows: int,
) -> list[dict[str, float]]:
    """The net benefit of treating who scores at least a threshold t, from the highest
    down: `threshold`, `net_benefit` and that of treating all, `treat_all`; treating
    nobody has 0.

        net benefit = tp / n - fp / n * t / (1 - t)

    (Vickers and Elkin 2006, Medical Decision Making 26, 565.) At the thresholds of
    `roc_points`, from whose counts it follows; none where a class has fewer than
    min_rows rows.

    Disclosure: as `roc_points`.
    """
    negatives, positives = _halves(counts)
    n_bins = len(negatives)
    n_negative = sum(negatives)
    n_positive = sum(positives)
    n_rows = n_negative + n_positive
    points: list[dict[str, float]] = []
    fp = 0
    tp = 0
    for step in reversed(merged_steps(counts, min_rows=min_rows)):
        fp += step.n_negative
        tp += step.n_positive
        # t / (1 - t) with t = first / n_bins; never by 0, as the last bin begins below
        # 1.
        odds = step.first / (n_bins - step.first)
        benefit = tp - fp * odds
        of_all = n_positive - n_negative * odds
        point = {
            "threshold": step.first / n_bins,
            "net_benefit": benefit / n_rows,
            "treat_all": of_all / n_rows,
        }
        points.append(point)
    return points


def calibration_table(
    counts: Ints,
    *,
    min_rows: int,
) -> list[dict[str, Any]]:
    """Rows by score: `low`, `high`, `n`, `events`, the mean score `predicted` and the
    share of events `observed`.

    Tenths of the rows by joint quantiles of the score, merged until each has min_rows
    rows of each class. predicted takes the middle of each bin, so it is off by half a
    bin at the most.

    Disclosure: as `roc_points`; further the mean score of each step's rows.
    """
    negatives, positives = _halves(counts)
    n_bins = len(negatives)
    n_all = sum(negatives) + sum(positives)
    least_in_group = -(-n_all // N_GROUPS)  # rounded up
    table: list[dict[str, Any]] = []
    for step in merged_steps(counts, min_rows=min_rows, least_rows=least_in_group):
        # Twice the middle of each bin, in bins.
        twice_middles = 0
        for bin_place in range(step.first, step.last):
            n_rows = negatives[bin_place] + positives[bin_place]
            twice_middle = 2 * bin_place + 1
            twice_middles += twice_middle * n_rows
        predicted = Fraction(twice_middles, 2 * n_bins * step.n_rows)
        row = {
            "low": step.first / n_bins,
            "high": step.last / n_bins,
            "n": step.n_rows,
            "events": step.n_positive,
            "predicted": float(predicted),
            "observed": step.n_positive / step.n_rows,
        }
        table.append(row)
    return table


def merged_steps(
    counts: Ints,
    *,
    min_rows: int,
    least_rows: int = 1,
) -> list[Step]:
    """Bins in ascending order, merged until each step has min_rows rows of each class
    and least_rows of both together.

    What is left at the upper end is merged with the last step; no steps where all bins
    together have too few.
    """
    least_of_class = max(1, min_rows)
    steps: list[Step] = []
    first_bin = 0
    n_negative = 0
    n_positive = 0
    negatives, positives = _halves(counts)
    n_bins = len(negatives)
    for bin_place in range(n_bins):
        n_negative += negatives[bin_place]
        n_positive += positives[bin_place]
        has_each = min(n_negative, n_positive) >= least_of_class
        has_both = n_negative + n_positive >= least_rows
        if has_each and has_both:
            last_bin = bin_place + 1
            step = Step(
                first=first_bin,
                last=last_bin,
                n_negative=n_negative,
                n_positive=n_positive,
            )
            steps.append(step)
            first_bin = last_bin
            n_negative = 0
            n_positive = 0
    if steps and first_bin < n_bins:
        before = steps.pop()
        step = Step(
            first=before.first,
            last=n_bins,
            n_negative=before.n_negative + n_negative,
            n_positive=before.n_positive + n_positive,
        )
        steps.append(step)
    return steps


def _halves(counts: Ints) -> tuple[list[int], list[int]]:
    """Counts of class 0 and of class 1, as integers of any size."""
    is_paired = counts.ndim == 1 and len(counts) % 2 == 0
    if not is_paired or (counts < 0).any():
        raise ValueError(
            "counts holds as many counts of class 0 as of class 1, none of them negative."
        )
    integers = counts.tolist()
    middle = len(integers) // 2
    return integers[:middle], integers[middle:]


def _twice_below(counts: list[int]) -> list[int]:
    """By bin, twice the rows below it and once those in it."""
    twice_below = []
    n_below = 0
    for count in counts:
        twice_below.append(2 * n_below + count)
        n_below += count
    return twice_below


def _variance(
    counts: list[int],
    values: list[int],
) -> Fraction:
    """The sample variance of values that stand counts times, two or more in all."""
    n_rows = sum(counts)
    value_sum = 0
    squares = 0
    for count, value in zip(counts, values, strict=True):
        value_sum += count * value
        squares += count * value * value
    numerator = n_rows * squares - value_sum * value_sum
    denominator = n_rows * (n_rows - 1)
    return Fraction(numerator, denominator)
