"""What a cox order's rows are beside their attributes: times, events, entries and strata,
and what their sums may be of.

A stratum's levels stay here: each hospital has baselines of its own, so nobody has to
know how another one calls them, or how many there are.

Decisions 91, 111 and 113.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from agents.gate.pair_cells import (
    Column,
    check_event_cells,
    check_event_times,
    check_intervals,
    check_late_entries,
    check_strata,
    check_times_as_weights,
)
from agents.rows.cohort import Cohort
from agents.rows.outcomes import SurvivalColumns
from agents.training.party import AskedTraining
from agents.training.row_sets import RowSet
from analytics.arrays import Bools, Floats, Ints
from analytics.training import cox_joint, cox_labels
from analytics.training.cox_labels import Outcome
from protocol.errors import Rule
from protocol.policy import OpenRows
from protocol.training_request import TrainingRequest


def survival_columns(request: TrainingRequest) -> SurvivalColumns | None:
    """The columns that a cox reads beside its label; None of another order."""
    if request.event_name is None:
        return None
    return SurvivalColumns(
        request.event_name, request.entry_name, tuple(request.strata)
    )


def outcome_columns(request: TrainingRequest, y: Any) -> list[Column]:
    """What the label holds, by the names of the columns that it was read from; without
    strata, of which no products are added up.
    """
    if request.event_name is None:
        return [(request.label_name, y)]
    outcome = cox_labels.outcome(y)
    columns: list[Column] = [
        (request.label_name, outcome.times),
        (request.event_name, outcome.events),
    ]
    if request.entry_name is not None and outcome.entries is not None:
        columns.append((request.entry_name, outcome.entries))
    return columns


def survival_rule(
    order: AskedTraining,
    cohort: Cohort,
    rules: OpenRows,
) -> Rule:
    """That on times, events, entries and strata, for one set of rows whose sums leave.

    Its refusals have the codes min_rows and few_event_times.
    """
    check = partial(
        _check_survival,
        order.request,
        cohort.y,
        min_rows=rules.min_rows,
    )
    return Rule("few_event_times", check)


def _check_survival(
    request: TrainingRequest,
    y: Any,
    *,
    min_rows: int,
) -> None:
    if request.event_name is None or y is None:
        return
    outcome = cox_labels.outcome(y)
    check_event_cells(request.event_name, outcome.events, min_rows=min_rows)
    strata = _places_of_strata(outcome)
    sizes_of_strata = [len(stratum_places) for stratum_places in strata]
    check_strata(request.strata, sizes_of_strata, min_rows=min_rows)
    for stratum_places in strata:
        _check_stratum(request, outcome, stratum_places, min_rows=min_rows)
    if request.entry_name is not None:
        check_late_entries(request.entry_name, _is_late(outcome), min_rows=min_rows)
    if request.edges:
        interval_sizes = np.concatenate(cox_joint.local_counts(y, request.edges))
        check_intervals(request.label_name, interval_sizes, min_rows=min_rows)
    if request.evaluates is None and request.hazards_time == "identity":
        event_times = _event_times(outcome, strata)
        check_times_as_weights(request.label_name, event_times, min_rows=min_rows)


def _check_stratum(
    request: TrainingRequest,
    outcome: Outcome,
    places: Ints,
    *,
    min_rows: int,
) -> None:
    """The rules on one stratum's rows, which have a baseline of their own."""
    assert request.event_name is not None, "it is a cox"
    entries = None if outcome.entries is None else outcome.entries[places]
    check_event_cells(
        request.event_name,
        outcome.events[places],
        strata=request.strata,
        min_rows=min_rows,
    )
    if request.evaluates is not None:
        # Of a kept model pairs of rows are counted, and no fractions added.
        return
    check_event_times(
        request.label_name,
        outcome.times[places],
        outcome.events[places],
        entries=entries,
        strata=request.strata,
        min_rows=min_rows,
    )


def _event_times(outcome: Outcome, strata: list[Ints]) -> Floats:
    """Each stratum's times of an event, each once in a stratum."""
    stratum_times = []
    for stratum_places in strata:
        has_event = outcome.events[stratum_places]
        event_times = outcome.times[stratum_places][has_event]
        stratum_times.append(np.unique(event_times))
    return np.concatenate(stratum_times)


def sets_of_times(
    sets: Sequence[RowSet],
    *,
    edges: Sequence[float],
) -> dict[str, Ints]:
    """By a name, the places of the rows of each stratum, of those who came after an event,
    and with a joint baseline of those who leave between two edges, with an event and
    without, in each set of a cox.

    Two orders over the same people, whose strata, entries or edges differ in one person,
    differ by that person's part: so these are sets of their own to the memory of what was
    told.
    """
    time_sets = {}
    for row_set in sets:
        if row_set.cohort.y is None:
            continue
        outcome = cox_labels.outcome(row_set.cohort.y)
        strata = _places_of_strata(outcome)
        # A single one is all of the rows, which are a set already.
        if len(strata) > 1:
            for number, places in enumerate(strata, start=1):
                time_sets[f"{row_set.name}, stratum {number}"] = row_set.places[places]
        is_late = _is_late(outcome)
        if is_late.any():
            time_sets[f"{row_set.name}, after an event"] = row_set.places[is_late]
        if edges:
            time_sets |= _sets_of_intervals(row_set, outcome, edges)
    return time_sets


def _sets_of_intervals(
    row_set: RowSet,
    outcome: Outcome,
    edges: Sequence[float],
) -> dict[str, Ints]:
    interval_sets = {}
    interval = np.searchsorted(edges, outcome.times, side="left")
    ends = {"event": True, "none": False}
    for number in range(len(edges) + 1):
        is_in_interval = interval == number
        for ending, has_event in ends.items():
            is_in = is_in_interval & (outcome.events == has_event)
            if is_in.any():
                interval_sets[f"{row_set.name}, interval {number}, {ending}"] = (
                    row_set.places[is_in]
                )
    return interval_sets


def strata_in_words(cohort: Cohort) -> str:
    """How many strata there are, for this hospital's people."""
    y = cohort.y
    if y is None:
        y = np.zeros(0)
    outcome = cox_labels.outcome(y)
    strata = _places_of_strata(outcome)
    n_empty = 0
    for stratum_places in strata:
        if not outcome.events[stratum_places].any():
            n_empty += 1
    return f"{len(strata)} strata, of which {n_empty} have no event and add nothing."


def _places_of_strata(outcome: Outcome) -> list[Ints]:
    """Of each stratum where its rows are; one without strata."""
    if outcome.strata is None:
        return [np.arange(len(outcome.times))]
    codes: Iterable[Any] = np.unique(outcome.strata)
    return [np.flatnonzero(outcome.strata == code) for code in codes]


def _is_late(outcome: Outcome) -> Bools:
    """Whose entry leaves the row out of a risk set: an event of its stratum was at that
    time or before, (n,).
    """
    is_late = np.zeros(len(outcome.times), dtype=bool)
    if outcome.entries is None:
        return is_late
    for places in _places_of_strata(outcome):
        event_times = outcome.times[places][outcome.events[places]]
        if len(event_times):
            is_late[places] = outcome.entries[places] >= event_times.min()
    return is_late
