"""What an order of joint statistics computes: its expression, and the circuit that all
parties make alike from it.

The coordinator deals random numbers by this plan, the providers compute by it, and each
checks the others by it. `analytics/statistics/compiling.py` makes the circuit;
`agents/statistics/joined.py` is a provider's side of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from fractions import Fraction

from analytics.statistics.circuit import Plan
from analytics.statistics.compiling import plan
from analytics.statistics.derived import written_out
from analytics.statistics.expression import (
    Expression,
    ExpressionError,
    Node,
    add,
    constant,
    invert,
)
from analytics.statistics.kinds import Fixed
from analytics.statistics.reading import check_digits, compare_sum, parse_expression
from protocol.errors import BadRequest, ProtocolViolation
from protocol.shares.cells import Limits
from protocol.statistics_messages import Types
from protocol.statistics_request import THRESHOLD, StatisticsRequest

VALUE = "value"
"""What the compared column of every provider is called in the expression of
is_investor_accredited.
"""


# The expression


def ordered_expression(request: StatisticsRequest) -> Expression | None:
    """The expression of method custom, parsed, over columns of the data; these are
    looked for when the data are read.

    BadRequest (code expression) for one that cannot be parsed.
    """
    if request.expression is None:
        return None
    aliases = {request.alias(provider): None for provider in request.providers}
    with _refusing_expressions():
        root = parse_expression(request.expression, aliases).root
        # A derived column is what it stands for: exact as the rest, and judged alike.
        for alias in aliases:
            root = written_out(root, alias, request.rows.derived)
        check_digits(root)
    return Expression(root)


def expression_of(request: StatisticsRequest) -> Expression:
    """That of method custom; for is_investor_accredited the sum over all providers
    against the threshold.
    """
    written = ordered_expression(request)
    if written is not None:
        return written
    columns = []
    for provider in request.providers:
        alias = request.alias(provider)
        columns.append((alias, VALUE))
    threshold = Fraction(request.threshold or THRESHOLD)
    comparison = request.comparison or ">="
    return compare_sum(columns, comparison, threshold=threshold)


# The circuit


def _whole(bits: int) -> Fixed:
    """The type of a whole number of so many bits, which is there in every row."""
    return Fixed(
        two=0,
        five=0,
        bits=bits,
        nullable=False,
    )


def sketched_plan(request: StatisticsRequest) -> Plan | None:
    """The circuit of method custom before anybody has announced types: the one that is
    computed, but for its sizes.

    So a rule on what is added up refuses before a person is asked and a row is read
    (decision 44). None without an expression.
    """
    expression = ordered_expression(request)
    if expression is None:
        return None
    one_bit = _whole(1)
    types = {}
    for alias, column in expression.columns:
        types[f"{alias}.{column}"] = one_bit
    return _plan(request, expression, types)


def agreed_plan(request: StatisticsRequest, announced: Mapping[int, Types]) -> Plan:
    """The circuit of an order, which coordinator, providers and receivers make alike
    from the announced types.

    ProtocolViolation (code bad_message) where a hospital announces types of another's
    columns; BadRequest (code expression) where these types make no circuit.
    """
    expression = expression_of(request)
    columns = {}
    for provider, types in announced.items():
        alias = request.alias(provider)
        asked_columns = expression.columns_of(alias)
        _check_columns(
            provider,
            types,
            alias,
            asked_columns,
        )
        fixed = _fixed(provider, types)
        columns.update(fixed)
    return _plan(request, expression, columns)


def _check_columns(
    user: int,
    types: Types,
    alias: str,
    asked_columns: tuple[str, ...],
) -> None:
    """Of its own columns only: another provider would hear that its own does not fit."""
    for qualified_name in types.columns:
        if not qualified_name.startswith(f"{alias}."):
            raise _bad_types(user, "announces types of columns that are another's")
    for column in asked_columns:
        if f"{alias}.{column}" not in types.columns:
            raise _bad_types(user, "announces no type of a column that is asked for")


def _fixed(user: int, types: Types) -> dict[str, Fixed]:
    """A provider's columns; ProtocolViolation where a type is none that it could have."""
    columns = {}
    try:
        for qualified_name, type_fields in types.columns.items():
            columns[qualified_name] = Fixed(*type_fields)
    except ExpressionError:
        raise _bad_types(user, "announces types that are out of range") from None
    return columns


def _bad_types(user: int, fault: str) -> ProtocolViolation:
    return ProtocolViolation(
        f"Hospital {user} {fault}.",
        remedy="Nothing was computed. Run the same version at all hospitals.",
        code="bad_message",
        hospitals=[user],
    )


def _plan(
    request: StatisticsRequest,
    expression: Expression,
    types: Mapping[str, Fixed],
) -> Plan:
    owners = {request.alias(provider): provider for provider in request.providers}
    with _refusing_expressions():
        return plan(expression, types, owners)


@contextlib.contextmanager
def _refusing_expressions() -> Iterator[None]:
    """What is wrong with an expression or its types, as the error that a user sees."""
    try:
        yield
    except ExpressionError as error:
        raise BadRequest(
            error.sentence,
            remedy=error.remedy,
            code="expression",
        ) from None


# The comparison of pooled cells


CELL_ROWS = "n"
"""A provider's rows of a cell, cut off at the threshold; -`veto` where it does not let
the cell be shown.
"""

CELL_SHARE = "s"
"""1 where a provider has rows of a cell, else 0."""

CELL_COME, CELL_GONE = "come", "gone"
"""A provider's people who have come into a cell and gone from it since an earlier
answer, cut off at the threshold.
"""


def cells_plan(
    providers: Sequence[int],
    receivers: Collection[int],
    limits: Limits,
) -> Plan:
    """The circuit that compares the cells of a table with the limits, a cell a row.

        sum n >= min_rows  and  sum s >= min_providers

    and, for each receiver that is a provider, without it: n of the others >= min_rows,
    s of the others >= min_providers - 1. Else made-up rows of a receiver would open
    what few real ones are in. And for each earlier answer, without who is left out:

        sum come is 0 or >= min_changed  and  sum gone is 0 or >= min_changed

    in parts of a person (`person`). Coordinator, providers and receivers make it alike
    (decision 73).
    """
    min_rows = limits.min_rows
    min_providers = limits.min_providers
    most_rows = -veto(providers, min_rows=min_rows)
    rows_bits = most_rows.bit_length()
    types = {}
    for provider in providers:
        alias = _cell_alias(provider)
        rows_type = _whole(rows_bits)
        types[f"{alias}.{CELL_ROWS}"] = rows_type
        one_bit = _whole(1)
        types[f"{alias}.{CELL_SHARE}"] = one_bit
    conditions = [_reach(CELL_ROWS, providers, min_rows)]
    if min_providers > 1:
        conditions.append(_reach(CELL_SHARE, providers, min_providers))
    both_roles = set(receivers) & set(providers)
    for receiver in sorted(both_roles):
        others = [provider for provider in providers if provider != receiver]
        conditions.append(_reach(CELL_ROWS, others, min_rows))
        # That one of the others has rows follows from their number.
        if min_providers > 2:
            conditions.append(_reach(CELL_SHARE, others, min_providers - 1))

    least_people = limits.min_changed * person(providers)
    people_bits = least_people.bit_length()
    people_type = _whole(people_bits)
    for earlier_place, earlier in enumerate(limits.earlier):
        left_out = earlier.left_out
        others = [provider for provider in providers if provider != left_out]
        for column in (f"{CELL_COME}{earlier_place}", f"{CELL_GONE}{earlier_place}"):
            for provider in others:
                alias = _cell_alias(provider)
                types[f"{alias}.{column}"] = people_type
            is_none = invert(_reach(column, others, 1))
            are_enough = _reach(column, others, least_people)
            passes = Node("or", (is_none, are_enough))
            conditions.append(passes)
    root = conditions[0]
    if len(conditions) > 1:
        root = Node("and", tuple(conditions))
    owners = {_cell_alias(provider): provider for provider in providers}
    with _refusing_expressions():
        return plan(Expression(root), types, owners)


def veto(providers: Sequence[int], *, min_rows: int) -> int:
    """A number of rows with which a cell does not pass, whatever the others have."""
    return -len(providers) * min_rows


def cell_columns(provider: int) -> tuple[str, str]:
    """What a provider's two columns are called in the circuit."""
    alias = _cell_alias(provider)
    return f"{alias}.{CELL_ROWS}", f"{alias}.{CELL_SHARE}"


def person(providers: Sequence[int]) -> int:
    """What one who has come or gone counts. A provider that does not know how many have
    says 1: so many are not none, and the ones of all providers are nobody.
    """
    return len(providers) + 1


def changed_columns(provider: int, place: int) -> tuple[str, str]:
    """What a provider's columns of the earlier answer at a place are called: who has
    come since, and who has gone.
    """
    alias = _cell_alias(provider)
    return f"{alias}.{CELL_COME}{place}", f"{alias}.{CELL_GONE}{place}"


def _cell_alias(provider: int) -> str:
    return f"p{provider}"


def _reach(
    column: str,
    providers: Sequence[int],
    threshold: int,
) -> Node:
    columns = []
    for provider in providers:
        qualified_name = (_cell_alias(provider), column)
        node = Node("column", value=qualified_name)
        columns.append(node)
    if len(columns) == 1:
        sum_node = columns[0]
    else:
        sum_node = add(*columns)
    is_below = Node("<", (sum_node, constant(threshold)))
    return invert(is_below)
