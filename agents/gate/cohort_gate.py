"""The rules of the gate before the rows of a training order that look at these rows
alone.

A gradient over few rows says much of each. What it says together with everything that
left before is `cohort_audit.py`'s to decide; `agents/training/row_gate.py` asks both.
`disclosure.py` is the gate of joint statistics.

Decisions 80, 114 and 129.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.rows.cohort import Cohort, check_enough_rows
from agents.rows.row_tables import columns
from analytics.arrays import Bools, Floats, row_chunks
from analytics.training.combinations import largest_share
from protocol.errors import Refused, Rule, check_all, check_rules
from protocol.policy import OpenRows
from protocol.varying_plan import LABEL

Column = NDArray[Any]

_TWO = 2
_ALL_BUT_NOISE = 0.999


def check_gate(
    cohort: Cohort, *, n_parameters: int, rules: OpenRows, pooled: bool = False
) -> None:
    """Let a cohort of another hospital's order pass, or refuse it, as `gate_rules`."""
    for together in gate_rules(
        cohort, n_parameters=n_parameters, rules=rules, pooled=pooled
    ):
        check_rules(together)


def gate_rules(
    cohort: Cohort, *, n_parameters: int, rules: OpenRows, pooled: bool = False
) -> list[list[Rule]]:
    """What a cohort has to pass, for training, test and fold rows: the first rule by
    itself, then the others together.

    `rules` are the table's in the policy. For test rows, which train no parameter,
    n_parameters is 0.

    - min_rows: n_rows >= min_rows; where a mean stands in place of missing values, each
      feature has a value in 0 or >= min_rows rows, and none in 0 or >= min_rows
    - min_varying: in each feature the rows that differ from its commonest value (one that at least two rows have)
      are 0 or >= min_varying; with `pooled` not of features that hold 0 and 1 only
    - max_parameter_share: n_parameters <= max_parameter_share * n_rows

    Each raises Refused whose code is the rule.

    Disclosure: takes rows; a refusal shows its rule and the name of a feature, no count
    and no value.
    """
    n_rows = cohort.n_rows
    return [
        [Rule("min_rows", lambda: check_enough_rows(n_rows, rules.min_rows))],
        [
            Rule(
                "min_varying",
                lambda: check_varying(cohort, rules.min_varying, pooled=pooled),
            ),
            Rule("min_rows", lambda: _check_values(cohort, rules.min_rows)),
            Rule(
                "max_parameter_share",
                lambda: check_parameters(n_rows, n_parameters, rules),
            ),
        ],
    ]


def _check_values(cohort: Cohort, min_rows: int) -> None:
    """Where a mean stands in place of most values, a column's sums are of the others;
    and who can change the mean between two orders knows what those add who lack one.
    """
    few_have: list[str] = []
    few_lack: list[str] = []
    for attribute, column in zip(cohort.attributes, columns(cohort.X), strict=True):
        n_lacking = int(np.count_nonzero(np.isnan(column)))
        if 0 < cohort.n_rows - n_lacking < min_rows:
            few_have.append(attribute)
        if 0 < n_lacking < min_rows:
            few_lack.append(attribute)
    check_all(
        lambda: _refuse_values(few_have, "have a", min_rows),
        lambda: _refuse_values(few_lack, "lack their", min_rows),
    )


def _refuse_values(features: Sequence[str], how: str, min_rows: int) -> None:
    if features:
        raise Refused(
            f"Fewer than {min_rows} rows {how} value in {', '.join(features)}: with a mean in place of missing values,"
            " sums would be theirs.",
            remedy="Order missing drop or complete_on, leave out what is named, widen the SQL or use fewer folds; or"
            " ask the hospital to lower min_rows in its policy.toml.",
            code="min_rows",
            threshold=min_rows,
            feature=features[0],
            features=list(features),
        )


def check_varying(cohort: Cohort, min_varying: int, *, pooled: bool = False) -> None:
    """Refuse features in which few rows differ from the commonest value (code
    min_varying); with `pooled` none that holds 0 and 1 only.
    """
    check_columns(_judged(cohort, pooled=pooled), min_varying)


def _judged(cohort: Cohort, *, pooled: bool) -> Iterator[tuple[str, Column]]:
    for feature, column in features(cohort):
        is_joint = pooled and holds_0_and_1(column)
        # Of categories each level is looked at once all hospitals' levels are known.
        if not is_joint and feature not in cohort.levels:
            yield feature, column


def check_columns(judged: Iterable[tuple[str, Column]], min_varying: int) -> None:
    """Refuse columns of a model in which few rows vary (code min_varying).

    judged: name and values, (n_rows,); all that miss a value have the same one.
    """
    named = []
    for feature, column in judged:
        if varies_in_few(column, min_varying):
            named.append(feature)
    if named:
        raise Refused(
            f"In {', '.join(named)}, fewer than {min_varying} rows differ from the commonest value: the gradient would"
            " be theirs alone.",
            remedy="Leave out what is named, widen the SQL, or ask the hospital to lower min_varying in its"
            " policy.toml.",
            code="min_varying",
            threshold=min_varying,
            feature=named[0],
            features=named,
        )


def features(cohort: Cohort) -> Iterator[tuple[str, Column]]:
    """By name what enters the sums of a gradient, (n_rows,) each, one after the other."""
    yield from zip(cohort.attributes, columns(cohort.X), strict=True)
    if cohort.y is not None and not cohort.labels:
        # No class: it enters the sums as a feature does.
        yield LABEL, cohort.y


def holds_0_and_1(column: Column) -> bool:
    return all(
        bool(np.isin(column[chunk], (0, 1)).all()) for chunk in row_chunks(len(column))
    )


def varies_in_few(column: Column, min_varying: int) -> bool:
    """Whether 1 to min_varying - 1 rows differ from the commonest value."""
    if not column.size:
        return False
    # A label of strata and entries has several values a row.
    column = column.ravel()
    if min_varying <= column.size // 2:
        return _varies_beside_most(column, min_varying)
    _, n_of_value = np.unique(column, return_counts=True)
    n_commonest = int(n_of_value.max())
    n_varying = column.size - n_commonest
    # Where all values differ there is no commonest one, and every row has its part in
    # the gradient.
    return n_commonest > 1 and 0 < n_varying < min_varying


def _varies_beside_most(column: Column, min_varying: int) -> bool:
    """The same of min_varying rows at most half of all: what so few rows differ from is
    the value of more than half of the rows, and so in the middle of their order.
    """
    middle = np.partition(column, column.size // 2)[column.size // 2]
    is_missing = middle != middle
    n_varying = 0
    for chunk in row_chunks(column.size):
        rows = column[chunk]
        # All that miss a value have the same one.
        varies = rows == rows if is_missing else rows != middle
        n_varying += int(np.count_nonzero(varies))
    return 0 < n_varying < min_varying


def check_extremes(
    cohort: Cohort, *, max_share: Fraction, min_rows: int, has_times: bool = False
) -> None:
    """Refuse numbers of which two rows make up nearly all of the distance from the median,
    or of its square (code max_share): a sum of squares tells these, a sum of products
    the other columns of these rows.

    Squares are judged where twice min_rows rows have a value: of fewer, two are nearly
    all of the squares of ordinary skewed numbers now and then.

    A label of numbers is one of them, unless it has times: of these no sums are made.
    Columns of 0 and 1, and categories, are counted instead. Disclosure: as `check_gate`.
    """
    named = []
    for feature, column in features(cohort):
        if has_times and feature == LABEL:
            continue
        values = column[~np.isnan(column)]
        if feature in cohort.levels or not values.size or holds_0_and_1(values):
            continue
        # In place of the values, which may be many.
        values -= np.median(values)
        sizes = np.abs(values, out=values)
        largest = float(sizes.max())
        if largest:
            # In units of the largest no square overflows.
            sizes /= largest
        share = _share_of_two(sizes)
        if sizes.size >= 2 * min_rows:
            sizes *= sizes
            share = max(share, _share_of_two(sizes))
        if share > float(max_share):
            named.append(feature)
    if named:
        raise Refused(
            f"In {', '.join(named)}, two rows make up more than {max_share} of the distance from the median, or of its"
            " square: sums of squares and of products with other columns would be theirs.",
            remedy="Leave out extreme rows in the SQL or the columns that are named; or ask the hospital to raise"
            " max_share under [cohort] in its policy.toml.",
            code="max_share",
            threshold=str(max_share),
            features=named,
        )


def _share_of_two(sizes: Floats) -> float:
    """What the two largest make of the sum of sizes (n,), 0 or more; 0 of nothing."""
    sum_of_sizes = float(sizes.sum())
    if not sum_of_sizes:
        return 0.0
    n_largest = min(_TWO, sizes.size)
    return float(np.partition(sizes, -n_largest)[-n_largest:].sum()) / sum_of_sizes


def check_combinations(
    X: Floats,
    *,
    names: Sequence[str],
    min_varying: int,
    max_share: Fraction,
    beside: Bools | None = None,
) -> None:
    """Refuse columns of a model of which some combination is of few rows.

    X: (n_rows, n_columns), the intercept's among them. Two rows may have at most
    `max_share` of a combination, min_varying - 1 rows not all of it; with min_varying
    1 both may. names: what was derived or coded, for the sentence; beside:
    (n_rows,), rows that do not hide the few.

    Raises Refused (code min_varying, max_share). Disclosure: as `check_gate`.
    """
    if min_varying == 1:  # switched off
        return
    remedy = "Leave out what singles out few people, widen the SQL, or ask the hospital to change"
    named = ", ".join(names)
    if largest_share(X, min_varying - 1, beside=beside) > _ALL_BUT_NOISE:
        raise Refused(
            f"A combination of the model's columns is of fewer than {min_varying} rows: its gradient would be theirs"
            f" alone. It is among those made of {named}.",
            remedy=f"{remedy} min_varying in its policy.toml.",
            code="min_varying",
            threshold=min_varying,
            features=list(names),
        )
    if largest_share(X, _TWO) > max_share:
        raise Refused(
            f"Two rows make up more than {max_share} of a combination of the model's columns, which are made of"
            f" {named}.",
            remedy=f"{remedy} max_share under [cohort] in its policy.toml.",
            code="max_share",
            threshold=str(max_share),
            features=list(names),
        )


def check_mini_batches(n_rows: int, batch_size: int, *, is_allowed: bool) -> None:
    """Refuse an order that walks the rows of a hospital in mini-batches.

    n_rows: the most that a hospital of the order trains on. The gradient is then a sum
    of the batches' means: rows of a smaller batch weigh more, and a hospital in two
    batches counts twice. Two orders over the same rows, which the audit takes to tell
    the same, differ in such weights alone.

    Raises Refused (code mini_batches). Disclosure: that a hospital has more rows than
    batch_size; row counts are known to all parties.
    """
    is_whole = batch_size == -1 or n_rows <= batch_size
    if not (is_whole or is_allowed):
        raise Refused(
            "This batch_size parts a hospital's rows into mini-batches, which weigh hospitals and rows: with the same"
            " order in other batches, one hospital's gradient and single rows could be computed.",
            remedy="Set batch_size to -1, or ask the hospital to set mini_batches = true under [cohort] in its"
            " policy.toml.",
            code="mini_batches",
        )


def check_parameters(
    n_rows: int, n_parameters: int, rules: OpenRows, *, because: str = ""
) -> None:
    """Refuse a model that has too many parameters for these rows (code
    max_parameter_share). because: what makes it so large, where that is known.
    """
    if n_parameters > rules.max_parameter_share * n_rows:
        reason = f": {because}" if because else ""
        raise Refused(
            f"A model of {n_parameters} parameters is too large for this hospital's {n_rows} rows{reason}; it allows"
            f" {rules.max_parameter_share} parameters per row.",
            remedy="Use fewer attributes, more rows, or ask the hospital to raise max_parameter_share in its"
            " policy.toml.",
            code="max_parameter_share",
            threshold=str(rules.max_parameter_share),
        )
