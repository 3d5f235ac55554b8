"""The columns of a model's numbers and categories, as float64.

Of categories a column has the place of each row's level. `agents.rows.cohort` makes the
rows of an order of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from decimal import Decimal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from agents.rows.canonical_text import has_value_sql
from agents.rows.column_text import double_sql, label_sql
from agents.rows.dataset import Dataset
from agents.rows.missing_values import capital
from agents.rows.relation import quoted
from agents.rows.row_tables import empty_table
from analytics.arrays import Floats, let_go, row_chunks
from analytics.training.design import sorted_levels
from protocol.errors import bad_request
from protocol.study_rows import MOST_LETTERS, MOST_LEVELS

_DOUBLE_DIGITS = 15  # so many digits of any decimal come back from its float64


def read_features(
    rows: Dataset, attributes: Sequence[str], *, categorical: Collection[str] = ()
) -> tuple[Floats, dict[str, list[str]]]:
    """The attributes of a dataset, float64 (n_rows, n_attributes) in its order, and by
    category its levels: the column has the place of each row's level there. NaN where a
    number has no value, UNKNOWN where a category has none.

    BadRequest (not_numeric, not_finite, levels).
    """
    X = empty_table(rows.folder, (rows.n_rows, len(attributes)))
    numbers = [attribute for attribute in attributes if attribute not in categorical]
    number_places = [attributes.index(attribute) for attribute in numbers]
    _read_numbers(rows, numbers, X, number_places)
    levels: dict[str, list[str]] = {}
    for attribute in categorical:
        level_texts = category_texts(rows, attribute)
        levels[attribute] = _levels(attribute, level_texts)
        level_index = pd.Index(levels[attribute], dtype=object)
        place = attributes.index(attribute)
        for chunk in row_chunks(len(level_texts)):
            # What is no value is at none of them, -1.
            X[chunk, place] = level_index.get_indexer(pd.Index(level_texts[chunk]))
            let_go(X)
    return X, levels


def category_texts(rows: Dataset, name: str) -> NDArray[np.object_]:
    """The canonical text of each row's level, None where there is none; (n_rows,)."""
    kind = rows.check_column(name)
    level_sql = f"CASE WHEN {has_value_sql(quoted(name), kind)} THEN {label_sql(rows, name)} END"
    level_texts = np.empty(rows.n_rows, dtype=object)
    interned: dict[str, str] = {}
    row_place = 0
    for frame in rows.frames(f"SELECT {level_sql} AS level FROM rows"):  # noqa: S608
        for level in frame["level"].tolist():
            # One object for all rows of a level.
            level_texts[row_place] = (
                interned.setdefault(level, level) if isinstance(level, str) else None
            )
            row_place += 1
    return level_texts


def _levels(name: str, texts: NDArray[np.object_]) -> list[str]:
    levels = {text for text in texts if text is not None}
    check_levels(name, levels, remedy="Use it as a number, or merge levels in a view.")
    return sorted_levels(levels)


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


def _read_numbers(
    rows: Dataset, names: Sequence[str], X: Floats, places: Sequence[int]
) -> None:
    """Writes columns of numbers to their places in X; NaN where there is none."""
    texts = [name for name in names if not rows.is_number(name)]
    if texts:
        raise bad_request(
            "not_numeric",
            f"{capital(rows.told(rows.n_rows))} with something other than a number in {', '.join(texts)}.",
            "Use columns of numbers, or turn the text into numbers in a view.",
        )
    n_infinite = np.zeros(len(names), dtype=np.int64)
    first_row = 0
    for numbers in _number_chunks(rows, names):
        X[first_row : first_row + len(numbers), places] = numbers
        first_row += len(numbers)
        n_infinite += np.count_nonzero(np.isinf(numbers), axis=0)
        let_go(X)
    problems: list[str] = []
    for name, n_bad in zip(names, n_infinite.tolist(), strict=True):
        if n_bad:
            infinite = "" if problems else " with an infinite number"
            problems.append(f"{rows.told(n_bad)}{infinite} in {name}")
    if problems:
        raise bad_request(
            "not_finite",
            f"{capital(', '.join(problems))}.",
            "Leave these rows out, or replace the value in a view.",
        )


def doubles_of(rows: Dataset, name: str) -> Floats:
    """A column of numbers as float64, (n_rows,)."""
    doubles = np.empty(rows.n_rows)
    first_row = 0
    for chunk in _number_chunks(rows, [name]):
        doubles[first_row : first_row + len(chunk)] = chunk[:, 0]
        first_row += len(chunk)
    return doubles


def _number_chunks(rows: Dataset, names: Sequence[str]) -> Iterator[Floats]:
    """Columns of numbers as float64, (n, n_columns) each; nothing of no columns."""
    double_cells = []
    for i, name in enumerate(names):
        double_cells.append(f"{double_sql(rows, name)} AS d{i}")
    if not double_cells:
        return
    for frame in rows.frames(f"SELECT {', '.join(double_cells)} FROM rows"):  # noqa: S608
        yield frame.to_numpy(dtype=np.float64)


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
