"""Exact numbers of one hospital's rows: their scales and bounds, and the part of an
expression it computes itself.

A number is an integer times a scale known to all, and the integer's bound is known
before any row is read:

    scale(x + y) = gcd of both scales      bound = m_x B_x + m_y B_y, m = scale of the
    term / scale of the sum scale(x y)   = product                 bound = B_x B_y
    scale(x / y) = 2^-128                  |x / y| < 2^64, rounded once to the nearest
    double

`kind_of` gives both of a node, `compute` its rows. `circuit` uses the first at every
party, the second at one hospital.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analytics.statistics.expression import ExpressionError, Node

Bools = NDArray[np.bool_]
QUOTIENT_BITS = 192
QUOTIENT_FRACTION_BITS = 128
_ALL_DOUBLES_FROM = 2.0 ** (53 - QUOTIENT_FRACTION_BITS)
"""Doubles from here on are multiples of 2^-128; a smaller quotient is rounded to a
multiple of that.
"""


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
        are_powers_in_range = 0 <= self.two <= 2000 and 0 <= self.five <= 2000
        are_bits_in_range = 1 <= self.bits <= 4000
        if not are_powers_in_range or not are_bits_in_range:
            raise ExpressionError(
                "A column's type has digits outside of what is computed.",
                "Give it fewer digits.",
            )

    @classmethod
    def decimal(
        cls, digits: int, fraction_digits: int, *, nullable: bool = True
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
        return Fraction(1, 2**self.two * 5**self.five)


@dataclass(frozen=True)
class Kind:
    """A number is an integer, at most `bound` in size, times `scale` > 0."""

    scale: Fraction
    bound: int


@dataclass(frozen=True)
class Column:
    """One hospital's rows of one column, in the joint order; both are (n_rows,)."""

    # int64, or objects that are int; not read where there is no value
    values: NDArray[Any]
    valid: Bools  # which rows have a value

    def __getitem__(self, rows: slice) -> Column:
        return Column(self.values[rows], self.valid[rows])


@dataclass(frozen=True)
class Computed:
    """What a node gives for each of some rows: arrays (n_rows,)."""

    # Integers at the node's scale, or bool; zero or False where missing
    values: NDArray[Any]
    valid: Bools  # which rows have a value
    divided_by_zero: Bools  # which of the others have none for that reason


def name(node: Node) -> str:
    """alias.column of a column's node."""
    alias, column = node.value
    return f"{alias}.{column}"


def kind_of(node: Node, types: Mapping[str, Fixed]) -> Kind:
    """Scale and bound of a number. KeyError for a column without a type."""
    match node.op:
        case "column":
            fixed = types[name(node)]
            return Kind(fixed.scale, 2**fixed.bits - 1)
        case "constant":
            size = abs(node.value) or Fraction(1)  # the scale of zero is 1
            return Kind(size, abs(sign_of(node.value)))
        case "indicator":
            return Kind(Fraction(1), 1)
        case "/":
            return Kind(Fraction(1, 2**QUOTIENT_FRACTION_BITS), 2**QUOTIENT_BITS - 1)
        case "*":
            kinds = [kind_of(arg, types) for arg in node.args]
            scale = math.prod((kind.scale for kind in kinds), start=Fraction(1))
            bound = math.prod(kind.bound for kind in kinds)
            return Kind(scale, bound)
        case "+":
            return _common([kind_of(arg, types) for arg in node.args], sum)
        case "case":
            return _common([kind_of(arg, types) for arg in results(node)], max)
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
    return -1 if value < 0 else 0


def multiplier(kind: Kind, into: Kind) -> int:
    """The integer by which one of scale `kind` becomes one of scale `into`.

    That scale divides the other.
    """
    return int(kind.scale / into.scale)


def can_be_missing(node: Node, types: Mapping[str, Fixed]) -> bool:
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


def compute(
    node: Node,
    columns: Mapping[str, Column],
    types: Mapping[str, Fixed],
    *,
    n_rows: int,
) -> Computed:
    """A node over one hospital's own columns, in clear, exactly.

    A division is rounded once. Values are int64 where the node's bound allows it, else
    Python's integers. Raises ExpressionError where a column holds what its announced
    type does not, or a quotient is 2^64 or more.

    Disclosure: runs inside one hospital on its own rows; nothing of it leaves but as a
    share.
    """
    done = _Sheet(columns, types, n_rows).compute(node)
    # A zero of the values' own type, so that they keep it.
    zero: Any = 0
    if done.values.dtype != object:
        zero = done.values.dtype.type(0)
    values = np.where(done.valid, done.values, zero)
    return Computed(values, done.valid, done.divided_by_zero)


def _common(kinds: Sequence[Kind], combine: Callable[[list[int]], int]) -> Kind:
    """The largest scale at which all kinds are integers, with their bounds combined.

    They are combined at that scale, by sum or max.
    """
    scale = reduce(_gcd, [kind.scale for kind in kinds])
    bounds = [kind.bound * int(kind.scale / scale) for kind in kinds]
    return Kind(scale, combine(bounds))


def _gcd(a: Fraction, b: Fraction) -> Fraction:
    """The largest number that both are whole multiples of."""
    numerator = math.gcd(a.numerator * b.denominator, b.numerator * a.denominator)
    return Fraction(numerator, a.denominator * b.denominator)


class _Sheet:
    """The columns of some rows, and what is computed of them."""

    def __init__(
        self, columns: Mapping[str, Column], types: Mapping[str, Fixed], n_rows: int
    ) -> None:
        self._columns = columns
        self._types = types
        self._n_rows = n_rows

    def compute(self, node: Node) -> Computed:
        match node.op:
            case "column":
                return self._column(node)
            case "constant" | "truth":
                return self._constant(node)
            case "case":
                return self._case(node)
        parts = [self.compute(arg) for arg in node.args]
        # A row has a value where all that it uses has one.
        valid = self._full(True)
        zeros = self._full(False)
        for part in parts:
            valid = valid & part.valid
            zeros = zeros | part.divided_by_zero
        match node.op:
            case "valid":
                return Computed(valid, self._full(True), zeros)
            case "/":
                return self._quotient(node, parts, valid, zeros)
            case "=" | "<":
                return Computed(self._compared(node, parts), valid, zeros)
        return Computed(self._values(node, parts), valid, zeros)

    def _values(self, node: Node, parts: Sequence[Computed]) -> Any:
        match node.op:
            case "+":
                return self._total(node.args, parts)
            case "*":
                return self._product(node.args, parts)
            case "indicator":
                return parts[0].values.astype(np.int64)
            case "and":
                return np.all([part.values for part in parts], axis=0)
            case "or":
                return np.any([part.values for part in parts], axis=0)
            case "not":
                return ~parts[0].values
        raise ExpressionError(
            f"{node.op} is not computed row by row.", "Use an aggregate on its own."
        )

    def _column(self, node: Node) -> Computed:
        column_name = name(node)
        column = self._columns[column_name]
        bound = kind_of(node, self._types).bound
        # The steps that all parties made of the announced types would give another
        # value, or wrap.
        is_nullable = self._types[column_name].nullable
        if not is_nullable and not column.valid.all():
            raise ExpressionError(
                f"{column_name} misses values, and was said not to.",
                "Announce it as nullable.",
            )
        values = np.where(column.valid, column.values, 0)
        beyond = (values > bound) | (values < -bound)
        if beyond.any():
            raise ExpressionError(
                f"{column_name} holds larger numbers than its type.",
                "Give the type more digits.",
            )
        return Computed(
            values=_wide(values, bound),
            valid=column.valid.astype(bool),
            divided_by_zero=self._full(False),
        )

    def _constant(self, node: Node) -> Computed:
        value = node.value
        if node.op == "constant":
            value = np.int64(sign_of(node.value))
        return Computed(
            values=np.full(self._n_rows, value),
            valid=self._full(True),
            divided_by_zero=self._full(False),
        )

    def _product(
        self,
        nodes: Sequence[Node],
        parts: Sequence[Computed],
    ) -> NDArray[Any]:
        # As wide as any product of some of the factors may become.
        bounds = [kind_of(node, self._types).bound for node in nodes]
        large = math.prod(max(1, bound) for bound in bounds)
        product = _wide(parts[0].values, large)
        for part in parts[1:]:
            product = product * _wide(part.values, large)
        return product

    def _total(self, nodes: Sequence[Node], parts: Sequence[Computed]) -> NDArray[Any]:
        kinds = [kind_of(node, self._types) for node in nodes]
        into = _common(kinds, sum)
        lifts = [multiplier(kind, into) for kind in kinds]
        large = 0
        for kind, lift in zip(kinds, lifts, strict=True):
            large += max(1, kind.bound) * lift
        # One after the other, since each is an array of all rows.
        total = _wide(parts[0].values, large) * lifts[0]
        for part, lift in zip(parts[1:], lifts[1:], strict=True):
            total = total + _wide(part.values, large) * lift
        return total

    def _compared(self, node: Node, parts: Sequence[Computed]) -> NDArray[Any]:
        left, right = parts
        opposite = replace(right, values=_negative(right.values))
        difference = self._total(node.args, [left, opposite])
        if node.op == "=":
            compared = difference == 0
        else:
            compared = difference < 0
        return np.asarray(compared, dtype=bool)

    def _quotient(
        self, node: Node, parts: Sequence[Computed], valid: Bools, zeros: Bools
    ) -> Computed:
        """x / y = (x's integer * x's scale) / (y's integer * y's scale), as a quotient
        of integers.
        """
        over, under = [kind_of(arg, self._types).scale for arg in node.args]
        x, y = [part.values for part in parts]
        dividends = x.astype(object) * (over.numerator * under.denominator)
        divisors = y.astype(object) * (over.denominator * under.numerator)
        is_nonzero = np.asarray(y != 0, dtype=bool)
        exists = valid & is_nonzero
        quotients: list[int] = []
        rows = zip(dividends.tolist(), divisors.tolist(), exists.tolist(), strict=True)
        for dividend, divisor, is_there in rows:
            quotient = _nearest(dividend, divisor) if is_there else 0
            quotients.append(quotient)
        return Computed(
            values=np.array(quotients, dtype=object),
            valid=exists,
            divided_by_zero=zeros | (valid & ~is_nonzero),
        )

    def _case(self, node: Node) -> Computed:
        """Row by row the first branch whose condition is true.

        A condition without a value gives none.
        """
        branches = [self.compute(result) for result in results(node)]
        lifts = [self._lift(node, result) for result in results(node)]
        n_conditions = len(node.args) // 2
        conditions = [self.compute(arg) for arg in node.args[: 2 * n_conditions : 2]]
        bound = 1
        values: NDArray[Any] = np.zeros(self._n_rows, dtype=bool)
        if not node.is_boolean:
            bound = kind_of(node, self._types).bound
            values = _wide(values, bound)
        valid = self._full(False)
        zeros = self._full(False)
        undecided = self._full(True)  # rows that no branch was taken for
        for place, result in enumerate(branches):
            here = undecided  # the rows of this branch
            if place < n_conditions:
                condition = conditions[place]
                missing = undecided & ~condition.valid
                zeros = zeros | (missing & condition.divided_by_zero)
                here = undecided & condition.valid & condition.values
                undecided = undecided & ~missing & ~here
            chosen = result.values[here]
            if not node.is_boolean:
                chosen = _wide(chosen, bound) * lifts[place]
            values[here] = chosen
            valid = valid | (here & result.valid)
            zeros = zeros | (here & result.divided_by_zero)
        return Computed(values, valid, zeros)

    def _lift(self, node: Node, result: Node) -> int:
        """The multiplier from a branch's scale to the case's."""
        if node.is_boolean:
            return 1
        return multiplier(kind_of(result, self._types), kind_of(node, self._types))

    def _full(self, value: bool) -> Bools:
        return np.full(self._n_rows, value)


def _wide(values: NDArray[Any], bound: int) -> NDArray[Any]:
    """int64 where no value beyond `bound` can arise, else objects."""
    if bound < 2**63:
        return values.astype(np.int64)
    return values.astype(object)


def _negative(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype == object:
        return -values
    return -values.astype(np.int64)


def _nearest(top: int, bottom: int) -> int:
    """top / bottom as a multiple of 2^-128.

    It is the nearest double, or the nearest multiple where doubles are finer.

    >>> _nearest(1, 4) == 2**126
    True
    """
    try:
        value = top / bottom
    except OverflowError:
        value = math.inf  # refused below
    if abs(value) >= 2.0 ** (QUOTIENT_BITS - QUOTIENT_FRACTION_BITS):
        raise ExpressionError(
            "A quotient is 2**64 or more.",
            "Divide by larger numbers, or leave such rows out.",
        )
    if abs(value) >= _ALL_DOUBLES_FROM:
        return int(math.ldexp(value, QUOTIENT_FRACTION_BITS))
    return round(Fraction(top << QUOTIENT_FRACTION_BITS, bottom))
