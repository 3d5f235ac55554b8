"""Scales and bounds of the numbers of an expression, known to all before any row is read.

`rowwise` has how they follow from each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce

from analytics.statistics.expression import ExpressionError, Node

QUOTIENT_BITS = 192
QUOTIENT_FRACTION_BITS = 128


@dataclass(frozen=True)
class Fixed:
    """A column's numbers are integers / (2^two 5^five), |integer| < 2^bits.

    DECIMAL(p, s) is Fixed(s, s, ceil(p log2 10)), an integer of k bits Fixed(0, 0, k),
    a double Fixed(128, 0, 192).
    """

    two: int
    five: int
    bits: int
    # some may be missing; a column that cannot miss a value takes fewer joint products
    nullable: bool = True

    def __post_init__(self) -> None:
        has_powers_in_range = 0 <= self.two <= 2000 and 0 <= self.five <= 2000
        has_bits_in_range = 1 <= self.bits <= 4000
        if not has_powers_in_range or not has_bits_in_range:
            raise ExpressionError(
                "A column's type has digits outside of what is computed.",
                "Give it fewer digits.",
            )

    @classmethod
    def decimal(
        cls,
        digits: int,
        fraction_digits: int,
        *,
        nullable: bool = True,
    ) -> Fixed:
        largest = 10**digits - 1
        return cls(
            two=fraction_digits,
            five=fraction_digits,
            bits=largest.bit_length(),
            nullable=nullable,
        )

    @property
    def scale(self) -> Fraction:
        denominator = 2**self.two * 5**self.five
        return Fraction(1, denominator)


@dataclass(frozen=True)
class Kind:
    """A number is an integer, at most `bound` in size, times `scale` > 0."""

    scale: Fraction
    bound: int


def name(node: Node) -> str:
    """alias.column of a column's node."""
    alias, column = node.value
    return f"{alias}.{column}"


def kind_of(
    node: Node,
    types: Mapping[str, Fixed],
) -> Kind:
    """Scale and bound of a number. KeyError for a column without a type."""
    match node.op:
        case "column":
            fixed = types[name(node)]
            largest = 2**fixed.bits - 1
            return Kind(fixed.scale, largest)
        case "constant":
            size = abs(node.value) or Fraction(1)  # the scale of zero is 1
            sign = sign_of(node.value)
            return Kind(size, abs(sign))
        case "indicator":
            return Kind(Fraction(1), 1)
        case "/":
            scale = Fraction(1, 2**QUOTIENT_FRACTION_BITS)
            largest = 2**QUOTIENT_BITS - 1
            return Kind(scale, largest)
        case "*":
            kinds = [kind_of(arg, types) for arg in node.args]
            scale = Fraction(1)
            bound = 1
            for factor_kind in kinds:
                scale *= factor_kind.scale
                bound *= factor_kind.bound
            return Kind(scale, bound)
        case "+":
            kinds = [kind_of(arg, types) for arg in node.args]
            return common_kind(kinds, sum)
        case "case":
            kinds = [kind_of(arg, types) for arg in results(node)]
            return common_kind(kinds, max)
    raise ExpressionError(
        f"{node.op} is no number of a row.", "Use it where a comparison belongs."
    )


def results(case: Node) -> tuple[Node, ...]:
    """What a case can give: its branches and its else."""
    n_branches = len(case.args) // 2
    branches = case.args[1 : 2 * n_branches : 2]
    default = case.args[2 * n_branches :]  # one, or none
    return (*branches, *default)


def sign_of(value: Fraction) -> int:
    """1, 0 or -1: the integer of a constant, whose size is its scale."""
    if value > 0:
        return 1
    if value < 0:
        return -1
    return 0


def multiplier(kind: Kind, into: Kind) -> int:
    """The integer by which one of scale `kind` becomes one of scale `into`.

    That scale divides the other.
    """
    return int(kind.scale / into.scale)


def can_be_missing(
    node: Node,
    types: Mapping[str, Fixed],
) -> bool:
    """Whether a row may have no value.

    By a nullable column, a division by a column or a case without else.
    """
    match node.op:
        case "column":
            return types[name(node)].nullable
        case "valid":
            return False
        case "/":
            return True
    is_without_else = node.op == "case" and len(node.args) % 2 == 0
    if is_without_else:
        return True
    return any(can_be_missing(arg, types) for arg in node.args)


def common_kind(
    kinds: Sequence[Kind],
    combine: Callable[[list[int]], int],
) -> Kind:
    """The largest scale at which all kinds are integers, with their bounds combined.

    They are combined at that scale, by sum or max.
    """
    scales = [kind.scale for kind in kinds]
    scale = reduce(_gcd, scales)
    bounds = []
    for kind in kinds:
        lift = int(kind.scale / scale)
        bounds.append(kind.bound * lift)
    return Kind(scale, combine(bounds))


def _gcd(a: Fraction, b: Fraction) -> Fraction:
    """The largest number that both are whole multiples of."""
    denominator = a.denominator * b.denominator
    of_a = a.numerator * b.denominator
    of_b = b.numerator * a.denominator
    return Fraction(math.gcd(of_a, of_b), denominator)
