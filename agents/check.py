"""The agent's self-test: what is wrong with an installation, and how to put it right.

Every check answers with findings and never raises. Rows are not read: the database is asked for names only.
`check_site` is `./run agent check`; `check_locally` is what an agent does at its start; `check_policy` takes one file.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx

from agents.rows.database import TableDescription, open_source
from agents.site.policy import load_policy
from agents.site.settings import Settings, load_settings
from agents.site.vault import Vault
from protocol import VERSION
from protocol.errors import ConsiliumError, Refused
from protocol.machine.clock import LARGEST_ERROR_SECONDS
from protocol.machine.disk import has_room
from protocol.policy import Policy, TableRules

OK = "ok"
WARN = "warn"
WRONG = "wrong"
_FINGERPRINT = re.compile(r"([0-9a-f]{4}-){7}[0-9a-f]{4}")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Finding:
    """One sentence about one part of an installation."""

    check: str  # which part: settings, database, ...
    state: str  # ok, warn (worth a look) or wrong
    sentence: str
    remedy: str = ""  # what to do; only where it is ok there is none

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def check_site(site: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> list[Finding]:
    """Every check of one site folder. Without readable settings, only the policy can be checked beside them."""
    try:
        settings = load_settings(site)
    except ConsiliumError as error:
        return [_wrong("settings", error), *check_policy(site / "policy.toml")]
    return [
        *check_locally(settings),
        *guarded("coordinator", lambda: _ask_coordinator(settings, now)),
        *guarded("prefect", lambda: _ask_prefect(settings)),
    ]


def check_locally(settings: Settings) -> list[Finding]:
    """Every check that needs nobody but this hospital; the agent writes what they find to its log when it starts."""
    return [
        Finding("settings", OK, f"Hospital {settings.user_id}, {settings.name}."),
        *guarded("state", lambda: check_folders(settings)),
        *guarded("disk", lambda: check_disk(settings)),
        *guarded("token", lambda: check_token(settings)),
        *check_policy(settings.policy),
        *guarded("database", lambda: check_database(settings)),
        *guarded("keys", lambda: check_keys(settings)),
        *guarded("partners", lambda: check_partners(settings)),
    ]


def guarded(check: str, findings: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """The findings of a check, or its error as one; of an unplanned error its kind only, because its text may
    hold anything."""
    found: list[Finding] = []
    try:
        for finding in findings():  # one by one, so that those before an error stay
            found.append(finding)
    except ConsiliumError as error:
        found.append(_wrong(check, error))
    except Exception as error:  # noqa: BLE001 (a self-test that dies of what it looks for helps nobody)
        sentence = f"This check met an unplanned error ({type(error).__name__})."
        remedy = "Correct what the other lines name, then check again."
        found.append(Finding(check, WRONG, sentence, remedy))
    return found


def _wrong(check: str, error: ConsiliumError) -> Finding:
    return Finding(check, WRONG, error.sentence, error.remedy)


# On this machine


def check_folders(settings: Settings) -> Iterator[Finding]:
    """Nobody but the owner may enter state and vault, or read the keys and the ledger."""
    keys = settings.vault / "identity.json"
    private = (settings.state, settings.vault, keys, settings.ledger)
    present = [path for path in private if path.exists()]
    open_paths = [path for path in present if path.stat().st_mode & 0o077]
    for path in open_paths:
        sentence = f"{path} is open to other users of this machine."
        yield Finding("state", WRONG, sentence, f"Run: chmod go= {path}")
    if not open_paths:
        yield Finding("state", OK, f"{settings.state} is for its owner alone.")


def check_disk(settings: Settings) -> Iterator[Finding]:
    """Something can be written below the state folder."""
    if has_room(settings.state):
        yield Finding("disk", OK, f"There is room below {settings.state}.")
    else:
        sentence = f"Nothing can be written below {settings.state}: its disk is full."
        remedy = "Make room there; orders that wait for it go on by themselves."
        yield Finding("disk", WRONG, sentence, remedy)


def check_token(settings: Settings) -> Iterator[Finding]:
    """The token is there and nobody else can read it."""
    settings.secret("token")
    yield Finding("token", OK, "The token is there and only its owner can read it.")


def check_policy(path: Path) -> list[Finding]:
    """What is wrong in a policy file; it needs no site, so a draft can be checked anywhere."""

    def found() -> Iterator[Finding]:
        policy = load_policy(path)
        tables = ", ".join(policy.tables)
        methods = ", ".join(policy.orders.methods)
        yield Finding("policy", OK, f"Opens {tables} for {methods}.")
        if "None" in policy.orders.methods:
            sentence = "Method None shows this hospital's gradients and the model to the coordinator."
            remedy = 'Remove "None" from orders.methods, unless your data are public.'
            yield Finding("policy", WARN, sentence, remedy)

    return guarded("policy", found)


def check_database(settings: Settings) -> Iterator[Finding]:
    """The database answers a read-only connection and has every table and column that the policy names."""
    # Names of tables and columns only: no statement of a check reads a row.
    timeout = settings.statement_timeout_seconds
    source = open_source(settings.data_url, statement_timeout_seconds=timeout)
    present = source.describe()
    yield Finding("database", OK, f"Answers read-only, with {len(present)} tables and views.")

    with contextlib.suppress(Refused):  # the policy's own check says what is wrong with it
        policy = load_policy(settings.policy)
        is_case_exact = source.dialect == "postgres"
        yield from check_tables(policy, present, is_case_exact=is_case_exact)


def check_tables(
    policy: Policy, present: list[TableDescription], *, is_case_exact: bool
) -> Iterator[Finding]:
    """Each of the policy's tables is there with the columns that it names."""

    # PostgreSQL tells "Visits" from "visits", DuckDB does not.
    def fold(name: str) -> str:
        return name if is_case_exact else name.lower()

    by_name: dict[str, TableDescription] = {}
    # A policy may leave the schema out; of two tables of one name the first counts.
    for table in present:
        without_schema = table.name.split(".", 1)[1]
        by_name.setdefault(fold(table.name), table)
        by_name.setdefault(fold(without_schema), table)

    for rules in policy.tables.values():
        found = by_name.get(fold(rules.name))
        if found is None:
            names = ", ".join(table.name for table in present[:20]) or "none"
            remedy = f"Correct its name in policy.toml, or make it. Seen here: {names}."
            yield Finding("tables", WRONG, f"The database has no table {rules.name}.", remedy)
            continue

        columns = {fold(column) for column in found.columns}
        missing = [name for name in _named_columns(rules) if fold(name) not in columns]
        if missing:
            sentence = f"{rules.name} has no column {', '.join(missing)}."
            remedy = f"Correct policy.toml; the table has: {', '.join(found.columns[:40])}."
            yield Finding("tables", WRONG, sentence, remedy)
        else:
            yield Finding("tables", OK, f"{rules.name} has every column that the policy names.")


def _named_columns(rules: TableRules) -> list[str]:
    """Each once, in the policy's order."""
    names = [*rules.filter_columns, rules.unique_id]
    if not rules.all_columns:
        names = [*rules.columns, *names]
    return list(dict.fromkeys(names))


def check_keys(settings: Settings) -> Iterator[Finding]:
    """The long-lived keys are there and can be read. They are not made here."""
    if not (settings.vault / "identity.json").exists():
        remedy = "Run `./run agent keys`, or start the agent."
        yield Finding("keys", WARN, "This hospital has no keys yet.", remedy)
        return
    yield Finding("keys", OK, f"Fingerprint {_own_fingerprint(settings)}.")


def check_partners(settings: Settings) -> Iterator[Finding]:
    """Every hospital that the policy names is pinned, each by a fingerprint of its own."""
    problems = [*_pin_problems(settings), *_unpinned(settings)]
    yield from problems
    if not problems:
        names = ", ".join(partner.name for partner in settings.partners.values())
        yield Finding("partners", OK, f"Pinned: {names or 'nobody'}.")


def _pin_problems(settings: Settings) -> Iterator[Finding]:
    """Pins that are no fingerprints, and one fingerprint under two names: one of the two was never compared."""
    seen = {_own_fingerprint(settings): "this hospital itself"}
    for partner in settings.partners.values():
        name = f"{partner.name} ({partner.user_id})"
        if not _FINGERPRINT.fullmatch(partner.fingerprint):
            remedy = (
                "Eight groups of four hexadecimal digits; ask by telephone for what `./run agent keys`"
                " prints there."
            )
            yield Finding("partners", WRONG, f"The fingerprint of {name} is not one.", remedy)
        elif partner.fingerprint in seen:
            remedy = "Ask for its own fingerprint by telephone; each hospital has another one."
            sentence = f"{name} is pinned with the fingerprint of {seen[partner.fingerprint]}."
            yield Finding("partners", WRONG, sentence, remedy)
        seen.setdefault(partner.fingerprint, name)


def _unpinned(settings: Settings) -> Iterator[Finding]:
    try:
        orders = load_policy(settings.policy).orders
    except ConsiliumError:
        return  # the policy's own check says so
    named = {*orders.initiators, *orders.receivers}
    pinned = {settings.user_id, *settings.partners}
    for user_id in sorted(named - pinned):
        remedy = "Ask it by telephone for its fingerprint and add it to settings.toml under [[partners]]."
        yield Finding("partners", WRONG, f"The policy names hospital {user_id}, which is not pinned.", remedy)


def _own_fingerprint(settings: Settings) -> str:
    """Empty where there are no keys yet: a check makes none."""
    if not (settings.vault / "identity.json").exists():
        return ""
    return Vault(settings.vault).identity().public.fingerprint


# Across the wall


def _ask_coordinator(settings: Settings, now: Callable[[], datetime]) -> Iterator[Finding]:
    with settings.client() as client:
        yield from check_coordinator(client, settings, now=now)


def _ask_prefect(settings: Settings) -> Iterator[Finding]:
    with settings.client(settings.prefect_url) as client:
        yield from check_prefect(client, settings)


def check_coordinator(
    client: httpx.Client, settings: Settings, *, now: Callable[[], datetime]
) -> Iterator[Finding]:
    """It answers, in time and version, takes the token, and shows the keys that are pinned here."""
    yield from _check_encrypted("coordinator", "coordinator_url", client)
    health = _get(client, "health")
    if isinstance(health, Finding):
        yield health
        return
    yield _health_finding(health)
    yield check_clock(health.headers.get("Date"), now=now())
    yield check_version(health)
    yield from _check_membership(client, settings)


def _check_encrypted(check: str, key: str, client: httpx.Client) -> Iterator[Finding]:
    url = client.base_url
    if url.scheme == "http" and url.host not in _LOOPBACK:
        remedy = f"Ask the operator for an https address and write it as {key}."
        yield Finding(check, WARN, f"{key} is not https: secrets travel readably.", remedy)


def _get(
    client: httpx.Client, path: str, *, check: str = "coordinator", options: dict[str, Any] | None = None
) -> httpx.Response | Finding:
    try:
        return client.get(path, **(options or {}))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        remedy = "Check the address in settings.toml, the network, the proxy and ca_file; ask the operator if it runs."
        return Finding(check, WRONG, f"{client.base_url} does not answer ({type(error).__name__}).", remedy)


def _health_finding(answer: httpx.Response) -> Finding:
    if answer.status_code == 200:
        return Finding("coordinator", OK, "Answers and is ready.")
    body = _body(answer)
    if answer.status_code == 503 and "data" in body:
        reason = body.get("message") or ""
        sentence = f"Answers, but is not ready yet. {reason}".strip()
        return Finding("coordinator", WARN, sentence, "Wait, or ask the operator.")
    sentence = f"What answers is no coordinator (HTTP status {answer.status_code})."
    remedy = "Check coordinator_url, and what stands between (proxy, TLS)."
    return Finding("coordinator", WRONG, sentence, remedy)


def check_clock(date: str | None, *, now: datetime) -> Finding:
    """The clocks here and at the coordinator differ by a few seconds at most; `date` is HTTP's Date header, which has
    no parts of a second."""
    try:
        there = parsedate_to_datetime(date or "")
        seconds = (now - there).total_seconds()
    except (TypeError, ValueError):
        sentence = "The coordinator did not tell its time."
        return Finding("clock", WARN, sentence, "Compare the clocks yourself.")
    if abs(int(seconds)) <= LARGEST_ERROR_SECONDS:
        return Finding("clock", OK, "Agrees with the coordinator's.")
    word = "ahead of" if seconds > 0 else "behind"
    sentence = f"This clock is {abs(round(seconds))} seconds {word} the coordinator's."
    return Finding("clock", WARN, sentence, "Turn on time synchronisation (NTP) on both machines.")


def check_version(health: httpx.Response) -> Finding:
    """Both sides run the same version."""
    data = _body(health).get("data")
    version = data.get("version") if isinstance(data, dict) else None
    if version is None:
        sentence = f"This is {VERSION}; the coordinator did not tell its version."
        return Finding("version", WARN, sentence, "Check later.")
    if version == VERSION:
        return Finding("version", OK, f"{VERSION}, as at the coordinator.")
    sentence = f"This is {VERSION}, the coordinator runs {version}."
    return Finding("version", WRONG, sentence, "Update both to the same version.")


def _check_membership(client: httpx.Client, settings: Settings) -> Iterator[Finding]:
    token = settings.secret("token")
    headers = {"Authorization": f"Bearer {token}"}
    answer = _get(client, "hospitals", options={"headers": headers})
    if isinstance(answer, Finding):
        yield answer
    elif answer.status_code in (401, 403):
        path = settings.state / "token"
        remedy = f"Ask the operator for a new agent token and put it into {path}, mode 0600."
        yield Finding("token", WRONG, "The coordinator does not accept this token.", remedy)
    elif answer.status_code != 200:
        remedy = "Ask the operator for the coordinator's log."
        yield Finding("coordinator", WRONG, f"GET /hospitals gives HTTP status {answer.status_code}.", remedy)
    else:
        yield Finding("token", OK, "The coordinator accepts it.")
        yield from check_registry(_body(answer), settings)


def check_registry(body: dict[str, Any], settings: Settings) -> Iterator[Finding]:
    """The coordinator knows this hospital, and shows the same keys as are pinned here."""
    hospitals = body["data"]["hospitals"]
    shown = {row["user_id"]: row.get("fingerprint") for row in hospitals}
    if settings.user_id not in shown:
        remedy = f"Check user_id, or ask the operator for `./run server add-hospital` of {settings.user_id}."
        yield Finding("registry", WRONG, f"The coordinator knows no hospital {settings.user_id}.", remedy)

    # A coordinator that shows one hospital another's key could read what is sealed to it (decision 16).
    known = {partner.user_id: partner.fingerprint for partner in settings.partners.values()}
    known[settings.user_id] = _own_fingerprint(settings)
    for user_id, fingerprint in known.items():
        there = shown.get(user_id)
        if fingerprint and there and there != fingerprint:
            yield _other_key(settings, user_id)


def _other_key(settings: Settings, user_id: int) -> Finding:
    if user_id == settings.user_id:
        sentence = "The coordinator shows another key for this hospital than the one in its vault."
        start = "Start the agent, which presents its key."
        remedy = f"{start} If this stays, tell the operator: somebody may use your name."
    else:
        sentence = f"The coordinator shows another key for hospital {user_id} than the one pinned here."
        remedy = (
            "Compare fingerprints by telephone. Replace the pin only if that hospital's keys were renewed."
        )
    return Finding("registry", WRONG, sentence, remedy)


def check_prefect(client: httpx.Client, settings: Settings) -> Iterator[Finding]:
    """Prefect answers, takes the auth string, and has this hospital's pool."""
    yield from _check_encrypted("prefect", "prefect_url", client)
    options: dict[str, Any] = {}
    if settings.prefect_auth:
        user, _, password = settings.prefect_auth.partition(":")
        options["auth"] = httpx.BasicAuth(user, password)
    health = _get(client, "health", check="prefect", options=options)
    if isinstance(health, Finding):
        yield health
    elif health.status_code != 200:
        yield _prefect_trouble(health, settings)
    else:
        yield Finding("prefect", OK, "Answers.")
        pool = _get(client, f"work_pools/{settings.pool}", check="prefect", options=options)
        yield pool if isinstance(pool, Finding) else _pool_finding(pool, settings)


def _prefect_trouble(answer: httpx.Response, settings: Settings) -> Finding:
    if answer.status_code in (401, 403):
        remedy = f"Put the auth string that the operator gave you into {settings.state / 'prefect_auth'}, mode 0600."
        return Finding("prefect", WRONG, "Prefect does not accept the auth string, or asks for one.", remedy)
    sentence = f"What answers is not Prefect's API (HTTP status {answer.status_code})."
    return Finding("prefect", WRONG, sentence, "Check prefect_url; it ends in /api.")


def _pool_finding(answer: httpx.Response, settings: Settings) -> Finding:
    if answer.status_code in (401, 403):
        return _prefect_trouble(answer, settings)
    if answer.status_code == 404:
        remedy = f"Ask the operator for `./run server add-hospital` of {settings.user_id}."
        return Finding("pool", WRONG, f"Prefect has no work pool {settings.pool}.", remedy)
    body = _body(answer)
    if answer.status_code != 200 or body.get("type") != "hospital":
        remedy = "Ask the operator to make it again with `./run server add-hospital`."
        return Finding("pool", WRONG, f"{settings.pool} is no work pool of type hospital.", remedy)
    if body.get("is_paused"):
        sentence = f"The work pool {settings.pool} is paused."
        return Finding("pool", WARN, sentence, "Ask the operator to resume it.")
    return Finding("pool", OK, f"Work pool {settings.pool} is there.")


def _body(answer: httpx.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
