"""Standard errors that do not rest on the model's variance: the sandwich.

With A and the scores u_i = x_i (y_i - mu_i) h_i / V_i of `analytics.training.newton`, times
the row's prior weight,

    HC0       A^-1 M A^-1, M = sum_i u_i u_i'
    HC1       the same times n / (n - p)
    cluster   M = sum_c s_c s_c', s_c = sum of u_i over the rows of cluster c,
              times G / (G - 1) (n - 1) / (n - p) of G clusters

Huber 1967, White 1980, Liang and Zeger 1986; the factors are those of R's sandwich.

Decision 94.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from analytics.arrays import Floats, Ints, table_chunks

FEW_CLUSTERS = 30
"""Fewer make intervals too narrow."""


def n_sums(n_weights: int) -> int:
    """A's and M's upper triangles at the estimate, and how many clusters there are. The last
    round's A is that of the estimate but for its last step, which is too much for errors
    of 1e-9.
    """
    n_both = n_weights * (n_weights + 1)
    return n_both + 1


def cluster_scores(
    columns: Floats,
    scores: Floats,
    clusters: Ints,
) -> Floats:
    """s_c, float64 (G, p), of columns (n, p); clusters: 0 to G - 1 of each row (n,).

    Disclosure: one row per cluster; they stay in the hospital.
    """
    cluster_sums = np.zeros((int(clusters.max()) + 1, columns.shape[1]))
    for chunk, of_chunk in table_chunks(columns):
        rows = of_chunk * scores[chunk, None]
        # Not +=, which takes one row alone of a cluster that comes more than once.
        np.add.at(cluster_sums, clusters[chunk], rows)
    return cluster_sums


def local_sums(
    columns: Floats,
    weights: Floats,
    *,
    meat: Floats,
    n_clusters: int,
) -> Floats:
    """One hospital's part, float64 (n_sums(p),).

    columns (n, p): `newton.columns_of`; weights: W of each row, (n,).

    Disclosure: as `newton.local_sums`, and sums of squares and products of columns, weighted
    by squared residuals. They leave through the release door only, sealed so that nothing
    but the sum over hospitals can be read.
    """
    A = weighted_products(columns, weights)
    upper = np.triu_indices(len(A))
    return np.concatenate(
        [
            A[upper],
            meat[upper],
            [float(n_clusters)],
        ]
    )


def weighted_products(columns: Floats, weights: Floats) -> Floats:
    """X' diag(weights) X, (p, p), of columns X (n, p); with squared scores M without
    clusters.
    """
    n_columns = columns.shape[1]
    products = np.zeros((n_columns, n_columns))
    for chunk, of_chunk in table_chunks(columns):
        products += of_chunk.T @ (of_chunk * weights[chunk, None])
    return products


class Meat(NamedTuple):
    """What all hospitals' sums give."""

    A: list[list[int]]  # (p, p), over 2**bits
    M: Floats  # (p, p)
    n_clusters: int


def read_sums(
    totals: Sequence[int],
    n_weights: int,
    *,
    bits: int,
) -> Meat:
    """totals: n_sums(n_weights) integers over 2**bits, in the order of `local_sums`."""
    if len(totals) != n_sums(n_weights):
        raise ValueError("the sums are of another number of weights")
    scale = 2**bits
    remaining = iter(totals)
    A = _symmetric(remaining, n_weights)
    M = []
    for row in _symmetric(remaining, n_weights):
        quotients = [value / scale for value in row]
        M.append(quotients)
    n_clusters = next(remaining) >> bits
    return Meat(
        A=A,
        M=np.array(M),
        n_clusters=n_clusters,
    )


def _symmetric(
    remaining: Iterator[int],
    size: int,
) -> list[list[int]]:
    matrix = [[0] * size for _ in range(size)]
    for row in range(size):
        for column in range(row, size):
            value = next(remaining)
            matrix[row][column] = value
            matrix[column][row] = value
    return matrix


def covariance(
    inverse: Floats,
    meat: Meat,
    *,
    kind: str,
    n: int,
) -> Floats:
    """The sandwich (p, p) of A^-1 and M over n rows; kind: HC0, HC1 or cluster.

    NaN where the factor has nothing to divide by.
    """
    p = len(inverse)
    G = meat.n_clusters
    sandwich: Floats = inverse @ meat.M @ inverse
    if kind == "HC0":
        return sandwich
    factor = np.nan
    if kind == "cluster":
        if G > 1 and n > p:
            factor = G / (G - 1) * (n - 1) / (n - p)
    elif n > p:
        factor = n / (n - p)
    return factor * sandwich
