"""What the columns of a model say together of few rows.

A gradient has a number for each column, and so one for each combination of columns: that
of x less that of a column which differs from x in one row is that row's alone. No column
shows it, but the space that they span does.

Pure.
"""

from __future__ import annotations

import numpy as np

from analytics.arrays import Bools, Floats

MOST_STARTS = 200
_MOST_STEPS = 50
_RANK = 1e-10
"""Columns that differ by less, relative to their size, are one."""


def largest_share(
    X: Floats,
    n_few: int,
    *,
    beside: Bools | None = None,
) -> float:
    """The largest part of a combination of columns that `n_few` of its rows have.

        max over v = Xw and sets S of n_few rows of sum_S v_i^2 / sum v_i^2

    X: float64 (n_rows, n_columns); beside: (n_rows,), rows that are in every S beside
    the n_few. 1: some combination is of these rows alone. With Q
    an orthonormal basis of the columns this is the largest eigenvalue of a principal
    submatrix of QQ'; the truncated power method (Yuan and Zhang 2013, Journal of Machine
    Learning Research 14) climbs to it from the rows of most leverage, without which no
    submatrix has an eigenvalue as large as 1/2. A lower bound: what it finds is there.

    >>> X = np.column_stack([np.arange(9.0), np.arange(9.0)])
    >>> X[3, 1] += 1
    >>> round(largest_share(X, 1), 9), largest_share(X[:, :1], 1) < 0.4
    (1.0, True)
    """
    Q = _basis(X)
    n_rows, rank = Q.shape
    if n_few >= n_rows or not rank:
        return float(rank > 0)
    leverage = np.square(Q).sum(axis=1)
    if beside is None:
        beside = np.zeros(n_rows, dtype=bool)
    n_few += int(np.count_nonzero(beside))
    if n_few >= n_rows:
        return 1.0
    by_leverage = np.argsort(-leverage)
    starts = by_leverage[:MOST_STARTS]
    # The trace of a submatrix bounds its eigenvalues.
    bounds = leverage[starts] * n_few
    starts = starts[bounds >= 0.5]
    shares = []
    for start in starts.tolist():
        share = _climbed(
            Q,
            start,
            n_few,
            beside,
        )
        shares.append(share)
    return max(shares, default=0.0)


def _basis(X: Floats) -> Floats:
    """Orthonormal columns that span those of X, (n_rows, rank)."""
    squares = np.square(X).sum(axis=0)
    column_sizes = np.sqrt(squares)
    is_there = column_sizes > 0
    scaled: Floats = X[:, is_there] / column_sizes[is_there]
    if not scaled.shape[1]:
        return scaled
    left_vectors, singular, _ = np.linalg.svd(scaled, full_matrices=False)
    least_singular = _RANK * singular[0]
    basis: Floats = left_vectors[:, singular > least_singular]
    return basis


def _climbed(
    Q: Floats,
    start: int,
    n_few: int,
    beside: Bools,
) -> float:
    """The share that the power method reaches from one row."""
    n_rows = len(Q)
    v = np.zeros(n_rows)
    v[start] = 1.0
    share = 0.0
    for _ in range(_MOST_STEPS):
        coordinates = Q.T @ v
        in_span = Q @ coordinates
        # Infinite, so that these rows are among the few however small they are.
        row_sizes = np.where(beside, np.inf, np.abs(in_span))
        by_size = np.argpartition(-row_sizes, n_few - 1)
        few = by_size[:n_few]
        v = np.zeros(n_rows)
        v[few] = in_span[few]
        v /= np.linalg.norm(v)
        coordinates = Q.T @ v
        reached = float(np.square(coordinates).sum())
        if reached - share < 1e-9:
            return max(reached, share)
        share = reached
    return share
