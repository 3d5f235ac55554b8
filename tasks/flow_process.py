"""The process of one flow run: a fork of the worker's fork server, tied to the worker's
life.

It takes from the run what may be taken from it, which is one number, and runs a
function that is installed here (decision 3 has why it is a fork). `tasks.worker` starts
it; the functions are in `flows.hospital_runs` and `flows.coordinator_runs`.

Decision 62.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import logging
import multiprocessing
import multiprocessing.connection
import multiprocessing.util
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn
from uuid import UUID

import httpx
from prefect import Flow
from prefect.client.schemas.objects import FlowRun
from prefect.context import refresh_global_settings_context
from prefect.exceptions import Abort
from prefect.flow_engine import run_flow

from protocol.machine.disk import is_full
from protocol.machine.importing import uncollected
from protocol.machine.outage import PREFECT, outage
from protocol.tls import obstacle
from tasks.exit_codes import ExitCode
from tasks.quiet import hush
from tasks.run_client import run_client

log = logging.getLogger("consilium.worker")
_forked = multiprocessing.get_context("forkserver")
_fresh = multiprocessing.get_context("spawn")

LOG_LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
OUTAGE = "outage"
"""The file beside the runs' locks by which all processes of a site log an outage once.
"""
END_OF_NUMBERS = 2**31
"""The coordinator's store counts orders and schedules below it."""


@dataclass(frozen=True)
class InstalledFlow:
    """Where a flow process finds its function: names taken from the function itself,
    never from a deployment.
    """

    module: str
    function: str


def installed_flows(module: ModuleType) -> dict[str, InstalledFlow]:
    """The flows that a module has, by the name that Prefect knows them by."""
    flows = [value for value in vars(module).values() if isinstance(value, Flow)]
    return {
        flow.name: InstalledFlow(module.__name__, flow.fn.__name__) for flow in flows
    }


def kind_of(error: Exception) -> str:
    """What a log may hold of an error: its kind, and HTTP's number where there is one;
    what a person has to do where it is a certificate or a proxy.
    """
    between = obstacle(error)
    if between is not None:
        return str(between)
    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP status {error.response.status_code}"
    return type(error).__name__


def number_of(flow_run: FlowRun, parameter: str) -> int | None:
    """The run's only parameter; None when it has another or more, or is no number that
    an order can have.

    One that the coordinator's API cannot read would keep all runs that it is asked
    about together from beginning.
    """
    if set(flow_run.parameters) != {parameter}:
        return None
    number = flow_run.parameters[parameter]
    is_number = type(number) is int and 0 < number < END_OF_NUMBERS
    return number if is_number else None


# In the worker's process

PRELOADED = (
    "anyio._backends._asyncio",
    "cryptography.hazmat.backends.openssl.backend",
    "encodings.cp437",
    "encodings.idna",
    "prefect.client.orchestration",
    "prefect.flow_engine",
    "prefect.task_engine",
    "prefect.utilities.visualization",
)
"""What every flow run would otherwise import for itself, in the middle of an order."""


_begin: Callable[..., multiprocessing.process.BaseProcess] = _fresh.Process
"""How a process begins: until `preload` has been called as a new interpreter, which
imports all that it needs.
"""
LAST_KNOWN_PYTHON = (3, 13)
"""Whose fork server is known here; a later one is started as it starts itself."""
FORK_SERVER = "fork server"
"""Its name among this machine's processes, as `ps -e` shows it."""


def preload(modules: Iterable[str]) -> None:
    """Imports these modules and starts the fork server with them, so that a flow run
    begins in a fraction of a second.

    The server is a fork of this process: both have the modules in the same memory
    (decision 122). To be called before this process has threads, a log or keys.
    """
    global _begin
    _begin = _forked.Process
    module_names = [*modules, *PRELOADED]
    # For another server, where this one is killed.
    _forked.set_forkserver_preload(module_names)
    with uncollected():
        for module_name in module_names:
            # As the fork server does: who needs it says what is missing.
            with contextlib.suppress(ImportError):
                importlib.import_module(module_name)
    if sys.version_info[:2] > LAST_KNOWN_PYTHON:
        forkserver.ensure_running()
    else:
        _fork_server()


def _fork_server() -> None:
    """What `multiprocessing.forkserver.ensure_running` does, with a fork in place of a
    new interpreter.
    """
    tracker: Any = resource_tracker._resource_tracker
    tracker._pid, tracker._fd = _fork_tracker()
    server: Any = forkserver._forkserver
    address = multiprocessing.connection.arbitrary_address("AF_UNIX")  # type: ignore[attr-defined]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        if not multiprocessing.util.is_abstract_socket_namespace(address):
            os.chmod(address, 0o600)
        listener.listen()
        # Whoever may ask the server holds the write end; it ends when nobody does.
        alive, hold = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(hold)
            os.close(tracker._fd)
            tracker._pid, tracker._fd = None, None
            _live_as(FORK_SERVER, forkserver.main, listener.detach(), alive, [])
        os.close(alive)
    server._forkserver_address = address
    server._forkserver_alive_fd = hold
    server._forkserver_pid = pid


def _fork_tracker() -> tuple[int, int]:
    """The process that multiprocessing has beside each program, and what is written to
    it: where it is not there yet, a new interpreter would be started for it.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write)
        _live_as("resource tracker", resource_tracker.main, read)
    os.close(read)
    return pid, write


def _live_as(name: str, main: Callable[..., None], *arguments: Any) -> NoReturn:
    """A fork's whole life; nothing of its parent's is run at its end."""
    code = 1
    try:
        # Where the system lets it.
        with contextlib.suppress(OSError):
            Path("/proc/self/comm").write_text(name)
        main(*arguments)
        code = 0
    except SystemExit:
        code = 0
    except BaseException:
        log.exception("The %s ended", name)
    finally:
        os._exit(code)


def new_process(
    flow_run_id: UUID,
    flow: InstalledFlow,
    parameter: str,
    lock: Path,
    environment: Mapping[str, str],
) -> multiprocessing.process.BaseProcess:
    """The process of a flow run, not started yet; `environment` is what has changed
    since the fork server began.
    """
    arguments = (
        str(flow_run_id),
        flow.module,
        flow.function,
        parameter,
        str(lock),
        dict(environment),
    )
    return _begin(target=run_in_child, args=arguments, daemon=True)


def own_process(
    work: Callable[..., None], *arguments: Any
) -> multiprocessing.process.BaseProcess:
    """A process for what is no flow run, not started yet; it ends with this one."""
    return _begin(target=_tied, args=(work, *arguments), daemon=True)


def beside(work: Callable[..., None], *arguments: Any) -> None:
    """Does something in a process of its own, which ends with this one."""
    process = own_process(work, *arguments)

    def see_it_end() -> None:
        process.start()
        process.join()

    threading.Thread(target=see_it_end, daemon=True).start()


def _tied(work: Callable[..., None], *arguments: Any) -> None:
    _die_with_agent()
    work(*arguments)


# In the flow's process


def run_in_child(
    flow_run_id: str,
    module: str,
    function: str,
    parameter: str,
    lock: str,
    environment: dict[str, str],
) -> None:
    """Runs one flow run to a final state.

    Its exit code is one of ExitCode, 0 where the run has a final state. Signals that
    ask for an end are the worker's business: on SIGTERM Prefect would report a crash,
    where the next worker only takes the run up.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    _die_with_agent()
    _log_to_stderr()
    outage.share(Path(lock).with_name(OUTAGE))
    _take_environment(environment)
    try:
        is_final = _run_locked(
            UUID(flow_run_id), InstalledFlow(module, function), parameter, lock
        )
    except OSError as error:
        if not is_full(error):
            raise
        sys.exit(ExitCode.DISK_FULL)
    sys.exit(0 if is_final else 1)


def _take_environment(environment: dict[str, str]) -> None:
    """Prefect's settings were read when the fork server began: a token may have been
    rotated since.
    """
    if environment.items() <= os.environ.items():
        return
    os.environ.update(environment)
    refresh_global_settings_context()


def _run_locked(
    flow_run_id: UUID, flow: InstalledFlow, parameter: str, lock: str
) -> bool:
    with open(lock, "w") as lock_file:
        # A process that an earlier worker started may still work on this run.
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(ExitCode.LOCKED)
        asked = time.monotonic()
        try:
            is_final = _run(flow_run_id, flow, parameter)
        except httpx.HTTPError as error:
            outage.missed(PREFECT, kind_of(error), asked=asked)
            sys.exit(ExitCode.PREFECT_AWAY)
        Path(lock).unlink(missing_ok=True)
    return is_final


def _run(flow_run_id: UUID, flow: InstalledFlow, parameter: str) -> bool:
    function: Flow[..., Any] = getattr(
        importlib.import_module(flow.module), flow.function
    )
    with run_client() as context:
        flow_run = context.client.read_flow_run(flow_run_id)
        # As it was judged by the worker: whatever else has been written into the run
        # since is not read.
        flow_run.parameters = {parameter: number_of(flow_run, parameter)}
        try:
            state: Any = run_flow(function, flow_run=flow_run, return_type="state")
        except Abort:  # the run has ended meanwhile
            return True
    return bool(state.is_final())


def _log_to_stderr() -> None:
    """Our own words go where the agent's go, which is this site's log.

    The fork server knows of no logging set-up.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(LOG_LINE))
    own = logging.getLogger("consilium")
    own.handlers, own.propagate = [handler], False
    own.setLevel(logging.INFO)
    hush()


def _die_with_agent() -> None:
    """A thread that waits for the agent's end; the kernel closes the agent's side of
    the pipe however it dies.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
