"""requirements.in lists every third-party package that is imported, and no other;
requirements-dev.in those of tests.

What is imported but only required by another package disappears when that package stops
requiring it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import packages_distributions
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from agents.rows.source_url import DRIVER_MODULES, EXTRAS
from tests.unit.test_arrows import (
    PACKAGES,
    PARTS,
    REACHES,
    ROOT,
    every_module,
    imports_of,
    modules,
    name_of,
    parts_of,
)

OURS = {*PACKAGES, "tests", "benchmarks"}
# The names that do not come from the lists: flwr and nvflare have their own in
# benchmarks/peers, where `bench` is the app that Flower is given and the relay lies beside
# the scripts; byzfl has an environment of its own, as its script says; the makers of the
# vectors stand beside their tests.
ELSEWHERE = {
    "flwr",
    "nvflare",
    "bench",
    "relay",
    "byzfl",
    *(path.stem for path in (ROOT / "tests" / "vectors").glob("make_*.py")),
}

# Packages that no module of ours imports, and why they are listed.
BY_NAME = {
    "duckdb-engine": "SQLAlchemy imports it for duckdb:// addresses",
    "pymysql": "SQLAlchemy imports it for mysql+pymysql:// addresses",
    "pymssql": "SQLAlchemy imports it for mssql+pymssql:// addresses",
    "oracledb": "SQLAlchemy imports it for oracle+oracledb:// addresses",
    "prefect-redis": "Prefect's server imports it where CONSILIUM_PREFECT_REDIS is set",
    "swagger-ui-py": "the API serves its files at /docs",
}
# Of them those that one part alone needs.
BY_NAME_OF = {
    "agent": {"duckdb-engine", "pymysql", "psycopg"},
    "client": set(),
    "server": {"swagger-ui-py", "psycopg"},
}
# The same files: `prefect` is all of them, `prefect-client` what an agent needs.
PREFECT = {"agent": "prefect-client", "server": "prefect"}
TOOLS = {
    "hatchling": "wheels/*/pyproject.toml",
    "mypy": "./run check",
    "pandas-stubs": "types that mypy reads",
    "pytest-timeout": "pyproject.toml's `timeout`",
    "ruff": "./run check",
    "scipy-stubs": "types that mypy reads",
    "types-pyyaml": "types that mypy reads",
}


def listed(file: str) -> set[str]:
    """The packages of a list of requirements, without versions, extras, comments and
    options.
    """
    lines = (ROOT / file).read_text("utf-8").splitlines()
    return {
        normal(re.split(r"[\[<>=!~ ]", line)[0])
        for line in lines
        if line[:1] not in ("", "#", "-")
    }


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


WHERE_INSTALLED = {"statsmodels", "lifelines"}
"""What the study's demonstration puts its numbers beside; else plain NumPy does."""


@cache
def importers(folder: str) -> dict[str, set[str]]:
    """For each third-party package the files of a folder that import it."""
    found: dict[str, set[str]] = {}
    for path in modules(folder):
        for _, module in imports_of(path):
            top = module.split(".")[0]
            if top not in OURS | ELSEWHERE | sys.stdlib_module_names:
                found.setdefault(package_of(top), set()).add(name_of(path))
    return found


def package_of(module: str) -> str:
    return normal(distributions().get(module, [module])[0])


@cache
def distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


def imported_from(folders: list[str]) -> set[str]:
    return {package for folder in folders for package in importers(folder)}


@pytest.mark.parametrize("folder", PACKAGES)
def test_every_imported_package_is_listed(folder: str) -> None:
    assert {
        p: files
        for p, files in importers(folder).items()
        if p not in listed("requirements.in") | WHERE_INSTALLED
    } == {}


@pytest.mark.parametrize("folder", ["tests", "benchmarks"])
def test_every_package_that_tests_and_benchmarks_import_is_listed(folder: str) -> None:
    lists = listed("requirements.in") | listed("requirements-dev.in")
    assert {p: files for p, files in importers(folder).items() if p not in lists} == {}


def test_every_listed_package_is_imported_or_has_its_reason() -> None:
    assert listed("requirements.in") - imported_from(PACKAGES) == set(BY_NAME)
    assert listed("requirements-dev.in") - imported_from(["tests"]) == set(TOOLS)


# What one part of Consilium needs where nothing else of it runs


def imported_by(part: str) -> set[str]:
    """What the modules of a part import, and of the part that both sides have."""
    found = set()
    for path in every_module():
        if REACHES[part].isdisjoint(parts_of(path)):
            continue
        for _, module in imports_of(path):
            top = module.split(".")[0]
            if top not in OURS | ELSEWHERE | sys.stdlib_module_names:
                found.add(package_of(top))
    return found


@pytest.mark.parametrize("part", ["agent", "client", "server"])
def test_each_part_lists_what_it_imports_and_nothing_else(part: str) -> None:
    needed = imported_by(part) - {"prefect"} | BY_NAME_OF[part]
    if part in PREFECT:
        needed.add(PREFECT[part])
    assert listed(f"requirements-{part}.in") == needed


def test_the_core_lists_what_it_imports() -> None:
    """It has no lock: whoever installs it installs a part on it. Prefect is one package
    for an agent and another for a server, and none for the client.
    """
    packages = [normal(name) for name in PARTS["core"]["packages"]]
    assert set(packages) == imported_by("core") - {"prefect"}
    assert packages == sorted(packages)


def test_an_agent_needs_no_page_framework_and_no_server() -> None:
    names = set(pins("requirements-agent"))
    assert names.isdisjoint({"nicegui", "prefect", "alembic", "swagger-ui-py"})


# The locks


LISTS = [path.stem for path in sorted(ROOT.glob("requirements*.in"))]


class Pin(NamedTuple):
    """One package of a lock."""

    version: str
    n_hashes: int
    wanted_by: list[str]  # packages of the lock, and lists


def pins(name: str) -> dict[str, Pin]:
    text = (ROOT / f"{name}.txt").read_text("utf-8")
    found = {}
    for block in re.split(r"^(?=\S)", text, flags=re.MULTILINE)[1:]:
        head, *rest = block.splitlines()
        package, _, version = head.removesuffix("\\").strip().partition("==")
        reasons = [line.strip().lstrip("# ") for line in rest if "#" in line]
        reasons = [line.removeprefix("via").strip() for line in reasons]
        n_hashes = block.count("--hash=sha256:")
        wanted_by = [reason for reason in reasons if reason]
        name_only = canonicalize_name(package.split("[")[0])
        found[name_only] = Pin(version, n_hashes, wanted_by)
    return found


def asked(name: str) -> dict[str, Requirement]:
    lines = (ROOT / f"{name}.in").read_text("utf-8").splitlines()
    asked_for = [
        Requirement(line) for line in lines if line and not line.startswith(("#", "-"))
    ]
    return {canonicalize_name(one.name): one for one in asked_for}


def test_there_is_a_list_for_each_use() -> None:
    suffixes = ["", "-agent", "-client", "-dev", "-newer", "-server", "-uv"]
    suffixes += [f"-{extra}" for extra in (*EXTRAS.values(), "redis")]
    assert set(LISTS) == {f"requirements{suffix}" for suffix in suffixes}


def test_an_extra_of_the_agent_is_a_driver_that_it_does_not_have_by_itself() -> None:
    """And one that an agent asks for by this name where it is missing."""
    assert PARTS["agent"]["extras"] == [*EXTRAS.values()]
    for dialect, extra in EXTRAS.items():
        driver = DRIVER_MODULES[dialect]
        assert listed(f"requirements-{extra}.in") == {driver}
        assert driver not in pins("requirements-agent")
        # What it needs besides, the agent has at the same version.
        for package, pin in pins(f"requirements-{extra}").items():
            if package != driver:
                assert pins("requirements-agent")[package].version == pin.version


def test_several_prefects_are_an_extra_of_the_server() -> None:
    """Its lock is the server's Prefect again: it is installed into that environment."""
    assert PARTS["server"]["extras"] == ["redis"]
    assert listed("requirements-redis.in") == {"prefect-redis"}
    server = pins("requirements-server")
    assert "prefect-redis" not in server
    for package, pin in pins("requirements-redis").items():
        if package != "prefect-redis":
            assert server[package].version == pin.version, package


@pytest.mark.parametrize("name", LISTS)
def test_a_lock_is_what_its_list_gives(name: str) -> None:
    """As far as that shows without a registry: whoever changes a list and forgets
    `./run lock` is told.
    """
    locked = pins(name)
    wanted = asked(name)
    of_list = {
        package for package, pin in locked.items() if f"-r {name}.in" in pin.wanted_by
    }
    assert of_list == set(wanted)
    for package, requirement in wanted.items():
        assert requirement.specifier.contains(locked[package].version), package


@pytest.mark.parametrize("name", LISTS)
def test_every_package_of_a_lock_has_hashes_and_a_reason(name: str) -> None:
    locked = pins(name)
    for package, pin in locked.items():
        assert pin.n_hashes > 0, package
        assert pin.wanted_by, package
        for reason in pin.wanted_by:
            is_a_list = reason.startswith(("-r ", "-c "))
            assert is_a_list or canonicalize_name(reason) in locked, (package, reason)


@pytest.mark.parametrize(
    "name",
    [name for name in LISTS if name not in ("requirements-newer", "requirements-uv")],
)
def test_all_locks_have_the_same_pins(name: str) -> None:
    """What was tested together is what agents and servers run."""
    whole = pins("requirements")
    if name == "requirements-agent":
        whole["prefect-client"] = whole["prefect"]
    for package, pin in pins(name).items():
        if name != "requirements-dev" or package in whole:
            assert pin.version == whole[package].version, package


def test_everything_is_installed_with_hashes() -> None:
    script = (ROOT / "run").read_text("utf-8")
    installing = [
        line for line in script.splitlines() if re.search(r"pip (install|sync)", line)
    ]
    assert len(installing) == 2
    for line in installing:
        assert "--require-hashes" in line
