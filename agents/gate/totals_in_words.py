"""What an order opens, written for a person: its totals, and what it compares before.

Nothing of a row, and no group's value, stands in these sentences.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from agents.gate.totals import OpenedTotal, few, joint_name, listed
from analytics.statistics.circuit import Plan
from protocol.messages import PooledThresholds
from protocol.shares.cells import Limits
from protocol.statistics_request import TALLIED, StatisticsRequest
from protocol.training_request import TrainingRequest
from protocol.varying_plan import compares_pairs, row_sets_of


def words_of(
    totals: Iterable[OpenedTotal], *, n_rows: int, n_hospitals: int
) -> list[str]:
    """One sentence for each subject: "n, sum and sum of squares of age over 854 people
    of 4 hospitals".

    Nothing of a row, and no group's value, stands in them.
    """
    people = f"{n_rows} people of {_n_hospitals(n_hospitals)}"
    return _words_over(totals, people)


def words_before(
    totals: Iterable[OpenedTotal], *, n_own_rows: int, n_hospitals: int
) -> list[str]:
    """The same, before the other hospitals have said how many rows they have."""
    people = f"the people of {_n_hospitals(n_hospitals)}, {n_own_rows} of them here"
    return _words_over(totals, people)


def _n_hospitals(n_hospitals: int) -> str:
    return "1 hospital" if n_hospitals == 1 else f"{n_hospitals} hospitals"


def _words_over(totals: Iterable[OpenedTotal], people: str) -> list[str]:
    by_subject: dict[tuple[str, str], list[str]] = defaultdict(list)
    for total in totals:
        by_subject[total.subject, total.repeated].append(total.what)
    sentences = []
    for (subject, repeated), whats in by_subject.items():
        # The sums of each attribute are one line.
        opened = listed(list(dict.fromkeys(whats)))
        if subject:
            opened += f" of {subject}"
        sentence = f"{opened} over {people}"
        if repeated:
            sentence += f", {repeated}"
        sentences.append(sentence)
    return sentences


def values_in_words(
    request: StatisticsRequest, plan: Plan, *, n_rows: int
) -> list[str]:
    """What is opened of an answer with a value for each person."""
    qualified_names = []
    for hospital in request.providers:
        alias = request.alias(hospital)
        qualified_names += [
            f"{alias}.{column}" for column in plan.expression.columns_of(alias)
        ]
    n_hospitals = len(request.providers)
    return [
        f"a value for each of {n_rows} people of {n_hospitals} hospitals, made of {listed(qualified_names)}"
    ]


_CELLS = {"histogram": "bins", "frequency": "values", "crosstab": "pairs of values"}
"""What is compared one by one; groups for other methods."""


def comparison_in_words(
    request: StatisticsRequest, limits: Limits, *, n_cells: int, n_answers: int
) -> str:
    """What is opened before the totals where thresholds are on the sum: "whether n of
    sex and cp is at least 10, of at least 2 hospitals, for each of 6 groups".

    No group's value stands in it.
    """
    subject: list[str] = []
    if request.counted_as in TALLIED:
        subject += request.columns or [joint_name(request)]
    subject += request.grouping
    cells = _CELLS.get(request.counted_as, "groups")
    named = listed(list(dict.fromkeys(subject)))
    sentence = f"whether n of {named} is at least {limits.min_rows}"
    if limits.min_providers > 1:
        sentence += f", of at least {limits.min_providers} hospitals"
    without = [str(opener) for opener in request.openers if opener in request.providers]
    if without:
        sentence += f", also without hospital {' and without '.join(without)}"
    if n_answers:
        answers = (
            "the last answer"
            if n_answers == 1
            else f"each of the last {n_answers} answers"
        )
        sentence += f", and none or at least {limits.min_changed} people have come and gone since {answers}"
    return f"{sentence}, for each of {n_cells} {cells}"


def missing_in_words(n_hospitals: int) -> str:
    """What is opened beside the sums of cells whose thresholds are on the sum."""
    return f"n without a value over all people of {n_hospitals} hospitals"


def varying_in_words(request: TrainingRequest, thresholds: PooledThresholds) -> str:
    """What a training order opens before its sums where thresholds are on the sum."""
    n_sets = len(row_sets_of(request))
    least_rows = thresholds.min_varying
    sentence = f"whether 0 and 1 each stand in none or at least {least_rows} rows of all hospitals but any one"
    if not thresholds.own_totals:
        sentence += f", at {thresholds.min_hospitals} hospitals or more"
    columns = few(request.attributes)
    row_sets = "all rows" if n_sets == 1 else f"each of {n_sets} sets of rows"
    if compares_pairs(request) and request.categorical:
        columns += ", level by level,"
    return f"{sentence}, for each of {columns} that holds no other value, in {row_sets}"


def pairs_in_words(request: TrainingRequest, thresholds: PooledThresholds) -> str:
    """What a Newton order opens beside `varying_in_words`; empty of other orders."""
    if not compares_pairs(request) or thresholds.min_rows == 1:
        return ""
    sentence = f"whether each cell has none or at least {thresholds.min_rows} rows of all hospitals but any one"
    if not thresholds.own_totals:
        sentence += f", at {thresholds.min_hospitals} hospitals or more"
    n_sets = sum(row_set.startswith("train") for row_set in row_sets_of(request))
    row_sets = "all rows" if n_sets == 1 else f"each of {n_sets} sets of rows"
    excluded = [*request.strata, request.cluster_column]
    outcome = [column for column in request.outcome_columns if column not in excluded]
    columns = few([*request.attributes, *outcome])
    return f"{sentence}, of the table of each two of {columns} that hold 0 and 1 or levels, in {row_sets}"
