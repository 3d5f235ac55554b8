"""What the answers that somebody has, put together, tell of few people or of few
hospitals.

Whoever knows the totals of some sets of people also knows every combination of them.
The sets cut the people into *cells*: two people are in one cell if they are in the same
sets. With M the 0/1 matrix of sets by cells, the combination x of the totals is

    sum_c y_c (total of cell c),    y = x' M,

a statement about the people of the cells with y_c != 0 and about nobody else. If they
are fewer than `min_rows`, the answers tell it, however harmless each of them is: of the
four sets A, A - S1, A - S2 and A - S1 - S2 - p, the first and the last less the other
two are p alone. `audit_people` looks for such a combination, `audit_hospitals` for one
in which the totals of all hospitals but a few cancel.

The rows x' M are a linear code and the least number of people is its minimum distance.
Nobody can compute that for large codes, and here nobody has to: it is enough that no
word weighs less than `min_rows`, a small number, which is shown by *information sets*
as Brouwer and Zimmermann do. k columns that are independent are the places at which a
word can be chosen freely. With g of them that have no column in common, a word that is
not 0 at more than t places of each weighs more than g t; and those that are not 0 at
t or fewer places of one of them can be listed.

Sources: Chin and Ozsoyoglu, Auditing and inference control in statistical databases,
IEEE Transactions on Software Engineering 8 (1982), for the audit by linear algebra,
here with a least size; Zimmermann, Integral Hecke modules, integral generalized
reduction (1996), and Grassl, Searching for linear codes with large minimum distance
(2006), for the search.

Arithmetic is modulo primes of 31 bits that are drawn for each audit: a prime that is
known could be aimed at, with sets that are independent but for it. A rank can only be
too low modulo a prime, so of two primes the one with the larger ranks counts.

Decision 68. To read next: who asks, `agents.gate`.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import comb

import numpy as np
from numpy.typing import NDArray

from analytics.arrays import Bools, Ints, Places

Bitmaps = NDArray[np.uint8]
"""(n_sets, ceil(n_members / 8)), the bits in the order of np.packbits."""

Part = int | tuple[int, str]
"""Who brought a summand of a total: a hospital, or a hospital's column."""

PRIME_BITS = 31
N_PRIMES = 2

# Pairs of combinations, times cells: some three seconds on one core.
PAIR_LIMIT = 30_000_000
# Groups of hospitals that could be left, and these times the rank of what is left of
# all of them: some five seconds.
GROUP_LIMIT = 20_000
RANK_LIMIT = 20_000

# Members whose bitmaps are turned at a time: what is read and written stays in cache.
TURNED_BYTES = 2**12
# Cells of which a matrix is made at a time.
CELL_BLOCK = 2**14


class Verdict(enum.Enum):
    """What an audit found."""

    PASSES = "passes"  # no combination tells of few
    TELLS_FEW = "tells few"  # there is one, and it was found
    UNDECIDED = "undecided"  # there may be one: refuse, with the rule audit_size


@dataclass(frozen=True)
class Finding:
    """A verdict, and for TELLS_FEW the earlier sets of one combination that does, or
    the hospitals that it tells of against their word.

    Disclosure: which earlier answers a new one may not be put beside. For the
    hospital's own ledger and for the sentence of its refusal.
    """

    verdict: Verdict
    earlier: tuple[int, ...] = ()  # numbers of sets, ascending
    hospitals: tuple[int, ...] = ()  # ascending


PASSES = Finding(Verdict.PASSES)
UNDECIDED = Finding(Verdict.UNDECIDED)


def audit_people(
    sets: Bitmaps,
    persons: Ints,
    *,
    n_new: int,
    min_rows: int,
    prime: Callable[[], int],
) -> Finding:
    """Whether the last `n_new` sets, with the others before them, tell of fewer than
    `min_rows` people.

    TELLS_FEW if there is an x with  0 < |persons of the cells c with (x' M)_c != 0| <
    min_rows,  and x' M is no combination of the earlier sets alone: what they tell is
    told already, and must not refuse everything that comes after them.

    sets: (n_sets, ceil(n_members / 8)) uint8, packed bitmaps over the members, the
    earlier ones first. persons: (n_members,) int, the person of each member; several
    members may be one person, with values of different times, but in one set a person
    has one member at most. prime: gives a prime of 31 bits each time it is called, from
    a source that nobody can foresee (`draw_prime`).

    ValueError if the shapes do not fit together or n_new or min_rows is below 1.

    >>> everybody = np.packbits([[1] * 9, [1] * 8 + [0]], axis=1)
    >>> primes = iter([2147483629, 2147483587])
    >>> audit_people(
    ...     everybody, np.arange(9), n_new=1, min_rows=2, prime=lambda: next(primes)
    ... )
    Finding(verdict=<Verdict.TELLS_FEW: 'tells few'>, earlier=(0,), hospitals=())
    """
    _check_people(sets, persons, n_new, min_rows)
    cells = _cells_of(sets, persons)
    is_new = _last(len(sets), n_new)
    primes = [prime() for _ in range(N_PRIMES)]
    return _audit_cells(cells, _is_first(sets), is_new, min_rows, primes)


def _check_people(sets: Bitmaps, persons: Ints, n_new: int, min_rows: int) -> None:
    n_bytes = (len(persons) + 7) // 8
    if sets.ndim != 2 or sets.shape[1] != n_bytes:
        raise ValueError(
            f"sets has the shape {sets.shape}; {n_bytes} bytes a set are expected."
        )
    if not 1 <= n_new <= len(sets):
        raise ValueError(f"n_new is {n_new}; 1 to {len(sets)} is allowed.")
    if min_rows < 1:
        raise ValueError(f"min_rows is {min_rows}; 1 or more is allowed.")


def _last(n_sets: int, n_new: int) -> Bools:
    return np.arange(n_sets) >= n_sets - n_new


# --- cells


@dataclass(frozen=True, eq=False)
class _Cells:
    """People by the sets that they are in; who is in none is left out."""

    words: NDArray[np.uint64]  # (n_cells, n_words), bit i of them all is set i
    counts: Ints  # (n_cells,) members, which are as many persons
    cell: Places  # (n_members,) the cell of each member
    persons: Ints  # (n_members,) the person of each member

    def columns(self, cells: Places, sets: Places) -> Ints:
        """The part of M with these sets and cells: (n_sets, n_cells), 0 and 1."""
        octets = self.words[cells].view(np.uint8)
        bits = np.unpackbits(octets, axis=1, bitorder="little")
        return bits[:, sets].T.astype(np.int64)

    def restricted(self, is_kept: Bools) -> _Cells:
        """The cells that some of the sets make; sets keep their numbers."""
        bits = np.zeros(self.words.shape[1] * 64, dtype=np.bool_)
        bits[: len(is_kept)] = is_kept
        mask = np.packbits(bits, bitorder="little").view(np.uint64)
        masked = self.words & mask
        is_somewhere = masked.any(axis=1)
        words, merged = _distinct(masked[is_somewhere])
        # From an old cell to the one it is a part of now; -1 if it is in no set.
        new_cell = np.full(len(self.words), -1, dtype=np.intp)
        new_cell[is_somewhere] = merged
        cell = new_cell[self.cell]
        is_member = cell >= 0
        cell, persons = cell[is_member], self.persons[is_member]
        return _Cells(words, np.bincount(cell, minlength=len(words)), cell, persons)


def _cells_of(sets: Bitmaps, persons: Ints) -> _Cells:
    words = _turned(sets)[: len(persons)]
    is_somewhere = words.any(axis=1)
    distinct, cell = _distinct(words[is_somewhere])
    counts = np.bincount(cell, minlength=len(distinct))
    return _Cells(distinct, counts, cell, persons[is_somewhere])


def _turned(sets: Bitmaps) -> NDArray[np.uint64]:
    """By member the sets that it is in, bit i for set i: (8 n_bytes, n_words)."""
    n_sets, n_bytes = sets.shape
    n_words = (n_sets + 63) // 64
    octets = np.zeros((n_bytes * 8, n_words * 8), dtype=np.uint8)
    for start in range(0, n_bytes, TURNED_BYTES):
        stop = min(start + TURNED_BYTES, n_bytes)
        members = octets[start * 8 : stop * 8]
        for octet in range(0, n_sets, 8):
            eight_sets = np.zeros((8, stop - start), dtype=np.uint8)
            block = sets[octet : octet + 8, start:stop]
            eight_sets[: len(block)] = block
            members[:, octet // 8] = _turned_squares(eight_sets)
    return octets.view("<u8")


def _turned_squares(eight_sets: Bitmaps) -> NDArray[np.uint8]:
    """From eight bitmaps a byte for each member, by turning squares of 8 x 8 bits.

    A square is a 64-bit number, its rows are bytes. Three steps swap the corners of
    squares of 2, 4 and 8 (Warren, Hacker's Delight, 7-3).
    """
    squares = np.ascontiguousarray(eight_sets.T).view("<u8")[:, 0]
    for shift, corner in (
        (7, 0x00AA00AA00AA00AA),
        (14, 0x0000CCCC0000CCCC),
        (28, 0x00000000F0F0F0F0),
    ):
        step = np.uint64(shift)
        swapped = (squares ^ (squares >> step)) & np.uint64(corner)
        squares = squares ^ swapped ^ (swapped << step)
    # A bitmap has its first member in the highest bit, which became the last row.
    return squares.view(np.uint8).reshape(-1, 8)[:, ::-1].reshape(-1)


def _distinct(words: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], Places]:
    """The different rows, and for each row which of them it is."""
    keys = _mixed(words)
    order = np.argsort(keys, kind="stable")
    distinct, index = _runs(words, order, keys[order][:, np.newaxis])
    # Two different rows with one key are next to impossible, but nothing may hang on
    # it.
    if words.shape[1] > 1 and not np.array_equal(distinct[index], words):
        order = np.lexsort(words.T)
        distinct, index = _runs(words, order, words[order])
    return distinct, index


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A key for each row, which for rows of one word is the row itself."""
    keys = words[:, 0].copy()
    for column in words.T[1:]:
        keys *= np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
        keys *= np.uint64(0xD6E8FEB86659FD93)
        keys ^= keys >> np.uint64(32)
        keys += column
    return keys


def _runs(
    words: NDArray[np.uint64], order: Places, in_order: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], Places]:
    """Rows that are equal stand side by side in this order: one of each, and which."""
    is_first = np.ones(len(words), dtype=np.bool_)
    is_first[1:] = (in_order[1:] != in_order[:-1]).any(axis=1)
    index = np.empty(len(words), dtype=np.intp)
    index[order] = np.cumsum(is_first) - 1
    return words[order[is_first]], index


def _peeled(cells: _Cells, is_set: Bools, min_rows: int) -> tuple[_Cells, Bools]:
    """Leave out sets that no telling combination can hold.

    A set that has a cell of min_rows people or more to itself can have no part in a
    combination that tells of fewer. Without it cells become one and may be large
    enough to be the only such cell of another set, so again.
    """
    is_kept = is_set.copy()
    while True:
        large = np.flatnonzero(cells.counts >= min_rows)
        numbers = np.flatnonzero(is_kept)
        holds = cells.columns(large, numbers).astype(np.bool_)
        n_holding = holds.sum(axis=0)
        dropped = np.zeros(len(numbers), dtype=np.bool_)
        while True:
            alone = holds[:, n_holding == 1].any(axis=1) & ~dropped
            if not alone.any():
                break
            n_holding -= holds[alone].sum(axis=0)
            holds[alone] = False
            dropped |= alone
        if not dropped.any():
            return cells, is_kept
        is_kept[numbers[dropped]] = False
        cells = cells.restricted(is_kept)


# --- combinations modulo a prime


@dataclass(frozen=True, eq=False)
class _Base:
    """Combinations that are the unit vectors on some cells: an information set."""

    combinations: Ints  # (k, n_sets) modulo the prime
    pivots: Places  # (k,) the cell on which each of them alone is not 0, and is 1


def _solved(
    combinations: Ints,
    order: Places,
    columns: Callable[[Places], Ints],
    prime: int,
) -> tuple[_Base, Ints]:
    """Make combinations (k, n_sets) unit vectors on the first independent cells of an
    order: Gauss and Jordan, block of cells by block.

    `columns` gives the matrix of some cells. The second result are the combinations for
    which no cell was left: they are 0 on all cells of the order.
    """
    pivots = np.full(len(combinations), -1, dtype=np.intp)
    n_sets = combinations.shape[1]
    # The first cells usually are enough; if not, few combinations are left to try.
    size = 2 * len(combinations) + 64
    start = 0
    while start < len(order):
        is_open = pivots < 0
        if not is_open.any():
            break
        block = order[start : start + size]
        start += len(block)
        size = min(2 * size, CELL_BLOCK)
        matrix = columns(block)
        if not (combinations[is_open] @ matrix % prime).any():
            continue
        table = np.hstack([combinations, combinations @ matrix % prime])
        _eliminate(table, pivots, block, n_sets, prime)
        combinations = table[:, :n_sets]
    is_open = pivots < 0
    base = _Base(combinations[~is_open], pivots[~is_open])
    return base, combinations[is_open]


def _eliminate(
    table: Ints, pivots: Places, block: Places, n_sets: int, prime: int
) -> None:
    """In place: behind the first n_sets columns of the table are the cells of a block;
    give as many rows as can be a cell of it.
    """
    while True:
        open_rows = np.flatnonzero(pivots < 0)
        is_usable = table[open_rows, n_sets:] != 0
        usable = np.flatnonzero(is_usable.any(axis=0))
        if len(usable) == 0:
            return
        place = usable[0]
        row = open_rows[np.flatnonzero(is_usable[:, place])[0]]
        column = n_sets + place
        inverse = pow(int(table[row, column]), -1, prime)
        table[row] = table[row] * inverse % prime
        others = np.flatnonzero(table[:, column])
        others = others[others != row]
        # Two numbers of 31 bits: their product fits into 63.
        table[others] = (
            table[others] - table[others, column, np.newaxis] * table[row]
        ) % prime
        pivots[row] = block[place]


@dataclass(frozen=True, eq=False)
class _Code:
    """The combinations K that are 0 on every cell of min_rows people or more."""

    base: _Base  # a basis of K without what is 0 everywhere
    rank: int  # of all sets
    large_rank: int  # of all sets, on the large cells only
    prime: int


def _code(
    cells: _Cells, sets: Places, is_new: Bools, min_rows: int, prime: int
) -> _Code:
    """K for some sets; is_new: (n_sets,), for each of them."""
    large = np.flatnonzero(cells.counts >= min_rows)
    small = np.flatnonzero(cells.counts < min_rows)

    def columns(block: Places) -> Ints:
        return cells.columns(block, sets)

    every = np.eye(len(sets), dtype=np.int64)
    on_large, others = _solved(every, large, columns, prime)
    base, nowhere = _solved(others, small, columns, prime)
    # A set may be a combination of others. So that the coefficients of the new sets
    # say whether the earlier ones alone would do, take away what can be taken away.
    unit, _ = _solved(nowhere, np.flatnonzero(is_new), _identity(len(sets)), prime)
    reduced = base.combinations
    for row, place in zip(unit.combinations, unit.pivots, strict=True):
        reduced = (reduced - reduced[:, [place]] * row) % prime
    base = _Base(reduced, base.pivots)
    large_rank = len(on_large.pivots)
    return _Code(base, large_rank + len(base.pivots), large_rank, prime)


def _identity(n_sets: int) -> Callable[[Places], Ints]:
    every = np.eye(n_sets, dtype=np.int64)
    return lambda places: every[:, places]


# --- the search


def _audit_cells(
    cells: _Cells, is_set: Bools, is_new: Bools, min_rows: int, primes: Sequence[int]
) -> Finding:
    """The audit of the sets of `is_set`, of which those of `is_new` are new."""
    cells, is_kept = _peeled(cells, is_set, min_rows)
    if not (is_kept & is_new).any():
        return PASSES
    sets = np.flatnonzero(is_kept)
    codes = [_code(cells, sets, is_new[sets], min_rows, prime) for prime in primes]
    code = max(codes, key=lambda one: (one.rank, one.large_rank))
    search = _Search(cells, sets, is_new[sets], code, min_rows)
    return search.finding()


def _is_first(sets: Bitmaps) -> Bools:
    """Of equal sets the first alone: the others tell nothing further."""
    is_first = np.zeros(len(sets), dtype=np.bool_)
    seen: set[bytes] = set()
    for number, bitmap in enumerate(sets):
        content = bitmap.tobytes()
        is_first[number] = content not in seen
        seen.add(content)
    return is_first


class _Search:
    """The words of a code that weigh less than min_rows, after Brouwer and
    Zimmermann.
    """

    def __init__(
        self, cells: _Cells, sets: Places, is_new: Bools, code: _Code, min_rows: int
    ) -> None:
        self._cells = cells
        self._sets = sets
        self._is_new = is_new
        self._code = code
        self._min_rows = min_rows
        # No word of K has anybody of a large cell.
        self._small = np.flatnonzero(cells.counts < min_rows)
        self._weights = self._bounding_weights()

    def finding(self) -> Finding:
        """Search words of one row of a base, then of two, until what is left is too
        heavy.
        """
        n_dimensions = len(self._code.base.pivots)
        if not self._code.base.combinations[:, self._is_new].any():
            return PASSES

        bases: list[_Base] = []
        deficits: list[int] = []
        for base, deficit in self._bases():
            telling = self._telling(base.combinations)
            if telling is not None:
                return telling
            bases.append(base)
            deficits.append(deficit)
            # A word that was not listed takes two rows or more of each base, and all
            # but `deficit` of these have a person of their own.
            is_heavy = sum(max(0, 2 - d) for d in deficits) >= self._min_rows
            if is_heavy or n_dimensions == 1:
                return PASSES

        n_pairs = n_dimensions * (n_dimensions - 1) // 2
        if len(bases) * n_pairs * len(self._small) > PAIR_LIMIT:
            return UNDECIDED
        for base in bases:
            telling = self._telling_pair(base)
            if telling is not None:
                return telling
        is_heavy = sum(max(0, 3 - d) for d in deficits) >= self._min_rows
        if is_heavy or n_dimensions == 2:
            return PASSES
        return UNDECIDED

    def _bounding_weights(self) -> Ints:
        """For each cell the persons who are counted in it, each person once.

        No word has fewer persons than these. Who has a small cell and a large one is
        counted in the small one.
        """
        cells = self._cells
        is_small = cells.counts[cells.cell] < self._min_rows
        cell = cells.cell[is_small]
        _, member = np.unique(cells.persons[is_small], return_index=True)
        return np.bincount(cell[member], minlength=len(cells.counts))

    def _columns(self, block: Places) -> Ints:
        return self._cells.columns(block, self._sets)

    def _bases(self) -> Iterator[tuple[_Base, int]]:
        """Bases that have no person in common, and of each its deficit: how many of its
        cells have no person left who is in no base before it.

        Ends where further ones would show nothing: a deficit never falls.
        """
        unused = self._weights.copy()
        combinations = self._code.base.combinations
        # Cells that stand side by side are in the same sets but for one or two: a base
        # of them takes many of a small set's people, and few bases could be made.
        mixed = np.random.default_rng(0).permutation(self._small)
        while True:
            # Cells with most people first, so that the last ones last longest; those
            # without one left fill a base up. A sort of small numbers is quick.
            left = np.minimum(unused[mixed], self._min_rows).astype(np.int16)
            order = mixed[np.argsort(-left, kind="stable")]
            base, _ = _solved(combinations, order, self._columns, self._code.prime)
            fresh = base.pivots[unused[base.pivots] > 0]
            deficit = len(base.pivots) - len(fresh)
            # The first base is searched whatever its deficit.
            is_first = combinations is self._code.base.combinations
            if deficit >= 3 and not is_first:
                return
            unused[fresh] -= 1
            combinations = base.combinations
            yield base, deficit

    def _telling(self, candidates: Ints) -> Finding | None:
        """The first of some combinations that tells of few, and not of the earlier sets
        alone.
        """
        is_candidate = candidates[:, self._is_new].any(axis=1)
        light = self._light(candidates[is_candidate])
        for combination in light:
            n_persons = self._n_persons(combination)
            if 0 < n_persons < self._min_rows:
                is_earlier = (combination != 0) & ~self._is_new
                earlier = self._sets[is_earlier]
                return Finding(Verdict.TELLS_FEW, tuple(int(one) for one in earlier))
        return None

    def _light(self, combinations: Ints) -> Ints:
        """Those combinations that may tell of fewer than min_rows persons."""
        bounds = np.zeros(len(combinations), dtype=np.int64)
        size = 256
        start = 0
        while start < len(self._small) and len(combinations):
            block = self._small[start : start + size]
            start += len(block)
            # Most are out after the first cells.
            size = min(2 * size, CELL_BLOCK)
            words = combinations @ self._columns(block) % self._code.prime
            bounds += (words != 0) @ self._weights[block]
            is_light = bounds < self._min_rows
            combinations, bounds = combinations[is_light], bounds[is_light]
        return combinations

    def _n_persons(self, combination: Ints) -> int:
        """The distinct persons whom a combination tells of."""
        tells = np.zeros(len(self._cells.counts), dtype=np.bool_)
        for block in _blocks(self._small, CELL_BLOCK):
            word = combination @ self._columns(block) % self._code.prime
            tells[block] = word != 0
        return len(np.unique(self._cells.persons[tells[self._cells.cell]]))

    def _telling_pair(self, base: _Base) -> Finding | None:
        """As `_telling`, of all combinations of two rows of a base.

        Of r_i - f r_j only those factors matter that make it 0 somewhere, f = r_ic /
        r_jc: it weighs the persons of both rows less those of the cells with this
        ratio.
        """
        prime = self._code.prime
        # Cells without a weight too: a person counted elsewhere may vanish there.
        weights = self._weights[self._small]
        words = base.combinations @ self._columns(self._small) % prime
        inverses = _inverses(words, prime)
        for i in range(len(words) - 1):
            others, inverse = words[i + 1 :], inverses[i + 1 :]
            in_both = (others != 0) & (words[i] != 0)
            union = ((others != 0) | (words[i] != 0)) @ weights
            pair, cell = np.nonzero(in_both)
            if len(pair) == 0:
                continue
            # Ratios of one pair stand together, equal ones side by side.
            ratio = words[i, cell] * inverse[pair, cell] % prime
            key = (pair << PRIME_BITS) + ratio
            order = np.argsort(key)
            key = key[order]
            starts = np.flatnonzero(np.diff(key, prepend=-1))
            gone = np.add.reduceat(weights[cell[order]], starts)
            pair, ratio = pair[order[starts]], ratio[order[starts]]
            is_light = union[pair] - gone < self._min_rows
            pair, ratio = pair[is_light], ratio[is_light]
            rows = base.combinations
            second = rows[i + 1 + pair] * ratio[:, np.newaxis] % prime
            telling = self._telling((rows[i] - second) % prime)
            if telling is not None:
                return telling
        return None


def _inverses(numbers: Ints, prime: int) -> Ints:
    """1 / n modulo the prime by Fermat, n^(prime - 2); 0 for 0."""
    inverses = np.ones_like(numbers)
    power = numbers
    exponent = prime - 2
    while exponent:
        if exponent & 1:
            inverses = inverses * power % prime
        power = power * power % prime
        exponent >>= 1
    return inverses


def _blocks(places: Places, size: int) -> Iterator[Places]:
    for start in range(0, len(places), size):
        yield places[start : start + size]


# --- hospitals


def audit_hospitals(
    sets: Bitmaps,
    parts: Sequence[Mapping[Part, Fraction | int]],
    *,
    n_new: int,
    least_hospitals: int,
    prime: Callable[[], int],
    willing: Collection[int] = (),
) -> Finding:
    """Whether the last `n_new` totals, with the others before them, tell of fewer than
    `least_hospitals` other hospitals, not all of which let that be told.

    Of total i the own part is known to be over set i; of the part j of another hospital
    it is known that its coefficient relative to the own one is p_ij, 0 if it is not
    there. Nobody knows the others' rows: they are taken to be cut like the own ones.
    For x with x' M = 0 the own part is gone and part j is left if

        x' diag(p_j) M != 0.

    TELLS_FEW if for some x parts of 1 to least_hospitals - 1 hospitals are left, of
    which at least one is not willing; and what is left is no sum of what willing ones
    leave and of what the earlier totals alone tell of the same hospitals.

    By ranks: with N a basis of {x : x' M = 0} and B_j = N diag(p_j) M, what can be left
    of hospitals J alone is the space V_J of the combinations that are 0 on all other
    blocks. Its dimension is by how much the rank of [B_1 ... B_n] falls where the
    blocks of J are left out. With W the willing ones and E_J as V_J of the earlier
    totals, E_J and V_(J and W) have E_(J and W) in common, so that J is told of if

        dim V_J > dim V_(J and W) + dim E_J - dim E_(J and W).

    sets: as for `audit_people`, the own members of each total. parts: for each total
    the coefficients of the other hospitals' parts. A part is a hospital, or (hospital,
    column): if another column of the hospital stands in its place, that is another
    part. willing: the hospitals that let their part be told; where they are all that
    could be left, everything passes. UNDECIDED if there are too many groups J to try.

    ValueError if the lengths do not fit together.
    """
    if len(parts) != len(sets) or not 1 <= n_new <= len(sets):
        raise ValueError(
            f"There are {len(sets)} sets, {len(parts)} parts and {n_new} new ones."
        )
    # Where each part has the same coefficient in all totals, it goes with one's own.
    coefficients = {
        part: [one.get(part, 0) for one in parts]
        for part in {part for one in parts for part in one}
    }
    varying = {
        part: column for part, column in coefficients.items() if len(set(column)) > 1
    }
    let_be_told = frozenset(willing)
    could_be_left = {hospital_of(part) for part in varying}
    if could_be_left <= let_be_told or least_hospitals < 2:
        return PASSES

    groups = _groups(varying, least_hospitals - 1)
    if groups is None:
        return UNDECIDED
    words, cell = _distinct(_turned(sets))
    cells = _Cells(words, np.bincount(cell), cell, np.arange(len(cell)))
    every = np.arange(len(sets))
    primes = [prime() for _ in range(N_PRIMES)]
    blocks = [_Blocks.of(cells, every, varying, one) for one in primes]
    earlier = [_Blocks.of(cells, every[:-n_new], varying, one) for one in primes]
    if len(groups) * len(blocks[0].table) > RANK_LIMIT:
        return UNDECIDED
    for group in groups:
        unwilling = group - let_be_told
        if not unwilling:
            continue
        told = _lost_rank(blocks, group)
        if not told:
            continue
        harmless = _lost_rank(earlier, group)
        if group & let_be_told:
            harmless += _lost_rank(blocks, group & let_be_told)
            harmless -= _lost_rank(earlier, group & let_be_told)
        if told > harmless:
            return Finding(Verdict.TELLS_FEW, hospitals=tuple(sorted(unwilling)))
    return PASSES


def hospital_of(part: Part) -> int:
    """Who brought a part."""
    return part if isinstance(part, int) else part[0]


def _groups(
    varying: Mapping[Part, Sequence[Fraction | int]], most: int
) -> list[frozenset[int]] | None:
    """The groups of at most so many hospitals that could be left, None if they are too
    many.

    Hospitals whose parts have the same coefficients are left together or not at all.
    """
    columns: dict[int, set[tuple[Fraction | int, ...]]] = {}
    for part, column in varying.items():
        columns.setdefault(hospital_of(part), set()).add(tuple(column))
    alike: dict[frozenset[tuple[Fraction | int, ...]], list[int]] = {}
    for hospital, own in columns.items():
        alike.setdefault(frozenset(own), []).append(hospital)
    classes = [one for one in alike.values() if len(one) <= most]
    sizes = range(1, min(most, len(classes)) + 1)
    if sum(comb(len(classes), size) for size in sizes) > GROUP_LIMIT:
        return None
    groups = []
    for size in sizes:
        for chosen in itertools.combinations(classes, size):
            group = frozenset(hospital for one in chosen for hospital in one)
            if len(group) <= most:
                groups.append(group)
    return groups


@dataclass(frozen=True, eq=False)
class _Blocks:
    """What is left of the hospitals' parts where the own part cancels."""

    table: Ints  # (rank, n_columns) modulo the prime: the blocks side by side
    hospitals: Ints  # (n_columns,) whose block a column is in
    prime: int

    @staticmethod
    def of(
        cells: _Cells,
        sets: Places,
        coefficients: Mapping[Part, Sequence[Fraction | int]],
        prime: int,
    ) -> _Blocks:
        """The blocks B_j = N diag(p_j) M of some of the sets."""

        def columns(block: Places) -> Ints:
            return cells.columns(block, sets)

        every = np.eye(len(sets), dtype=np.int64)
        base, null = _solved(every, np.arange(len(cells.words)), columns, prime)
        # B_j is linear in the columns of M: those that span the others say it all.
        spanning = columns(base.pivots)
        blocks, hospitals = [], []
        for part, column in coefficients.items():
            p = np.array([_modulo(column[one], prime) for one in sets], dtype=np.int64)
            blocks.append((null * p % prime) @ spanning % prime)
            hospitals.append(np.full(len(base.pivots), hospital_of(part)))
        table = np.hstack(blocks)
        is_basis = _eliminated(table, prime)
        return _Blocks(table[is_basis], np.concatenate(hospitals), prime)

    def rank_without(self, group: frozenset[int]) -> int:
        """The rank of the blocks of all hospitals but a group."""
        is_other = ~np.isin(self.hospitals, list(group))
        return int(_eliminated(self.table[:, is_other], self.prime).sum())


def _eliminated(table: Ints, prime: int) -> Bools:
    """Reduce a matrix in place; the rows that have a pivot are a basis of its rows."""
    pivots = np.full(len(table), -1, dtype=np.intp)
    _eliminate(table, pivots, np.arange(table.shape[1]), 0, prime)
    return pivots >= 0


def _lost_rank(blocks: Sequence[_Blocks], group: frozenset[int]) -> int:
    """By how much the rank falls without a group: the dimension of what is told of it
    alone.
    """
    rank = max(len(one.table) for one in blocks)
    return rank - max(one.rank_without(group) for one in blocks)


def _modulo(coefficient: Fraction | int, prime: int) -> int:
    exact = Fraction(coefficient)
    inverse: int = pow(exact.denominator, -1, prime)
    return exact.numerator * inverse % prime


# --- primes


def draw_prime(below: Callable[[int], int]) -> int:
    """A prime of 31 bits, evenly among them; below(n) gives a number of 0 to n - 1 that
    nobody can foresee (`secrets.randbelow`).
    """
    least = 1 << (PRIME_BITS - 1)
    while True:
        candidate = least + below(least)
        if _is_prime(candidate):
            return candidate


def _is_prime(number: int) -> bool:
    """Miller and Rabin; with these bases no composite below 3,215,031,751 passes
    (Pomerance, Selfridge and Wagstaff 1980).
    """
    if number % 2 == 0:
        return False
    odd, n_halvings = number - 1, 0
    while odd % 2 == 0:
        odd //= 2
        n_halvings += 1
    for base in (2, 3, 5, 7):
        power: int = pow(base, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(n_halvings - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True
