"""Expressions over several hospitals' columns, as trees that are checked whole and never
evaluated as code.

    df1.unit_price * df2.units        one value per joined row
    avg(df1.age) / sum(df2.visits)    one value

Exact sums and products have any number of arguments, so a tree's depth is the nesting
that was written.

Where something is missing. A row has a value if all that it uses has one: NULL or a
division by zero anywhere gives NULL, in `and`, `or` and `case` too. Only within one
hospital's columns does `case` leave out the branches not taken.

`reading` makes a tree of a text, `rowwise` computes one at one hospital, `compiling`
turns it into steps on shares.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

AGGREGATES = (
    "sum",
    "avg",
    "var",
    "count",
)
BOOLEANS = (
    "=",
    "<",
    "and",
    "or",
    "not",
    "truth",
    "valid",
    "same",
    "missing",
)


class ExpressionError(ValueError):
    """An expression that cannot be honoured: one sentence, and its remedy. Neither
    holds a value of a row.
    """

    def __init__(self, sentence: str, remedy: str) -> None:
        super().__init__(f"{sentence} {remedy}")
        self.sentence = sentence
        self.remedy = remedy


# Without slots: a cached property keeps what it has found in __dict__.
@dataclass(frozen=True)
class Node:
    """One step of an expression; `op` says which, `args` what it is over.

    | op                  | args                            | value              |
    |---------------------|---------------------------------|--------------------|
    | column              |                                 | (alias, column)    |
    | constant, truth     |                                 | Fraction, bool     |
    | + *                 | numbers, two or more            |                    |
    | /                   | number, number                  |                    |
    | = <                 | number, number                  |                    |
    | and or not          | booleans                        |                    |
    | case                | condition, result, ... [, else] |                    |
    | indicator           | boolean: 1 where true, else 0   |                    |
    | sum avg var count   | number or, of count, nothing    |                    |
    | valid               | anything: do all have a value   |                    |
    """

    op: str
    args: tuple[Node, ...] = ()
    value: Any = None

    @cached_property
    def aliases(self) -> frozenset[str]:
        """Whose columns it is over."""
        if self.op == "column":
            alias, _ = self.value
            return frozenset({alias})
        aliases_below = [arg.aliases for arg in self.args]
        # From an empty set, since a constant has no args to unite.
        return frozenset[str]().union(*aliases_below)

    @cached_property
    def is_boolean(self) -> bool:
        if self.op == "case":
            first_result = self.args[1]
            return first_result.is_boolean
        return self.op in BOOLEANS

    @cached_property
    def has_aggregate(self) -> bool:
        return any(node.op in AGGREGATES for node in self.every())

    @cached_property
    def depth(self) -> int:
        """How many nodes stand above one another."""
        depths_below = [arg.depth for arg in self.args]
        return 1 + max(depths_below, default=0)

    @cached_property
    def n_nodes(self) -> int:
        """How many nodes it has, itself included; equal ones count each time."""
        return 1 + sum(arg.n_nodes for arg in self.args)

    def every(self) -> Iterator[Node]:
        """The node and all below it."""
        yield self
        for arg in self.args:
            yield from arg.every()


def constant(value: Fraction | int) -> Node:
    return Node("constant", value=Fraction(value))


def add(*terms: Node) -> Node:
    """t_1 + t_2 + ...; terms that are sums themselves are taken apart."""
    operands = _taken_apart("+", terms)
    constants = [operand.value for operand in operands if operand.op == "constant"]
    number = sum(constants, Fraction(0))
    return _with_constant(
        "+",
        operands,
        number,
        neutral=Fraction(0),
    )


def multiply(*factors: Node) -> Node:
    """f_1 f_2 ...; factors that are products themselves are taken apart."""
    operands = _taken_apart("*", factors)
    constants = [operand.value for operand in operands if operand.op == "constant"]
    number = math.prod(constants, start=Fraction(1))
    return _with_constant(
        "*",
        operands,
        number,
        neutral=Fraction(1),
    )


def negate(node: Node) -> Node:
    return multiply(constant(-1), node)


def subtract(left: Node, right: Node) -> Node:
    return add(left, negate(right))


def connect(op: str, *booleans: Node) -> Node:
    """b_1 and b_2 and ..., or with or; those of the same kind are taken apart."""
    operands = _taken_apart(op, booleans)
    return Node(op, tuple(operands))


def invert(node: Node) -> Node:
    return Node("not", (node,))


def valid(*nodes: Node) -> Node:
    return Node("valid", nodes)


def indicator(node: Node) -> Node:
    return Node("indicator", (node,))


def _taken_apart(
    op: str,
    nodes: Sequence[Node],
) -> list[Node]:
    operands: list[Node] = []
    for node in nodes:
        if node.op == op:
            operands.extend(node.args)
        else:
            operands.append(node)
    return operands


def _with_constant(
    op: str,
    operands: Sequence[Node],
    number: Fraction,
    *,
    neutral: Fraction,
) -> Node:
    """One node of all operands, the constants among them made one, `number`."""
    new_args = [operand for operand in operands if operand.op != "constant"]
    # Nothing is left out for a factor of 0: where a column has no value in a row, 0
    # times it has none either.
    if number != neutral or not new_args:
        new_args.insert(0, constant(number))
    if len(new_args) == 1:
        return new_args[0]
    return Node(op, tuple(new_args))


@dataclass(frozen=True)
class Expression:
    """A checked expression. Only `parse_expression` and `compare_sum` make one."""

    root: Node

    @cached_property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """(alias, column) of all columns it names, sorted."""
        named = {node.value for node in self.root.every() if node.op == "column"}
        return tuple(sorted(named))

    def columns_of(self, alias: str) -> tuple[str, ...]:
        column_names = []
        for owner, column in self.columns:
            if owner == alias:
                column_names.append(column)
        return tuple(column_names)

    @cached_property
    def aliases(self) -> tuple[str, ...]:
        return tuple(sorted(self.root.aliases))

    @cached_property
    def is_row_level(self) -> bool:
        """One value per joined row; otherwise one value over all rows."""
        return not self.root.has_aggregate

    @cached_property
    def compares(self) -> bool:
        """Whether its result shows comparisons of values."""
        return any(node.op in ("=", "<") for node in self.root.every())

    @cached_property
    def divides(self) -> bool:
        """Whether a row is divided by a column, and so may have no value."""
        divisions = [node for node in self.root.every() if node.op == "/"]
        return any(not division.has_aggregate for division in divisions)
