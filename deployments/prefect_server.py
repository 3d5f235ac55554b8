"""python -m deployments.prefect_server ARGUMENT...: Prefect's command line, with garbage collected on its own thread.

Python frees reference cycles on whichever thread happens to allocate, in Prefect's server mostly that of its event
loop. Among them are cursors of SQLite connections, and freeing a cursor waits for its connection. Where that
connection waits for the database's write lock in another thread, and who holds the lock waits for the event loop, all
three stand still until SQLite's busy timeout of 60 seconds ("database is locked", seen with Prefect 3.8.8). On a
thread of its own the collector may wait: the loop goes on, and the lock is given back.

Decision 27.
"""

from __future__ import annotations

import gc
import threading
from itertools import count

from prefect.cli import app

YOUNG_SECONDS = 1.0
ALL_EVERY = 30


def collect_apart() -> None:
    """Takes the collection of cycles over from the threads that allocate."""
    gc.disable()
    threading.Thread(target=_collect_for_ever, name="garbage", daemon=True).start()


def _collect_for_ever() -> None:
    pause = threading.Event()
    for turn in count(1):
        pause.wait(YOUNG_SECONDS)
        gc.collect(2 if turn % ALL_EVERY == 0 else 1)


if __name__ == "__main__":
    collect_apart()
    app()
