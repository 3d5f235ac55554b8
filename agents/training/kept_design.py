"""A model's columns in its vault entry: what applies them to other rows later.

An order without categories, derived columns and means has none of these fields: its
columns are its attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from agents.rows.canonical import members_of
from agents.rows.cohort import Cohort, rows_of
from agents.rows.dataset import Dataset
from agents.rows.derived_columns import DerivedSql
from agents.rows.features import category_texts, is_rounded, read_features
from agents.rows.study_dataset import with_derived
from agents.rows.unique_ids import unique_ids
from agents.site.vault import Vault
from analytics.arrays import Floats
from analytics.training.design import (
    UNKNOWN,
    Design,
    Levels,
    Number,
    Spline,
    Term,
    design_matrix,
)
from protocol.errors import Refused
from protocol.study_rows import Category, StudyRows, study_rows
from protocol.training_request import TrainingRequest


def kept_design(
    request: TrainingRequest,
    design: Design | None,
    counts: Mapping[str, Mapping[str, int]] | None,
) -> dict[str, Any]:
    """The fields of a vault entry: `features`, `categorical`, `derive`, `missing` and
    `means`; none where the columns are the attributes.
    """
    if design is None or request.study.is_plain:
        return {}
    of_levels = counts or {}
    categorical: dict[str, Any] = {}
    for term in design.terms:
        if isinstance(term, Levels):
            categorical[term.name] = {
                "reference": term.reference,
                "levels": list(term.levels),
                "has_other": term.has_other,
                "counts": dict(of_levels[term.name]),
            }
    return {
        "features": list(design.features),
        "categorical": categorical,
        "derive": dict(request.derive),
        "missing": request.missing,
        "means": dict(design.means),
    }


_OF_ROWS = ("unique_id", "attributes", "label_name", "model_type")
"""What a vault entry has under the same names as the order that trained the model."""

_OF_SOME_ROWS: dict[str, Any] = {
    "event_name": None,
    "entry_name": None,
    "strata": [],
    "family": "",
    "link": "",
}
"""The same of a cox and a glm, and what it means where the entry says nothing."""


def check_model(
    vault: Vault,
    request: TrainingRequest,
    *,
    me: int,
) -> None:
    """Whether this hospital holds the model that an order evaluates, or is sent it, and
    the order reads rows as the model does; where somebody is sent it, whether all who
    trained it take part.

    Raises NotFound (code no_model) and Refused (code model).
    """
    assert request.evaluates is not None
    if me in request.seals_model_to:
        return
    stored = vault.model(request.evaluates)
    if stored.get("site_effect") == "fixed":
        raise Refused(
            f"Model {request.evaluates} has an intercept for each hospital, and is another one at each.",
            remedy="Train it without site_effect to evaluate it at all hospitals together.",
            code="model",
        )
    check_reads_alike(stored, request)
    if request.seals_model_to:
        _check_trainers(stored, request)


def _check_trainers(stored: Mapping[str, Any], request: TrainingRequest) -> None:
    """A model goes to those only whom each policy of its hospitals lists, so each must
    be there to say so.
    """
    # Silence means no: an entry of an earlier version does not say who trained it.
    trained_by = stored.get("hospitals")
    trainers = set(request.hospitals) - set(request.seals_model_to)
    are_all_trainers = trained_by is not None and set(trained_by) == trainers
    if not are_all_trainers:
        raise Refused(
            f"The order would send model {request.evaluates} to another hospital, and not just those that trained it"
            " hold it and take part, or it does not say who trained it.",
            remedy="Order the evaluation at all hospitals that trained the model, or train it again with this version.",
            code="model",
        )


def check_reads_alike(stored: Mapping[str, Any], request: TrainingRequest) -> None:
    """Whether an order reads rows as a model does. Refused (code model)."""
    differing = []
    for field_name in _OF_ROWS:
        if stored[field_name] != getattr(request, field_name):
            differing.append(field_name)
    kept_categories = set(stored.get("categorical", {}))
    if kept_categories != set(request.categorical):
        differing.append("categorical")
    # The columns of a plain model are its attributes: nothing of it is kept then.
    unsaid_of_made: dict[str, Any] = {"derive": {}, "missing": "refuse"}
    every_unsaid = {**_OF_SOME_ROWS, **unsaid_of_made}
    for field_name, unsaid in every_unsaid.items():
        kept_value = stored.get(field_name, unsaid)
        if kept_value != getattr(request, field_name):
            differing.append(field_name)
    if differing:
        differing_names = ", ".join(differing)
        raise Refused(
            f"The order reads rows otherwise than model {request.evaluates} does: {differing_names}.",
            remedy="Evaluate it by POST /model/evaluate, which takes them from the model's order.",
            code="model",
            fields=differing,
        )


def features_of(stored: Mapping[str, Any]) -> list[str]:
    """The names of a kept model's columns."""
    return list(stored.get("features", stored["attributes"]))


def study_of(stored: Mapping[str, Any]) -> StudyRows:
    """What a kept model asks of rows; a row without a value is not refused."""
    categories: dict[str, Category] = {}
    categorical = stored.get("categorical", {})
    for category, kept_category in categorical.items():
        categories[category] = Category(reference=kept_category["reference"])
    return study_rows(
        columns=stored["attributes"],
        categorical=categories,
        derive=stored.get("derive", {}),
        missing=stored.get("missing", "refuse"),
        complete_on=[],
        roles={},
    )


def design_of(stored: Mapping[str, Any], study: StudyRows) -> Design:
    """The columns of a kept model."""
    terms: list[Term] = []
    for column_name in study.columns:
        if column_name in study.categorical:
            kept_category = stored["categorical"][column_name]
            levels = tuple(kept_category["levels"])
            term: Term = Levels(
                column_name,
                levels,
                kept_category["reference"],
                has_other=kept_category["has_other"],
            )
        elif study.knots(column_name):
            term = Spline(column_name, study.knots(column_name))
        else:
            term = Number(column_name)
        terms.append(term)
    means = dict(stored.get("means", {}))
    return Design(tuple(terms), means)


@dataclass(frozen=True, eq=False)
class ApplicableRows:
    """Rows for a kept model.

    Disclosure: patients' rows, as `Cohort`.
    """

    # Those that it can be applied to, X as it sees them; it may be none.
    cohort: Cohort
    # By unique id why it cannot be applied to the others.
    reasons: dict[str, str]


def applicable_rows(
    rows: Dataset,
    stored: Mapping[str, Any],
    *,
    key: bytes | None = None,
) -> ApplicableRows:
    """The rows of a dataset, which has the columns of `study_of`, as a kept model sees
    them; with a key they have their members.

    Raises BadRequest as `build_cohort` does, but for rows without a value.
    """
    study = study_of(stored)
    design = design_of(stored, study)
    derived = DerivedSql(rows, study.derived, study.in_order)
    derived_rows = with_derived(rows, derived, [])
    ids = unique_ids(derived_rows, stored["unique_id"])
    columns, reasons_by_row = _read_columns(derived_rows, study, design, len(ids))
    reasons: dict[str, str] = {}
    for unique_id, row_reasons in zip(ids, reasons_by_row, strict=True):
        if row_reasons:
            reasons[unique_id] = "; ".join(row_reasons)
    is_kept = [not missing for missing in reasons_by_row]
    kept_places = np.flatnonzero(is_kept)
    kept_columns = {name: column[kept_places] for name, column in columns.items()}
    plain = [name for name in study.columns if name in rows.columns]
    numbers = [name for name in plain if name not in study.categorical]
    members = None
    if key is not None:
        members = members_of(derived_rows, study.plain, key=key)
    shape = (len(ids), len(design.features))
    rounded = tuple(name for name in numbers if is_rounded(derived_rows, name))
    every = Cohort(
        unique_ids=ids,
        attributes=design.features,
        X=np.zeros(shape),
        y=None,
        rounded=rounded,
        members=members,
    )
    cohort = rows_of(every, kept_places)
    X = design_matrix(design, kept_columns)
    model_rows = replace(cohort, X=X)
    return ApplicableRows(model_rows, reasons)


def _read_columns(
    rows: Dataset, study: StudyRows, design: Design, n_rows: int
) -> tuple[dict[str, Floats], list[list[str]]]:
    """By its name each column of the design's terms, of a category the places of levels;
    and for each row why the model cannot be applied to it, empty where it can.
    """
    categorical = list(study.categorical)
    features, _ = read_features(rows, study.columns, categorical=categorical)
    columns = dict(zip(study.columns, features.T, strict=True))
    reasons_by_row: list[list[str]] = [[] for _ in range(n_rows)]
    for term in design.terms:
        if isinstance(term, Levels):
            level_texts = category_texts(rows, term.name)
            columns[term.name] = _places(term, level_texts, reasons_by_row)
        elif not design.means:
            # A model with means has one for each number.
            is_missing = np.isnan(columns[term.name])
            for row in np.flatnonzero(is_missing).tolist():
                reasons_by_row[row].append(f"no value in {term.name}")
    return columns, reasons_by_row


def _places(
    term: Levels,
    texts: Any,
    why: list[list[str]],
) -> Floats:
    """Where each row's level stands in the term; notes why some have none."""
    level_places = np.array(term.places(texts), dtype=np.int64)
    is_missing = [text is None for text in texts]
    for row in np.flatnonzero(is_missing).tolist():
        why[row].append(f"no value in {term.name}")
        level_places[row] = UNKNOWN
    is_unknown = level_places == UNKNOWN
    for row in np.flatnonzero(is_unknown).tolist():
        if texts[row] is not None:
            why[row].append(f"a level of {term.name} that the model does not know")
    return level_places.astype(np.float64)
