"""What a hospital asks of the columns that another one's question derives from its own.

Who writes an expression weighs rows: 1000 * x, or a case that is 1 for one patient. A
question over joined rows is judged by its circuit, where derived columns are written
out (`disclosure.check_weighing`). Of pooled rows a derived column that is added up, or
whose order is searched, is judged here as that expression would be; one that tells
groups apart only regroups what `group_by` of its columns gives, and is ruled as groups
are. `orders.derive` of the policy comes before both.

Decisions 44 and 81.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from agents.gate import total_rules
from analytics.statistics.derived import Derived, added_columns, plain_names
from protocol.errors import Refused
from protocol.policy import Policy, StatisticsRules


def check_unique_ids(derived: Mapping[str, Derived], policy: Policy) -> None:
    """Refuse expressions over a column that identifies patients (code derive)."""
    closed = {rules.unique_id.lower() for rules in policy.opened.values()}
    if policy.statistics is not None:
        closed |= {
            unique_id.lower() for unique_id in policy.statistics.unique_ids.values()
        }
    # Most databases find a column whatever its case: ID must not pass where id is
    # closed.
    id_columns = [column for column in plain_names(derived) if column.lower() in closed]
    if id_columns:
        raise Refused(
            f"derive uses {', '.join(id_columns)}, which identifies patients at this hospital: single ones"
            " could be picked.",
            remedy="Derive columns from others.",
            code="derive",
        )


def is_sum(name: str, derived: Mapping[str, Derived]) -> bool:
    """Whether a derived column is a sum of columns of the data, each with 1 or -1."""
    added = added_columns(name, derived) or {}
    return bool(added) and all(abs(number) == 1 for number in added.values())


def check_values(
    derived: Mapping[str, Derived], columns: Collection[str], rules: StatisticsRules
) -> None:
    """Refuse a pooled statistic of derived columns that do more than add up others,
    unless the policy allows `row_expressions` (code row_expressions).
    """
    if rules.row_expressions:
        return
    weighing = [
        column
        for column in columns
        if column in derived and not is_sum(column, derived)
    ]
    if weighing:
        raise Refused(
            f"derive.{weighing[0]} does more than add this hospital's columns, and the answer adds it up or searches"
            " its order, which can single out one row.",
            remedy="Ask frequency, histogram or group_by of it, add plain columns, or ask the hospital to allow"
            " row_expressions, under [statistics] in its policy.toml.",
            code="row_expressions",
        )


def check_mask(
    name: str, derived: Mapping[str, Derived], *, n_varying: int, min_varying: int
) -> None:
    """Refuse to add a derived column that hardly varies here, and so hides no other
    hospital's part (code own_totals).
    """
    if name in derived and not is_sum(name, derived):
        total_rules.check_mask(n_varying, min_varying)
