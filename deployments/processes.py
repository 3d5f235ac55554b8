"""Starts the processes of a federation, starts again what dies, and ends them all.

A part never outlives the process that started it, not even where that is killed:
`die_with_parent.py` has the kernel see to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deployments.bounded_logs import cut_back, older
from protocol.errors import Conflict
from tasks.exit_codes import ExitCode

STOP_SECONDS = 15.0
SHORTEST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
"""Seconds before a part that died is started again."""

WELL_SECONDS = 60.0
"""Who ran for so long before it died is started again as quickly as the first time."""
LOOK_AT_LOGS_SECONDS = 5.0
_LAST_BYTES = 4096
# -I and -S: nothing of the environment or of installed packages is read, which each
# part would wait for.
TIED = (
    sys.executable,
    "-I",
    "-S",
    str(Path(__file__).with_name("die_with_parent.py")),
)


@dataclass
class PartProcess:
    """One process: what it is called, how it starts, and where its output goes."""

    name: str
    argv: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> asyncio.subprocess.Process:
        self.log.parent.mkdir(
            parents=True,
            exist_ok=True,
            mode=0o700,
        )
        # Appending: a full log is emptied under its writers, who would else write on
        # far behind its end.
        to_append = os.O_CREAT | os.O_WRONLY | os.O_APPEND
        descriptor = os.open(self.log, to_append, 0o600)
        try:
            # One that was left behind may be open.
            os.fchmod(descriptor, 0o600)
            self.process = await asyncio.create_subprocess_exec(
                *TIED,
                str(os.getpid()),
                *self.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )
        finally:
            os.close(descriptor)
        return self.process

    def last_words(self) -> str:
        """The last line of its output."""
        last_line = _last_line(self.log)
        if last_line:
            return last_line
        # It may have been emptied a moment ago.
        return _last_line(older(self.log, 1))


def _last_line(path: Path) -> str:
    """Empty where there is none, or no such file."""
    try:
        with path.open("rb") as log:
            log_size = log.seek(0, os.SEEK_END)
            tail_start = max(0, log_size - _LAST_BYTES)
            log.seek(tail_start)
            # The first of these bytes may be the middle of a character.
            tail_text = log.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    lines = tail_text.split("\n")
    for line in reversed(lines):
        words = line.strip()
        if words:
            return words
    return ""


class RunningParts:
    """Running parts.

    Each stands in a session of its own, so that Ctrl-C reaches this process alone.
    """

    def __init__(self, *, restart: bool) -> None:
        self.parts: dict[str, PartProcess] = {}
        self._restart = restart
        self._stopping = False
        self._keepers: list[asyncio.Task[None]] = []
        self.died = asyncio.Event()
        self.not_ready = asyncio.Event()
        self._why = ""

    def check(self) -> None:
        """Conflict (code not_ready) where a part cannot run.

        It has said that a person has to put something right first.
        """
        if self.not_ready.is_set():
            raise Conflict(self._why, remedy="Then start again.", code="not_ready")

    async def run(self) -> None:
        """Until it is cancelled, or a part is not ready. Raises as `check`."""
        await self.not_ready.wait()
        self.check()

    async def add(self, part: PartProcess) -> None:
        """Starts a part and keeps it running."""
        self.parts[part.name] = part
        process = await part.start()
        keeper = asyncio.create_task(self._keep(part, process))
        self._keepers.append(keeper)
        bounding = asyncio.create_task(_bound_log(part))
        self._keepers.append(bounding)

    async def _keep(
        self,
        part: PartProcess,
        process: asyncio.subprocess.Process,
    ) -> None:
        pause = SHORTEST_PAUSE
        while True:
            began = asyncio.get_running_loop().time()
            code = await process.wait()
            if self._stopping:
                return
            print(
                f"{part.name} ended with code {code}; its output is in {part.log}",
                file=sys.stderr,
            )
            if code == ExitCode.NOT_READY:
                # Started again, it would say the same again.
                self._why = f"{part.name} cannot run. {part.last_words()}"
                self.not_ready.set()
            if code == ExitCode.NOT_READY or not self._restart:
                self.died.set()
                return
            if asyncio.get_running_loop().time() - began > WELL_SECONDS:
                pause = SHORTEST_PAUSE
            await asyncio.sleep(pause)
            # Longer each time: who dies at each start would else take a core for that.
            pause = min(2 * pause, LONGEST_PAUSE)
            process = await part.start()

    async def stop(self) -> None:
        """SIGTERM for all, then SIGKILL for who does not listen."""
        # Keepers first: none may start again what is ended here.
        self._stopping = True
        for keeper in self._keepers:
            keeper.cancel()
        # One of them may be starting a part: its process is known then, or gone.
        await asyncio.gather(*self._keepers, return_exceptions=True)
        # In the other order than they began: the coordinator's and Prefect's parts last.
        parts = [*self.parts.values()]
        for part in reversed(parts):
            _signal(part, signal.SIGTERM)
        waiting = []
        for part in parts:
            if part.process:
                ending = asyncio.create_task(part.process.wait())
                waiting.append(ending)
        if waiting:
            await asyncio.wait(waiting, timeout=STOP_SECONDS)
        for part in self.parts.values():
            _signal(part, signal.SIGKILL)
        await asyncio.gather(*waiting)


async def _bound_log(part: PartProcess) -> None:
    """For ever: nothing tells that a file has grown."""
    while True:
        # What cannot be done now, as on a full disk, is tried again.
        with contextlib.suppress(OSError):
            # In a thread: meanwhile the loop has to look after the parts.
            await asyncio.to_thread(cut_back, part.log)
        await asyncio.sleep(LOOK_AT_LOGS_SECONDS)


def _signal(part: PartProcess, number: signal.Signals) -> None:
    if part.process is not None and part.process.returncode is None:
        # It may end in between.
        with contextlib.suppress(ProcessLookupError):
            part.process.send_signal(number)


@contextlib.asynccontextmanager
async def running(*, restart: bool) -> AsyncIterator[RunningParts]:
    """A federation whose parts are all ended at the end, however it comes."""
    federation = RunningParts(restart=restart)
    try:
        yield federation
    finally:
        # Being cancelled meanwhile must not leave half of the parts running.
        await asyncio.shield(federation.stop())


def end_on_signals() -> None:
    """The first SIGINT or SIGTERM cancels the task that calls this.

    Wherever it stands; further ones do not disturb its ending.
    """
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    assert task is not None

    def end() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, lambda: None)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
