"""Columns that an order derives from others of the same row: their texts, read and
checked whole.

    ln(chol)      age >= 65      age * sex      ns(age, 30, 50, 70)

The grammar is that of joint statistics (`reading`) over plain columns, without
aggregates, with ln, exp, sqrt, abs, power, least, greatest, in, is null, and texts to
compare with. A comparison gives 1 and 0. A natural spline stands alone.

Where something is missing, `expression` says what a row gives; `is null` alone looks at
it. Beyond that a number that does not exist is missing: ln of zero or less, sqrt of less
than zero, a division by zero, a power or exponential that no double holds.

`agents.rows.derived_columns` computes them, `analytics.training.design` makes splines.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sqlglot import exp

from analytics.statistics.expression import (
    ExpressionError,
    Node,
    add,
    connect,
    constant,
    indicator,
    invert,
    multiply,
)
from analytics.statistics.reading import (
    DEEPEST,
    Reader,
    check_digits,
    literal,
    no_function,
    syntax_tree,
    too_deep,
)

SPLINE = "ns"
MOST_KNOTS = 20
ALLOWED = (
    "+ - * / ( ), comparisons, and, or, not, case, in, is null, decimal numbers, 'texts' to compare with, "
    "ln, exp, sqrt, abs, power, least, greatest, or ns(column, knot, knot, ...) alone"
)
_FUNCTIONS = {
    exp.Ln: "ln",
    exp.Exp: "exp",
    exp.Sqrt: "sqrt",
    exp.Abs: "abs",
}
_EXTREMES = {
    exp.Least: "least",
    exp.Greatest: "greatest",
}
_AGGREGATES = (
    exp.Sum,
    exp.Avg,
    exp.Variance,
    exp.Count,
)
_BEYOND_DOUBLES = 10**308
MOST_NODES = 5_000
"""Of derived columns that are written out: one may use another several times."""

# What an expression over rows of several hospitals does not have.
_OF_ONE_HOSPITAL = (
    *_FUNCTIONS.values(),
    *_EXTREMES.values(),
    "power",
    "same",
    "missing",
)
_WORDS = {"same": "a text", "missing": "is null"}
# A plain column has no alias.
_OF_ROW = ""


@dataclass(frozen=True)
class Derived:
    """One derived column. Only `parse_derived` makes one.

    Beside `Node`'s own its root has these nodes: ln, exp, sqrt, abs (a number each),
    power (two), least and greatest (two or more); same, without arguments, of value
    (column, text): whether the column's canonical text is that text; missing, of a
    column (its value) or of an argument: whether it has no value.
    """

    root: Node
    # Of a natural spline over the root: boundary, inner ones, boundary; else none.
    knots: tuple[float, ...] = ()

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        """The names that it uses as numbers, sorted."""
        column_names = _named(self.root, "column")
        return tuple(sorted(column_names))

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The names that it compares with texts, sorted."""
        column_names = _named(self.root, "same")
        return tuple(sorted(column_names))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All names that it uses, sorted."""
        column_names = _named(self.root, "column", "same", "missing")
        return tuple(sorted(column_names))


def _named(root: Node, *ops: str) -> set[str]:
    column_names: set[str] = set()
    for node in root.every():
        has_name = node.value is not None
        if node.op in ops and has_name:
            _, column_name, *_ = node.value
            column_names.add(column_name)
    return column_names


def parse_derived(text: str) -> Derived:
    """Read the text of a derived column. Raises ExpressionError, and nothing else.

    >>> parse_derived("ns(age, 30, 50, 70)").knots
    (30.0, 50.0, 70.0)
    >>> parse_derived("case when cp in (1, 2) then chol else 0 end").names
    ('chol', 'cp')
    """
    tree = syntax_tree(text, ALLOWED)
    reader = _RowReader({})
    knots: tuple[float, ...] = ()
    if _is_spline(tree):
        tree, knots = _spline(tree)
    root = reader.number_or_boolean(tree)
    check_digits(root)
    _check_doubles(root)
    derived = Derived(root, knots)
    if not derived.names:
        raise ExpressionError(
            "The expression names no column.", "Name one of the same row."
        )
    mixed_names = sorted(set(derived.numbers) & set(derived.texts))
    if mixed_names:
        raise ExpressionError(
            f"The expression uses {mixed_names[0]} as a number and as a text.",
            "Use it as one of them; cast it in a view.",
        )
    return derived


def in_order(derived: Mapping[str, Derived]) -> list[str]:
    """The names of derived columns, each behind those that it uses itself.

    Raises ExpressionError for names that use one another in a circle, or in a chain of
    more than DEEPEST.

    >>> in_order({"b": parse_derived("a + 1"), "a": parse_derived("2 * x")})
    ['a', 'b']
    """
    depths: dict[str, int] = {}
    waiting = dict(derived)
    while waiting:
        ready: list[str] = []
        for derived_name, derived_column in waiting.items():
            is_waiting = any(used_name in waiting for used_name in derived_column.names)
            if not is_waiting:
                ready.append(derived_name)
        if not ready:
            circle = ", ".join(sorted(waiting))
            raise ExpressionError(
                f"Derived columns use one another in a circle: {circle}.",
                "Write one of them over plain columns only.",
            )
        for derived_name in ready:
            used_names = derived[derived_name].names
            depths_below = [depths.get(used_name, 0) for used_name in used_names]
            depths[derived_name] = 1 + max(depths_below)
            del waiting[derived_name]
    deepest = max(depths.values(), default=0)
    if deepest > DEEPEST:
        raise too_deep()

    def place(name: str) -> tuple[int, str]:
        return depths[name], name

    return sorted(depths, key=place)


def added_columns(
    name: str, derived: Mapping[str, Derived]
) -> Mapping[str, int] | None:
    """Of which columns of the data a derived one is the sum, with the coefficient of
    each; None where anything else is done.

    A constant is something else: in doubles x + 1e17 rounds x, which compares it.

    >>> derived = {"a": parse_derived("x - y"), "b": parse_derived("a + y + z")}
    >>> added_columns("b", derived)
    {'x': 1, 'z': 1}
    >>> added_columns("c", {"c": parse_derived("x + 5")}) is None
    True
    """
    column_sums: dict[str, Mapping[str, int] | None] = {}
    derived_below = _below(name, derived)
    for derived_name in in_order(derived_below):
        root = derived[derived_name].root
        column_sums[derived_name] = _added(root, column_sums)
    return column_sums[name]


def _below(name: str, derived: Mapping[str, Derived]) -> dict[str, Derived]:
    """A derived column and those that it uses, however far below."""
    used_columns = {name: derived[name]}
    waiting = [name]
    while waiting:
        derived_column = derived[waiting.pop()]
        for used_name in derived_column.names:
            if used_name in derived and used_name not in used_columns:
                used_columns[used_name] = derived[used_name]
                waiting.append(used_name)
    return used_columns


def _added(
    node: Node, column_sums: Mapping[str, Mapping[str, int] | None]
) -> Mapping[str, int] | None:
    if node.op == "column":
        _, column_name = node.value
        return column_sums.get(column_name, {column_name: 1})
    sign = 1
    summands = node.args
    if node.op == "*" and len(summands) == 2 and summands[0] == constant(-1):
        sign = -1
        summands = summands[1:]
    elif node.op != "+":
        return None
    coefficients: dict[str, int] = {}
    for summand in summands:
        added = _added(summand, column_sums)
        if added is None:
            return None
        for column_name, coefficient in added.items():
            before = coefficients.get(column_name, 0)
            coefficients[column_name] = before + sign * coefficient
    return {name: number for name, number in coefficients.items() if number}


def made_of(name: str, derived: Mapping[str, Derived]) -> list[str]:
    """The columns of the data that a derived one is made of in the end, sorted."""
    derived_below = _below(name, derived)
    return plain_names(derived_below)


def written_out(root: Node, alias: str, derived: Mapping[str, Derived]) -> Node:
    """A tree over a hospital's columns with what its derived ones stand for in their
    place.

    Raises ExpressionError where that is nested too deep, or uses what an expression over
    rows of several hospitals has not.
    """
    roots: dict[str, Node] = {}
    for derived_name in in_order(derived):
        roots[derived_name] = _put_in(derived[derived_name].root, _OF_ROW, alias, roots)
        for node in roots[derived_name].every():
            if node.op in _OF_ONE_HOSPITAL:
                word = _WORDS.get(node.op, node.op)
                raise ExpressionError(
                    f"derive.{derived_name} uses {word}, which joined rows do not have.",
                    "Use + - * / ( ), comparisons, and, or, not and case, or compute it in a view.",
                )
    return _put_in(root, alias, alias, roots)


def _put_in(node: Node, own_alias: str, alias: str, roots: Mapping[str, Node]) -> Node:
    """The tree with alias.name for each column of `own_alias`, and roots in place of
    names.
    """
    if node.op == "column":
        owner, column_name = node.value
        if owner != own_alias:
            return node
        of_data = Node("column", value=(alias, column_name))
        return roots.get(column_name, of_data)
    new_args = [_put_in(arg, own_alias, alias, roots) for arg in node.args]
    n_nodes = sum(arg.n_nodes for arg in new_args)
    if n_nodes > MOST_NODES:
        raise ExpressionError(
            "Written out over columns of the data the expression is too long.",
            "Use derived columns fewer times, or compute them in a view.",
        )
    new_node = Node(node.op, tuple(new_args), node.value)
    if node.op == "+":
        new_node = add(*new_args)
    elif node.op == "*":
        new_node = multiply(*new_args)
    if new_node.depth > DEEPEST:
        raise too_deep()
    return new_node


def plain_names(derived: Mapping[str, Derived]) -> list[str]:
    """The columns that derived ones are made of in the end, sorted."""
    used_names: set[str] = set()
    for derived_column in derived.values():
        used_names.update(derived_column.names)
    return sorted(used_names - set(derived))


def _check_doubles(root: Node) -> None:
    for node in root.every():
        if node.op == "constant" and abs(node.value) >= _BEYOND_DOUBLES:
            raise ExpressionError(
                "A constant is outside the range of doubles.",
                "Write one below 1e308.",
            )


def _is_spline(tree: Any) -> bool:
    if type(tree) is not exp.Anonymous:
        return False
    function_name = str(tree.this)
    return function_name.lower() == SPLINE


def _spline(tree: Any) -> tuple[Any, tuple[float, ...]]:
    """What the spline is over, and its knots."""
    # Without arguments it has no knots, which is said below.
    over, *knot_trees = tree.expressions or [None]
    knots = [_knot(knot_tree) for knot_tree in knot_trees]
    is_increasing = all(a < b for a, b in itertools.pairwise(knots))
    is_number_allowed = 2 <= len(knots) <= MOST_KNOTS
    if not is_number_allowed or not is_increasing:
        raise ExpressionError(
            f"The knots of {SPLINE} are not 2 to {MOST_KNOTS} increasing numbers.",
            f"Write {SPLINE}(column, lower boundary, inner knots, upper boundary).",
        )
    return over, tuple(knots)


def _knot(tree: Any) -> float:
    sign = 1.0
    if type(tree) is exp.Neg:
        sign = -1.0
        tree = tree.this
    if type(tree) is not exp.Literal:
        raise ExpressionError(
            f"A knot of {SPLINE} is no number.", f"Write {SPLINE}(age, 30, 50, 70)."
        )
    number = float(literal(tree).value)
    return sign * number


class _RowReader(Reader):
    """Reads the columns of one row, and what only rows have."""

    allowed = ALLOWED

    def __init__(self, columns: Mapping[str, Any]) -> None:
        super().__init__(columns)
        for aggregate in _AGGREGATES:
            del self.rules[aggregate]
        for tree_type in _FUNCTIONS:
            self.rules[tree_type] = self._function
        for tree_type in _EXTREMES:
            self.rules[tree_type] = self._extreme
        self.rules[exp.Column] = self._plain_column
        self.rules[exp.Anonymous] = self._unknown_function
        self.rules[exp.Pow] = self._power
        self.rules[exp.In] = self._in
        self.rules[exp.Is] = self._is_null

    def number_or_boolean(self, tree: Any) -> Node:
        """A number; of a comparison 1 where it is true, and 0."""
        node = self.read(tree)
        if node.is_boolean:
            return indicator(node)
        return node

    def _plain_column(self, tree: Any) -> Node:
        column_name = _column_name(tree)
        return Node("column", value=(_OF_ROW, column_name))

    def _unknown_function(self, tree: Any) -> Node:
        if _is_spline(tree):
            raise ExpressionError(
                f"{SPLINE} stands within another expression.",
                "Derive the spline in a column of its own.",
            )
        function_name = str(tree.this)
        if not function_name.isidentifier():
            raise no_function(self.allowed)
        raise ExpressionError(
            f"The expression calls {function_name[:60]}, which is no function here.",
            f"Use {self.allowed}.",
        )

    def _function(self, tree: Any) -> Node:
        op = _FUNCTIONS[type(tree)]
        number = self.number(tree.this)
        return Node(op, (number,))

    def _power(self, tree: Any) -> Node:
        base = self.number(tree.this)
        exponent = self.number(tree.expression)
        return Node("power", (base, exponent))

    def _extreme(self, tree: Any) -> Node:
        op = _EXTREMES[type(tree)]
        arguments = [tree.this, *tree.expressions]
        numbers = [self.number(argument) for argument in arguments]
        if len(numbers) < 2:
            raise ExpressionError(f"{op} has one argument.", "Give it two or more.")
        return Node(op, tuple(numbers))

    def _is_null(self, tree: Any) -> Node:
        if type(tree.expression) is not exp.Null:
            raise ExpressionError(
                "The expression asks by `is` for something else than null.",
                "Write x is null, or compare by =.",
            )
        operand = tree.this
        if type(operand) is exp.Column:
            # Whether it is a number or a text does not matter.
            column_name = _column_name(operand)
            return Node("missing", value=(_OF_ROW, column_name))
        number = self.number(operand)
        return Node("missing", (number,))

    def _in(self, tree: Any) -> Node:
        listed_values = tree.expressions
        if tree.args.get("query") or not listed_values:
            raise ExpressionError(
                "The expression asks by `in` for what is no list.",
                "Write x in (1, 2).",
            )
        equalities = [self._equal(tree.this, value) for value in listed_values]
        if len(equalities) == 1:
            return equalities[0]
        return connect("or", *equalities)

    def compare(self, tree: Any) -> Node:
        left = tree.this
        right = tree.expression
        if not _is_text(left) and not _is_text(right):
            return super().compare(tree)
        if type(tree) is exp.EQ:
            return self._equal(left, right)
        if type(tree) is exp.NEQ:
            equal = self._equal(left, right)
            return invert(equal)
        raise ExpressionError(
            "The expression asks whether a text is less than another.",
            "Compare texts by =, <> and in.",
        )

    def condition(self, tree: Any, part: Any) -> Node:
        if tree.this is None:
            return super().condition(tree, part)
        return self._equal(tree.this, part.this)

    def _equal(self, left: Any, right: Any) -> Node:
        if _is_text(left):
            left, right = right, left
        if not _is_text(right):
            first_number = self.number(left)
            second_number = self.number(right)
            return Node("=", (first_number, second_number))
        if type(left) is not exp.Column:
            raise ExpressionError(
                "The expression compares a text with what is no column.",
                "Write column = 'text'.",
            )
        column_name = _column_name(left)
        compared_text = str(right.this)
        return Node("same", value=(_OF_ROW, column_name, compared_text))


def _is_text(tree: Any) -> bool:
    return type(tree) is exp.Literal and bool(tree.is_string)


def _column_name(tree: Any) -> str:
    this = tree.args.get("this")
    if type(this) is not exp.Identifier or tree.args.get("table"):
        raise ExpressionError(
            "The expression names a column with an alias, or *.",
            'Write the column alone, in "quotes" where it has blanks.',
        )
    return str(this.this)
