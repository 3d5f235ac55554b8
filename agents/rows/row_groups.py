"""The groups of a provider's rows: how many rows each has, and of which group a row is.

DuckDB reads the rows, and says to which group each belongs. What is added up by group is
in `agents.rows.exact_totals`.

Disclosure: counts of rows; they leave through agents.gate.disclosure and the sealed sum
only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from agents.rows.column_text import Number, label_sql, number_of
from agents.rows.dataset import Dataset
from agents.rows.relation import quoted
from analytics.arrays import Floats, Ints
from protocol.errors import TooLarge

Label = tuple[str | None, ...]
MAX_GROUPS = 100_000


def counts(dataset: Dataset, columns: Sequence[str]) -> dict[Label, int]:
    """How many rows have each combination of labels: frequencies, cross tables, sizes
    of groups.

    NULL is a label. TooLarge (code groups) above MAX_GROUPS.

    Disclosure: as `exact_totals.moments`.
    """
    groups = groups_of(dataset, [], columns)
    return {group.label: group.n_rows for group in groups.found}


def counts_with_value(
    dataset: Dataset, column: str, *, group_by: Sequence[str] = ()
) -> dict[Label, int]:
    """How many rows of each group have a value in a column, of whatever type; 0 where
    none has one.

    Raises BadRequest (code missing_column), TooLarge as `counts`. Disclosure: as
    `exact_totals.moments`.
    """
    dataset.check_column(column)
    label_cells = [label_sql(dataset, name) for name in group_by]
    named = "".join(f"{cell}, " for cell in aliased("g", label_cells))
    grouped = ""
    if label_cells:
        label_places = ", ".join(str(place) for place in range(1, 1 + len(label_cells)))
        # One more than there may be is enough to refuse.
        grouped = f" GROUP BY {label_places} LIMIT {MAX_GROUPS + 1}"
    rows = dataset.query(f"SELECT {named}count({quoted(column)}) FROM rows{grouped}")  # noqa: S608
    if len(rows) > MAX_GROUPS:
        raise too_many_groups()
    return {tuple(label): n_rows for *label, n_rows in rows}


def n_varying(dataset: Dataset, column: str) -> int:
    """How many rows with a value have another one than the commonest.

    BadRequest (code missing_column). Disclosure: as `exact_totals.moments`.
    """
    dataset.check_column(column)
    cell = quoted(column)
    counted = f"SELECT count({cell}) AS n FROM rows GROUP BY {cell}"  # noqa: S608
    ((n_rows, n_commonest),) = dataset.query(
        f"SELECT coalesce(sum(n), 0), coalesce(max(n), 0) FROM ({counted})"  # noqa: S608
    )
    return int(n_rows - n_commonest)


@dataclass(frozen=True, eq=False)
class GroupedRows:
    """Which group each row of a dataset is in, in the order of `members_of`."""

    labels: list[Label]
    codes: Ints  # (n_rows,): the place of its label


def grouped_rows(dataset: Dataset, group_by: Sequence[str]) -> GroupedRows:
    """The groups of a dataset's rows, those without a value too; labels as of `moments`.

    Disclosure: patients' rows. What follows from them stays in the vault.
    """
    if not group_by:
        return GroupedRows([()], np.zeros(dataset.n_rows, dtype=np.int64))
    named = ", ".join(aliased("g", [label_sql(dataset, name) for name in group_by]))
    frames = dataset.frames(f"SELECT {named} FROM rows")  # noqa: S608
    places: dict[Label, int] = {}
    codes = np.empty(dataset.n_rows, dtype=np.int64)
    begin = 0
    for frame in frames:
        of_frame = _codes_of(frame)
        _, first_rows = np.unique(of_frame, return_index=True)
        firsts = frame.iloc[first_rows].astype(object)
        labels = firsts.where(firsts.notna(), None).itertuples(index=False, name=None)
        own_places = [places.setdefault(label, len(places)) for label in labels]
        codes[begin : begin + len(frame)] = np.array(own_places)[of_frame]
        begin += len(frame)
    return GroupedRows(list(places), codes)


def _codes_of(frame: pd.DataFrame) -> Ints:
    """A code of each row's values, (n_rows,): 0 of the first row's, 1 of the next other
    ones, and so on.
    """
    codes = np.zeros(len(frame), dtype=np.int64)
    for column in frame.columns:
        of_column, distinct = pd.factorize(frame[column], use_na_sentinel=False)
        codes, _ = pd.factorize(codes * len(distinct) + of_column)
    return codes


def binned_rows(dataset: Dataset, column: str, edges: Floats) -> Ints:
    """Of each row of a dataset, in the order of `members_of`, how many of the rising
    edges lie at its value or below: int64 (n_rows,); -1 where it has none.

    Disclosure: patients' rows. What follows from them stays in the vault.
    """
    number = number_of(dataset, column)
    bin_places = []
    for frame in dataset.frames(f"SELECT {number.double} AS x FROM rows"):  # noqa: S608
        x = frame["x"].to_numpy(dtype=np.float64, na_value=np.nan)
        of_batch = np.searchsorted(edges, x, side="right")
        of_batch[np.isnan(x)] = -1
        bin_places.append(of_batch)
    return np.concatenate([np.zeros(0, dtype=np.int64), *bin_places])


@dataclass(frozen=True)
class Group:
    """The rows of one label."""

    label: Label
    n_rows: int
    n_complete: int  # so many of them have a value in every column that is summed


@dataclass(frozen=True)
class Groups:
    """The groups of a dataset's rows. A group's code is its place in `found`.

    DuckDB's table `groups` holds each code with its labels, g0, g1, ... Where nothing
    is grouped there is no table; one group, of all rows, has the code 0.
    """

    cells: list[str]  # the columns of labels, as SQL; none where nothing is grouped
    found: list[Group]


def groups_of(
    dataset: Dataset,
    numbers: Sequence[Number],
    group_by: Sequence[str],
) -> Groups:
    """Finds the groups, and leaves them in DuckDB, so that a row can come with a code
    in place of labels.
    """
    complete = has_all_sql(numbers)
    if not group_by:
        if len(numbers) == 1:
            n_complete = numbers[0].n
        else:
            counted = f"SELECT count(*) FROM rows WHERE {complete}"  # noqa: S608
            ((n_complete,),) = dataset.query(counted)
        return Groups(cells=[], found=[Group((), dataset.n_rows, n_complete)])
    label_cells = [label_sql(dataset, name) for name in group_by]
    named = ", ".join(aliased("g", label_cells))
    # Grouped by places and not by names, as a column of the data may be called g0
    # itself.
    label_places = ", ".join(str(place) for place in range(1, 1 + len(label_cells)))
    counted = (
        f"SELECT {named}, count(*), count(*) FILTER ({complete})"  # noqa: S608
        f" FROM rows GROUP BY {label_places} LIMIT {MAX_GROUPS + 1}"
    )
    coded = f"SELECT row_number() OVER () - 1 AS code, * FROM ({counted})"  # noqa: S608
    dataset.query(f"CREATE OR REPLACE TEMP TABLE groups AS {coded}")
    rows = dataset.query("SELECT * EXCLUDE code FROM groups ORDER BY code")
    if len(rows) > MAX_GROUPS:
        raise too_many_groups()
    groups = [
        Group(tuple(label), n_rows, n_complete) for *label, n_rows, n_complete in rows
    ]
    return Groups(label_cells, groups)


def too_many_groups() -> TooLarge:
    return TooLarge(
        f"The data have more than {MAX_GROUPS} groups.",
        remedy="Group by columns of fewer values.",
        code="groups",
    )


def has_all_sql(numbers: Sequence[Number]) -> str:
    """Whether a row has a value in every column, as SQL."""
    conditions = [f"{number.cell} IS NOT NULL" for number in numbers]
    return " AND ".join(conditions) or "true"


def aliased(prefix: str, cells: Sequence[str]) -> list[str]:
    return [f"{cell} AS {prefix}{i}" for i, cell in enumerate(cells)]


def rows_sql(
    labels: Sequence[str],
    cells: Sequence[str],
    where: str,
) -> str:
    """A SELECT of cells, as c0, c1, ..., of the rows for which `where` holds; before
    them the group's code.

    >>> print(rows_sql([], ["x", "2 * y"], where="x > 0"))
    SELECT x AS c0, 2 * y AS c1 FROM rows WHERE x > 0
    >>> print(rows_sql(["city"], ["x"], where="x > 0"))
    SELECT code, c0
    FROM (SELECT city AS g0, x AS c0 FROM rows WHERE x > 0) AS labelled
    JOIN groups ON labelled.g0 IS NOT DISTINCT FROM groups.g0
    """
    named = [*aliased("g", labels), *aliased("c", cells)]
    labelled = f"SELECT {', '.join(named)} FROM rows WHERE {where}"  # noqa: S608
    if not labels:
        return labelled
    selected = ["code", *aliases("c", len(cells))]
    # NULL is a label as any other, which = would not find.
    is_same = [
        f"labelled.{group_alias} IS NOT DISTINCT FROM groups.{group_alias}"
        for group_alias in aliases("g", len(labels))
    ]
    return f"SELECT {', '.join(selected)}\nFROM ({labelled}) AS labelled\nJOIN groups ON {' AND '.join(is_same)}"


def aliases(prefix: str, n: int) -> list[str]:
    return [f"{prefix}{i}" for i in range(n)]


def labels_sql(dataset: Dataset, group_by: Sequence[str]) -> list[str]:
    return aliased("g", [label_sql(dataset, name) for name in group_by])
