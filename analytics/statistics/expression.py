"""Expressions over several hospitals' columns: read as SQL, checked whole, never evaluated as code.

    df1.unit_price * df2.units        one value per joined row
    avg(df1.age) / sum(df2.visits)    one value

The text becomes a tree of `Node`. Allowed are + - * / ( ), comparisons, and, or, not, case, decimal constants and the
aggregates sum, avg, var and count; whatever else the parser understands is refused by name. Exact sums and products
have any number of arguments, so a tree's depth is the nesting that was written.

Where something is missing. A row has a value if all that it uses has one: NULL or a division by zero anywhere gives
NULL, in `and`, `or` and `case` too. Only within one hospital's columns does `case` leave out the branches not taken.

Nodes and how they are made first, then the text, then the reader of the parser's tree. `rowwise` computes a tree at one
hospital, `circuit` turns it into steps on shares.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, reduce
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.parser import Parser

MOST_CHARACTERS = 2_000
DEEPEST = 25
"""Far less than what the parser survives, so that every party takes and refuses the same texts."""
MOST_DIGITS = 400
AGGREGATES = ("sum", "avg", "var", "count")
BOOLEANS = ("=", "<", "and", "or", "not", "truth", "valid")
_NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?")
_ALLOWED = "+ - * / ( ), comparisons, and, or, not, case, decimal numbers, sum, avg, var and count"


class ExpressionError(ValueError):
    """An expression that cannot be honoured: one sentence, and its remedy. Neither holds a value of a row."""

    def __init__(self, sentence: str, remedy: str) -> None:
        super().__init__(f"{sentence} {remedy}")
        self.sentence = sentence
        self.remedy = remedy


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
        return frozenset[str]().union(*(arg.aliases for arg in self.args))

    @cached_property
    def is_boolean(self) -> bool:
        if self.op == "case":
            first_result = self.args[1]
            return first_result.is_boolean
        return self.op in BOOLEANS

    @cached_property
    def depth(self) -> int:
        """How many nodes stand above one another."""
        return 1 + max((arg.depth for arg in self.args), default=0)

    def every(self) -> Iterator[Node]:
        """The node and all below it."""
        yield self
        for arg in self.args:
            yield from arg.every()


def constant(value: Fraction | int) -> Node:
    return Node("constant", value=Fraction(value))


def add(*terms: Node) -> Node:
    """t_1 + t_2 + ...; terms that are sums themselves are taken apart."""
    return _flat("+", terms)


def multiply(*factors: Node) -> Node:
    """f_1 f_2 ...; factors that are products themselves are taken apart."""
    return _flat("*", factors)


def negate(node: Node) -> Node:
    return multiply(constant(-1), node)


def subtract(left: Node, right: Node) -> Node:
    return add(left, negate(right))


def invert(node: Node) -> Node:
    return Node("not", (node,))


def valid(*nodes: Node) -> Node:
    return Node("valid", nodes)


def indicator(node: Node) -> Node:
    return Node("indicator", (node,))


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
        return tuple(column for owner, column in self.columns if owner == alias)

    @cached_property
    def aliases(self) -> tuple[str, ...]:
        return tuple(sorted(self.root.aliases))

    @cached_property
    def is_row_level(self) -> bool:
        """One value per joined row; otherwise one value over all rows."""
        return not any(node.op in AGGREGATES for node in self.root.every())

    @cached_property
    def compares(self) -> bool:
        """Whether its result shows comparisons of values."""
        return any(node.op in ("=", "<") for node in self.root.every())

    @cached_property
    def divides(self) -> bool:
        """Whether a row is divided by a column, and so may have no value."""
        return any(node.op == "/" and not _has_aggregate(node) for node in self.root.every())


def parse_expression(text: str, columns: Mapping[str, Collection[str] | None]) -> Expression:
    """Read an expression over `columns`: alias to the names of its columns, or to None where they are not known.

    Raises ExpressionError, and nothing else, unless every name, type, level and division is one that can be computed.

    >>> parse_expression("df1.price * df2.units", {"df1": None, "df2": None}).columns
    (('df1', 'price'), ('df2', 'units'))
    """
    _check_text(text)
    root = _Reader(columns).read(_parsed(text))
    # Checked on the tree: a product of short constants may be long.
    constants = [node.value for node in root.every() if node.op == "constant"]
    if not all(_is_short(value) for value in constants):
        raise _too_many_digits()
    if not root.aliases and not _has_aggregate(root):
        raise ExpressionError("The expression names no column.", "Name one as alias.column.")
    if _level(root) == "mixed":
        raise ExpressionError(
            "The expression mixes the value of a row with an aggregate.",
            "Put every column within sum, avg, var or count, or none.",
        )
    return Expression(root)


def compare_sum(columns: Collection[tuple[str, str]], comparison: str, *, threshold: Fraction) -> Expression:
    """Per joined row: does the sum of one column of each alias reach `threshold`? `comparison` is >=, >, <= or <."""
    if comparison not in _COMPARISONS or comparison in ("=", "<>"):
        raise ExpressionError("The comparison is none of >=, >, <=, <.", "Give one of them.")
    if not columns:
        raise ExpressionError("There is no column to add.", "Name a value_column for each provider.")
    total = reduce(add, [Node("column", value=pair) for pair in columns])
    return Expression(_COMPARISONS[comparison](total, constant(threshold)))


def _flat(op: str, nodes: tuple[Node, ...]) -> Node:
    """One node of all arguments, the constants among them made one."""
    parts: list[Node] = []
    for node in nodes:
        parts.extend(node.args if node.op == op else (node,))
    if op in ("and", "or"):
        return Node(op, tuple(parts))
    rest = tuple(part for part in parts if part.op != "constant")
    constants = [part.value for part in parts if part.op == "constant"]
    if op == "+":
        neutral = Fraction(0)
        number = sum(constants, neutral)
    else:
        neutral = Fraction(1)
        number = math.prod(constants, start=neutral)
    adds_nothing = number == neutral and bool(rest)
    args = rest if adds_nothing else (constant(number), *rest)
    return args[0] if len(args) == 1 else Node(op, args)


# The text ---------------------------------------------------------------------------------------------------------


def _check_text(text: str) -> None:
    if not text.strip():
        raise ExpressionError("The expression is empty.", "Give one, such as df1.unit_price * df2.units.")
    if len(text) > MOST_CHARACTERS:
        raise ExpressionError(
            f"The expression has more than {MOST_CHARACTERS} characters.", "Write it shorter."
        )
    if not all(character.isprintable() or character in "\t\r\n" for character in text):
        raise ExpressionError("The expression holds characters that cannot be printed.", "Leave them out.")
    if _nesting(text) > DEEPEST:
        raise _too_deep()
    # The parser drops comments, and what one party reads another must not overlook.
    if any(mark in text for mark in ("--", "/*", "{#")):
        raise ExpressionError(
            "The expression holds a comment (-- or /*).", "Leave it out; write - (-1) for --1."
        )


def _nesting(text: str) -> int:
    """The most brackets and cases that are open at once."""
    steps = {"(": 1, "case": 1, ")": -1, "end": -1}
    words = re.findall(r"[()]|\w+", text.lower())
    depths = itertools.accumulate(steps.get(word, 0) for word in words)
    return max(depths, default=0)


def _parsed(text: str) -> Any:
    """The syntax tree within SELECT ( ... ), which keeps statements, clauses and aliases out."""
    _check_no_type(text)
    try:
        statements = sqlglot.parse(f"SELECT ({text}\n)")
    except RecursionError:
        raise _too_deep() from None
    except SqlglotError:
        statements = []
    select = statements[0] if len(statements) == 1 else None
    if isinstance(select, exp.Select):
        clauses = {name for name, value in select.args.items() if value}
        inner = select.expressions
        if clauses == {"expressions"} and len(inner) == 1 and type(inner[0]) is exp.Paren:
            return inner[0].this
    raise ExpressionError("The expression cannot be read.", f"Use {_ALLOWED}, over alias.column.")


def _check_no_type(text: str) -> None:
    """The parser looks twice at a type before a bracket, as int(5) and as a function: at 25 of them for years."""
    try:
        tokens = sqlglot.tokenize(text)
    except SqlglotError:
        return
    for token, following in itertools.pairwise(tokens):
        if token.token_type in Parser.TYPE_TOKENS and following.text == "(":
            raise _no_function()


def _no_function() -> ExpressionError:
    return ExpressionError("The expression calls a function that is not allowed.", f"Use {_ALLOWED}.")


def _has_aggregate(node: Node) -> bool:
    return any(part.op in AGGREGATES for part in node.every())


def _level(node: Node) -> str:
    """row, aggregate, constant, or mixed: what a node's value is one of."""
    if node.op in AGGREGATES:
        return "aggregate"
    if node.op == "column":
        return "row"
    levels = {_level(arg) for arg in node.args} - {"constant"}
    if not levels:
        return "constant"
    return levels.pop() if len(levels) == 1 else "mixed"


_COMPARISONS: dict[str, Callable[[Node, Node], Node]] = {
    "=": lambda left, right: Node("=", (left, right)),
    "<>": lambda left, right: invert(Node("=", (left, right))),
    "<": lambda left, right: Node("<", (left, right)),
    ">": lambda left, right: Node("<", (right, left)),
    "<=": lambda left, right: invert(Node("<", (right, left))),
    ">=": lambda left, right: invert(Node("<", (left, right))),
}
"""All of = and <, the only comparisons that are computed."""
_COMPARISON_TYPES = {exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.GT: ">", exp.LTE: "<=", exp.GTE: ">="}
_AGGREGATE_TYPES = {exp.Sum: "sum", exp.Avg: "avg", exp.Variance: "var"}


class _Reader:
    """Turns the parser's tree into nodes, and refuses what it has no rule for."""

    def __init__(self, columns: Mapping[str, Collection[str] | None]) -> None:
        self._columns = columns
        self._depth = 0
        self._rules: dict[type, Callable[[Any], Node]] = {
            exp.Paren: lambda tree: self.read(tree.this),
            exp.Column: self._column,
            exp.Literal: _literal,
            exp.Boolean: lambda tree: Node("truth", value=bool(tree.this)),
            exp.Neg: lambda tree: negate(self._number(tree.this)),
            exp.Add: self._terms,
            exp.Sub: self._terms,
            exp.Mul: self._factors,
            exp.Div: self._factors,
            exp.And: lambda tree: self._connect("and", tree),
            exp.Or: lambda tree: self._connect("or", tree),
            exp.Not: lambda tree: invert(self._boolean(tree.this)),
            exp.Case: self._case,
            exp.Count: self._count,
            exp.Anonymous: self._anonymous,
            **dict.fromkeys(_COMPARISON_TYPES, self._compare),
            **dict.fromkeys(_AGGREGATE_TYPES, self._aggregate),
        }

    def read(self, tree: Any) -> Node:
        rule = self._rules.get(type(tree))
        if rule is None:
            kind = type(tree).__name__
            raise ExpressionError(
                f"The expression holds what is not allowed in one ({kind}).", f"Use {_ALLOWED}."
            )
        self._depth += 1
        if self._depth > DEEPEST:
            raise _too_deep()
        node = rule(tree)
        self._depth -= 1
        return node

    def _number(self, tree: Any) -> Node:
        node = self.read(tree)
        if node.is_boolean:
            raise ExpressionError(
                "The expression has a comparison where a number belongs.",
                "Write case when ... then 1 else 0 end.",
            )
        return node

    def _boolean(self, tree: Any) -> Node:
        node = self.read(tree)
        if not node.is_boolean:
            raise ExpressionError(
                "The expression has a number where a comparison belongs.", "Compare it: x > 0."
            )
        return self._of_rows(node)

    def _of_rows(self, node: Node) -> Node:
        if _has_aggregate(node):
            raise ExpressionError(
                "The expression has an aggregate within a comparison, a case or another aggregate.",
                "Add, subtract, multiply or divide aggregates only.",
            )
        return node

    def _terms(self, tree: Any) -> Node:
        """a + b - c, however many: the parser nests them to the left."""
        first, others = _unnested(tree, (exp.Add, exp.Sub))
        terms = []
        for kind, part in others:
            number = self._number(part)
            terms.append(negate(number) if kind is exp.Sub else number)
        return add(self._number(first), *terms)

    def _factors(self, tree: Any) -> Node:
        first, others = _unnested(tree, (exp.Mul, exp.Div))
        node = self._number(first)
        for kind, part in others:
            number = self._number(part)
            node = _divide(node, number) if kind is exp.Div else multiply(node, number)
        return node

    def _connect(self, op: str, tree: Any) -> Node:
        first, others = _unnested(tree, (type(tree),))
        parts = [first, *(part for _, part in others)]
        return _flat(op, tuple(self._boolean(part) for part in parts))

    def _compare(self, tree: Any) -> Node:
        left = self._of_rows(self._number(tree.this))
        right = self._of_rows(self._number(tree.expression))
        comparison = _COMPARISON_TYPES[type(tree)]
        return _COMPARISONS[comparison](left, right)

    def _column(self, tree: Any) -> Node:
        table, this = tree.args.get("table"), tree.args.get("this")
        are_names = type(table) is exp.Identifier and type(this) is exp.Identifier
        if not are_names or tree.args.get("db"):
            raise ExpressionError("The expression names a column without its alias.", "Write alias.column.")
        alias, column = str(table.this), str(this.this)
        if alias not in self._columns:
            known = ", ".join(sorted(self._columns))
            raise ExpressionError(
                f"The expression names an alias that no provider has: {alias}.", f"Use {known}."
            )
        known_columns = self._columns[alias]
        if known_columns is not None and column not in known_columns:
            raise ExpressionError(
                f"{alias} has no column {column}.", "Name a column of its data, as it is written."
            )
        return Node("column", value=(alias, column))

    def _case(self, tree: Any) -> Node:
        conditions = [self._condition(tree, part) for part in tree.args["ifs"]]
        results = [part.args["true"] for part in tree.args["ifs"]]
        default = tree.args.get("default")
        if default is not None:
            results.append(default)
        values = [self._of_rows(self.read(result)) for result in results]
        if len({value.is_boolean for value in values}) > 1:
            raise ExpressionError(
                "A case gives numbers and comparisons.", "Let all its branches give numbers."
            )
        args: list[Node] = []
        for condition, value in zip(conditions, values, strict=False):
            args += [condition, value]
        args += values[len(conditions) :]  # else
        node = Node("case", tuple(args))
        # A circuit knows of each hospital's own columns which rows have a value, of joint conditions it does not.
        if default is None and len(node.aliases) > 1:
            raise ExpressionError("A case over several providers has no else.", "Add else 0, or what fits.")
        return node

    def _condition(self, tree: Any, part: Any) -> Node:
        """`case when c` or `case x when c`."""
        if tree.this is None:
            return self._boolean(part.this)
        left = self._of_rows(self._number(tree.this))
        right = self._of_rows(self._number(part.this))
        return Node("=", (left, right))

    def _aggregate(self, tree: Any) -> Node:
        return self._over(_AGGREGATE_TYPES[type(tree)], tree.this)

    def _anonymous(self, tree: Any) -> Node:
        if str(tree.this).lower() != "var" or len(tree.expressions) != 1:
            raise _no_function()
        return self._over("var", tree.expressions[0])

    def _count(self, tree: Any) -> Node:
        if tree.args.get("expressions"):
            raise ExpressionError("count has several arguments.", "Give it one, or *.")
        if type(tree.this) is exp.Star:
            return Node("count")
        return self._over("count", tree.this)

    def _over(self, op: str, tree: Any) -> Node:
        inner = self._of_rows(self.read(tree))
        if not inner.aliases:
            raise ExpressionError(f"{op} is over no column.", "Name one, or write count(*).")
        number = indicator(inner) if inner.is_boolean else inner
        return Node(op, (number,))


def _literal(tree: Any) -> Node:
    if tree.is_string or not _NUMBER.fullmatch(str(tree.this)):
        raise ExpressionError(
            "The expression holds a constant that is no decimal number.", "Write 1.5 or 2e6."
        )
    digits, _, exponent = str(tree.this).lower().partition("e")
    power = int(exponent or 0)
    if abs(power) > MOST_DIGITS:
        raise _too_many_digits()
    return constant(Fraction(digits.rstrip(".")) * Fraction(10) ** power)


def _unnested(tree: Any, kinds: tuple[type, ...]) -> tuple[Any, list[tuple[type, Any]]]:
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
    return ExpressionError(f"A constant has more than {MOST_DIGITS} digits.", "Write a shorter one.")


def _too_deep() -> ExpressionError:
    return ExpressionError(f"The expression is nested more than {DEEPEST} deep.", "Write it flatter.")


def _divide(left: Node, right: Node) -> Node:
    """A constant divisor is a factor; a column's divides its own provider's numbers, an aggregate aggregates."""
    if right.op == "constant":
        if not right.value:
            raise ExpressionError("The expression divides by the constant zero.", "Give another divisor.")
        return multiply(left, constant(1 / right.value))
    node = Node("/", (left, right))
    if node.depth > DEEPEST:
        raise _too_deep()
    if not _has_aggregate(node) and len(node.aliases) > 1:
        raise ExpressionError(
            "The expression divides one provider's rows by another's, which is not computed.",
            "Divide aggregates (sum(a.x) / sum(b.y)), or within one provider's columns.",
        )
    return node
