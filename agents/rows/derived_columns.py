"""Derived columns of a dataset, as SQL of DuckDB.

The checked tree of an expression becomes SQL node by node: each distinct node is a
column of a nested SELECT, over those of the nodes below it. No text from outside is in
it but constants: numbers written by Python, and texts as quoted literals. All numbers
are doubles, a comparison is 1 or 0.

A value that does not exist (`analytics.statistics.derived` says when) is NULL, and so
is what is made of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from agents.rows.canonical_text import canonical_sql, canonical_text, has_value_sql
from agents.rows.column_text import double_sql
from agents.rows.dataset import Dataset
from agents.rows.relation import literal, quoted
from analytics.statistics.derived import Derived
from analytics.statistics.expression import Node
from protocol.errors import bad_request

_LARGEST_EXACT = 2**53


class DerivedSql:
    """Derived columns over the rows of a relation of a dataset.

    in_order: the names, each behind those that it uses. Of a spline the value is that
    of what the spline is over. Raises BadRequest (not_numeric) for a column that is used
    as a number and is none.
    """

    def __init__(
        self, rows: Dataset, derived: Mapping[str, Derived], in_order: Sequence[str]
    ) -> None:
        _check_numbers(rows, derived)
        self._rows = rows
        self._prefix = _free_prefix(list(rows.columns))
        # By node, its column and the layer that makes it.
        self._made: dict[Node, tuple[str, int]] = {}
        self._layers: list[list[str]] = []
        self._layer_of: dict[str, int] = {}
        # By derived column its column in `source`.
        self.columns: dict[str, str] = {}
        for derived_name in in_order:
            column, layer = self._add(derived[derived_name].root)
            self.columns[derived_name] = column
            self._layer_of[derived_name] = layer

    def source(self, relation: str) -> str:
        """What to select from: the relation with these columns behind its own."""
        sql = relation
        for layer in self._layers:
            sql = f"(SELECT *, {', '.join(layer)} FROM {sql})"  # noqa: S608
        return sql

    def has_value(self, name: str) -> str:
        """Whether a column has a value, a derived one or one of the dataset; SQL."""
        if name in self.columns:
            return f"{self.columns[name]} IS NOT NULL"
        return has_value_sql(quoted(name), self._rows.check_column(name))

    def _add(self, node: Node) -> tuple[str, int]:
        if node.op == "column" and node.value[1] in self.columns:
            derived_name = node.value[1]
            return self.columns[derived_name], self._layer_of[derived_name]
        if node in self._made:
            return self._made[node]
        columns_below = [self._add(arg) for arg in node.args]
        layer = 0
        for _, layer_below in columns_below:
            layer = max(layer, 1 + layer_below)
        if node.op == "missing" and not node.args:
            layer = 1 + self._layer_of.get(node.value[1], -1)
        sql = self._sql(node, [column for column, _ in columns_below])
        column = f"{self._prefix}{len(self._made)}"
        while len(self._layers) <= layer:
            self._layers.append([])
        self._layers[layer].append(f"{sql} AS {column}")
        self._made[node] = (column, layer)
        return column, layer

    def _sql(self, node: Node, args: list[str]) -> str:
        if node.op == "column":
            name = node.value[1]
            return f"CASE WHEN {self.has_value(name)} THEN {double_sql(self._rows, name)} END"
        if node.op == "same":
            _, name, text = node.value
            cell_text = canonical_sql(quoted(name), self._rows.check_column(name))
            return _as_number(f"{cell_text} = {literal(canonical_text(text) or '')}")
        if node.op == "missing" and not args:
            return _as_number(f"NOT ({self.has_value(node.value[1])})")
        return _node_sql(node, args)


def _check_numbers(rows: Dataset, derived: Mapping[str, Derived]) -> None:
    texts: list[str] = []
    for expression in derived.values():
        for column in expression.numbers:
            if column not in derived and not rows.is_number(column):
                texts.append(column)
    if texts:
        raise bad_request(
            "not_numeric",
            f"An expression uses {', '.join(sorted(set(texts)))} as a number, which is something else in the data.",
            "Use columns of numbers, or compare the column with texts: sex = 'F'.",
        )


def _free_prefix(names: Sequence[str]) -> str:
    """What no column's name begins with."""
    prefix = "n"
    while any(name.lower().startswith(prefix) for name in names):
        prefix += "_"
    return prefix


def _node_sql(node: Node, args: list[str]) -> str:
    """A node over the columns of its arguments. NULL anywhere gives NULL."""
    op = node.op
    if op == "constant":
        return _number(node.value)
    if op == "truth":
        return _number(Fraction(int(node.value)))
    if op == "*":
        return _finite(_product(node, args))
    if op == "+":
        return _finite(" + ".join(args))
    if op == "/":
        return f"CASE WHEN {args[1]} <> 0 THEN {_finite(f'{args[0]} / {args[1]}')} END"
    if op in ("=", "<"):
        return _as_number(f"{args[0]} {op} {args[1]}")
    # Products and sums, and not SQL's AND and OR: to these, false and true decide
    # beside NULL, and here NULL anywhere gives NULL.
    if op == "and":
        return " * ".join(args)
    if op == "or":
        return _as_number(f"{' + '.join(args)} > 0")
    if op == "not":
        return f"1 - {args[0]}"
    if op == "indicator":
        return args[0]
    if op == "missing":
        return _as_number(f"{args[0]} IS NULL")
    if op == "case":
        return _case(args)
    return _function(op, args)


def _function(op: str, args: list[str]) -> str:
    called = f"{op}({', '.join(args)})"
    if op == "ln":
        return f"CASE WHEN {args[0]} > 0 THEN ln({args[0]}) END"
    if op == "sqrt":
        return f"CASE WHEN {args[0]} >= 0 THEN sqrt({args[0]}) END"
    if op in ("least", "greatest"):
        # DuckDB's own leave out what is NULL.
        has_all = " AND ".join(f"{arg} IS NOT NULL" for arg in args)
        return f"CASE WHEN {has_all} THEN {called} END"
    return _finite(called)


def _case(args: list[str]) -> str:
    """Row by row the first branch whose condition is true; a condition without a value
    gives none.
    """
    n_branches = len(args) // 2
    branches: list[str] = []
    for branch_place in range(n_branches):
        condition = args[2 * branch_place]
        branch_result = args[2 * branch_place + 1]
        branches.append(f"WHEN {condition} IS NULL THEN NULL")
        branches.append(f"WHEN {condition} = 1 THEN {branch_result}")
    if len(args) % 2:
        branches.append(f"ELSE {args[-1]}")
    return f"CASE {' '.join(branches)} END"


def _product(node: Node, args: list[str]) -> str:
    """x / 3 is a division, and not a product with the double next to a third."""
    first_factor = node.args[0]
    if first_factor.op != "constant":
        return " * ".join(args)
    factor = first_factor.value
    other_factors = " * ".join(args[1:])
    is_exact = max(abs(factor.numerator), factor.denominator) <= _LARGEST_EXACT
    if factor.denominator == 1 or not is_exact:
        return f"{_number(factor)} * {other_factors}"
    numerator = _number(Fraction(factor.numerator))
    denominator = _number(Fraction(factor.denominator))
    return f"{numerator} * {other_factors} / {denominator}"


def _number(value: Fraction) -> str:
    # Written without a CAST, DuckDB takes 0.1 for a decimal.
    return f"CAST('{float(value)!r}' AS DOUBLE)"


def _as_number(condition: str) -> str:
    return f"CAST(({condition}) AS DOUBLE)"


def _finite(sql: str) -> str:
    return f"CASE WHEN isfinite({sql}) THEN {sql} END"
