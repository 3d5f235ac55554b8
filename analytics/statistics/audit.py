"""What the answers that somebody has, put together, tell of few people or of few
hospitals.

Whoever knows the totals of some sets of people also knows every combination of them.
The sets cut the people into *cells*: two people are in one cell if they are in the same
sets. With M the 0/1 matrix of sets by cells, the combination x of the totals is

    sum_c y_c (total of cell c),    y = x' M,

a statement about the people of the cells with y_c != 0 and about nobody else. If they
are fewer than `min_rows`, the answers tell it, however harmless each of them is: of the
four sets A, A - S1, A - S2 and A - S1 - S2 - p, the first and the last less the other
two are p alone. `audit_people` looks for such a combination,
`hospital_audit.audit_hospitals` for one in which the totals of all hospitals but a few
cancel.

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

Of two primes (`modular`) the one with the larger ranks counts.

Decision 68. To read next: the cells, `audited_cells`; the arithmetic, `modular`; who
asks, `agents.gate`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from analytics.arrays import Bools, Ints, Places
from analytics.statistics.audited_cells import Bitmaps, Cells, cells_of
from analytics.statistics.modular import (
    CELL_BLOCK,
    N_PRIMES,
    PRIME_BITS,
    Base,
    inverted,
    solved,
)
from analytics.statistics.telling_code import Code, code_of, peeled

# Pairs of combinations, times cells: some three seconds on one core.
PAIR_LIMIT = 30_000_000


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
    _check_people(
        sets,
        persons,
        n_new,
        min_rows,
    )
    cells = cells_of(sets, persons)
    is_new = _last(len(sets), n_new)
    primes = [prime() for _ in range(N_PRIMES)]
    return _audit_cells(
        cells,
        is_set=_is_first(sets),
        is_new=is_new,
        min_rows=min_rows,
        primes=primes,
    )


def _check_people(
    sets: Bitmaps,
    persons: Ints,
    n_new: int,
    min_rows: int,
) -> None:
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


def _audit_cells(
    cells: Cells,
    is_set: Bools,
    is_new: Bools,
    min_rows: int,
    primes: Sequence[int],
) -> Finding:
    """The audit of the sets of `is_set`, of which those of `is_new` are new."""
    cells, is_kept = peeled(cells, is_set, min_rows)
    has_new = (is_kept & is_new).any()
    if not has_new:
        return PASSES
    sets = np.flatnonzero(is_kept)
    kept_new = is_new[sets]
    codes = []
    for prime in primes:
        code = code_of(
            cells,
            sets,
            is_new=kept_new,
            min_rows=min_rows,
            prime=prime,
        )
        codes.append(code)
    # Modulo a prime a rank can be too low, never too high.
    code = max(codes, key=_ranks)
    search = _Search(
        cells,
        sets=sets,
        is_new=kept_new,
        code=code,
        min_rows=min_rows,
    )
    return search.finding()


def _ranks(code: Code) -> tuple[int, int]:
    return code.rank, code.large_rank


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
        self,
        cells: Cells,
        sets: Places,
        is_new: Bools,
        code: Code,
        min_rows: int,
    ) -> None:
        self._cells = cells
        self._sets = sets
        self._is_new = is_new
        self._code = code
        self._min_rows = min_rows
        # No word of K has anybody of a large cell.
        is_small = cells.counts < min_rows
        self._small = np.flatnonzero(is_small)
        self._weights = self._bounding_weights()

    def finding(self) -> Finding:
        """Search words of one row of a base, then of two, until what is left is too
        heavy.
        """
        n_dimensions = len(self._code.base.pivots)
        of_new = self._code.base.combinations[:, self._is_new]
        if not of_new.any():
            return PASSES

        bases: list[Base] = []
        deficits: list[int] = []
        for base, deficit in self._bases():
            telling = self._telling(base.combinations)
            if telling is not None:
                return telling
            bases.append(base)
            deficits.append(deficit)
            if n_dimensions == 1 or self._is_heavy(deficits, n_rows=2):
                return PASSES

        n_pairs = n_dimensions * (n_dimensions - 1) // 2
        n_steps = len(bases) * n_pairs * len(self._small)
        if n_steps > PAIR_LIMIT:
            return UNDECIDED
        for base in bases:
            telling = self._telling_pair(base)
            if telling is not None:
                return telling
        if n_dimensions == 2 or self._is_heavy(deficits, n_rows=3):
            return PASSES
        return UNDECIDED

    def _is_heavy(
        self,
        deficits: list[int],
        *,
        n_rows: int,
    ) -> bool:
        """Whether every word is too heavy that takes `n_rows` rows or more of each base.

        All but `deficit` of these rows have a person of their own.
        """
        least_weight = 0
        for deficit in deficits:
            least_weight += max(0, n_rows - deficit)
        return least_weight >= self._min_rows

    def _bounding_weights(self) -> Ints:
        """For each cell the persons who are counted in it, each person once.

        No word has fewer persons than these. Who has a small cell and a large one is
        counted in the small one.
        """
        cells = self._cells
        is_small = cells.counts[cells.cell] < self._min_rows
        member_cells = cells.cell[is_small]
        persons = cells.persons[is_small]
        _, member = np.unique(persons, return_index=True)
        return np.bincount(member_cells[member], minlength=len(cells.counts))

    def _columns(self, block: Places) -> Ints:
        return self._cells.columns(block, self._sets)

    def _bases(self) -> Iterator[tuple[Base, int]]:
        """Bases that have no person in common, and of each its deficit: how many of its
        cells have no person left who is in no base before it.

        Ends where further ones would show nothing: a deficit never falls.
        """
        unused = self._weights.copy()
        combinations = self._code.base.combinations
        # Cells that stand side by side are in the same sets but for one or two: a base
        # of them takes many of a small set's people, and few bases could be made.
        generator = np.random.default_rng(0)
        mixed = generator.permutation(self._small)
        # The first base is searched whatever its deficit.
        is_first = True
        while True:
            # Cells with most people first, so that the last ones last longest; those
            # without one left fill a base up. A sort of small numbers is quick.
            n_left = np.minimum(unused[mixed], self._min_rows).astype(np.int16)
            by_left = np.argsort(-n_left, kind="stable")
            base, _ = solved(
                combinations,
                mixed[by_left],
                self._columns,
                self._code.prime,
            )
            is_fresh = unused[base.pivots] > 0
            fresh = base.pivots[is_fresh]
            deficit = len(base.pivots) - len(fresh)
            if deficit >= 3 and not is_first:
                return
            unused[fresh] -= 1
            combinations = base.combinations
            is_first = False
            yield base, deficit

    def _telling(self, candidates: Ints) -> Finding | None:
        """The first of some combinations that tells of few, and not of the earlier sets
        alone.
        """
        of_new = candidates[:, self._is_new]
        is_candidate = of_new.any(axis=1)
        light = self._light(candidates[is_candidate])
        for combination in light:
            n_persons = self._n_persons(combination)
            if 0 < n_persons < self._min_rows:
                is_earlier = (combination != 0) & ~self._is_new
                earlier = self._sets[is_earlier]
                numbers = tuple(int(number) for number in earlier)
                return Finding(Verdict.TELLS_FEW, numbers)
        return None

    def _light(self, combinations: Ints) -> Ints:
        """Those combinations that may tell of fewer than min_rows persons."""
        prime = self._code.prime
        bounds = np.zeros(len(combinations), dtype=np.int64)
        block_size = 256
        block_start = 0
        while block_start < len(self._small) and len(combinations):
            block = self._small[block_start : block_start + block_size]
            block_start += len(block)
            # Most are out after the first cells.
            block_size = min(2 * block_size, CELL_BLOCK)
            words = combinations @ self._columns(block) % prime
            bounds += (words != 0) @ self._weights[block]
            is_light = bounds < self._min_rows
            combinations = combinations[is_light]
            bounds = bounds[is_light]
        return combinations

    def _n_persons(self, combination: Ints) -> int:
        """The distinct persons whom a combination tells of."""
        prime = self._code.prime
        tells = np.zeros(len(self._cells.counts), dtype=np.bool_)
        for block in _blocks(self._small, CELL_BLOCK):
            word = combination @ self._columns(block) % prime
            tells[block] = word != 0
        persons = self._cells.persons[tells[self._cells.cell]]
        return len(np.unique(persons))

    def _telling_pair(self, base: Base) -> Finding | None:
        """As `_telling`, of all combinations of two rows of a base.

        Of r_i - f r_j only those factors matter that make it 0 somewhere, f = r_ic /
        r_jc: it weighs the persons of both rows less those of the cells with this
        ratio.
        """
        prime = self._code.prime
        rows = base.combinations
        # Cells without a weight too: a person counted elsewhere may vanish there.
        weights = self._weights[self._small]
        words = rows @ self._columns(self._small) % prime
        inverses = inverted(words, prime)
        for i in range(len(words) - 1):
            word = words[i]
            other_words = words[i + 1 :]
            inverse = inverses[i + 1 :]
            is_there = word != 0
            are_there = other_words != 0
            pair, cell = np.nonzero(are_there & is_there)
            if len(pair) == 0:
                continue
            union = (are_there | is_there) @ weights

            # Ratios of one pair stand together, equal ones side by side.
            ratio = word[cell] * inverse[pair, cell] % prime
            # A ratio has 31 bits, so that up to 2^32 pairs fit beside it.
            sort_key = (pair << PRIME_BITS) + ratio
            order = np.argsort(sort_key)
            starts = np.flatnonzero(np.diff(sort_key[order], prepend=-1))
            vanished = np.add.reduceat(weights[cell[order]], starts)

            firsts = order[starts]
            pair = pair[firsts]
            ratio = ratio[firsts]
            is_light = union[pair] - vanished < self._min_rows
            pair = pair[is_light]
            ratio = ratio[is_light]
            second = rows[i + 1 + pair] * ratio[:, np.newaxis] % prime
            differences = (rows[i] - second) % prime
            telling = self._telling(differences)
            if telling is not None:
                return telling
        return None


def _blocks(places: Places, size: int) -> Iterator[Places]:
    for start in range(0, len(places), size):
        yield places[start : start + size]
