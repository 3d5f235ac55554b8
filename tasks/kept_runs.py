"""What keeps a run going here: its process, and another one after each that dies.

`tasks.worker` finds the runs, and says to Prefect how they have ended; nothing here asks
Prefect. `tasks.flow_process` is the process of a run.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from multiprocessing.process import BaseProcess
from pathlib import Path
from uuid import UUID

import anyio
from prefect.client.schemas.objects import FlowRun

from protocol.exchange import LONGEST_PAUSE_SECONDS
from protocol.machine.disk import has_room
from tasks.exit_codes import ExitCode
from tasks.flow_process import InstalledFlow, new_process

log = logging.getLogger("consilium.worker")

MAX_CRASHES = 10
"""One after the other. Then the order ends for all."""
CALM_SECONDS = 60.0
"""A process that has lasted so long has not died of what the one before it died of."""
FIRST_PAUSE_SECONDS = 0.1
LOOK_AT_ROOM_SECONDS, LOOK_FOR_ROOM_SECONDS = 0.5, 10.0
GETS_ON_SECONDS = 5.0
"""A process that has lasted so long since its disk was full has found room."""
COUNTED_FOR_NOTHING = (ExitCode.LOCKED, ExitCode.PREFECT_AWAY, ExitCode.NOT_READY)
"""These say nothing against the run, however often they come."""
HOLDS_UP = (ExitCode.DISK_FULL, ExitCode.NOT_READY)
"""What a person at this site puts right.

Until then the run is tried again and again, and the coordinator is told.
"""


@dataclass
class Work:
    """One flow run under way here; a schedule's is no order's."""

    order_id: int | None
    process: BaseProcess | None = None
    ended: bool = False  # its order has ended: it is not started again

    def kill(self) -> None:
        if self.process is not None and self.process.is_alive():
            self.process.kill()


class KeptUntil(Enum):
    """Why a run is not started again."""

    END = "it or its order has ended"
    NO_PLACES = "its order has no places now"
    TOO_MANY_CRASHES = "its process died too often"


class RunKeeper:
    """Keeps the processes of a site's runs, each under its own lock in `locks`."""

    def __init__(
        self, locks: Path, environment: Callable[[], Mapping[str, str]]
    ) -> None:
        self._locks = locks
        # What a process that is started now gets beside the worker's own.
        self._environment = environment
        # The code of one of HOLDS_UP, by run: its last process ended with it.
        self._held_up: dict[UUID, int] = {}

    def is_held_up_by(self, code: ExitCode) -> bool:
        """Whether any run here waits for a person to put this right."""
        return code in self._held_up.values()

    async def keep_running(
        self, flow_run: FlowRun, work: Work, installed: InstalledFlow, parameter: str
    ) -> KeptUntil:
        """Another process after each that dies, after a pause that grows."""
        crashes = 0
        pause = FIRST_PAUSE_SECONDS
        while crashes < MAX_CRASHES:
            began = time.monotonic()
            code = await self._one_process(flow_run, work, installed, parameter)
            was_not_ready = self._held_up.get(flow_run.id) == ExitCode.NOT_READY
            self._note_end(flow_run.id, code)
            if code == 0 or work.ended:
                return KeptUntil.END
            if code == ExitCode.DISK_FULL:
                await self._until_room(work)
                if work.ended:
                    return KeptUntil.END
                continue
            if code == ExitCode.NO_PLACES:
                return KeptUntil.NO_PLACES
            if time.monotonic() - began > CALM_SECONDS:
                crashes = 0
                pause = FIRST_PAUSE_SECONDS
            if code not in COUNTED_FOR_NOTHING:
                crashes += 1
            # The process itself has logged that Prefect is away, once for all of them;
            # and a site stays unready until a person has put it right.
            still_not_ready = was_not_ready and code == ExitCode.NOT_READY
            if code != ExitCode.PREFECT_AWAY and not still_not_ready:
                log.warning(
                    "The process of %s ended with code %s; starting it again",
                    flow_run.name,
                    code,
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        return KeptUntil.TOO_MANY_CRASHES

    async def _one_process(
        self, flow_run: FlowRun, work: Work, installed: InstalledFlow, parameter: str
    ) -> int:
        """Starts it, waits until it has ended, and gives its exit code."""
        lock = self._locks / f"{flow_run.id}.lock"
        process = new_process(
            flow_run.id, installed, parameter, lock, self._environment()
        )
        work.process = process
        await anyio.to_thread.run_sync(process.start)
        with anyio.move_on_after(GETS_ON_SECONDS) as early:
            await anyio.wait_readable(process.sentinel)
        if early.cancelled_caught:
            # It gets on: nothing holds it up any longer.
            self._note_end(flow_run.id, None)
            await anyio.wait_readable(process.sentinel)
        process.join()
        return int(process.exitcode or 0)

    def _note_end(self, run_id: UUID, code: int | None) -> None:
        """What holds runs up here, a full disk or a site that is not ready.

        Said once, however many runs it is.
        """
        was_full = self.is_held_up_by(ExitCode.DISK_FULL)
        self._held_up.pop(run_id, None)
        if code in HOLDS_UP:
            self._held_up[run_id] = code
        is_full = self.is_held_up_by(ExitCode.DISK_FULL)
        if is_full and not was_full:
            log.warning(
                "The disk is full: the orders under way wait, and go on when there is room"
            )
        if was_full and not is_full:
            log.warning("There is room on the disk again")

    async def _until_room(self, work: Work) -> None:
        """Until something can be written beside the runs' locks.

        Or long enough for another disk to have room: which one was full is not known.
        """
        give_up = time.monotonic() + LOOK_FOR_ROOM_SECONDS
        while not work.ended and time.monotonic() < give_up:
            await asyncio.sleep(LOOK_AT_ROOM_SECONDS)
            if await anyio.to_thread.run_sync(has_room, self._locks):
                return
