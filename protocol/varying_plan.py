"""The comparison of a training order's columns of 0 and 1 where thresholds are on the
sum: which ones there are, and the circuit.

In a column of zeros and ones the gradient is the sum over the rows with a 1, and that of
the intercept less it the sum over those with a 0. Both have to be over enough rows.
The columns of each set of rows that is trained or tested on are the rows of a table, of
which each hospital has six columns; one value of it says whether the column passes.

`agents/training/varying.py` computes it, `tasks/coordinator/varying.py` deals for it.
Decision 73.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analytics.statistics.circuit import Plan
from analytics.statistics.compiling import plan
from analytics.statistics.expression import (
    Expression,
    Node,
    add,
    connect,
    constant,
    invert,
)
from analytics.statistics.rowwise import Fixed
from protocol.messages import PooledThresholds
from protocol.training_request import TrainingRequest, folds

LABEL = "the label"
"""A label that is a number: it enters the sums as a feature does."""

VALUES = (0, 1)


@dataclass(frozen=True)
class ComparedColumn:
    """One row of the table: a column within a set of an order's rows."""

    # As the gate calls it: train, test, train/fold-1, test/fold-1.
    row_set: str
    column: str

    @property
    def is_trained(self) -> bool:
        """Whether a gradient is over these rows."""
        return self.row_set.startswith("train")


def compared_columns(request: TrainingRequest) -> list[ComparedColumn]:
    """The rows of the table, the same at every party, in their order."""
    row_sets = ["train"]
    for fold in folds(request):
        # Fold 0 is the model of all rows; it may hold a fraction of them out.
        holds_out = fold > 0 or request.validation_fraction is not None
        if holds_out:
            row_sets += [f"train/fold-{fold}", f"test/fold-{fold}"]
    if request.test_data_info:
        row_sets.append("test")
    names = list(request.attributes)
    if request.has_number_label:
        names.append(LABEL)
    return [ComparedColumn(one, name) for one in row_sets for name in names]


def strictest(of_hospitals: Mapping[int, PooledThresholds]) -> PooledThresholds:
    """What holds for all, as each says in its acceptance."""
    everybody = of_hospitals.values()
    return PooledThresholds(
        min_varying=max(own.min_varying for own in everybody),
        min_hospitals=max(own.min_hospitals for own in everybody),
        own_totals=all(own.own_totals for own in everybody),
    )


# A hospital's columns


def rows_column(hospital: int, value: int) -> str:
    """Its rows with this value, cut off at the threshold."""
    return f"{_alias(hospital)}.{_rows(value)}"


def has_column(hospital: int, value: int) -> str:
    """1 where it has a row with this value; of rows that only test always."""
    return f"{_alias(hospital)}.{_has(value)}"


def others_column(hospital: int) -> str:
    """1 where it has a value other than 0 and 1."""
    return f"{_alias(hospital)}.{_OTHERS}"


def few_column(hospital: int) -> str:
    """1 where, by its own rows alone, too few vary."""
    return f"{_alias(hospital)}.{_FEW}"


_OTHERS, _FEW = "others", "few"


def _rows(value: int) -> str:
    return f"n{value}"


def _has(value: int) -> str:
    return f"s{value}"


def _alias(hospital: int) -> str:
    return f"p{hospital}"


# The circuit


def varying_plan(hospitals: Sequence[int], thresholds: PooledThresholds) -> Plan:
    """The circuit, a column of `compared_columns` a row.

    A column passes that holds 0 and 1 only at every hospital, if nobody has either
    value, or min_hospitals have it and all but each one have min_varying rows with it.
    With own_totals it may be one hospital's: all but each one have min_varying rows or
    none. A column that holds other values somewhere passes if at every hospital its own
    rows do. All hospitals open the sums of training, so that each one could subtract
    its own rows.
    """
    types = {}
    one_bit = Fixed(0, 0, 1, nullable=False)
    count = Fixed(0, 0, thresholds.min_varying.bit_length(), nullable=False)
    for hospital in hospitals:
        types[others_column(hospital)] = one_bit
        types[few_column(hospital)] = one_bit
        for value in VALUES:
            types[rows_column(hospital, value)] = count
            types[has_column(hospital, value)] = one_bit
    has_others = _reaches(_OTHERS, hospitals, 1)
    conditions = [invert(has_others)]
    for value in VALUES:
        conditions.append(_passes(value, hospitals, thresholds))
    is_alike = connect("and", *conditions)
    passes_each = connect("and", has_others, invert(_reaches(_FEW, hospitals, 1)))
    root = connect("or", is_alike, passes_each)
    owners = {_alias(hospital): hospital for hospital in hospitals}
    return plan(Expression(root), types, owners)


def _passes(value: int, hospitals: Sequence[int], thresholds: PooledThresholds) -> Node:
    """Whether enough rows have this value, at enough hospitals."""
    may_be_one_s = thresholds.own_totals or thresholds.min_hospitals == 1
    rows = _rows(value)
    of_all_but_each = []
    for left_out in hospitals:
        others = [hospital for hospital in hospitals if hospital != left_out]
        # Of an order of one hospital there is nobody else.
        counted = others or hospitals
        enough = _reaches(rows, counted, thresholds.min_varying)
        if may_be_one_s:
            enough = connect("or", enough, invert(_reaches(rows, counted, 1)))
        of_all_but_each.append(enough)
    if may_be_one_s:
        return connect("and", *of_all_but_each)
    at_enough = _reaches(_has(value), hospitals, thresholds.min_hospitals)
    has_none = invert(_reaches(rows, hospitals, 1))
    return connect("or", has_none, connect("and", at_enough, *of_all_but_each))


def _reaches(column: str, hospitals: Sequence[int], threshold: int) -> Node:
    columns = [Node("column", value=(_alias(user), column)) for user in hospitals]
    total = columns[0] if len(columns) == 1 else add(*columns)
    return invert(Node("<", (total, constant(threshold))))
