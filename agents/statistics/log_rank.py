"""The log-rank test of pooled rows: what a provider makes of its times and events, and
its part of the sum.

Beside U and V its rows are counted by group and event, as any statistic by groups counts
them: each such cell is judged by the rules and by the audit. U and V hold no time, and
are of all people together (`analytics/statistics/survival.py`).

Decision 86.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agents.gate.disclosure import Label
from agents.gate.pair_cells import check_event_times
from agents.rows.column_text import label_sql, number_of
from agents.rows.dataset import Dataset
from agents.statistics.groups import Agreed
from agents.statistics.party import LogRankPart, Reading
from protocol.errors import BadRequest
from protocol.statistics_request import MOST_TEST_GROUPS, StatisticsRequest

CENSORED, EVENT = "0", "1"
"""The two texts of an event column."""

WIDTH = 128
"""Bits of U and V: 2^40 rows in units of 2^-40, with room for their sign."""


def own_part(
    dataset: Dataset, request: StatisticsRequest, user_id: int, *, min_rows: int
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
    time = number_of(dataset, column)
    if request.method != "logrank":
        _check_outcomes(dataset, request, column)
        return None
    group, event = (label_sql(dataset, name) for name in request.grouping)
    found = dataset.query(
        f"SELECT {group}, {event}, {time.double}, count(*) FROM rows"  # noqa: S608
        f" WHERE {time.cell} IS NOT NULL GROUP BY 1, 2, 3"
    )
    _check_lines(found, request, column)
    names = sorted({line[0] for line in found})
    if len(names) > MOST_TEST_GROUPS:
        raise too_many_groups()
    place_of = {name: place for place, name in enumerate(names)}
    times = np.array([line[2] for line in found], dtype=np.float64)
    is_event = np.array([line[1] == EVENT for line in found], dtype=np.int64)
    n_rows = np.array([line[3] for line in found], dtype=np.int64)
    check_event_times(column, times, is_event, n_rows, min_rows=min_rows)

    # Where a test is computed: SciPy's distributions take long to load.
    from analytics.statistics.survival import log_rank_sums

    sums = log_rank_sums(
        times,
        is_event,
        np.array([place_of[line[0]] for line in found], dtype=np.int64),
        n_rows,
        n_groups=len(names),
    )
    return LogRankPart(groups=names, scores=sums.scores, covariances=sums.covariances)


def _check_lines(
    found: Sequence[tuple[str, str, float, int]],
    request: StatisticsRequest,
    column: str,
) -> None:
    if any(line[1] not in (CENSORED, EVENT) for line in found):
        raise BadRequest(
            f"{request.event_name} has values other than 0 and 1.",
            remedy="Say 1 where the event happened and 0 where the row was last seen without it; derive makes such a"
            ' column: "derive": {"died": "status == 2"}.',
            code="event_values",
        )
    if any(line[2] <= 0 for line in found):
        raise BadRequest(
            f"{column} has times of 0 or below.",
            remedy="Leave these rows out, with a SELECT or a view, or count their time from an earlier moment.",
            code="event_times",
        )


def _check_outcomes(dataset: Dataset, request: StatisticsRequest, column: str) -> None:
    """The same of a question that needs no time by itself."""
    assert request.event_name is not None
    time = number_of(dataset, column)
    event = label_sql(dataset, request.event_name)
    found = dataset.query(
        f"SELECT '', {event}, min({time.double}), count(*) FROM rows"  # noqa: S608
        f" WHERE {time.cell} IS NOT NULL GROUP BY 1, 2"
    )
    _check_lines(found, request, column)


def too_many_groups() -> BadRequest:
    return BadRequest(
        f"logrank compares up to {MOST_TEST_GROUPS} groups, and the rows have more.",
        remedy="Derive a column of fewer values, or name it in categorical.",
        code="test_groups",
    )


def groups_of(shown: Sequence[Label]) -> list[str]:
    """The groups that are compared, in order; the sums are of all but the last."""
    return sorted({str(label[0]) for label in shown})


def n_sums(request: StatisticsRequest, agreed: Agreed) -> int:
    """How many sums are added beside the counts; none for other methods."""
    if request.method != "logrank" or not agreed.shown:
        return 0
    n_tested = len(groups_of(agreed.shown)) - 1
    return n_tested + n_tested * (n_tested + 1) // 2


def joint_sums(reading: Reading, agreed: Agreed) -> list[int]:
    """This provider's U and upper triangle of V of all groups but the last; zeros for a
    group that it lacks, since nobody of it is at risk here.
    """
    part = reading.log_rank
    assert part is not None, "read with the rows"
    place_of = {name: place for place, name in enumerate(part.groups)}
    tested = [place_of.get(name) for name in groups_of(agreed.shown)[:-1]]
    numbers = [0 if place is None else part.scores[place] for place in tested]
    for place, g in enumerate(tested):
        for h in tested[place:]:
            if g is None or h is None:
                numbers.append(0)
            else:
                numbers.append(part.covariances[g][h])
    return numbers
