"""`./run bench rows`: sizes by `--rows`, and a step that fails ends it by name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import __main__ as bench
from benchmarks import rows


def test_sizes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Sequence[int]] = []
    monkeypatch.setitem(bench.BENCHMARKS, "rows", lambda sizes: asked.append(sizes))
    monkeypatch.setattr(sys, "argv", ["bench", "rows", "--rows", "2000", "3000"])
    assert bench.main() == 0
    assert asked == [[2000, 3000]]


def test_a_step_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="The step gradient of 10 rows ended") as ended:
        rows.run("gradient", tmp_path, 10)
    assert "The vault holds no snapshot" in str(ended.value)


@pytest.mark.thorough
def test_every_step_runs(capsys: pytest.CaptureFixture[str]) -> None:
    rows.main([2000])
    printed = capsys.readouterr().out
    for step in rows._STEPS:
        assert f" {step} " in printed
    assert "(target 1000, met)" in printed
