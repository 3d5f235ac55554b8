"""Many columns described at once: the questions of a paper's first table, each judged as
if it had been asked by itself, with one statement, one reservation and one sum.

`protocol/statistics_described.py` has the questions, `described_table.py` the result.
What one question of them may not open is withheld, and the others are answered.

Decision 88.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from agents.gate import disclosure, totals
from agents.gate.cohort_audit import AskedSet
from agents.gate.disclosure import GroupFacts, Label, Withheld
from agents.order.party import note_opened, receive_all, send
from agents.rows import exact_totals
from agents.rows.cohort import check_levels
from agents.rows.column_text import number_of
from agents.rows.dataset import Dataset
from agents.statistics import audited, earlier_sketches
from agents.statistics.answer import Answered, RowCounts, repeat_answered
from agents.statistics.described_table import ShownPart, finished
from agents.statistics.groups import n_label_columns
from agents.statistics.opened_sets import (
    WHOLE,
    is_near_sketch,
    key_of,
    near_sketched_groups,
    sets_of,
)
from agents.statistics.party import (
    AgreedStatistics,
    AskedStatistics,
    PartReading,
    Reading,
    open_data,
)
from agents.statistics.sums import COUNT_BITS, WIDTHS, Sums, end_sums
from agents.statistics.tallies import Tally, check_masks, own_tallies
from protocol.errors import BadRequest, Refused, bad_request
from protocol.fields import Strict
from protocol.messages import EVERYONE, bad_message, canonical, read_json
from protocol.statistics_described import Kind, Part, parts_of

HAS_VALUE = ""
"""In the place of a column's value, the label of rows that have one: no number is written
so.
"""


class _Statement(Strict):
    """A provider to all hospitals of the order, sealed to the group."""

    # In the order of the columns; of the questions, as
    # `agents.gate.disclosure.encode_statement` writes their groups.
    kinds: list[Literal["number", "category"]]
    parts: list[str]
    # Too few rows have changed since the schedule's last result, which stands again.
    repeats: bool
    min_rows: int
    min_providers: int


@dataclass(frozen=True)
class _Agreed:
    parts: list[ShownPart]
    kinds: dict[str, Kind]
    repeats: list[int]
    # The largest of all policies.
    min_rows: int


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

    def withheld(self, near: set[Label]) -> dict[Label, Withheld]:
        facts = {}
        for label, tally in self.tallies.items():
            is_near = self.is_near or label in near or label in self.near
            facts[label] = replace(tally.facts, is_near=is_near)
        return disclosure.withhold(facts, self.party.rules)


# A provider's part, read once


def read(party: AskedStatistics, levels: Mapping[str, tuple[str, ...]]) -> Reading:
    """Reads this provider's rows through the gate, and makes its integers of them.

    levels: of categories, once they are agreed on. Raises Refused (code min_rows) for too
    few rows, BadRequest for columns that are missing or cannot be used.

    Disclosure: as `agents.statistics.pooled.read_rows`.
    """
    with open_data(party, again=bool(levels), levels=levels) as dataset:
        disclosure.check_rows(dataset.n_rows, party.rules)
        kinds = _kinds(dataset, party)
        parts = []
        for part in parts_of(party.request, kinds):
            parts.append(_own_part(party, part, dataset))
        reserved = _reserve(party, dataset, parts)
    if reserved is None:
        return Reading(n_rows=dataset.n_rows, repeats=True)
    found = {}
    for own in parts:
        withheld = own.withheld(reserved[own.part.name])
        found[own.part.name] = _part_reading(own.tallies, withheld)
    return Reading(
        n_rows=dataset.n_rows,
        n_selected=dataset.n_rows + dataset.n_left_out,
        n_left_out=dataset.n_left_out,
        n_null=dataset.n_left_out,
        levels=dict(levels),
        kinds=kinds,
        parts=found,
    )


def _part_reading(
    tallies: Mapping[Label, Tally], withheld: Mapping[Label, Withheld]
) -> PartReading:
    numbers = {key_of(label): tally.numbers for label, tally in tallies.items()}
    rules = {
        key_of(label): (why.rule, why.threshold) for label, why in withheld.items()
    }
    return PartReading(tallies=numbers, withheld=rules)


def _kinds(dataset: Dataset, party: AskedStatistics) -> dict[str, Kind]:
    """What each column is at this provider: a category where the question says so, or
    some of its texts are no numbers.
    """
    kinds: dict[str, Kind] = {}
    for name in party.request.columns or []:
        kinds[name] = "category"
        if name in party.request.rows.categorical:
            continue
        try:
            number_of(dataset, name)
            kinds[name] = "number"
        except BadRequest as error:
            if error.code != "not_numeric":
                raise
    return kinds


def _own_part(party: AskedStatistics, part: Part, dataset: Dataset) -> _OwnPart:
    # Its cells are never compared jointly: one comparison is all that an order has.
    rules = party.rules.model_copy(update={"cells": "each"})
    policy = party.policy.model_copy(update={"statistics": rules})
    single = replace(party, request=part.request, policy=policy)
    check_masks(single, dataset)
    group_by = party.request.group_by or []
    own = _OwnPart(part, single, _tallies(single, part, dataset, group_by), set())
    if earlier_sketches.keeps_sketches(single):
        try:
            own.is_near = is_near_sketch(single, dataset)
        except Refused:
            own.is_near = True
        own.near = near_sketched_groups(single, dataset)
    return own


def _tallies(
    single: AskedStatistics, part: Part, dataset: Dataset, group_by: Sequence[str]
) -> dict[Label, Tally]:
    request = part.request
    if part.what == "moments":
        return own_tallies(dataset, request, single.me)
    if part.what == "levels":
        tallies = own_tallies(dataset, request, single.me)
        levels = {str(label[0]) for label in tallies if label[0] is not None}
        check_levels(
            part.column,
            levels,
            remedy="Leave it out, or derive fewer values of it.",
        )
        return {label: one for label, one in tallies.items() if label[0] is not None}
    with_value = exact_totals.counts_with_value(dataset, part.column, group_by=group_by)
    if part.what == "count":
        return {label: _counted(n) for label, n in with_value.items() if n}
    # Rows with a value and such without are told apart as those of two values are, so
    # that neither is few.
    tallies = {}
    for label, n_rows in exact_totals.counts(dataset, group_by).items():
        n = with_value[label]
        counts = {(HAS_VALUE, *label): n, (None, *label): n_rows - n}
        tallies |= {label: _counted(n) for label, n in counts.items() if n}
    return tallies


def _counted(n_rows: int) -> Tally:
    return Tally(GroupFacts(n_rows), [n_rows])


def _reserve(
    party: AskedStatistics, dataset: Dataset, parts: Sequence[_OwnPart]
) -> dict[str, set[Label]] | None:
    """By question the groups that must be withheld because of what was answered before,
    or what the others of this order open; None where the last result stands again.

    What a question's own totals would tell withholds that question alone.
    """
    request = party.request
    columns = [*(request.columns or []), *(request.group_by or [])]
    members = audited.read_members(party, dataset, request.rows.with_plain(columns))
    sets: list[AskedSet] = []
    kept_as: dict[str, str] = {}
    asked: dict[str, dict[str, Label]] = {}
    for own in parts:
        # What other rules withhold will not be opened.
        withheld = own.withheld(set())
        labels = {}
        for label in _asked_labels(own):
            if label not in withheld:
                labels[key_of(label)] = label
        asked[own.part.name] = labels
        if not labels:
            continue
        whole, groups = sets_of(
            own.party,
            dataset,
            labels.values(),
            (),
            members=members,
            only_missing=own.part.what == "missing",
        )
        for one in [*whole, *groups]:
            name = canonical([own.part.name, one.name])
            kept_as[name] = one.name
            sets.append(replace(one, name=name))
    reserved = audited.reserve_totals(party, dataset, [], sets, kept_as=kept_as)
    if reserved is None:
        return None
    found: dict[str, set[Label]] = {own.part.name: set() for own in parts}
    for name in reserved.withheld:
        part_name, key = json.loads(name)
        labels = asked[part_name]
        if key not in WHOLE:
            found[part_name].add(labels[key])
            continue
        if party.order.repeats is not None:
            return None
        # As a question by itself that is refused.
        found[part_name] |= set(labels.values())
    return found


def _asked_labels(own: _OwnPart) -> list[Label]:
    """The groups whose numbers would be opened."""
    if own.part.what != "missing":
        return list(own.tallies)
    return [label for label in own.tallies if label[0] is None]


# What all know of


def _agree(party: AgreedStatistics, reading: Reading | None) -> _Agreed:
    """States this provider's groups of each question and reads all others' statements.

    BadRequest (code levels) for a column that is of numbers at one hospital and of texts
    at another.

    Disclosure: as `agents.statistics.groups.agree_on_groups`, of each question, and which
    columns are of numbers.
    """
    request = party.request
    if reading is not None:
        state = functools.partial(_state, party, reading)
        send(party, "statement", state, recipient=EVERYONE)
    messages = receive_all(party, "statement", request.providers, EVERYONE)
    statements: dict[int, _Statement] = {}
    for user, body in messages.items():
        what = "A provider's statement of its groups"
        statements[user] = read_json(_Statement, body, what=what)
    # The strictest policy holds for all.
    everybody = list(statements.values())
    min_rows = max(statement.min_rows for statement in everybody)
    min_providers = max(statement.min_providers for statement in everybody)
    repeats = [user for user, statement in statements.items() if statement.repeats]
    if repeats:
        return _Agreed([], {}, repeats, min_rows)
    kinds = _joint_kinds(request.columns or [], everybody)
    parts = []
    asked = parts_of(request, kinds)
    if any(len(statement.parts) != len(asked) for statement in everybody):
        raise bad_message("states the groups of other questions")
    for place, part in enumerate(asked):
        texts = {user: one.parts[place].encode() for user, one in statements.items()}
        stated = disclosure.decode_statements(
            texts, n_columns=n_label_columns(part.request), key=_key(party, place)
        )
        withheld = disclosure.joint_withheld(stated, min_providers)
        shown = disclosure.shown_groups(stated, withheld)
        if part.what == "missing":
            shown = [label for label in shown if label[0] is None]
        parts.append(ShownPart(part, shown, withheld))
    return _Agreed(parts, kinds, [], min_rows)


def _joint_kinds(
    columns: Sequence[str], statements: Sequence[_Statement]
) -> dict[str, Kind]:
    if any(len(statement.kinds) != len(columns) for statement in statements):
        raise bad_message("states the kinds of other columns")
    kinds: dict[str, Kind] = {}
    mixed = []
    for place, name in enumerate(columns):
        stated = {statement.kinds[place] for statement in statements}
        kinds[name] = statements[0].kinds[place]
        if len(stated) > 1:
            mixed.append(name)
    if mixed:
        raise bad_request(
            "levels",
            f"{', '.join(mixed)}: numbers at one hospital, and texts at another.",
            "Name the column in categorical, or turn it into numbers in a view.",
        )
    return kinds


def _state(party: AgreedStatistics, reading: Reading) -> bytes:
    """This provider's statement."""
    parts = []
    for place, own in enumerate(reading.parts.values()):
        labels = [_label(text) for text in own.tallies]
        withheld = {_label(text): Withheld(*why) for text, why in own.withheld.items()}
        key = _key(party, place)
        parts.append(disclosure.encode_statement(labels, withheld, key=key).decode())
    statement = _Statement(
        kinds=list(reading.kinds.values()),
        parts=parts,
        repeats=reading.repeats,
        min_rows=party.rules.min_rows,
        min_providers=party.rules.least_providers,
    )
    return statement.model_dump_json().encode()


def _key(party: AgreedStatistics, place: int) -> bytes:
    """Of the tags of a question's small groups: equal values of two columns have
    different ones.
    """
    return party.session.group_key(b"groups of question %d" % place)


def _label(text: str) -> Label:
    return tuple(json.loads(text))


# Sums


def answer(party: AgreedStatistics, reading: Reading | None) -> Answered:
    """States the groups, adds this provider's part, and finishes at a receiver."""
    agreed = _agree(party, reading)
    names = {key_of(label) for part in agreed.parts for label in part.shown}
    # From the sums on, a receiver can open them.
    if names:
        audited.commit_totals(party, shown=names | WHOLE)
    else:
        audited.drop_totals(party)
    if agreed.repeats:
        end_sums(party, round=0)
        return repeat_answered(party, agreed.repeats)
    opened = _note_opened(party, agreed) if names else []
    numbers = _add(party, reading, agreed)
    # How many rows have a value is in the answer, and by hospital would tell the small
    # groups.
    rows = None if party.is_provider else RowCounts()
    if not party.is_receiver:
        return Answered(rows=rows)
    found = finished(party.request, agreed.parts, numbers, min_rows=agreed.min_rows)
    found.opened = opened
    return Answered(found, rows=rows)


def _note_opened(party: AgreedStatistics, agreed: _Agreed) -> list[str]:
    """What the answer opens, in words; in a provider's ledger before any of it leaves."""
    request = party.request
    opened = totals.opened_totals(request, None, kinds=agreed.kinds)
    n_rows = sum(party.n_rows[user] for user in request.providers)
    sentences = totals.words_of(
        opened, n_rows=n_rows, n_hospitals=len(request.providers)
    )
    if party.is_provider:
        note_opened(party, sentences, receivers=totals.receivers_of(request))
    return sentences


def _add(
    party: AgreedStatistics, reading: Reading | None, agreed: _Agreed
) -> dict[str, dict[Label, list[int]]]:
    """The joint integers of each question's shown groups, at who opens them: one sum of
    all numbers' moments, and one of all counts, which are a hundred times shorter.
    """
    sums = Sums(party)
    found: dict[str, dict[Label, list[int]]] = {}
    n_rounds = 0
    for is_of_numbers, width in ((True, WIDTHS["var"]), (False, COUNT_BITS)):
        parts = []
        for one in agreed.parts:
            if (one.part.what == "moments") == is_of_numbers:
                parts.append(one)
        count = sum(len(one.shown) * one.n_numbers for one in parts)
        joint: list[int] = []
        if count:
            own_numbers = _own_numbers(reading, parts)
            joint = sums.add(own_numbers, count=count, width=width, round=n_rounds)
            n_rounds += 1
        for one in parts:
            found[one.part.name] = {}
            # At who opens nothing there are no numbers.
            for label in one.shown if joint else ():
                found[one.part.name][label] = joint[: one.n_numbers]
                del joint[: one.n_numbers]
    end_sums(party, round=n_rounds)
    return found


def _own_numbers(
    reading: Reading | None, parts: Sequence[ShownPart]
) -> Callable[[], list[int]]:
    """This provider's integers of every shown group, one behind the other."""

    def own_numbers() -> list[int]:
        assert reading is not None
        numbers: list[int] = []
        for one in parts:
            tallies = reading.parts[one.part.name].tallies
            # Where it has no such rows: an addend's length says nothing of whose groups
            # they are.
            zeros = [0] * one.n_numbers
            for label in one.shown:
                numbers += tallies.get(key_of(label), zeros)
        return numbers

    return own_numbers
