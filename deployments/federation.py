"""A whole federation on one machine: `./run up` keeps it running, `./run demo` shows one order from end to end."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import certifi
import httpx

from agents.settings import Settings as Site
from api.settings import Settings, load_settings, port_number
from deployments.local_sites import prepare
from deployments.parts import TIED, Federation, Part, end_on_signals, running
from deployments.server import check_port, exit_code, said, why_not
from deployments.state import (
    coordinator_token,
    make_prefect_auth,
    open_store,
    page_key,
    prefect_auth,
    read_tokens,
    tokens_path,
    write_secret,
)
from protocol.errors import Conflict, ConsiliumError

START_SECONDS = 120.0
HERE = "127.0.0.1"


def parts_of_coordinator(settings: Settings, *, expected: int) -> list[Part]:
    """Prefect (unless another address is given), the API and the worker, in the order in which they start."""
    python, log = sys.executable, settings.folder / "log"
    auth = prefect_auth(settings)
    parts = []
    if _starts_prefect():
        port = str(_prefect_port(settings))
        home = settings.home / "prefect"
        server = {
            "PREFECT_HOME": str(home),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_LEVEL": "WARNING",
            "PREFECT_UI_API_URL": settings.prefect_url,
            **_frugal(local=expected > 0),
            **({"PREFECT_SERVER_API_AUTH_STRING": auth} if auth else {}),
        }
        command = [
            python,
            "-m",
            "deployments.prefect_server",
            "server",
            "start",
            "--host",
            settings.host,
            "--port",
            port,
        ]
        parts.append(Part("prefect", command, home / "server.log", server))
    own_home = {"PREFECT_HOME": str(settings.folder / "prefect-client"), "PREFECT_LOGGING_LEVEL": "WARNING"}
    api = [python, "-m", "deployments.server", "api", "--expect-agents", str(expected)]
    worker = [python, "-m", "deployments.server", "worker"]
    parts.append(Part("api", api, log / "api.log", own_home))
    parts.append(Part("worker", worker, log / "worker.log", own_home))
    return parts


def _starts_prefect() -> bool:
    """Unless another server's address is given."""
    return "CONSILIUM_PREFECT_URL" not in os.environ


def _prefect_port(settings: Settings) -> int:
    return urlsplit(settings.prefect_url).port or 0


def _frugal(*, local: bool) -> dict[str, str]:
    """Prefect writes each task's states in batches, not one by one: on SQLite single writes lock each other out.

    On one machine its event feed and automations, a third of its time, are off; nobody looks at them there.
    """
    own = {
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "50",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "50",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    }
    if local:
        own["PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED"] = "false"
        own["PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED"] = "false"
    return {name: os.environ.get(name, value) for name, value in own.items()}


def part_of_site(site: Site) -> Part:
    """A hospital's agent, as its IT would start it."""
    command = [sys.executable, "-m", "agents", "start", "--site", str(site.site)]
    return Part(site.name, command, site.state / "agent.log", {"PREFECT_LOGGING_LEVEL": "WARNING"})


def make_ready(settings: Settings) -> list[int]:
    """What the coordinator's parts need before they start, made where it is missing; the hospitals' user ids.

    Conflict for what is damaged or was lost (codes of `deployments.state`).
    """
    if _starts_prefect():
        make_prefect_auth(settings)
    store = open_store(settings)
    coordinator_token(settings, store)
    page_key(settings)
    hospital_ids = list(store.hospital_names())
    store.close()
    return hospital_ids


@contextlib.asynccontextmanager
async def federation(settings: Settings, sites: list[Site], *, restart: bool) -> AsyncIterator[Federation]:
    """A federation that can take an order, and that leaves nothing running."""
    hospital_ids = make_ready(settings)
    async with running(restart=restart) as parts, httpx.AsyncClient(trust_env=False) as client:
        waiting = parts_of_coordinator(settings, expected=len(sites))
        for part in waiting[:-1]:
            await parts.add(part)
        await _until(client, f"{settings.prefect_url}/health", parts)
        await _deploy(settings, hospital_ids)
        for part in [waiting[-1], *map(part_of_site, sites)]:
            await parts.add(replace(part, environment={**part.environment, **_one_authority(settings, sites)}))
        await _until(client, f"http://{settings.host}:{settings.port}/health", parts)
        yield parts


def _one_authority(settings: Settings, sites: list[Site]) -> dict[str, str]:
    """For a worker and agents that speak plain HTTP and DuckDB only: one authority in place of the usual many, which
    Prefect's client reads six times in each flow process nevertheless."""
    urls = [settings.prefect_url, *(site.coordinator_url for site in sites), *(site.prefect_url for site in sites)]
    is_plain = bool(sites) and all(url.startswith("http://") for url in urls)
    if "SSL_CERT_FILE" in os.environ or not is_plain or not all(site.data_url.startswith("duckdb:") for site in sites):
        return {}
    path = settings.folder / "authority.pem"
    first, end, _ = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----")
    write_secret(path, f"{first}{end}\n")
    return {"SSL_CERT_FILE": str(path)}


async def _until(client: httpx.AsyncClient, url: str, parts: Federation) -> None:
    """Waits until an address answers 200. There is no event to wait for: the process is only starting."""
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if (await client.get(url, timeout=5)).status_code == 200:
                return
        parts.check()
        if parts.died.is_set() or asyncio.get_running_loop().time() > deadline:
            raise ConsiliumError(f"{url} does not answer.", remedy="Read the logs of the parts named above.")
        await asyncio.sleep(0.1)


async def _deploy(settings: Settings, hospital_ids: list[int]) -> None:
    """In a process of its own: Prefect reads its settings when it is imported."""
    environment = {**os.environ, "PREFECT_HOME": str(settings.folder / "prefect-client")}
    command = [*TIED, str(os.getpid()), sys.executable, "-m", "deployments.server", "deploy"]
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.DEVNULL)
    if await process.wait():
        raise ConsiliumError("Prefect's deployments could not be made.", remedy="The lines above say why.")


@contextlib.contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """One federation for each CONSILIUM_HOME."""
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (settings.home / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"A federation runs in {settings.home} already.",
                remedy="Stop it, or set CONSILIUM_HOME to another folder.",
            ) from None
        yield


def choose_ports(*, any_free: bool) -> Settings:
    """The settings with ports that are free; `any_free` takes others where the usual ones are taken and none is set."""
    chosen: list[int] = []
    for name, usual in (("CONSILIUM_API_PORT", "5000"), ("CONSILIUM_PREFECT_PORT", "4200")):
        port = port_number(name, usual)
        is_free = port not in chosen and why_not(HERE, port) is None
        if not is_free and any_free and name not in os.environ:
            port = _free_port()
        elif port not in chosen:  # load_settings says it of two that are equal
            check_port(HERE, port, name)
        os.environ[name] = str(port)
        chosen.append(port)
    return load_settings()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HERE, 0))
        return int(probe.getsockname()[1])


def serve(settings: Settings) -> int:
    """`./run server`: the coordinator's half in production; hospitals are elsewhere."""

    async def run() -> None:
        async with federation(settings, [], restart=True) as parts:
            _say(settings)
            await parts.run()

    with alone(settings):
        check_port(settings.host, settings.port, "CONSILIUM_API_PORT")
        if _starts_prefect():
            check_port(settings.host, _prefect_port(settings), "CONSILIUM_PREFECT_PORT")
        asyncio.run(until_signal(run()))
    return 0


async def until_signal(work: Coroutine[Any, Any, None]) -> None:
    """Runs `work` until SIGINT or SIGTERM, which may also come while it is still starting."""
    end_on_signals()
    with contextlib.suppress(asyncio.CancelledError):
        await work


async def _up(settings: Settings, sites: list[Site], *, restart: bool) -> None:
    async with federation(settings, sites, restart=restart) as parts:
        _say(settings)
        print(f"Tokens       {tokens_path(settings)}", file=sys.stderr)
        for user_id, token in read_tokens(settings).items():
            print(f"  {user_id:>8}  {token}", file=sys.stderr)
        print("Ready. Ctrl-C ends it.", file=sys.stderr)
        await parts.run()


def _say(settings: Settings) -> None:
    print(f"Coordinator  http://{settings.host}:{settings.port}  (API at /docs)", file=sys.stderr)
    print(f"Prefect      {settings.prefect_page}  (auth string in {settings.folder / 'prefect_auth'})", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./run")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="keep a federation of local hospitals running")
    up.add_argument("--hospitals", type=int, default=3)
    up.add_argument("--no-restart", action="store_true", help="do not start a part again that dies")
    demo = commands.add_parser("demo", help="run the request document's order from end to end")
    demo.add_argument("--hospitals", type=int, default=3, help="3 or more")
    demo.add_argument("--rounds", type=int, default=10)
    demo.add_argument("--features", type=int, default=4, help="1 to 30 of x1, x2, ...")
    demo.add_argument("--method", choices=("Paillier", "Mask", "None"), default="Paillier")
    demo.add_argument("--statistics", action="store_true", help="ask for joint statistics instead")
    demo.add_argument("--picture", type=Path, help="write what is shown to this file too, as an SVG")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs `up` or `demo`; a known error is one sentence on stderr.

    Exit code 78 where a person has to put something right first, else 2.
    """
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING)
    try:
        settings = choose_ports(any_free=args.command == "demo")
        with alone(settings):
            sites = prepare(settings, n_hospitals=args.hospitals)
            if args.command == "up":
                asyncio.run(until_signal(_up(settings, sites, restart=not args.no_restart)))
                return 0
            from deployments.demo import show

            return asyncio.run(show(settings, sites, args))
    except (ConsiliumError, OSError) as caught:
        error = said(caught) if isinstance(caught, OSError) else caught
        print(error, file=sys.stderr)
        return exit_code(error)


if __name__ == "__main__":
    sys.exit(main())
