"""What a provider adds up over its rows: exact sums, counts and sketches, in bounded
memory.

DuckDB reads the rows, a batch at a time, and says to which group each belongs. A column
comes from it as one or a few columns of doubles (`column_text`), which
`analytics.statistics.exact_arrays` adds without an error. Texts that no few doubles
hold come as they are written, and are added one by one. Counts and sketches are
DuckDB's own aggregates.

To read next: `agents.statistics.pooled`, which contributes the sums, and
`agents.gate.disclosure`, which decides what is withheld.

Decisions 32, 38 and 65.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from agents.rows.column_text import (
    Number,
    label_sql,
    not_finite,
    number_of,
    whole_sql,
    wide,
)
from agents.rows.dataset import Dataset
from agents.rows.relation import quoted
from analytics.arrays import Floats, Ints
from analytics.statistics.exact import (
    UNIT,
    JointMoments,
    MatrixMoments,
    Moments,
    scaled,
)
from analytics.statistics.exact_arrays import LEAST_EXPONENT, ExactSums
from protocol.errors import BadRequest, TooLarge

Label = tuple[str | None, ...]
Cells = np.ndarray[Any, np.dtype[np.uint64]]
MAX_GROUPS = 100_000
SKETCH_CELLS = 65_536
GROUP_CELLS = 256
SHARE_OF_INTEREST = Fraction(1, 10)

_HALF = 2**63  # the first whole number that no int64 holds


@dataclass(frozen=True)
class GroupTotals:
    """One group of this provider's rows."""

    n_rows: int
    n_null: int  # so many of them have no value
    moments: Moments
    # Of sum |x|, what its two largest make: never less than the truth, and the truth
    # (to 12 digits) where it is above SHARE_OF_INTEREST.
    largest_share: Fraction
    # The same of sum x^2.
    largest_square_share: Fraction


@dataclass(frozen=True)
class JointPart:
    """The same for two columns."""

    n_rows: int
    n_null: int  # so many of them lack a value in one of the two
    moments: JointMoments
    largest_share: Fraction  # the larger one of x and of y
    largest_square_share: Fraction  # likewise, of their squares


@dataclass(frozen=True)
class MatrixPart:
    """The same for several columns."""

    moments: MatrixMoments
    largest_share: Fraction  # the largest one of any column
    largest_square_share: Fraction  # likewise, of their squares


def moments(
    dataset: Dataset,
    column: str,
    *,
    group_by: Sequence[str] = (),
) -> dict[Label, GroupTotals]:
    """n, sum x and sum x^2 of a column, exact, by group; labels are canonical texts in
    order of `group_by`.

    Ungrouped, the one label is (). A group without any value is there with n = 0.
    Raises BadRequest as `number_of`, TooLarge (code groups) above MAX_GROUPS.

    Disclosure: sums of rows; they leave through agents.gate.disclosure and the sealed
    sum only.
    """
    number = number_of(dataset, column)
    groups = _groups_of(dataset, [number], group_by)
    sums = _exact_sums(dataset, [number], groups)
    of_groups = [
        sums.moments(0, code, n=group.n_complete)
        for code, group in enumerate(groups.found)
    ]
    complete = _complete([number])
    shares = _largest_shares(dataset, number, groups, of_groups, where=complete)
    parts: dict[Label, GroupTotals] = {}
    for code, group in enumerate(groups.found):
        parts[group.label] = GroupTotals(
            n_rows=group.n_rows,
            n_null=group.n_rows - group.n_complete,
            moments=of_groups[code],
            largest_share=shares[code].sizes,
            largest_square_share=shares[code].squares,
        )
    return parts


def joint_moments(
    dataset: Dataset,
    x: str,
    y: str,
    *,
    group_by: Sequence[str] = (),
) -> dict[Label, JointPart]:
    """The sums of two columns and of their products, exact, over rows with a value in
    both; as `moments`.
    """
    number_x = number_of(dataset, x)
    number_y = number_of(dataset, y)
    both = [number_x, number_y]
    groups = _groups_of(dataset, both, group_by)
    sums = _exact_sums(dataset, both, groups)
    of_groups = [
        sums.joint_moments(code, n=group.n_complete)
        for code, group in enumerate(groups.found)
    ]
    of_x = [found.x for found in of_groups]
    of_y = [found.y for found in of_groups]
    complete = _complete(both)
    shares_x = _largest_shares(dataset, number_x, groups, of_x, where=complete)
    shares_y = _largest_shares(dataset, number_y, groups, of_y, where=complete)
    parts: dict[Label, JointPart] = {}
    for code, group in enumerate(groups.found):
        parts[group.label] = JointPart(
            n_rows=group.n_rows,
            n_null=group.n_rows - group.n_complete,
            moments=of_groups[code],
            largest_share=max(shares_x[code].sizes, shares_y[code].sizes),
            largest_square_share=max(shares_x[code].squares, shares_y[code].squares),
        )
    return parts


def matrix_moments(
    dataset: Dataset,
    columns: Sequence[str],
    *,
    group_by: Sequence[str] = (),
) -> dict[Label, MatrixPart]:
    """The sums of several columns and of the products of each two, exact, over rows with
    a value in all of them; as `moments`.
    """
    numbers = [number_of(dataset, column) for column in columns]
    groups = _groups_of(dataset, numbers, group_by)
    sums = _exact_sums(dataset, numbers, groups)
    n_groups = len(groups.found)
    largest = [Fraction(0)] * n_groups
    largest_squares = [Fraction(0)] * n_groups
    complete = _complete(numbers)
    for place, number in enumerate(numbers):
        of_column = [
            sums.moments(place, code, n=group.n_complete)
            for code, group in enumerate(groups.found)
        ]
        shares = _largest_shares(dataset, number, groups, of_column, where=complete)
        for code, share in enumerate(shares):
            largest[code] = max(largest[code], share.sizes)
            largest_squares[code] = max(largest_squares[code], share.squares)
    parts: dict[Label, MatrixPart] = {}
    for code, group in enumerate(groups.found):
        parts[group.label] = MatrixPart(
            moments=sums.matrix_moments(code, n=group.n_complete),
            largest_share=largest[code],
            largest_square_share=largest_squares[code],
        )
    return parts


def counts(dataset: Dataset, columns: Sequence[str]) -> dict[Label, int]:
    """How many rows have each combination of labels: frequencies, cross tables, sizes
    of groups.

    NULL is a label. TooLarge (code groups) above MAX_GROUPS. Disclosure: as `moments`.
    """
    groups = _groups_of(dataset, [], columns)
    return {group.label: group.n_rows for group in groups.found}


def counts_with_value(
    dataset: Dataset, column: str, *, group_by: Sequence[str] = ()
) -> dict[Label, int]:
    """How many rows of each group have a value in a column, of whatever type; 0 where
    none has one.

    Raises BadRequest (code missing_column), TooLarge as `counts`. Disclosure: as
    `moments`.
    """
    dataset.check_column(column)
    cells = [label_sql(dataset, name) for name in group_by]
    named = "".join(f"{cell}, " for cell in _named("g", cells))
    grouped = ""
    if cells:
        places = ", ".join(str(place) for place in range(1, 1 + len(cells)))
        grouped = f" GROUP BY {places} LIMIT {MAX_GROUPS + 1}"
    rows = dataset.query(f"SELECT {named}count({quoted(column)}) FROM rows{grouped}")  # noqa: S608
    if len(rows) > MAX_GROUPS:
        raise _too_many_groups()
    return {tuple(label): n_rows for *label, n_rows in rows}


def n_varying(dataset: Dataset, column: str) -> int:
    """How many rows with a value have another one than the commonest.

    BadRequest (code missing_column). Disclosure: as `moments`.
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
    named = ", ".join(_named("g", [label_sql(dataset, name) for name in group_by]))
    frames = dataset.frames(f"SELECT {named} FROM rows")  # noqa: S608
    places: dict[Label, int] = {}
    codes: list[int] = []
    for frame in frames:
        texts = frame.astype(object).where(frame.notna(), None)
        for label in texts.itertuples(index=False, name=None):
            codes.append(places.setdefault(label, len(places)))
    return GroupedRows(list(places), np.array(codes, dtype=np.int64))


def binned_rows(dataset: Dataset, column: str, edges: Floats) -> Ints:
    """Of each row of a dataset, in the order of `members_of`, how many of the rising
    edges lie at its value or below: int64 (n_rows,); -1 where it has none.

    Disclosure: patients' rows. What follows from them stays in the vault.
    """
    number = number_of(dataset, column)
    places = []
    for frame in dataset.frames(f"SELECT {number.double} AS x FROM rows"):  # noqa: S608
        x = frame["x"].to_numpy(dtype=np.float64, na_value=np.nan)
        of_batch = np.searchsorted(edges, x, side="right")
        of_batch[np.isnan(x)] = -1
        places.append(of_batch)
    return np.concatenate([np.zeros(0, dtype=np.int64), *places])


# --- groups ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Group:
    """The rows of one label."""

    label: Label
    n_rows: int
    n_complete: int  # so many of them have a value in every column that is summed


@dataclass(frozen=True)
class _Groups:
    """The groups of a dataset's rows. A group's code is its place in `found`.

    DuckDB's table `groups` holds each code with its labels, g0, g1, ... Where nothing
    is grouped there is no table; one group, of all rows, has the code 0.
    """

    cells: list[str]  # the columns of labels, as SQL; none where nothing is grouped
    found: list[_Group]


def _groups_of(
    dataset: Dataset,
    numbers: Sequence[Number],
    group_by: Sequence[str],
) -> _Groups:
    """Finds the groups, and leaves them in DuckDB, so that a row can come with a code
    in place of labels.
    """
    complete = _complete(numbers)
    if not group_by:
        if len(numbers) == 1:
            n_complete = numbers[0].n
        else:
            n_complete = dataset.query(f"SELECT count(*) FROM rows WHERE {complete}")[  # noqa: S608
                0
            ][0]
        return _Groups(cells=[], found=[_Group((), dataset.n_rows, n_complete)])
    cells = [label_sql(dataset, name) for name in group_by]
    named = ", ".join(_named("g", cells))
    # Grouped by places and not by names, as a column of the data may be called g0
    # itself.
    places = ", ".join(str(place) for place in range(1, 1 + len(cells)))
    counted = (
        f"SELECT {named}, count(*), count(*) FILTER ({complete})"  # noqa: S608
        f" FROM rows GROUP BY {places} LIMIT {MAX_GROUPS + 1}"
    )
    coded = f"SELECT row_number() OVER () - 1 AS code, * FROM ({counted})"  # noqa: S608
    dataset.query(f"CREATE OR REPLACE TEMP TABLE groups AS {coded}")
    rows = dataset.query("SELECT * EXCLUDE code FROM groups ORDER BY code")
    if len(rows) > MAX_GROUPS:
        raise _too_many_groups()
    found = [
        _Group(tuple(label), n_rows, n_complete) for *label, n_rows, n_complete in rows
    ]
    return _Groups(cells, found)


def _too_many_groups() -> TooLarge:
    return TooLarge(
        f"The data have more than {MAX_GROUPS} groups.",
        remedy="Group by columns of fewer values.",
        code="groups",
    )


def _complete(numbers: Sequence[Number]) -> str:
    """Whether a row has a value in every column, as SQL."""
    conditions = [f"{number.cell} IS NOT NULL" for number in numbers]
    return " AND ".join(conditions) or "true"


def _named(prefix: str, cells: Sequence[str]) -> list[str]:
    return [f"{cell} AS {prefix}{i}" for i, cell in enumerate(cells)]


def _rows_sql(
    labels: Sequence[str],
    cells: Sequence[str],
    where: str,
) -> str:
    """A SELECT of cells, as c0, c1, ..., of the rows for which `where` holds; before
    them the group's code.

    >>> print(_rows_sql([], ["x", "2 * y"], where="x > 0"))
    SELECT x AS c0, 2 * y AS c1 FROM rows WHERE x > 0
    >>> print(_rows_sql(["city"], ["x"], where="x > 0"))
    SELECT code, c0
    FROM (SELECT city AS g0, x AS c0 FROM rows WHERE x > 0) AS labelled
    JOIN groups ON labelled.g0 IS NOT DISTINCT FROM groups.g0
    """
    named = [*_named("g", labels), *_named("c", cells)]
    labelled = f"SELECT {', '.join(named)} FROM rows WHERE {where}"  # noqa: S608
    if not labels:
        return labelled
    wanted = ["code", *_names("c", len(cells))]
    # NULL is a label as any other, which = would not find.
    is_same = [
        f"labelled.{name} IS NOT DISTINCT FROM groups.{name}"
        for name in _names("g", len(labels))
    ]
    return f"SELECT {', '.join(wanted)}\nFROM ({labelled}) AS labelled\nJOIN groups ON {' AND '.join(is_same)}"


def _names(prefix: str, n: int) -> list[str]:
    return [f"{prefix}{i}" for i in range(n)]


# --- exact sums --------------------------------------------------------------------------------------------


class _Sums:
    """What some numbers add up to, by the code of a group; each list has one whole
    number for every code.
    """

    def __init__(self, n_numbers: int, n_groups: int) -> None:
        pairs = combinations_with_replacement(range(n_numbers), 2)
        # UNIT sum x_i
        self.totals = [[0] * n_groups for _ in range(n_numbers)]
        # UNIT^2 sum x_i x_j, for i <= j
        self.products = {pair: [0] * n_groups for pair in pairs}

    def add_row(self, code: int, values: Sequence[int]) -> None:
        for i, value in enumerate(values):
            self.totals[i][code] += value
        for (i, j), products in self.products.items():
            products[code] += values[i] * values[j]

    def moments(self, i: int, code: int, *, n: int) -> Moments:
        return Moments(
            n=n,
            total=self.totals[i][code],
            squares=self.products[i, i][code],
        )

    def matrix_moments(self, code: int, *, n: int) -> MatrixMoments:
        return MatrixMoments(
            n=n,
            totals=tuple(totals[code] for totals in self.totals),
            products=tuple(of_pair[code] for of_pair in self.products.values()),
        )

    def joint_moments(self, code: int, *, n: int) -> JointMoments:
        return JointMoments(
            n=n,
            total_x=self.totals[0][code],
            total_y=self.totals[1][code],
            squares_x=self.products[0, 0][code],
            squares_y=self.products[1, 1][code],
            products=self.products[0, 1][code],
        )


def _exact_sums(
    dataset: Dataset,
    numbers: Sequence[Number],
    groups: _Groups,
) -> _Sums:
    """Over the rows with a value in every column: what doubles hold in arrays, the rest
    one by one.
    """
    sums = _Sums(len(numbers), len(groups.found))
    complete = _complete(numbers)
    conditions = [number.regular for number in numbers if number.regular]
    regular = " AND ".join(conditions) or "true"
    n_added = _add_arrays(
        dataset,
        numbers,
        groups,
        sums,
        where=f"{complete} AND ({regular})",
    )
    n_complete = sum(group.n_complete for group in groups.found)
    if n_added < n_complete:
        _add_one_by_one(
            dataset,
            numbers,
            groups,
            sums,
            where=f"{complete} AND NOT ({regular})",
        )
    return sums


@dataclass(frozen=True)
class _OwnedPiece:
    """A piece of a number: a column of doubles."""

    owner: int  # the number that it is a piece of
    sql: str
    unit: int  # it counts in units of unit / UNIT


def _add_arrays(
    dataset: Dataset,
    numbers: Sequence[Number],
    groups: _Groups,
    sums: _Sums,
    *,
    where: str,
) -> int:
    """Adds the rows in which doubles hold every number; returns how many they are."""
    pieces: list[_OwnedPiece] = []
    for owner, number in enumerate(numbers):
        for piece in number.pieces:
            pieces.append(_OwnedPiece(owner, piece.sql, piece.unit))
    exact = ExactSums(len(pieces), len(groups.found))
    n_rows = 0
    cells = [piece.sql for piece in pieces]
    names = _names("c", len(pieces))
    for frame in dataset.frames(_rows_sql(groups.cells, cells, where)):
        columns: list[Floats] = []
        for name, owned in zip(names, pieces, strict=True):
            column = _finite(frame[name], numbers[owned.owner])
            columns.append(column)
        exact.add(columns, _codes(frame, groups))
        n_rows += len(frame)
    _put_together(pieces, exact, sums)
    return n_rows


def _codes(frame: Any, groups: _Groups) -> Ints:
    """The code of each row's group: int64 (n_rows,)."""
    if not groups.cells:
        return np.zeros(len(frame), dtype=np.int64)
    codes: Ints = frame["code"].to_numpy(dtype=np.int64)
    return codes


def _put_together(
    pieces: Sequence[_OwnedPiece],
    exact: ExactSums,
    sums: _Sums,
) -> None:
    """Sums of numbers, of those of their pieces: x = a + b gives x^2 = a^2 + 2 a b +
    b^2, x y = a y + b y.
    """
    for i, piece in enumerate(pieces):
        totals = sums.totals[piece.owner]
        for code, total in enumerate(exact.totals(i)):
            totals[code] += _whole(total * piece.unit, -LEAST_EXPONENT)
    for i, left in enumerate(pieces):
        for j, right in enumerate(pieces[i:], start=i):
            unit = left.unit * right.unit
            if i != j and left.owner == right.owner:
                unit *= 2
            products = sums.products[left.owner, right.owner]
            for code, product in enumerate(exact.products(i, j)):
                products[code] += _whole(product * unit, -2 * LEAST_EXPONENT)


def _whole(number: int, bits: int) -> int:
    """number / 2^bits, which is whole, as all that is summed are multiples of 1 / UNIT."""
    quotient, rest = divmod(number, 1 << bits)
    assert rest == 0, "a number is no multiple of 1 / UNIT"
    return quotient


def _add_one_by_one(
    dataset: Dataset,
    numbers: Sequence[Number],
    groups: _Groups,
    sums: _Sums,
    *,
    where: str,
) -> None:
    """Adds the rows with a number that is read from its text, such as 1e-300 or one of
    fifty digits.
    """
    cells = [number.exact for number in numbers]
    for batch in dataset.batches(_rows_sql(groups.cells, cells, where)):
        for row in batch:
            code = row[0] if groups.cells else 0
            values = row[-len(numbers) :]
            scaled_values = [
                _scaled(value, number)
                for value, number in zip(values, numbers, strict=True)
            ]
            sums.add_row(code, scaled_values)


def _scaled(value: float | str, number: Number) -> int:
    if isinstance(value, float) and not math.isfinite(value):
        raise not_finite(number.name)
    try:
        return scaled(value)
    except ValueError:
        raise BadRequest(
            f"Column {number.name} holds a number with more digits than can be added exactly.",
            remedy="Round it: below 1.8e308, at most 400 digits after the point.",
            code="digits",
        ) from None


def _finite(values: Any, number: Number) -> Floats:
    found: Floats = values.to_numpy(dtype=np.float64)
    if not np.isfinite(found).all():
        raise not_finite(number.name)
    return found


# --- what the largest rows make of a sum -------------------------------------------------------------------


@dataclass(frozen=True)
class _LargestShares:
    """What the two largest rows of a group make."""

    sizes: Fraction  # of sum |x|
    squares: Fraction  # of sum x^2


def _largest_shares(
    dataset: Dataset,
    number: Number,
    groups: _Groups,
    moments: Sequence[Moments],
    *,
    where: str,
) -> list[_LargestShares]:
    """By group, what the two largest |x| make of sum |x| and of sum x^2."""
    if len(moments) == 1:
        # A bound of the squares' share is one of the other.
        bound = _share_bound(number, moments[0])
        if bound <= SHARE_OF_INTEREST:
            return [_LargestShares(bound, bound)]
    # Of sizes of at most 1 no sum overflows.
    scale = 2.0 ** -max(number.top, -1_000)
    size = f"abs({number.double}) * CAST('{scale!r}' AS DOUBLE)"
    sizes = _rows_sql(groups.cells, [size], where)
    aggregates = "max(c0, 2), sum(c0), sum(c0 * c0)"
    if groups.cells:
        sql = f"SELECT code, {aggregates} FROM ({sizes}) GROUP BY code"  # noqa: S608
    else:
        sql = f"SELECT 0, {aggregates} FROM ({sizes})"  # noqa: S608
    nothing = Fraction(0)
    shares = [_LargestShares(nothing, nothing)] * len(moments)
    for code, two_largest, total, squares in dataset.query(sql):
        largest_squares = [size**2 for size in two_largest or ()]
        has_values = bool(moments[code].squares)
        shares[code] = _LargestShares(
            _share(two_largest, total, has_values=has_values),
            _share(largest_squares, squares, has_values=has_values),
        )
    return shares


def _share(
    largest: Sequence[float] | None, total: float | None, *, has_values: bool
) -> Fraction:
    if largest and total:
        share = round(sum(largest) / total, 12)
        return min(Fraction(1), Fraction(str(share)))
    # So much smaller than other groups that nothing is known: the rule has to withhold
    # them.
    return Fraction(1) if has_values else Fraction(0)


def _share_bound(number: Number, moments: Moments) -> Fraction:
    """2 max^2 / sum x^2, without a look at the rows: no less than the share, as sum |x|
    >= sum x^2 / max.
    """
    largest = Fraction(2) ** number.top
    squares = Fraction(moments.squares, UNIT**2)
    return 2 * largest**2 / squares if squares else Fraction(1)


# --- counts below pivots -----------------------------------------------------------------------------------


def counts_below(
    dataset: Dataset,
    column: str,
    pivots: Mapping[Label, Floats],
    *,
    group_by: Sequence[str] = (),
) -> dict[Label, Ints]:
    """For each group that has pivots (float64, rising), how many of its values lie
    below each: int64.

    A decimal counts as the double nearest to it. One pass, a batch of rows in memory.

    Disclosure: as `moments`.
    """
    number = number_of(dataset, column)

    def places(rising: Floats, rows: Any) -> Ints:
        x = _finite(rows["x"], number)
        return np.searchsorted(rising, x, side="right")

    labels = _labels(dataset, group_by)
    selected = ", ".join([*labels, f"{number.double} AS x"])
    sql = f"SELECT {selected} FROM rows WHERE {number.cell} IS NOT NULL"  # noqa: S608
    return _counts_below(dataset, sql, pivots, places, n_labels=len(group_by))


def whole_counts_below(
    dataset: Dataset,
    column: str,
    pivots: Mapping[Label, Sequence[int]],
    *,
    group_by: Sequence[str] = (),
) -> dict[Label, Ints]:
    """The same of a column for which `is_whole` holds, below rising whole numbers of 64
    bits, signed or not.

    Every digit counts, though neither a double nor an int64 holds them all: what is
    2^63 or more is compared by itself, 2^64 lower. Disclosure: as `moments`.
    """
    labels = _labels(dataset, group_by)
    value = whole_sql(dataset, column)
    labelled = ", ".join([*labels, f"{value} AS v"])
    is_large = f"v >= {wide(_HALF)}"
    shift = f"CASE WHEN {is_large} THEN {wide(2 * _HALF)} ELSE {wide(0)} END"
    names = _names("g", len(group_by))
    selected = ", ".join(
        [*names, f"CAST(v - {shift} AS BIGINT) AS x", f"{is_large} AS is_large"]
    )
    sql = f"SELECT {selected} FROM (SELECT {labelled} FROM rows) WHERE v IS NOT NULL"  # noqa: S608
    return _counts_below(dataset, sql, pivots, _whole_places, n_labels=len(group_by))


def _whole_places(rising: Sequence[int], rows: Any) -> Ints:
    x = rows["x"].to_numpy(dtype=np.int64)
    is_large = rows["is_large"].to_numpy(dtype=bool)
    small = [pivot for pivot in rising if pivot < _HALF]
    lowered = [pivot - 2 * _HALF for pivot in rising if pivot >= _HALF]
    among_small = _places(small, x)
    among_large = _places(lowered, x)
    places: Ints = np.where(is_large, len(small) + among_large, among_small)
    return places


def _places(rising: Sequence[int], x: Ints) -> Ints:
    pivots = np.array(rising, dtype=np.int64)
    return np.searchsorted(pivots, x, side="right")


def _counts_below(
    dataset: Dataset,
    sql: str,
    pivots: Mapping[Label, Any],
    places: Callable[[Any, Any], Ints],
    *,
    n_labels: int,
) -> dict[Label, Ints]:
    """sql: rows of labels and a value; places: how many of its group's pivots are no
    larger than a value.
    """
    at_place: dict[Label, Ints] = {}
    for label, rising in pivots.items():
        at_place[label] = np.zeros(len(rising) + 1, dtype=np.int64)
    names = _names("g", n_labels)
    for frame in dataset.frames(sql):
        groups: Any = [((), frame)]
        if names:
            values = [name for name in frame.columns if name not in names]
            groups = frame.groupby(names, dropna=False, sort=False)[values]
        for key, rows in groups:
            # pandas has NaN where DuckDB has NULL
            label = tuple(text if isinstance(text, str) else None for text in key)
            if label in at_place:
                found = at_place[label]
                of_rows = places(pivots[label], rows)
                found += np.bincount(of_rows, minlength=len(found))
    return {label: np.cumsum(found)[:-1] for label, found in at_place.items()}


# --- sketches of rows --------------------------------------------------------------------------------------


def sketch(
    dataset: Dataset,
    columns: Sequence[str],
    *,
    complete: Sequence[str] = (),
) -> tuple[Cells, int]:
    """uint64 (65536,) of the rows that have a value in every one of `complete`, and how
    many rows these are.

    A row's hash h adds h to the cell h % 65536, modulo 2^64. So two sets of rows that
    differ in d rows differ in at most d cells. h is DuckDB's hash of the values in the
    order of `columns`: sketches of two versions are compared, and a test holds that the
    hash has not changed.

    Disclosure: which rows two orders share, to who has both sketches; they stay in the
    vault.
    """
    row_hash = _hash(dataset, columns)
    present = _present(dataset, complete)
    hashes = f"SELECT {row_hash} AS h FROM rows WHERE {present}"  # noqa: S608
    sums = "sum(CAST(h AS HUGEINT)), count(*)"
    sql = f"SELECT h % {SKETCH_CELLS}, {sums} FROM ({hashes}) GROUP BY 1"  # noqa: S608
    cells = np.zeros(SKETCH_CELLS, dtype=np.uint64)
    n_rows = 0
    for cell, total, n in dataset.query(sql):
        cells[cell] = int(total) % 2**64
        n_rows += int(n)
    return cells, n_rows


def group_sketches(
    dataset: Dataset,
    columns: Sequence[str],
    *,
    complete: Sequence[str],
    group_by: Sequence[str],
) -> dict[Label, Cells]:
    """By group, uint64 (1 + 256,): how many rows it has, and a sketch of them as of
    `sketch`, in 256 cells.

    Disclosure: as `sketch`.
    """
    labels = _labels(dataset, group_by)
    row_hash = _hash(dataset, columns)
    present = _present(dataset, complete)
    selected = ", ".join([*labels, f"{row_hash} AS h"])
    hashes = f"SELECT {selected} FROM rows WHERE {present}"  # noqa: S608
    names = _names("g", len(group_by))
    keys = ", ".join([*names, f"h % {GROUP_CELLS}"])
    sums = "sum(CAST(h AS HUGEINT)), count(*)"
    sql = f"SELECT {keys}, {sums} FROM ({hashes}) GROUP BY {keys}"  # noqa: S608
    sketches: dict[Label, Cells] = {}
    for *label, cell, total, n in dataset.query(sql):
        empty = np.zeros(1 + GROUP_CELLS, dtype=np.uint64)
        cells = sketches.setdefault(tuple(label), empty)
        cells[0] += np.uint64(n)
        cells[1 + cell] = int(total) % 2**64
    return sketches


def _hash(dataset: Dataset, columns: Sequence[str]) -> str:
    # The constant makes a hash of no column possible, and is part of all sketches that
    # are kept.
    cells = ["''"]
    for name in columns:
        dataset.check_column(name)
        cells.append(quoted(name))
    return f"hash({', '.join(cells)})"


def _present(dataset: Dataset, columns: Sequence[str]) -> str:
    conditions: list[str] = []
    for name in columns:
        dataset.check_column(name)
        conditions.append(f"{quoted(name)} IS NOT NULL")
    return " AND ".join(conditions) or "true"


def _labels(dataset: Dataset, group_by: Sequence[str]) -> list[str]:
    return _named("g", [label_sql(dataset, name) for name in group_by])
