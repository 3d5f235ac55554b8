"""Makes the rows of a hospital's named cohorts anew at their times, as long as its agent
runs.

It happens in a process of its own, so that a large cohort takes nothing from the worker,
and ends with it. The coordinator hears nothing of it.

Decision 119.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from agents.site.policy import load_policy
from agents.site.settings import SiteSettings
from protocol.errors import ConsiliumError, Refused
from tasks.flow_process import LOG_LINE, own_process
from tasks.worker import log

LOOK_SECONDS = 60.0
PAUSE_SECONDS = 3600.0
"""After a process that ended without a word, on a full disk perhaps."""
AT_ITS_TIME = "the agent, at its time"
"""Who has asked, in the ledger."""


async def keep_cohorts(
    settings: SiteSettings, *, look_seconds: float = LOOK_SECONDS
) -> None:
    """Runs until it is cancelled."""
    while True:
        pause = look_seconds
        if await asyncio.to_thread(is_any_due, settings):
            code = await _in_process(settings)
            if code != 0:
                log.error(
                    "Cohorts could not be made anew (the process ended with %s)", code
                )
                pause = PAUSE_SECONDS
        await asyncio.sleep(pause)


def is_any_due(settings: SiteSettings) -> bool:
    """False where the policy or a cohort's file cannot be read: `check` says why."""
    try:
        policy = load_policy(settings.policy)
        if not any(cohort.refresh for cohort in policy.cohorts.values()):
            return False
        # Only here: an agent without cohorts has nothing of rows in its memory.
        from agents.rows.cohort_refresh import due_cohorts

        return bool(due_cohorts(settings, policy, now=datetime.now(UTC)))
    except ConsiliumError:
        return False


async def _in_process(settings: SiteSettings) -> int | None:
    process = own_process(refresh_due, settings)
    process.start()
    try:
        while process.is_alive():
            await asyncio.sleep(0.2)
        return process.exitcode
    finally:
        if process.is_alive():
            process.kill()


def refresh_due(settings: SiteSettings) -> None:
    """Makes every cohort whose time has come; one that fails keeps its rows, and the log
    and `cohorts named` say why.
    """
    from agents.rows.cohort_refresh import drop_left, due_cohorts, refresh_noted

    logging.basicConfig(format=LOG_LINE)
    try:
        policy = load_policy(settings.policy)
    except Refused:
        return
    drop_left(settings, policy)
    for cohort_name in due_cohorts(settings, policy, now=datetime.now(UTC)):
        try:
            refresh_noted(
                settings, policy, cohort_name, now=datetime.now(UTC), person=AT_ITS_TIME
            )
        except ConsiliumError as error:
            log.error("The cohort %s keeps its rows: %s", cohort_name, error)
