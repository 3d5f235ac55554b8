"""The comparison of a training order's columns of 0 and 1 where thresholds are on the
sum: which ones there are, and the circuit.

In a column of zeros and ones the gradient is the sum over the rows with a 1, and that of
the intercept less it the sum over those with a 0. Both have to be over enough rows. A
Newton order opens sums of products of two columns, too, so that of each two of them all
four cells of their table are compared. The columns of each set of rows that is trained
or tested on, and the pairs of those that are trained on, are the rows of a table; one
value of it says whether column or pair passes.

`agents/training/varying.py` computes it, `tasks/coordinator/varying.py` deals for it.
Decisions 73 and 95.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

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
from analytics.statistics.kinds import Fixed
from analytics.training.design import feature_name
from protocol.messages import PooledThresholds
from protocol.training_request import TrainingRequest, folds

LABEL = "the label"
"""A label that is a number: it enters the sums as a feature does."""

MOST_COMPARED = 100_000
"""Rows of the table: the columns of 400 attributes with all pairs of them."""


@dataclass(frozen=True)
class Indicated:
    """A column of an order, or of a category the column of one level."""

    column: str
    level: str | None = None

    @property
    def name(self) -> str:
        """As the report and a refusal name it."""
        if self.level is None:
            return self.column
        return feature_name(self.column, self.level)


@dataclass(frozen=True)
class Compared:
    """One row of the table: a column within a set of an order's rows, or two of them."""

    # As the gate calls it: train, test, train/fold-1, test/fold-1.
    row_set: str
    columns: tuple[Indicated, ...]

    @property
    def name(self) -> str:
        column_names = [column.name for column in self.columns]
        return " and ".join(column_names)

    @property
    def is_pair(self) -> bool:
        return len(self.columns) > 1

    @property
    def is_trained(self) -> bool:
        """Whether a gradient is over these rows."""
        return self.row_set.startswith("train")

    @property
    def cells(self) -> list[tuple[int, ...]]:
        """The values of its columns, each of which is counted."""
        n_columns = len(self.columns)
        cell_values = product((0, 1), repeat=n_columns)
        return list(cell_values)


Levels = Mapping[str, Sequence[str]]
"""By column of categories, as the hospitals have agreed."""


def waits_for_levels(request: TrainingRequest) -> bool:
    """Whether only the hospitals' rows tell how large the table is: the hospitals say
    so, and the coordinator deals then.
    """
    return request.is_newton and request.evaluates is None


def compares_pairs(request: TrainingRequest) -> bool:
    """With weights of rows each hospital's own tables decide: a pair's sums are of
    weights then, which no count is.
    """
    return waits_for_levels(request) and request.weights is None


def n_cells(request: TrainingRequest) -> int:
    """How many cells a row of the table has; those of a single column are the first."""
    return 4 if compares_pairs(request) else 2


def compared_columns(
    request: TrainingRequest,
    levels: Levels | None = None,
    thresholds: PooledThresholds | None = None,
) -> list[Compared]:
    """The rows of the table, the same at every party, in their order.

    levels, thresholds: of a Newton order what the hospitals have agreed on.
    """
    singles = [Indicated(attribute) for attribute in request.attributes]
    if compares_pairs(request):
        singles = _of_attributes(request, levels or {})
    if request.has_number_label:
        singles.append(Indicated(LABEL))
    row_sets = row_sets_of(request)
    comparisons: list[Compared] = []
    for row_set in row_sets:
        for column in singles:
            compared = Compared(row_set, (column,))
            comparisons.append(compared)
    if not compares_pairs(request):
        return comparisons
    if thresholds and thresholds.min_rows == 1:
        return comparisons
    pairs = _pairs(request, levels or {})
    for row_set in row_sets:
        if not row_set.startswith("train"):
            continue
        for pair in pairs:
            compared = Compared(row_set, pair)
            comparisons.append(compared)
    return comparisons


def row_sets_of(request: TrainingRequest) -> list[str]:
    """The sets of an order's rows, by their names."""
    row_sets = ["train"]
    for fold in folds(request):
        # Fold 0 is the model of all rows; it may hold a fraction of them out.
        holds_out = fold > 0 or request.validation_fraction is not None
        if holds_out:
            row_sets.append(f"train/fold-{fold}")
            row_sets.append(f"test/fold-{fold}")
    if request.test_data_info:
        row_sets.append("test")
    return row_sets


def _of_attributes(request: TrainingRequest, levels: Levels) -> list[Indicated]:
    indicated: list[Indicated] = []
    for attribute in request.attributes:
        if attribute in request.categorical:
            of_levels = _of_levels(attribute, levels[attribute])
            indicated += of_levels
        else:
            indicated.append(Indicated(attribute))
    return indicated


def _of_levels(name: str, levels: Sequence[str]) -> list[Indicated]:
    # Of two levels one column holds both values.
    column_levels = levels
    if len(levels) <= 2:
        column_levels = levels[1:]
    return [Indicated(name, level) for level in column_levels]


def _pairs(
    request: TrainingRequest,
    levels: Levels,
) -> list[tuple[Indicated, Indicated]]:
    """Each two columns, the outcome's among them, but levels of one category, which
    exclude each other.
    """
    columns = _of_attributes(request, levels)
    # Of strata no products are added up.
    outcome = [
        request.label_name,
        request.event_name,
        request.entry_name,
    ]
    for outcome_column in outcome:
        if outcome_column is not None:
            columns.append(Indicated(outcome_column))
    pairs = []
    for left, right in combinations(columns, 2):
        if left.column != right.column:
            pairs.append((left, right))
    return pairs


def strictest(of_hospitals: Mapping[int, PooledThresholds]) -> PooledThresholds:
    """What holds for all, as each says in its acceptance."""
    everybody = of_hospitals.values()
    return PooledThresholds(
        min_varying=max(thresholds.min_varying for thresholds in everybody),
        min_rows=max(thresholds.min_rows for thresholds in everybody),
        min_hospitals=max(thresholds.min_hospitals for thresholds in everybody),
        own_totals=all(thresholds.own_totals for thresholds in everybody),
    )


# A hospital's columns


def rows_column(hospital: int, cell: int) -> str:
    """Its rows in this cell, cut off at the threshold; for a single column its value is
    the cell.
    """
    return f"{_alias(hospital)}.{_rows(cell)}"


def has_column(hospital: int, cell: int) -> str:
    """1 where it has a row in this cell; of rows that only test always."""
    return f"{_alias(hospital)}.{_has(cell)}"


def lower_column(hospital: int) -> str:
    """By how much the row's threshold is below the largest one: all know it."""
    return f"{_alias(hospital)}.{_LOWER}"


def others_column(hospital: int) -> str:
    """1 where it has a value other than 0 and 1."""
    return f"{_alias(hospital)}.{_OTHERS}"


def few_column(hospital: int) -> str:
    """1 where, by its own rows alone, too few vary."""
    return f"{_alias(hospital)}.{_FEW}"


_OTHERS = "others"
_FEW = "few"
_LOWER = "lower"


def _rows(cell: int) -> str:
    return f"n{cell}"


def _has(cell: int) -> str:
    return f"s{cell}"


def _alias(hospital: int) -> str:
    return f"p{hospital}"


# The circuit


def _whole(bits: int) -> Fixed:
    """The type of a whole number of so many bits, which is there in every row."""
    return Fixed(
        two=0,
        five=0,
        bits=bits,
        nullable=False,
    )


def largest_threshold(thresholds: PooledThresholds, n_cells: int) -> int:
    """Of a row of the table; where pairs are compared, they have one of their own."""
    if n_cells == 2:
        return thresholds.min_varying
    return max(thresholds.min_varying, thresholds.min_rows)


def varying_plan(
    hospitals: Sequence[int],
    thresholds: PooledThresholds,
    n_cells: int = 2,
) -> Plan:
    """The circuit, a row of `compared_columns` a row.

    A column passes that holds 0 and 1 only at every hospital, if nobody has either
    value, or min_hospitals have it and all but each one have min_varying rows with it.
    With own_totals it may be one hospital's: all but each one have min_varying rows or
    none. A column that holds other values somewhere passes if at every hospital its own
    rows do. All hospitals open the sums of training, so that each one could subtract
    its own rows. Of two columns the same holds for each of four cells, and min_rows.
    """
    types = {}
    one_bit = _whole(1)
    largest = largest_threshold(thresholds, n_cells)
    count_bits = largest.bit_length()
    count_type = _whole(count_bits)
    for hospital in hospitals:
        types[others_column(hospital)] = one_bit
        types[few_column(hospital)] = one_bit
        if n_cells > 2:
            types[lower_column(hospital)] = count_type
        for cell in range(n_cells):
            rows = rows_column(hospital, cell)
            has_any = has_column(hospital, cell)
            types[rows] = count_type
            types[has_any] = one_bit
    has_others = _reaches(_OTHERS, hospitals, 1)
    conditions = [invert(has_others)]
    for cell in range(n_cells):
        passes = _passes(
            cell,
            hospitals,
            thresholds,
            n_cells,
        )
        conditions.append(passes)
    is_alike = connect("and", *conditions)
    has_few = _reaches(_FEW, hospitals, 1)
    passes_each = connect("and", has_others, invert(has_few))
    root = connect("or", is_alike, passes_each)
    owners = {_alias(hospital): hospital for hospital in hospitals}
    return plan(Expression(root), types, owners)


def _passes(
    cell: int,
    hospitals: Sequence[int],
    thresholds: PooledThresholds,
    n_cells: int,
) -> Node:
    """Whether enough rows are in this cell, at enough hospitals."""
    may_be_one_s = thresholds.own_totals or thresholds.min_hospitals == 1
    rows = _rows(cell)
    of_all_but_each = []
    for left_out in hospitals:
        others = [hospital for hospital in hospitals if hospital != left_out]
        # Of an order of one hospital there is nobody else.
        counted = others or hospitals
        enough = _are_enough(
            rows,
            counted,
            thresholds,
            n_cells,
        )
        if may_be_one_s:
            has_any = _reaches(rows, counted, 1)
            enough = connect("or", enough, invert(has_any))
        of_all_but_each.append(enough)
    if may_be_one_s:
        return connect("and", *of_all_but_each)
    at_enough = _reaches(
        _has(cell),
        hospitals,
        thresholds.min_hospitals,
    )
    has_none = invert(_reaches(rows, hospitals, 1))
    is_spread = connect("and", at_enough, *of_all_but_each)
    return connect("or", has_none, is_spread)


def _are_enough(
    rows: str,
    counted: Sequence[int],
    thresholds: PooledThresholds,
    n_cells: int,
) -> Node:
    """Whether these hospitals' rows reach the threshold of the table's row.

    One threshold stands in the circuit. What another row's is lower by is added to its
    rows, once: by one of those who are counted, so that who is left out lowers nothing.
    """
    columns = _columns(rows, counted)
    if n_cells > 2:
        (lower,) = _columns(_LOWER, counted[:1])
        columns.append(lower)
    threshold = largest_threshold(thresholds, n_cells)
    return _sum_reaches(columns, threshold)


def _reaches(
    column: str,
    hospitals: Sequence[int],
    threshold: int,
) -> Node:
    columns = _columns(column, hospitals)
    return _sum_reaches(columns, threshold)


def _columns(column: str, hospitals: Sequence[int]) -> list[Node]:
    columns = []
    for hospital in hospitals:
        qualified_name = (_alias(hospital), column)
        node = Node("column", value=qualified_name)
        columns.append(node)
    return columns


def _sum_reaches(columns: Sequence[Node], threshold: int) -> Node:
    if len(columns) == 1:
        sum_node = columns[0]
    else:
        sum_node = add(*columns)
    is_below = Node("<", (sum_node, constant(threshold)))
    return invert(is_below)
