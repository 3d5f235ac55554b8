"""A provider's rows for the questions that `describe` asks at once: read once, judged one
by one, and reserved in one act.

`described.py` states and adds what is read here. Decisions 88, 116 and 118.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from agents.gate import disclosure, withheld_groups
from agents.gate.asked_sets import AskedSet, Reserved
from agents.gate.withheld_groups import GroupFacts, Label, Withheld
from agents.rows import row_groups
from agents.rows.canonical import Members
from agents.rows.column_text import is_whole, number_of
from agents.rows.dataset import Dataset
from agents.rows.features import check_levels
from agents.statistics import audited, earlier_sketches
from agents.statistics.opened_sets import (
    WHOLE,
    is_near_sketch,
    key_of,
    near_sketched_groups,
    sets_of,
)
from agents.statistics.party import AskedStatistics
from agents.statistics.quantile_rounds import shows_values
from agents.statistics.readings import (
    PartReading,
    Reading,
    open_data,
)
from agents.statistics.tallies import Tally, check_masks, own_tallies
from protocol.errors import BadRequest, Refused
from protocol.messages import canonical
from protocol.statistics_described import SEARCHED, Kind, Part, parts_of

HAS_VALUE = ""
"""In the place of a column's value, the label of rows that have one: no number is written
so.
"""


@dataclass
class _OwnPart:
    """One of the questions at this provider."""

    part: Part
    # The same order as if this were what it asks.
    party: AskedStatistics
    tallies: dict[Label, Tally]
    # Earlier answers, from before the audit kept sets, that differ by few of its rows.
    near: set[Label]
    is_near: bool = False
    # As of a whole `Reading`.
    whole: bool = False

    def withheld(self, near: set[Label]) -> dict[Label, Withheld]:
        facts = {}
        for label, tally in self.tallies.items():
            is_near = self.is_near or label in near or label in self.near
            facts[label] = replace(tally.facts, is_near=is_near)
        return withheld_groups.withhold(facts, self.party.rules)


def read(party: AskedStatistics, levels: Mapping[str, tuple[str, ...]]) -> Reading:
    """Reads this provider's rows through the gate, and makes its integers of them.

    levels: of categories, once they are agreed on. Raises Refused (code min_rows) for too
    few rows, BadRequest for columns that are missing or cannot be used.

    Disclosure: as `agents.statistics.pooled.read_rows`.
    """
    # What quartiles are searched in is read in every round, the rows of categories before
    # these.
    again = party.request.searches or bool(levels)
    with open_data(party, again=again, levels=levels) as dataset:
        disclosure.check_rows(dataset.n_rows, party.rules)
        column_kinds = _kinds(dataset, party)
        own_parts = []
        for asked_part in parts_of(party.request, column_kinds):
            own_parts.append(_own_part(party, asked_part, dataset))
        reserved = _reserve(party, dataset, own_parts)
    if reserved is None:
        return Reading(n_rows=dataset.n_rows, repeats=True)
    part_readings = {}
    for own_part in own_parts:
        withheld = own_part.withheld(reserved[own_part.part.name])
        part_readings[own_part.part.name] = _part_reading(own_part, withheld)
    return Reading(
        n_rows=dataset.n_rows,
        n_selected=dataset.n_rows + dataset.n_left_out,
        n_left_out=dataset.n_left_out,
        n_null=dataset.n_left_out,
        levels=dict(levels),
        kinds=column_kinds,
        parts=part_readings,
    )


def _part_reading(
    own_part: _OwnPart, withheld: Mapping[Label, Withheld]
) -> PartReading:
    numbers = {}
    for label, tally in own_part.tallies.items():
        numbers[key_of(label)] = tally.numbers
    rules = {}
    for label, why in withheld.items():
        label_text = key_of(label)
        rules[label_text] = (why.rule, why.threshold)
    return PartReading(
        tallies=numbers,
        withheld=rules,
        whole=own_part.whole,
    )


def _kinds(dataset: Dataset, party: AskedStatistics) -> dict[str, Kind]:
    """What each column is at this provider: a category where the question says so, or
    some of its texts are no numbers.
    """
    request = party.request
    column_kinds: dict[str, Kind] = {}
    of_numbers = set(request.histograms or {})
    if isinstance(request.quartiles, list):
        of_numbers.update(request.quartiles)
    for column in request.columns or []:
        column_kinds[column] = "category"
        if column in request.rows.categorical:
            continue
        try:
            number_of(dataset, column)
            column_kinds[column] = "number"
        except BadRequest as error:
            # Of texts there is no histogram, and no median.
            if error.code != "not_numeric" or column in of_numbers:
                raise
    return column_kinds


def _own_part(
    party: AskedStatistics,
    part: Part,
    dataset: Dataset,
) -> _OwnPart:
    # Its cells are never compared jointly: one comparison is all that an order has.
    rules = party.rules.model_copy(update={"cells": "each"})
    policy = party.policy.model_copy(update={"statistics": rules})
    single = replace(
        party,
        request=part.request,
        policy=policy,
    )
    check_masks(single, dataset)
    tallies = _tallies(
        single,
        part,
        dataset,
        group_by=party.request.group_by or [],
    )
    own_part = _OwnPart(
        part=part,
        party=single,
        tallies=tallies,
        near=set(),
    )
    if part.what in SEARCHED and shows_values(part.request, rules):
        own_part.whole = is_whole(dataset, part.column)
    if earlier_sketches.keeps_sketches(single):
        try:
            own_part.is_near = is_near_sketch(single, dataset)
        except Refused:
            own_part.is_near = True
        own_part.near = near_sketched_groups(single, dataset)
    return own_part


def _tallies(
    single: AskedStatistics,
    part: Part,
    dataset: Dataset,
    *,
    group_by: Sequence[str],
) -> dict[Label, Tally]:
    request = part.request
    if part.what in ("moments", "bins", *SEARCHED):
        return own_tallies(dataset, request, single.me)
    if part.what == "levels":
        tallies = {}
        all_tallies = own_tallies(dataset, request, single.me)
        for label, tally in all_tallies.items():
            if label[0] is not None:
                tallies[label] = tally
        levels = {str(label[0]) for label in tallies}
        check_levels(
            part.column,
            levels,
            remedy="Leave it out, or derive fewer values of it.",
        )
        return tallies
    with_value = row_groups.counts_with_value(dataset, part.column, group_by=group_by)
    if part.what == "count":
        return _counted(with_value)
    # Rows with a value and such without are told apart as those of two values are, so
    # that neither is few.
    counts: dict[Label, int] = {}
    n_rows_of = row_groups.counts(dataset, group_by)
    for label, n_rows in n_rows_of.items():
        n_with_value = with_value[label]
        counts[(HAS_VALUE, *label)] = n_with_value
        counts[(None, *label)] = n_rows - n_with_value
    return _counted(counts)


def _counted(n_rows_of: Mapping[Label, int]) -> dict[Label, Tally]:
    tallies = {}
    for label, n_rows in n_rows_of.items():
        if n_rows:
            group_facts = GroupFacts(n_rows)
            tallies[label] = Tally(group_facts, [n_rows])
    return tallies


def _reserve(
    party: AskedStatistics,
    dataset: Dataset,
    own_parts: Sequence[_OwnPart],
) -> dict[str, set[Label]] | None:
    """By question the groups that must be withheld because of what was answered before,
    or what the others of this order open; None where the last result stands again.

    What a question's own totals would tell withholds that question alone.
    """
    request = party.request
    described = request.columns or []
    group_by = request.group_by or []
    columns = request.rows.with_plain([*described, *group_by])
    members = audited.read_members(party, dataset, columns)
    sets: list[AskedSet] = []
    # Of the quartiles of all: no group is withheld because of them.
    afterwards: list[AskedSet] = []
    kept_as: dict[str, str] = {}
    opened_labels: dict[str, dict[str, Label]] = {}
    for own_part in own_parts:
        part = own_part.part
        labels = _opened_labels(own_part)
        opened_labels[part.name] = labels
        for asked_set in _part_sets(own_part, dataset, members, labels.values()):
            set_name = canonical([part.name, asked_set.name])
            kept_as[set_name] = asked_set.name
            named_set = replace(asked_set, name=set_name)
            if part.what == "overall":
                afterwards.append(named_set)
            else:
                sets.append(named_set)
    reserved = audited.reserve_totals(
        party,
        dataset,
        [],
        sets,
        afterwards=afterwards,
        kept_as=kept_as,
    )
    if reserved is None:
        return None
    return _withheld_labels(party, reserved, opened_labels)


def _opened_labels(own_part: _OwnPart) -> dict[str, Label]:
    """By key the groups whose numbers would be opened: what other rules withhold will
    not be.
    """
    withheld = own_part.withheld(set())
    labels = {}
    for label in _asked_labels(own_part):
        if label not in withheld:
            labels[key_of(label)] = label
    return labels


def _asked_labels(own_part: _OwnPart) -> list[Label]:
    """The groups whose numbers the answer has, unless they are withheld."""
    if own_part.part.what != "missing":
        return list(own_part.tallies)
    return [label for label in own_part.tallies if label[0] is None]


def _part_sets(
    own_part: _OwnPart,
    dataset: Dataset,
    members: Members,
    labels: Collection[Label],
) -> list[AskedSet]:
    """Of whom one question's totals are; nobody where none of its groups is opened."""
    if not labels:
        return []
    whole_sets, group_sets = sets_of(
        own_part.party,
        dataset,
        labels,
        (),
        members=members,
        only_missing=own_part.part.what == "missing",
    )
    return [*whole_sets, *group_sets]


def _withheld_labels(
    party: AskedStatistics,
    reserved: Reserved,
    opened_labels: Mapping[str, Mapping[str, Label]],
) -> dict[str, set[Label]] | None:
    """By question the groups that the reservation withholds, all of them because of the
    question's own totals; None where a schedule's last result stands again instead.
    """
    withheld: dict[str, set[Label]] = {name: set() for name in opened_labels}
    for set_name in reserved.withheld:
        part_name, total_name = json.loads(set_name)
        labels = opened_labels[part_name]
        if total_name not in WHOLE:
            withheld[part_name].add(labels[total_name])
            continue
        if party.order.repeats is not None:
            return None
        # As a question by itself that is refused.
        withheld[part_name] |= set(labels.values())
    return withheld
