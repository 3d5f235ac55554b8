"""The circuit of an expression, written step by step.

With a value per row, rows without one count as zero, by factors 1 or 0 of the hospitals
whose values may be missing, so that no hospital learns which rows of another are
missing (decision 36). Aggregates are over rows that have every value: those without one
are left out before anything is computed, so that a total is a sum of the columns
themselves.

Every party writes the same steps, in the same order: they are computed together.
`circuit` has the steps and the plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from analytics.statistics.circuit import (
    Conjunction,
    Exclusive,
    Leaf,
    Linear,
    Part,
    Plan,
    Product,
    Sign,
    Step,
    Term,
    Total,
)
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
from analytics.statistics.kinds import (
    Fixed,
    can_be_missing,
    kind_of,
    multiplier,
    results,
    sign_of,
)

MOST_BITS = 2_048
MOST_ROWS = 2**40


def plan(
    expression: Expression,
    types: Mapping[str, Fixed],
    owners: Mapping[str, int],
) -> Plan:
    """The circuit of an expression; every party makes the same one.

    `types` maps "alias.column" to its announced type, `owners` each alias of the order
    to its provider's user id (an alias the expression does not name is a provider all
    the same). Raises ExpressionError where a type is missing or the ring would need
    more than MOST_BITS.
    """
    for alias, column in expression.columns:
        named = f"{alias}.{column}"
        if named not in types:
            raise ExpressionError(
                f"{named} has no type.", "Let its provider announce one."
            )
    compiler = _Compiler(types, owners)
    circuit = compiler.plan(expression)
    joint_bits = circuit.bits(MOST_ROWS)
    bits = max(joint_bits, circuit.own_bits)
    if bits > MOST_BITS:
        raise ExpressionError(
            f"The expression needs numbers of {bits} bits; {MOST_BITS} are computed.",
            "Multiply fewer columns, or declare fewer digits.",
        )
    return circuit


class _Compiler:
    """Writes steps; equal nodes share a register."""

    def __init__(
        self,
        types: Mapping[str, Fixed],
        owners: Mapping[str, int],
    ) -> None:
        self._types = types
        self._owners = owners
        distinct_owners = set(owners.values())
        self._providers = tuple(sorted(distinct_owners))
        self._steps: list[Step] = []
        self._known: dict[Node, int] = {}

    def plan(self, expression: Expression) -> Plan:
        root = expression.root
        value_register: int | None = None
        exists: int | None = None
        totals: list[Total] = []
        needed_leaves: list[Leaf] = []
        if expression.is_row_level:
            flags = self._flags(root)
            counted = self._counted(root)
            value_register = self._register(counted)
            if flags:
                exists = self._register(_all_of(flags))
        else:
            # Sorted, so that every party writes the same steps.
            aggregate_nodes = {node for node in root.every() if node.op in AGGREGATES}
            aggregates = sorted(aggregate_nodes, key=repr)
            totals = self._opened_totals(aggregates)
            needed_leaves = self._needed(aggregates)
        return Plan(
            expression=expression,
            types=dict(self._types),
            providers=self._providers,
            steps=tuple(self._steps),
            value=value_register,
            valid=exists,
            totals=tuple(totals),
            needed=tuple(needed_leaves),
        )

    def _opened_totals(self, aggregates: Iterable[Node]) -> list[Total]:
        # A dict as an ordered set: sum and avg of one node open one total.
        opened: dict[tuple[str, Node], None] = {}
        for aggregate in aggregates:
            opened_kinds = _OPENED[aggregate.op]
            for summand in aggregate.args:
                for of in opened_kinds:
                    opened[of, summand] = None
        return [self._total(of, node) for of, node in opened]

    def _needed(self, aggregates: Iterable[Node]) -> list[Leaf]:
        """What has to have a value in a row that counts."""
        needed_parts: dict[Node, None] = {}  # an ordered set
        for aggregate in aggregates:
            for summand in aggregate.args:
                own_parts = _local_parts(summand)
                needed_parts.update(dict.fromkeys(own_parts))
        leaves: list[Leaf] = []
        for needed_part in needed_parts:
            [alias] = needed_part.aliases
            owner = self._owners[alias]
            leaves.append(Leaf(owner, needed_part))
        return leaves

    def _total(self, of: str, node: Node) -> Total:
        added = node
        if of == "squares":
            added = multiply(node, node)
        register = self._register(added)
        total_kind = kind_of(added, self._types)
        return Total(
            of,
            node,
            register,
            total_kind,
        )

    def _flags(self, node: Node) -> list[Node]:
        """For each alias whose values may be missing: does it have all that is used?"""
        parts_of: dict[str, list[Node]] = {}
        for local_part in _local_parts(node):
            if can_be_missing(local_part, self._types):
                [alias] = local_part.aliases
                own_parts = parts_of.setdefault(alias, [])
                own_parts.append(local_part)
        flags: list[Node] = []
        for alias in sorted(parts_of):
            once = dict.fromkeys(parts_of[alias])
            flags.append(valid(*once))
        return flags

    def _counted(self, node: Node) -> Node:
        """The node, zero or false in rows without a value; a leaf is so by itself."""
        flags = self._flags(node)
        if len(node.aliases) <= 1 or not flags:
            return node
        if node.is_boolean:
            return _all_of([*flags, node])
        # Times 1 or 0, so that nobody learns which rows of another hospital have no
        # value (decision 36).
        factors = [indicator(flag) for flag in flags]
        return multiply(*factors, node)

    def _register(self, node: Node) -> int:
        """Where the node's value stands; joint nodes of one alias at most are leaves."""
        if node in self._known:
            return self._known[node]
        if len(node.aliases) <= 1 and node.op != "constant":
            provider = self._providers[0]  # of what names no column
            if node.aliases:
                [alias] = node.aliases
                provider = self._owners[alias]
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
                sign = sign_of(node.value)
                return self._write(Linear((), sign))
            case "+":
                return self._sum(node)
            case "*":
                return self._product(node)
            case "case":
                return self._choice(node)
            case "indicator":
                return self._indicator(node.args[0])
        raise ExpressionError(
            f"{node.op} over several providers is not computed.",
            "Divide aggregates only.",
        )

    def _sum(self, node: Node) -> int:
        """Each term's integer times what brings it to the sum's scale.

        A constant is its sign at its own scale.
        """
        into = kind_of(node, self._types)
        terms: list[Term] = []
        constant = 0
        for summand in _grouped(node):
            summand_kind = kind_of(summand, self._types)
            lift = multiplier(summand_kind, into)
            if summand.op == "constant":
                constant = lift
                if summand.value < 0:
                    constant = -lift
            else:
                register = self._register(summand)
                terms.append((register, lift))
        step = Linear(tuple(terms), constant)
        return self._write(step)

    def _product(self, node: Node) -> int:
        """Factor by factor; of a constant only the sign is left.

        Its size is in the scale.
        """
        sign = 1
        register: int | None = None
        for argument in _grouped(node):
            if argument.op == "constant":
                sign = sign_of(argument.value)
                continue
            factor = self._register(argument)
            if register is None:
                register = factor
            else:
                step = Product(register, factor)
                register = self._write(step)
        if register is None:
            raise ExpressionError("A product has no factor.", "Name a column.")
        if sign == 1:
            return register
        term = (register, sign)
        return self._write(Linear((term,)))

    def _choice(self, node: Node) -> int:
        """case: else + c (result - else), from the last branch to the first."""
        into = kind_of(node, self._types)
        terms: list[Term] = []
        for result in results(node):
            result_kind = kind_of(result, self._types)
            lift = multiplier(result_kind, into)
            register = self._register(result)
            terms.append((register, lift))
        *branches, default = terms
        register = self._write(Linear((default,)))
        conditions = node.args[-3::-2]  # the last one first
        for condition, branch in zip(conditions, reversed(branches), strict=True):
            flag = self._register(indicator(condition))
            minus_rest = (register, -1)
            difference = self._write(Linear((branch, minus_rest)))
            change = self._write(Product(flag, difference))
            rest = (register, 1)
            changed = (change, 1)
            register = self._write(Linear((rest, changed)))
        return register

    def _indicator(self, node: Node) -> int:
        """x xor y = x + y - 2 x y over the hospitals' own shares of the bit."""
        bit = self._register(node)
        bit_shares = [self._write(Part(bit, provider)) for provider in self._providers]
        register = bit_shares[0]
        for bit_share in bit_shares[1:]:
            both = self._write(Product(register, bit_share))
            terms = (
                (register, 1),
                (bit_share, 1),
                (both, -2),
            )
            register = self._write(Linear(terms))
        return register

    def _boolean(self, node: Node) -> int:
        match node.op:
            case "<" | "=":
                return self._comparison(node)
            case "not":
                bit = self._register(node.args[0])
                return self._inverse(bit)
            case "and":
                bits = [self._register(operand) for operand in _grouped(node)]
                return self._conjunction(bits)
            case "or":  # not (not a and not b)
                inverted: list[int] = []
                for operand in _grouped(node):
                    bit = self._register(operand)
                    inverted.append(self._inverse(bit))
                is_neither = self._conjunction(inverted)
                return self._inverse(is_neither)
            case "case":
                return self._boolean_choice(node)
        raise ExpressionError(
            f"{node.op} over several providers is not computed.", "Compare numbers."
        )

    def _comparison(self, node: Node) -> int:
        """a < b is the sign of a - b; a = b the one of a - b - 1 without that of a - b."""
        difference = subtract(*node.args)
        register = self._register(difference)
        bound = kind_of(difference, self._types).bound
        n_bits = bound.bit_length() + 1
        below = self._write(Sign(register, n_bits))
        if node.op == "<":
            return below
        own_term = (register, 1)
        difference_less_one = Linear((own_term,), -1)
        less_one = self._write(difference_less_one)
        # One less than the least may take a bit more.
        n_bits = (bound + 1).bit_length() + 1
        at_most = self._write(Sign(less_one, n_bits))
        return self._write(Exclusive((below, at_most)))

    def _conjunction(self, bits: list[int]) -> int:
        register = bits[0]
        for bit in bits[1:]:
            step = Conjunction(register, bit)
            register = self._write(step)
        return register

    def _inverse(self, bit: int) -> int:
        step = Exclusive((bit,), constant=True)
        return self._write(step)

    def _boolean_choice(self, node: Node) -> int:
        """case: else xor (c and (result xor else)), from the last branch to the first."""
        *branches, register = [self._register(result) for result in results(node)]
        conditions = node.args[-3::-2]  # the last one first
        for condition, branch in zip(conditions, reversed(branches), strict=True):
            either = (branch, register)
            differs = self._write(Exclusive(either))
            flag = self._register(condition)
            change = self._write(Conjunction(flag, differs))
            changed = (register, change)
            register = self._write(Exclusive(changed))
        return register


_OPENED = {
    "sum": ("sum",),
    "avg": ("sum",),
    "var": ("sum", "squares"),
    "count": (),
}
"""The totals behind each aggregate; how many rows there are is known."""


def _all_of(booleans: list[Node]) -> Node:
    if len(booleans) == 1:
        return booleans[0]
    return Node("and", tuple(booleans))


def _local_parts(node: Node) -> list[Node]:
    """The largest subtrees over one alias."""
    if not node.aliases:
        return []
    if len(node.aliases) == 1:
        return [node]
    local_parts: list[Node] = []
    for arg in node.args:
        local_parts += _local_parts(arg)
    return local_parts


def _grouped(node: Node) -> list[Node]:
    """The arguments of a joint node, those of one alias made one."""
    groups: dict[frozenset[str] | int, list[Node]] = {}
    for argument_place, argument in enumerate(node.args):
        group_key: frozenset[str] | int = argument_place  # by itself
        if len(argument.aliases) == 1:
            group_key = argument.aliases
        group = groups.setdefault(group_key, [])
        group.append(argument)
    return [_joined(node.op, arguments) for arguments in groups.values()]


def _joined(op: str, arguments: list[Node]) -> Node:
    if len(arguments) == 1:
        return arguments[0]
    if op == "+":
        return add(*arguments)
    if op == "*":
        return multiply(*arguments)
    return Node(op, tuple(arguments))
