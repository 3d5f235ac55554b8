"""Starting the agent: its environment, its log and its self-test."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from agents.check.findings import OK
from agents.site.settings import SiteSettings, load_settings
from deployments.agent.checking import finding_lines
from deployments.agent.printing import (
    printable,
)
from protocol.machine.importing import uncollected
from protocol.machine.installed import require_own_environment

log = logging.getLogger("consilium.agent")


NEVER_READ = (
    # Of somebody's own work with Prefect: its client would send them to the coordinator.
    "PREFECT_API_KEY",
    "PREFECT_API_AUTH_STRING",
    # Prefect's client alone would trust it.
    "PREFECT_API_SSL_CERT_FILE",
)
"""Of the environment, nothing that says whom this agent trusts or who it is."""


def start(_options: argparse.Namespace, settings: SiteSettings) -> int:
    """Runs the agent; Prefect reads its environment once, when it is first imported.

    The self-test runs in a process beside it, so that a slow database delays nothing,
    and what it has read is out of memory when it ends; a fault of the site ends no
    agent.
    """
    require_own_environment()
    # Before anything imports Prefect.
    take_environment(settings)
    with uncollected():
        from flows import hospital_runs
        from tasks.hospital.worker import main as work

    work(settings, hospital_runs, began=lambda: _log_and_test(settings))
    return 0


def _log_and_test(settings: SiteSettings) -> None:
    from tasks.flow_process import beside

    log_to_stderr()
    beside(_log_findings, settings.site)


def log_to_stderr() -> None:
    """Which is the site's log."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("consilium").setLevel(logging.INFO)


def take_environment(settings: SiteSettings) -> None:
    """What Prefect's client reads, in this process and those that it starts.

    It would follow variables that no other client of the agent reads: settings.toml
    says which proxy is taken, for all of them.
    """
    # A list of the names: they are taken out while it is gone through.
    for variable in [*os.environ]:
        # In capitals and in small letters: libraries read both.
        is_proxy = variable.lower().endswith("_proxy")
        if is_proxy or variable in NEVER_READ:
            del os.environ[variable]
    os.environ.update(settings.environment())


def _log_findings(site: Path) -> None:
    """In a process of its own."""
    from agents.check.site import check_locally

    log_to_stderr()
    for finding in check_locally(load_settings(site)):
        if finding.state != OK:
            (finding_line,) = finding_lines([finding])
            log.warning("%s", printable(finding_line))
