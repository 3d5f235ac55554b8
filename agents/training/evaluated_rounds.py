"""The rounds of an evaluation at one hospital: each a sealed sum, opened and kept.

    0           what `evaluated_sums` adds up
    1 ..        where the order asks for the calibration's slope: sums of
                `analytics.training.recalibration`, until both of its models are done
    the last    where there are more than one: nothing; it tells the coordinator that
                there is no further one

What was opened is kept in the order's vault before anything that follows from it is
sent. So a restart makes the same steps again, from the same integers.

Decisions 87 and 92.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from agents.gate import probes
from agents.training.equations import check_equations
from agents.training.final_sums import Rows
from agents.training.row_gate import least_rows
from agents.training.trainer import (
    Trainer,
    contribute,
    receive_opening,
    sentences,
    sum_info,
)
from analytics.arrays import Floats, Ints
from analytics.training import recalibration
from analytics.training.margins import linear_predictors
from analytics.training.recalibration import Calibration, Fits
from protocol.errors import Refused
from protocol.sums import limbs, secure_sum
from protocol.training_request import MOST_CALIBRATION_STEPS

_KEPT = "evaluated.npz"


def opened_round(
    trainer: Trainer,
    round_: int,
    make: Callable[[], Ints],
    *,
    state: Floats,
    is_last: bool,
) -> Ints:
    """The sum of a round over all hospitals, of which this one's part is made by `make`:
    as it is kept, or sent and opened now.

    Disclosure: the sum, to the order's hospitals; to the coordinator that the round was,
    and whether it is the last one.
    """
    store = trainer.order.store
    kept_rounds = store.load_arrays(_KEPT) or {}
    round_name = f"round_{round_}"
    if round_name in kept_rounds:
        return kept_rounds[round_name]
    sum_keys = trainer.keys(0)

    def part() -> bytes:
        info = sum_info("gradient", 0, round_)
        return secure_sum.seal_counts(
            sum_keys,
            make(),
            info=info,
        )

    contribute(
        trainer,
        "gradient",
        part,
        fold=0,
        round=round_,
        state=state,
        report=_own_report(trainer, is_last=is_last),
    )
    opening = receive_opening(
        trainer,
        "gradient",
        fold=0,
        round=round_,
    )
    store.save_arrays(
        _KEPT,
        **kept_rounds,
        **{round_name: opening.sums},
    )
    for message_kind in ("gradient", "opening-gradient"):
        store.forget_outbox(f"{message_kind}-0-{round_}-")
    return opening.sums


def _own_report(
    trainer: Trainer,
    *,
    is_last: bool,
) -> dict[str, Any]:
    """Of its own rows a hospital tells the coordinator nothing but their number."""
    quality = "mse" if trainer.model.is_number else "accuracy"
    if trainer.model.kind == "cox":
        quality = "concordance"
    return {
        "n_rows": trainer.rows.train.n_rows,
        "train": {"loss": None, quality: None},
        "withheld": {"train": {"rule": "evaluation", "threshold": 0}},
        "final": is_last,
    }


# Calibration's slope


def check_others(trainer: Trainer) -> None:
    """Whether the other hospitals' rows would hide one's own in all of calibration's
    rounds. Every hospital knows all numbers of rows, so all refuse alike, before anything
    is opened. Raises Refused (code equations).
    """
    sum_keys = trainer.keys(0)
    with _without_slope():
        check_equations(
            sum_keys.n_rows_total - sum_keys.own_rows(),
            # How many it will take is known when they have been opened.
            n_rounds=MOST_CALIBRATION_STEPS,
            n_weights=sum(recalibration.N_ESTIMATED),
            is_alone=len(sum_keys.members) == 1,
        )


def add_calibration(
    trainer: Trainer,
    rows: Rows,
    report: dict[str, Any],
) -> None:
    """Calibration's slope, intercept and in the large over all rows, into a report's
    metrics, by rounds 1 and after; null where there is no best one. Of few rows of a
    class there are no such rounds. Then the round that ends them.

    Raises Refused (code max_share, dominance) for a round that would tell single rows.
    Disclosure: sums of `recalibration.local_sums`, to the order's hospitals.
    """
    round_ = 0
    if "withheld" not in report:
        fits, round_ = _fitted(trainer, rows)
        calibration = None if fits is None else recalibration.estimates(fits)
        report["metrics"].update(_metrics_of(calibration))
        report["calibration_rounds"] = round_
    opened_round(
        trainer,
        round_ + 1,
        lambda: np.zeros(1, dtype=np.int64),
        state=trainer.start,
        is_last=True,
    )


def _fitted(
    trainer: Trainer,
    rows: Rows,
) -> tuple[Fits | None, int]:
    """Both models, and by how many rounds; None as `recalibration.stepped`."""
    pair = trainer.model.pair
    assert pair is not None, "asked of models with a score only"
    predictors = linear_predictors(trainer.model, trainer.start, rows.X)
    logit = recalibration.logits(pair, predictors)
    y = np.asarray(rows.y, dtype=np.float64)
    fits: Fits | None = recalibration.first_fits()
    round_ = 0
    while fits is not None and not fits.is_done and round_ < MOST_CALIBRATION_STEPS:
        round_ += 1
        fits = _next(
            trainer,
            fits,
            logit,
            y,
            round_,
        )
    return fits, round_


def _metrics_of(calibration: Calibration | None) -> dict[str, float | None]:
    metrics: dict[str, float | None] = {}
    for name in Calibration._fields:
        estimate = None if calibration is None else getattr(calibration, name)
        metrics[f"calibration_{name}"] = None if estimate is None else estimate.value
        metrics[f"calibration_{name}_se"] = None if estimate is None else estimate.se
    return metrics


def _next(
    trainer: Trainer,
    fits: Fits,
    logit: Floats,
    y: Floats,
    round_: int,
) -> Fits | None:
    def make() -> Ints:
        with _without_slope():
            _check_rows(
                trainer,
                fits,
                logit,
                y,
            )
        sums = recalibration.local_sums(fits, logit, y)
        return limbs.to_limbs(sums, 1)

    with sentences():
        opened_words = opened_round(
            trainer,
            round_,
            make,
            state=fits.coef,
            is_last=False,
        )
    opened_totals = limbs.whole_sums(opened_words)
    return recalibration.stepped(
        fits,
        opened_totals,
        bits=limbs.FRACTION_BITS,
    )


def _check_rows(
    trainer: Trainer,
    fits: Fits,
    logit: Floats,
    y: Floats,
) -> None:
    """As of a round that newton trains in: no few rows make up its sums."""
    max_share = trainer.order.policy.cohort.max_share
    min_rows = least_rows(trainer.order, "train")
    for numbers in recalibration.rows_at(fits, logit, y):
        probes.check_share(numbers.weights, max_share=max_share)
        probes.check_dominance(numbers.weights, min_rows=min_rows)
        probes.check_share(np.abs(numbers.scores), max_share=max_share)


@contextlib.contextmanager
def _without_slope() -> Iterator[None]:
    """Refusals of these rules with the remedy that helps here."""
    try:
        yield
    except Refused as error:
        raise Refused(
            error.sentence,
            remedy="Send the evaluation without calibration_slope, or with more rows.",
            code=error.code,
            **error.detail,
        ) from None
