"""Concordance of a survival model, as counts of pairs within a stratum.

A pair is one event and one row that was at risk at it and outlives it: time above the
event's, or the same and without an event; with entries, entry below the event's time. It
agrees where who outlives has the smaller linear predictor. Two events at one time make
no pair. (Harrell 1982, as R's survival counts.)

    C = (agreeing + tied / 2) / (agreeing + disagreeing + tied)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from analytics.arrays import Bools, Floats, Ints, Labels, Places


class Pairs(NamedTuple):
    """Counts; of several strata or hospitals they are added up."""

    agreeing: int = 0
    disagreeing: int = 0
    tied: int = 0  # in the linear predictor

    @property
    def n(self) -> int:
        return self.agreeing + self.disagreeing + self.tied

    @property
    def concordance(self) -> float | None:
        """C; None without a pair."""
        if self.n == 0:
            return None
        return (self.agreeing + self.tied / 2) / self.n


def local_pairs(
    predictors: Floats,
    times: Floats,
    events: Labels,
    *,
    entries: Floats | None = None,
    strata: Labels | None = None,
) -> Pairs:
    """One hospital's pairs in O(n log n); all arguments (n,), checked as those of
    `cox.strata_of`, predictors by `cox.predictors`.

    Disclosure: three counts over pairs of rows; through the release door only, sealed.
    """
    if strata is None:
        strata = np.zeros(len(times), dtype=np.int64)
    total = np.zeros(3, dtype=np.int64)
    for code in np.unique(strata):
        rows = np.flatnonzero(strata == code)
        own = None if entries is None else entries[rows]
        total += _pairs(predictors[rows], times[rows], events[rows] == 1, own)
    return Pairs(*total.tolist())


def _pairs(
    predictors: Floats, times: Floats, events: Bools, entries: Floats | None
) -> Ints:
    _, ranks = np.unique(predictors, return_inverse=True)
    # Events before those without one at the same time, who outlive them.
    order = np.lexsort((~events, times))
    is_event = events[order]
    sorted_times = times[order]
    event_rows = np.flatnonzero(is_event)
    own = ranks[order][event_rows]
    at = sorted_times[event_rows]
    n_at_time = np.searchsorted(at, at, side="right") - np.searchsorted(at, at)
    first = np.searchsorted(sorted_times, at, side="left") + n_at_time
    below, tied = _ranked_from(ranks[order], first, own)
    n_pairs = len(times) - first
    if entries is not None:
        # Who has not come yet outlives the event too, but was not at risk.
        by_entry = np.argsort(entries, kind="stable")
        first_to_come = np.searchsorted(entries[by_entry], at, side="left")
        not_below, not_tied = _ranked_from(ranks[by_entry], first_to_come, own)
        below = below - not_below
        tied = tied - not_tied
        n_pairs = n_pairs - (len(times) - first_to_come)
    agreeing, equal = int(below.sum()), int(tied.sum())
    return np.array([agreeing, int(n_pairs.sum()) - agreeing - equal, equal])


def _ranked_from(ranks: Places, first: Places, bounds: Places) -> tuple[Ints, Ints]:
    """Of each query how many of ranks[first:] are below its bound, and how many equal."""
    below = _n_below(ranks, first, bounds)
    return below, _n_below(ranks, first, bounds + 1) - below


def _n_below(ranks: Places, first: Places, bounds: Places) -> Ints:
    """Of each query how many of ranks[first:] are below its bound.

    Bit by bit from the highest, the ranks parted stably by each (a wavelet matrix:
    Claude and Navarro 2012): those whose bit is 0 where the bound's is 1 are below.
    """
    n_bits = len(ranks).bit_length()
    left, right = first, np.full(len(first), len(ranks))
    found = np.zeros(len(first), dtype=np.int64)
    for bit in reversed(range(n_bits)):
        is_one = (ranks >> bit) & 1
        zeros_before = np.concatenate([[0], np.cumsum(1 - is_one)])
        n_zeros = zeros_before[-1]
        left_zeros, right_zeros = zeros_before[left], zeros_before[right]
        goes_up = (bounds >> bit) & 1 == 1
        found += np.where(goes_up, right_zeros - left_zeros, 0)
        left = np.where(goes_up, n_zeros + left - left_zeros, left_zeros)
        right = np.where(goes_up, n_zeros + right - right_zeros, right_zeros)
        ranks = ranks[np.argsort(is_one, kind="stable")]
    return found
