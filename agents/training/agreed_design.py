"""The columns of an order's model: from what each hospital read to the matrix that all
train on alike.

Before anything is added up: `code_rows` brings categories into the joint levels, and
`check_features` holds each column that the model will have against this hospital's
policy. Then, as one sealed sum, joint counts of levels and rows, and joint means of
numbers without a value: `fix_design`. All of it is over the order's training rows, once
for all folds.

Decision 78.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from agents.gate.cohort_gate import (
    check_columns,
    check_combinations,
    holds_0_and_1,
)
from agents.gate.pair_cells import (
    Column,
    check_event_cells,
    check_event_times,
    check_pair_cells,
)
from agents.order.party import send
from agents.rows.cohort import Cohort, Flow, rows_of
from agents.training import cohorts
from agents.training.agreed_levels import Coding, levels_of_few, places_of
from agents.training.party import AgreedTraining, AskedTraining
from agents.training.row_gate import least_rows, rules_of
from agents.training.row_sets import OrderRows, training_sets
from agents.training.trainer import (
    Trainer,
    contribute,
    receive_opening,
    sentences,
    sum_info,
)
from analytics.arrays import Floats, Ints
from analytics.training import cox
from analytics.training.design import (
    UNKNOWN,
    Design,
    Levels,
    Number,
    Spline,
    Term,
    default_reference,
    design_matrix,
    indicators,
    own_features,
)
from protocol.errors import BadRequest, Refused
from protocol.messages import COORDINATOR, canonical
from protocol.study_rows import StudyRows
from protocol.sums import limbs as wide
from protocol.sums import secure_sum

# Before anything is added up


def code_rows(order: AgreedTraining, rows: OrderRows, coding: Coding) -> OrderRows:
    """The same rows, their categories as places in the joint levels.

    A test row of a level that no training row has is left out where there is no level
    OTHER; then the gate sees the rest once more.

    Raises Refused (code rare_levels; those of the gate).
    """
    if not coding.levels:
        return rows
    train = _coded(rows.train, coding)
    test = rows.test
    if test is not None:
        test = _known_rows(order, _coded(test, coding), coding)
    coded = replace(rows, train=train, test=test)
    if test is not None and test.n_rows < rows.n_test_rows:
        cohorts.pass_gate_again(order, coded)
    return coded


def _coded(cohort: Cohort, coding: Coding) -> Cohort:
    X = cohort.X.copy()
    for name, levels in coding.levels.items():
        term = _levels_term(name, coding, reference=levels[0])
        joint = np.array(term.places(cohort.levels[name]), dtype=np.int64)
        place = cohort.attributes.index(name)
        X[:, place] = joint[places_of(cohort, name)]
    joint_levels = {name: list(levels) for name, levels in coding.levels.items()}
    return replace(cohort, X=X, levels=joint_levels)


def _known_rows(order: AgreedTraining, test: Cohort, coding: Coding) -> Cohort:
    is_known = np.ones(test.n_rows, dtype=bool)
    for name in coding.levels:
        is_known &= places_of(test, name) != UNKNOWN
    n_unknown = int(np.count_nonzero(~is_known))
    if 0 < n_unknown < least_rows(order, "test"):
        raise Refused(
            "Some test rows have levels that the training rows do not have.",
            remedy="Leave them out by WHERE, or derive what is needed of the column.",
            code="rare_levels",
        )
    return rows_of(test, np.flatnonzero(is_known))


def check_features(order: AgreedTraining, rows: OrderRows, coding: Coding) -> None:
    """As `check_made_columns`, once all have said what they pool."""
    # Thresholds of plain columns of 0 and 1 may be on the sum (`varying`).
    is_pooled = set(order.pooled) == set(order.request.hospitals)
    check_made_columns(order, rows, coding, is_pooled=is_pooled)


def check_made_columns(
    order: AskedTraining, rows: OrderRows, coding: Coding, *, is_pooled: bool
) -> None:
    """Each column that the model will have, against this hospital's policy: in every
    set of rows that trains or tests a fold.

    Raises Refused (code min_varying, max_share). Disclosure: as `check_gate`; the name of a level
    stands in it.
    """
    study = order.request.study
    if order.request.is_newton:
        _check_tables(order, rows)
    weights = order.request.weights
    if study.is_plain and weights is None:
        return
    for purpose, sets in _sets_by_purpose(order, rows).items():
        for rules in rules_of(order, purpose):
            for one in sets:
                check_levels(study, coding.levels, one, min_varying=rules.min_varying)
                if weights is not None and one.weights is not None:
                    # Without their few weights the same sums are of the others.
                    check_columns([(weights, one.weights)], rules.min_varying)
    _check_combinations(order, rows.train, coding, is_pooled=is_pooled)


def check_levels(
    study: StudyRows,
    levels_of: Mapping[str, Sequence[str]],
    one: Cohort,
    *,
    min_varying: int,
) -> None:
    """The levels of categories and the columns of splines in one set of rows, which is
    trained on or judged. Raises Refused (code min_varying).
    """
    few: dict[str, None] = {}
    for name, levels in levels_of.items():
        found = levels_of_few(places_of(one, name), name, tuple(levels), min_varying)
        few.update(dict.fromkeys(found))
    for name in study.columns:
        if study.knots(name):
            check_columns(_spline_columns(study, one, name), min_varying)
    if few:
        raise _of_few_rows(list(few), min_varying)


def _sets_by_purpose(order: AskedTraining, rows: OrderRows) -> dict[str, list[Cohort]]:
    """By the SQL that they are of, all sets of rows that train or test a model."""
    sets = {"train": training_sets(order, rows)}
    if rows.test is not None:
        sets["test"] = [rows.test]
    return sets


def _check_tables(order: AskedTraining, rows: OrderRows) -> None:
    """Two-way tables that a Newton order opens, in every set of rows that trains or tests
    a fold; two levels of one category are no pair. Of events also in the rows of the test
    SQL, whose sums are over events, too.
    """
    for rules in rules_of(order, "train"):
        for one in training_sets(order, rows):
            _check_events(order, one, min_rows=rules.min_rows)
            columns: list[Column] = list(zip(one.attributes, one.X.T, strict=True))
            if one.y is not None:
                columns += _outcome(order, one.y)
            if one.weights is not None:
                columns.append((order.request.weights or "", one.weights))
            check_pair_cells(columns, min_rows=rules.min_rows)
    if rows.test is not None:
        for rules in rules_of(order, "test"):
            _check_events(order, rows.test, min_rows=rules.min_rows)


def _check_events(order: AskedTraining, one: Cohort, *, min_rows: int) -> None:
    if order.request.event_name is None or one.y is None:
        return
    (time, times), (event, events) = _outcome(order, one.y)
    check_event_cells(event, events, min_rows=min_rows)
    check_event_times(time, times, events, min_rows=min_rows)


def _outcome(order: AskedTraining, y: Any) -> list[Column]:
    request = order.request
    if request.event_name is None:
        return [(request.label_name, y)]
    times, events = cox.outcome(y)
    return [(request.label_name, times), (request.event_name, events)]


def _of_few_rows(features: list[str], min_varying: int) -> Refused:
    """A level's column of the gradient would be theirs alone. The reference's too: its
    rows' part is that of the intercept less those of the other levels.
    """
    return Refused(
        f"Fewer than {min_varying} rows are {', '.join(features)}: the gradient would be theirs alone.",
        remedy="Leave out these columns or merge levels by derive, widen the SQL, or ask the hospital to lower"
        " min_varying in its policy.toml.",
        code="min_varying",
        threshold=min_varying,
        feature=features[0],
        features=features,
    )


def _check_combinations(
    order: AskedTraining, train: Cohort, coding: Coding, *, is_pooled: bool
) -> None:
    """Columns that an order makes may differ from others in few rows."""
    study = order.request.study
    made = [*study.categorical, *study.in_order]
    if order.request.weights is not None:
        made.append(order.request.weights)
    if not made:
        return
    parts: list[Floats] = []
    for name in study.columns:
        if name in coding.levels:
            # With the intercept it does not matter which one is left out.
            term = _levels_term(name, coding, reference=coding.levels[name][0])
            parts.append(indicators(term, places_of(train, name)))
            continue
        column = train.X[:, train.attributes.index(name)]
        is_compared = is_pooled and name not in study.derived
        # With weights its product with them is a column of its own.
        if is_compared and train.weights is None and holds_0_and_1(column):
            continue
        parts.append(own_features(_number_term(study, name), column))
    if train.weights is not None:
        # Sums with the weights and sums without them differ by sums of their products.
        by_row = train.weights.reshape(-1, 1)
        parts += [by_row, *(part * by_row for part in parts)]
    X = np.concatenate([*parts, np.ones((train.n_rows, 1))], axis=1)
    # In place of the joint mean, which is not known yet: each row without a value has
    # the same one.
    means = np.nanmean(np.where(np.isnan(X).all(axis=0), 0.0, X), axis=0)
    X = np.where(np.isnan(X), means, X)
    for rules in rules_of(order, "train"):
        check_combinations(
            X,
            names=made,
            min_varying=rules.min_varying,
            max_share=order.policy.cohort.max_share,
        )


def _spline_columns(
    study: StudyRows, cohort: Cohort, name: str
) -> list[tuple[str, Floats]]:
    term = Spline(name, study.knots(name))
    column = cohort.X[:, cohort.attributes.index(name)]
    features = own_features(term, column)
    return list(zip(term.features, features.T, strict=True))


# The joint counts and means


@dataclass(frozen=True)
class _Sums:
    """What one hospital adds, or all have together."""

    n_selected: int
    n_left_out: int
    # By column of categories, (levels,).
    of_levels: dict[str, list[int]]
    # By feature that may have gaps: its rows with a value.
    n_values: dict[str, int]


def fix_design(trainer: Trainer, coding: Coding) -> Trainer:
    """The trainer with the model's columns in place of the order's.

    Raises BadRequest (code null) for a column without a value at any hospital.

    Disclosure: to the order's hospitals the joint counts of levels, of rows with a value
    and of rows left out, and the joint means, as one sealed sum; to the coordinator how
    many rows were left out of all, and of each hospital's where each has none or
    min_rows of them.
    """
    order = trainer.order
    study = order.request.study
    if not study.needs_counts:
        return trainer
    rows = trainer.rows
    with sentences():
        joint, means = _add_up(trainer, coding)
        design = _design(study, coding, joint, means)
        train = _designed(rows.train, design)
        test = None if rows.test is None else _designed(rows.test, design)
    _report_flow(trainer, coding, joint)
    _note_flow(trainer)
    designed = replace(rows, train=train, test=test)
    counts = None if study.is_plain else _level_counts(coding, joint)
    return replace(trainer, rows=designed, design=design, level_counts=counts)


def _level_counts(coding: Coding, joint: _Sums) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for name, levels in coding.levels.items():
        counts[name] = dict(zip(levels, joint.of_levels[name], strict=True))
    return counts


def _add_up(trainer: Trainer, coding: Coding) -> tuple[_Sums, dict[str, float]]:
    """Joint counts, and the joint mean of each feature that may have gaps."""
    gaps = _with_gaps(trainer.order.request.study, trainer.rows.train)
    own = _own_sums(trainer.rows.train, coding, gaps)
    keys = trainer.keys(0)
    info = sum_info("design", 0, 0)

    def part() -> bytes:
        counts = np.array(_flat(own), dtype=np.int64)
        totals: list[float] = []
        for values in gaps.values():
            totals.append(math.fsum(values[~np.isnan(values)]))
        limbs = wide.to_limbs(np.array(totals), 1)
        vector = np.concatenate([counts, limbs])
        return secure_sum.seal_counts(keys, vector, info=info)

    contribute(trainer, "design", part, fold=0, round=0, state=trainer.start)
    opening = receive_opening(trainer, "design", fold=0, round=0)
    n_counts = len(_flat(own))
    joint = _unflat(opening.sums[:n_counts], coding, list(gaps))
    limbs = opening.sums[n_counts:].reshape(len(gaps), wide.N_LIMBS)
    means: dict[str, float] = {}
    for place, name in enumerate(gaps):
        n_values = joint.n_values[name]
        if not n_values:
            raise BadRequest(
                f"No row of any hospital has a value in {name}.",
                remedy="Leave this attribute out.",
                code="null",
            )
        means[name] = float(wide.from_limbs(limbs[place], n_values)[0])
    return joint, means


def _with_gaps(study: StudyRows, cohort: Cohort) -> dict[str, Floats]:
    """By name the features that may miss values, (n_rows,); the same at every hospital."""
    found: dict[str, Floats] = {}
    if study.missing != "mean":
        return found
    for name in study.columns:
        if name in study.categorical:
            continue
        term = _number_term(study, name)
        column = cohort.X[:, cohort.attributes.index(name)]
        features = own_features(term, column)
        for place, feature in enumerate(term.features):
            found[feature] = features[:, place]
    return found


def _own_sums(cohort: Cohort, coding: Coding, gaps: Mapping[str, Floats]) -> _Sums:
    of_levels: dict[str, list[int]] = {}
    for name, levels in coding.levels.items():
        places = places_of(cohort, name)
        of_levels[name] = np.bincount(places, minlength=len(levels)).tolist()
    n_values: dict[str, int] = {}
    for name, values in gaps.items():
        n_values[name] = int(np.count_nonzero(~np.isnan(values)))
    flow = cohort.flow
    assert flow is not None, "made by this version"
    return _Sums(flow.n_selected, flow.n_left_out, of_levels, n_values)


def _flat(sums: _Sums) -> list[int]:
    counts = [sums.n_selected, sums.n_left_out]
    for of_column in sums.of_levels.values():
        counts.extend(of_column)
    counts.extend(sums.n_values.values())
    return counts


def _unflat(counts: Ints, coding: Coding, gaps: Sequence[str]) -> _Sums:
    left = [int(count) for count in counts]
    n_selected = left.pop(0)
    n_left_out = left.pop(0)
    of_levels: dict[str, list[int]] = {}
    for name, levels in coding.levels.items():
        of_levels[name] = left[: len(levels)]
        left = left[len(levels) :]
    n_values = dict(zip(gaps, left, strict=True))
    return _Sums(n_selected, n_left_out, of_levels, n_values)


# The design


def _number_term(study: StudyRows, name: str) -> Number | Spline:
    knots = study.knots(name)
    return Spline(name, knots) if knots else Number(name)


def _levels_term(name: str, coding: Coding, *, reference: str) -> Levels:
    levels = coding.levels[name]
    return Levels(name, levels, reference, has_other=name in coding.has_other)


def _design(
    study: StudyRows, coding: Coding, joint: _Sums, means: Mapping[str, float]
) -> Design:
    terms: list[Term] = []
    for name in study.columns:
        if name not in coding.levels:
            terms.append(_number_term(study, name))
            continue
        reference = coding.references[name]
        if reference is None:
            levels = coding.levels[name]
            reference = default_reference(levels, joint.of_levels[name])
        terms.append(_levels_term(name, coding, reference=reference))
    return Design(tuple(terms), dict(means))


def _designed(cohort: Cohort, design: Design) -> Cohort:
    columns: dict[str, Any] = {}
    for name, values in zip(cohort.attributes, cohort.X.T, strict=True):
        columns[name] = values
    X = design_matrix(design, columns)
    return replace(cohort, attributes=design.features, X=X, levels={})


# How many rows were left out


def _report_flow(trainer: Trainer, coding: Coding, joint: _Sums) -> None:
    """Tells the coordinator; the initiator of all hospitals' rows too."""
    order = trainer.order
    flow = trainer.rows.train.flow
    assert flow is not None, "made by this version"
    report: dict[str, Any] = {"n_selected": None, "n_left_out": None}
    if coding.shows_flow:
        report = {"n_selected": flow.n_selected, "n_left_out": flow.n_left_out}
    report["n_test_rows"] = trainer.rows.n_test_rows
    if order.is_initiator:
        n_left_out: int | None = joint.n_left_out
        n_selected: int | None = joint.n_selected
        if 0 < joint.n_left_out < coding.min_rows:
            n_left_out = n_selected = None
        report["all"] = {"n_selected": n_selected, "n_left_out": n_left_out}
    send(order, "flow", lambda: canonical(report).encode(), recipient=COORDINATOR)


def _flow_in_words(flow: Flow) -> str:
    parts = [
        f"{flow.n_selected} rows selected, {flow.n_left_out} left out, {flow.n_used} used"
    ]
    for name, n_rows in flow.n_undefined.items():
        if n_rows:
            parts.append(f"{name} has no value in {n_rows} that have all its columns")
    return f"{'; '.join(parts)}."


def _note_flow(trainer: Trainer) -> None:
    """Writes this hospital's own numbers, in full, into its ledger."""
    order = trainer.order
    flow = trainer.rows.train.flow
    assert flow is not None, "made by this version"

    def write() -> bytes:
        order.release.ledger.write(
            "rows",
            order_id=order.order_id,
            selected=flow.n_selected,
            left_out=flow.n_left_out,
            used=flow.n_used,
            undefined=flow.n_undefined,
            sentence=_flow_in_words(flow),
        )
        return b"written"

    order.store.once("rows", write)
