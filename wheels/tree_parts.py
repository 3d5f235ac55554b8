"""What hatchling asks while it builds the wheel of one part from the whole tree: its
files, its version and the packages that it needs.

Each part has a pyproject.toml in a folder beside this file, with its name and its
command; all else is said once: the files in parts.toml, the packages in
requirements-<part>.in, the version in protocol/__init__.py.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

ROOT = Path(__file__).resolve().parents[1]
VERSION = re.compile(r'^VERSION = "([^"]+)"$', re.MULTILINE)
# A checkout has it at its root; beside the packages of an environment it would be nobody's.
PLACES = {"prefect.yaml": "deployments/prefect.yaml"}
# What Python and editors leave behind.
LEFT_OUT = ("__pycache__", ".pyc", ".swp", "~")


class PartMetadata(MetadataHookInterface):
    """The version, and what has to be installed beside."""

    def update(self, metadata: dict[str, Any]) -> None:
        version = version_of_tree()
        metadata["version"] = version
        part = Path(self.root).name
        metadata["dependencies"] = dependencies_of(part, version)
        extras = {
            extra: _lines(f"requirements-{extra}.in") for extra in extras_of(part)
        }
        if extras:
            metadata["optional-dependencies"] = extras


class PartFiles(BuildHookInterface[Any]):
    """The files of the part, each at its place in the tree but for PLACES."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        part = Path(self.root).name
        for name in files_of(part):
            build_data["force_include"][str(ROOT / name)] = PLACES.get(name, name)


def read_parts() -> dict[str, dict[str, list[str]]]:
    return tomllib.loads((ROOT / "wheels" / "parts.toml").read_text("utf-8"))


def extras_of(part: str) -> list[str]:
    """What may be installed with a part besides, by the names of its lists."""
    return read_parts()[part].get("extras", [])


def part_of(name: str, parts: dict[str, dict[str, list[str]]]) -> str | None:
    """The part that a file belongs to, by the longest path that fits; None for what no
    part has.
    """
    longest, owner = "", None
    for part, entry in parts.items():
        for path in entry["paths"]:
            # With the slash: api is no folder of what is in api_docs.
            fits = name == path or name.startswith(f"{path}/")
            if fits and len(path) > len(longest):
                longest, owner = path, part
    return owner


def files_of(part: str) -> list[str]:
    """Every file of a part, from the root of the tree, in the order of their names."""
    parts = read_parts()
    found = set()
    for path in parts[part]["paths"]:
        place = ROOT / path
        # A folder with a new name would else be missing in the wheel without a word.
        if not place.exists():
            raise FileNotFoundError(
                f"wheels/parts.toml names {path}, which is not there"
            )
        for file in [place] if place.is_file() else place.rglob("*"):
            name = file.relative_to(ROOT).as_posix()
            is_left_out = any(ending in name for ending in LEFT_OUT)
            if file.is_file() and not is_left_out and part_of(name, parts) == part:
                found.add(name)
    # rglob's order is the disk's: the same tree has to give the same wheel.
    return sorted(found)


def version_of_tree() -> str:
    found = VERSION.search((ROOT / "protocol" / "__init__.py").read_text("utf-8"))
    if found is None:
        raise ValueError("protocol/__init__.py has no line VERSION")
    return found[1]


def dependencies_of(part: str, version: str) -> list[str]:
    """The parts below, of the same version, and the packages, with the bounds of
    requirements.in.

    An installation has the exact pins, and hashes, of the part's lock.
    """
    entry = read_parts()[part]
    bounds = {_name(line): line for line in _lines("requirements.in")}
    packages = entry.get("packages")
    if packages is None:
        packages = _lines(f"requirements-{part}.in")
    # Exactly this version: parts of two releases are not tried together.
    wanted = [f"consilium-{below}=={version}" for below in entry["needs"]]
    for line in packages:
        is_bare = line == _name(line)
        wanted.append(bounds.get(line, line) if is_bare else line)
    return wanted


def _lines(file: str) -> list[str]:
    lines = (ROOT / file).read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-"))]


def _name(line: str) -> str:
    return re.split(r"[\[<>=!~ ]", line)[0]
