"""The labels of a Cox regression: a time, whether it has an event, an entry, a stratum."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from analytics.arrays import Bools, Floats, Ints, Labels, check_finite


class Outcome(NamedTuple):
    """What a row's label holds, (n,) each."""

    times: Floats
    events: Bools
    entries: Floats | None = None  # None: all rows are at risk from the beginning
    strata: Ints | None = None  # codes from 0 on; None: one baseline


_PARTS_OF_A_LABEL = 3


def outcome(y: Labels) -> Outcome:
    """What labels hold: the time, negative where no event was (censored), (n,); or
    (n, 3) with the entry, 0 where an order has none, and the stratum's code.

    So rows, folds and snapshots hold them as they hold every label.
    """
    labels = np.asarray(y, dtype=np.float64)
    if labels.ndim == 1:
        return Outcome(np.abs(labels), labels > 0)
    signed, entries, codes = labels.T
    strata = codes.astype(np.int64)
    has_strata = np.any(strata)
    # From 0 on is from the beginning: every time is above 0.
    has_entries = np.any(entries)
    return Outcome(
        times=np.abs(signed),
        events=signed > 0,
        entries=entries if has_entries else None,
        strata=strata if has_strata else None,
    )


def label(
    times: Floats,
    events: Labels,
    *,
    entries: Floats | None = None,
    strata: Ints | None = None,
) -> Floats:
    """The labels of `outcome`."""
    has_event = np.asarray(events) == 1
    signed = np.where(has_event, times, -times)
    if entries is None and strata is None:
        return signed
    none = np.zeros(len(signed))
    columns = [
        signed,
        none if entries is None else entries,
        none if strata is None else strata,
    ]
    return np.column_stack(columns)


def check_labels(y: Labels, n_rows: int) -> None:
    """Raises ValueError unless y has the form of `outcome`."""
    forms = (
        (n_rows,),
        (n_rows, _PARTS_OF_A_LABEL),
    )
    if y.shape not in forms:
        raise ValueError(
            f"y has the shape {y.shape}; labels of cox for {n_rows} rows are expected."
        )
    check_finite("y", y)
    outcomes = outcome(y)
    if not np.all(outcomes.times):
        raise ValueError("y holds a time of 0.")
    if outcomes.entries is not None and not (outcomes.entries < outcomes.times).all():
        raise ValueError("y holds an entry that is not below its time.")
