"""Another hospital's SELECT, written anew: plain columns or * of one allowed table, with
WHERE comparing `filter_columns` to constants.

Its text is written here, piece by piece, from the few node types that are allowed, with
the policy's own spelling of names: what the parser misreads cannot run, because it is
not written.

Decision 17.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sqlglot import exp

from agents.rows.dialect_text import (
    folded_name,
    list_tests,
    moment_constant,
    pattern_constant,
    quoted_names,
    text_constant,
    truth_constant,
)
from agents.rows.parsed_sql import (
    CheckedQuery,
    Node,
    beyond,
    dotted,
    is_text,
    kind_of,
    only,
    refused_sql,
    words,
)
from protocol.policy import OpenRows, Policy, TableRules

# Names that databases answer to although no table has such a column.
_SYSTEM_COLUMNS = frozenset(
    words(
        "rowid _rowid ctid tableoid xmin xmax cmin cmax current_catalog current_date current_role current_schema"
        " current_time current_timestamp current_user localtime localtimestamp session_user system_user user"
        # of Oracle, which knows most of them in quotes too
        " level object_id object_value ora_rowscn ora_invoking_user rownum sysdate systimestamp uid"
    )
)


def check_foreign(
    statement: Node,
    policy: Policy,
    *,
    unique_id: str,
    label: str | None,
    dialect: str,
    unique_id_as: str | None,
) -> CheckedQuery:
    _check_clauses(statement)
    table_name = _table_name(statement.args["from_"].this)
    rules = policy.table(table_name)
    check_unique_id(rules, unique_id)
    # A filter on either would choose single patients, or rows by their label.
    closed = {unique_id.lower()}
    if label:
        closed.add(label.lower())
    writer = _Writer(rules, closed=frozenset(closed), dialect=dialect)
    columns = writer.select_list(statement.expressions)
    if unique_id_as is not None:
        unique_id_column = writer.quote(rules.unique_id)
        columns += f", {unique_id_column} AS {writer.quote(unique_id_as)}"
    quoted_table = writer.quote(*rules.name.split("."))
    sql = f"SELECT {columns} FROM {quoted_table}"  # noqa: S608
    where = statement.args.get("where")
    if where:
        sql += f" WHERE {writer.condition(where.this)}"
    return CheckedQuery(
        tables=(rules.name,),
        sql=sql,
        dialect=dialect,
        max_rows=policy.cohort.max_rows,
    )


def _check_clauses(statement: Node) -> None:
    if type(statement) is not exp.Select:
        raise refused_sql(
            "statement", "Another hospital's SQL must be one plain SELECT.", _PLAIN
        )
    extra = beyond(statement, "expressions", "from_", "where")
    if extra:
        raise refused_sql(
            "clause", f"Another hospital's SQL may not use: {', '.join(extra)}.", _PLAIN
        )
    if not statement.args.get("from_"):
        raise refused_sql("clause", "The data SQL has no FROM.", _PLAIN)


_PLAIN = "Send SELECT columns FROM one table, with WHERE on its filter columns only."


def _table_name(table: Node) -> str:
    """The table's name as written, schema included; only a plain table name has one."""
    if type(table) is not exp.Table or type(table.this) is not exp.Identifier:
        raise refused_sql("tables", "FROM names no plain table.", _PLAIN)
    if not only(table, "this", "db"):
        raise refused_sql(
            "clause",
            "FROM holds more than one plain table name: alias, sample, join or catalog.",
            _PLAIN,
        )
    return dotted(table)


def check_unique_id(rules: OpenRows, unique_id: str) -> None:
    """Another unique_id would hide that two cohorts differ by one patient."""
    if unique_id.lower() != rules.unique_id.lower():
        raise refused_sql(
            "unique_id",
            f"The policy's unique id of {rules.name} is {rules.unique_id}, not {unique_id}.",
            f"Order with unique_id {rules.unique_id}.",
        )


class _Writer:
    """Writes another hospital's SELECT anew; a node it does not know is a refusal."""

    def __init__(
        self, rules: TableRules, *, closed: frozenset[str], dialect: str
    ) -> None:
        self.rules = rules
        self.closed = closed
        self.dialect = dialect

    def quote(self, *names: str) -> str:
        """A name of one or more parts, each quoted."""
        return quoted_names(self.dialect, names)

    def select_list(self, nodes: list[Node]) -> str:
        is_star = len(nodes) == 1 and type(nodes[0]) is exp.Star and only(nodes[0])
        if is_star and self.rules.all_columns:
            # Oracle takes no other column beside a * without its table.
            quoted_table = self.quote(*self.rules.name.split("."))
            return f"{quoted_table}.*" if self.dialect == "oracle" else "*"
        if is_star:
            # Not *: the table may have more columns than the policy opens.
            columns = list(self.rules.columns)
        else:
            columns = [self._selected(node) for node in nodes]
            if len({column.lower() for column in columns}) < len(columns):
                raise refused_sql(
                    "select_list",
                    "A column is selected twice.",
                    "Name each column once.",
                )
        return ", ".join(self.quote(column) for column in columns)

    def _selected(self, node: Node) -> str:
        written = self._column(node, rule="select_list")
        if not self.rules.all_columns:
            return self._listed(written, self.rules.columns, rule="columns")
        # PostgreSQL takes a table's own name for the whole row.
        table_name = self.rules.name.split(".")[-1]
        is_table = written.lower() == table_name.lower()
        if is_table or written.lower() in _SYSTEM_COLUMNS:
            raise refused_sql(
                "columns",
                f"{written} is not a column of {self.rules.name}.",
                "Leave it out.",
            )
        return written

    def _column(self, node: Node, *, rule: str) -> str:
        """The name of a plain column, as the database would fold it."""
        if not self._is_plain_column(node):
            raise refused_sql(
                rule,
                f"{kind_of(node)} stands where a plain column of {self.rules.name} must.",
                _PLAIN,
            )
        column_name = str(node.this.name)
        is_quoted = bool(node.this.args.get("quoted"))
        return column_name if is_quoted else folded_name(self.dialect, column_name)

    def _is_plain_column(self, node: Node) -> bool:
        if type(node) is not exp.Column or not only(node, "this", "table", "db"):
            return False
        if type(node.this) is not exp.Identifier or not node.this.name:
            return False
        return self._is_own_table(node)

    def _is_own_table(self, column: Node) -> bool:
        """Whether what stands before the column's name, if anything, is the table."""
        qualifier = []
        for identifier in (column.args.get("db"), column.args.get("table")):
            if identifier:
                qualifier.append(identifier.name.lower())
        if not qualifier:
            return True
        table_parts = self.rules.name.lower().split(".")
        return table_parts[-len(qualifier) :] == qualifier

    def _listed(self, written: str, allowed: tuple[str, ...], *, rule: str) -> str:
        """The policy's spelling of a column."""
        if written in allowed:
            return written
        for column in allowed:
            if column.lower() == written.lower():
                return column
        listed = ", ".join(allowed) or "none"
        raise refused_sql(
            rule,
            f"The column {written} of {self.rules.name} is not open here; open: {listed}.",
            f"Leave it out, or ask the hospital to add it to {rule} in its policy.toml.",
        )

    def _filter_column(self, node: Node) -> str:
        written = self._column(node, rule="where")
        if written.lower() in self.closed:
            raise refused_sql(
                "filter_columns",
                f"WHERE may not use {written}: it is the order's unique id or label.",
                "Filter on another column of the policy's filter_columns.",
            )
        column = self._listed(written, self.rules.filter_columns, rule="filter_columns")
        return self.quote(column)

    def condition(self, node: Node) -> str:
        """A condition of comparisons, AND, OR, NOT and parentheses, written anew."""
        write = self._CONDITIONS.get(type(node))
        if write is None:
            raise refused_sql("where", f"WHERE may not use {kind_of(node)}.", _WHERE)
        return write(self, node)

    def _check_only(self, node: Node, *allowed: str) -> None:
        if not only(node, *allowed):
            raise refused_sql(
                "where",
                f"WHERE uses {kind_of(node)} in a way that is not allowed.",
                _WHERE,
            )

    def _junction(self, node: Node) -> str:
        self._check_only(node, "this", "expression")
        word = "AND" if type(node) is exp.And else "OR"
        left_condition = self.condition(node.this)
        right_condition = self.condition(node.expression)
        return f"({left_condition} {word} {right_condition})"

    def _not(self, node: Node) -> str:
        self._check_only(node, "this")
        return f"(NOT {self.condition(node.this)})"

    def _paren(self, node: Node) -> str:
        self._check_only(node, "this")
        return self.condition(node.this)

    def _comparison(self, node: Node) -> str:
        self._check_only(node, "this", "expression")
        column = self._filter_column(node.this)
        sign = _SIGNS[type(node)]
        constant = self.constant(node.expression)
        return f"({column} {sign} {constant})"

    def _like(self, node: Node) -> str:
        self._check_only(node, "this", "expression", "negate")
        pattern = pattern_constant(self.dialect, self._text(node.expression))
        return self._maybe_not(node, f"LIKE {pattern}")

    def _between(self, node: Node) -> str:
        self._check_only(node, "this", "low", "high", "negate")
        low = self.constant(node.args["low"])
        high = self.constant(node.args["high"])
        return self._maybe_not(node, f"BETWEEN {low} AND {high}")

    def _in(self, node: Node) -> str:
        self._check_only(node, "this", "expressions", "negate")
        constants = [self.constant(expression) for expression in node.expressions]
        if not constants:
            raise refused_sql("where", "IN has no list of constants.", _WHERE)
        column = self._filter_column(node.this)
        test = list_tests(self.dialect, column, constants)
        return f"(NOT ({test}))" if node.args.get("negate") else f"({test})"

    def _is_null(self, node: Node) -> str:
        self._check_only(node, "this", "expression", "negate")
        if type(node.expression) is not exp.Null:
            raise refused_sql("where", "IS is allowed with NULL only.", _WHERE)
        return self._maybe_not(node, "IS NULL")

    def _maybe_not(self, node: Node, test: str) -> str:
        column = self._filter_column(node.this)
        if node.args.get("negate"):
            return f"(NOT ({column} {test}))"
        return f"({column} {test})"

    def constant(self, node: Node) -> str:
        """A number, text, boolean, date or timestamp, written anew."""
        if type(node) is exp.Boolean and only(node, "this"):
            return truth_constant(self.dialect, bool(node.this))
        if type(node) is exp.Neg and only(node, "this"):
            return "-" + self._number(node.this)
        if type(node) in (exp.Cast, exp.DateStrToDate, exp.StrToTime):
            return self._moment(node)
        if self._is_text(node):
            return text_constant(self.dialect, self._text(node))
        return self._number(node)

    def _number(self, node: Node) -> str:
        is_number = type(node) is exp.Literal and not node.is_string
        if not is_number or not _NUMBER.fullmatch(node.name):
            raise refused_sql(
                "where", f"{kind_of(node)} stands where a constant must.", _WHERE
            )
        return str(node.name)

    def _is_text(self, node: Node) -> bool:
        """Whether a node is a text in quotes; of SQL Server and Oracle N'...' too."""
        is_national = self.dialect in _NATIONAL and type(node) is exp.National
        return is_text(node) or is_national

    def _text(self, node: Node) -> str:
        """The text itself."""
        if not self._is_text(node):
            raise refused_sql(
                "where", f"{kind_of(node)} stands where a text must.", _WHERE
            )
        # Some databases take it for an escape, others for itself.
        if "\\" in node.name:
            raise refused_sql(
                "characters",
                "A text of the data SQL holds a backslash.",
                "Write it without.",
            )
        if self.dialect == "oracle" and not node.name:
            raise refused_sql(
                "where",
                "An empty text is no value in Oracle, and equals nothing there.",
                "Write IS NULL, or IS NOT NULL.",
            )
        return str(node.name)

    def _moment(self, node: Node) -> str:
        is_day = _IS_DAY.get(self._type_of(node))
        moment_text = node.this.name if is_text(node.this) else ""
        beside = ("to", "action") if type(node) is exp.Cast else ("format",)
        is_plain = is_day is not None and only(node, "this", *beside)
        if not is_plain or not _MOMENT.fullmatch(moment_text):
            raise refused_sql("where", "A CAST stands where a constant must.", _WHERE)
        return moment_constant(self.dialect, moment_text, is_day=bool(is_day))

    def _type_of(self, node: Node) -> object:
        """Of a CAST its type; Oracle's DATE and TIMESTAMP before a text are nodes of
        their own.
        """
        if type(node) is exp.Cast:
            cast_type: object = node.args["to"].args.get("this")
            is_moment = cast_type in _MOMENTS.get(self.dialect, ())
            return exp.DType.TIMESTAMP if is_moment else cast_type
        if self.dialect != "oracle":
            return None
        if type(node) is exp.DateStrToDate:
            return exp.DType.DATE
        is_literal = node.args["format"].name == _ORACLE_TIMESTAMP
        return exp.DType.TIMESTAMP if is_literal else None

    _CONDITIONS: dict[type[Any], Callable[[_Writer, Any], str]] = {  # noqa: RUF012
        exp.And: _junction,
        exp.Or: _junction,
        exp.Not: _not,
        exp.Paren: _paren,
        exp.EQ: _comparison,
        exp.NEQ: _comparison,
        exp.LT: _comparison,
        exp.LTE: _comparison,
        exp.GT: _comparison,
        exp.GTE: _comparison,
        exp.Like: _like,
        exp.Between: _between,
        exp.In: _in,
        exp.Is: _is_null,
    }


_WHERE = "Compare filter columns to constants (=, <>, <, <=, >, >=, BETWEEN, IN, LIKE, IS NULL), column first."
_SIGNS: dict[type[Any], str] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
}
_IS_DAY: dict[object, bool] = {exp.DType.DATE: True, exp.DType.TIMESTAMP: False}
# What sqlglot reads TIMESTAMP before a text as, where that is another type than in a
# CAST. SQL Server's own word for it is datetime2.
_MOMENTS: dict[str, tuple[object, ...]] = {
    "duckdb": (exp.DType.TIMESTAMPNTZ,),
    "mysql": (exp.DType.TIMESTAMPTZ, exp.DType.DATETIME),
    "tsql": (exp.DType.ROWVERSION, exp.DType.DATETIME, exp.DType.DATETIME2),
}
_ORACLE_TIMESTAMP = "%Y-%m-%d %H:%M:%S.%f"
"""What sqlglot makes of Oracle's TIMESTAMP before a text."""
_NATIONAL = ("tsql", "oracle")
_NUMBER = re.compile(r"(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d{1,6})?)?)?", re.ASCII)
