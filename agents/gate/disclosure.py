"""What an answer may show of this hospital's rows: the rules of `[statistics]` on the
request, before a row is read, and on the rows.

A check returns or raises Refused with the rule as code. Of groups: `withheld_groups`;
`earlier_questions` remembers what was asked before.

Decision 38.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analytics.statistics.circuit import Plan
from analytics.statistics.weighing import Weighing, weighing
from protocol.errors import Refused, Rule
from protocol.policy import StatisticsRules

Sketch = NDArray[np.uint64]
"""(65536,): two sets of rows that differ by d rows differ in d cells at most."""


def request_rules(
    rules: StatisticsRules | None,
    *,
    methods: Sequence[str],
    n_providers: int,
    row_level_columns: Sequence[str],
    disclose: bool,
) -> list[Rule]:
    """What refuses a request that this hospital's policy does not allow, before a row is
    read; each raises Refused whose code is its name.

    methods: all that the request needs; n_providers counts this hospital too;
    `row_level_columns` are its columns of which the answer would hold a value for each
    person, spelled as in the policy; `disclose` asks for the numbers in the
    coordinator's answer.
    """
    if rules is None:
        return [Rule("statistics", _refuse_statistics)]
    return [
        Rule("methods", lambda: _check_methods(methods, rules)),
        Rule("min_providers", lambda: _check_providers(n_providers, rules)),
        Rule("row_level", lambda: check_row_level(row_level_columns, rules)),
        Rule("disclose", lambda: _check_disclose(disclose, rules)),
    ]


def _refuse_statistics() -> None:
    raise _refused(
        "statistics",
        "This hospital takes part in no joint statistics.",
        "to add that section",
    )


def _check_methods(methods: Sequence[str], rules: StatisticsRules) -> None:
    closed = [method for method in methods if method not in rules.methods]
    if closed:
        method_names, allowed = " and ".join(closed), ", ".join(rules.methods)
        sentence = f"This hospital does not take part in the statistic {method_names}; it does in {allowed}."
        raise _refused("methods", sentence, f"to add {method_names} to methods")


def _check_providers(n_providers: int, rules: StatisticsRules) -> None:
    if n_providers < rules.min_providers:
        sentence = f"Rows of {n_providers} provider(s) are fewer than this hospital's minimum of {rules.min_providers}."
        raise _refused(
            "min_providers",
            sentence,
            "to lower min_providers (where the order has at_least, raise it)",
            threshold=rules.min_providers,
        )


def _check_disclose(disclose: bool, rules: StatisticsRules) -> None:
    if disclose and not rules.disclose:
        sentence = "This hospital's answers go to the receivers' files only, not through the coordinator."
        raise Refused(
            sentence,
            remedy="Order with reader instead of disclose: the answer is then sealed to a person's own key, which only"
            " the asking hospital's policy must list. Or leave both out, and read the receivers' files.",
            code="disclose",
        )


def check_row_level(columns: Sequence[str], rules: StatisticsRules) -> None:
    """Refuse an answer that holds something of these columns for each person, unless
    the policy lists them.
    """
    closed = sorted(set(columns) - set(rules.row_level))
    if closed:
        column_names = ", ".join(closed)
        sentence = f"The answer would hold a value for each person, made of {column_names} of this hospital."
        raise _refused(
            "row_level", sentence, "to list the column in row_level", columns=closed
        )


def check_weighing(circuit: Plan, me: int, rules: StatisticsRules) -> None:
    """Refuse an aggregate over joined rows that does more than add columns up, this
    hospital's among them, unless the policy allows `row_expressions` (code
    row_expressions).

    Whoever brings another column with it, or chooses a factor, could make its total
    that of one person, or of one hospital (decision 44). Asked of the circuit before
    rows are read, and again of the one that is computed.
    """
    if rules.row_expressions:
        return
    allow = "ask the hospital to allow row_expressions, under [statistics] in its policy.toml."
    match weighing(circuit, me):
        case Weighing.COMBINED:
            raise Refused(
                "The answer multiplies, compares or divides this hospital's rows, which can single out one of them.",
                remedy=f"Add up plain columns, or {allow}",
                code="row_expressions",
            )
        case Weighing.SCALED:
            raise Refused(
                "The answer adds columns with factors other than 1 and -1, and its digits can tell their sums apart.",
                remedy=f"Convert units in a view and add the columns as they are, or {allow}",
                code="row_expressions",
            )


def check_joined(n_rows: int, rules: StatisticsRules) -> None:
    """Refuse an answer over fewer than min_rows people that all providers know (code
    min_rows); no count is shown.
    """
    if n_rows < rules.min_rows:
        sentence = f"The providers have fewer people in common than this hospital's minimum of {rules.min_rows}."
        change = "to lower min_rows, or check the key columns"
        raise _refused("min_rows", sentence, change, threshold=rules.min_rows)


def check_share(largest_share: Fraction, rules: StatisticsRules) -> None:
    """Refuse a sum over joined rows of which two of them make more than max_share here
    (code max_share).
    """
    if largest_share > rules.max_share:
        sentence = f"Two people make more than {rules.max_share} of this hospital's part of a sum."
        change = "to raise max_share, or ask for more people"
        raise _refused("max_share", sentence, change, threshold=str(rules.max_share))


def check_rows(n_rows: int, rules: StatisticsRules) -> None:
    """Refuse an answer over fewer than min_rows rows of this hospital (code min_rows);
    no count is shown.
    """
    if n_rows < rules.min_rows:
        sentence = f"This hospital has fewer than its minimum of {rules.min_rows} rows for this answer."
        change = "to lower min_rows, or ask for more rows"
        raise _refused("min_rows", sentence, change, threshold=rules.min_rows)


def check_sketch(
    sketch: Sketch, earlier: Iterable[Sketch], rules: StatisticsRules
) -> bool:
    """Refuse rows that differ in 1 to min_rows - 1 cells from those of an earlier order
    (code earlier_cohort).

    `earlier` are the sketches of the requester's orders on these data, the latest last.
    Returns whether the rows are those of the latest one.

    Disclosure: a refusal shows that a few rows have changed since, not how many.
    """
    n_changed = -1  # without an earlier order, these rows are no latest one's
    for earlier_sketch in earlier:
        n_changed = int(np.count_nonzero(sketch != earlier_sketch))
        # The same rows tell nothing that the earlier answer has not told.
        if 0 < n_changed < rules.min_rows:
            raise Refused(
                f"These rows differ from those of an earlier order by fewer than {rules.min_rows}, which could be found"
                " by comparing the two answers.",
                remedy="Use the answer of the earlier order until more rows have changed.",
                code="earlier_cohort",
                threshold=rules.min_rows,
            )
    return n_changed == 0


def _refused(rule: str, sentence: str, change: str, **detail: Any) -> Refused:
    """change: what the hospital would have to do, "to lower min_rows"."""
    remedy = f"Change the order, or ask the hospital {change}, under [statistics] in its policy.toml."
    return Refused(sentence, remedy=remedy, code=rule, **detail)
