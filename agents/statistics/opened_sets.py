"""Of whom the totals of a pooled statistic are, told to the audit before any of them is
opened: all who were asked, those with a value, and the people of each group, value, pair
of values or bin.

`audited.py` reserves them; `pooled.py` calls this with what it has read.

Decision 70.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from agents.gate.asked_sets import NO_CELL, AskedSet, Reserved
from agents.gate.withheld_groups import Label
from agents.rows import row_groups
from agents.rows.canonical import Members
from agents.rows.dataset import Dataset
from agents.statistics import audited, earlier_sketches
from agents.statistics.groups import pools_cells
from agents.statistics.labels import bin_label
from agents.statistics.party import (
    AskedStatistics,
    columns_of,
)
from analytics.arrays import Floats, Ints, let_go
from protocol.messages import canonical
from protocol.statistics_request import TALLIED, StatisticsRequest

ALL_ASKED, WITH_VALUE = "all asked", "with a value"
WITH_OWN_VALUE = "with a value in this column"
WHOLE = {ALL_ASKED, WITH_VALUE, WITH_OWN_VALUE}
"""The names of totals over all groups, beside the groups' own (`key_of`)."""


def reserve_sets(
    party: AskedStatistics,
    dataset: Dataset,
    labels: Iterable[Label],
    withheld: Collection[Label],
) -> Reserved | None:
    """Which groups, values or bins must be withheld because of what was answered
    before, and what pooled cells have to be compared with; None where the last result
    stands again. `withheld` are those that other rules withhold.
    """
    whole_sets, group_sets = sets_of(party, dataset, labels, withheld)
    reserve = functools.partial(
        audited.reserve_totals,
        party,
        dataset,
        whole_sets,
    )
    if pools_cells(party.request, party.rules):
        return reserve(cells=group_sets)
    return reserve(group_sets)


def sets_of(
    party: AskedStatistics,
    dataset: Dataset,
    labels: Iterable[Label],
    withheld: Collection[Label],
    *,
    members: Members | None = None,
    only_missing: bool = False,
) -> tuple[list[AskedSet], list[AskedSet]]:
    """Of whom the totals of a question are: those over all groups, and each group's own.

    members: the dataset's, with all columns of the question, where they have been read.
    only_missing: of a frequency or a crosstab, whose labels are then those of rows
    without a value in the first column.
    """
    request = party.request
    group_by = request.grouping
    summed = asked_columns(request, party.me)
    if members is None:
        # A derived column's people are those of the columns that it is made of, too.
        columns = request.rows.with_plain([*summed, *group_by])
        members = audited.read_members(party, dataset, columns)
    has_value = np.ones(dataset.n_rows, dtype=bool)
    for column in summed:
        has_value &= members.values[column] != 0
        let_go(members.ids)
    whole_sets = _totals_of_all(party, dataset, members, has_value)
    if not group_by and request.counted_as not in TALLIED:
        return whole_sets, []

    label_of = _opened_labels(party, labels, withheld)
    rows_of = _rows_by_label(
        party,
        dataset,
        members,
        has_value,
        only_missing=only_missing,
    )
    asked_rows = {}
    for group_name, label in label_of.items():
        asked_rows[group_name] = rows_of[label]
    # Of every group the number of its people is told: of two questions a few people
    # apart in it, the difference.
    group_sets = _totals_of_labels(party, dataset, members, asked_rows, label_of)
    if request.counted_as not in TALLIED:
        group_sets += _totals_of_groups(party, dataset, members, asked_rows)
    return whole_sets, group_sets


def _totals_of_all(
    party: AskedStatistics,
    dataset: Dataset,
    members: Members,
    has_value: NDArray[np.bool_],
) -> list[AskedSet]:
    """The totals over all groups, and of those without a value, where they are counted."""
    request = party.request
    over = request.grouping
    if not over or request.counted_as in TALLIED:
        over = [*asked_columns(request, party.me), *over]
    whole_sets = audited.totals_over(
        party,
        dataset,
        members,
        columns=request.rows.with_plain(over),
        rows={WITH_VALUE: np.flatnonzero(has_value)},
    )
    if request.counted_as in ("frequency", "crosstab"):
        whole_sets += _totals_of_missing(party, dataset, members, has_value)
    return whole_sets


def _opened_labels(
    party: AskedStatistics,
    labels: Iterable[Label],
    withheld: Collection[Label],
) -> dict[str, Label]:
    """By name the groups that may be opened: what other rules withhold will not be; of
    pooled cells the sum decides.
    """
    is_pooled = pools_cells(party.request, party.rules)
    label_of = {}
    for label in labels:
        if is_pooled or label not in withheld:
            label_of[key_of(label)] = label
    return label_of


def _totals_of_groups(
    party: AskedStatistics,
    dataset: Dataset,
    members: Members,
    asked_rows: Mapping[str, Ints],
) -> list[AskedSet]:
    """What is summed over each group, under the summed columns."""
    request = party.request
    rows = dict(asked_rows)
    if pools_cells(request, party.rules):
        nobody = np.zeros(0, dtype=np.int64)
        rows[NO_CELL] = nobody
    summed = asked_columns(request, party.me)
    return audited.totals_over(
        party,
        dataset,
        members,
        columns=request.rows.with_plain(summed),
        rows=rows,
    )


def _rows_by_label(
    party: AskedStatistics,
    dataset: Dataset,
    members: Members,
    has_value: NDArray[np.bool_],
    *,
    only_missing: bool,
) -> Mapping[Label, Ints]:
    """The rows of each group, value, pair of values or bin; of all that are asked for,
    or of those without a value in the first column.
    """
    request = party.request
    in_a_group = has_value
    if request.counted_as in ("frequency", "crosstab"):
        # Those without a value are a group, too.
        in_a_group = np.ones(dataset.n_rows, dtype=bool)
    if only_missing:
        # The numbers of a column are as many labels as rows, and none is asked for.
        first_column, *other_columns = asked_columns(request, party.me)
        in_a_group = members.values[first_column] == 0
        by_others = row_groups.grouped_rows(dataset, other_columns)
        grouped = _with_no_value(by_others)
    else:
        grouped = _labelled_rows(request, party.me, dataset)
    return _rows_by_group(grouped, in_a_group)


def _with_no_value(grouped: row_groups.GroupedRows) -> row_groups.GroupedRows:
    """The same rows, each under a label that says that a first column has no value."""
    labels: list[Label] = []
    for label in grouped.labels:
        labels.append((None, *label))
    return row_groups.GroupedRows(labels, grouped.codes)


def _totals_of_missing(
    party: AskedStatistics,
    dataset: Dataset,
    members: Members,
    has_value: NDArray[np.bool_],
) -> list[AskedSet]:
    """What is counted where values are missing: of a frequency and a crosstab this is
    a group, too.

    Who has no value is in no total over values. Whether one is there is a column of its
    own, over all who were asked: a question over some of a column's values alone is
    not refused because few are missing.
    """
    request = party.request
    totals_over = functools.partial(audited.totals_over, party, dataset)
    summed = asked_columns(request, party.me)
    decides_alone = not pools_cells(request, party.rules)
    total_sets = []
    for column in summed:
        presence, presence_name = _presence(members, column)
        total_sets += totals_over(
            presence,
            columns=[presence_name],
            rows={ALL_ASKED: np.arange(dataset.n_rows)},
        )
    for column in summed:
        has_own = members.values[column] != 0
        n_alone = np.count_nonzero(has_own & ~has_value)
        # Of a crosstab: cells with a value here and none in the other column. Each of
        # them is withheld where they are few, unless the sum of all hospitals decides.
        is_few = n_alone < party.rules.min_rows
        if is_few and decides_alone:
            continue
        total_sets += totals_over(
            members,
            columns=[column],
            rows={WITH_OWN_VALUE: np.flatnonzero(has_own)},
        )
    return total_sets


def _labelled_rows(
    request: StatisticsRequest,
    user_id: int,
    dataset: Dataset,
) -> row_groups.GroupedRows:
    """Which group, value or bin each row is in."""
    group_by = request.grouping
    column = request.provider(user_id).key_column
    if request.counted_as in ("frequency", "crosstab"):
        counted = request.columns or [column]
        return row_groups.grouped_rows(dataset, counted)
    grouped = row_groups.grouped_rows(dataset, group_by)
    if not request.is_binned:
        return grouped
    edges = bin_edges(request)
    bins = row_groups.binned_rows(dataset, column, edges)
    n_bins = len(edges) + 1
    bin_names = [bin_label(bin_place) for bin_place in range(n_bins)]
    labels: list[Label] = []
    for label in grouped.labels:
        labels += [(*label, bin_name) for bin_name in bin_names]
    # Rows without a value are in no bin, and nobody asks for them.
    codes = grouped.codes * n_bins + bins
    return row_groups.GroupedRows(labels, codes)


def _totals_of_labels(
    party: AskedStatistics,
    dataset: Dataset,
    members: Members,
    rows: Mapping[str, Ints],
    label_of: Mapping[str, Label],
) -> list[AskedSet]:
    """The people of each group, value, pair of values or bin, under the columns whose
    values are its label.

    Those without a value are a group of who was asked, and no value of the column.
    """
    request = party.request
    totals_over = functools.partial(audited.totals_over, party, dataset)
    is_pooled = pools_cells(request, party.rules)
    total_sets = []
    for label_place, column in enumerate(_label_columns(request, party.me)):
        having: dict[str, Ints] = {}
        lacking: dict[str, Ints] = {}
        if is_pooled:
            # A cell that nobody here is in any more may be under either.
            nobody = np.zeros(0, dtype=np.int64)
            having[NO_CELL] = nobody
            lacking[NO_CELL] = nobody
        for name, label in label_of.items():
            if label[label_place] is None:
                lacking[name] = rows[name]
            else:
                having[name] = rows[name]
        compared, name = _value_by_value(members, column)
        total_sets += totals_over(
            compared,
            columns=[name],
            rows=having,
        )
        presence, name = _presence(members, column)
        compared, name = _value_by_value(presence, name)
        total_sets += totals_over(
            compared,
            columns=[name],
            rows=lacking,
        )
    derived = _derived_labels(request, party.me)
    for column in request.rows.plain(derived):
        compared, name = _value_by_value(members, column)
        total_sets += totals_over(
            compared,
            columns=[name],
            rows=rows,
        )
    return total_sets


def _derived_labels(request: StatisticsRequest, user_id: int) -> list[str]:
    derived = request.rows.derived
    label_columns = _label_columns(request, user_id)
    return [column for column in label_columns if column in derived]


def _label_columns(request: StatisticsRequest, user_id: int) -> list[str]:
    """The column that each value of a group's label is of."""
    group_by = request.grouping
    if request.counted_as in TALLIED:
        # A bin is of the column that is counted; the other two have no groups.
        return [*group_by, *asked_columns(request, user_id)]
    return group_by


def _value_by_value(members: Members, column: str) -> tuple[Members, str]:
    """Under which column the people of single values are compared.

    Where whole rows stand for people `min_rows` counts twice among sets that share
    some. Beside all who have a value each of ten to nineteen people would be withheld
    at the first question: they are compared among themselves.
    """
    if not members.is_whole_row:
        return members, column
    compared_name = f"{column} value by value"
    compared_values = {compared_name: members.values[column]}
    return replace(members, values=compared_values), compared_name


def _presence(members: Members, column: str) -> tuple[Members, str]:
    """The same people with whether they have a value in a column, and what that is
    called.
    """
    has_value = members.values[column] != 0
    is_there = np.broadcast_to(np.uint64(1), has_value.shape)
    if not has_value.all():
        is_there = has_value.astype(np.uint64)
    presence_name = f"{column} is there"
    return replace(members, values={presence_name: is_there}), presence_name


def _rows_by_group(
    grouped: row_groups.GroupedRows,
    has_value: NDArray[np.bool_],
) -> dict[Label, Ints]:
    """By label the places of the rows with a value."""
    row_places = np.flatnonzero(has_value)
    codes = grouped.codes[row_places]
    # Rows without a value that is binned are in no bin: -1, before all others.
    codes += 1
    n_of_code = np.bincount(codes, minlength=len(grouped.labels) + 1)
    ends = np.cumsum(n_of_code)
    # A stable sort leaves the rows of a group in their order.
    by_group = np.argsort(codes, kind="stable")
    del codes
    in_order = row_places[by_group]
    rows_of = {}
    for code, label in enumerate(grouped.labels):
        rows_of[label] = in_order[ends[code] : ends[code + 1]]
    return rows_of


def asked_columns(request: StatisticsRequest, user_id: int) -> list[str]:
    """What the method is of, without the groups."""
    if request.columns:
        return list(request.columns)
    provider = request.provider(user_id)
    return [provider.key_column]


def is_near_sketch(party: AskedStatistics, dataset: Dataset) -> bool:
    """As `earlier_sketches.is_near_earlier`, of all rows that the answer is of."""
    request = party.request
    plain = request.rows.plain
    summed = plain(asked_columns(request, party.me))
    rows_of = functools.partial(earlier_sketches.rows_of, party, dataset)
    compared = [rows_of(summed, complete=summed)]
    if request.counted_as in ("frequency", "crosstab"):
        compared.append(rows_of(summed))
    elif request.group_by:
        columns = plain(columns_of(request, party.me))
        compared.append(rows_of(columns, complete=summed))
    is_near = functools.partial(earlier_sketches.is_near_earlier, party)
    return any(is_near(rows) for rows in compared)


def near_sketched_groups(party: AskedStatistics, dataset: Dataset) -> set[Label]:
    request = party.request
    if request.group_by is None or request.counted_as in TALLIED:
        return set()
    column_names = asked_columns(request, party.me)
    summed = request.rows.plain(column_names)
    groups = earlier_sketches.groups_of(party, dataset, summed)
    return earlier_sketches.near_groups(party, groups)


def key_of(label: Label) -> str:
    """A group as a reading names it."""
    return canonical(list(label))


def bin_edges(request: StatisticsRequest) -> Floats:
    """Rows are counted below each; the last bin holds its upper edge, so that this is a
    hair above it. Of survival every bin does: an event at an edge has happened by then.
    """
    assert request.bins is not None
    if request.method == "kaplan_meier":
        edges = np.array(request.bins, dtype=np.float64)
        return np.nextafter(edges, np.inf)
    *lower_edges, last_edge = request.bins
    above_last = np.nextafter(last_edge, np.inf)
    return np.array([*lower_edges, above_last])
