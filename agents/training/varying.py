"""Whether enough rows vary in each column of an order, where thresholds are on the sum.

A column of 0 and 1 of which one hospital has few, as `sex` where it treats few women, is
decided by the rows of all, in one comparison on shares: nobody learns anybody's number,
and all know which columns pass. Of a Newton order so is each cell of the table of each
two columns, its categories level by level; how many there are the hospitals tell the
coordinator when they have agreed on the levels, and it deals then.

`protocol/varying_plan.py` has the rule. Decisions 73 and 95.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from agents.gate import cohort_gate
from agents.gate.pair_cells import has_few_pairs
from agents.order.evaluation import evaluate_once
from agents.order.party import receive_all, send
from agents.rows.cohort import Cohort
from agents.training import cohorts
from agents.training.agreed_levels import places_of
from agents.training.party import AgreedTraining
from agents.training.row_gate import check_varying_each
from agents.training.row_sets import OrderRows, row_sets
from agents.training.survival_rows import outcome_columns
from analytics.statistics.rowwise import Column
from protocol.errors import BadRequest, Refused
from protocol.messages import COORDINATOR, EVERYONE, PooledThresholds, canonical
from protocol.shares.shared_expression import reveal
from protocol.varying_plan import (
    LABEL,
    MOST_COMPARED,
    Compared,
    Indicated,
    Levels,
    compared_columns,
    few_column,
    has_column,
    largest_threshold,
    lower_column,
    n_cells,
    others_column,
    rows_column,
    strictest,
    varying_plan,
    waits_for_levels,
)


def check_columns(
    order: AgreedTraining,
    rows: OrderRows,
    levels: Levels,
) -> None:
    """Refuse an order with a column, or of a Newton order a pair of columns, of which
    too few rows vary, in all hospitals' rows where all of them pool, else in this
    hospital's own.

    To be called when what the order opens has been committed. Raises Refused (code
    min_varying, and min_rows of pairs), at all hospitals alike where all pool; BadRequest
    (code pairs) where there are too many of them.

    Disclosure: of each column and pair within each set of rows whether it passes, to the
    order's hospitals; to the coordinator how many they are.
    """
    request = order.request
    hospitals = request.hospitals
    if set(order.pooled) != set(hospitals):
        own_thresholds = cohorts.own_thresholds(order)
        if own_thresholds is not None:
            check_varying_each(
                order,
                rows,
                min_varying=own_thresholds.min_varying,
            )
        return
    thresholds = strictest(order.pooled)
    compared = compared_columns(request, levels, thresholds)
    if waits_for_levels(request):
        _tell_how_many(order, compared)
    plan = varying_plan(hospitals, thresholds, n_cells(request))
    columns = _own_columns(
        order,
        rows,
        compared,
        thresholds,
    )
    compute = functools.partial(
        evaluate_once,
        order,
        plan,
        columns,
        n_rows=len(compared),
    )
    # To everybody, so that all refuse the same.
    send(
        order,
        "cell_share",
        compute,
        recipient=EVERYONE,
    )
    shares = receive_all(
        order,
        "cell_share",
        hospitals,
        EVERYONE,
    )
    revealed = reveal(plan, shares)
    failing: list[str] = []
    failing_pairs: list[str] = []
    for comparison, passes in zip(compared, revealed.values, strict=True):
        failing_names = failing_pairs if comparison.is_pair else failing
        if not passes and comparison.name not in failing_names:
            failing_names.append(comparison.name)
    if failing:
        raise _refused(failing, thresholds)
    if failing_pairs:
        raise _refused_pairs(failing_pairs, thresholds)


def _tell_how_many(order: AgreedTraining, compared: Sequence[Compared]) -> None:
    if len(compared) > MOST_COMPARED:
        raise BadRequest(
            f"The order has {len(compared):,} columns and pairs of columns to compare over all hospitals, with the"
            f" levels of its categories; there can be {MOST_COMPARED:,}.",
            remedy="Order fewer attributes, merge levels by derive, or use fewer folds.",
            code="pairs",
        )
    message_body = canonical({"rows": len(compared)}).encode()
    send(
        order,
        "compared",
        lambda: message_body,
        recipient=COORDINATOR,
    )


def _own_columns(
    order: AgreedTraining,
    rows: OrderRows,
    compared: Sequence[Compared],
    thresholds: PooledThresholds,
) -> dict[str, Column]:
    """This hospital's columns of the comparison: seven, or of pairs eleven."""
    me = order.me
    numbers: dict[str, list[int]] = {}

    def add(name: str, number: int) -> None:
        of_column = numbers.setdefault(name, [])
        of_column.append(number)

    sets = row_sets(order, rows)
    most_cells = n_cells(order.request)
    largest = largest_threshold(thresholds, most_cells)
    for comparison in compared:
        cohort = sets.get(comparison.row_set)
        if cohort is None and comparison.is_trained:
            # So few rows that a fold holds none of them out.
            cohort = rows.train
        values = []
        for column in comparison.columns:
            values.append(_values(order, cohort, column))
        threshold = thresholds.min_varying
        if comparison.is_pair:
            threshold = thresholds.min_rows
        add(lower_column(me), largest - threshold)
        are_plain = all(cohort_gate.holds_0_and_1(column) for column in values)
        add(others_column(me), int(not are_plain))
        is_few = _are_few(order, comparison, values)
        add(few_column(me), int(is_few))
        counts = _counts(comparison, values)
        # A single column has none in the cells of pairs.
        counts += [0] * (most_cells - len(counts))
        for cell, n_rows in enumerate(counts):
            # Of rows that only test, no gradient is of one hospital's alone.
            has_rows = n_rows > 0 or not comparison.is_trained
            # More than the threshold decides nothing more.
            n_counted = min(n_rows, threshold)
            add(rows_column(me, cell), n_counted)
            add(has_column(me, cell), int(has_rows))
    if most_cells == 2:
        # All rows have one threshold.
        del numbers[lower_column(me)]
    valid = np.ones(len(compared), dtype=np.bool_)
    columns = {}
    for column_name, of_name in numbers.items():
        column_values = np.array(of_name, dtype=np.int64)
        columns[column_name] = Column(column_values, valid)
    return columns


def _counts(
    comparison: Compared,
    values: Sequence[cohort_gate.Column],
) -> list[int]:
    """How many rows are in each of its cells."""
    counts = []
    for cell in comparison.cells:
        is_in_cell = np.ones(len(values[0]), dtype=bool)
        for column, cell_value in zip(values, cell, strict=True):
            is_in_cell &= column == cell_value
        counts.append(int(np.count_nonzero(is_in_cell)))
    return counts


def _are_few(
    order: AgreedTraining,
    comparison: Compared,
    values: Sequence[cohort_gate.Column],
) -> bool:
    """Whether this hospital's own rows would not pass, by its own policy."""
    own_thresholds = order.pooled[order.me]
    if comparison.is_pair:
        first, second = values
        return has_few_pairs(
            first,
            second,
            min_rows=own_thresholds.min_rows,
        )
    return cohort_gate.varies_in_few(values[0], own_thresholds.min_varying)


def _values(
    order: AgreedTraining,
    cohort: Cohort | None,
    indicated: Indicated,
) -> cohort_gate.Column:
    """(n_rows,): the column, or 1 where a row has the level."""
    if cohort is None:
        return np.zeros(0)
    if indicated.column in cohort.attributes:
        if indicated.level is None:
            return dict(cohort_gate.features(cohort))[indicated.column]
        place = cohort.levels[indicated.column].index(indicated.level)
        has_level: cohort_gate.Column = places_of(cohort, indicated.column) == place
        return has_level.astype(np.int64)
    if indicated.column == LABEL:
        return dict(cohort_gate.features(cohort))[LABEL]
    outcome = dict(outcome_columns(order.request, cohort.y))
    # Of an entry that is 0 everywhere nothing is kept.
    return outcome.get(indicated.column, np.zeros(cohort.n_rows))


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


def _refused_pairs(failing: list[str], thresholds: PooledThresholds) -> Refused:
    whose = f", or stands at fewer than {thresholds.min_hospitals} hospitals"
    if thresholds.own_totals:
        whose = ""
    return Refused(
        f"A table of {'; of '.join(failing)} has a cell of fewer than {thresholds.min_rows} rows of all hospitals, or"
        f" of all but one{whose}, and a Newton order opens sums of their products.",
        remedy="Leave one of each pair out or merge values by derive, widen the SQL, order a gradient optimizer, or"
        " ask the hospitals to lower min_rows in policy.toml.",
        code="min_rows",
        threshold=thresholds.min_rows,
        pairs=failing,
    )
