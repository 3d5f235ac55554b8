"""The rules on whose columns are in a total that somebody will be able to open.

Decision 72.
"""

from __future__ import annotations

from collections.abc import Iterable

from agents.gate.totals import OpenedTotal, joint_name
from protocol.errors import Refused
from protocol.policy import StatisticsRules
from protocol.statistics_request import StatisticsRequest


def check_owners(
    totals: Iterable[OpenedTotal], me: int, rules: StatisticsRules
) -> None:
    """Refuse a total with this hospital's columns and too few others'.

    Those count whose columns are left in it, not those who bring keys. Raises Refused
    with code own_totals, where it is this hospital's own, or min_providers.
    """
    if rules.own_totals:
        return
    for total in totals:
        owners = total.owners
        if owners == {me}:
            raise Refused(
                "The answer would open a total of this hospital's rows alone.",
                remedy="Add up the same with other hospitals, or ask the hospital to allow own_totals,"
                " under [statistics] in its policy.toml.",
                code="own_totals",
            )
        if me in owners and len(owners) < rules.min_providers:
            raise Refused(
                f"Columns of {len(owners)} hospitals are left in a total, fewer than this hospital's minimum of"
                f" {rules.min_providers}.",
                remedy="Add up columns of more hospitals, or ask the hospital to lower min_providers,"
                " under [statistics] in its policy.toml.",
                code="min_providers",
                threshold=rules.min_providers,
            )


def check_mask(n_varying: int, min_varying: int) -> None:
    """Refuse a summand that hides nothing of what it is added to (code own_totals).

    Who knows a column that is nearly the same everywhere takes it off the total.

    Disclosure: a refusal shows that the column hardly varies among the common people.
    """
    # 1 switches the rule off, as for models.
    if min_varying > 1 and n_varying < min_varying:
        raise Refused(
            f"Fewer than {min_varying} of the common people differ in what this hospital adds to the total, so that it"
            " hides no other hospital's part.",
            remedy="Leave this hospital's column out, ask for more people, or ask the hospital to lower min_varying in"
            " its policy.toml.",
            code="own_totals",
            threshold=min_varying,
        )


def check_columns(request: StatisticsRequest, me: int, rules: StatisticsRules) -> None:
    """Refuse a pooled statistic in which providers name different columns (code
    column_names).

    Each provider answers for its own: it is named as the answer names it, or the policy
    says that it is the same. A constant under another name would take the mask off the
    others' sum.
    """
    if request.is_joined or request.columns:
        return
    own_column = request.provider(me).key_column
    joint_column = joint_name(request)
    # What a policy says of its own column holds for none that an order derives.
    is_same = (
        joint_column == rules.same_as.get(own_column)
        and own_column not in request.rows.derived
    )
    if joint_column == own_column or is_same:
        return
    raise Refused(
        f"This hospital is asked for {own_column}, and the answer is of {joint_column}.",
        remedy="Name the same column at every provider, rename it in a SELECT, or ask the hospital to set"
        f' same_as = {{ "{own_column}" = "{joint_column}" }} under [statistics] in its policy.toml.',
        code="column_names",
        columns=[own_column],
    )
