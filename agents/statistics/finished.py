"""A pooled question's answer, from the joint integers that receivers have opened.

The numbers of each shown group come in the order of `agents.statistics.sums.N_NUMBERS`;
exact arithmetic on them is `analytics.statistics.exact`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction

from agents.gate.withheld_groups import Label
from agents.statistics import survival_curves, tested
from agents.statistics.answer import Answer, grouped_answer
from agents.statistics.groups import Agreed
from analytics.statistics import exact
from analytics.statistics.exact import TOO_LARGE, JointMoments, Moments, Number, told
from protocol.statistics_request import OF_RANKS, StatisticsRequest

Cells = list[str | Number | None]


def finished_answer(
    request: StatisticsRequest,
    agreed: Agreed,
    by_group: Sequence[Sequence[int]],
    *,
    n_all: int,
    event_sums: Sequence[int] = (),
) -> Answer:
    """The answer from the joint integers of each shown group; n_all: of how many rows a
    category's levels are shares; event_sums: the joint ones of a log-rank test.

    A value that does not exist is null, and a note says why. Disclosure: to receivers,
    which have opened the integers.
    """
    if request.method == "kaplan_meier":
        return survival_curves.curves_answer(request, agreed.shown, by_group)
    if request.is_test:
        return _of_test(
            request,
            agreed,
            by_group,
            event_sums,
        )
    notes: set[str] = set()
    rows: dict[Label, list[Cells]] = {}
    for label, numbers in zip(agreed.shown, by_group, strict=True):
        if request.is_matrix:
            rows[label] = _matrix(request, numbers, notes)
            continue
        value_of = functools.partial(_value, request, numbers)
        if request.is_share:
            n_rows = numbers[0]
            value_of = functools.partial(_share, n_rows, n_all)
        value_cells: Cells = [_noted(request, value_of, notes)]
        rows[label] = [value_cells]
    most_of_few = agreed.min_rows - 1
    answer = grouped_answer(
        request,
        rows,
        agreed.withheld,
        absent=agreed.absent,
        few=f"0 to {most_of_few}",
    )
    answer.notes += sorted(notes)
    return answer


def _noted(
    request: StatisticsRequest,
    value_of: Callable[[], Number | None],
    notes: set[str],
) -> Number | None:
    """A value; where there is none, a note of why."""
    try:
        number = value_of()
    except ValueError as error:
        notes.add(str(error))
        return None
    if number is None:
        notes.add(f"{request.method} of too few rows, or of equal ones, has no value.")
    return number


def _share(n_rows: int, n_all: int) -> Number | None:
    if not n_all:
        return None
    return told(Fraction(n_rows, n_all))


def _matrix(
    request: StatisticsRequest,
    numbers: Sequence[int],
    notes: set[str],
) -> list[Cells]:
    """A row for each column, with a value for each."""
    column_names = request.columns or []
    moments = exact.matrix_moments(numbers, len(column_names))
    rows = []
    for i, column in enumerate(column_names):
        row_cells: Cells = [column]
        for j in range(len(column_names)):
            pair = moments.of_pair(i, j)
            value_of = functools.partial(_of_pair, request, pair)
            row_cells.append(_noted(request, value_of, notes))
        rows.append(row_cells)
    return rows


def _of_pair(request: StatisticsRequest, pair: JointMoments) -> Number | None:
    if request.method == "corr":
        return exact.correlation(pair)
    return exact.covariance(pair, _ddof(request), told)


def _of_test(
    request: StatisticsRequest,
    agreed: Agreed,
    by_group: Sequence[Sequence[int]],
    event_sums: Sequence[int],
) -> Answer:
    """A row for each quantity of a test."""
    columns = [*request.label_columns, *request.value_columns]
    try:
        quantities = tested.quantities(
            request,
            agreed,
            by_group,
            event_sums,
        )
    except ValueError as error:
        return Answer(
            columns,
            [],
            notes=[str(error)],
        )
    except ArithmeticError:
        # Its squares' squares are beyond a double, where the squares are not.
        return Answer(columns, [], notes=[TOO_LARGE])
    rows: list[Cells] = []
    for quantity, value in quantities:
        is_count = quantity == "n" or quantity.startswith(("n[", "observed["))
        if not math.isfinite(value):
            rows.append([quantity, None])
        elif is_count:
            # They are whole, and written so.
            rows.append([quantity, int(value)])
        else:
            rows.append([quantity, value])
    notes = []
    if request.method in OF_RANKS:
        notes.append(
            "grouped: the ranks are of the table's values, and of a column that is cut into ranges, of these."
        )
    return Answer(columns, rows, notes=notes)


def _ddof(request: StatisticsRequest) -> int:
    if request.ddof is None:
        return 1
    return request.ddof


def _value(request: StatisticsRequest, numbers: Sequence[int]) -> Number | None:
    """A group's statistic from its joint integers.

    ValueError where it lies outside the range of doubles.
    """
    ddof = _ddof(request)
    if request.rows.fills:
        *numbers, n_missing = numbers
        moments = Moments(*numbers)
        if request.method == "sum":
            return exact.filled_sum(moments, n_missing, told)
        # A row with the mean adds nothing to the squares of differences from it.
        ddof -= n_missing
    match request.method:
        case "count" | "histogram" | "frequency" | "crosstab":
            return numbers[0]
        case "cov" | "corr":
            return _of_pair(request, JointMoments(*numbers))
        case "sum":
            return exact.sum_of(Moments(*numbers), told)
        case "avg":
            return exact.mean(Moments(*numbers), told)
        case "var":
            return exact.variance(Moments(*numbers), ddof, told)
        case "std":
            return exact.std(Moments(*numbers), ddof)
    raise TypeError(f"{request.method} is no sum")
