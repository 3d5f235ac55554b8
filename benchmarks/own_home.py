"""A folder of its own for a federation that a benchmark starts."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from deployments.local.sites import sites_folder

_CHOSEN = (
    "CONSILIUM_API_PORT",
    "CONSILIUM_PREFECT_PORT",
    "CONSILIUM_PREFECT_KEEP_ORDERS",
)
"""What a person has set for the federation in use, and a benchmark's has not."""


@contextlib.contextmanager
def own_home() -> Iterator[None]:
    """CONSILIUM_HOME in a temporary folder; the environment is as before afterwards."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CONSILIUM_HOME"] = folder
        for name in _CHOSEN:
            os.environ.pop(name, None)
        try:
            yield
        finally:
            # All of it: ports that were chosen for this folder stand there, too.
            os.environ.clear()
            os.environ.update(before)


def write_setting(line: str) -> None:
    """The named sites, copied into the home, with this line more in their settings."""
    copies = Path(os.environ["CONSILIUM_HOME"]) / "copied-sites"
    shutil.copytree(sites_folder(), copies)
    for path in copies.glob("*/settings.toml"):
        path.write_text(f"{path.read_text()}\n{line}\n")
    os.environ["CONSILIUM_SITES"] = str(copies)
