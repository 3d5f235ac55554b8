"""What a provider reads once for an order of joined statistics: its rows, through the gate.

They are read again, from the snapshot of this reading, when the types of all columns are known (`matched_rows.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from agents.gate import disclosure
from agents.rows.dataset import Dataset
from agents.rows.join_columns import is_numeric, join_keys, type_of
from agents.statistics.party import Reading, StatisticsParty, columns_of, keep_reading, open_data
from agents.statistics.repeats import check_gate, remember_rows, rows_of
from protocol.errors import BadRequest
from protocol.statistics_plan import VALUE, expression_of, ordered_expression
from protocol.statistics_request import StatisticsRequest


def read_rows(party: StatisticsParty) -> Reading:
    """Reads this provider's keys and columns through the gate, and keeps them until the order ends.

    Raises Refused with the rule, or BadRequest for data that cannot be used.

    Disclosure: rows stay here; others learn the row count, after the gate has passed.
    """
    return keep_reading(party, lambda: _read(party))


def _read(party: StatisticsParty) -> Reading:
    request = party.request
    provider = request.provider(party.me)
    alias = request.alias(party.me)
    with open_provider_data(party) as dataset:
        disclosure.check_rows(dataset.n_rows, party.rules)
        used = used_columns(request, party.me, dataset)
        # The column that is_investor_accredited adds up may be known only now, and the policy may close it.
        _check_row_level(party, list(used.values()))
        rows = rows_of(party, dataset, [provider.key_column, *used.values()])
        if check_gate(party, rows):
            return Reading(n_rows=dataset.n_rows, repeats=True)
        types = {}
        for name, column in used.items():
            fixed = type_of(dataset, column, provider.digits)
            types[f"{alias}.{name}"] = (fixed.two, fixed.five, fixed.bits, fixed.nullable)
        n_keys = len(join_keys(dataset, *key_of(party)).keys)
    # When all that could fail has passed: rows of an order without an answer must not stand in a later one's way.
    remember_rows(party, rows)
    return Reading(
        n_rows=dataset.n_rows,
        n_null=dataset.n_rows - n_keys,
        types=types,
    )


def key_of(party: StatisticsParty) -> tuple[str, str]:
    """The key column, and how its values are made alike before they are compared."""
    request = party.request
    return request.provider(party.me).key_column, request.key_normalisation or "text"


def open_provider_data(party: StatisticsParty) -> AbstractContextManager[Dataset]:
    """All columns where the one to compare is not named, else those that are used."""
    request = party.request
    is_named = request.expression is not None or request.provider(party.me).value_column is not None
    columns = columns_of(request, party.me) if is_named else None
    return open_data(party, columns, again=True)


def used_columns(request: StatisticsRequest, user_id: int, dataset: Dataset) -> dict[str, str]:
    """This provider's columns by their names in the expression; "value" is the one column of numbers beside the key."""
    written = ordered_expression(request)
    if written is not None:
        return {name: name for name in written.columns_of(request.alias(user_id))}
    provider = request.provider(user_id)
    if provider.value_column:
        return {VALUE: provider.value_column}
    others = [name for name in dataset.columns if name != provider.key_column]
    numeric = [name for name in others if is_numeric(dataset, name)]
    if len(numeric) != 1:
        raise BadRequest(
            f"value_column is missing, and the data have {len(numeric)} columns of numbers beside the key.",
            remedy="Name the column to add up as value_column.",
            code="value_column",
        )
    return {VALUE: numeric[0]}


def _check_row_level(party: StatisticsParty, columns: Sequence[str]) -> None:
    """Refuses columns that the policy closes, where the answer has something of each person."""
    if expression_of(party.request).is_row_level:
        key = party.request.provider(party.me).key_column
        disclosure.check_row_level([key, *columns], party.rules)
