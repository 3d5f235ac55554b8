"""The logs of a federation's parts never fill a disk, and nobody else reads them."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

from deployments import bounded_logs, processes
from deployments.bounded_logs import N_OLDER, cut_back, older
from deployments.processes import PartProcess, running

MOST = 20_000
SAY = """
import sys, time
for n in range(3000):
    sys.stderr.write(f"line {n} of {sys.argv[1]}\\n")
    time.sleep(0.0003)
"""
CHATTY = f"""
import subprocess, sys, time
say = {SAY!r}
both = [subprocess.Popen([sys.executable, "-c", say, name]) for name in "ab"]
for one in both:
    one.wait()
print("the last words", flush=True)
time.sleep(60)
"""


def sizes_of(log: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in log.parent.iterdir()}


def test_output_of_a_part_s_processes_stays_below_a_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log" / "part.log"
    monkeypatch.setattr(processes, "LOOK_AT_LOGS_SECONDS", 0.01)
    monkeypatch.setattr(
        processes, "cut_back", lambda path: cut_back(path, most_bytes=MOST)
    )
    part = PartProcess("chatty", [sys.executable, "-c", CHATTY], log)

    async def run() -> None:
        async with running(restart=False) as parts:
            await parts.add(part)
            while part.last_words() != "the last words":
                await asyncio.sleep(0.02)

    asyncio.run(asyncio.wait_for(run(), 60))
    # 3,000 lines of both are more than 80 kB.
    names = {"part.log", *(older(log, n).name for n in range(1, N_OLDER + 1))}
    assert set(sizes_of(log)) == names
    for path in log.parent.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
        text = path.read_text()
        # Emptied, it is written from its beginning on: nothing but lines is in it.
        assert re.fullmatch(r"(line \d+ of [ab]\n|the last words\n)*", text)


def test_a_small_log_is_left_alone_and_a_missing_one_is_no_error(
    tmp_path: Path,
) -> None:
    log = tmp_path / "part.log"
    older(log, 1).write_text("before\n")
    cut_back(log, most_bytes=10)
    log.write_text("10 bytes.\n")
    cut_back(log, most_bytes=10)
    assert sizes_of(log) == {"part.log": 10, "part.log.1": 7}


def test_older_logs_move_on_and_the_oldest_goes(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    for turn in range(1, 6):
        with log.open("a") as file:
            file.write(f"of turn {turn}\n")
        cut_back(log, most_bytes=5, n_older=3)
    assert log.read_text() == ""
    kept = [older(log, n).read_text() for n in (1, 2, 3)]
    assert kept == ["of turn 5\n", "of turn 4\n", "of turn 3\n"]
    assert not older(log, 4).exists()


def test_where_no_copy_can_be_made_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "part.log"
    log.write_text("twelve bytes")
    older(log, 1).write_text("before\n")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bounded_logs, "_move_content", full)
    cut_back(log, most_bytes=5)
    assert sizes_of(log) == {"part.log": 12, "part.log.1": 7}
