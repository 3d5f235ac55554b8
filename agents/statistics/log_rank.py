"""The log-rank test of pooled rows: what a provider makes of its times and events, and
its part of the sum.

Beside U and V its rows are counted by group and event, as any statistic by groups counts
them: each such cell is judged by the rules and by the audit. U and V hold no time, and
are of all people together (`analytics/statistics/survival.py`).

Decisions 86 and 93.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from agents.gate.pair_cells import check_event_times, check_weighted_times
from agents.gate.withheld_groups import Label
from agents.rows.column_text import label_sql, number_of
from agents.rows.dataset import Dataset
from agents.statistics.groups import Agreed
from agents.statistics.labels import CENSORED, EVENT
from agents.statistics.readings import LogRankPart, Reading
from analytics.arrays import Floats, Ints
from protocol.errors import BadRequest
from protocol.statistics_request import MOST_TEST_GROUPS, StatisticsRequest

if TYPE_CHECKING:
    from analytics.statistics import survival

# Where each value stands in a line of counted rows.
_GROUP: Final = 0
_EVENT: Final = 1
_TIME: Final = 2
_N_ROWS: Final = 3


_Line = tuple[str, str, float, int]
"""A group, an event and a time, and how many rows have all three."""


@dataclass(frozen=True)
class _CountedTimes:
    """What the lines hold, (n_lines,) each."""

    times: Floats
    is_event: Ints
    # Each line's group, among those that this provider has.
    groups: Ints
    n_rows: Ints


def width(request: StatisticsRequest) -> int:
    """Bits of U and V: 2^40 rows in units of 2^-40, with room for their sign; where each
    time weighs by the number at risk, its square times as many.
    """
    if request.weights == "wilcoxon":
        return 192
    return 128


def own_part(
    dataset: Dataset,
    request: StatisticsRequest,
    user_id: int,
    *,
    min_rows: int,
) -> LogRankPart | None:
    """U and V of this provider's rows; None for other methods.

    Raises Refused (code few_event_times) for events at few times.

    Raises BadRequest: event_values for an event that is not 0 or 1, event_times for a
    time that is not above 0, test_groups for too many groups, and what a column that
    holds no numbers raises. Disclosure: a refusal shows that there is such a row.
    """
    if request.event_name is None:
        return None
    column = request.provider(user_id).key_column
    if request.method != "logrank":
        _check_outcomes(dataset, request, column)
        return None
    lines = _read_lines(dataset, request, column)
    _check_lines(lines, request, column)
    group_names = sorted({line[_GROUP] for line in lines})
    if len(group_names) > MOST_TEST_GROUPS:
        raise too_many_groups()
    counted = _counted_times(lines, group_names)
    check_event_times(
        column,
        counted.times,
        counted.is_event,
        counted.n_rows,
        min_rows=min_rows,
    )

    # Where a test is computed: SciPy's distributions take long to load.
    from analytics.statistics import survival

    of_times = survival.event_times(
        counted.times,
        counted.is_event,
        counted.groups,
        counted.n_rows,
        n_groups=len(group_names),
    )
    chosen = weighting(request)
    weights = [float(weight) for weight in of_times.weights(chosen)]
    check_weighted_times(
        column,
        np.array(weights),
        of_times.at_risk.sum(axis=1),
        min_rows=min_rows,
    )
    sums = survival.log_rank_sums(of_times, chosen)
    return LogRankPart(
        groups=group_names,
        scores=sums.scores,
        covariances=sums.covariances,
    )


def _read_lines(
    dataset: Dataset,
    request: StatisticsRequest,
    column: str,
) -> Sequence[_Line]:
    """The rows that have a time, counted by group, event and time."""
    time = number_of(dataset, column)
    group_name, event_name = request.grouping
    group_sql = label_sql(dataset, group_name)
    event_sql = label_sql(dataset, event_name)
    return dataset.query(
        f"SELECT {group_sql}, {event_sql}, {time.double}, count(*) FROM rows"  # noqa: S608
        f" WHERE {time.cell} IS NOT NULL GROUP BY 1, 2, 3"
    )


def _counted_times(lines: Sequence[_Line], names: Sequence[str]) -> _CountedTimes:
    """The lines as arrays, with each line's group as its place among these names."""
    place_of = {name: place for place, name in enumerate(names)}
    times = [line[_TIME] for line in lines]
    is_event = [line[_EVENT] == EVENT for line in lines]
    groups = [place_of[line[_GROUP]] for line in lines]
    n_rows = [line[_N_ROWS] for line in lines]
    return _CountedTimes(
        times=np.array(times, dtype=np.float64),
        is_event=np.array(is_event, dtype=np.int64),
        groups=np.array(groups, dtype=np.int64),
        n_rows=np.array(n_rows, dtype=np.int64),
    )


def weighting(request: StatisticsRequest) -> survival.Weighting:
    """By what the times of the question weigh."""
    from analytics.statistics import survival

    weighting_name = request.weights or "logrank"
    if weighting_name != "fleming_harrington":
        return survival.Weighting(weighting_name)
    p, q = request.exponents
    return survival.Weighting(weighting_name, p, q)


def _check_lines(
    lines: Sequence[_Line],
    request: StatisticsRequest,
    column: str,
) -> None:
    if any(line[_EVENT] not in (CENSORED, EVENT) for line in lines):
        raise BadRequest(
            f"{request.event_name} has values other than 0 and 1.",
            remedy="Say 1 where the event happened and 0 where the row was last seen without it; derive makes such a"
            ' column: "derive": {"died": "status == 2"}.',
            code="event_values",
        )
    if any(line[_TIME] <= 0 for line in lines):
        raise BadRequest(
            f"{column} has times of 0 or below.",
            remedy="Leave these rows out, with a SELECT or a view, or count their time from an earlier moment.",
            code="event_times",
        )


def _check_outcomes(
    dataset: Dataset,
    request: StatisticsRequest,
    column: str,
) -> None:
    """The same of a question that needs no time by itself."""
    assert request.event_name is not None
    time = number_of(dataset, column)
    event_sql = label_sql(dataset, request.event_name)
    lines = dataset.query(
        f"SELECT '', {event_sql}, min({time.double}), count(*) FROM rows"  # noqa: S608
        f" WHERE {time.cell} IS NOT NULL GROUP BY 1, 2"
    )
    _check_lines(lines, request, column)


def too_many_groups() -> BadRequest:
    return BadRequest(
        f"logrank compares up to {MOST_TEST_GROUPS} groups, and the rows have more.",
        remedy="Derive a column of fewer values, or name it in categorical.",
        code="test_groups",
    )


def groups_of(shown_labels: Sequence[Label]) -> list[str]:
    """The groups that are compared, in order; the sums are of all but the last."""
    return sorted({str(label[0]) for label in shown_labels})


def n_sums(request: StatisticsRequest, agreed: Agreed) -> int:
    """How many sums are added beside the counts; none for other methods."""
    if request.method != "logrank" or not agreed.shown:
        return 0
    n_tested = len(groups_of(agreed.shown)) - 1
    n_scores = n_tested
    n_covariances = n_tested * (n_tested + 1) // 2
    return n_scores + n_covariances


def joint_sums(reading: Reading, agreed: Agreed) -> list[int]:
    """This provider's U and upper triangle of V of all groups but the last; zeros for a
    group that it lacks, since nobody of it is at risk here.
    """
    log_rank_part = reading.log_rank
    assert log_rank_part is not None, "read with the rows"
    place_of = {name: place for place, name in enumerate(log_rank_part.groups)}
    *compared, _ = groups_of(agreed.shown)
    group_places = [place_of.get(name) for name in compared]
    numbers = []
    for group_place in group_places:
        if group_place is None:
            numbers.append(0)
        else:
            numbers.append(log_rank_part.scores[group_place])
    for turn, row in enumerate(group_places):
        for column in group_places[turn:]:
            if row is None or column is None:
                numbers.append(0)
            else:
                numbers.append(log_rank_part.covariances[row][column])
    return numbers
