"""The audit of sets of people and of hospitals against rational arithmetic, the attacks
that have names, and ordinary work, which has to pass.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from analytics.arrays import Bools, Ints
from analytics.statistics import audit, audited_cells, modular
from analytics.statistics.audit import Finding, Verdict, audit_people
from analytics.statistics.hospital_audit import Part, audit_hospitals, hospital_of
from analytics.statistics.modular import draw_prime

PASSES, TELLS_FEW, UNDECIDED = Verdict.PASSES, Verdict.TELLS_FEW, Verdict.UNDECIDED


def primes(seed: int = 0) -> Callable[[], int]:
    below = random.Random(seed).randrange
    return lambda: draw_prime(below)


def audited(
    sets: Sequence[Sequence[bool]] | Bools,
    *,
    n_new: int = 1,
    min_rows: int = 10,
    persons: Ints | None = None,
) -> Finding:
    members = np.asarray(sets, dtype=np.bool_)
    if persons is None:
        persons = np.arange(members.shape[1])
    bitmaps = np.packbits(members, axis=1)
    return audit_people(
        bitmaps, persons, n_new=n_new, min_rows=min_rows, prime=primes()
    )


# --- by fractions, as the rule says it


def rank(rows: Sequence[Sequence[Fraction | int]]) -> int:
    """Of a matrix of fractions, by Gauss."""
    left = [[Fraction(number) for number in row] for row in rows]
    found = 0
    for column in range(len(left[0]) if left else 0):
        pivot = next((i for i in range(found, len(left)) if left[i][column]), None)
        if pivot is None:
            continue
        left[found], left[pivot] = left[pivot], left[found]
        for i in range(found + 1, len(left)):
            factor = left[i][column] / left[found][column]
            pairs = zip(left[i], left[found], strict=True)
            left[i] = [a - factor * b for a, b in pairs]
        found += 1
    return found


def supported(sets: list[list[int]], members: set[int]) -> int:
    """The dimension of {x' M : it tells of these members alone}."""
    others = [i for i in range(len(sets[0])) if i not in members]
    return rank(sets) - rank([[row[i] for i in others] for row in sets])


def tells_few(
    sets: list[list[int]], persons: Sequence[int], n_new: int, min_rows: int
) -> bool:
    """For each group of fewer than min_rows persons: do all answers tell more of it
    than the earlier ones did?
    """
    everybody = sorted(set(persons))
    size = min(min_rows - 1, len(everybody))
    for group in itertools.combinations(everybody, size):
        members = {i for i, person in enumerate(persons) if person in group}
        earlier = supported(sets[:-n_new], members) if sets[:-n_new] else 0
        if supported(sets, members) > earlier:
            return True
    return False


@st.composite
def small_cases(draw: st.DrawFn) -> tuple[list[list[int]], list[int], int, int]:
    """Few people in few sets, some of them with an old and a new value."""
    n_persons = draw(st.integers(2, 8))
    n_sets = draw(st.integers(1, 7))
    bits = st.lists(st.integers(0, 1), min_size=n_persons, max_size=n_persons)
    sets = draw(st.lists(bits, min_size=n_sets, max_size=n_sets))
    persons = list(range(n_persons))
    corrected = draw(st.lists(st.sampled_from(persons), unique=True, max_size=2))
    for person in corrected:
        since = draw(st.integers(0, n_sets))
        for number, one in enumerate(sets):
            is_new_value = number >= since
            one.append(one[person] if is_new_value else 0)
            one[person] = 0 if is_new_value else one[person]
        persons.append(person)
    n_new = draw(st.integers(1, n_sets))
    return sets, persons, n_new, draw(st.integers(1, 5))


# Persons 2 and 6 have another value in the last three sets, person 0 in the last one:
# what few tell, only a pair of rows does, by a factor that is seen
# only in the cell of a person who is counted in another one.
PAIR_OF_OLD_AND_NEW = (
    [
        [0, 1, 1, 1, 1, 0, 1, 0, 0, 0],
        [1, 1, 1, 0, 1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 1, 0, 1, 0, 1],
        [1, 0, 0, 1, 1, 1, 0, 1, 0, 1],
        [0, 1, 0, 1, 1, 0, 0, 1, 1, 1],
    ],
    [0, 1, 2, 3, 4, 5, 6, 2, 0, 6],
    5,
    3,
)


@given(case=small_cases())
@example(case=PAIR_OF_OLD_AND_NEW)
@settings(max_examples=300)
def test_small_cases_are_decided_as_by_fractions(
    case: tuple[list[list[int]], list[int], int, int],
) -> None:
    sets, persons, n_new, min_rows = case
    found = audited(sets, n_new=n_new, min_rows=min_rows, persons=np.array(persons))
    expected = TELLS_FEW if tells_few(sets, persons, n_new, min_rows) else PASSES
    assert found.verdict in (expected, UNDECIDED)
    assert set(found.earlier) <= set(range(len(sets) - n_new))


@given(case=small_cases())
def test_two_dimensions_or_fewer_are_always_decided(
    case: tuple[list[list[int]], list[int], int, int],
) -> None:
    sets, persons, n_new, min_rows = case
    assume(rank(sets) <= 2)
    found = audited(sets, n_new=n_new, min_rows=min_rows, persons=np.array(persons))
    assert found.verdict is not UNDECIDED


# --- planted attacks


def planted(
    generator: np.random.Generator, *, k: int, n_people: int, n_told: int
) -> Bools:
    """k sets of which one combination with coefficients of +1 and -1 tells of n_told
    people: for everybody else the sets with + and those with - are equally many.
    """
    signs = np.where(np.arange(k) < k // 2, 1, -1)
    generator.shuffle(signs)
    sets = generator.integers(0, 2, (k, n_people)).astype(np.bool_)
    for person in range(n_people):
        surplus = int(signs @ sets[:, person])
        wanted = 1 if person < n_told else 0
        while surplus != wanted:
            step = 1 if surplus < wanted else -1
            adds = ~sets[:, person] & (signs == step)
            takes = sets[:, person] & (signs == -step)
            turned = generator.choice(np.flatnonzero(adds | takes))
            sets[turned, person] ^= True
            surplus += step
    return sets


@pytest.mark.parametrize("k", [2, 3, 4, 6, 10, 15, 20, 30, 40])
@pytest.mark.parametrize("n_told", [1, 4, 9])
def test_planted_attacks_are_found(k: int, n_told: int) -> None:
    generator = np.random.default_rng(1000 * k + n_told)
    sets = planted(generator, k=k, n_people=30 * k + 60, n_told=n_told)
    assert audited(sets).verdict is TELLS_FEW


@given(seed=st.integers(0, 2**32), k=st.integers(2, 40), n_told=st.integers(1, 9))
@settings(max_examples=30)
def test_planted_attacks_never_pass(seed: int, k: int, n_told: int) -> None:
    generator = np.random.default_rng(seed)
    n_people = int(generator.integers(k + 10, 30 * k + 20))
    sets = planted(generator, k=k, n_people=n_people, n_told=n_told)
    assert audited(sets).verdict is not PASSES


@pytest.mark.parametrize("k", [2, 3, 5, 8, 20])
@pytest.mark.parametrize(
    ("n_told", "verdict"), [(9, TELLS_FEW), (10, PASSES), (11, PASSES)]
)
def test_at_the_threshold(k: int, n_told: int, verdict: Verdict) -> None:
    generator = np.random.default_rng(k)
    sets = planted(generator, k=k, n_people=100 * k, n_told=n_told)
    assert audited(sets).verdict is verdict


# --- attacks that have names


def without(everybody: Bools, *people: int) -> Bools:
    left = everybody.copy()
    left[list(people)] = False
    return left


def test_four_key_sets_tell_one_person() -> None:
    """A, A - S1, A - S2 and A - S1 - S2 - p: each pair is twelve people apart."""
    everybody = np.ones(400, dtype=np.bool_)
    first, second, person = range(12), range(12, 24), 24
    sets = [
        everybody,
        without(everybody, *first),
        without(everybody, *second),
        without(everybody, *first, *second, person),
    ]
    for n_sets in (1, 2, 3):
        assert audited(sets[:n_sets]).verdict is PASSES
    assert audited(sets) == Finding(TELLS_FEW, (0, 1, 2))
    assert audited([*sets[:3], without(everybody, *first, *second)]).verdict is PASSES


@pytest.mark.parametrize(
    ("n_apart", "verdict"), [(9, TELLS_FEW), (10, PASSES), (11, PASSES)]
)
def test_one_dimension_people_come_and_go(n_apart: int, verdict: Verdict) -> None:
    everybody = np.ones(100, dtype=np.bool_)
    n_gone = n_apart // 2
    later = without(everybody, *range(n_gone))
    earlier = without(everybody, *range(n_gone, n_apart))
    assert audited([earlier, later]).verdict is verdict


@pytest.mark.parametrize(
    ("n_rows", "verdict"), [(9, TELLS_FEW), (10, PASSES), (11, PASSES)]
)
def test_one_set_of_few(n_rows: int, verdict: Verdict) -> None:
    assert audited([[True] * n_rows]).verdict is verdict
    assert audited([[True] * n_rows + [False] * 50]).verdict is verdict


@pytest.mark.parametrize(
    ("n_told", "verdict"), [(9, TELLS_FEW), (10, PASSES), (11, PASSES)]
)
def test_two_dimensions_all_but_one_group_of_proportional_columns(
    n_told: int, verdict: Verdict
) -> None:
    """U + 2 V, V + 2 W and U + V + W, with nine people of each, are told by three sets
    of which only the right pair of factors leaves few.
    """
    groups = np.repeat(np.arange(4), [9, 9, 9, n_told - 9])
    patterns = np.array([[1, 0, 1, 1], [1, 1, 0, 0]], dtype=np.bool_)
    sets = np.hstack([patterns[:, groups], np.zeros((2, 0), dtype=np.bool_)])
    # Set 0 less set 1 leaves the groups 1, 2 and 3; each alone leaves more than ten.
    assert audited(sets).verdict is PASSES
    few = np.hstack([patterns[:, np.repeat([0, 1, 2], [9, n_told - 5, 5])]])
    assert audited(few).verdict is verdict


@given(
    sizes=st.lists(st.integers(1, 4), min_size=7, max_size=7),
    min_rows=st.integers(5, 9),
)
def test_three_dimensions_all_but_those_in_a_plane(
    sizes: list[int], min_rows: int
) -> None:
    """All seven cells of three sets: the least that is left is what no plane through
    two of the columns holds.
    """
    columns = [c for c in itertools.product((0, 1), repeat=3) if any(c)]
    least = sum(sizes)
    for pair in itertools.combinations(columns, 2):
        in_plane = [rank([*pair, column]) == 2 for column in columns]
        weights = zip(sizes, in_plane, strict=True)
        least = min(least, sum(size for size, is_in in weights if not is_in))
    sets = np.repeat(np.array(columns, dtype=np.bool_).T, sizes, axis=1)
    found = audited(sets, n_new=3, min_rows=min_rows).verdict
    assert found in (TELLS_FEW if least < min_rows else PASSES, UNDECIDED)


@pytest.mark.parametrize(
    ("n_corrected", "verdict"), [(0, PASSES), (9, TELLS_FEW), (10, PASSES)]
)
def test_a_corrected_value_is_one_person(n_corrected: int, verdict: Verdict) -> None:
    """The old member gone and the new one come are one person, not two."""
    n_people = 100
    persons = np.concatenate([np.arange(n_people), np.arange(n_corrected)])
    earlier = persons * 0 == 0
    earlier[n_people:] = False
    later = without(np.ones(len(persons), dtype=np.bool_), *range(n_corrected))
    assert audited([earlier, later], persons=persons).verdict is verdict


def test_what_was_told_under_a_lower_threshold_does_not_refuse_for_ever() -> None:
    """Three people are told by the earlier two; nothing new is told by a third set,
    unless it adds to them.
    """
    everybody = np.ones(200, dtype=np.bool_)
    earlier = [everybody, without(everybody, 0, 1, 2)]
    half = np.arange(200) < 100
    assert audited([*earlier, everybody]).verdict is PASSES
    assert audited([*earlier, half]).verdict is PASSES
    # The three and seven others are ten; with what is known, they are seven.
    assert audited([*earlier, without(everybody, *range(10))]).verdict is TELLS_FEW


def test_a_set_of_nobody_and_equal_sets_tell_nothing() -> None:
    everybody = np.ones(50, dtype=np.bool_)
    assert audited([everybody, ~everybody, everybody]).verdict is PASSES
    assert audited([~everybody]).verdict is PASSES


# --- ordinary work


def folds(n_people: int, n_folds: int, seed: int) -> list[Bools]:
    """For each fold the training rows and those held out."""
    fold = np.random.default_rng(seed).permutation(n_people) % n_folds
    sets = []
    for number in range(n_folds):
        sets += [fold != number, fold == number]
    return sets


@pytest.mark.parametrize("n_people", [50, 60, 100, 400, 2000])
def test_a_second_cross_validation_passes(n_people: int) -> None:
    once = [np.ones(n_people, dtype=np.bool_), *folds(n_people, 5, 0)]
    assert audited(once, n_new=len(once)).verdict is PASSES
    again = folds(n_people, 5, 1)
    verdict = audited([*once, *again], n_new=len(again)).verdict
    # Of 50 people each fold has just min_rows; two ways to cut them tell of fewer.
    assert verdict is (PASSES if n_people > 60 else verdict)
    assert verdict is not UNDECIDED


def test_means_by_sex_age_and_region_pass() -> None:
    generator = np.random.default_rng(4)
    n_people = 854
    everybody = np.ones(n_people, dtype=np.bool_)
    sets = [everybody]
    for n_groups in (2, 6, 8):
        group = generator.integers(0, n_groups, n_people)
        sets += [group == number for number in range(n_groups)]
    assert audited(sets, n_new=len(sets)).verdict is PASSES


def test_monthly_reruns_over_a_year_pass() -> None:
    """Twelve people are new each month and five are gone."""
    n_people = 500 + 12 * 12
    first = np.arange(n_people) < 500
    months = [first]
    gone = iter(np.random.default_rng(5).permutation(500))
    for month in range(12):
        later = months[-1].copy()
        later[500 + 12 * month : 512 + 12 * month] = True
        later[[next(gone) for _ in range(5)]] = False
        months.append(later)
        assert audited(months).verdict is PASSES, month


def test_a_growing_register_passes() -> None:
    days = np.arange(4000) < np.linspace(350, 4000, 365).astype(int)[:, np.newaxis]
    assert np.diff(days.sum(axis=1)).min() >= 10
    assert audited(days).verdict is PASSES


# --- the search


def test_bitmaps_are_turned_to_members() -> None:
    generator = np.random.default_rng(0)
    for n_sets, n_members in [(1, 1), (7, 9), (8, 8), (65, 70_001), (130, 33)]:
        sets = generator.integers(0, 2, (n_sets, n_members)).astype(np.bool_)
        words = audited_cells.turned(np.packbits(sets, axis=1))
        bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")
        assert np.array_equal(bits[:n_members, :n_sets], sets.T)
        assert not bits[:, n_sets:].any()


def test_rows_with_one_key_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key only makes it quick."""
    words = np.array([[1, 2], [2, 1], [1, 2], [3, 3]], dtype=np.uint64)
    expected, _ = audited_cells.distinct_rows(words)
    monkeypatch.setattr(
        audited_cells, "_mixed", lambda words: words[:, 0] * np.uint64(0)
    )
    distinct, index = audited_cells.distinct_rows(words)
    assert np.array_equal(distinct[index], words)
    assert sorted(map(tuple, distinct)) == sorted(map(tuple, expected))


def test_a_prime_that_makes_sets_dependent_does_not_count() -> None:
    """Modulo 3 the four sets below are dependent: the last seems to tell nothing new."""
    patterns = np.array(
        [[0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]], dtype=np.bool_
    )
    sets = np.packbits(np.repeat(patterns, 2, axis=1), axis=1)

    def verdict_modulo(*numbers: int) -> Verdict:
        draws = iter(numbers)
        return audit_people(
            sets, np.arange(8), n_new=1, min_rows=3, prime=lambda: next(draws)
        ).verdict

    assert verdict_modulo(3, 3) is PASSES
    assert verdict_modulo(3, 2147483629) is TELLS_FEW
    assert verdict_modulo(2147483629, 3) is TELLS_FEW


def test_too_many_pairs_are_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(2)
    sets = planted(generator, k=8, n_people=40, n_told=9)
    monkeypatch.setattr(audit, "PAIR_LIMIT", 10)
    assert audited(sets).verdict in (UNDECIDED, TELLS_FEW)
    assert audited(generator.integers(0, 2, (8, 18))).verdict in (UNDECIDED, TELLS_FEW)


def test_primes_are_primes_of_31_bits() -> None:
    for seed in range(5):
        number = primes(seed)()
        assert 2**30 < number < 2**31
        assert all(number % factor for factor in range(2, int(number**0.5) + 1))
    # Strong pseudoprimes to the bases 2, 3 and 5 are told by 7.
    assert not modular._is_prime(25_326_001)
    assert modular._is_prime(2**31 - 1)


def test_arguments_that_do_not_fit() -> None:
    sets = np.packbits(np.ones((2, 20), dtype=np.bool_), axis=1)
    people = np.arange(20)
    with pytest.raises(ValueError, match="3 bytes a set"):
        audit_people(sets[:, :2], people, n_new=1, min_rows=3, prime=primes())
    with pytest.raises(ValueError, match="n_new is 3"):
        audit_people(sets, people, n_new=3, min_rows=3, prime=primes())
    with pytest.raises(ValueError, match="min_rows is 0"):
        audit_people(sets, people, n_new=1, min_rows=0, prime=primes())
    with pytest.raises(ValueError, match="2 sets, 1 parts"):
        audit_hospitals(sets, [{}], n_new=1, least_hospitals=3, prime=primes())


# --- hospitals

Total = tuple[Sequence[int], Mapping[Part, Fraction | int]]

MEN, WOMEN, ALL = [1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]


def of(*parts: Part) -> dict[Part, Fraction | int]:
    return dict.fromkeys(parts, 1)


def found_of_hospitals(
    totals: Sequence[Total],
    *,
    n_new: int = 1,
    least: int = 3,
    willing: Sequence[int] = (),
) -> Finding:
    sets = np.packbits(np.array([one for one, _ in totals], dtype=np.bool_), axis=1)
    parts = [one for _, one in totals]
    return audit_hospitals(
        sets,
        parts,
        n_new=n_new,
        least_hospitals=least,
        prime=primes(),
        willing=willing,
    )


def hospitals_audited(totals: Sequence[Total], **audit: Any) -> Verdict:
    return found_of_hospitals(totals, **audit).verdict


def test_the_same_rows_without_one_hospital_are_refused() -> None:
    """{2,3,4,5} and then {2,3,5} on the same rows tells hospital 4's own sum."""
    both = [(ALL, of(3, 4, 5)), (ALL, of(3, 5))]
    assert hospitals_audited(both) is TELLS_FEW
    assert hospitals_audited(both[:1]) is PASSES


def test_groups_of_four_hospitals_and_all_of_three_are_refused() -> None:
    totals = [(MEN, of(3, 4, 5)), (WOMEN, of(3, 4, 5)), (ALL, of(3, 5))]
    assert hospitals_audited(totals) is TELLS_FEW
    assert hospitals_audited(totals[:2], n_new=2) is PASSES


def test_groups_and_all_of_the_same_hospitals_pass() -> None:
    totals = [(MEN, of(3, 4)), (WOMEN, of(3, 4)), (ALL, of(3, 4))]
    assert hospitals_audited(totals) is PASSES


def test_another_column_in_the_place_of_one_is_refused() -> None:
    """sum(a.w + b.x + c.z), then sum(a.w + b.y + c.z): b's x - y."""
    first = of((3, "x"), (4, "z"))
    second = of((3, "y"), (4, "z"))
    assert hospitals_audited([(ALL, first), (ALL, second)]) is TELLS_FEW
    assert hospitals_audited([(ALL, first), (MEN, second)]) is PASSES


@pytest.mark.parametrize(
    ("n_left", "verdict"), [(1, TELLS_FEW), (2, TELLS_FEW), (3, PASSES), (4, PASSES)]
)
def test_as_many_hospitals_as_least_may_be_left(n_left: int, verdict: Verdict) -> None:
    left = range(10, 10 + n_left)
    assert hospitals_audited([(ALL, of(3, 4, *left)), (ALL, of(3, 4))]) is verdict


def test_one_self_may_be_taken_away_too() -> None:
    """The own column added, then taken away: half the sum is the two others'."""
    added, taken = of(3, 4), {3: -1, 4: -1}
    assert hospitals_audited([(ALL, added), (ALL, taken)], least=3) is TELLS_FEW
    assert hospitals_audited([(ALL, added), (ALL, taken)], least=2) is PASSES


def test_what_hospitals_said_may_be_told_does_not_refuse_for_ever() -> None:
    earlier = [(ALL, of(3, 4, 5)), (ALL, of(3, 5))]
    assert hospitals_audited([*earlier, (ALL, of(3, 4, 5))]) is PASSES
    assert hospitals_audited([*earlier, (MEN, of(3, 4, 5))]) is PASSES
    assert hospitals_audited([*earlier, (ALL, of(3, 4))]) is TELLS_FEW


def test_a_hospital_that_lets_itself_be_told_may_be_left_alone() -> None:
    joins = [(ALL, of(3, 4)), (ALL, of(3, 4, 5))]
    assert hospitals_audited(joins, willing=[5]) is PASSES
    assert hospitals_audited(joins, willing=[3, 4]) is TELLS_FEW
    assert found_of_hospitals(joins, willing=[3, 4]).hospitals == (5,)


def test_a_willing_hospital_does_not_make_room_for_another() -> None:
    """Two join at once: the willing one takes itself off, and has the other's part."""
    two_join = [(ALL, of(3, 4)), (ALL, of(3, 4, 5, 6))]
    assert found_of_hospitals(two_join, willing=[6]).hospitals == (5,)
    assert hospitals_audited(two_join, willing=[5, 6]) is PASSES
    one_after_the_other = [*two_join, (ALL, of(3, 4, 6))]
    assert hospitals_audited(one_after_the_other, n_new=2, willing=[6]) is TELLS_FEW


def test_what_willing_hospitals_add_to_what_was_told_is_not_held_against_them() -> None:
    """5 was told of before; with 6, which lets it be, the two are told together."""
    earlier = [(ALL, of(3, 4)), (ALL, of(3, 4, 5))]
    both = [*earlier, (ALL, of(3, 4, 5, 6))]
    assert hospitals_audited(both, willing=[6]) is PASSES
    assert hospitals_audited(both, n_new=2, willing=[6]) is TELLS_FEW
    assert hospitals_audited(both, willing=[5]) is TELLS_FEW


def test_too_many_groups_of_hospitals_are_undecided() -> None:
    """Each of sixty hospitals is missing in one total: two totals tell two hospitals."""
    hospitals = range(3, 63)
    totals: list[Total] = []
    for missing in hospitals:
        totals.append((ALL, of(2, *[one for one in hospitals if one != missing])))
    assert hospitals_audited(totals, least=6) is UNDECIDED
    assert hospitals_audited(totals, least=4) is UNDECIDED
    assert hospitals_audited(totals[:10], least=2) is PASSES
    assert hospitals_audited(totals[:10], least=3) is TELLS_FEW


def null_space(columns: list[list[Fraction]], n: int) -> list[list[Fraction]]:
    """A basis of the x with x . column = 0 for all columns, by Gauss and Jordan."""
    pivots: list[int] = []
    rows: list[list[Fraction]] = []
    for column in columns:
        row = list(column)
        for pivot, other in zip(pivots, rows, strict=True):
            row = [a - row[pivot] * b for a, b in zip(row, other, strict=True)]
        place = next((i for i in range(n) if row[i]), None)
        if place is None:
            continue
        row = [a / row[place] for a in row]
        for i, other in enumerate(rows):
            rows[i] = [a - other[place] * b for a, b in zip(other, row, strict=True)]
        pivots.append(place)
        rows.append(row)
    basis = []
    for free in (i for i in range(n) if i not in pivots):
        x = [Fraction(int(i == free)) for i in range(n)]
        for pivot, row in zip(pivots, rows, strict=True):
            x[pivot] = -row[free]
        basis.append(x)
    return basis


def left_of(totals: Sequence[Total], group: Collection[int]) -> list[list[Fraction]]:
    """What combinations without the own part and without the hospitals outside a group
    leave, in every part and cell: a basis of them, and perhaps more.
    """
    n = len(totals)
    if n == 0:
        return []
    n_members = len(totals[0][0])
    own = [[Fraction(one[c]) for one, _ in totals] for c in range(n_members)]

    def columns(part: Part) -> list[list[Fraction]]:
        return [
            [Fraction(parts.get(part, 0)) * one[c] for one, parts in totals]
            for c in range(n_members)
        ]

    zero = list(own)
    for part in PARTS:
        if hospital_of(part) not in group:
            zero += columns(part)
    every = [column for part in PARTS for column in columns(part)]
    left = []
    for x in null_space(zero, n):
        left.append([product_of(x, column) for column in every])
    return left


def product_of(x: Sequence[Fraction], column: Sequence[Fraction]) -> Fraction:
    return sum((a * b for a, b in zip(x, column, strict=True)), Fraction(0))


def tells_by_fractions(
    totals: Sequence[Total], *, n_new: int, least: int, willing: Sequence[int]
) -> bool:
    """Whether something is left of a group of fewer hospitals than `least` that is no
    sum of what its willing ones leave and of what the earlier totals left of it.
    """
    for size in range(1, least):
        for group in itertools.combinations((3, 4, 5, 6, 7), size):
            harmless = left_of(totals[:-n_new], group)
            harmless += left_of(totals, set(group) & set(willing))
            told = left_of(totals, group)
            if rank([*harmless, *told]) > rank(harmless):
                return True
    return False


PARTS: list[Part] = [3, 4, (5, "x"), (5, "y"), 6, 7]
COEFFICIENTS = st.sampled_from([0, 0, 1, 1, 1, -1, Fraction(1, 2)])


TOTALS = st.lists(
    st.tuples(
        st.sampled_from([MEN, WOMEN, ALL, [1, 0, 1, 0], [0, 1, 1, 1]]),
        st.fixed_dictionaries(
            {3: COEFFICIENTS, 4: COEFFICIENTS, (5, "x"): COEFFICIENTS},
            optional={(5, "y"): COEFFICIENTS, 6: COEFFICIENTS, 7: COEFFICIENTS},
        ),
    ),
    min_size=1,
    max_size=7,
)
WILLING = st.lists(st.sampled_from([3, 4, 5, 6, 7]), unique=True)


@given(totals=TOTALS, n_new=st.integers(1, 7), least=st.integers(2, 4), willing=WILLING)
@example(
    totals=[(ALL, {3: 1, 4: 1}), (ALL, {3: 1, 4: 0})], n_new=1, least=2, willing=[]
)
def test_hospitals_are_decided_as_by_fractions(
    totals: list[Total], n_new: int, least: int, willing: list[int]
) -> None:
    n_new = min(n_new, len(totals))
    expected = tells_by_fractions(totals, n_new=n_new, least=least, willing=willing)
    found = hospitals_audited(totals, n_new=n_new, least=least, willing=willing)
    assert found is (TELLS_FEW if expected else PASSES)


def hospitals_left(totals: Sequence[Total], x: Sequence[int]) -> set[int]:
    """The hospitals of which a combination of totals leaves something; none where it
    leaves some of the own part.
    """
    own = np.zeros(len(ALL), dtype=object)
    parts = {part: np.zeros(len(ALL), dtype=object) for part in PARTS}
    for factor, (members, coefficients) in zip(x, totals, strict=True):
        own += factor * np.array(members, dtype=object)
        for part, coefficient in coefficients.items():
            parts[part] += factor * coefficient * np.array(members, dtype=object)
    if own.any():
        return set()
    return {hospital_of(part) for part, left in parts.items() if left.any()}


@given(
    totals=TOTALS.filter(lambda totals: len(totals) <= 5),
    least=st.integers(2, 4),
    willing=WILLING,
)
@settings(max_examples=settings().max_examples // 2)
def test_no_combination_of_totals_that_pass_leaves_few_who_do_not_let_it(
    totals: list[Total], least: int, willing: list[int]
) -> None:
    """Every combination with small factors, one by one."""
    verdict = hospitals_audited(totals, n_new=len(totals), least=least, willing=willing)
    told = False
    for x in itertools.product(range(-2, 3), repeat=len(totals)):
        left = hospitals_left(totals, x)
        told = told or (0 < len(left) < least and not left <= set(willing))
    assert not told or verdict is TELLS_FEW
