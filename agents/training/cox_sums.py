"""What the hospitals of a Cox order add up at a fold's end, and what the sums give.

    training rows    how many events there are; pairs of rows that the model orders
                     rightly, wrongly and not at all; -l, and the sums of the test of
                     proportional hazards, in limbs; with a joint baseline the counts
                     alone
    held-out rows    where a fold has some: how many; the same three counts; -l, in limbs

All within one stratum of one hospital's rows (`analytics.training.cox`), so that no time
leaves.

Decision 89.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from analytics.arrays import Floats, Ints, Labels
from analytics.training import concordance, cox, cox_labels, proportional_hazards
from analytics.training.concordance import Pairs
from analytics.training.models import Model
from protocol.sums import limbs

_N_PAIRS = 3
N_COUNTS = 1 + _N_PAIRS


class TrainingPart(NamedTuple):
    """What the sums say of the training rows of all hospitals."""

    n_events: int
    pairs: Pairs
    deviance: float  # -2 l; NaN with a joint baseline, whose rounds have it
    hazards: list[int]  # over 2**FRACTION_BITS


class HeldOutPart(NamedTuple):
    n_rows: int
    pairs: Pairs
    deviance: float


def of_training(
    model: Model,
    weights: Floats,
    X: Floats,
    y: Labels,
) -> Ints:
    """A hospital's part, int64, `n_words` of them. Disclosure: as `final_sums.local_sums`."""
    strata = cox.labelled_strata(X, y)
    events = cox_labels.outcome(y).events
    n_events = int(np.count_nonzero(events))
    counts = [n_events, *local_pairs(weights, X, y)]
    if model.baseline == "joint":
        return np.array(counts, dtype=np.int64)
    hazards = proportional_hazards.local_sums(
        strata,
        weights,
        ties=model.ties,
        scale=model.time_scale,
    )
    deviance = _deviance(
        model,
        weights,
        X,
        y,
    )
    values = np.concatenate([[deviance], hazards])
    return np.concatenate([counts, limbs.to_limbs(values, 1)])


def n_words(model: Model) -> int:
    """Of the training rows."""
    if model.baseline == "joint":
        return N_COUNTS
    n_values = 1 + proportional_hazards.n_sums(model.n_weights)
    return N_COUNTS + n_values * limbs.N_LIMBS


def read_training(model: Model, sums: Ints) -> TrainingPart:
    counts = sums[:N_COUNTS].tolist()
    if model.baseline == "joint":
        return TrainingPart(
            counts[0],
            Pairs(*counts[1:]),
            math.nan,
            [],
        )
    words = sums[N_COUNTS : n_words(model)]
    deviance, *hazards = limbs.whole_sums(words)
    return TrainingPart(
        counts[0],
        Pairs(*counts[1:]),
        deviance / 2**limbs.FRACTION_BITS,
        hazards,
    )


def of_held_out(
    model: Model,
    weights: Floats,
    X: Floats,
    y: Labels,
) -> Ints:
    """Without any row there are as many words."""
    counts = [len(y), 0, 0, 0]
    deviance = 0.0
    if len(y):
        counts[1:] = local_pairs(weights, X, y)
        deviance = _deviance(
            model,
            weights,
            X,
            y,
        )
    of_deviance = limbs.to_limbs(np.array([deviance]), 1)
    return np.concatenate([counts, of_deviance])


def read_held_out(words: Ints) -> HeldOutPart:
    counts = words[:N_COUNTS].tolist()
    (deviance,) = limbs.whole_sums(words[N_COUNTS:])
    return HeldOutPart(
        counts[0],
        Pairs(*counts[1:]),
        deviance / 2**limbs.FRACTION_BITS,
    )


def local_pairs(
    weights: Floats,
    X: Floats,
    y: Labels,
) -> Pairs:
    """Disclosure: as `concordance.local_pairs`."""
    times, events, entries, strata = cox_labels.outcome(y)
    return concordance.local_pairs(
        cox.predictors(X, weights),
        times,
        events,
        entries=entries,
        strata=strata,
    )


def _deviance(
    model: Model,
    weights: Floats,
    X: Floats,
    y: Labels,
) -> float:
    loss = cox.mean_loss(
        X,
        y,
        weights,
        ties=model.ties,
    )
    return 2 * len(y) * loss
