"""The vault's SQLite files: made whole by one process, and an empty or damaged one is no new beginning."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents.gate.cohort_gate import CohortLedger
from agents.gate.earlier_questions import StatisticsLedger
from agents.site.vault_database import open_database, open_keyed
from protocol.errors import Conflict

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
@pytest.mark.parametrize("ledger", [CohortLedger, StatisticsLedger])
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
    processes = [context.Process(target=_race, args=(tmp_path / "a.sqlite", start, found)) for _ in range(3)]
    for process in processes:
        process.start()
    assert len({found.get(timeout=60) for _ in processes}) == 1
    for process in processes:
        process.join()


def test_a_file_of_an_earlier_version_gets_the_tables_that_it_lacks(tmp_path: Path) -> None:
    key = open_keyed(tmp_path / "a.sqlite", "")
    assert open_keyed(tmp_path / "a.sqlite", SCHEMA) == key
    with open_database(tmp_path / "a.sqlite") as database:
        assert database.execute("SELECT count(*) FROM numbers").fetchone() == (0,)
