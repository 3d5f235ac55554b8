"""The levels of an order's categories: which ones all hospitals code alike.

A rare diagnosis is data. So a hospital names a level only where it has min_rows rows of
it, and says of the rest, once all names are known, whether it has rows of none of them:
these are of the level `other`, and a few of them end the order.

`agents.training.agreed_design` makes the model's columns of them.

Decision 78.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from agents.gate.levels import (
    check_message,
    columns_with_others,
    joint_levels,
    named_levels,
    read_others,
)
from agents.order.party import say_to_all
from agents.rows.canonical_text import canonical_text
from agents.rows.cohort import Cohort
from agents.training.party import AgreedTraining
from agents.training.row_gate import least_rows
from agents.training.row_sets import OrderRows
from analytics.training.design import (
    OTHER,
    feature_name,
)
from protocol.errors import BadRequest, check_all
from protocol.messages import bad_message, canonical, read_fields
from protocol.policy import LARGEST_NUMBER
from protocol.study_rows import StudyRows

_MOST_NAMED = 20
"""So many levels stand in an error."""


@dataclass(frozen=True)
class Coding:
    """What all hospitals know of the model's columns before anything is added up."""

    # By column of categories, in order of `sorted_levels`.
    levels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # The columns of which OTHER is a level.
    has_other: frozenset[str] = frozenset()
    # By column, None for the most frequent level.
    references: Mapping[str, str | None] = field(default_factory=dict)
    # Whether each hospital shows how many of its own rows were left out.
    shows_flow: bool = True
    # The largest min_rows: fewer rows that were left out are not told.
    min_rows: int = 1

    def n_features(self, study: StudyRows) -> int:
        """How many columns the model has, without the intercept."""
        return sum(self.n_of(study, column_name) for column_name in study.columns)

    def n_of(self, study: StudyRows, name: str) -> int:
        """How many of them are made of one column of the order."""
        if name in self.levels:
            return len(self.levels[name]) - 1
        if study.knots(name):
            return len(study.knots(name)) - 1
        return 1

    def largest(self) -> str:
        """The columns of categories with their numbers of levels, for a refusal."""
        descriptions: list[str] = []
        for category, levels in self.levels.items():
            descriptions.append(f"{category} has {len(levels)} levels")
        return ", ".join(descriptions)


@dataclass(frozen=True)
class _Said:
    """What a hospital says of its rows before the joint levels are known."""

    levels: dict[str, list[str]]
    shows_flow: bool
    min_rows: int


def agree_on_levels(order: AgreedTraining, rows: OrderRows) -> Coding:
    """The levels of each category, the same at every hospital.

    Raises BadRequest (code levels, categorical) where a column has one level or numbers
    and texts, or its reference is no level, and Refused (code rare_levels).

    Disclosure: to the order's other parties, sealed: the levels that this hospital has
    min_rows training rows of, and of which columns it has rows of other levels, min_rows
    or more; whether min_rows rows or none were left out. Nothing to the coordinator.
    """
    study = order.request.study
    if not study.needs_counts:
        return Coding()
    own_message = _own(order, rows.train)
    message_body = canonical(vars(own_message)).encode()
    messages = say_to_all(order, "levels", lambda: message_body)
    level_messages = {user: _read_said(body, study) for user, body in messages.items()}
    levels_by_user = {user: message.levels for user, message in level_messages.items()}
    union = joint_levels(list(study.categorical), levels_by_user)
    has_other = _agree_on_others(
        order,
        rows.train,
        union,
    )
    coding = _coding(
        study,
        union,
        has_other,
        level_messages,
    )
    checks: list[Callable[[], object]] = []
    for category in study.categorical:
        check = partial(_check_levels, category, coding)
        checks.append(check)
    check_all(*checks)
    return coding


def _own(order: AgreedTraining, cohort: Cohort) -> _Said:
    min_rows = max(1, least_rows(order, "train"))
    levels = named_levels(own_counts(cohort), min_rows)
    n_left_out = 0
    if cohort.flow is not None:
        n_left_out = cohort.flow.n_left_out
    shows_flow = n_left_out == 0 or n_left_out >= min_rows
    return _Said(
        levels,
        shows_flow,
        min_rows,
    )


def own_counts(cohort: Cohort) -> dict[str, dict[str, int]]:
    """By column of categories how many rows have each of its levels."""
    counts: dict[str, dict[str, int]] = {}
    for category, levels in cohort.levels.items():
        level_places = places_of(cohort, category)
        n_of_place = np.bincount(level_places, minlength=len(levels)).tolist()
        counts[category] = dict(zip(levels, n_of_place, strict=True))
    return counts


def places_of(cohort: Cohort, name: str) -> Any:
    """int64 (n_rows,): where in `cohort.levels` each row's level stands."""
    column_place = cohort.attributes.index(name)
    column = cohort.X[:, column_place]
    return column.astype(np.int64)


def _read_said(body: bytes, study: StudyRows) -> _Said:
    message_fields = read_fields(
        body,
        {
            "levels": dict,
            "shows_flow": bool,
            "min_rows": int,
        },
    )
    message = _Said(**message_fields)
    check_message(message.levels, study.categorical)
    if not 1 <= message.min_rows <= LARGEST_NUMBER:
        raise bad_message("of kind levels holds a number that no policy has")
    return message


def _agree_on_others(
    order: AgreedTraining,
    cohort: Cohort,
    union: Mapping[str, list[str]],
) -> frozenset[str]:
    """The columns of which some hospital has min_rows rows of no joint level."""
    min_rows = max(1, least_rows(order, "train"))
    refuses_any = order.policy.cohort.rare_levels == "refuse"
    own_columns = columns_with_others(
        own_counts(cohort),
        union,
        min_rows=min_rows,
        refuses_any=refuses_any,
    )
    messages = say_to_all(
        order, "other_levels", lambda: canonical({"columns": own_columns}).encode()
    )
    return read_others(messages, union)


def _coding(
    study: StudyRows,
    union: Mapping[str, list[str]],
    has_other: frozenset[str],
    level_messages: Mapping[int, _Said],
) -> Coding:
    levels: dict[str, tuple[str, ...]] = {}
    references: dict[str, str | None] = {}
    for category, reference in study.categorical.items():
        column_levels = list(union[category])
        # A level of the data that is called so is one with the rest.
        if category in has_other and OTHER not in column_levels:
            column_levels.append(OTHER)
        levels[category] = tuple(column_levels)
        references[category] = None
        if reference is not None:
            references[category] = canonical_text(str(reference))
    return Coding(
        levels=levels,
        has_other=has_other,
        references=references,
        shows_flow=all(message.shows_flow for message in level_messages.values()),
        min_rows=max(message.min_rows for message in level_messages.values()),
    )


def _check_levels(name: str, coding: Coding) -> None:
    levels = coding.levels[name]
    reference = coding.references[name]
    if len(levels) < 2:
        level_count = "one level" if levels else "no level"
        raise BadRequest(
            f"Column {name} has {level_count} that a hospital has {coding.min_rows} rows of.",
            remedy=f"Leave {name} out, choose other rows, or ask the hospitals to lower min_rows.",
            code="levels",
        )
    if reference is not None and reference not in levels:
        first_levels = ", ".join(levels[:_MOST_NAMED])
        raise BadRequest(
            f"The reference of {name} is no level of it that a hospital has {coding.min_rows} rows of; the levels are"
            f" {first_levels}.",
            remedy="Name one of them, or none for the most frequent one.",
            code="categorical",
        )


def levels_of_few(
    places: Any,
    name: str,
    levels: tuple[str, ...],
    min_varying: int,
) -> list[str]:
    """The columns of a category's levels that 1 to min_varying - 1 of these rows have."""
    n_of_place = np.bincount(places, minlength=len(levels)).tolist()
    rare_columns: list[str] = []
    for level, n_rows in zip(levels, n_of_place, strict=True):
        if 0 < n_rows < min_varying:
            rare_columns.append(feature_name(name, level))
    return rare_columns
