"""Makes a cohort's rows: the approved SQL runs on the hospital's own database, and what
it gives becomes a DuckDB file of the vault, whole or not at all.

The SQL runs as any reading does: read-only, within the site's limits of time and rows.
Until the new file is whole the old one is read, and one that fails keeps it.

Decision 119.
"""

from __future__ import annotations

import contextlib
import json
import os
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import sqlglot
from cronsim import CronSim
from sqlglot.errors import SqlglotError

from agents.rows.canonical_text import canonical_sql, has_value_sql
from agents.rows.database_rows import QueryRows, read_query
from agents.rows.faults import safe_errors
from agents.rows.named_cohort import (
    FACTS,
    MadeCohort,
    approved_sql,
    cohort_file,
    made_cohort,
)
from agents.rows.parsed_sql import CheckedQuery
from agents.rows.relation import (
    IDENTIFIED,
    UNIQUE_ID,
    count_rows,
    found_column,
    is_missing,
    literal,
    needed_place,
    quoted,
)
from agents.rows.requested_data import Room, site_source
from agents.site.ledger import Ledger
from agents.site.settings import SiteSettings
from protocol.errors import BadRequest, Conflict, ConsiliumError
from protocol.machine.disk import (
    locked,
    make_private_folder,
    put_in_place,
    write_durably,
)
from protocol.policy import COHORT, NamedCohort, Policy

_NEW = "new_cohort"


def refresh_cohort(
    settings: SiteSettings, policy: Policy, name: str, *, now: datetime
) -> MadeCohort:
    """Makes the rows of one of the policy's cohorts anew, and returns what is noted.

    Raises Refused (code tables, cohort_definition), BadRequest (cohort_statement,
    cohort_ids, missing_column, duplicate_column, and those of
    `agents.rows.database_rows.read_query`), TooLarge, Unavailable. Then the rows of
    before stay.

    Disclosure: rows, into the vault only. Errors count rows without an id, and ids of
    more than one row: they are for the hospital's own people.
    """
    cohort = policy.cohort_of(name)
    cohort_path = cohort_file(settings, name)
    folder = make_private_folder(cohort_path.parent)
    temporary = cohort_path.with_name(f".{cohort_path.name}.{os.getpid()}.tmp")
    definition = approved_sql(settings, cohort)
    # Of two at once the second waits, so that the rows of the later one stay.
    with locked(folder), ExitStack() as stack:
        # What is left by processes that are gone.
        for leftover in folder.glob(f".{cohort_path.name}.*"):
            leftover.unlink(missing_ok=True)
        stack.callback(_remove, temporary)
        room = Room(settings, stack, beside=_files_of(temporary))
        rows = _read(settings, policy, cohort, definition, room)
        with safe_errors(float(settings.statement_timeout_seconds)):
            cohort_facts = _noted(cohort, rows, now)
            _write(rows.connection, cohort_facts, temporary)
        put_in_place(temporary, cohort_path)
    return cohort_facts


def _files_of(path: Path) -> list[Path]:
    """A file, and what DuckDB writes beside it while it changes it."""
    endings = ("", ".wal", ".wal.checkpoint", ".wal.recovery")
    return [path.with_name(path.name + ending) for ending in endings]


def _remove(temporary: Path) -> None:
    for path in _files_of(temporary):
        path.unlink(missing_ok=True)


def _read(
    settings: SiteSettings,
    policy: Policy,
    cohort: NamedCohort,
    text: str,
    room: Room,
) -> QueryRows:
    """All columns that have a form, in the connection."""
    source = site_source(settings)
    query = CheckedQuery(
        tables=(cohort.name,),
        sql=one_select(text, source.dialect),
        dialect=source.dialect,
        max_rows=policy.cohort.max_rows,
    )
    described = source.described(query)
    needed_columns = [cohort.unique_id]
    if not cohort.all_columns:
        needed_columns += cohort.columns
    missing = [
        column for column in needed_columns if is_missing(column, described.names)
    ]
    if missing:
        raise BadRequest(
            f"The definition of the cohort {cohort.short_name} gives no column {', '.join(missing)}, which policy.toml"
            " names for it.",
            remedy=f"Select it, or name in policy.toml columns out of {', '.join(described.names)}.",
            code="missing_column",
        )
    id_place = needed_place(cohort.unique_id, described.names)
    return read_query(
        source,
        described,
        columns=None,
        unique_id=described.names[id_place],
        connect=room.of_database,
    )


def one_select(text: str, dialect: str) -> str:
    """The one SELECT of a definition, without what stands around it.

    What it does nobody checks: the hospital's own people have approved it, and the
    database runs it read-only, or where it has no such thing, within brackets of a
    SELECT. BadRequest (code cohort_statement).
    """
    try:
        tokens = sqlglot.tokenize(text, read=dialect)
    except SqlglotError:
        raise _no_select() from None
    while tokens and tokens[-1].text == ";":
        tokens.pop()
    kinds = {token.token_type for token in tokens}
    starts = tokens[0].text.lower() if tokens else ""
    is_one = sqlglot.TokenType.SEMICOLON not in kinds and _closes_brackets(tokens)
    if starts not in ("select", "with", "(") or not is_one:
        raise _no_select()
    return text[tokens[0].start : tokens[-1].end + 1]


def _closes_brackets(tokens: list[Any]) -> bool:
    """Whether a text stands in brackets as a whole: it is run within some, where no
    statement that writes can stand.
    """
    depth = 0
    for token in tokens:
        if token.token_type is sqlglot.TokenType.L_PAREN:
            depth += 1
        elif token.token_type is sqlglot.TokenType.R_PAREN:
            depth -= 1
        if depth < 0:
            return False
    return depth == 0


def _no_select() -> BadRequest:
    return BadRequest(
        "The cohort's definition is not one SELECT.",
        remedy="Write it as one statement that begins with SELECT or WITH; what would be temporary tables stands in"
        " WITH.",
        code="cohort_statement",
    )


def _noted(cohort: NamedCohort, rows: QueryRows, now: datetime) -> MadeCohort:
    """What is noted of the rows that were read, if each is one person's."""
    described = rows.connection.execute(f"DESCRIBE {IDENTIFIED}").fetchall()
    column_kinds = {str(row[0]): str(row[1]) for row in described}
    id_kind = column_kinds.pop(UNIQUE_ID)
    _check_ids(rows.connection, cohort, id_kind)
    numbers = set(rows.numbers)
    id_column = found_column(cohort.unique_id, [*column_kinds])
    if rows.id_is_number and id_column is not None:
        numbers.add(id_column)
    return MadeCohort(
        name=cohort.short_name,
        sha256=cohort.sha256,
        unique_id=cohort.unique_id,
        n_rows=count_rows(rows.connection, IDENTIFIED),
        columns=tuple(column_kinds),
        numbers=tuple(sorted(numbers)),
        made_at=now,
    )


def _check_ids(connection: Any, cohort: NamedCohort, kind: str) -> None:
    """One row for each person, and no row of nobody. BadRequest (code cohort_ids)."""
    column = quoted(UNIQUE_ID)
    has_value = has_value_sql(column, kind)
    id_text = canonical_sql(column, kind)
    counted = (
        f"SELECT count(*) FROM {IDENTIFIED} WHERE NOT {has_value}",  # noqa: S608
        # By its place: the rows may have a column of any name.
        f"SELECT count(*) FROM (SELECT {id_text} FROM {IDENTIFIED} WHERE {has_value}"  # noqa: S608
        " GROUP BY 1 HAVING count(*) > 1)",
    )
    n_found = []
    for sql in counted:
        ((n,),) = connection.execute(sql).fetchall()
        n_found.append(int(n))
    n_without, n_doubled = n_found
    problems = []
    if n_without:
        problems.append(f"{n_without} rows without a {cohort.unique_id}")
    if n_doubled:
        problems.append(
            f"{n_doubled} values of {cohort.unique_id} in more than one row"
        )
    if problems:
        raise BadRequest(
            f"The cohort {cohort.short_name} has {' and '.join(problems)}; the rows of before stay, if there are any.",
            remedy="Write the definition so that each person has one row (GROUP BY, row_number() = 1) and no NULL as"
            " id, look at it, and write its new digest into policy.toml.",
            code="cohort_ids",
        )


def _write(connection: Any, cohort_facts: MadeCohort, path: Path) -> None:
    """The rows and what is noted, in a new DuckDB file that only its owner reads."""
    connection.execute(f"ATTACH {literal(str(path))} AS {_NEW}")
    # Nothing is in it yet, and the folder is private.
    path.chmod(0o600)
    columns = ", ".join(quoted(column) for column in cohort_facts.columns)
    rows = quoted(COHORT + cohort_facts.name)
    connection.execute(
        f"CREATE TABLE {_NEW}.main.{rows} AS SELECT {columns} FROM memory.main.{IDENTIFIED}"  # noqa: S608
    )
    connection.execute(
        f"CREATE TABLE {_NEW}.main.{FACTS} AS SELECT {literal(cohort_facts.to_json())} AS noted"
    )
    connection.execute(f"DETACH {_NEW}")


# --- on command and at its times --------------------------------------------------------


def refresh_noted(
    settings: SiteSettings, policy: Policy, name: str, *, now: datetime, person: str
) -> MadeCohort:
    """As `refresh_cohort`; the ledger has who made which rows, or why the old ones stay.

    person: who asked for it, or that it was time.
    """
    ledger = Ledger(settings.ledger)
    digest = policy.cohort_of(name).sha256
    failed = _failure_file(settings, name)
    try:
        cohort_facts = refresh_cohort(settings, policy, name, now=now)
    except ConsiliumError as error:
        make_private_folder(failed.parent)
        noted = {"at": now.isoformat(), "sha256": digest, "sentence": str(error)}
        write_durably(failed, json.dumps(noted).encode())
        ledger.write(
            "cohort_kept",
            cohort=name,
            rule=error.code,
            person=person,
            sentence=error.sentence,
        )
        raise
    failed.unlink(missing_ok=True)
    ledger.write(
        "cohort_made",
        cohort=name,
        n_rows=cohort_facts.n_rows,
        sha256=cohort_facts.sha256,
        person=person,
        sentence=f"The cohort {name} was made: {cohort_facts.n_rows} rows.",
    )
    return cohort_facts


@dataclass(frozen=True)
class FailedRefresh:
    """The last refresh of a cohort, where it failed; sha256: of the approved definition."""

    at: datetime
    sha256: str
    sentence: str


def failed_refresh(settings: SiteSettings, name: str) -> FailedRefresh | None:
    """What is noted of the last refresh, if it failed."""
    try:
        noted = json.loads(_failure_file(settings, name).read_bytes())
        failed_at = datetime.fromisoformat(noted["at"])
        return FailedRefresh(failed_at, noted["sha256"], noted["sentence"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _failure_file(settings: SiteSettings, name: str) -> Path:
    return cohort_file(settings, name).with_suffix(".failed")


def due_cohorts(settings: SiteSettings, policy: Policy, *, now: datetime) -> list[str]:
    """The cohorts whose time of `refresh` has come since they were made or tried last.

    One that has no whole rows of the approved definition is due at once, and after a
    failure at its next time.
    """
    return [
        cohort_name
        for cohort_name, cohort in policy.cohorts.items()
        if cohort.refresh is not None and _is_due(settings, cohort, now)
    ]


def _is_due(settings: SiteSettings, cohort: NamedCohort, now: datetime) -> bool:
    tried = []
    # A file that is damaged is made anew, as one that is not there.
    with contextlib.suppress(Conflict):
        cohort_facts = made_cohort(settings, cohort.short_name)
        if cohort_facts is not None and cohort_facts.sha256 == cohort.sha256:
            tried.append(cohort_facts.made_at)
    failed = failed_refresh(settings, cohort.short_name)
    if failed is not None and failed.sha256 == cohort.sha256:
        tried.append(failed.at)
    if not tried:
        return True
    assert cohort.refresh is not None
    since = max(tried).astimezone(ZoneInfo(cohort.timezone))
    due = next(CronSim(cohort.refresh, since))
    return bool(due <= now)


def drop_left(settings: SiteSettings, policy: Policy) -> list[str]:
    """Removes the rows of cohorts that are in the policy no more; their names."""
    dropped_names = []
    # Files that are being written begin with a dot.
    for cohort_path in cohort_file(settings, "any").parent.glob("[a-z0-9_]*"):
        if cohort_path.stem in policy.cohorts:
            continue
        if cohort_path.suffix == ".duckdb":
            dropped_names.append(cohort_path.stem)
        cohort_path.unlink(missing_ok=True)
    return sorted(dropped_names)
