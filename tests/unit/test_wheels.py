"""What the four packages contain: they are built here, and their lists of files and
their words compared with the tree.

Nothing is installed; tests/federation/test_installed.py runs an order of installed
parts.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from protocol import VERSION
from protocol.errors import Conflict
from protocol.machine.installed import is_installed, require_own_environment
from tests.unit.test_arrows import PARTS, ROOT, every_module, name_of, part_of_file

INSTALLED = [part for part in PARTS if part != "tree"]
BUILT = {"LICENSE", "METADATA", "RECORD", "WHEEL", "entry_points.txt"}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, zipfile.ZipFile]:
    folder = tmp_path_factory.mktemp("wheels")
    for part in INSTALLED:
        build(part, folder)
    return {
        part: zipfile.ZipFile(folder / f"consilium_{part}-{VERSION}-py3-none-any.whl")
        for part in INSTALLED
    }


def build(part: str, folder: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d"]
    subprocess.run(
        [*command, str(folder)],
        cwd=ROOT / "wheels" / part,
        check=True,
        capture_output=True,
    )


def files_of(wheel: zipfile.ZipFile) -> set[str]:
    """What it puts beside its own description."""
    return {name for name in wheel.namelist() if ".dist-info/" not in name}


def metadata_of(wheel: zipfile.ZipFile) -> Message:
    (name,) = [name for name in wheel.namelist() if name.endswith("/METADATA")]
    return Parser().parsestr(wheel.read(name).decode())


def test_every_module_is_in_one_package_and_no_file_in_two(
    wheels: dict[str, zipfile.ZipFile],
) -> None:
    owners: dict[str, list[str]] = {}
    for part, wheel in wheels.items():
        for name in files_of(wheel):
            owners.setdefault(name, []).append(part)
    wanted = {}
    for path in every_module():
        part = part_of_file(name_of(path))
        if part != "tree":
            wanted[name_of(path)] = [part]
    modules = {name: parts for name, parts in owners.items() if name.endswith(".py")}
    assert modules == wanted
    assert [name for name, parts in owners.items() if len(parts) > 1] == []


def test_a_package_has_what_is_read_beside_the_modules(
    wheels: dict[str, zipfile.ZipFile],
) -> None:
    """Templates, migrations, the example of a policy: every file of an installed folder
    that is under version control.
    """
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    tracked = listed.stdout.splitlines()
    for part, wheel in wheels.items():
        others = {name for name in files_of(wheel) if not name.endswith(".py")}
        wanted = set()
        for name in tracked:
            is_there = (ROOT / name).exists() and not name.endswith(".py")
            if is_there and part_of_file(name) == part:
                wanted.add(name)
        if part == "server":
            # At a checkout's root, but beside the module that reads it in a package.
            wanted.remove("prefect.yaml")
            wanted.add("deployments/prefect.yaml")
        assert others == wanted, part
    assert "deployments/prefect.yaml" in files_of(wheels["server"])
    assert "deployments/sites/policy.example.toml" in files_of(wheels["agent"])


@pytest.mark.parametrize("part", INSTALLED)
def test_a_package_says_its_version_its_licence_and_what_it_needs(
    part: str, wheels: dict[str, zipfile.ZipFile]
) -> None:
    words = metadata_of(wheels[part])
    assert (words["Name"], words["Version"]) == (f"consilium-{part}", VERSION)
    assert words["License-Expression"] == "GPL-3.0-or-later"
    assert any(name.endswith("/licenses/LICENSE") for name in wheels[part].namelist())
    needs = {one.name: one for one in map(Requirement, words.get_all("Requires-Dist"))}
    below = {name for name in needs if name.startswith("consilium-")}
    assert below == {f"consilium-{name}" for name in PARTS[part]["needs"]}
    # Parts of two versions never stand beside one another.
    assert all(str(needs[name].specifier) == f"=={VERSION}" for name in below)
    prefect = {name for name in needs if name in ("prefect", "prefect-client")}
    wanted = {"agent": {"prefect-client"}, "server": {"prefect"}}
    assert prefect == wanted.get(part, set())


def test_what_is_needed_on_demand_is_an_extra(
    wheels: dict[str, zipfile.ZipFile],
) -> None:
    """pip install 'consilium-agent[sqlserver]' brings pymssql, without it nothing does."""
    wanted = {
        "agent": {"pymssql": "sqlserver", "oracledb": "oracle"},
        "server": {"prefect-redis": "redis"},
    }
    for part, wheel in wheels.items():
        words = metadata_of(wheel)
        found = {}
        for line in words.get_all("Requires-Dist") or []:
            one = Requirement(line)
            if one.marker is not None and "extra" in str(one.marker):
                found[one.name] = str(one.marker)
        of_part = wanted.get(part, {})
        markers = {name: f'extra == "{extra}"' for name, extra in of_part.items()}
        assert found == markers, part
        assert set(words.get_all("Provides-Extra") or []) == {*of_part.values()}


def test_a_bound_of_the_whole_list_holds_for_each_part(
    wheels: dict[str, zipfile.ZipFile],
) -> None:
    """SQLAlchemy 2.1 breaks agent and server, whoever installs it."""
    for part in ("agent", "server"):
        needs = map(
            Requirement, metadata_of(wheels[part]).get_all("Requires-Dist") or []
        )
        (alchemy,) = [one for one in needs if one.name == "sqlalchemy"]
        assert not alchemy.specifier.contains("2.1.0")


def test_commands_are_those_of_agent_and_server(
    wheels: dict[str, zipfile.ZipFile],
) -> None:
    commands = {}
    for part, wheel in wheels.items():
        for name in wheel.namelist():
            if name.endswith("/entry_points.txt"):
                lines = wheel.read(name).decode().splitlines()
                commands[part] = [line for line in lines if " = " in line]
    assert commands == {
        "agent": ["consilium-agent = deployments.console:agent"],
        "server": ["consilium-server = deployments.console:server"],
    }


# Two parts in one environment


def an_environment(folder: Path, *packages: str) -> list[str]:
    for package in packages:
        entry = folder / f"{package.replace('-', '_')}-1.0.0.dist-info"
        entry.mkdir()
        words = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0.0\n"
        (entry / "METADATA").write_text(words)
    return [str(folder)]


@pytest.mark.parametrize(
    "together",
    [
        ("consilium-agent", "consilium-client", "prefect-client"),
        ("consilium-server", "consilium-client", "prefect"),
        ("consilium-client",),
    ],
)
def test_a_client_stands_beside_either(tmp_path: Path, together: list[str]) -> None:
    path = an_environment(tmp_path, *together)
    assert all(is_installed(name, path=path) for name in together)
    require_own_environment(path=path)


@pytest.mark.parametrize(
    "together",
    [("consilium-agent", "consilium-server"), ("prefect-client", "prefect")],
)
def test_an_agent_beside_a_server_is_refused_in_words(
    tmp_path: Path, together: tuple[str, str]
) -> None:
    path = an_environment(tmp_path, *together)
    with pytest.raises(Conflict) as caught:
        require_own_environment(path=path)
    assert caught.value.code == "environment"
    for package in together:
        assert package in caught.value.sentence
    assert "venv" in caught.value.remedy
