"""The natural logarithm and the exponential function of one number, by + - * / alone.

A library's differ in their last bit from one processor to the next, and what all hospitals
must come to alike would with them.

    ln(m 2^k) = k ln 2 + 2 (f + f^3/3 + f^5/5 + ...)    f = (m - 1) / (m + 1)
    exp(k ln 2 + r) = 2^k (1 + r (1 + r/2 (1 + r/3 (...))))

with m between the roots of 1/2 and of 2, so that f^2 < 0.03, and |r| at most ln 2 / 2.

Pure. Decision 13.
"""

from __future__ import annotations

import math

# After so many terms what is left is below the last digit.
_LOGARITHM_TERMS = 12
_EXPONENTIAL_TERMS = 16
_ROOT_OF_HALF = 0.7071067811865476
# ln 2 in two parts: the first one's last 21 bits are 0, so that k times it is exact.
_LN2_HIGH = 6.93147180369123816490e-01
_LN2_LOW = 1.90821492927058770002e-10


def logarithm(x: float) -> float:
    """ln x, within three units of its last digit; x is finite and above 0.

    >>> logarithm(1.0)
    0.0
    >>> logarithm(10.0)
    2.302585092994046
    """
    m, k = math.frexp(x)
    if m < _ROOT_OF_HALF:
        m *= 2
        k -= 1
    f = (m - 1) / (m + 1)
    square = f * f
    series = 0.0
    for term in reversed(range(_LOGARITHM_TERMS)):
        series = series * square + 1 / (2 * term + 1)
    return k * _LN2_HIGH + (k * _LN2_LOW + 2 * f * series)


def exponential(x: float) -> float:
    """e to the power of x, within three units of its last digit; |x| is at most 700.

    >>> exponential(0.0)
    1.0
    >>> exponential(1.0)
    2.7182818284590455
    """
    k = round(x / _LN2_HIGH)
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    series = 1.0
    for term in reversed(range(1, _EXPONENTIAL_TERMS)):
        series = 1 + series * r / term
    return math.ldexp(series, k)
