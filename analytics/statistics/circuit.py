"""An expression as a circuit: what each hospital computes itself, and what only their
shares can.

A subtree over one hospital's columns is a `Leaf`. Above the leaves stand additions
(`Linear`), products, signs and their boolean counterparts, each on shares of all rows.
Numbers are integers at scales known to all (`rowwise`); the ring needs as many bits as
the largest number that is opened or compared:

    K = 1 + max(bits of results, bits of differences whose sign is taken)

The steps, the `Plan` that has them, and how opened totals become a value. `compiling`
writes a plan, `weighing` asks one what its totals are made of;
`protocol/shares/shared_expression.py` computes it on shares.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from analytics.statistics.expression import AGGREGATES, Expression, Node
from analytics.statistics.kinds import Fixed, Kind, kind_of

BATCH_ROWS = 2**17
BATCH_BITS = 2**24
"""Rows times bits of what is computed at once, so that memory stays bounded."""
BATCH_PROVIDERS = 4
"""So many compute it; a comparison takes random numbers for each further provider, so
that more take fewer rows.
"""


@dataclass(frozen=True)
class Leaf:
    """What `provider` computes of its own columns: numbers, or booleans."""

    provider: int
    node: Node


Term = tuple[int, int]
"""(register, coefficient). A pair, since steps are written as text in vectors."""


@dataclass(frozen=True)
class Linear:
    """constant + the sum of `terms`."""

    terms: tuple[Term, ...]
    constant: int = 0


@dataclass(frozen=True)
class Product:
    """left * right, of two registers."""

    left: int
    right: int


@dataclass(frozen=True)
class Sign:
    """Is the number, of fewer than `width` bits besides its sign, below zero?"""

    number: int
    width: int


@dataclass(frozen=True)
class Exclusive:
    """constant xor all of `bits`."""

    bits: tuple[int, ...]
    constant: bool = False


@dataclass(frozen=True)
class Conjunction:
    """left and right, of two registers."""

    left: int
    right: int


@dataclass(frozen=True)
class Part:
    """`provider`'s own share of a boolean, as its number 0 or 1."""

    bit: int
    provider: int


Step = Leaf | Linear | Product | Sign | Exclusive | Conjunction | Part


@dataclass(frozen=True)
class Total:
    """A sum over all rows: of their values, or of the squares of these."""

    of: str  # sum, squares
    node: Node  # what it is over
    register: int  # what is added over all rows
    kind: Kind  # scale and bound of one row's number


@dataclass(frozen=True)
class Plan:
    """The steps in their order, and what is opened at the end.

    Each step writes the register of its own number. Totals are over the rows in which
    every column that is named has a value, and everything that is `needed`; nothing
    else tells of a row that it is left out.
    """

    expression: Expression
    types: Mapping[str, Fixed]  # of "alias.column"
    providers: tuple[int, ...]  # user ids, sorted
    steps: tuple[Step, ...]
    value: int | None  # row level: the register of each row's value
    # Row level: the register that says which rows have one, where some may not
    valid: int | None
    totals: tuple[Total, ...]  # otherwise
    needed: tuple[Leaf, ...]

    @property
    def is_row_level(self) -> bool:
        return self.expression.is_row_level

    @property
    def is_boolean(self) -> bool:
        """Whether its rows are true or false instead of numbers."""
        return self.is_row_level and self.expression.root.is_boolean

    @property
    def compares(self) -> bool:
        return self.expression.compares

    @property
    def divides(self) -> bool:
        return self.expression.divides

    @cached_property
    def kind(self) -> Kind:
        """Scale and bound of a row's number."""
        return kind_of(self.expression.root, self.types)

    def bits(self, n_rows: int) -> int:
        """K for that many joint rows, the sign's bit included."""
        bounds = [total.kind.bound * n_rows for total in self.totals]
        if self.is_row_level and not self.is_boolean:
            bounds.append(self.kind.bound)
        most_bits = 2
        for bound in bounds:
            most_bits = max(most_bits, bound.bit_length() + 1)
        for step in self.steps:
            if isinstance(step, Sign):
                most_bits = max(most_bits, step.width)
        return most_bits

    @property
    def own_bits(self) -> int:
        """The most bits of a number that a hospital computes of its own columns.

        The sign's bit is included.
        """
        leaves = [step for step in self.steps if isinstance(step, Leaf)]
        most_bits = 0
        for leaf in (*leaves, *self.needed):
            for node in leaf.node.every():
                if node.is_boolean:
                    continue
                bound = kind_of(node, self.types).bound
                most_bits = max(most_bits, bound.bit_length() + 1)
        return most_bits

    def batches(self, n_rows: int) -> Iterator[slice]:
        """The rows that are computed at once, of whole words of 64 but for the last."""
        n_shares = -(-len(self.providers) // BATCH_PROVIDERS)
        bits_of_row = self.bits(n_rows) * n_shares
        n_words = BATCH_BITS // bits_of_row // 64
        batch_size = min(BATCH_ROWS, 64 * n_words)
        for batch_start in range(0, n_rows, batch_size):
            yield slice(batch_start, min(batch_start + batch_size, n_rows))

    def finish(self, totals: Iterable[int], n_rows: int) -> Fraction | None:
        """The value over all rows of the opened totals.

        None where nothing counts, or a divisor is zero.
        """
        opened: dict[tuple[str, Node], Fraction] = {}
        for total, number in zip(self.totals, totals, strict=True):
            opened[total.of, total.node] = number * total.kind.scale
        return _finish(self.expression.root, opened, Fraction(n_rows))


def _finish(
    node: Node, opened: Mapping[tuple[str, Node], Fraction], n_rows: Fraction
) -> Fraction | None:
    if node.op == "constant":
        return Fraction(node.value)
    if node.op in AGGREGATES:
        return _aggregate(node, opened, n_rows)
    arguments = [_finish(arg, opened, n_rows) for arg in node.args]
    numbers = [argument for argument in arguments if argument is not None]
    if len(numbers) < len(arguments):
        return None
    match node.op:
        case "+":
            return sum(numbers, Fraction(0))
        case "*":
            return math.prod(numbers, start=Fraction(1))
    dividend, divisor = numbers
    return dividend / divisor if divisor else None


def _aggregate(
    node: Node, opened: Mapping[tuple[str, Node], Fraction], n_rows: Fraction
) -> Fraction | None:
    if not node.args:
        return n_rows
    summand = node.args[0]
    match node.op:
        case "count":
            return n_rows
        case "sum":
            return opened["sum", summand] if n_rows else None
        case "avg":
            return opened["sum", summand] / n_rows if n_rows else None
    if n_rows <= 1:
        return None
    # var: (n sum x^2 - (sum x)^2) / (n (n - 1))
    spread = n_rows * opened["squares", summand] - opened["sum", summand] ** 2
    return spread / (n_rows * (n_rows - 1))
