"""Folds have scikit-learn's sizes, cover every row once and never change."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import KFold

from analytics.training.folds import fold_indices, validation_indices


@given(
    n_splits=st.integers(2, 9),
    extra=st.integers(0, 50),
    shuffle=st.booleans(),
    seed=st.integers(0, 99),
)
def test_folds_are_a_partition_with_the_sizes_of_scikit_learn(
    n_splits, extra, shuffle, seed
):
    n_rows = n_splits + extra
    folds = fold_indices(n_rows, n_splits=n_splits, shuffle=shuffle, seed=seed)
    expected = [test for _, test in KFold(n_splits).split(np.zeros(n_rows))]
    assert [len(f) for f in folds] == [len(f) for f in expected]
    assert sorted(np.concatenate(folds).tolist()) == list(range(n_rows))
    assert all((np.diff(f) > 0).all() for f in folds)
    if not shuffle:
        assert [f.tolist() for f in folds] == [f.tolist() for f in expected]


def test_shuffled_folds_are_pinned():
    folds = fold_indices(10, n_splits=3, shuffle=True, seed=1)
    assert [f.tolist() for f in folds] == [[2, 4, 7, 9], [0, 5, 8], [1, 3, 6]]
    assert validation_indices(10, fraction=0.3, seed=1).tolist() == [2, 4, 9]


def test_the_seed_decides():
    first, other = (
        fold_indices(100, n_splits=5, shuffle=True, seed=s)[0].tolist() for s in (1, 2)
    )
    assert first != other


@pytest.mark.parametrize(
    ("n_rows", "fraction", "expected"),
    [(30, 0.1, 3), (10, 0.25, 2), (2, 0.5, 1), (569, 0.2, 114)],
)
def test_validation_part_has_the_fraction(n_rows, fraction, expected):
    held_out = validation_indices(n_rows, fraction=fraction, seed=1)
    assert len(set(held_out.tolist())) == expected
    assert held_out.max() < n_rows


@pytest.mark.parametrize(
    ("n_rows", "n_splits", "allowed"), [(4, 5, False), (5, 5, True), (6, 5, True)]
)
def test_as_many_rows_as_splits_are_enough(n_rows, n_splits, allowed):
    if allowed:
        assert (
            len(fold_indices(n_rows, n_splits=n_splits, shuffle=True, seed=1))
            == n_splits
        )
    else:
        with pytest.raises(ValueError, match="n_splits"):
            fold_indices(n_rows, n_splits=n_splits, shuffle=True, seed=1)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 0.01, 0.99, float("nan")])
def test_a_side_without_rows_is_refused(fraction):
    with pytest.raises(ValueError, match="validation_fraction"):
        validation_indices(10, fraction=fraction, seed=1)


def test_folds_refuse():
    with pytest.raises(ValueError, match="n_splits"):
        fold_indices(10, n_splits=1, shuffle=False, seed=1)
    with pytest.raises(ValueError, match="random_seed"):
        fold_indices(10, n_splits=2, shuffle=True, seed=-1)
