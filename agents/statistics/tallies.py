"""What a provider adds for each group, value, pair of values or bin of its rows: exact
integers, and the facts by which its rules decide about them.

Read `pooled.py` next, which adds them over the providers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from agents.gate import derived_columns
from agents.gate.withheld_groups import GroupFacts, Label
from agents.rows import exact_totals, pivot_counts, row_groups, two_way
from agents.rows.dataset import Dataset
from agents.rows.exact_totals import JointPart, MatrixPart
from agents.statistics.labels import bin_label
from agents.statistics.opened_sets import asked_columns, bin_edges
from agents.statistics.party import AskedStatistics
from agents.statistics.sums import N_NUMBERS
from protocol.errors import Refused
from protocol.policy import StatisticsRules
from protocol.statistics_request import TALLIED, StatisticsRequest


@dataclass(frozen=True)
class Tally:
    """One group of this provider's rows."""

    # What decides about it.
    facts: GroupFacts
    # Its integers, which are added up over the providers (`sums.N_NUMBERS`).
    numbers: list[int]
    # Of the sum of squares, what its two largest make; None where none is opened.
    largest_square_share: Fraction | None = None


def own_tallies(
    dataset: Dataset,
    request: StatisticsRequest,
    user_id: int,
) -> dict[Label, Tally]:
    """The groups of this provider's rows that have a value."""
    column = request.provider(user_id).key_column
    group_by = request.grouping
    tallies: dict[Label, Tally] = {}

    if request.counted_as in ("cov", "corr"):
        return _of_columns(dataset, request)

    if request.counted_as in TALLIED:
        occurrences = _occurrences(dataset, request, user_id)
        for label, n_rows in occurrences.items():
            # A mean is of rows with a value.
            is_left_out = request.method == "avg" and label == (None,)
            if n_rows and not is_left_out:
                group_facts = GroupFacts(n_rows)
                tallies[label] = Tally(group_facts, [n_rows])
        return tallies

    # A count, a quantile and an extreme add no values, so that no row can make most of
    # them.
    is_summed = request.counted_as in N_NUMBERS
    n_numbers = N_NUMBERS.get(request.counted_as, 1)
    parts = exact_totals.moments(dataset, column, group_by=group_by)
    for label, part in parts.items():
        moments = part.moments
        if not moments.n:
            continue
        largest_share = None
        if is_summed:
            largest_share = part.largest_share
        group_facts = GroupFacts(moments.n, largest_share)
        all_numbers = [
            moments.n,
            moments.total,
            moments.squares,
        ]
        numbers = all_numbers[:n_numbers]
        if request.rows.fills:
            numbers.append(part.n_null)
        square_share = None
        if request.counted_as in ("var", "std"):
            square_share = part.largest_square_share
        tallies[label] = Tally(group_facts, numbers, square_share)
    return tallies


def _of_columns(dataset: Dataset, request: StatisticsRequest) -> dict[Label, Tally]:
    """Of the sums of several columns and of the products of each two."""
    columns = request.columns or []
    group_by = request.group_by or []
    smallest = two_way.smallest_cells(dataset, columns, group_by=group_by)
    parts: Mapping[Label, MatrixPart | JointPart]
    if request.is_matrix:
        parts = exact_totals.matrix_moments(dataset, columns, group_by=group_by)
    else:
        parts = exact_totals.joint_moments(dataset, *columns, group_by=group_by)
    tallies = {}
    for label, part in parts.items():
        group_facts = GroupFacts(
            part.moments.n,
            part.largest_share,
            smallest_cell=smallest.get(label),
        )
        numbers = list(part.moments.numbers)
        tallies[label] = Tally(group_facts, numbers, part.largest_square_share)
    return tallies


def check_masks(party: AskedStatistics, dataset: Dataset) -> None:
    """That each derived column which is added up hides the others' part."""
    request = party.request
    derived = request.rows.derived
    counts = request.counted_as in TALLIED or request.method == "count"
    if counts or len(request.providers) == 1:
        return
    for column in asked_columns(request, party.me):
        if column not in derived:
            continue
        derived_columns.check_mask(
            column,
            derived,
            n_varying=row_groups.n_varying(dataset, column),
            min_varying=party.policy.cohort.min_varying,
        )


def n_filled(tallies: Mapping[Label, Tally], request: StatisticsRequest) -> int:
    """In how many of this provider's rows the joint mean stands for a value."""
    if not request.rows.fills:
        return 0
    return sum(tally.numbers[-1] for tally in tallies.values())


def check_filled(n_rows: int, rules: StatisticsRules) -> None:
    """Refused (code min_rows) where few rows would get the mean: how many is told.

    Disclosure: a refusal shows that some rows lack a value, fewer than min_rows.
    """
    if 0 < n_rows < rules.min_rows:
        raise Refused(
            f"Fewer than this hospital's minimum of {rules.min_rows} rows have no value, and with missing = mean an"
            " answer tells how many.",
            remedy="Order missing drop, or leave missing out: the mean is the same.",
            code="min_rows",
            threshold=rules.min_rows,
        )


def _occurrences(
    dataset: Dataset,
    request: StatisticsRequest,
    user_id: int,
) -> dict[Label, int]:
    """How many rows have each value, pair of values, or bin.

    Bin 0 is what lies below the first edge, the last one what lies above the last.
    """
    column = request.provider(user_id).key_column
    group_by = request.grouping
    if not request.is_binned:
        columns = request.columns or [column]
        return row_groups.counts(dataset, columns)
    edges = bin_edges(request)
    parts = exact_totals.moments(dataset, column, group_by=group_by)
    edges_of = dict.fromkeys(parts, edges)
    counts_below = pivot_counts.counts_below(
        dataset,
        column,
        edges_of,
        group_by=group_by,
    )
    occurrences: dict[Label, int] = {}
    for label, part in parts.items():
        # A bin holds the rows that are below its upper edge but not below its lower.
        below_edges = counts_below[label].tolist()
        cumulated = [0, *below_edges, part.moments.n]
        n_rows_of_bins = np.diff(cumulated).tolist()
        for bin_place, n_rows in enumerate(n_rows_of_bins):
            bin_name = bin_label(bin_place)
            occurrences[*label, bin_name] = n_rows
    return occurrences
