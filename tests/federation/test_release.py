"""A whole release of the newest commit, made twice, and installed from its bundle by a
machine that reaches no registry.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from deployments.release.making import PYTHONS
from deployments.signed_files import check_signature, check_sums, digest_of
from protocol import VERSION
from tests.faults.processes import wait_until
from tests.installed_parts import ROOT, clean_environment
from tests.unit.test_release_files import made_key

pytestmark = [pytest.mark.slow, pytest.mark.thorough, pytest.mark.timeout(1200)]

NO_REGISTRY = {
    "PIP_INDEX_URL": "http://127.0.0.1:9/",
    "PIP_FIND_LINKS": "",
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_NO_CACHE_DIR": "1",
    "PYTHON": sys.executable,
}


PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
NEWER = "99.0.0"


def release(into: Path, *options: str, version: str = VERSION) -> Path:
    """Of a clone: this tree may have changes that are in no commit; with another version
    number where one is given.
    """
    clone = into.with_name("clone")
    clone_it = ["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone)]
    if not clone.exists():
        subprocess.run(clone_it, check=True, capture_output=True)
    if version != VERSION:
        renumber(clone, version)
    command = [sys.executable, "-m", "deployments.release", "--into", str(into)]
    done = subprocess.run(
        [*command, *options],
        cwd=clone,
        env={**os.environ, "PYTHONPATH": str(clone)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return into


def renumber(clone: Path, version: str) -> None:
    home = clone / "protocol" / "__init__.py"
    text = home.read_text("utf-8")
    home.write_text(text.replace(f'"{VERSION}"', f'"{version}"'), "utf-8")
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    command = ["git", *who, "commit", "--quiet", "--all", "--message", "version"]
    subprocess.run(command, cwd=clone, check=True, capture_output=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A release for all Pythons, the key that signed it, and who trusts that."""
    folder = tmp_path_factory.mktemp("release")
    key, signers = made_key(folder, "maker")
    return release(folder / "dist", "--key", str(key)), key, signers


def unpacked(bundle: Path, folder: Path) -> Path:
    with tarfile.open(bundle) as archive:
        archive.extractall(folder, filter="data")
    (inside,) = folder.iterdir()
    return inside


def test_two_releases_of_a_commit_are_the_same_bytes(
    made: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    first, key, _ = made
    second = release(tmp_path / "dist", "--key", str(key), "--python", "3.11")
    names = {path.name for path in second.iterdir()} - {"SHA256SUMS", "SHA256SUMS.sig"}
    assert any(name.endswith("py3.11.tar") for name in names)
    for name in sorted(names):
        assert digest_of(first / name) == digest_of(second / name), name


def test_a_release_is_signed_and_complete(made: tuple[Path, Path, Path]) -> None:
    folder, _, signers = made
    check_signature(folder, signers)
    check_sums(folder)
    assert len(list(folder.glob("*.whl"))) == 4
    assert len(list(folder.glob("requirements-*.txt"))) == 6 * len(PYTHONS)


@pytest.mark.parametrize("python", PYTHONS)
def test_a_bundle_has_every_package_of_its_lock(
    python: str, made: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    folder, _, signers = made
    (bundle,) = folder.glob(f"*-py{python}.tar")
    inside = unpacked(bundle, tmp_path / "bundle")
    check_signature(inside, signers)
    check_sums(inside)
    # The agent's, and those of the drivers that are installed on demand.
    locks = [path.read_text() for path in sorted(inside.glob("requirements*.txt"))]
    assert len(locks) == 3
    lock = "\n".join(locks)
    locked = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", lock))
    n_packages = len(set(re.findall(r"(?m)^(\S+==\S+)", lock)))
    wheels = list((inside / "wheels").iterdir())
    fetched = [path for path in wheels if not path.name.startswith("consilium_")]
    assert len(fetched) == n_packages
    assert all(digest_of(path) in locked for path in fetched)
    bill = json.loads((folder / f"{inside.name}.cdx.json").read_text())
    listed = {one["hashes"][0]["content"] for one in bill["components"]}
    assert listed == {digest_of(path) for path in wheels}


def install(
    inside: Path, *arguments: str, extras: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(inside / "install.sh"), *arguments],
        cwd=inside.parent,
        env=clean_environment(**NO_REGISTRY, EXTRAS=extras),
        capture_output=True,
        text=True,
        check=False,
    )


@dataclass(frozen=True)
class Installed:
    """An agent as a hospital has it: its folder of versions, its site, and who makes
    releases.
    """

    home: Path
    site: Path
    inside: Path  # the bundle's files
    key: Path
    signers: Path

    @property
    def program(self) -> str:
        """What a unit starts."""
        return str(self.home / "current" / "bin" / "consilium-agent")

    def command(self, *arguments: str) -> subprocess.Popen[str]:
        """In a group of its own, to be killed with all that it has started."""
        return subprocess.Popen(
            [self.program, *arguments],
            cwd=self.home.parent,
            env=clean_environment(**NO_REGISTRY),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        process = self.command(*arguments)
        out, err = process.communicate()
        return process.returncode, out, err

    def version(self) -> str:
        """Of the code that is run."""
        python = str(self.home / "current" / "bin" / "python")
        # With the drivers that were asked for when it was first installed.
        words = "import protocol, agents, pymssql, oracledb; print(protocol.VERSION)"
        told = subprocess.run(
            [python, "-I", "-c", words], capture_output=True, text=True, check=True
        )
        return told.stdout.strip()


@pytest.fixture(scope="module")
def installed(
    made: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    folder, key, signers = made
    base = tmp_path_factory.mktemp("installed")
    (bundle,) = folder.glob(f"*-py{PYTHON}.tar")
    inside = unpacked(bundle, base / "bundle")
    drivers = "sqlserver oracle"
    done = install(inside, str(base / "consilium"), str(signers), extras=drivers)
    assert done.returncode == 0, done.stderr
    assert f"/current is {VERSION}" in done.stderr
    site = base / "site"
    site.mkdir()
    text = f'user_id = 4\nname = "shanxi-xbfy"\nstate = "{base / "state"}"\n'
    (site / "settings.toml").write_text(text)
    return Installed(base / "consilium", site, inside, key, signers)


@pytest.fixture(scope="module")
def newer(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a later version of this tree."""
    into = tmp_path_factory.mktemp("newer") / "dist"
    options = ("--key", str(installed.key), "--python", PYTHON)
    (bundle,) = release(into, *options, version=NEWER).glob("*.tar")
    return bundle


def test_an_agent_is_installed_without_any_registry(installed: Installed) -> None:
    policy = str(ROOT / "deployments/sites/policy.example.toml")
    _, out, err = installed.run("check", "--policy", policy)
    assert "policy" in out, err
    again = install(installed.inside, str(installed.home), str(installed.signers))
    assert again.returncode == 1
    assert "exists already" in again.stderr


def test_an_agent_is_upgraded_and_goes_back(
    installed: Installed, newer: Path, tmp_path: Path
) -> None:
    """Killed while the new version is being installed, the old one runs on."""
    upgrade = ("upgrade", "--site", str(installed.site), "--bundle")
    altered = tmp_path / "altered.tar"
    content = bytearray(newer.read_bytes())
    content[len(content) // 2] ^= 1
    altered.write_bytes(content)
    code, _, err = installed.run(*upgrade, str(altered))
    assert (code, "is not what SHA256SUMS says" in err) == (2, True), err
    altered.unlink()

    killed = installed.command(*upgrade, str(newer))
    new = installed.home / NEWER
    wait_until(
        lambda: len([*new.glob("lib/python3*/site-packages/*.dist-info")]) > 3,
        "packages of the new version beside pip",
        seconds=300,
    )
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=60)
    assert installed.version() == VERSION
    code, out, err = installed.run(*upgrade, str(newer))
    assert code == 0, err
    assert f"current is {NEWER}, and was {VERSION}." in out
    assert installed.version() == NEWER
    left = {path.name for path in installed.home.iterdir()}
    assert left == {VERSION, NEWER, "current", "allowed_signers", "extras"}

    code, _, err = installed.run("upgrade", "--back")
    assert (code, installed.version()) == (0, VERSION), err


def test_a_bundle_with_one_changed_byte_installs_nothing(
    made: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    folder, _, signers = made
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    (bundle,) = folder.glob(f"*-py{version}.tar")
    inside = unpacked(bundle, tmp_path / "bundle")
    (wheel,) = (inside / "wheels").glob("consilium_agent-*.whl")
    altered = bytearray(wheel.read_bytes())
    altered[100] ^= 1
    wheel.write_bytes(altered)
    done = install(inside, str(tmp_path / "agent"), str(signers))
    assert done.returncode != 0
    assert wheel.name in done.stdout + done.stderr
    assert not (tmp_path / "agent").exists()
