"""Exact sums against rational arithmetic over every split, and against NIST's reference
sets for one column.
"""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.statistics import exact
from analytics.statistics.exact import JointMoments, Moments, told
from tests.made_moments import joint_moments_of, moments_of
from tests.pairwise import quick

# --- NIST Statistical Reference Datasets, univariate ----------------------------------------------------------------
# Lew (steel-concrete beam deflections), Lottery, Michelso (speed of light), Mavro
# (filter transmittance); PiDigits and NumAcc1 to NumAcc4 are generated here as NIST
# describes them. Certified: mean and standard deviation, 15 digits.

LEW = """
-213 -564 -35 -15 141 115 -420 -360 203 -338 -431 194 -220 -513 154 -125 -559 92 -21 -579 -52 99 -543 -175 162
-457 -346 204 -300 -474 164 -107 -572 -8 83 -541 -224 180 -420 -374 201 -236 -531 83 27 -564 -112 131 -507
-254 199 -311 -495 143 -46 -579 -90 136 -472 -338 202 -287 -477 169 -124 -568 17 48 -568 -135 162 -430 -422
172 -74 -577 -13 92 -534 -243 194 -355 -465 156 -81 -578 -64 139 -449 -384 193 -198 -538 110 -44 -577 -6 66
-552 -164 161 -460 -344 205 -281 -504 134 -28 -576 -118 156 -437 -381 200 -220 -540 83 11 -568 -160 172 -414
-408 188 -125 -572 -32 139 -492 -321 205 -262 -504 142 -83 -574 0 48 -571 -106 137 -501 -266 190 -391 -406 194
-186 -553 83 -13 -577 -49 103 -515 -280 201 300 -506 131 -45 -578 -80 138 -462 -361 201 -211 -554 32 74 -533
-235 187 -372 -442 182 -147 -566 25 68 -535 -244 194 -351 -463 174 -125 -570 15 72 -550 -190 172 -424 -385 198
-218 -536 96
"""
LOTTERY = """
162 671 933 414 788 730 817 33 536 875 670 236 473 167 877 980 316 950 456 92 517 557 956 954 104 178 794 278
147 773 437 435 502 610 582 780 689 562 964 791 28 97 848 281 858 538 660 972 671 613 867 448 738 966 139 636
847 659 754 243 122 455 195 968 793 59 730 361 574 522 97 762 431 158 429 414 22 629 788 999 187 215 810 782
47 34 108 986 25 644 829 630 315 567 919 331 207 412 242 607 668 944 749 168 864 442 533 805 372 63 458 777
416 340 436 140 919 350 510 572 905 900 85 389 473 758 444 169 625 692 140 897 672 288 312 860 724 226 884 508
976 741 476 417 831 15 318 432 241 114 799 955 833 358 935 146 630 830 440 642 356 373 271 715 367 393 190 669
8 861 108 795 269 590 326 866 64 523 862 840 219 382 998 4 628 305 747 247 34 747 729 645 856 974 24 568 24
694 608 480 410 729 947 293 53 930 223 203 677 227 62 455 387 318 562 242 428 968
"""
MICHELSO_KM_S = """
299850 299740 299900 300070 299930 299850 299950 299980 299980 299880 300000 299980 299930 299650 299760
299810 300000 300000 299960 299960 299960 299940 299960 299940 299880 299800 299850 299880 299900 299840
299830 299790 299810 299880 299880 299830 299800 299790 299760 299800 299880 299880 299880 299860 299720
299720 299620 299860 299970 299950 299880 299910 299850 299870 299840 299840 299850 299840 299840 299840
299890 299810 299810 299820 299800 299770 299760 299740 299750 299760 299910 299920 299890 299860 299880
299720 299840 299850 299850 299780 299890 299840 299780 299810 299760 299810 299790 299810 299820 299850
299870 299870 299810 299740 299810 299940 299950 299800 299810 299870
"""
MAVRO = """
2.00180 2.00170 2.00180 2.00190 2.00180 2.00170 2.00150 2.00140 2.00150 2.00150 2.00170 2.00180 2.00180
2.00190 2.00190 2.00210 2.00200 2.00160 2.00140 2.00130 2.00130 2.00150 2.00150 2.00160 2.00150 2.00140
2.00130 2.00140 2.00150 2.00140 2.00150 2.00160 2.00150 2.00160 2.00190 2.00200 2.00200 2.00210 2.00220
2.00230 2.00240 2.00250 2.00270 2.00260 2.00260 2.00260 2.00270 2.00260 2.00250 2.00240
"""


def thousandths(texts: list[str]) -> list[str]:
    return [f"{text[:-3]}.{text[-3:]}" for text in texts]


def alternating(first: str, *others: str) -> list[str]:
    return [first, *others * 500]


def digits_of_pi(n: int) -> str:
    """The first digits, 3 among them, by Machin's formula (1706): pi = 16 arctan(1/5) -
    4 arctan(1/239).
    """
    unit = 10 ** (n + 20)

    def arctan_of_one_over(x: int) -> int:
        term, total, k = unit // x, unit // x, 1
        while term:
            term, k = -term // (x * x), k + 2
            total += term // k
        return total

    number, blocks = 4 * (4 * arctan_of_one_over(5) - arctan_of_one_over(239)), []
    for _ in range(n // 1000):  # Python writes no number of 5,000 digits at once
        unit //= 10**1000
        block, number = divmod(number, unit)
        blocks.append(f"{block:01000}")
    return "".join(blocks).lstrip("0")[:n]


def pi_digits_of_nist() -> list[str]:
    """The file has a 3 where the 957th digit of pi is an 8; its certified values are
    those of the file.
    """
    digits = list(digits_of_pi(5000))
    assert digits[956] == "8"
    return [*digits[:956], "3", *digits[957:]]


CERTIFIED = {
    "PiDigits": (pi_digits_of_nist(), "4.53480000000000", "2.86733906028871"),
    "Lew": (LEW.split(), "-177.435000000000", "277.332168044316"),
    "Lottery": (LOTTERY.split(), "518.958715596330", "291.699727470969"),
    "Michelso": (
        thousandths(MICHELSO_KM_S.split()),
        "299.852400000000",
        "0.0790105478190518",
    ),
    "Mavro": (MAVRO.split(), "2.00185600000000", "0.000429123454003053"),
    "NumAcc1": (["10000001", "10000003", "10000002"], "10000002", "1"),
    "NumAcc2": (alternating("1.2", "1.1", "1.3"), "1.2", "0.1"),
    "NumAcc3": (alternating("1000000.2", "1000000.1", "1000000.3"), "1000000.2", "0.1"),
    "NumAcc4": (
        alternating("10000000.2", "10000000.1", "10000000.3"),
        "10000000.2",
        "0.1",
    ),
}


@pytest.mark.parametrize("name", CERTIFIED)
def test_nist_sets_to_all_certified_digits(name: str) -> None:
    values, mean, std = CERTIFIED[name]
    moments = moments_of(values)
    for answer, certified in ((exact.mean(moments), mean), (exact.std(moments), std)):
        assert answer is not None
        assert f"{answer:.14e}" == f"{float(certified):.14e}"


def test_decimals_of_numacc_are_exact_to_the_last_bit() -> None:
    for name in ("NumAcc2", "NumAcc3", "NumAcc4"):
        assert exact.std(moments_of(CERTIFIED[name][0])) == 0.1


# --- against rational arithmetic ------------------------------------------------------------------------------------

finite = st.floats(allow_nan=False, allow_infinity=False)
tiny = st.integers(-(2**52), 2**52).map(lambda n: n * 5e-324)
offset = st.tuples(st.sampled_from([0.0, 1e9, 1e15, -1e15]), st.floats(-10, 10)).map(
    sum
)
near = st.one_of(
    st.floats(-1e6, 1e6), tiny, offset, st.integers(-(2**62), 2**62).map(float)
)
columns = st.lists(near, min_size=1, max_size=40)


def parts(values: list[float], n_providers: int) -> list[list[float]]:
    return [values[i::n_providers] for i in range(n_providers)]


@pytest.mark.parametrize("n_providers", [1, 2, 3, 5])
@given(values=columns)
def test_joint_answers_are_the_pooled_ones_rounded_once(
    n_providers: int, values: list[float]
) -> None:
    joint = reduce(add, (moments_of(part) for part in parts(values, n_providers)))
    rational = [Fraction(value) for value in values]
    n = len(values)
    mean = sum(rational, Fraction()) / n
    assert joint.n == n
    assert exact.sum_of(joint) == float(sum(rational, Fraction()))
    assert exact.mean(joint) == float(mean)
    for ddof in (0, 1):
        variance = (
            None
            if n <= ddof
            else float(sum((x - mean) ** 2 for x in rational) / (n - ddof))
        )
        assert exact.variance(joint, ddof) == variance


@pytest.mark.parametrize("n_providers", quick([3, 2, 1, 5], 2))
@given(values=st.lists(st.tuples(near, near), min_size=2, max_size=20))
def test_joint_covariance_is_the_pooled_one(
    n_providers: int, values: list[tuple[float, float]]
) -> None:
    joint = reduce(
        add,
        (joint_moments_of(values[i::n_providers]) for i in range(n_providers)),
        JointMoments(),
    )
    x, y = ([Fraction(pair[i]) for pair in values] for i in (0, 1))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    assert exact.covariance(joint) == float(Fraction(spread) / (len(x) - 1))
    assert joint.x == moments_of(a for a, _ in values)
    assert joint.y == moments_of(b for _, b in values)
    r = exact.correlation(joint)
    assert r is None or (-1 <= r <= 1 and (r == 0 or (r > 0) == (spread > 0)))


@given(values=st.lists(finite, min_size=1, max_size=10))
def test_a_sum_that_cancels_leaves_nothing(values: list[float]) -> None:
    moments = moments_of([*values, *(-value for value in values)])
    assert moments.total == 0
    assert exact.mean(moments) == 0


def test_offsets_subnormals_and_constants() -> None:
    assert exact.variance(moments_of([1e9 + i for i in (1, 2, 3)])) == 1
    assert exact.variance(moments_of([1e15 + i for i in (1, 2, 3)])) == 1
    assert exact.variance(moments_of([0.1] * 1000)) == 0
    assert exact.sum_of(moments_of([5e-324] * 3)) == 15e-324
    assert exact.sum_of(moments_of([1e308, 1.0, -1e308])) == 1
    assert exact.std(moments_of([-1.7e308, 1.7e308]), 0) == 1.7e308


def test_fewer_rows_than_an_answer_needs() -> None:
    assert exact.mean(Moments()) is None
    assert exact.variance(moments_of([1])) is None
    assert exact.variance(moments_of([1]), 0) == 0
    assert exact.std(Moments(), 0) is None
    assert exact.covariance(joint_moments_of([(1, 2)])) is None
    assert exact.correlation(joint_moments_of([(1, 2), (1, 3)])) is None


def test_perfect_correlation_is_one() -> None:
    assert exact.correlation(
        joint_moments_of((i / 10, 3 * i / 10) for i in range(5))
    ) in (
        1.0,
        0.9999999999999999,
    )
    assert exact.correlation(joint_moments_of((i, -7 * i) for i in range(5))) == -1


def test_a_result_beyond_doubles_is_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        exact.sum_of(moments_of([1.7e308, 1.7e308]))
    with pytest.raises(ValueError, match="too large"):
        exact.variance(moments_of([-1.7e308, 1.7e308]))


@given(st.fractions(min_value=0))
def test_root_is_the_nearest_double(value: Fraction) -> None:
    root = exact.nearest_root(value)
    below, above = (Fraction(math.nextafter(root, to)) for to in (-math.inf, math.inf))
    low, high = (below + Fraction(root)) / 2, (above + Fraction(root)) / 2
    assert low <= 0 or low**2 <= value
    assert value <= high**2


@given(finite)
def test_a_float_and_its_digits(value: float) -> None:
    assert Fraction(exact.scaled(value), exact.UNIT) == Fraction(value)
    assert Fraction(exact.scaled(repr(value)), exact.UNIT) == Fraction(repr(value))


@pytest.mark.parametrize(
    "text",
    ["1e308", "17e307", "-1.5E+2", ".5", "5.", "+0007", " 2 ", "0e-9999", "1e-400"],
)
def test_decimals_as_files_write_them(text: str) -> None:
    assert Fraction(exact.scaled(text), exact.UNIT) == Fraction(text)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        "1,5",
        "1_0",
        "0x10",
        "nan",
        "inf",
        "1e400",
        "1e-401",
        "1e99999",
        "\u0661",
        "--1",
        math.nan,
        -math.inf,
        2**1024,
    ],
)
def test_what_is_no_number_is_refused_without_saying_it(value: str | float) -> None:
    with pytest.raises(ValueError, match=r"A (number|text) .*\.") as caught:
        exact.scaled(value)
    assert "1" not in str(caught.value).replace("than 400", "")


def test_the_widths_hold_the_largest_sums() -> None:
    largest = exact.MAX_ROWS * (2**1024 * exact.UNIT)
    assert largest < 2 ** (exact.SUM_BITS - 1)
    assert exact.MAX_ROWS * (2**1024 * exact.UNIT) ** 2 < 2 ** (exact.SQUARE_BITS - 1)
    assert exact.scaled(float(np.finfo(np.float64).max)) * exact.MAX_ROWS < 2 ** (
        exact.SUM_BITS - 1
    )
    assert exact.SUM_BITS - largest.bit_length() < 64
    assert exact.SQUARE_BITS % 64 == exact.SUM_BITS % 64 == 0


@pytest.mark.parametrize("sign", [1, -1])
def test_results_beyond_2_to_the_53_are_told_with_all_their_digits(sign: int) -> None:
    edge = 2**53
    for value in (
        Fraction(edge - 1),
        Fraction(edge),
        Fraction(1, 3),
        Fraction(10**60),
        Fraction(10**60 + 1),
    ):
        assert type(told(sign * value)) is float
        assert told(sign * value) == float(sign * value)
    for value in (
        Fraction(edge + 1),
        Fraction(edge * 2**7),
        Fraction(10**60 - 1),
        Fraction(2 * edge + 1, 2),
        Fraction(edge) + Fraction(1, 10**60),
    ):
        assert type(told(sign * value)) is not float
        assert Fraction(told(sign * value)) == sign * value
    for value in (Fraction(2**60 + 1, 3), Fraction(edge) + Fraction(1, 10**61)):
        assert told(sign * value) == float(sign * value)
    with pytest.raises(ValueError, match="too large"):
        told(Fraction(sign * 2**1025 + 1))


def test_sums_of_long_numbers_are_told_exactly() -> None:
    ids = [110105194912310001 + i for i in range(40)]
    assert exact.sum_of(moments_of(ids), told) == sum(ids)
    assert exact.sum_of(moments_of(ids)) == float(sum(ids))
    assert exact.mean(moments_of(ids), told) == Decimal("110105194912310020.5")
    assert (
        exact.variance(moments_of([2**40 * i + 1 for i in range(3)]), tell=told)
        == 2**80
    )
