"""A whole federation on one machine: `./run up` keeps it running, `./run demo` shows
one order from end to end.

Decision 26.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import certifi

from agents.site.settings import SiteSettings
from api.settings import (
    CoordinatorSettings,
    load_settings,
    port_number,
    positive_number,
)
from deployments.coordinator import coordinator, starts_prefect
from deployments.processes import PartProcess, RunningParts
from deployments.serving import check_port, why_not
from deployments.state import write_secret

HERE = "127.0.0.1"


def part_of_site(site: SiteSettings) -> PartProcess:
    """A hospital's agent, as its IT would start it."""
    command = [
        sys.executable,
        "-m",
        "deployments.agent",
        "start",
        "--site",
        str(site.site),
    ]
    return PartProcess(
        site.name,
        command,
        site.state / "agent.log",
        {"PREFECT_LOGGING_LEVEL": "WARNING"},
    )


def _one_authority(
    settings: CoordinatorSettings, sites: list[SiteSettings]
) -> dict[str, str]:
    """For a worker and agents that speak plain HTTP and DuckDB only: one authority in
    place of the usual many, which Prefect's client reads six times in each flow process
    nevertheless.
    """
    urls = [settings.prefect_url, *(site.coordinator_url for site in sites)]
    is_plain = bool(sites) and all(url.startswith("http://") for url in urls)
    if (
        "SSL_CERT_FILE" in os.environ
        or not is_plain
        or not all(site.data_url.startswith("duckdb:") for site in sites)
    ):
        return {}
    authority_path = settings.folder / "authority.pem"
    # The first or any other: nothing here speaks TLS.
    first_certificate, end, _ = (
        Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----")
    )
    write_secret(authority_path, f"{first_certificate}{end}\n")
    return {"SSL_CERT_FILE": str(authority_path)}


def choose_ports(*, any_free: bool) -> CoordinatorSettings:
    """The settings with ports that are free; `any_free` takes others where the usual
    ones are taken and none is set.
    """
    chosen: list[int] = []
    ports = {"CONSILIUM_API_PORT": "5000"}
    if starts_prefect():
        ports["CONSILIUM_PREFECT_PORT"] = "4200"
    if positive_number("CONSILIUM_API_PROCESSES", "1", int) > 1:
        ports["CONSILIUM_PAGE_PORT"] = "5001"
    for variable, usual in ports.items():
        port = port_number(variable, usual)
        is_free = port not in chosen and why_not(HERE, port) is None
        if not is_free and any_free and variable not in os.environ:
            port = _free_port()
        elif port not in chosen:  # load_settings says it of two that are equal
            check_port(HERE, port, variable)
        # The parts are processes, which read it there.
        os.environ[variable] = str(port)
        chosen.append(port)
    return load_settings()


def _free_port() -> int:
    # Free now; whoever takes it before the part does makes the part say so.
    with socket.socket() as probe:
        probe.bind((HERE, 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def federation(
    settings: CoordinatorSettings,
    sites: list[SiteSettings],
    *,
    restart: bool,
    part: Callable[[SiteSettings], PartProcess] = part_of_site,
) -> AsyncIterator[RunningParts]:
    """A federation that can take an order, and that leaves nothing running.

    `part` is how a site's agent is started.
    """
    agents = [part(site) for site in sites]
    environment = _one_authority(settings, sites)
    async with coordinator(
        settings, agents=agents, environment=environment, restart=restart
    ) as parts:
        yield parts
