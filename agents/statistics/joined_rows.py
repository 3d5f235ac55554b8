"""What a provider reads once for an order of joined statistics: its rows.

They are read again, from the snapshot of this reading, when the types of all columns
are known; which of them are in the answer, and pass the gate, is known then
(`matched_rows.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from agents.gate import disclosure
from agents.rows.dataset import Dataset
from agents.rows.join_columns import is_numeric, join_keys, type_of
from agents.statistics import earlier_sketches
from agents.statistics.party import (
    AskedStatistics,
    VerifiedStatistics,
)
from agents.statistics.readings import (
    Reading,
    keep_reading,
    open_data,
)
from protocol.errors import BadRequest
from protocol.statistics_plan import VALUE, expression_of, ordered_expression
from protocol.statistics_request import StatisticsRequest


def read_rows(party: VerifiedStatistics) -> Reading:
    """Reads this provider's keys and columns through the gate.

    Raises Refused with the rule, or BadRequest for data that cannot be used.

    Disclosure: rows stay here; others learn the row count, after the gate has passed.
    """
    return keep_reading(party, lambda: read_anew(party))


def read_anew(party: AskedStatistics) -> Reading:
    """The same, and nothing is kept."""
    request = party.request
    provider = request.provider(party.me)
    alias = request.alias(party.me)
    key_column, normalisation = key_of(party)
    with open_provider_data(party) as dataset:
        disclosure.check_rows(dataset.n_rows, party.rules)
        used_by_name = used_columns(request, party.me, dataset)
        # The column that is_investor_accredited adds up may be known only now, and the
        # policy may close it.
        _check_row_level(party, list(used_by_name.values()))
        if earlier_sketches.keeps_sketches(party):
            columns = [key_column, *used_by_name.values()]
            rows = earlier_sketches.rows_of(party, dataset, columns)
            if earlier_sketches.is_near_earlier(party, rows):
                return Reading(n_rows=dataset.n_rows, repeats=True)
        types = {}
        for column_name, column in used_by_name.items():
            full_name = f"{alias}.{column_name}"
            fixed = type_of(dataset, column, provider.digits)
            types[full_name] = (
                fixed.two,
                fixed.five,
                fixed.bits,
                fixed.nullable,
            )
        row_keys = join_keys(dataset, key_column, normalisation)
    n_selected = dataset.n_rows + dataset.n_left_out
    return Reading(
        n_rows=dataset.n_rows,
        n_selected=n_selected,
        n_left_out=dataset.n_left_out,
        # Rows without a key are joined with none.
        n_null=n_selected - len(row_keys.keys),
        types=types,
    )


def key_of(party: AskedStatistics) -> tuple[str, str]:
    """The key column, and how its values are made alike before they are compared."""
    provider = party.request.provider(party.me)
    normalisation = party.request.key_normalisation or "text"
    return provider.key_column, normalisation


def open_provider_data(party: AskedStatistics) -> AbstractContextManager[Dataset]:
    """The columns that are used; all of numbers where the one to compare is not named."""
    request = party.request
    value_column = request.provider(party.me).value_column
    is_unnamed = request.expression is None and value_column is None
    return open_data(party, again=True, and_numbers=is_unnamed)


def used_columns(
    request: StatisticsRequest,
    user_id: int,
    dataset: Dataset,
) -> dict[str, str]:
    """This provider's columns by their names in the expression.

    "value" is the one column of numbers beside the key.
    """
    written = ordered_expression(request)
    if written is not None:
        alias = request.alias(user_id)
        return {name: name for name in written.columns_of(alias)}
    provider = request.provider(user_id)
    if provider.value_column:
        return {VALUE: provider.value_column}
    numeric = []
    for column in dataset.columns:
        is_key = column == provider.key_column
        if not is_key and is_numeric(dataset, column):
            numeric.append(column)
    n_numeric = len(numeric)
    if n_numeric != 1:
        raise BadRequest(
            f"value_column is missing, and the data have {n_numeric} columns of numbers beside the key.",
            remedy="Name the column to add up as value_column.",
            code="value_column",
        )
    return {VALUE: numeric[0]}


def _check_row_level(party: AskedStatistics, columns: Sequence[str]) -> None:
    """Refuses columns that the policy closes, where the answer is by person."""
    if not expression_of(party.request).is_row_level:
        return
    provider = party.request.provider(party.me)
    shown_columns = [provider.key_column, *columns]
    disclosure.check_row_level(shown_columns, party.rules)
