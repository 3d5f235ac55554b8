"""The gate's rule on an evaluation's subgroups, by one hospital's rows.

Decision 101.
"""

from __future__ import annotations

from agents.gate.subgroups import check_subgroups
from agents.rows.cohort import Cohort
from agents.training.party import AskedTraining
from agents.training.survival_rows import outcome_columns
from protocol.errors import Rule
from protocol.policy import OpenRows


def subgroup_rule(order: AskedTraining, rows: Cohort, rules: OpenRows) -> Rule | None:
    """That on the subgroups' rows and outcomes, by this hospital's rows; None of an order
    without subgroups.
    """
    request = order.request
    group_column = request.subgroups
    if group_column is None or rows.groups is None or rows.y is None:
        return None
    # Of a cox the event stands behind the time.
    outcome_place = 0 if request.event_name is None else 1
    outcome, outcome_values = outcome_columns(request, rows.y)[outcome_place]
    groups, is_number = rows.groups, request.has_number_label

    def check() -> None:
        check_subgroups(
            group_column,
            groups,
            outcome,
            None if is_number else outcome_values,
            min_rows=rules.min_rows,
        )

    return Rule("min_rows", check)
