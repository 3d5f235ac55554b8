"""The natural logarithm of one number by + - * / alone.

A library's differs in its last bit from one processor to the next, and what all hospitals
must come to alike would with it.

    ln(m 2^e) = e ln 2 + 2 (f + f^3/3 + f^5/5 + ...)    f = (m - 1) / (m + 1)

with m between the roots of 1/2 and of 2, so that f^2 < 0.03 and twelve terms are enough.

Pure. Decision 13.
"""

from __future__ import annotations

import math

_N_TERMS = 12
_ROOT_OF_HALF = 0.7071067811865476
# ln 2 in two parts: the first one's last 21 bits are 0, so that e times it is exact.
_LN2_HIGH = 6.93147180369123816490e-01
_LN2_LOW = 1.90821492927058770002e-10


def logarithm(x: float) -> float:
    """ln x, within three units of its last digit; x is finite and above 0.

    >>> logarithm(1.0)
    0.0
    >>> logarithm(10.0)
    2.302585092994046
    """
    m, e = math.frexp(x)
    if m < _ROOT_OF_HALF:
        m *= 2
        e -= 1
    f = (m - 1) / (m + 1)
    square = f * f
    series = 0.0
    for term in reversed(range(_N_TERMS)):
        series = series * square + 1 / (2 * term + 1)
    return e * _LN2_HIGH + (e * _LN2_LOW + 2 * f * series)
