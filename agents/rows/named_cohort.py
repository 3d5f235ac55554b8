"""A cohort's rows as orders read them: a table of its own DuckDB file in the vault.

The file holds the rows that the approved SQL gave when it last ran, and what was noted of
that. Each reading compares the SQL's file with the digest that the policy approves, and
the rows with the definition that they were made by. `agents.rows.cohort_refresh` makes
the file.

Decision 119.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

import duckdb
import sqlalchemy as sa

from agents.rows.database import (
    DescribedQuery,
    Source,
    attach_read_only,
    open_source,
)
from agents.rows.relation import UNIQUE_ID
from agents.site.settings import SiteSettings
from agents.site.vault import damaged
from protocol.errors import Refused
from protocol.policy import NamedCohort

FACTS = "consilium_facts"
"""The table beside the rows, of one text: `MadeCohort` as JSON."""
MOST_LETTERS = 1_000_000
"""Of a definition."""


@dataclass(frozen=True)
class MadeCohort:
    """What is noted of a cohort's rows in the vault.

    sha256: of the definition that made them; numbers: columns of texts that the
    database holds as numbers.
    """

    name: str
    sha256: str
    unique_id: str
    n_rows: int
    columns: tuple[str, ...]
    numbers: tuple[str, ...]
    made_at: datetime

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "made_at": self.made_at.isoformat()})

    @classmethod
    def from_json(cls, text: str) -> MadeCohort:
        noted = json.loads(text)
        for field_name in ("columns", "numbers"):
            noted[field_name] = tuple(noted[field_name])
        return cls(**{**noted, "made_at": datetime.fromisoformat(noted["made_at"])})


def cohort_file(settings: SiteSettings, name: str) -> Path:
    """Where a cohort's rows are, once they are made."""
    return settings.vault / "named_cohorts" / f"{name}.duckdb"


def file_digest(path: Path, shown: str) -> tuple[bytes, str]:
    """A definition's bytes and their SHA-256. Refused (code cohort_definition) if there
    is no such file, or one that cannot be read or is longer than 1 MB; shown: its name
    for people.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_LETTERS + 1)
    except OSError as error:
        raise Refused(
            f"The cohort's definition {shown} cannot be read ({type(error).__name__}).",
            remedy="Put the SQL there, readable by the agent's user, or correct `sql` in policy.toml.",
            code="cohort_definition",
        ) from None
    if len(content) > MOST_LETTERS:
        raise Refused(
            f"The cohort's definition {shown} is longer than 1 MB.",
            remedy="Shorten it, or keep its code lists in a table of the database.",
            code="cohort_definition",
        )
    return content, hashlib.sha256(content).hexdigest()


def approved_sql(settings: SiteSettings, cohort: NamedCohort) -> str:
    """The definition, if it is the one that the policy approves. Refused (code
    cohort_definition) with what to do.
    """
    # What runs are the bytes that were digested: a second reading could give others.
    content, digest = file_digest(settings.site / cohort.sql, cohort.sql)
    if digest != cohort.sha256:
        raise Refused(
            f"The definition {cohort.sql} of the cohort {cohort.short_name} is not the one that this hospital's policy"
            " approves: its digest is another one.",
            remedy="The hospital looks at the file, and if it is right writes the line that"
            f' `./run agent cohorts digest {cohort.sql}` prints under [cohorts."{cohort.short_name}"] in its'
            " policy.toml.",
            code="cohort_definition",
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused(
            f"The definition {cohort.sql} is not UTF-8.",
            remedy="Save it as UTF-8, and write its new digest into policy.toml.",
            code="cohort_definition",
        ) from None


def made_cohort(settings: SiteSettings, name: str) -> MadeCohort | None:
    """What is noted of the rows in the vault; None before they were made first.

    Conflict (code vault_damaged) for a file that is none of ours.
    """
    cohort_path = cohort_file(settings, name)
    if not cohort_path.exists():
        return None
    try:
        # In a database of its own: connections of one process to a file share their
        # configuration.
        with duckdb.connect() as connection:
            attach_read_only(connection, str(cohort_path), name="made")
            noted = connection.execute(f"SELECT noted FROM made.{FACTS}")  # noqa: S608
            ((noted_text,),) = noted.fetchall()
        return MadeCohort.from_json(noted_text)
    except (duckdb.Error, ValueError, KeyError, TypeError):
        raise damaged(cohort_path) from None


def usable_cohort(settings: SiteSettings, cohort: NamedCohort) -> MadeCohort:
    """What is noted of the rows, if an order may read them.

    Raises Refused (code cohort_definition, cohort_rows), Conflict (vault_damaged).
    """
    # For its refusal alone: rows of a definition that was changed since are not read.
    approved_sql(settings, cohort)
    name = cohort.short_name
    cohort_facts = made_cohort(settings, name)
    if cohort_facts is None:
        why = f"The rows of the cohort {name} have not been made at this hospital yet."
    elif cohort_facts.sha256 != cohort.sha256:
        why = f"The rows of the cohort {name} are those of another definition than the approved one."
    elif cohort_facts.unique_id.lower() != cohort.unique_id.lower():
        why = f"The rows of the cohort {name} were made with another unique_id than that of the policy."
    else:
        return cohort_facts
    raise Refused(
        why,
        remedy=f"The hospital makes them by `./run agent cohorts refresh {name}`; then order again.",
        code="cohort_rows",
    )


def cohort_source(settings: SiteSettings, cohort: NamedCohort) -> Source:
    """The file of the vault as a database. Nothing is opened yet."""
    cohort_path = cohort_file(settings, cohort.short_name)
    return open_source(
        sa.URL.create("duckdb", database=str(cohort_path)),
        statement_timeout_seconds=float(settings.statement_timeout_seconds),
        max_rows=settings.max_rows,
    )


def with_numbers(described: DescribedQuery, cohort_facts: MadeCohort) -> DescribedQuery:
    """The columns as the hospital's own database described them: a text of digits may be
    a number there.
    """
    numbers = {name.lower() for name in cohort_facts.numbers}
    if cohort_facts.unique_id.lower() in numbers:
        numbers.add(UNIQUE_ID)
    columns = []
    for column in described.columns:
        is_number = column.is_number or column.name.lower() in numbers
        columns.append(replace(column, is_number=is_number))
    return replace(described, columns=tuple(columns))
