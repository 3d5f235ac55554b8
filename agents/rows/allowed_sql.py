"""Which SQL may run at a hospital. The text is parsed; what runs is rendered anew from
what was checked.

Another hospital's user gets what `agents.rows.foreign_sql` writes, the hospital's own
user what `agents.rows.own_sql` lets pass. In place of SQL both may name a cohort of the
policy (`agents.rows.cohort_sql`).

Decision 19.
"""

from __future__ import annotations

from sqlglot import exp

from agents.rows.cohort_sql import check_cohort, names_cohort
from agents.rows.dialect_text import check_quotes
from agents.rows.foreign_sql import check_foreign
from agents.rows.own_sql import check_own
from agents.rows.parsed_sql import DIALECTS as DIALECTS
from agents.rows.parsed_sql import CheckedQuery as CheckedQuery
from agents.rows.parsed_sql import (
    Node,
    check_characters,
    check_no_comment,
    only,
    parse,
    refused_sql,
    unreadable,
)
from protocol.errors import ConsiliumError
from protocol.policy import Policy


def check_sql(
    text: str,
    *,
    policy: Policy,
    requester: int,
    own_user_id: int,
    unique_id: str,
    label: str | None,
    dialect: str,
    unique_id_as: str | None = None,
) -> CheckedQuery:
    """Check the SQL of an order and return the text that may be executed in its place.

    `requester` is the user that sent the order, `own_user_id` the hospital's own;
    `unique_id` and `label` are the order's columns, on which another hospital's user
    may not filter. `dialect` is one of DIALECTS. With `unique_id_as`, the
    unique id is in the select list of another hospital's query under this name too,
    whether the policy opens its column or not: for this hospital itself.

    Raises Refused, whose code is the rule (statement, comment, clause, select_list,
    where, tables, columns, filter_columns, unique_id, function, syntax, characters,
    cohort_name),
    BadRequest (code sql) when the text is no SQL of this dialect, and nothing else.

    Disclosure: messages hold names of clauses, tables, columns and functions, never a
    constant of the text.
    """
    try:
        check_characters(text)
        if names_cohort(text):
            return check_cohort(
                text,
                policy,
                is_foreign=requester != own_user_id,
                unique_id=unique_id,
                unique_id_as=unique_id_as,
            )
        check_quotes(text, dialect)
        statement = parse(text, dialect)
        if requester == own_user_id:
            return check_own(statement, policy, dialect=dialect)
        check_no_comment(text, dialect)
        return check_foreign(
            statement,
            policy,
            unique_id=unique_id,
            label=label,
            dialect=dialect,
            unique_id_as=unique_id_as,
        )
    except ConsiliumError:
        raise
    except Exception as error:  # noqa: BLE001
        # Its kind alone, whatever the text makes the parser raise: the words may hold
        # constants of the text.
        raise unreadable(dialect, type(error).__name__) from None


def check_plain(text: str, *, dialect: str) -> None:
    """Refuse SQL whose columns are not the table's own.

    Allowed are * and plain names, without alias, join or subquery.

    For inference orders that come through the coordinator: whoever controls it could
    send `y AS x1`, or text glued to the unique id, and read cells out of the
    predictions. A cohort's columns are those that the hospital itself has written.
    Raises Refused (code expressions) or BadRequest (sql).
    """
    if names_cohort(text):
        return
    statement = parse(text, dialect)
    if not _selects_plain_columns(statement):
        raise refused_sql(
            "expressions",
            "SQL of an inference order through the coordinator selects something else than plain columns of a table.",
            "Select * or column names, prepare a view, use ./run agent infer, or set expressions = true under"
            " [inference] in this hospital's policy.toml.",
        )


def _selects_plain_columns(statement: Node) -> bool:
    selects = list(statement.find_all(exp.Select, exp.SetOperation))
    if not isinstance(statement, exp.Select) or len(selects) != 1:
        return False
    if statement.args.get("joins") or not statement.expressions:
        return False
    for column in statement.expressions:
        if type(column) not in (exp.Star, exp.Column):
            return False
    # No EXCLUDE, REPLACE or RENAME beside a star.
    for star in statement.find_all(exp.Star):
        if not only(star):
            return False
    # Nor new names in the alias of the table.
    aliases = statement.find_all(exp.TableAlias)
    return not any(alias.args.get("columns") for alias in aliases)
