"""The single questions that `describe` asks at once.

A paper's first table is many questions: of a column of numbers its count, mean and
standard deviation, its histogram where edges are given, its quartiles where they are
asked for, of a category how many rows
have each level, of each how many rows have no value, for each group. Each of them is a
question that can be asked by itself. Here they are written as such, so that what is
opened, in words, and all rules are those of the single ones.

Decisions 88, 116 and 118.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from protocol.statistics_request import QUARTILES, StatisticsRequest

Kind = Literal["number", "category"]

What = Literal["moments", "quartiles", "overall", "bins", "missing", "count", "levels"]

SEARCHED = ("quartiles", "overall")
"""Whose values are searched in rounds; what is asked of the others is added up once."""


@dataclass(frozen=True)
class Part:
    """One of the questions."""

    column: str
    # moments: n, the sum and the sum of squares of numbers, by group. bins: how many rows
    # of each group lie between the edges of a histogram. quartiles: the median and those
    # beside it, by group; overall: the same of all groups together, which are no sum of
    # the groups'. count: how many rows of each
    # group have a level. missing: how many have no value. levels: how many have each
    # level.
    what: What
    # As it would be asked by itself. A table counts each value and the rows without one:
    # of its totals `levels` opens the former alone, `missing` the latter.
    request: StatisticsRequest

    @property
    def name(self) -> str:
        return f"{self.what} {self.column}"


def parts_of(request: StatisticsRequest, kinds: Mapping[str, Kind]) -> list[Part]:
    """The questions of `describe`, column by column, for columns of these kinds.

    >>> from protocol.statistics_request import parse_statistics_request
    >>> provider = {"name": 2, "data_path": "", "data_type": "csv", "key_column": "age"}
    >>> asked = {"method": "describe", "columns": ["age", "sex"], "group_by": ["arm"]}
    >>> body = {**asked, "data_providers": [provider], "result_receivers": [2]}
    >>> request = parse_statistics_request(body)
    >>> parts = parts_of(request, {"age": "number", "sex": "category"})
    >>> [part.request.method for part in parts]
    ['var', 'crosstab', 'count', 'crosstab', 'crosstab']
    >>> [part.name for part in parts]
    ['moments age', 'missing age', 'count sex', 'levels sex', 'missing sex']
    """
    parts = []
    for column in request.columns or []:
        table = _table(request, column)
        if kinds[column] == "number":
            parts.append(Part(column, "moments", _by_group(request, "var", column)))
            edges = (request.histograms or {}).get(column)
            if edges is not None:
                binned = _by_group(request, "histogram", column, bins=edges)
                parts.append(Part(column, "bins", binned))
            if request.has_quartiles(column):
                parts += _quartiles(request, column)
        else:
            parts.append(Part(column, "count", _by_group(request, "count", column)))
            parts.append(Part(column, "levels", table))
        parts.append(Part(column, "missing", table))
    return parts


def _quartiles(request: StatisticsRequest, column: str) -> list[Part]:
    searched = _by_group(request, "quantile", column)
    parts = [Part(column, "quartiles", searched)]
    if request.group_by:
        overall = searched.model_copy(update={"group_by": None})
        overall.__dict__["rows"] = request.rows
        parts.append(Part(column, "overall", overall))
    return parts


def supposed_kinds(request: StatisticsRequest) -> dict[str, Kind]:
    """The kinds of columns before anybody has looked at the data: numbers, but for those
    that the question says are categories.
    """
    kinds: dict[str, Kind] = {}
    for column in request.columns or []:
        is_category = column in request.rows.categorical
        kinds[column] = "category" if is_category else "number"
    return kinds


def _by_group(
    request: StatisticsRequest,
    method: str,
    column: str,
    *,
    bins: list[float] | None = None,
) -> StatisticsRequest:
    return _asked(
        request, method, column, columns=None, group_by=request.group_by, bins=bins
    )


def _table(request: StatisticsRequest, column: str) -> StatisticsRequest:
    if not request.group_by:
        return _asked(request, "frequency", column, columns=None, group_by=None)
    columns = [column, *request.group_by]
    return _asked(request, "crosstab", column, columns=columns, group_by=None)


def _asked(
    request: StatisticsRequest,
    method: str,
    column: str,
    *,
    columns: list[str] | None,
    group_by: list[str] | None,
    bins: list[float] | None = None,
) -> StatisticsRequest:
    """The same over the same rows: what is derived, which levels are agreed on and which
    rows are left out is the whole question's.
    """
    # Before the copy, so that it is the copy's, too: of its own columns alone it would
    # leave out other rows.
    rows = request.rows
    providers = []
    for provider in request.data_providers:
        providers.append(provider.model_copy(update={"key_column": column}))
    part_request = request.model_copy(
        update={
            "method": method,
            "columns": columns,
            "group_by": group_by,
            "data_providers": providers,
            "bins": bins,
            "histograms": None,
            "quartiles": None,
            "quantile": list(QUARTILES) if method == "quantile" else None,
        }
    )
    part_request.__dict__["rows"] = rows
    return part_request
