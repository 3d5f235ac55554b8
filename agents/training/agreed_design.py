"""The columns of an order's model: from what each hospital read to the matrix that all
train on alike.

Before anything is added up: `code_rows` brings categories into the joint levels, and
`agents.training.made_columns` holds each column that the model will have against this
hospital's policy. Then, as one sealed sum, joint counts of levels and rows, and joint means of
numbers without a value: `fix_design`. All of it is over the order's training rows, once
for all folds.

Decision 78.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from agents.order.party import send
from agents.rows.cohort import Cohort, Flow, rows_of
from agents.rows.row_tables import columns, made_of
from agents.training import cohorts
from agents.training.agreed_levels import Coding, places_of
from agents.training.made_columns import number_term
from agents.training.party import AgreedTraining
from agents.training.row_gate import least_rows
from agents.training.row_sets import OrderRows
from agents.training.trainer import (
    Trainer,
    contribute,
    receive_opening,
    sentences,
    sum_info,
)
from analytics.arrays import Floats, Ints
from analytics.training.design import (
    UNKNOWN,
    Design,
    Levels,
    Number,
    Spline,
    Term,
    default_reference,
    design_matrix,
    own_features,
)
from protocol.errors import BadRequest, Refused
from protocol.messages import COORDINATOR, canonical
from protocol.study_rows import StudyRows
from protocol.sums import limbs as wide
from protocol.sums import secure_sum

# Before anything is added up


def code_rows(
    order: AgreedTraining,
    rows: OrderRows,
    coding: Coding,
) -> OrderRows:
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
    coded = replace(
        rows,
        train=train,
        test=test,
    )
    if test is not None and test.n_rows < rows.n_test_rows:
        cohorts.pass_gate_again(order, coded)
    return coded


def _coded(cohort: Cohort, coding: Coding) -> Cohort:
    joint_of: dict[int, Ints] = {}
    for category, levels in coding.levels.items():
        term = _levels_term(category, coding, reference=levels[0])
        joint_places = np.array(term.places(cohort.levels[category]), dtype=np.int64)
        joint_of[cohort.attributes.index(category)] = joint_places

    def coded(rows: Floats) -> Floats:
        coded_rows = np.array(rows)
        for place, joint_places in joint_of.items():
            coded_rows[:, place] = joint_places[rows[:, place].astype(np.int64)]
        return coded_rows

    joint_levels = {name: list(levels) for name, levels in coding.levels.items()}
    return replace(cohort, X=made_of(cohort.X, coded), levels=joint_levels)


def _known_rows(
    order: AgreedTraining,
    test: Cohort,
    coding: Coding,
) -> Cohort:
    is_known = np.ones(test.n_rows, dtype=bool)
    for category in coding.levels:
        is_known &= places_of(test, category) != UNKNOWN
    n_unknown = int(np.count_nonzero(~is_known))
    if 0 < n_unknown < least_rows(order, "test"):
        raise Refused(
            "Some test rows have levels that the training rows do not have.",
            remedy="Leave them out by WHERE, or derive what is needed of the column.",
            code="rare_levels",
        )
    return rows_of(test, np.flatnonzero(is_known))


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
        joint_sums, means = _add_up(trainer, coding)
        design = _design(
            study,
            coding,
            joint_sums,
            means,
        )
        train = _designed(rows.train, design)
        test = rows.test
        if test is not None:
            test = _designed(test, design)
    _report_flow(trainer, coding, joint_sums)
    _note_flow(trainer)
    designed = replace(
        rows,
        train=train,
        test=test,
    )
    counts = None if study.is_plain else _level_counts(coding, joint_sums)
    return replace(
        trainer,
        rows=designed,
        design=design,
        level_counts=counts,
    )


def _level_counts(
    coding: Coding,
    joint: _Sums,
) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for category, levels in coding.levels.items():
        counts[category] = dict(zip(levels, joint.of_levels[category], strict=True))
    return counts


def _add_up(
    trainer: Trainer,
    coding: Coding,
) -> tuple[_Sums, dict[str, float]]:
    """Joint counts, and the joint mean of each feature that may have gaps."""
    gaps = _gap_sums(trainer.order.request.study, trainer.rows.train)
    own_sums = _own_sums(trainer.rows.train, coding, gaps)
    sum_keys = trainer.keys(0)
    info = sum_info("design", 0, 0)

    def part() -> bytes:
        counts = np.array(_flat(own_sums), dtype=np.int64)
        gap_totals = [of_feature.total for of_feature in gaps.values()]
        limbs = wide.to_limbs(np.array(gap_totals), 1)
        vector = np.concatenate([counts, limbs])
        return secure_sum.seal_counts(
            sum_keys,
            vector,
            info=info,
        )

    contribute(
        trainer,
        "design",
        part,
        fold=0,
        round=0,
        state=trainer.start,
    )
    opening = receive_opening(
        trainer,
        "design",
        fold=0,
        round=0,
    )
    n_counts = len(_flat(own_sums))
    joint_sums = _unflat(
        opening.sums[:n_counts],
        coding,
        list(gaps),
    )
    mean_words = opening.sums[n_counts:]
    limbs = mean_words.reshape(len(gaps), wide.N_LIMBS)
    means: dict[str, float] = {}
    for place, feature in enumerate(gaps):
        n_values = joint_sums.n_values[feature]
        if not n_values:
            raise BadRequest(
                f"No row of any hospital has a value in {feature}.",
                remedy="Leave this attribute out.",
                code="null",
            )
        mean = wide.from_limbs(limbs[place], n_values)
        means[feature] = float(mean[0])
    return joint_sums, means


@dataclass(frozen=True)
class _GapSum:
    """Of a feature that may miss values, in how many rows it has one, and their sum."""

    n_values: int
    total: float


def _gap_sums(study: StudyRows, cohort: Cohort) -> dict[str, _GapSum]:
    """By name the features that may miss values; the same ones at every hospital. One
    after the other is in memory.
    """
    gap_sums: dict[str, _GapSum] = {}
    if study.missing != "mean":
        return gap_sums
    for column_name in study.columns:
        if column_name in study.categorical:
            continue
        term = number_term(study, column_name)
        features = made_of(cohort.X, partial(_features_of, cohort, term))
        for feature, values in zip(term.features, columns(features), strict=True):
            present = values[~np.isnan(values)]
            # Rounded once, whatever the order of the rows.
            gap_sums[feature] = _GapSum(present.size, math.fsum(present))
    return gap_sums


def _features_of(cohort: Cohort, term: Number | Spline, rows: Floats) -> Floats:
    column_place = cohort.attributes.index(term.name)
    return own_features(term, rows[:, column_place])


def _own_sums(cohort: Cohort, coding: Coding, gaps: Mapping[str, _GapSum]) -> _Sums:
    of_levels: dict[str, list[int]] = {}
    for category, levels in coding.levels.items():
        level_places = places_of(cohort, category)
        of_levels[category] = np.bincount(level_places, minlength=len(levels)).tolist()
    n_values = {feature: of_feature.n_values for feature, of_feature in gaps.items()}
    flow = cohort.flow
    assert flow is not None, "made by this version"
    return _Sums(
        flow.n_selected,
        flow.n_left_out,
        of_levels,
        n_values,
    )


def _flat(sums: _Sums) -> list[int]:
    counts = [sums.n_selected, sums.n_left_out]
    for of_column in sums.of_levels.values():
        counts.extend(of_column)
    counts.extend(sums.n_values.values())
    return counts


def _unflat(
    counts: Ints,
    coding: Coding,
    gaps: Sequence[str],
) -> _Sums:
    remaining = [int(count) for count in counts]
    n_selected = remaining.pop(0)
    n_left_out = remaining.pop(0)
    of_levels: dict[str, list[int]] = {}
    for category, levels in coding.levels.items():
        of_levels[category] = remaining[: len(levels)]
        remaining = remaining[len(levels) :]
    n_values = dict(zip(gaps, remaining, strict=True))
    return _Sums(
        n_selected,
        n_left_out,
        of_levels,
        n_values,
    )


# The design


def _levels_term(
    name: str,
    coding: Coding,
    *,
    reference: str,
) -> Levels:
    levels = coding.levels[name]
    return Levels(
        name,
        levels,
        reference,
        has_other=name in coding.has_other,
    )


def _design(
    study: StudyRows,
    coding: Coding,
    joint: _Sums,
    means: Mapping[str, float],
) -> Design:
    terms: list[Term] = []
    for column_name in study.columns:
        if column_name not in coding.levels:
            terms.append(number_term(study, column_name))
            continue
        reference = coding.references[column_name]
        if reference is None:
            levels = coding.levels[column_name]
            reference = default_reference(levels, joint.of_levels[column_name])
        terms.append(_levels_term(column_name, coding, reference=reference))
    return Design(tuple(terms), dict(means))


def _designed(cohort: Cohort, design: Design) -> Cohort:
    X = made_of(cohort.X, partial(_design_of, cohort, design))
    return replace(cohort, attributes=design.features, X=X, levels={})


def _design_of(cohort: Cohort, design: Design, rows: Floats) -> Floats:
    """The design of some rows of the cohort, (n, n_attributes)."""
    of_name: dict[str, Any] = {}
    for attribute, column in zip(cohort.attributes, rows.T, strict=True):
        of_name[attribute] = column
    return design_matrix(design, of_name)


# How many rows were left out


def _report_flow(
    trainer: Trainer,
    coding: Coding,
    joint: _Sums,
) -> None:
    """Tells the coordinator; the initiator of all hospitals' rows too."""
    order = trainer.order
    flow = trainer.rows.train.flow
    assert flow is not None, "made by this version"
    report: dict[str, Any] = {"n_selected": None, "n_left_out": None}
    if coding.shows_flow:
        report["n_selected"] = flow.n_selected
        report["n_left_out"] = flow.n_left_out
    report["n_test_rows"] = trainer.rows.n_test_rows
    if order.is_initiator:
        n_left_out: int | None = joint.n_left_out
        n_selected: int | None = joint.n_selected
        # Neither of the two: with the rows that are used, which all know, each gives
        # the other.
        if 0 < joint.n_left_out < coding.min_rows:
            n_left_out = None
            n_selected = None
        report["all"] = {
            "n_selected": n_selected,
            "n_left_out": n_left_out,
        }
    send(
        order,
        "flow",
        lambda: canonical(report).encode(),
        recipient=COORDINATOR,
    )


def _flow_in_words(flow: Flow) -> str:
    clauses = [
        f"{flow.n_selected} rows selected, {flow.n_left_out} left out, {flow.n_used} used"
    ]
    for name, n_rows in flow.n_undefined.items():
        if n_rows:
            clauses.append(f"{name} has no value in {n_rows} that have all its columns")
    return f"{'; '.join(clauses)}."


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
