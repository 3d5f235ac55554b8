"""Tests over pooled rows: what refuses one before a sum is opened, and its result.

A test opens what another method opens (`protocol.statistics_request.methods.TEST_COUNTED_AS`),
under that method's rules. It needs every group: where one is withheld there is no test,
and nothing is opened for it.

The mathematics is in `analytics/statistics/hypothesis_tests.py`, which is imported where a
test is computed: SciPy's distributions take long to load.

Decisions 85 and 86.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from agents.gate.withheld_groups import Label
from agents.statistics import log_rank
from agents.statistics.groups import Agreed
from agents.statistics.labels import EVENT
from analytics.statistics.exact import DECIMAL, JointMoments, Moments
from protocol.errors import BadRequest, Refused
from protocol.statistics_request import MOST_TEST_GROUPS, StatisticsRequest

if TYPE_CHECKING:
    from analytics.statistics.hypothesis_tests import Quantities


def check_groups(request: StatisticsRequest, agreed: Agreed) -> None:
    """Refuses a test of groups that it cannot compare, the same at every hospital.

    Raises Refused (code as the rule that withholds a group) and BadRequest (code
    test_groups). Disclosure: that some group is withheld, and by which rule; no name.
    """
    if not request.is_test or agreed.repeats:
        return
    if agreed.withheld:
        raise _withheld(request, agreed)
    rows = _levels(agreed.shown, 0)
    columns = _levels(agreed.shown, 1)
    match request.method:
        case "ttest" if len(agreed.shown) != 2:
            raise _no_groups(
                "ttest compares two groups, and the rows have another number"
            )
        case "anova" if len(agreed.shown) < 2:
            raise _no_groups(
                "anova compares two groups or more, and the rows have fewer"
            )
        case "kaplan_meier" if not _has_events(request, agreed.shown):
            raise _no_groups("kaplan_meier is of events, and no row has one")
        case "logrank" if len(rows) < 2:
            raise _no_groups(
                "logrank compares two groups or more, and the rows have fewer"
            )
        case "logrank" if len(rows) > MOST_TEST_GROUPS:
            raise log_rank.too_many_groups()
        case "logrank" if EVENT not in columns:
            raise _no_groups("logrank compares events, and no row has one")
        case "chi2" | "trend" if len(rows) < 2 or len(columns) < 2:
            raise _no_groups(
                f"{request.method} is of two values or more of each column, and one has fewer"
            )
        case "trend" if len(columns) > 2:
            raise _no_groups(
                "The second column of trend is an outcome of two values, and has more"
            )
        case "trend" | "mann_whitney" | "kruskal" if not _are_numbers(rows):
            raise _no_groups(
                f"The first column of {request.method} is ranked, and has values that are no numbers"
            )
        case "mann_whitney" if len(columns) != 2:
            raise _no_groups(
                "The second column of mann_whitney makes two groups, and has another number of values"
            )
        case "kruskal" if len(columns) < 2:
            raise _no_groups(
                "The second column of kruskal makes two groups or more, and has fewer"
            )


def _has_events(request: StatisticsRequest, labels: Sequence[Label]) -> bool:
    event_place = len(request.grouping) - 1
    return any(label[event_place] == EVENT for label in labels)


def _withheld(request: StatisticsRequest, agreed: Agreed) -> Refused:
    """All reasons; a group that is withheld lest another one follow is none of its own."""
    of_rule = {}
    for why in agreed.withheld.values():
        of_rule[why.rule, why.threshold] = why
    causes = []
    for rule, threshold in sorted(of_rule):
        if rule != "complement":
            causes.append(of_rule[rule, threshold])
    if not causes:
        causes = list(of_rule.values())
    reasons = dict.fromkeys(why.reason for why in causes)
    sentences = " ".join(reasons)
    first_cause = causes[0]
    remedy = (
        "Name the columns in categorical, which makes one level of rare values, derive fewer values, or leave the rows"
        " of small groups out."
    )
    if request.is_binned:
        remedy = f"Give fewer bins, so that each has more events and more people who leave. {remedy}"
    if agreed.opened:
        # What a comparison opens of cells is remembered as an answer is.
        remedy += (
            " The cells of this question were compared and are remembered at the hospitals: one over nearly the same"
            " people may need `./run agent cohorts forget` there first."
        )
    return Refused(
        f"A group of the rows is withheld: {sentences} {request.method} needs all groups.",
        remedy=remedy,
        code=first_cause.rule,
        threshold=first_cause.threshold,
    )


def quantities(
    request: StatisticsRequest,
    agreed: Agreed,
    by_group: Sequence[Sequence[int]],
    event_sums: Sequence[int] = (),
) -> Quantities:
    """The result of a test from the joint integers of its groups; event_sums: what a
    log-rank test adds beside them.

    ValueError, with a sentence, where it has no value.
    """
    from analytics.statistics import hypothesis_tests as tests

    least_df = agreed.min_rows
    if request.counted_as == "crosstab":
        return _of_table(request, agreed.shown, by_group)
    if not by_group:
        raise ValueError("No row has a value.")
    if request.method == "logrank":
        return _of_events(
            request,
            agreed.shown,
            by_group,
            event_sums,
        )
    if request.method == "correlation_test":
        joint_moments = JointMoments(*by_group[0])
        return tests.correlation_test(joint_moments, least_df=least_df)
    if request.method == "paired_ttest":
        differences = Moments(*by_group[0])
        return tests.paired_t_test(differences, least_df=least_df)
    groups = {}
    for label, numbers in zip(agreed.shown, by_group, strict=True):
        group_name = str(label[0])
        groups[group_name] = Moments(*numbers)
    if request.method == "ttest":
        equal_var = bool(request.equal_var)
        return tests.t_test(groups, equal_var=equal_var, least_df=least_df)
    equal_var = request.equal_var is not False
    return tests.anova(groups, equal_var=equal_var, least_df=least_df)


def _of_events(
    request: StatisticsRequest,
    labels: Sequence[Label],
    by_group: Sequence[Sequence[int]],
    event_sums: Sequence[int],
) -> Quantities:
    from analytics.statistics import survival

    groups = log_rank.groups_of(labels)
    n_rows = dict.fromkeys(groups, 0)
    n_events = dict(n_rows)
    for label, (n_of_cell,) in zip(labels, by_group, strict=True):
        group, event = label
        group_name = str(group)
        n_rows[group_name] += n_of_cell
        if event == EVENT:
            n_events[group_name] += n_of_cell
    weighting = log_rank.weighting(request)
    return survival.log_rank(
        n_rows,
        n_events,
        event_sums,
        weighting,
    )


def _of_table(
    request: StatisticsRequest,
    labels: Sequence[Label],
    by_group: Sequence[Sequence[int]],
) -> Quantities:
    from analytics.statistics import hypothesis_tests as tests

    rows = _levels(labels, 0)
    columns = _levels(labels, 1)
    scores = np.zeros(0)
    if request.method != "chi2":
        # They are numbers: `check_groups` has found so before the sum.
        scores = np.array([float(level_text) for level_text in rows])
        rows = [rows[level_place] for level_place in np.argsort(scores)]
    shape = (len(rows), len(columns))
    count_table = np.zeros(shape)
    for label, (n_rows,) in zip(labels, by_group, strict=True):
        row, column = label
        row_place = rows.index(str(row))
        column_place = columns.index(str(column))
        count_table[row_place, column_place] = n_rows
    if request.method == "trend":
        return tests.trend(count_table, np.sort(scores))
    if request.method == "mann_whitney":
        first_level, second_level = columns
        return tests.mann_whitney(count_table, (first_level, second_level))
    if request.method == "kruskal":
        return tests.kruskal(count_table, columns)
    correction = request.correction is not False
    return tests.chi_squared(
        count_table,
        (rows, columns),
        correction=correction,
    )


def _levels(labels: Sequence[Label], place: int) -> list[str]:
    """The values of one column of the labels, in order."""
    column_values = set()
    for label in labels:
        if len(label) > place:
            column_values.add(str(label[place]))
    return sorted(column_values)


def _are_numbers(texts: Sequence[str]) -> bool:
    """Whether each is a finite number, in the one text of such values."""
    return all(DECIMAL.fullmatch(text) for text in texts)


def _no_groups(sentence: str) -> BadRequest:
    return BadRequest(
        f"{sentence}.",
        remedy="Ask the frequency of the columns to see their values, and derive as many as the test compares.",
        code="test_groups",
    )
