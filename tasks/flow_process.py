"""The process of one flow run: a fork of the worker's fork server, tied to the worker's
life.

It takes from the run what may be taken from it, which is one number, and runs a
function that is installed here (decision 3 has why it is a fork). `tasks.worker` starts
it; the functions are in `flows.hospital_runs` and `flows.coordinator_runs`.

Decision 62.
"""

from __future__ import annotations

import fcntl
import importlib
import logging
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import httpx
from prefect import Flow
from prefect.client.schemas.objects import FlowRun
from prefect.context import refresh_global_settings_context
from prefect.exceptions import Abort
from prefect.flow_engine import load_flow_run, run_flow

from protocol.machine.disk import is_full
from protocol.machine.outage import PREFECT, outage
from protocol.tls import obstacle
from tasks.exit_codes import ExitCode
from tasks.quiet import hush

_spawn = multiprocessing.get_context("forkserver")

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
    "encodings.idna",
    "prefect.client.orchestration",
    "prefect.flow_engine",
    "prefect.task_engine",
)
"""What every flow run would otherwise import for itself, in the middle of an order."""


def preload(modules: Iterable[str]) -> None:
    """Starts the fork server with these modules imported, so that a flow run begins in
    a fraction of a second.
    """
    _spawn.set_forkserver_preload([*modules, *PRELOADED])
    multiprocessing.forkserver.ensure_running()


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
    return _spawn.Process(target=run_in_child, args=arguments, daemon=True)


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
    with open(lock, "w") as file:
        # A process that an earlier worker started may still work on this run.
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
    flow_run = load_flow_run(flow_run_id)
    # As it was judged by the worker: whatever else has been written into the run since
    # is not read.
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
