"""The vault's SQLite files: made whole by one process, and an empty or damaged one is
no new beginning.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.gate.earlier_questions import StatisticsLedger
from agents.gate.kept_sets import ColumnName, OpenedSet
from agents.gate.memory import Memory
from agents.site.vault_database import open_database, open_keyed
from protocol.errors import Conflict, Refused, Unavailable

SCHEMA = "CREATE TABLE IF NOT EXISTS numbers (n INTEGER);"


def damages(whole: bytes) -> dict[str, bytes]:
    return {
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "no page whole": whole[:1000],
        "random": random.Random(7).randbytes(len(whole)),
        "text": b"restored by hand\n",
    }


@pytest.mark.parametrize("kind", ["empty", "half", "no page whole", "random", "text"])
@pytest.mark.parametrize("ledger", [Memory, StatisticsLedger])
def test_what_was_asked_before_is_not_forgotten(
    tmp_path: Path, ledger: Callable[[Path], Any], kind: str
) -> None:
    path = ledger(tmp_path).path
    damaged = damages(path.read_bytes())[kind]
    path.write_bytes(damaged)
    with pytest.raises(Conflict, match="backup") as caught:
        ledger(tmp_path)
    assert caught.value.code == "vault_damaged"
    assert path.read_bytes() == damaged


def test_a_full_disk_is_what_it_is_elsewhere(tmp_path: Path) -> None:
    """An order waits for room (OSError); it does not fail for a fault of ours."""

    def fill() -> None:
        with open_database(tmp_path / "small.sqlite") as database:
            database.execute("PRAGMA max_page_count = 2")
            database.execute("CREATE TABLE numbers (n BLOB)")
            database.execute("INSERT INTO numbers VALUES (zeroblob(100000))")

    with pytest.raises(OSError, match="No space"):
        fill()


def test_dying_while_it_is_made_leaves_no_file_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", dies)
        with pytest.raises(KeyboardInterrupt):
            open_keyed(tmp_path / "numbers.sqlite", SCHEMA)
    assert os.listdir(tmp_path) == []
    assert len(open_keyed(tmp_path / "numbers.sqlite", SCHEMA)) == 32
    assert (tmp_path / "numbers.sqlite").stat().st_mode & 0o777 == 0o600


def _race(path: Path, start: Any, found: Any) -> None:
    start.wait()
    found.put(open_keyed(path, SCHEMA))


def test_processes_that_start_at_once_share_one_key(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, found = context.Barrier(3), context.Queue()
    processes = [
        context.Process(target=_race, args=(tmp_path / "a.sqlite", start, found))
        for _ in range(3)
    ]
    for process in processes:
        process.start()
    assert len({found.get(timeout=60) for _ in processes}) == 1
    for process in processes:
        process.join()


def test_a_file_of_an_earlier_version_gets_the_tables_that_it_lacks(
    tmp_path: Path,
) -> None:
    key = open_keyed(tmp_path / "a.sqlite", "")
    assert open_keyed(tmp_path / "a.sqlite", SCHEMA) == key
    with open_database(tmp_path / "a.sqlite") as database:
        assert database.execute("SELECT count(*) FROM numbers").fetchone() == (0,)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_copy_in_memory_changes_nothing_on_disk(
    tmp_path: Path, is_there: bool
) -> None:
    folder = tmp_path / "cohorts"
    kept = Memory(folder) if is_there else None
    before = [(path, path.read_bytes()) for path in folder.glob("*")]
    copy = Memory(folder, is_copy=True)
    place = ColumnName("data.rows", "x", "1, persons")
    ids = np.arange(1, 40, dtype=np.uint64)
    with copy.alone(), copy.opened() as transaction:
        members = transaction.number_members(place, ids, ids)
        opened = OpenedSet(place, members, "train", 7, {}, 2)
        transaction.keep(["3"], [opened], at=datetime.now(UTC))
    copy.commit(7)
    (one,) = copy.list_opened()
    assert (one.n_members, one.has_left) == (39, True)
    assert [(path, path.read_bytes()) for path in folder.glob("*")] == before
    if kept is not None:
        assert copy.key == kept.key
        assert kept.list_opened() == []


def test_a_copy_takes_back_what_was_refused(tmp_path: Path) -> None:
    copy = Memory(tmp_path, is_copy=True)
    place = ColumnName("data.rows", "x", "1, persons")

    def refuse() -> None:
        with copy.opened() as transaction:
            ids = np.arange(1, 40, dtype=np.uint64)
            members = transaction.number_members(place, ids, ids)
            opened = OpenedSet(place, members, "train", 7, {}, 2)
            transaction.keep(["3"], [opened], at=datetime.now(UTC))
            raise Refused("No.", remedy="")

    with pytest.raises(Refused):
        refuse()
    assert copy.list_opened() == []


@pytest.mark.parametrize("kind", ["empty", "half", "no page whole", "random", "text"])
def test_what_is_damaged_is_not_copied(tmp_path: Path, kind: str) -> None:
    path = Memory(tmp_path).path
    path.write_bytes(damages(path.read_bytes())[kind])
    with pytest.raises(Conflict, match="backup"):
        Memory(tmp_path, is_copy=True)


def test_half_of_a_write_is_left_to_who_may_write(tmp_path: Path) -> None:
    """A process that died in the middle: only the next writer may take that back."""
    path = Memory(tmp_path).path
    torn = tmp_path / "torn.sqlite"
    with sqlite3.connect(path, isolation_level=None) as database:
        database.execute("PRAGMA cache_size = 1")
        database.execute("BEGIN IMMEDIATE")
        for number in range(300):
            database.execute(
                "INSERT INTO sets VALUES (?, 1, ?, 1, ?)",
                (number, b"%d" % number, bytes(4096)),
            )
        # As a kill leaves both files.
        torn.write_bytes(path.read_bytes())
        journal = path.with_name(f"{path.name}-journal")
        Path(f"{torn}-journal").write_bytes(journal.read_bytes())
        database.execute("ROLLBACK")
    torn.rename(path)
    Path(f"{torn}-journal").rename(journal)
    before = [path.read_bytes(), journal.read_bytes()]
    with pytest.raises(Unavailable, match="Start the agent"):
        Memory(tmp_path, is_copy=True)
    assert [path.read_bytes(), journal.read_bytes()] == before
    assert Memory(tmp_path).list_opened() == []
    assert Memory(tmp_path, is_copy=True).list_opened() == []
