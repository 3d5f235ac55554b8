"""A SELECT of the hospital's own user: any single one over allowed tables.

Every node of the syntax tree must be of a type that is listed here, and every function
on the list: a function that reads files, the network or settings is unknown and so
refused.

Decision 17.
"""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from agents.rows.parsed_sql import (
    CheckedQuery,
    Node,
    dotted,
    is_text,
    kind_of,
    only,
    refused_sql,
    words,
    written,
)
from protocol.policy import Policy, TableRules

_STRUCTURE = (
    "Select Union Intersect Except From Join Where Group Having Qualify Order Ordered Limit Offset With CTE TableAlias"
    " Table Subquery Column Identifier Star Alias Literal Null Boolean Paren Tuple And Or Not EQ NEQ LT LTE GT GTE"
    " NullSafeEQ NullSafeNEQ Between In Is Like ILike Exists Add Sub Mul Div IntDiv Mod Neg DPipe Case If Cast TryCast"
    " DataType DataTypeParam Interval Var Distinct Window WindowSpec Filter WithinGroup Semicolon Fetch LimitOptions"
    " National"
)
_FUNCTIONS = (
    "Count CountIf Sum Avg Min Max Stddev StddevPop StddevSamp Variance VariancePop Median Mode Quantile PercentileCont"
    " PercentileDisc Corr CovarPop CovarSamp LogicalAnd LogicalOr AnyValue First Last ArgMax ArgMin ApproxDistinct Abs"
    " Round Floor Ceil Trunc Sqrt Cbrt Exp Ln Log Pow Sign Sin Cos Tan Asin Acos Atan Atan2 Pi Degrees Radians Greatest"
    " Least Coalesce Nullif Lower Upper Trim Length Substring Concat ConcatWs Replace Left Right StrPosition"
    " StartsWith EndsWith Contains RegexpLike Extract Year Month Day Hour Minute Second Quarter Week DayOfWeek"
    " DayOfYear DateDiff DateAdd DateSub DateTrunc TimestampTrunc TimestampDiff TimestampAdd TimestampSub CurrentDate"
    " Date TsOrDsToDate TsOrDsAdd TsOrDsDiff StrToDate StrToTime TimeToStr RowNumber Rank DenseRank PercentRank"
    " CumeDist Ntile Lag Lead FirstValue LastValue DateStrToDate TimeStrToTime Convert DecodeCase MonthsBetween"
)
_OWN_NODES = frozenset(
    getattr(exp, name) for name in words(_STRUCTURE + " " + _FUNCTIONS)
)
_UNNAMED_FUNCTIONS = frozenset(
    {"date_part", "datediff", "isfinite", "isnan", "age", "signbit"}
)
_CAST_TYPES = frozenset(
    getattr(exp.DType, name)
    for name in words(
        "BOOLEAN TINYINT SMALLINT INT BIGINT INT128 UTINYINT USMALLINT UINT UBIGINT FLOAT DOUBLE DECIMAL"
        " CHAR NCHAR VARCHAR NVARCHAR TEXT DATE TIME TIMESTAMP TIMESTAMPTZ DATETIME INTERVAL"
        " BIT DATETIME2 SMALLDATETIME"
    )
)
_SELECT_ARGUMENTS = words(
    "expressions from_ joins where group having qualify order limit offset with_ distinct windows"
)


def check_own(statement: Node, policy: Policy, *, dialect: str) -> CheckedQuery:
    if not isinstance(statement, exp.Select | exp.SetOperation):
        raise refused_sql(
            "statement",
            "The data SQL is no SELECT.",
            "Send one SELECT; nothing else runs here.",
        )
    # Each once, in the order in which they come up.
    tables: dict[str, None] = {}
    # Listed first: tables are renamed in the tree that is walked.
    for node in list(statement.walk()):
        _check_own_node(node)
        if type(node) is not exp.Table:
            continue
        rules = _own_table(node, policy, dialect=dialect)
        if rules is not None:
            tables[rules.name] = None
    if not tables:
        raise refused_sql(
            "tables",
            "The data SQL reads no table.",
            "Name a table of this hospital's policy in FROM.",
        )
    return CheckedQuery(
        tables=tuple(tables),
        # From the tree: what runs is what was looked at, whatever the text was.
        sql=written(statement, dialect),
        dialect=dialect,
        max_rows=policy.cohort.max_rows,
    )


def _check_own_node(node: Node) -> None:
    if isinstance(node, exp.Anonymous) and node.name.lower() in _UNNAMED_FUNCTIONS:
        return
    if isinstance(node, exp.Func) and type(node) not in _OWN_NODES:
        function = node.name if isinstance(node, exp.Anonymous) else node.sql_name()
        raise refused_sql(
            "function",
            f"The function {function} is not on the list of functions that may run here.",
            "Use aggregates and functions on numbers, texts and dates, or prepare a view in the database.",
        )
    # By its very type: a kind of node that sqlglot derives from a listed one is none of
    # the list.
    if type(node) not in _OWN_NODES:
        raise refused_sql(
            "syntax",
            f"{kind_of(node)} may not be used in data SQL.",
            "Write it without, or prepare a view.",
        )
    _check_own_arguments(node)


def _check_own_arguments(node: Node) -> None:
    if type(node) is exp.Select and not only(node, *_SELECT_ARGUMENTS):
        raise refused_sql(
            "clause",
            "The data SQL uses a clause of SELECT that may not run here.",
            "Remove it.",
        )
    if type(node) is exp.With and not only(node, "expressions"):
        raise refused_sql(
            "clause",
            "A recursive WITH may not run here.",
            "Write it without RECURSIVE.",
        )
    if type(node) is exp.DataType:
        is_plain = only(node, "this", "expressions")
        if node.this not in _CAST_TYPES or not is_plain:
            raise refused_sql(
                "syntax",
                "A type in a CAST may not be used here.",
                "Cast to a number, text or date type.",
            )
    # Some databases take it for an escape, others for itself: the text could end
    # elsewhere than it does here.
    if is_text(node) and "\\" in node.name:
        raise refused_sql(
            "characters",
            "A text of the data SQL holds a backslash.",
            "Write it without.",
        )


def _own_table(table: exp.Table, policy: Policy, *, dialect: str) -> TableRules | None:
    """The policy's rules for a table; None for the name of a WITH.

    The table's name is rewritten as the policy spells it.
    """
    is_plain = only(table, "this", "db", "alias", "joins")
    if not is_plain or type(table.this) is not exp.Identifier:
        raise refused_sql(
            "tables",
            "FROM holds something that is no plain table name.",
            "Name tables with their schema.",
        )
    if not table.args.get("db") and _names_cte(table, dialect=dialect):
        return None
    rules = policy.table(dotted(table))
    identifiers = [
        exp.to_identifier(name_part, quoted=True) for name_part in rules.name.split(".")
    ]
    schema = identifiers[0] if len(identifiers) > 1 else None
    table.set("this", identifiers[-1])
    table.set("db", schema)
    return rules


def _names_cte(table: exp.Table, *, dialect: str) -> bool:
    """Whether an unqualified name is that of a WITH in scope.

    That is one of an enclosing query, defined before its use.
    """
    table_name = _folded(table.this, dialect)
    child: Node = table
    node = table.parent
    # From the table outwards, query by query.
    while node is not None:
        for cte in _defined_before(child, node):
            if _folded(cte.args["alias"].this, dialect) == table_name:
                return True
        child = node
        node = node.parent
    return False


def _defined_before(child: Node, node: Node) -> list[Any]:
    """What the WITH of a node has defined where its child stands."""
    if isinstance(node, exp.With):
        # The child is one of its definitions, which knows those before it.
        before: list[Any] = []
        for cte in node.expressions:
            if cte is child:
                return before
            before.append(cte)
        return []
    # A query knows all its definitions, but for the WITH itself.
    if not isinstance(node, exp.Query) or isinstance(child, exp.With):
        return []
    with_ = node.args.get("with_")
    return list(with_.expressions) if with_ else []


def _folded(identifier: Node, dialect: str) -> str:
    """A name as the database compares it."""
    name = str(identifier.name)
    if dialect == "duckdb":
        return name.lower()
    if dialect == "postgres" and not identifier.args.get("quoted"):
        return name.lower()
    return name
