"""The agent's self-test: what is wrong with an installation, and how to put it right.

Rows are not read: the database is asked for names only. `check_site` is `./run agent
check`; `check_locally` is what an agent does at its start; `check_policy` takes one file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from agents.check.coordinator import check_coordinator, check_prefect
from agents.check.findings import OK, WARN, WRONG, Finding, as_finding, guarded
from agents.check.machine import check_machine, check_passwords, check_writers
from agents.check.pins import check_keys, check_partners
from agents.gate.round_budget import RoundBudget
from agents.rows.cohort_refresh import failed_refresh
from agents.rows.database import TableDescription, open_source
from agents.rows.named_cohort import usable_cohort
from agents.rows.source_url import missing_file
from agents.site.policy import load_policy
from agents.site.settings import SiteSettings, load_settings
from protocol.errors import ConsiliumError, Refused
from protocol.machine.disk import has_room
from protocol.machine.installed import require_own_environment
from protocol.policy import NamedCohort, Policy, TableRules


def check_site(
    site: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> list[Finding]:
    """Every check of one site folder.

    Without readable settings, only the policy can be checked beside them.
    """
    try:
        settings = load_settings(site)
    except ConsiliumError as error:
        return [as_finding("settings", error), *check_policy(site / "policy.toml")]
    return [
        *check_locally(settings),
        *guarded("coordinator", lambda: _ask_coordinator(settings, now)),
        *guarded("prefect", lambda: _ask_prefect(settings)),
    ]


def check_locally(settings: SiteSettings) -> list[Finding]:
    """Every check that needs nobody but this hospital; the agent writes what they find
    to its log when it starts.
    """
    return [
        Finding("settings", OK, f"Hospital {settings.user_id}, {settings.name}."),
        *guarded("environment", check_environment),
        *guarded("python", check_machine),
        *guarded("settings", lambda: check_passwords(settings)),
        *guarded("settings", lambda: check_writers(settings)),
        *guarded("state", lambda: check_folders(settings)),
        *guarded("disk", lambda: check_disk(settings)),
        *guarded("token", lambda: check_token(settings)),
        *check_policy(settings.policy),
        *guarded("database", lambda: check_database(settings)),
        *guarded("cohorts", lambda: check_cohorts(settings)),
        *guarded("keys", lambda: check_keys(settings)),
        *guarded("partners", lambda: check_partners(settings)),
        *guarded("rounds", lambda: check_rounds(settings)),
    ]


def _ask_coordinator(
    settings: SiteSettings, now: Callable[[], datetime]
) -> Iterator[Finding]:
    with settings.client() as client:
        yield from check_coordinator(client, settings, now=now)


def _ask_prefect(settings: SiteSettings) -> Iterator[Finding]:
    with settings.client(settings.prefect_url) as client:
        yield from check_prefect(client, settings)


# On this machine


def check_environment() -> Iterator[Finding]:
    """What is installed beside the agent."""
    require_own_environment()
    yield Finding("environment", OK, "No part that has to stand elsewhere is here.")


def check_folders(settings: SiteSettings) -> Iterator[Finding]:
    """Nobody but the owner may enter state and vault, or read the keys and the ledger."""
    keys_path = settings.vault / "identity.json"
    private = (settings.state, settings.vault, keys_path, settings.ledger)
    present = [path for path in private if path.exists()]
    open_paths = [path for path in present if path.stat().st_mode & 0o077]
    for open_path in open_paths:
        sentence = f"{open_path} is open to other users of this machine."
        yield Finding("state", WRONG, sentence, f"Run: chmod go= {open_path}")
    if not open_paths:
        yield Finding("state", OK, f"{settings.state} is for its owner alone.")


def check_disk(settings: SiteSettings) -> Iterator[Finding]:
    """Something can be written below the state folder."""
    if has_room(settings.state):
        yield Finding("disk", OK, f"There is room below {settings.state}.")
    else:
        sentence = f"Nothing can be written below {settings.state}: its disk is full."
        remedy = "Make room there; orders that wait for it go on by themselves."
        yield Finding("disk", WRONG, sentence, remedy)


def check_token(settings: SiteSettings) -> Iterator[Finding]:
    """The token is there and nobody else can read it."""
    settings.secret("token")
    yield Finding("token", OK, "The token is there and only its owner can read it.")


def check_policy(path: Path) -> list[Finding]:
    """What is wrong in a policy file; it needs no site, so a draft can be checked
    anywhere.
    """

    def found() -> Iterator[Finding]:
        policy = load_policy(path)
        tables = ", ".join(rules.name for rules in policy.opened.values())
        methods = ", ".join(policy.orders.methods)
        yield Finding("policy", OK, f"Opens {tables} for {methods}.")
        if "None" in policy.orders.methods:
            sentence = "Method None shows this hospital's gradients and the model to the coordinator."
            remedy = 'Remove "None" from orders.methods, unless your data are public.'
            yield Finding("policy", WARN, sentence, remedy)

    return guarded("policy", found)


def check_rounds(settings: SiteSettings) -> Iterator[Finding]:
    """Who has how many rounds of training left here; nothing before the first."""
    folder = settings.vault / "cohorts"
    # To open it would make it: a check changes nothing.
    if not (folder / "rounds.sqlite").exists():
        return
    rules = load_policy(settings.policy).cohort
    spent_rounds = RoundBudget(folder).spent(rules=rules, now=datetime.now(UTC))
    if not spent_rounds:
        return
    most_spent = spent_rounds[0]
    n_left = max(0, rules.max_rounds - most_spent.n_rounds)
    sentence = (
        f"Receiver {most_spent.receiver} has {n_left} of {rules.max_rounds} rounds of {most_spent.population} left in"
        f" {rules.budget_days} days; others have as many or more."
    )
    if n_left:
        yield Finding("rounds", OK, sentence)
        return
    remedy = (
        "Its orders are refused until rounds are older; or raise cohort.max_rounds."
    )
    yield Finding("rounds", WARN, sentence, remedy)


def check_database(settings: SiteSettings) -> Iterator[Finding]:
    """The database answers a read-only connection and has every table and column that
    the policy names.
    """
    missing = missing_file(settings.data_url)
    if missing is not None:
        sentence = f"There is no DuckDB file {missing}."
        remedy = (
            "Write data_url of your database into settings.toml, or put the file there."
        )
        yield Finding("database", WRONG, sentence, remedy)
        return
    # Names of tables and columns only: no statement of a check reads a row.
    timeout = settings.statement_timeout_seconds
    source = open_source(settings.data_url, statement_timeout_seconds=timeout)
    if source.is_open:
        sentence = "Rows travel from the database to this machine unencrypted, as data_url says."
        remedy = "Let the database speak TLS, and take insecure=true out of data_url."
        yield Finding("database", WARN, sentence, remedy)
    present = source.describe()
    yield Finding(
        "database", OK, f"Answers read-only, with {len(present)} tables and views."
    )

    with contextlib.suppress(
        Refused
    ):  # the policy's own check says what is wrong with it
        policy = load_policy(settings.policy)
        is_case_exact = source.dialect in ("postgres", "oracle")
        yield from check_tables(policy, present, is_case_exact=is_case_exact)


def check_tables(
    policy: Policy, present: list[TableDescription], *, is_case_exact: bool
) -> Iterator[Finding]:
    """Each of the policy's tables is there with the columns that it names."""

    # PostgreSQL and Oracle tell "Visits" from "visits", DuckDB does not.
    def fold(name: str) -> str:
        return name if is_case_exact else name.lower()

    by_name: dict[str, TableDescription] = {}
    # A policy may leave the schema out; of two tables of one name the first counts.
    for table in present:
        without_schema = table.name.split(".", 1)[1]
        by_name.setdefault(fold(table.name), table)
        by_name.setdefault(fold(without_schema), table)

    for rules in policy.tables.values():
        described = by_name.get(fold(rules.name))
        if described is None:
            table_names = ", ".join(table.name for table in present[:20]) or "none"
            remedy = f"Correct its name in policy.toml, or make it. Seen here: {table_names}."
            yield Finding(
                "tables", WRONG, f"The database has no table {rules.name}.", remedy
            )
            continue

        columns = {fold(column) for column in described.columns}
        missing = [
            column for column in _named_columns(rules) if fold(column) not in columns
        ]
        if missing:
            sentence = f"{rules.name} has no column {', '.join(missing)}."
            remedy = f"Correct policy.toml; the table has: {', '.join(described.columns[:40])}."
            yield Finding("tables", WRONG, sentence, remedy)
        else:
            yield Finding(
                "tables", OK, f"{rules.name} has every column that the policy names."
            )


def check_cohorts(settings: SiteSettings) -> Iterator[Finding]:
    """Each cohort of the policy has its approved definition, and rows made by it."""
    with contextlib.suppress(Refused):  # as above
        policy = load_policy(settings.policy)
        for cohort in policy.cohorts.values():
            yield from guarded("cohorts", partial(_usable, settings, cohort))


def _usable(settings: SiteSettings, cohort: NamedCohort) -> Iterator[Finding]:
    made_rows = usable_cohort(settings, cohort)
    sentence = f"{cohort.name} has {made_rows.n_rows} rows, made {made_rows.made_at:%Y-%m-%d %H:%M} (UTC)."
    failed = failed_refresh(settings, cohort.short_name)
    if failed is None:
        yield Finding("cohorts", OK, sentence)
        return
    yield Finding(
        "cohorts",
        WARN,
        f"{sentence} Its last refresh failed, and these rows stay.",
        failed.sentence,
    )


def _named_columns(rules: TableRules) -> list[str]:
    """Each once, in the policy's order."""
    column_names = [*rules.filter_columns, rules.unique_id]
    if not rules.all_columns:
        column_names = [*rules.columns, *column_names]
    return list(dict.fromkeys(column_names))
