"""The joined rows of a provider: of people whom all have, in the order that all use."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from agents.gate import disclosure, total_rules, totals
from agents.gate.earlier_questions import Comparison, digest_of, sketch_of
from agents.order.party import receive_all, send
from agents.rows.dataset import Dataset
from agents.rows.join_columns import join_keys, read_column
from agents.statistics import audited, earlier_sketches
from agents.statistics.joined_rows import key_of, used_columns
from agents.statistics.party import (
    AgreedStatistics,
    VerifiedStatistics,
    columns_of,
    data_name,
    question_of,
)
from analytics.arrays import Places
from analytics.statistics.circuit import Plan
from analytics.statistics.expression import ExpressionError
from analytics.statistics.hospital_audit import Part
from analytics.statistics.rowwise import Column, compute
from analytics.statistics.weighing import summands
from protocol.errors import BadRequest
from protocol.exchange import Address
from protocol.messages import COORDINATOR, EVERYONE, canonical
from protocol.shares import matching
from protocol.statistics_request import StatisticsRequest

T = TypeVar("T")


@dataclass(frozen=True)
class Matched:
    """The joined rows of this provider, in the order that all providers use."""

    keys: list[str]
    # By "alias.column"; this provider's own ones.
    columns: dict[str, Column]
    # Of the common keys; the same at every provider.
    digest: bytes
    # (n,): which rows of the data they are.
    places: NDArray[np.intp]
    # Rows that were left out of an aggregate because a value is missing here.
    n_without: int


def match_rows(
    party: AgreedStatistics,
    dataset: Dataset,
    circuit: Plan,
) -> Matched:
    """Finds the rows that all providers have.

    Of an aggregate they are the rows that have a value at all of them. So the gate sees
    the very people that an aggregate is made of: a missing value is no way to choose
    them.

    Raises Refused for fewer of them than this provider's minimum (code min_rows) and
    for a sum of which two make nearly all here (max_share), ProtocolViolation
    (keys_differ) where the coordinator has named different ones to them.

    Disclosure: tags of the keys, which only their holders can make, to the coordinator.
    """
    row_keys = join_keys(dataset, *key_of(party))
    n_keys = len(row_keys.keys)
    columns = _own_columns(party, dataset, circuit, row_keys.places)
    has_values = _have_values(circuit, party.me, columns, n_rows=n_keys)
    kept_rows = np.flatnonzero(has_values)
    # Before the tags leave, as they say how many rows there are; again for those in
    # common.
    disclosure.check_joined(len(kept_rows), party.rules)
    kept_keys = [row_keys.keys[row] for row in kept_rows.tolist()]
    common_places, digest = _match_keys(party, kept_keys)
    rows = kept_rows[common_places]

    # The coordinator, which chose them by its answer, must not choose a few.
    disclosure.check_joined(len(rows), party.rules)
    joined_columns = {}
    for column_name, column in columns.items():
        joined_columns[column_name] = Column(column.values[rows], column.valid[rows])
    _check_summands(party, circuit, joined_columns, n_rows=len(rows))
    party.release.ledger.write(
        "matched",
        order_id=party.order_id,
        n_common=len(rows),
        n_unmatched=len(kept_keys) - len(rows),
    )
    return Matched(
        keys=[row_keys.keys[row] for row in rows.tolist()],
        columns=joined_columns,
        digest=digest,
        places=row_keys.places[rows],
        n_without=n_keys - len(kept_rows),
    )


def _match_keys(
    party: AgreedStatistics,
    keys: Sequence[str],
) -> tuple[Places, bytes]:
    """Which of these keys all providers have, in the order that all use, and the digest
    of the common ones. Sends the coordinator the tags, and takes its answer.
    """
    # Under a key that the coordinator lacks: it compares tags, and cannot try out who
    # they are of.
    match_key = party.session.group_key(b"match")
    tags, order = matching.tags(match_key, keys)
    send(
        party,
        "tags",
        lambda: matching.encode_tags(tags),
        recipient=COORDINATOR,
    )
    address = Address(party.order_id, "common")
    bitmap = party.exchange.get(address, COORDINATOR)
    common = matching.decode_bitmap(bitmap, n_tags=len(tags))
    common_places = matching.common_rows(order, common)
    return common_places, matching.common_digest(tags, common)


def _own_columns(
    party: AgreedStatistics,
    dataset: Dataset,
    circuit: Plan,
    places: NDArray[np.intp],
) -> dict[str, Column]:
    """This provider's columns at these places, in the types that it has announced."""
    alias = party.request.alias(party.me)
    used_by_name = used_columns(party.request, party.me, dataset)
    columns = {}
    for column_name, column in used_by_name.items():
        full_name = f"{alias}.{column_name}"
        fixed = circuit.types[full_name]
        columns[full_name] = read_column(
            dataset,
            column,
            fixed,
            places,
        )
    return columns


def _have_values(
    circuit: Plan,
    me: int,
    columns: Mapping[str, Column],
    *,
    n_rows: int,
) -> NDArray[np.bool_]:
    """(n_rows,): which rows count.

    All where each has a row in the result, else those that miss nothing here: the
    circuit of an aggregate takes it that no other row is there (decision 36).
    """
    has_values = np.ones(n_rows, dtype=bool)
    if circuit.is_row_level:
        return has_values
    for column in columns.values():
        has_values &= column.valid
    for leaf in circuit.needed:
        if leaf.provider != me:
            continue
        # What one provider computes by itself has no value where it divides by zero.
        compute_leaf = functools.partial(
            compute,
            leaf.node,
            columns,
            circuit.types,
            n_rows=n_rows,
        )
        computed = in_clear(compute_leaf)
        has_values &= computed.valid
    return has_values


def _check_summands(
    party: AgreedStatistics,
    circuit: Plan,
    columns: Mapping[str, Column],
    *,
    n_rows: int,
) -> None:
    """The rules of every sum of what this provider has of the joined rows.

    They are max_share, and that its numbers hide those that they are added to: each
    provider checks its own only, as nobody else may know them (decision 72).
    """
    for summand in summands(circuit, party.me):
        # A count adds a one for each row.
        if summand.node.op == "indicator":
            continue
        compute_node = functools.partial(
            compute,
            summand.node,
            columns,
            circuit.types,
            n_rows=n_rows,
        )
        numbers = in_clear(compute_node).values.tolist()
        # Python's whole numbers: the columns' own type may not hold their sum.
        magnitudes = sorted(abs(number) for number in numbers)
        two_largest = sum(magnitudes[-2:])
        # Two of nothing but zeros make no part of the sum.
        all_rows = sum(magnitudes) or 1
        disclosure.check_share(Fraction(two_largest, all_rows), party.rules)
        if summand.is_shared:
            counts = Counter(numbers)
            n_most_common = max(counts.values(), default=0)
            n_varying = n_rows - n_most_common
            total_rules.check_mask(n_varying, party.policy.cohort.min_varying)


def in_clear(work: Callable[[], T]) -> T:
    """What a provider computes of its own columns.

    BadRequest (code digits) where one holds what its type does not.
    """
    try:
        return work()
    except ExpressionError as error:
        raise BadRequest(error.sentence, remedy=error.remedy, code="digits") from None


@dataclass(frozen=True)
class AgreedRows:
    """What all providers say of the rows that they have matched."""

    # Of the common keys.
    digest: bytes
    # The providers whose schedule's last result stands again.
    repeats: list[int]
    # The order that has compared the same people by the same question.
    same_question: int | None


_ORDER_BYTES = 8


def agree_on_rows(
    party: AgreedStatistics,
    dataset: Dataset | None,
    circuit: Plan,
    matched: Matched | None,
) -> AgreedRows:
    """Every provider has matched the same rows then, and its gate has seen them.

    ProtocolViolation (code keys_differ) where the coordinator has named other rows to
    one of them. Refused (code threshold) where the same people were in another
    comparison.

    Disclosure: a digest of the common keys, to the order's hospitals.
    """
    if matched is not None and dataset is not None:
        earlier = _compared_in(party, dataset, circuit, matched) or 0
        repeats = not earlier and _joined_rows_repeat(party, dataset, circuit, matched)
        order_bytes = earlier.to_bytes(_ORDER_BYTES)
        own_message = matched.digest + order_bytes + bytes([repeats])
        send(
            party,
            "matched",
            lambda: own_message,
            recipient=EVERYONE,
        )
    messages = receive_all(
        party,
        "matched",
        party.request.providers,
        EVERYONE,
    )
    # A message is the digest, the number of an earlier order or 0, and one byte:
    # whether the last result stands again.
    digests = {}
    compared_in = []
    repeating = []
    for provider, message_body in messages.items():
        digest = message_body[: -_ORDER_BYTES - 1]
        order_bytes = message_body[-_ORDER_BYTES - 1 : -1]
        digests[provider] = digest
        compared_in.append(int.from_bytes(order_bytes))
        if message_body[-1:] == b"\1":
            repeating.append(provider)
    matching.check_digests(digests)
    if repeating or any(compared_in):
        audited.drop_totals(party)
    return AgreedRows(
        digest=digests[first_provider(party.request)],
        repeats=repeating,
        same_question=max(compared_in) or None,
    )


def _compared_in(
    party: VerifiedStatistics,
    dataset: Dataset,
    circuit: Plan,
    matched: Matched,
) -> int | None:
    """The order that has asked the same of these people.

    It is not computed again: a provider that changes its own column between two
    questions would learn something of every sum with each.
    """
    if not circuit.compares:
        return None
    return party.ledger.earlier_comparison(
        comparison_of(party, dataset, matched.keys),
        now=datetime.now(UTC),
        days=party.rules.threshold_days,
    )


def comparison_of(
    party: VerifiedStatistics,
    dataset: Dataset,
    keys: Sequence[str],
) -> Comparison:
    """What this provider remembers of a comparison over these people."""
    used_by_name = used_columns(party.request, party.me, dataset)
    return Comparison(
        dataset=data_name(party, dataset),
        columns=frozenset(used_by_name.values()),
        keys_digest=digest_of(party.ledger.hash_keys(keys)),
        question=question_of(party.request),
        order_id=party.order_id,
    )


def _joined_rows_repeat(
    party: AgreedStatistics,
    dataset: Dataset,
    circuit: Plan,
    matched: Matched,
) -> bool:
    """The gate over the joined people: others choose them by the keys they bring."""
    if _is_near_sketch(party, dataset, circuit, matched.keys):
        return True
    used_by_name = used_columns(party.request, party.me, dataset)
    columns = used_by_name.values()
    members = audited.read_members(party, dataset, columns)
    totals_over = functools.partial(
        audited.totals_over,
        party,
        dataset,
        members,
    )
    opened = totals.opened_totals(party.request, circuit)
    parts_of = totals.audited_columns(opened, party.me)
    total_sets = []
    for column in columns:
        # Two totals of one column can be made of different columns of others.
        of_column = parts_of.get(column, [])
        for number, total_parts in enumerate(of_column, start=1):
            beside: dict[Part, Fraction] = {}
            for (hospital, part_column), coefficient in total_parts.items():
                if hospital != party.me:
                    beside[hospital, part_column] = coefficient
            rows = {f"joined, total {number}": matched.places}
            total_sets += totals_over(
                columns=[column],
                rows=rows,
                parts=beside,
            )
        if not of_column:
            rows = {"joined": matched.places}
            total_sets += totals_over(columns=[column], rows=rows)
    if audited.reserve_totals(party, dataset, total_sets) is None:
        return True
    return not audited.check_hospitals(party)


def _is_near_sketch(
    party: VerifiedStatistics,
    dataset: Dataset,
    circuit: Plan,
    keys: Sequence[str],
) -> bool:
    """As `earlier_sketches.is_near_earlier`. A row for each person had no such gate."""
    had_no_gate = circuit.is_row_level and not circuit.compares
    if had_no_gate or not earlier_sketches.keeps_sketches(party):
        return False
    columns = sorted(columns_of(party.request, party.me))
    sketch_name = canonical(["joined", data_name(party, dataset), *columns])
    sketch = sketch_of(party.ledger.hash_keys(keys))
    rows = earlier_sketches.AskedRows(sketch_name, sketch, len(keys))
    return earlier_sketches.is_near_earlier(party, rows)


def first_provider(request: StatisticsRequest) -> int:
    """The provider that the request names first, which writes the result's keys."""
    provider_name = request.data_providers[0].name
    assert isinstance(provider_name, int)
    return provider_name
