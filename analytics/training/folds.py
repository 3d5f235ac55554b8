"""Which of its own rows a hospital holds out: cross-validation folds and a validation
part.

Rows are numbered in order of unique_id, so the same table, arguments and seed give the
same rows after a restart and with any version of numpy (its bit generators are frozen,
its shuffles are not). Which rows they are stays at the hospital (decision 20).
"""

from __future__ import annotations

import numpy as np

from analytics.arrays import Ints, check_at_least


def fold_indices(n_rows: int, *, n_splits: int, shuffle: bool, seed: int) -> list[Ints]:
    """The test rows of each of n_splits folds, ascending int64 indices; every row is in
    exactly one.

    The first n_rows % n_splits folds have one row more, as in scikit-learn's KFold;
    consecutive rows without `shuffle`. Raises ValueError for fewer than 2 splits, fewer
    rows than splits or a negative seed.

    >>> [fold.tolist() for fold in fold_indices(5, n_splits=2, shuffle=False, seed=1)]
    [[0, 1, 2], [3, 4]]
    """
    if n_splits < 2:
        raise ValueError(f"n_splits is {n_splits}; 2 or more is allowed.")
    if n_rows < n_splits:
        raise ValueError(
            f"n_splits is {n_splits}, more than the {n_rows} rows of a hospital."
        )
    if shuffle:
        order = _permutation(n_rows, seed)
    else:
        order = np.arange(n_rows, dtype=np.int64)
    folds = np.array_split(order, n_splits)
    return [np.sort(fold) for fold in folds]


def validation_indices(n_rows: int, *, fraction: float, seed: int) -> Ints:
    """A random `fraction` of the rows, rounded to whole rows: ascending int64 indices.

    Raises ValueError unless 0 < fraction < 1 and at least one row is on either side,
    and for a negative seed.

    >>> len(validation_indices(30, fraction=0.1, seed=1))
    3
    """
    if not 0 < fraction < 1:
        raise ValueError(
            f"validation_fraction is {fraction}; a number between 0 and 1 is allowed."
        )
    n_held_out = round(fraction * n_rows)
    if not 0 < n_held_out < n_rows:
        raise ValueError(
            f"validation_fraction {fraction} of {n_rows} rows leaves no row on one side."
        )
    held_out = _permutation(n_rows, seed)[:n_held_out]
    return np.sort(held_out)


def _permutation(n_rows: int, seed: int) -> Ints:
    check_at_least("random_seed", seed, 0)
    # Raw bits and a stable sort: both stay the same in later versions of numpy.
    sort_keys = np.random.PCG64(seed).random_raw(n_rows)
    return np.argsort(sort_keys, kind="stable").astype(np.int64)
