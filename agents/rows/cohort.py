"""From a dataset to the arrays of a model.

Every message counts rows and names columns; none holds a value. In another hospital's
order too few rows are refused before anything else is looked at, and no count below
min_rows is told: "one row has a NULL" would tell about one patient.

Decision 18.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from agents.rows.canonical import Members, members_of
from agents.rows.canonical_text import canonical_sql, has_value_sql
from agents.rows.column_text import double_sql, label_sql
from agents.rows.dataset import Dataset
from agents.rows.relation import IDENTIFIED, UNIQUE_ID, quoted
from analytics.arrays import Floats, Ints
from analytics.training import cox, families
from analytics.training.design import sorted_levels
from protocol.errors import BadRequest, Refused, bad_request, check_all
from protocol.study_rows import MOST_LETTERS, MOST_LEVELS

_DOUBLE_DIGITS = 15  # so many digits of any decimal come back from its float64
_INTEGER = re.compile(r"-?\d+", re.ASCII)
_WHOLE = "-?[0-9]+"
_CLASSIFIERS = ("softmax", "mlp", "cnn")
_MODEL_TYPES = ("lr", "linear", "glm", "cox", *_CLASSIFIERS)


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

    unique_ids: list[str]
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

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.unique_ids)

    def __repr__(self) -> str:
        return f"Cohort(n_rows={self.n_rows}, n_features={self.X.shape[1]})"


# --- from a dataset to a cohort ---------------------------------------------------------


def build_cohort(
    rows: Dataset,
    *,
    unique_id: str,
    attributes: Sequence[str],
    label_name: str | None,
    model_type: str,
    event_name: str | None = None,
    family: str = "",
    key: bytes | None = None,
    categorical: Collection[str] = (),
    may_miss: bool = False,
    member_columns: Sequence[str] | None = None,
    weights_name: str | None = None,
    counts_weights: bool = False,
) -> Cohort:
    """The cohort in a dataset whose rows `unique_id` tells apart.

    Features are integers, floats, decimals, booleans and single bits; ids and classes
    are canonical texts (`agents.rows.canonical_text`), classes of numbers are whole
    numbers; labels are 0 and 1 for lr, finite numbers for linear, for glm those that its
    `family` knows, times above 0 for cox, whose events, 0 and 1, stand in `event_name`.
    `label_name` None (test rows, inference) gives y None. key: makes `members`.
    categorical: attributes that are categories; may_miss: a number may have no value,
    NaN. member_columns: the columns whose values tell the members, beside the label,
    event and weights; None for the attributes. weights_name: of a column of numbers of
    0 or more, whole ones where counts_weights.

    Raises Refused (code min_rows) for too few rows, and BadRequest with code no_rows,
    attributes, missing_column, null, not_numeric, not_finite, unique_id,
    duplicate_unique_id, label, weights or model_type.

    Disclosure: takes rows; errors hold names of columns and counts of rows, none below
    the dataset's min_rows.
    """
    check_enough_rows(rows.n_rows, rows.min_rows)
    if model_type not in _MODEL_TYPES:
        raise bad_request(
            "model_type",
            f"No model type {model_type}.",
            f"Use one of {', '.join(_MODEL_TYPES)}.",
        )
    _check_columns(
        rows,
        unique_id=unique_id,
        attributes=attributes,
        outcomes=[name for name in (label_name, event_name, weights_name) if name],
    )
    labels_of = [name for name in (label_name, event_name, weights_name) if name]
    numbers = [name for name in attributes if name not in categorical]
    needed = [*([] if may_miss else numbers), *categorical, *labels_of]
    _check_no_null(rows, unique_id, needed)
    ids = unique_ids(rows, unique_id)
    order = id_order(ids)
    X, levels = read_features(rows, attributes, categorical=categorical)
    y, labels = _label(rows, label_name, event_name, model_type, family)
    if label_name is not None and model_type not in _CLASSIFIERS:
        numbers.append(label_name)
    weights = None
    if weights_name is not None:
        weights = _weights(rows, weights_name, are_counts=counts_weights)
        numbers.append(weights_name)
    members = None
    if key is not None:
        told_by = attributes if member_columns is None else member_columns
        members = members_of(rows, [*told_by, *labels_of], key=key)
        members = _taken(members, order)
    return Cohort(
        unique_ids=[ids[i] for i in order],
        attributes=tuple(attributes),
        X=np.ascontiguousarray(X[order]),
        y=None if y is None else y[order],
        labels=labels,
        rounded=tuple(name for name in numbers if is_rounded(rows, name)),
        members=members,
        levels=levels,
        weights=None if weights is None else weights[order],
    )


def rows_of(cohort: Cohort, indices: Ints) -> Cohort:
    """Some rows of a cohort, by their places."""
    ids = [cohort.unique_ids[index] for index in indices.tolist()]
    y = None if cohort.y is None else cohort.y[indices]
    members = None if cohort.members is None else _taken(cohort.members, indices)
    weights = None if cohort.weights is None else cohort.weights[indices]
    return replace(
        cohort,
        unique_ids=ids,
        X=cohort.X[indices],
        y=y,
        members=members,
        weights=weights,
    )


def _taken(members: Members, places: Ints | Sequence[int]) -> Members:
    values = {name: column[places] for name, column in members.values.items()}
    return replace(members, ids=members.ids[places], values=values)


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
    needed = [unique_id, *attributes, *outcomes]
    # A column is found whatever its case, so that X and x may be one.
    different = {name.lower() for name in needed}
    if not attributes or len(different) < len(needed):
        raise bad_request(
            "attributes",
            "attributes is empty, names a column twice, or holds the unique id or the label.",
            "List each feature once, without unique_id and label_name.",
        )
    for name in needed[1:]:
        rows.check_column(name)


def without_value(
    rows: Dataset, names: Sequence[str], notes: Sequence[str] = ()
) -> None:
    """BadRequest (code null) that names all of these columns with rows without a value,
    and says the notes.
    """
    counted = [_without_value(name, rows.check_column(name)) for name in names]
    if counted:
        (counts,) = rows.query(f"SELECT {', '.join(counted)} FROM {IDENTIFIED}")  # noqa: S608
        _raise_without(rows, dict(zip(names, counts, strict=True)), notes)


def _check_no_null(rows: Dataset, unique_id: str, names: Sequence[str]) -> None:
    """Names all columns with rows without a value at once."""
    counted = [_without_value(UNIQUE_ID, rows.id_type)]
    counted += [_without_value(name, rows.columns[name]) for name in names]
    sql = f"SELECT {', '.join(counted)} FROM {IDENTIFIED}"  # noqa: S608
    (counts,) = rows.query(sql)
    _raise_without(rows, dict(zip([unique_id, *names], counts, strict=True)))


def _raise_without(
    rows: Dataset, n_without: Mapping[str, int], notes: Sequence[str] = ()
) -> None:
    found: list[str] = []
    for name, n_null in n_without.items():
        if n_null:
            null = "" if found else " without a value (NULL)"
            found.append(f"{rows.told(n_null)}{null} in {name}")
    if found:
        raise bad_request(
            "null",
            " ".join([f"{_capital(', '.join(found))}.", *notes]),
            "Leave these rows out by missing drop, complete_on or WHERE ... IS NOT NULL, or fill them in a view.",
        )


def _without_value(name: str, kind: str) -> str:
    return f"count(*) FILTER (NOT {has_value_sql(quoted(name), kind)})"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


# --- numbers ----------------------------------------------------------------------------


def read_features(
    rows: Dataset, attributes: Sequence[str], *, categorical: Collection[str] = ()
) -> tuple[Floats, dict[str, list[str]]]:
    """The attributes of a dataset, float64 (n_rows, n_attributes) in its order, and by
    category its levels: the column has the place of each row's level there. NaN where a
    number has no value, UNKNOWN where a category has none.

    BadRequest (not_numeric, not_finite, levels).
    """
    X = np.empty((rows.n_rows, len(attributes)))
    numbers = [name for name in attributes if name not in categorical]
    places = [attributes.index(name) for name in numbers]
    X[:, places] = _features(rows, numbers)
    levels: dict[str, list[str]] = {}
    for name in categorical:
        texts = category_texts(rows, name)
        levels[name] = _levels(name, texts)
        known = pd.Index(levels[name], dtype=object)
        # What is no value is at none of them, -1.
        X[:, attributes.index(name)] = known.get_indexer(pd.Index(texts))
    return X, levels


def category_texts(rows: Dataset, name: str) -> NDArray[np.object_]:
    """The canonical text of each row's level, None where there is none; (n_rows,)."""
    kind = rows.check_column(name)
    text = f"CASE WHEN {has_value_sql(quoted(name), kind)} THEN {label_sql(rows, name)} END"
    found: list[Any] = []
    for frame in rows.frames(f"SELECT {text} AS level FROM rows"):  # noqa: S608
        found += frame["level"].tolist()
    texts = np.empty(len(found), dtype=object)
    texts[:] = [one if isinstance(one, str) else None for one in found]
    return texts


def _levels(name: str, texts: NDArray[np.object_]) -> list[str]:
    found = {text for text in texts.tolist() if text is not None}
    check_levels(name, found, remedy="Use it as a number, or merge levels in a view.")
    return sorted_levels(found)


def check_levels(name: str, levels: Collection[str], *, remedy: str) -> None:
    """BadRequest (code levels) for a column with more levels, or longer ones, than a
    message has room for; `remedy` is against too many.
    """
    if len(levels) > MOST_LEVELS:
        raise bad_request(
            "levels", f"Column {name} has more than {MOST_LEVELS} levels.", remedy
        )
    if any(len(level) > MOST_LETTERS for level in levels):
        raise bad_request(
            "levels",
            f"Column {name} has a level of more than {MOST_LETTERS} letters.",
            "Shorten it in a view.",
        )


def _features(rows: Dataset, attributes: Sequence[str]) -> Floats:
    """Numbers, (n_rows, n_features) in the dataset's order; NaN where there is none."""
    texts = [name for name in attributes if not rows.is_number(name)]
    if texts:
        raise bad_request(
            "not_numeric",
            f"{_capital(rows.told(rows.n_rows))} with something other than a number in {', '.join(texts)}.",
            "Use columns of numbers, or turn the text into numbers in a view.",
        )
    if not attributes:
        return np.empty((rows.n_rows, 0))
    X = _doubles(rows, attributes)
    bad: list[str] = []
    for name, n_bad in zip(
        attributes, np.count_nonzero(np.isinf(X), axis=0).tolist(), strict=True
    ):
        if n_bad:
            infinite = "" if bad else " with an infinite number"
            bad.append(f"{rows.told(n_bad)}{infinite} in {name}")
    if bad:
        raise bad_request(
            "not_finite",
            f"{_capital(', '.join(bad))}.",
            "Leave these rows out, or replace the value in a view.",
        )
    return X


def _doubles(rows: Dataset, names: Sequence[str]) -> Floats:
    """Columns of numbers as float64, (n_rows, n_columns), chunk by chunk."""
    cells = []
    for i, name in enumerate(names):
        cells.append(f"{double_sql(rows, name)} AS d{i}")
    X = np.empty((rows.n_rows, len(names)), dtype=np.float64)
    first = 0
    for frame in rows.frames(f"SELECT {', '.join(cells)} FROM rows"):  # noqa: S608
        X[first : first + len(frame)] = frame.to_numpy(dtype=np.float64)
        first += len(frame)
    return X


def is_rounded(rows: Dataset, name: str) -> bool:
    """Whether a value is another number as float64.

    Looking for long ones first saves most of the time.
    """
    if rows.columns[name] in ("DOUBLE", "FLOAT", "BOOLEAN"):
        return False
    text = f"CAST({quoted(name)} AS VARCHAR)"
    sql = f"SELECT {text}, {double_sql(rows, name)} FROM rows WHERE length({text}) > {_DOUBLE_DIGITS}"  # noqa: S608
    for batch in rows.batches(sql):
        for number, double in batch:
            if _loses_digits(Decimal(number), double):
                return True
    return False


def _loses_digits(value: Decimal, double: float) -> bool:
    """0.1 of a decimal loses none: 0.1 is how its double is written. A whole number
    must be the double itself.
    """
    if value == Decimal(double):
        return False
    is_whole = value == value.to_integral_value()
    return is_whole or Decimal(repr(double)) != value


# --- unique ids -------------------------------------------------------------------------


def unique_ids(rows: Dataset, name: str) -> list[str]:
    """The canonical text of each row's unique id, called `name`, in the rows' order.

    Raises BadRequest (code null, unique_id, duplicate_unique_id).
    """
    _check_no_null(rows, name, [])
    text = canonical_sql(quoted(UNIQUE_ID), rows.id_type)
    ids: list[str] = []
    for frame in rows.frames(f"SELECT {text} AS id FROM {IDENTIFIED}"):  # noqa: S608
        ids += frame["id"].tolist()
    n_bad = 0
    if rows.id_type == "BOOLEAN":
        n_bad = len(ids)
    elif rows.id_is_number or rows.id_type != "VARCHAR":
        n_bad = sum(1 for text in ids if not _INTEGER.fullmatch(text))
    if n_bad:
        raise bad_request(
            "unique_id",
            f"{_capital(rows.told(n_bad))} with an unusable {name}.",
            "Use a column of integers, texts, dates or UUIDs as unique_id.",
        )
    n_doubled = len(ids) - len(set(ids))
    if n_doubled:
        raise bad_request(
            "duplicate_unique_id",
            f"{_capital(rows.told(n_doubled))} with a {name} that another row has too.",
            "Give one row per unique id: make it unique in the table, or use another column.",
        )
    return ids


def id_order(ids: list[str]) -> list[int]:
    """Positions in order of id: as numbers when all are whole numbers, else as text."""
    if all(_INTEGER.fullmatch(text) for text in ids):
        return sorted(range(len(ids)), key=lambda i: (int(ids[i]), ids[i]))
    return sorted(range(len(ids)), key=ids.__getitem__)


# --- labels -----------------------------------------------------------------------------


def _label(
    rows: Dataset,
    label_name: str | None,
    event_name: str | None,
    model_type: str,
    family: str,
) -> tuple[NDArray[Any] | None, list[Any]]:
    if label_name is None:
        return None, []
    if model_type in _CLASSIFIERS:
        y = _classes(rows, label_name)
        return y, sorted(set(y.tolist()))
    if not rows.is_number(label_name):
        raise bad_request(
            "label",
            f"{_capital(rows.told(rows.n_rows))} with a label in {label_name} that is no number.",
            "Map the label to numbers in a view, or order model_type softmax.",
        )
    doubles = _doubles(rows, [label_name]).ravel()
    if model_type == "lr" or family == "binomial":
        _check_binary(rows, label_name, doubles)
        return doubles, [int(value) for value in np.unique(doubles)]
    if event_name is not None:
        return _survival(rows, label_name, event_name, doubles), []
    n_bad = int(np.count_nonzero(~np.isfinite(doubles)))
    if n_bad:
        raise bad_request(
            "label",
            f"{_capital(rows.told(n_bad))} with an infinite label in {label_name}.",
            "Leave these rows out.",
        )
    if family:
        _check_family(rows, label_name, family, doubles)
    return doubles, []


def _survival(rows: Dataset, label_name: str, event_name: str, times: Floats) -> Floats:
    """Times and events as one number each: `analytics.training.cox.label`.

    BadRequest (code label) with all that is wrong.
    """
    problems: list[BadRequest] = []
    is_time = np.isfinite(times) & (times > 0)
    n_bad = int(np.count_nonzero(~is_time))
    if n_bad:
        problems.append(
            bad_request(
                "label",
                f"{_capital(rows.told(n_bad))} with a time in {label_name} that is not finite and above 0.",
                "Leave these rows out, or give the time of an event on the first day as 0.5.",
            )
        )
    events = np.full(len(times), np.nan)
    if rows.is_number(event_name):
        events = _doubles(rows, [event_name]).ravel()
    n_bad = int(np.count_nonzero((events != 0) & (events != 1)))
    if n_bad:
        problems.append(
            bad_request(
                "label",
                f"{_capital(rows.told(n_bad))} with an event other than 0 and 1 in {event_name}.",
                "Map it to 1 for the event and 0 for censored rows, in a view.",
            )
        )
    check_all(*[partial(_raise, error) for error in problems])
    return cox.label(times, events)


def _raise(error: BadRequest) -> None:
    raise error


def _check_family(rows: Dataset, label_name: str, family: str, doubles: Floats) -> None:
    is_bad, asked = families.label_problem(families.canonical_pair(family), doubles)
    n_bad = int(np.count_nonzero(is_bad))
    if n_bad:
        raise bad_request(
            "label",
            f"{_capital(rows.told(n_bad))} with a label in {label_name} that is not {asked}, as {family} asks.",
            "Leave these rows out, or order a family that knows such labels, such as gaussian.",
        )


def _weights(rows: Dataset, name: str, *, are_counts: bool) -> Floats:
    asked = "a whole number of 0 or more" if are_counts else "a number of 0 or more"
    weights = np.full(rows.n_rows, np.nan)
    if rows.is_number(name):
        weights = _doubles(rows, [name]).ravel()
    is_weight = np.isfinite(weights) & (weights >= 0)
    if are_counts:
        is_weight &= weights == np.floor(weights)
    n_bad = int(np.count_nonzero(~is_weight))
    if n_bad:
        raise bad_request(
            "weights",
            f"{_capital(rows.told(n_bad))} with a weight in {name} that is not {asked}.",
            "Leave these rows out, or give them a weight in a view.",
        )
    if not weights.any():
        raise bad_request(
            "weights",
            f"All weights in {name} are 0.",
            "Give rows a weight above 0, or name another column.",
        )
    return weights


def _check_binary(rows: Dataset, label_name: str, doubles: Floats) -> None:
    n_bad = int(np.count_nonzero((doubles != 0) & (doubles != 1)))
    if n_bad:
        raise bad_request(
            "label",
            f"{_capital(rows.told(n_bad))} with a label other than 0 and 1 in {label_name}.",
            "Map the label to 0 and 1 in a view, or order model_type softmax.",
        )


def _classes(rows: Dataset, label_name: str) -> NDArray[Any]:
    """Classes as canonical texts, those of a column of numbers as whole numbers."""
    text = label_sql(rows, label_name)
    is_number = rows.is_number(label_name)
    if is_number:
        sql = f"SELECT count(*) FILTER (NOT regexp_full_match({text}, '{_WHOLE}')) FROM rows"  # noqa: S608
        ((n_bad,),) = rows.query(sql)
        if n_bad:
            raise bad_request(
                "label",
                f"{_capital(rows.told(n_bad))} with a label in {label_name} that is no class (whole number or text).",
                "Use whole numbers or texts as classes, or order model_type linear.",
            )
    found: list[Any] = []
    for frame in rows.frames(f"SELECT {text} AS label FROM rows"):  # noqa: S608
        found += frame["label"].tolist()
    classes = [int(one) for one in found] if is_number else found
    y = np.empty(len(classes), dtype=object)
    y[:] = classes
    return y
