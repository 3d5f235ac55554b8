"""The commands `consilium-agent` and `consilium-server`, as packages install them.

They become `python -m deployments.agent` and `python -m deployments.server`: each
process of a flow run would else run this program again before its own work (see there,
`__main__`).
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def agent() -> NoReturn:
    """Replaces this process; never returns."""
    _become("deployments.agent")


def server() -> NoReturn:
    """Replaces this process; never returns."""
    _become("deployments.server")


def _become(module: str) -> NoReturn:
    # Neither it nor what it starts imports from the folder that it was started in.
    os.environ["PYTHONSAFEPATH"] = "1"
    command = [sys.executable, "-m", module, *sys.argv[1:]]
    os.execv(sys.executable, command)  # noqa: S606
