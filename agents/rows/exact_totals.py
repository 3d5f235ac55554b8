"""What a provider adds up over its rows: exact sums, counts and sketches, by DuckDB's aggregates, in bounded memory.

A sum of doubles is exact where every partial sum is a whole number of at most 2^53 of one unit. So a number is cut into
limbs of 26 bits by adding and taking off 1.5 2^52, as in the error-free matrix products of Ozaki, Ogita, Oishi and Rump
(2012); products of limbs, which are exact, are cut into two halves; each is summed by itself. Three limbs hold every
double within 2^25 of the largest, six within 2^103. What is smaller goes through the same again, what little is left is
added one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import frexp, inf, isfinite, nextafter
from typing import Any

import numpy as np

from agents.rows.column_text import Number, Piece, label_sql, not_finite, number_of, whole_sql, wide
from agents.rows.dataset import Dataset, quoted
from analytics.arrays import Floats, Ints
from analytics.statistics.exact import JointMoments, Moments, scaled
from protocol.errors import BadRequest, TooLarge

Label = tuple[str | None, ...]
MAX_GROUPS = 100_000
STREAMED_ROWS = 100_000
MAX_BANDS = 8
SKETCH_CELLS = 65_536
GROUP_CELLS = 256
SHARE_OF_INTEREST = Fraction(1, 10)

_LIMBS = (3, 6)  # at least, and so many that six products of 2^50 stay below 2^53
_SAMPLE_ROWS = 8_192
_LAST = -1_074  # the exponent of the smallest double
_LIMB_BITS = 26
_HALF = 2**63  # the first whole number that no int64 holds
_EXACT_ROWS = 2**26  # above it sums of 2^52 units would leave the 53 bits of a double


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
    facts = _facts(dataset, [number], group_by)
    sums = _sums(dataset, [number], group_by, n_complete=sum(n for _, n in facts.values()))
    found = {label: sums.get(label, _Sums(1)) for label in facts}
    parts = {label: Moments(s.n, s.totals[0], s.products[0][0]) for label, s in found.items()}
    shares = _largest_shares(dataset, number, group_by, parts)
    return {
        label: Part(n, n - facts[label][1], parts[label], shares[label]) for label, (n, _) in facts.items()
    }


def joint_moments(
    dataset: Dataset, x: str, y: str, *, group_by: Sequence[str] = ()
) -> dict[Label, JointPart]:
    """The sums of two columns and of their products, exact, over the rows that have a value in both; as `moments`."""
    numbers = [number_of(dataset, x), number_of(dataset, y)]
    facts = _facts(dataset, numbers, group_by)
    sums = _sums(dataset, numbers, group_by, n_complete=sum(n for _, n in facts.values()))
    found = {label: sums.get(label, _Sums(2)) for label in facts}
    parts = {
        label: JointMoments(
            s.n, s.totals[0], s.totals[1], s.products[0][0], s.products[1][1], s.products[0][1]
        )
        for label, s in found.items()
    }
    both = f"{numbers[0].cell} IS NOT NULL AND {numbers[1].cell} IS NOT NULL"
    of_x = _largest_shares(dataset, numbers[0], group_by, {k: p.x for k, p in parts.items()}, where=both)
    of_y = _largest_shares(dataset, numbers[1], group_by, {k: p.y for k, p in parts.items()}, where=both)
    return {
        label: JointPart(n, n - facts[label][1], parts[label], max(of_x[label], of_y[label]))
        for label, (n, _) in facts.items()
    }


def counts(dataset: Dataset, columns: Sequence[str]) -> dict[Label, int]:
    """How many rows have each combination of labels: frequencies, cross tables, sizes of groups; NULL is a label.

    TooLarge (code groups) above MAX_GROUPS. Disclosure: as `moments`.
    """
    return {label: n for label, (n, _) in _facts(dataset, [], columns).items()}


def counts_below(
    dataset: Dataset, column: str, pivots: Mapping[Label, Floats], *, group_by: Sequence[str] = ()
) -> dict[Label, Ints]:
    """For each group that has pivots (float64, rising), how many of its values lie below each: int64, as many.

    A decimal counts as the double nearest to it. One pass, a batch of rows in memory. Disclosure: as `moments`.
    """
    number = number_of(dataset, column)

    def places(rising: Floats, rows: Any) -> Ints:
        return np.searchsorted(rising, _finite(rows["x"], number), side="right")

    sql = (
        f"SELECT {_labels(dataset, group_by)} {number.double} AS x FROM rows WHERE {number.cell} IS NOT NULL"  # noqa: S608
    )
    return _counts_below(dataset, sql, pivots, places, n_groups=len(group_by))


def whole_counts_below(
    dataset: Dataset, column: str, pivots: Mapping[Label, Sequence[int]], *, group_by: Sequence[str] = ()
) -> dict[Label, Ints]:
    """The same of a column for which `is_whole` holds, below rising whole numbers of 64 bits, signed or not.

    Every digit counts, though neither a double nor an int64 holds them all: what is 2^63 or more is compared by
    itself, 2^64 lower. Disclosure: as `moments`.
    """
    values = f"SELECT {_labels(dataset, group_by)} {whole_sql(dataset, column)} AS v FROM rows"  # noqa: S608
    is_large = f"v >= {wide(_HALF)}"
    x = f"CAST(v - CASE WHEN {is_large} THEN {wide(2 * _HALF)} ELSE {wide(0)} END AS BIGINT)"
    sql = f"SELECT {_names(group_by)} {x} AS x, {is_large} AS is_large FROM ({values}) WHERE v IS NOT NULL"  # noqa: S608
    return _counts_below(dataset, sql, pivots, _whole_places, n_groups=len(group_by))


def _whole_places(rising: Sequence[int], rows: Any) -> Ints:
    x, is_large = rows["x"].to_numpy(dtype=np.int64), rows["is_large"].to_numpy(dtype=bool)
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
    below = {label: np.zeros(len(rising) + 1, dtype=np.int64) for label, rising in pivots.items()}
    names = [f"g{i}" for i in range(n_groups)]
    for frame in dataset.frames(sql):
        values = [name for name in frame.columns if name not in names]
        groups = frame.groupby(names, dropna=False, sort=False)[values] if names else [((), frame)]
        for key, rows in groups:
            label = tuple(part if isinstance(part, str) else None for part in key)
            if label in below:
                below[label] += np.bincount(places(pivots[label], rows), minlength=len(below[label]))
    return {label: np.cumsum(found)[:-1] for label, found in below.items()}


def _finite(values: Any, number: Number) -> Floats:
    found: Floats = values.to_numpy(dtype=np.float64)
    if not np.isfinite(found).all():
        raise not_finite(number.name)
    return found


def sketch(
    dataset: Dataset, columns: Sequence[str], *, complete: Sequence[str] = ()
) -> tuple[np.ndarray[Any, np.dtype[np.uint64]], int]:
    """uint64 (65536,) of the rows that have a value in every one of `complete`: a row's hash h adds h to the cell
    h % 65536, modulo 2^64. And how many rows these are.

    Two sets of rows that differ in d rows differ in at most d cells. h is DuckDB's hash of the values in the order of
    `columns`: sketches of two versions are compared, and a test holds that the hash has not changed.

    Disclosure: which rows two orders share, to who has both sketches; they stay in the vault.
    """
    cells = [quoted(name) for name in columns if dataset.check_column(name)]
    hashed = ", ".join(["''", *cells])
    where = (
        " AND ".join(f"{quoted(name)} IS NOT NULL" for name in complete if dataset.check_column(name))
        or "true"
    )
    hashes = f"SELECT hash({hashed}) AS h FROM rows WHERE {where}"  # noqa: S608
    sql = f"SELECT h % {SKETCH_CELLS}, sum(CAST(h AS HUGEINT)), count(*) FROM ({hashes}) GROUP BY 1"  # noqa: S608
    found, n_rows = np.zeros(SKETCH_CELLS, dtype=np.uint64), 0
    for cell, total, n in dataset.query(sql):
        found[cell] = int(total) % 2**64
        n_rows += int(n)
    return found, n_rows


def group_sketches(
    dataset: Dataset, columns: Sequence[str], *, complete: Sequence[str], group_by: Sequence[str]
) -> dict[Label, np.ndarray[Any, np.dtype[np.uint64]]]:
    """By group, uint64 (1 + 256,): how many rows it has, and a sketch of them as `sketch` makes one, of 256 cells.

    Disclosure: as `sketch`.
    """
    hashed = ", ".join(quoted(name) for name in columns if dataset.check_column(name))
    where = " AND ".join(f"{quoted(name)} IS NOT NULL" for name in complete if dataset.check_column(name))
    hashes = f"SELECT {_labels(dataset, group_by)} hash('', {hashed}) AS h FROM rows WHERE {where}"  # noqa: S608
    found: dict[Label, np.ndarray[Any, np.dtype[np.uint64]]] = {}
    sql = (
        f"SELECT {_names(group_by)} h % {GROUP_CELLS}, sum(CAST(h AS HUGEINT)), count(*) FROM ({hashes})"  # noqa: S608
        f"{_grouped(group_by)}, h % {GROUP_CELLS}"
    )
    for *label, cell, total, n in dataset.query(sql):
        cells = found.setdefault(tuple(label), np.zeros(1 + GROUP_CELLS, dtype=np.uint64))
        cells[0] += np.uint64(n)
        cells[1 + cell] = int(total) % 2**64
    return found


# --- groups ----------------------------------------------------------------------------------------------------------


def _labels(dataset: Dataset, group_by: Sequence[str]) -> str:
    return "".join(f"{label_sql(dataset, name)} AS g{i}, " for i, name in enumerate(group_by))


def _grouped(group_by: Sequence[str]) -> str:
    return f" GROUP BY {', '.join(f'g{i}' for i in range(len(group_by)))}" if group_by else ""


def _names(group_by: Sequence[str]) -> str:
    return "".join(f"g{i}, " for i in range(len(group_by)))


def _facts(
    dataset: Dataset, numbers: Sequence[Number], group_by: Sequence[str]
) -> dict[Label, tuple[int, int]]:
    """By group: rows, and rows with a value in every one of `numbers`."""
    if not group_by and len(numbers) == 1:
        return {(): (dataset.n_rows, numbers[0].n)}
    complete = " AND ".join(f"{number.cell} IS NOT NULL" for number in numbers) or "true"
    sql = f"SELECT {_labels(dataset, group_by)} count(*), count(*) FILTER ({complete}) FROM rows{_grouped(group_by)}"  # noqa: S608
    found: dict[Label, tuple[int, int]] = {}
    for batch in dataset.batches(sql):
        found |= {row[:-2]: (int(row[-2]), int(row[-1])) for row in batch}
        if len(found) > MAX_GROUPS:
            raise TooLarge(
                f"The data have more than {MAX_GROUPS} groups.",
                remedy="Group by columns of fewer values.",
                code="groups",
            )
    return found


def _largest_shares(
    dataset: Dataset,
    number: Number,
    group_by: Sequence[str],
    parts: Mapping[Label, Moments],
    *,
    where: str = "true",
) -> dict[Label, Fraction]:
    """By group, what the two largest |x| make of sum |x|."""
    if (bound := _share_bound(number, parts)) is not None:
        return bound
    size = f"abs({number.double}) * {_double(2.0 ** -max(number.top, -1000))}"
    sql = (
        f"SELECT {_names(group_by)} max(x, 2), sum(x) FROM (SELECT {_labels(dataset, group_by)} {size} AS x FROM rows"  # noqa: S608
        f" WHERE {number.cell} IS NOT NULL AND {where}){_grouped(group_by)}"
    )
    shares = dict.fromkeys(parts, Fraction(0))
    for *label, largest, total in dataset.query(sql):
        if total:
            shares[tuple(label)] = min(Fraction(1), Fraction(str(round(sum(largest) / total, 12))))
        elif parts[tuple(label)].squares:  # all so much smaller than other groups that nothing is known
            shares[tuple(label)] = Fraction(1)
    return shares


def _share_bound(number: Number, parts: Mapping[Label, Moments]) -> dict[Label, Fraction] | None:
    """2 max^2 / sum x^2, which is no less than the share since sum |x| >= sum x^2 / max; None unless small enough."""
    if len(parts) != 1:
        return None
    ((label, part),) = parts.items()
    size = 2 * scaled(1) ** 2
    bound = Fraction(size * 4**number.top if number.top >= 0 else size // 4**-number.top, part.squares or 1)
    return {label: bound} if bound <= SHARE_OF_INTEREST else None


# --- exact sums ------------------------------------------------------------------------------------------------------


@dataclass
class _Sums:
    """n rows, sum x_i and sum x_i x_j of some numbers, at the scales UNIT and UNIT^2."""

    width: int
    n: int = 0
    totals: list[int] = field(init=False)
    products: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.totals = [0] * self.width
        self.products = [[0] * self.width for _ in range(self.width)]

    def add_row(self, values: Sequence[int]) -> None:
        self.n += 1
        for i, x in enumerate(values):
            self.totals[i] += x
            for j, y in enumerate(values):
                self.products[i][j] += x * y


def _sums(
    dataset: Dataset, numbers: Sequence[Number], group_by: Sequence[str], *, n_complete: int
) -> dict[Label, _Sums]:
    """Band after band in SQL, from the largest numbers down; the rest, and what is not regular, one by one."""
    complete = " AND ".join(f"{number.cell} IS NOT NULL" for number in numbers)
    regular = " AND ".join(number.regular for number in numbers if number.regular) or "true"
    owners = [i for i, number in enumerate(numbers) for _ in number.pieces]
    pieces = [piece for number in numbers for piece in number.pieces]
    sums: dict[Label, _Sums] = {}
    left, n_left = f"({complete}) AND ({regular})", n_complete
    for _ in range(MAX_BANDS):
        bands = _bands(dataset, pieces, left)
        inside = " AND ".join(band.inside for band in bands)
        rows = dataset.query(_band_sql(dataset, bands, group_by, f"{left} AND {inside}"))
        n_done = _add_band(sums, rows, bands, owners, len(numbers))
        n_left -= n_done
        left = f"{left} AND NOT ({inside})"
        if n_left <= STREAMED_ROWS:
            break
        pieces = _narrower(dataset, pieces, left)
    if n_left:
        rest = left if regular == "true" else f"({complete}) AND (NOT ({regular}) OR ({left}))"
        _stream(dataset, numbers, group_by, rest, sums)
    return sums


def _bands(dataset: Dataset, pieces: Sequence[Piece], left: str) -> list[_Band]:
    """As many limbs as nearly all of the first rows need."""
    sizes = ", ".join(f"abs({piece.sql})" for piece in pieces)
    rows = dataset.query(f"SELECT {sizes} FROM rows WHERE {left} LIMIT {_SAMPLE_ROWS}")  # noqa: S608
    return [_Band.of(piece, [row[i] for row in rows]) for i, piece in enumerate(pieces)]


def _narrower(dataset: Dataset, pieces: Sequence[Piece], left: str) -> list[Piece]:
    """The pieces with the sizes that they have in the rows that are left."""
    sizes = ", ".join(f"max(abs({piece.sql}))" for piece in pieces)
    found = dataset.query(f"SELECT {sizes} FROM rows WHERE {left}")[0]  # noqa: S608
    return [
        piece if piece.is_whole else replace(piece, top=frexp(size or 0.0)[1])
        for piece, size in zip(pieces, found, strict=True)
    ]


@dataclass(frozen=True)
class _Band:
    """A piece that is cut into limbs; the last limb counts in units of 2^last."""

    piece: Piece
    n_limbs: int
    last: int
    has_zeros: bool = False  # to look for them takes a fifth of the time, so only where the sample has some

    @classmethod
    def of(cls, piece: Piece, sample: Sequence[float]) -> _Band:
        if piece.is_whole:
            return cls(piece, max(1, -(-(piece.top + 1) // _LIMB_BITS)), 0)
        exponents = sorted(frexp(size)[1] for size in sample if size)
        least = exponents[len(exponents) // 1000] if exponents else piece.top
        least_limbs, most_limbs = _LIMBS
        n_limbs = min(max(-(-(piece.top - least + 54) // _LIMB_BITS), least_limbs), most_limbs)
        last = max(piece.top + 1 - n_limbs * _LIMB_BITS, _LAST)
        return cls(piece, n_limbs, last, len(exponents) < len(sample))

    @property
    def first(self) -> int:
        return self.last + _LIMB_BITS * (self.n_limbs - 1)

    @property
    def scaled(self) -> str:
        """The piece in units of the first limb, below 2^25 in size; exact but for what `inside` leaves out."""
        return f"({self.piece.sql}) * {_double(2.0**-self.first)}"

    @property
    def inside(self) -> str:
        """Whether the limbs hold a number: zero, or below 2^top and so large that its last bit is 2^last or more."""
        if self.piece.is_whole:
            return "true"
        size, least = f"abs({self.piece.sql})", 2.0 ** (self.last + 52) if self.last > _LAST else 0.0
        most = nextafter(2.0**self.piece.top if self.piece.top < 1024 else inf, 0.0)
        large = f"{size} BETWEEN {_double(least)} AND {_double(most)}"
        return f"({large} OR {size} = 0)" if self.has_zeros else large


def _double(value: float) -> str:
    return f"CAST('{value!r}' AS DOUBLE)"


_CUT = _double(1.5 * 2**52)
_HALVE = _double(1.5 * 2 ** (52 + _LIMB_BITS))


def _band_sql(dataset: Dataset, bands: Sequence[_Band], group_by: Sequence[str], where: str) -> str:
    """One row by group: label, n, sums of limbs, sums of the upper and lower halves of products of limbs."""
    groups = _names(group_by)
    first = ", ".join(f"{band.scaled} AS y{p}" for p, band in enumerate(bands))
    sql = f"SELECT {_labels(dataset, group_by)} {first} FROM rows WHERE {where}"  # noqa: S608
    limbs: list[str] = []
    for i in range(max(band.n_limbs for band in bands)):
        cut = [p for p, band in enumerate(bands) if i < band.n_limbs]
        pairs = ", ".join(f"y{p}, (y{p} + {_CUT}) - {_CUT} AS q{p}_{i}" for p in cut)
        kept = "".join(f"{limb}, " for limb in limbs)
        sql = f"SELECT {groups} {kept} {pairs} FROM ({sql})"  # noqa: S608
        limbs += [f"q{p}_{i}" for p in cut]
        kept = "".join(f"{limb}, " for limb in limbs)
        rest = ", ".join(f"(y{p} - q{p}_{i}) * {_double(2.0**_LIMB_BITS)} AS y{p}" for p in cut)
        sql = f"SELECT {groups} {kept} {rest} FROM ({sql})"  # noqa: S608
    products = _products(bands)
    named = "".join(f", {product} AS z{k}" for k, product in enumerate(products))
    sql = f"SELECT {groups} {', '.join(limbs)}{named} FROM ({sql})"  # noqa: S608
    halves = "".join(f", (z{k} + {_HALVE}) - {_HALVE} AS h{k}, z{k}" for k in range(len(products)))
    sql = f"SELECT {groups} {', '.join(limbs)}{halves} FROM ({sql})"  # noqa: S608
    add = "sum({})" if dataset.n_rows <= _EXACT_ROWS else "sum(CAST({} AS BIGINT))"
    in_order = [f"q{p}_{i}" for p, band in enumerate(bands) for i in range(band.n_limbs)]
    halved = [half for k in range(len(products)) for half in (f"h{k}", f"z{k} - h{k}")]
    added = ", ".join(add.format(term) for term in (*in_order, *halved))
    return f"SELECT {groups} count(*), {added} FROM ({sql}){_grouped(group_by)}"  # noqa: S608


def _pairs(n: int) -> list[tuple[int, int]]:
    return [(a, b) for a in range(n) for b in range(a, n)]


def _products(bands: Sequence[_Band]) -> list[str]:
    """For each pair of pieces, and for each place, the products of limbs that fall on it: at most three 2^50."""
    return [
        " + ".join(
            f"q{a}_{i} * q{b}_{place - i}"
            for i in range(bands[a].n_limbs)
            if 0 <= place - i < bands[b].n_limbs
        )
        for a, b in _pairs(len(bands))
        for place in range(bands[a].n_limbs + bands[b].n_limbs - 1)
    ]


def _add_band(
    sums: dict[Label, _Sums],
    rows: Sequence[tuple[Any, ...]],
    bands: Sequence[_Band],
    owners: Sequence[int],
    width: int,
) -> int:
    """Adds what `_band_sql` gave; returns how many rows it was over."""
    n_labels, n_done = 0, 0
    for row in rows:
        n_terms = sum(band.n_limbs for band in bands) + 2 * len(_products(bands))
        n_labels = len(row) - 1 - n_terms
        group = sums.setdefault(row[:n_labels], _Sums(width))
        terms = iter([int(term or 0) for term in row[n_labels + 1 :]])
        group.n += int(row[n_labels])
        n_done += int(row[n_labels])
        for band, owner in zip(bands, owners, strict=True):
            group.totals[owner] += _unscaled(
                [next(terms) for _ in range(band.n_limbs)], band.piece.unit, band.last
            )
        for a, b in _pairs(len(bands)):
            places = [next(terms) + next(terms) for _ in range(bands[a].n_limbs + bands[b].n_limbs - 1)]
            unit = bands[a].piece.unit * bands[b].piece.unit
            product = _unscaled(places, unit, bands[a].last + bands[b].last)
            group.products[owners[a]][owners[b]] += product
            if a != b:
                group.products[owners[b]][owners[a]] += product
    return n_done


def _unscaled(limbs: Sequence[int], unit: int, last: int) -> int:
    """sum of limbs, each 2^26 of the next, the last in units of 2^last, times unit; whole, as numbers are."""
    total = 0
    for limb in limbs:
        total = (total << _LIMB_BITS) + limb
    whole, rest = divmod(total * unit << max(last, 0), 1 << max(-last, 0))
    assert rest == 0, "a number is no multiple of 1 / UNIT"
    return whole


def _stream(
    dataset: Dataset, numbers: Sequence[Number], group_by: Sequence[str], where: str, sums: dict[Label, _Sums]
) -> None:
    values = ", ".join(number.exact for number in numbers)
    for batch in dataset.batches(f"SELECT {_labels(dataset, group_by)} {values} FROM rows WHERE {where}"):  # noqa: S608
        for row in batch:
            group = sums.setdefault(row[: len(group_by)], _Sums(len(numbers)))
            group.add_row(
                [_scaled(value, number) for value, number in zip(row[len(group_by) :], numbers, strict=True)]
            )


def _scaled(value: float | str, number: Number) -> int:
    if isinstance(value, float) and not isfinite(value):
        raise not_finite(number.name)
    try:
        return scaled(value)
    except ValueError:
        raise BadRequest(
            f"Column {number.name} holds a number with more digits than can be added exactly.",
            remedy="Round it: below 1.8e308, at most 400 digits after the point.",
            code="digits",
        ) from None
