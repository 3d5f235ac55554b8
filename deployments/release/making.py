"""The steps of a release, one after the other."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from deployments.release.bundle import describe, pack
from deployments.release.sbom import bill_of_materials
from deployments.signed_files import sign_sums, write_sums
from protocol.errors import BadRequest, ConsiliumError
from protocol.versions import bundle_name

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("core", "agent", "server", "client")
LOCKED = ("agent", "server", "client")
EXTRAS = ("sqlserver", "oracle")
"""Of the agent: drivers, each with a lock of its own."""
SERVER_EXTRAS = ("redis",)
PYTHONS = ("3.11", "3.12", "3.13")
NEWER = "requirements-newer.txt"
"""Pins of what newer Pythons alone ask for."""
NEWEST_GLIBC = 34
"""Of 2.x: what a bundle may ask for at most."""
_VERSION = re.compile(r'^VERSION = "([^"]+)"$', re.MULTILINE)


@dataclass(frozen=True)
class Source:
    """The tree that a release is made of."""

    tree: Path
    version: str
    commit: str
    seconds: int  # of the commit, since 1970


def make_release(
    target: Path, *, work: Path, pythons: tuple[str, ...], key: Path | None
) -> None:
    """Makes everything in a new folder.

    BadRequest for a folder that exists and a tree with changes; ConsiliumError where a
    tool fails.
    """
    if target.exists():
        raise BadRequest(
            f"{target} exists already.",
            remedy="Give --into a folder that does not exist.",
            code="cannot_release",
        )
    source = take_source(work / "tree")
    target.mkdir(parents=True)
    build_wheels(source, target)
    for part in (*LOCKED, *EXTRAS, *SERVER_EXTRAS):
        for python in pythons:
            lock_name = f"requirements-{part}-{python}.txt"
            (target / lock_name).write_text(lock_for(source.tree, part, python))
    for python in pythons:
        make_bundle(source, target, work, python, key)
    write_sums(target)
    if key is not None:
        sign_sums(target, key)


def take_source(tree: Path) -> Source:
    """The files of the newest commit; a change that is in no commit is in no release."""
    changed = _output("git", "status", "--porcelain", "--untracked-files=no")
    if changed:
        raise BadRequest(
            f"This tree has changes that are in no commit: {changed.splitlines()[0].strip()}.",
            remedy="Commit them, or take them back.",
            code="cannot_release",
        )
    commit = _output("git", "rev-parse", "HEAD")
    seconds = int(_output("git", "log", "-1", "--format=%ct", commit))
    archive = subprocess.run(
        ["git", "archive", "--format=tar", commit],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as files:
        files.extractall(tree, filter="data")
    match = _VERSION.search((tree / "protocol" / "__init__.py").read_text("utf-8"))
    assert match is not None
    return Source(tree, match[1], commit, seconds)


def _output(*command: str) -> str:
    process = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    if process.returncode:
        raise BadRequest(
            f"`{' '.join(command)}` fails: {process.stderr.strip()}.",
            remedy="Make a release in a clone of the repository.",
            code="cannot_release",
        )
    return process.stdout.strip()


def build_wheels(source: Source, target: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d"]
    for part in PARTS:
        _run(
            [*command, str(target.resolve())],
            folder=source.tree / "wheels" / part,
            # The commit's time stands in the wheels, in place of today's.
            variables={"SOURCE_DATE_EPOCH": str(source.seconds)},
        )


def lock_for(tree: Path, part: str, python: str) -> str:
    """A part's lock as another Python needs it: of the packages of the committed lock,
    at its versions and hashes, those that this Python asks for.
    """
    committed = f"requirements-{part}.txt"
    command = ["pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    command += ["--generate-hashes", "--python-version", python]
    # What is committed binds: no newer version comes in by making a release.
    for pins in (committed, NEWER):
        command += ["--constraint", pins]
    command.append(f"requirements-{part}.in")
    lock_text = _run([_uv(), *command], folder=tree)
    known_hashes: dict[str, set[str]] = {}
    for pins in (committed, NEWER):
        known_hashes |= _pins((tree / pins).read_text("utf-8"))
    for package, hashes in _pins(lock_text).items():
        # A hash that nobody has committed is refused, too: the registry may have
        # another file under this version by now.
        if package not in known_hashes or not hashes <= known_hashes[package]:
            raise ConsiliumError(
                f"{package}, which {part} needs for Python {python}, is neither in {committed} nor in {NEWER}.",
                remedy=f"List it in {NEWER.replace('.txt', '.in')}, run ./run lock, and commit what that changes.",
                code="cannot_release",
            )
    return lock_text


def _pins(text: str) -> dict[str, set[str]]:
    """Of a lock, the hashes of each package at its version."""
    pins = {}
    for block in re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE):
        first_line = block.split("\\")[0].split("\n")[0].strip()
        if "==" in first_line:
            pinned = first_line.split(";")[0].strip()
            pins[pinned] = set(re.findall(r"--hash=(sha256:[0-9a-f]{64})", block))
    return pins


def make_bundle(
    source: Source, target: Path, work: Path, python: str, key: Path | None
) -> None:
    """The agent's bundle for one Python, and its bill of materials beside it."""
    name = bundle_name(source.version, python)
    folder = work / name
    wheels = folder / "wheels"
    wheels.mkdir(parents=True)
    locks = {"agent": "requirements.txt"}
    for extra in EXTRAS:
        locks[extra] = f"requirements-{extra}.txt"
    for part, lock in locks.items():
        shutil.copy(target / f"requirements-{part}-{python}.txt", folder / lock)
        fetch_wheels(folder / lock, wheels, python)
    for part in ("core", "agent"):
        (wheel,) = target.glob(f"consilium_{part}-*.whl")
        shutil.copy(wheel, wheels)
    describe(
        folder,
        version=source.version,
        commit=source.commit,
        python=python,
        machine=platform.machine(),
    )
    bill = bill_of_materials(
        list(wheels.iterdir()),
        name=name,
        version=source.version,
        commit=source.commit,
        seconds=source.seconds,
    )
    (target / f"{name}.cdx.json").write_text(bill)
    write_sums(folder)
    if key is not None:
        sign_sums(folder, key)
    pack(folder, target / f"{name}.tar", seconds=source.seconds)


def fetch_wheels(lock: Path, wheels: Path, python: str) -> None:
    """Every wheel of a lock, for a Python that need not be on this machine; pip refuses
    each whose hash is not in the lock, and there is no building from sources.
    """
    machine = platform.machine()
    # The lock names everything: nothing is looked for besides.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--require-hashes", "--only-binary=:all:", "--dest", str(wheels)]
    command += ["--python-version", python, "--implementation", "cp"]
    for abi in (f"cp{python.replace('.', '')}", "abi3", "none"):
        command += ["--abi", abi]
    # pip takes these names word for word: each older glibc has to be named.
    for minor in range(NEWEST_GLIBC, 4, -1):
        command += ["--platform", f"manylinux_2_{minor}_{machine}"]
    for older in ("manylinux2014", "manylinux2010", "manylinux1"):
        command += ["--platform", f"{older}_{machine}"]
    _run([*command, "--requirement", str(lock)], folder=wheels)


def _uv() -> str:
    return str(Path(sys.executable).with_name("uv"))


def _run(
    command: list[str], *, folder: Path, variables: dict[str, str] | None = None
) -> str:
    process = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **(variables or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        last_lines = process.stderr.strip().splitlines()[-3:]
        raise ConsiliumError(
            f"{Path(command[0]).name} {' '.join(command[1:4])} fails: {' '.join(last_lines)}",
            remedy="Read what it says above; a registry has to be reachable.",
            code="cannot_release",
        )
    return process.stdout
