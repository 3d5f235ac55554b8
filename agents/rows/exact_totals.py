"""What a provider adds up over its rows: exact sums, counts and sketches, in bounded memory.

DuckDB reads the rows, a batch at a time, and says to which group each belongs. A column comes from it as one
or a few columns of doubles (`column_text`), which `analytics.statistics.exact_arrays` adds without an error.
Texts that no few doubles hold come as they are written, and are added one by one. Counts and sketches are
DuckDB's own aggregates.

To read next: `agents.statistics.pooled`, which contributes the sums, and `agents.gate.disclosure`, which
decides what is withheld.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from agents.rows.column_text import Number, label_sql, not_finite, number_of, whole_sql, wide
from agents.rows.dataset import Dataset, quoted
from analytics.arrays import Floats, Ints
from analytics.statistics.exact import UNIT, JointMoments, Moments, scaled
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
class Part:
    """One group of this provider's rows: n_rows in all, n_null of them without a value.

    largest_share: of sum |x|, what its two largest make; never less than the truth, and the truth (to 12 digits)
    where it is above SHARE_OF_INTEREST.
    """

    n_rows: int
    n_null: int
    moments: Moments
    largest_share: Fraction


@dataclass(frozen=True)
class JointPart:
    """The same for two columns; n_null rows lack a value in one of them. Shares are those of x and of y."""

    n_rows: int
    n_null: int
    moments: JointMoments
    largest_share: Fraction


def moments(dataset: Dataset, column: str, *, group_by: Sequence[str] = ()) -> dict[Label, Part]:
    """n, sum x and sum x^2 of a column, exact, by groups: labels are canonical texts in the order of `group_by`.

    Ungrouped, the one label is (). A group without any value is there with n = 0. Raises BadRequest as `number_of`,
    TooLarge (code groups) above MAX_GROUPS.

    Disclosure: sums of rows; they leave through agents.gate.disclosure and the sealed sum only.
    """
    number = number_of(dataset, column)
    groups = _groups_of(dataset, [number], group_by)
    sums = _exact_sums(dataset, [number], groups)
    of_group = [sums.moments(0, code, n=group.n_complete) for code, group in enumerate(groups.found)]
    shares = _largest_shares(dataset, number, groups, of_group, where=_complete([number]))
    return {
        group.label: Part(group.n_rows, group.n_rows - group.n_complete, found, share)
        for group, found, share in zip(groups.found, of_group, shares, strict=True)
    }


def joint_moments(
    dataset: Dataset, x: str, y: str, *, group_by: Sequence[str] = ()
) -> dict[Label, JointPart]:
    """The sums of two columns and of their products, exact, over the rows that have a value in both; as `moments`."""
    numbers = [number_of(dataset, x), number_of(dataset, y)]
    groups = _groups_of(dataset, numbers, group_by)
    sums = _exact_sums(dataset, numbers, groups)
    of_group = [sums.joint_moments(code, n=group.n_complete) for code, group in enumerate(groups.found)]
    both = _complete(numbers)
    of_x = _largest_shares(dataset, numbers[0], groups, [found.x for found in of_group], where=both)
    of_y = _largest_shares(dataset, numbers[1], groups, [found.y for found in of_group], where=both)
    return {
        group.label: JointPart(group.n_rows, group.n_rows - group.n_complete, found, max(share_x, share_y))
        for group, found, share_x, share_y in zip(groups.found, of_group, of_x, of_y, strict=True)
    }


def counts(dataset: Dataset, columns: Sequence[str]) -> dict[Label, int]:
    """How many rows have each combination of labels: frequencies, cross tables, sizes of groups; NULL is a label.

    TooLarge (code groups) above MAX_GROUPS. Disclosure: as `moments`.
    """
    return {group.label: group.n_rows for group in _groups_of(dataset, [], columns).found}


# --- counts below pivots ---------------------------------------------------------------------------------------------


def counts_below(
    dataset: Dataset, column: str, pivots: Mapping[Label, Floats], *, group_by: Sequence[str] = ()
) -> dict[Label, Ints]:
    """For each group that has pivots (float64, rising), how many of its values lie below each: int64, as many.

    A decimal counts as the double nearest to it. One pass, a batch of rows in memory. Disclosure: as `moments`.
    """
    number = number_of(dataset, column)

    def places(rising: Floats, rows: Any) -> Ints:
        return np.searchsorted(rising, _finite(rows["x"], number), side="right")

    selected = ", ".join([*_labels(dataset, group_by), f"{number.double} AS x"])
    sql = f"SELECT {selected} FROM rows WHERE {number.cell} IS NOT NULL"  # noqa: S608
    return _counts_below(dataset, sql, pivots, places, n_groups=len(group_by))


def whole_counts_below(
    dataset: Dataset, column: str, pivots: Mapping[Label, Sequence[int]], *, group_by: Sequence[str] = ()
) -> dict[Label, Ints]:
    """The same of a column for which `is_whole` holds, below rising whole numbers of 64 bits, signed or not.

    Every digit counts, though neither a double nor an int64 holds them all: what is 2^63 or more is compared by
    itself, 2^64 lower. Disclosure: as `moments`.
    """
    labelled = ", ".join([*_labels(dataset, group_by), f"{whole_sql(dataset, column)} AS v"])
    is_large = f"v >= {wide(_HALF)}"
    lowered = f"v - CASE WHEN {is_large} THEN {wide(2 * _HALF)} ELSE {wide(0)} END"
    selected = ", ".join([*_names(group_by), f"CAST({lowered} AS BIGINT) AS x", f"{is_large} AS is_large"])
    sql = f"SELECT {selected} FROM (SELECT {labelled} FROM rows) WHERE v IS NOT NULL"  # noqa: S608
    return _counts_below(dataset, sql, pivots, _whole_places, n_groups=len(group_by))


def _whole_places(rising: Sequence[int], rows: Any) -> Ints:
    x = rows["x"].to_numpy(dtype=np.int64)
    is_large = rows["is_large"].to_numpy(dtype=bool)
    small = np.array([pivot for pivot in rising if pivot < _HALF], dtype=np.int64)
    large = np.array([pivot - 2 * _HALF for pivot in rising if pivot >= _HALF], dtype=np.int64)
    among_small = np.searchsorted(small, x, side="right")
    among_large = len(small) + np.searchsorted(large, x, side="right")
    places: Ints = np.where(is_large, among_large, among_small)
    return places


def _counts_below(
    dataset: Dataset,
    sql: str,
    pivots: Mapping[Label, Any],
    places: Callable[[Any, Any], Ints],
    *,
    n_groups: int,
) -> dict[Label, Ints]:
    """sql: rows of n_groups labels and of a value; places: how many of its group's pivots are no larger than a row."""
    at_place = {label: np.zeros(len(rising) + 1, dtype=np.int64) for label, rising in pivots.items()}
    names = [f"g{i}" for i in range(n_groups)]
    for frame in dataset.frames(sql):
        values = [name for name in frame.columns if name not in names]
        groups = frame.groupby(names, dropna=False, sort=False)[values] if names else [((), frame)]
        for key, rows in groups:
            # pandas has NaN where DuckDB has NULL
            label = tuple(part if isinstance(part, str) else None for part in key)
            if label in at_place:
                found = at_place[label]
                found += np.bincount(places(pivots[label], rows), minlength=len(found))
    return {label: np.cumsum(found)[:-1] for label, found in at_place.items()}


def _finite(values: Any, number: Number) -> Floats:
    found: Floats = values.to_numpy(dtype=np.float64)
    if not np.isfinite(found).all():
        raise not_finite(number.name)
    return found


# --- sketches of rows ------------------------------------------------------------------------------------------------


def sketch(dataset: Dataset, columns: Sequence[str], *, complete: Sequence[str] = ()) -> tuple[Cells, int]:
    """uint64 (65536,) of the rows that have a value in every one of `complete`: a row's hash h adds h to the cell
    h % 65536, modulo 2^64. And how many rows these are.

    Two sets of rows that differ in d rows differ in at most d cells. h is DuckDB's hash of the values in the order of
    `columns`: sketches of two versions are compared, and a test holds that the hash has not changed.

    Disclosure: which rows two orders share, to who has both sketches; they stay in the vault.
    """
    hashes = f"SELECT {_hash(dataset, columns)} AS h FROM rows WHERE {_present(dataset, complete)}"  # noqa: S608
    sql = f"SELECT h % {SKETCH_CELLS}, sum(CAST(h AS HUGEINT)), count(*) FROM ({hashes}) GROUP BY 1"  # noqa: S608
    cells = np.zeros(SKETCH_CELLS, dtype=np.uint64)
    n_rows = 0
    for cell, total, n in dataset.query(sql):
        cells[cell] = int(total) % 2**64
        n_rows += int(n)
    return cells, n_rows


def group_sketches(
    dataset: Dataset, columns: Sequence[str], *, complete: Sequence[str], group_by: Sequence[str]
) -> dict[Label, Cells]:
    """By group, uint64 (1 + 256,): how many rows it has, and a sketch of them as `sketch` makes one, of 256 cells.

    Disclosure: as `sketch`.
    """
    selected = ", ".join([*_labels(dataset, group_by), f"{_hash(dataset, columns)} AS h"])
    hashes = f"SELECT {selected} FROM rows WHERE {_present(dataset, complete)}"  # noqa: S608
    keys = ", ".join([*_names(group_by), f"h % {GROUP_CELLS}"])
    sql = f"SELECT {keys}, sum(CAST(h AS HUGEINT)), count(*) FROM ({hashes}) GROUP BY {keys}"  # noqa: S608
    sketches: dict[Label, Cells] = {}
    for *label, cell, total, n in dataset.query(sql):
        cells = sketches.setdefault(tuple(label), np.zeros(1 + GROUP_CELLS, dtype=np.uint64))
        cells[0] += np.uint64(n)
        cells[1 + cell] = int(total) % 2**64
    return sketches


def _hash(dataset: Dataset, columns: Sequence[str]) -> str:
    # with a constant before them, so that the hash of one column, or of none, is of this form too
    cells = ["''", *(quoted(name) for name in columns if dataset.check_column(name))]
    return f"hash({', '.join(cells)})"


def _present(dataset: Dataset, columns: Sequence[str]) -> str:
    return (
        " AND ".join(f"{quoted(name)} IS NOT NULL" for name in columns if dataset.check_column(name))
        or "true"
    )


def _labels(dataset: Dataset, group_by: Sequence[str]) -> list[str]:
    return [f"{label_sql(dataset, name)} AS g{i}" for i, name in enumerate(group_by)]


def _names(group_by: Sequence[str]) -> list[str]:
    return [f"g{i}" for i in range(len(group_by))]


# --- groups ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Group:
    """Rows of one label: n_rows in all, n_complete of them with a value in every column that is summed."""

    label: Label
    n_rows: int
    n_complete: int


@dataclass(frozen=True)
class _Groups:
    """The groups of a dataset's rows. A group's place in `found` is its code; cells: each column of labels, as SQL.

    For each code, DuckDB's table `groups` holds the labels g0, g1, ...; without cells there is one group, of all rows,
    and no table.
    """

    cells: list[str]
    found: list[_Group]


def _groups_of(dataset: Dataset, numbers: Sequence[Number], group_by: Sequence[str]) -> _Groups:
    """Finds the groups, and leaves them in DuckDB so that it can name a row's group by a small number."""
    complete = _complete(numbers)
    if not group_by:
        if len(numbers) == 1:
            n_complete = numbers[0].n
        else:
            n_complete = dataset.query(f"SELECT count(*) FROM rows WHERE {complete}")[0][0]  # noqa: S608
        return _Groups([], [_Group((), dataset.n_rows, n_complete)])
    cells = [label_sql(dataset, name) for name in group_by]
    # grouped by places, as a column of the data may be called g0 itself
    places = ", ".join(str(1 + i) for i in range(len(cells)))
    counted = (
        f"SELECT {_named('g', cells)}, count(*), count(*) FILTER ({complete})"  # noqa: S608
        f" FROM rows GROUP BY {places} LIMIT {MAX_GROUPS + 1}"
    )
    numbered = f"SELECT row_number() OVER () - 1 AS code, * FROM ({counted})"  # noqa: S608
    dataset.query(f"CREATE OR REPLACE TEMP TABLE groups AS {numbered}")
    rows = dataset.query("SELECT * EXCLUDE code FROM groups ORDER BY code")
    if len(rows) > MAX_GROUPS:
        raise TooLarge(
            f"The data have more than {MAX_GROUPS} groups.",
            remedy="Group by columns of fewer values.",
            code="groups",
        )
    return _Groups(cells, [_Group(tuple(label), n_rows, n_complete) for *label, n_rows, n_complete in rows])


def _complete(numbers: Sequence[Number]) -> str:
    """Whether a row has a value in every column, as SQL."""
    return " AND ".join(f"{number.cell} IS NOT NULL" for number in numbers) or "true"


def _named(prefix: str, cells: Sequence[str]) -> str:
    return ", ".join(f"{cell} AS {prefix}{i}" for i, cell in enumerate(cells))


def _rows_sql(labels: Sequence[str], cells: Sequence[str], where: str) -> str:
    """A SELECT of some cells, as c0, c1, ..., of the rows for which `where` holds; before them the code of its group.

    >>> print(_rows_sql([], ["x", "2 * y"], where="x > 0"))
    SELECT x AS c0, 2 * y AS c1 FROM rows WHERE x > 0
    >>> print(_rows_sql(["city"], ["x"], where="x > 0"))
    SELECT code, c0 FROM (SELECT city AS g0, x AS c0 FROM rows WHERE x > 0) AS labelled
    JOIN groups ON labelled.g0 IS NOT DISTINCT FROM groups.g0
    """
    if not labels:
        return f"SELECT {_named('c', cells)} FROM rows WHERE {where}"  # noqa: S608
    labelled = f"SELECT {_named('g', labels)}, {_named('c', cells)} FROM rows WHERE {where}"  # noqa: S608
    names = ", ".join(f"c{i}" for i in range(len(cells)))
    # NULL is a label as any other, which = would not find
    is_same = " AND ".join(f"labelled.g{i} IS NOT DISTINCT FROM groups.g{i}" for i in range(len(labels)))
    return f"SELECT code, {names} FROM ({labelled}) AS labelled\nJOIN groups ON {is_same}"  # noqa: S608


# --- what the largest rows make of a sum -----------------------------------------------------------------------------


def _largest_shares(
    dataset: Dataset, number: Number, groups: _Groups, moments: Sequence[Moments], *, where: str
) -> list[Fraction]:
    """By group, what the two largest |x| make of sum |x|."""
    if len(moments) == 1:
        bound = _share_bound(number, moments[0])
        if bound is not None and bound <= SHARE_OF_INTEREST:
            return [bound]
    # at most 1 in size, so that no sum of them overflows
    size = f"abs({number.double}) * CAST('{2.0 ** -max(number.top, -1000)!r}' AS DOUBLE)"
    sizes = _rows_sql(groups.cells, [size], where)
    if groups.cells:
        sql = f"SELECT code, max(c0, 2), sum(c0) FROM ({sizes}) GROUP BY code"  # noqa: S608
    else:
        sql = f"SELECT 0, max(c0, 2), sum(c0) FROM ({sizes})"  # noqa: S608
    shares = [Fraction(0)] * len(moments)
    for code, two_largest, total in dataset.query(sql):
        if total:
            share = Fraction(str(round(sum(two_largest) / total, 12)))
            shares[code] = min(Fraction(1), share)
        elif moments[code].squares:
            # all so much smaller than those of other groups that nothing is known: the rule must hold them back
            shares[code] = Fraction(1)
    return shares


def _share_bound(number: Number, moments: Moments) -> Fraction | None:
    """2 max^2 / sum x^2: no less than the share, since sum |x| >= sum x^2 / max. It needs no look at the rows."""
    if not moments.squares:
        return None
    return 2 * Fraction(4) ** number.top * Fraction(UNIT**2, moments.squares)


# --- exact sums ------------------------------------------------------------------------------------------------------


class _Sums:
    """UNIT sum x_i of some numbers, and UNIT^2 sum x_i x_j of each pair i <= j, by the code of a group."""

    def __init__(self, n_numbers: int, n_groups: int) -> None:
        self.totals = [[0] * n_groups for _ in range(n_numbers)]
        self.products = {pair: [0] * n_groups for pair in combinations_with_replacement(range(n_numbers), 2)}

    def add_row(self, code: int, values: Sequence[int]) -> None:
        for i, value in enumerate(values):
            self.totals[i][code] += value
        for (i, j), products in self.products.items():
            products[code] += values[i] * values[j]

    def moments(self, i: int, code: int, *, n: int) -> Moments:
        return Moments(n, self.totals[i][code], self.products[i, i][code])

    def joint_moments(self, code: int, *, n: int) -> JointMoments:
        return JointMoments(
            n=n,
            total_x=self.totals[0][code],
            total_y=self.totals[1][code],
            squares_x=self.products[0, 0][code],
            squares_y=self.products[1, 1][code],
            products=self.products[0, 1][code],
        )


def _exact_sums(dataset: Dataset, numbers: Sequence[Number], groups: _Groups) -> _Sums:
    """Over the rows with a value in every column: what doubles hold in arrays, the rest one by one."""
    sums = _Sums(len(numbers), len(groups.found))
    complete = _complete(numbers)
    regular = " AND ".join(number.regular for number in numbers if number.regular) or "true"
    n_added = _add_arrays(dataset, numbers, groups, sums, where=f"{complete} AND ({regular})")
    if n_added < sum(group.n_complete for group in groups.found):
        _add_one_by_one(dataset, numbers, groups, sums, where=f"{complete} AND NOT ({regular})")
    return sums


@dataclass(frozen=True)
class _OwnedPiece:
    """A piece of a number. owner: which of the numbers; unit: in which 1 / UNIT it counts."""

    owner: int
    sql: str
    unit: int


def _add_arrays(
    dataset: Dataset, numbers: Sequence[Number], groups: _Groups, sums: _Sums, *, where: str
) -> int:
    """Adds rows of which doubles hold every number; returns how many they are."""
    pieces = [
        _OwnedPiece(owner, piece.sql, piece.unit)
        for owner, number in enumerate(numbers)
        for piece in number.pieces
    ]
    exact = ExactSums(len(pieces), len(groups.found))
    n_rows = 0
    for frame in dataset.frames(_rows_sql(groups.cells, [piece.sql for piece in pieces], where)):
        columns = [_finite(frame[f"c{i}"], numbers[piece.owner]) for i, piece in enumerate(pieces)]
        codes = frame["code"].to_numpy() if groups.cells else np.zeros(len(frame), dtype=np.int64)
        exact.add(columns, codes)
        n_rows += len(frame)
    for i, piece in enumerate(pieces):
        totals = sums.totals[piece.owner]
        for code, total in enumerate(exact.totals(i)):
            totals[code] += _whole(total * piece.unit, -LEAST_EXPONENT)
    for i, j in combinations_with_replacement(range(len(pieces)), 2):
        a, b = pieces[i], pieces[j]
        products = sums.products[a.owner, b.owner]
        # (a + b)^2 has a b twice; a and b of two numbers meet once
        times = 2 if a.owner == b.owner and i != j else 1
        unit = times * a.unit * b.unit
        for code, product in enumerate(exact.products(i, j)):
            products[code] += _whole(product * unit, -2 * LEAST_EXPONENT)
    return n_rows


def _whole(number: int, bits: int) -> int:
    """number / 2^bits, which is whole, as all that is summed are multiples of 1 / UNIT."""
    assert number & ((1 << bits) - 1) == 0, "a number is no multiple of 1 / UNIT"
    return number >> bits


def _add_one_by_one(
    dataset: Dataset, numbers: Sequence[Number], groups: _Groups, sums: _Sums, *, where: str
) -> None:
    """Adds rows with a number that is read from its text, such as 1e-300 or one of fifty digits."""
    for batch in dataset.batches(_rows_sql(groups.cells, [number.exact for number in numbers], where)):
        for row in batch:
            code = row[0] if groups.cells else 0
            cells = row[1:] if groups.cells else row
            sums.add_row(code, [_scaled(cell, number) for cell, number in zip(cells, numbers, strict=True)])


def _scaled(value: float | str, number: Number) -> int:
    try:
        return scaled(value)
    except ValueError:
        raise BadRequest(
            f"Column {number.name} holds a number with more digits than can be added exactly.",
            remedy="Round it: below 1.8e308, at most 400 digits after the point.",
            code="digits",
        ) from None
