"""What a fold's columns are standardized by, and its label: joint moments over the
training rows of all hospitals.

Decision 76.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from agents.rows.row_tables import empty_beside
from agents.training.trainer import Trainer, joint_mean
from analytics.arrays import Floats, Labels, let_go, table_chunks
from analytics.training import pairs, standardization
from analytics.training.standardization import LabelScale


class Moments(NamedTuple):
    """Of columns, over the training rows of all hospitals, (d,) each."""

    mean: Floats
    variance: Floats


class Scale(NamedTuple):
    """What a fold's attributes are standardized by."""

    mean: Floats  # (d,)
    deviation: Floats  # (d,)
    # Of the columns as they came; `mean` is 0 of columns that are not moved.
    joint_mean: Floats  # (d,)


class Scales(NamedTuple):
    """In which units a fold is trained."""

    attributes: Scale | None  # None where they are as they came
    label: LabelScale
    # Of a label that is a number; NaN of classes.
    label_mean: float
    label_variance: float

    def offset_weight(self, place: int) -> float:
        """What is 1 in the unit of the column at this place and the label's, in those
        that are trained in.
        """
        assert self.attributes is not None, "newton scales them"
        deviation = float(self.attributes.deviation[place])
        return deviation / self.label.factor


def joint_scales(
    trainer: Trainer,
    X: Floats,
    y: Labels,
    fold: int,
) -> Scales:
    """The same at every hospital, from the training rows X (n, d), y (n,) of each.

    Where the order needs no moments there is no message.
    """
    request = trainer.order.request
    if not request.takes_moments:
        return Scales(
            None,
            LabelScale(),
            math.nan,
            math.nan,
        )
    moments = _joint_moments(
        trainer,
        X,
        y,
        fold,
    )
    attributes = None
    if request.scales_attributes:
        attributes = _scale_of(
            trainer,
            moments,
            n_attributes=X.shape[1],
        )
    if not trainer.model.is_number:
        return Scales(
            attributes,
            LabelScale(),
            math.nan,
            math.nan,
        )
    label_mean = float(moments.mean[-1])
    label_variance = float(moments.variance[-1])
    label = _label_scale_of(trainer, moments)
    return Scales(
        attributes,
        label,
        label_mean,
        label_variance,
    )


def label_variance(
    trainer: Trainer,
    X: Floats,
    y: Labels,
) -> float:
    """The joint variance of a label that is a number, over the order's rows; NaN, and no
    message, where the order needs no moments.
    """
    if not trainer.order.request.takes_moments:
        return math.nan
    moments = _joint_moments(
        trainer,
        X,
        y,
        0,
    )
    return float(moments.variance[-1])


def scaled(table: Floats, scale: Scale | None) -> Floats:
    """A table (n, d) of attributes in the units that they are trained in."""
    # A fold without test rows has an empty table of them.
    if scale is None or not len(table):
        return table
    scaled_table = empty_beside(table)
    for chunk, rows in table_chunks(table):
        scaled_table[chunk] = standardization.standardize(
            rows,
            scale.mean,
            scale.deviation,
        )
        let_go(scaled_table)
    return scaled_table


def _columns(
    trainer: Trainer,
    X: Floats,
    y: Labels,
) -> tuple[Floats, Floats | None]:
    """Those that `_names` names, in its order: a table, and what stands behind it."""
    label = y[:, None] if trainer.model.is_number else None
    if trainer.order.request.scales_attributes:
        return X, label
    assert label is not None, "the order takes moments of something"
    return label, None


def _joint_moments(
    trainer: Trainer,
    X: Floats,
    y: Labels,
    fold: int,
) -> Moments:
    """Joint mean and variance in two sums, so that nothing cancels.

    They are sealed as the order's own sums are.

    Disclosure: both, to the order's hospitals. Of a label without standardization they
    tell what round 0 tells from weights of 0: the gradient of the intercept is the mean
    then, and the loss half the mean square.
    """

    columns, beside = _columns(trainer, X, y)

    def local_mean() -> Floats:
        return standardization.local_mean(columns, beside)

    def local_variance() -> Floats:
        return standardization.local_variance(columns, mean, beside)

    column_names = _names(trainer)
    mean = joint_mean(
        trainer,
        "mean",
        local_mean,
        fold=fold,
        names=column_names,
    )
    variance = joint_mean(
        trainer,
        "variance",
        local_variance,
        fold=fold,
        names=column_names,
    )
    return Moments(mean, variance)


def _names(trainer: Trainer) -> list[str]:
    column_names: list[str] = []
    if trainer.order.request.scales_attributes:
        column_names.extend(trainer.features)
    if trainer.model.is_number:
        column_names.append(trainer.order.request.label_name)
    return column_names


def _scale_of(
    trainer: Trainer,
    moments: Moments,
    *,
    n_attributes: int,
) -> Scale:
    mean = moments.mean[:n_attributes]
    variance = moments.variance[:n_attributes]
    is_cox = trainer.model.kind == "cox"
    lacks_intercept = not trainer.model.fit_intercept and not is_cox
    if trainer.order.request.is_newton and lacks_intercept:
        # No intercept could take up what moved columns add to the predictor.
        unmoved = np.zeros(n_attributes)
        size = standardization.size(variance, mean=mean)
        return Scale(unmoved, size, mean)
    deviation = standardization.deviation(variance, mean=mean)
    return Scale(mean, deviation, mean)


def _label_scale_of(trainer: Trainer, moments: Moments) -> LabelScale:
    """With standardize the label is standardized, too.

    Of a glm with another link than identity it is divided by its mean; counts stay.
    """
    mean = float(moments.mean[-1])
    variance = float(moments.variance[-1])
    pair = trainer.model.pair
    assert pair is not None, "its label is a number"
    if pair.family == "poisson" or pair.has_theta:
        return LabelScale()
    if not pair.is_least_squares:
        power = pairs.POWER_OF_VARIANCE[pair.family]
        return standardization.mean_label(
            mean,
            link=pair.link,
            power=power,
        )
    if trainer.order.request.scales_attributes:
        has_intercept = trainer.model.fit_intercept
        return standardization.standard_label(
            mean,
            variance,
            has_intercept=has_intercept,
        )
    return standardization.sealed_label(mean, variance)
