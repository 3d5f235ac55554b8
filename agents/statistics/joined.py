"""Statistics over the rows of the same person at several providers: matched by key, computed on shares.

Each provider sends tags of its keys to the coordinator, which answers which of them all have; the providers then
hold the same rows in the same order, and compute the expression on additive shares. Only the receivers add these up.

`joined_rows.py` reads a provider's rows, `matched_rows.py` finds the common ones, `shared_expression.py` computes; the
steps and their messages are in ARCHITECTURE.md.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

import numpy as np

from agents.gate import disclosure
from agents.gate.earlier_questions import digest_of
from agents.order.party import receive, receive_all, send
from agents.rows.dataset import Dataset
from agents.statistics import shared_expression
from agents.statistics.answer import Answer, Answered, repeat_answer
from agents.statistics.joined_rows import open_provider_data, used_columns
from agents.statistics.matched_rows import Matched, agree_on_rows, first_provider, in_clear, match_rows
from agents.statistics.party import Reading, StatisticsParty
from agents.statistics.repeats import data_name
from agents.statistics.results import Cell
from agents.statistics.shared_expression import JoinedResult
from analytics.statistics.circuit import Plan
from analytics.statistics.exact import text_of
from protocol.errors import ProtocolViolation
from protocol.exchange import Address
from protocol.messages import COORDINATOR, EVERYONE
from protocol.shares import matching
from protocol.statistics_messages import Types, encode_common_keys, read_common_keys, read_types
from protocol.statistics_plan import agreed_plan
from protocol.statistics_request import THRESHOLD

# The order of events


def answer(party: StatisticsParty, reading: Reading | None) -> Answered:
    """Matches, computes this provider's share, and adds all shares up at a receiver.

    Disclosure: besides the result, to the receivers: which of its keys are common, to each provider; how many, and the
    columns' types, to all and the coordinator.
    """
    if reading is not None:
        own_types = Types(repeats=reading.repeats, columns=reading.types)
        send(party, "types", lambda: own_types.model_dump_json().encode(), recipient=EVERYONE)
    announced = read_types(receive_all(party, "types", party.request.providers, EVERYONE))
    repeating = [user for user, types in announced.items() if types.repeats]
    if repeating:
        return Answered(repeat_answer(party, repeating) if party.is_receiver else None)

    circuit = agreed_plan(party.request, announced)
    if party.is_provider:
        # The circuit that is computed, before a key is matched: types may make it another one than the policy has
        # judged (decision 44).
        disclosure.check_weighing(circuit, party.me, party.rules)
    with open_provider_data(party) if reading else nullcontext() as dataset:
        matched = match_rows(party, dataset, circuit) if dataset else None
        digest, repeating = agree_on_rows(party, dataset, circuit, matched)
        if repeating:
            return Answered(repeat_answer(party, repeating) if party.is_receiver else None)
        own_shares = {}
        if dataset and matched:
            own_shares[party.me] = _compute(party, dataset, circuit, matched)
    if matched:
        _send_shares(party, circuit, matched, own_shares[party.me])
    found = _reveal(party, circuit, own_shares, matched, digest) if party.is_receiver else None
    if reading is None or matched is None:
        return Answered(found)
    return Answered(found, n_used=len(matched.keys), n_null=reading.n_null + matched.n_without)


# Computing, at a provider


class _Channel:
    """How a provider's messages of the computation travel: through the release door and the exchange."""

    def __init__(self, party: StatisticsParty) -> None:
        self._party = party

    def open(self, number: int, data: bytes) -> Mapping[int, bytes]:
        party = self._party
        others = [provider for provider in party.request.providers if provider != party.me]
        send(party, "opened", lambda: data, recipient=EVERYONE, round=number)
        return {party.me: data, **receive_all(party, "opened", others, EVERYONE, round=number)}

    def dealt(self, number: int) -> bytes:
        return self._party.exchange.get(Address(self._party.order_id, "dealt", round=number), COORDINATOR)


def _compute(party: StatisticsParty, dataset: Dataset, circuit: Plan, matched: Matched) -> bytes:
    """This provider's share of the result, after the rule of one threshold has been asked."""
    if circuit.compares:
        used = used_columns(party.request, party.me, dataset)
        _remember_comparison(party, data_name(party, dataset), sorted(used.values()), matched.keys)
    channel = _Channel(party)
    evaluate = functools.partial(
        shared_expression.evaluate,
        circuit,
        matched.columns,
        keys=party.session,
        channel=channel,
        n_rows=len(matched.keys),
    )
    return in_clear(evaluate)


def _remember_comparison(
    party: StatisticsParty, name: str, columns: Sequence[str], keys: Sequence[str]
) -> None:
    """Many thresholds over the same people would show every sum: one in the policy's period (decision 44)."""
    request = party.request
    comparison = request.expression
    if comparison is None:
        threshold = Fraction(request.threshold or THRESHOLD)
        comparison = f"{request.comparison or '>='} {threshold}"
    party.ledger.remember_threshold(
        name,
        columns,
        keys_digest=digest_of(party.ledger.hash_keys(keys)),
        threshold=comparison,
        now=datetime.now(UTC),
        days=party.rules.threshold_days,
    )


def _send_shares(party: StatisticsParty, circuit: Plan, matched: Matched, share: bytes) -> None:
    """The share of the result, and from the first provider the keys, to each receiver, sealed to it alone."""
    others = [receiver for receiver in party.request.receivers if receiver != party.me]
    for receiver in others:
        send(party, "share", lambda: share, recipient=receiver)
    if circuit.is_row_level and party.me == first_provider(party.request):
        for receiver in others:
            send(party, "keys", lambda: encode_common_keys(matched.keys), recipient=receiver)


# The result, at a receiver


def _reveal(
    party: StatisticsParty,
    circuit: Plan,
    own_shares: Mapping[int, bytes],
    matched: Matched | None,
    digest: bytes,
) -> Answer:
    """All shares added up; of a result by row, each value beside the key that all providers have said it is of."""
    request = party.request
    shares = dict(own_shares)
    others = [provider for provider in request.providers if provider not in own_shares]
    if others:
        shares |= receive_all(party, "share", others, party.me)
    found = shared_expression.reveal(circuit, shares)
    alias = request.result_alias
    if circuit.is_row_level:
        if matched and party.me == first_provider(request):
            keys = matched.keys
        else:
            keys = _receive_keys(party, found.n_rows, digest)
        cells = [_cell(value) for value in found.values]
        rows = sorted(zip(keys, cells, strict=True), key=_key_order)
        result = Answer([request.data_providers[0].key_column, alias], rows)
    else:
        result = Answer([alias], [[_cell(found.values[0])]])
    result.notes += _notes(circuit, found)
    return result


def _receive_keys(party: StatisticsParty, n_rows: int, digest: bytes) -> list[str]:
    """The first provider's word, which must be what all providers have said of the common keys, in the rows' order."""
    message = receive(party, "keys", first_provider(party.request), party.me)
    keys = read_common_keys(message, n_rows=n_rows)
    # Before they stand beside values: a first provider that exchanges two keys would exchange two people's results.
    if not _are_common(party, keys, digest):
        raise ProtocolViolation(
            "The keys of the result's rows are not the ones that the providers have in common.",
            remedy="Nothing was kept. Send the order again; if it repeats, the first provider is broken or deviates.",
            code="keys_differ",
        )
    return keys


def _are_common(party: StatisticsParty, keys: Sequence[str], digest: bytes) -> bool:
    """Whether these are the common keys whose digest all providers have said, in the order of the joined rows."""
    try:
        tags, order = matching.tags(party.session.group_key(b"match"), keys)
    except ValueError:  # a key twice, or one that is no text
        return False
    # The joined rows are in the order of their tags.
    is_in_order = bool((np.diff(order) > 0).all())
    every_tag = np.ones(len(keys), dtype=bool)
    return is_in_order and matching.common_digest(tags, every_tag) == digest


def _cell(value: Fraction | bool | None) -> Cell:
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return Decimal(text_of(value))


def _key_order(row: tuple[str, Cell]) -> tuple[int, int, str]:
    """Whole numbers first and in their order, then texts."""
    key = row[0]
    # Python reads no number of thousands of digits, and a key may be any text of a file.
    is_whole = key.removeprefix("-").isdecimal() and len(key) < 100
    return (0, int(key), key) if is_whole else (1, 0, key)


def _notes(circuit: Plan, found: JoinedResult) -> list[str]:
    notes = []
    if found.n_missing:
        notes.append(f"{found.n_missing} joined rows have no value, because a column has none there.")
    if found.n_divisions_by_zero:
        notes.append(f"{found.n_divisions_by_zero} times a row was divided by zero; it has no value.")
    if circuit.is_row_level and not circuit.is_boolean:
        notes.append("Who knows one of the columns may compute the others from this result.")
    return notes
