"""Which levels of a category a hospital names to others, and what becomes of the rest.

A rare diagnosis is data. So a hospital names a level only where it has min_rows rows of
it, and says of the rest, once all names are known, whether it has rows of none of them:
these are of the level `other`, and a few of them end the order. The same for models and
for joint statistics.

Decision 78.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from agents.rows.canonical_text import canonical_text
from analytics.training.design import is_number, sorted_levels
from protocol.errors import BadRequest, Refused, check_all
from protocol.messages import bad_message, read_fields
from protocol.study_rows import MOST_LETTERS, MOST_LEVELS

Counts = Mapping[str, Mapping[str, int]]
"""By column of categories and level, how many rows a hospital has."""


def named_levels(
    counts: Counts,
    min_rows: int,
) -> dict[str, list[str]]:
    """By column the levels that others are told."""
    named: dict[str, list[str]] = {}
    for column, of_levels in counts.items():
        frequent = [level for level, n_rows in of_levels.items() if n_rows >= min_rows]
        named[column] = frequent
    return named


def check_message(
    levels: Mapping[str, Any],
    columns: Collection[str],
) -> None:
    """What another hospital names. ProtocolViolation (code bad_message) for what it
    could not have named.
    """
    if set(levels) != set(columns):
        raise bad_message("of kind levels names other columns than the order")
    for named in levels.values():
        if not isinstance(named, list) or len(named) > MOST_LEVELS:
            raise bad_message("of kind levels has no list of levels, or too many")
        are_levels = all(_is_level(level) for level in named)
        if not are_levels:
            raise bad_message("of kind levels holds what is no level")


def _is_level(level: Any) -> bool:
    if not isinstance(level, str) or len(level) > MOST_LETTERS:
        return False
    # In another spelling it would be a second level beside the one that it is.
    return canonical_text(level) == level


def read_others(
    messages: Mapping[int, bytes],
    columns: Collection[str],
) -> frozenset[str]:
    """The columns of which some hospital has rows of no joint level, by what all say.
    ProtocolViolation (code bad_message) for other columns than the order's.
    """
    with_others: set[str] = set()
    for message_body in messages.values():
        message_fields = read_fields(message_body, {"columns": list})
        named = {str(column) for column in message_fields["columns"]}
        if not named <= set(columns):
            raise bad_message("of kind other_levels names other columns than the order")
        with_others.update(named)
    return frozenset(with_others)


def joint_levels(
    columns: Collection[str],
    named: Mapping[int, Mapping[str, list[str]]],
) -> dict[str, list[str]]:
    """By column all levels that a hospital names, sorted.

    BadRequest (code levels) where they are numbers at one hospital and texts at another:
    these are two codings of one thing.
    """
    union: dict[str, list[str]] = {}
    for column in columns:
        levels: list[str] = []
        for of_user in named.values():
            levels.extend(of_user[column])
        union[column] = sorted_levels(levels)
    checks: list[Callable[[], object]] = []
    for column in columns:
        levels_of = [of_user[column] for of_user in named.values()]
        check = partial(_check_kinds, column, levels_of)
        checks.append(check)
    check_all(*checks)
    return union


def _check_kinds(
    name: str,
    levels_of: Collection[list[str]],
) -> None:
    are_numbers: set[bool] = set()
    for levels in levels_of:
        kinds = {is_number(level) for level in levels}
        if len(kinds) == 1:
            are_numbers.update(kinds)
    if len(are_numbers) > 1:
        raise BadRequest(
            f"The levels of {name} are numbers at some hospitals and texts at others.",
            remedy="Give the column one coding everywhere, by a view or a CAST.",
            code="levels",
        )


def columns_with_others(
    counts: Counts,
    union: Mapping[str, Collection[str]],
    *,
    min_rows: int,
    refuses_any: bool,
) -> list[str]:
    """The columns in which this hospital has rows of no joint level, min_rows or more.

    Raises Refused (code rare_levels) where they are fewer, or `refuses_any` of them.
    """
    n_others: dict[str, int] = {}
    for column, of_levels in counts.items():
        joint = set(union[column])
        of_others = [n for level, n in of_levels.items() if level not in joint]
        n_others[column] = sum(of_others)
    checks: list[Callable[[], object]] = []
    for column, n_rows in n_others.items():
        most_refused = min_rows - 1
        if refuses_any:
            most_refused = n_rows
        if 0 < n_rows <= most_refused:
            check = partial(_refuse_rare, column, min_rows)
            checks.append(check)
    check_all(*checks)
    with_others = [column for column in n_others if n_others[column]]
    return sorted(with_others)


def _refuse_rare(name: str, min_rows: int) -> None:
    raise Refused(
        f"In {name}, some rows have levels that no hospital has {min_rows} rows of.",
        remedy=f"Leave {name} out of categorical and derive what is needed of it, as case when {name} in (1, 2)"
        " then 1 else 0 end; leave these rows out; or ask the hospital to change min_rows or rare_levels"
        " in its policy.toml.",
        code="rare_levels",
        threshold=min_rows,
        feature=name,
    )
