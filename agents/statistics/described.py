"""Many columns described at once: the questions of a paper's first table, each judged as
if it had been asked by itself, with one statement, one reservation and common sums.

`protocol/statistics_described.py` has the questions, `described_table.py` the result.
What one question of them may not open is withheld, and the others are answered.

`described_rows.py` has a provider's rows. Quartiles are searched by `quantile_rounds.py`,
all columns' and groups' side by side.

Decisions 88, 116 and 118.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from agents.gate import (
    group_statements,
    totals,
    totals_in_words,
    withheld_groups,
)
from agents.gate.totals import OpenedTotal
from agents.gate.withheld_groups import Hidden, Label, Withheld
from agents.order.party import note_opened, send
from agents.statistics import audited
from agents.statistics.answer import Answered, RowCounts, repeat_answered
from agents.statistics.described_rows import HAS_VALUE
from agents.statistics.described_table import ShownPart, finished
from agents.statistics.groups import Agreed, receive_statements
from agents.statistics.labels import check_stated, n_label_columns
from agents.statistics.opened_sets import WHOLE, key_of
from agents.statistics.party import AgreedStatistics
from agents.statistics.quantile_rounds import (
    Ranked,
    Searched,
    check_searched,
    found_values,
    notes_of,
    search_together,
)
from agents.statistics.readings import Reading
from agents.statistics.sums import (
    COUNT_BITS,
    WIDTHS,
    Sums,
    check_counts,
    end_sums,
)
from analytics.statistics.exact import Number
from protocol.errors import bad_request
from protocol.fields import Strict
from protocol.messages import EVERYONE, bad_message
from protocol.shares.cells import MOST_THRESHOLD
from protocol.statistics_described import SEARCHED, Kind, Part, parts_of
from protocol.statistics_request import MOST_COLUMNS


class _Statement(Strict):
    """A provider to all hospitals of the order, sealed to the group.

    The fields with defaults are left out where they hold, as versions do that do not know
    them.
    """

    # In the order of the columns; of the questions, as
    # `agents.gate.group_statements.encode_statement` writes their groups.
    kinds: list[Literal["number", "category"]]
    parts: list[str]
    # Too few rows have changed since the schedule's last result, which stands again.
    repeats: bool
    min_rows: Annotated[int, Field(ge=1, le=MOST_THRESHOLD)]
    min_providers: Annotated[int, Field(ge=1, le=MOST_THRESHOLD)]
    # Of quartiles, as `groups._Statement` has them; the places of the questions whose
    # columns are of whole numbers.
    extremes: bool = False
    exact_quantiles: bool = False
    whole: list[int] = Field(default_factory=list, max_length=2 * MOST_COLUMNS)


@dataclass(frozen=True)
class _Agreed:
    parts: list[ShownPart]
    kinds: dict[str, Kind]
    repeats: list[int]
    # The largest of all policies.
    min_rows: int
    # Of the questions whose values are searched, by name, what decides how finely.
    searched: dict[str, Agreed] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """Of all shown groups, as the memory has them."""
        group_names: set[str] = set()
        for shown_part in self.parts:
            group_names |= {key_of(label) for label in shown_part.shown}
        return group_names


_Numbers = dict[str, dict[Label, list[int]]]
"""By question, the integers of each group."""

_Quartiles = dict[Label, list[Number | None]]
"""Of one question."""


# What all know of


def _agree(party: AgreedStatistics, reading: Reading | None) -> _Agreed:
    """States this provider's groups of each question and reads all others' statements.

    BadRequest (code levels) for a column that is of numbers at one hospital and of texts
    at another.

    Disclosure: as `agents.statistics.groups.agree_on_groups`, of each question, and which
    columns are of numbers.
    """
    request = party.request
    statements = _exchange_statements(party, reading)
    everybody = list(statements.values())
    # The strictest policy holds for all.
    min_rows = max(statement.min_rows for statement in everybody)
    repeats = []
    for provider, statement in statements.items():
        if statement.repeats:
            repeats.append(provider)
    if repeats:
        return _Agreed(parts=[], kinds={}, repeats=repeats, min_rows=min_rows)
    joint_kinds = _joint_kinds(request.columns or [], everybody)
    asked_parts = parts_of(request, joint_kinds)
    n_stated = {len(statement.parts) for statement in everybody}
    if n_stated != {len(asked_parts)}:
        raise bad_message("states the groups of other questions")
    shown_parts = []
    searched = {}
    for place, asked_part in enumerate(asked_parts):
        shown_part = _shown_part(party, statements, asked_part, place)
        shown_parts.append(shown_part)
        if asked_part.what in SEARCHED:
            searched[asked_part.name] = _agreed_search(everybody, shown_part, place)
    return _Agreed(
        parts=shown_parts,
        kinds=joint_kinds,
        repeats=[],
        min_rows=min_rows,
        searched=searched,
    )


def _exchange_statements(
    party: AgreedStatistics,
    reading: Reading | None,
) -> dict[int, _Statement]:
    """All providers' statements; this one sends its own first."""
    if reading is not None:
        state = functools.partial(_state, party, reading)
        send(party, "statement", state, recipient=EVERYONE)
    return receive_statements(party, _Statement, party.request.providers)


def _shown_part(
    party: AgreedStatistics,
    statements: Mapping[int, _Statement],
    part: Part,
    place: int,
) -> ShownPart:
    """The groups of one question that all may know of, by what all have stated of it."""
    statement_texts = {}
    for provider, statement in statements.items():
        statement_texts[provider] = statement.parts[place].encode()
    stated = group_statements.decode_statements(
        statement_texts,
        n_columns=n_label_columns(part.request),
        key=_key(party, place),
    )
    _check_names(part, stated.values())
    min_providers = max(statement.min_providers for statement in statements.values())
    withheld = withheld_groups.joint_withheld(stated, min_providers)
    shown_labels = withheld_groups.shown_groups(stated, withheld)
    if part.what == "missing":
        shown_labels = [label for label in shown_labels if label[0] is None]
    return ShownPart(part, shown_labels, withheld)


def _agreed_search(
    statements: Sequence[_Statement],
    shown_part: ShownPart,
    place: int,
) -> Agreed:
    """What decides how finely a question's values are searched: the strictest policy."""
    return Agreed(
        shown=shown_part.shown,
        withheld=shown_part.withheld,
        repeats=[],
        min_rows=max(statement.min_rows for statement in statements),
        exact_quantiles=all(statement.exact_quantiles for statement in statements),
        extremes=all(statement.extremes for statement in statements),
        whole=all(place in statement.whole for statement in statements),
    )


def _check_names(part: Part, stated: Collection[Iterable[Label | Hidden]]) -> None:
    """ProtocolViolation (code bad_message) for a name that the question's rows cannot
    have: as `check_stated`, and where values are told apart from none, another one.
    """
    if part.what not in ("missing", "levels"):
        check_stated(part.request, stated)
        return
    for labels in stated:
        for label in labels:
            if isinstance(label, Hidden):
                continue
            stated_value = label[0]
            if part.what == "levels" and stated_value is None:
                raise bad_message("states a level that is none")
            if part.what == "missing" and stated_value not in (HAS_VALUE, None):
                raise bad_message("states a value where rows with one are counted")


def _joint_kinds(
    columns: Sequence[str],
    statements: Sequence[_Statement],
) -> dict[str, Kind]:
    n_stated = {len(statement.kinds) for statement in statements}
    if n_stated != {len(columns)}:
        raise bad_message("states the kinds of other columns")
    joint_kinds: dict[str, Kind] = {}
    mixed = []
    for column_place, column in enumerate(columns):
        stated = {statement.kinds[column_place] for statement in statements}
        joint_kinds[column] = statements[0].kinds[column_place]
        if len(stated) > 1:
            mixed.append(column)
    if mixed:
        mixed_names = ", ".join(mixed)
        raise bad_request(
            "levels",
            f"{mixed_names}: numbers at one hospital, and texts at another.",
            "Name the column in categorical, or turn it into numbers in a view.",
        )
    return joint_kinds


def _state(party: AgreedStatistics, reading: Reading) -> bytes:
    """This provider's statement."""
    group_texts = []
    whole_places = []
    for part_place, part_reading in enumerate(reading.parts.values()):
        if part_reading.whole:
            whole_places.append(part_place)
        labels = [_label(text) for text in part_reading.tallies]
        withheld = {}
        for text, why in part_reading.withheld.items():
            withheld[_label(text)] = Withheld(*why)
        part_key = _key(party, part_place)
        groups = group_statements.encode_statement(labels, withheld, key=part_key)
        group_texts.append(groups.decode())
    rules = party.rules
    is_searched = party.request.searches
    statement = _Statement(
        kinds=list(reading.kinds.values()),
        parts=group_texts,
        repeats=reading.repeats,
        min_rows=rules.min_rows,
        min_providers=rules.least_providers,
        extremes=is_searched and rules.extremes,
        exact_quantiles=is_searched and rules.exact_quantiles,
        whole=whole_places,
    )
    text = statement.model_dump_json(exclude_defaults=True)
    return text.encode()


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
    questions = _searched_questions(agreed, reading)
    check_searched(list(questions.values()))
    # From the sums on, a receiver can open them.
    if agreed.names:
        audited.commit_totals(party, shown=agreed.names | WHOLE)
    else:
        audited.drop_totals(party)
    if agreed.repeats:
        end_sums(party, round=0)
        return repeat_answered(party, agreed.repeats)
    opened: list[str] = []
    if agreed.names:
        opened = _note_opened(party, agreed)
    numbers, n_rounds = _add(party, reading, agreed)
    searched, n_rounds = _search(
        party,
        reading,
        questions,
        first_round=n_rounds,
    )
    end_sums(party, round=n_rounds)
    # How many rows have a value is in the answer, and by hospital would tell the small
    # groups.
    rows = None if party.is_provider else RowCounts()
    if not party.is_receiver:
        return Answered(rows=rows)
    quartiles: dict[str, _Quartiles] = {}
    search_notes: set[str] = set()
    for question_name, of_question in searched.items():
        question = questions[question_name]
        of_groups = {}
        for group_search in of_question:
            values = found_values(question.request, question.agreed, group_search)
            of_groups[group_search.label] = values
        quartiles[question_name] = of_groups
        of_search = notes_of(question.request, question.agreed, of_question)
        search_notes.update(of_search)
    joint_answer = finished(
        party.request,
        agreed.parts,
        numbers,
        quartiles=quartiles,
        notes=search_notes,
        min_rows=agreed.min_rows,
    )
    joint_answer.opened = opened
    return Answered(joint_answer, rows=rows)


def _note_opened(party: AgreedStatistics, agreed: _Agreed) -> list[str]:
    """What the answer opens, in words; in a provider's ledger before any of it leaves,
    with who opens it.
    """
    request = party.request
    by_receivers: dict[tuple[str, ...], list[OpenedTotal]] = {}
    for opened_total in totals.opened_totals(request, None, kinds=agreed.kinds):
        of_receivers = by_receivers.setdefault(opened_total.receivers, [])
        of_receivers.append(opened_total)
    n_rows = sum(party.n_rows[provider] for provider in request.providers)
    opened = []
    for place, (receivers, of_receivers) in enumerate(by_receivers.items()):
        sentences = totals_in_words.words_of(
            of_receivers,
            n_rows=n_rows,
            n_hospitals=len(request.providers),
        )
        opened += sentences
        if party.is_provider:
            what = f"opens {place}" if place else "opens"
            note_opened(
                party,
                sentences,
                receivers=receivers,
                what=what,
            )
    return opened


def _add(
    party: AgreedStatistics,
    reading: Reading | None,
    agreed: _Agreed,
) -> tuple[_Numbers, int]:
    """The joint integers of each question's shown groups, at who opens them: one sum of
    all numbers' moments, and one of all counts, which are a hundred times shorter; and
    how many sums there were.
    """
    sums = Sums(party, party.request.receivers)
    joint_numbers: _Numbers = {}
    n_rounds = 0
    moments = []
    counts = []
    for shown_part in agreed.parts:
        if shown_part.part.what == "moments":
            moments.append(shown_part)
        elif shown_part.part.what not in SEARCHED:
            counts.append(shown_part)
    added = (
        (moments, WIDTHS["var"]),
        (counts, COUNT_BITS),
    )
    for shown_parts, width in added:
        n_summed = sum(
            len(shown_part.shown) * shown_part.n_numbers for shown_part in shown_parts
        )
        joint_sums: list[int] = []
        if n_summed:
            own_numbers = _own_numbers(reading, shown_parts)
            joint_sums = sums.add(
                own_numbers,
                count=n_summed,
                width=width,
                round=n_rounds,
            )
            n_rounds += 1
        for shown_part in shown_parts:
            of_groups = {}
            # At who opens nothing there are no numbers.
            shown_labels = shown_part.shown if joint_sums else ()
            for label in shown_labels:
                of_groups[label] = joint_sums[: shown_part.n_numbers]
                del joint_sums[: shown_part.n_numbers]
            joint_numbers[shown_part.part.name] = of_groups
            n_rows = [numbers[0] for numbers in of_groups.values()]
            check_counts(party, n_rows)
    return joint_numbers, n_rounds


def _own_numbers(
    reading: Reading | None,
    shown_parts: Sequence[ShownPart],
) -> Callable[[], list[int]]:
    """This provider's integers of every shown group, one behind the other."""

    def own_numbers() -> list[int]:
        assert reading is not None
        numbers: list[int] = []
        for shown_part in shown_parts:
            tallies = reading.parts[shown_part.part.name].tallies
            # Where it has no such rows: an addend's length says nothing of whose groups
            # they are.
            zeros = [0] * shown_part.n_numbers
            for label in shown_part.shown:
                numbers += tallies.get(key_of(label), zeros)
        return numbers

    return own_numbers


# Searches


def _searched_questions(agreed: _Agreed, reading: Reading | None) -> dict[str, Ranked]:
    """By name the questions whose values are searched, of which a group is shown."""
    questions = {}
    for shown_part in agreed.parts:
        question_name = shown_part.part.name
        of_part = agreed.searched.get(question_name)
        if of_part is None or not shown_part.shown:
            continue
        tallies: dict[str, list[int]] = {}
        if reading is not None:
            tallies = reading.parts[question_name].tallies
        questions[question_name] = Ranked(
            shown_part.part.request,
            of_part,
            tallies,
        )
    return questions


def _search(
    party: AgreedStatistics,
    reading: Reading | None,
    questions: Mapping[str, Ranked],
    *,
    first_round: int,
) -> tuple[dict[str, list[Searched]], int]:
    """By name the ended searches of each question's groups, and the round behind them.

    Every hospital opens these counts, which are sums of their own.
    """
    if not questions:
        return {}, first_round
    sums = Sums(party, party.request.openers, series=1)
    ranked_questions = list(questions.values())
    searched, n_rounds = search_together(
        party,
        reading,
        ranked_questions,
        sums,
        first_round=first_round,
    )
    by_name = dict(zip(questions, searched, strict=True))
    return by_name, n_rounds
