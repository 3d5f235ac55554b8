"""An expression's text, read as SQL and checked whole.

Allowed are + - * / ( ), comparisons, and, or, not, case, decimal constants and the
aggregates sum, avg, var and count; whatever else the parser understands is refused by
name. Every party reads the text itself, so what one takes the others take too.

What is asked of a text first, then the reader of the parser's tree. `expression` has
the tree that it makes.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Mapping
from fractions import Fraction
from functools import reduce
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.parser import Parser

from analytics.statistics.expression import (
    AGGREGATES,
    Expression,
    ExpressionError,
    Node,
    add,
    connect,
    constant,
    indicator,
    invert,
    multiply,
    negate,
)

MOST_CHARACTERS = 2_000
DEEPEST = 25
"""Far less than what the parser survives, so that every party takes and refuses the
same texts.
"""
MOST_DIGITS = 400
_SPACES = str.maketrans("\t\r\n", "   ")
_NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?")
ALLOWED = (
    "+ - * / ( ), comparisons, and, or, not, case, decimal numbers, sum, avg, var and count, "
    "over alias.column"
)


def parse_expression(
    text: str, columns: Mapping[str, Collection[str] | None]
) -> Expression:
    """Read an expression over `columns`: alias to the names of its columns, or None.

    None where they are not known. Raises ExpressionError, and nothing else, unless
    every name, type, level and division is one that can be computed.

    >>> parse_expression("df1.price * df2.units", {"df1": None, "df2": None}).columns
    (('df1', 'price'), ('df2', 'units'))
    """
    reader = Reader(columns)
    tree = syntax_tree(text, ALLOWED)
    root = reader.read(tree)
    check_digits(root)
    if not root.aliases and not root.has_aggregate:
        raise ExpressionError(
            "The expression names no column.", "Name one as alias.column."
        )
    if _level(root) == "mixed":
        raise ExpressionError(
            "The expression mixes the value of a row with an aggregate.",
            "Put every column within sum, avg, var or count, or none.",
        )
    return Expression(root)


def compare_sum(
    columns: Collection[tuple[str, str]],
    comparison: str,
    *,
    threshold: Fraction,
) -> Expression:
    """Per joined row: does the sum of one column of each alias reach `threshold`?

    `comparison` is >=, >, <= or <.
    """
    if comparison not in COMPARISONS or comparison in ("=", "<>"):
        raise ExpressionError(
            "The comparison is none of >=, >, <=, <.", "Give one of them."
        )
    if not columns:
        raise ExpressionError(
            "There is no column to add.", "Name a value_column for each provider."
        )
    summands = [Node("column", value=pair) for pair in columns]
    column_sum = reduce(add, summands)
    compare = COMPARISONS[comparison]
    compared = compare(column_sum, constant(threshold))
    return Expression(compared)


def check_digits(root: Node) -> None:
    """Checked on the tree: a product of short constants may be long."""
    for node in root.every():
        if node.op == "constant" and not _is_short(node.value):
            raise _too_many_digits()


def _check_text(text: str) -> None:
    if not text.strip():
        raise ExpressionError(
            "The expression is empty.", "Give one, such as df1.unit_price * df2.units."
        )
    if len(text) > MOST_CHARACTERS:
        raise ExpressionError(
            f"The expression has more than {MOST_CHARACTERS} characters.",
            "Write it shorter.",
        )
    on_one_line = text.translate(_SPACES)
    if not on_one_line.isprintable():
        raise ExpressionError(
            "The expression holds characters that cannot be printed.", "Leave them out."
        )
    if _nesting(text) > DEEPEST:
        raise too_deep()
    # The parser drops comments, and what one party reads another must not overlook.
    if any(mark in text for mark in ("--", "/*", "{#")):
        raise ExpressionError(
            "The expression holds a comment (-- or /*).",
            "Leave it out; write - (-1) for --1.",
        )


def _nesting(text: str) -> int:
    """The most brackets and cases that are open at once."""
    steps = {
        "(": 1,
        "case": 1,
        ")": -1,
        "end": -1,
    }
    depth = 0
    deepest = 0
    for word in re.findall(r"[()]|\w+", text.lower()):
        depth += steps.get(word, 0)
        deepest = max(deepest, depth)
    return deepest


def syntax_tree(text: str, allowed: str) -> Any:
    """The parser's tree of an expression, within SELECT (...).

    The brackets keep statements, clauses and aliases out. allowed: what a refusal says
    may be used. Raises ExpressionError.
    """
    _check_text(text)
    _check_no_type(text, allowed)
    try:
        statements = sqlglot.parse(f"SELECT ({text}\n)")
    except RecursionError:
        raise too_deep() from None
    except SqlglotError:
        statements = []
    select = statements[0] if len(statements) == 1 else None
    if isinstance(select, exp.Select):
        clauses = {clause for clause, value in select.args.items() if value}
        selected = select.expressions
        is_one = clauses == {"expressions"} and len(selected) == 1
        if is_one and type(selected[0]) is exp.Paren:
            return selected[0].this
    raise ExpressionError("The expression cannot be read.", f"Use {allowed}.")


def _check_no_type(text: str, allowed: str) -> None:
    """The parser looks twice at a type before a bracket, as int(5) and as a function.

    At 25 of them it does so for years.
    """
    try:
        tokens = sqlglot.tokenize(text)
    except SqlglotError:
        return
    for token, following in itertools.pairwise(tokens):
        is_type = token.token_type in Parser.TYPE_TOKENS
        if is_type and following.text == "(":
            raise no_function(allowed)


def no_function(allowed: str) -> ExpressionError:
    return ExpressionError(
        "The expression calls a function that is not allowed.", f"Use {allowed}."
    )


def _level(node: Node) -> str:
    """row, aggregate, constant, or mixed: what a node's value is one of."""
    if node.op in AGGREGATES:
        return "aggregate"
    if node.op == "column":
        return "row"
    levels = {_level(arg) for arg in node.args}
    levels.discard("constant")  # which goes with either
    if not levels:
        return "constant"
    if len(levels) > 1:
        return "mixed"
    return levels.pop()


COMPARISONS: dict[str, Callable[[Node, Node], Node]] = {
    "=": lambda left, right: Node("=", (left, right)),
    "<>": lambda left, right: invert(Node("=", (left, right))),
    "<": lambda left, right: Node("<", (left, right)),
    ">": lambda left, right: Node("<", (right, left)),
    "<=": lambda left, right: invert(Node("<", (right, left))),
    ">=": lambda left, right: invert(Node("<", (left, right))),
}
"""All of = and <, the only comparisons that are computed."""
COMPARISON_TYPES = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.LT: "<",
    exp.GT: ">",
    exp.LTE: "<=",
    exp.GTE: ">=",
}
_AGGREGATE_TYPES = {
    exp.Sum: "sum",
    exp.Avg: "avg",
    exp.Variance: "var",
}


class Reader:
    """Turns the parser's tree into nodes, and refuses what it has no rule for."""

    allowed = ALLOWED

    def __init__(self, columns: Mapping[str, Collection[str] | None]) -> None:
        self._columns = columns
        self._depth = 0
        self.rules: dict[type, Callable[[Any], Node]] = {
            exp.Paren: lambda tree: self.read(tree.this),
            exp.Column: self._column,
            exp.Literal: literal,
            exp.Boolean: lambda tree: Node("truth", value=bool(tree.this)),
            exp.Neg: lambda tree: negate(self.number(tree.this)),
            exp.Add: self._terms,
            exp.Sub: self._terms,
            exp.Mul: self._factors,
            exp.Div: self._factors,
            exp.And: lambda tree: self._connect("and", tree),
            exp.Or: lambda tree: self._connect("or", tree),
            exp.Not: lambda tree: invert(self.boolean(tree.this)),
            exp.Case: self.case,
            exp.Count: self._count,
            exp.Anonymous: self._anonymous,
            **dict.fromkeys(COMPARISON_TYPES, self.compare),
            **dict.fromkeys(_AGGREGATE_TYPES, self._aggregate),
        }

    def read(self, tree: Any) -> Node:
        rule = self.rules.get(type(tree))
        if rule is None:
            type_name = type(tree).__name__
            raise ExpressionError(
                f"The expression holds what is not allowed in one ({type_name}).",
                f"Use {self.allowed}.",
            )
        self._depth += 1
        if self._depth > DEEPEST:
            raise too_deep()
        node = rule(tree)
        self._depth -= 1
        return node

    def number(self, tree: Any) -> Node:
        node = self.read(tree)
        if node.is_boolean:
            raise ExpressionError(
                "The expression has a comparison where a number belongs.",
                "Write case when ... then 1 else 0 end.",
            )
        return node

    def boolean(self, tree: Any) -> Node:
        node = self.read(tree)
        if not node.is_boolean:
            raise ExpressionError(
                "The expression has a number where a comparison belongs.",
                "Compare it: x > 0.",
            )
        return self.of_rows(node)

    def of_rows(self, node: Node) -> Node:
        if node.has_aggregate:
            raise ExpressionError(
                "The expression has an aggregate within a comparison, a case or another aggregate.",
                "Add, subtract, multiply or divide aggregates only.",
            )
        return node

    def _terms(self, tree: Any) -> Node:
        """a + b - c, however many: the parser nests them to the left."""
        first_operand, others = unnested(tree, (exp.Add, exp.Sub))
        terms = []
        for operator, operand in others:
            term = self.number(operand)
            if operator is exp.Sub:
                term = negate(term)
            terms.append(term)
        return add(self.number(first_operand), *terms)

    def _factors(self, tree: Any) -> Node:
        first_operand, others = unnested(tree, (exp.Mul, exp.Div))
        node = self.number(first_operand)
        for operator, operand in others:
            number = self.number(operand)
            if operator is exp.Div:
                node = divide(node, number)
            else:
                node = multiply(node, number)
        return node

    def _connect(self, op: str, tree: Any) -> Node:
        first_operand, others = unnested(tree, (type(tree),))
        booleans = [self.boolean(first_operand)]
        for _, operand in others:
            booleans.append(self.boolean(operand))
        return connect(op, *booleans)

    def compare(self, tree: Any) -> Node:
        left = self.of_rows(self.number(tree.this))
        right = self.of_rows(self.number(tree.expression))
        comparison = COMPARISON_TYPES[type(tree)]
        compared = COMPARISONS[comparison]
        return compared(left, right)

    def _column(self, tree: Any) -> Node:
        table = tree.args.get("table")
        this = tree.args.get("this")
        are_names = type(table) is exp.Identifier and type(this) is exp.Identifier
        if not are_names or tree.args.get("db"):
            raise ExpressionError(
                "The expression names a column without its alias.",
                "Write alias.column.",
            )
        alias = str(table.this)
        column = str(this.this)
        if alias not in self._columns:
            known_aliases = ", ".join(sorted(self._columns))
            raise ExpressionError(
                f"The expression names an alias that no provider has: {alias}.",
                f"Use {known_aliases}.",
            )
        known_columns = self._columns[alias]
        if known_columns is not None and column not in known_columns:
            raise ExpressionError(
                f"{alias} has no column {column}.",
                "Name a column of its data, as it is written.",
            )
        return Node("column", value=(alias, column))

    def case(self, tree: Any) -> Node:
        branches = tree.args["ifs"]
        default = tree.args.get("default")
        conditions = [self.condition(tree, branch) for branch in branches]
        results = [branch.args["true"] for branch in branches]
        if default is not None:
            results.append(default)
        result_nodes = [self.of_rows(self.read(result)) for result in results]
        result_kinds = {value.is_boolean for value in result_nodes}
        if len(result_kinds) > 1:
            raise ExpressionError(
                "A case gives numbers and comparisons.",
                "Let all its branches give numbers.",
            )
        case_args: list[Node] = []
        for condition, result_node in zip(conditions, result_nodes, strict=False):
            case_args += [condition, result_node]
        case_args += result_nodes[len(conditions) :]  # else
        node = Node("case", tuple(case_args))
        # A circuit knows of each hospital's own columns which rows have a value, of
        # joint conditions it does not.
        if default is None and len(node.aliases) > 1:
            raise ExpressionError(
                "A case over several providers has no else.",
                "Add else 0, or what fits.",
            )
        return node

    def condition(self, tree: Any, part: Any) -> Node:
        """`case when c` or `case x when c`."""
        if tree.this is None:
            return self.boolean(part.this)
        left = self.of_rows(self.number(tree.this))
        right = self.of_rows(self.number(part.this))
        return Node("=", (left, right))

    def _aggregate(self, tree: Any) -> Node:
        op = _AGGREGATE_TYPES[type(tree)]
        return self._over(op, tree.this)

    def _anonymous(self, tree: Any) -> Node:
        function_name = str(tree.this).lower()
        if function_name != "var" or len(tree.expressions) != 1:
            raise no_function(self.allowed)
        return self._over("var", tree.expressions[0])

    def _count(self, tree: Any) -> Node:
        if tree.args.get("expressions"):
            raise ExpressionError("count has several arguments.", "Give it one, or *.")
        if type(tree.this) is exp.Star:
            return Node("count")
        return self._over("count", tree.this)

    def _over(self, op: str, tree: Any) -> Node:
        inner = self.of_rows(self.read(tree))
        if not inner.aliases:
            raise ExpressionError(
                f"{op} is over no column.", "Name one, or write count(*)."
            )
        number = inner
        if inner.is_boolean:
            number = indicator(inner)
        return Node(op, (number,))


def literal(tree: Any) -> Node:
    literal_text = str(tree.this)
    if tree.is_string or not _NUMBER.fullmatch(literal_text):
        raise ExpressionError(
            "The expression holds a constant that is no decimal number.",
            "Write 1.5 or 2e6.",
        )
    digits, _, exponent = literal_text.lower().partition("e")
    power = int(exponent or 0)
    if abs(power) > MOST_DIGITS:
        raise _too_many_digits()
    number = Fraction(digits.rstrip("."))
    factor = Fraction(10) ** power
    return constant(number * factor)


def unnested(
    tree: Any,
    kinds: tuple[type, ...],
) -> tuple[Any, list[tuple[type, Any]]]:
    """((a . b) . c) . d as a and [(type, b), (type, c), (type, d)]."""
    others: list[tuple[type, Any]] = []
    while type(tree) in kinds:
        others.append((type(tree), tree.expression))
        tree = tree.this
    return tree, others[::-1]


def _is_short(value: Fraction) -> bool:
    longest = max(abs(value.numerator), value.denominator)
    return bool(longest < 10**MOST_DIGITS)


def _too_many_digits() -> ExpressionError:
    return ExpressionError(
        f"A constant has more than {MOST_DIGITS} digits.", "Write a shorter one."
    )


def too_deep() -> ExpressionError:
    return ExpressionError(
        f"The expression is nested more than {DEEPEST} deep.", "Write it flatter."
    )


def divide(left: Node, right: Node) -> Node:
    """A constant divisor is a factor.

    A column divides its own provider's numbers, an aggregate divides aggregates.
    """
    if right.op == "constant":
        if not right.value:
            raise ExpressionError(
                "The expression divides by the constant zero.", "Give another divisor."
            )
        factor = constant(1 / right.value)
        return multiply(left, factor)
    node = Node("/", (left, right))
    if node.depth > DEEPEST:
        raise too_deep()
    is_joint = len(node.aliases) > 1
    if is_joint and not node.has_aggregate:
        raise ExpressionError(
            "The expression divides one provider's rows by another's, which is not computed.",
            "Divide aggregates (sum(a.x) / sum(b.y)), or within one provider's columns.",
        )
    return node
