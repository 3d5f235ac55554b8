"""Flower and NVIDIA FLARE, each in an environment of its own beside ours: their
requirements and ours exclude each other.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import Unavailable

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Peer:
    """A framework, its lock, and where it is installed."""

    name: str
    lock: Path
    folder: Path
    megabytes: int


FLOWER = Peer("Flower 1.41.0", HERE / "requirements.txt", ROOT / ".venv-peers", 500)
FLARE = Peer("NVIDIA FLARE 2.9.0", HERE / "nvflare.txt", ROOT / ".venv-nvflare", 210)
OURS = ("CONSILIUM_", "PREFECT_", "PYTHON", "VIRTUAL_ENV")


def install(peer: Peer) -> Path:
    """The other environment's Python; makes it, and installs the requirements again
    only when they changed.

    Raises Unavailable where that is not possible, such as without a way to the package
    registry.
    """
    python, installed = peer.folder / "bin" / "python", peer.folder / peer.lock.name
    if not installed.exists() or installed.read_bytes() != peer.lock.read_bytes():
        print(
            f"Installing {peer.name} in {peer.folder.name} (about {peer.megabytes} MB) ...",
            file=sys.stderr,
            flush=True,
        )
        version = ["--python", sys.executable]
        _uv(peer, "venv", "--allow-existing", *version, str(peer.folder))
        into = ["--python", str(python), "--compile-bytecode", "--require-hashes"]
        _uv(peer, "pip", "sync", *into, str(peer.lock))
        # Last: an installation that was broken off begins again.
        installed.write_bytes(peer.lock.read_bytes())
    return python


def _uv(peer: Peer, *arguments: str) -> None:
    uv = Path(sys.executable).with_name("uv")
    if (
        not uv.exists()
        or subprocess.run([uv, *arguments, "--quiet"], check=False).returncode
    ):
        raise Unavailable(
            f"{peer.name}, which Consilium is to be measured beside, could not be installed.",
            remedy=f"It needs the package registry and about {peer.megabytes} MB of disk, once; "
            "all other benchmarks run without it.",
        )


def of_peer(folder: Path) -> dict[str, str]:
    """What Flower, Ray and FLARE start with: none of our own settings, their state in
    `folder`, and no word to anybody.
    """
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(OURS)
    }
    own = {
        "HOME": str(folder),  # FLARE writes its settings there
        "FLWR_HOME": str(folder / "flower"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "NVFLARE_POC_WORKSPACE": str(folder / "poc"),
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
