"""Curves from a joint histogram of scores, beside scikit-learn and a direct DeLong."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, roc_auc_score

from analytics.arrays import Floats, Ints
from analytics.training.curves import (
    calibration_table,
    decision_curve,
    delong,
    merged_steps,
    roc_points,
)
from analytics.training.cutoffs import answered, calls_at
from analytics.training.metrics import score_histogram

N_BINS = 1000


def made_scores(n_rows: int = 900, seed: int = 3) -> tuple[Ints, Floats]:
    rng = np.random.default_rng(seed)
    score = rng.beta(2, 3, n_rows)
    y = (rng.uniform(size=n_rows) < score).astype(np.int64)
    return y, score


def direct_delong(y: Ints, score: Floats) -> tuple[float, float]:
    """AUC and its standard error from all pairs of rows."""
    above = score[y == 1][:, None] - score[y == 0][None, :]
    won = (above > 0) + (above == 0) / 2
    of_positives = won.mean(axis=1).var(ddof=1) / won.shape[0]
    of_negatives = won.mean(axis=0).var(ddof=1) / won.shape[1]
    return float(won.mean()), math.sqrt(of_positives + of_negatives)


@pytest.mark.parametrize("seed", range(5))
def test_delong_of_binned_scores_is_that_of_all_pairs(seed: int) -> None:
    y, score = made_scores(seed=seed)
    binned = np.minimum((score * N_BINS).astype(int), N_BINS - 1)
    found = delong(score_histogram(y, score, N_BINS))
    value, se = direct_delong(y, binned.astype(float))
    assert found.value == pytest.approx(roc_auc_score(y, binned), abs=1e-14)
    assert found.value == pytest.approx(value, abs=1e-14)
    assert found.se == pytest.approx(se, rel=1e-12)
    # What the bins cost beside the scores themselves.
    exact, exact_se = direct_delong(y, score)
    assert found.value == pytest.approx(exact, abs=2e-4)
    assert found.se == pytest.approx(exact_se, rel=2e-3)
    assert found.low == pytest.approx(value - 1.959963984540054 * se, abs=1e-12)
    assert found.high == pytest.approx(value + 1.959963984540054 * se, abs=1e-12)


def test_delong_of_few_rows_and_of_one_class() -> None:
    assert delong(np.array([5, 1, 0, 0])) == (None, None, None, None)
    assert delong(np.array([5, 1, 0, 1])) == (11 / 12, None, None, None)
    perfect = delong(np.array([5, 0, 0, 5]))
    assert perfect == (1.0, 0.0, 1.0, 1.0)
    # The interval ends at 1.
    assert delong(np.array([30, 1, 0, 4])).high == 1.0


def test_delong_takes_counts_beyond_64_bits() -> None:
    small = np.array([30, 10, 10, 20])
    large = small * 2**29
    assert delong(large).value == delong(small).value
    se = delong(large).se
    assert se is not None
    assert se > 0


@given(
    counts=st.lists(st.integers(0, 6), min_size=2, max_size=80),
    min_rows=st.integers(1, 12),
    least_rows=st.integers(1, 30),
)
def test_steps_hold_min_rows_of_each_class_and_all_rows(
    counts: list[int], min_rows: int, least_rows: int
) -> None:
    counts = counts[: len(counts) // 2 * 2]
    histogram = np.array(counts)
    steps = merged_steps(histogram, min_rows=min_rows, least_rows=least_rows)
    negatives, positives = np.split(histogram, 2)
    if not steps:
        short = min(negatives.sum(), positives.sum()) < min_rows
        assert short or histogram.sum() < least_rows
        return
    edges = [steps[0].first, *(step.last for step in steps)]
    assert edges[0] == 0
    assert edges[-1] == len(negatives)
    for step in steps:
        assert step.n_negative == negatives[step.first : step.last].sum() >= min_rows
        assert step.n_positive == positives[step.first : step.last].sum() >= min_rows
        assert step.n_rows >= least_rows


def test_points_of_the_curve_are_confusion_counts() -> None:
    y, score = made_scores()
    points = roc_points(score_histogram(y, score, N_BINS), min_rows=10)
    assert len(points) > 15
    for point in points:
        called = (np.floor(score * N_BINS) / N_BINS >= point["threshold"]).astype(int)
        tn, fp, fn, tp = confusion_matrix(y, called, labels=[0, 1]).ravel()
        assert point["sensitivity"] == pytest.approx(tp / (tp + fn), abs=1e-15)
        assert point["specificity"] == pytest.approx(tn / (tn + fp), abs=1e-15)
    assert points[-1] == {"threshold": 0.0, "sensitivity": 1.0, "specificity": 0.0}


@pytest.mark.parametrize(("n_events", "n_steps"), [(9, 0), (10, 1), (11, 1), (20, 2)])
def test_a_curve_has_steps_where_both_classes_have_enough(
    n_events: int, n_steps: int
) -> None:
    negatives = np.zeros(N_BINS, dtype=int)
    positives = np.zeros(N_BINS, dtype=int)
    negatives[: 2 * n_events] = 1
    positives[:n_events] = 1
    counts = np.concatenate([negatives, positives])
    assert len(roc_points(counts, min_rows=10)) == n_steps


def test_the_calibration_table_has_tenths() -> None:
    y, score = made_scores(20_000)
    table = calibration_table(score_histogram(y, score, N_BINS), min_rows=10)
    # Tenths end with a bin, so the last one may be short and is merged.
    assert len(table) in (9, 10)
    assert sum(group["n"] for group in table) == len(y)
    assert sum(group["events"] for group in table) == y.sum()
    for group in table:
        inside = (score >= group["low"]) & (score < group["high"])
        assert group["n"] == inside.sum()
        assert group["observed"] == pytest.approx(y[inside].mean(), abs=1e-14)
        assert group["predicted"] == pytest.approx(score[inside].mean(), abs=5e-4)
    assert calibration_table(np.zeros(8, dtype=int), min_rows=1) == []


def test_counts_are_paired_and_not_negative() -> None:
    for counts in (np.array([1, 2, 3]), np.array([1, -1])):
        with pytest.raises(ValueError, match="as many counts"):
            delong(counts)


def test_net_benefit_is_that_of_its_formula() -> None:
    y, score = made_scores()
    counts = score_histogram(y, score, N_BINS)
    curve = decision_curve(counts, min_rows=10)
    assert len(curve) == len(roc_points(counts, min_rows=10))
    for point in curve:
        t = point["threshold"]
        called = score >= t
        weight = t / (1 - t)
        net = ((called & (y == 1)).mean()) - (called & (y == 0)).mean() * weight
        assert point["net_benefit"] == pytest.approx(net, abs=1e-14)
        everybody = y.mean() - (1 - y.mean()) * weight
        assert point["treat_all"] == pytest.approx(everybody, abs=1e-12)
    assert decision_curve(counts, min_rows=10_000) == []


def test_cut_offs_are_answered_where_a_step_begins() -> None:
    y, score = made_scores()
    counts = score_histogram(y, score, N_BINS)
    starts = [point["threshold"] for point in roc_points(counts, min_rows=10)]
    asked = [0.2, 0.5, 0.999]
    for line in answered(counts, asked, min_rows=10):
        distances = [abs(start - line["asked"]) for start in starts]
        assert abs(line["threshold"] - line["asked"]) == min(distances)
        cells = confusion_matrix(y, score >= line["threshold"]).ravel().tolist()
        assert [line[name] for name in ("tn", "fp", "fn", "tp")] == cells
    # At the step itself it is exact.
    (line,) = answered(counts, [starts[2]], min_rows=10)
    assert line["threshold"] == starts[2]
    assert answered(counts, asked, min_rows=10_000) == []


def test_no_number_of_cut_offs_tells_fewer_than_the_steps() -> None:
    """Between any two that are answered are min_rows rows of each class, or nobody."""
    y, score = made_scores(200)
    counts = score_histogram(y, score, N_BINS)
    thousandths = [place / N_BINS for place in range(1, N_BINS)]
    lines = answered(counts, thousandths, min_rows=10)
    told = sorted({(line["tn"], line["fn"]) for line in lines})
    assert len(told) >= 3
    for one, other in itertools.pairwise(told):
        assert other[0] - one[0] >= 10
        assert other[1] - one[1] >= 10
    # As exact counts they would tell every score.
    assert len({calls_at(counts, cutoff) for cutoff in thousandths}) > 100
