"""A Newton order at one hospital: its part of a round, the step that all take, and the
report.

The mathematics is `analytics.training.newton`; the rounds are those of every training
order (`agents.training.fold`), with these sums in the place of a gradient. Every sum is
rounded once to 2^-100 and travels as limbs.

Decision 84.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from agents.gate import probes
from agents.training import cox, final_sums
from agents.training.checkpoint import Checkpoint, load_checkpoint
from agents.training.final_sums import TrainingTotals
from agents.training.moments import Scale, Scales
from agents.training.row_gate import least_rows
from agents.training.trainer import Trainer, sum_info
from analytics.arrays import Floats, Ints, Labels
from analytics.training import cox as cox_mathematics
from analytics.training import newton, newton_report
from analytics.training.families import Pair
from analytics.training.inflation import generalised_inflation
from analytics.training.newton import Collinear, NewtonState, NoMean, Opened, RowNumbers
from analytics.training.newton_report import Fit, Units
from protocol.errors import BadRequest, Refused
from protocol.sums import limbs, secure_sum
from protocol.training_request import folds

_WORDS_IN_PLAINTEXT = 29
"""Of a Paillier key of 2048 bits, about."""


def n_plaintexts(trainer: Trainer) -> int:
    """Of a round's sum, about: so many obfuscators are made ahead."""
    n_words = limbs.N_LIMBS * newton.n_sums(n_estimated(trainer))
    return n_words // _WORDS_IN_PLAINTEXT + 1


class Rows(NamedTuple):
    """A fold's training rows in the units that are trained in."""

    X: Floats  # (n, d)
    y: Labels  # (n,)
    weights: Floats | None  # (n,); None: all weigh the same
    scales: Scales


class Split(NamedTuple):
    """A model's columns as what is estimated, and its offset: an attribute whose
    coefficient is 1 in its own unit.
    """

    X: Floats  # (n, d) less the offset
    coef: Floats
    offset: Floats | float


def _split_offset(trainer: Trainer, rows: Rows, weights: Floats) -> Split:
    place = offset_place(trainer)
    if place is None:
        return Split(rows.X, weights, 0.0)
    offset = rows.X[:, place] * _offset_weight(rows.scales, place)
    return Split(np.delete(rows.X, place, axis=1), np.delete(weights, place), offset)


def _row_numbers(
    trainer: Trainer, point: Checkpoint, rows: Rows, split: Split
) -> RowNumbers:
    return newton.row_numbers(
        pair_of(trainer),
        split.X,
        rows.y,
        split.coef,
        is_start=_is_start(point),
        offset=split.offset,
        row_weights=1.0 if rows.weights is None else rows.weights,
    )


def offset_place(trainer: Trainer) -> int | None:
    """Of the offset among the model's columns; None without."""
    offset = trainer.params.offset
    return None if offset is None else trainer.features.index(offset)


def _offset_weight(scales: Scales, place: int) -> float:
    """What is 1 in the column's unit and the label's, in those that are trained in."""
    assert scales.attributes is not None, "newton scales them"
    return float(scales.attributes.deviation[place]) / scales.label.factor


def _estimated(trainer: Trainer, values: Floats) -> Floats:
    """Of a value for each weight those of the estimated ones."""
    place = offset_place(trainer)
    return values if place is None else np.delete(values, place)


def n_estimated(trainer: Trainer) -> int:
    return trainer.model.n_weights - (0 if offset_place(trainer) is None else 1)


def check_probe(trainer: Trainer, point: Checkpoint, rows: Rows) -> None:
    """Refuses a round whose sums would tell single rows, and the weights that the last
    one has made, as `fold` does of gradients; by the weights in A as well.
    """
    if trainer.model.kind == "cox":
        cox.check_probe(
            trainer, point, rows.X, rows.y, min_rows=least_rows(trainer.order, "train")
        )
        return
    pair = pair_of(trainer)
    split = _split_offset(trainer, rows, point.weights)
    numbers = _row_numbers(trainer, point, rows, split)
    rules = trainer.order.policy.cohort
    probes.check_steepness(
        numbers.predictors, link=pair.link, limit=rules.max_linear_predictor
    )
    # Of rows without a mean no sum is made.
    if point.stopped or not numbers.is_valid:
        return
    min_rows = least_rows(trainer.order, "train")
    if rows.weights is not None:
        probes.check_dominance(rows.weights, min_rows=min_rows)
        probes.check_hospital_weight(
            mean_weight=float(np.mean(rows.weights)), min_rows=min_rows
        )
    if isinstance(split.offset, np.ndarray) and pair.link != "identity":
        # The column's units are joint: what it has beside their mean.
        probes.check_hospital_weight(
            mean_offset=float(np.mean(split.offset)), min_rows=min_rows
        )
    probes.check_share(numbers.weights, max_share=rules.max_share)
    probes.check_dominance(numbers.weights, min_rows=min_rows)
    if pair.link == "log" and isinstance(split.offset, np.ndarray):
        # Its exp weighs the rows whatever the coefficients are.
        exposures = np.exp(split.offset - split.offset.max())
        probes.check_dominance(exposures, min_rows=min_rows)
    if not _is_start(point):
        probes.check_share(np.abs(numbers.scores), max_share=rules.max_share)


def pair_of(trainer: Trainer) -> Pair:
    pair = trainer.model.pair
    assert pair is not None, "checked with the request"
    return pair


def _is_start(point: Checkpoint) -> bool:
    return point.round == 0


def sealed_part(trainer: Trainer, point: Checkpoint, rows: Rows) -> bytes:
    """This hospital's part of a round, for the coordinator to add.

    Raises Refused (code equations), and BadRequest (code wide). Disclosure: as
    `analytics.training.newton.local_sums`; the rules are asked before it is sealed.
    """
    keys = trainer.keys(point.fold)
    n_others = keys.n_rows_total - keys.own_rows()
    check_equations(
        n_others,
        n_rounds=_opened_before(trainer, point.fold) + point.round + 1,
        n_weights=trainer.model.n_weights,
        is_alone=len(keys.members) == 1,
    )
    if trainer.model.kind == "cox":
        sums = cox.round_sums(trainer, point, rows.X, rows.y)
    else:
        split = _split_offset(trainer, rows, point.weights)
        sums = newton.local_sums(split.X, _row_numbers(trainer, point, rows, split))
    info = sum_info("gradient", point.fold, point.round)
    return secure_sum.seal_counts(keys, limbs.to_limbs(sums, 1), info=info)


def _opened_before(trainer: Trainer, fold: int) -> int:
    """Rounds of the folds before this one, whose sums are over nearly the same rows, and
    what the ends of these and of this one open, as rounds.
    """
    n_folds = 1 + _n_folds_before(trainer, fold)
    n_at_ends = 0
    if trainer.model.kind == "cox":
        n_at_ends = n_folds * cox.ROUNDS_AT_THE_END
    return n_at_ends + _rounds_before(trainer, fold)


def _n_folds_before(trainer: Trainer, fold: int) -> int:
    return folds(trainer.order.request).index(fold)


def _rounds_before(trainer: Trainer, fold: int) -> int:
    n_rounds = 0
    for number in folds(trainer.order.request):
        if number == fold:
            break
        point = load_checkpoint(trainer.order.store, number)
        assert point is not None, "it has ended"
        n_rounds += point.round
    return n_rounds


def check_equations(
    n_others: int, *, n_rounds: int, n_weights: int, is_alone: bool
) -> None:
    """Refuse a round after which the others' rows would no longer hide one's own.

    Each round opens n_weights + 3 numbers of each row's kind; the other hospitals
    together need that many rows for each round so far. Raises Refused (code equations).
    """
    needed = n_rounds * (n_weights + 3)
    if is_alone or n_others >= needed:
        return
    raise Refused(
        f"After {n_rounds} rounds of {n_weights} coefficients the other hospitals need {needed} rows together, so that"
        " what is opened cannot be solved for this hospital's.",
        remedy="Order fewer attributes or a smaller max_iter, or add hospitals or rows.",
        code="equations",
        threshold=needed,
    )


def stepped_point(
    trainer: Trainer, point: Checkpoint, sums: Ints, scales: Scales
) -> Checkpoint:
    """The fold's state one round later. Raises BadRequest (code collinear, separated,
    mean_range).
    """
    keys = trainer.keys(point.fold)
    opened = _read(trainer, sums)
    start = _estimated(trainer, point.weights)
    before = point.newton or NewtonState(coef=start, base=start)
    assert scales.attributes is not None, "newton scales them"
    try:
        after = _after(
            trainer,
            before,
            opened,
            diagonal=_penalty(trainer, scales.attributes, n_rows=keys.n_rows_total),
            n_rows=keys.n_rows_total,
        )
    except Collinear as error:
        raise _collinear(trainer, error) from None
    except NoMean:
        raise _no_mean(pair_of(trainer)) from None
    _check_separated(trainer, after)
    mean_loss = opened.deviance / (2 * keys.n_rows_total)
    weights = after.coef
    place = offset_place(trainer)
    if place is not None:
        weights = np.insert(weights, place, _offset_weight(scales, place))
    return Checkpoint(
        point.fold,
        point.round + 1,
        weights,
        point.state,
        losses=[*point.losses, mean_loss],
        mean_loss=mean_loss,
        newton=after,
        # A halved step is made of the sums of the round before.
        opened=point.opened if after.n_halvings else sums,
    )


def _after(
    trainer: Trainer,
    before: NewtonState,
    opened: Opened,
    *,
    diagonal: Floats,
    n_rows: int,
) -> NewtonState:
    eps = trainer.params.tolerance
    if trainer.model.kind == "cox":
        if before.is_start:
            cox.check_events(opened)
        return cox_mathematics.stepped(before, opened, eps=eps, diagonal=diagonal)
    return newton.stepped(
        before,
        opened,
        pair=pair_of(trainer),
        eps=eps,
        diagonal=diagonal,
        n_rows=n_rows,
    )


def _read(trainer: Trainer, sums: Ints) -> Opened:
    totals = limbs.whole_sums(sums)
    return newton.read_sums(totals, n_estimated(trainer), bits=limbs.FRACTION_BITS)


def _penalty(trainer: Trainer, scale: Scale, *, n_rows: int) -> Floats:
    """N alpha for each coefficient of the columns as a gradient order sees them."""
    params = trainer.params
    if not trainer.order.request.is_penalised:
        return np.zeros(n_estimated(trainer))
    diagonal = np.full(len(scale.deviation), n_rows * params.alpha)
    if not params.standardize:
        diagonal = diagonal / (scale.deviation * scale.deviation)
    if not trainer.model.fit_intercept:
        return diagonal
    return _estimated(trainer, np.append(diagonal, 0.0))


def _collinear(trainer: Trainer, error: Collinear) -> BadRequest:
    names = [*_names(trainer), newton_report.INTERCEPT]
    return BadRequest(
        f"{names[error.column]} is constant over all rows, or a combination of the columns before it, so that its"
        " coefficient is any number.",
        remedy="Leave it out, or order penalty L2.",
        code="collinear",
        columns=[names[error.column]],
    )


def _names(trainer: Trainer) -> list[str]:
    """Of the columns with an estimated coefficient."""
    return [name for name in trainer.features if name != trainer.params.offset]


def _places_of_terms(trainer: Trainer) -> dict[str, list[int]]:
    """By attribute where its coefficients stand: a category and a spline have several."""
    names = _names(trainer)
    if trainer.design is None:
        return {name: [place] for place, name in enumerate(names)}
    found = {}
    for term in trainer.design.terms:
        if term.name != trainer.params.offset:
            found[term.name] = [names.index(feature) for feature in term.features]
    return found


def _no_mean(pair: Pair) -> BadRequest:
    # Every predictor of theirs is a mean that the family knows.
    other = "logit" if pair.is_binary else "log"
    return BadRequest(
        f"The first coefficients give some row a mean that {pair.family} does not know: link {pair.link} does not keep"
        " means within its range.",
        remedy=f"Order link {other}.",
        code="mean_range",
    )


def _check_separated(trainer: Trainer, after: NewtonState) -> None:
    is_cox = trainer.model.kind == "cox"
    can_separate = is_cox or not pair_of(trainer).has_dispersion
    if trainer.order.request.is_penalised or not can_separate:
        return
    if after.is_separating:
        if is_cox:
            raise cox.monotone()
        raise BadRequest(
            "The deviance has come to rest and a coefficient still grows: an attribute separates the classes (or of"
            " poisson the rows with a count from those without), and no finite coefficient is the best.",
            remedy="Order penalty L2, or leave out the attribute that separates them.",
            code="separated",
        )


# The report


def unscaled(weights: Floats, scale: Scale) -> Floats:
    """The same model for columns as they came, the intercept last."""
    slopes = weights[:-1] / scale.deviation
    intercept = weights[-1] - float(np.sum(slopes * scale.mean))
    return np.append(slopes, intercept)


def report_of(
    trainer: Trainer, point: Checkpoint, scales: Scales, sums: Ints
) -> dict[str, Any]:
    """What is kept with the fold's model; sums: those at the fold's end.

    Disclosure: of all hospitals' rows together, to this hospital's people.
    """
    request = trainer.order.request
    assert point.opened is not None
    assert scales.attributes is not None
    keys = trainer.keys(point.fold)
    n_rows = keys.n_rows_total
    n_rounds = _rounds_before(trainer, point.fold) + point.round
    n_equations = n_rounds * newton.n_sums(n_estimated(trainer))
    shared = {
        "hospitals": len(keys.members),
        "rounds": point.round,
        "converged": point.stopped_by == "converged",
        "stopped_by": point.stopped_by,
    }
    diagonal = _penalty(trainer, scales.attributes, n_rows=n_rows)
    if trainer.model.kind == "cox":
        found = cox.report_of(
            trainer,
            point,
            scales.attributes,
            sums=sums,
            n_rows=n_rows,
            diagonal=diagonal,
        )
        n_folds = 1 + _n_folds_before(trainer, point.fold)
        n_equations += n_folds * cox.n_equations_at_the_end(trainer.model)
        return {**found, **shared, "equations": n_equations}
    pair = pair_of(trainer)
    of_all = final_sums.training_totals(trainer.model, sums, n_rows)
    opened = newton.penalised(_read(trainer, point.opened), diagonal)
    covariance = newton.inverse(opened)
    coef, covariance = _own_estimates(trainer, point.weights, covariance, scales)
    fit = _fit_of(trainer, of_all, scales, n_rows=n_rows)
    has_offset = offset_place(trainer) is not None
    if has_offset:
        # The null model gives rows other answers then, and is another fit.
        fit = fit._replace(null_deviance=None)
    found = newton_report.report(
        pair,
        _names(trainer),
        coef,
        covariance,
        fit,
        confidence=trainer.params.confidence,
        is_penalised=request.is_penalised,
        estimates_dispersion=request.estimates_dispersion,
    )
    if request.weights is not None:
        found["weights"] = request.weights
        found["weights_type"] = request.model_params.weights_type or "prior"
    if has_offset:
        found["offset"] = trainer.params.offset
    if not request.is_penalised:
        found["inflation"] = generalised_inflation(
            covariance[:-1, :-1], _places_of_terms(trainer)
        )
    return {**found, **shared, "equations": n_equations}


def _own_estimates(
    trainer: Trainer, weights: Floats, covariance: Floats, scales: Scales
) -> tuple[Floats, Floats]:
    """What is estimated, in the units of columns and label, and its covariance at a
    dispersion of 1; covariance: A^-1 in those that are trained in.
    """
    label, attributes = scales.label, scales.attributes
    assert attributes is not None, "newton scales them"
    units = Units(attributes.mean, attributes.deviation, label.shift, label.factor)
    place = offset_place(trainer)
    if place is not None:
        # Held at 1: it has no error, and its mean is in the intercept.
        covariance = np.insert(covariance, place, 0.0, axis=0)
        covariance = np.insert(covariance, place, 0.0, axis=1)
    coef, covariance = newton_report.own_units(weights, covariance, units)
    coef = _estimated(trainer, coef)
    if place is not None:
        covariance = np.delete(np.delete(covariance, place, axis=0), place, axis=1)
    # A is of the label in joint units, as its dispersion; the report's is the label's.
    return coef, covariance / label.dispersion


def _fit_of(
    trainer: Trainer, of_all: TrainingTotals, scales: Scales, *, n_rows: int
) -> Fit:
    pair = pair_of(trainer)
    loss = final_sums.fitted_loss(of_all)
    constant_loss = final_sums.constant_loss(
        trainer.model, of_all, scales.label_variance
    )
    deviance = 2 * n_rows * loss
    fit = Fit(
        n=n_rows,
        n_likelihood=n_rows,
        deviance=deviance,
        null_deviance=2 * n_rows * constant_loss,
        n_events=int(of_all.n_of_class.min()) if pair.is_binary else None,
        # Of linear; lr, whose dispersion is 1, has none.
        pearson=deviance,
        remainder=0.0,
    )
    means = of_all.fit
    if means is None:
        return fit
    fit = fit._replace(
        pearson=n_rows * means.pearson, remainder=n_rows * means.remainder
    )
    n_weighted = round(n_rows * means.has_weight)
    weight = n_rows * means.weight
    if trainer.order.request.counts_weights:
        n_events = fit.n_events
        if pair.is_binary:
            n_ones = round(n_rows * means.label)
            n_events = min(n_ones, round(weight) - n_ones)
        return fit._replace(
            n=round(weight), n_likelihood=round(weight), n_events=n_events
        )
    is_gaussian = pair.family == "gaussian"
    return fit._replace(
        n=n_weighted, n_likelihood=n_weighted if is_gaussian else weight
    )
