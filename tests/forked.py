"""`python -m tests.forked MODE FOLDER`: a program with a fork server, or without one,
for tests/unit/test_fork_server.py.

MODE is `preload`, `killed`, where its fork server is killed first, or `fresh`. What a
process of it has seen is in FOLDER, a file for each; then it waits to be ended.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing import forkserver
from pathlib import Path

IMPORTED_IN = os.getpid()
"""The process that has imported this; a fork of it has the number of another one."""


def tell(folder: str, name: str) -> None:
    """What a process of its own sees, and then it stays until it is ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    seen = {
        "pid": os.getpid(),
        "made_by": os.getppid(),
        "imported_in": IMPORTED_IN,
        "parent": parent.pid,
    }
    path = Path(folder) / f"{name}.new"
    path.write_text(json.dumps(seen))
    path.rename(path.with_suffix(".json"))
    time.sleep(600)


def main(mode: str, folder: str) -> None:
    """Begins one process beside this one, as an agent does."""
    from tasks import flow_process
    from tests import forked

    if mode != "fresh":
        flow_process.preload([forked.__name__])
    if mode == "killed":
        server: int = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
        os.kill(server, signal.SIGKILL)
        # Until it is dead; whether it is, multiprocessing asks again.
        os.waitid(os.P_PID, server, os.WEXITED | os.WNOWAIT)
    flow_process.beside(forked.tell, folder, "one")
    print(json.dumps({"pid": os.getpid(), "imported_in": forked.IMPORTED_IN}))
    sys.stdout.flush()
    time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])
