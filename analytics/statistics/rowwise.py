"""Exact numbers of one hospital's rows: their scales and bounds, and the part of an expression it computes itself.

A number is an integer times a scale known to all, and the integer's bound is known before any row is read:

    scale(x + y) = gcd of both scales      bound = m_x B_x + m_y B_y, m = scale of the term / scale of the sum
    scale(x y)   = product                 bound = B_x B_y
    scale(x / y) = 2^-128                  |x / y| < 2^64, rounded once to the nearest double

`kind_of` gives both of a node, `compute` its rows. `circuit` uses the first at every party, the second at one hospital.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analytics.statistics.expression import ExpressionError, Node

Bools = NDArray[np.bool_]
QUOTIENT_BITS, QUOTIENT_FRACTION_BITS = 192, 128
_ALL_DOUBLES_FROM = 2.0 ** (53 - QUOTIENT_FRACTION_BITS)
"""Doubles from here on are multiples of 2^-128; a smaller quotient is rounded to a multiple of that."""


@dataclass(frozen=True)
class Fixed:
    """A column's numbers are integers / (2^two 5^five), |integer| < 2^bits.

    DECIMAL(p, s) is Fixed(s, s, ceil(p log2 10)), an integer of k bits Fixed(0, 0, k), a double Fixed(128, 0, 192).
    """

    two: int
    five: int
    bits: int
    nullable: bool = True  # some may be missing; a column that cannot miss a value takes fewer joint products

    def __post_init__(self) -> None:
        are_fractions_in_range = 0 <= self.two <= 2000 and 0 <= self.five <= 2000
        if not are_fractions_in_range or not 1 <= self.bits <= 4000:
            raise ExpressionError(
                "A column's type has digits outside of what is computed.", "Give it fewer digits."
            )

    @classmethod
    def decimal(cls, digits: int, fraction_digits: int, *, nullable: bool = True) -> Fixed:
        return cls(fraction_digits, fraction_digits, (10**digits - 1).bit_length(), nullable)

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
    """One hospital's rows of one column, in the joint order: its integers, and which of them exist.

    Both are (n_rows,).
    """

    values: NDArray[Any]  # int64, or objects that are int; not read where there is no value
    valid: Bools

    def __getitem__(self, rows: slice) -> Column:
        return Column(self.values[rows], self.valid[rows])


@dataclass(frozen=True)
class Computed:
    """What a node gives for each of some rows: arrays (n_rows,)."""

    values: NDArray[Any]  # integers at the node's scale, or bool; zero or False where missing
    valid: Bools  # which rows have a value
    divided_by_zero: Bools  # which of the others have none for that reason


def name(node: Node) -> str:
    """alias.column of a column's node."""
    return "{}.{}".format(*node.value)


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
    raise ExpressionError(f"{node.op} is no number of a row.", "Use it where a comparison belongs.")


def results(case: Node) -> tuple[Node, ...]:
    """What a case can give: its branches and its else."""
    n_branches = len(case.args) // 2
    branches = case.args[1 : 2 * n_branches : 2]
    default = case.args[2 * n_branches :]  # one, or none
    return (*branches, *default)


def sign_of(value: Fraction) -> int:
    """1, 0 or -1: the integer of a constant, whose size is its scale."""
    if not value:
        return 0
    return 1 if value > 0 else -1


def multiplier(kind: Kind, into: Kind) -> int:
    """The integer by which an integer of scale `kind` becomes one of scale `into`, which divides it."""
    return int(kind.scale / into.scale)


def can_be_missing(node: Node, types: Mapping[str, Fixed]) -> bool:
    """Whether a row may have no value: a nullable column, a division by a column, a case without else."""
    match node.op:
        case "column":
            return types[name(node)].nullable
        case "valid":
            return False
        case "/":
            return True
    is_without_else = node.op == "case" and len(node.args) % 2 == 0
    return is_without_else or any(can_be_missing(arg, types) for arg in node.args)


def compute(
    node: Node, columns: Mapping[str, Column], types: Mapping[str, Fixed], *, n_rows: int
) -> Computed:
    """A node over one hospital's own columns, in clear, exactly; a division is rounded once.

    Values are int64 where the node's bound allows it, else Python's integers. Raises ExpressionError where a column
    holds what its announced type does not, or a quotient is 2^64 or more.

    Disclosure: runs inside one hospital on its own rows; nothing of it leaves but as a share.
    """
    done = _Sheet(columns, types, n_rows).compute(node)
    # A zero of the values' own type, so that they keep it.
    zero = 0 if done.values.dtype == object else done.values.dtype.type(0)
    values = np.where(done.valid, done.values, zero)
    return Computed(values, done.valid, done.divided_by_zero)


def _common(kinds: Sequence[Kind], combine: Callable[[list[int]], int]) -> Kind:
    """The largest scale at which all kinds are integers, and their bounds there combined (sum, max)."""
    scale = reduce(_gcd, (kind.scale for kind in kinds))
    bounds = [kind.bound * int(kind.scale / scale) for kind in kinds]
    return Kind(scale, combine(bounds))


def _gcd(a: Fraction, b: Fraction) -> Fraction:
    """The largest number that both are whole multiples of."""
    numerator = math.gcd(a.numerator * b.denominator, b.numerator * a.denominator)
    return Fraction(numerator, a.denominator * b.denominator)


class _Sheet:
    """The columns of some rows, and what is computed of them."""

    def __init__(self, columns: Mapping[str, Column], types: Mapping[str, Fixed], n_rows: int) -> None:
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
        valid = reduce(np.logical_and, (part.valid for part in parts), self._full(True))
        zeros = reduce(np.logical_or, (part.divided_by_zero for part in parts), self._full(False))
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
                # As wide as any product of some of the factors may become.
                large = math.prod(max(1, kind_of(arg, self._types).bound) for arg in node.args)
                return reduce(np.multiply, (_wide(part.values, large) for part in parts))
            case "indicator":
                return parts[0].values.astype(np.int64)
            case "and":
                return np.all([part.values for part in parts], axis=0)
            case "or":
                return np.any([part.values for part in parts], axis=0)
            case "not":
                return ~parts[0].values
        raise ExpressionError(f"{node.op} is not computed row by row.", "Use an aggregate on its own.")

    def _column(self, node: Node) -> Computed:
        column_name = name(node)
        column = self._columns[column_name]
        bound = kind_of(node, self._types).bound
        # The steps that all parties made of the announced types would give another value, or wrap.
        if not self._types[column_name].nullable and not column.valid.all():
            raise ExpressionError(
                f"{column_name} misses values, and was said not to.", "Announce it as nullable."
            )
        values = np.where(column.valid, column.values, 0)
        beyond = (values > bound) | (values < -bound)
        if beyond.any():
            raise ExpressionError(
                f"{column_name} holds larger numbers than its type.", "Give the type more digits."
            )
        return Computed(_wide(values, bound), column.valid.astype(bool), self._full(False))

    def _constant(self, node: Node) -> Computed:
        value = node.value if node.op == "truth" else np.int64(sign_of(node.value))
        return Computed(np.full(self._n_rows, value), self._full(True), self._full(False))

    def _total(self, nodes: Sequence[Node], parts: Sequence[Computed]) -> NDArray[Any]:
        kinds = [kind_of(node, self._types) for node in nodes]
        into = _common(kinds, sum)
        large = sum(max(1, kind.bound) * multiplier(kind, into) for kind in kinds)
        # One after the other, since each is an array of all rows.
        terms = (
            _wide(part.values, large) * multiplier(kind, into)
            for part, kind in zip(parts, kinds, strict=True)
        )
        return reduce(np.add, terms)

    def _compared(self, node: Node, parts: Sequence[Computed]) -> NDArray[Any]:
        left, right = parts
        opposite = Computed(_negative(right.values), right.valid, right.divided_by_zero)
        difference = self._total(node.args, [left, opposite])
        compared = difference == 0 if node.op == "=" else difference < 0
        return np.asarray(compared, dtype=bool)

    def _quotient(self, node: Node, parts: Sequence[Computed], valid: Bools, zeros: Bools) -> Computed:
        """x / y = (x's integer * x's scale) / (y's integer * y's scale), as a quotient of integers."""
        over, under = (kind_of(arg, self._types).scale for arg in node.args)
        dividends = parts[0].values.astype(object) * (over.numerator * under.denominator)
        divisors = parts[1].values.astype(object) * (over.denominator * under.numerator)
        is_nonzero = np.asarray(parts[1].values != 0, dtype=bool)
        exists = valid & is_nonzero
        rows = zip(dividends.tolist(), divisors.tolist(), exists.tolist(), strict=True)
        quotients = [_nearest(dividend, divisor) if there else 0 for dividend, divisor, there in rows]
        return Computed(np.array(quotients, dtype=object), exists, zeros | (valid & ~is_nonzero))

    def _case(self, node: Node) -> Computed:
        """Row by row the first branch whose condition is true; a condition without a value gives none."""
        branches = [(self.compute(result), self._lift(node, result)) for result in results(node)]
        n_conditions = len(node.args) // 2
        conditions = [self.compute(condition) for condition in node.args[: 2 * n_conditions : 2]]
        bound = 1 if node.is_boolean else kind_of(node, self._types).bound
        values: NDArray[Any] = np.zeros(self._n_rows, dtype=bool)
        if not node.is_boolean:
            values = _wide(values, bound)
        valid = self._full(False)
        zeros = self._full(False)
        undecided = self._full(True)  # rows that no branch was taken for
        for place, (result, lift) in enumerate(branches):
            here = undecided
            if place < n_conditions:
                condition = conditions[place]
                missing = undecided & ~condition.valid
                zeros = zeros | (missing & condition.divided_by_zero)
                here = undecided & condition.valid & condition.values
                undecided = undecided & ~missing & ~here
            chosen = result.values[here]
            values[here] = chosen if node.is_boolean else _wide(chosen, bound) * lift
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
    return values.astype(np.int64 if bound < 2**63 else object)


def _negative(values: NDArray[Any]) -> NDArray[Any]:
    return -values if values.dtype == object else -values.astype(np.int64)


def _nearest(top: int, bottom: int) -> int:
    """top / bottom as a multiple of 2^-128: of the nearest double, or the nearest multiple where doubles are finer.

    >>> _nearest(1, 4) == 2**126
    True
    """
    try:
        value = top / bottom
    except OverflowError:
        value = math.inf  # refused below
    if abs(value) >= 2.0 ** (QUOTIENT_BITS - QUOTIENT_FRACTION_BITS):
        raise ExpressionError(
            "A quotient is 2**64 or more.", "Divide by larger numbers, or leave such rows out."
        )
    if abs(value) >= _ALL_DOUBLES_FROM:
        return int(math.ldexp(value, QUOTIENT_FRACTION_BITS))
    return round(Fraction(top << QUOTIENT_FRACTION_BITS, bottom))
