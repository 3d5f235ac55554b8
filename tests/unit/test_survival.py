"""The log-rank test from sums: as lifelines and statsmodels compute it on the rows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifelines.statistics import multivariate_logrank_test

from analytics.statistics.survival import (
    EQUAL,
    UNIT,
    LogRankSums,
    Weighting,
    event_times,
    log_rank,
    log_rank_sums,
)

ROWS = st.lists(
    st.tuples(st.integers(1, 9), st.integers(0, 1), st.integers(0, 2)),
    min_size=1,
    max_size=40,
)


def sums_of(
    rows: Sequence[tuple[int, int, int]],
    n_groups: int = 3,
    *,
    weighting: Weighting = EQUAL,
    n_rows: int = 1,
) -> LogRankSums:
    times, events, groups = (np.array(column) for column in zip(*rows, strict=True))
    lines = np.full(len(rows), n_rows)
    found = event_times(times.astype(float), events, groups, lines, n_groups=n_groups)
    return log_rank_sums(found, weighting)


WEIGHTINGS = [
    EQUAL,
    Weighting("wilcoxon"),
    Weighting("fleming_harrington", p=1),
    Weighting("fleming_harrington", q=1),
    Weighting("fleming_harrington", p=1, q=1),
]


def weighted_by_hand(
    rows: Sequence[tuple[int, int, int]], weighting: Weighting
) -> tuple[float, float]:
    """U and V of group 0 in doubles, time by time."""
    score, variance, survival = 0.0, 0.0, 1.0
    for time in sorted({time for time, event, _ in rows if event}):
        at_risk = [row for row in rows if row[0] >= time]
        died = [row for row in rows if row[0] == time and row[1]]
        n, d = len(at_risk), len(died)
        share = sum(row[2] == 0 for row in at_risk) / n
        weight: float = survival**weighting.p * (1 - survival) ** weighting.q
        if weighting.name == "wilcoxon":
            weight = n
        score += weight * (sum(row[2] == 0 for row in died) - d * share)
        if n > 1:
            of_time = d * (n - d) / (n - 1) * share * (1 - share)
            variance += weight**2 * of_time
        survival *= 1 - d / n
    return score, variance


@given(ROWS)
def test_weighted_sums_are_those_of_the_definition(
    rows: list[tuple[int, int, int]],
) -> None:
    for weighting in WEIGHTINGS:
        found = sums_of(rows, weighting=weighting)
        score, variance = weighted_by_hand(rows, weighting)
        assert found.scores[0] / UNIT == pytest.approx(score, abs=1e-9)
        assert found.covariances[0][0] / UNIT == pytest.approx(variance, abs=1e-9)


def in_order(sums: LogRankSums) -> list[int]:
    """All without the last group."""
    size = len(sums.scores) - 1
    pairs = itertools.combinations_with_replacement(range(size), 2)
    return [*sums.scores[:size], *(sums.covariances[g][h] for g, h in pairs)]


@given(ROWS)
def test_the_sums_are_those_of_the_definition(
    rows: list[tuple[int, int, int]],
) -> None:
    """In fractions, time by time; and they add up to nothing over the groups."""
    found = sums_of(rows)
    scores = [Fraction(0)] * 3
    for time in {time for time, event, _ in rows if event}:
        at_risk = [row for row in rows if row[0] >= time]
        died = [row for row in rows if row[0] == time and row[1]]
        for g in range(3):
            share = Fraction(sum(row[2] == g for row in at_risk), len(at_risk))
            scores[g] += sum(row[2] == g for row in died) - len(died) * share
    for score, value in zip(scores, found.scores, strict=True):
        assert abs(score - Fraction(value, UNIT)) < Fraction(len(rows), UNIT)
    assert abs(sum(found.scores)) <= 3 * len(rows)
    for of_group in found.covariances:
        assert abs(sum(of_group)) <= 3 * len(rows)


@given(ROWS)
def test_a_line_of_two_rows_is_two_lines(rows: list[tuple[int, int, int]]) -> None:
    for weighting in WEIGHTINGS:
        doubled = sums_of(rows, weighting=weighting, n_rows=2)
        assert doubled == sums_of([*rows, *rows], weighting=weighting)


# The library's own use of pandas.
@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")
def test_the_test_of_three_groups_is_that_of_lifelines() -> None:
    rng = np.random.default_rng(5)
    group = rng.integers(0, 3, 300)
    # With ties, which both treat as hypergeometric.
    time = np.ceil(rng.exponential(20 + 8 * group)).astype(int)
    event = (rng.random(300) < 0.7).astype(int)
    sums = sums_of(
        list(zip(time.tolist(), event.tolist(), group.tolist(), strict=True))
    )
    n_rows = {str(g): int((group == g).sum()) for g in range(3)}
    n_events = {str(g): int(event[group == g].sum()) for g in range(3)}
    found = dict(log_rank(n_rows, n_events, in_order(sums)))
    expected = multivariate_logrank_test(time, group, event)
    assert found["chi2"] == pytest.approx(expected.test_statistic, rel=1e-10)
    assert found["p"] == pytest.approx(expected.p_value, rel=1e-9)
    assert found["df"] == 2
    all_expected = [found[f"expected[{g}]"] for g in range(3)]
    assert sum(all_expected) == pytest.approx(event.sum(), rel=1e-14)


def test_a_p_value_below_what_doubles_can_take_from_one() -> None:
    rows = [(time, 1, 0) for time in range(1, 90)]
    rows += [(time, 1, 1) for time in range(100, 190)]
    found = dict(
        log_rank({"0": 89, "1": 90}, {"0": 89, "1": 90}, in_order(sums_of(rows, 2)))
    )
    assert 0 < found["p"] < 1e-20


def test_groups_that_are_never_at_risk_together() -> None:
    """Group 1 has left before the first event."""
    rows = [(1, 0, 1), (2, 0, 1), (3, 1, 0), (4, 1, 0), (5, 0, 0)]
    with pytest.raises(ValueError, match="no comparison"):
        log_rank({"0": 3, "1": 2}, {"0": 2, "1": 0}, in_order(sums_of(rows, 2)))
