"""Survival curves from counts between times, beside lifelines on single rows."""

from __future__ import annotations

import numpy as np
import pytest
from lifelines import KaplanMeierFitter
from lifelines.datasets import load_lung
from lifelines.utils import median_survival_times, restricted_mean_survival_time

from analytics.statistics.kaplan_meier import curve, median, restricted_mean


def counted(
    times: np.ndarray, events: np.ndarray, edges: list[float]
) -> tuple[list[int], list[int]]:
    """Events and censored people in (0, e1], (e1, e2], ..., (e_k, inf)."""
    places = np.searchsorted(edges, times, side="left")
    n_bins = len(edges) + 1
    of_events = np.bincount(places[events == 1], minlength=n_bins)
    of_others = np.bincount(places[events == 0], minlength=n_bins)
    return of_events.tolist(), of_others.tolist()


def made_rows(seed: int, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    times = np.ceil(rng.exponential(20, n))
    return times, (rng.random(n) < 0.7).astype(int)


def test_at_every_event_time_it_is_kaplan_and_meiers() -> None:
    """Each time an edge, and just before it another, so that nobody is censored within
    an interval that has an event.
    """
    times, events = made_rows(1)
    # Censored people are at risk at their time, so they leave after its events.
    times = times + 0.25 * (events == 0)
    edges = sorted({*times[events == 1].tolist(), *(times[events == 1] - 0.5).tolist()})
    points = curve(edges, *counted(times, events, edges))
    fitter = KaplanMeierFitter().fit(times, events)
    assert {point.kind for point in points} == {"exact"}
    expected = fitter.survival_function_at_times(edges).to_numpy()
    found = np.array([point.survival for point in points[1:]])
    assert found == pytest.approx(expected, abs=1e-12)
    bounds = fitter.confidence_interval_survival_function_
    for point in points[1:]:
        at = bounds[bounds.index <= point.time].iloc[-1]
        if 0 < point.survival < 1:
            assert point.low == pytest.approx(at.iloc[0], abs=1e-9)
            assert point.high == pytest.approx(at.iloc[1], abs=1e-9)
    between = median(points)
    of_all = median_survival_times(fitter.survival_function_)
    assert between.low is not None
    assert between.high is not None
    assert between.low < of_all <= between.high
    last = edges[-1]
    mean = restricted_mean(points)
    expected_mean = restricted_mean_survival_time(fitter, t=last)
    assert mean.low is not None
    assert mean.high is not None
    # The curve falls at the end of each interval that has an event.
    assert mean.low < expected_mean
    assert expected_mean == pytest.approx(mean.high, rel=1e-12)


@pytest.mark.parametrize(("sex", "expected"), [(1, 270.0), (2, 426.0)])
def test_what_r_prints_for_its_lung_data(sex: int, expected: float) -> None:
    """survfit(Surv(time, status) ~ sex, lung): the median of men and of women, at edges
    that are the days of the events, and those before.
    """
    rows = load_lung().query("sex == @sex")
    times, events = rows["time"].to_numpy(float), rows["status"].to_numpy(int)
    at = times[events == 1]
    edges = sorted({*at.tolist(), *(at - 0.5).tolist()})
    points = curve(edges, *counted(times + 0.25 * (events == 0), events, edges))
    assert median(points) == (expected - 0.5, expected)


@pytest.mark.parametrize("seed", range(5))
def test_coarse_times_bound_the_curve_of_single_rows(seed: int) -> None:
    times, events = made_rows(seed)
    edges = [5.0, 10.0, 20.0, 40.0]
    points = curve(edges, *counted(times, events, edges))
    fitter = KaplanMeierFitter().fit(times, events)
    exact = fitter.survival_function_at_times(edges).to_numpy()
    for point, of_rows in zip(points[1:], exact, strict=True):
        assert point.kind == "life_table"
        assert point.lower_bound <= of_rows <= point.upper_bound
        assert point.lower_bound < point.survival < point.upper_bound
        assert point.at_risk == np.sum(times > point.time)


def test_a_curve_that_ends_at_0_and_one_that_never_falls() -> None:
    points = curve([1.0, 2.0], [10, 10, 0], [0, 0, 0])
    assert points[-1].survival == 0
    assert (points[-1].low, points[-1].high) == (None, None)
    assert median(points) == (0.0, 1.0)
    points = curve([1.0, 2.0], [0, 0, 0], [10, 0, 12])
    assert [point.survival for point in points] == [1, 1, 1]
    assert [point.kind for point in points] == ["exact"] * 3
    assert median(points) == (2.0, None)
    assert restricted_mean(points) == (2.0, 2.0)
