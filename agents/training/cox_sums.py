"""What the hospitals of a Cox order add up at a fold's end, and what the sums give.

    training rows    how many events there are; pairs of rows that the model orders
                     rightly, wrongly and not at all; -l, and the sums of the test of
                     proportional hazards, in limbs
    held-out rows    where a fold has some: how many; the same three counts; -l, in limbs

All within one hospital's rows (`analytics.training.cox`), so that no time leaves.

Decision 89.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from analytics.arrays import Floats, Ints, Labels
from analytics.training import concordance, cox, proportional_hazards
from analytics.training.concordance import Pairs
from analytics.training.models import Model
from analytics.training.proportional_hazards import TimeScale
from protocol.sums import limbs

SCALE: TimeScale = "log"
_N_PAIRS = 3


class TrainingPart(NamedTuple):
    """What the sums say of the training rows of all hospitals."""

    n_events: int
    pairs: Pairs
    deviance: float  # -2 l
    hazards: list[int]  # over 2**FRACTION_BITS


class HeldOutPart(NamedTuple):
    n_rows: int
    pairs: Pairs
    deviance: float


def of_training(model: Model, weights: Floats, X: Floats, y: Labels) -> Ints:
    """A hospital's part, int64, `n_words` of them. Disclosure: as `final_sums.local_sums`."""
    strata = cox.labelled_strata(X, y)
    _, events = cox.outcome(y)
    counts = [int(np.count_nonzero(events)), *_pairs(weights, X, y)]
    hazards = proportional_hazards.local_sums(
        strata, weights, ties=model.ties, scale=SCALE
    )
    values = np.concatenate([[_deviance(model, weights, X, y)], hazards])
    return np.concatenate([counts, limbs.to_limbs(values, 1)])


def n_words(model: Model) -> int:
    """Of the training rows."""
    n_values = 1 + proportional_hazards.n_sums(model.n_weights)
    return 1 + _N_PAIRS + n_values * limbs.N_LIMBS


def read_training(model: Model, sums: Ints) -> TrainingPart:
    counts = sums[: 1 + _N_PAIRS].tolist()
    deviance, *hazards = limbs.whole_sums(sums[1 + _N_PAIRS : n_words(model)])
    return TrainingPart(
        counts[0], Pairs(*counts[1:]), deviance / 2**limbs.FRACTION_BITS, hazards
    )


def of_held_out(model: Model, weights: Floats, X: Floats, y: Labels) -> Ints:
    """Without any row there are as many words."""
    counts = [len(y), 0, 0, 0]
    deviance = 0.0
    if len(y):
        counts[1:] = _pairs(weights, X, y)
        deviance = _deviance(model, weights, X, y)
    return np.concatenate([counts, limbs.to_limbs(np.array([deviance]), 1)])


def read_held_out(words: Ints) -> HeldOutPart:
    counts = words[: 1 + _N_PAIRS].tolist()
    (deviance,) = limbs.whole_sums(words[1 + _N_PAIRS :])
    return HeldOutPart(counts[0], Pairs(*counts[1:]), deviance / 2**limbs.FRACTION_BITS)


def _pairs(weights: Floats, X: Floats, y: Labels) -> Pairs:
    times, events = cox.outcome(y)
    return concordance.local_pairs(cox.predictors(X, weights), times, events)


def _deviance(model: Model, weights: Floats, X: Floats, y: Labels) -> float:
    return 2 * len(y) * cox.mean_loss(X, y, weights, ties=model.ties)
