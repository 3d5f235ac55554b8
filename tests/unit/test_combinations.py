"""What the columns of a model say together of few rows: planted rows are found, and
ordinary tables pass.
"""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.gate.cohort_gate import check_combinations
from analytics.training.combinations import largest_share
from protocol.errors import Refused
from tests.examples import few


def by_trying_all(X: np.ndarray, n_few: int) -> float:
    """The largest eigenvalue of any principal submatrix of the projection."""
    left, singular, _ = np.linalg.svd(X, full_matrices=False)
    Q = left[:, singular > 1e-10 * singular[0]]
    projection = Q @ Q.T
    shares = []
    for rows in itertools.combinations(range(len(X)), n_few):
        part = projection[np.ix_(rows, rows)]
        shares.append(np.linalg.eigvalsh(part)[-1])
    return float(max(shares))


@few
@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_it_finds_what_trying_all_sets_finds(seed: int, n_few: int) -> None:
    rng = np.random.default_rng(seed)
    X = rng.standard_t(2, size=(14, 3))
    expected = by_trying_all(X, n_few)
    found = largest_share(X, n_few)
    assert found <= expected + 1e-9
    if expected > 0.9:
        assert found == pytest.approx(expected, abs=0.02)


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(2, 12))
def test_planted_rows_are_found(seed: int, n_rows: int, n_columns: int) -> None:
    """One column is a combination of the others and of a few rows."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(150, n_columns))
    planted = X @ rng.normal(size=n_columns)
    rows = rng.choice(150, n_rows, replace=False)
    planted[rows] += rng.normal(size=n_rows)
    wide = np.column_stack([X, planted])
    assert largest_share(wide, 9) > 0.999


@pytest.mark.parametrize("n_rows", [100, 1_000])
def test_ordinary_columns_pass(n_rows: int) -> None:
    rng = np.random.default_rng(5)
    age = rng.integers(20, 90, n_rows).astype(float)
    cost = rng.lognormal(0, 1, n_rows)
    X = np.column_stack(
        [np.ones(n_rows), age, age >= 65, cost, np.log(cost), age * cost, age**2]
    ).astype(float)
    check_combinations(X, names=["age"], min_varying=10, max_share=Fraction(9, 10))


@pytest.mark.parametrize(("min_varying", "passes"), [(1, True), (3, True), (4, False)])
def test_the_threshold_is_the_policys(min_varying: int, passes: bool) -> None:
    x = np.random.default_rng(3).normal(size=200)
    other = x.copy()
    other[:3] += 1
    X = np.column_stack([x, other, np.ones(200)])
    limits = {"min_varying": min_varying, "max_share": Fraction(1)}
    if passes:
        check_combinations(X, names=["other"], **limits)  # type: ignore[arg-type]
        return
    with pytest.raises(Refused) as caught:
        check_combinations(X, names=["other"], **limits)  # type: ignore[arg-type]
    assert caught.value.code == "min_varying"


def test_two_rows_that_make_up_nearly_all_of_a_combination_are_refused() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=200)
    other = x + 0.01 * rng.normal(size=200)
    other[:2] += 5
    X = np.column_stack([x, other, np.ones(200)])
    with pytest.raises(Refused) as caught:
        check_combinations(X, names=["o"], min_varying=3, max_share=Fraction(9, 10))
    assert caught.value.code in ("min_varying", "max_share")


def test_columns_of_zeros_and_more_rows_than_there_are() -> None:
    assert largest_share(np.zeros((5, 2)), 1) == 0.0
    assert largest_share(np.ones((5, 1)), 9) == 1.0
