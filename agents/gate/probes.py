"""What a hospital's own numbers may say of a model that it is shown.

Who chooses weights, or folds, can aim a model at single rows: its metrics, and its
gradient, then say what these rows are. The rules here are limits, not walls; SECURITY.md
names what they leave.

Decisions 71, 84 and 130.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.rows.row_tables import columns
from analytics.arrays import Floats
from protocol.errors import Refused

_OF_ROWS = 0.9
"""The share of rows that the limit of predictors is for."""
_FAR_OUT = 10
"""So many times the limit is allowed of the other rows."""
_OF_CLASSES = ("logit", "probit", "cloglog")
_NARROWER = 6
"""30 of probabilities is 5 of exp and powers."""


_LARGEST_MEAN_WEIGHT = 4
_LARGEST_MEAN_OFFSET = 2
"""Of a hospital, from 1 and from that of all."""


def shows_metrics(labels: NDArray[Any], *, is_class: bool, min_rows: int) -> bool:
    """Whether metrics over rows with these labels (n,) may be shown as one hospital's.

    Of a classifier each class that occurs needs min_rows rows: its counts of calls are
    counts of that class, and with few rows they are labels. Of `linear` the rows do.
    Without rows there is nothing to show.
    """
    n_rows = len(labels)
    if not n_rows:
        return True
    if not is_class:
        return n_rows >= min_rows
    _, n_of_class = np.unique(labels, return_counts=True)
    return int(n_of_class.min()) >= min_rows


def check_predictors(predictors: Floats, *, limit: Fraction) -> None:
    """Refuse weights that are so steep that a gradient is a sum over one side of a plane.

    `predictors` are the sizes of the rows' linear predictors, (n,). Nine tenths of them
    must be `limit` at the most, and all ten times that: in ordinary training a few rows
    lie far out, but steep weights leave nearly all rows far from 0.

    Raises Refused (code linear_predictor). Disclosure: that the rule holds, and no number
    but the policy's.
    """
    most = float(limit)
    usual = np.quantile(predictors, _OF_ROWS)
    if usual > most or predictors.max() > _FAR_OUT * most:
        raise Refused(
            f"The model is so steep on this hospital's rows, with linear predictors above {most:g}, that its gradient"
            " could tell which side of a plane single rows are on.",
            remedy="The usual cause is attributes that separate the classes, so that coefficients grow without end:"
            " order penalty L2, or a larger alpha. Else a smaller learning_rate or standardize; or ask the hospital to"
            " raise max_linear_predictor under [cohort] in its policy.toml.",
            code="linear_predictor",
            threshold=str(limit),
        )


def check_steepness(predictors: Floats, *, link: str, limit: Fraction) -> None:
    """The same by a model's link: `predictors` (n,) with their signs.

    Where means are a power or exp of the predictor they grow by its distance from that
    of most rows, whatever the label's unit: a sixth of the limit is allowed. With
    identity no plane has another side.

    Raises Refused (code linear_predictor). Disclosure: as `check_predictors`.
    """
    if link == "identity":
        return
    if link in _OF_CLASSES:
        check_predictors(np.abs(predictors), limit=limit)
        return
    middle = float(np.median(predictors))
    distances = predictors - middle
    if link != "log" and middle:
        distances = distances / middle
    check_predictors(np.abs(distances), limit=limit / _NARROWER)


def check_hospital_weight(
    *, mean_weight: float | None = None, mean_offset: float | None = None, min_rows: int
) -> None:
    """Refuse a hospital whose rows weigh far more, or far less, than the others' do: the
    sum of all would be that of few hospitals.

    mean_weight: of its rows, which by themselves weigh 1. mean_offset: of its rows, less
    that of all hospitals, in units of the linear predictor. Where all hold to it, no two
    hospitals' rows differ by more than a factor of 16, or exp(4).

    Raises Refused (code dominance). Disclosure: as `check_dominance`.
    """
    if min_rows == 1:  # switched off
        return
    is_far = mean_weight is not None and not (
        1 / _LARGEST_MEAN_WEIGHT <= mean_weight <= _LARGEST_MEAN_WEIGHT
    )
    if is_far:
        raise Refused(
            f"The weights of this hospital's rows are on average above {_LARGEST_MEAN_WEIGHT} or below 1 /"
            f" {_LARGEST_MEAN_WEIGHT}, so that the sum of all hospitals could be that of few.",
            remedy="Divide the weights by their mean, or repeat rows less often.",
            code="dominance",
            threshold=_LARGEST_MEAN_WEIGHT,
        )
    if mean_offset is not None and abs(mean_offset) > _LARGEST_MEAN_OFFSET:
        raise Refused(
            f"The offset of this hospital's rows is on average more than {_LARGEST_MEAN_OFFSET} from that of all, so"
            " that the sum of all hospitals could be that of few.",
            remedy="Take an offset of one unit at all hospitals, as the logarithm of years, and none that tells"
            " hospitals apart.",
            code="dominance",
            threshold=_LARGEST_MEAN_OFFSET,
        )


def check_dominance(weights: Floats, *, min_rows: int) -> None:
    """Refuse weighted sums that are nearly those of few rows.

    (sum w)^2 / sum w^2 of weights w (n,) of 0 or more is how many equal ones weigh as
    much; they must be min_rows. All zero says nothing.

    Raises Refused (code dominance). Disclosure: that the rule holds, and no number but
    the policy's.
    """
    largest = float(weights.max(initial=0))
    if largest == 0:
        return
    # Divided first: squares of very large weights would be infinite, of very small ones
    # 0, and the comparison would say nothing.
    shares = weights / largest
    if float(shares.sum() ** 2) < min_rows * float((shares**2).sum()):
        raise Refused(
            f"The weights of this hospital's rows are as uneven as those of fewer than {min_rows} rows: what is added"
            " up would be theirs.",
            remedy="Use more rows, leave out extreme ones in the SQL, or order another link or family; or ask the"
            " hospital to lower min_rows in its policy.toml.",
            code="dominance",
            threshold=min_rows,
        )


def check_share(weights: Floats, *, max_share: Fraction) -> None:
    """Refuse a gradient that is nearly that of two rows.

    `weights` are what the gradient multiplies each row by, their sizes, (n,). There is
    no least sum below which the rule rests: who receives a gradient scales it, so a
    small one tells a row as well as a large one. Only a gradient of nothing says nothing.

    Raises Refused (code max_share). Disclosure: that the rule holds, and no number but
    the policy's.
    """
    sum_of_weights = float(weights.sum())
    if sum_of_weights == 0:
        return
    two_largest = np.sort(weights)[-2:].sum()
    if two_largest > float(max_share) * sum_of_weights:
        raise Refused(
            f"Two rows make up more than {max_share} of this hospital's part of the round, which would tell them.",
            remedy="Where attributes separate the classes nearly all rows are fitted, and few are left: order penalty"
            " L2, or more rows; or ask the hospital to raise max_share under [cohort] in its policy.toml.",
            code="max_share",
            threshold=str(max_share),
        )


def check_products(
    X: Floats, weights: Floats, *, max_share: Fraction, min_rows: int
) -> None:
    """Refuse products of columns that are nearly those of two rows.

    X (n, d); weights (n,), 0 or more. A column's sum of squares has each row's weight
    times its squared distance from the median; where two rows make it up, the column's
    products with the others are these rows' own values. A value of two that fewer than
    min_rows rows have is not judged: it passes only where others' rows hide it, by
    thresholds on the sum of all. Nor are fewer rows than twice min_rows, of which two are
    nearly all of the squares of ordinary skewed numbers now and then.

    Raises Refused and Disclosure: as `check_share`.
    """
    if len(weights) < 2 * min_rows:
        return
    for column in columns(X):
        if _has_rare_half(column, min_rows):
            continue
        distances = column - np.median(column)
        squares = weights * distances * distances
        # Two are no more than twice the largest: nothing to sort as a rule.
        if 2 * float(squares.max(initial=0)) > float(max_share) * float(squares.sum()):
            check_share(squares, max_share=max_share)


def _has_rare_half(column: Floats, min_rows: int) -> bool:
    """Whether it has two values, one of which stands in fewer than min_rows rows."""
    is_least = column == column.min()
    if not (is_least | (column == column.max())).all():
        return False
    n_least = int(np.count_nonzero(is_least))
    return min(n_least, column.size - n_least) < min_rows


def scored_groups(sizes: Mapping[str, int], *, least: int) -> list[tuple[str, ...]]:
    """Which layers of a sealed order are scored together, each group one vector.

    Lengths and angles of few coefficients give these away, after a few rounds, to whoever
    has one hospital's table. So a layer of fewer than `least` coefficients goes with the
    next one, the last ones with what is before them. None where all have fewer.

    >>> scored_groups({"conv1": 80, "conv2": 6, "dense": 12}, least=10)
    [('conv1',), ('conv2', 'dense')]
    >>> scored_groups({"dense1": 30, "dense": 6}, least=10)
    [('dense1', 'dense')]
    """
    groups: list[tuple[str, ...]] = []
    waiting: tuple[str, ...] = ()
    n_waiting = 0
    for layer, n_coefficients in sizes.items():
        waiting = (*waiting, layer)
        n_waiting += n_coefficients
        if n_waiting >= least:
            groups.append(waiting)
            waiting = ()
            n_waiting = 0
    if waiting and groups:
        groups[-1] = groups[-1] + waiting
    return groups
