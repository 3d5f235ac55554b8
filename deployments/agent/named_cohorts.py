"""What `./run agent cohorts` prints and does about cohorts that the policy names: list
them, make their rows anew, print a definition's digest.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from agents.order.approval import person
from agents.rows.cohort_refresh import drop_left, failed_refresh, refresh_noted
from agents.rows.named_cohort import file_digest, made_cohort, usable_cohort
from agents.site.policy import load_policy
from agents.site.settings import SiteSettings
from protocol.errors import BadRequest, ConsiliumError, Refused
from protocol.policy import COHORT, Policy


def named_entries(settings: SiteSettings) -> list[dict[str, Any]]:
    """Each cohort of the policy, and what is made of it; problem: why no order can read
    it, or why its last refresh kept the rows of before.
    """
    policy = _readable_policy(settings)
    return [_entry(settings, policy, cohort_name) for cohort_name in policy.cohorts]


def _entry(settings: SiteSettings, policy: Policy, name: str) -> dict[str, Any]:
    cohort = policy.cohort_of(name)
    entry: dict[str, Any] = {
        "name": COHORT + name,
        "sql": cohort.sql,
        "sha256": cohort.sha256,
        "n_rows": None,
        "columns": [],
        "made_at": None,
        "problem": None,
    }
    # One that is wrong hides none of the others. How many rows are made is noted first:
    # they may be there under a definition that has changed since.
    try:
        made_rows = made_cohort(settings, name)
        if made_rows is not None:
            entry["n_rows"] = made_rows.n_rows
            entry["columns"] = list(made_rows.columns)
            entry["made_at"] = made_rows.made_at.isoformat()
        usable_cohort(settings, cohort)
    except ConsiliumError as error:
        entry["problem"] = str(error)
        return entry
    failed = failed_refresh(settings, name)
    if failed is not None:
        entry["problem"] = (
            f"The refresh of {failed.at:%Y-%m-%d %H:%M} (UTC) failed, the rows of before stay: {failed.sentence}"
        )
    return entry


def named_lines(entries: list[dict[str, Any]]) -> Iterator[str]:
    """Some lines for each cohort."""
    for entry in entries:
        rows = "no rows yet"
        if entry["made_at"] is not None:
            made_at = datetime.fromisoformat(entry["made_at"]).astimezone(UTC)
            rows = f"{entry['n_rows']} rows, made {made_at:%Y-%m-%d %H:%M} (UTC)"
        yield f"{entry['name']}  {rows}"
        yield f"  definition  {entry['sql']}  sha256 {entry['sha256']}"
        if entry["columns"]:
            yield f"  columns     {', '.join(entry['columns'])}"
        if entry["problem"]:
            yield f"  problem     {entry['problem']}"


def refresh(settings: SiteSettings, name: str | None) -> Iterator[str]:
    """Makes the rows of one cohort, or of all, and gives a line for each; of all it
    tries each, and raises Refused at the end where one failed.
    """
    policy = _readable_policy(settings)
    if name is not None:
        yield _refreshed(settings, policy, name.removeprefix(COHORT))
        return
    for removed_name in drop_left(settings, policy):
        yield f"{COHORT}{removed_name}  removed: policy.toml names it no more"
    failed = []
    for cohort_name in policy.cohorts:
        try:
            yield _refreshed(settings, policy, cohort_name)
        except ConsiliumError as error:
            failed.append(cohort_name)
            yield f"{COHORT}{cohort_name}  failed, the rows of before stay: {error}"
    if failed:
        raise Refused(
            f"Not made: {', '.join(failed)}.",
            remedy="Do what their lines say, and run it again.",
            code="cohort_rows",
        )


def _refreshed(settings: SiteSettings, policy: Policy, name: str) -> str:
    now = datetime.now(UTC)
    made_rows = refresh_noted(settings, policy, name, now=now, person=person())
    return f"{COHORT}{name}  {made_rows.n_rows} rows, columns {', '.join(made_rows.columns)}"


def digest_line(settings: SiteSettings, file: str | None) -> str:
    """The line of policy.toml that approves a file as it is now."""
    if file is None:
        raise BadRequest(
            "It is not said of which file.",
            remedy="Give its path as policy.toml names it, such as cohorts/diabetes_v1.sql.",
            code="cohorts",
        )
    _, digest = file_digest(settings.site / file, file)
    return f'sha256 = "{digest}"'


def _readable_policy(settings: SiteSettings) -> Policy:
    policy = load_policy(settings.policy)
    if not policy.cohorts:
        raise BadRequest(
            "This hospital's policy names no cohort.",
            remedy='Add [cohorts."name"] to policy.toml, as in deployments/sites/policy.example.toml.',
            code="cohorts",
        )
    return policy
