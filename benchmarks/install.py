"""What it takes to install one hospital's part: seconds of `pip install`, those of the
processor among them, megabytes in site-packages, and packages, beside the peers that pip
can install. On a machine that others use, seconds of the processor are what compares.

Each in a new environment, from the registry, without pip's cache, with the hashes of a
lock; nothing of that is built from sources. Environments are made in a temporary folder,
without pip and setuptools, so that only what was asked for is counted, bytecode included.

Peers of gigabytes, with packages that have no wheel, are resolved and not installed: what
pip would fetch is counted by the sizes that the registry tells.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

from benchmarks.clock import timed
from deployments.release.making import Source, build_wheels
from protocol.errors import Unavailable

ROOT = Path(__file__).resolve().parents[1]
PEERS = Path(__file__).with_name("peers")
MEGABYTE = 10**6
GIGABYTE = 10**9
OTHER_SOURCES = ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT")
"""Settings of pip by which files would not come from the registry; neither is pip's
configuration file read."""


@dataclass(frozen=True)
class Part:
    """What one command installs."""

    name: str
    lock: Path
    wheels: tuple[str, ...] = ()  # ours, which are built of this tree
    python: str = ""  # another one than this


@dataclass(frozen=True)
class Installed:
    """What it took: seconds of pip, by the clock and of the processor; bytes of files and
    packages in site-packages.
    """

    seconds: float
    processor_seconds: float
    n_bytes: int
    n_packages: int


@dataclass(frozen=True)
class Resolved:
    """What pip would fetch: packages, bytes, and the names of those without a wheel."""

    n_packages: int
    n_bytes: int
    without_wheel: tuple[str, ...]


PARTS = (
    Part("Consilium's agent", ROOT / "requirements-agent.txt", ("core", "agent")),
    Part("Consilium's client", ROOT / "requirements-client.txt", ("core", "client")),
    Part("Flower 1.41.0", PEERS / "flower.txt"),
    Part("NVIDIA FLARE 2.9.0", PEERS / "nvflare.txt"),
    Part("vantage6 5.0.3, CLI", PEERS / "vantage6.txt", python="python3.13"),
)
RESOLVED_ONLY = {
    "Fed-BioMed 6.4.1": "fedbiomed==6.4.1",
    "FATE 2.2.0": "fate_client[fate,fate_flow]==2.2.0",
}


def main() -> None:
    """Prints seconds, megabytes and packages, and each as a ratio to the agent's."""
    print("pip install in a new environment, no cache")
    print(
        f"  {'':22}{'seconds':>9}{'processor':>11}{'MB':>8}{'packages':>10}   ratios to the agent",
        flush=True,
    )
    agent = None
    with tempfile.TemporaryDirectory(prefix="consilium-install-") as name_of_folder:
        folder = Path(name_of_folder)
        wheels = folder / "wheels"
        source = Source(
            ROOT,
            "",
            "",
            int(time.time()),
        )
        build_wheels(source, wheels)
        for part in PARTS:
            if part.python and not _runs(part.python):
                print(f"  {part.name:22}needs {part.python}, which is not here")
                continue
            found = _install(part, wheels, folder / "venv")
            agent = agent or found
            line = _line(found, agent)
            print(f"  {part.name:22}{line}", flush=True)
        for name, requirement in RESOLVED_ONLY.items():
            text = _resolve(requirement, folder, name)
            line = resolved_line(resolved(text))
            print(f"  {name:22}{line}", flush=True)


def _runs(python: str) -> bool:
    """A name on the path may be a shim of a version that is not installed."""
    if shutil.which(python) is None:
        return False
    tried = subprocess.run(
        [python, "-c", ""],
        capture_output=True,
        check=False,
    )
    return tried.returncode == 0


def _line(found: Installed, agent: Installed) -> str:
    ratios = (
        found.seconds / agent.seconds,
        found.processor_seconds / agent.processor_seconds,
        found.n_bytes / agent.n_bytes,
        found.n_packages / agent.n_packages,
    )
    said = "".join(f"{ratio:7.2f}" for ratio in ratios)
    megabytes = found.n_bytes / MEGABYTE
    seconds = f"{found.seconds:9.1f}{found.processor_seconds:11.1f}"
    return f"{seconds}{megabytes:8.0f}{found.n_packages:10}{said}"


def resolved(text: str) -> Resolved:
    """Of a pylock.toml (PEP 751): what it makes an installer fetch."""
    packages = tomllib.loads(text)["packages"]
    n_bytes = 0
    without_wheel = []
    for package in packages:
        # uv lists the one wheel that fits this machine.
        wheels = package.get("wheels", [])
        if wheels:
            fetched = wheels[0]
        else:
            without_wheel.append(package["name"])
            fetched = package["sdist"]
        n_bytes += fetched["size"]
    return Resolved(
        n_packages=len(packages),
        n_bytes=n_bytes,
        without_wheel=tuple(without_wheel),
    )


def resolved_line(found: Resolved) -> str:
    """Under the same headings: no seconds, nothing in site-packages."""
    gigabytes = found.n_bytes / GIGABYTE
    built = ", ".join(found.without_wheel) or "none"
    said = f"   not installed: {gigabytes:.1f} GB to fetch; without a wheel: {built}"
    return f"{'':9}{'':11}{'':8}{found.n_packages:10}{said}"


def _resolve(requirement: str, folder: Path, name: str) -> str:
    """A lock of today for this Python. The metadata of what has no wheel is built."""
    asked = folder / "asked.in"
    lock = folder / "pylock.asked.toml"
    asked.write_text(requirement + "\n")
    lock.unlink(missing_ok=True)
    major, minor = sys.version_info[:2]
    python = f"{major}.{minor}"
    uv = str(Path(sys.executable).with_name("uv"))
    command = [uv, "pip", "compile", "--quiet", "--no-config", "--no-cache"]
    command += ["--python", sys.executable, "--python-version", python]
    command += [
        "--format",
        "pylock.toml",
        "--output-file",
        str(lock),
        str(asked),
    ]
    _run(command, name)
    return lock.read_text("utf-8")


def _install(part: Part, wheels: Path, venv: Path) -> Installed:
    """Into a new environment, which is removed again."""
    python = part.python or sys.executable
    make = [python, "-m", "venv", "--without-pip", str(venv)]
    _run(make, part.name)
    try:
        before = _processor_seconds()
        seconds, _ = timed(lambda: _pip_install(part, wheels, venv))
        of_processor = _processor_seconds() - before
        (packages,) = venv.glob("lib/python*/site-packages")
        n_bytes = 0
        for path in packages.rglob("*"):
            if path.is_file():
                n_bytes += path.stat().st_size
        named = list(packages.glob("*.dist-info"))
        return Installed(
            seconds,
            of_processor,
            n_bytes=n_bytes,
            n_packages=len(named),
        )
    finally:
        shutil.rmtree(venv)


def _processor_seconds() -> float:
    """Of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _pip_install(part: Part, wheels: Path, venv: Path) -> None:
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(venv / "bin" / "python"),
    ]
    pip += ["--disable-pip-version-check", "install", "--quiet", "--no-cache-dir"]
    pip += ["--root-user-action=ignore", "--no-deps"]
    locked = ["--require-hashes", "--only-binary=:all:", "--requirement"]
    _run([*pip, *locked, str(part.lock)], part.name)
    if part.wheels:
        ours = []
        for name in part.wheels:
            for path in wheels.glob(f"consilium_{name}-*.whl"):
                ours.append(str(path))
        # Apart: with --require-hashes pip takes no file without a hash.
        _run([*pip, "--no-index", *ours], part.name)


def _run(command: list[str], name: str) -> None:
    kept = {}
    for key, value in os.environ.items():
        if key not in OTHER_SOURCES:
            kept[key] = value
    kept["PIP_CONFIG_FILE"] = os.devnull
    done = subprocess.run(
        command,
        env=kept,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        last = " ".join(lines[-1:])
        raise Unavailable(
            f"{name} could not be installed: {last}",
            remedy="It needs the package registry; all other benchmarks run without it.",
        )


if __name__ == "__main__":
    main()
