"""Which sizes `./run bench network` measures, and what it says of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import pytest

from benchmarks import __main__ as bench
from benchmarks import network
from benchmarks.network import OfAgents, _agents_line, _line
from benchmarks.one_by_one import Measured
from benchmarks.prefect_rows import OrderRows, Rows

Run = Callable[..., int]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """What would be measured, by table."""
    found: dict[str, list[int]] = {}

    def into(table: str) -> Callable[[Sequence[int]], None]:
        return lambda counts: found.update({table: list(counts)})

    monkeypatch.setattr(network, "_measure_sizes", into("hospitals"))
    monkeypatch.setattr(network, "_measure_agents", into("agents"))
    return found


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    def run_bench(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["bench", "network", *words])
        return bench.main()

    return run_bench


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {"hospitals": [3, 10, 30], "agents": [3, 5, 10]}),
        (["--full"], {"hospitals": [3, 10, 30, 100, 300], "agents": [3, 5, 10]}),
        (["--hospitals", "10", "3", "--agents"], {"hospitals": [3, 10]}),
        (["--hospitals", "--agents", "5"], {"agents": [5]}),
    ],
)
def test_sizes_that_are_named_are_measured_alone(
    measured: dict[str, list[int]],
    run: Run,
    words: list[str],
    expected: dict[str, list[int]],
) -> None:
    assert run(*words) == 0
    assert measured == expected


@pytest.mark.parametrize("name", ["hospitals", "agents"])
@pytest.mark.parametrize("count", ["2", "0", "-1"])
def test_fewer_than_an_order_can_have_are_refused(
    measured: dict[str, list[int]],
    run: Run,
    capsys: pytest.CaptureFixture[str],
    name: str,
    count: str,
) -> None:
    assert run(f"--{name}", "3", count) == 2
    said = capsys.readouterr().err
    assert f"--{name} has {count}" in said
    assert "from 3 on" in said
    assert measured == {}


def test_a_line_says_growth_beside_linear() -> None:
    smallest = Measured(3, 10, 1, seconds=4.0, mask_seconds=1.0, n_bytes=3 * 10**6)
    found = Measured(30, 10, 1, seconds=30.0, mask_seconds=20.0, n_bytes=60 * 10**6)
    smallest.processor_seconds, found.processor_seconds = 2.0, 20.0
    found.coordinator_peak, found.process_peak = 25 * 10**6, 2000 * 10**6
    line = _line(found, smallest)
    figures = ["30", "30.0", "20.0", "20.0", "0.0", "60", "25.0", "2000"]
    assert line.split()[:8] == figures
    assert line.split()[8:11] == ["1.00", "2.00", "2.00"]
    assert "(meets 100, MISSES 1000)" in line


def test_a_line_of_agents_says_growth_beside_linear() -> None:
    def rows(n_agents: int) -> OrderRows:
        each = Rows(1, 1, 4, 3, 5)
        hospitals = {f"hospital-{user}": each for user in range(n_agents)}
        return OrderRows(hospitals, Rows(0, 0, 0, 0, 0), Rows(0, 0, 0, 0, 0), 1)

    smallest = OfAgents(3, 5.0, 100 * 10**6, rows(3))
    found = OfAgents(6, 20.0, 110 * 10**6, rows(6))
    line = _agents_line(found, smallest).split()
    assert line == ["6", "20.00", "4.00", "110", "54", "30", "2.00", "0.55", "1.00"]
