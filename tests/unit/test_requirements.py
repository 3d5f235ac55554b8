"""requirements.in lists every third-party package that is imported, and no other; requirements-dev.in those of tests.

What is imported but only required by another package disappears when that package stops requiring it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import packages_distributions

import pytest

from tests.unit.test_arrows import PACKAGES, ROOT, imported, modules, name_of, tree_of

OURS = {*PACKAGES, "tests", "benchmarks"}
# The names that do not come from the lists: flwr has benchmarks/peers/requirements.txt and byzfl an environment of
# its own, as both scripts say; the makers of the vectors stand beside their tests.
ELSEWHERE = {"flwr", "byzfl", *(path.stem for path in (ROOT / "tests" / "vectors").glob("make_*.py"))}

# Packages that no module of ours imports, and why they are listed.
BY_NAME = {
    "duckdb-engine": "SQLAlchemy imports it for duckdb:// addresses",
    "pymysql": "SQLAlchemy imports it for mysql+pymysql:// addresses",
}
TOOLS = {
    "mypy": "./run check",
    "pandas-stubs": "types that mypy reads",
    "pytest-timeout": "pyproject.toml's `timeout`",
    "pytest-xdist": "./run test, which runs in two processes",
    "ruff": "./run check",
    "scipy-stubs": "types that mypy reads",
    "types-pyyaml": "types that mypy reads",
}


def listed(file: str) -> set[str]:
    """The packages of a list of requirements, without versions, extras, comments and options."""
    lines = (ROOT / file).read_text("utf-8").splitlines()
    return {normal(re.split(r"[\[<>=!~ ]", line)[0]) for line in lines if line[:1] not in ("", "#", "-")}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def importers(folder: str) -> dict[str, set[str]]:
    """For each third-party package the files of a folder that import it."""
    found: dict[str, set[str]] = {}
    for path in modules(folder):
        for _, module in imported(tree_of(path)):
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


@pytest.mark.parametrize("folder", [*PACKAGES, "benchmarks"])
def test_every_imported_package_is_listed(folder: str) -> None:
    assert {p: files for p, files in importers(folder).items() if p not in listed("requirements.in")} == {}


def test_every_package_that_tests_import_is_listed() -> None:
    lists = listed("requirements.in") | listed("requirements-dev.in")
    assert {p: files for p, files in importers("tests").items() if p not in lists} == {}


def test_every_listed_package_is_imported_or_has_its_reason() -> None:
    assert listed("requirements.in") - imported_from(PACKAGES) == set(BY_NAME)
    assert listed("requirements-dev.in") - imported_from(["tests"]) == set(TOOLS)
