"""A first start that dies at any step, or whose disk is full from any step on, leaves
what the next start goes on from: no password that is none, no store that counts anew,
no token that nobody knows.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from api.settings import CoordinatorSettings, load_settings
from deployments.state import read_tokens
from protocol.errors import Conflict
from tests.first_starts import (
    DIED,
    FULL,
    REFUSED,
    assert_ready,
    assert_whole,
    coordinator,
    everything,
    start,
)

PAGE = 4096


@pytest.fixture
def settings_of(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Path], CoordinatorSettings]:
    def of(home: Path) -> CoordinatorSettings:
        monkeypatch.setenv("CONSILIUM_HOME", str(home))
        return load_settings()

    return of


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hospital's data, which take long to make and do not matter here."""
    home = tmp_path_factory.mktemp("data") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONSILIUM_HOME", str(home))
        assert start(everything, load_settings())[0] == 0
    return home / "sites"


@pytest.fixture
def new_home(
    tmp_path: Path, data: Path, settings_of: Callable[[Path], CoordinatorSettings]
) -> Callable[[], CoordinatorSettings]:
    """A home where nothing is but a hospital's data."""
    homes = iter(range(1000))

    def make() -> CoordinatorSettings:
        home = tmp_path / str(next(homes)) / "home"
        for path in [*data.glob("*/hospital.duckdb"), *data.glob("*/data/*")]:
            copy = home / "sites" / path.relative_to(data)
            copy.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, copy)
        return settings_of(home)

    return make


@pytest.mark.parametrize("full", [False, True], ids=["dies", "full"])
@pytest.mark.parametrize("first", [coordinator, everything])
def test_every_step_of_a_first_start(
    first: Any, full: bool, new_home: Callable[[], CoordinatorSettings]
) -> None:
    code, n_steps = start(first, new_home())
    assert code == 0
    assert n_steps > 40
    for step in range(1, n_steps + 1):
        settings = new_home()
        code, _ = start(first, settings, at=step, full=full)
        assert code in ((FULL, REFUSED) if full else (DIED,)), step
        assert_whole(settings)
        auth = settings.folder / "prefect_auth"
        kept = auth.read_text() if auth.exists() else None
        assert start(first, settings)[0] == 0, step
        assert kept in (None, auth.read_text())
        assert_ready(settings)


def test_a_lost_store_is_not_a_first_start(
    new_home: Callable[[], CoordinatorSettings],
) -> None:
    settings = new_home()
    assert start(everything, settings)[0] == 0
    tokens = read_tokens(settings)
    for path in settings.folder.glob("store.sqlite*"):
        path.unlink()
    assert start(everything, settings)[0] == REFUSED
    assert start(coordinator, settings)[0] == REFUSED
    assert read_tokens(settings) == tokens


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", disk],
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip(
            f"No file system can be mounted here: {mounted.stderr.decode().strip()}"
        )
    yield disk
    subprocess.run(["umount", disk], check=True)


def fill(disk: Path, n_bytes_left: int) -> Path:
    filler = disk / "filler"
    with filler.open("wb") as file:
        file.write(bytes(shutil.disk_usage(disk).free - n_bytes_left))
    return filler


def test_a_disk_that_is_full(
    small_disk: Path, settings_of: Callable[[Path], CoordinatorSettings]
) -> None:
    """What a real file system does: names without bytes, half a write, an SQLite file
    without its pages.
    """
    refused = 0
    for n_pages in range(64):
        settings = settings_of(small_disk / str(n_pages) / "home")
        settings.home.parent.mkdir()
        filler = fill(small_disk, n_pages * PAGE)
        code, _ = start(coordinator, settings)
        assert code in (0, 1, FULL, REFUSED)
        refused += code != 0
        try:
            assert_whole(settings)
        except Conflict as error:
            pytest.fail(f"with {n_pages} pages left: {error}")
        filler.unlink()
        assert start(coordinator, settings)[0] == 0, n_pages
        assert_ready(settings)
        shutil.rmtree(settings.home.parent)
    assert 8 < refused < 64
