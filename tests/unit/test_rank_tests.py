"""Tests of ranks from tables of counts, as SciPy computes them from the single values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analytics.statistics.hypothesis_tests import kruskal, mann_whitney


def tabled(groups: list[np.ndarray]) -> np.ndarray:
    values = np.unique(np.concatenate(groups))
    columns = [(values[:, None] == group).sum(axis=1) for group in groups]
    return np.column_stack(columns).astype(float)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n_values", [2, 5, 1000])
def test_mann_whitney_is_scipys(seed: int, n_values: int) -> None:
    rng = np.random.default_rng(seed)
    first = rng.integers(0, n_values, 40)
    second = rng.integers(0, n_values, 55) + seed % 3
    found = dict(mann_whitney(tabled([first, second]), ("a", "b")))
    expected = stats.mannwhitneyu(first, second, method="asymptotic")
    assert found["U"] == expected.statistic
    assert found["p"] == pytest.approx(expected.pvalue, rel=1e-11)
    assert (found["z"] > 0) == (found["probability"] > 0.5)
    assert found["n[a]"] == 40
    mirrored = dict(mann_whitney(tabled([second, first]), ("b", "a")))
    assert mirrored["z"] == pytest.approx(-found["z"], rel=1e-12)
    assert mirrored["p"] == pytest.approx(found["p"], rel=1e-12)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n_groups", [2, 3, 5])
def test_kruskal_is_scipys(seed: int, n_groups: int) -> None:
    rng = np.random.default_rng(seed)
    groups = [
        rng.integers(0, 9, int(rng.integers(5, 50))) + place % 2
        for place in range(n_groups)
    ]
    found = dict(kruskal(tabled(groups), [str(place) for place in range(n_groups)]))
    expected = stats.kruskal(*groups)
    assert found["H"] == pytest.approx(expected.statistic, rel=1e-10)
    assert found["p"] == pytest.approx(expected.pvalue, rel=1e-9)
    assert found["df"] == n_groups - 1


def test_what_r_prints_for_its_sleep_data() -> None:
    """wilcox.test(extra ~ group, data = sleep): W = 25.5, p-value = 0.06933."""
    first = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
    second = np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])
    found = dict(mann_whitney(tabled([first, second]), ("1", "2")))
    assert found["U"] == 25.5
    assert round(found["p"], 5) == 0.06933


def test_equal_values_have_no_test() -> None:
    table = np.array([[20.0, 30.0]])
    with pytest.raises(ValueError, match="do not vary"):
        mann_whitney(table, ("a", "b"))
    with pytest.raises(ValueError, match="do not vary"):
        kruskal(table, ["a", "b"])
