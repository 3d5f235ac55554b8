"""Statistics over the rows of all providers, one below the other: local sums, added sealed, finished by the receivers.

A provider states its groups, then adds vectors of exact integers, a few for each group that all may know of. The
receivers open the sums and finish them in rational arithmetic. Quantiles take several such rounds: the first receiver
names pivots, and the providers count their rows below them. There every provider opens the sums too and searches by
itself, so that none counts a row but for the pivots that follow from the rounds before.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

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
from agents.statistics.quantile_rounds import _tells_values, rank
from agents.statistics.repeats import check_gate, groups_of, remember_groups, remember_rows, rows_of
from agents.statistics.sums import COUNT_BITS, N_NUMBERS, WIDTHS, Sums, end_sums, occurrences_or_numbers
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
    request, columns = party.request, columns_of(party.request, party.me)
    with open_data(party, columns, again=request.method in RANKED) as dataset:
        disclosure.check_rows(dataset.n_rows, party.rules)
        asked = [
            rows_of(party, dataset, names, complete=complete)
            for names, complete in _column_sets(request, party.me)
        ]
        if any(check_gate(party, rows) for rows in asked):
            return Reading(n_rows=dataset.n_rows, repeats=True)
        groups = _tally(dataset, request, party.me)
        asked_groups = (
            groups_of(party, dataset, _asked_columns(request, party.me)) if _is_grouped(request) else None
        )
        whole = _tells_values(request, party.rules) and is_whole(
            dataset, request.provider(party.me).key_column
        )

    def withhold(near: set[Label]) -> dict[Label, Withheld]:
        facts = {label: replace(found, is_near=label in near) for label, (found, _) in groups.items()}
        withheld = disclosure.withhold(facts, party.rules)
        if () in withheld:
            raise _whole(withheld[()])
        return withheld

    if asked_groups:
        withheld = remember_groups(party, asked, asked_groups, withhold)
    else:
        withheld = withhold(set())
        remember_rows(party, *asked)
    return Reading(
        n_rows=dataset.n_rows,
        whole=whole,
        n_null=dataset.n_rows - sum(facts.n_rows for facts, _ in groups.values()),
        n_rows_of={canonical(list(label)): facts.n_rows for label, (facts, _) in groups.items()},
        tallies={canonical(list(label)): numbers for label, (_, numbers) in groups.items()},
        withheld={canonical(list(label)): (why.rule, why.threshold) for label, why in withheld.items()},
    )


def _is_grouped(request: StatisticsRequest) -> bool:
    return request.group_by is not None and request.method not in TALLIED


def _asked_columns(request: StatisticsRequest, user_id: int) -> list[str]:
    """What the method is of, without the groups."""
    return list(request.columns or [request.provider(user_id).key_column])


def _column_sets(request: StatisticsRequest, user_id: int) -> list[tuple[list[str], list[str]]]:
    """The columns whose rows the gate compares, and those of them that a row must have a value in: all columns, and
    those without groups, as earlier orders may have had none; where missing values are counted, the rows with them."""
    summed = _asked_columns(request, user_id)
    if request.method in ("frequency", "crosstab"):
        return [(summed, summed), (summed, [])]
    grouped = [(columns_of(request, user_id), summed)] if request.group_by else []
    return [(summed, summed), *grouped]


def _tally(
    dataset: Dataset, request: StatisticsRequest, user_id: int
) -> dict[Label, tuple[GroupFacts, list[int]]]:
    """By group of this provider: what decides about it, and its integers."""
    column, groups = request.provider(user_id).key_column, request.group_by or []
    if request.method in ("cov", "corr"):
        assert request.columns is not None
        found = exact_totals.joint_moments(dataset, *request.columns, group_by=groups)
        joint = {label: (part, list(part.moments.numbers)) for label, part in found.items()}
        return {
            label: (GroupFacts(part.moments.n, part.largest_share), n) for label, (part, n) in joint.items()
        }
    if request.method in TALLIED:
        return {
            label: (GroupFacts(n), [n]) for label, n in _occurrences(dataset, request, user_id).items() if n
        }
    parts = exact_totals.moments(dataset, column, group_by=groups)
    n_numbers, is_summed = N_NUMBERS.get(request.method, 1), request.method in N_NUMBERS
    return {
        label: (
            GroupFacts(m.n, part.largest_share if is_summed else None),
            [m.n, m.total, m.squares][:n_numbers],
        )
        for label, part in parts.items()
        if (m := part.moments).n
    }


def _occurrences(dataset: Dataset, request: StatisticsRequest, user_id: int) -> dict[Label, int]:
    """How many rows have each value, pair of values, or bin: 0 below the first edge, the last one above the last."""
    column, groups = request.provider(user_id).key_column, request.group_by or []
    if request.method != "histogram":
        return exact_totals.counts(dataset, request.columns or [column])
    assert request.bins is not None
    edges = np.array([*request.bins[:-1], np.nextafter(request.bins[-1], np.inf)])
    parts = exact_totals.moments(dataset, column, group_by=groups)
    below = exact_totals.counts_below(dataset, column, dict.fromkeys(parts, edges), group_by=groups)
    return {
        (*label, bin_label(place)): n
        for label, part in parts.items()
        for place, n in enumerate(np.diff([0, *below[label].tolist(), part.moments.n]).tolist())
    }


def _whole(why: Withheld) -> Refused:
    """An answer without groups is not withheld but refused, by the hospital whose rule it is."""
    return Refused(
        f"This hospital's part of the answer is withheld: {why.reason}",
        remedy="Ask for more rows, or ask the hospital to change the rule under [statistics] in its policy.toml.",
        code=why.rule,
        threshold=why.threshold,
    )


# Sums


def answer(party: AgreedStatistics, reading: Reading | None) -> Answered:
    """States the groups, adds this provider's part and, at a receiver, finishes the answer."""
    agreed = agree_on_groups(party, reading)
    if agreed.repeats:
        end_sums(party, round=0)
        return Answered(repeat_answer(party, agreed.repeats) if party.is_receiver else None)
    sums = Sums(party)
    found = (rank if party.request.method in RANKED else _add)(party, reading, agreed, sums)
    return Answered(found, **_counts(reading, agreed))


def _counts(reading: Reading | None, agreed: Agreed) -> dict[str, int]:
    """How many of this provider's rows the answer is made of."""
    if reading is None:
        return {}
    shown = [canonical(list(label)) for label in agreed.shown]
    n_used = sum(reading.n_rows_of[text] for text in shown if text in reading.n_rows_of)
    n_all = sum(reading.n_rows_of.values())
    return {"n_used": n_used, "n_suppressed": n_all - n_used, "n_null": reading.n_null}


def _add(party: AgreedStatistics, reading: Reading | None, agreed: Agreed, sums: Sums) -> Answer | None:
    request, n_numbers = party.request, N_NUMBERS.get(party.request.method, 1)
    totals: list[int] = []
    if agreed.shown:
        numbers = functools.partial(occurrences_or_numbers, request, reading, agreed)
        width = WIDTHS.get(request.method, COUNT_BITS)
        totals = sums.add(numbers, count=n_numbers * len(agreed.shown), width=width, round=0)
    end_sums(party, round=1 if agreed.shown else 0)
    if not party.is_receiver:
        return None
    return _finish(request, agreed, [totals[i : i + n_numbers] for i in range(0, len(totals), n_numbers)])


# Finishing, at the receivers


def _finish(request: StatisticsRequest, agreed: Agreed, parts: Sequence[Sequence[int]]) -> Answer:
    """The answer from the joint integers of each shown group."""
    ddof = 1 if request.ddof is None else request.ddof
    values: dict[Label, Number | None] = {}
    notes = set()
    for label, part in zip(agreed.shown, parts, strict=True):
        try:
            values[label] = _value(request.method, part, ddof)
            if values[label] is None:
                notes.add(f"{request.method} of too few rows, or of equal ones, has no value.")
        except ValueError as error:
            values[label] = None
            notes.add(str(error))
    answer = grouped_answer(request, {label: [(value,)] for label, value in values.items()}, agreed.withheld)
    answer.notes += sorted(notes)
    return answer


def _value(method: str, part: Sequence[int], ddof: int) -> Number | None:
    """ValueError where it lies outside the range of doubles."""
    if method in ("cov", "corr"):
        joint = JointMoments(*part)
        return exact.covariance(joint, ddof, told) if method == "cov" else exact.correlation(joint)
    if method in (*TALLIED, "count"):
        return part[0]
    moments = Moments(*part)
    if method in ("sum", "avg"):
        return exact.sum_of(moments, told) if method == "sum" else exact.mean(moments, told)
    return exact.variance(moments, ddof, told) if method == "var" else exact.std(moments, ddof)


# Order statistics
