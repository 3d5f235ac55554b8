"""What an order of joint statistics computes: its expression, and the circuit that all parties make alike from it.

The coordinator deals random numbers by this plan, the providers compute by it, and each checks the others by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from analytics.statistics.circuit import Plan, plan
from analytics.statistics.expression import Expression, ExpressionError, compare_sum, parse_expression
from analytics.statistics.rowwise import Fixed
from protocol.errors import BadRequest, ProtocolViolation
from protocol.statistics_messages import Types
from protocol.statistics_request import THRESHOLD, StatisticsRequest


def ordered_expression(request: StatisticsRequest) -> Expression | None:
    """The expression of method custom, parsed; its columns are looked for when the data are read."""
    if request.expression is None:
        return None
    try:
        return parse_expression(request.expression, {request.alias(user): None for user in request.providers})
    except ExpressionError as error:
        raise BadRequest(error.sentence, remedy=error.remedy, code="expression") from None


VALUE = "value"
"""What the compared column of every provider is called in the expression of is_investor_accredited."""


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
    return compare_sum(
        columns, request.comparison or ">=", threshold=Fraction(request.threshold or THRESHOLD)
    )
