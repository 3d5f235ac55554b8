"""The columns that an order makes of those it reads, held against this hospital's policy
before anything is added up: levels of categories, splines, weights, two-way tables.

Decisions 78 and 95.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from agents.gate.cohort_gate import (
    check_columns,
    check_combinations,
    holds_0_and_1,
)
from agents.gate.pair_cells import Column, check_pair_cells
from agents.rows import row_tables
from agents.rows.cohort import Cohort
from agents.training.agreed_levels import Coding, levels_of_few, places_of
from agents.training.party import AgreedTraining, AskedTraining
from agents.training.row_gate import rules_of
from agents.training.row_sets import OrderRows, training_sets
from agents.training.survival_rows import outcome_columns
from analytics.arrays import Bools, Floats, Ints
from analytics.training.design import Number, Spline, own_features
from protocol.errors import Refused
from protocol.study_rows import StudyRows
from protocol.varying_plan import compares_pairs


def check_features(
    order: AgreedTraining,
    rows: OrderRows,
    coding: Coding,
) -> None:
    """As `check_made_columns`, once all have said what they pool."""
    # Thresholds of plain columns of 0 and 1 may be on the sum (`varying`).
    hospitals = set(order.request.hospitals)
    is_pooled = set(order.pooled) == hospitals
    check_made_columns(
        order,
        rows,
        coding,
        is_pooled=is_pooled,
    )


def check_made_columns(
    order: AskedTraining,
    rows: OrderRows,
    coding: Coding,
    *,
    is_pooled: bool,
) -> None:
    """Each column that the model will have, against this hospital's policy: in every
    set of rows that trains or tests a fold.

    Raises Refused (code min_varying, max_share). Disclosure: as `check_gate`; the name of a level
    stands in it.
    """
    study = order.request.study
    # Then levels and pairs of columns are compared for all hospitals together (decision
    # 95).
    is_compared = is_pooled and compares_pairs(order.request)
    if order.request.is_newton and not is_compared:
        _check_tables(order, rows)
    weights = order.request.weights
    if study.is_plain and weights is None:
        return
    levels = {} if is_compared else coding.levels
    for purpose, sets in _sets_by_purpose(order, rows).items():
        for rules in rules_of(order, purpose):
            min_varying = rules.min_varying
            for cohort in sets:
                check_levels(
                    study,
                    levels,
                    cohort,
                    min_varying=min_varying,
                )
                if weights is None or cohort.weights is None:
                    continue
                # Without their few weights the same sums are of the others.
                of_weights = (weights, cohort.weights)
                check_columns([of_weights], min_varying)
    _check_combinations(
        order,
        rows.train,
        coding,
        is_pooled=is_pooled,
    )


def check_levels(
    study: StudyRows,
    levels_of: Mapping[str, Sequence[str]],
    cohort: Cohort,
    *,
    min_varying: int,
) -> None:
    """The levels of categories and the columns of splines in one set of rows, which is
    trained on or judged. Raises Refused (code min_varying).
    """
    few_columns: dict[str, None] = {}
    for column_name, levels in levels_of.items():
        rare_columns = levels_of_few(
            places_of(cohort, column_name),
            column_name,
            tuple(levels),
            min_varying,
        )
        few_columns.update(dict.fromkeys(rare_columns))
    for column_name in study.columns:
        if study.knots(column_name):
            of_spline = _spline_columns(
                study,
                cohort,
                column_name,
            )
            check_columns(of_spline, min_varying)
    if few_columns:
        raise _of_few_rows(list(few_columns), min_varying)


def _sets_by_purpose(
    order: AskedTraining,
    rows: OrderRows,
) -> dict[str, list[Cohort]]:
    """By the SQL that they are of, all sets of rows that train or test a model."""
    sets = {"train": training_sets(order, rows)}
    if rows.test is not None:
        sets["test"] = [rows.test]
    return sets


def _check_tables(order: AskedTraining, rows: OrderRows) -> None:
    """Two-way tables that a Newton order opens, in every set of rows that trains or tests
    a fold; two levels of one category are no pair.
    """
    request = order.request
    for rules in rules_of(order, "train"):
        for cohort in training_sets(order, rows):
            by_name = zip(cohort.attributes, cohort.X.T, strict=True)
            columns: list[Column] = list(by_name)
            if cohort.y is not None:
                columns += outcome_columns(request, cohort.y)
            if cohort.weights is not None:
                weights_name = request.weights or ""
                columns.append((weights_name, cohort.weights))
            check_pair_cells(columns, min_rows=rules.min_rows)


def _of_few_rows(features: list[str], min_varying: int) -> Refused:
    """A level's column of the gradient would be theirs alone. The reference's too: its
    rows' part is that of the intercept less those of the other levels.
    """
    feature_names = ", ".join(features)
    return Refused(
        f"Fewer than {min_varying} rows are {feature_names}: the gradient would be theirs alone.",
        remedy="Leave out these columns or merge levels by derive, widen the SQL, or ask the hospital to lower"
        " min_varying in its policy.toml.",
        code="min_varying",
        threshold=min_varying,
        feature=features[0],
        features=features,
    )


def _check_combinations(
    order: AskedTraining,
    train: Cohort,
    coding: Coding,
    *,
    is_pooled: bool,
) -> None:
    """Columns that an order makes may differ from others in few rows."""
    study = order.request.study
    made_names = [*study.categorical, *study.in_order]
    if order.request.weights is not None:
        made_names.append(order.request.weights)
    if not made_names:
        return
    compared, rare_levels = _parts_and_rare(
        order,
        train,
        coding,
        is_pooled=is_pooled,
    )
    if train.weights is not None:
        # Sums with the weights and sums without them differ by sums of their products.
        by_row = train.weights.reshape(-1, 1)
        products = [columns * by_row for columns in compared]
        compared += [by_row, *products]
    ones = np.ones((train.n_rows, 1))
    X = np.concatenate([*compared, ones], axis=1)
    X = _filled(X)
    X, is_rare = _without(rare_levels, X)
    for rules in rules_of(order, "train"):
        check_combinations(
            X,
            names=made_names,
            min_varying=rules.min_varying,
            beside=is_rare,
            max_share=order.policy.cohort.max_share,
        )


def _parts_and_rare(
    order: AskedTraining,
    train: Cohort,
    coding: Coding,
    *,
    is_pooled: bool,
) -> tuple[list[Floats], list[Floats]]:
    """The columns that are compared, (n_rows, ...) of each column of the order, and
    those of levels of few rows here that are compared for all hospitals together.
    """
    study = order.request.study
    compares_few = is_pooled and compares_pairs(order.request)
    min_varying = max(rules.min_varying for rules in rules_of(order, "train"))
    rare_levels: list[Floats] = []
    compared: list[Floats] = []
    for column_name in study.columns:
        if column_name in coding.levels:
            of_levels = _indicators(
                coding,
                column_name,
                train,
            )
            is_few = np.zeros(of_levels.shape[1], dtype=bool)
            if compares_few:
                is_few = of_levels.sum(axis=0) < min_varying
            rare_levels.append(of_levels[:, is_few])
            compared.append(of_levels[:, ~is_few])
            continue
        column = _column_of(train, column_name)
        is_plain = is_pooled and column_name not in study.derived
        # With weights its product with them is a column of its own.
        is_alone = is_plain and train.weights is None
        if is_alone and holds_0_and_1(column):
            continue
        term = number_term(study, column_name)
        compared.append(own_features(term, column))
    return compared, rare_levels


def _filled(X: Floats) -> Floats:
    """With the mean of this hospital's rows in place of the joint mean, which is not
    known yet: each row without a value has the same one.
    """
    is_missing = np.isnan(X)
    is_empty = is_missing.all(axis=0)
    known = np.where(is_empty, 0.0, X)
    means = np.nanmean(known, axis=0)
    return np.where(is_missing, means, X)


def _column_of(cohort: Cohort, name: str) -> Floats:
    column_place = cohort.attributes.index(name)
    return cohort.X[:, column_place]


def _indicators(
    coding: Coding,
    name: str,
    cohort: Cohort,
) -> Floats:
    """A column for each level of a category, (n_rows, n_levels)."""
    level_places = places_of(cohort, name).reshape(-1, 1)
    n_levels = len(coding.levels[name])
    has_level: Ints = level_places == np.arange(n_levels)
    return has_level.astype(np.float64)


def _without(
    rare_levels: Sequence[Floats],
    X: Floats,
) -> tuple[Floats, Bools | None]:
    """The columns less what those of rare levels explain of them, and which rows have
    such a level, (n_rows,).

    A combination of these levels alone is none then. Any other one that is of few rows is
    still of those, and at most of the rows of rare levels beside.
    """
    no_column = np.zeros((len(X), 0))
    levels = np.concatenate([no_column, *rare_levels], axis=1)
    if not levels.any():
        return X, None
    explained, *_ = np.linalg.lstsq(levels, X, rcond=None)
    residuals = X - levels @ explained
    # What is nothing but rounding is no column.
    is_left = _lengths(residuals) > 1e-9 * _lengths(X)
    has_one: Bools = levels.sum(axis=1) > 0
    return residuals[:, is_left], has_one


def _lengths(X: Floats) -> Floats:
    """Of each column, (n_columns,)."""
    squares = np.square(X).sum(axis=0)
    lengths: Floats = np.sqrt(squares)
    return lengths


def _spline_columns(
    study: StudyRows, cohort: Cohort, name: str
) -> Iterator[tuple[str, Floats]]:
    """Each column of a spline, (n_rows,), one after the other."""
    term = Spline(name, study.knots(name))
    column_place = cohort.attributes.index(name)
    features = row_tables.made_of(
        cohort.X, lambda rows: own_features(term, rows[:, column_place])
    )
    yield from zip(term.features, row_tables.columns(features), strict=True)


def number_term(study: StudyRows, name: str) -> Number | Spline:
    knots = study.knots(name)
    return Spline(name, knots) if knots else Number(name)
