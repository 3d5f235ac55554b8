"""What the columns of a model say together of few rows.

A gradient has a number for each column, and so one for each combination of columns: that
of x less that of a column which differs from x in one row is that row's alone. No column
shows it, but the space that they span does.

Pure.
"""

from __future__ import annotations

import numpy as np

from analytics.arrays import Floats

MOST_STARTS = 200
_MOST_STEPS = 50
_RANK = 1e-10
"""Columns that differ by less, relative to their size, are one."""


def largest_share(X: Floats, n_few: int) -> float:
    """The largest part of a combination of columns that `n_few` of its rows have.

        max over v = Xw and sets S of n_few rows of sum_S v_i^2 / sum v_i^2

    X: float64 (n_rows, n_columns). 1: some combination is of these rows alone. With Q
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
    if n_few >= len(Q) or not Q.shape[1]:
        return float(Q.shape[1] > 0)
    leverage = np.square(Q).sum(axis=1)
    starts = np.argsort(-leverage)[:MOST_STARTS]
    # The trace of a submatrix bounds its eigenvalues.
    starts = starts[leverage[starts] * n_few >= 0.5]
    shares = [_climbed(Q, int(start), n_few) for start in starts]
    return max(shares, default=0.0)


def _basis(X: Floats) -> Floats:
    """Orthonormal columns that span those of X, (n_rows, rank)."""
    sizes = np.sqrt(np.square(X).sum(axis=0))
    scaled: Floats = X[:, sizes > 0] / sizes[sizes > 0]
    if not scaled.shape[1]:
        return scaled
    left, singular, _ = np.linalg.svd(scaled, full_matrices=False)
    basis: Floats = left[:, singular > _RANK * singular[0]]
    return basis


def _climbed(Q: Floats, start: int, n_few: int) -> float:
    """The share that the power method reaches from one row."""
    v = np.zeros(len(Q))
    v[start] = 1.0
    share = 0.0
    for _ in range(_MOST_STEPS):
        in_span = Q @ (Q.T @ v)
        few = np.argpartition(-np.abs(in_span), n_few - 1)[:n_few]
        v = np.zeros(len(Q))
        v[few] = in_span[few]
        v /= np.linalg.norm(v)
        reached = float(np.square(Q.T @ v).sum())
        if reached - share < 1e-9:
            return max(reached, share)
        share = reached
    return share
