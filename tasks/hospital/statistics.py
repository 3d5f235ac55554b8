"""The steps of a hospital in an order of joint statistics, each visible in Prefect.

Rows of all providers one below the other are `agents.statistics.pooled`, rows matched
by a key `joined`.
"""

from __future__ import annotations

from agents.order import key_agreement
from agents.order import party as orders
from agents.order.party import Party
from agents.statistics import answer as answers
from agents.statistics import joined, joined_rows, pooled
from agents.statistics import party as parties
from agents.statistics.answer import Answered
from agents.statistics.party import (
    AgreedStatistics,
    VerifiedStatistics,
)
from agents.statistics.readings import Reading
from tasks.steps import step


@step("verify order")
def verify_order(party: Party) -> VerifiedStatistics:
    """The order's signature, its commitment to where its data are, and the policy."""
    return parties.verify_order(party)


@step("data extraction")
def read_rows(order: VerifiedStatistics) -> Reading | None:
    """A provider's rows, through the gate; nothing at a hospital that only receives."""
    if not order.is_provider:
        return None
    if order.request.is_joined:
        return joined_rows.read_rows(order)
    return pooled.read_rows(order)


@step("key agreement")
def agree_on_keys(
    order: VerifiedStatistics, reading: Reading | None
) -> AgreedStatistics:
    """Acceptances and the order secret."""
    # Who only receives brings no rows, and is in no total.
    n_rows, regroup, least_hospitals = 0, False, 1
    sparse_masks = False
    if reading is not None:
        n_rows = reading.n_rows
        regroup = order.rules.regroup
        least_hospitals = order.rules.least_providers
        sparse_masks = order.rules.sparse_masks
    agreed = key_agreement.agree_on_keys(
        order,
        AgreedStatistics,
        n_rows=n_rows,
        regroup=regroup,
        least_hospitals=least_hospitals,
        sparse_masks=sparse_masks,
    )
    orders.begin(agreed)
    return agreed


@step("joint answer")
def answer(order: AgreedStatistics, reading: Reading | None) -> Answered:
    """This provider's part of the answer, and at a receiver the answer."""
    if order.request.is_joined:
        return joined.answer(order, reading)
    return pooled.answer(order, reading)


@step("results")
def deliver(order: AgreedStatistics, answered: Answered) -> None:
    """The answer, into the receiver's own folder; keys and what was read are forgotten."""
    answers.deliver(order, answered)
    answers.report(order, answered)
    orders.end(order)
