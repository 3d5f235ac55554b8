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
        half_tied = self.tied / 2
        return (self.agreeing + half_tied) / self.n


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
    pair_counts = np.zeros(3, dtype=np.int64)
    for code in np.unique(strata):
        rows = np.flatnonzero(strata == code)
        own_entries = None
        if entries is not None:
            own_entries = entries[rows]
        pair_counts += _pairs(
            predictors=predictors[rows],
            times=times[rows],
            events=events[rows] == 1,
            entries=own_entries,
        )
    agreeing, disagreeing, tied = pair_counts.tolist()
    return Pairs(agreeing, disagreeing, tied)


def _pairs(
    predictors: Floats,
    times: Floats,
    events: Bools,
    entries: Floats | None,
) -> Ints:
    n_rows = len(times)
    _, ranks = np.unique(predictors, return_inverse=True)
    # Events before those without one at the same time, who outlive them.
    order = np.lexsort((~events, times))
    is_event = events[order]
    sorted_times = times[order]
    sorted_ranks = ranks[order]
    event_rows = np.flatnonzero(is_event)
    event_ranks = sorted_ranks[event_rows]
    event_times = sorted_times[event_rows]

    first_outliving = _first_outliving(sorted_times, event_times)
    below, tied = _ranked_from(sorted_ranks, first_outliving, event_ranks)
    n_pairs = n_rows - first_outliving
    if entries is not None:
        # Who has not come yet outlives the event too, but was not at risk.
        by_entry = np.argsort(entries, kind="stable")
        first_to_come = np.searchsorted(
            entries[by_entry],
            event_times,
            side="left",
        )
        not_below, not_tied = _ranked_from(
            ranks[by_entry],
            first=first_to_come,
            bounds=event_ranks,
        )
        n_to_come = n_rows - first_to_come
        below = below - not_below
        tied = tied - not_tied
        n_pairs = n_pairs - n_to_come

    agreeing = int(below.sum())
    equal = int(tied.sum())
    disagreeing = int(n_pairs.sum()) - agreeing - equal
    return np.array([agreeing, disagreeing, equal])


def _first_outliving(times: Floats, event_times: Floats) -> Places:
    """Of each event, at `event_times`, the first of the sorted rows that outlives it."""
    first_event = np.searchsorted(event_times, event_times)
    past_events = np.searchsorted(event_times, event_times, side="right")
    n_tied = past_events - first_event
    first_there = np.searchsorted(times, event_times, side="left")
    return first_there + n_tied


def _ranked_from(
    ranks: Places,
    first: Places,
    bounds: Places,
) -> tuple[Ints, Ints]:
    """Of each query how many of ranks[first:] are below its bound, and how many equal."""
    below = _n_below(ranks, first, bounds)
    up_to = _n_below(ranks, first, bounds + 1)
    return below, up_to - below


def _n_below(
    ranks: Places,
    first: Places,
    bounds: Places,
) -> Ints:
    """Of each query how many of ranks[first:] are below its bound.

    Bit by bit from the highest, the ranks parted stably by each (a wavelet matrix:
    Claude and Navarro 2012): those whose bit is 0 where the bound's is 1 are below.
    """
    n_ranks = len(ranks)
    n_queries = len(first)
    left = first
    right = np.full(n_queries, n_ranks)
    n_below = np.zeros(n_queries, dtype=np.int64)
    # A bound may be one above the last rank, which is n_ranks at most.
    for bit in reversed(range(n_ranks.bit_length())):
        is_one = (ranks >> bit) & 1
        zeros_before = np.concatenate([[0], np.cumsum(1 - is_one)])
        n_zeros = zeros_before[-1]
        left_zeros = zeros_before[left]
        right_zeros = zeros_before[right]
        goes_up = (bounds >> bit) & 1 == 1
        n_below += np.where(goes_up, right_zeros - left_zeros, 0)
        left = np.where(
            goes_up,
            n_zeros + left - left_zeros,
            left_zeros,
        )
        right = np.where(
            goes_up,
            n_zeros + right - right_zeros,
            right_zeros,
        )
        ranks = ranks[np.argsort(is_one, kind="stable")]
    return n_below
