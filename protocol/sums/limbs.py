"""Real vectors of any magnitude as exact integers in limbs.

They are for sums whose size nobody knows before. A gradient is bounded by the order,
and a word holds it. The mean of a raw column is not: blood counts reach 10**12,
concentrations 10**-9. So each value is rounded once to a multiple of 2**-FRACTION_BITS
and sent as N_LIMBS words of LIMB_BITS bits, most significant last, all with the value's
sign; limbs add without carrying into each other (decision 25).
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from analytics.arrays import Floats, Ints
from protocol.errors import BadRequest

LIMB_BITS = 30
N_LIMBS = 7
FRACTION_BITS = 100
_LARGEST = 2.0 ** (LIMB_BITS * N_LIMBS - FRACTION_BITS)


def to_limbs(values: Floats, weight: int) -> Ints:
    """weight * values, float64 (d,), as limbs int64 (d * N_LIMBS,).

    Each limb is below 2**LIMB_BITS in size. A hospital runs it. BadRequest `wide` for a
    value that is not finite or, weighted, 2**110 or more; its detail has their `places`.

    >>> to_limbs(np.array([-0.5]), 2).tolist()
    [0, 0, 0, -1024, 0, 0, 0]
    """
    with np.errstate(over="ignore"):
        weighted = values * float(weight)
    # NaN compares false, so it does not fit either.
    fits = np.abs(weighted) < _LARGEST
    if not fits.all():
        n_too_large = fits.size - int(fits.sum())
        raise BadRequest(
            f"{n_too_large} columns are too large to be added.",
            remedy="Give them in a larger unit, in a view.",
            code="wide",
            places=np.flatnonzero(~fits).tolist(),
        )
    limbs: list[int] = []
    for value in values.tolist():
        limbs.extend(_limbs(value, weight))
    return np.array(limbs, dtype=np.int64)


def _limbs(value: float, weight: int) -> list[int]:
    scaled = round(Fraction(value) * weight * 2**FRACTION_BITS)
    sign = -1 if scaled < 0 else 1
    rest = abs(scaled)
    limbs = []
    for _ in range(N_LIMBS):
        rest, limb = divmod(rest, 1 << LIMB_BITS)
        limbs.append(sign * limb)
    return limbs


def from_limbs(sums: Ints, divisor: int) -> Floats:
    """The summed values over `divisor`, float64 (d,), each rounded once.

    So they are the same bits at every hospital.

    >>> from_limbs(to_limbs(np.array([0.1, 1e12]), 3), 3).tolist()
    [0.1, 1000000000000.0]
    """
    scale = divisor * 2**FRACTION_BITS
    return np.array([float(Fraction(total, scale)) for total in whole_sums(sums)])


def whole_sums(sums: Ints) -> list[int]:
    """The summed values times 2**FRACTION_BITS, exactly."""
    value_sums = []
    for limbs in sums.reshape(-1, N_LIMBS).tolist():
        value_sum = 0
        for limb_place, limb in enumerate(limbs):
            value_sum += limb << (LIMB_BITS * limb_place)
        value_sums.append(value_sum)
    return value_sums
