"""The joined rows of a provider: those of people whom all providers have, in the order that all of them use."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from agents.gate import disclosure
from agents.gate.earlier_questions import sketch_of
from agents.order.party import receive_all, send
from agents.rows.dataset import Dataset
from agents.rows.join_columns import join_keys, read_column
from agents.statistics.joined_rows import key_of, used_columns
from agents.statistics.party import StatisticsParty, columns_of
from agents.statistics.repeats import AskedRows, check_gate, data_name, remember_rows
from analytics.statistics.circuit import Plan
from analytics.statistics.expression import ExpressionError
from analytics.statistics.rowwise import Column, compute
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
    # Rows that were left out of an aggregate because a value is missing here.
    n_without: int


def match_rows(party: StatisticsParty, dataset: Dataset, circuit: Plan) -> Matched:
    """Finds the rows that all providers have; of an aggregate, those that have a value at all of them.

    So the gate sees the very people that an aggregate is made of: a missing value is no way to choose them.

    Raises Refused for fewer of them than this provider's minimum (code min_rows) and for a sum of which two make nearly
    all here (max_share), ProtocolViolation (keys_differ) where the coordinator has named different ones to them.

    Disclosure: tags of the keys, which only their holders can make, to the coordinator.
    """
    found = join_keys(dataset, *key_of(party))
    columns = _own_columns(party, dataset, circuit, found.places)
    kept = np.flatnonzero(_have_values(circuit, party.me, columns, n_rows=len(found.keys)))
    # Before the tags leave, as they say how many rows there are; again for those in common.
    disclosure.check_joined(len(kept), party.rules)

    # Under a key that the coordinator lacks: it compares tags, and cannot try out who they are of.
    match_key = party.session.group_key(b"match")
    tags, order = matching.tags(match_key, [found.keys[row] for row in kept.tolist()])
    send(party, "tags", lambda: matching.encode_tags(tags), recipient=COORDINATOR)
    bitmap = party.exchange.get(Address(party.order_id, "common"), COORDINATOR)
    common = matching.decode_bitmap(bitmap, n_tags=len(tags))
    rows = kept[matching.common_rows(order, common)]

    # The coordinator, which chose them by its answer, must not choose a few.
    disclosure.check_joined(len(rows), party.rules)
    joined_columns = {}
    for name, column in columns.items():
        joined_columns[name] = Column(column.values[rows], column.valid[rows])
    _check_shares(party, circuit, joined_columns, n_rows=len(rows))
    n_unmatched = len(tags) - len(rows)
    party.release.ledger.write(
        "matched", order_id=party.order_id, n_common=len(rows), n_unmatched=n_unmatched
    )
    return Matched(
        keys=[found.keys[row] for row in rows.tolist()],
        columns=joined_columns,
        digest=matching.common_digest(tags, common),
        n_without=len(found.keys) - len(kept),
    )


def _own_columns(
    party: StatisticsParty, dataset: Dataset, circuit: Plan, places: NDArray[np.intp]
) -> dict[str, Column]:
    """This provider's columns of the rows at these places, in the types that it has announced."""
    alias = party.request.alias(party.me)
    columns = {}
    for name, column in used_columns(party.request, party.me, dataset).items():
        full_name = f"{alias}.{name}"
        columns[full_name] = read_column(dataset, column, circuit.types[full_name], places)
    return columns


def _have_values(circuit: Plan, me: int, columns: Mapping[str, Column], *, n_rows: int) -> NDArray[np.bool_]:
    """(n_rows,): which rows count: all where each has a row in the result, else those that miss nothing here.

    The circuit of an aggregate takes it that no other row is there (decision 36).
    """
    kept = np.ones(n_rows, dtype=bool)
    if circuit.is_row_level:
        return kept
    for column in columns.values():
        kept &= column.valid
    for leaf in circuit.needed:
        if leaf.provider == me:
            # What one provider computes by itself has no value where it divides by zero.
            compute_leaf = functools.partial(compute, leaf.node, columns, circuit.types, n_rows=n_rows)
            kept &= in_clear(compute_leaf).valid
    return kept


def _check_shares(
    party: StatisticsParty, circuit: Plan, columns: Mapping[str, Column], *, n_rows: int
) -> None:
    """The rule max_share for every sum of what this provider has of the joined rows."""
    for node in circuit.summed(party.me):
        if node.op == "indicator":  # a count
            continue
        compute_node = functools.partial(compute, node, columns, circuit.types, n_rows=n_rows)
        numbers = in_clear(compute_node).values.tolist()
        sizes = sorted(abs(number) for number in numbers)
        two_largest = sum(sizes[-2:])
        disclosure.check_share(Fraction(two_largest, sum(sizes) or 1), party.rules)


def in_clear(work: Callable[[], T]) -> T:
    """What a provider computes of its own columns. BadRequest (code digits) where one holds what its type does not."""
    try:
        return work()
    except ExpressionError as error:
        raise BadRequest(error.sentence, remedy=error.remedy, code="digits") from None


def agree_on_rows(
    party: StatisticsParty, dataset: Dataset | None, circuit: Plan, matched: Matched | None
) -> tuple[bytes, list[int]]:
    """Every provider has matched the same rows, and its gate has seen them: their digest, and whose last result stands
    again.

    ProtocolViolation (code keys_differ) where the coordinator has named other rows to one of them.

    Disclosure: a digest of the common keys, to the order's hospitals.
    """
    if matched is not None and dataset is not None:
        repeats = _joined_rows_repeat(party, dataset, circuit, matched.keys)
        send(party, "matched", lambda: matched.digest + bytes([repeats]), recipient=EVERYONE)
    messages = receive_all(party, "matched", party.request.providers, EVERYONE)
    # A message is the digest and one byte: whether the last result stands again.
    digests = {user: body[:-1] for user, body in messages.items()}
    matching.check_digests(digests)
    repeating = [user for user, body in messages.items() if body[-1:] == b"\1"]
    return digests[first_provider(party.request)], repeating


def _joined_rows_repeat(party: StatisticsParty, dataset: Dataset, circuit: Plan, keys: Sequence[str]) -> bool:
    """The gate over the joined people: others choose them by the keys they bring. A row for each needs no such gate."""
    if circuit.is_row_level and not circuit.compares:
        return False
    columns = sorted(columns_of(party.request, party.me))
    name = canonical(["joined", data_name(party, dataset), *columns])
    sketch = sketch_of(party.ledger.hash_keys(keys))
    rows = AskedRows(name, sketch, len(keys))
    if check_gate(party, rows):
        return True
    remember_rows(party, rows)
    return False


def first_provider(request: StatisticsRequest) -> int:
    """The provider that the request names first: the result's keys are written as it writes them."""
    name = request.data_providers[0].name
    assert isinstance(name, int)
    return name
