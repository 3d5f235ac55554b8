"""From a dataset to the arrays of a model: the rows of one order.

To read next: `features` for the numbers, `unique_ids` for the ids, `outcomes` for the
labels.

Every message counts rows and names columns; none holds a value. In another hospital's
order too few rows are refused before anything else is looked at, and no count below
min_rows is told: "one row has a NULL" would tell about one patient.

Decision 18.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.rows.canonical import Members, members_of
from agents.rows.dataset import Dataset
from agents.rows.features import category_texts, check_levels, is_rounded, read_features
from agents.rows.missing_values import check_no_null, raise_without
from agents.rows.outcomes import SurvivalColumns, read_label, read_weights
from agents.rows.row_tables import empty_table, folder_of, is_in_order, taken
from agents.rows.row_texts import Texts
from agents.rows.unique_ids import ids_in_order
from analytics.arrays import Floats, Ints, let_go, row_chunks
from analytics.training.models import CLASSIFIERS
from protocol.errors import Refused, bad_request

_MODEL_TYPES = ("lr", "linear", "glm", "cox", *CLASSIFIERS)


@dataclass(frozen=True)
class Flow:
    """How many rows a reading had, and how many of them an order is over."""

    n_selected: int
    n_used: int
    # By derived column: in how many rows its expression has no value although all
    # columns that it uses have one.
    n_undefined: dict[str, int] = field(default_factory=dict)

    @property
    def n_left_out(self) -> int:
        return self.n_selected - self.n_used


@dataclass(frozen=True, eq=False)
class Cohort:
    """The rows of one hospital in one order, sorted by unique id.

    unique_ids: canonical text, n_rows of them, all different; X: float64 (n_rows,
    n_features), columns in the order of `attributes`; y: float64 for lr and linear, for
    cox as `analytics.training.cox.outcome` has it, objects (int or str) for softmax,
    None without label; labels: the classes present, sorted, for softmax and lr;
    rounded: features, and a label of numbers, of which a value is another number as
    float64; members: who the rows are and with which values, as digests, in the rows'
    order; None where nothing is told of them; levels: by column of categories its
    canonical texts, X has their places; flow: how many rows were read.

    X is finite but for numbers that an order has the mean put in place of: NaN.

    Disclosure: patients' rows. It stays in the hospital's memory and vault; what is
    computed from it leaves through agents.order.release only.
    """

    unique_ids: Sequence[str]
    attributes: tuple[str, ...]
    X: NDArray[np.float64]
    y: NDArray[Any] | None
    labels: list[Any] = field(default_factory=list)
    rounded: tuple[str, ...] = ()
    members: Members | None = field(default=None, repr=False)
    levels: dict[str, list[str]] = field(default_factory=dict, repr=False)
    flow: Flow | None = None
    # How much each row weighs, or how many rows it is, (n_rows,); None: all the same.
    weights: Floats | None = field(default=None, repr=False)
    # Of which subgroup each row is, canonical texts (n_rows,); None without subgroups.
    groups: NDArray[np.object_] | None = field(default=None, repr=False)
    # Of which cluster each row is, canonical texts (n_rows,); None without clusters.
    clusters: NDArray[np.object_] | None = field(default=None, repr=False)

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.unique_ids)

    def __repr__(self) -> str:
        return f"Cohort(n_rows={self.n_rows}, n_features={self.X.shape[1]})"


def build_cohort(
    rows: Dataset,
    *,
    unique_id: str,
    attributes: Sequence[str],
    label_name: str | None,
    model_type: str,
    survival: SurvivalColumns | None = None,
    family: str = "",
    key: bytes | None = None,
    categorical: Collection[str] = (),
    may_miss: bool = False,
    member_columns: Sequence[str] | None = None,
    weights_name: str | None = None,
    counts_weights: bool = False,
    group_name: str | None = None,
    cluster_name: str | None = None,
) -> Cohort:
    """The cohort in a dataset whose rows `unique_id` tells apart.

    Features are integers, floats, decimals, booleans and single bits; ids and classes
    are canonical texts (`agents.rows.canonical_text`), classes of numbers are whole
    numbers; labels are 0 and 1 for lr, finite numbers for linear, for glm those that its
    `family` knows, times above 0 for cox, whose other columns are those of `survival`.
    `label_name` None (test rows, inference) gives y None. key: makes `members`.
    categorical: attributes that are categories; may_miss: a number may have no value,
    NaN. member_columns: the columns whose values tell the members, beside the label,
    what else is of times, and weights; None for the attributes. weights_name: of a
    column of numbers of 0 or more, whole ones where counts_weights. group_name: of a
    column of subgroups, an attribute or none. cluster_name: of a column of clusters, of
    any number of values.

    Raises Refused (code min_rows) for too few rows, and BadRequest with code no_rows,
    attributes, missing_column, null, not_numeric, not_finite, unique_id,
    duplicate_unique_id, label, weights or model_type.

    Disclosure: takes rows; errors hold names of columns and counts of rows, none below
    the dataset's min_rows.
    """
    check_enough_rows(rows.n_rows, rows.min_rows)
    _check_model_type(model_type)
    outcomes = _outcomes(label_name, survival, weights_name, cluster_name)
    _check_columns(rows, unique_id=unique_id, attributes=attributes, outcomes=outcomes)
    numbers = [attribute for attribute in attributes if attribute not in categorical]
    grouped = [] if group_name in (None, *attributes) else [str(group_name)]
    needed_columns = [] if may_miss else list(numbers)
    needed_columns += [*categorical, *outcomes, *grouped]
    check_no_null(rows, unique_id, needed_columns)
    ids, order = ids_in_order(rows, unique_id)
    X, levels = read_features(rows, attributes, categorical=categorical)
    y, labels = read_label(rows, label_name, survival, model_type, family)
    if label_name is not None and model_type not in CLASSIFIERS:
        numbers.append(label_name)
    weights = None
    if weights_name is not None:
        weights = read_weights(rows, weights_name, are_counts=counts_weights)
        numbers.append(weights_name)
    groups = _in_order(_subgroups(rows, group_name), order)
    clusters = None if cluster_name is None else category_texts(rows, cluster_name)
    clusters = _in_order(clusters, order)
    rounded = tuple(column for column in numbers if is_rounded(rows, column))
    members = None
    if key is not None:
        told_by = attributes if member_columns is None else member_columns
        told_by = [*told_by, *outcomes]
        told_by += [column for column in grouped if column not in told_by]
        members = members_of(rows, told_by, key=key)
        members = _taken(members, order)
    return Cohort(
        unique_ids=_texts_at(ids, order),
        attributes=tuple(attributes),
        X=taken(X, order),
        y=_in_order(y, order),
        labels=labels,
        rounded=rounded,
        members=members,
        levels=levels,
        weights=_in_order(weights, order),
        groups=groups,
        clusters=clusters,
    )


def _check_model_type(model_type: str) -> None:
    if model_type not in _MODEL_TYPES:
        raise bad_request(
            "model_type",
            f"No model type {model_type}.",
            f"Use one of {', '.join(_MODEL_TYPES)}.",
        )


def _outcomes(
    label_name: str | None,
    survival: SurvivalColumns | None,
    weights_name: str | None,
    cluster_name: str | None,
) -> list[str]:
    """The columns of an order that are neither the unique id nor attributes."""
    of_times = [] if survival is None else survival.names
    of_rows = (label_name, *of_times, weights_name, cluster_name)
    return [name for name in of_rows if name]


def _subgroups(rows: Dataset, name: str | None) -> NDArray[np.object_] | None:
    """Of which subgroup each row is, in the dataset's order; None without a column."""
    if name is None:
        return None
    subgroups = category_texts(rows, name)
    # Of a number that an order has the mean put in place of.
    if any(subgroup is None for subgroup in subgroups):
        raise_without(rows, {name: sum(subgroup is None for subgroup in subgroups)})
    check_levels(name, set(subgroups), remedy="Name a column of few values.")
    return subgroups


def rows_of(cohort: Cohort, indices: Ints) -> Cohort:
    """Some rows of a cohort, by their places."""
    ids = _texts_at(cohort.unique_ids, indices)
    y = None if cohort.y is None else cohort.y[indices]
    members = None if cohort.members is None else _taken(cohort.members, indices)
    weights = None if cohort.weights is None else cohort.weights[indices]
    groups = None if cohort.groups is None else cohort.groups[indices]
    clusters = None if cohort.clusters is None else cohort.clusters[indices]
    return replace(
        cohort,
        unique_ids=ids,
        X=taken(cohort.X, indices),
        y=y,
        members=members,
        weights=weights,
        groups=groups,
        clusters=clusters,
    )


def _in_order(values: NDArray[Any] | None, order: Ints) -> NDArray[Any] | None:
    """Values of all rows (n_rows,), put in an order of theirs; None for none."""
    if values is None:
        return None
    return values if is_in_order(order, len(values)) else values[order]


def _texts_at(texts: Sequence[str], places: Ints) -> Sequence[str]:
    if isinstance(texts, Texts):
        return texts.taken(places)
    return [texts[place] for place in places.tolist()]


def _taken(members: Members, places: Ints) -> Members:
    if is_in_order(places, len(members.ids)):
        return members
    columns = [members.ids, *members.values.values()]
    folder = folder_of(members.ids)
    if folder is None:
        moved = [column[places] for column in columns]
    else:
        moved = _columns_on_disk(columns, places, folder)
    ids, *column_digests = moved
    of_name = dict(zip(members.values, column_digests, strict=True))
    return replace(members, ids=ids, values=of_name)


def _columns_on_disk(
    columns: Sequence[NDArray[Any]], places: Ints, folder: Path
) -> list[NDArray[Any]]:
    """The rows at these places of columns (n_rows,), one column behind the other."""
    moved = empty_table(folder, (len(columns), len(places)), columns[0].dtype)
    for moved_column, column in zip(moved, columns, strict=True):
        for chunk in row_chunks(len(places)):
            moved_column[chunk] = column[places[chunk]]
            let_go(moved_column)
        let_go(column)
    return list(moved)


def check_enough_rows(n_rows: int, min_rows: int) -> None:
    if n_rows < min_rows:
        raise Refused(
            f"The data SQL gives fewer rows than this hospital's minimum of {min_rows}.",
            remedy="Widen the SQL, or ask the hospital to lower min_rows in its policy.toml.",
            code="min_rows",
            threshold=min_rows,
        )
    if n_rows == 0:
        raise bad_request(
            "no_rows",
            "The data SQL gives no rows.",
            "Widen its WHERE, or fill the table.",
        )


def _check_columns(
    rows: Dataset,
    *,
    unique_id: str,
    attributes: Sequence[str],
    outcomes: Sequence[str],
) -> None:
    """Every needed column is there, and none has two roles."""
    needed_columns = [unique_id, *attributes, *outcomes]
    # A column is found whatever its case, so that X and x may be one.
    distinct_names = {column.lower() for column in needed_columns}
    if not attributes or len(distinct_names) < len(needed_columns):
        raise bad_request(
            "attributes",
            "attributes is empty, names a column twice, or holds the unique id or the label.",
            "List each feature once, without unique_id and label_name.",
        )
    for column in needed_columns[1:]:
        rows.check_column(column)
