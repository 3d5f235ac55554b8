"""Lengths and angles of few coefficients give a model away, so a small one is trained
without scores, and says why.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from deployments.local.one_process import run_order
from protocol.errors import BadRequest
from protocol.memory_transport import MemoryTransport
from tests.made_sites import make_sites, order_body

HOSPITALS = (2, 3, 4, 5, 6)
NAMES = ["x1", "x2", "x3", "x4"]


def run(folder: Path, min_scored: int, **order: Any) -> MemoryTransport:
    tables = {}
    for user in HOSPITALS:
        rng = np.random.default_rng(user)
        frame = pd.DataFrame(rng.normal(size=(60, 4)), columns=NAMES)
        frame["id"] = range(60)
        frame["y"] = [0, 1] * 30
        tables[user] = {"rows": frame}
    sites = make_sites(folder, tables, min_scored=min_scored)
    transport = MemoryTransport()
    body = order_body(HOSPITALS, scoring="full", **order)
    run_order(sites, body, transport=transport)
    return transport


def reports_of(transport: MemoryTransport) -> list[dict[str, Any]]:
    found = []
    for fact in transport.facts[1]:
        if "round" in fact:
            found.extend(fact["round"]["hospitals"].values())
    return found


def test_five_coefficients_are_scored_where_all_allow_it(tmp_path: Path) -> None:
    transport = run(tmp_path, 5)
    assert transport.rounds[1]
    for report in reports_of(transport):
        assert "withheld" not in report


def test_five_coefficients_are_not_scored_at_ten(tmp_path: Path) -> None:
    transport = run(tmp_path, 10)
    assert not transport.rounds.get(1)
    rule = {"rule": "min_scored_coefficients", "threshold": 10}
    for report in reports_of(transport):
        assert report["withheld"] == {"scores": rule}


def test_a_rule_that_needs_scores_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest) as caught:
        run(tmp_path, 10, aggregation="multi_krum", n_attackers=1)
    assert caught.value.code == "min_scored_coefficients"
