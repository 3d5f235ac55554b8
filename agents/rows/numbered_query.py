"""A SELECT from a query of SQL Server or Oracle, whose columns have numbers.

Neither takes LIMIT. The query stands in a WITH, where both take a list of names for its
columns, of which two may have had the same or none. Its own words stay as they are: it
was checked, or its hospital has approved it.

Decision 126.
"""

from __future__ import annotations

from typing import Any

import sqlglot
from sqlglot import TokenType
from sqlglot.errors import SqlglotError

from agents.rows.parsed_sql import CheckedQuery, unreadable

_NAME = "consilium_rows"


def select_numbered(
    query: CheckedQuery, *, n_columns: int, selected: str, most_rows: int
) -> str:
    """SELECT `selected`, which names columns c0, c1, ..., of at most so many rows.

    BadRequest (code sql) for a text whose tokens cannot be told apart.
    """
    before, query_text = _split(query.sql, query.dialect)
    numbers = ", ".join(f"c{place}" for place in range(n_columns))
    defined = f"WITH {before}{_NAME} ({numbers}) AS (\n{query_text}\n)"
    if query.dialect == "tsql":
        return f"{defined} SELECT TOP ({most_rows}) {selected} FROM {_NAME}"  # noqa: S608
    return f"{defined} SELECT {selected} FROM {_NAME} WHERE ROWNUM <= {most_rows}"  # noqa: S608


def _split(sql: str, dialect: str) -> tuple[str, str]:
    """What a query defines by WITH, and the rest of it.

    A WITH within a WITH is none of SQL Server's and of few Oracles. SQL Server orders
    no rows there either, unless it takes the first of them; rows have no order here.
    """
    try:
        tokens = sqlglot.tokenize(sql, read=dialect)
    except SqlglotError as error:
        raise unreadable(dialect, type(error).__name__) from None
    while tokens and tokens[-1].text == ";":
        tokens.pop()
    first_place = _first_of_query(tokens)
    query_end = tokens[-1].end + 1
    if dialect == "tsql":
        query_end = _end_without_order(tokens[first_place:], query_end)
    query_text = sql[tokens[first_place].start : query_end].rstrip()
    if first_place == 0:
        return "", query_text
    # A line of its own, as what was defined may end in a comment.
    return f"{sql[tokens[1].start : tokens[first_place].start]}\n, ", query_text


def _first_of_query(tokens: list[Any]) -> int:
    """The place of the token with which the query behind its WITH begins."""
    if tokens[0].token_type is not TokenType.WITH:
        return 0
    depth = 0
    for token_place, token in enumerate(tokens[1:], start=1):
        is_behind_a_definition = depth == 0 and tokens[token_place - 1].text == ")"
        starts = token.token_type in (TokenType.SELECT, TokenType.L_PAREN)
        if is_behind_a_definition and starts:
            return token_place
        depth += _opened(token)
    return 0


def _end_without_order(tokens: list[Any], end: int) -> int:
    """Where a query ends without the ORDER BY of all its rows."""
    depth = 0
    order = None
    for token in tokens:
        depth += _opened(token)
        if depth:
            continue
        kind = token.token_type
        if kind in (TokenType.OFFSET, TokenType.FETCH, TokenType.TOP):
            return end
        if kind is TokenType.ORDER_BY:
            order = token.start
    return end if order is None else order


def _opened(token: Any) -> int:
    """By how many brackets more what follows is within."""
    if token.token_type is TokenType.L_PAREN:
        return 1
    return -1 if token.token_type is TokenType.R_PAREN else 0
