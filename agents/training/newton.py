"""A Newton order at one hospital: its part of a round, and the step that all take. What is
kept of it in the end is `agents.training.newton_report`.

The mathematics is `analytics.training.newton`; the rounds are those of every training
order (`agents.training.fold`), with these sums in the place of a gradient. Every sum is
rounded once to 2^-100 and travels as limbs.

Decisions 84 and 130.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.gate import probes
from agents.rows.row_tables import made_of, without_column
from agents.training import cox, cox_joint, fixed_effect, null_model, robust
from agents.training.checkpoint import Checkpoint
from agents.training.equations import check_equations, n_counted, opened_before
from agents.training.moments import Scale, Scales
from agents.training.newton_failures import (
    check_separated,
    collinear,
    no_counts,
    no_mean,
    no_overdispersion,
)
from agents.training.row_gate import least_rows
from agents.training.trainer import Trainer, sum_info
from analytics.arrays import Floats, Ints, Labels
from analytics.training import cox as cox_mathematics
from analytics.training import families, firth, newton, normal_equations, overdispersion
from analytics.training.models import Model
from analytics.training.newton import NewtonState, NoMean, RowNumbers
from analytics.training.normal_equations import Collinear, Opened
from analytics.training.overdispersion import NoOverdispersion
from analytics.training.pairs import Pair
from protocol.sums import limbs, secure_sum

_WORDS_IN_PLAINTEXT = 29
"""Of a Paillier key of 2048 bits, about."""


def n_plaintexts(trainer: Trainer) -> int:
    """Of a round's sum, about: so many obfuscators are made ahead."""
    n_words = limbs.N_LIMBS * n_sums(trainer)
    return n_words // _WORDS_IN_PLAINTEXT + 1


def n_sums(trainer: Trainer) -> int:
    """Of a round."""
    n_beside = _n_of_theta(trainer) + null_model.n_sums(trainer)
    return newton.n_sums(n_estimated(trainer)) + n_beside


def _n_of_theta(trainer: Trainer) -> int:
    pair = trainer.model.pair
    has_theta = pair is not None and pair.has_theta
    return overdispersion.N_SUMS if has_theta else 0


class Rows(NamedTuple):
    """A fold's training rows in the units that are trained in."""

    X: Floats  # (n, d)
    y: Labels  # (n,)
    weights: Floats | None  # (n,); None: all weigh the same
    scales: Scales
    clusters: NDArray[np.object_] | None = None  # (n,); None without clusters


class Split(NamedTuple):
    """A model's columns as what is estimated, and its offset: an attribute whose
    coefficient is 1 in its own unit.
    """

    X: Floats  # (n, d) less the offset
    coef: Floats
    offset: Floats | float
    has_intercept: bool

    @property
    def columns(self) -> Floats:
        """(n, p); on disk where X is."""
        if not self.has_intercept:
            return self.X
        return made_of(self.X, partial(newton.columns_of, has_intercept=True))


def _split_offset(trainer: Trainer, rows: Rows, weights: Floats) -> Split:
    has_intercept = trainer.model.fit_intercept
    # What the label's unit adds to the predictor of a log is the intercept's, if there is one.
    of_unit = 0.0 if has_intercept else -rows.scales.label.shift
    offset_column = offset_place(trainer)
    if offset_column is None:
        return Split(rows.X, weights, of_unit, has_intercept)
    offset_weight = rows.scales.offset_weight(offset_column)
    offset = rows.X[:, offset_column] * offset_weight + of_unit
    X = without_column(rows.X, offset_column)
    coef = np.delete(weights, offset_column)
    return Split(X, coef, offset, has_intercept)


def _row_numbers(
    trainer: Trainer, point: Checkpoint, rows: Rows, split: Split
) -> RowNumbers:
    return newton.row_numbers(
        pair_at(trainer, point),
        split.X,
        rows.y,
        split.coef,
        is_start=_is_start(point),
        offset=split.offset,
        row_weights=1.0 if rows.weights is None else rows.weights,
        has_intercept=split.has_intercept,
    )


def offset_place(trainer: Trainer) -> int | None:
    """Of the offset among the model's columns; None without."""
    offset = trainer.params.offset
    return None if offset is None else trainer.features.index(offset)


def null_offset(
    trainer: Trainer, X: Floats, y: Labels, weights: Floats
) -> Floats | None:
    """Each row's offset for the null model, less its joint mean if that one is of an
    intercept; None without.

    Raises Refused (code max_share): its sum with the label is opened at a fold's end.
    """
    offset_column = offset_place(trainer)
    if offset_column is None:
        return None
    offset: Floats = X[:, offset_column] * weights[offset_column]
    max_share = trainer.order.policy.cohort.max_share
    probes.check_share(np.abs(offset * y), max_share=max_share)
    return offset


def _mean_offset(rows: Rows, place: int) -> float:
    """Of this hospital's rows, less that of all, in units of the linear predictor."""
    attributes = rows.scales.attributes
    assert attributes is not None, "newton scales them"
    moved = attributes.joint_mean[place] - attributes.mean[place]
    of_all = moved / attributes.deviation[place]
    of_own = np.mean(rows.X[:, place])
    offset_weight = rows.scales.offset_weight(place)
    return float(of_own - of_all) * offset_weight


def estimated(trainer: Trainer, values: Floats) -> Floats:
    """Of a value for each weight those of the estimated ones."""
    offset_column = offset_place(trainer)
    return values if offset_column is None else np.delete(values, offset_column)


def n_estimated(trainer: Trainer) -> int:
    n_weights = trainer.model.n_weights
    return n_weights if offset_place(trainer) is None else n_weights - 1


def check_probe(trainer: Trainer, point: Checkpoint, rows: Rows) -> None:
    """Refuses a round whose sums would tell single rows, and the weights that the last
    one has made, as `fold` does of gradients; by the weights in A as well.
    """
    if trainer.model.kind == "cox":
        min_rows = least_rows(trainer.order, "train")
        cox.check_probe(trainer, point, rows.X, rows.y, min_rows=min_rows)
        return
    pair = pair_of(trainer)
    split = _split_offset(trainer, rows, point.weights)
    numbers = _row_numbers(trainer, point, rows, split)
    rules = trainer.order.policy.cohort
    max_share = rules.max_share
    limit = rules.max_linear_predictor
    probes.check_steepness(numbers.predictors, link=pair.link, limit=limit)
    # Of rows without a mean no sum is made.
    if point.stopped or not numbers.is_valid:
        return
    min_rows = least_rows(trainer.order, "train")
    if rows.weights is not None:
        probes.check_dominance(rows.weights, min_rows=min_rows)
        mean_weight = float(np.mean(rows.weights))
        probes.check_hospital_weight(mean_weight=mean_weight, min_rows=min_rows)
    offset_column = offset_place(trainer)
    if offset_column is not None and pair.link != "identity":
        mean_offset = _mean_offset(rows, offset_column)
        probes.check_hospital_weight(mean_offset=mean_offset, min_rows=min_rows)
    if is_scoring(point):
        added = _added_scores(trainer, point, split, numbers)
        probes.check_share(np.abs(added), max_share=max_share)
    for sums in _theta_rows(trainer, point, rows, numbers):
        probes.check_share(np.abs(sums), max_share=max_share)
    probes.check_share(numbers.weights, max_share=max_share)
    probes.check_dominance(numbers.weights, min_rows=min_rows)
    if min_rows > 1:
        probes.check_products(
            split.X,
            numbers.weights,
            max_share=max_share,
            min_rows=min_rows,
        )
    null_model.check_probe(
        trainer,
        point,
        rows.y,
        offset=split.offset,
        row_weights=rows.weights,
        min_rows=min_rows,
    )
    if pair.link == "log" and isinstance(split.offset, np.ndarray):
        # Its exp weighs the rows whatever the coefficients are.
        exposures = np.exp(split.offset - split.offset.max())
        probes.check_dominance(exposures, min_rows=min_rows)
    if not _is_start(point):
        scores = np.abs(numbers.scores)
        probes.check_share(scores, max_share=max_share)


def pair_of(trainer: Trainer) -> Pair:
    pair = trainer.model.pair
    assert pair is not None, "checked with the request"
    return pair


def pair_at(trainer: Trainer, point: Checkpoint) -> Pair:
    """With theta as far as it is estimated."""
    pair = pair_of(trainer)
    if point.newton is None or not pair.has_theta:
        return pair
    return replace(pair, theta=point.newton.theta)


def fitted_model(trainer: Trainer, point: Checkpoint) -> Model:
    """With theta, where the model has one."""
    if point.newton is None or not _n_of_theta(trainer):
        return trainer.model
    return replace(trainer.model, theta=point.newton.theta)


def _theta_rows(
    trainer: Trainer, point: Checkpoint, rows: Rows, numbers: RowNumbers
) -> tuple[Floats, ...]:
    """What rows add to the sums for theta; empty of models without. At the start, whose
    means are made of labels, and of rows without a mean they are 0.
    """
    if not _n_of_theta(trainer):
        return ()
    if _is_start(point) or not numbers.is_valid:
        shape = (overdispersion.N_SUMS, len(rows.y))
        return tuple(np.zeros(shape))
    pair = pair_at(trainer, point)
    row_means = families.means(pair, numbers.predictors)
    m = 1.0 if rows.weights is None else rows.weights
    y = rows.y.astype(np.float64)
    return overdispersion.theta_rows(pair, y, row_means, m)


def is_scoring(point: Checkpoint) -> bool:
    """Whether the round is the second of a step under Firth's penalty."""
    return point.newton is not None and point.newton.is_scoring


def _added_scores(
    trainer: Trainer, point: Checkpoint, split: Split, numbers: RowNumbers
) -> Floats:
    assert point.opened is not None, "the round before has opened it"
    inverse = normal_equations.inverse(read(trainer, point.opened))
    return firth.added_scores(pair_of(trainer), split.columns, numbers, inverse)


def _is_start(point: Checkpoint) -> bool:
    return point.round == 0


def sealed_part(trainer: Trainer, point: Checkpoint, rows: Rows) -> bytes:
    """This hospital's part of a round, for the coordinator to add.

    Raises Refused (code equations), and BadRequest (code wide). Disclosure: as
    `analytics.training.newton.local_sums`; the rules are asked before it is sealed.
    """
    sum_keys = trainer.keys(point.fold)
    n_own = sum_keys.own_rows()
    n_others = sum_keys.n_rows_total - n_own
    is_alone = len(sum_keys.members) == 1
    robust.check_clusters(
        trainer,
        _counted_clusters(rows),
        n_estimated(trainer),
        is_alone=is_alone,
    )
    n_rounds = opened_before(trainer, point.fold) + n_counted(point) + 1
    fixed_effect.check_own_rows(trainer, n_own, n_rounds=n_rounds)
    n_beside = n_sums(trainer) - newton.n_sums(n_estimated(trainer))
    check_equations(
        n_others,
        n_rounds=n_rounds,
        n_weights=trainer.model.n_weights + n_beside,
        is_alone=is_alone,
    )
    if trainer.model.kind == "cox":
        sums = cox.round_sums(trainer, point, rows.X, rows.y)
    else:
        split = _split_offset(trainer, rows, point.weights)
        numbers = _row_numbers(trainer, point, rows, split)
        if is_scoring(point):
            added = _added_scores(trainer, point, split, numbers)
            sums = firth.local_sums(split.columns, added)
        else:
            sums = newton.local_sums(
                split.X,
                numbers,
                has_intercept=split.has_intercept,
            )
        theta_rows = _theta_rows(trainer, point, rows, numbers)
        of_theta = [float(np.sum(row_values)) for row_values in theta_rows]
        sums = np.append(sums, of_theta)
        of_null = null_model.local_sums(
            trainer,
            point,
            rows.y,
            offset=split.offset,
            row_weights=rows.weights,
        )
        sums = np.append(sums, of_null)
    info = sum_info("gradient", point.fold, point.round)
    sum_words = limbs.to_limbs(sums, 1)
    return secure_sum.seal_counts(sum_keys, sum_words, info=info)


def _counted_clusters(rows: Rows) -> NDArray[np.object_] | None:
    """Of which cluster each row with a weight is: the others add nothing to theirs."""
    if rows.clusters is None or rows.weights is None:
        return rows.clusters
    return rows.clusters[rows.weights > 0]


def words_at_the_end(trainer: Trainer, point: Checkpoint, rows: Rows) -> Ints:
    """What a fold's last message has behind the words of every order: empty, or of robust
    standard errors. Raises and Disclosure: as `robust.own_words`.
    """
    if not robust.is_ordered(trainer):
        return np.zeros(0, dtype=np.int64)
    split = _split_offset(trainer, rows, point.weights)
    numbers = _row_numbers(trainer, point, rows, split)
    return robust.own_words(
        trainer,
        split.X,
        numbers,
        names=names_of(trainer),
        row_weights=rows.weights,
        clusters=rows.clusters,
    )


def parts_at_the_end(trainer: Trainer, sums: Ints) -> tuple[Ints, Ints]:
    """Opened words of a fold's end: those of every order, and `words_at_the_end`."""
    n_words = robust.n_words(trainer, n_estimated(trainer))
    start = len(sums) - n_words
    return sums[:start], sums[start:]


def stepped_point(
    trainer: Trainer, point: Checkpoint, sums: Ints, scales: Scales
) -> Checkpoint:
    """The fold's state one round later. Raises BadRequest (code collinear, separated,
    mean_range).
    """
    if point.joint is not None:
        return cox_joint.stepped_point(trainer, point, sums)
    n_rows = trainer.keys(point.fold).n_rows_total
    # Scores are of the round before's A.
    information = point.opened if is_scoring(point) else sums
    assert information is not None
    opened = read(trainer, information)
    start_coef = estimated(trainer, point.weights)
    before = point.newton or NewtonState(coef=start_coef, base=start_coef)
    assert scales.attributes is not None, "newton scales them"
    try:
        next_state = _after(
            trainer,
            before,
            opened,
            sums,
            diagonal=penalty(trainer, scales.attributes, n_rows=n_rows),
            n_rows=n_rows,
        )
    except Collinear as error:
        column_names = names_of(trainer)
        raise collinear(trainer, column_names, error, n_rows=n_rows) from None
    except NoOverdispersion:
        raise no_overdispersion() from None
    except NoMean:
        raise no_mean(pair_of(trainer)) from None
    check_separated(trainer, next_state)
    mean_loss = opened.deviance / (2 * n_rows)
    weights = next_state.coef
    offset_column = offset_place(trainer)
    if offset_column is not None:
        offset_weight = scales.offset_weight(offset_column)
        weights = np.insert(weights, offset_column, offset_weight)
    stepped = Checkpoint(
        point.fold,
        point.round + 1,
        weights,
        point.state,
        losses=[*point.losses, mean_loss],
        mean_loss=mean_loss,
        newton=next_state,
        # A halved step is made of the sums of the round before.
        opened=point.opened if next_state.n_halvings else information,
        null=null_model.stepped(trainer, point, sums),
    )
    if trainer.model.baseline == "joint":
        return cox_joint.begun(trainer, stepped)
    return stepped


def _after(
    trainer: Trainer,
    before: NewtonState,
    opened: Opened,
    sums: Ints,
    *,
    diagonal: Floats,
    n_rows: int,
) -> NewtonState:
    eps = trainer.params.tolerance
    if trainer.model.kind == "cox":
        if before.is_start:
            cox.check_events(opened)
        return cox_mathematics.stepped(before, opened, eps=eps, diagonal=diagonal)
    is_weighted = trainer.order.request.weights is not None
    if before.is_start and newton.is_without_counts(
        pair_of(trainer),
        opened,
        n_rows=None if is_weighted else n_rows,
        has_intercept=trainer.model.fit_intercept,
    ):
        raise no_counts(trainer)
    if _n_of_theta(trainer):
        of_theta = read_theta(trainer, sums)
        return overdispersion.stepped(before, opened, of_theta, eps=eps)
    if before.is_scoring:
        return firth.with_scores(before, opened, limbs.whole_sums(sums))
    if trainer.order.request.is_firth:
        return firth.with_information(before, opened, eps=eps)
    return newton.stepped(
        before,
        opened,
        pair=pair_of(trainer),
        eps=eps,
        diagonal=diagonal,
        n_rows=n_rows,
    )


def read(trainer: Trainer, sums: Ints) -> Opened:
    n_weights = n_estimated(trainer)
    n_totals = newton.n_sums(n_weights)
    opened_totals = limbs.whole_sums(sums)[:n_totals]
    return newton.read_sums(opened_totals, n_weights, bits=limbs.FRACTION_BITS)


def read_theta(trainer: Trainer, sums: Ints) -> list[float]:
    """The sums for theta behind those of every round; empty of models without."""
    n_before = newton.n_sums(n_estimated(trainer))
    theta_totals = limbs.whole_sums(sums)[n_before:]
    return [total / 2**limbs.FRACTION_BITS for total in theta_totals]


def penalty(trainer: Trainer, scale: Scale, *, n_rows: int) -> Floats:
    """N alpha for each coefficient of the columns as a gradient order sees them."""
    params = trainer.params
    if not trainer.order.request.is_penalised:
        return np.zeros(n_estimated(trainer))
    diagonal = np.full(len(scale.deviation), n_rows * params.alpha)
    if not params.standardize:
        diagonal = diagonal / (scale.deviation * scale.deviation)
    if trainer.model.fit_intercept:
        diagonal = np.append(diagonal, 0.0)
    return estimated(trainer, diagonal)


def names_of(trainer: Trainer) -> list[str]:
    """Of the columns with an estimated coefficient."""
    return [name for name in trainer.features if name != trainer.params.offset]
