"""A cohort that an order names in place of SQL: `cohort:diabetes_v1` and nothing else.

The name is looked up in the policy; what runs is written here, over the table that the
cohort's rows lie in (`agents.rows.named_cohort`). No part of the order's text gets into
it.

Decision 119.
"""

from __future__ import annotations

import re

from agents.rows.foreign_sql import check_unique_id
from agents.rows.parsed_sql import CheckedQuery, refused_sql
from protocol.policy import COHORT, COHORT_NAME, NamedCohort, Policy


def names_cohort(text: str) -> bool:
    """Whether a text stands for a cohort, well written or not."""
    return text.lstrip().lower().startswith(COHORT)


def cohort_name(text: str) -> str:
    """The cohort's name in `cohort:name`. Refused (code cohort_name) for anything else."""
    match = re.fullmatch(f"{COHORT}({COHORT_NAME})", text.strip(), re.ASCII)
    if match is None:
        raise refused_sql(
            "cohort_name",
            "A cohort is named together with something else.",
            f"Write {COHORT} and its name alone, such as {COHORT}diabetes_v1: which rows and columns it has, the"
            " hospital has decided.",
        )
    return match[1]


def check_cohort(
    text: str,
    policy: Policy,
    *,
    is_foreign: bool,
    unique_id: str,
    unique_id_as: str | None,
) -> CheckedQuery:
    """The SELECT of a cohort's rows. Another hospital's user gets the open columns.

    Raises Refused (code cohort_name, tables, unique_id, columns).
    """
    cohort = policy.cohort_of(cohort_name(text))
    columns = "*"
    if is_foreign:
        check_unique_id(cohort, unique_id)
        columns = _open_columns(cohort)
        if unique_id_as is not None:
            columns += f", {_quoted(cohort.unique_id)} AS {_quoted(unique_id_as)}"
    return CheckedQuery(
        tables=(cohort.name,),
        sql=f"SELECT {columns} FROM {_quoted(cohort.name)}",  # noqa: S608
        dialect="duckdb",
        max_rows=policy.cohort.max_rows,
        cohort=cohort,
    )


def _open_columns(cohort: NamedCohort) -> str:
    if cohort.all_columns:
        return "*"
    if not cohort.columns:
        raise refused_sql(
            "columns",
            f"The cohort {cohort.short_name} is open to this hospital's own users alone.",
            "Name another one, or ask the hospital to add columns to it in its policy.toml.",
        )
    return ", ".join(_quoted(column) for column in cohort.columns)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
