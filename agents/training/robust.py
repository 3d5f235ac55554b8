"""Robust standard errors at one hospital: what a Newton order adds up for them at a fold's
end, and the rules on it.

The mathematics is `analytics.training.sandwich`. The sums are one more message's words
behind those of `agents.training.final_sums`, and two more rounds' worth of equations.

Decisions 94, 109, 120 and 130.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.gate import probes
from agents.gate.clusters import check_cell, check_number
from agents.rows.row_tables import made_of
from agents.training.row_gate import least_rows
from agents.training.trainer import Trainer
from analytics.arrays import Bools, Floats, Ints
from analytics.training import newton, normal_equations, sandwich
from analytics.training.newton import RowNumbers
from analytics.training.newton_report import RobustErrors
from analytics.training.normal_equations import Opened
from protocol.errors import Refused, bad_request
from protocol.regression_request import HOSPITAL
from protocol.sums import limbs

_TOLD_BY_POWERS = (2, 3)
"""Of a column of so many values M tells each one's sum of squares: it has them times the
column's powers 0, 1 and 2."""


def is_ordered(trainer: Trainer) -> bool:
    return trainer.order.request.robust is not None


def n_words(trainer: Trainer, n_weights: int) -> int:
    """Of a fold's last message, behind those that every order has."""
    if not is_ordered(trainer):
        return 0
    return sandwich.n_sums(n_weights) * limbs.N_LIMBS


def check_clusters(
    trainer: Trainer,
    own_clusters: NDArray[np.object_] | None,
    n_weights: int,
    *,
    is_alone: bool,
) -> None:
    """Refuses clusters where these are few: hospitals, or own_clusters (n,), of this
    hospital's rows by a column. Raises BadRequest (code cluster) and Refused (code
    clusters).
    """
    cluster_column = trainer.order.request.cluster_column
    if cluster_column is not None and own_clusters is not None and not is_alone:
        min_rows = least_rows(trainer.order, "train")
        check_number(
            cluster_column,
            own_clusters,
            n_weights=n_weights,
            min_rows=min_rows,
        )
    n_hospitals = len(trainer.order.request.hospitals)
    if trainer.order.request.cluster == HOSPITAL and n_hospitals <= n_weights:
        raise bad_request(
            "cluster",
            f"There are {n_hospitals} hospitals and {n_weights} coefficients{_of_intercept(trainer)}: with clusters by"
            " hospital the sums would tell the hospitals' own.",
            "Order fewer attributes, or standard_errors HC1 in the place of cluster.",
        )


def _of_intercept(trainer: Trainer) -> str:
    return ", the intercept among them" if trainer.model.fit_intercept else ""


def own_words(
    trainer: Trainer,
    X: Floats,
    rows: RowNumbers,
    *,
    names: list[str],
    row_weights: Floats | None,
    clusters: NDArray[np.object_] | None = None,
) -> Ints:
    """This hospital's part, in limbs. X (n, d) as trained, without the offset.

    Raises Refused (code max_share, dominance). Disclosure: as
    `analytics.training.sandwich.local_sums`; the rules are asked before it is sealed.
    """
    columns = X
    if trainer.model.fit_intercept:
        columns = made_of(X, partial(newton.columns_of, has_intercept=True))
    if trainer.order.request.cluster == HOSPITAL:
        # One sum of all of a hospital's rows: these the rounds' rules have judged.
        one_cluster = np.zeros(len(X), dtype=np.int64)
        sums = sandwich.cluster_scores(columns, rows.scores, one_cluster)
        return _sealable(columns, rows, sums.T @ sums, n_clusters=1)
    squares = _squares(trainer, rows, row_weights)
    _check_squares(trainer, X, squares, names)
    if clusters is None:
        meat = sandwich.weighted_products(columns, squares)
        return _sealable(columns, rows, meat, n_clusters=0)
    codes = _codes(clusters, row_weights)
    if least_rows(trainer.order, "train") > 1:
        _check_clusters_cells(trainer, X, rows, codes, names=names)
    sums = sandwich.cluster_scores(columns, rows.scores, codes)
    n_clusters = int(codes.max()) + 1
    return _sealable(columns, rows, sums.T @ sums, n_clusters=n_clusters)


def _squares(
    trainer: Trainer,
    rows: RowNumbers,
    row_weights: Floats | None,
) -> Floats:
    """Each row's squared score, (n,); of a row that counts as several, the sum of theirs."""
    squares = rows.scores * rows.scores
    if not trainer.order.request.counts_weights or row_weights is None:
        return squares
    # So many rows with one square each, not one row with all.
    return np.divide(
        squares,
        row_weights,
        out=np.zeros_like(squares),
        where=row_weights > 0,
    )


def _check_squares(
    trainer: Trainer,
    X: Floats,
    squares: Floats,
    names: list[str],
) -> None:
    """Refuses squares that are nearly all of few rows: of all rows, of those in a cell, or
    times a column's distances.

    Raises Refused (code max_share, dominance).
    """
    min_rows = least_rows(trainer.order, "train")
    max_share = trainer.order.policy.cohort.max_share
    probes.check_share(squares, max_share=max_share)
    probes.check_dominance(squares, min_rows=min_rows)
    if min_rows > 1:
        _check_cells(X, squares, names, max_share=float(max_share))
        _check_distances(X, squares, names, max_share=float(max_share))


def _codes(
    clusters: NDArray[np.object_],
    row_weights: Floats | None,
) -> Ints:
    """0 to G - 1 of G clusters that have a row with a weight, (n,)."""
    has_weight = np.ones(len(clusters), dtype=bool)
    if row_weights is not None:
        has_weight = row_weights > 0
    # A row without a weight adds nothing to whichever cluster it is counted to.
    codes = np.zeros(len(clusters), dtype=np.int64)
    cluster_texts = clusters[has_weight].astype(str)
    _, inverse = np.unique(cluster_texts, return_inverse=True)
    codes[has_weight] = inverse
    return codes


def _sealable(
    columns: Floats,
    rows: RowNumbers,
    meat: Floats,
    *,
    n_clusters: int,
) -> Ints:
    sums = sandwich.local_sums(
        columns,
        rows.weights,
        meat=meat,
        n_clusters=n_clusters,
    )
    return limbs.to_limbs(sums, 1)


def _check_clusters_cells(
    trainer: Trainer,
    X: Floats,
    rows: RowNumbers,
    codes: Ints,
    *,
    names: list[str],
) -> None:
    """As `_check_squares`, of clusters: in all rows, in each cell and times each column's
    distances.

    Raises Refused (code max_share).
    """
    check = partial(
        check_cell,
        codes=codes,
        max_share=trainer.order.policy.cohort.max_share,
        min_rows=least_rows(trainer.order, "train"),
    )
    everywhere = np.ones(len(X), dtype=bool)
    check(
        rows.scores,
        is_in=everywhere,
        named="",
    )
    for is_in, named in _cells(X, names):
        check(
            rows.scores,
            is_in=is_in,
            named=f" that are alike in {named}",
        )
    for distances, named in _distances(X, names):
        check(
            rows.scores * distances,
            is_in=everywhere,
            named=_by_distances(named),
        )


def _cells(
    X: Floats,
    names: list[str],
) -> Iterator[tuple[Bools, str]]:
    """Which rows are in each cell of two columns of two or three values, or of one."""
    coded: list[tuple[str, list[Bools]]] = []
    for name, column in zip(names, X.T, strict=True):
        values = np.unique(column)
        if len(values) in _TOLD_BY_POWERS:
            has_value = [column == value for value in values]
            coded.append((name, has_value))
    for place, (name, of_values) in enumerate(coded):
        for other_name, of_other_values in coded[place:]:
            cell_name = name if other_name == name else f"{name} and {other_name}"
            for is_one, is_other in product(of_values, of_other_values):
                yield is_one & is_other, cell_name


def _distances(
    X: Floats,
    names: list[str],
) -> Iterator[tuple[Floats, str]]:
    """Each row's distance from the median of a column that has no cells, (n,)."""
    for column_name, column in zip(names, X.T, strict=True):
        n_values = len(np.unique(column))
        if n_values > max(_TOLD_BY_POWERS):
            yield column - np.median(column), column_name


def _by_distances(name: str) -> str:
    return f", each times its distance from the median of {name},"


def _check_distances(
    X: Floats,
    squares: Floats,
    names: list[str],
    *,
    max_share: float,
) -> None:
    """Refuses squares of which two rows make up nearly all, times a column's squared
    distances: M has that sum, and of a value far out it would be that row's residual.

    Raises Refused (code max_share).
    """
    for distances, column_name in _distances(X, names):
        if _is_of_two(squares * distances**2, max_share=max_share):
            raise _of_two_rows(_by_distances(column_name), max_share)


def _check_cells(
    X: Floats,
    squares: Floats,
    names: list[str],
    *,
    max_share: float,
) -> None:
    """Refuses squares of which two rows make up nearly all in a cell of two columns of two
    or three values, or of one: M has each such cell's sum, or nearly, so it would tell
    their residuals.

    Raises Refused (code max_share).
    """
    for is_in, named in _cells(X, names):
        if _is_of_two(squares[is_in], max_share=max_share):
            raise _of_two_rows(f" that are alike in {named}", max_share)


def _is_of_two(squares: Floats, *, max_share: float) -> bool:
    square_sum = float(squares.sum())
    has_any = square_sum > 0
    if not has_any:
        return False
    two_largest = np.sort(squares)[-2:]
    return float(two_largest.sum()) > max_share * square_sum


def _of_two_rows(named: str, max_share: float) -> Refused:
    return Refused(
        f"Among this hospital's rows{named} two make up more than {max_share:g} of the squared"
        " residuals, which robust standard errors would tell.",
        remedy="Order standard_errors model, leave out the column or merge its levels, or leave out extreme rows in"
        " the SQL.",
        code="max_share",
        threshold=str(max_share),
    )


def errors_of(
    trainer: Trainer,
    words: Ints,
    n_weights: int,
    *,
    n: int,
) -> RobustErrors:
    """The covariance of what is estimated, in the units that are trained in.

    n: rows, or their frequencies. Disclosure: of all hospitals' rows together.
    """
    kind = trainer.order.request.robust
    assert kind is not None, "it was ordered"
    opened_totals = limbs.whole_sums(words)
    meat = sandwich.read_sums(
        opened_totals,
        n_weights,
        bits=limbs.FRACTION_BITS,
    )
    information = Opened(
        meat.A,
        [],
        0.0,
        limbs.FRACTION_BITS,
        True,
    )
    inverse = normal_equations.inverse(information)
    covariance = sandwich.covariance(
        inverse,
        meat,
        kind=kind,
        n=n,
    )
    n_clusters = meat.n_clusters if kind == "cluster" else None
    return RobustErrors(kind, covariance, n_clusters)


def about(trainer: Trainer) -> dict[str, Any]:
    """What the report says of the order's standard errors."""
    cluster = trainer.order.request.cluster
    return {} if cluster is None else {"cluster": cluster}
