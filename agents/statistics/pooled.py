"""Statistics over the rows of all providers, one below the other: local sums, added sealed, finished by the receivers.

A provider states its groups, then adds vectors of exact integers, a few for each group that all may know of. The
receivers open the sums and finish them in rational arithmetic. Quantiles take several such rounds: the first receiver
names pivots, and the providers count their rows below them. There every provider opens the sums too and searches by
itself, so that none counts a row but for the pivots that follow from the rounds before.

Read `groups.py` next for what is stated, `sums.py` for how integers are added, `quantile_rounds.py` for quantiles.

Decision 41.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from agents.gate import disclosure
from agents.gate.disclosure import GroupFacts, Label, Withheld
from agents.rows import exact_totals
from agents.rows.column_text import is_whole
from agents.rows.dataset import Dataset
from agents.statistics.answer import Answer, Answered, grouped_answer, repeat_answer
from agents.statistics.groups import Agreed, agree_on_groups, bin_label
from agents.statistics.party import (
    AgreedStatistics,
    Reading,
    VerifiedStatistics,
    columns_of,
    keep_reading,
    open_data,
)
from agents.statistics.quantile_rounds import rank, shows_values
from agents.statistics.repeats import check_gate, groups_of, remember_groups, remember_rows, rows_of
from agents.statistics.sums import COUNT_BITS, N_NUMBERS, WIDTHS, Sums, end_sums, shown_tallies
from analytics.statistics import exact
from analytics.statistics.exact import JointMoments, Moments, Number, told
from protocol.errors import Refused
from protocol.messages import canonical
from protocol.statistics_request import RANKED, TALLIED, StatisticsRequest

# A provider's part, read once


def read_rows(party: VerifiedStatistics) -> Reading:
    """Reads this provider's rows through the gate, and what its part of the answer is made of.

    Raises Refused with the rule, or BadRequest for data that cannot be used.

    Disclosure: rows and sums stay here; others learn the row count, after the gate has passed.
    """
    return keep_reading(party, lambda: _read(party))


def _read(party: VerifiedStatistics) -> Reading:
    request = party.request
    columns = columns_of(request, party.me)
    with open_data(party, columns, again=request.method in RANKED) as dataset:
        disclosure.check_rows(dataset.n_rows, party.rules)
        asked_rows = []
        for compared in _compared_columns(request, party.me):
            asked_rows.append(rows_of(party, dataset, compared.columns, complete=compared.complete))
        if any(check_gate(party, rows) for rows in asked_rows):
            return Reading(n_rows=dataset.n_rows, repeats=True)
        tallies = _tally(dataset, request, party.me)
        asked_groups = None
        if request.group_by is not None and request.method not in TALLIED:
            asked_groups = groups_of(party, dataset, _asked_columns(request, party.me))
        whole = False
        if shows_values(request, party.rules):
            whole = is_whole(dataset, request.provider(party.me).key_column)

    def withhold(near: set[Label]) -> dict[Label, Withheld]:
        facts = {}
        for label, tally in tallies.items():
            facts[label] = replace(tally.facts, is_near=label in near)
        withheld = disclosure.withhold(facts, party.rules)
        # Without group columns the one group has no value to name it.
        if () in withheld:
            raise _refused(withheld[()])
        return withheld

    # Nothing has left so far. What is remembered here can be asked again only as it is (decision 38).
    if asked_groups:
        withheld = remember_groups(party, asked_rows, asked_groups, withhold)
    else:
        withheld = withhold(set())
        remember_rows(party, *asked_rows)
    n_with_value = sum(tally.facts.n_rows for tally in tallies.values())
    return Reading(
        n_rows=dataset.n_rows,
        n_null=dataset.n_rows - n_with_value,
        whole=whole,
        n_rows_of={_key(label): tally.facts.n_rows for label, tally in tallies.items()},
        tallies={_key(label): tally.numbers for label, tally in tallies.items()},
        withheld={_key(label): (why.rule, why.threshold) for label, why in withheld.items()},
    )


def _key(label: Label) -> str:
    """A group as a reading names it."""
    return canonical(list(label))


def _refused(why: Withheld) -> Refused:
    """An answer without groups is not withheld but refused, by the hospital whose rule it is."""
    return Refused(
        f"This hospital's part of the answer is withheld: {why.reason}",
        remedy="Ask for more rows, or ask the hospital to change the rule under [statistics] in its policy.toml.",
        code=why.rule,
        threshold=why.threshold,
    )


# Which rows are compared with earlier ones


@dataclass(frozen=True)
class _ComparedColumns:
    """Rows as the gate compares them."""

    columns: list[str]
    # Those of them that a row must have a value in to be in the answer.
    complete: list[str]


def _compared_columns(request: StatisticsRequest, user_id: int) -> list[_ComparedColumns]:
    summed = _asked_columns(request, user_id)
    # Without the groups in any case, as an earlier order may have had none.
    compared = [_ComparedColumns(summed, complete=summed)]
    if request.method in ("frequency", "crosstab"):
        # Missing values are counted, so that rows without one are in the answer.
        compared.append(_ComparedColumns(summed, complete=[]))
    elif request.group_by:
        compared.append(_ComparedColumns(columns_of(request, user_id), complete=summed))
    return compared


def _asked_columns(request: StatisticsRequest, user_id: int) -> list[str]:
    """What the method is of, without the groups."""
    return list(request.columns or [request.provider(user_id).key_column])


# This provider's integers


@dataclass(frozen=True)
class _Tally:
    """One group of this provider's rows."""

    # What decides about it.
    facts: GroupFacts
    # Its integers, which are added up over the providers (`sums.N_NUMBERS`).
    numbers: list[int]


def _tally(dataset: Dataset, request: StatisticsRequest, user_id: int) -> dict[Label, _Tally]:
    """The groups of this provider's rows that have a value."""
    column = request.provider(user_id).key_column
    group_by = request.group_by or []
    tallies: dict[Label, _Tally] = {}

    if request.method in ("cov", "corr"):
        assert request.columns is not None
        joint_parts = exact_totals.joint_moments(dataset, *request.columns, group_by=group_by)
        for label, joint in joint_parts.items():
            facts = GroupFacts(joint.moments.n, joint.largest_share)
            tallies[label] = _Tally(facts, list(joint.moments.numbers))
        return tallies

    if request.method in TALLIED:
        for label, n_rows in _occurrences(dataset, request, user_id).items():
            if n_rows:
                tallies[label] = _Tally(GroupFacts(n_rows), [n_rows])
        return tallies

    # A count, a quantile and an extreme add no values, so that no row can make most of them.
    is_summed = request.method in N_NUMBERS
    n_numbers = N_NUMBERS.get(request.method, 1)
    for label, part in exact_totals.moments(dataset, column, group_by=group_by).items():
        moments = part.moments
        if moments.n:
            largest_share = part.largest_share if is_summed else None
            numbers = [moments.n, moments.total, moments.squares]
            tallies[label] = _Tally(GroupFacts(moments.n, largest_share), numbers[:n_numbers])
    return tallies


def _occurrences(dataset: Dataset, request: StatisticsRequest, user_id: int) -> dict[Label, int]:
    """How many rows have each value, pair of values, or bin: 0 below the first edge, the last one above the last."""
    column = request.provider(user_id).key_column
    group_by = request.group_by or []
    if request.method != "histogram":
        return exact_totals.counts(dataset, request.columns or [column])
    assert request.bins is not None
    # Rows are counted below each edge; the last bin holds its upper edge, so that this is a hair above it.
    above_last = np.nextafter(request.bins[-1], np.inf)
    edges = np.array([*request.bins[:-1], above_last])
    parts = exact_totals.moments(dataset, column, group_by=group_by)
    below = exact_totals.counts_below(dataset, column, dict.fromkeys(parts, edges), group_by=group_by)
    occurrences: dict[Label, int] = {}
    for label, part in parts.items():
        cumulated = [0, *below[label].tolist(), part.moments.n]
        for place, n_rows in enumerate(np.diff(cumulated).tolist()):
            occurrences[*label, bin_label(place)] = n_rows
    return occurrences


# Sums


def answer(party: AgreedStatistics, reading: Reading | None) -> Answered:
    """States the groups, adds this provider's part and, at a receiver, finishes the answer."""
    agreed = agree_on_groups(party, reading)
    if agreed.repeats:
        end_sums(party, round=0)
        return Answered(repeat_answer(party, agreed.repeats) if party.is_receiver else None)
    sums = Sums(party)
    find = rank if party.request.method in RANKED else _add
    found = find(party, reading, agreed, sums)
    if reading is None:
        return Answered(found)
    # A group that all may know of need not exist at this provider.
    shown = [_key(label) for label in agreed.shown]
    n_used = sum(reading.n_rows_of.get(key, 0) for key in shown)
    n_suppressed = sum(reading.n_rows_of.values()) - n_used
    return Answered(found, n_used=n_used, n_suppressed=n_suppressed, n_null=reading.n_null)


def _add(party: AgreedStatistics, reading: Reading | None, agreed: Agreed, sums: Sums) -> Answer | None:
    """One sum of the integers of all shown groups; the answer at a receiver."""
    request = party.request
    n_numbers = N_NUMBERS.get(request.method, 1)
    totals: list[int] = []
    if agreed.shown:
        own_numbers = functools.partial(shown_tallies, request, reading, agreed)
        width = WIDTHS.get(request.method, COUNT_BITS)
        totals = sums.add(own_numbers, count=n_numbers * len(agreed.shown), width=width, round=0)
    end_sums(party, round=1 if agreed.shown else 0)
    if not party.is_receiver:
        return None
    by_group = [totals[begin : begin + n_numbers] for begin in range(0, len(totals), n_numbers)]
    return _finish(request, agreed, by_group)


# Finishing, at the receivers


def _finish(request: StatisticsRequest, agreed: Agreed, by_group: Sequence[Sequence[int]]) -> Answer:
    """The answer from the joint integers of each shown group."""
    ddof = 1 if request.ddof is None else request.ddof
    rows: dict[Label, list[tuple[Number | None]]] = {}
    notes = set()
    for label, numbers in zip(agreed.shown, by_group, strict=True):
        try:
            value = _value(request.method, numbers, ddof)
            if value is None:
                notes.add(f"{request.method} of too few rows, or of equal ones, has no value.")
        except ValueError as error:
            value = None
            notes.add(str(error))
        rows[label] = [(value,)]
    found = grouped_answer(request, rows, agreed.withheld)
    found.notes += sorted(notes)
    return found


def _value(method: str, numbers: Sequence[int], ddof: int) -> Number | None:
    """A group's statistic from its joint integers. ValueError where it lies outside the range of doubles."""
    match method:
        case "count" | "histogram" | "frequency" | "crosstab":
            return numbers[0]
        case "cov":
            return exact.covariance(JointMoments(*numbers), ddof, told)
        case "corr":
            return exact.correlation(JointMoments(*numbers))
        case "sum":
            return exact.sum_of(Moments(*numbers), told)
        case "avg":
            return exact.mean(Moments(*numbers), told)
        case "var":
            return exact.variance(Moments(*numbers), ddof, told)
        case "std":
            return exact.std(Moments(*numbers), ddof)
    raise TypeError(f"{method} is no sum")
