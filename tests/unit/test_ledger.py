"""The ledger: several writers, torn and altered lines, and text that is made to break a
reader.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.site.ledger import Ledger
from protocol.errors import Conflict

MIDNIGHT = datetime(2025, 1, 2, tzinfo=UTC)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.jsonl", now=lambda: MIDNIGHT)


def fill(ledger: Ledger, n_lines: int) -> list[bytes]:
    for number in range(n_lines):
        ledger.write("left", order_id=number, kind="gradient", n_bytes=10 * number)
    return ledger.path.read_bytes().splitlines(keepends=True)


def test_a_ledger_that_was_never_written_is_whole_and_empty(ledger: Ledger) -> None:
    assert list(ledger.entries()) == []
    assert ledger.first_broken_line() is None
    assert ledger.head() == "0" * 64


def test_lines_come_back_in_order_with_time_and_facts(ledger: Ledger) -> None:
    fill(ledger, 3)
    assert [entry["order_id"] for entry in ledger.entries()] == [0, 1, 2]
    assert next(ledger.entries())["at"] == "2025-01-02T00:00:00.000+00:00"
    assert ledger.first_broken_line() is None
    assert ledger.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("n_characters", [4095, 4096, 4097, 70_000])
def test_long_lines_are_chained_too(ledger: Ledger, n_characters: int) -> None:
    for _ in range(3):
        ledger.write("refused", sentence="x" * n_characters)
    assert ledger.first_broken_line() is None


@pytest.mark.parametrize("line", [1, 2, 3])
def test_an_altered_line_shows_in_the_next_one(ledger: Ledger, line: int) -> None:
    lines = fill(ledger, 4)
    lines[line - 1] = lines[line - 1].replace(b"gradient", b"Gradient")
    ledger.path.write_bytes(b"".join(lines))
    assert ledger.first_broken_line() == line + 1


@pytest.mark.parametrize("line", [1, 2, 3])
def test_a_removed_line_shows(ledger: Ledger, line: int) -> None:
    lines = fill(ledger, 4)
    del lines[line - 1]
    ledger.path.write_bytes(b"".join(lines))
    assert ledger.first_broken_line() == line


@pytest.mark.parametrize(
    "inserted", [b"\n", b"{}\n", b"[]\n", b"no JSON\n", b"\xff\xfe\n"]
)
def test_an_inserted_line_shows_and_stops_no_reader(
    ledger: Ledger, inserted: bytes
) -> None:
    lines = fill(ledger, 2)
    ledger.path.write_bytes(lines[0] + inserted + lines[1])
    assert ledger.first_broken_line() == 2
    assert len(list(ledger.entries())) == 3


def test_an_emptied_line_does_not_begin_a_new_chain(
    ledger: Ledger, tmp_path: Path
) -> None:
    """The chain's first line follows 64 zeros; nothing but the beginning of the file
    may.
    """
    lines = fill(ledger, 1)
    other = Ledger(tmp_path / "other.jsonl", now=lambda: MIDNIGHT)
    ledger.path.write_bytes(lines[0] + b"\n" + fill(other, 1)[0])
    assert ledger.first_broken_line() == 2


def test_the_head_shows_that_the_end_was_cut_off(ledger: Ledger) -> None:
    lines = fill(ledger, 3)
    noted = ledger.head()
    ledger.path.write_bytes(b"".join(lines[:2]))
    assert ledger.first_broken_line() is None
    assert ledger.head() != noted


@pytest.mark.parametrize("n_kept", [1, 20, -2])
def test_a_line_that_a_crash_cut_short_is_dropped_and_told(
    ledger: Ledger, n_kept: int
) -> None:
    lines = fill(ledger, 3)
    ledger.path.write_bytes(b"".join(lines[:2]) + lines[2][:n_kept])
    assert ledger.first_broken_line() == 3
    ledger.write("left", order_id=9)
    assert ledger.first_broken_line() is None
    assert [entry["event"] for entry in ledger.entries()] == [
        "left",
        "left",
        "repaired",
        "left",
    ]


def test_a_whole_last_line_without_its_end_is_kept(ledger: Ledger) -> None:
    lines = fill(ledger, 2)
    ledger.path.write_bytes(b"".join(lines)[:-1])
    ledger.write("left", order_id=9)
    assert [entry["order_id"] for entry in ledger.entries()] == [0, 1, 9]
    assert ledger.first_broken_line() is None


@given(st.text(st.characters(codec=None)))
def test_any_text_stays_on_its_line(text: str) -> None:
    """An order's purpose is another hospital's text: U+2028, U+0085 and half surrogates
    are no ends of lines.
    """
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.jsonl")
        ledger.write("answered", purpose=text)
        ledger.write("answered", purpose="a\u2028b\x85c\x1b[2J\ud800")
        assert ledger.first_broken_line() is None
        assert [entry["purpose"] for entry in ledger.entries()] == [
            text,
            "a\u2028b\x85c\x1b[2J\ud800",
        ]


def test_facts_that_are_no_json_are_refused_before_a_byte_is_written(
    ledger: Ledger,
) -> None:
    fill(ledger, 1)
    with pytest.raises(TypeError):
        ledger.write("left", digest=b"bytes")
    assert len(list(ledger.entries())) == 1


def _write_many(path: Path, writer: int) -> None:
    for number in range(25):
        Ledger(path).write("left", writer=writer, number=number)


def test_several_processes_write_one_chain(ledger: Ledger) -> None:
    processes = [
        multiprocessing.get_context("spawn").Process(
            target=_write_many, args=(ledger.path, i)
        )
        for i in (1, 2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert ledger.first_broken_line() is None
    entries = list(ledger.entries())
    assert len(entries) == 50
    assert [e["number"] for e in entries if e["writer"] == 1] == list(range(25))


def test_an_emptied_ledger_is_no_new_one(ledger: Ledger) -> None:
    fill(ledger, 2)
    ledger.path.write_bytes(b"")
    for use in (
        lambda: ledger.write("left"),
        ledger.first_broken_line,
        ledger.head,
        lambda: list(ledger.entries()),
    ):
        with pytest.raises(Conflict, match="backup") as caught:
            use()
        assert caught.value.code == "ledger"
    assert ledger.path.read_bytes() == b""


def test_a_ledger_begins_with_a_whole_line_or_not_at_all(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            ledger.write("left")
    assert os.listdir(ledger.path.parent) == []
    fill(ledger, 2)
    assert ledger.first_broken_line() is None
