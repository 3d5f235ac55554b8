"""First starts that die or meet a full disk, in processes of their own, at every step
that touches the disk.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import sqlalchemy as sa

from deployments import coordinator as coordinator_module
from deployments import state
from deployments.local import sites
from protocol.errors import ConsiliumError

DIED, FULL, REFUSED = 9, 28, 78
_FILE_EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "sqlite3.connect")
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])


def coordinator(settings: Any) -> None:
    """`./run server`, before its parts start."""
    coordinator_module.make_ready(settings)


def everything(settings: Any) -> None:
    """`./run up` with one hospital, before its parts start."""
    sites.prepare(settings, n_hospitals=1)
    coordinator_module.make_ready(settings)


def start(
    first: Callable[[Any], None], settings: Any, *, at: int = 0, full: bool = False
) -> tuple[int, int]:
    """Exit code and number of steps.

    At step `at`, counted from 1, the process dies, or from there its disk is full.
    """
    told, telling = _context.Pipe(duplex=False)
    process: BaseProcess = _context.Process(
        target=_run, args=(first, settings, at, full, telling, dict(os.environ))
    )
    process.start()
    telling.close()
    try:
        n_steps = told.recv()
    except EOFError:
        n_steps = at
    process.join()
    return int(process.exitcode or 0), int(n_steps)


def _run(
    first: Callable[[Any], None],
    settings: Any,
    at: int,
    full: bool,
    telling: Any,
    variables: dict[str, str],
) -> None:
    os.environ.clear()
    os.environ.update(variables)
    os.dup2(
        os.open(
            settings.home.parent / "first-start.log",
            os.O_CREAT | os.O_WRONLY | os.O_APPEND,
        ),
        2,
    )
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if at and steps >= at:
            if not full:
                os._exit(DIED)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(settings.home))

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        if (
            event in _FILE_EVENTS
            and str(settings.home) in str(arguments[0])
            and _writes(event, arguments)
        ):
            step()

    def synced(descriptor: int, sync: Callable[[int], None] = os.fsync) -> None:
        step()
        sync(descriptor)

    sys.addaudithook(heard)
    os.fsync = synced
    sa.event.listen(sa.Engine, "before_cursor_execute", lambda *_: step())
    try:
        first(settings)
    except OSError as error:
        sys.exit(FULL if error.errno == errno.ENOSPC else 1)
    except ConsiliumError as error:
        print(error, file=sys.stderr)
        sys.exit(FULL if error.code == "store" and full else REFUSED)
    telling.send(steps)


def _writes(event: str, arguments: tuple[Any, ...]) -> bool:
    """Reading is no step: where a process that only reads dies, nothing differs."""
    return event != "open" or bool(
        arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    )


def assert_whole(settings: Any) -> None:
    """Each secret that is there is one, and each that goes with the store is known to
    it.
    """
    auth = state.prefect_auth(settings)
    assert auth is None or len(auth) == len("consilium:") + 48
    tokens = state.read_tokens(settings)
    assert all(len(token) >= 43 for token in tokens.values())
    names = (
        "coordinator/prefect_auth",
        "coordinator/token",
        "coordinator/page_key",
        "tokens.json",
    )
    for path in (
        *map(settings.home.joinpath, names),
        *settings.home.glob("sites/*/token"),
    ):
        if path.exists():
            assert path.read_text().strip()
            assert path.stat().st_mode & 0o777 == 0o600


def assert_ready(settings: Any) -> None:
    """What a first start leaves when it has come to its end."""
    assert_whole(settings)
    store = state.open_store(settings)
    own = state.coordinator_token(settings, store).read_text()
    assert store.hospitals.caller(own) is not None
    assert len(state.page_key(settings)) == 44
    for user, token in state.read_tokens(settings).items():
        caller = store.hospitals.caller(token)
        assert caller is not None
        assert user in ("operator", str(caller.user_id))
    store.close()
