"""What the gate would say to a training order's rows: asked by this hospital's own people
before an order is sent.

Reads the rows of one SQL and audits them as `cohorts.py` does those of an order.
Nothing is reserved, and nothing leaves. What depends on the order besides its rows is
not looked at: folds, the model's size, features that hardly vary; of a whole order
`agents.check` has it. What other hospitals would say of being left alone is not known:
it is taken that they do not allow it.

Decision 70.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from agents.gate import regrouping
from agents.gate.asked_sets import AskedSet, AuditRules, asked_sets
from agents.gate.cohort_audit import reserve
from agents.gate.kept_sets import COORDINATOR, Terms
from agents.gate.memory import Memory
from agents.order.party import UNSENT, Hospital
from agents.rows import cohort as cohorts
from agents.rows.allowed_sql import CheckedQuery, check_sql
from agents.rows.canonical import Members, members_of
from agents.rows.database import dialect_of
from agents.rows.reading import open_query
from agents.rows.unique_ids import unique_ids
from agents.training.cohorts import SECTION
from agents.training.row_gate import asked_by_ids
from protocol.errors import BadRequest
from protocol.policy import Policy


def check_rows(hospital: Hospital, sql: str, *, receivers: Collection[str]) -> int:
    """How many rows these are, if an order of this hospital's own user could have them.

    sql: selects the policy's unique id of its table, and the columns that the order
    would use. receivers: numbers of the order's other hospitals, and "coordinator"
    where its sums go in clear.

    Raises Refused with the rule of the policy, of `min_rows` or of the audit, and
    BadRequest for SQL that cannot run, or without the id or another column.

    Disclosure: the number of rows and whether they pass, to this hospital's people.
    """
    policy = hospital.policy
    checked = check_sql(
        sql,
        policy=policy,
        requester=hospital.me,
        own_user_id=hospital.me,
        unique_id="",
        label=None,
        dialect=dialect_of(hospital.settings.data_url),
    )
    tables = [policy.rows(table) for table in checked.tables]
    least_rows = max(rules.min_rows for rules in tables)
    # What is reserved in a copy is reserved nowhere.
    memory = Memory(hospital.vault.cohorts, is_copy=True)
    rows = _read_rows(
        hospital,
        checked,
        memory,
        unique_id=tables[0].unique_id,
        least_rows=least_rows,
    )
    reserved_sets = _sets_of_rows(rows, checked, policy, memory, receivers=receivers)
    rules = AuditRules(
        min_rows=least_rows,
        least_hospitals=policy.orders.min_hospitals,
        budget_days=policy.cohort.budget_days,
    )
    reserve(
        memory,
        reserved_sets,
        receivers=receivers,
        order_id=UNSENT,
        rules=rules,
        has_ended=hospital.vault.has_ended,
        now=datetime.now(UTC),
    )
    regrouping.agree(
        memory,
        order_id=UNSENT,
        terms=Terms(rules.least_hospitals, willing=frozenset()),
        section=SECTION,
        has_ended=hospital.vault.has_ended,
    )
    return len(rows.ids)


class _ReadRows(NamedTuple):
    """What the audit needs of the rows of one SQL; patients' ids, which stay here."""

    ids: Sequence[str]
    columns: list[str]  # without the unique id
    members: Members


def _read_rows(
    hospital: Hospital,
    checked: CheckedQuery,
    memory: Memory,
    *,
    unique_id: str,
    least_rows: int,
) -> _ReadRows:
    """What the audit needs of the rows; that there are enough is asked before digests are
    made.

    Raises Refused for too few rows and BadRequest for SQL that gives the id alone.
    """
    with open_query(
        hospital.settings, checked, unique_id=unique_id, columns=None
    ) as rows:
        ids = unique_ids(rows, unique_id)
        cohorts.check_enough_rows(len(ids), least_rows)
        columns = [column for column in rows.columns if column != unique_id]
        if not columns:
            raise BadRequest(
                f"The SQL selects {unique_id} and no other column.",
                remedy="Select the columns that the order would use, too.",
                code="sql",
            )
        members = members_of(rows, columns, key=memory.key)
    return _ReadRows(ids, columns, members)


def _sets_of_rows(
    rows: _ReadRows,
    checked: CheckedQuery,
    policy: Policy,
    memory: Memory,
    *,
    receivers: Collection[str],
) -> list[AskedSet]:
    """All rows as the one set of an order's totals, in each table that the SQL reads."""
    other_hospitals = [
        int(receiver) for receiver in receivers if receiver != COORDINATOR
    ]
    ids = rows.ids
    asked: list[AskedSet] = []
    for table in checked.tables:
        asked += asked_sets(
            rows.members,
            policy,
            population=table,
            columns=rows.columns,
            rows={"train": np.arange(len(ids))},
            parts=dict.fromkeys(other_hospitals, Fraction(1)),
        )
        asked += asked_by_ids("train", ids, policy.population(table), memory)
    return asked
