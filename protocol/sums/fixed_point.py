"""Real vectors as integers that add without overflow, whatever the hospitals hold.

With N rows over all hospitals and B the largest coordinate the order allows,

    f    = 62 - ceil(log2(N B))                     fraction bits
    w_i  = round(n_i v_i 2^f)                       words of hospital i, |w_i| <= n_i B 2^f
    mean = sum_i w_i / (N 2^f)                      |sum_i w_i| <= N B 2^f <= 2^62

so a sum fits a signed 64-bit word, and with the offset n_i B 2^f every word is a slot
in [0, 2^63]. The weights are the integer row counts themselves: no hospital rounds a
quotient n_i / N. Over K hospitals the mean's error stays below K B 2^-62, plus the last
bit of the float64 it is given in. (Decision 12; columns whose size no order bounds are
sent by `limbs`.)
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from analytics.arrays import Floats, Ints
from protocol.errors import BadRequest

SUM_BITS = 62
"""A signed sum stays within 2^SUM_BITS, which leaves the sign and one bit for the
offset.
"""

MIN_FRACTION_BITS = 16


@dataclass(frozen=True)
class FixedPoint:
    """The scale that all hospitals of an order share.

    The headroom is computed here, before an order starts: BadRequest `headroom` when
    fewer than MIN_FRACTION_BITS bits would be left for the fraction, `bound` when B
    cannot be used.

    >>> FixedPoint(1000).fraction_bits
    32
    """

    n_rows_total: int  # N >= 1
    # B > 0, a whole number or a power of two, so that B 2^f is an integer.
    bound: float = 2.0**20

    def __post_init__(self) -> None:
        if self.n_rows_total < 1:
            raise BadRequest(
                "The hospitals hold no row together.",
                remedy="Widen the selection.",
                code="no_rows",
            )
        is_positive = np.isfinite(self.bound) and self.bound > 0
        if not is_positive:
            raise BadRequest(
                "The bound is not a positive number.",
                remedy="Leave it at its default.",
                code="bound",
            )
        if self.fraction_bits < MIN_FRACTION_BITS:
            raise BadRequest(
                f"Rows times bound leave {self.fraction_bits} fraction bits; {MIN_FRACTION_BITS} are needed.",
                remedy="Order a smaller bound, or fewer rows.",
                code="headroom",
            )
        if self._unit.denominator != 1:
            raise BadRequest(
                "The bound is too fine.",
                remedy="Give a whole number or a power of two.",
                code="bound",
            )

    @property
    def fraction_bits(self) -> int:
        """f = 62 - ceil(log2(N B)), by integer arithmetic."""
        largest_sum = self.n_rows_total * Fraction(self.bound)
        return SUM_BITS - _ceil_log2(largest_sum)

    @property
    def _unit(self) -> Fraction:
        """B 2^f, the largest word of one row."""
        return Fraction(self.bound) * Fraction(2) ** self.fraction_bits

    def offset(self, n_rows: int) -> int:
        """n_rows B 2^f, for any role.

        Added to a word of `n_rows` rows it makes a slot in [0, 2 n_rows B 2^f].
        """
        return n_rows * int(self._unit)

    def encode(self, values: Floats, n_rows: int) -> Ints:
        """round(n_rows * value * 2^f), elementwise, half to even.

        A hospital runs it on its own vector. `values` is float64 (d,), `n_rows` in
        0..N; the result is int64 (d,) with |word| <= n_rows B 2^f. The product is
        formed exactly (not in float64, whose last bit weighs 2^9 here), correct to 1/2
        + n_rows 2^-54 of a word. Nothing is clipped and nothing wraps: BadRequest
        `bound_exceeded` when a coordinate is not finite or beyond the bound, `weight`
        when n_rows is not in 0..N.
        """
        values = np.asarray(values, dtype=np.float64)
        _require_vector(values)
        self._check_weight(n_rows)
        self._check_bound(values)
        # In two parts: n |whole| <= n B 2^f is exact in int64, only the product of the
        # rest is rounded.
        scaled = np.ldexp(values, self.fraction_bits)
        whole = np.rint(scaled)
        rest = np.rint((scaled - whole) * n_rows)
        words: Ints = whole.astype(np.int64) * np.int64(n_rows)
        words += rest.astype(np.int64)
        return words

    def decode(self, sums: Ints) -> Floats:
        """The weighted mean sum / (N 2^f), float64 (d,) from int64 (d,).

        Every hospital runs it. One conversion, one division and one shift of the
        exponent, each correctly rounded by IEEE 754: all processors give the same bits.
        """
        floats = np.asarray(sums).astype(np.float64)
        quotients = floats / np.float64(self.n_rows_total)
        return np.ldexp(quotients, -self.fraction_bits)

    def _check_weight(self, n_rows: int) -> None:
        if not 0 <= n_rows <= self.n_rows_total:
            raise BadRequest(
                "A weight is not between 0 and all rows.",
                remedy="Count the rows again.",
                code="weight",
            )

    def _check_bound(self, values: Floats) -> None:
        is_within = np.abs(values) <= self.bound
        # NaN compares false, so it is outside too.
        if not is_within.all():
            position = int(np.argmin(is_within))  # the first outside
            raise BadRequest(
                f"Coordinate {position} of {values.size} is not finite or exceeds the bound.",
                remedy="Standardise the features, scale a large label, order smaller steps, or order a larger bound.",
                code="bound_exceeded",
                position=position,
                bound=self.bound,
            )


def _require_vector(values: Floats) -> None:
    if values.ndim != 1:
        raise BadRequest(
            "A contribution is not one flat vector.",
            remedy="Flatten the layers.",
            code="shape",
        )


def _ceil_log2(x: Fraction) -> int:
    """The smallest k with 2^k >= x > 0."""
    # Of the lengths alone it is at most one or two too low.
    exponent = x.numerator.bit_length() - x.denominator.bit_length() - 1
    while Fraction(2) ** exponent < x:
        exponent += 1
    return exponent
