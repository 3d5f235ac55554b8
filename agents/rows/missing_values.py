"""Rows without a value: refused in one sentence that names all columns with some.

No count below the hospital's min_rows is told: "one row has a NULL" would tell about one
patient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agents.rows.canonical_text import has_value_sql
from agents.rows.dataset import Dataset
from agents.rows.relation import IDENTIFIED, UNIQUE_ID, quoted
from protocol.errors import bad_request


def without_value(
    rows: Dataset, names: Sequence[str], notes: Sequence[str] = ()
) -> None:
    """BadRequest (code null) that names all of these columns with rows without a value,
    and says the notes.
    """
    counted = [_without_value(column, rows.check_column(column)) for column in names]
    if counted:
        (counts,) = rows.query(f"SELECT {', '.join(counted)} FROM {IDENTIFIED}")  # noqa: S608
        raise_without(rows, dict(zip(names, counts, strict=True)), notes)


def check_no_null(rows: Dataset, unique_id: str, names: Sequence[str]) -> None:
    """Names all columns with rows without a value at once."""
    counted = [_without_value(UNIQUE_ID, rows.id_type)]
    counted += [_without_value(column, rows.columns[column]) for column in names]
    sql = f"SELECT {', '.join(counted)} FROM {IDENTIFIED}"  # noqa: S608
    (counts,) = rows.query(sql)
    raise_without(rows, dict(zip([unique_id, *names], counts, strict=True)))


def raise_without(
    rows: Dataset, n_without: Mapping[str, int], notes: Sequence[str] = ()
) -> None:
    gaps: list[str] = []
    for column, n_null in n_without.items():
        if n_null:
            null = "" if gaps else " without a value (NULL)"
            gaps.append(f"{rows.told(n_null)}{null} in {column}")
    if gaps:
        raise bad_request(
            "null",
            " ".join([f"{capital(', '.join(gaps))}.", *notes]),
            "Leave these rows out by missing drop, complete_on or WHERE ... IS NOT NULL, or fill them in a view.",
        )


def _without_value(name: str, kind: str) -> str:
    return f"count(*) FILTER (NOT {has_value_sql(quoted(name), kind)})"


def capital(text: str) -> str:
    return text[0].upper() + text[1:]
