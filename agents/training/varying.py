"""Whether enough rows vary in each column of an order, where thresholds are on the sum.

A column of 0 and 1 of which one hospital has few, as `sex` where it treats few women, is
decided by the rows of all, in one comparison on shares: nobody learns anybody's number,
and all know which columns pass.

`protocol/varying_plan.py` has the rule. Decision 73.
"""

from __future__ import annotations

import functools

import numpy as np

from agents.gate import cohort_gate
from agents.order.evaluation import evaluate_once
from agents.order.party import receive_all, send
from agents.rows.cohort import Cohort
from agents.training import cohorts
from agents.training.party import AgreedTraining
from agents.training.row_gate import check_varying_each
from agents.training.row_sets import OrderRows, row_sets
from analytics.statistics.rowwise import Column
from protocol.errors import Refused
from protocol.messages import EVERYONE, PooledThresholds
from protocol.shares.shared_expression import reveal
from protocol.varying_plan import (
    VALUES,
    ComparedColumn,
    compared_columns,
    few_column,
    has_column,
    others_column,
    rows_column,
    strictest,
    varying_plan,
)


def check_columns(order: AgreedTraining, rows: OrderRows) -> None:
    """Refuse an order with a column of which too few rows vary, in all hospitals' rows
    where all of them pool, else in this hospital's own.

    To be called when what the order opens has been committed. Raises Refused (code
    min_varying), at all hospitals alike where all pool.

    Disclosure: of each column within each set of rows whether it passes, to the order's
    hospitals.
    """
    hospitals = order.request.hospitals
    if set(order.pooled) != set(hospitals):
        own = cohorts.own_thresholds(order)
        if own is not None:
            check_varying_each(order, rows, min_varying=own.min_varying)
        return
    thresholds = strictest(order.pooled)
    compared = compared_columns(order.request)
    plan = varying_plan(hospitals, thresholds)
    columns = _own_columns(order, rows, compared, thresholds)
    compute = functools.partial(
        evaluate_once, order, plan, columns, n_rows=len(compared)
    )
    # To everybody, so that all refuse the same.
    send(order, "cell_share", compute, recipient=EVERYONE)
    shares = receive_all(order, "cell_share", hospitals, EVERYONE)
    found = reveal(plan, shares)
    failing = []
    for one, passes in zip(compared, found.values, strict=True):
        if not passes and one.column not in failing:
            failing.append(one.column)
    if failing:
        raise _refused(failing, thresholds)


def _own_columns(
    order: AgreedTraining,
    rows: OrderRows,
    compared: list[ComparedColumn],
    thresholds: PooledThresholds,
) -> dict[str, Column]:
    """This hospital's six columns of the comparison."""
    numbers: dict[str, list[int]] = {}
    sets = row_sets(order, rows)
    own_least = order.pooled[order.me].min_varying
    for one in compared:
        cohort = sets.get(one.row_set)
        if cohort is None and one.is_trained:
            # So few rows that a fold holds none of them out.
            cohort = rows.train
        values = np.zeros(0) if cohort is None else _values(cohort, one.column)
        others = not cohort_gate.holds_0_and_1(values)
        few = cohort_gate.varies_in_few(values, own_least)
        numbers.setdefault(others_column(order.me), []).append(int(others))
        numbers.setdefault(few_column(order.me), []).append(int(few))
        for value in VALUES:
            n_rows = int(np.count_nonzero(values == value))
            # Of rows that only test, no gradient is of one hospital's alone.
            has_rows = n_rows > 0 or not one.is_trained
            # More than the threshold decides nothing more.
            n_counted = min(n_rows, thresholds.min_varying)
            numbers.setdefault(rows_column(order.me, value), []).append(n_counted)
            numbers.setdefault(has_column(order.me, value), []).append(int(has_rows))
    valid = np.ones(len(compared), dtype=np.bool_)
    columns = {}
    for name, of_column in numbers.items():
        columns[name] = Column(np.array(of_column, dtype=np.int64), valid)
    return columns


def _values(cohort: Cohort, name: str) -> cohort_gate.Column:
    return dict(cohort_gate.features(cohort))[name]


def _refused(failing: list[str], thresholds: PooledThresholds) -> Refused:
    names = ", ".join(failing)
    whose = f" at fewer than {thresholds.min_hospitals} hospitals,"
    if thresholds.own_totals:
        whose = ""
    return Refused(
        f"In {names}, one of the values 0 and 1 stands in fewer than {thresholds.min_varying} rows of all hospitals,"
        f"{whose} or of all but one: its gradient would be theirs alone.",
        remedy="Leave out what is named, widen the SQL, or ask the hospitals to lower min_varying in policy.toml.",
        code="min_varying",
        threshold=thresholds.min_varying,
        feature=failing[0],
        features=failing,
    )
