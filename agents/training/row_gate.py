"""The gate before a training order's rows: every rule for each of its sets, and of whom
its totals would be.

One way for an order that was sent (`cohorts.py`) and for one that is only checked
(`agents.check`), so that the two cannot differ. The rules themselves are in
`agents.gate.cohort_gate` and `agents.gate.cohort_audit`.

Decisions 18, 70, 80, 109, 120 and 129.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from functools import partial

import numpy as np

from agents.gate import cohort_gate
from agents.gate.asked_sets import AskedSet, AuditRules, asked_sets
from agents.gate.clusters import Clusterings, check_clusters
from agents.gate.cohort_audit import reserve
from agents.gate.kept_sets import COORDINATOR, IDS_ALONE, ColumnName
from agents.gate.memory import Memory, earlier_digests
from agents.gate.meta_orders import MetaOrders
from agents.gate.round_budget import RoundBudget
from agents.rows.allowed_sql import CheckedQuery
from agents.rows.cohort import Cohort
from agents.rows.row_tables import columns
from agents.training.party import AskedTraining, checked_sql
from agents.training.row_sets import (
    OrderRows,
    RowSet,
    row_sets,
    sets_by_purpose,
    trained_sets,
)
from agents.training.subgroup_rule import subgroup_rule
from agents.training.survival_rows import sets_of_times, survival_rule
from analytics.arrays import Ints
from analytics.statistics.hospital_audit import Part
from protocol.errors import Rule, check_rules
from protocol.messages import PooledThresholds
from protocol.policy import OpenRows
from protocol.training_request import HIDDEN, folds

NEWTON_SHARE = Fraction(3, 10)
"""Of max_parameter_share: 1/3 becomes 1/10."""

Sets = Mapping[str, Sequence[RowSet]]
"""By purpose, the sets of an order's rows; the first of train is all that it trains on."""


def pass_gate(
    order: AskedTraining,
    rows: OrderRows,
    memory: Memory,
    *,
    is_pooled: bool,
) -> None:
    """Every set against the rules, then all of them together against what the others
    may have: all of them are reserved, or none.

    is_pooled: the sum of all hospitals decides on columns of 0 and 1, when all have
    accepted.
    """
    sets = sets_by_purpose(order, rows)
    for rules in set_rules(
        order,
        sets,
        is_pooled=is_pooled,
    ):
        check_rules(rules)
    reserve_sets(order, sets, memory)


def set_rules(
    order: AskedTraining,
    sets: Sets,
    *,
    is_pooled: bool,
) -> list[list[Rule]]:
    """The rules that look at these rows alone: for each set the one on its size, and
    then those that are asked together.
    """
    trained = sets["train"][0].cohort
    n_rows = trained.n_rows
    rule_groups = [[Rule("mini_batches", lambda: check_mini_batches(order, n_rows))]]
    for purpose, of_purpose in sets.items():
        for rules in rules_of(order, purpose):
            for row_set in of_purpose:
                rule_groups += cohort_gate.gate_rules(
                    row_set.cohort,
                    n_parameters=row_set.n_parameters,
                    rules=rules,
                    pooled=is_pooled,
                )
                is_network = order.request.model_type in HIDDEN
                # Of fewer rows two are nearly all of most numbers, and min_rows refuses.
                n_of_set = row_set.cohort.n_rows
                is_judged = rules.min_varying > 1 and n_of_set >= rules.min_rows
                if not is_network and is_judged:
                    rule_groups.append([_extremes_rule(order, row_set, rules)])
                if order.request.model_type == "cox":
                    rule_groups.append([survival_rule(order, row_set.cohort, rules)])
            cluster_column = order.request.cluster_column
            if cluster_column is not None and purpose == "train":
                of_clusters = _clusters_rule(
                    order,
                    cluster_column,
                    trained,
                    rules,
                )
                rule_groups.append([of_clusters])
            of_groups = subgroup_rule(order, of_purpose[0].cohort, rules)
            if of_groups is not None:
                rule_groups.append([of_groups])
    return rule_groups


def _extremes_rule(
    order: AskedTraining,
    row_set: RowSet,
    rules: OpenRows,
) -> Rule:
    check = partial(
        cohort_gate.check_extremes,
        row_set.cohort,
        max_share=order.policy.cohort.max_share,
        min_rows=rules.min_rows,
        has_times=order.request.model_type == "cox",
    )
    return Rule("max_share", check)


def reserve_sets(
    order: AskedTraining,
    sets: Sets,
    memory: Memory,
) -> None:
    """Reserves all sets, in one act with their audit. Raises as
    `agents.gate.cohort_audit.reserve`.
    """
    reserved_sets: list[AskedSet] = []
    min_rows = 1
    for purpose, of_purpose in sets.items():
        for table in query_of(order, purpose).tables:
            min_rows = max(min_rows, order.policy.rows(table).min_rows)
            reserved_sets += _asked_sets(order, of_purpose, table)
            for row_set in of_purpose:
                population = order.policy.population(table)
                unique_ids = row_set.cohort.unique_ids
                reserved_sets += asked_by_ids(
                    row_set.name,
                    unique_ids,
                    population,
                    memory,
                )
    audit_rules = AuditRules(
        min_rows=min_rows,
        least_hospitals=order.policy.orders.min_hospitals,
        budget_days=order.policy.cohort.budget_days,
    )
    reserve(
        memory,
        reserved_sets,
        receivers=receivers_of(order),
        order_id=order.order_id,
        rules=audit_rules,
        has_ended=order.vault.has_ended,
        now=datetime.now(UTC),
    )


def spend_rounds(
    order: AskedTraining,
    budget: RoundBudget,
    *,
    now: datetime,
) -> None:
    """Counts the order's rounds (decision 71).

    Its receivers are the other hospitals, with method None the coordinator too. Raises
    Refused (code max_rounds).
    """
    request = order.request
    # What the end of a fold opens is rounds, too.
    n_of_fold = request.model_params.max_iter + request.rounds_at_the_end
    budget.commit(
        order.order_id,
        receivers=receivers_of(order),
        populations=_populations(order),
        n_rounds=len(folds(request)) * n_of_fold,
        rules=order.policy.cohort,
        now=now,
    )


def spend_meta(
    order: AskedTraining,
    orders: MetaOrders,
    *,
    now: datetime,
) -> None:
    """Counts a meta-analysis, and no other order. Raises Refused (code meta_orders)."""
    if not order.request.is_meta:
        return
    orders.commit(
        order.order_id,
        populations=_populations(order),
        n_hospitals=len(order.request.hospitals),
        policy=order.policy,
        now=now,
    )


def spend_clustering(
    order: AskedTraining,
    clusterings: Clusterings,
    *,
    now: datetime,
) -> None:
    """Remembers the order's clusters by a column. Raises Refused (code clusters)."""
    cluster_column = order.request.cluster_column
    if cluster_column is None:
        return
    tables = sorted(query_of(order, "train").tables)
    clusterings.commit(
        order.order_id,
        name=f"{', '.join(tables)}: {cluster_column}",
        populations=_populations(order),
        rules=order.policy.cohort,
        now=now,
    )


def _clusters_rule(
    order: AskedTraining,
    name: str,
    cohort: Cohort,
    rules: OpenRows,
) -> Rule:
    clusters = cohort.clusters
    assert clusters is not None, "read with the rows"
    if cohort.weights is not None:
        # A row without weight adds nothing to its cluster's sums, and hides nobody
        # there.
        clusters = clusters[cohort.weights > 0]
    check = partial(
        check_clusters,
        name,
        clusters,
        min_rows=rules.min_rows,
        tells_counts=order.is_initiator,
    )
    return Rule("clusters", check)


def _populations(order: AskedTraining) -> set[str]:
    populations: set[str] = set()
    for purpose in order.sql:
        for table in query_of(order, purpose).tables:
            # A view shows the people of its table.
            populations.add(order.policy.population(table))
    return populations


def query_of(order: AskedTraining, purpose: str) -> CheckedQuery:
    return checked_sql(order, order.request, order.sql[purpose])


def rules_of(order: AskedTraining, purpose: str) -> list[OpenRows]:
    """Those of the tables that the order's SQL reads."""
    tables = query_of(order, purpose).tables
    table_rules = [order.policy.rows(table) for table in tables]
    if not order.request.is_newton:
        return table_rules
    # Each of its rounds opens sums of all products of two columns, too (Decision 84).
    narrowed = []
    for rules in table_rules:
        share = rules.max_parameter_share * NEWTON_SHARE
        narrowed.append(rules.model_copy(update={"max_parameter_share": share}))
    return narrowed


def least_rows(order: AskedTraining, purpose: str) -> int:
    """The largest min_rows of the tables that the order's SQL reads."""
    return max((rules.min_rows for rules in rules_of(order, purpose)), default=0)


def receivers_of(order: AskedTraining) -> set[str]:
    """Who can open the order's totals: all other parties, and the coordinator where
    gradients go in clear.
    """
    receivers = {str(user) for user in order.request.hospitals if user != order.me}
    if order.request.is_open:
        receivers.add(COORDINATOR)
    return receivers


# Of whom the totals are


def _asked_sets(
    order: AskedTraining,
    sets: Sequence[RowSet],
    table: str,
) -> list[AskedSet]:
    """The sets of one SQL's rows, of which the first is all of them, under each column
    that the model is trained on or judged by.
    """
    members = sets[0].cohort.members
    assert members is not None, "read with a key"
    # The same parts as of a pooled statistic: all hospitals' columns have one name.
    other_hospitals = [user for user in order.request.hospitals if user != order.me]
    column_sets: list[AskedSet] = []
    may_miss = order.request.missing == "mean"
    # What those add who lack a value is a sum of its own: it stands in the gradient
    # times the mean, which other hospitals' rows can change.
    lacking = _lacking(sets) if may_miss else {}
    of_times = {}
    if order.request.model_type == "cox":
        of_times = sets_of_times(sets, edges=order.request.edges)
    of_sets = {row_set.name: row_set.places for row_set in sets}
    for column in members.values:
        rows = of_sets | lacking | of_times
        if may_miss:
            # In place of a value that a row lacks stands the mean of the others.
            has_value = np.flatnonzero(members.values[column])
            for set_name, set_places in list(rows.items()):
                rows[set_name] = np.intersect1d(set_places, has_value)
                if set_name in lacking and not rows[set_name].size:
                    rows.pop(set_name)
        column_sets += asked_sets(
            members,
            order.policy,
            population=table,
            columns=[column],
            rows=rows,
            parts=dict.fromkeys(other_hospitals, Fraction(1)),
        )
    if not order.request.regroups:
        return column_sets
    # Sums over any of the hospitals follow from those over all, and all but each one.
    regrouped = []
    for hospital in other_hospitals:
        remaining = [other for other in other_hospitals if other != hospital]
        for asked_set in column_sets:
            set_name = f"{asked_set.name} without hospital {hospital}"
            parts: dict[Part, Fraction] = {}
            for other in remaining:
                parts[other] = Fraction(1)
            regrouped.append(replace(asked_set, name=set_name, parts=parts))
    return column_sets + regrouped


def _lacking(sets: Sequence[RowSet]) -> dict[str, Ints]:
    """By a name, the places of the rows of each trained set that lack an attribute's
    value.
    """
    lacking_places = {}
    for row_set in sets:
        if not row_set.n_parameters:
            continue
        cohort = row_set.cohort
        of_attributes = columns(cohort.X)
        for attribute, column in zip(cohort.attributes, of_attributes, strict=True):
            is_missing = np.isnan(column)
            places = row_set.places[is_missing]
            if places.size:
                lacking_places[f"{row_set.name} without {attribute}"] = places
    return lacking_places


def asked_by_ids(
    name: str,
    unique_ids: Sequence[str],
    population: str,
    memory: Memory,
) -> list[AskedSet]:
    """The same rows as an earlier version would know them, where it has kept some."""
    column = ColumnName(population, "", IDS_ALONE)
    if not memory.has_column(column):
        return []
    ids = earlier_digests(memory.key, unique_ids)
    asked_set = AskedSet(
        population=population,
        column="",
        name=name,
        ids=ids,
        values=np.zeros_like(ids),
        form=IDS_ALONE,
    )
    return [asked_set]


# Rules that are asked again when more is known


def check_mini_batches(order: AskedTraining, n_rows: int) -> None:
    """n_rows: the most that a hospital of the order trains on, as far as is known.
    Raises as `cohort_gate.check_mini_batches`.
    """
    cohort_gate.check_mini_batches(
        n_rows,
        order.request.model_params.batch_size,
        is_allowed=order.policy.cohort.mini_batches,
    )


def policy_thresholds(order: AskedTraining) -> PooledThresholds | None:
    """What this hospital asks of the sum; None where each hospital's own rows decide."""
    request = order.request
    # Who is shown more than the sum over all hospitals sees parts of which the others'
    # rows hide nothing; and an estimate of a hospital's own is of its rows alone.
    shows_parts = request.is_open or request.is_scored or request.is_meta
    shows_parts = shows_parts or request.tells_own_sums
    if request.aggregation != "mean" or shows_parts or not order.policy.pools_cells:
        return None
    min_varying = least_in_cells = 1
    for purpose in order.sql:
        for table in query_of(order, purpose).tables:
            rules = order.policy.rows(table)
            min_varying = max(min_varying, rules.min_varying)
            least_in_cells = max(least_in_cells, rules.min_rows)
    statistics = order.policy.statistics
    assert statistics is not None, "only where cells are pooled"
    return PooledThresholds(
        min_varying=min_varying,
        min_hospitals=order.policy.orders.min_hospitals,
        own_totals=statistics.own_totals,
        min_rows=least_in_cells,
    )


def check_varying_each(
    order: AskedTraining,
    rows: OrderRows,
    *,
    min_varying: int,
) -> None:
    """The gate's min_varying by this hospital's own rows, where another hospital does
    not pool. Raises Refused (code min_varying).
    """
    for cohort in row_sets(order, rows).values():
        cohort_gate.check_varying(cohort, min_varying)


def check_model_size(
    order: AskedTraining,
    rows: OrderRows,
    n_parameters: int,
    *,
    because: str = "",
) -> None:
    """The gate once more, for the model as it is: it has the classes and levels of all
    hospitals, not only one's own. because: as `check_parameters` says it.

    Raises Refused (code max_parameter_share). Disclosure: as `check_gate`.
    """
    sets = trained_sets(order.request, rows, n_parameters)
    for rules in rules_of(order, "train"):
        for row_set in sets:
            cohort_gate.check_parameters(
                row_set.cohort.n_rows,
                row_set.n_parameters,
                rules,
                because=because,
            )
