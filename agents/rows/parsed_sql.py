"""An order's SQL as one syntax tree, within bounds of time and depth.

What refuses a text here looks at its characters, tokens and brackets; what a statement
may do, `agents.rows.foreign_sql` and `agents.rows.own_sql` decide. No message holds a
constant of the text.
"""

from __future__ import annotations

import functools
import logging
import re
from dataclasses import dataclass
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from protocol.errors import BadRequest, Refused
from protocol.policy import NamedCohort

# sqlglot quotes the SQL it cannot read in its log messages; SQL texts may hold patient
# data.
logging.getLogger("sqlglot").setLevel(logging.CRITICAL + 1)

Node = exp.Expr
DIALECTS = ("duckdb", "postgres", "mysql", "tsql", "oracle")
MAX_CHARACTERS = 20_000
MAX_TOKENS = 5_000
MAX_NESTING = 40
MAX_TYPES = 4
"""Of a type's brackets within one another, which the parser looks at twice each."""


@dataclass(frozen=True)
class CheckedQuery:
    """A SELECT that may run. `check_sql` makes those of orders."""

    # As the policy names them.
    tables: tuple[str, ...]
    # The text to execute, and its dialect.
    sql: str
    dialect: str
    # The policy's row limit.
    max_rows: int
    # Of which cohort the rows are, which lies in the vault and not in the database.
    cohort: NamedCohort | None = None


def words(text: str) -> list[str]:
    """Several names, written in one text."""
    return text.split()


def refused_sql(rule: str, sentence: str, remedy: str) -> Refused:
    return Refused(sentence, remedy=remedy, code=rule)


def unreadable(dialect: str, why: str) -> BadRequest:
    return BadRequest(
        f"The data SQL cannot be read as {dialect} SQL ({why}).",
        remedy="Write one SELECT, such as SELECT * FROM data.breast_homo_host;",
        code="sql",
    )


def check_characters(text: str) -> None:
    if not isinstance(text, str) or not text.strip():
        raise BadRequest(
            "The data SQL is empty.", remedy="Write one SELECT.", code="sql"
        )
    if len(text) > MAX_CHARACTERS:
        raise BadRequest(
            f"The data SQL is longer than {MAX_CHARACTERS} characters.",
            remedy="Shorten it.",
            code="sql",
        )
    if _FORBIDDEN.search(text):
        raise refused_sql(
            "characters", "The data SQL holds a control character.", "Remove it."
        )


# Control characters but tab and line ends, and halves of surrogate pairs.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def _tokens(text: str, dialect: str) -> list[Any]:
    if dialect not in DIALECTS:
        raise BadRequest(
            f"No SQL dialect {dialect}.",
            remedy=f"Use one of {', '.join(DIALECTS)}.",
            code="sql",
        )
    try:
        return list(sqlglot.tokenize(text, read=dialect))
    except SqlglotError as error:
        raise unreadable(dialect, type(error).__name__) from None


def parse(text: str, dialect: str) -> Node:
    """The one statement in `text`, for the caller to change as it likes."""
    return _parsed(text, dialect).copy()


def written(node: Node, dialect: str) -> str:
    """A checked node as text.

    SQL Server ends a statement without any sign, so that a name may be the first word of
    another one: there every name is quoted, which changes none of them.
    """
    return node.sql(dialect=dialect, comments=False, identify=dialect == "tsql")


# Each step of an order checks the same text anew.
@functools.lru_cache(maxsize=16)
def _parsed(text: str, dialect: str) -> Node:
    tokens = _tokens(text, dialect)
    # These keep the parser's time and recursion bounded.
    is_long = len(tokens) > MAX_TOKENS
    if is_long or _nesting(tokens) > MAX_NESTING or _types(tokens, dialect) > MAX_TYPES:
        raise BadRequest(
            "The data SQL is too long or nested too deeply.",
            remedy="Simplify it.",
            code="sql",
        )
    try:
        parsed = sqlglot.parse(text, read=dialect)
    except SqlglotError as error:
        raise unreadable(dialect, _position(error)) from None
    statements = []
    for statement in parsed:
        # What stands behind a last semicolon, a comment for instance, is none.
        if statement and not isinstance(statement, exp.Semicolon):
            statements.append(statement)
    if len(statements) != 1:
        raise refused_sql(
            "statement",
            f"The data SQL holds {len(statements)} statements.",
            "Send one SELECT.",
        )
    return statements[0]


def _nesting(tokens: list[Any]) -> int:
    """How many brackets stand within one another."""
    depth = 0
    deepest = 0
    for token in tokens:
        if token.text in ("(", "[", "{"):
            depth += 1
        elif token.text in (")", "]", "}"):
            depth -= 1
        deepest = max(deepest, depth)
    return deepest


def _types(tokens: list[Any], dialect: str) -> int:
    """How many brackets that follow a type stand within one another."""
    types = sqlglot.Dialect.get_or_raise(dialect).parser_class.TYPE_TOKENS
    # Of each open bracket, whether it follows a type.
    opened: list[bool] = []
    deepest = 0
    is_after_type = False
    for token in tokens:
        if token.text == "(":
            opened.append(is_after_type)
            deepest = max(deepest, opened.count(True))
        elif token.text == ")" and opened:
            opened.pop()
        is_after_type = token.token_type in types
    return deepest


def _position(error: SqlglotError) -> str:
    """Line and column of a parse error, without the text around it."""
    details = (getattr(error, "errors", None) or [{}])[0]
    return f"line {details.get('line', '?')}, column {details.get('col', '?')}"


def check_no_comment(text: str, dialect: str) -> None:
    """Between two tokens there is white space only.

    Comments and hints, which the tokenizer drops, are not.
    """
    token_end = 0
    for token in _tokens(text, dialect):
        _check_gap(text[token_end : token.start])
        token_end = token.end + 1
    _check_gap(text[token_end:])


def _check_gap(gap: str) -> None:
    if gap.strip():
        raise refused_sql(
            "comment",
            "The data SQL holds a comment or a sign without meaning.",
            "Remove it.",
        )


def beyond(node: Node, *allowed: str) -> list[str]:
    """The arguments that are set in a node beside the allowed ones."""
    unset: tuple[object, ...] = (None, False, [])
    beyond = []
    for argument_name, argument_value in node.args.items():
        if argument_name not in allowed and argument_value not in unset:
            beyond.append(argument_name.rstrip("_"))
    return sorted(beyond)


def only(node: Node, *allowed: str) -> bool:
    return not beyond(node, *allowed)


def dotted(table: Node) -> str:
    name_parts = [
        str(identifier.name)
        for identifier in (table.args.get("db"), table.this)
        if identifier
    ]
    if any("." in name_part for name_part in name_parts):
        raise refused_sql(
            "tables",
            "A quoted table name in FROM holds a dot.",
            "Quote schema and table apart.",
        )
    return ".".join(name_parts)


def kind_of(node: object) -> str:
    """What a node is, in the words of SQL; never its content."""
    if type(node) is exp.Alias and type(node.this) is not exp.Column:
        return kind_of(node.this)
    if isinstance(node, exp.Anonymous):
        return "an unnamed function"
    return type(node).__name__.upper()


def is_text(node: Node) -> bool:
    """Whether a node is a text in quotes."""
    return type(node) is exp.Literal and bool(node.is_string)
