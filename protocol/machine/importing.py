"""How a program imports large libraries.

Decision 155.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Within it Python does not look for cycles to collect, and later not among what is
    there at its end.

    While libraries are imported nearly all that is made stays, and the collector goes
    through it again and again: a fifth of the processor's time of a part's start. Later
    it would write into all that a process and its forks have in the same memory.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        # Let go at the end: DuckDB would write a page about it below the log's last
        # line.
        atexit.register(gc.unfreeze)
        if was_enabled:
            gc.enable()
