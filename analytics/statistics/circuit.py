"""An expression as a circuit: what each hospital computes itself, and what only their shares can.

A subtree over one hospital's columns is a `Leaf`. Above the leaves stand additions (`Linear`), products, signs and
their boolean counterparts, each on shares of all rows. Numbers are integers at scales known to all (`rowwise`); the
ring needs as many bits as the largest number that is opened or compared:

    K = 1 + max(bits of results, bits of differences whose sign is taken)

With a value per row, rows without one count as zero, by factors 1 or 0 of the hospitals whose values may be missing, so
that no hospital learns which rows of another are missing. Aggregates are over rows that have every value: those without
one are left out before anything is computed, so that a total is a sum of the columns themselves.

Steps and `Plan` first, then the compiler that writes them. `weighing` asks a plan what its totals are made of (decision
44); `agents/statistics/shared_expression.py` computes it on shares.
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
from analytics.statistics.rowwise import Fixed, Kind, can_be_missing, kind_of, multiplier, results, sign_of

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
    """A sum over all rows: of their values (`sum`), or of the squares of these (`squares`)."""

    of: str  # sum, squares
    node: Node  # what it is over
    register: int  # what is added over all rows
    kind: Kind  # scale and bound of one row's number


@dataclass(frozen=True)
class Plan:
    """The steps in their order, each writing the register of its own number, and what is opened at the end.

    Totals are over the rows in which every column that is named has a value, and everything that is `needed`; nothing
    else tells of a row that it is left out.
    """

    expression: Expression
    types: Mapping[str, Fixed]  # of "alias.column"
    providers: tuple[int, ...]  # user ids, sorted
    steps: tuple[Step, ...]
    value: int | None  # row level: the register of each row's value
    valid: int | None  # row level: the register that says which rows have one, where some may not
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
        opened = [total.kind.bound * n_rows for total in self.totals]
        if self.is_row_level and not self.is_boolean:
            opened.append(self.kind.bound)
        widths = [step.width for step in self.steps if isinstance(step, Sign)]
        return max([2, *widths, *(bound.bit_length() + 1 for bound in opened)])

    @property
    def own_bits(self) -> int:
        """The most bits of a number that a hospital computes of its own columns, the sign's bit included."""
        leaves = [step for step in self.steps if isinstance(step, Leaf)]
        most = 0
        for leaf in (*leaves, *self.needed):
            for node in leaf.node.every():
                if not node.is_boolean:
                    most = max(most, kind_of(node, self.types).bound.bit_length() + 1)
        return most

    def summed(self, provider: int) -> list[Node]:
        """What this provider computes of its own columns that is added over all rows as it stands."""
        # A dict as an ordered set: each leaf once, in the order of the totals.
        registers: dict[int, None] = {}
        added = [total.register for total in self.totals if total.of == "sum"]
        registers.update(dict.fromkeys(added))
        for register in added:
            step = self.steps[register]
            if isinstance(step, Linear):
                registers.update(dict.fromkeys(added_register for added_register, _ in step.terms))
        steps = [self.steps[register] for register in registers]
        leaves = [step for step in steps if isinstance(step, Leaf) and step.provider == provider]
        return [leaf.node for leaf in leaves if leaf.node.aliases]

    def batches(self, n_rows: int) -> Iterator[slice]:
        """The rows that are computed at once, of whole words of 64 but for the last."""
        n_shares = -(-len(self.providers) // BATCH_PROVIDERS)
        bits_of_row = self.bits(n_rows) * n_shares
        size = min(BATCH_ROWS, BATCH_BITS // bits_of_row // 64 * 64)
        for start in range(0, n_rows, size):
            yield slice(start, min(start + size, n_rows))

    def finish(self, totals: Iterable[int], n_rows: int) -> Fraction | None:
        """The value over all rows of the opened totals; None where nothing counts, or a divisor is zero."""
        opened = {}
        for total, number in zip(self.totals, totals, strict=True):
            opened[total.of, total.node] = number * total.kind.scale
        return _finish(self.expression.root, opened, Fraction(n_rows))


def plan(expression: Expression, types: Mapping[str, Fixed], owners: Mapping[str, int]) -> Plan:
    """The circuit of an expression; every party makes the same one.

    `types` maps "alias.column" to its announced type, `owners` each alias of the order to its provider's user id (an
    alias the expression does not name is a provider all the same). Raises ExpressionError where a type is missing or
    the ring would need more than MOST_BITS.
    """
    named = [f"{alias}.{column}" for alias, column in expression.columns]
    untyped = [column for column in named if column not in types]
    if untyped:
        raise ExpressionError(f"{untyped[0]} has no type.", "Let its provider announce one.")
    made = _Compiler(types, owners).plan(expression)
    bits = max(made.bits(MOST_ROWS), made.own_bits)
    if bits > MOST_BITS:
        raise ExpressionError(
            f"The expression needs numbers of {bits} bits; {MOST_BITS} are computed.",
            "Multiply fewer columns, or declare fewer digits.",
        )
    return made


class _Compiler:
    """Writes steps; equal nodes share a register."""

    def __init__(self, types: Mapping[str, Fixed], owners: Mapping[str, int]) -> None:
        self._types = types
        self._owners = owners
        self._providers = tuple(sorted(set(owners.values())))
        self._steps: list[Step] = []
        self._known: dict[Node, int] = {}

    def plan(self, expression: Expression) -> Plan:
        root = expression.root
        value: int | None = None
        exists: int | None = None
        totals: list[Total] = []
        needed: list[Leaf] = []
        if expression.is_row_level:
            flags = self._flags(root)
            value = self._register(self._counted(root))
            exists = self._register(_all_of(flags)) if flags else None
        else:
            # Sorted, so that every party writes the same steps.
            found = {node for node in root.every() if node.op in AGGREGATES and node.args}
            aggregates = sorted(found, key=repr)
            # Dicts as ordered sets: sum and avg of one node open one total.
            opened: dict[tuple[str, Node], None] = {}
            parts: dict[Node, None] = {}
            for aggregate in aggregates:
                summand = aggregate.args[0]
                opened.update(dict.fromkeys((of, summand) for of in _OPENED[aggregate.op]))
                parts.update(dict.fromkeys(_local_parts(summand)))
            totals = [self._total(of, node) for of, node in opened]
            needed = [Leaf(self._owners[min(part.aliases)], part) for part in parts]
        return Plan(
            expression=expression,
            types=dict(self._types),
            providers=self._providers,
            steps=tuple(self._steps),
            value=value,
            valid=exists,
            totals=tuple(totals),
            needed=tuple(needed),
        )

    def _total(self, of: str, node: Node) -> Total:
        added = node if of == "sum" else multiply(node, node)
        register = self._register(added)
        return Total(of, node, register, kind_of(added, self._types))

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
        if node.is_boolean:
            return _all_of([*flags, node])
        # Times 1 or 0, so that nobody learns which rows of another hospital have no value (decision 36).
        factors = [indicator(flag) for flag in flags]
        return multiply(*factors, node)

    def _register(self, node: Node) -> int:
        """Where the node's value stands; joint nodes of one alias at most are leaves."""
        if node in self._known:
            return self._known[node]
        if len(node.aliases) <= 1 and node.op != "constant":
            alias = next(iter(node.aliases), None)
            provider = self._providers[0] if alias is None else self._owners[alias]
            register = self._write(Leaf(provider, node))
        elif node.is_boolean:
            register = self._boolean(node)
        else:
            register = self._number(node)
        self._known[node] = register
        return register

    def _write(self, step: Step) -> int:
        self._steps.append(step)
        return len(self._steps) - 1

    def _number(self, node: Node) -> int:
        match node.op:
            case "constant":
                return self._write(Linear((), sign_of(node.value)))
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
        """Each term's integer times what brings it to the sum's scale; a constant is its sign at its own scale."""
        into = kind_of(node, self._types)
        terms: list[Term] = []
        constant = 0
        for part in _grouped(node):
            lift = multiplier(kind_of(part, self._types), into)
            if part.op == "constant":
                constant = lift if part.value > 0 else -lift
            else:
                terms.append((self._register(part), lift))
        return self._write(Linear(tuple(terms), constant))

    def _product(self, node: Node) -> int:
        """Factor by factor; a constant's size is in the scale, so that only its sign is left."""
        sign = 1
        register: int | None = None
        for part in _grouped(node):
            if part.op == "constant":
                sign = sign_of(part.value)
                continue
            factor = self._register(part)
            register = factor if register is None else self._write(Product(register, factor))
        if register is None:
            raise ExpressionError("A product has no factor.", "Name a column.")
        if sign == 1:
            return register
        return self._write(Linear(((register, sign),)))

    def _choice(self, node: Node) -> int:
        """case: else + c (result - else), from the last branch to the first."""
        into = kind_of(node, self._types)
        into = kind_of(node, self._types)
        *branches, default = [
            (self._register(result), multiplier(kind_of(result, self._types), into))
            for result in results(node)
        ]
        register = self._write(Linear((default,)))
        conditions = node.args[-3::-2]  # the last one first
        for condition, branch in zip(conditions, reversed(branches), strict=True):
            flag = self._register(indicator(condition))
            difference = self._write(Linear((branch, (register, -1))))
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
            terms = ((register, 1), (part, 1), (both, -2))
            register = self._write(Linear(terms))
        return register

    def _boolean(self, node: Node) -> int:
        match node.op:
            case "<" | "=":
                return self._comparison(node)
            case "not":
                return self._write(Exclusive((self._register(node.args[0]),), constant=True))
            case "and":
                return self._conjunction([self._register(part) for part in _grouped(node)])
            case "or":  # not (not a and not b)
                inverted = [self._inverse(self._register(part)) for part in _grouped(node)]
                return self._inverse(self._conjunction(inverted))
            case "case":
                return self._boolean_choice(node)
        raise ExpressionError(f"{node.op} over several providers is not computed.", "Compare numbers.")

    def _comparison(self, node: Node) -> int:
        """a < b is the sign of a - b; a = b the one of a - b - 1 without that of a - b."""
        difference = subtract(*node.args)
        register = self._register(difference)
        bound = kind_of(difference, self._types).bound
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
        """case: else xor (c and (result xor else)), from the last branch to the first."""
        *branches, register = [self._register(result) for result in results(node)]
        conditions = node.args[-3::-2]  # the last one first
        for condition, branch in zip(conditions, reversed(branches), strict=True):
            differs = self._write(Exclusive((branch, register)))
            change = self._write(Conjunction(self._register(condition), differs))
            register = self._write(Exclusive((register, change)))
        return register


_OPENED = {"sum": ("sum",), "avg": ("sum",), "var": ("sum", "squares"), "count": ()}
"""The totals behind each aggregate; how many rows there are is known."""


def _all_of(booleans: list[Node]) -> Node:
    if len(booleans) == 1:
        return booleans[0]
    return Node("and", tuple(booleans))


def _local_parts(node: Node) -> list[Node]:
    """The largest subtrees over one alias."""
    if len(node.aliases) <= 1:
        return [node] if node.aliases else []
    parts: list[Node] = []
    for arg in node.args:
        parts += _local_parts(arg)
    return parts


def _grouped(node: Node) -> list[Node]:
    """The arguments of a joint node, those of one alias made one."""
    groups: dict[frozenset[str] | int, list[Node]] = {}
    for place, arg in enumerate(node.args):
        key = arg.aliases if len(arg.aliases) == 1 else place
        groups.setdefault(key, []).append(arg)
    return [_joined(node.op, parts) for parts in groups.values()]


def _joined(op: str, parts: list[Node]) -> Node:
    if len(parts) == 1:
        return parts[0]
    if op == "+":
        return add(*parts)
    if op == "*":
        return multiply(*parts)
    return Node(op, tuple(parts))


def _finish(node: Node, opened: Mapping[tuple[str, Node], Fraction], n_rows: Fraction) -> Fraction | None:
    if node.op == "constant":
        return Fraction(node.value)
    if node.op in AGGREGATES:
        return _aggregate(node, opened, n_rows)
    parts = [_finish(arg, opened, n_rows) for arg in node.args]
    numbers = [part for part in parts if part is not None]
    if len(numbers) < len(parts):
        return None
    value = numbers[0]
    for number in numbers[1:]:
        match node.op:
            case "+":
                value = value + number
            case "*":
                value = value * number
            case _:
                if not number:
                    return None
                value = value / number
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
    # var: (n sum x^2 - (sum x)^2) / (n (n - 1))
    squares = n_rows * opened["squares", arg] - opened["sum", arg] ** 2
    return squares / (n_rows * (n_rows - 1)) if n_rows > 1 else None
