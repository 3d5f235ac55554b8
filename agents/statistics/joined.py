"""Statistics over the rows of the same person at several providers.

Rows are matched by key, and the result is computed on shares.

Each provider sends tags of its keys to the coordinator, which answers which of them all
have; the providers then hold the same rows in the same order, and compute the
expression on additive shares. Only the receivers add these up.

`joined_rows.py` reads a provider's rows, `matched_rows.py` finds the common ones,
`shared_expression.py` computes; the steps and their messages are in ARCHITECTURE.md.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

import numpy as np

from agents.gate import disclosure, total_rules, totals, totals_in_words
from agents.order.evaluation import evaluate_once
from agents.order.party import note_opened, receive, receive_all, send
from agents.rows.dataset import Dataset
from agents.statistics import audited
from agents.statistics.answer import (
    Answer,
    Answered,
    RowCounts,
    compared_before,
    flow_of,
    repeat_answered,
)
from agents.statistics.joined_rows import open_provider_data
from agents.statistics.matched_rows import (
    Matched,
    agree_on_rows,
    comparison_of,
    first_provider,
    in_clear,
    match_rows,
)
from agents.statistics.party import AgreedStatistics
from agents.statistics.readings import Reading
from agents.statistics.results import Cell
from analytics.statistics.circuit import Plan
from analytics.statistics.exact import text_of
from protocol.errors import ProtocolViolation, sent_by
from protocol.messages import EVERYONE
from protocol.shares import matching, shared_expression
from protocol.shares.shared_expression import JoinedResult
from protocol.statistics_messages import (
    Types,
    encode_common_keys,
    read_common_keys,
    read_types,
)
from protocol.statistics_plan import agreed_plan

# The order of events


def answer(party: AgreedStatistics, reading: Reading | None) -> Answered:
    """Matches, computes this provider's share, and adds all shares up at a receiver.

    Disclosure: besides the result, to the receivers: which of its keys are common, to
    each provider; how many, and the columns' types, to all and the coordinator.
    """
    announced = _announce_types(party, reading)
    repeating = []
    for provider, types in announced.items():
        if types.repeats:
            repeating.append(provider)
    if repeating:
        return repeat_answered(party, repeating)

    circuit = agreed_plan(party.request, announced)
    if party.is_provider:
        _check_circuit(party, circuit)
    # A hospital that only receives has no rows to match.
    matched: Matched | None = None
    own_shares: dict[int, bytes] = {}
    own_data = open_provider_data(party) if reading else nullcontext()
    with own_data as dataset:
        if dataset:
            matched = match_rows(party, dataset, circuit)
        agreed = agree_on_rows(party, dataset, circuit, matched)
        if agreed.same_question is not None:
            return compared_before(party, agreed.same_question)
        if agreed.repeats:
            return repeat_answered(party, agreed.repeats)
        if dataset and matched:
            _note_opened(party, circuit, matched)
            own_shares[party.me] = _compute(party, dataset, circuit, matched)

    answered = Answered()
    if matched:
        _send_shares(party, circuit, matched, own_shares[party.me])
    if party.is_receiver:
        answered.answer = _reveal(party, circuit, own_shares, matched, agreed.digest)
    if reading and matched:
        n_used = len(matched.keys)
        answered.rows = _told_rows(party, reading, matched)
        answered.flow = flow_of(party.request, reading, answered.rows, used=n_used)
    return answered


def _check_circuit(party: AgreedStatistics, circuit: Plan) -> None:
    """The policy's rules of the circuit that is computed, before a key is matched: types
    may make it another one than the policy has judged (decision 44).
    """
    disclosure.check_weighing(circuit, party.me, party.rules)
    opened_totals = totals.opened_totals(party.request, circuit)
    total_rules.check_owners(opened_totals, party.me, party.rules)


def _note_opened(party: AgreedStatistics, circuit: Plan, matched: Matched) -> None:
    """What is opened, in this provider's ledger before any of it leaves."""
    opened = _opened(party, circuit, n_rows=len(matched.keys))
    receivers = totals.receivers_of(party.request)
    note_opened(party, opened, receivers=receivers)


def _told_rows(
    party: AgreedStatistics,
    reading: Reading,
    matched: Matched,
) -> RowCounts | None:
    """How many of this provider's rows are used; None where one of the numbers is few."""
    n_null = reading.n_null + matched.n_without
    rows = RowCounts(used=len(matched.keys), null=n_null)
    if rows.tell_few(party.rules.min_rows):
        return None
    return rows


def _opened(
    party: AgreedStatistics,
    circuit: Plan,
    *,
    n_rows: int,
) -> list[str]:
    """What is opened, in words."""
    request = party.request
    if circuit.is_row_level:
        return totals_in_words.values_in_words(request, circuit, n_rows=n_rows)
    opened_totals = totals.opened_totals(request, circuit)
    n_hospitals = len(request.providers)
    return totals_in_words.words_of(
        opened_totals, n_rows=n_rows, n_hospitals=n_hospitals
    )


def _announce_types(
    party: AgreedStatistics,
    reading: Reading | None,
) -> dict[int, Types]:
    """What all providers say of their columns; this one says its own first."""
    if reading is not None:
        own_types = Types(repeats=reading.repeats, columns=reading.types)
        types_message = own_types.model_dump_json().encode()
        send(
            party,
            "types",
            lambda: types_message,
            recipient=EVERYONE,
        )
    messages = receive_all(
        party,
        "types",
        party.request.providers,
        EVERYONE,
    )
    announced = {}
    for provider, message_body in messages.items():
        with sent_by(provider):
            announced[provider] = read_types(message_body)
    return announced


# Computing, at a provider


def _compute(
    party: AgreedStatistics,
    dataset: Dataset,
    circuit: Plan,
    matched: Matched,
) -> bytes:
    """This provider's share of the result.

    Refused where the same people's sums are compared in another order meanwhile.
    """
    if circuit.compares:
        # Many comparisons would show every sum (decision 44).
        party.ledger.remember_comparison(
            comparison_of(party, dataset, matched.keys),
            now=datetime.now(UTC),
            days=party.rules.threshold_days,
        )
    # All have said that these are the rows: from the next message on, with the others',
    # something of them can be opened.
    audited.commit_totals(party)
    evaluate = functools.partial(
        evaluate_once,
        party,
        circuit,
        matched.columns,
        n_rows=len(matched.keys),
    )
    return in_clear(evaluate)


def _send_shares(
    party: AgreedStatistics,
    circuit: Plan,
    matched: Matched,
    share: bytes,
) -> None:
    """Sends each receiver the share of the result, sealed to it alone.

    The first provider sends the keys of the rows, too.
    """
    receivers = party.request.receivers
    other_receivers = [receiver for receiver in receivers if receiver != party.me]
    for receiver in other_receivers:
        send(
            party,
            "share",
            lambda: share,
            recipient=receiver,
        )
    if circuit.is_row_level and party.me == first_provider(party.request):

        def encode_keys() -> bytes:
            return encode_common_keys(matched.keys)

        for receiver in other_receivers:
            send(
                party,
                "keys",
                encode_keys,
                recipient=receiver,
            )


# The result, at a receiver


def _reveal(
    party: AgreedStatistics,
    circuit: Plan,
    own_shares: Mapping[int, bytes],
    matched: Matched | None,
    digest: bytes,
) -> Answer:
    """All shares added up.

    Of a result by row, each value beside the key that all providers say it is of.
    """
    request = party.request
    shares = dict(own_shares)
    other_providers = [
        provider for provider in request.providers if provider not in own_shares
    ]
    if other_providers:
        shares |= receive_all(
            party,
            "share",
            other_providers,
            party.me,
        )
    revealed = shared_expression.reveal(circuit, shares)
    value_cells = [_cell(value) for value in revealed.values]
    columns = [request.result_alias]
    if circuit.is_row_level:
        if matched and party.me == first_provider(request):
            common_keys = matched.keys
        else:
            common_keys = _receive_keys(party, revealed.n_rows, digest)
        columns = [request.data_providers[0].key_column, *columns]
        keyed = zip(common_keys, value_cells, strict=True)
        rows = sorted(keyed, key=_key_order)
        joint_answer = Answer(columns, rows)
    else:
        joint_answer = Answer(columns, [value_cells[:1]])
    joint_answer.notes += _notes(circuit, revealed)
    joint_answer.opened = _opened(party, circuit, n_rows=revealed.n_rows)
    return joint_answer


def _receive_keys(
    party: AgreedStatistics,
    n_rows: int,
    digest: bytes,
) -> list[str]:
    """The keys of the result's rows, in their order, as the first provider names them.

    ProtocolViolation (code keys_differ) where they are not those that all providers
    have said they have in common.
    """
    keys_message = receive(
        party,
        "keys",
        first_provider(party.request),
        party.me,
    )
    common_keys = read_common_keys(keys_message, n_rows=n_rows)
    # Before they stand beside values: a first provider that exchanges two keys would
    # exchange two people's results.
    if not _are_common(party, common_keys, digest):
        raise ProtocolViolation(
            "The keys of the result's rows are not the ones that the providers have in common.",
            remedy="Nothing was kept. Send the order again; if it repeats, the first provider is broken or deviates.",
            code="keys_differ",
        )
    return common_keys


def _are_common(
    party: AgreedStatistics,
    keys: Sequence[str],
    digest: bytes,
) -> bool:
    """Whether these are the keys of the common digest, in the joined rows' order."""
    match_key = party.session.group_key(b"match")
    try:
        tags, order = matching.tags(match_key, keys)
    except ValueError:  # a key twice, or one that is no text
        return False
    # The joined rows are in the order of their tags.
    steps = np.diff(order)
    if not (steps > 0).all():
        return False
    every_tag = np.ones(len(keys), dtype=bool)
    return matching.common_digest(tags, every_tag) == digest


def _cell(value: Fraction | bool | None) -> Cell:
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return Decimal(text_of(value))


def _key_order(row: tuple[str, Cell]) -> tuple[int, int, str]:
    """Whole numbers first and in their order, then texts."""
    row_key = row[0]
    # Python reads no number of thousands of digits, and a key may be any text of a
    # file.
    digits = row_key.removeprefix("-")
    if digits.isdecimal() and len(row_key) < 100:
        return (0, int(row_key), row_key)
    return (1, 0, row_key)


def _notes(circuit: Plan, revealed: JoinedResult) -> list[str]:
    notes = []
    if revealed.n_missing:
        notes.append(
            f"{revealed.n_missing} joined rows have no value, because a column has none there."
        )
    if revealed.n_divisions_by_zero:
        notes.append(
            f"{revealed.n_divisions_by_zero} times a row was divided by zero; it has no value."
        )
    if circuit.is_row_level and not circuit.is_boolean:
        notes.append(
            "Who knows one of the columns may compute the others from this result."
        )
    return notes
