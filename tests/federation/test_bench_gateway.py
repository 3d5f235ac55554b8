"""`./run bench gateway`, with few pairs: both kinds of agents take its orders."""

from __future__ import annotations

import pytest

from benchmarks import gateway

pytestmark = [pytest.mark.slow, pytest.mark.thorough]


def test_it_times_orders_on_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    gateway.main(n_pairs=2)
    first, through, past, *_ = capsys.readouterr().out.splitlines()
    assert first.endswith("2 pairs")
    for line, way in ((through, "gateway"), (past, "direct")):
        name, median, *each = line.replace("(", "").replace(")", "").split()
        assert name == way
        assert float(median) > 0
        assert len(each) == 2
