"""A hospital's agent as it is, but for its way to Prefect: Prefect's own address and its
auth string in place of the coordinator's gateway and the agent's token.

Only `benchmarks.gateway` starts it, to have something to compare the gateway with.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from agents.rows.database import driver_modules
from agents.site.settings import SiteSettings, load_settings
from agents.site.vault import Vault
from deployments.local.federation import part_of_site
from deployments.processes import PartProcess

DIRECT = ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING")
"""Set by who starts it; an agent in use takes neither from its environment."""


def part_without_gateway(
    site: SiteSettings, prefect_url: str, auth: str
) -> PartProcess:
    """The agent of a site as a process that reaches Prefect at `prefect_url`."""
    usual = part_of_site(site)
    command = [sys.executable, "-m", "benchmarks.direct_agent", str(site.site)]
    direct = dict(zip(DIRECT, (prefect_url, auth), strict=True))
    return PartProcess(usual.name, command, usual.log, {**usual.environment, **direct})


def prefect_environment(
    settings: SiteSettings, given: Mapping[str, str]
) -> dict[str, str]:
    """What an agent in use has, with Prefect's address and string in place of the
    gateway's address and the token.
    """
    variables = settings.environment()
    for name in settings.token_environment():
        del variables[name]
    return variables | {name: given[name] for name in DIRECT}


def main(site: Path) -> None:
    """Works until SIGINT or SIGTERM, as `deployments.agent.start` does."""
    settings = load_settings(site)
    # Before anything imports Prefect.
    os.environ.update(prefect_environment(settings, os.environ))
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("consilium").setLevel(logging.INFO)
    from flows import hospital_runs
    from tasks.flow_process import preload

    Vault(settings.vault).identity()
    drivers = driver_modules(settings.data_url)
    preload([hospital_runs.__name__, *hospital_runs.PRELOADED, *drivers])
    asyncio.run(_work(settings))


async def _work(settings: SiteSettings) -> None:
    from flows import hospital_runs
    from tasks.hospital.worker import HospitalWorker
    from tasks.post import Post
    from tasks.worker import FlowWorker, work_until_signal

    class DirectWorker(HospitalWorker):
        """Its calls to Prefect have the string that they were started with."""

        async def setup(self) -> None:
            await FlowWorker.setup(self)

        def flow_environment(self) -> Mapping[str, str]:
            return {}

    async with settings.async_client() as client:
        post = Post(client, token=lambda: settings.secret("token"))
        worker = DirectWorker(settings, flows=hospital_runs, post=post)
        await work_until_signal(worker)
