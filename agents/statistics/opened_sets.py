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

from agents.gate.cohort_audit import NO_CELL, AskedSet, Reserved
from agents.gate.disclosure import Label
from agents.rows import exact_totals
from agents.rows.canonical import Members
from agents.rows.dataset import Dataset
from agents.statistics import audited, earlier_sketches
from agents.statistics.groups import bin_label, pools_cells
from agents.statistics.party import AskedStatistics, columns_of
from analytics.arrays import Floats, Ints
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
    whole, groups = sets_of(party, dataset, labels, withheld)
    if pools_cells(party.request, party.rules):
        return audited.reserve_totals(party, dataset, whole, cells=groups)
    return audited.reserve_totals(party, dataset, whole, groups)


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
    # A derived column's people are those of the columns that it is made of, too.
    with_plain = request.rows.with_plain
    if members is None:
        columns = with_plain([*summed, *group_by])
        members = audited.read_members(party, dataset, columns)
    has_value = np.ones(dataset.n_rows, dtype=bool)
    for column in summed:
        has_value &= members.values[column] != 0
    with_value = {WITH_VALUE: np.flatnonzero(has_value)}
    totals_over = functools.partial(audited.totals_over, party, dataset, members)

    is_tallied = request.counted_as in TALLIED
    is_by_group = bool(group_by) and not is_tallied
    over = group_by if is_by_group else [*summed, *group_by]
    whole = totals_over(columns=with_plain(over), rows=with_value)
    if request.counted_as in ("frequency", "crosstab"):
        whole += _totals_of_missing(party, dataset, members, has_value)
    if not is_by_group and not is_tallied:
        return whole, []

    is_pooled = pools_cells(request, party.rules)
    # What other rules withhold will not be opened; of pooled cells the sum decides.
    label_of = {}
    for label in labels:
        if is_pooled or label not in withheld:
            label_of[key_of(label)] = label
    in_a_group = has_value
    if request.counted_as in ("frequency", "crosstab"):
        # Those without a value are a group, too.
        in_a_group = np.ones(dataset.n_rows, dtype=bool)
    if only_missing:
        # The numbers of a column are as many labels as rows, and none is asked for.
        in_a_group = members.values[summed[0]] == 0
        grouped = _with_no_value(exact_totals.grouped_rows(dataset, summed[1:]))
    else:
        grouped = _labelled_rows(request, party.me, dataset)
    rows_of = _rows_by_group(grouped, in_a_group)
    asked = {name: rows_of[label] for name, label in label_of.items()}
    # Of every group the number of its people is told: of two questions a few people
    # apart in it, the difference.
    groups = _totals_of_labels(party, dataset, members, asked, label_of)
    if is_pooled:
        asked[NO_CELL] = np.zeros(0, dtype=np.int64)
    if not is_tallied:
        groups += totals_over(columns=with_plain(summed), rows=asked)
    return whole, groups


def _with_no_value(grouped: exact_totals.GroupedRows) -> exact_totals.GroupedRows:
    """The same rows, each under a label that says that a first column has no value."""
    labels: list[Label] = [(None, *label) for label in grouped.labels]
    return exact_totals.GroupedRows(labels, grouped.codes)


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
    totals_over = functools.partial(audited.totals_over, party, dataset)
    summed = asked_columns(party.request, party.me)
    asked = []
    for column in summed:
        presence, of_column = _presence(members, column)
        asked += totals_over(
            presence,
            columns=[of_column],
            rows={ALL_ASKED: np.arange(dataset.n_rows)},
        )
    for column in summed:
        has_own = members.values[column] != 0
        n_alone = np.count_nonzero(has_own & ~has_value)
        # Of a crosstab: cells with a value here and none in the other column. Each of
        # them is withheld where they are few, unless the sum of all hospitals decides.
        is_withheld = n_alone < party.rules.min_rows
        if is_withheld and not pools_cells(party.request, party.rules):
            continue
        asked += totals_over(
            members, columns=[column], rows={WITH_OWN_VALUE: np.flatnonzero(has_own)}
        )
    return asked


def _labelled_rows(
    request: StatisticsRequest, user_id: int, dataset: Dataset
) -> exact_totals.GroupedRows:
    """Which group, value or bin each row is in."""
    group_by = request.grouping
    column = request.provider(user_id).key_column
    if request.counted_as in ("frequency", "crosstab"):
        return exact_totals.grouped_rows(dataset, request.columns or [column])
    grouped = exact_totals.grouped_rows(dataset, group_by)
    if not request.is_binned:
        return grouped
    edges = bin_edges(request)
    bins = exact_totals.binned_rows(dataset, column, edges)
    n_bins = len(edges) + 1
    labels = []
    for label in grouped.labels:
        labels += [(*label, bin_label(place)) for place in range(n_bins)]
    # Rows without a value are in no bin, and nobody asks for them.
    return exact_totals.GroupedRows(labels, grouped.codes * n_bins + bins)


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
    asked = []
    for place, column in enumerate(_label_columns(request, party.me)):
        having: dict[str, Ints] = {}
        lacking: dict[str, Ints] = {}
        if pools_cells(party.request, party.rules):
            # A cell that nobody here is in any more may be under either.
            having[NO_CELL] = lacking[NO_CELL] = np.zeros(0, dtype=np.int64)
        for name, label in label_of.items():
            is_missing = label[place] is None
            (lacking if is_missing else having)[name] = rows[name]
        named, name = _value_by_value(members, column)
        asked += audited.totals_over(party, dataset, named, columns=[name], rows=having)
        named, name = _value_by_value(*_presence(members, column))
        asked += audited.totals_over(
            party, dataset, named, columns=[name], rows=lacking
        )
    for column in request.rows.plain(_derived_labels(request, party.me)):
        named, name = _value_by_value(members, column)
        asked += audited.totals_over(party, dataset, named, columns=[name], rows=rows)
    return asked


def _derived_labels(request: StatisticsRequest, user_id: int) -> list[str]:
    names = _label_columns(request, user_id)
    return [name for name in names if name in request.rows.derived]


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
    name = f"{column} value by value"
    return replace(members, values={name: members.values[column]}), name


def _presence(members: Members, column: str) -> tuple[Members, str]:
    """The same people with whether they have a value in a column, and what that is
    called.
    """
    is_there = (members.values[column] != 0).astype(np.uint64)
    name = f"{column} is there"
    return replace(members, values={name: is_there}), name


def _rows_by_group(
    grouped: exact_totals.GroupedRows, has_value: NDArray[np.bool_]
) -> dict[Label, Ints]:
    """By label the places of the rows with a value."""
    places = np.flatnonzero(has_value)
    in_order = places[np.argsort(grouped.codes[places], kind="stable")]
    codes = np.arange(len(grouped.labels) + 1)
    begins = np.searchsorted(grouped.codes[in_order], codes)
    return {
        label: np.sort(in_order[begins[code] : begins[code + 1]])
        for code, label in enumerate(grouped.labels)
    }


def asked_columns(request: StatisticsRequest, user_id: int) -> list[str]:
    """What the method is of, without the groups."""
    return list(request.columns or [request.provider(user_id).key_column])


def is_near_sketch(party: AskedStatistics, dataset: Dataset) -> bool:
    """As `earlier_sketches.is_near_earlier`, of all rows that the answer is of."""
    request = party.request
    summed = request.rows.plain(asked_columns(request, party.me))
    compared = [earlier_sketches.rows_of(party, dataset, summed, complete=summed)]
    if request.counted_as in ("frequency", "crosstab"):
        compared.append(earlier_sketches.rows_of(party, dataset, summed))
    elif request.group_by:
        columns = request.rows.plain(columns_of(request, party.me))
        compared.append(
            earlier_sketches.rows_of(party, dataset, columns, complete=summed)
        )
    return any(earlier_sketches.is_near_earlier(party, rows) for rows in compared)


def near_sketched_groups(party: AskedStatistics, dataset: Dataset) -> set[Label]:
    request = party.request
    if request.group_by is None or request.counted_as in TALLIED:
        return set()
    summed = request.rows.plain(asked_columns(request, party.me))
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
        return np.nextafter(np.array(request.bins, dtype=np.float64), np.inf)
    above_last = np.nextafter(request.bins[-1], np.inf)
    return np.array([*request.bins[:-1], above_last])
