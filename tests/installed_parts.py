"""Parts of Consilium as other people have them: packages in environments of their own,
without the tree.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UV = Path(sys.executable).with_name("uv")
PARTS = ("core", "agent", "server", "client")


def build_wheels(
    folder: Path, *, tree: Path = ROOT, parts: Sequence[str] = PARTS
) -> Path:
    """The packages of a tree, in a new folder."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d"]
    for part in parts:
        subprocess.run(
            [*command, str(folder)],
            cwd=tree / "wheels" / part,
            env=clean_environment(),
            check=True,
            capture_output=True,
        )
    return folder


def clean_environment(**variables: str) -> dict[str, str]:
    """Of this process, without what would let a program find the tree."""
    left_out = ("PYTHON", "CONSILIUM", "PREFECT", "VIRTUAL_ENV", "COV", "PYTEST")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(left_out)
    }
    return kept | variables


@dataclass(frozen=True)
class Environment:
    """One environment, and the folder that its programs are started in."""

    folder: Path
    here: Path

    @property
    def packages(self) -> Path:
        (found,) = self.folder.glob("lib/python3*/site-packages")
        return found

    def program(self, name: str) -> str:
        return str(self.folder / "bin" / name)

    def run(
        self,
        *command: str,
        check: bool = True,
        variables: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs one of its programs in an empty folder to its end."""
        done = subprocess.run(
            [self.program(command[0]), *command[1:]],
            cwd=self.here,
            env=clean_environment(**(variables or {})),
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done


def uv(folder: Path, *arguments: str) -> None:
    """One command of uv for the environment in a folder."""
    done = subprocess.run(
        [str(UV), *arguments],
        env=clean_environment(VIRTUAL_ENV=str(folder)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def install(part: str, folder: Path, wheels: Path) -> Environment:
    """A part in an environment that holds nothing else: its list, each package by its
    hash, and on it the part and the core.
    """
    here = folder.with_name(f"{folder.name}-here")
    here.mkdir(parents=True)
    uv(folder, "venv", "--quiet", "--python", sys.executable, str(folder))
    locked = str(ROOT / f"requirements-{part}.txt")
    pip = ("pip", "install", "--quiet")
    uv(folder, *pip, "--require-hashes", "--requirement", locked)
    own = [str(path) for path in sorted(wheels.glob(f"consilium_{part}-*.whl"))]
    core = [str(path) for path in sorted(wheels.glob("consilium_core-*.whl"))]
    uv(folder, *pip, "--no-deps", *core, *own)
    uv(folder, "pip", "check", "--quiet")
    return Environment(folder, here)


def add_client(environment: Environment, wheels: Path) -> None:
    """The client beside what stands in an environment already."""
    (wheel,) = wheels.glob("consilium_client-*.whl")
    locked = str(ROOT / "requirements-client.txt")
    pip = ("pip", "install", "--quiet")
    uv(environment.folder, *pip, "--require-hashes", "--requirement", locked)
    uv(environment.folder, *pip, "--no-deps", str(wheel))
    uv(environment.folder, "pip", "check", "--quiet")
