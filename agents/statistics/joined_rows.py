"""What a provider reads once for an order of joined statistics: its rows, through the gate."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from agents.gate import disclosure
from agents.rows.dataset import Dataset
from agents.rows.join_columns import is_numeric, join_keys, type_of
from agents.statistics.party import Reading, VerifiedStatistics, columns_of, keep_reading, open_data
from agents.statistics.repeats import check_gate, remember_rows, rows_of
from protocol.errors import BadRequest
from protocol.statistics_plan import VALUE, expression_of, ordered_expression
from protocol.statistics_request import StatisticsRequest


def read_rows(party: VerifiedStatistics) -> Reading:
    """Reads this provider's keys and columns through the gate, and keeps them until the order ends.

    Raises Refused with the rule, or BadRequest for data that cannot be used.

    Disclosure: rows stay here; others learn the row count, after the gate has passed.
    """
    return keep_reading(party, lambda: _read(party))


def _read(party: VerifiedStatistics) -> Reading:
    request, alias = party.request, party.request.alias(party.me)
    with open_provider_data(party) as dataset:
        disclosure.check_rows(dataset.n_rows, party.rules)
        used = used_columns(request, party.me, dataset)
        _check_row_level(party, list(used.values()))
        key_column = request.provider(party.me).key_column
        columns = [key_column, *used.values()]
        rows = rows_of(party, dataset, list(dict.fromkeys(columns)))
        if check_gate(party, rows):
            return Reading(n_rows=dataset.n_rows, repeats=True)
        digits = request.provider(party.me).digits
        types = {f"{alias}.{name}": type_of(dataset, column, digits) for name, column in used.items()}
        n_keys = len(join_keys(dataset, *key_of(party)).keys)
    remember_rows(party, rows)
    return Reading(
        n_rows=dataset.n_rows,
        n_null=dataset.n_rows - n_keys,
        types={name: (t.two, t.five, t.bits, t.nullable) for name, t in types.items()},
    )


def key_of(party: VerifiedStatistics) -> tuple[str, str]:
    request = party.request
    return request.provider(party.me).key_column, request.key_normalisation or "text"


def open_provider_data(party: VerifiedStatistics) -> AbstractContextManager[Dataset]:
    """All columns where the one to compare is not named, else those that are used."""
    request = party.request
    is_named = request.expression is not None or request.provider(party.me).value_column is not None
    return open_data(party, columns_of(request, party.me) if is_named else None, again=True)


def used_columns(request: StatisticsRequest, user_id: int, dataset: Dataset) -> dict[str, str]:
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


def _check_row_level(party: VerifiedStatistics, columns: Sequence[str]) -> None:
    """Again with the columns that were found: who names none must not get one that the policy closes."""
    if expression_of(party.request).is_row_level:
        key = party.request.provider(party.me).key_column
        disclosure.check_row_level([key, *columns], party.rules)
