"""Statistics over the rows of the same person at several providers: matched by key, computed on shares.

Each provider sends tags of its keys to the coordinator, which tells it which of them all have; the providers then
hold the same rows in the same order, and compute the expression on additive shares. Only the receivers add these up.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from agents import disclosure, joined
from agents.answer import Answer, Answered, repeat_answer
from agents.dataset import Dataset
from agents.join_columns import is_numeric, join_keys, read_column, type_of
from agents.joined import JoinedResult, text_of
from agents.party import receive, receive_all, send
from agents.results import Cell
from agents.statistics import (
    AskedRows,
    Reading,
    StatisticsParty,
    check_gate,
    columns_of,
    data_name,
    keep_reading,
    open_data,
    ordered_expression,
    remember_rows,
    rows_of,
)
from agents.statistics_ledger import digest_of, sketch_of
from analytics.circuit import Plan, plan
from analytics.expression import Expression, ExpressionError, compare_sum
from analytics.rowwise import Column, Fixed, compute
from protocol import matching
from protocol.errors import BadRequest, ProtocolViolation
from protocol.exchange import Address
from protocol.messages import COORDINATOR, EVERYONE, canonical
from protocol.order import Strict
from protocol.statistics_request import THRESHOLD, StatisticsRequest

T = TypeVar("T")

VALUE = "value"
"""What the compared column of every provider is called in the expression of is_investor_accredited."""


# The expression


class Types(Strict):
    """A provider to everyone, in clear: its columns' types by alias.column, or that the last result stands again."""

    repeats: bool
    columns: dict[str, tuple[int, int, int, bool]]


def read_types(messages: Mapping[int, bytes]) -> dict[int, Types]:
    """What the providers announced. ProtocolViolation (code bad_message) for anything else."""
    try:
        return {user: Types.model_validate_json(body) for user, body in messages.items()}
    except ValidationError:
        raise ProtocolViolation(
            "A provider's types cannot be read.", remedy="Run the same version at all hospitals.", code="bad_message"
        ) from None


def agreed_plan(request: StatisticsRequest, announced: Mapping[int, Types]) -> Plan:
    """The circuit of an order, which coordinator, providers and receivers make alike from the announced types."""
    expression = expression_of(request)
    owners = {request.alias(user): user for user in request.providers}
    for user, one in announced.items():
        if not all(name.startswith(f"{request.alias(user)}.") for name in one.columns):
            raise ProtocolViolation(
                f"Hospital {user} announces types of columns that are another's.",
                remedy="Nothing was computed. Run the same version at all hospitals.",
                code="bad_message",
            )
    try:
        types = {name: Fixed(*fixed) for one in announced.values() for name, fixed in one.columns.items()}
        return plan(expression, types, owners)
    except ExpressionError as error:
        raise BadRequest(error.sentence, remedy=error.remedy, code="expression") from None


def expression_of(request: StatisticsRequest) -> Expression:
    """That of method custom; for is_investor_accredited the sum over all providers against the threshold."""
    written = ordered_expression(request)
    if written is not None:
        return written
    columns = [(request.alias(user), VALUE) for user in request.providers]
    return compare_sum(columns, request.comparison or ">=", threshold=Fraction(request.threshold or THRESHOLD))


# A provider's rows, read once


def read_rows(party: StatisticsParty) -> Reading:
    """Reads this provider's keys and columns through the gate, and keeps them until the order ends.

    Raises Refused with the rule, or BadRequest for data that cannot be used.

    Disclosure: rows stay here; others learn the row count, after the gate has passed.
    """
    return keep_reading(party, lambda: _read(party))


def _read(party: StatisticsParty) -> Reading:
    request, alias = party.request, party.request.alias(party.me)
    with _open(party) as dataset:
        disclosure.check_rows(dataset.n_rows, party.rules)
        used = _used_columns(request, party.me, dataset)
        _check_row_level(party, list(used.values()))
        key_column = request.provider(party.me).key_column
        columns = [key_column, *used.values()]
        rows = rows_of(party, dataset, list(dict.fromkeys(columns)))
        if check_gate(party, rows):
            return Reading(n_rows=dataset.n_rows, repeats=True)
        digits = request.provider(party.me).digits
        types = {f"{alias}.{name}": type_of(dataset, column, digits) for name, column in used.items()}
        n_keys = len(join_keys(dataset, *_key_of(party)).keys)
    remember_rows(party, rows)
    return Reading(
        n_rows=dataset.n_rows,
        n_null=dataset.n_rows - n_keys,
        types={name: (t.two, t.five, t.bits, t.nullable) for name, t in types.items()},
    )


def _key_of(party: StatisticsParty) -> tuple[str, str]:
    request = party.request
    return request.provider(party.me).key_column, request.key_normalisation or "text"


def _open(party: StatisticsParty) -> AbstractContextManager[Dataset]:
    """All columns where the one to compare is not named, else those that are used."""
    request = party.request
    is_named = request.expression is not None or request.provider(party.me).value_column is not None
    return open_data(party, columns_of(request, party.me) if is_named else None, again=True)


def _used_columns(request: StatisticsRequest, user_id: int, dataset: Dataset) -> dict[str, str]:
    """This provider's columns by their names in the expression; "value" is the one column of numbers beside the key."""
    written = ordered_expression(request)
    if written is not None:
        return {name: name for name in written.columns_of(request.alias(user_id))}
    provider = request.provider(user_id)
    if provider.value_column:
        return {VALUE: provider.value_column}
    numeric = [name for name in dataset.columns if name != provider.key_column and is_numeric(dataset, name)]
    if len(numeric) != 1:
        raise BadRequest(
            f"value_column is missing, and the data have {len(numeric)} columns of numbers beside the key.",
            remedy="Name the column to add up as value_column.",
            code="value_column",
        )
    return {VALUE: numeric[0]}


def _check_row_level(party: StatisticsParty, columns: Sequence[str]) -> None:
    """Again with the columns that were found: who names none must not get one that the policy closes."""
    if expression_of(party.request).is_row_level:
        key = party.request.provider(party.me).key_column
        disclosure.check_row_level([key, *columns], party.rules)


# Matching


@dataclass(frozen=True)
class Matched:
    """The joined rows of this provider in the joint order: their keys, and its columns by "alias.column".

    n_without: rows that were left out of an aggregate because a value is missing here.
    """

    keys: list[str]
    columns: dict[str, Column]
    digest: bytes
    n_without: int


def _match(party: StatisticsParty, dataset: Dataset, circuit: Plan) -> Matched:
    """Finds the rows that all providers have; of an aggregate, those that have a value at all of them.

    So the gate sees the very people that an aggregate is made of: a missing value is no way to choose them.

    Raises Refused for fewer of them than this provider's minimum (code min_rows) and for a sum of which two make nearly
    all here (max_share), ProtocolViolation (keys_differ) where the coordinator told the providers different ones.

    Disclosure: tags of the keys, which only their holders can make, to the coordinator.
    """
    found = join_keys(dataset, *_key_of(party))
    columns = _own_columns(party, dataset, circuit, found.places)
    kept = np.flatnonzero(_have_values(circuit, party.me, columns, n_rows=len(found.keys)))
    disclosure.check_joined(len(kept), party.rules)
    tags, order = matching.tags(party.session.group_key(b"match"), [found.keys[row] for row in kept.tolist()])
    send(party, "tags", lambda: matching.encode_tags(tags), recipient=COORDINATOR)
    common = matching.decode_bitmap(
        party.exchange.get(Address(party.order_id, "common"), COORDINATOR), n_tags=len(tags)
    )
    rows = kept[matching.common_rows(order, common)]
    disclosure.check_joined(len(rows), party.rules)
    joint = {name: Column(column.values[rows], column.valid[rows]) for name, column in columns.items()}
    _check_shares(party, circuit, joint, n_rows=len(rows))
    party.release.ledger.write(
        "matched", order_id=party.order_id, n_common=len(rows), n_unmatched=len(tags) - len(rows)
    )
    return Matched(
        [found.keys[row] for row in rows.tolist()],
        joint,
        matching.common_digest(tags, common),
        len(found.keys) - len(kept),
    )


def _own_columns(
    party: StatisticsParty, dataset: Dataset, circuit: Plan, places: NDArray[np.intp]
) -> dict[str, Column]:
    alias = party.request.alias(party.me)
    used = {f"{alias}.{name}": column for name, column in _used_columns(party.request, party.me, dataset).items()}
    return {name: read_column(dataset, column, circuit.types[name], places) for name, column in used.items()}


def _have_values(circuit: Plan, me: int, columns: Mapping[str, Column], *, n_rows: int) -> NDArray[np.bool_]:
    """Which rows count: all where each has a row in the result, else those that miss nothing here. The circuit of an
    aggregate takes it that no other row is there."""
    kept = np.ones(n_rows, dtype=bool)
    if circuit.is_row_level:
        return kept
    for column in columns.values():
        kept &= column.valid
    for leaf in circuit.needed:
        if leaf.provider == me:
            done = _in_clear(functools.partial(compute, leaf.node, columns, circuit.types, n_rows=n_rows))
            kept &= done.valid
    return kept


def _check_shares(party: StatisticsParty, circuit: Plan, columns: Mapping[str, Column], *, n_rows: int) -> None:
    """The rule max_share for every sum of what this provider has of the joined rows."""
    for node in circuit.summed(party.me):
        if node.op == "indicator":  # a count
            continue
        done = _in_clear(functools.partial(compute, node, columns, circuit.types, n_rows=n_rows))
        sizes = sorted(map(abs, done.values.tolist()))
        disclosure.check_share(Fraction(sum(sizes[-2:]), sum(sizes) or 1), party.rules)


def _in_clear(work: Callable[[], T]) -> T:
    """BadRequest (code digits) where a column holds what its type does not."""
    try:
        return work()
    except ExpressionError as error:
        raise BadRequest(error.sentence, remedy=error.remedy, code="digits") from None


def _agree_on_rows(
    party: StatisticsParty, dataset: Dataset | None, circuit: Plan, matched: Matched | None
) -> tuple[bytes, list[int]]:
    """Every provider has matched the same rows, and its gate has seen them: their digest, and whose last result stands
    again.

    Disclosure: a digest of the common keys, to the order's hospitals.
    """
    if matched is not None and dataset is not None:
        repeats = _joined_rows_repeat(party, dataset, circuit, matched.keys)
        send(party, "matched", lambda: matched.digest + bytes([repeats]), recipient=EVERYONE)
    said = receive_all(party, "matched", party.request.providers, EVERYONE)
    digests = {user: body[:-1] for user, body in said.items()}
    matching.check_digests(digests)
    return digests[_first(party.request)], [user for user, body in said.items() if body[-1:] == b"\1"]


def _joined_rows_repeat(party: StatisticsParty, dataset: Dataset, circuit: Plan, keys: Sequence[str]) -> bool:
    """The gate over the joined people: others choose them by the keys they bring. A row for each needs no such gate."""
    if circuit.is_row_level and not circuit.compares:
        return False
    columns = sorted(columns_of(party.request, party.me))
    name = canonical(["joined", data_name(party, dataset), *columns])
    rows = AskedRows(name, sketch_of(party.ledger.hash_keys(keys)), len(keys))
    if check_gate(party, rows):
        return True
    remember_rows(party, rows)
    return False


# Computing


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


def answer(party: StatisticsParty, reading: Reading | None) -> Answered:
    """Matches, computes this provider's share, and adds all shares up at a receiver.

    Disclosure: besides the result, to the receivers: which of its keys are common, to each provider; how many, and the
    columns' types, to all and the coordinator.
    """
    if reading is not None:
        types = Types(repeats=reading.repeats, columns=reading.types)
        send(party, "types", lambda: types.model_dump_json().encode(), recipient=EVERYONE)
    announced = read_types(receive_all(party, "types", party.request.providers, EVERYONE))
    repeating = [user for user, types in announced.items() if types.repeats]
    if repeating:
        return Answered(repeat_answer(party, repeating) if party.is_receiver else None)
    circuit = agreed_plan(party.request, announced)
    if party.is_provider:
        disclosure.check_weighing(circuit, party.me, party.rules)
    with _open(party) if reading else nullcontext() as dataset:
        matched = _match(party, dataset, circuit) if dataset else None
        digest, repeating = _agree_on_rows(party, dataset, circuit, matched)
        if repeating:
            return Answered(repeat_answer(party, repeating) if party.is_receiver else None)
        shares = {party.me: _compute(party, dataset, circuit, matched)} if dataset and matched else {}
    if matched:
        _send_shares(party, circuit, matched, shares[party.me])
    found = _reveal(party, circuit, shares, matched, digest) if party.is_receiver else None
    if reading is None or matched is None:
        return Answered(found)
    return Answered(found, n_used=len(matched.keys), n_null=reading.n_null + matched.n_without)


def _compute(party: StatisticsParty, dataset: Dataset, circuit: Plan, matched: Matched) -> bytes:
    """This provider's share of the result, after the rule of one threshold has been asked."""
    if circuit.compares:
        used = _used_columns(party.request, party.me, dataset)
        _remember_comparison(party, data_name(party, dataset), sorted(used.values()), matched.keys)
    keys, n_rows, channel = party.session, len(matched.keys), _Channel(party)
    return _in_clear(lambda: joined.evaluate(circuit, matched.columns, keys=keys, channel=channel, n_rows=n_rows))


def _remember_comparison(party: StatisticsParty, name: str, columns: Sequence[str], keys: Sequence[str]) -> None:
    """Many thresholds over the same people would tell every sum: one in the policy's period."""
    request = party.request
    asked = request.expression or f"{request.comparison or '>='} {Fraction(request.threshold or THRESHOLD)}"
    party.ledger.remember_threshold(
        name,
        columns,
        keys_digest=digest_of(party.ledger.hash_keys(keys)),
        threshold=asked,
        now=datetime.now(UTC),
        days=party.rules.threshold_days,
    )


def _send_shares(party: StatisticsParty, circuit: Plan, matched: Matched, share: bytes) -> None:
    """The share of the result, and from the first provider the keys, to each receiver, sealed to it alone."""
    others = [receiver for receiver in party.request.receivers if receiver != party.me]
    for receiver in others:
        send(party, "share", lambda: share, recipient=receiver)
    if circuit.is_row_level and party.me == _first(party.request):
        for receiver in others:
            send(party, "keys", lambda: canonical({"keys": matched.keys}).encode(), recipient=receiver)


def _first(request: StatisticsRequest) -> int:
    """The provider that the request names first: the result's keys are written as it writes them."""
    name = request.data_providers[0].name
    assert isinstance(name, int)
    return name


# The result, at a receiver


def _reveal(
    party: StatisticsParty, circuit: Plan, own: Mapping[int, bytes], matched: Matched | None, digest: bytes
) -> Answer:
    request = party.request
    others = [provider for provider in request.providers if provider not in own]
    shares = {**own, **(receive_all(party, "share", others, party.me) if others else {})}
    found = joined.reveal(circuit, shares)
    alias = request.result_alias
    if not circuit.is_row_level:
        result = Answer([alias], [[_cell(found.values[0])]])
    else:
        keys = matched.keys if matched and party.me == _first(request) else _receive_keys(party, found.n_rows, digest)
        rows = sorted(zip(keys, map(_cell, found.values), strict=True), key=_key_order)
        result = Answer([request.data_providers[0].key_column, alias], rows)
    result.notes += _notes(request, circuit, found)
    return result


def _receive_keys(party: StatisticsParty, n_rows: int, digest: bytes) -> list[str]:
    """The first provider's word, which must be what all providers have said of the common keys, in the rows' order."""
    body = receive(party, "keys", _first(party.request), party.me)
    try:
        keys = json.loads(body)["keys"]
    except (ValueError, KeyError, TypeError):
        keys = None
    if not isinstance(keys, list) or len(keys) != n_rows or not all(isinstance(key, str) for key in keys):
        raise ProtocolViolation(
            "The keys of the result's rows cannot be read.", remedy="Send the order again.", code="bad_message"
        )
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
    is_in_order = bool((np.diff(order) > 0).all())
    return is_in_order and matching.common_digest(tags, np.ones(len(keys), dtype=bool)) == digest


def _cell(value: Fraction | bool | None) -> Cell:
    if isinstance(value, bool):
        return "true" if value else "false"
    return None if value is None else Decimal(text_of(value))


def _key_order(row: tuple[str, Cell]) -> tuple[int, int, str]:
    """Whole numbers first and in their order, then texts."""
    key = row[0]
    is_whole = key.removeprefix("-").isdecimal() and len(key) < 100
    return (0, int(key), key) if is_whole else (1, 0, key)


def _notes(request: StatisticsRequest, circuit: Plan, found: JoinedResult) -> list[str]:
    notes = []
    if found.n_missing:
        notes.append(f"{found.n_missing} joined rows have no value, because a column has none there.")
    if found.n_divisions_by_zero:
        notes.append(f"{found.n_divisions_by_zero} times a row was divided by zero; it has no value.")
    if circuit.is_row_level and not circuit.is_boolean:
        notes.append("Who knows one of the columns may compute the others from this result.")
    return notes
