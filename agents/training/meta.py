"""A meta-analysis at one hospital: the model is fitted to this hospital's rows alone, and
what is added up are the estimates, in two rounds.

The mathematics is `analytics.training.meta_analysis`; the rounds and messages are those
of every Newton order (`agents.training.fold`). How few hospitals there may be, and how
many such orders, is `agents.gate.meta_orders`. Decision 106.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from agents.training import newton as newton_orders
from agents.training.checkpoint import Checkpoint
from agents.training.moments import Scales
from agents.training.newton import Rows, offset_place, pair_of
from agents.training.trainer import Trainer, sum_info
from analytics.arrays import Floats, Ints
from analytics.training import meta_analysis, newton, normal_equations
from analytics.training.meta_analysis import N_FIRST, NoEstimates
from analytics.training.newton import NewtonState, NoMean
from analytics.training.newton_report import INTERCEPT, Units, own_units, ratio_name
from analytics.training.normal_equations import Collinear, Opened
from analytics.training.optimizers import initial_state
from protocol.errors import BadRequest, Refused
from protocol.sums import limbs, secure_sum

ROUNDS = 2
SMALLEST_ERROR = 1e-7
"""Of an estimate in joint deviations: a smaller one is rounding's, and its weight no sum's."""
NOTE = (
    "Meta-analysis: the estimates of each hospital's own rows, combined. They are not those of all rows together, which"
    " pooling pooled gives."
)


class OwnFit(NamedTuple):
    """A hospital's estimates, the intercept last, (p,) each, times `_units`."""

    estimates: Floats
    errors: Floats


class _Split(NamedTuple):
    """Rows as they are fitted here: without the offset, whose coefficient is 1 in its own
    unit.
    """

    X: Floats  # (n, d) less the offset
    offset: Floats | float
    place: int | None  # of the offset among the columns
    offset_weight: float

    @property
    def n_weights(self) -> int:
        n_columns: int = self.X.shape[1]
        return n_columns + 1

    def with_offset(self, coef: Floats) -> Floats:
        """What is estimated, as weights of all columns."""
        if self.place is None:
            return coef
        return np.insert(coef, self.place, self.offset_weight)


# A round


def check_probe(
    trainer: Trainer,
    point: Checkpoint,
    rows: Rows,
) -> None:
    """The weights that all hospitals' estimates make are judged as every model's; the
    rounds of the own fit are where it is made.
    """
    if point.stopped:
        newton_orders.check_probe(trainer, point, rows)


def sealed_part(
    trainer: Trainer,
    point: Checkpoint,
    rows: Rows,
) -> bytes:
    """This hospital's part of a round, for the coordinator to add.

    Raises Refused (code own_fit; those of a Newton order's rounds). Disclosure: as
    `analytics.training.meta_analysis`.
    """
    fit = own_fit(trainer, rows)
    if point.round == 0:
        sums = meta_analysis.first_sums(fit.estimates, fit.errors)
    else:
        fixed, _ = _opened(trainer, point)
        sums = meta_analysis.second_sums(fit.estimates, fit.errors, fixed.tau2)
    info = sum_info("gradient", point.fold, point.round)
    sum_words = limbs.to_limbs(sums, 1)
    return secure_sum.seal_counts(
        trainer.keys(point.fold),
        sum_words,
        info=info,
    )


def own_fit(trainer: Trainer, rows: Rows) -> OwnFit:
    """The model of these rows alone, by the rounds of a Newton order without messages.

    Each round is judged as one that is sent. Raises Refused (code own_fit) where these
    rows do not determine every coefficient.
    """
    split = _split_offset(trainer, rows)
    try:
        newton_state = _last_state(trainer, rows, split)
        numbers, opened = _sums_at(trainer, rows, split, newton_state)
        covariance = normal_equations.inverse(opened)
    except (Collinear, NoMean, ValueError):
        raise _no_own_fit() from None
    dispersion = _dispersion(trainer, rows, numbers, split.n_weights)
    covariance = covariance * dispersion
    coef, covariance = _in_own_units(newton_state.coef, covariance, rows.scales, split)
    units = _units(trainer, rows.scales)
    errors = np.sqrt(np.diag(covariance)) * units
    if newton_state.is_separating or not (errors > SMALLEST_ERROR).all():
        raise _no_own_fit()
    return OwnFit(coef * units, errors)


def _split_offset(trainer: Trainer, rows: Rows) -> _Split:
    """Without an offset all columns, and 0 in its place."""
    offset_column = offset_place(trainer)
    if offset_column is None:
        return _Split(rows.X, 0.0, None, 0.0)
    offset_weight = rows.scales.offset_weight(offset_column)
    offset = rows.X[:, offset_column] * offset_weight
    X = np.delete(rows.X, offset_column, axis=1)
    return _Split(X, offset, offset_column, offset_weight)


def _last_state(trainer: Trainer, rows: Rows, split: _Split) -> NewtonState:
    """Where the rounds end; each one is judged before its step is taken.

    Raises Refused (code own_fit) where max_iter is too few or attributes separate the
    outcomes, and what a round's rules and its step raise.
    """
    pair = pair_of(trainer)
    start_coef = np.zeros(split.n_weights)
    newton_state = NewtonState(coef=start_coef, base=start_coef)
    while not newton_state.is_done:
        if newton_state.round >= trainer.params.max_iter or newton_state.is_separating:
            raise _no_own_fit()
        _, opened = _sums_at(trainer, rows, split, newton_state)
        weights = split.with_offset(newton_state.coef)
        _check_rows(trainer, newton_state.round, weights, rows)
        newton_state = newton.stepped(
            newton_state,
            opened,
            pair=pair,
            eps=trainer.params.tolerance,
            diagonal=np.zeros(split.n_weights),
            n_rows=len(rows.y),
        )
    return newton_state


def _sums_at(
    trainer: Trainer, rows: Rows, split: _Split, state: NewtonState
) -> tuple[newton.RowNumbers, Opened]:
    """Each row's numbers at a round's weights, and what they add up to, as opened."""
    numbers = newton.row_numbers(
        pair_of(trainer),
        split.X,
        rows.y,
        state.coef,
        is_start=state.is_start,
        offset=split.offset,
        row_weights=1.0 if rows.weights is None else rows.weights,
    )
    sum_words = limbs.to_limbs(newton.local_sums(split.X, numbers), 1)
    totals = limbs.whole_sums(sum_words)
    opened = newton.read_sums(totals, split.n_weights, bits=limbs.FRACTION_BITS)
    return numbers, opened


def _check_rows(
    trainer: Trainer,
    round_: int,
    weights: Floats,
    rows: Rows,
) -> None:
    """The rules of a Newton order's round, for the fit that is under way here."""
    under_way = Checkpoint(
        0,
        round_,
        weights,
        initial_state(len(weights)),
    )
    newton_orders.check_probe(trainer, under_way, rows)


def _dispersion(
    trainer: Trainer,
    rows: Rows,
    numbers: newton.RowNumbers,
    n_weights: int,
) -> float:
    """Pearson's chi2 over n - p where it is estimated, in the units that are trained in."""
    request = trainer.order.request
    if not request.estimates_dispersion:
        return 1.0
    n = float(len(rows.y))
    if rows.weights is not None:
        counted = rows.weights if request.counts_weights else rows.weights > 0
        n = float(np.sum(counted))
    if n <= n_weights:
        raise _no_own_fit()
    has_weight = numbers.weights > 0
    scores = numbers.scores[has_weight]
    squares = np.square(scores) / numbers.weights[has_weight]
    return float(np.sum(squares)) / (n - n_weights)


def _no_own_fit() -> Refused:
    return Refused(
        "The rows of this hospital alone do not determine every coefficient: one of its columns is constant or a"
        " combination of others, attributes separate its outcomes or tell them without error, or max_iter was too few"
        " rounds.",
        remedy="Order fewer attributes or merge levels by derive, leave this hospital out, or order pooling pooled,"
        " which asks this of all rows together only.",
        code="own_fit",
    )


# Units


def _in_own_units(
    coef: Floats,
    covariance: Floats,
    scales: Scales,
    split: _Split,
) -> tuple[Floats, Floats]:
    """What is estimated, and its covariance, in the units of columns and label."""
    label, attributes = scales.label, scales.attributes
    assert attributes is not None, "newton scales them"
    units = Units(
        attributes.mean,
        attributes.deviation,
        label.shift,
        label.factor,
    )
    offset_column = split.place
    if offset_column is None:
        return own_units(coef, covariance, units)
    # Held at 1: it has no error, and its mean is in the intercept.
    coef = split.with_offset(coef)
    for axis in (0, 1):
        covariance = np.insert(
            covariance,
            offset_column,
            0.0,
            axis=axis,
        )
    coef, covariance = own_units(coef, covariance, units)
    every_place = np.arange(len(coef))
    kept_places = np.delete(every_place, offset_column)
    return coef[kept_places], covariance[np.ix_(kept_places, kept_places)]


def _units(trainer: Trainer, scales: Scales) -> Floats:
    """(p,), the same at all hospitals: times these, estimates are of columns in joint
    deviations, so that no sum is of tiny or huge numbers.
    """
    assert scales.attributes is not None, "newton scales them"
    deviations = scales.attributes.deviation
    offset_column = offset_place(trainer)
    if offset_column is not None:
        deviations = np.delete(deviations, offset_column)
    units: Floats = np.append(deviations, 1.0) / scales.label.factor
    return units


def _weights(
    trainer: Trainer,
    estimates: Floats,
    scales: Scales,
) -> Floats:
    """The model's weights as training has them, of estimates times `_units`."""
    attributes, label = scales.attributes, scales.label
    assert attributes is not None, "newton scales them"
    slopes = estimates[:-1]
    offset_column = offset_place(trainer)
    if offset_column is not None:
        offset_weight = scales.offset_weight(offset_column)
        slopes = np.insert(slopes, offset_column, offset_weight)
    # Back from `own_units`, elementwise, so that all hospitals have the same bits.
    intercept = float(estimates[-1]) - label.shift / label.factor
    for slope, mean, deviation in zip(
        slopes.tolist(),
        attributes.mean.tolist(),
        attributes.deviation.tolist(),
        strict=True,
    ):
        intercept += slope * mean / deviation
    return np.append(slopes, intercept)


# The step that all take


def _opened(
    trainer: Trainer, point: Checkpoint
) -> tuple[meta_analysis.Fixed, meta_analysis.Random | None]:
    """What the rounds so far have told. Raises BadRequest (code meta)."""
    assert point.opened is not None, "a round has been opened"
    sums = limbs.from_limbs(point.opened, 1)
    n_hospitals = len(trainer.keys(point.fold).members)
    n_first = N_FIRST * newton_orders.n_estimated(trainer)
    try:
        fixed = meta_analysis.fixed_effect(sums[:n_first], n_hospitals)
        if point.round < ROUNDS:
            return fixed, None
        return fixed, meta_analysis.random_effect(sums[n_first:], n_hospitals)
    except NoEstimates:
        raise BadRequest(
            "What the hospitals have added up are no estimates and weights.",
            remedy="All hospitals must run the same version; then send the order again.",
            code="meta",
        ) from None


def stepped_point(
    trainer: Trainer,
    point: Checkpoint,
    sums: Ints,
    scales: Scales,
) -> Checkpoint:
    """The fold's state one round later: the fixed effects, then the random effects."""
    opened = sums
    if point.opened is not None:
        opened = np.concatenate([point.opened, sums])
    next_point = Checkpoint(
        point.fold,
        point.round + 1,
        point.weights,
        point.state,
        opened=opened,
    )
    fixed, random = _opened(trainer, next_point)
    effects = fixed.effect if random is None else random.effect
    next_point.weights = _weights(trainer, effects, scales)
    is_done = random is not None
    next_point.newton = NewtonState(
        effects,
        effects,
        round=next_point.round,
        is_done=is_done,
    )
    return next_point


_OF_RATIO = {"": "estimate", "_low": "low", "_high": "high"}
"""By the ending of a ratio's name, the field of a term that it is the exp of."""


def report_of(
    trainer: Trainer,
    point: Checkpoint,
    scales: Scales,
) -> dict[str, Any]:
    """What is kept with the model, labelled so that nobody takes it for pooled.

    Disclosure: sums over all hospitals' estimates, to this hospital's people.
    """
    pair = pair_of(trainer)
    fixed, random = _opened(trainer, point)
    assert random is not None, "it has ended"
    feature_names = [name for name in trainer.features if name != trainer.params.offset]
    terms = meta_analysis.terms(
        [*feature_names, INTERCEPT],
        fixed,
        random,
        _units(trainer, scales),
        confidence=trainer.params.confidence,
    )
    ratio = ratio_name(pair)
    if ratio is not None:
        for term in terms[:-1]:
            for ending, field_name in _OF_RATIO.items():
                # From 710 on it would be infinite, for which JSON has no number.
                exponent = min(term[field_name], 700.0)
                term[ratio + ending] = float(np.exp(exponent))
    sum_keys = trainer.keys(point.fold)
    return {
        "pooling": "meta",
        # The intercept first, as in every report.
        "terms": [terms[-1], *terms[:-1]],
        "n": sum_keys.n_rows_total,
        "family": pair.family,
        "link": pair.link,
        "statistic": "t",
        "df_residual": fixed.n_hospitals - 1,
        "confidence": trainer.params.confidence,
        "hospitals": fixed.n_hospitals,
        "rounds": point.round,
        "converged": point.stopped_by == "converged",
        "stopped_by": point.stopped_by,
        "equations": (N_FIRST + meta_analysis.N_SECOND) * len(terms),
        "notes": [NOTE],
    }
