"""What the process of a flow run, or one that serves, says by the number it ends with:
sysexits.h, where it has one.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """0 means that the run has a final state; every other number that the process died."""

    PREFECT_AWAY = 69  # EX_UNAVAILABLE
    DISK_FULL = 74  # EX_IOERR: the worker starts the run again when there is room
    LOCKED = 75  # EX_TEMPFAIL: another process works on this run
    NO_PLACES = (
        76  # the order has no places now; the worker begins the run again when it has
    )
    # EX_CONFIG: the same would happen again before a person has put something right
    NOT_READY = 78
