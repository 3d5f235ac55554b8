"""An expression as a circuit: what each hospital computes itself, and what only their shares can.

A subtree over one hospital's columns is a `Leaf`. Above the leaves stand additions (`Linear`), products, signs and
their boolean counterparts, each on shares of all rows. Numbers are integers at scales known to all (`rowwise`); the
ring needs as many bits as the largest number that is opened or compared:

    K = 1 + max(bits of results, bits of differences whose sign is taken)

With a value per row, rows without one count as zero, by factors 1 or 0 of the hospitals whose values may be missing, so
that no hospital learns which rows of another are missing. Aggregates are over rows that have every value: those without
one are left out before anything is computed, so that a total is a sum of the columns themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from analytics.statistics.expression import (
    AGGREGATES,
    Expression,
    ExpressionError,
    Node,
    add,
    indicator,
    multiply,
    subtract,
    valid,
)
from analytics.statistics.rowwise import Fixed, Kind, can_be_missing, kind_of, multiplier, results

MOST_BITS = 2_048
MOST_ROWS = 2**40
BATCH_ROWS = 2**17
BATCH_BITS = 2**24
"""Rows times bits of what is computed at once, so that memory stays bounded."""
BATCH_PROVIDERS = 4
"""So many compute it; a comparison takes random numbers for each further provider, so that more take fewer rows."""


@dataclass(frozen=True)
class Leaf:
    """What `provider` computes of its own columns: numbers, or booleans."""

    provider: int
    node: Node


@dataclass(frozen=True)
class Linear:
    """constant + sum of coefficient * register over `terms` (register, coefficient)."""

    terms: tuple[tuple[int, int], ...]
    constant: int = 0


@dataclass(frozen=True)
class Product:
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
    """A sum over all rows: of their values (`sum`), or of the squares of these (`squares`)."""

    of: str
    node: Node
    register: int
    kind: Kind


@dataclass(frozen=True)
class Plan:
    """The steps in their order, each writing the register of its own number, and what is opened at the end.

    Row level: `value` per row and, where rows may miss one, `valid`. Otherwise: `totals`, over the rows in which every
    column that is named has a value, and everything that is `needed`; nothing else tells of a row that it is left out.
    """

    expression: Expression
    types: Mapping[str, Fixed]
    providers: tuple[int, ...]
    steps: tuple[Step, ...]
    value: int | None
    valid: int | None
    totals: tuple[Total, ...]
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
        opened = [total.kind.bound * n_rows for total in self.totals]
        if self.is_row_level and not self.is_boolean:
            opened.append(self.kind.bound)
        widths = [step.width for step in self.steps if isinstance(step, Sign)]
        return max([2, *widths, *(bound.bit_length() + 1 for bound in opened)])

    @property
    def own_bits(self) -> int:
        """The most bits of a number that a hospital computes of its own columns, the sign's bit included."""
        leaves = [*(step for step in self.steps if isinstance(step, Leaf)), *self.needed]
        nodes = (node for leaf in leaves for node in leaf.node.every())
        numbers = (node for node in nodes if not node.is_boolean)
        return max((kind_of(number, self.types).bound.bit_length() + 1 for number in numbers), default=0)

    def summed(self, provider: int) -> list[Node]:
        """What this provider computes of its own columns that is added over all rows as it stands."""
        added = [total.register for total in self.totals if total.of == "sum"]
        linear = [step.terms for register in added if isinstance(step := self.steps[register], Linear)]
        registers = dict.fromkeys([*added, *(register for terms in linear for register, _ in terms)])
        leaves = [step for register in registers if isinstance(step := self.steps[register], Leaf)]
        return [leaf.node for leaf in leaves if leaf.provider == provider and leaf.node.aliases]

    def batches(self, n_rows: int) -> Iterator[slice]:
        """The rows that are computed at once, of whole words of 64 but for the last."""
        bits = self.bits(n_rows) * -(-len(self.providers) // BATCH_PROVIDERS)
        size = min(BATCH_ROWS, BATCH_BITS // bits // 64 * 64)
        for start in range(0, n_rows, size):
            yield slice(start, min(start + size, n_rows))

    def finish(self, totals: Iterable[int], n_rows: int) -> Fraction | None:
        """The value over all rows of the opened totals; None where nothing counts, or a divisor is zero."""
        opened = {
            (t.of, t.node): number * t.kind.scale for t, number in zip(self.totals, totals, strict=True)
        }
        return _finish(self.expression.root, opened, Fraction(n_rows))


def plan(expression: Expression, types: Mapping[str, Fixed], owners: Mapping[str, int]) -> Plan:
    """The circuit of an expression; every party makes the same one.

    `types` maps "alias.column" to its announced type, `owners` each alias of the order to its provider's user id (an
    alias the expression does not name is a provider all the same). Raises ExpressionError where a type is missing or
    the ring would need more than MOST_BITS.
    """
    untyped = [
        f"{alias}.{column}" for alias, column in expression.columns if f"{alias}.{column}" not in types
    ]
    if untyped:
        raise ExpressionError(f"{untyped[0]} has no type.", "Let its provider announce one.")
    made = _Compiler(types, owners).plan(expression)
    if (bits := max(made.bits(MOST_ROWS), made.own_bits)) > MOST_BITS:
        raise ExpressionError(
            f"The expression needs numbers of {bits} bits; {MOST_BITS} are computed.",
            "Multiply fewer columns, or declare fewer digits.",
        )
    return made


class _Compiler:
    """Writes steps; equal nodes share a register."""

    def __init__(self, types: Mapping[str, Fixed], owners: Mapping[str, int]) -> None:
        self._types, self._owners = types, owners
        self._providers = tuple(sorted(set(owners.values())))
        self._steps: list[Step] = []
        self._known: dict[Node, int] = {}

    def plan(self, expression: Expression) -> Plan:
        root, value, exists = expression.root, None, None
        totals: list[Total] = []
        needed: list[Leaf] = []
        if expression.is_row_level:
            flags = self._flags(root)
            value = self._register(self._counted(root))
            exists = self._register(_all_of("and", flags)) if flags else None
        else:
            aggregates = sorted({n for n in root.every() if n.op in AGGREGATES and n.args}, key=repr)
            opened = dict.fromkeys((of, n.args[0]) for n in aggregates for of in _OPENED[n.op])
            totals = [self._total(of, node) for of, node in opened]
            parts = dict.fromkeys(part for n in aggregates for part in _local_parts(n.args[0]))
            needed = [Leaf(self._owners[min(part.aliases)], part) for part in parts]
        steps = tuple(self._steps)
        kept = dict(self._types)
        return Plan(expression, kept, self._providers, steps, value, exists, tuple(totals), tuple(needed))

    def _total(self, of: str, node: Node) -> Total:
        added = node if of == "sum" else multiply(node, node)
        return Total(of, node, self._register(added), kind_of(added, self._types))

    def _flags(self, node: Node) -> list[Node]:
        """For each alias whose values may be missing: whether it has all that the node uses."""
        parts: dict[str, list[Node]] = {}
        for part in _local_parts(node):
            if can_be_missing(part, self._types):
                parts.setdefault(min(part.aliases), []).append(part)
        return [valid(*dict.fromkeys(parts[alias])) for alias in sorted(parts)]

    def _counted(self, node: Node) -> Node:
        """The node, zero or false in rows without a value; a leaf is so by itself."""
        flags = self._flags(node)
        if len(node.aliases) <= 1 or not flags:
            return node
        return _all_of("and", [*flags, node]) if node.is_boolean else multiply(*map(indicator, flags), node)

    def _register(self, node: Node) -> int:
        """Where the node's value stands; joint nodes of one alias at most are leaves."""
        if node not in self._known:
            if len(node.aliases) <= 1 and node.op != "constant":
                alias = next(iter(node.aliases), None)
                provider = self._providers[0] if alias is None else self._owners[alias]
                self._known[node] = self._write(Leaf(provider, node))
            else:
                self._known[node] = self._boolean(node) if node.is_boolean else self._number(node)
        return self._known[node]

    def _write(self, step: Step) -> int:
        self._steps.append(step)
        return len(self._steps) - 1

    def _number(self, node: Node) -> int:
        match node.op:
            case "constant":
                return self._write(Linear((), (node.value > 0) - (node.value < 0)))
            case "+":
                return self._sum(node)
            case "*":
                return self._product(node)
            case "case":
                return self._choice(node)
            case "indicator":
                return self._indicator(node.args[0])
        raise ExpressionError(f"{node.op} over several providers is not computed.", "Divide aggregates only.")

    def _sum(self, node: Node) -> int:
        into, terms, number = kind_of(node, self._types), [], 0
        for part in _grouped(node):
            lift = multiplier(kind_of(part, self._types), into)
            if part.op == "constant":
                number = lift if part.value > 0 else -lift
            else:
                terms.append((self._register(part), lift))
        return self._write(Linear(tuple(terms), number))

    def _product(self, node: Node) -> int:
        """Factor by factor; a constant's size is in the scale, so that only its sign is left."""
        sign, register = 1, None
        for part in _grouped(node):
            if part.op == "constant":
                sign = (part.value > 0) - (part.value < 0)
            else:
                factor = self._register(part)
                register = factor if register is None else self._write(Product(register, factor))
        if register is None:
            raise ExpressionError("A product has no factor.", "Name a column.")
        return register if sign == 1 else self._write(Linear(((register, sign),)))

    def _choice(self, node: Node) -> int:
        """case: else + c (result - else), from the last branch to the first."""
        into = kind_of(node, self._types)
        *given, default = [
            (self._register(r), multiplier(kind_of(r, self._types), into)) for r in results(node)
        ]
        register = self._write(Linear((default,)))
        for condition, (branch, lift) in zip(node.args[-3::-2], reversed(given), strict=True):
            flag = self._register(indicator(condition))
            difference = self._write(Linear(((branch, lift), (register, -1))))
            change = self._write(Product(flag, difference))
            register = self._write(Linear(((register, 1), (change, 1))))
        return register

    def _indicator(self, node: Node) -> int:
        """x xor y = x + y - 2 x y over the hospitals' own shares of the bit."""
        bit = self._register(node)
        parts = [self._write(Part(bit, provider)) for provider in self._providers]
        register = parts[0]
        for part in parts[1:]:
            both = self._write(Product(register, part))
            register = self._write(Linear(((register, 1), (part, 1), (both, -2))))
        return register

    def _boolean(self, node: Node) -> int:
        match node.op:
            case "<" | "=":
                return self._comparison(node)
            case "not":
                return self._write(Exclusive((self._register(node.args[0]),), constant=True))
            case "and":
                return self._conjunction([self._register(part) for part in _grouped(node)])
            case "or":
                inverted = [self._inverse(self._register(part)) for part in _grouped(node)]
                return self._inverse(self._conjunction(inverted))
            case "case":
                return self._boolean_choice(node)
        raise ExpressionError(f"{node.op} over several providers is not computed.", "Compare numbers.")

    def _comparison(self, node: Node) -> int:
        """a < b is the sign of a - b; a = b the one of a - b - 1 without that of a - b."""
        difference = subtract(*node.args)
        register, bound = self._register(difference), kind_of(difference, self._types).bound
        below = self._write(Sign(register, bound.bit_length() + 1))
        if node.op == "<":
            return below
        less_one = self._write(Linear(((register, 1),), -1))
        at_most = self._write(Sign(less_one, (bound + 1).bit_length() + 1))
        return self._write(Exclusive((below, at_most)))

    def _conjunction(self, bits: list[int]) -> int:
        register = bits[0]
        for bit in bits[1:]:
            register = self._write(Conjunction(register, bit))
        return register

    def _inverse(self, bit: int) -> int:
        return self._write(Exclusive((bit,), constant=True))

    def _boolean_choice(self, node: Node) -> int:
        *given, register = [self._register(result) for result in results(node)]
        for condition, branch in zip(node.args[-3::-2], reversed(given), strict=True):
            differs = self._write(Exclusive((branch, register)))
            change = self._write(Conjunction(self._register(condition), differs))
            register = self._write(Exclusive((register, change)))
        return register


_OPENED = {"sum": ("sum",), "avg": ("sum",), "var": ("sum", "squares"), "count": ()}
"""The totals behind each aggregate; how many rows there are is known."""


def _all_of(op: str, nodes: list[Node]) -> Node:
    return nodes[0] if len(nodes) == 1 else multiply(*nodes) if op == "*" else Node(op, tuple(nodes))


def _local_parts(node: Node) -> list[Node]:
    """The largest subtrees over one alias."""
    if len(node.aliases) <= 1:
        return [node] if node.aliases else []
    return [part for arg in node.args for part in _local_parts(arg)]


def _grouped(node: Node) -> list[Node]:
    """The arguments of a joint node, those of one alias made one."""
    groups: dict[frozenset[str] | int, list[Node]] = {}
    for i, arg in enumerate(node.args):
        groups.setdefault(arg.aliases if len(arg.aliases) == 1 else i, []).append(arg)
    join = {"+": lambda parts: add(*parts), "*": lambda parts: multiply(*parts)}.get(node.op)
    return [
        parts[0] if len(parts) == 1 else join(parts) if join else Node(node.op, tuple(parts))
        for parts in groups.values()
    ]


def _finish(node: Node, opened: Mapping[tuple[str, Node], Fraction], n_rows: Fraction) -> Fraction | None:
    if node.op == "constant":
        return Fraction(node.value)
    if node.op in AGGREGATES:
        return _aggregate(node, opened, n_rows)
    parts = [_finish(arg, opened, n_rows) for arg in node.args]
    if any(part is None for part in parts):
        return None
    numbers = [part for part in parts if part is not None]
    value = numbers[0]
    for number in numbers[1:]:
        if node.op == "/" and not number:
            return None
        value = value + number if node.op == "+" else value * number if node.op == "*" else value / number
    return value


def _aggregate(node: Node, opened: Mapping[tuple[str, Node], Fraction], n_rows: Fraction) -> Fraction | None:
    if not node.args:
        return n_rows
    arg = node.args[0]
    match node.op:
        case "count":
            return n_rows
        case "sum":
            return opened["sum", arg] if n_rows else None
        case "avg":
            return opened["sum", arg] / n_rows if n_rows else None
    squares = n_rows * opened["squares", arg] - opened["sum", arg] ** 2
    return squares / (n_rows * (n_rows - 1)) if n_rows > 1 else None
