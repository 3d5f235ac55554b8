"""Which SQL may run at a hospital. The text is parsed; what runs is rendered anew from what was checked.

Another hospital's user gets one SELECT of plain columns or * of one allowed table, with WHERE comparing
`filter_columns` to constants. Its text is written here, piece by piece, from the few node types that are allowed,
with the policy's own spelling of names: what the parser misreads cannot run, because it is not written.

A hospital's own user gets any single SELECT over allowed tables. There every node of the syntax tree must be of a
type that is listed below, and every function on the list: a function that reads files, the network or settings is
unknown here and so refused.

Decisions 17 and 19.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from protocol.errors import BadRequest, ConsiliumError, Refused
from protocol.policy import Policy, TableRules

# sqlglot quotes the SQL it cannot read in its log messages; SQL texts may hold patient data.
logging.getLogger("sqlglot").setLevel(logging.CRITICAL + 1)

Node = exp.Expr
DIALECTS = ("duckdb", "postgres", "mysql")
MAX_CHARACTERS = 20_000
MAX_TOKENS = 5_000
MAX_NESTING = 40
MAX_TYPES = 4
"""Of a type's brackets within one another: the parser looks at each twice, as a type and as a function."""


def _words(text: str) -> list[str]:
    return text.split()


# Names that databases answer to although no table has such a column.
_SYSTEM_COLUMNS = frozenset(
    _words(
        "rowid _rowid ctid tableoid xmin xmax cmin cmax current_catalog current_date current_role current_schema"
        " current_time current_timestamp current_user localtime localtimestamp session_user system_user user"
    )
)


@dataclass(frozen=True)
class CheckedQuery:
    """A SELECT that may run: the policy's names of its tables, the text to execute, and the text's dialect.

    Only `check_sql` makes one. `max_rows` is the policy's row limit.
    """

    tables: tuple[str, ...]
    sql: str
    dialect: str
    max_rows: int


def check_sql(
    text: str,
    *,
    policy: Policy,
    requester: int,
    own_user_id: int,
    unique_id: str,
    label: str | None,
    dialect: str,
) -> CheckedQuery:
    """Check the SQL of an order and return the text that may be executed in its place.

    `requester` is the user that sent the order, `own_user_id` the hospital's own; `unique_id` and `label` are the
    order's columns, on which another hospital's user may not filter. `dialect` is one of duckdb, postgres, mysql.

    Raises Refused, whose code is the rule (statement, comment, clause, select_list, where, tables, columns,
    filter_columns, unique_id, function, syntax, characters), BadRequest (code sql) when the text is no SQL of this
    dialect, and nothing else.

    Disclosure: messages hold names of clauses, tables, columns and functions, never a constant of the text.
    """
    try:
        _check_characters(text)
        statement = _parse(text, dialect)
        if requester == own_user_id:
            return _check_own(statement, policy, dialect=dialect)
        _check_no_comment(text, dialect)
        return _check_foreign(statement, policy, unique_id=unique_id, label=label, dialect=dialect)
    except ConsiliumError:
        raise
    except Exception as error:  # noqa: BLE001 - a third-party parser on hostile text; nothing of it may pass
        raise _unreadable(dialect, type(error).__name__) from None


def check_plain(text: str, *, dialect: str) -> None:
    """Refuse SQL whose columns are not the table's own: with * and plain names only, without alias, join or subquery.

    For inference orders that come through the coordinator: whoever controls it could send `y AS x1`, or text glued
    to the unique id, and read cells out of the predictions. Raises Refused (code expressions) or BadRequest (sql).
    """
    statement = _parse(text, dialect)
    selects = list(statement.find_all(exp.Select, exp.SetOperation))
    columns = statement.expressions if isinstance(statement, exp.Select) else []
    stars = all(_only(star) for star in statement.find_all(exp.Star))  # no EXCLUDE, REPLACE or RENAME
    renamed = any(alias.args.get("columns") for alias in statement.find_all(exp.TableAlias))
    is_plain = stars and not renamed and all(type(column) in (exp.Star, exp.Column) for column in columns)
    if len(selects) != 1 or statement.args.get("joins") or not columns or not is_plain:
        raise _refused(
            "expressions",
            "SQL of an inference order through the coordinator selects something else than plain columns of a table.",
            "Select * or column names, prepare a view, use ./run agent infer, or set expressions = true under"
            " [inference] in this hospital's policy.toml.",
        )


def _refused(rule: str, sentence: str, remedy: str) -> Refused:
    return Refused(sentence, remedy=remedy, code=rule)


def _unreadable(dialect: str, why: str) -> BadRequest:
    return BadRequest(
        f"The data SQL cannot be read as {dialect} SQL ({why}).",
        remedy="Write one SELECT, such as SELECT * FROM data.breast_homo_host;",
        code="sql",
    )


# --- reading -------------------------------------------------------------------------------------------------------


def _check_characters(text: str) -> None:
    if not isinstance(text, str) or not text.strip():
        raise BadRequest("The data SQL is empty.", remedy="Write one SELECT.", code="sql")
    if len(text) > MAX_CHARACTERS:
        raise BadRequest(
            f"The data SQL is longer than {MAX_CHARACTERS} characters.", remedy="Shorten it.", code="sql"
        )
    if any((ord(c) < 32 and c not in "\t\n\r") or 0xD800 <= ord(c) < 0xE000 or ord(c) == 127 for c in text):
        raise _refused("characters", "The data SQL holds a control character.", "Remove it.")


def _tokens(text: str, dialect: str) -> list[Any]:
    if dialect not in DIALECTS:
        raise BadRequest(
            f"No SQL dialect {dialect}.", remedy=f"Use one of {', '.join(DIALECTS)}.", code="sql"
        )
    try:
        return list(sqlglot.tokenize(text, read=dialect))
    except SqlglotError as error:
        raise _unreadable(dialect, type(error).__name__) from None


def _parse(text: str, dialect: str) -> Node:
    """The one statement in `text`; limits keep the parser's time and recursion bounded."""
    tokens = _tokens(text, dialect)
    if len(tokens) > MAX_TOKENS or _nesting(tokens) > MAX_NESTING or _types(tokens, dialect) > MAX_TYPES:
        raise BadRequest("The data SQL is too long or nested too deeply.", remedy="Simplify it.", code="sql")
    try:
        statements = [s for s in sqlglot.parse(text, read=dialect) if not isinstance(s, exp.Semicolon) and s]
    except SqlglotError as error:
        raise _unreadable(dialect, _position(error)) from None
    if len(statements) != 1:
        raise _refused("statement", f"The data SQL holds {len(statements)} statements.", "Send one SELECT.")
    return statements[0]


def _nesting(tokens: list[Any]) -> int:
    depth = deepest = 0
    for token in tokens:
        depth += (token.text in ("(", "[", "{")) - (token.text in (")", "]", "}"))
        deepest = max(deepest, depth)
    return deepest


def _types(tokens: list[Any], dialect: str) -> int:
    """How many brackets that follow a type stand within one another."""
    types = sqlglot.Dialect.get_or_raise(dialect).parser_class.TYPE_TOKENS
    opened: list[bool] = []
    deepest = 0
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.text == "(":
            opened.append(before is not None and before.token_type in types)
            deepest = max(deepest, sum(opened))
        elif token.text == ")" and opened:
            opened.pop()
    return deepest


def _position(error: SqlglotError) -> str:
    """Line and column of a parse error, without the text around it."""
    details = (getattr(error, "errors", None) or [{}])[0]
    return f"line {details.get('line', '?')}, column {details.get('col', '?')}"


def _check_no_comment(text: str, dialect: str) -> None:
    """Between two tokens there is white space only: comments and hints, which the tokenizer drops, are not."""
    end = 0
    for token in _tokens(text, dialect):
        _check_gap(text[end : token.start])
        end = token.end + 1
    _check_gap(text[end:])


def _check_gap(gap: str) -> None:
    if gap.strip():
        raise _refused("comment", "The data SQL holds a comment or a sign without meaning.", "Remove it.")


def _beyond(node: Node, *allowed: str) -> list[str]:
    """The arguments that are set in a node beside the allowed ones."""
    unset: tuple[object, ...] = (None, False, [])
    return sorted(
        key.rstrip("_") for key, value in node.args.items() if key not in allowed and value not in unset
    )


def _only(node: Node, *allowed: str) -> bool:
    return not _beyond(node, *allowed)


# --- another hospital's user ---------------------------------------------------------------------------------------


def _check_foreign(
    statement: Node, policy: Policy, *, unique_id: str, label: str | None, dialect: str
) -> CheckedQuery:
    _check_clauses(statement)
    rules = policy.table(_table_name(statement.args["from_"].this))
    _check_unique_id(rules, unique_id)
    writer = _Writer(
        rules, closed=frozenset({unique_id.lower(), (label or unique_id).lower()}), dialect=dialect
    )
    sql = f"SELECT {writer.select_list(statement.expressions)} FROM {writer.quote(*rules.name.split('.'))}"  # noqa: S608
    if where := statement.args.get("where"):
        sql += f" WHERE {writer.condition(where.this)}"
    return CheckedQuery(tables=(rules.name,), sql=sql, dialect=dialect, max_rows=policy.cohort.max_rows)


def _check_clauses(statement: Node) -> None:
    if type(statement) is not exp.Select:
        raise _refused("statement", "Another hospital's SQL must be one plain SELECT.", _PLAIN)
    if extra := _beyond(statement, "expressions", "from_", "where"):
        raise _refused("clause", f"Another hospital's SQL may not use: {', '.join(extra)}.", _PLAIN)
    if not statement.args.get("from_"):
        raise _refused("clause", "The data SQL has no FROM.", _PLAIN)


_PLAIN = "Send SELECT columns FROM one table, with WHERE on its filter columns only."


def _table_name(table: Node) -> str:
    """The table's name as written, schema included; only a plain table name has one."""
    if type(table) is not exp.Table or type(table.this) is not exp.Identifier:
        raise _refused("tables", "FROM names no plain table.", _PLAIN)
    if not _only(table, "this", "db"):
        raise _refused(
            "clause", "FROM holds more than one plain table name: alias, sample, join or catalog.", _PLAIN
        )
    return _dotted(table)


def _dotted(table: Node) -> str:
    parts = [str(part.name) for part in (table.args.get("db"), table.this) if part]
    if any("." in part for part in parts):
        raise _refused("tables", "A quoted table name in FROM holds a dot.", "Quote schema and table apart.")
    return ".".join(parts)


def _check_unique_id(rules: TableRules, unique_id: str) -> None:
    """Another unique_id would hide that two cohorts differ by one patient."""
    if unique_id.lower() != rules.unique_id.lower():
        raise _refused(
            "unique_id",
            f"The policy's unique id of {rules.name} is {rules.unique_id}, not {unique_id}.",
            f"Order with unique_id {rules.unique_id}.",
        )


class _Writer:
    """Writes another hospital's SELECT anew from checked nodes; a node it does not know is a refusal."""

    def __init__(self, rules: TableRules, *, closed: frozenset[str], dialect: str) -> None:
        self.rules = rules
        self.closed = closed
        self.dialect = dialect

    def quote(self, *names: str) -> str:
        mark = "`" if self.dialect == "mysql" else '"'
        return ".".join(mark + name.replace(mark, mark * 2) + mark for name in names)

    def select_list(self, nodes: list[Node]) -> str:
        if len(nodes) == 1 and type(nodes[0]) is exp.Star and _only(nodes[0]):
            return "*" if self.rules.all_columns else ", ".join(map(self.quote, self.rules.columns))
        columns = [self._selected(node) for node in nodes]
        if len({column.lower() for column in columns}) < len(columns):
            raise _refused("select_list", "A column is selected twice.", "Name each column once.")
        return ", ".join(map(self.quote, columns))

    def _selected(self, node: Node) -> str:
        written = self._column(node, rule="select_list")
        if not self.rules.all_columns:
            return self._listed(written, self.rules.columns, rule="columns")
        if written.lower() in _SYSTEM_COLUMNS or written.lower() == self.rules.name.split(".")[-1].lower():
            raise _refused("columns", f"{written} is not a column of {self.rules.name}.", "Leave it out.")
        return written

    def _column(self, node: Node, *, rule: str) -> str:
        """The name of a plain column, as the database would fold it."""
        name = node.this if type(node) is exp.Column and _only(node, "this", "table", "db") else None
        if type(name) is not exp.Identifier or not name.name or not self._is_own_table(node):
            raise _refused(
                rule, f"{_kind(node)} stands where a plain column of {self.rules.name} must.", _PLAIN
            )
        folds = self.dialect == "postgres" and not name.args.get("quoted")
        return str(name.name.lower() if folds else name.name)

    def _is_own_table(self, column: Node) -> bool:
        qualifier = [part.name.lower() for part in (column.args.get("db"), column.args.get("table")) if part]
        return not qualifier or self.rules.name.lower().split(".")[-len(qualifier) :] == qualifier

    def _listed(self, written: str, allowed: tuple[str, ...], *, rule: str) -> str:
        """The policy's spelling of a column."""
        found = [name for name in allowed if name == written] or [
            n for n in allowed if n.lower() == written.lower()
        ]
        if not found:
            raise _refused(
                rule,
                f"The column {written} of {self.rules.name} is not open here; open: {', '.join(allowed) or 'none'}.",
                f"Leave it out, or ask the hospital to add it to {rule} in its policy.toml.",
            )
        return found[0]

    def _filter_column(self, node: Node) -> str:
        written = self._column(node, rule="where")
        if written.lower() in self.closed:
            raise _refused(
                "filter_columns",
                f"WHERE may not use {written}: it is the order's unique id or label.",
                "Filter on another column of the policy's filter_columns.",
            )
        return self.quote(self._listed(written, self.rules.filter_columns, rule="filter_columns"))

    def condition(self, node: Node) -> str:
        """A condition of comparisons, AND, OR, NOT and parentheses, written anew."""
        write = self._CONDITIONS.get(type(node))
        if write is None:
            raise _refused("where", f"WHERE may not use {_kind(node)}.", _WHERE)
        return write(self, node)

    def _check_only(self, node: Node, *allowed: str) -> None:
        if not _only(node, *allowed):
            raise _refused("where", f"WHERE uses {_kind(node)} in a way that is not allowed.", _WHERE)

    def _junction(self, node: Node) -> str:
        self._check_only(node, "this", "expression")
        word = "AND" if type(node) is exp.And else "OR"
        return f"({self.condition(node.this)} {word} {self.condition(node.expression)})"

    def _not(self, node: Node) -> str:
        self._check_only(node, "this")
        return f"(NOT {self.condition(node.this)})"

    def _paren(self, node: Node) -> str:
        self._check_only(node, "this")
        return self.condition(node.this)

    def _comparison(self, node: Node) -> str:
        self._check_only(node, "this", "expression")
        return f"({self._filter_column(node.this)} {_SIGNS[type(node)]} {self.constant(node.expression)})"

    def _like(self, node: Node) -> str:
        self._check_only(node, "this", "expression", "negate")
        return self._maybe_not(node, f"LIKE {self._text(node.expression)}")

    def _between(self, node: Node) -> str:
        self._check_only(node, "this", "low", "high", "negate")
        low, high = self.constant(node.args["low"]), self.constant(node.args["high"])
        return self._maybe_not(node, f"BETWEEN {low} AND {high}")

    def _in(self, node: Node) -> str:
        self._check_only(node, "this", "expressions", "negate")
        values = [self.constant(value) for value in node.expressions]
        if not values:
            raise _refused("where", "IN has no list of constants.", _WHERE)
        return self._maybe_not(node, f"IN ({', '.join(values)})")

    def _is_null(self, node: Node) -> str:
        self._check_only(node, "this", "expression", "negate")
        if type(node.expression) is not exp.Null:
            raise _refused("where", "IS is allowed with NULL only.", _WHERE)
        return self._maybe_not(node, "IS NULL")

    def _maybe_not(self, node: Node, test: str) -> str:
        written = f"({self._filter_column(node.this)} {test})"
        return f"(NOT {written})" if node.args.get("negate") else written

    def constant(self, node: Node) -> str:
        """A number, text, boolean, date or timestamp, written anew."""
        if type(node) is exp.Boolean and _only(node, "this"):
            return "TRUE" if node.this else "FALSE"
        if type(node) is exp.Neg and _only(node, "this"):
            return "-" + self._number(node.this)
        if type(node) is exp.Cast:
            return self._moment(node)
        return self._text(node) if type(node) is exp.Literal and node.is_string else self._number(node)

    def _number(self, node: Node) -> str:
        if type(node) is not exp.Literal or node.is_string or not _NUMBER.fullmatch(node.name):
            raise _refused("where", f"{_kind(node)} stands where a constant must.", _WHERE)
        return str(node.name)

    def _text(self, node: Node) -> str:
        if type(node) is not exp.Literal or not node.is_string:
            raise _refused("where", f"{_kind(node)} stands where a text must.", _WHERE)
        if "\\" in node.name:
            raise _refused("characters", "A text of the data SQL holds a backslash.", "Write it without.")
        return "'" + str(node.name).replace("'", "''") + "'"

    def _moment(self, node: Node) -> str:
        words: dict[object, str] = {exp.DType.DATE: "DATE", exp.DType.TIMESTAMP: "TIMESTAMP"}
        word = words.get(node.args["to"].args.get("this"))
        text = node.this.name if type(node.this) is exp.Literal and node.this.is_string else ""
        if not word or not _only(node, "this", "to", "action") or not _MOMENT.fullmatch(text):
            raise _refused("where", "A CAST stands where a constant must.", _WHERE)
        return f"{word} '{text}'"

    _CONDITIONS: dict[type[Any], Callable[[_Writer, Any], str]] = {  # noqa: RUF012 - a constant table
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


_WHERE = (
    "Compare filter columns to constants (=, <>, <, <=, >, >=, BETWEEN, IN, LIKE, IS NULL), column first."
)
_SIGNS: dict[type[Any], str] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
}
_NUMBER = re.compile(r"(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d{1,6})?)?)?", re.ASCII)


def _kind(node: object) -> str:
    """What a node is, in the words of SQL; never its content."""
    if type(node) is exp.Alias and type(node.this) is not exp.Column:
        return _kind(node.this)
    return "an unnamed function" if isinstance(node, exp.Anonymous) else type(node).__name__.upper()


# --- the hospital's own user ---------------------------------------------------------------------------------------

_STRUCTURE = (
    "Select Union Intersect Except From Join Where Group Having Qualify Order Ordered Limit Offset With CTE TableAlias"
    " Table Subquery Column Identifier Star Alias Literal Null Boolean Paren Tuple And Or Not EQ NEQ LT LTE GT GTE"
    " NullSafeEQ NullSafeNEQ Between In Is Like ILike Exists Add Sub Mul Div IntDiv Mod Neg DPipe Case If Cast TryCast"
    " DataType DataTypeParam Interval Var Distinct Window WindowSpec Filter WithinGroup Semicolon"
)
_FUNCTIONS = (
    "Count CountIf Sum Avg Min Max Stddev StddevPop StddevSamp Variance VariancePop Median Mode Quantile PercentileCont"
    " PercentileDisc Corr CovarPop CovarSamp LogicalAnd LogicalOr AnyValue First Last ArgMax ArgMin ApproxDistinct Abs"
    " Round Floor Ceil Trunc Sqrt Cbrt Exp Ln Log Pow Sign Sin Cos Tan Asin Acos Atan Atan2 Pi Degrees Radians Greatest"
    " Least Coalesce Nullif Lower Upper Trim Length Substring Concat ConcatWs Replace Left Right StrPosition"
    " StartsWith EndsWith Contains RegexpLike Extract Year Month Day Hour Minute Second Quarter Week DayOfWeek"
    " DayOfYear DateDiff DateAdd DateSub DateTrunc TimestampTrunc TimestampDiff TimestampAdd TimestampSub CurrentDate"
    " Date TsOrDsToDate TsOrDsAdd TsOrDsDiff StrToDate StrToTime TimeToStr RowNumber Rank DenseRank PercentRank"
    " CumeDist Ntile Lag Lead FirstValue LastValue"
)
_OWN_NODES = frozenset(getattr(exp, name) for name in _words(_STRUCTURE + " " + _FUNCTIONS))
_UNNAMED_FUNCTIONS = frozenset({"date_part", "datediff", "isfinite", "isnan", "age", "signbit"})
_CAST_TYPES = frozenset(
    getattr(exp.DType, name)
    for name in _words(
        "BOOLEAN TINYINT SMALLINT INT BIGINT INT128 UTINYINT USMALLINT UINT UBIGINT FLOAT DOUBLE DECIMAL"
        " CHAR NCHAR VARCHAR NVARCHAR TEXT DATE TIME TIMESTAMP TIMESTAMPTZ DATETIME INTERVAL"
    )
)
_SELECT_ARGUMENTS = _words(
    "expressions from_ joins where group having qualify order limit offset with_ distinct windows"
)


def _check_own(statement: Node, policy: Policy, *, dialect: str) -> CheckedQuery:
    if not isinstance(statement, exp.Select | exp.SetOperation):
        raise _refused("statement", "The data SQL is no SELECT.", "Send one SELECT; nothing else runs here.")
    tables: dict[str, None] = {}
    for node in list(statement.walk()):
        _check_own_node(node)
        if type(node) is exp.Table and (rules := _own_table(node, policy, dialect=dialect)):
            tables[rules.name] = None
    if not tables:
        raise _refused(
            "tables", "The data SQL reads no table.", "Name a table of this hospital's policy in FROM."
        )
    sql = statement.sql(dialect=dialect, comments=False)
    return CheckedQuery(tables=tuple(tables), sql=sql, dialect=dialect, max_rows=policy.cohort.max_rows)


def _check_own_node(node: Node) -> None:
    if isinstance(node, exp.Anonymous) and node.name.lower() in _UNNAMED_FUNCTIONS:
        return
    if isinstance(node, exp.Func) and type(node) not in _OWN_NODES:
        name = node.name if isinstance(node, exp.Anonymous) else node.sql_name()
        raise _refused(
            "function",
            f"The function {name} is not on the list of functions that may run here.",
            "Use aggregates and functions on numbers, texts and dates, or prepare a view in the database.",
        )
    if type(node) not in _OWN_NODES:
        raise _refused(
            "syntax", f"{_kind(node)} may not be used in data SQL.", "Write it without, or prepare a view."
        )
    _check_own_arguments(node)


def _check_own_arguments(node: Node) -> None:
    if type(node) is exp.Select and not _only(node, *_SELECT_ARGUMENTS):
        raise _refused("clause", "The data SQL uses a clause of SELECT that may not run here.", "Remove it.")
    if type(node) is exp.With and not _only(node, "expressions"):
        raise _refused("clause", "A recursive WITH may not run here.", "Write it without RECURSIVE.")
    if type(node) is exp.DataType and (
        node.this not in _CAST_TYPES or not _only(node, "this", "expressions")
    ):
        raise _refused(
            "syntax", "A type in a CAST may not be used here.", "Cast to a number, text or date type."
        )
    if type(node) is exp.Literal and node.is_string and "\\" in node.name:
        raise _refused("characters", "A text of the data SQL holds a backslash.", "Write it without.")


def _own_table(table: exp.Table, policy: Policy, *, dialect: str) -> TableRules | None:
    """The policy's rules for a table, its name rewritten as the policy spells it; None for the name of a WITH."""
    if not _only(table, "this", "db", "alias", "joins") or type(table.this) is not exp.Identifier:
        raise _refused(
            "tables", "FROM holds something that is no plain table name.", "Name tables with their schema."
        )
    if not table.args.get("db") and _names_cte(table, dialect=dialect):
        return None
    rules = policy.table(_dotted(table))
    parts = [exp.to_identifier(part, quoted=True) for part in rules.name.split(".")]
    table.set("this", parts[-1])
    table.set("db", parts[0] if len(parts) > 1 else None)
    return rules


def _names_cte(table: exp.Table, *, dialect: str) -> bool:
    """Whether an unqualified name is that of a WITH in scope: of an enclosing query, and defined before its use."""
    name = _folded(table.this, dialect)
    child: Node = table
    node = table.parent
    while node is not None:
        if isinstance(node, exp.With):
            siblings = node.expressions
            before = siblings[: next(i for i, cte in enumerate(siblings) if cte is child)]
        elif isinstance(node, exp.Query) and not isinstance(child, exp.With):
            before = node.args["with_"].expressions if node.args.get("with_") else []
        else:
            before = []
        if any(_folded(cte.args["alias"].this, dialect) == name for cte in before):
            return True
        child, node = node, node.parent
    return False


def _folded(identifier: Node, dialect: str) -> str:
    folds = dialect == "duckdb" or (dialect == "postgres" and not identifier.args.get("quoted"))
    return str(identifier.name.lower() if folds else identifier.name)
