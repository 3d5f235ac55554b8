"""Exact sums of numbers, and what follows from them: each answer is rounded once, to
the nearest double, or not at all.

Every finite double is an integer times 2^-1074, every decimal of at most 400 digits
after the point an integer times 10^-400. Both are whole multiples of 1 / UNIT, UNIT =
2^1074 5^400, so that sums of x and of x^2 are exact integers whatever the order, the
split into hospitals or the offset: 1e9 + {1, 2, 3} has the variance 1.

Bounds: |x| < 2^1024, n <= 2^40, 5^400 < 2^929. So |sum x| UNIT < 2^3067 and |sum x y|
UNIT^2 < 2^6094; SUM_BITS and SQUARE_BITS hold them with their sign in whole 64-bit
words. They are the same for all data, which they say nothing of.

Moments, numbers as integers, answers, answers as text; in this order. Decisions 32 and
33. Rows are added up in `agents/rows/exact_totals.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import isqrt

Number = float | int | Decimal
Tell = Callable[[Fraction], Number]
"""How a rational number is given in an answer: `nearest`, or `told`."""

TWO_DIGITS = 1_074
FIVE_DIGITS = 400
UNIT: int = 2**TWO_DIGITS * 5**FIVE_DIGITS
TOO_LARGE = "The result is too large for a double (above 1.8e308)."
SUM_BITS = 3_072
SQUARE_BITS = 6_144
MAX_ROWS = 2**40
MOST_DECIMALS = 60
LARGEST_WHOLE = 2**53  # up to here every whole number is a double
_LONGEST_WHOLE = 10**60
_LIMIT = UNIT << 1_024  # a number at or above it lies outside the range of doubles

# Four digits of an exponent: with more a short text would be gigabytes of integer.
DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
"""A number as csv and json files write it."""


@dataclass(frozen=True)
class Moments:
    """What some rows add up to, exactly; those of two sets of rows add up with +.

    Disclosure: as much as the sums say of the rows; they leave a hospital sealed in a
    joint sum only.
    """

    n: int = 0
    total: int = 0  # UNIT sum x
    squares: int = 0  # UNIT^2 sum x^2

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            n=self.n + other.n,
            total=self.total + other.total,
            squares=self.squares + other.squares,
        )


@dataclass(frozen=True)
class JointMoments:
    """The same of two columns, over the rows that have a value in both."""

    n: int = 0
    total_x: int = 0  # UNIT sum x
    total_y: int = 0
    squares_x: int = 0  # UNIT^2 sum x^2
    squares_y: int = 0
    products: int = 0  # UNIT^2 sum x y

    def __add__(self, other: JointMoments) -> JointMoments:
        pairs = zip(self.numbers, other.numbers, strict=True)
        totals = [own + added for own, added in pairs]
        return JointMoments(*totals)

    @property
    def numbers(self) -> tuple[int, int, int, int, int, int]:
        return (
            self.n,
            self.total_x,
            self.total_y,
            self.squares_x,
            self.squares_y,
            self.products,
        )

    @property
    def x(self) -> Moments:
        return Moments(
            n=self.n,
            total=self.total_x,
            squares=self.squares_x,
        )

    @property
    def y(self) -> Moments:
        return Moments(
            n=self.n,
            total=self.total_y,
            squares=self.squares_y,
        )


@dataclass(frozen=True)
class MatrixMoments:
    """The same of p columns, over the rows that have a value in all of them."""

    n: int
    totals: tuple[int, ...]  # (p,): UNIT sum x_i
    products: tuple[int, ...]  # (p (p + 1) / 2,): UNIT^2 sum x_i x_j for i <= j

    @property
    def numbers(self) -> list[int]:
        return [self.n, *self.totals, *self.products]

    def of_pair(self, i: int, j: int) -> JointMoments:
        """Those of two columns; of one with itself where i = j."""
        return JointMoments(
            n=self.n,
            total_x=self.totals[i],
            total_y=self.totals[j],
            squares_x=self._product(i, i),
            squares_y=self._product(j, j),
            products=self._product(i, j),
        )

    def _product(self, i: int, j: int) -> int:
        first = min(i, j)
        second = max(i, j)
        n_rows_before = first * len(self.totals)
        n_left_out = first * (first - 1) // 2
        row_start = n_rows_before - n_left_out
        return self.products[row_start + second - first]


def n_matrix_numbers(n_columns: int) -> int:
    """How many integers MatrixMoments of so many columns are."""
    n_products = n_columns * (n_columns + 1) // 2
    return 1 + n_columns + n_products


def matrix_moments(numbers: Sequence[int], n_columns: int) -> MatrixMoments:
    """Inverse of `MatrixMoments.numbers`."""
    n, *sums = numbers
    totals = sums[:n_columns]
    products = sums[n_columns:]
    return MatrixMoments(
        n=n,
        totals=tuple(totals),
        products=tuple(products),
    )


# --- numbers as multiples of 1 / UNIT --------------------------------------------------------------------------------


def scaled(value: int | float | Fraction | str) -> int:
    """UNIT times a number; a text is the decimal that is written there.

    >>> scaled("0.1") * 10 == scaled(1) != scaled(0.1) * 10
    True

    Raises ValueError for what is no finite number, is 2^1024 or more in size, or no
    multiple of 1 / UNIT (more than 400 digits after the point). The sentence holds no
    value.
    """
    if isinstance(value, str):
        number = _decimal(value)
    else:
        numerator, denominator = _ratio(value)
        number = _scaled_ratio(numerator, denominator)
    if abs(number) >= _LIMIT:
        raise ValueError("A number is outside the range of doubles.")
    return number


def _ratio(value: int | float | Fraction) -> tuple[int, int]:
    try:
        return value.as_integer_ratio()
    except (ValueError, OverflowError):
        raise ValueError("A number is not finite.") from None


def _scaled_ratio(numerator: int, denominator: int) -> int:
    quotient, remainder = divmod(numerator * UNIT, denominator)
    if remainder:
        raise ValueError(
            f"A number has more than {FIVE_DIGITS} digits after the point."
        )
    return quotient


def _decimal(text: str) -> int:
    text = text.strip()
    if not DECIMAL.fullmatch(text) or len(text) > 2_000:
        raise ValueError("A text is no number.")
    mantissa, _, exponent = text.lower().partition("e")
    whole, _, decimals = mantissa.partition(".")
    digits = int(whole + decimals)
    shift = int(exponent or 0) - len(decimals)
    if not digits:
        return 0
    power = int(10 ** abs(shift))
    if shift > 0:
        return _scaled_ratio(digits * power, 1)
    return _scaled_ratio(digits, power)


# --- answers ---------------------------------------------------------------------------------------------------------


def nearest(value: Fraction) -> float:
    """The double nearest to a rational number, ties to even.

    ValueError if it lies outside the range of doubles.
    """
    try:
        return value.numerator / value.denominator
    except OverflowError:
        raise ValueError(TOO_LARGE) from None


def told(value: Fraction) -> Number:
    """A result as an answer gives it: the nearest double, or all its digits.

    These from 2^53 to 10^60, if it ends. There doubles are further apart than whole
    numbers, and the last digits of a sum of long numbers would go. No database has
    longer whole numbers than that: what is larger comes of doubles.

    >>> told(Fraction(1, 8)), told(Fraction(2**53 + 1)), told(Fraction(2**60 + 1, 3))
    (0.125, 9007199254740993, 3.843071682022823e+17)
    >>> told(Fraction(2**54 + 1, 2))
    Decimal('9007199254740992.5')

    ValueError outside the range of doubles.
    """
    if not LARGEST_WHOLE < abs(value) < _LONGEST_WHOLE:
        return nearest(value)
    if value.denominator == 1:
        return value.numerator
    if _n_decimals(value.denominator) is None:
        return nearest(value)
    return Decimal(text_of(value))


def sum_of(moments: Moments, tell: Tell = nearest) -> Number:
    """sum x. ValueError outside the range of doubles."""
    return tell(Fraction(moments.total, UNIT))


def filled_sum(
    moments: Moments,
    n_missing: int,
    tell: Tell = nearest,
) -> Number:
    """sum x with the mean of the others in the place of each missing x: that is
    sum x (n + n_missing) / n. ValueError outside the range of doubles.
    """
    if not moments.n:
        return tell(Fraction(0))
    known_sum = Fraction(moments.total, UNIT)
    weight = Fraction(moments.n + n_missing, moments.n)
    return tell(known_sum * weight)


def mean(
    moments: Moments,
    tell: Tell = nearest,
) -> Number | None:
    """sum x / n; None without rows."""
    if not moments.n:
        return None
    exact = Fraction(moments.total, UNIT * moments.n)
    return tell(exact)


def variance(
    moments: Moments,
    ddof: int = 1,
    tell: Tell = nearest,
) -> Number | None:
    """(sum x^2 - (sum x)^2 / n) / (n - ddof); None for n <= ddof.

    ValueError outside the range of doubles.
    """
    exact = _variance(moments, ddof)
    if exact is None:
        return None
    return tell(exact)


def std(
    moments: Moments,
    ddof: int = 1,
) -> float | None:
    """The double nearest to the root of the true variance; None for n <= ddof."""
    exact = _variance(moments, ddof)
    if exact is None:
        return None
    return nearest_root(exact)


def covariance(
    moments: JointMoments,
    ddof: int = 1,
    tell: Tell = nearest,
) -> Number | None:
    """(sum x y - sum x sum y / n) / (n - ddof); None for n <= ddof.

    ValueError outside the range of doubles.
    """
    exact = _covariance(
        moments.n,
        moments.products,
        moments.total_x,
        moments.total_y,
        ddof,
    )
    if exact is None:
        return None
    return tell(exact)


def correlation(moments: JointMoments) -> float | None:
    """Pearson's coefficient, the double nearest to its true value.

    None where a column is constant or n < 2.
    """
    n = moments.n
    if n < 2:
        return None
    products = n * moments.products - moments.total_x * moments.total_y
    spread_x = n * moments.squares_x - moments.total_x**2
    spread_y = n * moments.squares_y - moments.total_y**2
    if not spread_x or not spread_y:
        return None
    # The root of a rational number, so that it is rounded once.
    square = Fraction(products**2, spread_x * spread_y)
    magnitude = nearest_root(square)
    if products < 0:
        return -magnitude
    return magnitude


def nearest_root(value: Fraction) -> float:
    """The double nearest to the square root of a rational number >= 0.

    The integer root of the number shifted to 128 bits or more, and one more bit that
    says whether anything is left.
    """
    numerator = value.numerator
    denominator = value.denominator
    n_bits = numerator.bit_length() - denominator.bit_length()
    shift = max(0, 128 - n_bits)
    dividend = numerator << 2 * shift
    root = isqrt(dividend // denominator)
    is_exact = root * root * denominator == dividend
    # Anything left is half a unit of the root's last place: enough to be on the right
    # side of a tie of doubles.
    doubled = 2 * root
    if not is_exact:
        doubled += 1
    return nearest(Fraction(doubled, 2 << shift))


def _variance(moments: Moments, ddof: int) -> Fraction | None:
    """A column's covariance with itself."""
    return _covariance(
        moments.n,
        moments.squares,
        moments.total,
        moments.total,
        ddof,
    )


def _covariance(
    n: int,
    products: int,
    total_x: int,
    total_y: int,
    ddof: int,
) -> Fraction | None:
    if not n or n <= ddof:
        return None
    # (sum x y - sum x sum y / n) / (n - ddof), over one denominator.
    numerator = n * products - total_x * total_y
    denominator = n * (n - ddof) * UNIT**2
    return Fraction(numerator, denominator)


# --- as text ---------------------------------------------------------------------------------------------------------


def text_of(value: Fraction) -> str:
    """A number for a file.

    Whole, the shortest text of its double where it is one, its exact decimal text, or,
    with more than 60 digits after the point, the shortest text of the nearest double.

    >>> text_of(Fraction(1, 8)), text_of(Fraction(-7, 10)), text_of(Fraction(2, 3))
    ('0.125', '-0.7', '0.6666666666666666')
    >>> text_of(Fraction(0.1))
    '0.1'
    """
    if value.denominator == 1:
        return str(value.numerator)
    double = _double(value)
    if double is not None and Fraction(double) == value:
        return repr(double)
    digits = _n_decimals(value.denominator)
    if digits is not None:
        factor = 10**digits // value.denominator
        return _decimal_text(value.numerator * factor, digits)
    if double is None:
        return str(round(value))
    return repr(double)


def _double(value: Fraction) -> float | None:
    try:
        return float(value)
    except OverflowError:
        return None


def _n_decimals(denominator: int) -> int | None:
    """The digits after the point of a number that ends, up to MOST_DECIMALS."""
    # It ends if the denominator is 2^twos 5^fives.
    lowest_bit = denominator & -denominator
    twos = lowest_bit.bit_length() - 1
    rest = denominator >> twos
    fives = 0
    while rest % 5 == 0 and fives <= MOST_DECIMALS:
        rest //= 5
        fives += 1
    digits = max(twos, fives)
    if rest != 1 or digits > MOST_DECIMALS:
        return None
    return digits


def _decimal_text(number: int, digits: int) -> str:
    sign = "-" if number < 0 else ""
    whole, fraction = divmod(abs(number), 10**digits)
    return f"{sign}{whole}.{fraction:0{digits}d}"
