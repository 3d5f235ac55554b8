"""How an audit's verdict is told: the codes of its refusals, and their sentences."""

from __future__ import annotations

from agents.gate.asked_sets import (
    AuditRules,
)
from analytics.statistics.audit import Verdict
from protocol.errors import Refused

EARLIER_COHORT = "earlier_cohort"
AUDIT_SIZE = "audit_size"


def code_of(verdict: Verdict, rule: str) -> str:
    if verdict is Verdict.PASSES:
        return ""
    return AUDIT_SIZE if verdict is Verdict.UNDECIDED else rule


def refused(code: str, rules: AuditRules) -> Refused:
    if code == AUDIT_SIZE:
        return Refused(
            "So many different sets of people were asked for that it cannot be decided whether their answers tell"
            " single ones.",
            remedy="Ask for more rows, or for rows that were asked for before.",
            code="audit_size",
        )
    return Refused(
        f"These rows with those of earlier orders would tell of fewer than {rules.min_rows} patients, by comparing the"
        " answers.",
        remedy="Use the same rows as before, or rows that differ more; where columns have gaps, name the same columns"
        " in complete_on each time.",
        code="earlier_cohort",
        threshold=rules.min_rows,
    )


def refused_beside(order_id: int, code: str) -> Refused:
    return Refused(
        f"These rows with those of order {order_id}, which is under way, would tell too much.",
        remedy=f"Send the order again when order {order_id} has ended: it can pass if that one gave no answer.",
        code=code,
        order_under_way=order_id,
    )
