"""The project has one version number, in protocol/__init__.py; everything else reads
it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from api.app import create_app
from api.settings import load_settings
from protocol import VERSION

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (
    "agents",
    "analytics",
    "api",
    "benchmarks",
    "deployments",
    "docs",
    "flows",
    "protocol",
    "tasks",
    ".github",
)
ENDINGS = {
    ".py",
    ".md",
    ".toml",
    ".yaml",
    ".yml",
    ".html",
    ".json",
    ".service",
    ".conf",
    ".cfg",
}
HOME, RECORD = ROOT / "protocol" / "__init__.py", ROOT / "CHANGELOG.md"
A_VERSION = re.compile(
    r"""\b(?:__version__|version|VERSION)\b["']?\s*[:=]\s*["']\d+\.\d+"""
)
"""A version that is assigned, or a field of JSON.

No version of a dependency is written this way.
"""


def texts() -> Iterator[Path]:
    """Every text of the tree that a release contains; tests and locked requirements
    name other versions.
    """
    yield from (
        path for path in ROOT.iterdir() if path.is_file() and path.suffix in ENDINGS
    )
    for folder in FOLDERS:
        yield from (
            path
            for path in sorted((ROOT / folder).rglob("*"))
            if path.suffix in ENDINGS
        )


def test_no_second_place_has_a_version() -> None:
    number = re.compile(rf"(?<![\d.]){re.escape(VERSION)}(?![\d.])")
    found = []
    for path in texts():
        text = path.read_text("utf-8")
        if A_VERSION.search(text) or number.search(text):
            found.append(path)
    assert HOME in found
    assert set(found) <= {HOME, RECORD}


def test_the_version_is_semantic_and_the_newest_release_of_the_changelog() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)
    releases = re.findall(
        r"^## \[(\d[^\]]*)\]", RECORD.read_text("utf-8"), re.MULTILINE
    )
    assert releases[0] == VERSION


def test_the_description_of_the_api_has_it() -> None:
    assert create_app(load_settings()).openapi()["info"]["version"] == VERSION
