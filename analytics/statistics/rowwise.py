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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analytics.statistics.expression import ExpressionError, Node
from analytics.statistics.kinds import (
    QUOTIENT_BITS,
    QUOTIENT_FRACTION_BITS,
    Fixed,
    common_kind,
    kind_of,
    multiplier,
    name,
    results,
    sign_of,
)

Bools = NDArray[np.bool_]
_ALL_DOUBLES_FROM = 2.0 ** (53 - QUOTIENT_FRACTION_BITS)
"""Doubles from here on are multiples of 2^-128; a smaller quotient is rounded to a
multiple of that.
"""


@dataclass(frozen=True)
class Column:
    """One hospital's rows of one column, in the joint order; both are (n_rows,)."""

    # int64, or objects that are int; not read where there is no value
    values: NDArray[Any]
    valid: Bools  # which rows have a value

    def __getitem__(self, rows: slice) -> Column:
        values = self.values[rows]
        valid = self.valid[rows]
        return Column(values, valid)


@dataclass(frozen=True)
class Computed:
    """What a node gives for each of some rows: arrays (n_rows,)."""

    # Integers at the node's scale, or bool; zero or False where missing
    values: NDArray[Any]
    valid: Bools  # which rows have a value
    divided_by_zero: Bools  # which of the others have none for that reason


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
    sheet = _Sheet(columns, types, n_rows)
    computed = sheet.compute(node)
    # A zero of the values' own type, so that they keep it.
    zero: Any = 0
    if computed.values.dtype != object:
        zero = computed.values.dtype.type(0)
    values = np.where(computed.valid, computed.values, zero)
    return Computed(values, computed.valid, computed.divided_by_zero)


class _Sheet:
    """The columns of some rows, and what is computed of them."""

    def __init__(
        self,
        columns: Mapping[str, Column],
        types: Mapping[str, Fixed],
        n_rows: int,
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
        operands = [self.compute(arg) for arg in node.args]
        # A row has a value where all that it uses has one.
        valid = self._full(True)
        zeros = self._full(False)
        for operand in operands:
            valid = valid & operand.valid
            zeros = zeros | operand.divided_by_zero
        match node.op:
            case "valid":
                return Computed(valid, self._full(True), zeros)
            case "/":
                return self._quotient(
                    node,
                    operands,
                    valid,
                    zeros,
                )
            case "=" | "<":
                compared = self._compared(node, operands)
                return Computed(compared, valid, zeros)
        values = self._values(node, operands)
        return Computed(values, valid, zeros)

    def _values(
        self,
        node: Node,
        operands: Sequence[Computed],
    ) -> Any:
        match node.op:
            case "+":
                return self._total(node.args, operands)
            case "*":
                return self._product(node.args, operands)
            case "indicator":
                return operands[0].values.astype(np.int64)
            case "and":
                values = [operand.values for operand in operands]
                return np.all(values, axis=0)
            case "or":
                values = [operand.values for operand in operands]
                return np.any(values, axis=0)
            case "not":
                return ~operands[0].values
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
        column_values = np.where(column.valid, column.values, 0)
        is_beyond = (column_values > bound) | (column_values < -bound)
        if is_beyond.any():
            raise ExpressionError(
                f"{column_name} holds larger numbers than its type.",
                "Give the type more digits.",
            )
        return Computed(
            values=_wide(column_values, bound),
            valid=column.valid.astype(bool),
            divided_by_zero=self._full(False),
        )

    def _constant(self, node: Node) -> Computed:
        constant_value = node.value
        if node.op == "constant":
            constant_value = np.int64(sign_of(node.value))
        return Computed(
            values=np.full(self._n_rows, constant_value),
            valid=self._full(True),
            divided_by_zero=self._full(False),
        )

    def _product(
        self,
        nodes: Sequence[Node],
        operands: Sequence[Computed],
    ) -> NDArray[Any]:
        # As wide as any product of some of the factors may become.
        large = 1
        for node in nodes:
            factor_kind = kind_of(node, self._types)
            large *= max(1, factor_kind.bound)
        product = _wide(operands[0].values, large)
        for operand in operands[1:]:
            product = product * _wide(operand.values, large)
        return product

    def _total(
        self,
        nodes: Sequence[Node],
        operands: Sequence[Computed],
    ) -> NDArray[Any]:
        summand_kinds = [kind_of(node, self._types) for node in nodes]
        into = common_kind(summand_kinds, sum)
        lifts = [multiplier(kind, into) for kind in summand_kinds]
        large = 0
        for summand_kind, lift in zip(summand_kinds, lifts, strict=True):
            large += max(1, summand_kind.bound) * lift
        # One after the other, since each is an array of all rows.
        total = _wide(operands[0].values, large) * lifts[0]
        for operand, lift in zip(operands[1:], lifts[1:], strict=True):
            total = total + _wide(operand.values, large) * lift
        return total

    def _compared(
        self,
        node: Node,
        operands: Sequence[Computed],
    ) -> NDArray[Any]:
        left, right = operands
        negative = _negative(right.values)
        opposite = replace(right, values=negative)
        # Brought to one scale first: integers of two scales say nothing of each other.
        difference = self._total(node.args, [left, opposite])
        if node.op == "=":
            compared = difference == 0
        else:
            compared = difference < 0
        return np.asarray(compared, dtype=bool)

    def _quotient(
        self,
        node: Node,
        operands: Sequence[Computed],
        valid: Bools,
        zeros: Bools,
    ) -> Computed:
        """x / y = (x's integer * x's scale) / (y's integer * y's scale), as a quotient
        of integers.
        """
        operand_kinds = [kind_of(arg, self._types) for arg in node.args]
        over, under = [kind.scale for kind in operand_kinds]
        above = over.numerator * under.denominator
        below = over.denominator * under.numerator
        x, y = [operand.values for operand in operands]
        # Python's integers: times their scales the numbers outgrow 64 bits.
        dividends = x.astype(object) * above
        divisors = y.astype(object) * below
        is_nonzero = np.asarray(y != 0, dtype=bool)
        exists = valid & is_nonzero
        quotients: list[int] = []
        rows = zip(
            dividends.tolist(),
            divisors.tolist(),
            exists.tolist(),
            strict=True,
        )
        for dividend, divisor, is_there in rows:
            quotient = 0
            if is_there:
                quotient = _nearest(dividend, divisor)
            quotients.append(quotient)
        is_by_zero = valid & ~is_nonzero
        return Computed(
            values=np.array(quotients, dtype=object),
            valid=exists,
            divided_by_zero=zeros | is_by_zero,
        )

    def _case(self, node: Node) -> Computed:
        """Row by row the first branch whose condition is true.

        A condition without a value gives none.
        """
        branches = [self.compute(result) for result in results(node)]
        lifts = [self._lift(node, result) for result in results(node)]
        n_conditions = len(node.args) // 2
        condition_nodes = node.args[: 2 * n_conditions : 2]
        conditions = [self.compute(arg) for arg in condition_nodes]
        bound = 1
        case_values: NDArray[Any] = np.zeros(self._n_rows, dtype=bool)
        if not node.is_boolean:
            bound = kind_of(node, self._types).bound
            case_values = _wide(case_values, bound)
        valid = self._full(False)
        zeros = self._full(False)
        undecided = self._full(True)  # rows that no branch was taken for
        for branch_place, branch in enumerate(branches):
            in_branch = undecided  # the rows of this branch
            if branch_place < n_conditions:
                condition = conditions[branch_place]
                missing = undecided & ~condition.valid
                zeros = zeros | (missing & condition.divided_by_zero)
                in_branch = undecided & condition.valid & condition.values
                undecided = undecided & ~missing & ~in_branch
            chosen = branch.values[in_branch]
            if not node.is_boolean:
                chosen = _wide(chosen, bound) * lifts[branch_place]
            case_values[in_branch] = chosen
            valid = valid | (in_branch & branch.valid)
            zeros = zeros | (in_branch & branch.divided_by_zero)
        return Computed(case_values, valid, zeros)

    def _lift(self, node: Node, result: Node) -> int:
        """The multiplier from a branch's scale to the case's."""
        if node.is_boolean:
            return 1
        result_kind = kind_of(result, self._types)
        into = kind_of(node, self._types)
        return multiplier(result_kind, into)

    def _full(self, value: bool) -> Bools:
        return np.full(self._n_rows, value)


def _wide(
    values: NDArray[Any],
    bound: int,
) -> NDArray[Any]:
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
        quotient = top / bottom
    except OverflowError:
        quotient = math.inf  # refused below
    if abs(quotient) >= 2.0 ** (QUOTIENT_BITS - QUOTIENT_FRACTION_BITS):
        raise ExpressionError(
            "A quotient is 2**64 or more.",
            "Divide by larger numbers, or leave such rows out.",
        )
    if abs(quotient) >= _ALL_DOUBLES_FROM:
        return int(math.ldexp(quotient, QUOTIENT_FRACTION_BITS))
    return round(Fraction(top << QUOTIENT_FRACTION_BITS, bottom))
