"""The matrix that a model sees of an order's rows: numbers as they are, categories as
columns of 0 and 1, natural splines.

A design is what all hospitals of an order hold alike; `design_matrix` turns the columns
of one hospital's rows into its rows of the joint matrix, as scikit-learn's
ColumnTransformer would those of the pooled table: passthrough for numbers,
OneHotEncoder(drop=[reference]) for categories, SimpleImputer(mean) for numbers without a
value. Splines are R's splines::ns without intercept. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from analytics.arrays import Floats, Ints

OTHER = "other"
"""The level of rows whose own level is rare."""
UNKNOWN = -1
"""In place of a level that the design does not have."""
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_DEGREE = 3


@dataclass(frozen=True)
class Number:
    """A column of numbers, which is one feature."""

    name: str

    @property
    def features(self) -> tuple[str, ...]:
        return (self.name,)


@dataclass(frozen=True)
class Levels:
    """A column of categories: a feature of 0 and 1 for each level but the reference."""

    name: str
    levels: tuple[str, ...]  # in order of `sorted_levels`
    reference: str
    # Whether OTHER is of all levels that are not named.
    has_other: bool = False

    @property
    def shown(self) -> tuple[str, ...]:
        """The levels that are features."""
        shown_levels = []
        for level in self.levels:
            if level != self.reference:
                shown_levels.append(level)
        return tuple(shown_levels)

    @property
    def features(self) -> tuple[str, ...]:
        feature_names = []
        for level in self.shown:
            feature = feature_name(self.name, level)
            feature_names.append(feature)
        return tuple(feature_names)

    def places(self, texts: Iterable[str]) -> list[int]:
        """Where in `levels` each text stands; of an unknown one OTHER, or UNKNOWN."""
        place_of = {}
        for place, level in enumerate(self.levels):
            place_of[level] = place
        unknown = UNKNOWN
        if self.has_other:
            unknown = place_of[OTHER]
        return [place_of.get(text, unknown) for text in texts]


@dataclass(frozen=True)
class Spline:
    """A natural cubic spline of a column of numbers: len(knots) - 1 features."""

    name: str
    knots: tuple[float, ...]  # boundary, inner ones, boundary

    @property
    def features(self) -> tuple[str, ...]:
        feature_names = []
        for number in range(1, len(self.knots)):
            feature = feature_name(self.name, str(number))
            feature_names.append(feature)
        return tuple(feature_names)


Term = Number | Levels | Spline


@dataclass(frozen=True)
class Design:
    """What of a row a model sees, in the order of the features."""

    terms: tuple[Term, ...]
    # By feature, in place of a value that is missing; empty where none may be.
    means: Mapping[str, float]

    @cached_property
    def features(self) -> tuple[str, ...]:
        feature_names: list[str] = []
        for term in self.terms:
            feature_names.extend(term.features)
        return tuple(feature_names)


def feature_name(column: str, part: str) -> str:
    """`cp[3]` is level 3 of cp, `age_ns[1]` the first column of a spline."""
    return f"{column}[{part}]"


def sorted_levels(levels: Iterable[str]) -> list[str]:
    """Canonical texts in their one order: numbers by size, then texts.

    >>> sorted_levels(["b", "10", "9.5", "a"])
    ['9.5', '10', 'a', 'b']
    """

    def key(level: str) -> tuple[bool, Fraction, str]:
        is_text = not is_number(level)
        # As doubles two long numbers could be one.
        size = Fraction(0) if is_text else Fraction(level)
        return is_text, size, level

    distinct = set(levels)
    return sorted(distinct, key=key)


def is_number(level: str) -> bool:
    """Whether a canonical text is that of a number."""
    return _NUMBER.fullmatch(level) is not None


def default_reference(
    levels: Sequence[str],
    counts: Sequence[int],
) -> str:
    """The most frequent level; of several the first in the order of `levels`."""
    most_frequent = int(np.argmax(counts))
    return levels[most_frequent]


def design_matrix(
    design: Design,
    columns: Mapping[str, Floats | Ints],
) -> Floats:
    """The rows of a design, float64 (n, n_features).

    columns: by term's name, (n,): numbers, NaN where there is no value; of categories
    the place of each row's level in `Levels.levels`. A missing number is the mean of
    its feature, where the design has one. ValueError for a row that is still without
    a value, or whose level the design does not have.

    Disclosure: patients' rows.
    """
    term_features: list[Floats] = []
    for term in design.terms:
        column = columns[term.name]
        features = _features(term, column, design.means)
        term_features.append(features)
    X = np.concatenate(term_features, axis=1)
    is_missing = np.isnan(X)
    if is_missing.any():
        raise ValueError("a row has no value in a column of the model")
    return X


def _features(
    term: Term,
    column: Any,
    means: Mapping[str, float],
) -> Floats:
    if isinstance(term, Levels):
        return indicators(term, column)
    features = own_features(term, column)
    for column_place, feature in enumerate(term.features):
        if feature in means:
            is_missing = np.isnan(features[:, column_place])
            features[is_missing, column_place] = means[feature]
    return features


def own_features(term: Number | Spline, column: Floats) -> Floats:
    """The features of a column of numbers, (n, n_features); NaN where there is none."""
    if isinstance(term, Spline):
        return natural_spline(column, term.knots)
    # A copy: means are written into it where values are missing.
    numbers = np.array(column, dtype=np.float64)
    return numbers.reshape(-1, 1)


def indicators(term: Levels, places: Ints) -> Floats:
    """1 where a row has the level, else 0; (n, levels without the reference)."""
    n_rows = len(places)
    if n_rows and int(places.min()) < 0:
        raise ValueError(f"a row has a level of {term.name} that the model lacks")
    shown_levels = term.shown
    shape = (n_rows, len(shown_levels))
    matrix = np.zeros(shape)
    for feature, level in enumerate(shown_levels):
        level_place = term.levels.index(level)
        matrix[:, feature] = places == level_place
    return matrix


def natural_spline(x: Floats, knots: Sequence[float]) -> Floats:
    """The basis of natural cubic splines as R's splines::ns(x, knots = inner,
    Boundary.knots = boundary) gives it, float64 (n, len(knots) - 1).

    Cubic between the knots, linear beyond the boundary, without intercept. B-splines
    whose second derivatives at the boundary vanish: those derivatives are constraints
    C (2, m), C' = QR, and the basis is B Q without its first two columns (Hastie 1992,
    Statistical Models in S, chapter 7). NaN where x is.

    >>> natural_spline(np.array([30.0, 50.0]), (30, 50, 70)).round(3).tolist()
    [[0.0, 0.0], [0.566, -0.211]]
    """
    lower = float(knots[0])
    upper = float(knots[-1])
    boundary = np.array([lower, upper])
    repeated = np.repeat([lower, upper], _DEGREE)
    own_knots = np.asarray(knots, dtype=np.float64)
    all_knots = np.concatenate([own_knots, repeated])
    all_knots = np.sort(all_knots)

    # Without the first B-spline, whose part the intercept has.
    curvatures = _b_splines(boundary, all_knots, derivative=2)
    constraints = curvatures[:, 1:]
    decomposed = np.linalg.qr(constraints.T, mode="complete")
    q = decomposed.Q

    x = np.asarray(x, dtype=np.float64)
    within = np.clip(x, lower, upper)
    spline_values = _b_splines(within, all_knots)
    slopes = _b_splines(boundary, all_knots, derivative=1)
    beyond = x - within
    is_below = beyond < 0
    is_above = beyond > 0
    below = beyond[is_below]
    above = beyond[is_above]
    lower_slopes, upper_slopes = slopes
    spline_values[is_below] += np.outer(below, lower_slopes)
    spline_values[is_above] += np.outer(above, upper_slopes)
    rotated = spline_values[:, 1:] @ q
    basis: Floats = rotated[:, 2:]
    return basis


def _b_splines(
    x: Floats,
    knots: Floats,
    *,
    derivative: int = 0,
) -> Floats:
    """Cubic B-splines, or a derivative of them, at x within the knots; (n, m).

    The recursion of Cox and de Boor. At the last knot they are those of its left.
    """
    n_rows = len(x)
    n_intervals = len(knots) - 1
    is_before_last = knots[:-1] < knots[-1]
    last_interval = int(np.flatnonzero(is_before_last)[-1])
    left_knots = np.searchsorted(knots, x, side="right") - 1
    interval = np.minimum(left_knots, last_interval)

    spline_values = np.zeros((n_rows, n_intervals))
    spline_values[np.arange(n_rows), interval] = 1.0
    # NaN is sorted behind all knots, where a row must not seem to be.
    spline_values[np.isnan(x)] = np.nan
    for degree in range(1, _DEGREE + 1):
        is_derived = degree > _DEGREE - derivative
        spline_values = _raised(
            spline_values,
            x,
            knots,
            degree,
            is_derived=is_derived,
        )
    return spline_values


def _raised(
    values: Floats,
    x: Floats,
    knots: Floats,
    degree: int,
    *,
    is_derived: bool,
) -> Floats:
    """B-splines of a degree, or their derivatives, from those of one degree less."""
    n_splines = values.shape[1] - 1
    shape = (len(x), n_splines)
    raised = np.zeros(shape)
    for spline_place in range(n_splines):
        start = knots[spline_place]
        next_start = knots[spline_place + 1]
        end = knots[spline_place + degree]
        next_end = knots[spline_place + degree + 1]
        span = end - start
        next_span = next_end - next_start
        # Between two knots in one place there is no spline: 0 / 0 counts as 0.
        if span > 0:
            rise = degree if is_derived else x - start
            own = values[:, spline_place]
            raised[:, spline_place] += own * rise / span
        if next_span > 0:
            fall = -degree if is_derived else next_end - x
            following = values[:, spline_place + 1]
            raised[:, spline_place] += following * fall / next_span
    return raised
