"""Flower in an environment of its own, beside ours: its requirements and ours exclude
each other.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from protocol.errors import Unavailable

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venv-peers"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
VERSION = "Flower 1.41.0"
OURS = ("CONSILIUM_", "PREFECT_", "PYTHON", "VIRTUAL_ENV")


def install() -> Path:
    """The other environment's Python; makes it, and installs the requirements again
    only when they changed.

    Raises Unavailable where that is not possible, such as without a way to the package
    registry.
    """
    python, installed = FOLDER / "bin" / "python", FOLDER / REQUIREMENTS.name
    if not installed.exists() or installed.read_bytes() != REQUIREMENTS.read_bytes():
        print(
            f"Installing {VERSION} in {FOLDER.name} (about 500 MB) ...",
            file=sys.stderr,
            flush=True,
        )
        _uv("venv", "--allow-existing", "--python", sys.executable, str(FOLDER))
        _uv(
            "pip",
            "sync",
            "--python",
            str(python),
            "--compile-bytecode",
            "--require-hashes",
            str(REQUIREMENTS),
        )
        installed.write_bytes(REQUIREMENTS.read_bytes())
    return python


def _uv(*arguments: str) -> None:
    uv = Path(sys.executable).with_name("uv")
    if (
        not uv.exists()
        or subprocess.run([uv, *arguments, "--quiet"], check=False).returncode
    ):
        raise Unavailable(
            f"{VERSION}, which Consilium is to be measured beside, could not be installed.",
            remedy="It needs the package registry and about 500 MB of disk, once; all other benchmarks run without it.",
        )


def of_flower(folder: Path) -> dict[str, str]:
    """What Flower and Ray start with: none of our own settings, their state in
    `folder`, and no word to anybody.
    """
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(OURS)
    }
    own = {
        "FLWR_HOME": str(folder / "flower"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    return {**kept, **own}


def of_consilium(folder: Path) -> dict[str, str]:
    """What a fresh Consilium starts with: its state in `folder`, and no setting that
    points it to another one.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("CONSILIUM_")
    }
    return {**kept, "CONSILIUM_HOME": str(folder)}
