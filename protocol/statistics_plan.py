"""What an order of joint statistics computes: its expression, and the circuit that all parties make alike from it.

The coordinator deals random numbers by this plan, the providers compute by it, and each checks the others by it.
`analytics/statistics/circuit.py` makes the circuit; `agents/statistics/joined.py` is a provider's side of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from fractions import Fraction

from analytics.statistics.circuit import Plan, plan
from analytics.statistics.expression import Expression, ExpressionError, compare_sum, parse_expression
from analytics.statistics.rowwise import Fixed
from protocol.errors import BadRequest, ProtocolViolation
from protocol.statistics_messages import Types
from protocol.statistics_request import THRESHOLD, StatisticsRequest

VALUE = "value"
"""What the compared column of every provider is called in the expression of is_investor_accredited."""


# The expression


def ordered_expression(request: StatisticsRequest) -> Expression | None:
    """The expression of method custom, parsed; its columns are looked for when the data are read.

    BadRequest (code expression) for one that cannot be parsed.
    """
    if request.expression is None:
        return None
    aliases = {request.alias(user): None for user in request.providers}
    with _refusing_expressions():
        return parse_expression(request.expression, aliases)


def expression_of(request: StatisticsRequest) -> Expression:
    """That of method custom; for is_investor_accredited the sum over all providers against the threshold."""
    written = ordered_expression(request)
    if written is not None:
        return written
    columns = [(request.alias(user), VALUE) for user in request.providers]
    threshold = Fraction(request.threshold or THRESHOLD)
    return compare_sum(columns, request.comparison or ">=", threshold=threshold)


# The circuit


def sketched_plan(request: StatisticsRequest) -> Plan | None:
    """The circuit of method custom before anybody has announced types: the one that is computed, but for its sizes.

    So a rule on what is added up refuses before a person is asked and a row is read (decision 44). None without an
    expression.
    """
    expression = ordered_expression(request)
    if expression is None:
        return None
    one_bit = Fixed(0, 0, 1, nullable=False)
    types = {f"{alias}.{column}": one_bit for alias, column in expression.columns}
    return _plan(request, expression, types)


def agreed_plan(request: StatisticsRequest, announced: Mapping[int, Types]) -> Plan:
    """The circuit of an order, which coordinator, providers and receivers make alike from the announced types.

    ProtocolViolation (code bad_message) where a hospital announces types of another's columns; BadRequest (code
    expression) where these types make no circuit.
    """
    expression = expression_of(request)
    columns = {}
    for user, types in announced.items():
        own_prefix = f"{request.alias(user)}."
        # The other provider would hear that its own column does not fit.
        if not all(name.startswith(own_prefix) for name in types.columns):
            raise ProtocolViolation(
                f"Hospital {user} announces types of columns that are another's.",
                remedy="Nothing was computed. Run the same version at all hospitals.",
                code="bad_message",
            )
        columns.update(types.columns)
    with _refusing_expressions():
        fixed = {name: Fixed(*fields) for name, fields in columns.items()}
    return _plan(request, expression, fixed)


def _plan(request: StatisticsRequest, expression: Expression, types: Mapping[str, Fixed]) -> Plan:
    owners = {request.alias(user): user for user in request.providers}
    with _refusing_expressions():
        return plan(expression, types, owners)


@contextlib.contextmanager
def _refusing_expressions() -> Iterator[None]:
    """What is wrong with an expression or its types, as the error that a user sees."""
    try:
        yield
    except ExpressionError as error:
        raise BadRequest(error.sentence, remedy=error.remedy, code="expression") from None
