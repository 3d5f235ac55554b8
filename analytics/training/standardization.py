"""Columns brought to mean 0 and deviation 1 over the rows of all hospitals, in two
joint rounds; and the label of a linear model with them.

First the joint mean (the row-weighted mean of the hospitals' means), then the joint
variance about it. Two rounds rather than sums of x and x^2 in one: mean(x^2) -
mean(x)^2 loses every digit once the mean is 1e8 deviations away (Chan, Golub and
LeVeque 1983), and the squares of unscaled columns need a far larger range in fixed
point. An error d in the joint mean changes the variance by d^2 only. The sums travel as
wide integers (decision 25). Decision 76 has the label.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from analytics.arrays import (
    Floats,
    Labels,
    check_finite,
    check_result,
    table_chunks,
)

# So far a power of two is a float64 whose square is one, too.
_LARGEST_EXPONENT = 500

# Float64 cannot tell a smaller deviation from the rounding of a constant column's mean.
_CONSTANT = 1e-14


def local_mean(
    X: Floats,
    beside: Floats | None = None,
) -> Floats:
    """The mean of each column of X (n, d), float64 (d,); a constant column's is exact.

    beside: (n, k), more columns of the same rows, behind those of X.

    Raises ValueError for no rows, another shape, or numbers that are not finite or too
    large.

    Disclosure: sums over the hospital's rows. They leave through the release door only,
    sealed into the joint sum.
    """
    _check_table(X)
    n_rows = len(X)
    # About the first row: exact for constants, and no digits are lost to an offset.
    first_row = slice(0, 1)
    first_rows = _beside(X[first_row], beside, first_row)
    first_values = first_rows[0]
    deviation_sum = np.zeros(len(first_values))
    with np.errstate(over="ignore", invalid="ignore"):
        for chunk, rows in table_chunks(X):
            combined_rows = _beside(rows, beside, chunk)
            deviation_sum += _sum_about(first_values, combined_rows)
        mean: Floats = first_values + deviation_sum / n_rows
    check_result("The mean", mean)
    return mean


def local_variance(
    X: Floats,
    mean: Floats,
    beside: Floats | None = None,
) -> Floats:
    """The mean of (x - mean)^2 of each column of X (n, d) about the joint mean (d,),
    float64 (d,). beside: as for `local_mean`.

    The row-weighted mean of these over the hospitals is the population variance of all
    rows. Raises ValueError as `local_mean` does, and if mean has another length.

    Disclosure: as `local_mean`.
    """
    _check_table(X)
    n_rows = len(X)
    first_row = slice(0, 1)
    first_rows = _beside(X[first_row], beside, first_row)
    _check_columns(first_rows, mean)
    square_sum = np.zeros(len(mean))
    with np.errstate(over="ignore"):
        for chunk, rows in table_chunks(X):
            combined_rows = _beside(rows, beside, chunk)
            square_sum += _squares_about(mean, combined_rows)
        variance: Floats = square_sum / n_rows
    check_result("The variance", variance)
    return variance


def _sum_about(center: Floats, rows: Floats) -> Floats:
    centred = rows - center
    total: Floats = np.sum(centred, axis=0)
    return total


def _squares_about(center: Floats, rows: Floats) -> Floats:
    squares = (rows - center) ** 2
    total: Floats = np.sum(squares, axis=0)
    return total


def deviation(
    variance: Floats,
    *,
    mean: Floats | None = None,
) -> Floats:
    """The square root of the joint variance (d,), float64 (d,); 1 where a column is
    constant.

    Constant means variance 0 or, given the mean, a root of at most 1e-14 |mean|, which
    is rounding. Elementwise sqrt and comparisons only: the same bits at every hospital.
    Raises ValueError for a negative variance.

    >>> deviation(np.array([4.0, 0.0]))
    array([2., 1.])
    """
    check_finite("variance", variance)
    if (variance < 0).any():
        raise ValueError("variance holds a negative value.")
    deviations: Floats = np.sqrt(variance)
    noise = np.zeros_like(deviations)
    if mean is not None:
        noise = _CONSTANT * np.abs(mean)
    is_constant = deviations <= noise
    return np.where(is_constant, 1.0, deviations)


def size(variance: Floats, *, mean: Floats) -> Floats:
    """The root mean square of each column, from its joint moments (d,), float64 (d,); 1
    where all its values are 0.

    By it columns are divided that must not be moved. Elementwise. Raises ValueError as
    `deviation`.

    >>> size(np.array([9.0, 0.0]), mean=np.array([4.0, 0.0]))
    array([5., 1.])
    """
    mean_square = variance + mean * mean
    return deviation(mean_square)


def standardize(
    X: Floats,
    mean: Floats,
    deviation: Floats,
) -> Floats:
    """(X - mean) / deviation, columnwise, float64 (n, d); X is left as it is.

    Raises ValueError for other shapes, a deviation that is not above 0, and numbers
    that are not finite.
    """
    _check_table(X)
    _check_columns(X, mean)
    _check_columns(X, deviation)
    if not (deviation > 0).all():
        raise ValueError("deviation holds a value that is not above 0.")
    with np.errstate(over="ignore"):
        scaled = (X - mean) / deviation
    check_result("The standardised columns", scaled)
    return scaled


@dataclass(frozen=True)
class LabelScale:
    """In what units a model is trained, and its sums are sealed.

    A label that is no class may be in any unit: a cost in yuan is 1e6. With y' = (y -
    center) / unit the model learns y', and answers unit * (what it learnt) + center.
    `sealed` is a power of two: a gradient leaves divided by it, a loss divided by its
    square, so that neither needs a bound that depends on the label. It alters no bit of
    what is added up but by the rounding of the fixed point. Models of classes have 0,
    1 and 1.

    A model with another link than identity has a center of 0: its linear predictor of y'
    is another one than of y, and by `power`, the k of V(mu) = mu^k, so is its deviance.

    >>> cost = LabelScale(center=1e6, unit=2e5)
    >>> float(cost.own_loss(0.5))
    20000000000.0
    """

    center: float = 0.0
    unit: float = 1.0
    sealed: float = 1.0
    link: str = "identity"
    power: int = 0

    def trained(self, y: Labels) -> Labels:
        """y (n,) in the units that it is trained in; the classes of other models as
        they are.
        """
        if self._is_as_it_is:
            return y
        centred = y - self.center
        values: Floats = centred / self.unit
        return values

    def own_weights(
        self,
        weights: Floats,
        *,
        has_intercept: bool,
    ) -> Floats:
        """The weights (n_weights,) of the same model for the label in its own units."""
        if self._is_as_it_is:
            return weights
        own = weights * self.factor
        if has_intercept:
            own[-1] = own[-1] + self.shift
        return own

    @property
    def factor(self) -> float:
        """By what weights are multiplied: g(unit * mu) = factor * g(mu) + shift."""
        match self.link:
            case "log":
                return 1.0
            case "inverse":
                return 1 / self.unit
            case "inverse_squared":
                return 1 / self.unit**2
        return self.unit

    @property
    def shift(self) -> float:
        """What is added to the intercept."""
        if self.link == "log":
            return math.log(self.unit)
        return self.center

    @property
    def dispersion(self) -> float:
        """By what a dispersion, and so a deviance, is multiplied: unit^(2 - power)."""
        match self.power:
            case 3:
                return 1 / self.unit
            case 2:
                return 1.0
        return self.unit * self.unit

    def own_loss(self, loss: float) -> float:
        """A loss, penalty included, in the label's units: of linear its squares."""
        return loss * self.dispersion

    def own_gradient(self, gradient: Floats) -> Floats:
        """The derivative (n_weights,) of `own_loss` by `own_weights`."""
        return gradient * self.unit

    def trained_gradient(self, gradient: Floats) -> Floats:
        """The inverse of `own_gradient`."""
        return gradient / self.unit

    @property
    def _is_as_it_is(self) -> bool:
        return self.center == 0 and self.unit == 1


def standard_label(
    mean: float,
    variance: float,
    *,
    has_intercept: bool,
) -> LabelScale:
    """The label brought to mean 0 and deviation 1 by its joint moments.

    Without an intercept nothing could give the mean back: the label is divided by its
    root mean square then, and not moved.
    """
    if has_intercept:
        units = deviation(np.array([variance]), mean=np.array([mean]))
        (unit,) = units.tolist()
        return LabelScale(center=mean, unit=unit)
    root = _root_mean_square(mean, variance)
    # Labels that are all 0 have no size to be divided by.
    return LabelScale(unit=root or 1.0)


def mean_label(
    mean: float,
    *,
    link: str,
    power: int,
) -> LabelScale:
    """The label divided by its joint mean, for a model whose means are above 0.

    Raises ValueError where that mean is not.
    """
    if not mean > 0:
        raise ValueError("The label's mean over all hospitals is not above 0.")
    return LabelScale(unit=mean, link=link, power=power)


def sealed_label(mean: float, variance: float) -> LabelScale:
    """The label as it is, and its sums in a power of two near its root mean square.

    A first gradient, at weights of 0, is at most the root mean square of the label
    times that of the column (Cauchy and Schwarz), and the first loss half its square.
    """
    root = _root_mean_square(mean, variance)
    if root == 0:
        return LabelScale()
    _, exponent = math.frexp(root)
    at_most = min(_LARGEST_EXPONENT, exponent)
    within = max(-_LARGEST_EXPONENT, at_most)
    power = math.ldexp(1.0, within)
    return LabelScale(sealed=power)


def _root_mean_square(mean: float, variance: float) -> float:
    mean_square = variance + mean * mean
    return math.sqrt(mean_square)


def _beside(
    rows: Floats,
    more: Floats | None,
    chunk: slice,
) -> Floats:
    """Rows of a table with those of another behind them."""
    if more is None:
        return rows
    combined_rows = np.hstack([rows, more[chunk]])
    check_finite("X", combined_rows)
    return combined_rows


def _check_table(X: Floats) -> None:
    if X.ndim != 2 or len(X) < 1:
        raise ValueError(
            f"X has the shape {X.shape}; one or more rows of (n_rows, n_features) are expected."
        )
    check_finite("X", X)


def _check_columns(X: Floats, values: Floats) -> None:
    n_columns = X.shape[1]
    if values.shape != (n_columns,):
        raise ValueError(
            f"mean and deviation need one value for each of {n_columns} columns."
        )
    check_finite("mean or deviation", values)
