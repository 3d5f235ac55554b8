"""The coordinator's parts as processes: Prefect, the API and the worker, started in
order and kept running.

Decision 143.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sys
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import replace
from typing import Any, NoReturn
from urllib.parse import urlsplit

import httpx

from api.settings import LOOPBACK, CoordinatorSettings
from deployments.processes import (
    TIED,
    PartProcess,
    RunningParts,
    end_on_signals,
    running,
)
from deployments.serving import check_port
from deployments.several_prefects import redis_variables
from deployments.state import (
    coordinator_token,
    make_prefect_auth,
    open_store,
    page_key,
    prefect_auth,
)
from protocol.errors import Conflict, ConsiliumError

START_SECONDS = 120.0


def parts_of_coordinator(
    settings: CoordinatorSettings, *, expected: int
) -> list[PartProcess]:
    """Prefect (unless another address is given), the API and the worker, in the order
    in which they start.
    """
    python, log = sys.executable, settings.folder / "log"
    parts = []
    if starts_prefect():
        parts.append(prefect_part(settings))
    # In the user's own home of Prefect a profile could name another server.
    own_home = {
        "PREFECT_HOME": str(settings.folder / "prefect-client"),
        "PREFECT_LOGGING_LEVEL": "WARNING",
    }
    api = [python, "-m", "deployments.server", "api", "--expect-agents", str(expected)]
    worker = [python, "-m", "deployments.server", "worker"]
    parts.append(PartProcess("api", api, log / "api.log", own_home))
    for number in range(2, settings.api_processes + 1):
        part_name = f"api-{number}"
        parts.append(PartProcess(part_name, api, log / f"{part_name}.log", own_home))
    if settings.api_processes > 1:
        page = [python, "-m", "deployments.server", "page"]
        parts.append(PartProcess("page", page, log / "page.log", own_home))
    # The last: `coordinator` starts it apart, with the agents.
    parts.append(PartProcess("worker", worker, log / "worker.log", own_home))
    return parts


def prefect_part(settings: CoordinatorSettings) -> PartProcess:
    """Prefect's server, as it is started here."""
    auth = prefect_auth(settings)
    home = settings.home / "prefect"
    environment = {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_UI_API_URL": settings.prefect_url,
        **prefect_variables(),
        **({"PREFECT_SERVER_API_AUTH_STRING": auth} if auth else {}),
    }
    command = [
        sys.executable,
        "-m",
        "deployments.prefect_process",
        # Never beyond this machine: agents come through the API's gateway.
        "--host",
        LOOPBACK[0],
        "--port",
        str(prefect_port(settings)),
    ]
    return PartProcess("prefect", command, home / "server.log", environment)


def become_prefect(settings: CoordinatorSettings) -> NoReturn:
    """`./run server prefect`: replaces this process by Prefect's server."""
    make_prefect_auth(settings)
    check_port(LOOPBACK[0], prefect_port(settings), "CONSILIUM_PREFECT_PORT")
    part = prefect_part(settings)
    environment = {**os.environ, **part.environment}
    os.execve(part.argv[0], [*part.argv], environment)  # noqa: S606


def starts_prefect() -> bool:
    """Unless another server's address is given."""
    return "CONSILIUM_PREFECT_URL" not in os.environ


def prefect_port(settings: CoordinatorSettings) -> int:
    return urlsplit(settings.prefect_url).port or 0


CLOSED = {
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
}
"""Of what `deployments.prefect_server` has no routes, neither services nor tables."""


def prefect_variables() -> dict[str, str]:
    """How much Prefect writes and keeps, and which page it shows, unless the environment
    says otherwise.

    It writes each task's states in batches, not one by one: on SQLite single writes
    lock each other out (decision 26). Its feed of events, nine tenths of its database
    and a third of its time, is not stored; an operator who stores it has it for hours.
    Once a day it looks for logs and artifacts whose run is gone: a process that dies
    while it deletes a run leaves some.

    Of its two pages it shows the older one: the newer one calls amplitude.com from the
    operator's browser, with analytics switched off too, and cannot show a deployment
    without the routes of automations (decision 82).
    """
    own = {
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "50",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "50",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED": "false",
        "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "PT6H",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,orphans",
        "PREFECT_SERVER_UI_V2_ENABLED": "false",
    }
    own |= redis_variables()
    chosen = {name: os.environ.get(name, value) for name, value in own.items()}
    # Closed ones last: no variable of the environment opens them.
    return {**chosen, **CLOSED}


def make_ready(settings: CoordinatorSettings) -> None:
    """What the coordinator's parts need before they start, made where it is missing.

    Conflict for what is damaged or was lost (codes of `deployments.state`).
    """
    if starts_prefect():
        make_prefect_auth(settings)
    store = open_store(settings)
    coordinator_token(settings, store)
    page_key(settings)
    store.close()


@contextlib.asynccontextmanager
async def coordinator(
    settings: CoordinatorSettings,
    *,
    agents: Sequence[PartProcess] = (),
    environment: Mapping[str, str] | None = None,
    restart: bool,
) -> AsyncIterator[RunningParts]:
    """The coordinator's parts, and agents of this machine beside them, that can take an
    order; nothing is left running.

    `environment` is added to that of the coordinator's worker and of the agents.
    """
    # Before any part starts: two of them would make the same secret at once.
    make_ready(settings)
    async with (
        running(restart=restart) as parts,
        # A proxy of the environment would be asked for addresses of this machine.
        httpx.AsyncClient(trust_env=False) as client,
    ):
        *servers, worker = parts_of_coordinator(settings, expected=len(agents))
        for part in servers:
            await parts.add(part)
        workers = [
            replace(part, environment={**part.environment, **(environment or {})})
            for part in (worker, *agents)
        ]
        async with _deploying(settings) as deployed:
            await _until(client, f"{settings.prefect_url}/health", parts)
            # Side by side: a worker imports for longer than this takes, and one that
            # is quicker asks for its pool again.
            await asyncio.gather(deployed(), _add_all(parts, workers))
        await _until(client, f"http://{settings.host}:{settings.port}/health", parts)
        yield parts


async def _add_all(parts: RunningParts, workers: Sequence[PartProcess]) -> None:
    for part in workers:
        await parts.add(part)


async def _until(client: httpx.AsyncClient, url: str, parts: RunningParts) -> None:
    """Waits until an address answers 200.

    There is no event to wait for: the process is only starting.
    """
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if (await client.get(url, timeout=5)).status_code == 200:
                return
        # A part that cannot run has said why, which is better than the sentence below.
        parts.check()
        if parts.died.is_set() or asyncio.get_running_loop().time() > deadline:
            raise ConsiliumError(
                f"{url} does not answer.",
                remedy="Read the logs of the parts named above.",
            )
        await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def _deploying(
    settings: CoordinatorSettings,
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """A process that makes Prefect's deployments as soon as it is told, and imports what
    it needs for that meanwhile; what is given tells it, and waits for its end.

    A process of its own: Prefect reads its settings when it is imported.
    """
    environment = {
        **os.environ,
        "PREFECT_HOME": str(settings.folder / "prefect-client"),
    }
    command = [
        *TIED,
        str(os.getpid()),
        sys.executable,
        "-m",
        "deployments.server",
        "deploy",
        "--when-told",
    ]
    process = await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        # As the parts: Ctrl-C reaches this process alone, which ends it.
        start_new_session=True,
    )

    async def deployed() -> None:
        await process.communicate(b"\n")
        if process.returncode:
            raise ConsiliumError(
                "Prefect's deployments could not be made.",
                remedy="The lines above say why.",
            )

    try:
        yield deployed
    finally:
        if process.returncode is None:
            # Nobody has told it, or nobody waits for it any longer.
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


@contextlib.contextmanager
def alone(settings: CoordinatorSettings) -> Iterator[None]:
    """One federation for each CONSILIUM_HOME."""
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    # The file stays when this ends; the lock is the kernel's and goes with the process.
    with (settings.home / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"A federation runs in {settings.home} already.",
                remedy="Stop it, or set CONSILIUM_HOME to another folder.",
            ) from None
        yield


def serve(settings: CoordinatorSettings) -> int:
    """`./run server`: the coordinator's half in production; hospitals are elsewhere."""

    async def run() -> None:
        async with coordinator(settings, restart=True) as parts:
            say_addresses(settings)
            await parts.run()

    with alone(settings):
        check_port(settings.host, settings.port, "CONSILIUM_API_PORT")
        if settings.api_processes > 1:
            check_port(settings.host, settings.page_port, "CONSILIUM_PAGE_PORT")
        if starts_prefect():
            check_port(LOOPBACK[0], prefect_port(settings), "CONSILIUM_PREFECT_PORT")
        asyncio.run(until_signal(run()))
    return 0


async def until_signal(work: Coroutine[Any, Any, None]) -> None:
    """Runs `work` until SIGINT or SIGTERM, which may also come while it is still
    starting.
    """
    end_on_signals()
    with contextlib.suppress(asyncio.CancelledError):
        await work


def say_addresses(settings: CoordinatorSettings) -> None:
    """Where the coordinator and Prefect are reached."""
    print(
        f"Coordinator  http://{settings.host}:{settings.port}  (API at /docs)",
        file=sys.stderr,
    )
    print(
        f"Prefect      {settings.prefect_page}  (auth string in {settings.folder / 'prefect_auth'})",
        file=sys.stderr,
    )
